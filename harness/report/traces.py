"""Traces of a few scenes under several methods, as the picture of kept patches wants them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from harness.data.transforms import load_images
from harness.data.world import BUILT_IN_WORLD
from harness.evaluate.encoder import encode_texts, survival
from harness.hosts.parts.towers import open_tower
from harness.hosts.ready import load_host
from harness.kit.progress import Progress
from harness.kit.registry import tasks
from harness.reduction import Guide, Trace, encode
from harness.reduction.budget import make_reducer
from harness.report.patches import PatchExample, Stage
from harness.run.grid import data_folder

SHOWN_STAGES = 4


@torch.no_grad()
def kept_examples(model: str, methods: Sequence[str], ratio: float, count: int) -> list[PatchExample]:
    """Scenes with their first caption and, for each method at a token ratio, what became of every patch."""
    host = load_host(model, None, "cpu", "float32")
    annotations = tasks.get("retrieval")().load(data_folder(BUILT_IN_WORLD, None, Progress()), count)
    config = host.model.config
    images = load_images(annotations.images, config.image_size, config.mean, config.std)
    first = {caption.image: caption for caption in reversed(annotations.captions)}
    captions = [first[image] for image in annotations.images]
    texts = encode_texts(host, [caption.text for caption in captions], count)
    tower = open_tower(host.model.vision)
    side = config.image_size // config.patch_size
    stages: list[dict[str, list[Stage]]] = [{} for _ in captions]
    for method in methods:
        trace = Trace(origins_wanted=True)
        encode(tower, make_reducer(method, tower.shape, ratio=ratio).eval(), images, Guide(texts.states[:, 0]), trace)
        for block in shown_blocks(trace):
            own, merged = survival(trace.origins[block])
            for row, kept in enumerate(stages):
                kept.setdefault(method, []).append(Stage(f"block {block}", own[row].numpy(), merged[row].numpy()))
    return [
        PatchExample(
            np.asarray(Image.open(image).convert("RGB")),
            caption.text,
            (side, side),
            caption.patches or (),
            kept,
        )
        for image, caption, kept in zip(annotations.images, captions, stages)
    ]


def shown_blocks(trace: Trace) -> list[int]:
    """The blocks at which tokens go; where they go in most blocks (ToMe), evenly chosen ones, the last included."""
    before = [trace.attention[0], *trace.mlp[:-1]]
    active = [block for block, count in enumerate(trace.mlp) if count < before[block]]
    if len(active) <= SHOWN_STAGES - 1:
        return active
    return [active[round(index * (len(active) - 1) / (SHOWN_STAGES - 2))] for index in range(SHOWN_STAGES - 1)]
