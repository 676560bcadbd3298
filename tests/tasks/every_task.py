"""The six tasks on a few scenes with hosts of random weights: what tests of batches, budgets and processes share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import harness.tasks.captioning
from harness.data.formats import ImageTextSet
from harness.data.image_store import ImageStore
from harness.data.scenes import scenes_folder
from harness.evaluate.encoder import VisionEncoder
from harness.evaluate.task import Outcome, TaskData
from harness.hosts.build import build_host
from harness.hosts.parts.tokenizer import VOCABULARY_FILE, TextTokenizer
from harness.hosts.parts.towers import open_tower
from harness.hosts.ready import Host
from harness.hosts.weights.find import assets_of
from harness.kit.progress import SILENT
from harness.kit.registry import tasks
from harness.metrics.captions import CaptionScores
from harness.reduction.budget import make_reducer
from tests.tasks.small_hosts import SETTINGS, SIZES

ANSWERS = ("yes", "no", "red", "green", "blue", "circle", "square")
# Task and host, the field of the annotations, and how many of them are taken: odd numbers, that no batch divides.
CASES: dict[str, tuple[str, str, str, int]] = {
    "retrieval": ("retrieval", "albef", "captions", 11),
    "retrieval-contrast": ("retrieval", "clip", "captions", 11),
    "retrieval-matching": ("retrieval", "meter", "captions", 3),
    "vqa": ("vqa", "albef", "questions", 13),
    "entailment": ("entailment", "albef", "hypotheses", 13),
    "nlvr2": ("nlvr2", "blip", "statements", 7),
    "captioning": ("captioning", "blip", "captions", 35),
    "classification": ("classification", "clip", "classified", 11),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "retrieval": {"captions_per_image": 2, "rerank_k": 3},
    "captioning": {"max_length": 8},
    "classification": {"probe": True, "probe_l2": 0.1, "templates": ("a {}", "the {} left")},
}
SCENES = 7
LEARNT = ("entailment", "nlvr2")
# Metric -> (sample, value), in the order of samples' names.
Results = dict[str, list[tuple[str, float]]]


@cache
def scene_host(family: str, task: str) -> Host:
    """A random host in float64 for scenes; none may change it."""
    torch.manual_seed(0)
    sizes = {"depth": 2, "width": 24, "heads": 3, "image_size": 64, **SIZES[family], "text_length": 48}
    model = build_host(f"{family}-tiny", **sizes, task=task if task in LEARNT else None).double().eval()
    for parameter in model.parameters():
        parameter.data.mul_(2)
    tokenizer = TextTokenizer(assets_of("albef-tiny") / VOCABULARY_FILE, 48)
    return Host(f"{family}-tiny", model, tokenizer, ANSWERS, torch.device("cpu"), torch.float64)


@cache
def scene_set(case: str) -> ImageTextSet:
    """Some annotations of a few scenes, in the canonical order."""
    task, _, field, count = CASES[case]
    found = tasks.get(task)().load(scenes_folder(SCENES, 3), None)
    return replace(found, **{field: getattr(found, field)[:count]}).in_order()


@torch.no_grad()
def evaluated(
    case: str,
    data: ImageTextSet | None = None,
    method: str = "dense",
    *,
    batch_size: int = 4,
    states_budget: int = 2**30,
    blank: bool = False,
    **reading: int,
) -> tuple[Outcome, VisionEncoder]:
    """A task's outcome; `reading`: arguments of the store of images."""
    task_name, family, _, _ = CASES[case]
    data = data or scene_set(case)
    host, task = scene_host(family, task_name), tasks.get(task_name)()
    config = host.model.config
    images = ImageStore(data.images, config.image_size, config.mean, config.std, **reading)
    reducer = make_reducer(method, open_tower(host.model.vision).shape, settings=SETTINGS.get(method))
    encoder = VisionEncoder(host, reducer, images, batch_size, SILENT, states_budget)
    with captions_scored_by_length():
        options = OPTIONS.get(task_name, {}) | ({"blank_images": True} if blank else {})
        outcome = task.evaluate(encoder, TaskData(data, images), task.Options(**options))
    return outcome, encoder


def results(outcome: Outcome) -> Results:
    return {
        metric: sorted(zip(samples, np.asarray(values).tolist(), strict=True))
        for metric, (samples, _, values) in outcome.outcomes.items()
    }


@contextmanager
def captions_scored_by_length() -> Iterator[None]:
    """No Java: a caption's score tells its letters and how many references it met."""

    def scores(captions: Sequence[str], references: Sequence[Sequence[str]]) -> CaptionScores:
        letters = [sum(map(ord, caption)) + len(others) for caption, others in zip(captions, references, strict=True)]
        return CaptionScores({"cider": np.array(letters, dtype=float)}, {}, {})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(harness.tasks.captioning, "caption_scores", scores)
        patch.setattr(harness.tasks.captioning, "java_path", lambda program: Path(program))
        yield


def error_of(action: Callable[[], Any]) -> tuple[str, str]:
    """The kind and the text of the error that an action ends with."""
    try:
        action()
    except Exception as error:  # noqa: BLE001 - any error is what is asked for
        return type(error).__name__, str(error)
    raise AssertionError("no error")
