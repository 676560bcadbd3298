"""The cost of whole hosts: parts against products counted by hand, memory against hooks on a real training step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from harness.cost.budget import tower_macs
from harness.cost.host import NO_WORDS, compare_memory, host_memory, host_parts, objective_parts
from harness.cost.memory import MemoryFit
from harness.cost.report import cost_report
from harness.hosts.build import build_host, host_config
from harness.hosts.host import HostModel
from harness.hosts.parts.towers import open_tower
from harness.objectives import make_objective
from harness.objectives.parts.objective import Moment, Objective, Pairs
from harness.objectives.parts.recipe import recipe_of
from harness.reduction import TokenReducer
from harness.reduction.budget import make_reducer
from harness.reduction.kernels import ATTENTION_PATHS, attention_path
from harness.reduction.plan import token_counts
from harness.report.cost_text import render_cost

MIB = 2**20
Estimated = dict[str, dict[str, dict[str, MemoryFit]]]
METHODS = {"dense": None, "elip": "begin=1,2 keep=.7,.4 lookahead=1,2"}
# What is smaller here than in the tiny presets, to be counted in a second.
SMALL: dict[str, dict[str, int]] = {
    "albef-tiny": {"depth": 4, "text_layers": 1, "fusion_layers": 2},
    "blip-tiny": {"depth": 4, "text_layers": 2},
    "meter-tiny": {"depth": 4, "text_layers": 1, "fusion_layers": 1},
}


def small_host(name: str, image_size: int | None = None) -> HostModel:
    return build_host(name, image_size=image_size, **SMALL.get(name, {}))


@cache
def host_of(name: str) -> HostModel:
    """The host on the meta device."""
    with torch.device("meta"):
        return small_host(name).eval()


@pytest.fixture(autouse=True, scope="module")
def small_presets() -> Iterator[None]:
    """The tiny hosts whose costs are counted are the small ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("harness.cost.host.build_host", small_host)
        yield


def reducer_of(name: str, method: str) -> TokenReducer[Any]:
    return make_reducer(method, open_tower(host_of(name).vision).shape, schedule=METHODS.get(method))


@pytest.fixture(scope="module")
def estimated(small_presets: None) -> Estimated:
    """Memory of tiny hosts by host, method and attention path."""
    names = ("albef-tiny", "blip-tiny")
    return {name: host_memory(name, {method: reducer_of(name, method) for method in METHODS}) for name in names}


@dataclass
class AlbefByHand:
    """MACs of a pair in ALBEF's pre-training: L words, N image tokens left by the method, all of them for the twin.

    A layer of width D multiplies its L states by query, key, value and output (4 L D D), queries by keys and the map by
    values (2 L L D), and its MLP of 4 D channels takes 8 L D D. Cross-attention adds query and output (2 L D D), key
    and value of the image's tokens (2 N D D) and the two products of the map (2 L N D).
    """

    left: int

    def __post_init__(self) -> None:
        self.config: Any = host_config("albef-tiny", **SMALL["albef-tiny"])
        self.recipe = recipe_of("albef-tiny", {})
        self.length, self.width = self.config.text_length, self.config.width

    def text(self) -> int:
        """The text half on one text."""
        length, width = self.length, self.width
        return self.config.text_layers * (12 * length * width**2 + 2 * length**2 * width)

    def fusion(self, tokens: int) -> int:
        """The fusion half on one text and `tokens` image tokens."""
        length, width = self.length, self.width
        alone = 12 * length * width**2 + 2 * length**2 * width
        across = 2 * length * width**2 + 2 * tokens * width**2 + 2 * length * tokens * width
        return self.config.fusion_layers * (alone + across)

    def words(self) -> int:
        """The word head at every position: a transform, then the word table."""
        return self.length * self.width * (self.width + self.config.vocab_size)

    def projections(self) -> int:
        """Both class tokens into the shared space."""
        return 2 * self.width * self.config.projection

    def similarities(self) -> int:
        """An image and a text against all columns: the batch's and the queue's."""
        return 2 * self.config.projection * (self.recipe.batch_size + self.recipe.queue_size)


