"""Budgets of pre-training: as many pairs, as many multiply-adds, or as large a batch as memory holds."""

from __future__ import annotations

from typing import Any

import pytest

from harness.cost.host import compare_memory, host_parts
from harness.data.scenes import write_scenes
from harness.hosts.build import skeleton
from harness.kit.errors import HarnessError
from harness.reduction.budget import make_reducer
from harness.report.frame import boards, to_frame
from harness.train.pretrain import pretrain
from harness.train.protocol import Stage, method_host, plan_stages, with_method
from harness.train.request import PretrainRequest, PretrainSpec
from tests.report.conftest import full_record

MODEL = "clip-tiny"
RATIO = 0.5


def planned(method: str, ratio: float | None = RATIO, **asked: Any) -> Stage:
    """The pre-training of a method with what was asked of it."""
    stages = plan_stages("pretrain", MODEL, "retrieval", device="cpu", given={"pretrain": asked})
    config = make_reducer(method, method_host(stages).shape, ratio=None if method == "dense" else ratio).config
    return with_method(stages, method, config.model_dump(mode="json"), ratio)[0]


def gmacs(stage: Stage) -> float:
    """GMACs of the whole training, counted apart from the budget."""
    host = skeleton(MODEL)
    ratio = None if stage.method == "dense" else RATIO
    parts = host_parts(MODEL, make_reducer(stage.method, host.shape, ratio=ratio))
    assert stage.steps is not None
    return stage.steps * stage.recipe["batch_size"] * sum(part["train_step_gmacs"] for part in parts.values())


def test_equal_multiply_adds_are_those_of_dense_times_the_ratio_to_within_a_step():
    stages = {method: planned(method, steps=1000, budget="macs") for method in ("dense", "flip", "random", "elip")}
    assert stages["dense"].steps == 1000
    total = RATIO * gmacs(stages["dense"])
    for method in ("flip", "random", "elip"):
        stage = stages[method]
        assert stage.steps is not None
        per_step = gmacs(stage) / stage.steps
        assert total - per_step < gmacs(stage) <= total, method
    # ELIP pays for looking ahead; FLIP drops half of the patches before it computes anything.
    assert stages["elip"].steps < stages["random"].steps
    assert stages["elip"].steps < stages["flip"].steps


@pytest.mark.parametrize("method", ["dynamicvit", "diffrate"])
def test_a_method_that_hides_tokens_while_it_learns_pays_for_all_of_them(method: str):
    stage = planned(method, steps=40, budget="macs")
    assert gmacs(stage) == pytest.approx(RATIO * gmacs(planned("dense", steps=40)), rel=1 / (stage.steps or 1))
    assert stage.steps is not None
    assert stage.steps < 40 * RATIO


def test_pairs_are_seen_in_whole_steps():
    assert planned("dense", pairs=1000, batch_size=64).steps == 15
    assert planned("elip", pairs=1000, batch_size=64).steps == 15


def test_memory_that_is_saved_buys_a_larger_batch():
    dense, elip = (planned(method, pairs=10_000, batch_size="fit:0.25") for method in ("dense", "elip"))
    reducer = make_reducer("elip", skeleton(MODEL).shape, ratio=RATIO)
    fits = compare_memory(MODEL, reducer, 0.25)["fused"]
    assert dense.recipe["batch_size"] == fits["dense"]["largest_batch"]
    assert elip.recipe["batch_size"] == fits["reduced"]["largest_batch"] > dense.recipe["batch_size"]
    assert elip.steps == 10_000 // elip.recipe["batch_size"] < dense.steps


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        ({"pairs": 10, "batch_size": 64}, "a budget of 10 pairs is less than one step of 64 pairs"),
        ({"pairs": 100, "steps": 3}, "name one of them"),
        ({"budget": "macs"}, "name --steps or --pairs"),
        ({"steps": 1, "budget": "macs"}, "less than one step"),
        ({"pairs": 100, "batch_size": "fit:0.001"}, "not one pair fits"),
        ({"batch_size": "fit:0"}, "fit:GIB"),
        ({"batch_size": "large"}, "fit:GIB"),
        ({"batch_size": 0}, "at least 1 pair"),
    ],
)
def test_a_budget_that_cannot_be_kept_is_one_line(asked: dict[str, Any], line: str):
    with pytest.raises(HarnessError, match=line):
        planned("elip", **asked)


def test_a_share_of_multiply_adds_needs_a_ratio():
    with pytest.raises(HarnessError, match="the ratio: name one"):
        planned("elip", None, steps=10, budget="macs")


def test_the_options_are_the_protocol_s_too():
    assert {"pairs", "budget", "batch_size"} <= set(PretrainSpec.model_fields)


def test_methods_of_one_budget_stand_on_one_board_whatever_it_came_to_for_each():
    records = []
    for method, steps, batch in (("dense", 100, 42), ("elip", 62, 57)):
        stage = planned(method, pairs=4200, batch_size="fit:0.25").model_dump(mode="json")
        stage |= {"steps": steps, "recipe": stage["recipe"] | {"batch_size": batch}}
        training = [{"pairs": steps * batch, "train_gmacs": 2000.0, "seconds": 60.0, "peak_mib": 500.0}]
        fields = {"protocol": "pretrain", "training": [stage], "config": stage["config"]}
        record = full_record(method, 1.0 if method == "dense" else 0.5, "retrieval", {"t2i_r1": (0.5, None)}, **fields)
        records.append(record | {"trained": training})
    frame = to_frame(records)
    assert [title.split(" · ")[1] for title, _ in boards(frame)] == ["pretrain, 4200 pairs"]
    assert list(frame.column("trained_tmacs")["value"]) == [2000.0, 2000.0]
    assert frame.column("trained_pairs")["value"].tolist() == [4200, 3534]


def test_a_run_records_what_it_cost(tmp_path):
    write_scenes(tmp_path / "train", "train", 32, 0)
    asked = {
        "data": (str(tmp_path / "train"),),
        "model": MODEL,
        "pairs": 25,
        "batch_size": 8,
        "out": tmp_path / "out",
        "device": "cpu",
        "quiet": True,
    }
    record = pretrain(PretrainRequest(**asked, method="random", ratio=RATIO))
    assert record["steps"] == 3
    assert record["pairs"] == 24
    assert record["peak_mib"] > 0
    reducer = make_reducer("random", skeleton(MODEL).shape, ratio=RATIO)
    per_pair = sum(part["train_step_gmacs"] for part in host_parts(MODEL, reducer).values())
    assert record["train_gmacs"] == pytest.approx(24 * per_pair, rel=0.02)
