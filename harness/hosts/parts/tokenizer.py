"""Text to token ids: BERT's WordPiece with the vocabulary that ships with a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from harness.kit.errors import HarnessError
from harness.kit.files import write_atomically
from harness.kit.reading import read_json, read_text

PAD, UNKNOWN, CLS, SEP, MASK = range(5)
VOCABULARY_FILE = "vocab.txt"
TOKENIZER_FOLDER = "tokenizer"
HUB_FILE = "tokenizer_config.json"
# What transformers reads of a tokenizer's folder; each is looked at before it does.
HUB_JSON = (HUB_FILE, "tokenizer.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "config.json")
VOCABULARY_LIMIT_BYTES = 2**28
SPECIAL_WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@dataclass(frozen=True)
class Specials:
    """Ids of a vocabulary's special tokens: padding, begin, end, mask (None: there is none) and the unknown word."""

    pad: int
    begin: int
    end: int
    mask: int | None
    unknown: int

    @property
    def never_masked(self) -> tuple[int, ...]:
        """Tokens that masking leaves alone."""
        return (self.pad, self.begin, self.end)


class TextTokenizer:
    """Texts as padded batches of token ids; the vocabulary holds BERT's special tokens.

    Padding is at the end, up to the longest text of the batch; longer texts than `max_length` tokens lose their
    end, the closing [SEP] (and a question's [MASK]) excepted; `truncated` counts them.
    """

    def __init__(self, vocab_file: Path, max_length: int) -> None:
        words = read_text(vocab_file, VOCABULARY_LIMIT_BYTES).rstrip("\n").split("\n")
        self.rows = words  # of words that stand twice the last row counts
        self.vocabulary = {word: index for index, word in enumerate(words)}
        lacking = [word for word in SPECIAL_WORDS if word not in self.vocabulary]
        if lacking:
            raise HarnessError(f"vocabulary {vocab_file}: not BERT's, it lacks {' '.join(lacking)}")
        pad, unknown, begin, end, mask = (self.vocabulary[word] for word in SPECIAL_WORDS)
        self.specials = Specials(pad, begin, end, mask, unknown)
        self.max_length = max_length
        self.truncated = 0
        from transformers import BertTokenizer  # it takes a second to import

        self._bert = BertTokenizer(vocab=dict(self.vocabulary))

    @property
    def words_known(self) -> int:
        """How many rows of a table its ids reach."""
        return len(self.rows)

    def words(self, texts: Sequence[str]) -> list[list[int]]:
        """Word-piece ids of each text, without special tokens."""
        pieces: list[list[int]] = self._bert(list(texts), add_special_tokens=False)["input_ids"] if texts else []
        return pieces

    def __call__(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """ids (B, L) int64 and mask (B, L) bool of "[CLS] text [SEP]"."""
        limit = self.max_length - 2
        begin, end = self.specials.begin, self.specials.end
        pieces = self.words(texts)
        self.truncated += sum(len(row) > limit for row in pieces)
        return _padded([[begin, *row[:limit], end] for row in pieces], self.specials.pad)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids up to the one that ends it, without special tokens or spaces before punctuation."""
        return _decoded(self._bert, ids, self.specials.end)

    def save(self, folder: Path) -> None:
        """Write the vocabulary to folder/vocab.txt."""
        write_atomically(folder / VOCABULARY_FILE, "".join(f"{word}\n" for word in self.rows).encode())

    def questions(self, texts: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        """ids (B, L), mask (B, L) of "[CLS] question [MASK] [SEP]", and the position (B,) of each [MASK]."""
        limit = self.max_length - 3
        begin, end, mask = self.specials.begin, self.specials.end, self.vocabulary["[MASK]"]
        rows = [[begin, *pieces[:limit], mask, end] for pieces in self.words(texts)]
        ids_BL, mask_BL = _padded(rows, self.specials.pad)
        return ids_BL, mask_BL, torch.tensor([len(row) - 2 for row in rows], dtype=torch.int64)

    def answer_ids(self, answers: Sequence[str]) -> Tensor:
        """Token id (A,) of each answer, which must be one word of the vocabulary."""
        for answer in answers:
            if answer not in self.vocabulary:
                raise HarnessError(f"answer {answer!r}: expected one word of the model's vocabulary")
        return torch.tensor([self.vocabulary[answer] for answer in answers], dtype=torch.int64)


def _padded(rows: list[list[int]], pad: int) -> tuple[Tensor, Tensor]:
    """ids (B, L) and mask (B, L) by the texts' lengths: CLIP's padding has the id of the token that ends a text."""
    length = max((len(row) for row in rows), default=0)
    ids_BL = torch.tensor([row + [pad] * (length - len(row)) for row in rows], dtype=torch.int64)
    lengths_B1 = torch.tensor([len(row) for row in rows], dtype=torch.int64).view(-1, 1)
    return ids_BL.view(len(rows), length), torch.arange(length) < lengths_B1


def _decoded(inner: Any, ids: Sequence[int], end: int) -> str:
    """What transformers decodes from the ids before the first `end`.

    "a man ' s hat ." becomes "a man's hat.", as with the release of transformers that the released captioners used.
    """
    words = list(ids)
    place = words.index(end) if end in words else len(words)
    text: str = inner.decode(words[:place], skip_special_tokens=True, clean_up_tokenization_spaces=True)
    return text.strip()


class Tokenizer(Protocol):
    """Texts to padded ids (B, L) and mask (B, L), at most `max_length` tokens, `truncated` of them so far cut."""

    specials: Specials
    max_length: int
    truncated: int

    @property
    def words_known(self) -> int:
        """How many rows of a table its ids reach."""
        ...

    def __call__(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]: ...
    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids up to the one that ends it."""

    def save(self, folder: Path) -> None:
        """Write what `open_tokenizer` needs to a folder."""


class HubTokenizer:
    """A tokenizer of transformers (RoBERTa's, CLIP's), from a folder or the Hugging Face cache; never the network."""

    def __init__(self, source: str, max_length: int) -> None:
        from transformers import AutoTokenizer

        for path in (Path(source) / name for name in HUB_JSON if (Path(source) / name).exists()):
            if not isinstance(read_json(path, VOCABULARY_LIMIT_BYTES), dict):
                raise HarnessError(f"tokenizer {path}: holds no JSON object; save the tokenizer there again")
        try:
            with _errors_alone():
                self._inner = AutoTokenizer.from_pretrained(source, local_files_only=True, trust_remote_code=False)
        except Exception as error:  # a stranger's files: those of tokenizers itself are bare Exceptions
            if Path(source).is_dir():
                reason = (str(error) or type(error).__name__).splitlines()[0]
                if "custom code" in reason:  # transformers' words say how to run it
                    reason = "it needs code that comes with it, which is never run"
                raise HarnessError(
                    f"tokenizer {source}: this folder holds none that can be read ({reason}); save it there again"
                ) from error
            raise HarnessError(
                f"tokenizer {source}: not in the Hugging Face cache; run `hf download {source}` where there is a "
                "network, or name its folder with --tokenizer"
            ) from error
        inner = self._inner
        begin = inner.bos_token_id if inner.cls_token_id is None else inner.cls_token_id
        end = inner.eos_token_id if inner.sep_token_id is None else inner.sep_token_id
        ids = {"padding": inner.pad_token_id, "begin": begin, "end": end, "unknown word": inner.unk_token_id}
        lacking = [kind for kind, number in ids.items() if number is None]
        if lacking:
            raise HarnessError(f"tokenizer {source}: has no token for {', '.join(lacking)}; name another")
        self.specials = Specials(inner.pad_token_id, begin, end, inner.mask_token_id, inner.unk_token_id)
        self.max_length, self.truncated = max_length, 0

    @property
    def words_known(self) -> int:
        """How many rows of a table its ids reach."""
        return max(self._inner.get_vocab().values()) + 1

    def __call__(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """ids (B, L) int64 and mask (B, L) bool with the tokenizer's own special tokens."""
        rows: list[list[int]] = self._inner(list(texts))["input_ids"] if texts else []
        self.truncated += sum(len(row) > self.max_length for row in rows)
        cut = [row if len(row) <= self.max_length else [*row[: self.max_length - 1], row[-1]] for row in rows]
        return _padded(cut, self.specials.pad)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids up to the one that ends it, without special tokens or spaces before punctuation."""
        return _decoded(self._inner, ids, self.specials.end)

    def save(self, folder: Path) -> None:
        """Write the tokenizer's files to folder/tokenizer."""
        self._inner.save_pretrained(folder / TOKENIZER_FOLDER)


@contextmanager
def _errors_alone() -> Iterator[None]:
    """Without what transformers remarks on a folder that is then refused, or read as it should be."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def unknown_share(tokenizer: Tokenizer, texts: Sequence[str]) -> float | None:
    """The share of the words of texts that a vocabulary does not hold or can but spell letter by letter, 0..1; None for
    no texts, and for tokenizers of bytes.
    """
    if not isinstance(tokenizer, TextTokenizer):
        return None
    names = {number: word for word, number in tokenizer.vocabulary.items()}
    words: list[list[str]] = []
    for row in tokenizer.words(texts):
        for piece in row:
            name = names[piece]
            if name.startswith("##") and words:
                words[-1].append(name.removeprefix("##"))
            else:
                words.append([name])
    nothing = names[tokenizer.specials.unknown]
    unknown = [word for word in words if nothing in word or (len(word) > 1 and all(len(part) == 1 for part in word))]
    return len(unknown) / len(words) if words else None


class MissingTokenizer:
    """In place of one that could not be opened: says why when a text is to be read."""

    truncated = 0

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise HarnessError(self.reason)

    def __call__(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        raise HarnessError(self.reason)

    def decode(self, ids: Sequence[int]) -> str:
        raise HarnessError(self.reason)

    def save(self, folder: Path) -> None:
        raise HarnessError(self.reason)


def holds_tokenizer(folder: Path) -> bool:
    """Whether a folder of weights has a tokenizer: ours, one in tokenizer/, or transformers' files beside them."""
    return (folder / VOCABULARY_FILE).is_file() or _hub_folder(folder) is not None


def _hub_folder(folder: Path) -> Path | None:
    return next((place for place in (folder / TOKENIZER_FOLDER, folder) if (place / HUB_FILE).is_file()), None)


def open_tokenizer(hub_name: str | None, vocab_file: Path, max_length: int, chosen: str | None = None) -> Tokenizer:
    """The tokenizer `chosen` (a vocabulary file, a folder or a cached name), else that of the weights, else the host's.

    The weights' own is `vocab_file`, or transformers' files in tokenizer/ or beside it; the host's is `hub_name`.
    """
    if chosen is not None and Path(chosen).exists() and not Path(chosen).is_dir():
        return TextTokenizer(Path(chosen), max_length)
    if chosen is not None:
        return HubTokenizer(chosen, max_length)
    if vocab_file.is_file():
        return TextTokenizer(vocab_file, max_length)
    beside = _hub_folder(vocab_file.parent)
    source = hub_name if beside is None else str(beside)
    if source is not None:
        return HubTokenizer(source, max_length)
    raise HarnessError(f"no vocabulary at {vocab_file}: name one with --tokenizer")
