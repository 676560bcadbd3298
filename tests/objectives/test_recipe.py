"""Facts about recipes: the learning rate at the ends of its curve, the papers' numbers, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from harness.kit.errors import HarnessError
from harness.kit.registry import models
from harness.objectives.parts.recipe import PRETRAIN, on_data, recipe_of

PAPERS: dict[str, dict[str, Any]] = {
    "albef-base": {
        "image_size": 256, "epochs": 20, "batch_size": 40, "learning_rate": 1e-4, "warmup_rate": 1e-5,
        "final_rate": 1e-5, "weight_decay": 0.02, "queue_size": 65536, "momentum": 0.995, "alpha": 0.4,
        "decay": "cosine",
    },
    "blip-base": {
        "image_size": 224, "epochs": 15, "batch_size": 42, "learning_rate": 3e-4, "warmup_rate": 1e-6,
        "final_rate": 1e-6, "warmup_steps": 3000, "weight_decay": 0.05, "decay": "exponential", "decay_rate": 0.9,
        "queue_size": 57600,
    },
    "meter-base": {"image_size": 288, "learning_rate": 1e-5, "warmup_share": 0.1, "decay": "linear", "mask_rate": 0.15},
    "clip-small": {"learning_rate": 1e-3, "weight_decay": 0.1, "epochs": 32, "betas": (0.9, 0.98), "eps": 1e-6},
    "clip-base": {"learning_rate": 1e-3, "weight_decay": 0.1, "epochs": 32, "batch_size": 256},
}  # fmt: skip


@pytest.mark.parametrize("model", PAPERS)
def test_the_papers_numbers_are_the_presets(model: str) -> None:
    recipe = recipe_of(model, {})
    assert {name: getattr(recipe, name) for name in PAPERS[model]} == PAPERS[model]


def test_every_recipe_can_be_built() -> None:
    assert {recipe_of(model, {}).accumulate for model in models.names()} == {1}


def test_warm_up_rises_linearly_from_its_own_rate() -> None:
    changes = {"learning_rate": 1.0, "warmup_rate": 0.2, "warmup_steps": 4}
    recipe = recipe_of("albef-tiny", changes)
    assert [recipe.rate(step, 100, 10) for step in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    share = recipe_of("meter-base", {"learning_rate": 1.0, "warmup_share": 0.1})
    assert [share.rate(step, 40, 10) for step in range(5)] == pytest.approx([0.0, 0.25, 0.5, 0.75, 1.0])


def test_cosine_falls_from_the_rate_through_the_middle_to_the_final_rate() -> None:
    recipe = recipe_of("albef-tiny", {"learning_rate": 1.0, "final_rate": 0.2, "warmup_steps": 10})
    rates = [recipe.rate(step, 110, 10) for step in (10, 60, 110)]
    assert rates == pytest.approx([1.0, 0.6, 0.2])


def test_linear_falls_evenly() -> None:
    recipe = recipe_of("albef-tiny", {"learning_rate": 1.0, "decay": "linear", "warmup_steps": 0})
    assert [recipe.rate(step, 4, 2) for step in range(5)] == pytest.approx([1.0, 0.75, 0.5, 0.25, 0.0])


def test_a_rate_that_is_held_falls_over_what_is_left() -> None:
    changes = {"learning_rate": 1.0, "final_rate": 0.2, "warmup_steps": 10, "hold_share": 0.6}
    recipe = recipe_of("albef-tiny", changes)
    assert [recipe.rate(step, 110, 10) for step in (10, 40, 70, 90, 110)] == pytest.approx([1.0, 1.0, 1.0, 0.6, 0.2])


def test_exponential_falls_once_an_epoch_and_not_below_the_final_rate() -> None:
    changes = {"learning_rate": 1.0, "decay": "exponential", "decay_rate": 0.5, "final_rate": 0.2, "warmup_steps": 0}
    recipe = recipe_of("albef-tiny", changes)
    assert [recipe.rate(step, 40, 10) for step in (0, 9, 10, 29, 39)] == pytest.approx([1.0, 1.0, 0.5, 0.25, 0.2])


def test_a_warm_up_longer_than_the_run_ends_with_it() -> None:
    recipe = recipe_of("albef-tiny", {"learning_rate": 1.0, "warmup_steps": 1000})
    assert [recipe.rate(step, 2, 2) for step in range(2)] == pytest.approx([0.0, 0.5])


def test_distillation_is_reached_over_its_epochs() -> None:
    recipe = recipe_of("blip-base", {})
    assert [recipe.alpha_at(done) for done in (0.0, 1.0, 2.0, 9.0)] == pytest.approx([0.0, 0.2, 0.4, 0.4])
    assert recipe_of("blip-base", {"alpha_ramp_epochs": 0}).alpha_at(0.0) == 0.4


@pytest.mark.parametrize(
    ("model", "changes", "message"),
    [
        ("albef-huge", {}, "unknown model 'albef-huge': did you mean albef-base"),
        ("albef-tiny", {"lerning_rate": 1.0}, "lerning_rate: unknown setting"),
        ("albef-tiny", {"learning_rate": 0}, "learning_rate: Input should be greater than 0"),
        ("albef-tiny", {"decay": "step"}, "decay: Input should be 'cosine', 'linear' or 'exponential'"),
        ("albef-tiny", {"epochs": "many"}, "epochs: Input should be a valid integer"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(model: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(HarnessError, match=message) as caught:
        recipe_of(model, changes)
    assert "\n" not in str(caught.value)


def test_a_built_in_world_changes_a_recipe_and_what_is_given_comes_last() -> None:
    assert on_data("albef-tiny", PRETRAIN, ("coco",), {"epochs": 2}) == {"epochs": 2}
    full = on_data("albef-tiny", PRETRAIN, ("scenes",), {})
    assert full == {"crop": None, "flip": False, "randaugment": False}
    small = on_data("albef-tiny", PRETRAIN, ("scenes-small",), {"mask_rate": 0.2})
    assert small == full | {
        "max_steps": 900,
        "momentum": 0.98,
        "alpha": 0.0,
        "mask_rate": 0.2,
        "clip_norm": None,
        "hold_share": 0.5,
        "matching_from": 0.4,
        "multipliers": {"temperature": 0.125, "match_head": 3.0, "fusion.*.crossattention": 3.0, "vision": 0.2},
    }
    frozen = {"multipliers": {"vision": 0.0}}
    assert on_data("albef-tiny", "vqa", ("scenes-small",), {}) == full | frozen | {"max_steps": 1500}
    assert on_data("albef-tiny", "retrieval", ("scenes-small",), {}) == full | frozen | {"max_steps": 150}
    slow = {"max_steps": 500, "multipliers": {"vision": 0.1}}
    assert on_data("clip-tiny", "retrieval", ("scenes-small",), {}) == full | slow
    assert on_data("albef-tiny", PRETRAIN, ("scenes-small", "scenes"), {}) == full
    assert on_data("albef-base", PRETRAIN, ("scenes-small",), {}) == full


def test_steps_are_those_of_the_epochs_unless_that_is_too_many() -> None:
    small = recipe_of("albef-tiny", on_data("albef-tiny", PRETRAIN, ("scenes-small",), {}))
    assert [small.steps(468), small.steps(50)] == [900, 500]
    longer = recipe_of("albef-tiny", on_data("albef-tiny", PRETRAIN, ("scenes-small",), {"epochs": 4}))
    assert longer.steps(468) == 4 * 468
    assert recipe_of("albef-tiny", {}).steps(468) == 10 * 468
