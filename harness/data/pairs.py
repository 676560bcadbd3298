"""Image-caption pairs for pre-training: files of captions -> one reference per pair; no image is opened.

Any format of captions will do (`harness.data.formats`). A pair is an image with all its captions, or of a list one
entry of it.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

from harness.data.annotations.captions import CaptionFormat, Described, Said, is_whole
from harness.data.annotations.findings import Findings
from harness.data.annotations.format import Format, Found, Source
from harness.data.annotations.listing import ImageMissing, Listing
from harness.data.annotations.source import OpenedSource
from harness.kit.errors import HarnessError, warn_on_stderr

Warn = Callable[[str], None]
# A system's file names have 255 bytes, a character 4 at most.
_LONGEST_NAME = 60
PRETRAIN_MODEL, PRETRAIN_BATCH = "albef-tiny", 64


@dataclass(frozen=True, slots=True)
class PairRef:
    """A pair by reference: an image file, or the encoded bytes of one, and the captions it goes with.

    `key` names the pair alike in every run and on every machine; all random draws about it depend on it. A pair of
    a shard that lacks its image or its caption has no bytes or no captions, and is refused when it is loaded.
    For fine-tuning: `target`, what is to be learnt about the pair, a class or the texts of its answers, and
    `second`, another image that the text speaks of.
    """

    key: str
    image: Path | bytes
    captions: tuple[str, ...]
    target: int | tuple[str, ...] | None = None
    second: Path | None = None


def draw(*parts: int | str) -> int:
    """A random 64-bit integer that depends on the parts alone, on any machine."""
    return int.from_bytes(_digest("\0".join(map(str, parts))), "big")


def sample_id(key: str) -> int:
    """A pair's key as a signed 64-bit integer."""
    return int.from_bytes(_digest(key), "big", signed=True)


def caption_of(pair: PairRef, seed: int, epoch: int) -> str:
    """The caption that a pair shows in an epoch; HarnessError for a pair without any."""
    if not pair.captions:
        raise HarnessError(f"pair {pair.key}: has no caption; put a .txt, or a .json with one, beside its image")
    return pair.captions[draw(seed, epoch, pair.key, "caption") % len(pair.captions)]


@dataclass(frozen=True)
class Pairs:
    """The pairs of a source in the file's order; `unusable` of them have no image that exists, or no caption left."""

    refs: list[PairRef]
    unusable: int = 0
    first: str = ""


def read_pairs(
    source: str | Path, root: Path | None = None, warn: Warn = warn_on_stderr, split: str | None = None
) -> Pairs:
    """The pairs of a file of captions of any format, or of a folder's; of sets with splits those of `split` or train.

    Unasked a file of one split is read whole. Images are looked for by their name below `root`, then below the file's
    folder (of annotations/FILE the folder above). `warn` gets one line on pairs that cannot be used: of images that do
    not exist, and of captions that are broken or too long. Raises HarnessError, one line, for missing, empty and
    malformed files, entries without image or caption, a split that is not there, and when no image exists at all.
    """
    if root is not None and not root.is_dir():
        raise HarnessError(f"image root {root}: no such folder; name the folder that the image paths start from")
    where = OpenedSource(source)
    found, one, splits = _chosen(where, split)
    assert isinstance(one, CaptionFormat)
    about, broken = one.described(where, found, splits, Findings()), _Broken()
    entries: dict[int, list[Said]] = {}
    for said in about.said:
        entries.setdefault(said.entry, []).append(said)
    bases = [folder for folder in (root, where.root) if folder is not None]
    seen, refs, missing, finder = Counter[str](), list[PairRef](), list[str](), _Finder(where, root, about)
    for entry in sorted(entries):
        several = entries[entry]
        name, image = about.name(several[0].key), finder.image(several[0].key)
        if image is None:
            missing.append(name)
            # Never outside, whatever the name, and short enough for every system to look for.
            image = bases[0] / Path(name).name[-_LONGEST_NAME:]
        key = _relative(name, bases)
        captions = tuple(said.text.strip() for said in several if is_whole(found.path, said, broken))
        refs.append(PairRef(f"{key}#{seen[key]}", image, captions))
        seen[key] += 1
    return _judged(found.path, bases[0], refs, missing, broken, warn)


def needed_share(unusable: int, samples: int) -> float:
    """The least --max-bad-share that so many unusable pairs of an epoch's samples pass under, in thousandths."""
    return min(1.0, math.ceil(1000 * unusable / max(samples, 1)) / 1000)


def pretrain_commands(source: Source, found: Found) -> list[list[str]]:
    """The command that pre-trains on a set's pairs; none where it could not work."""
    where = found.path if found.path.is_file() else source.where
    try:
        pairs = read_pairs(where, warn=lambda line: None)
    except HarnessError:
        return []
    return [pretrain_command(str(where), len(pairs.refs), pairs.unusable)] if len(pairs.refs) > 1 else []


