"""Traces of images under several methods, as the picture of kept patches wants them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from harness.cost.adaptive import ratio_on
from harness.data.images import read_image
from harness.data.transforms import load_images
from harness.data.world import BUILT_IN_WORLD
from harness.evaluate.encoder import encode_texts, survival
from harness.hosts.build import paper_settings
from harness.hosts.parts.towers import open_tower
from harness.hosts.ready import Host, check_learned
from harness.kit.errors import HarnessError
from harness.kit.progress import Progress
from harness.kit.registry import tasks
from harness.reduction import TokenReducer, Trace, encode
from harness.reduction.budget import make_reducer
from harness.reduction.plan import Sample
from harness.report.patches import PatchExample, Stage
from harness.run.grid import data_folder

SHOWN_STAGES = 4


@dataclass(frozen=True)
class Pictured:
    """An image, the text that text-guided methods read with it, and the patches that the text is known to speak of."""

    image: Path
    text: str | None = None
    mentioned: tuple[int, ...] = ()


def pictured_scenes(count: int) -> list[Pictured]:
    """Scenes of the built-in world, each with its first caption."""
    annotations = tasks.get("retrieval")().load(data_folder(BUILT_IN_WORLD, None, Progress()), count)
    first = {caption.image: caption for caption in reversed(annotations.captions)}
    captions = [first[image] for image in annotations.images]
    return [Pictured(one.image, one.text, one.patches or ()) for one in captions]


@torch.no_grad()
def kept_examples(host: Host, methods: Sequence[str], ratio: float, pictured: Sequence[Pictured]) -> list[PatchExample]:
    """Images with their text and, for each method at a token ratio, what became of every patch.

    HarnessError for images that cannot be read, budgets that a method has not, and one that learns without weights.
    """
    config, tower = host.model.config, open_tower(host.model.vision)
    images = load_images([one.image for one in pictured], config.image_size, config.mean, config.std)
    texts = [one.text for one in pictured if one.text is not None]
    if len(texts) not in (0, len(pictured)):
        raise HarnessError("a text for some of the images: name one for each, or for none")
    guide = host.model.guide(encode_texts(host, texts, len(texts))) if texts else None
    sample = Sample(images.to(host.device, host.dtype), guide)
    stages: list[dict[str, list[Stage]]] = [{} for _ in pictured]
    for method in methods:
        trace = Trace(origins_wanted=True)
        encode(tower, _reducer(host, method, ratio, sample), sample.images, sample.guide, trace)
        for block in shown_blocks(trace):
            own, merged = survival(trace.origins[block].cpu())
            for row, kept in enumerate(stages):
                kept.setdefault(method, []).append(Stage(f"block {block}", own[row].numpy(), merged[row].numpy()))
        for kept in stages:
            kept.setdefault(method, [])  # it kept every token as its own
    side = config.image_size // config.patch_size
    return [
        PatchExample(read_image(one.image, config.image_size), one.text or "", (side, side), one.mentioned, kept)
        for one, kept in zip(pictured, stages)
    ]


def _reducer(host: Host, method: str, ratio: float, sample: Sample) -> TokenReducer[Any]:
    """A method at a ratio, by the paper's settings for the host; an adaptive one is measured on these images. What the
    host's weights learned works as it was learned, whatever the ratio.
    """
    on_images, learned = ratio_on(open_tower(host.model.vision), sample), host.learned
    if learned is not None and learned.name == method:
        return host.method(method, learned.config)
    settings, schedule = paper_settings(host.name, method)
    reducer = make_reducer(
        method,
        host.model.shape,
        ratio=ratio,
        schedule=schedule,
        settings=settings,
        measured=lambda reducer: on_images(host.with_learned(reducer)),
    )
    if reducer.learns:
        stated = None if learned is None else (learned.name, learned.config)
        check_learned(method, reducer.config.model_dump(mode="json"), stated)
    return host.with_learned(reducer)


def shown_blocks(trace: Trace) -> list[int]:
    """The blocks at which tokens go; where they go in most blocks (ToMe), evenly chosen ones, the last included."""
    before = [trace.attention[0], *trace.mlp[:-1]]
    active = [block for block, count in enumerate(trace.mlp) if count < before[block]]
    if len(active) <= SHOWN_STAGES - 1:
        return active
    return [active[round(index * (len(active) - 1) / (SHOWN_STAGES - 2))] for index in range(SHOWN_STAGES - 1)]