@pytest.mark.parametrize("method", ["dense", "elip"])
def test_parts_of_albef_are_its_matrix_products(method: str) -> None:
    reducer = reducer_of("albef-tiny", method)
    tower = tower_macs(host_of("albef-tiny").vision, reducer)
    dense = tower_macs(host_of("albef-tiny").vision, reducer_of("albef-tiny", "dense"))
    hand = AlbefByHand(left=token_counts(reducer).mlp[-1])
    everything = open_tower(host_of("albef-tiny").vision).shape.patches + 1
    # The caption as it is and with hidden words.
    text = 2 * hand.text()
    # The pair, its wrong text, its wrong image: a class token into two logits each; and the hidden words.
    fusion = 4 * hand.fusion(hand.left) + 3 * 2 * hand.width + hand.words()
    twin = dense.forward_total + text + hand.fusion(everything) + hand.words() + hand.projections()
    other = hand.projections() + 2 * hand.similarities()
    expected = {
        "vision": (tower.forward_total, tower.train_step_total),
        "text": (text, 3 * text),
        "fusion": (fusion, 3 * fusion),
        "momentum": (twin, twin),
        # Columns need no gradient, and the twin's similarities, which are targets, none at all.
        "other": (other, 3 * hand.projections() + (2 + 1) * hand.similarities()),
    }
    found = host_parts("albef-tiny", reducer)
    counted = {part: (macs["forward_gmacs"], macs["train_step_gmacs"]) for part, macs in found.items()}
    assert set(counted) == set(expected)
    for part, macs in expected.items():
        assert counted[part] == pytest.approx([count / 1e9 for count in macs], rel=1e-9), part


def test_the_tower_of_albef_base_costs_in_training_what_it_costs_alone() -> None:
    reducer = reducer_of("albef-base", "dense")
    vision = host_parts("albef-base", reducer)["vision"]
    assert vision["train_step_gmacs"] == pytest.approx(69.44, abs=0.01)
    alone = tower_macs(host_of("albef-base").vision, reducer)
    assert vision["forward_gmacs"] == pytest.approx(alone.forward_total / 1e9, rel=1e-9)
    assert vision["train_step_gmacs"] == pytest.approx(alone.train_step_total / 1e9, rel=1e-9)


@pytest.mark.parametrize("method", ["dynamicvit", "tps", "diffrate", "patchmerger"])
def test_a_method_that_learns_costs_the_host_s_tower_what_it_costs_alone(method: str) -> None:
    schedule = {"schedule": {"begin": (1, 2), "keep": (0.7, 0.4)}}
    host = host_of("albef-tiny")
    reducer = make_reducer(method, open_tower(host.vision).shape, settings={} if method == "diffrate" else schedule)
    alone = tower_macs(host.vision, reducer).train_step_total / 1e9
    inside = host_parts("albef-tiny", reducer)["vision"]["train_step_gmacs"]
    assert inside == pytest.approx(alone)


def test_a_twin_has_no_gradient_part() -> None:
    parts = host_parts("blip-tiny", reducer_of("blip-tiny", "elip"))
    assert parts["momentum"]["train_step_gmacs"] == parts["momentum"]["forward_gmacs"] > 0
    for part in ("text", "fusion", "decoder"):
        assert parts[part]["train_step_gmacs"] == pytest.approx(3 * parts[part]["forward_gmacs"], rel=1e-9)


def test_a_host_without_a_twin_has_no_such_part() -> None:
    assert set(host_parts("meter-tiny", reducer_of("meter-tiny", "elip"))) == {"vision", "text", "fusion"}


def real_pairs(objective: Objective[Any], batch: int) -> Pairs:
    """Random images and texts of the full length."""
    config, generator = objective.host.config, torch.Generator().manual_seed(batch)
    ids = torch.randint(5, 100, (batch, config.text_length), generator=generator)
    pixels = torch.randn(batch, 3, config.image_size, config.image_size, generator=generator)
    return Pairs(pixels, ids, torch.ones_like(ids, dtype=torch.bool), torch.arange(batch))


def real_bytes(objective: Objective[Any], batch: int, path: str) -> int:
    """Bytes that a real training pass saves for backward, storages found by address."""
    owned = {tensor.untyped_storage().data_ptr() for tensor in [*objective.parameters(), *objective.buffers()]}
    saved = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    pairs = real_pairs(objective, batch)
    with attention_path(path), saved_tensors_hooks(pack, lambda tensor: tensor):
        losses = objective.train()(pairs, Moment(alpha=0.4))
    assert losses["matching"].requires_grad
    return sum(tensor.untyped_storage().nbytes() for place, tensor in saved.items() if place not in owned)


@pytest.mark.parametrize("name", ["albef-tiny", "blip-tiny"])
def test_memory_is_within_1_percent_of_real_hooks(name: str, estimated: Estimated) -> None:
    torch.manual_seed(0)
    objective = make_objective(name, small_host(name), reducer_of(name, "dense"), NO_WORDS, recipe_of(name, {}))
    for method, fits in estimated[name].items():
        objective.reducer = reducer_of(name, method)
        for path in ATTENTION_PATHS:
            small, large = (real_bytes(objective, batch, path) / MIB for batch in (4, 8))
            fit = fits[path]
            assert fit.mib_per_image == pytest.approx((large - small) / 4, rel=0.01)
            assert fit.mib_batch_free + 8 * fit.mib_per_image == pytest.approx(large, rel=0.01)
    dense, reduced = estimated[name]["dense"], estimated[name]["elip"]
    assert reduced["fused"].mib_per_image < dense["fused"].mib_per_image < dense["math"].mib_per_image


