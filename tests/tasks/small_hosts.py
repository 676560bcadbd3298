"""What tests of tasks share: hosts of random weights, images of noise, and asking for one pair at a time."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from harness.data.formats import ImageTextSet
from harness.data.image_store import ImageStore
from harness.evaluate.encoder import VisionEncoder
from harness.evaluate.task import Outcome, TaskData
from harness.hosts.build import build_host
from harness.hosts.host import TextBatch
from harness.hosts.parts.tokenizer import VOCABULARY_FILE, TextTokenizer
from harness.hosts.parts.towers import open_tower
from harness.hosts.ready import Host
from harness.hosts.weights.find import assets_of
from harness.kit.progress import SILENT
from harness.reduction import Tokens, encode
from harness.reduction.budget import make_reducer

TOWER: dict[str, Any] = {"depth": 3, "width": 24, "heads": 3, "image_size": 32}
SIZES: dict[str, dict[str, int]] = {
    "albef": {"text_layers": 1, "fusion_layers": 1, "projection": 12},
    "blip": {"text_layers": 1, "projection": 12},
    "meter": {"text_layers": 1, "fusion_layers": 1},
    "clip": {"text_layers": 1, "text_width": 24, "projection": 12},
}
SETTINGS: dict[str, dict[str, Any]] = {
    "elip": {"schedule": {"begin": [1], "keep": [0.5], "lookahead": [1]}},
    "evit": {"schedule": {"begin": [1], "keep": [0.5]}},
}
WORDS = ("red", "blue", "green", "ring", "square", "moon", "left", "right", "top", "bottom", "a", "the")


@cache
def small_host(family: str, task: str | None = None) -> Host:
    """A random host in float64, the same for all tests; none may change it."""
    torch.manual_seed(0)
    model = build_host(f"{family}-tiny", **TOWER, **SIZES[family], text_length=48, task=task).double().eval()
    for parameter in model.parameters():
        # Initial weights are so small that every image and text would be judged alike.
        parameter.data.mul_(2)
    tokenizer = TextTokenizer(assets_of("albef-tiny") / VOCABULARY_FILE, 48)
    return Host(f"{family}-tiny", model, tokenizer, (), torch.device("cpu"), torch.float64)


def noise(path: Path, seed: int) -> None:
    """An image file of coloured noise in large squares."""
    path.parent.mkdir(parents=True, exist_ok=True)
    squares = np.random.default_rng(seed).integers(0, 255, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(squares).resize((32, 32), Image.Resampling.NEAREST).save(path)


def sentence(seed: int) -> str:
    """Two to six of WORDS."""
    random = np.random.default_rng(1000 + seed)
    return " ".join(random.choice(WORDS, 2 + seed % 5))


def encoder_of(host: Host, annotations: ImageTextSet, method: str = "dense", batch_size: int = 3) -> VisionEncoder:
    config = host.model.config
    reducer = make_reducer(method, open_tower(host.model.vision).shape, settings=SETTINGS.get(method))
    images = ImageStore(annotations.images, config.image_size, config.mean, config.std)
    return VisionEncoder(host, reducer, images, batch_size, SILENT)


@torch.no_grad()
def measured(task: Any, encoder: VisionEncoder, annotations: ImageTextSet, **options: Any) -> Outcome:
    """A task's outcome with some options."""
    found: Outcome = task.evaluate(encoder, TaskData(annotations, encoder.images), task.Options(**options))
    return found


def one_pair(encoder: VisionEncoder, image: int, text: str) -> tuple[TextBatch, Tokens]:
    """A text alone, and the tokens of an image alone reduced for it."""
    host = encoder.host
    asked = host.model.text_batch(*host.tokenizer([text]))
    pixels = encoder.images[torch.tensor([image])].double()
    return asked, encode(encoder.tower, encoder.reducer, pixels, host.model.guide(asked))


def by_sample(outcome: Outcome) -> dict[str, dict[str, float]]:
    """metric -> sample -> value; fails for samples that stand there twice."""
    found = {}
    for metric, (samples, clusters, values) in outcome.outcomes.items():
        assert len(set(samples)) == len(samples) == len(clusters) == len(values)
        found[metric] = dict(zip(samples, np.asarray(values).tolist(), strict=True))
    return found


def turned(values: Sequence[Any]) -> tuple[Any, ...]:
    """The same in reverse."""
    return tuple(values)[::-1]
