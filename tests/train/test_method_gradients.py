"""Facts about what a method learns: whether it does is seen in the first step; it is drawn alike by any name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from baselines.dynamicvit import DynamicViT
from harness.hosts.build import build_host
from harness.kit.errors import HarnessError
from harness.reduction.predicted import KeepPredictor
from harness.train.pretrain import pretrain
from harness.train.request import PretrainRequest
from harness.train.session import method_for

NUMBERS = {"weight_decay": 0.5, "queue_size": 16}


@pytest.fixture
def learning(ask: Any, tmp_path: Path, start: Callable[[str], str]) -> PretrainRequest:
    """Two steps with a method that learns."""
    changes = {"sizes": {}, "vocabulary": None, "init": start("albef"), "method": "dynamicvit"}
    request: PretrainRequest = ask("albef", tmp_path / "run", NUMBERS, steps=2)
    return request.model_copy(update=changes | {"schedule": "begin=1 keep=.6"})


def test_a_method_that_no_gradient_reaches_ends_the_training_in_its_first_step(
    learning: PretrainRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    score = KeepPredictor.forward
    monkeypatch.setattr(KeepPredictor, "forward", lambda *given: score(*given).detach())
    with pytest.raises(
        HarnessError, match=r"method DynamicViT: no gradient reaches .+, …: it would learn nothing; let"
    ):
        pretrain(learning)


def test_a_parameter_that_no_gradient_reaches_is_named(
    learning: PretrainRequest, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = DynamicViT.__init__

    def idle(self: DynamicViT, *given: Any) -> None:
        made(self, *given)
        self.idle = torch.nn.Parameter(torch.zeros(1))

    pretrain(learning)
    assert "no gradient reaches" not in capsys.readouterr().err
    monkeypatch.setattr(DynamicViT, "__init__", idle)
    pretrain(learning.model_copy(update={"out": learning.out.with_name("idle")}))
    assert "warning: method DynamicViT: no gradient reaches idle: they stay as they are" in capsys.readouterr().err


def test_what_a_method_learns_is_drawn_alike_by_its_ratio_its_schedule_and_its_config() -> None:
    host = build_host("albef-tiny")

    def drawn(**how: Any) -> tuple[dict[str, Any], list[torch.Tensor]]:
        torch.manual_seed(3)
        reducer = method_for(PretrainRequest(model="albef-tiny", method="dynamicvit", **how), host)
        return reducer.config.model_dump(mode="json"), [*reducer.state_dict().values(), torch.rand(3)]

    config, tensors = drawn(ratio=0.5)
    for how in ({"config": config}, {"ratio": 0.7}):
        _, others = drawn(**how)
        assert all(torch.equal(one, other) for one, other in zip(tensors, others, strict=True))
