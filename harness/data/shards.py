"""Webdataset shards: tar files whose members NAME.jpg, NAME.txt (or NAME.json with "caption") make one sample NAME.

A shard is read as a stream; its samples are counted from the headers alone, and the counts kept in the cache folder.
"""

from __future__ import annotations

import glob
import itertools
import random
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

from harness.data.annotations.rows import words
from harness.data.images import LIMIT_BYTES
from harness.data.pairs import PairRef
from harness.kit.errors import HarnessError
from harness.kit.files import cache_folder, explained, write_atomically
from harness.kit.reading import parse_json

IMAGE_ENDINGS = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm", "pgm")
TEXT_ENDINGS = ("txt", "json")
TEXT_LIMIT_BYTES = 2**20
DAMAGE = (tarfile.TarError, OSError, EOFError, ValueError)
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
SHARDS_AT_ONCE = 4
MOST_SHARDS = 10**5  # the largest sets that are published have some 40,000
_MOST_DIGITS = 18
_READ_BYTES = 1 << 16  # tarfile copies what is left of its buffer at every read: larger is slower.


def is_shards(source: str) -> bool:
    """Whether a source is a pattern of shards, not a file or folder of pairs."""
    return source.endswith(".tar") or (any(mark in source for mark in "{*?[") and not Path(source).exists())


def expand_shards(pattern: str) -> list[Path]:
    """The files of a pattern such as shards/{00000..00331}.tar, shards/{a,b}.tar or shards/*.tar, in order.

    Raises HarnessError for braces without partner, backward ranges, files that do not exist or are not .tar.
    """
    if Path(pattern).is_file():
        return [Path(pattern)]
    names = list(itertools.islice(_unbraced(pattern, pattern), MOST_SHARDS + 1))
    if len(names) > MOST_SHARDS:
        raise HarnessError(f"shards {pattern}: stands for more than {MOST_SHARDS:,} files; narrow its ranges")
    found = [Path(match) for name in names for match in sorted(glob.glob(name)) or [name]]
    missing = [path for path in found if not path.is_file()]
    if len(missing) == len(found):
        raise HarnessError(f"shards {pattern}: nothing matches; check the folder and the pattern")
    if missing:
        raise HarnessError(
            f"shards {pattern}: {len(missing)} of {len(found)} do not exist (first {missing[0]}); "
            "fetch them or narrow the pattern"
        )
    other = next((path for path in found if path.suffix != ".tar"), None)
    if other is not None:
        raise HarnessError(f"shards {pattern}: {other} is not a .tar; name JSON files one by one")
    return list(dict.fromkeys(found))


def shard_names(shards: Sequence[Path]) -> dict[Path, str]:
    """The file name of each shard, after as many of its folders as tell all shards apart."""
    tails = ({path: "/".join(path.parts[-depth:]) for path in shards} for depth in itertools.count(1))
    return next(names for names in tails if len(set(names.values())) == len(names))


def read_shard(
    shard: Path,
    name: str,
    on_damage: Callable[[Path, str], None],
    on_skipped: Callable[[str], None] = lambda member: None,
) -> Iterator[PairRef]:
    """Stream a shard's samples with the keys NAME/SAMPLE.

    Of a truncated or corrupt shard come the whole samples; then `on_damage` gets the shard and the reason.
    `on_skipped` gets the images and texts whose names have further dots (a.seg.png) and that make no sample.
    """
    try:
        for sample, parts in _samples(shard, payload=True, on_skipped=on_skipped):
            image = next((parts[ending] for ending in IMAGE_ENDINGS if ending in parts), b"")
            yield PairRef(f"{name}/{sample}", image, _captions(parts))
    except DAMAGE as error:
        on_damage(shard, str(error).splitlines()[0] if str(error) else type(error).__name__)


