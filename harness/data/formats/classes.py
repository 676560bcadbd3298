"""Images of classes: a folder per class, with names and templates of the classes in files beside them."""

from __future__ import annotations

from itertools import chain, zip_longest
from pathlib import Path

from harness.data.formats.class_names import class_names, class_order, folder_names
from harness.data.formats.files import read_json, text_lines
from harness.data.formats.findings import Findings
from harness.data.formats.kinds import Found, Kind
from harness.data.formats.recognise import class_images
from harness.data.formats.records import ClassifiedImage, ImageTextSet
from harness.data.formats.source import Source
from harness.kit.errors import HarnessError

KINDS = (Kind.CLASS_FOLDERS,)


def load_classes(folder: Path | str, limit: int | None = None, split: str | None = None) -> ImageTextSet:
    """The images of a folder that has a folder per class; labels follow the folders' order, by number or by letter.

    Images come in turns, one of each class, so that `limit` takes from all classes alike. `split` chooses among
    train/, val/ and test/, where these hold the classes. Raises HarnessError, one line, for a folder without classes,
    classes without images, and several files of names or of templates.
    """
    return read_classes(Source(folder), Findings(), limit, split)


def read_classes(
    source: Source, findings: Findings, limit: int | None = None, split: str | None = None
) -> ImageTextSet:
    """`load_classes`, with what is wrong told to `findings`."""
    found, _ = choose_classes(source, split)
    images = class_images(source.listing, found.path)
    order = class_order(list(images))
    for name in order:
        if not images[name]:
            line = f"{found.path / name}: a class without images; fill the folder or delete it"
            findings.fault("classes without images", line)
    turns = zip_longest(*([(path, label) for path in images[name]] for label, name in enumerate(order)))
    classified = tuple(
        ClassifiedImage(path.relative_to(found.path).as_posix(), path, label)
        for path, label in [turn for turn in chain.from_iterable(turns) if turn is not None][:limit]
    )
    return ImageTextSet(
        tuple(one.image for one in classified),
        classified=classified,
        classes=_names(source, order),
        templates=_templates(source),
    )


def choose_classes(source: Source, split: str | None) -> tuple[Found, tuple[str, ...]]:
    """The folder whose subfolders are the classes, and its split."""
    return source.choose(source.of(*KINDS), "classes", KINDS, split)


def _names(source: Source, order: list[str]) -> tuple[str, ...]:
    path = _single(source, Kind.CLASS_NAMES)
    names = None if path is None else class_names(path, order)
    return names or folder_names(order)


def _templates(source: Source) -> tuple[str, ...]:
    path = _single(source, Kind.TEMPLATES)
    if path is None:
        return ()
    return tuple(read_json(path) if path.suffix.lower() == ".json" else text_lines(path))


def _single(source: Source, kind: Kind) -> Path | None:
    found = source.of(kind)
    if len(found) > 1:
        names = ", ".join(str(one.path.relative_to(source.root)) for one in found)
        raise HarnessError(f"data {source.where}: several files of {kind.value} ({names}); keep one of them")
    return found[0].path if found else None
