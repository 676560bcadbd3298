"""What a data folder holds, by content: counted, with the command that evaluates it."""

from __future__ import annotations

from pathlib import Path

from harness.data.formats import ImageTextSet
from harness.errors import HarnessError
from harness.registry import tasks


def counted(found: ImageTextSet) -> str:
    """How much there is of everything."""
    return f"{len(found.images)} images, {len(found.captions)} captions, {len(found.questions)} questions"


def lines(folder: Path) -> list[tuple[str, bool]]:
    """One line per task whose annotations are there; not good when no task can read the folder."""
    found: list[tuple[str, bool]] = []
    reasons = []
    for name in tasks.names():
        try:
            loaded = tasks.get(name)().load(folder, None)
        except HarnessError as error:
            reasons.append(f"{name}: {error}")
            continue
        found.append((f"{name:<12}{counted(loaded)}", True))
        found.append((f"{'':<12}python -m harness run --method elip --tasks {name} --data {folder}", True))
    return found or [(f"{folder}: nothing a task can read ({'; '.join(reasons)})", False)]
