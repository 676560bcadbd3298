"""Facts about whole pre-training runs of seconds: they learn, leave what loads again, and are not repeated."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from harness.hosts.parts.towers import open_tower
from harness.hosts.weights.load import abilities_in, load_model
from harness.kit.errors import HarnessError
from harness.objectives.parts.objective import Pairs
from harness.reduction import encode
from harness.reduction.budget import make_reducer
from harness.train.loop import Run
from harness.train.pretrain import pretrain
from harness.train.request import PretrainRequest

LOSSES = {
    "albef": {"contrast", "matching", "masked_words"},
    "blip": {"contrast", "matching", "caption"},
    "meter": {"masked_words", "matching"},
    "clip": {"contrast"},
}


def logged(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module", params=LOSSES)
def finished(request: pytest.FixtureRequest, ask: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A finished run of each host: its family, request and record."""
    asked = ask(request.param, tmp_path_factory.mktemp(request.param), steps=16)
    return request.param, asked, pretrain(asked)


def test_every_head_of_a_host_is_trained_by_its_own_objective(
    finished: tuple[str, PretrainRequest, dict[str, Any]],
) -> None:
    _, asked, _ = finished
    model = load_model(asked.model, asked.out).model
    assert model.abilities == set(model.heads()) == abilities_in(asked.model, asked.out / "model.safetensors")


def test_what_nothing_trained_is_no_ability_of_what_is_saved(ask: Any, tmp_path: Path) -> None:
    """A matching head that was frozen as it was drawn is not to re-rank anything; trained later, it is."""
    asked = ask("albef", tmp_path, recipe={"multipliers": {"match_head": 0}}, steps=2)
    pretrain(asked)
    model = load_model(asked.model, asked.out).model
    assert (
        model.abilities == set(model.heads()) - {"match"} == abilities_in(asked.model, asked.out / "model.safetensors")
    )
    with pytest.raises(HarnessError, match=r"cannot match: its weights hold no match_head\.bias and 1 more tensors"):
        raise model.cannot("match")
    recipe = {**asked.recipe, "multipliers": {}}
    on = {"out": tmp_path / "on", "init": str(asked.out), "recipe": recipe, "sizes": {}, "vocabulary": None}
    again = asked.model_copy(update=on)
    pretrain(again)
    assert load_model(again.model, again.out).model.abilities == set(model.heads())


def test_the_losses_are_finite_and_fall(finished: tuple[str, PretrainRequest, dict[str, Any]]) -> None:
    family, asked, _ = finished
    entries = logged(asked.out)
    assert all(set(entry["losses"]) == LOSSES[family] for entry in entries)
    totals = [sum(entry["losses"].values()) for entry in entries]
    assert all(math.isfinite(total) for total in totals)
    assert sum(totals[-4:]) / 4 < sum(totals[:2]) / 2 - 0.1


def test_every_step_is_logged_with_its_place_and_rate(finished: tuple[str, PretrainRequest, dict[str, Any]]) -> None:
    _, asked, record = finished
    entries = logged(asked.out)
    assert [entry["step"] for entry in entries] == list(range(1, 17))
    assert [entry["epoch"] for entry in entries[:5]] == [0, 0, 1, 1, 2]
    assert [entry["learning_rate"] for entry in entries[:3]] == pytest.approx([0, 0.0015, 0.003])
    assert all(entry["images_per_s"] > 0 and entry["memory_mib"] > 0 for entry in entries)
    assert list((asked.out / "tensorboard").glob("events.*"))
    assert (record["steps"], record["epochs"], record["samples"]) == (16, 7, 20)
    assert (record["bad_samples"], record["truncated_captions"], record["processes"]) == (0, 0, 1)
    assert record == json.loads((asked.out / "recipe.json").read_text())


