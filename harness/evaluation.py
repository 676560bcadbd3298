"""What tasks share: image tokens under a method, encoded once per image or once per image-text pair, and their traces.

Shapes: I images, T texts, N tokens an image keeps, D channels, n0 patches at the input.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from harness.hosts import Host
from harness.models.host import TextBatch
from harness.models.tokenizer import TextTokenizer
from harness.models.towers import open_tower
from harness.probe import token_counts
from harness.progress import Progress
from harness.reduction import TokenReducer, Trace, encode

TRACED_PAIRS = 512


def batches(count: int, size: int) -> Iterator[slice]:
    """Slices that cover range(count)."""
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


@dataclass
class VisionEncoder:
    """Images (I, C, H, W) seen through one method. Counts its encodings: images without text, and image-text pairs."""

    host: Host
    reducer: TokenReducer[Any]
    images: Tensor
    batch_size: int
    progress: Progress
    encoded_images: int = 0
    encoded_pairs: int = 0
    _states: Tensor | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.tower = open_tower(self.host.model.vision)
        full = self.tower.shape.prefix + self.tower.shape.patches
        counts = token_counts(self.reducer)
        # A text-guided method that keeps everything gives every pair the image's own tokens: no pair needs encoding.
        self.text_guided = self.reducer.needs_text and min(counts.attention + counts.mlp) < full

    def image_states(self) -> Tensor:
        """Tokens (I, N, D) of every image without a text, encoded once."""
        if self._states is None:
            done = []
            with self.progress.bar("images", len(self.images)) as bar:
                for part in batches(len(self.images), self.batch_size):
                    done.append(encode(self.tower, self.reducer, self._pixels(part)))
                    bar.advance(part.stop - part.start)
            self._states = torch.cat(done)
            self.encoded_images += len(self.images)
        return self._states

    def pair_states(self, image_index: Tensor, texts: TextBatch) -> Tensor:
        """Tokens (B, N, D) of images, each reduced for its own text (B of them) where the method is text-guided."""
        if not self.text_guided:
            return self.image_states()[image_index]
        self.encoded_pairs += len(image_index)
        return encode(self.tower, self.reducer, self._pixels(image_index), self.host.model.guide(texts))

    def mentioned(
        self, image_index: Tensor, texts: TextBatch, patches: Sequence[tuple[int, ...] | None]
    ) -> dict[str, Any]:
        """Shares of the patches a text mentions that live on, per block: in a token of their own, or in a merged one.

        Measured over the first TRACED_PAIRS pairs whose text names patches; empty where none does.
        """
        chosen = [row for row, named in enumerate(patches) if named][:TRACED_PAIRS]
        if not chosen:
            return {}
        wanted = torch.zeros(len(chosen), self.tower.shape.patches, dtype=torch.bool, device=self.host.device)
        for row, source in enumerate(chosen):
            wanted[row, list(patches[source] or ())] = True
        alone = torch.zeros(self.tower.shape.depth, dtype=torch.float64)
        merged = torch.zeros_like(alone)
        for part in batches(len(chosen), self.batch_size):
            rows = torch.tensor(chosen[part], device=self.host.device)
            trace = Trace(origins_wanted=True)
            encode(
                self.tower,
                self.reducer,
                self._pixels(image_index[rows]),
                self.host.model.guide(texts.rows(rows)),
                trace,
            )
            for block, origin in enumerate(trace.origins):
                own, shared = survival(origin)
                share = wanted[part] / wanted[part].sum(1, keepdim=True)
                alone[block] += float((share * own).sum())
                merged[block] += float((share * shared).sum())
        return {
            "mentioned_kept_per_block": [round(float(value) / len(chosen), 6) for value in alone],
            "mentioned_merged_per_block": [round(float(value) / len(chosen), 6) for value in merged],
            "mentioned_pairs": len(chosen),
        }

    def _pixels(self, which: slice | Tensor) -> Tensor:
        chosen = which if isinstance(which, slice) else which.to(self.images.device)
        return self.images[chosen].to(self.host.device, self.host.dtype)


def survival(origin: Tensor) -> tuple[Tensor, Tensor]:
    """From origin (B, n0): which patches have a token of their own, which share one with others; (B, n0) bool each."""
    held = torch.zeros(origin.shape[0], origin.shape[1], dtype=torch.int64, device=origin.device)
    lives = origin >= 0
    place = origin.clamp(min=0)
    held.scatter_add_(1, place, lives.long())
    company = held.gather(1, place)
    return lives & (company == 1), lives & (company > 1)


def encode_texts(host: Host, texts: Sequence[str], batch_size: int, *, questions: bool = False) -> TextBatch:
    """Captions, or questions as the host reads them, with their states."""
    tokenizer = host.tokenizer
    if questions and host.model.masked_questions and isinstance(tokenizer, TextTokenizer):
        ids, mask, _ = tokenizer.questions(texts)
    else:
        ids, mask = tokenizer(texts)
    ids, mask = ids.to(host.device), mask.to(host.device)
    states = [host.model.encode_text(ids[part], mask[part]) for part in batches(len(ids), batch_size)]
    return TextBatch(ids, mask, torch.cat(states))
