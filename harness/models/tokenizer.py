"""Text to token ids: BERT's WordPiece with the vocabulary that ships with a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import BertTokenizer

from harness.errors import HarnessError

PAD, UNKNOWN, CLS, SEP, MASK = range(5)
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


class TextTokenizer:
    """Texts as padded batches of token ids; the vocabulary's first five tokens are BERT's special ones.

    Padding is at the end, up to the longest text of the batch; longer texts than `max_length` tokens lose their
    end, the closing [SEP] (and a question's [MASK]) excepted.
    """

    def __init__(self, vocab_file: Path, max_length: int) -> None:
        try:
            words = vocab_file.read_text(encoding="utf-8").split()
        except OSError as error:
            raise HarnessError(f"vocabulary {vocab_file}: cannot be read ({error.strerror})") from error
        if tuple(words[:5]) != _SPECIAL:
            raise HarnessError(f"vocabulary {vocab_file}: expected it to begin with {' '.join(_SPECIAL)}")
        self.max_length = max_length
        self.vocabulary = {word: index for index, word in enumerate(words)}
        self._bert = BertTokenizer(vocab=dict(self.vocabulary))

    def words(self, texts: Sequence[str]) -> list[list[int]]:
        """Word-piece ids of each text, without special tokens."""
        pieces: list[list[int]] = self._bert(list(texts), add_special_tokens=False)["input_ids"]
        return pieces

    def __call__(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """ids (B, L) int64 and mask (B, L) bool of "[CLS] text [SEP]"."""
        limit = self.max_length - 2
        return _padded([[CLS, *pieces[:limit], SEP] for pieces in self.words(texts)])

    def questions(self, texts: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        """ids (B, L), mask (B, L) of "[CLS] question [MASK] [SEP]", and the position (B,) of each [MASK]."""
        limit = self.max_length - 3
        rows = [[CLS, *pieces[:limit], MASK, SEP] for pieces in self.words(texts)]
        ids_BL, mask_BL = _padded(rows)
        return ids_BL, mask_BL, torch.tensor([len(row) - 2 for row in rows], dtype=torch.int64)

    def answer_ids(self, answers: Sequence[str]) -> Tensor:
        """Token id (A,) of each answer, which must be one word of the vocabulary."""
        for answer in answers:
            if answer not in self.vocabulary:
                raise HarnessError(f"answer {answer!r}: expected one word of the model's vocabulary")
        return torch.tensor([self.vocabulary[answer] for answer in answers], dtype=torch.int64)


def _padded(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    length = max((len(row) for row in rows), default=0)
    ids_BL = torch.tensor([row + [PAD] * (length - len(row)) for row in rows], dtype=torch.int64)
    return ids_BL.view(len(rows), length), (ids_BL != PAD).view(len(rows), length)
