"""Records on disk: one JSON per cell and its samples as Parquet beside it, each whole or absent.

A record carries the digest of its samples, and one of itself: what was truncated or edited by hand is reported, never
served, and computed again. Samples are compared with theirs where they are read or served. Torch-free.
"""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.kit.digest import canonical
from harness.kit.errors import HarnessError, warn_on_stderr
from harness.kit.files import ensure_writable, explained, replace_all
from harness.kit.reading import read_bytes

if TYPE_CHECKING:
    import pandas as pd

Record = dict[str, Any]
FORMAT = 2
STATUSES = ("done", "failed", "out_of_memory")
# The last field of a record is the digest of its text without it; of an earlier program's record, which has no
# SAMPLES_DIGEST, of its samples, too.
SAMPLES_DIGEST = "samples_sha256"
DIGEST, END = b',\n "digest": "', b"\n}"
STALE_SECONDS = 24 * 3600
KEY_LETTERS = 12
MOST_RECENT = 8
NAMES = "*-" + KEY_LETTERS * "[0-9a-f]" + ".json"


def stem_of(record: Mapping[str, Any]) -> str:
    """The file name, without ending, of a record and its samples: method, ratio or 'paper', task, key."""
    spec = record["spec"]
    ratio = "paper" if spec["ratio"] is None else f"{spec['ratio']:g}"
    return f"{spec['method']}-{ratio}-{spec['task']}-{record['key'][:KEY_LETTERS]}"


def superseded(records: Iterable[Record], current: Callable[[Record], bool]) -> list[Record]:
    """Those of cells that a done record of the `current` code measured again; clocks, which may be wrong, say nothing.

    A cell that none of the current code measured keeps all its records.
    """
    known = [(_without_code(record), current(record), record) for record in records]
    measured = {cell for cell, now, record in known if now and record["status"] == "done"}
    return [record for cell, now, record in known if cell in measured and not now]


def _without_code(record: Record) -> bytes:
    return canonical({name: value for name, value in record["spec"].items() if name != "code"})


class Damaged(Exception):
    """A record that is not what was saved; its text says why."""


class Earlier(Exception):
    """A record of a format before FORMAT, which holds other things; its text says of which."""


class Store:
    """The records of one folder.

    `warn` gets a line for each damaged record that is passed over; `notice`, by default `warn`, one for all that an
    earlier version measured.
    """

    def __init__(
        self,
        folder: Path | str,
        warn: Callable[[str], None] = warn_on_stderr,
        notice: Callable[[str], None] | None = None,
    ) -> None:
        self.folder = Path(folder)
        self._warn, self._notice = warn, notice or warn
        self._by_cell: dict[str, list[Path]] | None = None

    def prepare(self) -> None:
        """Create the folder, see that files can be written in it, and clear what killed runs left a day ago.

        Raises HarnessError when that is not possible.
        """
        with explained(f"results folder {self.folder}: cannot be written", "choose another --out"):
            ensure_writable(self.folder)
            for left in self.folder.glob(".*.tmp"):
                if time.time() - left.stat().st_mtime > STALE_SECONDS:
                    left.unlink(missing_ok=True)

    def find(self, keys: Iterable[str]) -> dict[str, Record]:
        """The done records of exactly these keys whose samples are whole, by key; other cells have to be computed.

        Failed and out-of-memory records are not found, so that they are tried again.
        """
        paths: dict[str, list[Path]] = {}
        for path in self._paths():
            paths.setdefault(path.stem[-KEY_LETTERS:], []).append(path)
        found: dict[str, Record] = {}
        for key in dict.fromkeys(keys):
            for path in paths.get(key[:KEY_LETTERS], ()):
                record = self._read(path, [], samples=True)
                if record is not None and record["key"] == key and record["status"] == "done":
                    found[key] = record
        return found

    def records(self, *, samples: bool = False) -> list[Record]:
        """All whole records of the folder, failed ones included, by file name; HarnessError if there is no folder.

        `samples`: their samples are read too, so that a record whose samples were changed is left out.
        """
        if not self.folder.is_dir():
            raise HarnessError(
                f"results folder {self.folder}: not found; `python -m harness run` makes one, --runs names it"
            )
        earlier: list[Path] = []
        read = [self._read(path, earlier, samples=samples) for path in self._paths()]
        if earlier:
            count = f"{len(earlier)} records" if len(earlier) > 1 else f"record {earlier[0].name}"
            self._notice(f"{count} in {self.folder}: measured by an earlier version; left out, to be computed again")
        return [record for record in read if record is not None]

    def _paths(self) -> list[Path]:
        """The files of records, by name."""
        return sorted(self.folder.glob(NAMES), key=lambda path: path.name)

    def recent(self, method: str, ratio: float | None, task: str, most: int = MOST_RECENT) -> list[Record]:
        """The whole records of a method at a budget in a task that were written last; none where there is no folder."""
        named = "paper" if ratio is None else f"{ratio:g}"
        if self._by_cell is None:
            self._by_cell = {}
            for path in self.folder.glob(NAMES):
                self._by_cell.setdefault(path.stem[: -KEY_LETTERS - 1], []).append(path)
        paths = sorted(self._by_cell.get(f"{method}-{named}-{task}", ()), key=lambda path: path.stat().st_mtime)
        read = [self._read(path, [], samples=False) for path in paths[-most:]]
        return [record for record in read if record is not None]

    def samples(self, record: Mapping[str, Any]) -> pd.DataFrame:
        """The per-sample outcomes of a record: columns task, metric, sample, cluster, value.

        Raises HarnessError when the record has none, or the file cannot be read or is not what was saved.
        """
        import pandas as pd  # it takes half a second to import, and a plan needs none

        path = self._samples_path(record)
        try:
            return pd.read_parquet(io.BytesIO(_whole_samples(record, path)))
        except (Damaged, OSError, ValueError) as error:
            raise HarnessError(f"samples {path}: {_first_line(error)}; run the cell again with --force") from error

    def samples_digest(self, record: Mapping[str, Any]) -> str:
        """What tells a record's samples from others; HarnessError where it has none or they cannot be read."""
        path = self._samples_path(record)
        return str(record.get(SAMPLES_DIGEST) or _sha256(read_bytes(path)))

    def _samples_path(self, record: Mapping[str, Any]) -> Path:
        if record["samples"] is None:
            raise HarnessError(f"record {stem_of(record)}: has no samples (status {record['status']})")
        return self.folder / str(record["samples"])

    def remove(self, record: Mapping[str, Any]) -> None:
        """Delete a record and its samples. Raises HarnessError when that is not possible."""
        path = self.folder / f"{stem_of(record)}.json"
        with explained(f"record {path}: cannot be deleted", "see that its folder may be written"):
            path.unlink()
            path.with_suffix(".parquet").unlink(missing_ok=True)

    def save(self, record: Mapping[str, Any], samples: pd.DataFrame | None) -> Record:
        """Write a record, its samples first, and return it as stored (`samples` and the digests filled in).

        Both are complete on the disk under temporary names before either is renamed, so a kill or a full disk
        leaves the folder as it was. Replaces an earlier record of the same cell. Raises HarnessError on any
        failure to write, and for a status or a number (NaN) that a record cannot hold.
        """
        if record["status"] not in STATUSES:
            raise HarnessError(f"record status {record['status']!r}: expected one of {', '.join(STATUSES)}")
        stem = stem_of(record)
        json_path, parquet_path = self.folder / f"{stem}.json", self.folder / f"{stem}.parquet"
        table = None if samples is None else _parquet(samples)
        stored = {name: value for name, value in record.items() if name != "digest"}
        stored["samples"] = None if table is None else parquet_path.name
        stored[SAMPLES_DIGEST] = None if table is None else _sha256(table)
        try:
            text = json.dumps(stored, indent=1, ensure_ascii=False, allow_nan=False).encode()
        except UnicodeEncodeError as error:
            raise HarnessError(
                f"record {stem}: a name or text in it is not UTF-8; rename the file or folder"
            ) from error
        except ValueError as error:
            raise HarnessError(f"record {stem}: {error}; a metric or cost is not a finite number") from error
        stored["digest"] = _sha256(text)
        text = text.removesuffix(END) + DIGEST + stored["digest"].encode() + b'"' + END + b"\n"
        contents = {json_path: text} if table is None else {parquet_path: table, json_path: text}
        with explained(f"record {json_path}: cannot be saved", "free space or choose another --out, then run again"):
            replace_all(contents)
            if table is None:
                parquet_path.unlink(missing_ok=True)
        return stored

    def _read(self, path: Path, earlier: list[Path], *, samples: bool) -> Record | None:
        """A whole record, or None: one of an earlier format goes to `earlier`, a damaged one is warned of."""
        try:
            return _checked(path, samples)
        except Earlier:
            earlier.append(path)
            return None
        except (Damaged, OSError) as error:
            self._warn(f"record {path}: {_first_line(error)}; left out, its cell will be computed again")
            return None


