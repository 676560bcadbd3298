"""Accuracies by answer type; answers ranked and generated."""

from dataclasses import replace
from pathlib import Path

import pytest

from harness.data.formats import Question
from harness.data.image_store import ImageStore
from harness.data.scenes import write_scenes
from harness.evaluate.encoder import VisionEncoder
from harness.evaluate.task import TaskData
from harness.hosts.parts.towers import open_tower
from harness.hosts.ready import load_host
from harness.hosts.weights.sets import task_weights
from harness.kit.errors import HarnessError
from harness.kit.progress import Progress
from harness.reduction.budget import make_reducer
from harness.tasks.vqa import VQA, VQAOptions, accuracies


def asked(number, answer):
    return Question(number, Path(f"/data/{number}.png"), "what?", (answer,) * 10)


def test_every_answer_type_that_occurs_has_its_accuracy():
    questions = [asked(0, "yes"), asked(1, "no"), asked(2, "red"), asked(3, "blue")]
    found = accuracies(["yes", "yes", "red", "blue"], questions, ["a", "b", "c", "d"])
    assert {metric: values.tolist() for metric, (_, _, values) in found.items()} == {
        "vqa_accuracy": [1, 0, 1, 1],
        "vqa_yes_no": [1, 0],
        "vqa_other": [1, 1],
    }
    assert found["vqa_other"][:2] == (["2", "3"], ["c", "d"])
    assert set(found) < {one.name for one in VQA.quantities}


def answers_of(host, folder, **options):
    """The outcome of a host's answers about a folder's scenes."""
    found = VQA().load(folder, None).in_order()
    config = host.model.config
    data = TaskData(found, ImageStore(found.images, config.image_size, config.mean, config.std))
    reducer = make_reducer("dense", open_tower(host.model.vision).shape)
    encoder = VisionEncoder(host, reducer, data.images, 7, Progress(quiet=True))
    return VQA().evaluate(encoder, data, VQAOptions(**options))


def test_the_shipped_blip_generates_the_answers_that_it_ranks_first(tmp_path):
    write_scenes(tmp_path / "world", "val", 20, 0)
    host = load_host("blip-tiny", task_weights("blip-tiny", None, "vqa"), "cpu", "float32")
    ranked = answers_of(host, tmp_path / "world")
    wordless = replace(host, answers=())
    generated = answers_of(wordless, tmp_path / "world", inference="generate")
    assert abs(generated.values()["vqa_accuracy"] - ranked.values()["vqa_accuracy"]) < 0.1
    assert generated.values()["vqa_accuracy"] > 0.7
    shown = generated.diagnostics["answers"]
    assert len(shown) == 20
    assert set(shown.values()) <= set(host.answers)
    assert "answers" not in ranked.diagnostics
    with pytest.raises(HarnessError, match="blip-tiny comes without a closed list of answers"):
        answers_of(wordless, tmp_path / "world")


def test_a_host_that_writes_nothing_says_so(tmp_path):
    write_scenes(tmp_path / "world", "val", 2, 0)
    host = load_host("albef-tiny", None, "cpu", "float32")
    with pytest.raises(HarnessError, match="Albef picks answers from a list and generates none; leave them ranked"):
        answers_of(host, tmp_path / "world", inference="generate")
