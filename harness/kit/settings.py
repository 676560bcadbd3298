"""Settings from outside, checked by a pydantic model and refused in one line; what a command line makes of them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from harness.kit.errors import HarnessError

T = TypeVar("T", bound=BaseModel)
LONGEST_SHOWN = 200
# Threads or processes that are let pass on the smallest machine.
MOST_AT_ONCE = 64


@dataclass(frozen=True)
class Flag:
    """What the command line makes of a field where its name and type do not say it: `Annotated[type, Flag("--set")]`.

    `name`: of the flag, in place of the field's own. `read`: makes the value from the one word that is given, as
    "0,1,2"; the field's default stands where none is given, shown as `default`. `metavar`: what the value is called.
    """

    name: str | None = None
    read: Callable[[str], Any] | None = None
    default: str | None = None
    metavar: str | None = None


# For a field that other code sets: the command line has no flag for it.
NO_FLAG = Flag("")


def validated(model: type[T], fields: Mapping[str, Any], what: str, flags: Mapping[str, str] | None = None) -> T:
    """Build a pydantic model, turning its ValidationError into one HarnessError line.

    `flags`: what the user calls a field, in place of `what` and the field's name.
    """
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            message = f"unknown setting; {model.__name__} has {', '.join(sorted(model.model_fields))}"
        given = _shown(first["input"]) if where and first["type"] != "extra_forbidden" else ""
        if flags is not None and first["loc"] and first["loc"][0] in flags:
            raise HarnessError(f"{flags[str(first['loc'][0])]}: {message} (got {given})") from error
        got = f" (got {given})" if given else ""
        raise HarnessError(f"{what}: {where + ': ' if where else ''}{message}{got}") from error


def check_count(flag: str, count: int) -> None:
    """HarnessError for more threads or processes than a machine of this kind can mean."""
    cores = os.cpu_count() or 1
    most = max(MOST_AT_ONCE, 4 * cores)
    if not 0 <= count <= most:
        raise HarnessError(f"{flag} {count}: expected {most} at most on this machine, which has {cores} cores")


def _shown(value: Any) -> str:
    """A value as JSON, cut where it is long, or as Python shows it where JSON cannot."""
    try:
        text = json.dumps(value, default=str)
    except (ValueError, RecursionError):
        text = f"a value of type {type(value).__name__}"
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"
