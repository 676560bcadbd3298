"""What is wrong or odd about a set: raised at once where it is to be used, counted where it is to be checked."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass

from harness.kit.errors import HarnessError


@dataclass
class Finding:
    """How often something was met, and the first of it in words; a `fault` makes the set unusable.

    The label names what was met, in the plural; it is empty where the words say all.
    """

    label: str
    first: str
    fault: bool
    count: int = 1


class Findings:
    """Strict: the first fault is a HarnessError, and oddities pass. Readers go on after what they report."""

    def fault(self, label: str, line: str) -> None:
        """Something that no task can use: `label` as of a Finding, `line` this one in words."""
        raise HarnessError(line)

    def odd(self, label: str, line: str) -> None:
        """Something unusual that harms no result."""


class Tally(Findings):
    """Counts faults and oddities by their label, and keeps the first of each."""

    def __init__(self) -> None:
        self.found: dict[str, Finding] = {}

    def fault(self, label: str, line: str) -> None:
        self._add(label, line, fault=True)

    def odd(self, label: str, line: str) -> None:
        self._add(label, line, fault=False)

    def _add(self, label: str, line: str, *, fault: bool) -> None:
        if label in self.found:
            self.found[label].count += 1
        else:
            self.found[label] = Finding(label, line, fault)


def report_repeated(findings: Findings, label: str, where: str, ids: Iterable[Hashable]) -> None:
    """Report every id that was there before: results are compared sample by sample, by id."""
    seen = set[Hashable]()
    for one in ids:
        if one in seen:
            findings.fault(label, f"{where}: the id {one} stands there twice; give every entry its own")
        seen.add(one)