def test_the_weights_load_again_and_give_finite_outputs(
    finished: tuple[str, PretrainRequest, dict[str, Any]],
) -> None:
    family, asked, record = finished
    config = json.loads((asked.out / "config.json").read_text())
    assert (config["architecture"], config["preset"], config["depth"]) == (family, "tiny", 3)
    loaded = load_model(asked.model, asked.out)
    assert loaded.weights_digest == record["weights_sha256"]
    model = loaded.model
    texts = model.text_batch(*loaded.tokenizer(["red dog near house", "unheard-of words"]))
    tower = open_tower(model.vision)
    reducer = make_reducer("elip", tower.shape, schedule=asked.schedule)
    with torch.no_grad():
        images = encode(tower, reducer, torch.randn(2, 3, 32, 32), model.guide(texts))
        outputs = [model.match(texts, images)] if "match" in model.abilities else []
        outputs += [model.embed_image(images), model.embed_text(texts)] if "contrast" in model.abilities else []
    assert images.states.shape[1] < 17
    assert outputs
    assert all(torch.isfinite(output).all() for output in outputs)


def test_a_finished_run_is_not_repeated(finished: tuple[str, PretrainRequest, dict[str, Any]]) -> None:
    _, asked, record = finished
    before = {path: path.stat().st_mtime_ns for path in asked.out.rglob("*") if path.is_file()}
    assert pretrain(asked.model_copy(update={"save_every": 5, "log_every": 3})) == record
    assert {path: path.stat().st_mtime_ns for path in asked.out.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "holds a finished run with seed 0, not 1; name another --out"),
        ({"method": "evit"}, "holds a finished run with method elip, not evit"),
        ({"recipe": {"batch_size": 4}}, "holds a finished run with batch_size 8, not 4"),
    ],
)
def test_a_folder_of_another_finished_run_is_refused(
    finished: tuple[str, PretrainRequest, dict[str, Any]], change: dict[str, Any], message: str
) -> None:
    _, asked, _ = finished
    recipe = asked.recipe | change.get("recipe", {})
    with pytest.raises(HarnessError, match=message):
        pretrain(asked.model_copy(update=change | {"recipe": recipe}))


def test_methods_of_each_kind_train(ask: Any, tmp_path: Path) -> None:
    for name in ("dense", "elip", "elip_lite", "evit", "random", "tome", "topk", "pitome", "trips"):
        schedule = {} if name in {"elip", "elip_lite", "evit", "random", "topk", "trips"} else {"schedule": None}
        record = pretrain(ask("clip", tmp_path / name, method=name, steps=2, **schedule))
        assert record["method"]["name"] == name
        assert all(math.isfinite(entry["losses"]["contrast"]) for entry in logged(tmp_path / name))


@pytest.mark.parametrize("family", ["albef", "blip"])
def test_a_momentum_tower_s_mask_trains(ask: Any, tmp_path: Path, family: str) -> None:
    record = pretrain(ask(family, tmp_path, method="aclip", schedule=None, steps=2))
    assert record["method"] == {"name": "aclip", "keep": 0.5}
    assert all(math.isfinite(entry["losses"]["contrast"]) for entry in logged(tmp_path))


@pytest.mark.parametrize("family", ["albef", "clip"])
def test_recomputation_changes_no_loss(ask: Any, tmp_path: Path, family: str) -> None:
    losses = []
    for recompute in (False, True):
        out = tmp_path / str(recompute)
        pretrain(ask(family, out, steps=4, dtype="float64", recompute=recompute))
        losses.append([entry["losses"] for entry in logged(out)])
    for plain, again in zip(*losses, strict=True):
        assert again == pytest.approx(plain, abs=1e-12, rel=0)


