"""Images of classes: a folder per class, with names and templates of the classes in files beside them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, zip_longest
from pathlib import Path

from harness.data.annotations.class_names import class_names, class_order, folder_names
from harness.data.annotations.findings import Findings
from harness.data.annotations.format import UNREADABLE, FileKind, Format, Found, Source, split_named
from harness.data.annotations.listing import Listing
from harness.data.annotations.records import ClassifiedImage, ImageTextSet
from harness.data.annotations.report import counted, phrases, spread
from harness.kit.errors import HarnessError
from harness.kit.reading import file_size, read_json, text_lines

# Beside annotated images, classes are looked for in this folder only: images of other sets lie in several folders too.
CLASSES = "classes"
NAMES = FileKind("class names")
TEMPLATES = FileKind(
    "templates of sentences about a class",
    test=lambda content: (
        isinstance(content, list) and bool(content) and all(isinstance(one, str) and "{}" in one for one in content)
    ),
)
_LOOKED_INTO_BYTES = 1 << 20


class ClassFolders(Format):
    """FOLDER/CLASS/IMAGE, or FOLDER/{train,val,test}/CLASS/IMAGE; a folder without images beside the classes."""

    files = (FileKind("a folder of images per class"), NAMES, TEMPLATES)
    fills = "classified"
    noun = "classes"
    suffixes = frozenset({".json", ".txt"})
    last = True

    def find(self, listing: Listing, found: Sequence[Found]) -> list[Found]:
        annotated = any(one.is_set for one in found)
        root = listing.root / CLASSES if annotated else listing.root
        folders = [Found(folder, self.files[0], self, splits) for folder, splits in _class_folders(listing, root)]
        if not folders:
            return []
        names = list(_class_images(listing, folders[0].path))
        known = {one.path: one for one in found}
        near = [path for path in listing.others if path.is_relative_to(root) and path.suffix.lower() in self.suffixes]
        beside = (self._beside(path, known.get(path), names) for path in near)
        return folders + [one for one in beside if one is not None]

    def read(
        self, source: Source, found: Found, splits: tuple[str, ...], findings: Findings, limit: int | None = None
    ) -> ImageTextSet:
        """Labels follow the folders' order, by number or by letter.

        Images come in turns, one of each class, so that `limit` takes from all classes alike.
        """
        images = _class_images(source.listing, found.path)
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

    def counts(self, data: ImageTextSet) -> list[str]:
        each = spread((one.label for one in data.classified), "images")
        named = f"named {', '.join(data.classes[:3])}{', …' if len(data.classes) > 3 else ''}"
        templates = counted(len(data.templates), "template") if data.templates else ""
        return [phrases(counted(len(data.classes), "class", "classes"), each), named, templates]

    def _beside(self, path: Path, known: Found | None, names: Sequence[str]) -> Found | None:
        """A file beside the classes: their names, or templates of sentences about one; None for another file."""
        if known is not None and known.kind in (UNREADABLE, TEMPLATES):
            return known
        try:
            if file_size(path) > _LOOKED_INTO_BYTES:
                return None
            lines = text_lines(path)
            if lines and all("{}" in line for line in lines):
                return Found(path, TEMPLATES, self)
            return Found(path, NAMES, self) if class_names(path, names) else None
        except HarnessError as error:
            return Found(path, UNREADABLE, reason=str(error))


def _class_folders(listing: Listing, root: Path) -> list[tuple[Path, tuple[str, ...]]]:
    """The folder `root` whose subfolders are classes: two or more with images in them, and no image beside them.

    Where its subfolders are named as splits, those of them that are such folders, each with its split.
    """
    below = [path.relative_to(root).parts for path in listing.images if path.is_relative_to(root)]
    if not below or not all(len(parts) > 1 and split_named(parts[0]) for parts in below):
        return [(root, ())] if _are_classes(below) else []
    found = list[tuple[Path, tuple[str, ...]]]()
    for name in dict.fromkeys(parts[0] for parts in below):
        if _are_classes([parts[1:] for parts in below if parts[0] == name]):
            found.append((root / name, (str(split_named(name)),)))
    return found


def _class_images(listing: Listing, root: Path) -> dict[str, list[Path]]:
    """The images of each class below the folder of classes `root`; classes without images with an empty list."""
    images: dict[str, list[Path]] = {path.name: [] for path in listing.empty_folders if path.parent == root}
    for path in listing.images:
        if path.is_relative_to(root):
            images.setdefault(path.relative_to(root).parts[0], []).append(path)
    return images


def _are_classes(below: Sequence[tuple[str, ...]]) -> bool:
    return all(len(parts) > 1 for parts in below) and len({parts[0] for parts in below}) > 1


def _names(source: Source, order: list[str]) -> tuple[str, ...]:
    path = _single(source, NAMES)
    names = None if path is None else class_names(path, order)
    return names or folder_names(order)


def _templates(source: Source) -> tuple[str, ...]:
    path = _single(source, TEMPLATES)
    if path is None:
        return ()
    return tuple(read_json(path) if path.suffix.lower() == ".json" else text_lines(path))


def _single(source: Source, kind: FileKind) -> Path | None:
    found = source.of(kind)
    if len(found) > 1:
        names = ", ".join(str(one.path.relative_to(source.root)) for one in found)
        raise HarnessError(f"data {source.where}: several files of {kind.title} ({names}); keep one of them")
    return found[0].path if found else None
