"""Visual entailment: the figures are those of asking for each sentence alone, whatever the batch and the order."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.data.annotations.records import ENTAILMENT_LABELS
from harness.data.formats import Hypothesis, ImageTextSet
from harness.kit.errors import HarnessError
from harness.metrics.stats import deltas, quality
from harness.tasks.entailment import BY_CLASS, Entailment
from tests.tasks.small_hosts import by_sample, encoder_of, measured, noise, one_pair, sentence, small_host, turned

HOSTS = ("albef", "meter")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SNLI-VE as published: five images, three sentences each, one of them without a gold label."""
    root = tmp_path_factory.mktemp("snli_ve")
    rows = []
    for number in range(15):
        image, label = number // 3, ENTAILMENT_LABELS[number * 2 % 3]
        noise(root / "images" / f"{image}.jpg", image)
        gold = "-" if number == 7 else label
        rows.append(
            {"Flickr30K_ID": str(image), "pairID": f"p{number}", "sentence2": sentence(number), "gold_label": gold}
        )
    (root / "snli_ve_test.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return root


@torch.no_grad()
def each_alone(family: str, annotations: ImageTextSet, method: str) -> dict[str, int]:
    """The class each sentence gets when it is asked for alone."""
    encoder = encoder_of(small_host(family, "entailment"), annotations, method)
    found = {}
    for one in annotations.hypotheses:
        asked, states = one_pair(encoder, annotations.images.index(one.image), one.text)
        found[str(one.id)] = int(encoder.host.model.entail(asked, states).argmax())
    return found


@pytest.mark.parametrize("method", ["dense", "elip"])
@pytest.mark.parametrize("family", HOSTS)
def test_figures_are_those_of_asking_for_each_sentence_alone(folder: Path, family: str, method: str) -> None:
    annotations = Entailment().load(folder, None)
    expected = each_alone(family, annotations, method)
    assert len(set(expected.values())) > 1
    encoder = encoder_of(small_host(family, "entailment"), annotations, method)
    outcome = measured(Entailment(), encoder, annotations)
    found = by_sample(outcome)
    assert len(expected) == 14
    assert found["entailment_accuracy"] == {
        str(one.id): float(expected[str(one.id)] == one.label) for one in annotations.hypotheses
    }
    for label, metric in enumerate(BY_CLASS):
        own = {str(one.id) for one in annotations.hypotheses if one.label == label}
        assert found[metric] == {sample: found["entailment_accuracy"][sample] for sample in own}
    assert encoder.encoded_pairs == (14 if method == "elip" else 0)
    assert set(outcome.outcomes) == {one.name for one in Entailment.quantities}


@pytest.mark.parametrize("method", ["dense", "elip"])
def test_neither_batch_size_nor_order_changes_a_judgement(folder: Path, method: str) -> None:
    annotations = Entailment().load(folder, None)
    other = replace(annotations, images=turned(annotations.images), hypotheses=turned(annotations.hypotheses))
    host = small_host("albef", "entailment")
    found = [
        by_sample(measured(Entailment(), encoder_of(host, each, method, size), each))
        for each, size in ((annotations, 1), (annotations, 5), (annotations, 14), (other, 4))
    ]
    assert found[0] == found[1] == found[2] == found[3]


def test_classes_that_occur_have_their_accuracy_and_images_are_the_clusters() -> None:
    hypotheses = [Hypothesis(number, Path("x"), "red", label) for number, label in enumerate((0, 0, 2, 2))]
    found = Entailment().outcomes([0, 1, 2, 2], hypotheses, ["a", "a", "b", "c"])
    assert {metric: values.tolist() for metric, (_, _, values) in found.items()} == {
        "entailment_accuracy": [1, 0, 1, 1],
        "entailment_contradiction": [1, 0],
        "entailment_entailment": [1, 1],
    }
    assert found["entailment_entailment"][:2] == (["2", "3"], ["b", "c"])


def test_the_record_has_intervals_by_image(folder: Path) -> None:
    annotations = Entailment().load(folder, None)
    frame = measured(Entailment(), encoder_of(small_host("meter", "entailment"), annotations), annotations).frame()
    assert frame["cluster"].nunique() == 5
    entry = quality(frame)["entailment"]["entailment_accuracy"]
    assert entry["n"] == 14
    assert deltas(frame, frame)["entailment"]["entailment_accuracy"]["delta_to_dense"] == 0


def test_blank_images_show_what_sentences_alone_give_away(folder: Path) -> None:
    """A sentence is then judged alike of all images, where it is not when they are seen."""
    annotations = Entailment().load(folder, None)
    host = small_host("albef", "entailment")
    claims = tuple(
        Hypothesis(f"{row} {column}", image, one.text, 1)
        for row, one in enumerate(annotations.hypotheses)
        for column, image in enumerate(annotations.images)
    )
    data = replace(annotations, hypotheses=claims)
    right = {}
    for blind in (False, True):
        outcome = measured(Entailment(), encoder_of(host, data), data, blank_images=blind)
        right[blind] = outcome.outcomes["entailment_accuracy"][2].reshape(14, 5)
    assert np.array_equal(right[True].min(1), right[True].max(1))
    assert not np.array_equal(right[False].min(1), right[False].max(1))


def test_a_sentence_that_is_cut_is_counted(folder: Path) -> None:
    annotations = Entailment().load(folder, 1)
    long = replace(annotations.hypotheses[0], text="red " * 60)
    data = replace(annotations, hypotheses=(long, *annotations.hypotheses[1:]))
    host = small_host("meter", "entailment")
    assert measured(Entailment(), encoder_of(host, data), data).diagnostics == {"truncated_texts": 1}
    assert measured(Entailment(), encoder_of(host, annotations), annotations).diagnostics == {}


@pytest.mark.parametrize("family", ["albef", "blip", "clip"])
def test_a_host_that_has_not_learnt_it_is_refused_with_the_command(folder: Path, family: str) -> None:
    annotations = Entailment().load(folder, 1)
    with pytest.raises(
        HarnessError, match=r"^entailment: .* cannot entail: it can .*finetune --task entailment [^\n]*$"
    ):
        measured(Entailment(), encoder_of(small_host(family), annotations), annotations)


def test_a_set_without_sentences_is_refused(folder: Path) -> None:
    annotations = replace(Entailment().load(folder, 1), hypotheses=())
    with pytest.raises(HarnessError, match="entailment: the data has no sentences"):
        measured(Entailment(), encoder_of(small_host("meter", "entailment"), annotations), annotations)
