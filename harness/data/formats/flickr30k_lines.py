"""Flickr30k as handed out and as mirrored: a line per caption, after the name of its image."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from harness.data.annotations.captions import CaptionFormat, Described, Said
from harness.data.annotations.findings import Findings
from harness.data.annotations.format import UNREADABLE, FileKind, Found, Source, split_named
from harness.data.annotations.listing import Listing
from harness.kit.errors import HarnessError
from harness.kit.reading import text_lines

_IMAGE = r"(?P<image>[^\s|,#][^\t|,#]*\.(?:jpe?g|png|webp))"
_TOKEN = re.compile(rf"{_IMAGE}#(?P<number>\d+)\t(?P<text>.*)", re.IGNORECASE)
_BARS = re.compile(rf"{_IMAGE}\s*\|\s*(?P<number>\d+)(?:\s*(?P<bar>\|)\s*|\s+)(?P<text>.*)", re.IGNORECASE)
_COMMA = re.compile(rf"{_IMAGE},(?P<text>.*)", re.IGNORECASE)
_HEADERS = {"image_name|comment_number|comment": _BARS, "image,caption": _COMMA}
_FIRST_BYTES = 4096


class Flickr30kLines(CaptionFormat):
    """results.token: IMAGE.jpg#N<tab>caption; results.csv: IMAGE.jpg| N| caption; IMAGE.jpg,caption with a header."""

    files = (FileKind("Flickr30k captions, one per line"),)
    suffixes = frozenset({".token", ".csv", ".tsv", ".txt"})

    def find(self, listing: Listing, found: Sequence[Found]) -> list[Found]:
        paths = [path for path in listing.others if path.suffix.lower() in self.suffixes]
        return [self._found(path) for path in paths if _form_of(path) is not None]

    def described(self, source: Source, found: Found, splits: tuple[str, ...], findings: Findings) -> Described:
        path, said, seen, places = found.path, list[Said](), Counter[str](), dict[str, int]()
        lines, form = text_lines(path), _form_of(path)
        for number, line in enumerate(lines):
            if number == 0 and _header(line) in _HEADERS:
                continue
            match = form.fullmatch(line) if form is not None else None
            if match is None:
                reason = f"{path}: line {line[:60]!r} is no image with its caption; correct it or leave it out"
                findings.fault("lines that cannot be read", reason)
                continue
            parts = match.groupdict()
            if "bar" in parts and parts["bar"] is None:
                findings.odd("lines without their second bar", f"{path}: line {line[:60]!r}")
            image = parts["image"]
            place = places.setdefault(image, len(places))
            count = seen[image]
            seen[image] += 1
            said.append(Said(image, f"{image}#{parts.get('number') or count}", _unquoted(parts["text"]), place))
        return Described(list(seen), said, str, lambda files, key: files.named(path, key))

    def _found(self, path: Path) -> Found:
        split = split_named(path.stem)
        try:
            text_lines(path)
        except HarnessError as error:
            return Found(path, UNREADABLE, reason=str(error))
        return Found(path, self.files[0], self, (split,) if split else ())


def _form_of(path: Path) -> re.Pattern[str] | None:
    """How the lines of a file are written, by its first ones; None for another file."""
    try:
        with path.open("rb") as file:
            first = file.read(_FIRST_BYTES)
    except OSError as error:
        raise HarnessError(f"{path}: cannot be read ({error.strerror}); make it readable") from error
    # UTF-16 is recognised too, so that reading it says what is wrong with it.
    encoding = "utf-16" if first.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    lines = [line for line in first.decode(encoding, errors="replace").splitlines() if line.strip()][:2]
    if lines and _header(lines[0]) in _HEADERS:
        return _HEADERS[_header(lines[0])]
    return next((form for form in (_TOKEN, _BARS) if lines and form.fullmatch(lines[0].strip())), None)


def _header(line: str) -> str:
    return "".join(line.split()).lower()


def _unquoted(text: str) -> str:
    """A caption without the quotes that CSV puts around one with a comma."""
    text = text.strip()
    quoted = len(text) > 1 and text[0] == text[-1] == '"'
    return text[1:-1].replace('""', '"') if quoted else text
