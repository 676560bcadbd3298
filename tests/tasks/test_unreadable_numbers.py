"""NaN in weights or in scores ends every task in one line: it never becomes an accuracy."""

import copy

import pytest
import torch

from harness.hosts.weights.load import load_model
from harness.hosts.weights.own import save_weights
from harness.kit.errors import HarnessError
from harness.kit.files import ASSETS
from tests.tasks import every_task
from tests.tasks.every_task import CASES, evaluated, scene_host


@pytest.mark.parametrize("side", ["vision", "all but vision"])
@pytest.mark.parametrize("case", CASES)
def test_a_host_that_gives_nan_ends_every_task(case, side, monkeypatch):
    task, family, _, _ = CASES[case]
    host = copy.copy(scene_host(family, task))
    object.__setattr__(host, "model", copy.deepcopy(host.model))
    for name, parameter in host.model.named_parameters():
        if name.startswith("vision.") == (side == "vision"):
            parameter.data.fill_(torch.nan)
    monkeypatch.setattr(every_task, "scene_host", lambda *_: host)
    with pytest.raises(HarnessError, match="NaN"):
        evaluated(case)


@pytest.mark.parametrize("odd", [torch.nan, torch.inf])
def test_weights_with_a_number_that_is_none_are_refused(odd, tmp_path):
    host = load_model("albef-tiny").model
    host.get_parameter("match_head.bias").data[0] = odd
    for name in ("vocab.txt", "config.json"):
        (tmp_path / name).write_bytes((ASSETS / "albef-tiny" / name).read_bytes())
    save_weights(host, tmp_path / "model.safetensors", "albef-tiny")
    with pytest.raises(HarnessError, match=r"model.safetensors: match_head.bias has NaN or infinite numbers"):
        load_model("albef-tiny", tmp_path)
