"""Curves of pre-training: each training once, however many tasks rest on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from harness.kit.errors import HarnessError
from harness.report import curves
from harness.report.curves import plot_curves

from .conftest import make_record, make_records


def pretrained(method: str, ratio: float, task: str, seed: int, level: float) -> dict[str, Any]:
    stages = [{"stage": "pretrain", "steps": 40}, {"stage": "finetune", "steps": 20}]
    record: dict[str, Any] = make_record(method, ratio, task, protocol="pretrain", seed=seed, training=stages)
    losses = {"contrast": [level, level / 2], "matching": [0.6, 0.5]}
    one = {"stage": "pretrain", "folder": f"{method}-{ratio}-{seed}", "curve": {"steps": [20, 40], "losses": losses}}
    other = {"stage": "finetune", "folder": f"f-{method}-{seed}", "curve": {"steps": [20], "losses": {"answer": [1.0]}}}
    return record | {"trained": [one, other]}


def test_a_line_is_the_mean_over_seeds_of_each_training_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = [
        pretrained(method, ratio, task, seed, level + seed)
        for method, ratio, level in (("dense", 1.0, 2.0), ("elip", 0.7, 3.0))
        for task in ("retrieval", "vqa")
        for seed in (0, 1)
    ]
    drawn: list[Figure] = []
    monkeypatch.setattr(curves, "save", lambda figure, stem: drawn.append(figure) or [stem])
    assert plot_curves(records, tmp_path) == [tmp_path / "curves"]
    contrast, matching = drawn[0].axes
    assert [axes.get_title(loc="left") for axes in (contrast, matching)] == ["contrast", "matching"]
    lines = {str(line.get_label()): line.get_xydata().tolist() for line in contrast.lines}  # type: ignore[union-attr]
    assert lines == {"dense": [[20, 2.5], [40, 1.25]], "elip 0.7": [[20, 3.5], [40, 1.75]]}


def test_a_loss_is_drawn_from_where_it_is_trained_and_by_whom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    records = [pretrained("dense", 1.0, "vqa", seed, 2.0) for seed in (0, 1)]
    records += [pretrained("elip", 0.7, "vqa", 0, 3.0), pretrained("evit", 0.7, "vqa", 0, 3.0)]
    for record, values in zip(records, ([None, 0.5], [None, 0.7], [None, None], []), strict=True):
        record["trained"][0]["curve"]["losses"]["matching"] = values
    del records[3]["trained"][0]["curve"]["losses"]["matching"]
    drawn: list[Figure] = []
    monkeypatch.setattr(curves, "save", lambda figure, stem: drawn.append(figure) or [stem])
    plot_curves(records, tmp_path)
    contrast, matching = drawn[0].axes
    assert [line.get_label() for line in contrast.lines] == ["dense", "elip 0.7", "evit 0.7"]
    dense, elip = matching.lines
    values = np.ma.filled(np.ma.asarray(dense.get_ydata(orig=False)), np.nan)
    assert np.isnan(values[0])
    assert values[1] == pytest.approx(0.6)
    assert np.isnan(np.ma.filled(np.ma.asarray(elip.get_ydata(orig=False)), np.nan)).all()
    assert not recwarn.list


def test_records_without_a_pretraining_have_nothing_to_draw(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="no record rests on a pre-training"):
        plot_curves(make_records(), tmp_path)
