"""Facts about fine-tuning runs of seconds: every host on its tasks, with a method in its tower."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from harness.cli.main import main
from harness.data.pair_batch import PairBatch
from harness.hosts.parts.tokenizer import TextTokenizer
from harness.hosts.parts.towers import open_tower
from harness.hosts.ready import load_host
from harness.hosts.weights.load import load_model
from harness.kit.errors import HarnessError
from harness.kit.registry import models
from harness.objectives import choose_downstream
from harness.objectives.downstream.parts.many_captions import NOBODY
from harness.objectives.downstream.vqa import answer_targets
from harness.objectives.parts.answer_list import frequent_answers
from harness.objectives.parts.objective import Moment
from harness.objectives.parts.recipe import finetune_recipe, finetuned_tasks
from harness.reduction.budget import make_reducer
from harness.train.finetune import finetune, task_host
from harness.train.loop import Run
from harness.train.request import FinetuneRequest
from harness.train.task_data import task_data
from tests.train.conftest import ANSWERS, STAGES, WORDS, picture

ABLE = {
    "albef": ("retrieval", "vqa", "entailment", "nlvr2"),
    "blip": ("retrieval", "vqa", "nlvr2", "captioning"),
    "meter": ("retrieval", "vqa", "entailment", "nlvr2"),
    "clip": ("retrieval",),
}
RUNS = [(family, task) for family, tasks in ABLE.items() for task in tasks]
Ask = Callable[..., FinetuneRequest]


@pytest.fixture
def ask(world: Path, start: Callable[[str], str], tmp_path: Path) -> Ask:
    """A request of a run of about a second."""

    def make(family: str, task: str, **changes: Any) -> FinetuneRequest:
        folder = "captions" if task in ("retrieval", "captioning") else task
        numbers = {"image_size": 32, "batch_size": 8, "queue_size": 24, "warmup_steps": 1, "false_texts": 3}
        asked: dict[str, Any] = {
            "model": f"{family}-tiny",
            "task": task,
            "data": (str(world / folder),),
            "out": tmp_path / f"{family}-{task}",
            "init": start(family),
            "split": {"entailment": "dev", "nlvr2": "dev"}.get(task),
            "method": "elip",
            "schedule": STAGES,
            "recipe": numbers | changes.pop("recipe", {}),
            "steps": 4,
            "device": "cpu",
            "log_every": 1,
            "quiet": True,
        }
        return FinetuneRequest(**asked | changes)

    return make


@pytest.mark.parametrize(("family", "task"), RUNS)
def test_every_host_learns_its_tasks_and_what_is_left_loads_again(ask: Ask, family: str, task: str) -> None:
    numbers = {"learning_rate": 3e-3, "queue_size": 8, "momentum": 0.5, "alpha": 0.2 if family == "albef" else 0.0}
    asked = ask(family, task, steps=40 if (family, task) == ("meter", "retrieval") else 12, recipe=numbers)
    record = finetune(asked)
    losses = [json.loads(line)["losses"] for line in (asked.out / "log.jsonl").read_text().splitlines()]
    totals = [sum(entry.values()) for entry in losses]
    assert all(math.isfinite(total) for total in totals)
    # In the first two steps the queue holds random columns, which are easily told from features.
    assert sum(totals[-3:]) < sum(totals[2:5])
    loaded = load_model(f"{family}-tiny", asked.out)
    assert loaded.model.config.task == task
    assert (set(loaded.answers) == {*ANSWERS, "left"}) == (task == "vqa")
    assert record["method"]["name"] == "elip"
    assert finetune(asked) == record


@pytest.mark.parametrize(("family", "task"), [("albef", "vqa"), ("meter", "nlvr2"), ("blip", "captioning")])
def test_a_run_that_was_stopped_goes_on_to_the_same_weights(
    ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, task: str
) -> None:
    whole = ask(family, task, out=tmp_path / "whole", save_every=2)
    parts = ask(family, task, out=tmp_path / "parts", save_every=2)
    record = finetune(whole)
    advance = Run._advance

    def stopped(run: Run, pairs: Any) -> None:
        if run.position.step == 3:
            raise KeyboardInterrupt
        advance(run, pairs)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "_advance", stopped)
        with pytest.raises(KeyboardInterrupt):
            finetune(parts)
    assert [path.name for path in (parts.out / "checkpoints").glob("*.pt")] == ["step-00000002.pt"]
    assert finetune(parts)["weights_sha256"] == record["weights_sha256"]


def test_with_every_token_kept_a_method_changes_nothing(ask: Ask, tmp_path: Path) -> None:
    dense = ask("meter", "vqa", out=tmp_path / "dense", method="dense", schedule=None)
    kept = ask("meter", "vqa", out=tmp_path / "kept", ratio=1.0)
    assert finetune(dense)["weights_sha256"] == finetune(kept)["weights_sha256"]


def test_weights_of_another_task_are_refused(ask: Ask, tmp_path: Path) -> None:
    asked = ask("albef", "entailment")
    finetune(asked)
    with pytest.raises(HarnessError, match="fine-tuned on entailment, not on vqa"):
        finetune(ask("albef", "vqa", init=str(asked.out)))


def test_fine_tuning_goes_on_from_weights_of_its_task_with_their_answers(ask: Ask, tmp_path: Path) -> None:
    first = ask("meter", "vqa")
    finetune(first)
    again = ask("meter", "vqa", init=str(first.out), out=tmp_path / "again", steps=1, recipe={"learning_rate": 1e-9})
    finetune(again)
    assert load_model("meter-tiny", again.out).answers == load_model("meter-tiny", first.out).answers
    one, other = (load_file(folder / "model.safetensors") for folder in (first.out, again.out))
    assert max((one[name] - other[name]).abs().max().item() for name in one) < 1e-6


def test_what_a_host_cannot_do_and_unknown_tasks_are_refused(ask: Ask) -> None:
    with pytest.raises(HarnessError, match="cannot be fine-tuned on 'vqa'; there is a recipe for retrieval"):
        finetune(ask("clip", "vqa"))
    with pytest.raises(HarnessError, match="cannot be fine-tuned on 'singing'; there is a recipe for retrieval"):
        finetune(ask("clip", "singing"))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("[]", "expected a JSON list"),
        ('["a", "a"]', "holds an answer twice"),
        ("[1]", "answer 0 is empty or no text"),
        ("{", "JSON"),
    ],
)
def test_a_closed_list_must_be_one(ask: Ask, tmp_path: Path, content: str, complaint: str) -> None:
    (tmp_path / "answers.json").write_text(content)
    with pytest.raises(HarnessError, match=complaint):
        finetune(ask("blip", "vqa", answers=tmp_path / "answers.json"))


def test_answers_weigh_what_annotators_gave(start: Callable[[str], str]) -> None:
    tokenizer = TextTokenizer(Path(start("albef")) / "vocab.txt", 20)
    given = [("red",) * 7 + ("dog",) * 3, ("blue", "cat")]
    targets = answer_targets(given, {"red": 0, "dog": 1, "blue": 2}, tokenizer)
    assert targets.rows.tolist() == [0, 0, 1, 1]
    assert targets.weights.tolist() == pytest.approx([0.7, 0.3, 0.5, 0.5])
    torch.testing.assert_close(targets.scores, torch.tensor([[1.0, 0.9, 0.0], [0.0, 0.0, 1.0]]))
    assert targets.ids.shape == (4, 3)


def test_the_words_of_answers_are_smoothed_as_the_recipe_says(ask: Ask, tmp_path: Path) -> None:
    """A model that gives every word of V the same probability, ln V, is indifferent; others are not."""

    def first_loss(family: str, smoothing: float) -> float:
        out = tmp_path / f"{family}-{smoothing}"
        finetune(
            ask(family, "vqa", out=out, steps=1, method="dense", schedule=None, recipe={"label_smoothing": smoothing})
        )
        return float(json.loads((out / "log.jsonl").read_text())["losses"]["answer"])

    for family in ("albef", "blip"):
        none, some, more = (first_loss(family, smoothing) for smoothing in (0.0, 0.2, 0.4))
        assert none != some
        assert more - some == pytest.approx(some - none, rel=1e-3)
    with pytest.raises(HarnessError, match=r"label_smoothing 0\.2: METER's answers are classes, without words; set it"):
        first_loss("meter", 0.2)


def test_the_frequent_answers_come_first_and_ties_in_the_alphabet() -> None:
    assert frequent_answers([("b", "a", "c"), ("c",)], 2) == ("c", "a")
    with pytest.raises(HarnessError, match="hold no answers"):
        frequent_answers([()], 5)


def test_captions_of_one_image_are_all_right_in_the_batch_and_in_the_queue(start: Callable[[str], str]) -> None:
    loaded = load_model("albef-tiny", start("albef"))
    recipe = finetune_recipe("albef-tiny", "retrieval", {"image_size": 32, "batch_size": 4, "queue_size": 8})
    reducer = make_reducer("dense", open_tower(loaded.model.vision).shape)
    objective: Any = choose_downstream("albef-tiny", "retrieval").make(
        loaded.model, reducer, loaded.tokenizer.specials, recipe
    )
    keys = ["a.jpg#0", "a.jpg#1", "b.jpg#0", "c.jpg#0"]
    batch = PairBatch(torch.randn(4, 3, 32, 32), ["red dog"] * 4, keys, torch.arange(4), 0, [None] * 4)
    pairs = objective.read(batch, loaded.tokenizer)
    right = objective.right_candidates(pairs)
    assert right.int().tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    for step in range(20):
        texts, images = objective.negatives((torch.zeros(4, 4), torch.zeros(4, 4)), pairs, Moment(step=step))
        assert not right[torch.arange(4), texts].any()
        assert not right[torch.arange(4), images].any()
    assert (objective.image_ids == NOBODY).all()
    objective(pairs, Moment())
    assert objective.image_ids[:4].tolist() == pairs.image_ids.tolist()
    assert objective.right_columns(pairs)[:, 4:8].equal(right)


def test_meter_ranks_its_own_text_first_among_different_ones(start: Callable[[str], str]) -> None:
    loaded = load_model("meter-tiny", start("meter"))
    recipe = finetune_recipe("meter-tiny", "retrieval", {"image_size": 32, "batch_size": 6, "false_texts": 3})
    reducer = make_reducer("dense", open_tower(loaded.model.vision).shape)
    objective: Any = choose_downstream("meter-tiny", "retrieval").make(
        loaded.model, reducer, loaded.tokenizer.specials, recipe
    )
    batch = PairBatch(
        torch.randn(6, 3, 32, 32), WORDS[:6], [f"{n}.jpg#0" for n in range(6)], torch.arange(6), 0, [None] * 6
    )
    chosen, right = objective.texts_to_rank(objective.read(batch, loaded.tokenizer), Moment(step=1))
    assert chosen.shape == (6, 4)
    assert not right.any()
    assert chosen[:, 0].tolist() == list(range(6))
    assert all(len(set(row)) == 4 for row in chosen.tolist())


def test_every_recipe_is_possible() -> None:
    known = {(model, task) for model in models.names() for task in finetuned_tasks(model)}
    assert known >= {
        ("albef-base", "vqa"),
        ("blip-base", "captioning"),
        ("meter-base", "nlvr2"),
        ("clip-base", "retrieval"),
    }
    for model, task in known:
        assert finetune_recipe(model, task, {}).epochs >= 1


def test_the_command_fine_tunes_and_evaluate_measures(
    ask: Ask, world: Path, start: Callable[[str], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "tuned"
    numbers = [f"--recipe={name}={value}" for name, value in ask("albef", "vqa").recipe.items()]
    place = ["--data", str(world / "vqa"), "--init", start("albef"), "--out", str(out), "--steps", "2", "--quiet"]
    with pytest.raises(SystemExit) as ended:
        main(["finetune", "--model", "albef-tiny", "--task", "vqa", *place, *numbers, "--device", "cpu"])
    assert ended.value.code == 0, capsys.readouterr().err
    assert json.loads(capsys.readouterr().out)["steps"] == 2
    runs = ["--weights", str(out), "--data", str(world / "vqa"), "--tasks", "vqa", "--out", str(tmp_path / "runs")]
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", *runs, "--json", "--quiet", "--device", "cpu"])
    assert ended.value.code == 0, capsys.readouterr().err
    records = json.loads(capsys.readouterr().out)
    assert [record["spec"]["method"] for record in records] == ["dense"]
    assert 0 <= records[0]["quality"]["vqa"]["vqa_accuracy"]["value"] <= 1


def test_the_training_split_is_trained_on_and_no_other(world: Path, tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="holds dev, no train; say what to train on with --split"):
        task_data("nlvr2", [str(world / "nlvr2")])
    images = [{"filename": f"COCO_val2014_{n:012d}.jpg", "filepath": "", "cocoid": n} for n in range(4)]
    for image, split in zip(images, ("train", "restval", "val", "test")):
        image |= {"split": split, "sentences": [{"raw": f"{split} one"}, {"raw": f"{split} two"}]}
    folder = tmp_path / "karpathy"
    folder.mkdir()
    for number in range(4):
        (folder / images[number]["filename"]).write_bytes(picture(number)[0])
    (folder / "dataset.json").write_text(json.dumps({"images": images, "dataset": "coco"}))
    data = task_data("retrieval", [str(folder)])
    assert [ref.captions for ref in data.refs] == [("train one",), ("train two",), ("restval one",), ("restval two",)]
    assert len({ref.key.rpartition("#")[0] for ref in data.refs}) == 2
    assert [ref.captions[0] for ref in task_data("captioning", [str(folder)], split="val").refs] == [
        "val one",
        "val two",
    ]


def test_captions_of_evaluation_splits_are_not_trained_on_unasked(world: Path, tmp_path: Path) -> None:
    content = json.dumps(
        {
            "images": [{"id": 1, "file_name": "a.jpg"}],
            "annotations": [{"image_id": 1, "id": 1, "caption": "a dog"}],
        }
    )
    (tmp_path / "captions_val2014.json").write_text(content)
    (tmp_path / "a.jpg").write_bytes(picture(0)[0])
    with pytest.raises(HarnessError, match="holds val, no train; say what to train on with --split"):
        task_data("captioning", [str(tmp_path)])
    assert [ref.captions for ref in task_data("captioning", [str(tmp_path)], split="val").refs] == [("a dog",)]


def test_files_of_other_tasks_say_nothing_of_a_tasks_split(world: Path, tmp_path: Path) -> None:
    folder = tmp_path / "both"
    shutil.copytree(world / "vqa", folder)
    shutil.copy(world / "nlvr2" / "dev.json", folder / "train.json")
    assert len(task_data("vqa", [str(folder)]).refs) == 16


def test_images_of_two_sources_are_told_apart(world: Path) -> None:
    twice = task_data("vqa", [str(world / "vqa"), str(world / "vqa")]).refs
    assert len({ref.key for ref in twice}) == 32
    assert {ref.key[:2] for ref in twice} == {"0:", "1:"}


def test_a_root_is_for_pairs_alone(world: Path) -> None:
    with pytest.raises(HarnessError, match="is for JSON of image-caption pairs"):
        task_data("vqa", [str(world / "vqa")], world)


def test_meter_does_not_rank_another_right_text_as_wrong(start: Callable[[str], str]) -> None:
    loaded = load_model("meter-tiny", start("meter"))
    recipe = finetune_recipe("meter-tiny", "retrieval", {"image_size": 32, "batch_size": 3, "false_texts": 2})
    reducer = make_reducer("dense", open_tower(loaded.model.vision).shape)
    objective: Any = choose_downstream("meter-tiny", "retrieval").make(
        loaded.model, reducer, loaded.tokenizer.specials, recipe
    )
    keys = ["a.jpg#0", "a.jpg#1", "b.jpg#0"]
    batch = PairBatch(torch.randn(3, 3, 32, 32), WORDS[:3], keys, torch.arange(3), 0, [None] * 3)
    pairs = objective.read(batch, loaded.tokenizer)
    chosen, right = objective.texts_to_rank(pairs, Moment())
    for row, mates in ((0, {0, 1}), (1, {0, 1}), (2, {2})):
        ranked = chosen[row, 1:][~right[row, 1:]].tolist()
        assert ranked
        assert not set(ranked) & mates
    assert torch.isfinite(objective(pairs, Moment())["ranking"])


def test_another_closed_list_starts_another_head(ask: Ask, tmp_path: Path) -> None:
    first = ask("meter", "vqa")
    finetune(first)
    known = load_model("meter-tiny", first.out)
    same = task_host(known, "vqa", known.answers)
    turned = task_host(known, "vqa", known.answers[::-1])
    held = known.model.state_dict()
    assert all(torch.equal(tensor, held[name]) for name, tensor in same.state_dict().items())
    assert not torch.equal(turned.state_dict()["answer_head.3.weight"], held["answer_head.3.weight"])
    assert torch.equal(turned.state_dict()["text_pooler.0.weight"], held["text_pooler.0.weight"])


def test_a_captioner_remembers_its_prompt(ask: Ask) -> None:
    asked = ask("blip", "captioning", steps=1, recipe={"prompt": "red dog "})
    finetune(asked)
    assert load_host("blip-tiny", asked.out, "cpu", "float32").prompt == "red dog "
    with pytest.raises(HarnessError, match="is for --task vqa, not captioning"):
        finetune(ask("blip", "captioning", answers=Path("answers.json")))
