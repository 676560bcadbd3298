"""Captions and their references as text files of equally many lines, for the caption metrics."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from harness.data.annotations.format import FileKind, Format, Found, Source
from harness.data.annotations.listing import Listing
from harness.data.annotations.report import Examination, Report, counted
from harness.kit.errors import HarnessError
from harness.kit.reading import text_lines


class Sentences(Format):
    """hyp.txt, ref1.txt, ref2.txt: line i of each is about image i, which is not there."""

    files = (FileKind("sentences, one per line"),)
    suffixes = frozenset({".txt"})
    last = True

    def find(self, listing: Listing, found: Sequence[Found]) -> list[Found]:
        known = {one.path for one in found}
        classes = [one.path for one in found if one.path.is_dir()]
        by_folder: dict[Path, list[Path]] = defaultdict(list)
        for path in listing.others:
            taken = path in known or any(path.is_relative_to(folder) for folder in classes)
            if path.suffix.lower() in self.suffixes and not taken:
                by_folder[path.parent].append(path)
        return [Found(path, self.files[0], self) for files in by_folder.values() for path in files if _alike(files)]

    def describe(self, source: Source, examination: Examination) -> list[Report]:
        """Those of a folder are captions and their references.

        Nothing in the texts tells which are the captions: the file that was named, or else the first not called ref…
        """
        by_folder: dict[Path, list[Path]] = defaultdict(list)
        for one in source.found:
            if one.kind is self.files[0]:
                by_folder[one.path.parent].append(one.path)
        reports, named = [], source.file
        for files in by_folder.values():
            if named not in (None, *files):
                continue
            captions, *references = sorted(files, key=lambda path: (path != named, path.name.lower().startswith("ref")))
            names = ", ".join(str(path.relative_to(source.root)) for path in files)
            lines = counted(len(text_lines(captions)), "line")
            counts = [f"{lines} each, taken for captions ({captions.name}) and references", "no images"]
            command = ["check", "captions", str(captions), *map(str, references)]
            reports.append(Report(f"{self.files[0].title}: {names}", files, counts, commands=[command]))
        return reports


def _alike(files: Sequence[Path]) -> bool:
    """Whether two or more files have equally many lines."""
    try:
        counts = {len(text_lines(path)) for path in files}
    except HarnessError:
        return False  # No text, so none of ours.
    return len(files) > 1 and len(counts) == 1 and counts != {0}
