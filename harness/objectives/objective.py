"""A host in training: one forward from images and texts to losses, whatever the host.

Shapes: B pairs of this process, G of all processes, L text tokens, N image tokens, P shared space, V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Generic, Self, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.data.pair_loader import PairBatch
from harness.hosts.host import HostModel, TextBatch
from harness.hosts.parts.tokenizer import Specials, Tokenizer
from harness.hosts.parts.towers import open_tower
from harness.kit import ranks
from harness.kit.draws import categorical, uniform
from harness.kit.errors import HarnessError
from harness.objectives.recipe import Recipe
from harness.reduction import TokenReducer, Tokens, encode

IGNORED = -100
# Purposes of draws, so that no two of them share their numbers.
MASKS, MASK_KINDS, MASK_WORDS, WRONG_TEXTS, WRONG_IMAGES, MISMATCHES, FALSE_TEXTS = range(7)
Losses = dict[str, Tensor]
H = TypeVar("H", bound=HostModel)


@dataclass(frozen=True)
class Pairs:
    """Images (B, 3, H, W) with one caption each: ids (B, L), mask (B, L), and the samples' own numbers (B,) int64."""

    pixels: Tensor
    ids: Tensor
    mask: Tensor
    sample_ids: Tensor

    def to(self, device: torch.device, dtype: torch.dtype) -> Self:
        """The same on a device, numbers with fractions in `dtype`."""
        return _moved(self, device, dtype)


@dataclass(frozen=True)
class Moment:
    """Where training stands; `alpha` is the weight of the momentum model's soft targets."""

    seed: int = 0
    epoch: int = 0
    step: int = 0
    alpha: float = 0.0


class Objective(nn.Module, ABC, Generic[H]):
    """Base class: holds the host, the method in its vision tower, and what training alone needs.

    The recipe's `negatives` says whether wrong texts and images come from all processes (`global`) or from one's own
    (`local`, as in the released programs). Every loss is a mean over the global batch once data-parallel training has
    averaged it over processes.
    """

    def __init__(self, host: H, reducer: TokenReducer[Any], specials: Specials, recipe: Recipe) -> None:
        super().__init__()
        self.host, self.reducer, self.specials, self.recipe = host, reducer, specials, recipe
        self.everywhere = recipe.negatives == "global"

    def read(self, batch: PairBatch, tokenizer: Tokenizer) -> Pairs:
        """A loader's batch as `forward` takes it, on the CPU."""
        ids, mask = tokenizer(batch.captions)
        return Pairs(batch.pixels, ids, mask, batch.sample_ids)

    @abstractmethod
    def forward(self, pairs: Any, moment: Moment) -> Losses:
        """The losses of a batch by name; their sum is trained on."""

    def prepare(self) -> None:
        """Leave out of training what these losses never reach."""

    def encode_images(self, pixels: Tensor, texts: TextBatch) -> Tokens:
        """Tokens of images, each reduced for its own text."""
        return encode(open_tower(self.host.vision), self.reducer, pixels, self.host.guide(texts))

    def candidates(self, rows_B: Tensor, fill: float | int | None = None) -> Tensor:
        """The rows that negatives are drawn from: (G, …) or one's own; with `fill` padded to one width first."""
        if not self.everywhere:
            return rows_B
        wide = rows_B if fill is None else ranks.pad_to_widest(rows_B, fill)
        return ranks.gather_with_gradient(wide) if wide.is_floating_point() else ranks.gather(wide)

    def candidate_tokens(self, tokens: Tokens) -> Tokens:
        """The tokens that negatives are drawn from: of all processes, padded to one width, or one's own."""
        if not self.everywhere:
            return tokens
        if tokens.mask is None and not self.reducer.adaptive:
            return tokens.with_states(self.candidates(tokens.states))
        return Tokens(self.candidates(tokens.states, 0.0), self.candidates(tokens.standing, 0), prefix=tokens.prefix)

    def own(self, count: int, device: torch.device) -> Tensor:
        """Where one's own rows stand among the candidates, (B,)."""
        return ranks.own_rows(count, device) if self.everywhere else torch.arange(count, device=device)


