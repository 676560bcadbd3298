"""Versions of a method's code in records: the digests of what is not harness/ itself, as baselines/ and packages.

Nothing is imported to tell them: torch is not needed to read a table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from harness.kit.errors import HarnessError
from harness.kit.registry import methods, module_of
from harness.kit.sources import code_parts

Record = Mapping[str, Any]


def is_installed(record: Record) -> bool:
    """Whether a record was measured by the code of its method as it is now."""
    now, then = _installed(record["spec"]["method"]), _parts(record)
    return bool(now) and all(then.get(part) == digest for part, digest in now.items())


def mixed_versions(records: Iterable[Record]) -> list[str]:
    """A line for each method whose records come from several versions of its code."""
    found: dict[str, dict[str, set[str]]] = {}
    for record in records:
        parts = found.setdefault(record["spec"]["method"], {})
        for part, digest in _parts(record).items():
            parts.setdefault(part, set()).add(digest)
    mixed = {method: [part for part, digests in parts.items() if len(digests) > 1] for method, parts in found.items()}
    return [
        f"{method}: rows come from several versions of {', '.join(sorted(parts))}: `run` measures what is stale anew, "
        "`check results` names it"
        for method, parts in sorted(mixed.items())
        if parts
    ]


def _parts(record: Record) -> dict[str, str]:
    code = record["spec"].get("code")
    return _own(code) if isinstance(code, dict) else {}


def _own(code: Mapping[str, str]) -> dict[str, str]:
    return {part: digest for part, digest in code.items() if not part.startswith("harness/")}


@lru_cache(None)
def _installed(method: str) -> Mapping[str, str]:
    try:
        return _own(code_parts(module_of(methods, method)))
    except HarnessError:  # it is not installed here
        return {}
