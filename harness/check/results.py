"""Whether records on disk are whole, and which of them the code at hand would reproduce."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from harness.kit.errors import HarnessError
from harness.run.cell import cell_code
from harness.run.store import Record, Store, superseded
from harness.train.protocol import Stage


def lines(folder: Path, prune: bool = False) -> list[tuple[str, bool]]:
    """Damaged records fail; then a count of records by status, and of those measured by other code.

    `prune`: delete those of cells that the program at hand measured again.
    """
    if not folder.is_dir():
        raise HarnessError(f"{folder}: no such folder of records")
    damaged: list[str] = []
    earlier: list[str] = []
    store = Store(folder, damaged.append, earlier.append)
    records = store.records(samples=True)
    reasons = {record["key"]: changed_since(record["spec"]) for record in records}
    older = superseded(records, lambda record: not reasons[record["key"]])
    if prune:
        for record in older:
            store.remove(record)
            records.remove(record)
            del reasons[record["key"]]
    current = sum(not changed for changed in reasons.values())
    status = Counter(record["status"] for record in records)
    found = [(f"damaged  {line}", False) for line in damaged] + [(f"earlier  {line}", True) for line in earlier]
    found += [(_failure(record), False) for record in records if record["status"] != "done"]
    found.append(
        (
            f"{len(records)} records: " + ", ".join(f"{count} {name}" for name, count in sorted(status.items())),
            True,
        )
    )
    found += [(f"stale    {_cell(record)}: {why}", True) for record in records if (why := reasons[record["key"]])]
    found.append((f"{current} of them were measured by this very code; the others would be computed again", True))
    if older:
        said = "deleted" if prune else "--prune deletes them"
        found.append((f"{len(older)} records of cells that this very code measured again: {said}", True))
    return found


def changed_since(spec: Mapping[str, Any]) -> str:
    """Why the program at hand would not give a record's quality again, as far as its code says; "" where it would."""
    try:
        stages = [Stage.model_validate(stage) for stage in spec["training"]]
        now = cell_code(spec["model"], spec["method"], spec["task"], stages, spec["data"], spec["data_digest"])
    except HarnessError as error:
        return str(error).partition(":")[0]
    except ValidationError:
        return "its training is described as it no longer is"
    before = spec["code"]
    if not isinstance(before, dict):
        return "measured before records held the parts of their code"
    parts = sorted(part for part in now.keys() | before.keys() if now.get(part) != before.get(part))
    return f"{', '.join(parts)} changed" if parts else ""


def _failure(record: Record) -> str:
    return f"{record['status']}  {_cell(record)}: {record['error']}"


def _cell(record: Record) -> str:
    spec = record["spec"]
    ratio = "paper" if spec["ratio"] is None else f"{spec['ratio']:g}"
    return f"{spec['model']} {spec['method']} {ratio} {spec['task']} seed {spec['seed']}"