def test_fixed_memory_is_weights_gradients_moments_twin_and_queues(estimated: Estimated) -> None:
    config: Any = host_config("albef-tiny")
    recipe = recipe_of("albef-tiny", {})
    weights = sum(parameter.numel() for parameter in host_of("albef-tiny").parameters())
    queues = 2 * (config.projection * recipe.queue_size * 4 + 8)
    for fits in estimated["albef-tiny"].values():
        for path in ATTENTION_PATHS:
            assert fits[path].mib_fixed == pytest.approx(((4 + 1) * 4 * weights + queues) / MIB, rel=1e-9)


def test_the_gain_is_of_the_largest_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """In 2 GiB: (2048 - 1000 - 48) / 25 = 40 pairs reduced, / 40 = 25 dense; in 1 GiB 8 MiB too few for any."""
    fits = {
        label: {path: MemoryFit(per_pair, 48.0, 1000.0, path, "estimated") for path in ATTENTION_PATHS}
        for label, per_pair in (("reduced", 25.0), ("dense", 40.0))
    }
    monkeypatch.setattr("harness.cost.host.host_memory", lambda *_: fits)
    reducer = reducer_of("albef-tiny", "elip")
    found = compare_memory("albef-tiny", reducer, gib=2)
    assert [found["fused"][label]["largest_batch"] for label in ("reduced", "dense")] == [40, 25]
    assert [found[path]["gain"] for path in ATTENTION_PATHS] == [1.6, 1.6]
    assert [compare_memory("albef-tiny", reducer, gib=1)[path]["gain"] for path in ATTENTION_PATHS] == [None, None]


def memory(per_pair: float, batch: int) -> dict[str, Any]:
    return {"train_mib_per_image": per_pair, "train_mib_fixed": 500.0, "largest_batch": batch}


def test_the_text_tells_the_gain_and_what_is_of_the_tower_alone() -> None:
    report = cost_report(host_of("albef-tiny").vision, "dense", name="albef-tiny", gib=1)
    assert "alone" not in render_cost(report)
    report["parts"] = {"vision": {"forward_gmacs": 0.1, "train_step_gmacs": 0.3}}
    report["host"] = {
        "gib": 24.0,
        "fused": {"dense": memory(250.0, 80), "reduced": memory(187.5, 107), "gain": 107 / 80},
        "math": {"dense": memory(3e4, 0), "reduced": memory(2e4, 1), "gain": None},
    }
    lines = render_cost(report).splitlines()
    assert lines[-3:] == [
        "whole host                      MiB per pair   MiB fixed   largest batch in 24 GiB",
        "  fused attention             250.0 -> 187.5         500   80 -> 107  (x 1.34)",
        "  math attention          30000.0 -> 20000.0         500   0 -> 1",
    ]
    training = next(line for line in lines if line.startswith("training memory"))
    assert training.endswith("MiB  (vision tower alone, estimated, fused attention)")
    assert next(line for line in lines if "in 1 GiB" in line).endswith("in 1 GiB  (vision tower alone)")
    assert max(map(len, lines)) < 110


def test_a_step_in_the_mean_has_matching_in_its_share_of_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    def macs(late: float) -> float:
        with torch.device("meta"):
            recipe = recipe_of("albef-tiny", {"batch_size": 4, "matching_from": late})
            reducer = reducer_of("albef-tiny", "dense")
            objective = make_objective("albef-tiny", small_host("albef-tiny"), reducer, NO_WORDS, recipe)
        return sum(part["train_step_gmacs"] for part in objective_parts(objective).values())

    with_it = macs(0.0)
    with monkeypatch.context() as patch:
        patch.setattr(Objective, "matches", lambda self, moment: False)
        without = macs(0.0)
    assert without < 0.9 * with_it
    assert macs(0.4) == pytest.approx(0.6 * with_it + 0.4 * without)


def test_a_twin_that_is_not_distilled_from_is_counted_for_its_features_alone() -> None:
    found = []
    for alpha in (0.4, 0.0):
        recipe = recipe_of("albef-tiny", {"batch_size": 4, "alpha": alpha})
        parts = host_parts("albef-tiny", reducer_of("albef-tiny", "dense"), recipe=recipe)
        found.append({part: macs["train_step_gmacs"] for part, macs in parts.items()})
    distilled, plain = found
    assert 0 < plain.pop("momentum") < 0.8 * distilled.pop("momentum")
    assert plain == distilled
