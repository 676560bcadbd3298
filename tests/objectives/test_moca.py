"""Facts about moca: rounds of masks, the codebook, what a reduction changes, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from harness.hosts.parts.towers import open_tower
from harness.kit import distributed
from harness.kit.errors import HarnessError
from harness.objectives.moca import MocaConfig, WordDraws, divergence, visible_counts
from harness.objectives.parts.codebook import Codebook, bag_of_words, inner_places
from harness.objectives.parts.objective import Moment
from harness.objectives.parts.visible import held, mean_of_sources
from harness.reduction import PLAIN, drive, take
from tests.objectives.masked import images, made, pairs

NOISE = torch.rand(8, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


def draws(second: bool = False) -> WordDraws:
    return WordDraws(torch.tensor(second), torch.tensor([3, 0, 15, 7]), torch.tensor([2, 0, 3, 1]))


def test_the_defaults_show_what_the_paper_shows() -> None:
    assert visible_counts(MocaConfig(), 196, 12) == [(88, 127), (49, 88)]


def test_the_second_round_shows_other_patches_and_decodes_the_same_others() -> None:
    objective = made("moca")
    first, second = objective.orders(NOISE)
    (seen, read), (seen_then, read_then) = objective.counts
    assert torch.equal(first.sort(dim=1).values, second.sort(dim=1).values)
    for row, then in zip(first.tolist(), second.tolist()):
        assert not set(row[:seen]) & set(then[:seen_then])
        assert set(then[seen_then:read_then]) <= set(row[seen:read])


def test_other_numbers_of_rounds_draw_an_order_each() -> None:
    objective = made("moca", {"mask_ratios": (0.5,), "decoder_mask_ratios": (0.2,)})
    assert set(objective(pairs(2), Moment())) == {"image", "patches"}
    objective = made("moca", {"mask_ratios": (0.5, 0.6, 0.7), "decoder_mask_ratios": (0.2, 0.3, 0.4)})
    assert objective.noises == 3
    assert set(objective(pairs(2), Moment())) == {"image", "patches"}


def test_new_words_are_the_drawn_teachers_tokens_and_the_oldest_go() -> None:
    objective = made("moca")
    book, views = objective.codebook, images(8)
    before, spread = book.words.clone(), book.spread.clone()
    found = objective.targets(views, 0.5, draws(second=True))
    assert torch.equal(found.words, before)
    tower = open_tower(objective.teacher.model)
    tokens = tower.normed(drive(tower, tower.open(views[4:]), PLAIN))[:, 1:]
    inner = inner_places((8, 8), 2)
    wanted = torch.stack([tokens[image, inner[place]] for image, place in ((2, 15), (0, 3), (3, 7), (1, 0))])
    torch.testing.assert_close(book.words[:4], torch.nn.functional.normalize(wanted, dim=-1))
    assert torch.equal(book.words[4:], before[4:])
    assert book.pointer.item() == 4
    assert book.spread != spread
    assert torch.equal(book.spread_used, book.spread)
    for _ in range(2):
        objective.targets(views, 0.5, draws())
    assert book.pointer.item() == 0


def test_assignments_use_the_spread_of_the_last_renewal() -> None:
    book = Codebook(6, 4, sharpness=10.0).double()
    tokens = torch.randn(2, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    first = book.assign(tokens)
    assert book.spread != 0.5
    assert torch.equal(book.assign(tokens), first)
    cosines = torch.nn.functional.normalize(tokens, dim=-1) @ book.words.T
    torch.testing.assert_close(first, (10.0 / 0.5 * cosines).softmax(-1))
    book.renew(tokens[0, :3])
    assert not torch.equal(book.assign(tokens), first)


def test_a_bag_counts_inner_patches_and_sums_to_one() -> None:
    codes = torch.rand(3, 36, 5)
    inner = inner_places((6, 6), 2)
    assert inner.tolist() == [14, 15, 20, 21]
    bags = bag_of_words(codes, inner)
    torch.testing.assert_close(bags.sum(dim=1), torch.ones(3))
    torch.testing.assert_close(bags[1] * codes[1, inner].sum(), codes[1, inner].sum(dim=0))


def test_the_text_side_takes_part_where_contrast_is_asked_for() -> None:
    plain = made("moca")
    sum(plain(pairs(2), Moment()).values()).backward()
    assert plain.host.words.weight.grad is None
    beside = made("moca", {"contrast_weight": 0.5})
    losses = beside(pairs(2), Moment())
    assert set(losses) == {"image", "patches", "contrast"}
    sum(losses.values()).backward()
    assert beside.host.words.weight.grad.abs().sum() > 0


def test_nothing_that_a_checkpoint_needs_is_outside_of_it() -> None:
    state = made("moca").state_dict()
    for name in ("codebook.words", "codebook.pointer", "codebook.spread", "codebook.spread_used"):
        assert name in state
    assert any(name.startswith("teacher.model.") for name in state)


@pytest.mark.parametrize("method", ["tome", "topk"])
def test_merged_patches_share_a_target_and_pruned_ones_are_decoded_from_mask_tokens(
    method: str,
) -> None:
    objective = made("moca", {"early": 2}, method=method, ratio=0.6, sizes={"depth": 12})
    targets = objective.targets(images(8), 0.9, draws())
    rounds = objective.rounds(images(8), NOISE, targets.words)
    losses = []
    for one, (seen, read) in zip(rounds, objective.counts):
        assert one.places.shape == (8, read)
        assert one.early.states.shape[1] < 1 + seen
        here = held(one.early).gather(1, one.places)
        assert not here[:, seen:].any()
        assert bool(here[:, :seen].all()) == (method == "tome")
        codes = mean_of_sources(one.early, targets.codes)
        changed = (codes != targets.codes).any(dim=-1).any()
        assert bool(changed) == (method == "tome")
        losses.append(divergence(one.patch_logits, take(codes, one.places).flatten(0, 1)))
        torch.testing.assert_close(codes.sum(-1), torch.ones_like(codes[..., 0]))
    torch.testing.assert_close(objective.patch_loss(rounds, targets), 2 * torch.stack(losses).mean())


def test_reduction_behind_the_decoders_block_leaves_its_tokens_whole() -> None:
    late = {"schedule": {"begin": [10], "keep": [0.5]}}
    objective = made("moca", {"early": 4}, method="topk", sizes={"depth": 12}, method_settings=late)
    for one, (seen, _) in zip(objective.rounds(images(8), NOISE, objective.codebook.words), objective.counts):
        assert one.early.states.shape[1] == 1 + seen
    assert objective._fitted[0].shape.patches == objective.counts[0][0]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"new_words": 5}, "objective moca: 5 new words a step from 4 images"),
        ({"words": 10}, "objective moca: 10 words are no multiple of 4 new ones"),
        ({"border": 4}, "border 4 leaves no inner patch of 8 x 8"),
        ({"early": 4}, "early 4 of a tower of 4 blocks"),
        ({"mask_ratios": (0.2, 0.2)}, "expected at least one, more for the decoder"),
        ({"mask_ratios": (0.5,)}, "name different numbers of rounds"),
        ({"mask_ratios": (0.5, 1.0)}, "expected a share in 0..1 for each round"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(HarnessError, match=reason):
        made("moca", settings)


def test_contrast_on_a_host_without_it_is_refused() -> None:
    with pytest.raises(HarnessError, match="objective moca: Meter has no contrast"):
        made("moca", {"contrast_weight": 1.0}, family="meter")
    assert set(made("moca", family="meter")(pairs(2), Moment())) == {"image", "patches"}


@pytest.mark.parametrize("gathered", [True, False])
def test_of_two_processes_all_give_words_or_as_released_the_first_alone(
    monkeypatch: pytest.MonkeyPatch, gathered: bool
) -> None:
    objective = made("moca", {"gather_words": gathered})
    own, other = torch.arange(4.0)[:, None], torch.arange(4.0, 8.0)[:, None]
    monkeypatch.setattr(distributed, "world", lambda: 2)
    monkeypatch.setattr(distributed, "gather", lambda rows: torch.cat([own, other]))
    words = objective.new_words(own, torch.tensor([6, 1, 5, 3, 0, 2, 4, 7]))
    assert words.flatten().tolist() == ([6, 1, 5, 3] if gathered else [1, 3])


def test_teacher_and_words_move_once_an_optimizer_step() -> None:
    objective = made("moca", recipe={"accumulate": 2})
    objective.host.vision.get_parameter("embeddings.class_embedding").data.add_(1.0)
    teacher = objective.teacher.model.get_parameter("embeddings.class_embedding").clone()
    objective(pairs(2), Moment(step=4))
    assert objective.codebook.pointer.item() == 0
    assert torch.equal(objective.teacher.model.get_parameter("embeddings.class_embedding"), teacher)
    objective(pairs(2), Moment(step=5))
    assert objective.codebook.pointer.item() == 4
    assert not torch.equal(objective.teacher.model.get_parameter("embeddings.class_embedding"), teacher)
