"""Facts about training with frozen parts: what is frozen stays bit for bit, in the twin too, and the rest learns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from harness.train.pretrain import pretrain

NUMBERS = {"weight_decay": 0.5, "queue_size": 16}
FROZEN = ("vision.", "embeddings.")


@pytest.mark.parametrize(("family", "recompute"), [("albef", False), ("albef", True), ("meter", False), ("clip", True)])
def test_frozen_parameters_stay_bit_for_bit_and_others_learn(
    ask: Any,
    tmp_path: Path,
    start: Callable[[str], str],
    last_state: Callable[[Path], dict[str, Tensor]],
    family: str,
    recompute: bool,
) -> None:
    frozen = FROZEN if family == "meter" else FROZEN[:1]
    numbers = NUMBERS | {"multipliers": dict.fromkeys(frozen, 0.0)}
    request = ask(family, tmp_path / "run", numbers, steps=2, recompute=recompute)
    pretrain(request.model_copy(update={"sizes": {}, "vocabulary": None, "init": start(family)}))
    before, after = (load_file(folder / "model.safetensors") for folder in (Path(start(family)), request.out))
    same = {name for name in before if torch.equal(before[name], after[name])}
    held = {name for name in before if name.startswith(frozen)}
    assert held
    assert held <= same
    assert set(before) - same
    state = last_state(request.out)
    twin = {path.removeprefix("/objective/twin.model."): tensor for path, tensor in state.items() if "/twin." in path}
    assert all(torch.equal(before[name], tensor) for name, tensor in twin.items() if name.startswith(frozen))
    assert any(name.startswith(frozen) for name in twin) == (family == "albef")
    moments = [path for path in state if path.startswith("/optimizer/state/") and path.endswith("/exp_avg")]
    assert 0 < len(moments) <= len(before) - len(held)


def test_a_method_alone_is_trained_where_the_host_stands_still(
    ask: Any, tmp_path: Path, start: Callable[[str], str]
) -> None:
    """An empty beginning is that of every name, and the longest one counts."""
    request = ask("albef", tmp_path / "run", NUMBERS | {"multipliers": {"": 0.0, "reducer": 1.0}}, steps=2)
    changes = {"sizes": {}, "vocabulary": None, "init": start("albef"), "method": "dynamicvit"}
    pretrain(request.model_copy(update=changes | {"schedule": "begin=1 keep=.6"}))
    before, after = (load_file(folder / "model.safetensors") for folder in (Path(start("albef")), request.out))
    assert all(torch.equal(before[name], after[name]) for name in before)
    method = {name for name in after if name.startswith("method.")}
    assert set(after) - set(before) == method != set()
