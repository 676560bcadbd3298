"""Accuracies by answer type."""

from pathlib import Path

from harness.data.formats import Question
from harness.tasks.vqa import VQA, accuracies


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
    assert set(found) < set(VQA.metrics)
