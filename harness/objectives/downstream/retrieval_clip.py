"""CLIP on retrieval: the contrast of its pre-training."""

from __future__ import annotations

from harness.objectives.clip import ClipObjective


class ClipRetrieval(ClipObjective):
    """Every image of the global batch against every text of it."""
