"""Facts about the parts of objectives: which words are hidden, which negatives are drawn, what losses divide by."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from harness.hosts.parts.tokenizer import Specials
from harness.kit.errors import HarnessError
from harness.objectives.parts.objective import (
    IGNORED,
    WRONG_IMAGES,
    WRONG_TEXTS,
    Moment,
    distilled_targets,
    hard_negatives,
    mask_words,
    soft_contrast,
    soft_word_loss,
    word_loss,
)

MASK = 4
SPECIALS = Specials(pad=0, begin=2, end=3, mask=MASK, unknown=1)
VOCABULARY = 1000
MOMENT = Moment(seed=1, epoch=2, step=5)


def texts(count: int, words: int, padding: int = 0) -> tuple[Tensor, Tensor]:
    """ids (B, L) of "[CLS] words [SEP] padding", the words never special, and sample ids (B,)."""
    generator = torch.Generator().manual_seed(0)
    inner = torch.randint(5, VOCABULARY, (count, words), generator=generator)
    begin, end = torch.full((count, 1), 2), torch.full((count, 1), 3)
    ids = torch.cat([begin, inner, end, torch.zeros(count, padding, dtype=torch.long)], dim=1)
    return ids, torch.arange(count) * 31 - 7


def right(own: Tensor, columns: Tensor) -> Tensor:
    """Which columns are right where only a row's own is."""
    return own[:, None] == torch.arange(columns.shape[1])


def hidden(ids: Tensor, sample_ids: Tensor, moment: Moment = MOMENT) -> tuple[Tensor, Tensor]:
    return mask_words(ids, SPECIALS, sample_ids, moment, VOCABULARY)


def test_masks_do_not_depend_on_batch_order_padding_or_step() -> None:
    ids, samples = texts(12, 20)
    masked, labels = hidden(ids, samples)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(3))
    assert torch.equal(hidden(ids[order], samples[order])[0], masked[order])
    assert torch.equal(hidden(ids[4:5], samples[4:5])[1], labels[4:5])
    wide, wide_labels = hidden(F.pad(ids, (0, 9)), samples)
    assert torch.equal(wide, F.pad(masked, (0, 9)))
    assert torch.equal(wide_labels, F.pad(labels, (0, 9), value=IGNORED))
    assert torch.equal(hidden(ids, samples, Moment(seed=1, epoch=2, step=6, alpha=0.4))[0], masked)


def test_masks_depend_on_seed_epoch_and_sample() -> None:
    ids, samples = texts(12, 20)
    masked = hidden(ids, samples)[0]
    assert not torch.equal(hidden(ids, samples, Moment(seed=0, epoch=2))[0], masked)
    assert not torch.equal(hidden(ids, samples, Moment(seed=1, epoch=3))[0], masked)
    assert not torch.equal(hidden(ids, samples + 1)[0], masked)


def test_words_are_hidden_in_the_shares_of_bert() -> None:
    ids, samples = texts(2000, 50)
    masked, labels = hidden(ids, samples)
    chosen = labels != IGNORED
    assert (chosen.sum() / (2000 * 50)).item() == pytest.approx(0.15, abs=0.004)
    assert torch.equal(labels[chosen], ids[chosen])
    assert torch.equal(masked[~chosen], ids[~chosen])
    assert (masked[chosen] == MASK).float().mean().item() == pytest.approx(0.8, abs=0.01)
    assert (masked[chosen] == ids[chosen]).float().mean().item() == pytest.approx(0.1, abs=0.01)
    strange = masked[chosen & (masked != MASK) & (masked != ids)]
    assert len(strange) / chosen.sum().item() == pytest.approx(0.1, abs=0.01)
    assert strange.max() < VOCABULARY
    assert strange.float().mean().item() == pytest.approx(VOCABULARY / 2, rel=0.05)


def test_begin_end_and_padding_are_never_hidden() -> None:
    ids, samples = texts(500, 3, padding=10)
    labels = hidden(ids, samples)[1]
    special = torch.isin(ids, torch.tensor([0, 2, 3]))
    assert (labels[special] == IGNORED).all()
    assert (labels[~special] != IGNORED).any()


def test_a_vocabulary_without_a_mask_is_refused() -> None:
    ids, samples = texts(2, 3)
    with pytest.raises(HarnessError, match="the vocabulary has no mask token"):
        mask_words(ids, Specials(0, 2, 3, None, 1), samples, MOMENT, VOCABULARY)


