"""The built-in worlds that have a name, by the sizes in which they differ from the full one (`World`)."""

from __future__ import annotations

from typing import Any

BUILT_IN_WORLD, SMALL_WORLD = "scenes", "scenes-small"
PRESETS: dict[str, dict[str, Any]] = {
    BUILT_IN_WORLD: {},
    SMALL_WORLD: {"shapes": 5, "colours": 4, "objects": (4, 6), "covered": 10},
}
