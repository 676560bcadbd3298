"""Facts about matching: its loss is that of a loop over pairs, and of METER's images half are exchanged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.hosts.build import build_host
from harness.hosts.parts.tokenizer import Specials
from harness.hosts.parts.towers import open_tower
from harness.objectives import make_objective
from harness.objectives.parts.objective import Moment, Objective, Pairs
from harness.objectives.parts.recipe import recipe_of
from harness.reduction import Tokens, encode
from harness.reduction.budget import make_reducer

COUNT, LENGTH = 7, 9
SPECIALS = Specials(pad=0, begin=2, end=3, mask=4, unknown=1)
SIZES: dict[str, int] = {
    "image_size": 32,
    "width": 24,
    "depth": 3,
    "heads": 3,
    "text_layers": 1,
    "vocab_size": 40,
    "text_length": LENGTH,
}
MORE: dict[str, dict[str, int]] = {
    "albef-tiny": {"fusion_layers": 2, "projection": 12},
    "blip-tiny": {"projection": 12, "dec_id": 38, "enc_id": 39},
    "meter-tiny": {"fusion_layers": 1},
}
MOMENT = Moment(seed=1, step=4, alpha=0.4)


def objective_of(name: str) -> Objective[Any]:
    """A small host in float64 whose 16 patches ELIP reduces to 8 and one merged."""
    torch.manual_seed(0)
    host = build_host(name, **SIZES, **MORE[name])
    shape = open_tower(host.vision).shape
    reducer = make_reducer("elip", shape, schedule="begin=1 keep=.5 lookahead=2")
    recipe = recipe_of(name, {"batch_size": COUNT, "queue_size": 2 * COUNT})
    return make_objective(name, host, reducer, SPECIALS, recipe).double().eval()


@pytest.fixture(scope="module")
def pairs() -> Pairs:
    """Seven different images with captions of 4 to 9 tokens, padding at the end."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 38, (COUNT, LENGTH), generator=generator)
    lengths = torch.tensor([9, 4, 7, 5, 9, 6, 8])[:, None]
    places = torch.arange(LENGTH)
    ids = ids.masked_fill(places == lengths - 1, SPECIALS.end).masked_fill(places >= lengths, SPECIALS.pad)
    ids[:, 0] = SPECIALS.begin
    pixels = torch.randn(COUNT, 3, 32, 32, dtype=torch.float64, generator=generator)
    return Pairs(pixels, ids, places < lengths, torch.arange(COUNT) * 13 + 5)


def text_of(pairs: Pairs, row: int) -> tuple[Tensor, Tensor]:
    """One caption without its padding: ids and mask (1, L)."""
    length = int(pairs.mask[row].sum())
    return pairs.ids[row : row + 1, :length], pairs.mask[row : row + 1, :length]


def image_of(objective: Objective[Any], pairs: Pairs, row: int) -> Tokens:
    """One image's tokens (1, N, D), reduced for its own caption."""
    guide = objective.host.guide(objective.host.text_batch(*text_of(pairs, row)))
    tokens = encode(open_tower(objective.host.vision), objective.reducer, pairs.pixels[row : row + 1], guide)
    assert tokens.states.shape[1] == 1 + 8 + 1
    return tokens


def by_albef(objective: Objective[Any], pairs: Pairs, text: int, image: int) -> Tensor:
    host, (ids, mask) = objective.host, text_of(pairs, text)
    logits: Tensor = host.match_logits(host.fuse(host.encode_text(ids, mask), image_of(objective, pairs, image)))
    return logits[0]


def by_blip(objective: Objective[Any], pairs: Pairs, text: int, image: int) -> Tensor:
    host = objective.host
    logits: Tensor = host.match_logits(host.ground(*text_of(pairs, text), image_of(objective, pairs, image)))
    return logits[0]


