"""A score that is NaN for one image ends its cell with one line, in evaluation as in latency; other cells go on."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from baselines.evit import EViT
from harness.cli.main import main
from harness.cost.latency import measure_latency
from harness.evaluate import encoder
from harness.hosts.build import build_host
from harness.kit.errors import HarnessError
from harness.reduction import Evidence, TokenState
from harness.reduction.budget import make_reducer


@pytest.fixture
def one_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    """EViT that finds one attention of a batch's last image to be NaN in block 9, in evaluation alone."""
    own = EViT.between

    def between(self: Any, block: int, state: TokenState, evidence: Evidence) -> TokenState:
        if block == 9 and len(state.tokens) > 1 and not torch.is_grad_enabled():
            assert evidence.cls_attention is not None
            odd = evidence.cls_attention.clone()
            odd[-1, 0] = torch.nan
            evidence = replace(evidence, cls_attention=odd)
        return own(self, block, state, evidence)

    monkeypatch.setattr(EViT, "between", between)


def test_a_nan_in_evaluation_ends_the_cell(one_nan: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("run", "--method", "evit", "--model", "albef-tiny", "--ratios", "0.5", "--tasks", "vqa", "--limit", "8")
    with pytest.raises(SystemExit) as ended:
        main([*words, "--no-latency", "--quiet", "--out", str(tmp_path)])
    assert ended.value.code == 1
    failed = r"failed: albef-tiny evit 0.5 vqa: EViT, block 9 (between): NaN among the scores that it chooses by (sort)"
    assert capsys.readouterr().err.splitlines()[-1] == failed
    records = [json.loads(path.read_text()) for path in tmp_path.glob("*.json")]
    status = {record["spec"]["method"]: (record["status"], record["error"]) for record in records}
    assert status == {"dense": ("done", None), "evit": ("failed", failed.split(": ", 2)[2])}


def test_a_nan_in_latency_is_an_error(one_nan: None) -> None:
    tower = build_host("albef-tiny").vision.eval()
    shape = build_host("albef-tiny").shape
    with pytest.raises(HarnessError, match=r"EViT, block \d+ \(between\): NaN among the scores"):
        measure_latency(tower, make_reducer("evit", shape, ratio=0.5), batch_size=2, runs=5, seconds=0.0)


def test_passes_that_are_only_timed_carry_no_watch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watched: list[str] = []

    def counted(reducer: Any) -> Any:
        watched.append(type(reducer).__name__)
        return nullcontext()

    monkeypatch.setattr(encoder, "scores_watched", counted)
    words = ("run", "--method", "evit", "--model", "albef-tiny", "--ratios", "0.5", "--tasks", "vqa", "--limit", "8")
    found = {}
    for name, more in (("once", ["--quick"]), ("again", [])):
        watched.clear()
        with pytest.raises(SystemExit):
            main([*words, *more, "--no-latency", "--quiet", "--out", str(tmp_path / name)])
        found[name] = watched.count("EViT")
    (again,) = (tmp_path / "again").glob("evit*.json")
    assert json.loads(again.read_text())["throughput"]["passes"] > 1
    assert found["once"] == found["again"] > 0
