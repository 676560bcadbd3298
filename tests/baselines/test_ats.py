"""ATS: samples that a hand can draw, an image by itself, and the two programs' ways with a batch."""

import pytest
import torch

from harness.check.method import small_vit
from harness.hosts.parts.towers import open_tower
from harness.kit.errors import HarnessError
from harness.reduction import StackShape, Trace, encode, join
from harness.reduction.budget import make_reducer
from harness.reduction.plan import token_counts

SHAPE = StackShape(depth=12, patches=4, prefix=1, width=2, class_token=True)


def made(shape=SHAPE, **settings):
    return make_reducer("ats", shape, settings=settings)


def picked(reducer, scores, count):
    scores = torch.tensor([scores], dtype=torch.float64)
    found, stays = reducer.pick(scores, count, torch.ones_like(scores, dtype=torch.bool))
    return found[stays].tolist()


def test_the_authors_sample_evenly_from_the_least_significant():
    # Sorted .1 .2 .3 .4: line 0, .2/.9, .5/.9, 1; samples .2/.9, .611, 1.
    assert picked(made(), [0.4, 0.1, 0.3, 0.2], 3) == [3, 2, 0]
    assert picked(made(), [0.4, 0.1, 0.3, 0.2], 2) == [3, 0]


def test_one_token_takes_many_samples():
    # Line 0, .002, .005, 1: samples .002, .335, .667, 1 are nearest to the second, third, last and last.
    assert picked(made(), [0.001, 0.002, 0.003, 0.994], 4) == [1, 2, 3]


def test_token_reduction_samples_in_the_order_of_positions():
    # Line .4 .5 .8 1; samples 1/8, 3/8, 5/8: 0, 0, and 1, which is nearer to .625 than 2.
    assert picked(made(program="token_reduction"), [0.4, 0.1, 0.3, 0.2], 3) == [0, 1]


def test_an_image_of_one_token_keeps_it():
    assert picked(made(StackShape(12, 1, 1, 2, True)), [1.0], 1) == [0]


@pytest.mark.parametrize("program", ["authors", "token_reduction"])
def test_a_batch_equals_its_images(program):
    tower, images = open_tower(small_vit()), torch.randn(4, 3, 64, 64, dtype=torch.float64)
    reducer = made(tower.shape, program=program)
    with torch.no_grad():
        together = encode(tower, reducer, images)
        alone = join([encode(tower, reducer, images[[row]]) for row in range(4)])
    assert torch.equal(together.standing, alone.standing)
    if program == "authors":
        assert len(set(together.standing.sum(dim=1).tolist())) > 1
    torch.testing.assert_close(together.states[together.standing], alone.states[alone.standing])


@pytest.mark.parametrize("program", ["authors", "token_reduction"])
def test_an_image_by_itself_is_what_the_program_gives_it(program):
    tower, images = open_tower(small_vit()), torch.randn(1, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        ours = encode(tower, made(tower.shape, program=program), images).states
        theirs = encode(tower, made(tower.shape, program=program, as_in_a_batch=True), images).states
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


def test_more_samples_keep_more_tokens():
    tower, images = open_tower(small_vit()), torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        passes = [encode(tower, made(tower.shape, oversampling=factor), images) for factor in (0.3, 1, 3, 9)]
    counts = [int(tokens.standing.sum()) for tokens in passes]
    assert counts == sorted(counts)
    assert counts[0] < counts[-1]


def test_a_plan_without_images_is_refused():
    with pytest.raises(HarnessError, match="images"):
        token_counts(made())
    with pytest.raises(HarnessError, match="adaptive"):
        make_reducer("ats", SHAPE, ratio=0.5)


@pytest.mark.parametrize(
    "settings",
    [{"program": "other"}, {"sample_counts": (3,)}, {"oversampling": -1}, {"schedule": {"begin": [40], "keep": [1]}}],
)
def test_bad_settings(settings):
    with pytest.raises(HarnessError) as error:
        made(**settings)
    assert "\n" not in str(error.value)


def test_a_tower_without_block_3_needs_a_schedule():
    with pytest.raises(HarnessError):
        made(StackShape(3, 4, 1, 2, True))


@pytest.mark.parametrize("wanted", [1, 2, 5, 7, 35, 36, 45, 47, 58])
def test_token_reduction_draws_a_sample_more_where_its_range_rounds_up(wanted):
    # K in its list: arange(1 / 2K, (2K - 1) / 2K, 1 / K) ends before its end, or at it.
    count = wanted - (wanted not in {7, 35, 36, 47, 58})
    line = torch.rand(200, dtype=torch.float64, generator=torch.Generator().manual_seed(wanted))
    scores = line / line.sum()
    nearest = {int((scores.cumsum(0) - (2 * t + 1) / (2 * wanted)).abs().argmin()) for t in range(count)}
    reducer = made(StackShape(12, 200, 1, 2, True), program="token_reduction")
    assert picked(reducer, scores.tolist(), wanted - 1) == sorted(nearest)


def test_an_image_may_be_left_with_its_class_token_alone():
    tower, images = open_tower(small_vit()), torch.randn(2, 3, 64, 64, dtype=torch.float64)
    settings = {"program": "token_reduction", "sample_counts": (9, 2, 0), "as_in_a_batch": True}
    reducer = made(tower.shape, **settings | {"schedule": {"begin": [1, 2, 3], "keep": [1, 1, 1]}})
    with torch.no_grad():
        tokens = encode(tower, reducer, images, trace=Trace(origins_wanted=True))
    assert tokens.states.shape[1] == 1
    assert int(tokens.origin.max()) == -1
