"""What a source of training data holds, in a digest: a run goes on with the same, and a stage is found by it."""

from __future__ import annotations

import hashlib
from pathlib import Path

from harness.data.digest import data_digest
from harness.data.shards import expand_shards, is_shards
from harness.data.world import TRAINING_SCENES, WORLDS, world_of
from harness.kit.errors import HarnessError


def source_digest(source: str) -> str:
    """Annotations by content, shards by name and size, scenes by their sizes; HarnessError for what is not there."""
    world = world_of(source)
    if world is not None:
        return f"{world.stated}-train-{TRAINING_SCENES}"  # the generator's source is part of the program's digest
    if is_shards(source):
        sizes = "".join(f"{path.name}\0{path.stat().st_size}\0" for path in expand_shards(source))
        return hashlib.sha256(sizes.encode()).hexdigest()[:16]
    if not Path(source).exists():
        raise HarnessError(f"data {source}: no such file or folder; name what to train on, or {' or '.join(WORLDS)}")
    return data_digest(Path(source))
