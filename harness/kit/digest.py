"""One text and one digest of a value: what keys are made of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from harness.kit.errors import HarnessError


def canonical(value: Any) -> bytes:
    """The one JSON text of a value, for digests: sorted keys, no spaces; HarnessError for infinity and NaN in it."""
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()
    except ValueError as error:
        raise HarnessError("a setting is infinite or no number; give finite numbers") from error


def key_of(spec: Mapping[str, Any]) -> str:
    """The key of a cell: SHA-256 (hex) of the canonical JSON of its whole spec."""
    return hashlib.sha256(canonical(spec)).hexdigest()