def all_pairs(wrong_text: list[int], wrong_image: list[int]) -> Iterator[tuple[int, int, int]]:
    """(text, image, whether they belong together)."""
    for row in range(COUNT):
        yield row, row, 1
        yield wrong_text[row], row, 0
        yield row, wrong_image[row], 0


@pytest.mark.parametrize(("name", "logits_of"), [("albef-tiny", by_albef), ("blip-tiny", by_blip)])
@torch.no_grad()
def test_the_loss_is_that_of_a_loop_over_pairs(name: str, logits_of: Callable[..., Tensor], pairs: Pairs) -> None:
    objective: Any = objective_of(name)
    found = objective.align(pairs, MOMENT)
    wrong_text, wrong_image = (rows.tolist() for rows in objective.negatives(found.logits, pairs, MOMENT))
    for wrong in (wrong_text, wrong_image):
        assert all(other != row for row, other in enumerate(wrong))
        assert wrong != sorted(wrong)
    losses = [
        -logits_of(objective, pairs, text, image).log_softmax(0)[label]
        for text, image, label in all_pairs(wrong_text, wrong_image)
    ]
    assert len(losses) == 3 * COUNT
    naive = torch.stack(losses).mean()
    torch.testing.assert_close(objective.matching(found, pairs, MOMENT), naive, rtol=0, atol=1e-10)
    # Another choice of negatives is another loss: the comparison can fail.
    swapped = [
        -logits_of(objective, pairs, text, image).log_softmax(0)[label]
        for text, image, label in all_pairs(wrong_image, wrong_text)
    ]
    assert (torch.stack(swapped).mean() - naive).abs() > 1e-6


def origin(image: Tensor, pairs: Pairs) -> int:
    """Which of the batch's images this is."""
    (row,) = [row for row in range(COUNT) if torch.equal(image, pairs.pixels[row])]
    return row


def test_half_of_meters_images_are_exchanged_for_others(pairs: Pairs) -> None:
    objective: Any = objective_of("meter-tiny")
    chosen = set()
    for step in range(20):
        images, right = objective.exchanged(pairs, Moment(seed=1, step=step))
        origins = [origin(image, pairs) for image in images]
        assert [int(source == row) for row, source in enumerate(origins)] == right.tolist()
        assert int((right == 0).sum()) == COUNT // 2
        chosen.add(tuple(right.tolist()))
    assert len(chosen) > 10
    again, labels = objective.exchanged(pairs, Moment(seed=1, step=19))
    assert torch.equal(again, images)
    assert torch.equal(labels, right)


@torch.no_grad()
def test_meters_loss_is_that_of_a_loop_over_the_exchanged_pairs(pairs: Pairs) -> None:
    objective: Any = objective_of("meter-tiny")
    host = objective.host
    images, right = objective.exchanged(pairs, MOMENT)
    losses = []
    for row in range(COUNT):
        texts = host.text_batch(*text_of(pairs, row))
        # Unlike the others', METER's wrong image is reduced for the wrong text that it stands with.
        tokens = objective.encode_images(images[row : row + 1], texts)
        losses.append(-host.match_logits(host.co_attend(texts, tokens).cls)[0].log_softmax(0)[right[row]])
    found = objective(pairs, MOMENT)["matching"]
    torch.testing.assert_close(found, torch.stack(losses).mean(), rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", MORE)
def test_matching_begins_at_its_share_of_the_steps(name: str, pairs: Pairs) -> None:
    whole = objective_of(name)(pairs, MOMENT)
    early, late = objective_of(name), objective_of(name)
    for one in (early, late):
        one.recipe = one.recipe.model_copy(update={"matching_from": 0.4})
    before = early(pairs, replace(MOMENT, done=0.39))
    after = late(pairs, replace(MOMENT, done=0.4))
    assert set(whole) - set(before) == {"matching"}
    assert all(torch.equal(before[part], whole[part]) for part in before)
    assert all(torch.equal(after[part], whole[part]) for part in whole)
    assert list(after) == list(whole)
