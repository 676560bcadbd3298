"""What ALBEF adds to fine-tune: an answer decoder, a head of classes, and fusion layers in pairs for two images.

Facts from the released program: models/model_vqa.py, model_ve.py, model_nlvr.py.
Shapes: B questions, A answers of a closed list, K candidates among them, R answers to be said, L tokens of each,
M states that the decoder reads, D width, V vocabulary.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.hosts.parts.answers import CANDIDATES, labels_of, rank_answers, token_losses
from harness.hosts.parts.bert import TextEmbeddings, word_transform
from harness.hosts.parts.text_stacks import BertStack, through
from harness.reduction import Tokens

State = dict[str, Tensor]
# Patterns of a host's own names.
LAYER = re.compile(r"fusion\.(\d+)\.(.+)")
# The projections that the two cross-attentions of a pair share: the second layer's tensors that no state holds.
SHARED = re.compile(r"crossattention\.self\.(key|value)\..+")
# What the decoder starts from, and where it goes.
DECODER_SOURCES = {
    r"embeddings\.(.+)": r"decoder.embeddings.\1",
    r"fusion\.(.+)": r"decoder.layers.\1",
    r"mlm_transform\.(.+)": r"decoder.transform.\1",
    r"mlm_bias": r"decoder.bias",
}


class AnswerDecoder(nn.Module):
    """BERT layers that look back only and read a question's states; the word head is tied to their own word table."""

    def __init__(self, embeddings: TextEmbeddings, layers: nn.ModuleList, eps: float) -> None:
        super().__init__()
        self.embeddings = embeddings
        self.layers = layers
        self.transform = word_transform(embeddings.words.embedding_dim, eps)
        self.bias = nn.Parameter(embeddings.words.weight.new_zeros(embeddings.words.num_embeddings))

    def forward(self, ids_RL: Tensor, mask_RL: Tensor, read: Tokens) -> Tensor:
        """Logits (R, L, V) of the word behind each token of ids (R, L), given R questions' tokens."""
        stack = BertStack(self.layers, "decoder", read=(read,), causal=True)
        decoded = through(stack, Tokens(self.embeddings(ids_RL), mask_RL.bool()))
        return F.linear(self.transform(decoded.states), self.embeddings.words.weight, self.bias)

    def scores(
        self,
        questions: Tokens,
        answers: tuple[Tensor, Tensor],
        candidates: int = CANDIDATES,
    ) -> Tensor:
        """Score (B, A) of each answer, ids and mask (A, L), to B questions; -inf for all but `candidates`.

        The released `rank_answer` (models/model_vqa.py) adds the log-probability of the candidate's first word to that
        of all its words, so the first counts twice.
        """
        ids_AL, mask_AL = answers
        opening_B1 = ids_AL[:1, :1].expand(len(questions), 1)
        first_BV = self(opening_B1, torch.ones_like(opening_B1), questions)[:, 0]

        def losses_of(chosen_BK: Tensor) -> Tensor:
            each = chosen_BK.shape[1]
            ids, mask = ids_AL[chosen_BK].flatten(0, 1), mask_AL[chosen_BK].flatten(0, 1)
            logits = self(ids, mask, questions.repeated(each))
            losses = token_losses(logits, labels_of(ids, mask))
            return (losses.sum(1) + losses[:, 0]).view(-1, each)

        return rank_answers(first_BV, losses_of, ids_AL, candidates)


def classifier(width: int, classes: int) -> nn.Sequential:
    """ALBEF's head of classes: Linear, ReLU, Linear."""
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, classes))


def share_keys_and_values(layers: nn.ModuleList) -> None:
    """Let every second layer's cross-attention take keys and values through the projections of the one before it."""
    neighbours: list[Any] = list(layers)
    for first, second in zip(neighbours[::2], neighbours[1::2], strict=True):
        lender, borrower = first.crossattention.self, second.crossattention.self
        for name in ("key", "value"):
            delattr(borrower, name)
            # Not registered: a projection has one owner, hence one name in parameters and files, and copies stay tied.
            borrower.__dict__[name] = getattr(lender, name)


def adapted(state: State, task: str | None, fusion_layers: int) -> State:
    """A state before fine-tuning, of so many fusion layers, with the tensors of a task's heads that start from others.

    A decoder starts as the fusion half of the encoder, its words and its head for masked words (released VQA.py). Of a
    pair of fusion layers both start as the pre-trained one (released Pretrain_nlvr.py). What was fine-tuned for the
    same task before comes back as it is.
    """
    if task == "vqa" and not any(name.startswith("decoder.") for name in state):
        return state | _decoder_start(state)
    if task == "nlvr2" and not any(name.startswith(f"fusion.{fusion_layers}.") for name in state):
        return _in_pairs(state)
    return state


def _decoder_start(state: State) -> State:
    return {
        found.expand(there): tensor
        for name, tensor in state.items()
        for here, there in DECODER_SOURCES.items()
        if (found := re.fullmatch(here, name))
    }


def _in_pairs(state: State) -> State:
    """Fusion layer k becomes layers 2k, which reads the first image, and 2k + 1."""
    paired: State = {}
    for name, tensor in state.items():
        layer = LAYER.fullmatch(name)
        if layer is None:
            paired[name] = tensor
            continue
        first = 2 * int(layer[1])
        paired[f"fusion.{first}.{layer[2]}"] = tensor
        if not SHARED.fullmatch(layer[2]):
            paired[f"fusion.{first + 1}.{layer[2]}"] = tensor
    return paired