def _checked(path: Path, samples: bool) -> Record:
    """Read a record and compare it, and its samples where they are asked for, with its digests; raises Damaged, and
    Earlier for another version's.
    """
    try:
        text = read_bytes(path)
        record = json.loads(text)
    except HarnessError as error:
        raise Damaged(str(error).removeprefix(f"{path}: ")) from error
    except (ValueError, RecursionError) as error:
        raise Damaged(f"not whole JSON ({_first_line(error)})") from error
    if not isinstance(record, dict) or "digest" not in record:
        raise Damaged("not a record")
    if record.get("format") in range(1, FORMAT):
        raise Earlier(f"format {record['format']}")
    if record.get("format") != FORMAT:
        raise Damaged(f"format {record.get('format')!r}: expected {FORMAT}; a later version may have measured it")
    digest = record["digest"]
    table = path.with_suffix(".parquet")
    if record.get("samples") is not None and (record["samples"] != table.name or not table.is_file()):
        raise Damaged(f"its samples {record['samples']} are missing")
    content = text.rpartition(DIGEST)[0] + END
    if record.get("samples") is not None:
        if SAMPLES_DIGEST not in record:
            content += table.read_bytes()
        elif samples:
            _whole_samples(record, table)
    if digest != _sha256(content):
        raise Damaged("changed after it was saved (its digest does not fit)")
    if not _is_record(record):
        raise Damaged("not a record of this program, though its digest fits")
    return record


def _is_record(record: Record) -> bool:
    """Whether what names a record is there, and what else there is of its kind."""
    spec = record.get("spec")
    if not isinstance(spec, dict) or not isinstance(record.get("key"), str) or record.get("status") not in STATUSES:
        return False
    named = isinstance(spec.get("method"), str) and isinstance(spec.get("task"), str)
    budget = spec.get("ratio") is None or type(spec["ratio"]) in (int, float)
    return (
        named and budget and isinstance(record.get("quality", {}), dict) and isinstance(record.get("run") or {}, dict)
    )


def _whole_samples(record: Mapping[str, Any], path: Path) -> bytes:
    """The content of a record's samples; Damaged where it is not what was saved."""
    content = path.read_bytes()
    if record.get(SAMPLES_DIGEST) not in (None, _sha256(content)):
        raise Damaged("changed after they were saved (their digest does not fit)")
    return content


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _parquet(samples: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    samples.to_parquet(buffer, index=False)
    return buffer.getvalue()


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