def test_a_negative_is_never_the_pair_itself_however_alike_it_is() -> None:
    logits = torch.randn(64, 80, generator=torch.Generator().manual_seed(0)) + 1000 * torch.eye(64, 80)
    own = torch.arange(64)
    for step in range(50):
        drawn = hard_negatives(logits, right(own, logits), torch.arange(64), Moment(step=step), WRONG_TEXTS, floor=1e-4)
        assert (drawn != own).all()
        assert drawn.min() >= 0
        assert drawn.max() < 80


def test_harder_negatives_are_likelier() -> None:
    rows = 20_000
    logits = torch.tensor([5.0, 0.0, math.log(3), -math.inf]).expand(rows, 4)
    own = torch.zeros(rows, dtype=torch.long)
    drawn = hard_negatives(logits, right(own, logits), torch.arange(rows), MOMENT, WRONG_IMAGES)
    shares = torch.bincount(drawn, minlength=4) / rows
    torch.testing.assert_close(shares, torch.tensor([0.0, 0.25, 0.75, 0.0]), atol=0.01, rtol=0)


def test_where_the_softmax_leaves_nothing_any_other_is_drawn() -> None:
    logits = torch.tensor([0.0, -1e9, -1e9]).expand(3000, 3)
    drawn = hard_negatives(
        logits, right(torch.zeros(3000, dtype=torch.long), logits), torch.arange(3000), MOMENT, WRONG_TEXTS
    )
    assert torch.bincount(drawn, minlength=3)[0] == 0
    assert (drawn == 1).float().mean().item() == pytest.approx(0.5, abs=0.04)


def test_a_rows_negative_depends_on_its_sample_step_and_purpose_alone() -> None:
    logits, own, samples = torch.zeros(16, 16), torch.arange(16), torch.arange(16) + 100
    drawn = hard_negatives(logits, right(own, logits), samples, MOMENT, WRONG_TEXTS)
    one = [
        hard_negatives(logits[at : at + 1], right(own, logits)[at : at + 1], samples[at : at + 1], MOMENT, 3)
        for at in range(16)
    ]
    assert WRONG_TEXTS == 3
    assert torch.equal(torch.cat(one), drawn)
    assert not torch.equal(hard_negatives(logits, right(own, logits), samples, MOMENT, WRONG_IMAGES), drawn)
    assert not torch.equal(
        hard_negatives(logits, right(own, logits), samples, Moment(seed=1, step=6), WRONG_TEXTS), drawn
    )


def test_word_losses_are_means_over_the_hidden_words() -> None:
    logits = torch.randn(3, 5, 11, generator=torch.Generator().manual_seed(0))
    labels = torch.full((3, 5), IGNORED)
    labels[0, 1], labels[2, 3], labels[2, 4] = 4, 7, 0
    rows = torch.stack([logits[0, 1], logits[2, 3], logits[2, 4]])
    expected = F.cross_entropy(rows, torch.tensor([4, 7, 0]))
    torch.testing.assert_close(word_loss(logits, labels), expected)
    sharp = F.one_hot(labels.clamp(min=0), 11).float()
    torch.testing.assert_close(soft_word_loss(logits, sharp, labels), expected)
    smoothed = F.cross_entropy(rows, torch.tensor([4, 7, 0]), label_smoothing=0.1)
    torch.testing.assert_close(word_loss(logits, labels, 0.1), smoothed)


def test_a_batch_without_a_hidden_word_costs_nothing() -> None:
    labels = torch.full((2, 3), IGNORED)
    logits = torch.randn(2, 3, 7)
    assert word_loss(logits, labels) == 0
    assert soft_word_loss(logits, logits.softmax(-1), labels) == 0


def test_contrast_with_alpha_zero_is_cross_entropy_and_targets_sum_to_one() -> None:
    similarity = torch.randn(4, 9, generator=torch.Generator().manual_seed(0))
    own = torch.tensor([2, 0, 5, 8])
    torch.testing.assert_close(
        soft_contrast(similarity, distilled_targets(similarity, right(own, similarity), 0.0)),
        F.cross_entropy(similarity, own),
    )
    blended = distilled_targets(similarity, right(own, similarity), 0.4)
    torch.testing.assert_close(blended.sum(1), torch.ones(4))
    torch.testing.assert_close(blended[0, 2], 0.4 * similarity.softmax(1)[0, 2] + 0.6)
