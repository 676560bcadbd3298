"""The losses of the curriculum beside the facts: contrast, matching, claims, masked words and answers.

Source: Li et al. 2021, arXiv 2107.07651, 3.2, without momentum distillation and queue.
Shapes: B images with one caption each, P shared space, L text tokens, D width, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.hosts.albef.model import Albef
from harness.hosts.parts.answers import IGNORED
from harness.hosts.parts.tokenizer import CLS, MASK, PAD, SEP
from harness.reduction import Tokens

TEMPERATURE_LOW, TEMPERATURE_HIGH = 0.01, 0.5


def contrast_loss(similarity_BB: Tensor, temperature: Tensor) -> Tensor:
    """Symmetric in-batch contrast; rows are images, columns their captions (equation 1 without momentum)."""
    logits = similarity_BB / temperature.clamp(TEMPERATURE_LOW, TEMPERATURE_HIGH)
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def hard_negatives(similarity_BB: Tensor, temperature: Tensor, generator: torch.Generator) -> Tensor:
    """For each row the index (B,) of another column, drawn in proportion to the contrast's own softmax."""
    logits = similarity_BB.detach() / temperature.detach().clamp(TEMPERATURE_LOW, TEMPERATURE_HIGH)
    own = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    weights = logits.masked_fill(own, -torch.inf).softmax(dim=1)
    return torch.multinomial(weights.cpu(), 1, generator=generator)[:, 0].to(logits.device)


def matching_pairs(similarity_BB: Tensor, temperature: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Which texts meet which images for the matching head: rows of texts (4B,) and rows of images (4B,).

    Texts are B captions followed by their B foils; rows of `similarity_BB` are images. A quarter each: image with its
    caption, with its foil, with a hard negative caption, and caption with any other image.
    """
    own = torch.arange(len(similarity_BB), device=similarity_BB.device)
    wrong_text = hard_negatives(similarity_BB, temperature, generator)
    shift = torch.randint(1, len(own), own.shape, generator=generator).to(own.device)
    return torch.cat([own, own + len(own), wrong_text, own]), torch.cat([own, own, own, (own + shift) % len(own)])


def matching_loss(model: Albef, fused: Tokens, text_rows_P: Tensor, image_rows_P: Tensor) -> Tensor:
    """Cross-entropy of the matching head on fused pairs; a pair matches where caption and image have one row."""
    return F.cross_entropy(model.match_logits(fused), (text_rows_P == image_rows_P).long())


def claim_loss(logits_P3: Tensor, claimed_P3: Tensor, facts_PK: Tensor) -> Tensor:
    """Binary cross-entropy of each clause's truth: does the fact it states (an index, or negative) hold of the image?

    It points the matching head to the clause that is wrong; without it the head stays at chance for long.
    """
    known = claimed_P3 >= 0
    truth = facts_PK.gather(1, claimed_P3.clamp(min=0)).to(logits_P3.dtype)
    loss = F.binary_cross_entropy_with_logits(logits_P3, truth, reduction="none")
    return (loss * known).sum() / known.sum().clamp(min=1)


def mask_words(ids_BL: Tensor, rate: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Hide words: ids with [MASK] at a share `rate` of the ordinary tokens, and the targets (B, L).

    Targets hold the hidden ids and IGNORED elsewhere. Unlike BERT's, hidden words are always replaced by [MASK].
    """
    drawn = (torch.rand(ids_BL.shape, generator=generator) < rate).to(ids_BL.device)
    hidden = drawn & (ids_BL != PAD) & (ids_BL != CLS) & (ids_BL != SEP)
    return ids_BL.masked_fill(hidden, MASK), ids_BL.masked_fill(~hidden, IGNORED)


def masked_word_loss(model: Albef, images: Tokens, ids_BL: Tensor, rate: float, generator: torch.Generator) -> Tensor:
    """Cross-entropy of the hidden words of the captions, read together with their images."""
    hidden_ids, target = mask_words(ids_BL, rate, generator)
    mask = ids_BL != PAD
    fused = model.fuse(model.encode_text(hidden_ids, mask), images)
    return F.cross_entropy(model.mlm_logits(fused.at_inputs()).flatten(0, 1), target.flatten(), ignore_index=IGNORED)


def answer_loss(
    model: Albef, images: Tokens, questions_BQL: Tensor, positions_BQ: Tensor, answers_BQ: Tensor
) -> Tensor:
    """Masked-word loss of the answers: Q questions (B, Q, L) per image, the answer hidden at `positions`."""
    each = questions_BQL.shape[1]
    ids = questions_BQL.flatten(0, 1)
    mask = ids != PAD
    fused = model.fuse(model.encode_text(ids, mask), images.repeated(each))
    rows = torch.arange(len(ids), device=ids.device)
    return F.cross_entropy(model.mlm_logits(fused.at_inputs()[rows, positions_BQ.flatten()]), answers_BQ.flatten())
