"""Images with captions: COCO, Karpathy's splits, Flickr30k Entities, and ALBEF's and BLIP's lists."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.data.formats.files import Json, read_json, rows_with, text_lines
from harness.data.formats.findings import Findings, report_repeated
from harness.data.formats.kinds import Found, Kind
from harness.data.formats.records import Caption, ImageTextSet
from harness.data.formats.source import Source, first_images, words

_MARK = re.compile(r"\[/EN#\S+ ([^\]]*)\]")
KINDS = (Kind.COCO_CAPTIONS, Kind.KARPATHY, Kind.ENTITIES, Kind.CAPTION_LIST)
# Read where there is nothing better: they were made for other uses.
SECOND_KINDS = (Kind.PAIRS, Kind.CAPTION_REFERENCES)


@dataclass
class _Said:
    """A caption before its image is found; `key` tells the image from the others of the set."""

    key: Any
    id: int | str
    text: str
    patches: tuple[int, ...] | None = None


def load_captions(folder: Path | str, limit: int | None = None, split: str | None = None) -> ImageTextSet:
    """The captions of a folder, or file; `limit` keeps the first images that have captions.

    `split` chooses among files, and within Karpathy's; train+restval is what is trained on. None: test, or else val,
    dev, train. Raises HarnessError, one line, for a folder without captions, malformed files, captions that are empty
    or of images that the file does not list, repeated ids, and missing images.
    """
    return read_captions(Source(folder), Findings(), limit, split)


def read_captions(
    source: Source, findings: Findings, limit: int | None = None, split: str | None = None
) -> ImageTextSet:
    """`load_captions`, with what is wrong told to `findings`."""
    found, splits = choose_captions(source, split)
    order, said, locate = _READERS[found.kind](source, found, splits, findings)
    report_repeated(findings, "repeated caption ids", f"{found.path}: captions", (one.id for one in said))
    kept = []
    for one in said:
        if one.text:
            kept.append(one)
        else:
            findings.fault("empty captions", f"{found.path}: caption {one.id} is empty or no text; leave it out")
    described = {one.key for one in kept}
    for key in dict.fromkeys(order):
        if key not in described:
            findings.odd("images without captions, left out", f"{found.path}: image {key} has no caption")
    images = first_images((key for key in order if key in described), limit, locate, findings)
    by_key: dict[Any, list[Caption]] = {key: [] for key in images}
    for one in kept:
        if one.key in images:
            by_key[one.key].append(Caption(one.id, images[one.key], one.text, one.patches))
    if not by_key:
        findings.fault("sets without captions", f"{found.path}: holds no captions of images that are there")
    captions = tuple(caption for captions in by_key.values() for caption in captions)
    return ImageTextSet(tuple(dict.fromkeys(images.values())), captions=captions)


def choose_captions(source: Source, split: str | None) -> tuple[Found, tuple[str, ...]]:
    """The file that captions are read from, and the splits of it."""
    candidates = source.of(*KINDS) or source.of(*SECOND_KINDS)
    if source.file is not None:
        candidates = source.of(*KINDS, *SECOND_KINDS)
    return source.choose(candidates, "captions", KINDS, split)


def patches_of(row: Json) -> tuple[int, ...] | None:
    """The patches that a caption or a question of the built-in world speaks of."""
    return tuple(row["patches"]) if "patches" in row else None


_Read = tuple[Sequence[Any], list[_Said], Callable[[Any], Path]]


def _coco(source: Source, found: Found, splits: tuple[str, ...], findings: Findings) -> _Read:
    path, content = found.path, read_json(found.path)
    listed = rows_with(path, content["images"], {"id", "file_name"})
    report_repeated(findings, "repeated image ids", f"{path}: images", (row["id"] for row in listed))
    names = {row["id"]: str(row["file_name"]) for row in listed}
    said = []
    for number, row in enumerate(rows_with(path, content["annotations"], {"image_id", "caption"})):
        key, name = row["image_id"], row.get("id", number)
        if key in names:
            said.append(_Said(key, name, words(row["caption"]), patches_of(row)))
        else:
            line = f"{path}: caption {name} is of image {key}, which the file lacks; add the image or drop the caption"
            findings.fault("captions of unknown images", line)
    return list(names), said, lambda key: source.listing.named(path, names[key])


def _karpathy(source: Source, found: Found, splits: tuple[str, ...], findings: Findings) -> _Read:
    path = found.path
    rows = rows_with(path, read_json(path)["images"], {"filename", "sentences"} | ({"split"} if splits else set()))
    names, said = {}, []
    for key, row in enumerate(rows):
        if splits and row["split"] not in splits:
            continue
        names[key] = str(Path(str(row.get("filepath", "")), str(row["filename"])))
        for number, sentence in enumerate(rows_with(path, row["sentences"], {"raw"})):
            said.append(_Said(key, sentence.get("sentid", f"{row['filename']}#{number}"), words(sentence["raw"])))
    return list(names), said, lambda key: source.listing.named(path, names[key])


def _entities(source: Source, found: Found, splits: tuple[str, ...], findings: Findings) -> _Read:
    lists = [one.path for one in source.of(Kind.SPLIT_LIST) if set(one.splits) & set(splits)]
    listed = [line for path in lists for line in text_lines(path)]
    files = {path.stem: path for path in source.listing.others if path.parent == found.path and path.suffix == ".txt"}
    for path in [one.path for one in source.of(Kind.SPLIT_LIST)]:
        files.pop(path.stem, None)
    ids = [path.stem for path in files.values()] if not splits else listed
    said = []
    for one in ids:
        if one in files:
            lines = text_lines(files[one])
            said += [_Said(one, f"{one}#{number}", _unmarked(line)) for number, line in enumerate(lines)]
        else:
            line = f"{found.path}: has no {one}.txt, which the list of the split names; fetch it or shorten the list"
            findings.fault("images of the split without sentences", line)
    return ids, said, lambda key: source.listing.named(found.path, f"{key}.jpg")


def _list(source: Source, found: Found, splits: tuple[str, ...], findings: Findings) -> _Read:
    path, said = found.path, list[_Said]()
    for row in rows_with(path, read_json(path), {"image", "caption"}):
        texts = row["caption"] if isinstance(row["caption"], list) else [row["caption"]]
        said += [_Said(str(row["image"]), len(said) + number, words(text)) for number, text in enumerate(texts)]
    return [one.key for one in said], said, lambda key: source.listing.named(path, key)


def _references(source: Source, found: Found, splits: tuple[str, ...], findings: Findings) -> _Read:
    path = found.path
    rows = rows_with(path, read_json(path)["annotations"], {"image_id", "caption"})
    said = [_Said(row["image_id"], row.get("id", number), words(row["caption"])) for number, row in enumerate(rows)]
    return [one.key for one in said], said, lambda key: source.listing.numbered(path, key, None)


def _unmarked(line: str) -> str:
    """A sentence without the marks of its phrases: [/EN#221796/people A girl] sits -> A girl sits."""
    return _MARK.sub(r"\1", line)


_READERS: dict[Kind, Callable[[Source, Found, tuple[str, ...], Findings], _Read]] = {
    Kind.COCO_CAPTIONS: _coco,
    Kind.KARPATHY: _karpathy,
    Kind.ENTITIES: _entities,
    Kind.CAPTION_LIST: _list,
    Kind.PAIRS: _list,
    Kind.CAPTION_REFERENCES: _references,
}