def select_words(ids_BL: Tensor, specials: Specials, sample_ids_B: Tensor, moment: Moment, rate: float) -> Tensor:
    """Which words are hidden, (B, L): each ordinary token with probability `rate`."""
    drawn = uniform(sample_ids_B, ids_BL.shape[1], moment.seed, MASKS, moment.epoch)
    ordinary = torch.stack([ids_BL != token for token in specials.never_masked]).all(0)
    return (drawn < rate) & ordinary


def mask_words(
    ids_BL: Tensor, specials: Specials, sample_ids_B: Tensor, moment: Moment, vocabulary: int, rate: float = 0.15
) -> tuple[Tensor, Tensor]:
    """BERT's masking: of the chosen words 80 % become [MASK], 10 % any word, 10 % stay; ids and labels (B, L).

    Labels hold the chosen words and IGNORED elsewhere. The draw depends on seed, epoch and sample alone.
    """
    if specials.mask is None:
        raise HarnessError("the vocabulary has no mask token: words cannot be hidden")
    length = ids_BL.shape[1]
    hidden = select_words(ids_BL, specials, sample_ids_B, moment, rate)
    how = uniform(sample_ids_B, length, moment.seed, MASK_KINDS, moment.epoch)
    word = (uniform(sample_ids_B, length, moment.seed, MASK_WORDS, moment.epoch) * vocabulary).long()
    masked = torch.where(hidden & (how < 0.8), specials.mask, ids_BL)
    masked = torch.where(hidden & (how >= 0.9), word, masked)
    return masked, ids_BL.masked_fill(~hidden, IGNORED)


def word_loss(logits_BLV: Tensor, labels_BL: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of the labelled words, divided by their number over all processes."""
    total = F.cross_entropy(
        logits_BLV.flatten(0, 1), labels_BL.flatten(), ignore_index=IGNORED, reduction="sum", label_smoothing=smoothing
    )
    return ranks.global_mean(total, (labels_BL != IGNORED).sum())


def soft_word_loss(logits_BLV: Tensor, targets_BLV: Tensor, labels_BL: Tensor) -> Tensor:
    """Cross-entropy against soft targets (probabilities) at the labelled words."""
    each = -(logits_BLV.log_softmax(-1) * targets_BLV).sum(-1)
    chosen = labels_BL != IGNORED
    return ranks.global_mean((each * chosen).sum(), chosen.sum())


def soft_contrast(logits_BC: Tensor, targets_BC: Tensor) -> Tensor:
    """Mean cross-entropy of rows against soft targets."""
    return -(logits_BC.log_softmax(dim=1) * targets_BC).sum(dim=1).mean()


def distilled_targets(similarity_BC: Tensor, right_BC: Tensor, alpha: float) -> Tensor:
    """alpha * softmax(momentum similarity) + (1 - alpha) * the right columns of each row, in equal shares."""
    right = right_BC.to(similarity_BC.dtype)
    return alpha * similarity_BC.softmax(dim=1) + (1 - alpha) * right / right.sum(dim=1, keepdim=True)


def hard_negatives(
    logits_BC: Tensor, right_BC: Tensor, sample_ids_B: Tensor, moment: Moment, purpose: int, floor: float = 0.0
) -> Tensor:
    """For each row a column (B,) that is not right, drawn in proportion to softmax(logits) + `floor`.

    Where the softmax leaves nothing to the wrong ones, any of them will do; where none is wrong, any column.
    """
    weights = (logits_BC.detach().softmax(dim=1) + floor).masked_fill(right_BC, 0)
    for others in (~right_BC, torch.ones_like(right_BC)):
        weights = torch.where(weights.sum(1, keepdim=True) > 0, weights, others.to(weights.dtype))
    return categorical(weights, uniform(sample_ids_B, 1, moment.seed, purpose, moment.step)[:, 0])


def _moved(value: Any, device: torch.device, dtype: torch.dtype) -> Any:
    if isinstance(value, Tensor):
        return value.to(device, dtype if value.is_floating_point() else None, non_blocking=True)
    if is_dataclass(value) and not isinstance(value, type):
        moved = {field.name: _moved(getattr(value, field.name), device, dtype) for field in fields(value)}
        return replace(value, **moved)
    return value
