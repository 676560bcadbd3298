"""What tasks share: image tokens under a method, encoded once per image or once per image-text pair, and their traces.

Shapes: I images, T texts, N tokens an image keeps, D channels, n0 patches at the input, S samples, B of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from harness.data.image_store import ImageStore
from harness.evaluate.timing import Stopwatch, Throughput
from harness.evaluate.token_cache import TOKENS_BUDGET_BYTES, ImageTokens, in_first_order
from harness.hosts.host import TextBatch
from harness.hosts.parts.tokenizer import TextTokenizer
from harness.hosts.ready import Host
from harness.kit.distributed import batches, gather_objects, map_shared, own_share
from harness.kit.progress import Progress
from harness.objectives.parts.alignment import damage
from harness.reduction import PLAIN, TokenReducer, Tokens, Trace, drive, encode, join, reducing
from harness.reduction.plan import token_counts
from harness.reduction.scores import scores_watched

TRACED_PAIRS = 512


@dataclass
class VisionEncoder:
    """The images of a set seen through one method, in one process or in many that share the samples.

    Counts its encodings, those of all processes together: images without text, and image-text pairs.
    `tokens_budget`: bytes of image tokens that are kept, in each process. `unguided`: the share of their tokens that
    images kept which a text-guided method saw without a text, its mean; None where it saw none so.
    """

    host: Host
    reducer: TokenReducer[Any]
    images: ImageStore
    batch_size: int
    progress: Progress
    tokens_budget: int = TOKENS_BUDGET_BYTES
    # Whether NaN scores end the evaluation; a pass that is only timed sees the same images again, and no watch.
    watched: bool = True
    encoded_images: int = field(default=0, init=False)
    encoded_pairs: int = field(default=0, init=False)
    _blank: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        from harness.hosts.parts.towers import open_tower

        self.tower = open_tower(self.host.model.vision)
        shape = self.tower.shape
        self._widest = shape.prefix + shape.patches if self.reducer.adaptive else None
        # A text-guided method that keeps everything gives every pair the image's own tokens: no pair needs encoding.
        self.text_guided = self.reducer.needs_text and not keeps_all(self.reducer)
        self._watch = Stopwatch(self.host.device)
        self._encoded = [0, 0]
        self._left = torch.zeros(2, dtype=torch.float64)  # tokens, and how many there are with all of them
        self._tokens = ImageTokens(len(self.images), self.tokens_budget, self._widest)
        self._shown = torch.zeros(len(self.images), dtype=torch.bool)
        self._planned(torch.empty(0, dtype=torch.int64), 0)

    def show_blank(self) -> None:
        """Show the mean colour instead of every image: one blank image stands for all, and is encoded once."""
        self.images, self._blank = self.images.blank(), True
        self._tokens = ImageTokens(len(self.images), self.tokens_budget, self._widest)

    @property
    def unguided(self) -> float | None:
        left, whole = sum(gather_objects(self._left), start=torch.zeros(2, dtype=torch.float64)).tolist()
        return min(1.0, left / whole) if whole else None

    def map_shared(
        self,
        count: int,
        compute: Callable[[Tensor], Tensor],
        unit: str,
        *,
        images: Tensor | None = None,
        at_once: int | None = None,
    ) -> Tensor:
        """What `compute` makes of samples, (B, ...) a batch, for all of them: (S, ...), the same in every process.

        compute: takes the batch's samples, an index on the host's device. images: (S,) or (S, 2), the images that each
        sample shows, by which tokens and pixels are got ready ahead; where samples stand in the order of their images,
        no process encodes one twice, whatever the budget. at_once: samples of a batch, where not the encoder's.
        """
        size = at_once or self.batch_size
        if images is not None:
            self._planned(images[own_share(count)].flatten().cpu(), size * images[:1].numel())

        def timed(part: slice) -> Tensor:
            scores = scores_watched(self.reducer) if self.watched else nullcontext()
            with self._watch.model(), reducing(self.reducer), scores:
                return compute(torch.arange(part.start, part.stop, device=self.host.device))

        with self.images.reading():
            found = map_shared(count, size, timed, self.progress, unit)
        self._planned(torch.empty(0, dtype=torch.int64), 0)
        for images_encoded, pairs_encoded in gather_objects(tuple(self._encoded)):
            self.encoded_images += images_encoded
            self.encoded_pairs += pairs_encoded
        self._encoded = [0, 0]
        return found

    def tokens(self, index_B: Tensor, *, keep: bool = True) -> Tokens:
        """Tokens of images without a text, encoded once; `keep` false where they are not asked for again."""
        index_B = self._seen(index_B.cpu())
        while len(missing := self._tokens.missing(index_B)):
            batch = missing[: self.batch_size]
            batch = torch.cat([batch, self._ahead(batch, self.batch_size - len(batch))])
            encoded = encode(self.tower, self.reducer, self._pixels(batch))
            self._encoded[0] += len(batch)
            if self.text_guided and not self._watch.is_aside:
                standing = encoded.states.shape[1] if encoded.mask is None else (encoded.mask > 0.5).sum() / len(batch)
                shape = self.tower.shape
                whole = shape.prefix + shape.patches
                self._left += torch.tensor([float(standing), whole], dtype=torch.float64) * len(batch)
            self._tokens.add(batch, encoded, index_B, keep=keep)
        return self._tokens.take(index_B)

    def pair_tokens(self, index_B: Tensor, texts: TextBatch) -> Tokens:
        """Tokens of images, each reduced for its own text (B of them) where the method is text-guided."""
        if not self.text_guided:
            return self.tokens(index_B)
        pixels_BCHW = self._pixels(self._seen(index_B.cpu()))
        self._encoded[1] += len(index_B)
        return encode(self.tower, self.reducer, pixels_BCHW, self.host.model.guide(texts))

    def release(self) -> None:
        """Keep no tokens any more."""
        self._tokens = ImageTokens(len(self.images), 0, self._widest)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """What is done within is no part of the task: its seconds are counted apart."""
        with self._watch.aside():
            yield

    def throughput(self, unit: str, samples: int) -> Throughput:
        """What the samples took so far; of many processes, the slowest one's seconds of each kind."""
        watch, reading = self._watch, float(self.images.seconds[self._shown.numpy()].sum())
        own = watch.model_seconds, watch.pixel_seconds, reading, watch.aside_seconds
        return Throughput(unit, samples, *(max(seconds) for seconds in zip(*gather_objects(own), strict=True)))

    def mentioned(
        self, image_index: Tensor, texts: Texts | TextBatch, patches: Sequence[tuple[int, ...] | None]
    ) -> dict[str, Any]:
        """Shares of the patches a text mentions that live on, per block: in a token of their own, or in a merged one.

        Of a tower with a class token also how far what is left was turned from the unreduced tower's tokens of the same
        patches (`damage`). Measured over the first TRACED_PAIRS pairs whose text names patches; empty where none does.
        """
        chosen = [row for row, named in enumerate(patches) if named][:TRACED_PAIRS]
        if not chosen:
            return {}
        wanted = torch.zeros(len(chosen), self.tower.shape.patches, dtype=torch.bool, device=self.host.device)
        for row, source in enumerate(chosen):
            wanted[row, list(patches[source] or ())] = True
        rows = torch.tensor(chosen, device=self.host.device)
        images = image_index.cpu()[chosen]

        def shares(part: Tensor) -> Tensor:
            trace = Trace(origins_wanted=True)
            pixels_BCHW = self._pixels(self._seen(images[part.cpu()]))
            guide = self.host.model.guide(texts.rows(rows[part]))
            tokens = encode(self.tower, self.reducer, pixels_BCHW, guide, trace)
            share = (wanted[part] / wanted[part].sum(1, keepdim=True)).double()
            lives = [torch.stack(survival(origin)) for origin in trace.origins]
            found = (share * torch.stack(lives)).sum(-1).permute(2, 1, 0).flatten(1)
            return torch.cat([found, self._damage(tokens, pixels_BCHW)], dim=1)

        with self.aside():
            *lives, turned, first = self.map_shared(len(chosen), shares, "traces", images=images).mean(0).tolist()
        blocks = len(lives) // 2
        return {
            "mentioned_kept_per_block": [round(value, 6) for value in lives[:blocks]],
            "mentioned_merged_per_block": [round(value, 6) for value in lives[blocks:]],
            "mentioned_pairs": len(chosen),
        } | ({"token_damage": round(turned, 6), "class_token_damage": round(first, 6)} if turned == turned else {})

    def _damage(self, tokens: Tokens, pixels_BCHW: Tensor) -> Tensor:
        """`damage` of what is left of images, (B, 2); not a number for a tower without a class token."""
        if not self.tower.shape.class_token:
            return torch.full((len(tokens), 2), torch.nan, dtype=torch.float64, device=pixels_BCHW.device)
        dense = drive(self.tower, self.tower.open(pixels_BCHW), PLAIN)
        normed = tokens.with_states(self.tower.normed(tokens))
        return damage(normed, self.tower.normed(dense)).double()

    def _seen(self, index: Tensor) -> Tensor:
        """What is seen in the place of images: themselves, or the first of blank ones."""
        return torch.zeros_like(index) if self._blank else index

    def _planned(self, index: Tensor, reach: int) -> None:
        """Plan to show images in the order of an index; pixels of `reach` of them are got ready ahead."""
        self._plan, self._reach = in_first_order(self._seen(index)), reach
        self._place = torch.full((len(self.images),), len(self._plan))
        self._place[self._plan] = torch.arange(len(self._plan))

    def _ahead(self, index: Tensor, count: int) -> Tensor:
        """Of the `count` images that are planned after the last of some, those whose tokens are not there."""
        start = int(self._place[index].max()) + 1
        return self._tokens.missing(self._plan[start : start + count])

    def _pixels(self, index_B: Tensor) -> Tensor:
        """Pixels (B, C, H, W) on the device; those of the images that come next are got ready meanwhile."""
        different, place_B = index_B.unique(return_inverse=True)
        if not self._watch.is_aside:
            self._shown[different] = True
        with self._watch.pixels():
            pixels = self.images[different]
        self.images.prefetch(self._ahead(different, self._reach))
        return pixels.to(self.host.device, self.host.dtype)[place_B.to(self.host.device)]


