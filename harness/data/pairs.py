"""Image-caption pairs for pre-training: annotation files -> one reference per pair; no image is opened.

Files are recognised by content. ALBEF: [{image, caption}], the caption one text or a list of them. COCO captions:
images[{id, file_name}] and annotations[{image_id, caption}], here one pair per image with all its captions.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

from harness.data.formats import Json, is_captions, rows_with
from harness.kit.errors import HarnessError, warn_on_stderr

Warn = Callable[[str], None]


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


def read_pairs(source: str | Path, root: Path | None = None, warn: Warn = warn_on_stderr) -> list[PairRef]:
    """The pairs of a JSON file, or of the only such file in a folder, in the file's order.

    Images are looked for under `root`, then beside the file (COCO: also in the folders next to it and next to
    annotations/). `warn` is told, in one line, of images that do not exist. Raises HarnessError, one line, for
    missing, empty and malformed files, entries without image or caption, and when no image exists at all.
    """
    if root is not None and not root.is_dir():
        raise HarnessError(f"image root {root}: no such folder; name the folder that the image paths start from")
    path, content = _open_source(Path(source))
    if isinstance(content, list):
        pairs, missing = _albef_pairs(path, content, root)
    elif is_captions(content):
        pairs, missing = _coco_pairs(path, content, root)
    else:
        raise HarnessError(f"{path}: expected ALBEF's list of image and caption, or COCO captions with their images")
    if not pairs:
        raise HarnessError(f"{path}: holds no pairs; expected entries with image and caption")
    if len(missing) == len(pairs):
        raise HarnessError(
            f"{path}: none of its {len(pairs)} images exists (first {missing[0]}); name the folder they start from"
        )
    if missing:
        warn(f"{path}: {len(missing)} of {len(pairs)} images do not exist (first {missing[0]}); each is a bad sample")
    return pairs


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


def _open_source(source: Path) -> tuple[Path, Any]:
    if not source.is_dir():
        return source, _read_json(source)
    opened = ((path, _read_json(path)) for path in sorted(source.rglob("*.json")))
    found = [(path, content) for path, content in opened if _is_albef(content) or is_captions(content)]
    if not found:
        raise HarnessError(f"data folder {source}: no JSON of image-caption pairs in it; for shards give FOLDER/*.tar")
    if len(found) > 1:
        names = ", ".join(str(path.relative_to(source)) for path, _ in found)
        raise HarnessError(f"data folder {source}: several files of pairs ({names}); name the ones to read")
    return found[0]


def _read_json(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8-sig")
        if not text.strip():
            raise HarnessError(f"{path}: is empty; expected JSON with image-caption pairs")
        return json.loads(text)
    except ValueError as error:
        reason = str(error).splitlines()[0]
        raise HarnessError(f"{path}: not valid JSON ({reason}); fetch the file again") from error
    except OSError as error:
        raise HarnessError(f"{path}: cannot be read ({error.strerror}); name a JSON file, a folder or .tar") from error


def _is_albef(content: Any) -> bool:
    first = content[0] if isinstance(content, list) and content else None
    return isinstance(first, dict) and "image" in first and "caption" in first


def _albef_pairs(path: Path, rows: list[Json], root: Path | None) -> tuple[list[PairRef], list[Path]]:
    bases = [folder for folder in (root, path.parent) if folder is not None]
    listing, seen, pairs, missing = _Listing(), Counter[str](), list[PairRef](), list[Path]()
    for number, row in enumerate(rows_with(path, rows, {"image", "caption"})):
        if not isinstance(row["image"], str) or not row["image"]:
            raise HarnessError(f"{path}: entry {number} has the image {row['image']!r}; expected the path of a file")
        captions = _captions(row["caption"], f"{path}: entry {number}")
        found = listing.first(bases, row["image"])
        if found is None:
            missing.append(bases[0] / row["image"])
        name = _relative(row["image"], bases)
        pairs.append(PairRef(f"{name}#{seen[name]}", found or missing[-1], captions))
        seen[name] += 1
    return pairs, missing


def _coco_pairs(path: Path, content: Json, root: Path | None) -> tuple[list[PairRef], list[Path]]:
    names = {row["id"]: str(row["file_name"]) for row in rows_with(path, content["images"], {"id", "file_name"})}
    said: dict[Any, list[str]] = {}
    for number, row in enumerate(rows_with(path, content["annotations"], {"image_id", "caption"})):
        if row["image_id"] not in names:
            raise HarnessError(f"{path}: entry {number} is of image {row['image_id']}, which the file lacks")
        said.setdefault(row["image_id"], []).extend(_captions(row["caption"], f"{path}: entry {number}"))
    folders, listing, pairs, missing = _coco_folders(path, root), _Listing(), list[PairRef](), list[Path]()
    for key, name in names.items():
        if key not in said:
            continue
        found = listing.first(folders, name)
        if found is None:
            missing.append(folders[0] / name)
        pairs.append(PairRef(f"{name}#0", found or missing[-1], tuple(said[key])))
    return pairs, missing


def _captions(value: Any, where: str) -> tuple[str, ...]:
    texts = value if isinstance(value, list) else [value]
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise HarnessError(f"{where} has an empty caption ({value!r:.60}); expected a text, or a list of texts")
    return tuple(text.strip() for text in texts)


def _coco_folders(path: Path, root: Path | None) -> list[Path]:
    """Where COCO's images may be: root, the file's folder, the one that holds annotations/, and their subfolders."""
    bases = [folder for folder in (root, path.parent) if folder is not None]
    if path.parent.name == "annotations":
        bases.append(path.parent.parent)
    found = [sub for base in bases for sub in (base, *_subfolders(base), *_subfolders(base / "images"))]
    return list(dict.fromkeys(found))


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def _relative(name: str, bases: Sequence[Path]) -> str:
    """An image's path below the first base that holds it: its name on any machine."""
    if not os.path.isabs(name):
        return os.path.normpath(name)
    base = next((base for base in bases if Path(name).is_relative_to(base)), None)
    return name if base is None else os.path.relpath(name, base)


class _Listing:
    """Which files exist, from one listing per folder: millions of images lie in few folders."""

    def __init__(self) -> None:
        self._names: dict[str, frozenset[str]] = {}

    def first(self, folders: Iterable[Path], name: str) -> Path | None:
        """`name` in the first of the folders that has it."""
        for folder in folders:
            place, file_name = os.path.split(os.path.join(folder, name))
            if file_name in self._in(place):
                return Path(place, file_name)
        return None

    def _in(self, folder: str) -> frozenset[str]:
        if folder not in self._names:
            try:
                self._names[folder] = frozenset(os.listdir(folder))
            except (FileNotFoundError, NotADirectoryError):
                self._names[folder] = frozenset()
            except OSError as error:
                raise HarnessError(f"{folder}: cannot be listed ({error.strerror}); make it readable") from error
        return self._names[folder]
