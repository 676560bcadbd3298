"""What is no better than chance is marked, and nothing is compared where dense is."""

from __future__ import annotations

from typing import Any

import pytest

from harness.report.chance import AT_CHANCE, NOTE, recall_by_chance
from harness.report.frame import boards, to_frame
from harness.report.quality_columns import quality
from harness.report.summary import quality_shares
from harness.report.tables import render_table

from .conftest import full_record


def recalls(task_options: dict[str, Any] | None = None) -> dict[str, Any]:
    asked = {f"{way}_r5{stage}": {"n": n} for way, n in (("t2i", 5000), ("i2t", 1000)) for stage in ("", "_rerank")}
    return {"spec": {"task": "retrieval", "task_options": task_options or {}}, "quality": {"retrieval": asked}}


def test_the_candidates_of_texts_are_images_and_the_other_way_round() -> None:
    assert recall_by_chance("t2i_r5", [recalls()]) == pytest.approx(5 / 1000)
    assert recall_by_chance("i2t_r5", [recalls()]) == pytest.approx(5 / 5000)
    assert recall_by_chance("t2i_r5_rerank", [recalls({"rerank_k": 16})]) == pytest.approx(5 / 16)
    assert recall_by_chance("t2i_r5_rerank", [recalls({"rerank_k": 4})]) == 1.0
    for metric in ("vqa_accuracy", "mean_recall"):
        assert recall_by_chance(metric, [recalls()]) != recall_by_chance(metric, [recalls()])  # NaN


def scored(dense: float, methods: dict[str, float]) -> list[dict[str, Any]]:
    """VQA of dense, whose blank images give 30 %, and of methods at one ratio; intervals are ± 2 points."""
    found = [full_record("dense", 1.0, "vqa", {"vqa_accuracy": (dense, None)}, blind={"vqa_accuracy": 0.30})]
    for method, value in methods.items():
        record = full_record(method, 0.5, "vqa", {"vqa_accuracy": (value, value - dense)})
        record["quality"]["vqa"]["vqa_accuracy"] |= {"p_to_dense": 1e-4, "p_to_random": 1e-4, "delta_to_random": 0.1}
        found.append(record)
    return found


def test_a_method_at_chance_is_marked_and_never_best() -> None:
    frame = to_frame(scored(0.8, {"elip": 0.31, "evit": 0.309, "tome": 0.305}))
    ((_, board),) = boards(frame)
    column = quality(board, "vqa_accuracy")
    assert [AT_CHANCE in cell for cell in column.cells] == [False, True, True, True]
    assert not any(column.best)
    assert NOTE in render_table(frame)
    assert frame.column("vqa_accuracy")["p_dense_holm"].notna().sum() == 3  # a loss is a loss


def test_where_dense_is_at_chance_nothing_is_compared() -> None:
    frame = to_frame(scored(0.31, {"elip": 0.50, "evit": 0.45}))
    ((_, board),) = boards(frame)
    column = quality(board, "vqa_accuracy")
    assert AT_CHANCE in column.cells[0]
    assert not any(column.best)
    assert frame.column("vqa_accuracy")[["p_dense_holm", "p_random_holm"]].isna().all(axis=None)
    assert quality_shares(board)[0].empty or quality_shares(board)[0].isna().all(axis=None)


def test_what_sees_is_not_marked() -> None:
    frame = to_frame(scored(0.8, {"elip": 0.7, "evit": 0.6}))
    assert not frame.values["at_chance"].any()
    assert NOTE not in render_table(frame)
