"""Flickr30k Entities: a folder of text files, one per image, whose phrases are marked; lists of ids are splits."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from harness.data.annotations.captions import CaptionFormat, Described, Said
from harness.data.annotations.findings import Findings
from harness.data.annotations.format import UNREADABLE, FileKind, Found, Source, split_named
from harness.data.annotations.listing import Listing
from harness.kit.errors import HarnessError
from harness.kit.reading import file_size, read_bytes, text_lines

SPLIT_LIST = FileKind("list of a split's images")
_MARK = re.compile(r"\[/EN#\S+ ([^\]]*)\]")
_LOOKED_INTO_FILES = 8
_LIMIT_BYTES = 1 << 20


class Flickr30kEntities(CaptionFormat):
    """Sentences/ID.txt, a sentence a line: [/EN#221796/people A girl] sits; train.txt and so on list ids."""

    files = (FileKind("Flickr30k Entities sentences"), SPLIT_LIST)
    suffixes = frozenset({".txt"})

    def find(self, listing: Listing, found: Sequence[Found]) -> list[Found]:
        by_folder: dict[Path, list[Path]] = defaultdict(list)
        for path in listing.others:
            if path.suffix.lower() in self.suffixes:
                by_folder[path.parent].append(path)
        marked = [folder for folder, files in by_folder.items() if any(map(_is_marked, files[:_LOOKED_INTO_FILES]))]
        ids = {path.stem for folder in marked for path in by_folder[folder]}
        paths = [path for files in by_folder.values() for path in files] if marked else []
        named = [(path, split) for path in paths if (split := split_named(path.stem)) and not _is_marked(path)]
        lists = [self._split_list(path, split, ids) for path, split in named]
        splits = tuple(dict.fromkeys(split for one in lists for split in one.splits))
        return [*(Found(folder, self.files[0], self, splits) for folder in marked), *lists]

    def described(self, source: Source, found: Found, splits: tuple[str, ...], findings: Findings) -> Described:
        lists = source.of(SPLIT_LIST)
        listed = [line for one in lists if set(one.splits) & set(splits) for line in text_lines(one.path)]
        files = {path.stem: path for path in source.listing.others if path.parent == found.path and _is_text(path)}
        for one in lists:
            files.pop(one.path.stem, None)
        ids, said = list(files) if not splits else listed, list[Said]()
        for place, key in enumerate(dict.fromkeys(ids)):
            if key in files:
                lines = text_lines(files[key], _LIMIT_BYTES)
                said += [Said(key, f"{key}#{number}", _unmarked(line), place) for number, line in enumerate(lines)]
            else:
                line = (
                    f"{found.path}: has no {key}.txt, which the list of the split names; fetch it or shorten the list"
                )
                findings.fault("images of the split without sentences", line)
        name = "{}.jpg".format
        return Described(ids, said, name, lambda files, key: files.named(found.path, name(key)))

    def _split_list(self, path: Path, split: str, ids: Iterable[str]) -> Found:
        """A list of ids, one a line. A damaged one is unreadable: passed over, it would let another split be read."""
        try:
            lines = text_lines(path)
        except HarnessError as error:
            return Found(path, UNREADABLE, reason=str(error))
        if set(lines).isdisjoint(ids) or any(len(line.split()) > 1 for line in lines):
            what = "lists no id of the sentences" if lines else "is empty"
            reason = f"{path}: named as the list of {split}, but {what}; fetch it again or delete it"
            return Found(path, UNREADABLE, reason=reason)
        return Found(path, SPLIT_LIST, self, (split,))


def _is_text(path: Path) -> bool:
    return path.suffix.lower() == ".txt"


def _is_marked(path: Path) -> bool:
    return file_size(path) <= _LIMIT_BYTES and b"[/EN#" in read_bytes(path)


def _unmarked(line: str) -> str:
    """A sentence without the marks of its phrases: [/EN#221796/people A girl] sits -> A girl sits."""
    return _MARK.sub(r"\1", line)
