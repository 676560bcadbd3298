"""Facts about the world that a command measures in: the small one is pre-trained in unless another is named."""

from __future__ import annotations

from typing import Any

import pytest

from harness.run.grid import data_folder, plan_cells
from harness.run.request import RunOptions, RunRequest


@pytest.mark.parametrize(
    ("given", "data"),
    [
        ({}, "scenes"),
        ({"protocol": "finetune"}, "scenes"),
        ({"protocol": "pretrain"}, "scenes-small"),
        ({"protocol": "pretrain", "data": "scenes"}, "scenes"),
        ({"data": "scenes-small"}, "scenes-small"),
    ],
)
def test_pretraining_is_in_the_small_world_where_none_is_named(given: dict[str, Any], data: str) -> None:
    assert RunOptions(methods=("evit",), **given).data == data
    assert RunRequest(methods=("evit",), tasks=("vqa",), **given).data == data


def test_a_cell_says_its_world_its_starts_and_the_worlds_recipe() -> None:
    request = RunRequest(methods=("evit",), ratios=(0.7,), tasks=("vqa",), protocol="pretrain", device="cpu")
    dense, reduced = plan_cells(request)
    assert (dense.method, reduced.method) == ("dense", "evit")
    assert dense.data == "scenes-small"
    for cell in (dense, reduced):
        first, second = cell.training
        assert first.data == second.data == ("scenes-small",)
        assert (first.digests["data.0"], second.digests["data.0"]) == (
            "scenes:shapes=5,colours=4,objects=4-6,covered=10-train-30000",
        ) * 2
        assert {"init_vision", "init_text"} <= set(first.digests)
        assert (first.recipe["max_steps"], second.recipe["max_steps"]) == (900, 1500)
    full = RunRequest(methods=("evit",), tasks=("vqa",), protocol="pretrain", device="cpu", data="scenes")
    assert plan_cells(full)[0].data_digest != dense.data_digest
    assert data_folder("scenes-small", None) != data_folder("scenes", None)
