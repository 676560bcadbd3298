"""What --set says of each method of a request: of one by METHOD.name, and of several values a cell for each.

A value with commas, or a list, is several values where the method's field takes one; where the field takes a list it
is that list, and a list of lists is several.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from pydantic import TypeAdapter, ValidationError

from harness.kit.errors import HarnessError
from harness.kit.registry import methods

MOST_VARIANTS = 1000


def variants(settings: Mapping[str, Any], method: str) -> list[dict[str, Any]]:
    """The settings of a method, one for each combination of the values that are swept; a setting of its own wins.

    HarnessError for more combinations than can be meant.
    """
    own = settings_for(settings, method)
    swept = {name: _values(method, name, value) for name, value in own.items()}
    count = 1
    for values in swept.values():
        count *= len(values)
    if count > MOST_VARIANTS:
        raise HarnessError(f"--set: {count:,} combinations for {method}; expected {MOST_VARIANTS:,} at most")
    return [dict(zip(swept, values)) for values in product(*swept.values())]


def settings_for(settings: Mapping[str, Any], method: str) -> dict[str, Any]:
    """The settings that reach a method, by field, values that are swept as they were given."""
    own = {name: value for name, value in settings.items() if "." not in name}
    prefix = f"{method}."
    return own | {name[len(prefix) :]: value for name, value in settings.items() if name.startswith(prefix)}


def check_methods(settings: Mapping[str, Any], measured: Sequence[str]) -> None:
    """HarnessError for settings of a method that is not measured, which would say nothing."""
    for name in settings:
        of, dot, _ = name.partition(".")
        if dot and of not in measured:
            raise HarnessError(f"--set {name}: {of} is not measured here ({', '.join(measured)}); leave it out")


def _values(method: str, name: str, value: Any) -> list[Any]:
    """The values of a setting: one, or those of a list that its field does not take as it is."""
    field = methods.get(method).Config.model_fields.get(name)
    if not isinstance(value, list) or field is None or _takes(field.annotation, value):
        return [value]
    if not value:
        raise HarnessError(f"--set {name}: method {method} takes one value of it, and none is given")
    return value


def _takes(kind: Any, value: Any) -> bool:
    try:
        TypeAdapter(kind).validate_python(value)
    except ValidationError:
        return False
    return True