def count_samples(shards: Sequence[Path], advance: Callable[[int], None] | None = None) -> dict[Path, int]:
    """Samples of each shard; `advance(1)` is called after each. Counts are cached by path, size and time of change.

    Raises HarnessError for a shard that cannot be read and a cache that cannot be written.
    """
    counts = {}
    for shard in shards:
        counts[shard] = _cached_count(shard)
        if advance is not None:
            advance(1)
    return counts


def round_robin(readers: Iterable[Iterator[PairRef]], at_once: int = SHARDS_AT_ONCE) -> Iterator[PairRef]:
    """One from each of `at_once` readers in turn; the next reader takes the place of one that is done."""
    waiting = iter(readers)
    active = list(itertools.islice(waiting, at_once))
    while active:
        for reader in list(active):
            ref = next(reader, None)
            if ref is not None:
                yield ref
                continue
            following = next(waiting, None)
            place = active.index(reader)
            active[place : place + 1] = [] if following is None else [following]


def buffered(stream: Iterator[PairRef], samples: int, source: random.Random) -> Iterator[PairRef]:
    """The stream in random order as far as a buffer of `samples` can mix it; nothing is lost or repeated."""
    buffer = list(itertools.islice(stream, samples))
    for ref in stream:
        at = source.randrange(len(buffer))
        buffer[at], ref = ref, buffer[at]
        yield ref
    source.shuffle(buffer)
    yield from buffer


def _unbraced(text: str, pattern: str) -> Iterator[str]:
    """Every text that the braces of `text` stand for; numbers of a range keep the width of one padded with zeros."""
    match = _BRACES.search(text)
    if match is None:
        if "{" in text or "}" in text:
            raise HarnessError(f"shards {pattern}: a brace without its partner; expected {{00000..00331}} or {{a,b}}")
        yield text
        return
    if "{" in text[: match.start()]:
        raise HarnessError(f"shards {pattern}: braces within braces; write the ranges one after the other")
    for item in match[1].split(","):
        for middle in _range(item, pattern):
            yield from _unbraced(text[: match.start()] + middle + text[match.end() :], pattern)


def _range(item: str, pattern: str) -> list[str]:
    ends = _RANGE.fullmatch(item)
    if ends is None:
        return [item]
    first, last = ends.groups()
    if max(len(first), len(last)) > _MOST_DIGITS:
        raise HarnessError(f"shards: a range of numbers of more than {_MOST_DIGITS} digits; narrow it")
    if int(first) > int(last):
        raise HarnessError(f"shards {pattern}: the range {item} runs backwards; write {{{last}..{first}}}")
    if int(last) - int(first) >= MOST_SHARDS:
        raise HarnessError(f"shards {pattern}: {item} is more than {MOST_SHARDS:,} files; narrow it")
    width = max(len(first), len(last)) if first.startswith("0") else 0
    return [f"{number:0{width}}" for number in range(int(first), int(last) + 1)]


