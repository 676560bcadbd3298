"""Whether records on disk are whole, and which of them the code at hand would reproduce."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from harness.cell import method_digest
from harness.errors import HarnessError
from harness.registry import methods
from harness.store import Record, Store, superseded


def lines(folder: Path, prune: bool = False) -> list[tuple[str, bool]]:
    """Damaged records fail; then a count of records by status, and of those measured by other code.

    `prune`: delete those that newer records of the same cells supersede.
    """
    if not folder.is_dir():
        raise HarnessError(f"{folder}: no such folder of records")
    damaged: list[str] = []
    store = Store(folder, warn=damaged.append)
    records = store.records()
    older = superseded(records)
    if prune:
        for record in older:
            store.remove(record)
            records.remove(record)
    known = set(methods.names())
    current = sum(
        record["spec"]["method"] in known and record["spec"]["code"] == method_digest(record["spec"]["method"])
        for record in records
    )
    status = Counter(record["status"] for record in records)
    found = [(f"damaged  {line}", False) for line in damaged]
    found += [(_failure(record), False) for record in records if record["status"] != "done"]
    found.append(
        (
            f"{len(records)} records: " + ", ".join(f"{count} {name}" for name, count in sorted(status.items())),
            True,
        )
    )
    found.append((f"{current} of them were measured by this very code; the others would be computed again", True))
    if older:
        said = "deleted" if prune else "--prune deletes them"
        found.append((f"{len(older)} older records of cells that were measured again: {said}", True))
    return found


def _failure(record: Record) -> str:
    spec = record["spec"]
    ratio = "paper" if spec["ratio"] is None else f"{spec['ratio']:g}"
    cell = f"{spec['model']} {spec['method']} {ratio} {spec['task']} seed {spec['seed']}"
    return f"{record['status']}  {cell}: {record['error']}"
