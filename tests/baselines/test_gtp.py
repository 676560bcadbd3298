"""GTP: a graph that a hand can draw, what is handed on, and every selection."""

import pytest
import torch

from harness.check.method import small_vit
from harness.hosts.parts.towers import open_tower
from harness.kit.errors import HarnessError
from harness.reduction import StackShape, TokenState, encode
from harness.reduction.budget import make_reducer
from harness.reduction.plan import token_counts

SHAPE = StackShape(depth=12, patches=4, prefix=1, width=2, class_token=True)


def made(shape=SHAPE, **settings):
    return make_reducer("gtp", shape, settings={"num_prop": 1, **settings})


def test_four_patches_are_all_neighbours():
    graph = made(graph="Spatial").graph(torch.randn(1, 4, 2))
    torch.testing.assert_close(graph[0], (torch.ones(4, 4) - torch.eye(4)) / 3)


def test_the_semantic_graph_is_not_symmetric():
    tokens = torch.tensor([[[1.0, 0.0], [1.0, 0.1], [1.0, 0.3], [0.0, 1.0]]])
    links = made(graph="Semantic", num_neighbours=1).graph(tokens)[0] > 0
    assert links.int().tolist() == [[0, 1, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]


def reduced(**settings):
    reducer = made(graph="Spatial", alpha=0.3, **settings)
    state = reducer.opened(TokenState(torch.arange(10.0).view(1, 5, 2).double()), None, None)
    return reducer.between(0, state.noted(scores=torch.tensor([[0.4, 0.1, 0.2, 0.3]]).double()), None)


def test_what_goes_is_handed_to_its_neighbours():
    left = reduced(token_scale=True)
    # Token 2 (4, 5) goes: a third of .3 of it to each of the others, which stand by falling score.
    torch.testing.assert_close(left.tokens[0, 1:], torch.tensor([[2.4, 3.5], [8.4, 9.5], [6.4, 7.5]]).double())
    torch.testing.assert_close(left.sizes, torch.tensor([[1.0, 1.1, 1.1, 1.1]]).double())
    assert left.notes["graph"].shape == (1, 3, 3)


def test_or_appended_as_a_mean_or_dropped():
    assert reduced(propagation="Mean").tokens[0, 1:].tolist() == [[2, 3], [8, 9], [6, 7], [4, 5]]
    assert reduced(propagation="None").tokens[0, 1:].tolist() == [[2, 3], [8, 9], [6, 7]]


@pytest.mark.parametrize("selection", ["CLSAttn", "IMGAttn", "DiagAttn", "MixedAttn", "SumAttn", "CosSim"])
@pytest.mark.parametrize("heads", ["Mean", "Max"])
def test_every_selection_runs(selection, heads):
    tower, images = open_tower(small_vit()), torch.randn(2, 3, 64, 64, dtype=torch.float64)
    reducer = made(tower.shape, selection=selection, heads=heads, sparsity=0.5)
    with torch.no_grad():
        assert encode(tower, reducer, images).states.shape == (2, 53, 24)


def test_the_sparse_map_loses_its_smallest_entries():
    tower, images = open_tower(small_vit()), torch.randn(1, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        full, sparse = (encode(tower, made(tower.shape, sparsity=each), images).states for each in (1, 0.5))
    assert not torch.allclose(full, sparse)


def test_counts():
    assert token_counts(made(StackShape(12, 196, 1, 2, True), num_prop=8)).mlp == [197 - 8 * i for i in range(1, 13)]


@pytest.mark.parametrize(
    "settings",
    [
        {"token_scale": True, "propagation": "Mean"},
        {"selection": "Best"},
        {"sparsity": 0},
        {"num_neighbours": 0},
        {"num_prop": -1},
    ],
)
def test_bad_settings(settings):
    with pytest.raises(HarnessError) as error:
        made(**settings)
    assert "\n" not in str(error.value)


def test_a_grid_that_is_no_square_is_refused():
    with pytest.raises(HarnessError, match="no square"):
        made(StackShape(12, 12, 1, 2, True))
    made(StackShape(12, 12, 1, 2, True), graph="Semantic")
