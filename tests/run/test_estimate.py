"""How long cells will take: the arithmetic on made-up inputs, and what it is taken from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.data.world import TRAINING_SCENES
from harness.objectives.parts.recipe import finetune_recipe
from harness.reduction.stack import StackShape
from harness.run import estimate
from harness.run.estimate import (
    Estimate,
    Gmacs,
    Size,
    cell_seconds,
    finetuned_gmacs,
    latency_seconds,
    measured_rate,
    pairs_of,
    pass_seconds,
    recorded_seconds,
    stage_seconds,
    total_in_words,
)
from harness.run.measure import skeleton_record

from .test_runner import cell

SIZE = Size(images=1000, judged=2000)
READING = 1000 * estimate.IMAGE_SECONDS


def record(seconds: float, started: str, **changes: Any) -> dict[str, Any]:
    one = cell("evit", **changes)
    return skeleton_record(one) | {"status": "done", "run": {"seconds": seconds, "started": started}}


def test_a_pass_encodes_every_image_once_and_judges_every_text() -> None:
    # 1000 images of 0.05 GMACs and 2000 texts of 0.15 times 0.1, at 40 GMACs a second.
    seconds = pass_seconds(cell("evit"), SIZE, 0.05, 0.1, 40)
    assert seconds == pytest.approx((50 + 30) / 40 + READING)


def test_a_text_guided_method_encodes_an_image_for_every_text() -> None:
    assert pass_seconds(cell("elip"), SIZE, 0.05, 0.1, 40) == pytest.approx((100 + 30) / 40 + READING)
    # After reduced pre-training it is evaluated with all tokens, once an image.
    evaluated = cell("elip", protocol="pretrain")
    assert pass_seconds(evaluated, SIZE, 0.1, 0.1, 40) == pytest.approx((100 + 30) / 40 + READING)


def test_captions_are_written_and_scored() -> None:
    seconds = pass_seconds(cell("evit", task="captioning"), Size(100, 500), 0.05, 0.1, 10)
    assert seconds == pytest.approx(100 * (0.05 + 0.7) / 10 + 0.05 + estimate.JAVA_SECONDS)


@pytest.mark.parametrize(
    ("own", "passes"),
    # Five times where they fit three seconds, as often as fits, once up to fifteen, and not again.
    [(0.5, 5), (1.4, 2), (4.0, 1), (16.0, 0)],
)
def test_passes_are_made_again_beside_dense_s_as_they_are_in_measuring(own: float, passes: int) -> None:
    fixed = estimate.CELL_SECONDS + 2.0
    assert cell_seconds(cell("evit"), own, 3.0, 2.0) == pytest.approx(fixed + own + passes * (own + 3.0))
    assert cell_seconds(cell("evit", quick=True), own, 3.0, 2.0) == pytest.approx(fixed + own)
    blank = cell("dense", task_options={"blank_images": False})
    assert cell_seconds(blank, own, own, 2.0) == pytest.approx(fixed + 2 * own + passes * own)


def test_latency_ends_by_its_pairs_by_its_time_or_after_five() -> None:
    of = (0.05, 0.05)  # a pair of a batch of 4 is 0.4 GMACs
    assert latency_seconds(cell(), *of, 40) == pytest.approx(33 * 0.01)
    assert latency_seconds(cell(), *of, 1) == pytest.approx(3 * 0.4 + 5.0)
    assert latency_seconds(cell(), *of, 0.1) == pytest.approx(8 * 4.0)
    assert latency_seconds(cell(quick=True), *of, 4) == pytest.approx(3 * 0.1 + 0.5)


def test_the_latest_record_of_the_same_cell_on_this_machine_is_taken_whatever_its_seed_and_code() -> None:
    records = [
        record(10, "2026-01-01", seed=3, code={"other": "code"}),
        record(30, "2026-01-02"),
        record(99, "2026-01-03", hardware="another"),
        record(98, "2026-01-03", threads=8),
        record(97, "2026-01-03", limit=10),
        record(96, "2026-01-03", quick=True),
    ]
    assert recorded_seconds(cell("evit"), records) == 30
    assert recorded_seconds(cell("evit"), records[:1]) == 10
    assert recorded_seconds(cell("evit"), records[2:]) is None
    assert recorded_seconds(cell("evit"), [records[1] | {"status": "failed"}]) is None


def test_training_goes_by_what_was_timed_and_else_by_what_is_counted() -> None:
    assert stage_seconds(6400, lambda: 0.5, 100, []) == Estimate(32, "counted")
    before = [{"seconds": 100, "pairs": 1000}, {"seconds": 20, "pairs": 1000}]
    assert stage_seconds(6400, lambda: 0.5, 100, before) == Estimate(128, "records")
    assert stage_seconds(None, lambda: 0.5, 100, before).seconds is None


def test_pairs_are_those_of_the_steps_or_of_the_world_s_epochs() -> None:
    recipe = {"batch_size": 32, "accumulate": 2, "epochs": 3}
    assert pairs_of(100, recipe, ["folder"], 2) == 100 * 32 * 2 * 2
    assert pairs_of(None, recipe, ["scenes"], 1) == 3 * TRAINING_SCENES
    assert pairs_of(None, recipe, ["folder"], 1) is None
    # A recipe may end before its epochs do, as that of the small world.
    assert pairs_of(None, recipe | {"max_steps": 900}, ["scenes-small"], 1) == 900 * 32 * 2
    assert pairs_of(None, recipe | {"max_steps": 10**6}, ["scenes"], 1) == 3 * TRAINING_SCENES


def test_a_frozen_tower_is_passed_forward_alone() -> None:
    plain = finetune_recipe("albef-tiny", "vqa", {})
    frozen = finetune_recipe("albef-tiny", "vqa", {"multipliers": {"vision": 0.0}})
    gmacs = Gmacs(forward=1.0, dense=1.0, step=3.0)
    assert finetuned_gmacs(gmacs, plain) == 3.0 + 3.0 * estimate.FINETUNED_SHARE
    assert finetuned_gmacs(gmacs, frozen) == 1.0 + 3.0 * estimate.FINETUNED_SHARE


def test_a_total_is_called_about_and_says_what_it_leaves_out() -> None:
    start = estimate.START_SECONDS
    assert total_in_words([]) == ""
    assert total_in_words([Estimate(30 - start, "records")]) == ", about 30 s on this machine"
    several = [Estimate(400.0, "counted"), Estimate(440.0 - start, "records"), Estimate(None, "")]
    assert total_in_words(several) == (
        ", about 14 min on this machine; of 1 cells no estimate (training over epochs of data that were not counted)"
    )


def test_the_rate_is_of_this_machine_and_repeats() -> None:
    shape = StackShape(depth=12, patches=64, prefix=1, width=200, class_token=True, heads=5)
    first, second = (measured_rate(shape, 16, "cpu", torch.float32) for _ in range(2))
    assert 0.1 < first < 1e5
    assert 0.2 < first / second < 5


def test_trainings_before_are_of_the_same_host_and_threads(tmp_path: Path) -> None:
    def trained(name: str, **changes: Any) -> None:
        plain = {"facts": {"model": "albef-tiny"}, "device": "cpu", "threads": torch.get_num_threads()}
        (tmp_path / name).mkdir()
        (tmp_path / name / "recipe.json").write_text(json.dumps(plain | {"seconds": 1.0} | changes))

    class Stage:
        stage, method, task, model = "finetune", "evit", "vqa", "albef-tiny"

    trained("finetune-evit-vqa-1")
    trained("finetune-evit-vqa-2", facts={"model": "blip-tiny"})
    trained("finetune-evit-vqa-3", threads=99)
    trained("finetune-dense-vqa-4")
    (tmp_path / "finetune-evit-vqa-5").mkdir()
    (tmp_path / "finetune-evit-vqa-5" / "recipe.json").write_text("{")
    stage: Any = Stage()
    assert [one["seconds"] for one in estimate.trained_before(tmp_path, stage)] == [1.0]