def test_accumulation_takes_so_many_batches_a_step(ask: Any, tmp_path: Path) -> None:
    record = pretrain(ask("albef", tmp_path, {"batch_size": 4, "accumulate": 2}, steps=4))
    state = torch.load(max((tmp_path / "checkpoints").glob("*.pt")), weights_only=True)
    assert (state["position"]["step"], state["position"]["batches"]) == (4, 8)
    assert record["epochs"] == 1
    assert all(math.isfinite(entry["losses"]["contrast"]) for entry in logged(tmp_path))


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(ask: Any, tmp_path: Path) -> None:
    asked = ask("albef", tmp_path, {"learning_rate": 1e30, "warmup_steps": 4}, save_every=1)
    with pytest.raises(HarnessError, match=r"is not finite at step \d: the checkpoint of step \d is kept") as caught:
        pretrain(asked)
    assert "\n" not in str(caught.value)
    assert "lower learning_rate or set clip_norm" in str(caught.value)
    kept = max((tmp_path / "checkpoints").glob("*.pt"))
    assert f"checkpoint of step {int(kept.stem[-8:])} is kept" in str(caught.value)
    weights = torch.load(kept, weights_only=True)["objective"]
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())
    assert not (tmp_path / "recipe.json").exists()


def test_a_checkpoint_with_weights_that_are_not_finite_is_not_written(
    ask: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    advance = Run._advance

    def spoil(run: Run, pairs: Pairs) -> None:
        advance(run, pairs)
        if run.position.step == 4:
            next(run.objective.host.parameters()).data.fill_(math.nan)

    monkeypatch.setattr(Run, "_advance", spoil)
    with pytest.raises(
        HarnessError, match=r"weight host\.\S+ is not finite at step 4: the checkpoint of step 2 is kept"
    ):
        pretrain(ask("clip", tmp_path))
    assert [path.stem for path in (tmp_path / "checkpoints").glob("*.pt")] == ["step-00000002"]


def test_a_run_stopped_between_its_last_checkpoint_and_its_weights_only_writes_them(ask: Any, tmp_path: Path) -> None:
    asked = ask("clip", tmp_path)
    record = pretrain(asked)
    for name in ("recipe.json", "model.safetensors"):
        (tmp_path / name).unlink()
    log = (tmp_path / "log.jsonl").read_text()
    again = pretrain(asked)
    assert (again["weights_sha256"], again["steps"]) == (record["weights_sha256"], 6)
    assert (tmp_path / "model.safetensors").is_file()
    assert (tmp_path / "log.jsonl").read_text() == log


def test_words_come_from_shards_where_there_is_nothing_else(ask: Any, shards: str, tmp_path: Path) -> None:
    asked = ask("clip", tmp_path / "out", data=(shards,), steps=1, vocabulary=None)
    pretrain(asked)
    words = (asked.out / "vocab.txt").read_text().split()
    assert {"red", "dog", "street"} <= set(words)


def test_a_tower_is_taken_from_another_host_and_a_text_side_by_a_blip_alone(ask: Any, tmp_path: Path) -> None:
    first = ask("albef", tmp_path / "albef", steps=1, recipe={"learning_rate": 1e-12})
    pretrain(first)
    taken = ask("blip", tmp_path / "blip", steps=1, init_vision=str(first.out), recipe={"learning_rate": 1e-12})
    pretrain(taken)
    one, other = (load_model(f"{name}-tiny", tmp_path / name).model.vision.state_dict() for name in ("albef", "blip"))
    assert max((one[name] - other[name]).abs().max().item() for name in one) < 1e-6
    other = {"text_layers": 2, "projection": 12}
    with pytest.raises(HarnessError, match="the vocabulary is not that of"):
        pretrain(ask("blip", tmp_path / "words", sizes=other, steps=1, vocabulary=70, init_text=str(first.out)))
    with pytest.raises(HarnessError, match="--init: the weights decide sizes, vocabulary and dropout"):
        pretrain(ask("albef", tmp_path / "again", steps=1, init=str(first.out)))
    with pytest.raises(HarnessError, match="Meter cannot take its text side from a host of albef"):
        pretrain(ask("meter", tmp_path / "meter", steps=1, init_text=str(first.out)))


def test_weights_are_left_in_the_dtype_asked_for(ask: Any, tmp_path: Path) -> None:
    asked = ask("clip", tmp_path / "out", steps=1, store="float16")
    assert pretrain(asked)["stored"] == "float16"
    assert {tensor.dtype for tensor in load_file(asked.out / "model.safetensors").values()} == {torch.float16}