def pretrain_command(where: str, pairs: int, unusable: int = 0) -> list[str]:
    """The command that pre-trains on so many pairs, with a batch that they fill and the share that is unusable."""
    batch = min(pairs, PRETRAIN_BATCH)
    command = ["pretrain", "--model", PRETRAIN_MODEL, "--data", where]
    command += ["--batch-size", str(batch)] if batch < PRETRAIN_BATCH else []
    share = needed_share(unusable, pairs // batch * batch)
    return command + (["--max-bad-share", f"{share:g}"] if share > 0.01 else [])


def unique_keys(pairs: Iterable[PairRef]) -> list[PairRef]:
    """The pairs of several sources with a key of its own for each: one met before gets the next free number.

    What stands before the # names the image: another image of the same name gets the next free ~number behind it.
    """
    taken: set[str] = set()
    names: dict[tuple[str, Path | bytes], str] = {}
    counts: Counter[str] = Counter()
    found = []
    for pair in pairs:
        stem, mark, _ = pair.key.rpartition("#")
        stem = stem if mark else pair.key
        name = names.get((stem, pair.image))
        if name is None:
            name = f"{stem}~{counts[stem]}" if counts[stem] else stem
            names[stem, pair.image] = name
            counts[stem] += 1
        key = pair.key if name == stem else f"{name}{pair.key[len(stem) :]}"
        while key in taken:
            counts[f"{name}#"] += 1
            key = f"{name}#{counts[f'{name}#']}"
        taken.add(key)
        found.append(pair if key == pair.key else replace(pair, key=key))
    return found


def _digest(text: str) -> bytes:
    # File names that are not UTF-8 reach Python as lone surrogates.
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()


def _chosen(where: OpenedSource, split: str | None) -> tuple[Found, Format, tuple[str, ...]]:
    """The file of captions that is trained on, and the splits of it."""
    if split is not None:
        return where.choose("captions", split)
    several = where.file is None or any(len(one.splits) > 1 for one in where.candidates("captions"))
    return where.choose("captions", where.training_split("captions") if several else None)


def _judged(path: Path, base: Path, refs: list[PairRef], missing: list[str], broken: _Broken, warn: Warn) -> Pairs:
    """The pairs, once it is said which of them cannot be used; HarnessError where that is all of them."""
    if not refs:
        raise HarnessError(f"{path}: holds no pairs; expected entries with image and caption")
    if len(missing) == len(refs):
        way = "put them there, or name the folder they lie in with --root of pretrain and finetune"
        if os.path.isabs(missing[0]):
            way = f"its paths are absolute, so images are looked for by name below {base}; {way}"
        raise HarnessError(f"{path}: none of its {len(refs)} images exists (first {missing[0]}); {way}")
    if missing:
        warn(f"{path}: {len(missing)} of {len(refs)} images do not exist (first {missing[0]}); each is a bad sample")
    if broken.lines:
        warn(f"{path}: {len(broken.lines)} captions cannot be used (first: {broken.lines[0]}); they are left out")
    unusable = (
        [ref for ref in refs if not ref.captions or not Path(str(ref.image)).is_file()]
        if missing or broken.lines
        else []
    )
    return Pairs(refs, len(unusable), unusable[0].key if unusable else "")


class _Broken(Findings):
    """Passes over captions that are broken or too long, and keeps what is wrong with them."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def fault(self, label: str, line: str) -> None:
        if label.startswith("empty"):
            raise HarnessError(line)
        self.lines.append(line)


class _Finder:
    """Where images are: below the root, or else below the file's folder, which is listed only when it is needed."""

    def __init__(self, where: Source, root: Path | None, about: Described) -> None:
        self._where, self._about = where, about
        self._root = None if root is None else Listing(root)
        self._found: dict[Any, Path | None] = {}

    def image(self, key: Any) -> Path | None:
        """An image's file; None where there is none. HarnessError where there are several."""
        if key not in self._found:
            found = None if self._root is None else self._in(self._root, key)
            self._found[key] = self._in(self._where.listing, key) if found is None else found
        return self._found[key]

    def _in(self, listing: Listing, key: Any) -> Path | None:
        try:
            return self._about.locate(listing, key)
        except ImageMissing:
            return None


def _relative(name: str, bases: Sequence[Path]) -> str:
    """An image's path below the first base that holds it: its name on any machine."""
    if not os.path.isabs(name):
        return os.path.normpath(name)
    base = next((base for base in bases if Path(name).is_relative_to(base)), None)
    return name if base is None else os.path.relpath(name, base)