class _Header(tarfile.TarInfo):
    """A member's header; damage is an error, where tarfile takes any but the first damaged header for the end."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Header:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if not buf:
                raise tarfile.ReadError("it ends without the mark of a tar's end") from error
            if any(buf):
                raise tarfile.ReadError("damaged header, or not a tar") from error
            raise


@dataclass
class _Member:
    """An image or a text of a tar: `sample` is its name up to the first dot, `full` up to the last."""

    sample: str
    full: str
    ending: str
    content: bytes


def _members(shard: Path, payload: bool) -> Iterator[_Member]:
    """Images and texts; without `payload` the contents are empty and never read, as are those too large."""
    size = shard.stat().st_size
    with tarfile.open(shard, "r|" if payload else "r:", tarinfo=_Header, bufsize=_READ_BYTES) as tar:
        for member in tar:
            tar.members = []  # type: ignore[attr-defined]  # It would keep every header of the shard.
            folder, _, file_name = member.name.removeprefix("./").rpartition("/")
            full, _, ending = file_name.rpartition(".")
            sample, ending = full.partition(".")[0], ending.lower()
            if not sample or ending not in IMAGE_ENDINGS + TEXT_ENDINGS:
                continue
            if member.islnk() or member.issym():
                raise tarfile.ReadError(
                    f"{member.name} is a link to {member.linkname}: pack it again with the files themselves "
                    "(tar --dereference --hard-dereference)"
                )
            if not member.isfile():
                continue
            if member.offset_data + member.size > size:
                raise tarfile.ReadError("unexpected end of data")
            limit = LIMIT_BYTES if ending in IMAGE_ENDINGS else TEXT_LIMIT_BYTES
            content = tar.extractfile(member) if payload and member.size <= limit else None
            above = f"{folder}/" if folder else ""
            yield _Member(above + sample, above + full, ending, content.read() if content else b"")


def _samples(
    shard: Path, payload: bool, on_skipped: Callable[[str], None] = lambda member: None
) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Neighbouring members of one sample together; raises one of DAMAGE after the last that is whole.

    A sample is what stands before the first dot, as webdataset has it; where names have further dots (clip.v2.jpg),
    an image and a text that agree up to the last dot are a sample of their own.
    """
    plain, dotted = _Sample(), _Sample()

    def whole(*done: _Sample) -> Iterator[tuple[str, dict[str, bytes]]]:
        for one in done:
            if one.parts and one is dotted and not _complete(one.parts):
                for ending in one.parts:
                    on_skipped(f"{shard}: {one.name}.{ending}")
            elif one.parts:
                yield one.name, one.parts
            one.parts = {}

    try:
        for member in _members(shard, payload):
            kind, name = (plain, member.sample) if member.full == member.sample else (dotted, member.full)
            if member.sample != plain.name or (
                kind is plain and member.ending in plain.parts and _complete(plain.parts)
            ):
                yield from whole(plain, dotted)
            elif kind is dotted and (name != dotted.name or member.ending in dotted.parts):
                yield from whole(dotted)
            plain.name = member.sample
            kind.name, kind.parts[member.ending] = name, member.content
    except DAMAGE:
        yield from whole(*(one for one in (plain, dotted) if _complete(one.parts)))
        raise
    yield from whole(plain, dotted)


@dataclass
class _Sample:
    name: str = ""
    parts: dict[str, bytes] = field(default_factory=dict)


def _complete(parts: dict[str, bytes]) -> bool:
    return any(ending in parts for ending in IMAGE_ENDINGS) and any(ending in parts for ending in TEXT_ENDINGS)


def _captions(parts: dict[str, bytes]) -> tuple[str, ...]:
    """The caption of .txt, or else those of .json; none where neither can be read."""
    try:
        text = parts.get("txt", b"").decode("utf-8").strip()
        described = parse_json(parts["json"], "json") if not text and "json" in parts else None
    except (UnicodeDecodeError, HarnessError):
        return ()
    said = described.get("caption") if isinstance(described, dict) else text
    texts = said if isinstance(said, list) else [said]
    return tuple(text for one in texts if (text := words(one)))


def _cached_count(shard: Path) -> int:
    with explained(f"shard {shard}: cannot be read", "fetch it again or narrow the pattern"):
        about = shard.stat()
    key = f"{shard.resolve()}\0{about.st_size}\0{about.st_mtime_ns}".encode("utf-8", "surrogateescape")
    cached = cache_folder() / "shard-samples" / blake2b(key, digest_size=16).hexdigest()
    if cached.is_file() and (text := cached.read_bytes()).isdigit():
        return int(text)
    with explained(f"shard {shard}: cannot be read", "fetch it again or narrow the pattern"):
        count = _count(shard)
    write_atomically(cached, str(count).encode())
    return count


def _count(shard: Path) -> int:
    count = 0
    try:
        for _ in _samples(shard, payload=False):
            count += 1
    except (tarfile.TarError, EOFError, ValueError):
        return count  # `read_shard` reports the damage, when the samples before it have been used.
    return count
