"""Facts about starts: made for one side alone, found by family, and refused early where they do not fit."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from harness.hosts.build import build_host
from harness.kit.errors import HarnessError
from harness.train.pretrain import pretrain
from harness.train.protocol import plan_stages
from harness.train.request import RANDOM, PretrainRequest, PretrainSpec
from harness.train.starts import pretraining_changes, random_sides, start_file, start_sides, world_words
from tests.train.conftest import SIZES, TOWER

Make = Callable[..., Path]
FAMILIES = ("albef", "blip", "clip", "meter")


def asked(family: str, out: Path, **changes: Any) -> PretrainRequest:
    """A run in the small world by a host of its image size, but few channels."""
    plain: dict[str, Any] = {"data": ("scenes-small",), "device": "cpu", "quiet": True, "log_every": 1}
    recipe = {"batch_size": 4} | changes.pop("recipe", {})
    sizes = TOWER | SIZES[family] | changes.pop("sizes", {})
    return PretrainRequest(model=f"{family}-tiny", out=out, recipe=recipe, sizes=sizes, **plain | changes)


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """The folder of a start of an objective and a family, made once."""
    root = tmp_path_factory.mktemp("starts")

    def folder(objective: str, family: str, steps: int = 2) -> Path:
        out = root / objective / family
        if not out.exists():
            pretrain(asked(family, out, objective=objective, steps=steps))
        return out

    return folder


def losses(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line)["losses"] for line in (folder / "log.jsonl").read_text().splitlines() if "losses" in line]


@pytest.mark.parametrize("family", FAMILIES)
def test_what_reads_texts_is_left_alone_by_one_and_what_sees_by_the_other(make: Make, family: str) -> None:
    host = build_host(f"{family}-tiny", **TOWER, **SIZES[family])
    tower, side = (load_file(make(one, family) / "model.safetensors") for one in ("scene_vision", "scene_text"))
    assert set(tower) == {name for name in host.state_dict() if name.startswith("vision.")}
    assert side
    assert not set(side) & set(tower)
    # Nothing that joins the two is in a start.
    joins = (r"fusion\.\d+\.crossattention", "text_fusion", "image_fusion", "match_head", "(image|text)_projection")
    pattern = "|".join((*joins, "temperature", "logit_scale"))
    assert not [name for name in {*tower, *side} if re.match(pattern, name)]


def test_the_losses_fall(tmp_path: Path) -> None:
    many = {"batch_size": 16}
    faster = {"scene_vision": {"learning_rate": 3e-3, "ramp_steps": 3, "surroundings_from": 0.75}}
    vision = asked("albef", tmp_path / "v", objective="scene_vision", steps=24, recipe=many, objective_settings=faster)
    pretrain(vision)
    found = losses(vision.out)
    assert set(found[0]) == {"patches", "places", "facts"}
    assert set(found[-1]) == {"patches", "places", "facts", "surroundings"}
    for name, share in (("patches", 0.8), ("facts", 0.8), ("places", 0.95)):
        assert found[-1][name] < share * found[0][name]
    faster = {"scene_text": {"learning_rate": 5e-3, "ramp_steps": 3}}
    text = asked("clip", tmp_path / "t", objective="scene_text", steps=12, recipe=many, objective_settings=faster)
    pretrain(text)
    assert losses(text.out)[-1]["facts"] < 0.8 * losses(text.out)[0]["facts"]
    assert set(losses(text.out)[-1]) == {"facts"}  # CLIP has no head for words


def test_hidden_words_follow_the_facts_where_the_text_side_is_a_bert(tmp_path: Path) -> None:
    faster = {"scene_text": {"learning_rate": 5e-3, "ramp_steps": 3, "words_from_step": 4}}
    many = {"recipe": {"batch_size": 16}, "objective_settings": faster}
    text = asked("albef", tmp_path, objective="scene_text", steps=16, **many)
    pretrain(text)
    found = losses(text.out)
    assert [set(one) for one in (found[3], found[4])] == [{"facts"}, {"facts", "masked_words"}]
    assert found[-1]["masked_words"] < 0.8 * found[4]["masked_words"]


def test_words_alone_read_no_image() -> None:
    host = build_host("albef-tiny", **TOWER, **SIZES["albef"]).eval()
    ids, mask = torch.tensor([[2, 7, 8, 3]]), torch.ones(1, 4, dtype=torch.bool)
    with torch.no_grad():
        before = host.words_alone(ids, mask)
        for name, parameter in host.named_parameters():
            if ".crossattention." in name or name.startswith("vision."):
                parameter.zero_()
        assert torch.equal(host.words_alone(ids, mask), before)
    with pytest.raises(HarnessError, match="Clip cannot name hidden words without an image"):
        build_host("clip-tiny", **TOWER, **SIZES["clip"]).words_alone(ids, mask)


def test_a_start_depends_on_its_seed_alone_and_goes_on_where_it_stopped(make: Make, tmp_path: Path) -> None:
    whole = asked("albef", tmp_path / "whole", objective="scene_text", steps=4, save_every=2)
    pretrain(whole)
    broken = whole.model_copy(update={"out": tmp_path / "broken"})
    pretrain(broken)
    newest = max((broken.out / "checkpoints").glob("*.pt"))
    newest.unlink()
    (broken.out / "recipe.json").unlink()
    pretrain(broken)
    one, other = (load_file(run.out / "model.safetensors") for run in (whole, broken))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("family", FAMILIES)
def test_both_sides_start_a_host(make: Make, pairs: str, tmp_path: Path, family: str) -> None:
    starts = {side: str(make(f"scene_{side}", family)) for side in ("vision", "text")}
    out, words = tmp_path / family, str(make("scene_text", family) / "vocab.txt")
    named = {"init_vision": starts["vision"], "init_text": starts["text"], "recipe": {"learning_rate": 1e-12}}
    named |= {"data": (pairs,), "tokenizer": words}
    record = pretrain(asked(family, out, steps=1, method="dense", **named))
    assert {line.partition(":")[0] for line in record["start"]} == {"vision", "text"}
    held = load_file(out / "model.safetensors")
    for side in starts.values():
        for name, tensor in load_file(Path(side) / "model.safetensors").items():
            if "words" not in name:  # BLIP's [DEC] and [ENC] begin as [CLS]
                assert (held[name] - tensor).abs().max() < 1e-6


def test_blips_readers_begin_alike(make: Make) -> None:
    host = build_host("blip-tiny", **TOWER, **SIZES["blip"])
    start_sides(host, "blip", PretrainRequest(init_text=str(make("scene_text", "blip"))), world_words("blip-tiny"))
    encoder, decoder = host.state_dict(), host.get_submodule("decoder").state_dict()
    assert decoder
    assert all(torch.equal(encoder[f"encoder.{name}"], tensor) for name, tensor in decoder.items())
    words = encoder["embeddings.words.weight"]
    assert torch.equal(words[host.config.enc_id], words[host.config.cls_id])
    assert torch.equal(words[host.config.dec_id], words[host.config.cls_id])


def test_blip_reads_words_by_an_albefs_start_and_keeps_the_rest_as_it_is_drawn(make: Make) -> None:
    source, layers = make("scene_text", "albef"), SIZES["albef"]["text_layers"]
    sizes = SIZES["blip"] | {"text_layers": layers + SIZES["albef"]["fusion_layers"]}
    host = build_host("blip-tiny", **TOWER, **sizes)
    drawn = {name: tensor.clone() for name, tensor in host.state_dict().items()}
    lines = start_sides(host, "blip", PretrainRequest(init_text=str(source)), world_words("blip-tiny"))
    theirs, mine = load_file(source / "model.safetensors"), host.state_dict()
    assert torch.equal(mine["word_transform.0.weight"], theirs["mlm_transform.0.weight"])
    assert torch.equal(mine["encoder.0.attention.self.query.weight"], theirs["text.0.attention.self.query.weight"])
    assert torch.equal(
        mine[f"encoder.{layers}.intermediate.dense.weight"], theirs["fusion.0.intermediate.dense.weight"]
    )
    for name in ("match_head.weight", "image_projection.weight", f"encoder.{layers}.crossattention.self.query.weight"):
        assert torch.equal(mine[name], drawn[name])
    assert any("a start has read no image" in line for line in lines)


def test_meter_takes_a_clips_tower_without_its_last_block(make: Make) -> None:
    sizes = TOWER | SIZES["meter"] | {"depth": TOWER["depth"] - 1}
    host = build_host("meter-tiny", **sizes)
    source = make("scene_vision", "clip")
    start_sides(host, "meter", PretrainRequest(init_vision=str(source)), ())
    theirs = load_file(source / "model.safetensors")
    mine = {name: tensor for name, tensor in host.state_dict().items() if name.startswith("vision.")}
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert len(theirs) > len(mine)


def test_a_start_is_found_by_family_its_own_first(tmp_path: Path) -> None:
    for family in ("albef", "clip"):
        (tmp_path / family).mkdir()
        (tmp_path / family / "model.safetensors").touch()
    places = [
        start_file(str(tmp_path), family, kin).parent.name
        for family, kin in (
            ("albef", frozenset({"clip"})),
            ("blip", frozenset({"albef"})),
            ("meter", frozenset({"clip"})),
        )
    ]
    assert places == ["albef", "albef", "clip"]
    with pytest.raises(HarnessError, match=r"no model\.safetensors or pytorch_model\.bin in this folder"):
        start_file(str(tmp_path), "other")


def test_a_start_that_does_not_fit_is_refused_before_anything_runs(make: Make, tmp_path: Path) -> None:
    tower, texts = str(make("scene_vision", "albef")), str(make("scene_text", "albef"))
    out = tmp_path / "out"
    wide = {"width": 48}
    for option, source in (("init_vision", tower), ("init_text", texts)):
        with pytest.raises(HarnessError, match=r"not of Albef of this size: .+ is \(.*24.*\), expected \(.*48.*\)"):
            pretrain(asked("albef", out, sizes=wide, **{option: source}))
    words = tmp_path / "vocab.txt"
    words.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red"]) + "\n")
    with pytest.raises(HarnessError, match="--init-text: the vocabulary is not that of"):
        pretrain(asked("albef", out, tokenizer=str(words), init_text=texts))
    with pytest.raises(HarnessError, match="Meter cannot take its text side from a host of albef"):
        pretrain(asked("meter", out, init_text=texts))
    assert not out.exists()


def test_words_that_are_still_to_be_built_are_compared_once_they_are(make: Make, pairs: str, tmp_path: Path) -> None:
    texts = str(make("scene_text", "clip"))
    other = asked("clip", tmp_path / "out", data=(pairs,), vocabulary=60, init_text=texts, steps=1)
    with pytest.raises(HarnessError, match="--init-text: the vocabulary is not that of"):
        pretrain(other)


def test_a_protocol_refuses_them_while_it_plans(make: Make) -> None:
    for option, objective in (("init_vision", "scene_vision"), ("init_text", "scene_text")):
        given = {"pretrain": {option: str(make(objective, "albef"))}}
        with pytest.raises(HarnessError, match="not of Albef of this size"):
            plan_stages("pretrain", "albef-tiny", "vqa", data="scenes-small", device="cpu", given=given)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": ("scenes", "scenes-small")}, "SceneText: is supervised by what a built-in world shows; take --data"),
        ({"recipe": {"accumulate": 2}}, "SceneText: counts its steps in batches; leave the recipe's accumulate at 1"),
        (
            {"sizes": {"image_size": 32}, "recipe": {"image_size": 32}},
            "a scene has 8 patches a side; take image_size 64",
        ),
        (
            {"objective": "scene_vision", "method": "evit", "schedule": "begin=1 keep=.6"},
            "teaches what every patch shows; take --method dense",
        ),
        ({"objective": "scene_text+albef"}, "objectives scene_text and albef: need different batches"),
    ],
)
def test_what_a_start_cannot_be_made_of_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(HarnessError) as caught:
        pretrain(asked("albef", tmp_path / "out", steps=1, **{"objective": "scene_text"} | changes))
    assert message in str(caught.value)


def test_a_protocol_takes_the_starts_that_ship_for_host_and_world() -> None:
    def begun(model: str, world: str, **given: Any) -> dict[str, str]:
        (first, *_) = plan_stages("pretrain", model, "vqa", data=world, device="cpu", given={"pretrain": given})
        assert first.data == (world,)
        assert set(first.files) <= set(first.digests)
        return first.files

    both = {"init_vision": "scenes-small-vit", "init_text": "scenes-small-bert"}
    assert begun("albef-tiny", "scenes-small") == both
    assert begun("blip-tiny", "scenes-small") == both
    assert begun("meter-tiny", "scenes-small")["init_vision"] == "scenes-small-vit"
    assert begun("albef-tiny", "scenes-small", init_text="none") == both | {"init_text": "none"}
    assert begun("albef-tiny", "scenes-small", objective="curriculum") == {}
    assert begun("albef-tiny", "scenes-small", vocabulary=100) == {}
    assert begun("albef-tiny", "scenes:shapes=6") == {}
    whole = {"init_vision": "scenes-vit", "init_text": "scenes-bert"}
    assert begun("albef-tiny", "scenes") == begun("blip-tiny", "scenes") == whole


def test_the_numbers_of_a_world_are_for_those_that_begin_with_its_starts() -> None:
    def changes(from_random: bool) -> dict[str, Any]:
        return pretraining_changes("albef-tiny", ("scenes-small",), {"mask_rate": 0.2}, from_random=from_random)

    assert changes(True) == {"crop": None, "flip": False, "randaugment": False, "mask_rate": 0.2}
    assert changes(False).items() > changes(True).items()
    assert changes(False)["max_steps"] == 900


def test_pretraining_says_which_sides_begin_at_random_though_a_start_ships() -> None:
    def lines(model: str = "albef-tiny", world: str = "scenes-small", **given: Any) -> list[str]:
        return random_sides(model, PretrainSpec(**given), (world,))

    vision = "vision: random weights; --init-vision scenes-small-vit ships for albef-tiny on scenes-small"
    text = "text: random weights; --init-text scenes-small-bert ships for albef-tiny on scenes-small"
    assert lines() == [vision, text]
    assert lines("clip-tiny") == [line.replace("albef-tiny", "clip-tiny") for line in (vision, text)]
    assert lines("albef-base") == lines("clip-base") == []  # of another preset
    assert lines(world="scenes") == [line.replace("scenes-small", "scenes") for line in (vision, text)]
    assert lines(init_text="scenes-small-bert") == [vision]
    assert lines(init_vision="none", init_text="none") == lines(init="weights") == lines(world="scenes:shapes=6") == []


SHIPPED = [
    *product(["scenes-small"], ["vit", "bert"], ["albef", "clip"]),
    *product(["scenes-small", "scenes"], ["bert"], ["albef", "meter"]),
    ("scenes", "vit", "albef"),
]


@pytest.mark.parametrize(("world", "name", "family"), SHIPPED)
def test_shipped_starts_hold_one_side_and_say_how_they_were_made(world: str, name: str, family: str) -> None:
    path = start_file(f"{world}-{name}", family)
    record = json.loads((path.parent / "recipe.json").read_text())
    assert record["objective"]["name"] == {"vit": "scene_vision", "bert": "scene_text"}[name]
    assert record["facts"]["data"] == [world]
    assert losses(path.parent)
    assert {tensor.startswith("vision.") for tensor in load_file(path)} == {name == "vit"}


def test_a_start_that_does_not_ship_for_a_family_is_refused() -> None:
    with pytest.raises(HarnessError, match="scenes-small-bert: there is none for a host of blip, only for albef, "):
        start_file("scenes-small-bert", "blip")


def test_none_leaves_a_side_as_it_is_drawn(make: Make, pairs: str, tmp_path: Path) -> None:
    words = str(make("scene_text", "albef") / "vocab.txt")
    shared: dict[str, Any] = {"data": (pairs,), "tokenizer": words, "steps": 1}
    plain, none = (
        asked("albef", tmp_path / name, **shared, **more)
        for name, more in (("plain", {}), ("none", {"init_vision": "none", "init_text": "none"}))
    )
    assert pretrain(plain)["weights_sha256"] == pretrain(none)["weights_sha256"]


def test_starts_are_fetched_where_that_is_asked_for_and_those_that_ship_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = list[str]()
    monkeypatch.setattr("harness.hosts.weights.hub.fetch", asked.append)
    named = {"init": "albef-tiny", "init_vision": "scenes-small-vit", "init_text": "someone/bert"}
    PretrainRequest(**named).fetch()
    assert asked == []
    PretrainRequest(**named, download=True).fetch()
    PretrainRequest(init_text=RANDOM, download=True).fetch()
    assert asked == ["someone/bert"]
