"""Facts about ProtoCLIP: centroids, targets, the release's slip, episodes in a checkpoint, locked images."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from harness.cost.host import NO_WORDS
from harness.hosts.build import build_host
from harness.kit.errors import HarnessError
from harness.objectives import choose
from harness.objectives.parts.episodes import Episode, clusters, principal
from harness.objectives.parts.objective import Moment, Pairs
from harness.objectives.parts.prototypes import (
    ProjectionHead,
    PrototypeLoss,
    cluster_targets,
    make_lessons,
    mean_of_clusters,
)
from harness.objectives.parts.recipe import recipe_of
from harness.objectives.protoclip import ProtoClipObjective
from harness.reduction.budget import make_reducer


def made(**settings: Any) -> tuple[ProtoClipObjective, Pairs]:
    torch.manual_seed(0)
    host = build_host("clip-tiny", depth=2, text_layers=1)
    choice = choose("clip-tiny", "protoclip", {"protoclip": {"hidden": 16, "projection": 8, "clusters": 3} | settings})
    objective = choice.make(host, make_reducer("dense", host.shape), NO_WORDS, recipe_of("clip-tiny", {}))
    assert isinstance(objective, ProtoClipObjective)
    ids = torch.randint(10, 100, (6, 5))
    pairs = Pairs(torch.randn(6, 3, 64, 64), ids, torch.ones_like(ids).bool(), torch.tensor([9, -4, 7, 0, 3, -8]))
    return objective, pairs


def opened(objective: ProtoClipObjective, pairs: Pairs) -> None:
    features = [torch.randn(6, 8), torch.randn(6, 8)]
    objective.clusters.open(pairs.sample_ids, features, 3, 0, back_translation=True, empty_external=False)


def test_centroids_are_plain_means_and_zero_where_a_cluster_is_empty() -> None:
    features = torch.tensor([[1.0, 0.0], [3.0, 2.0], [0.0, 5.0]])
    expected = [[2.0, 1.0], [0.0, 0.0], [0.0, 5.0]]
    assert mean_of_clusters(features, torch.tensor([0, 0, 2]), 3).tolist() == expected


def test_targets_are_soft_above_temperature_zero_alone() -> None:
    teacher = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    hard = cluster_targets(torch.tensor([2, 0]), teacher, -1.0)
    assert hard.tolist() == [[0, 0, 1], [1, 0, 0]]
    soft = cluster_targets(torch.tensor([0]), teacher, 0.5)
    torch.testing.assert_close(soft, torch.tensor([[2.0, 0.0, 2.0]]).softmax(1))


def test_an_external_teacher_without_back_translation_is_the_released_constant_or_refused() -> None:
    features = torch.randn(5, 4), torch.randn(5, 4)
    labels, centroids = [torch.zeros(5).long()] * 3, [torch.randn(3, 4), torch.randn(3, 4), torch.randn(3, 7)]
    with pytest.raises(HarnessError, match="centroids are of another space"):
        make_lessons(features, labels, centroids, back_translation=False)
    lessons = make_lessons(features, labels, centroids, back_translation=False, empty_external=True)
    loss = PrototypeLoss(ProjectionHead(6, 5, 4), ProjectionHead(6, 5, 4, layers=0), (1, 1, 1), 0.1)
    projected = loss.project(torch.randn(5, 6), torch.randn(5, 6))
    terms = loss.terms(projected, lessons, torch.arange(5))
    torch.testing.assert_close(terms["image_to_external"].item(), math.log(3))
    terms["text_to_external"].backward()
    assert all(not parameter.grad.any() for parameter in loss.parameters() if parameter.grad is not None)


def test_clusters_are_those_that_are_plain_to_see_whatever_the_seed() -> None:
    centres = torch.tensor([[0.0, 9.0], [9.0, 0.0], [-9.0, -9.0]])
    points = centres.repeat_interleave(5, 0) + 0.1 * torch.randn(15, 2, generator=torch.Generator().manual_seed(0))
    for seed in range(3):
        labels, found = clusters(points, 3, seed)
        assert all(len(set(labels[at : at + 5].tolist())) == 1 for at in (0, 5, 10))
        assert len(set(labels.tolist())) == 3
        torch.testing.assert_close(found[labels[0]], points[:5].mean(0))
        assert torch.equal(clusters(points, 3, seed)[1], found)
    with pytest.raises(HarnessError, match="16 clusters of 15 samples"):
        clusters(points, 16, 0)


def test_principal_axes_keep_distances_in_the_plane_that_points_lie_in() -> None:
    plane = torch.randn(2, 9, generator=torch.Generator().manual_seed(1))
    points = torch.randn(20, 2, generator=torch.Generator().manual_seed(2)) @ plane + 3
    found = principal(points, 2)
    assert found.shape == (20, 2)
    torch.testing.assert_close(torch.cdist(found, found), torch.cdist(points, points), atol=1e-4, rtol=1e-4)


def test_an_episode_finds_its_samples_and_comes_back_from_a_checkpoint() -> None:
    objective, pairs = made()
    opened(objective, pairs)
    own = objective.clusters
    assert own.lessons is not None
    assert torch.equal(own.samples[own.places(pairs.sample_ids)], pairs.sample_ids)
    other = Episode()
    assert other.lessons is None
    other.load_state_dict(own.state_dict())
    assert other.lessons is not None
    assert other.lessons.image_of_external is None
    assert torch.equal(other.lessons.text_of_image.student, own.lessons.text_of_image.student)
    other.close()
    assert other.lessons is None


def test_first_and_locked_episodes_are_the_contrast_alone_at_weight_one() -> None:
    objective, pairs = made(contrast_weight=0.5, lock_from_episode=3)
    opened(objective, pairs)
    first, second, third = (objective(pairs, Moment(epoch=epoch)) for epoch in range(3))
    assert set(first) == set(third) == {"contrast"}
    assert set(second) == {"contrast", "prototypes"}
    torch.testing.assert_close(second["contrast"], first["contrast"] / 2)
    torch.testing.assert_close(third["contrast"], first["contrast"])
    objective.zero_grad()
    third["contrast"].backward()
    host = objective.host
    assert all(
        parameter.grad is None for part in (host.vision, host.image_projection) for parameter in part.parameters()
    )
    assert host.text_projection.weight.grad is not None


def test_both_scales_are_clamped_after_a_step() -> None:
    objective, _ = made()
    with torch.no_grad():
        objective.host.logit_scale.fill_(9)
        objective.prototypes.log_scale.fill_(-3)
    objective.after_step()
    torch.testing.assert_close(objective.host.logit_scale.exp().item(), 100.0)
    assert objective.prototypes.log_scale.item() == 0


def test_other_hosts_and_batches_are_refused() -> None:
    host = build_host("albef-tiny", depth=2, text_layers=1, fusion_layers=1)
    with pytest.raises(HarnessError, match="Albef has no image_feature, text_feature"):
        choose("albef-tiny", "protoclip").make(
            host, make_reducer("dense", host.shape), NO_WORDS, recipe_of("albef-tiny", {})
        )
    with pytest.raises(HarnessError, match="objectives clip and protoclip: need different batches"):
        choose("clip-tiny", "clip+protoclip")
    with pytest.raises(HarnessError, match="without back_translation an external teacher"):
        made(external_teacher=True, back_translation=False)
