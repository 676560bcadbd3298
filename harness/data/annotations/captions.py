"""Sets of captions: what a file says of its images, and the captions of those that are there."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from harness.data.annotations.findings import Findings, report_repeated
from harness.data.annotations.format import Format, Found, Source
from harness.data.annotations.listing import Listing
from harness.data.annotations.records import Caption, ImageTextSet
from harness.data.annotations.report import counted, phrases, spread
from harness.data.annotations.rows import Json, rows_with, shown, text_fault
from harness.data.annotations.source import first_images
from harness.kit.errors import HarnessError
from harness.kit.reading import read_json

# `pretrain`'s batch of albef-tiny; a smaller set needs a smaller one.


@dataclass(frozen=True)
class Said:
    """A caption before its image is found; `key` tells the image, `entry` numbers the pairs of pre-training."""

    key: Any
    id: int | str
    text: Any
    entry: int
    patches: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Described:
    """What a file says: images in its order, captions, the name of each image, and where that is in a listing."""

    order: Sequence[Any]
    said: Sequence[Said]
    name: Callable[[Any], str]
    locate: Callable[[Listing, Any], Path]


class CaptionFormat(Format):
    """A format of images with captions; its pairs can be pre-trained on."""

    fills: ClassVar[str] = "captions"
    noun: ClassVar[str] = "captions"

    @abstractmethod
    def described(self, source: Source, found: Found, splits: tuple[str, ...], findings: Findings) -> Described:
        """What the file, or some splits of it, say; captions are not looked at yet."""

    def read(
        self, source: Source, found: Found, splits: tuple[str, ...], findings: Findings, limit: int | None = None
    ) -> ImageTextSet:
        about = self.described(source, found, splits, findings)
        report_repeated(findings, "repeated caption ids", f"{found.path}: captions", (one.id for one in about.said))
        kept = [one for one in about.said if is_whole(found.path, one, findings)]
        described = {one.key for one in kept}
        for key in dict.fromkeys(about.order):
            if key not in described:
                findings.odd("images without captions, left out", f"{found.path}: image {shown(key)} has no caption")
        keys = (key for key in about.order if key in described)
        images = first_images(keys, limit, lambda key: about.locate(source.listing, key), findings)
        _report_twins(images, found.path, findings)
        by_key: dict[Any, list[Caption]] = {key: [] for key in images}
        for one in kept:
            if one.key in images:
                by_key[one.key].append(Caption(one.id, images[one.key], one.text.strip(), one.patches))
        if not by_key:
            findings.fault("sets without captions", f"{found.path}: holds no captions of images that are there")
        captions = tuple(caption for captions in by_key.values() for caption in captions)
        return ImageTextSet(tuple(dict.fromkeys(images.values())), captions=captions)

    def counts(self, data: ImageTextSet) -> list[str]:
        each = spread((one.image for one in data.captions), "captions")
        return [phrases(counted(len(data.captions), "caption"), each)]


def is_whole(path: Path, one: Said, findings: Findings) -> bool:
    """Whether a caption can be used; otherwise it is reported."""
    fault = text_fault(one.text)
    if fault is not None:
        findings.fault(f"{fault[0]} captions", f"{path}: caption {one.id} {fault[1]}; leave it out")
    return fault is None


def listed(path: Path) -> Described:
    """A list of image and caption, the caption one text or a list of them; an entry is a pair of pre-training."""
    said = list[Said]()
    for entry, row in enumerate(rows_with(path, read_json(path), {"image", "caption"})):
        texts = row["caption"] if isinstance(row["caption"], list) else [row["caption"]]
        if not texts:
            raise HarnessError(f"{path}: entry {entry} has an empty caption ([]); leave it out")
        said += [Said(str(row["image"]), len(said) + number, text, entry) for number, text in enumerate(texts)]
    return Described([one.key for one in said], said, str, lambda listing, key: listing.named(path, key))


def is_of_a_set(row: Json) -> bool:
    """Whether an entry is of a list for tasks: these have several captions, or the number of the image.

    Pre-training lists may hold lists of captions too; nothing tells them from a retrieval set's test split.
    """
    return isinstance(row["caption"], list) or "image_id" in row


def _report_twins(images: dict[Any, Path], path: Path, findings: Findings) -> None:
    """Report images that the file has under two ids, or two names: they become one."""
    first: dict[Path, Any] = {}
    for key, image in images.items():
        if image in first:
            line = f"{path}: {image.name} is image {shown(first[image])} and image {shown(key)}"
            findings.odd("images under two ids, read as one", line)
        first.setdefault(image, key)
