"""Facts about the linear probe: what it minimises, and what does not matter to it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from harness.evaluate.linear_probe import fit_probe


def clouds(seed: int, classes: int = 3, each: int = 20, width: int = 5) -> tuple[Tensor, Tensor]:
    """Points around one centre per class, which overlap."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(classes).repeat_interleave(each)
    centres = torch.randn(classes, width, generator=generator, dtype=torch.float64)
    return centres[labels] + torch.randn(len(labels), width, generator=generator, dtype=torch.float64), labels


def test_two_points_have_the_solution_known_by_hand() -> None:
    """Features -1 and 1: weights -w and w minimise log(1 + exp(-2 w)) + l2 w²; the slope says 1/(1 + e^2w) = l2 w."""
    probe = fit_probe(torch.tensor([[-1.0], [1.0]]), torch.tensor([0, 1]), 2, l2=0.1)
    w = float(probe.weight[1, 0])
    assert w == pytest.approx(-float(probe.weight[0, 0]))
    assert 1 / (1 + math.exp(2 * w)) == pytest.approx(0.1 * w, abs=1e-6)
    assert probe.bias.tolist() == pytest.approx([0, 0], abs=1e-6)


def test_it_ends_where_the_gradient_vanishes() -> None:
    features, labels = clouds(0)
    probe = fit_probe(features, labels, 3, l2=1e-3)
    inputs = (features - features.mean(0)) / features.std(0, correction=0)
    excess = torch.softmax(probe.scores(features), 1) - torch.nn.functional.one_hot(labels, 3)
    gradient = excess.T @ inputs / len(labels) + 1e-3 * probe.weight
    assert float(gradient.abs().max()) <= 1e-7
    assert probe.gradient <= 1e-7
    assert probe.iterations > 1


def test_scale_place_and_order_of_the_features_do_not_matter() -> None:
    features, labels = clouds(1)
    turn = torch.randperm(len(labels), generator=torch.Generator().manual_seed(2))
    moved = features * torch.tensor([1.0, 10, 100, 0.1, 1]) + 7
    first, second = fit_probe(features, labels, 3, 1e-2), fit_probe(moved[turn], labels[turn], 3, 1e-2)
    assert torch.allclose(first.scores(features), second.scores(moved), atol=1e-5)
    assert torch.equal(first.weight, fit_probe(features, labels, 3, 1e-2).weight)


def test_more_penalty_means_smaller_weights_and_a_constant_channel_none() -> None:
    features, labels = clouds(3)
    features[:, 2] = 4.0
    strong, weak = (fit_probe(features, labels, 3, l2) for l2 in (1.0, 1e-3))
    assert float(strong.weight.norm()) < 0.5 * float(weak.weight.norm())
    assert torch.equal(weak.weight[:, 2], torch.zeros(3, dtype=torch.float64))


def test_it_learns_what_is_there_and_works_where_gradients_are_off() -> None:
    features, labels = clouds(4)
    with torch.no_grad():
        probe = fit_probe(features.float(), labels, 3, 1e-3)
        assert float((probe.scores(features.float()).argmax(1) == labels).double().mean()) > 0.8
