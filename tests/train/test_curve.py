"""The course of a training's losses, as records hold it."""

from __future__ import annotations

import json
from pathlib import Path

from harness.train.curve import POINTS, curve_of


def log(folder: Path, steps: range) -> None:
    entries = [{"step": step, "losses": {"contrast": float(step), "matching": 1.0}} for step in steps]
    (folder / "log.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in [{"step": 0, "note": "x"}, *entries]))


def test_each_part_of_a_long_run_has_its_mean(tmp_path: Path) -> None:
    log(tmp_path, range(10, 401, 10))
    curve = curve_of(tmp_path, 400)
    assert curve is not None
    assert curve["steps"] == list(range(20, 401, 20))
    assert curve["losses"]["contrast"] == [float(step - 5) for step in range(20, 401, 20)]
    assert curve["losses"]["matching"] == [1.0] * POINTS


def test_a_short_run_has_as_many_points_as_entries(tmp_path: Path) -> None:
    log(tmp_path, range(1, 3))
    assert curve_of(tmp_path, 2) == {"steps": [1, 2], "losses": {"contrast": [1.0, 2.0], "matching": [1.0, 1.0]}}


def test_a_loss_that_begins_later_has_no_value_before(tmp_path: Path) -> None:
    steps = [{"contrast": 4.0}, {"contrast": 3.0}, {"contrast": 2.0, "matching": 0.6}]
    lines = [json.dumps({"step": step, "losses": losses}) for step, losses in enumerate(steps, 1)]
    (tmp_path / "log.jsonl").write_text("\n".join(lines))
    curve = curve_of(tmp_path, 3)
    assert curve == {"steps": [1, 2, 3], "losses": {"contrast": [4.0, 3.0, 2.0], "matching": [None, None, 0.6]}}


def test_a_run_whose_log_is_gone_has_none(tmp_path: Path) -> None:
    assert curve_of(tmp_path, 10) is None
