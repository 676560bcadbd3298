"""Facts about EPIC's words and the semantic losses' objects: what is replaced, and what each patch shows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.cost.host import NO_WORDS
from harness.data.pairs import PairRef, read_pairs, sample_id
from harness.data.scene_layout import COLOURS, make_scene, patch_types
from harness.data.scenes import write_scenes
from harness.hosts.build import build_host
from harness.kit.errors import HarnessError
from harness.objectives import choose
from harness.objectives.epic import EpicObjective
from harness.objectives.parts.object_labels import (
    LabelFile,
    Labelled,
    object_table,
    objects_of,
    patch_labels,
    read_labels,
)
from harness.objectives.parts.objective import Moment, Objective, Pairs
from harness.objectives.parts.recipe import recipe_of
from harness.objectives.semantic import SemanticObjective
from harness.reduction.budget import make_reducer

WHOLE: dict[str, Any] = {"crop": None, "flip": False, "randaugment": False}


def made(name: str, method: str = "dense", recipe: dict[str, Any] = WHOLE, **settings: Any) -> Objective[Any]:
    torch.manual_seed(0)
    host = build_host("albef-tiny", text_layers=1, fusion_layers=1)
    reducer = make_reducer(method, host.shape, ratio=None if method == "dense" else 0.6)
    return choose("albef-tiny", name, {name: settings}).make(host, reducer, NO_WORDS, recipe_of("albef-tiny", recipe))


def texts(count: int = 64) -> Pairs:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(10, 150, (count, 12), generator=generator)
    ids[:, 0], ids[:, -1], ids[::2, 9], ids[::2, 10:] = 1, 2, 2, 0
    return Pairs(torch.randn(count, 3, 64, 64, generator=generator), ids, ids != 0, torch.arange(count) * 11)


def test_the_most_salient_words_are_replaced_and_specials_never() -> None:
    epic, pairs = made("epic", rate=0.3), texts()
    assert isinstance(epic, EpicObjective)
    batch = epic.host.text_batch(pairs.ids, pairs.mask)
    images = epic.host.encode_image(pairs.pixels)
    chosen, saliency = epic.salient(batch, images), epic.saliency(batch, images)
    words = epic.words(pairs.ids)
    torch.testing.assert_close(saliency.sum(1), torch.ones(64))
    assert not (chosen & ~words).any()
    assert chosen.sum(1).tolist() == [3] * 64  # of 8 and of 10 words
    least = saliency.masked_fill(~chosen, 2).min(1).values
    assert (least >= saliency.masked_fill(chosen | ~words, -1).max(1).values).all()
    logits = torch.zeros(64, 12, 157)
    logits[..., :5] = 50  # a language model that would say special tokens only
    replaced = epic.replaced(pairs, chosen, logits, Moment(seed=1, step=4))
    assert torch.equal(replaced[~chosen], pairs.ids[~chosen])
    assert replaced[chosen].min() > 4
    assert (replaced[chosen] != pairs.ids[chosen]).double().mean() > 0.95
    assert torch.equal(epic.replaced(pairs, chosen, logits, Moment(seed=1, step=4)), replaced)
    assert not torch.equal(epic.replaced(pairs, chosen, logits, Moment(seed=1, step=5)), replaced)


def test_the_language_model_passes_no_gradient_to_the_host() -> None:
    epic = made("epic")
    epic(texts(4), Moment())["language"].backward()
    assert all(parameter.grad is None for parameter in epic.host.parameters())
    assert all(parameter.grad is not None for parameter in epic.get_submodule("word_head").parameters())


def test_patches_of_a_scene_show_what_the_world_drew_there(tmp_path: Path) -> None:
    write_scenes(tmp_path / "scenes", "train", 5, 0)
    labels = read_labels(None)
    refs = read_pairs(str(tmp_path / "scenes")).refs
    objects = objects_of(refs, labels, from_file=False)
    numbers = torch.tensor([sample_id(ref.key) for ref in refs])
    found = patch_labels(object_table(objects, labels).rows(numbers), (8, 8))
    for ref, kinds, colours in zip(refs, found.classes, found.attributes, strict=True):
        scene = make_scene(0, "train", int(ref.key.partition(".")[0]))
        expected = torch.from_numpy(patch_types(scene))
        both = torch.where(kinds < 0, 48, kinds * len(COLOURS) + colours)
        assert torch.equal(both, expected)


def test_a_patch_shows_the_smallest_object_at_its_centre() -> None:
    labels = LabelFile(classes=("a", "b"), attributes=("red",))
    large = Labelled(kind="a", box=(0, 0, 1, 0.75))
    small = Labelled(kind="b", attribute="red", box=(0.5, 0, 1, 0.5))
    found = patch_labels(object_table({-3: [large, small], 5: []}, labels), (4, 2))
    assert found.classes.tolist() == [[0, 1, 0, 1, 0, 0, -1, -1], [-1] * 8]
    assert found.attributes.tolist() == [[-1, 0, -1, 0, -1, -1, -1, -1], [-1] * 8]
    assert found.boxes[0, 1].tolist() == [0.5, 0, 1, 0.5]


def test_patches_that_are_gone_have_no_loss_and_merged_ones_share_a_token() -> None:
    pairs = texts(3)
    for method in ("tome", "topk"):
        semantic = made("semantic", method)
        assert isinstance(semantic, SemanticObjective)
        ring = Labelled(kind="ring", attribute="red", box=(0, 0, 1, 1))
        semantic.objects = object_table({one: [ring] for one in (0, 11, 22)}, semantic.labels)
        tokens = semantic.encode_images(pairs.pixels, None, traced=True)
        assert tokens.origin is not None
        gone = (tokens.origin < 0).sum()
        assert gone > 0 if method == "topk" else gone == 0
        states, origin = semantic.host.normed(tokens)[:, 1:], tokens.origin
        logits = semantic.kind(states)
        expected = [
            torch.nn.functional.cross_entropy(logits[row, place], torch.tensor(4))
            for row in range(3)
            for place in origin[row].tolist()
            if place >= 0
        ]
        assert semantic.labels.classes[4] == "ring"
        torch.testing.assert_close(semantic(pairs, Moment())["classes"], torch.stack(expected).mean())


def test_bad_labels_and_moved_images_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "labels.json"
    with pytest.raises(HarnessError, match=r"labels\.json: cannot be read"):
        read_labels(path)
    entry = {"class": "cat", "attribute": None, "box": [0.5, 0, 0.25, 1]}
    path.write_text(json.dumps({"classes": ["cat"], "images": {"a.jpg": [entry]}}))
    with pytest.raises(HarnessError, match=r"image a\.jpg: cat, None, box \[0.5, 0.0, 0.25, 1.0\]: expected"):
        read_labels(path)
    path.write_text(json.dumps({"classes": ["cat"], "images": {"a.jpg": [entry | {"box": [0, 0, 1, 1]}]}}))
    known = PairRef("below/a.jpg#0", tmp_path / "a.jpg", ("a cat",))
    assert objects_of([known], read_labels(path), from_file=True)[sample_id(known.key)][0].kind == "cat"
    with pytest.raises(HarnessError, match=r"no labels of image b\.jpg; add it to the label file"):
        objects_of([PairRef("b.jpg#0", tmp_path / "b.jpg", ("b",))], read_labels(path), from_file=True)
    with pytest.raises(HarnessError, match=r"no labels of image b\.jpg; name a label file with --set-objective"):
        objects_of([PairRef("b.jpg#0", tmp_path / "b.jpg", ("b",))], read_labels(None), from_file=False)
    with pytest.raises(HarnessError, match="labels speak of the whole image"):
        made("semantic", recipe={})


def test_words_need_a_host_that_fuses() -> None:
    host = build_host("clip-tiny", depth=2, text_layers=1)
    with pytest.raises(HarnessError, match="Clip has no fuse, mlm_logits"):
        choose("clip-tiny", "epic").make(host, make_reducer("dense", host.shape), NO_WORDS, recipe_of("clip-tiny", {}))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("[" * 100_000, "not valid JSON \\(nested too deeply"),
        (f'{{"classes": [{"9" * 5000}]}}', "not valid JSON \\(an integer of more than"),
        ('{"classes": ["cat"], "images": [1]}', "expected an object with classes, attributes and images"),
        ('{"classes": ["cat"], "attributes": [], "images": {"a.jpg": [7]}}', "images.a.jpg.0"),
        ('{"classes": ["cat"], "attributes": [], "images": {"a.jpg": 7}}', "images.a.jpg"),
    ],
)
def test_a_label_file_that_is_none_is_one_line(content, reason, tmp_path):
    path = tmp_path / "labels.json"
    path.write_text(content)
    with pytest.raises(HarnessError, match=reason) as caught:
        read_labels(path)
    assert "\n" not in str(caught.value)
