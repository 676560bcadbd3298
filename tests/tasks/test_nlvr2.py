"""NLVR2: the figures are those of asking for each statement alone; a group counts when all of it is judged right."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from harness.data.formats import ImageTextSet, PairStatement
from harness.kit.errors import HarnessError
from harness.metrics.stats import quality
from harness.tasks.nlvr2 import Nlvr2
from tests.tasks.small_hosts import by_sample, encoder_of, measured, noise, one_pair, sentence, small_host, turned

HOSTS = ("albef", "blip", "meter")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """NLVR2 as published: four sets of three pairs, one sentence for each set."""
    root = tmp_path_factory.mktemp("nlvr2")
    rows = []
    for number in range(12):
        pair = f"test1-{number // 3}-{number % 3}"
        for side in (0, 1):
            noise(root / "images" / f"{pair}-img{side}.png", 2 * number + side)
        label = str(number % 4 < 2)
        rows.append({"identifier": f"{pair}-0", "sentence": sentence(number // 3), "label": label})
    (root / "test1.json").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return root


@torch.no_grad()
def each_alone(family: str, annotations: ImageTextSet, method: str) -> dict[str, bool]:
    """Whether each statement is held true when it is asked for alone."""
    encoder = encoder_of(small_host(family, "nlvr2"), annotations, method)
    found = {}
    for one in annotations.statements:
        left, right = (annotations.images.index(image) for image in one.images)
        (asked, first), (_, second) = (one_pair(encoder, image, one.text) for image in (left, right))
        found[str(one.id)] = int(encoder.host.model.compare(asked, first, second).argmax()) == 1
    return found


@pytest.mark.parametrize("method", ["dense", "elip"])
@pytest.mark.parametrize("family", HOSTS)
def test_figures_are_those_of_asking_for_each_statement_alone(folder: Path, family: str, method: str) -> None:
    annotations = Nlvr2().load(folder, None)
    expected = each_alone(family, annotations, method)
    assert len(set(expected.values())) == 2
    encoder = encoder_of(small_host(family, "nlvr2"), annotations, method)
    outcome = measured(Nlvr2(), encoder, annotations)
    found = by_sample(outcome)
    right = {str(one.id): float(expected[str(one.id)] == one.label) for one in annotations.statements}
    assert len(right) == 12
    assert found["nlvr2_accuracy"] == right
    assert found["nlvr2_consistency"] == {
        f"test1-{group}-0": min(right[f"test1-{group}-{pair}-0"] for pair in range(3)) for group in range(4)
    }
    assert encoder.encoded_pairs == (24 if method == "elip" else 0)
    assert list(outcome.outcomes) == [one.name for one in Nlvr2.quantities]


@pytest.mark.parametrize("method", ["dense", "elip"])
def test_neither_batch_size_nor_order_changes_a_judgement(folder: Path, method: str) -> None:
    annotations = Nlvr2().load(folder, None)
    other = replace(annotations, images=turned(annotations.images), statements=turned(annotations.statements))
    host = small_host("blip", "nlvr2")
    found = [
        by_sample(measured(Nlvr2(), encoder_of(host, each, method, size), each))
        for each, size in ((annotations, 1), (annotations, 5), (annotations, 12), (other, 4))
    ]
    assert found[0] == found[1] == found[2] == found[3]


def test_left_and_right_are_told_apart(folder: Path) -> None:
    """A statement about the same two images in the other order may be judged otherwise."""
    annotations = Nlvr2().load(folder, None)
    swapped = tuple(replace(one, images=turned(one.images)) for one in annotations.statements)
    host = small_host("albef", "nlvr2")
    found = [
        by_sample(measured(Nlvr2(), encoder_of(host, data), data))["nlvr2_accuracy"]
        for data in (annotations, replace(annotations, statements=swapped))
    ]
    assert found[0] != found[1]


def test_a_group_is_right_when_all_of_it_is() -> None:
    """Statements a1 a2 b1: of the first group one is wrong, so accuracy is 2/3 and consistency 1/2."""
    pair = (Path("0"), Path("1"))
    statements = [
        PairStatement("a1", pair, "red", True, "a"),
        PairStatement("a2", pair, "red", False, "a"),
        PairStatement("b1", pair, "red", False, "b"),
    ]
    found = Nlvr2().outcomes([True, True, False], statements, ["x"] * 3)
    assert found["nlvr2_accuracy"][1] == ["a", "a", "b"]
    assert found["nlvr2_accuracy"][2].tolist() == [1, 0, 1]
    assert found["nlvr2_consistency"][0] == found["nlvr2_consistency"][1] == ["a", "b"]
    assert found["nlvr2_consistency"][2].tolist() == [0, 1]


def test_the_record_has_both_figures_with_intervals(folder: Path) -> None:
    annotations = Nlvr2().load(folder, None)
    frame = measured(Nlvr2(), encoder_of(small_host("meter", "nlvr2"), annotations), annotations).frame()
    entry = quality(frame)["nlvr2"]
    assert (entry["nlvr2_accuracy"]["n"], entry["nlvr2_consistency"]["n"]) == (12, 4)
    assert entry["nlvr2_consistency"]["value"] <= entry["nlvr2_accuracy"]["value"]


def test_blank_images_make_a_sentence_one_judgement(folder: Path) -> None:
    """All statements of a set are then held true, or all false."""
    annotations = Nlvr2().load(folder, None)
    true = replace(annotations, statements=tuple(replace(one, label=True) for one in annotations.statements))
    outcome = measured(Nlvr2(), encoder_of(small_host("albef", "nlvr2"), true), true, blank_images=True)
    _, groups, values = outcome.outcomes["nlvr2_accuracy"]
    assert len({(group, value) for group, value in zip(groups, values.tolist(), strict=True)}) == 4


@pytest.mark.parametrize("family", ["albef", "blip", "clip"])
def test_a_host_that_has_not_learnt_it_is_refused_with_the_command(folder: Path, family: str) -> None:
    annotations = Nlvr2().load(folder, 2)
    with pytest.raises(HarnessError, match=r"^nlvr2: .* cannot compare: it can .*finetune --task nlvr2 [^\n]*$"):
        measured(Nlvr2(), encoder_of(small_host(family), annotations), annotations)


def test_a_set_without_statements_is_refused(folder: Path) -> None:
    annotations = replace(Nlvr2().load(folder, 2), statements=())
    with pytest.raises(HarnessError, match="nlvr2: the data has no statements"):
        measured(Nlvr2(), encoder_of(small_host("meter", "nlvr2"), annotations), annotations)
