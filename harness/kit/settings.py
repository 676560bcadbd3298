"""Settings from outside, checked by a pydantic model, refused in one line."""

from __future__ import annotations

import json
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from harness.kit.errors import HarnessError

T = TypeVar("T", bound=BaseModel)


def validated(model: type[T], fields: dict[str, Any], what: str) -> T:
    """Build a pydantic model, turning its ValidationError into one HarnessError line."""
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            message = f"unknown setting; {model.__name__} has {', '.join(sorted(model.model_fields))}"
        given = (
            f" (got {json.dumps(first['input'], default=str)})" if where and first["type"] != "extra_forbidden" else ""
        )
        raise HarnessError(f"{what}: {where + ': ' if where else ''}{message}{given}") from error
