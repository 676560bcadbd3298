"""Intervals over several seeds, against simulations whose variance is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from harness.kit.errors import HarnessError
from harness.metrics.seeds import over_seeds, seeds_interval
from harness.metrics.stats import mean, summarise

SEEDS, IMAGES = 10, 60


def drawn(random: np.random.Generator, seeds_sd: float, images_sd: float, noise: float) -> Any:
    """Values (S, C) of one true mean 0.5: a seed's own luck, an image's own difficulty, and noise of each pair."""
    of_seeds = random.normal(0, seeds_sd, (SEEDS, 1))
    of_images = random.normal(0, images_sd, (1, IMAGES))
    return 0.5 + of_seeds + of_images + random.normal(0, noise, (SEEDS, IMAGES))


def sums_of(values_SC: Any) -> Any:
    return np.stack([np.ones_like(values_SC), values_SC], axis=2)


def frame(values: Any, metric: str = "accuracy") -> pd.DataFrame:
    names = [f"image{number}" for number in range(len(values))]
    return pd.DataFrame({"task": "vqa", "metric": metric, "sample": names, "cluster": names, "value": values})


@pytest.mark.parametrize(("seeds_sd", "images_sd"), [(0.1, 0.1), (0.1, 0.6), (0.01, 0.5)])
def test_the_interval_is_as_wide_as_seeds_and_images_vary(seeds_sd: float, images_sd: float) -> None:
    random, noise, widths, inside, alone = np.random.default_rng(0), 0.05, [], 0, 0
    for number in range(60):
        values_SC = drawn(random, seeds_sd, images_sd, noise)
        low, high = seeds_interval(sums_of(values_SC), mean, number)
        widths.append(high - low)
        inside += low <= 0.5 <= high
        of_images = [summarise(row, seed=number)["ci95"] for row in values_SC[:3]]
        alone += np.mean([one[0] for one in of_images]) <= 0.5 <= np.mean([one[1] for one in of_images])
    known = np.sqrt(seeds_sd**2 / SEEDS + images_sd**2 / IMAGES + noise**2 / (SEEDS * IMAGES))
    assert np.mean(widths) / (2 * 1.96 * known) == pytest.approx(1, abs=0.08)
    assert inside >= 51
    if seeds_sd >= images_sd:
        assert alone < inside - 10  # what images alone say of seeds that differ


def test_few_seeds_are_not_narrower_than_many() -> None:
    """Two seeds drawn out of two vary by half of what seeds vary by; the widening makes up for it."""
    random, found = np.random.default_rng(1), []
    for number in range(80):
        values_SC = 0.5 + random.normal(0, 0.1, (2, 1)) + np.zeros((2, IMAGES))
        low, high = seeds_interval(sums_of(values_SC), mean, number)
        found.append(((high - low) / 2) ** 2)
    # With all drawn from one of two, the bounds are the root of 2 times the half distance from the mean.
    assert np.mean(found) == pytest.approx(0.1**2, rel=0.3)


def test_the_difference_is_paired_by_image_and_by_seed() -> None:
    random = np.random.default_rng(2)
    dense = drawn(random, 0.2, 0.5, 0.0)
    method = dense - 0.1 + random.normal(0, 0.01, dense.shape)
    found = over_seeds([frame(one) for one in method], [frame(one) for one in dense])["vqa"]["accuracy"]
    low, high = found["delta_ci95"]
    assert low < -0.1 < high
    assert high - low < 0.005
    assert found["ci95"][1] - found["ci95"][0] > 0.2


def test_one_dense_may_stand_beside_all_seeds() -> None:
    random = np.random.default_rng(3)
    dense, seeds = frame(random.random(IMAGES)), [frame(random.random(IMAGES)) for _ in range(3)]
    shuffled = [one.sample(frac=1, random_state=1) for one in seeds]
    assert over_seeds(seeds, [dense] * 3) == over_seeds(shuffled, [dense] * 3)


def test_all_right_with_every_seed_is_no_proof() -> None:
    found = over_seeds([frame(np.ones(50)), frame(np.ones(50))])["vqa"]["accuracy"]
    assert found["ci95"] == pytest.approx([0.92865, 1], abs=1e-4)
    assert "delta_ci95" not in found


@pytest.mark.parametrize(
    ("seeds", "said"),
    [
        (lambda: [frame(np.ones(3))], "expected two"),
        (lambda: [frame(np.ones(3)), frame(np.ones(4))], "other samples"),
        (lambda: [frame(np.ones(3)), frame(np.ones(3), "top1")], "not every seed"),
    ],
)
def test_what_cannot_be_compared_is_refused(seeds: Any, said: str) -> None:
    with pytest.raises(HarnessError, match=said):
        over_seeds(seeds())
