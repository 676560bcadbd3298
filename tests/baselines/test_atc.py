"""ATC: the clusters of scipy's own cut, the schedules of both variants, and merges by size."""

import pytest
import torch
from scipy.cluster.hierarchy import fcluster, linkage
from torch._subclasses import FakeTensorMode

from harness.check.method import small_vit
from harness.hosts.parts.towers import open_tower
from harness.kit.errors import HarnessError
from harness.kit.registry import methods
from harness.reduction import Evidence, StackShape, TokenState, encode
from harness.reduction.budget import make_reducer
from harness.reduction.plan import token_counts

SHAPE = StackShape(depth=12, patches=196, prefix=1, width=2, class_token=True)


def made(shape=SHAPE, **settings):
    return make_reducer("atc", shape, settings=settings)


def labels(apart, count, kind):
    methods.get("atc")
    return torch.ops.baselines.cluster_labels(apart, count, kind)


@pytest.mark.parametrize("kind", ["average", "complete", "single"])
def test_clusters_are_those_of_scipys_cut(kind):
    points = torch.rand(3, 20, 2, dtype=torch.float64)
    apart = torch.cdist(points, points)
    for each, found in zip(apart, labels(apart, 6, kind)):
        pairs = each[tuple(torch.triu_indices(20, 20, 1))].numpy()
        cut = torch.tensor(fcluster(linkage(pairs, kind), 6, "maxclust"))
        assert torch.equal(found[:, None] == found, cut[:, None] == cut)


def test_one_cluster_and_as_many_as_tokens():
    apart = torch.cdist(torch.rand(1, 5, 2), torch.rand(1, 5, 2))
    assert labels(apart, 1, "average").tolist() == [[0] * 5]
    assert sorted(labels(apart, 5, "average")[0].tolist()) == list(range(5))


def test_its_clusters_have_a_shape_without_data():
    methods.get("atc")
    with FakeTensorMode():
        assert labels(torch.empty(2, 9, 9), 3, "average").shape == (2, 9)


def test_alike_keys_merge_by_size():
    keys = torch.tensor([[[1.0, 1], [1, 0], [0, 1], [1, 0.01]]], dtype=torch.float64)
    tokens = torch.tensor([[[0.0], [1.0], [5.0], [4.0]]], dtype=torch.float64)
    sizes = torch.tensor([[1.0, 2.0, 1.0, 1.0]], dtype=torch.float64)
    small = StackShape(12, 3, 1, 2, True)
    state, evidence = TokenState(tokens, sizes=sizes), Evidence(keys=keys)
    left = made(small, keep_tokens=(2, 2, 2)).between(3, state, evidence)
    assert sorted(left.patch_tokens.flatten().tolist()) == [2.0, 5.0]
    assert sorted(left.patch_sizes[0].tolist()) == [1, 3]
    forgets = made(small, keep_tokens=(2, 2, 2), proportional_attention=False)
    assert sorted(forgets.between(3, state, evidence).patch_tokens.flatten().tolist()) == [2.5, 5.0]


def test_the_off_the_shelf_program_removes_one_less_than_r():
    r = {"variant": "off_the_shelf", "r": 10}
    assert token_counts(made(**r)).mlp == [197 - 10 * block for block in range(1, 13)]
    assert token_counts(made(**r, r_counts_class_token=True)).mlp == [197 - 9 * block for block in range(1, 13)]
    assert token_counts(made(**{**r, "r": 1}, r_counts_class_token=True)).mlp == [197] * 12
    falling = token_counts(made(**r, inflect=-1)).mlp
    assert falling[0] == 177
    assert falling[-1] == falling[-2] - 0


def test_no_patch_is_lost():
    tower = open_tower(small_vit())
    tokens = encode(tower, made(tower.shape), torch.randn(2, 3, 64, 64).double())
    assert tokens.sizes.sum(dim=1).tolist() == [65, 65]


@pytest.mark.parametrize(
    "settings",
    [{"linkage": "ward"}, {"variant": "other"}, {"r": -1}, {"keep_tokens": (5, 6, 7)}, {"inflect": 2}],
)
def test_bad_settings(settings):
    with pytest.raises(HarnessError) as error:
        made(**settings)
    assert "\n" not in str(error.value)
