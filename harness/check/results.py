"""Whether records on disk are whole, and which of them the code at hand would reproduce."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from harness.cell import method_digest
from harness.errors import HarnessError
from harness.registry import methods
from harness.store import Record, Store


def lines(folder: Path) -> list[tuple[str, bool]]:
    """Damaged records fail; then a count of records by status, and of those measured by other code."""
    if not folder.is_dir():
        raise HarnessError(f"{folder}: no such folder of records")
    damaged: list[str] = []
    records = Store(folder, warn=damaged.append).records()
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
    return found


def _failure(record: Record) -> str:
    spec = record["spec"]
    ratio = "paper" if spec["ratio"] is None else f"{spec['ratio']:g}"
    cell = f"{spec['model']} {spec['method']} {ratio} {spec['task']} seed {spec['seed']}"
    return f"{record['status']}  {cell}: {record['error']}"