def keeps_all(reducer: TokenReducer[Any]) -> bool:
    """Whether a method's setting keeps every token of every image; an adaptive one may always drop some."""
    if reducer.adaptive:
        return False
    counts, shape = token_counts(reducer), reducer.shape
    return min(counts.attention + counts.mlp) >= shape.prefix + shape.patches


def survival(origin: Tensor) -> tuple[Tensor, Tensor]:
    """From origin (B, n0): which patches have a token of their own, which share one with others; (B, n0) bool each."""
    held = torch.zeros(origin.shape[0], origin.shape[1], dtype=torch.int64, device=origin.device)
    lives = origin >= 0
    place = origin.clamp(min=0)
    held.scatter_add_(1, place, lives.long())
    company = held.gather(1, place)
    return lives & (company == 1), lives & (company > 1)


class Texts:
    """Texts as ids (T, L), whose states are made for a batch when asked for; `cut` of them were too long."""

    def __init__(self, host: Host, texts: Sequence[str], *, questions: bool = False) -> None:
        self.host, tokenizer = host, host.tokenizer
        before = tokenizer.truncated
        if questions and host.model.masked_questions and isinstance(tokenizer, TextTokenizer):
            ids, mask, _ = tokenizer.questions(texts)
        else:
            ids, mask = tokenizer(texts)
        self.ids, self.mask = ids.to(host.device), mask.to(host.device)
        self.cut = tokenizer.truncated - before

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, index_B: Tensor) -> TextBatch:
        """Some texts, cut to the longest of them; padding stands at the end."""
        mask_BL = self.mask[index_B]
        length = int(mask_BL.sum(1).max())
        return self.host.model.text_batch(self.ids[index_B, :length], mask_BL[:, :length])

    def tokens(self, part: slice | Tensor) -> Tokens:
        """Tokens of some texts at the length of the longest of all."""
        return self.host.model.encode_text(self.ids[part], self.mask[part])


def encode_texts(host: Host, texts: Sequence[str], batch_size: int) -> TextBatch:
    """Texts with what the text encoder leaves of them."""
    read = Texts(host, texts)
    return TextBatch(read.ids, read.mask, join([read.tokens(part) for part in batches(len(read), batch_size)]))
