"""Facts about protocols: what a stage's key depends on, where the method works, and that nothing is trained twice."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from typing import Any

import pytest
from filelock import FileLock
from pydantic import BaseModel

from harness.data.scenes import write_scenes
from harness.hosts.build import paper_settings, skeleton
from harness.hosts.parts.towers import open_tower
from harness.hosts.weights.load import load_model
from harness.kit.errors import HarnessError
from harness.kit.registry import methods, models, tasks
from harness.objectives.parts.recipe import finetuned_tasks
from harness.reduction.budget import make_reducer
from harness.train.loop import Run
from harness.train.protocol import (
    Stage,
    evaluation_image_size,
    method_host,
    plan_stages,
    stage_key,
    stage_name,
    trainable_tasks,
    with_method,
)
from harness.train.session import Session
from harness.train.stages import trained
from tests.train.conftest import SIZES, TOWER

SMALL = {"batch_size": 4, "queue_size": 16, "warmup_steps": 1, "steps": 2}
STAGES = "begin=1 keep=.6 lookahead=2"
Plan = Callable[..., list[Stage]]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A dozen scenes of the training split, with annotations for every task."""
    folder = tmp_path_factory.mktemp("scenes") / "train"
    write_scenes(folder, "train", 12, 0)
    return str(folder)


@pytest.fixture
def plan(scenes: str, start: Callable[[str], str]) -> Plan:
    """The stages of a training of two steps, from the small random host."""

    def make(protocol: str, task: str, family: str = "albef", *, finetune: Any = None, **changes: Any) -> list[Stage]:
        numbers = SMALL | {"data": scenes, "image_size": 32}
        given = {"finetune": numbers | (finetune or {})}
        if protocol == "pretrain":
            given["pretrain"] = numbers | {"init": start(family)} | changes.pop("pretrain", {})
        elif "weights" not in changes:
            changes["weights"] = start(family)
        return plan_stages(protocol, f"{family}-tiny", task, device="cpu", given=given, **changes)

    return make


def reduced(stages: list[Stage], method: str, ratio: float | None = None, **settings: Any) -> list[Stage]:
    """The stages with a method, its config resolved as a cell states it."""
    spec = STAGES if method in ("elip", "evit", "random") else None
    given, schedule = paper_settings(stages[0].model, method, spec, settings)
    shape = open_tower(method_host(stages).vision).shape
    config = make_reducer(method, shape, ratio=ratio, schedule=schedule, settings=given).config
    return with_method(stages, method, config.model_dump(mode="json"))


def run(stages: list[Stage], folder: Path) -> tuple[Path, list[dict[str, Any]]]:
    return trained(stages, folder, device="cpu", quiet=True)


def done(folder: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((folder / "recipe.json").read_text())
    return record


def key(stages: list[Stage]) -> str:
    return stage_key(stages)


def test_every_number_of_a_stage_is_part_of_its_key_and_of_those_after_it(plan: Plan) -> None:
    first, second = plan("pretrain", "vqa")
    before = key([first, second])
    for name in first.recipe:
        changed = first.model_copy(update={"recipe": first.recipe | {name: "another"}})
        assert key([changed]) != key([first])
        assert key([changed, second]) != before
        later = second.model_copy(update={"recipe": second.recipe | {name: "another"}})
        assert key([first, later]) != before
    others = {
        "steps": 9,
        "precision": "bf16",
        "recompute": True,
        "root": "x",
        "split": "x",
        "vocabulary": 99,
        "seed": 9,
    }
    for name, value in others.items():
        assert key([first, second.model_copy(update={name: value})]) != before


def test_what_is_chosen_of_a_stage_is_in_it_alone(plan: Plan) -> None:
    chosen = {"learning_rate": "1e-5", "crop": ["0.3", "1"], "steps": 3, "epochs": 7, "recompute": True}
    first, second = plan("pretrain", "vqa", finetune=chosen)
    assert (second.recipe["learning_rate"], second.recipe["crop"], second.recipe["epochs"]) == (1e-5, [0.3, 1.0], 7)
    assert (second.steps, second.recompute) == (3, True)
    assert (first.recipe["learning_rate"], first.steps, first.recompute) == (8e-4, 2, False)
    assert plan("finetune", "vqa", finetune=chosen)[0].recipe == second.recipe


def test_seed_method_config_task_processes_and_code_are_part_of_the_key(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = plan("finetune", "vqa")
    keys = [key(stages), key(plan("finetune", "vqa", seed=1))]
    with monkeypatch.context() as changed:
        changed.setattr("harness.train.protocol.stage_code", lambda stage: {"harness/train": "other"})
        keys.append(key(stages))
    keys.append(key(plan("finetune", "nlvr2")))
    keys += [key(with_method(stages, "tome", {"r": r})) for r in (1, 2)] + [key(with_method(stages, "evit", {}))]
    monkeypatch.setenv("WORLD_SIZE", "2")
    keys.append(key(plan("finetune", "vqa")))
    assert len(set(keys)) == len(keys)


def test_what_changes_no_result_is_no_part_of_the_key(
    plan: Plan, start: Callable[[str], str], scenes: str, tmp_path: Path
) -> None:
    shutil.copytree(start("albef"), tmp_path / "elsewhere")
    shutil.copytree(scenes, tmp_path / "data")
    changed = {"workers": 2, "save_every": 5, "data": str(tmp_path / "data")}
    moved = plan("finetune", "vqa", weights=tmp_path / "elsewhere", finetune=changed)
    assert key(moved) == key(plan("finetune", "vqa"))


def test_the_words_and_answers_of_the_weights_to_start_from_are_part_of_the_key(
    plan: Plan, start: Callable[[str], str], tmp_path: Path
) -> None:
    weights = tmp_path / "weights"
    shutil.copytree(start("albef"), weights)
    keys = [key(plan("finetune", "vqa", weights=weights))]
    words = (weights / "vocab.txt").read_text()
    (weights / "vocab.txt").write_text(words.replace("red\ngreen", "green\nred"))
    keys.append(key(plan("finetune", "vqa", weights=weights)))
    (weights / "config.json").write_text('{"answers": ["red", "blue"]}')
    keys.append(key(plan("finetune", "vqa", weights=weights)))
    assert len(set(keys)) == 3


def test_content_of_what_an_objective_names_is_part_of_the_key(
    plan: Plan, start: Callable[[str], str], tmp_path: Path
) -> None:
    labels, teacher = tmp_path / "labels.json", tmp_path / "teacher"
    shutil.copytree(start("clip"), teacher)
    labels.write_text(json.dumps({"classes": ["ring"]}))
    chosen = {"uta": {"teacher": str(teacher)}, "semantic": {"labels": str(labels)}}

    def now() -> str:
        asked = {"objective": "albef+uta+semantic", "objective_settings": chosen}
        return key(plan("pretrain", "vqa", pretrain=asked)[:1])

    found = [now(), now()]
    labels.write_text(json.dumps({"classes": ["moon"]}))
    found.append(now())
    tensors = bytearray((teacher / "model.safetensors").read_bytes())
    tensors[-1] ^= 1
    (teacher / "model.safetensors").write_bytes(tensors)
    found.append(now())
    assert found[0] == found[1]
    assert len(set(found)) == 3


def test_content_of_data_and_of_weights_is_part_of_the_key(
    plan: Plan, scenes: str, start: Callable[[str], str], tmp_path: Path
) -> None:
    folder, weights = tmp_path / "data", tmp_path / "weights"
    shutil.copytree(scenes, folder)
    shutil.copytree(start("albef"), weights)

    def now() -> tuple[str, str]:
        asked = {"data": str(folder)}
        first = plan("pretrain", "vqa", pretrain=asked | {"init": str(weights)}, finetune=asked)[:1]
        return key(plan("finetune", "vqa", weights=weights, finetune=asked)), key(first)

    before = now()
    assert now() == before
    listed = folder / "captions_train.json"
    listed.write_text(listed.read_text().replace("red", "blue", 1))
    other_data = now()
    weights.joinpath("model.safetensors").write_bytes(Path(start("albef"), "model.safetensors").read_bytes() + b" ")
    with pytest.raises(HarnessError, match="not a whole safetensors file"):
        now()
    shutil.copy(Path(start("blip"), "model.safetensors"), weights)
    with pytest.raises(HarnessError, match="of blip-tiny, not of albef-tiny"):
        now()
    tensors = bytearray(Path(start("albef"), "model.safetensors").read_bytes())
    tensors[-1] ^= 1
    weights.joinpath("model.safetensors").write_bytes(tensors)
    other_weights = now()
    for place in range(2):
        assert len({before[place], other_data[place], other_weights[place]}) == 3


def test_a_plan_makes_no_scenes_and_names_them(cache_folder: Path) -> None:
    found = set(cache_folder.iterdir())
    (stage,) = plan_stages("finetune", "albef-tiny", "vqa", seed=3, device="cpu")
    assert set(cache_folder.iterdir()) == found
    assert stage.data == ("scenes",)
    assert stage.digests["data.0"] == "scenes-train-30000"
    assert (stage.recipe["crop"], stage.recipe["flip"], stage.image_size) == (None, False, 64)


def test_a_stage_is_json_wherever_it_is_part_of_a_spec(plan: Plan) -> None:
    class Spec(BaseModel):
        training: tuple[Any, ...]

    stages = plan("pretrain", "vqa", pretrain={"init_vision": "albef-tiny"})
    spec = Spec(training=tuple(with_method(stages, "elip", {"vision_weight": 0.5})))
    dumped = json.loads(json.dumps(spec.model_dump(mode="json")))["training"]
    assert [stage["stage"] for stage in dumped] == ["pretrain", "finetune"]
    assert not {"files", "workers", "save_every"} & set(dumped[0])
    assert set(dumped[0]["digests"]) == {"data.0", "init", "init_vision"}
    assert [Stage.model_validate(stage).config for stage in dumped] == [{"vision_weight": 0.5}, {}]


def test_the_method_works_at_the_size_of_its_training_and_is_evaluated_at_the_last(plan: Plan) -> None:
    tuned = plan("finetune", "vqa", finetune={"image_size": 48}, image_size=48)
    assert (method_host(tuned).config.image_size, evaluation_image_size(tuned)) == (48, 48)
    assert method_host(tuned).config.depth == 3
    both = plan("pretrain", "vqa", pretrain={"image_size": 32}, finetune={"image_size": 64})
    assert (method_host(both).config.image_size, evaluation_image_size(both)) == (32, 64)
    alone = plan("pretrain", "classification", pretrain={"image_size": 32})
    assert [stage.stage for stage in alone] == ["pretrain"]
    assert (evaluation_image_size(alone), evaluation_image_size(alone, 64)) == (32, 64)
    assert plan_stages("finetune", "blip-tiny", "vqa", image_size=80, device="cpu")[0].image_size == 80
    assert plan_stages("pretrain", "albef-base", "vqa", device="cpu")[0].image_size == 256
    with pytest.raises(
        HarnessError, match=r"--image-size 64 and --set-train finetune\.image_size=32: name one of them"
    ):
        plan("finetune", "vqa", image_size=64)


def test_a_host_has_recipes_for_the_tasks_that_it_can_do_and_no_others() -> None:
    needed = {name: tasks.get(name).NEEDS for name in tasks.names() if name != "classification"}
    for model in [name for name in models.names() if name.endswith("-tiny")]:
        can = set()
        for name in needed:
            try:
                abilities = skeleton(model, sizes=TOWER | SIZES[model.partition("-")[0]] | {"task": name}).abilities
            except HarnessError:  # a task that the host's sizes do not know
                continue
            can |= {name} if needed[name] & abilities else set()
        assert set(finetuned_tasks(model)) == set(finetuned_tasks(model.replace("tiny", "base"))) == can
    assert trainable_tasks("finetune", "blip-tiny") == ("captioning", "nlvr2", "retrieval", "vqa")
    assert trainable_tasks("pretrain", "clip-tiny") == ("classification", "retrieval")
    assert "classification" not in trainable_tasks("pretrain", "meter-tiny")


REFUSED: dict[str, tuple[tuple[Any, ...], dict[str, Any], str]] = {
    "protocol": (("pretrian", "vqa"), {}, "unknown protocol 'pretrian': did you mean pretrain?"),
    "stage": (
        ("finetune", "vqa"),
        {"given": {"fintune": {}}},
        "unknown stage of training 'fintune': did you mean fine",
    ),
    "stage of none": (("inference", "vqa"), {"given": {"finetune": {}}}, "take --protocol finetune or pretrain"),
    "stage of another": (
        ("finetune", "vqa"),
        {"given": {"pretrain": {}}},
        "--set-train pretrain: protocol finetune has no",
    ),
    "name": (
        ("finetune", "vqa"),
        {"given": {"finetune": {"lerning_rate": 1}}},
        "unknown --set-train finetune option 'lerning_rate': did you mean learning_rate",
    ),
    "of another stage": (
        ("finetune", "vqa"),
        {"given": {"finetune": {"vocabulary": 9}}},
        "unknown --set-train finetune option 'vocabulary'",
    ),
    "number": (("finetune", "vqa"), {"given": {"finetune": {"momentum": 2}}}, "momentum: Input should be less than"),
    "option": (("finetune", "vqa"), {"given": {"finetune": {"steps": 0}}}, "--set-train finetune: steps: Input should"),
    "precision": (("finetune", "vqa"), {"given": {"finetune": {"precision": "fp16"}}}, "fp16 on a CPU"),
    "size": (("finetune", "vqa"), {"image_size": 30}, "image size 30: expected a multiple of the patch size 8"),
    "task": (("finetune", "captioning"), {}, "cannot be fine-tuned on 'captioning'; there is a recipe for retrieval"),
    "classification": (("finetune", "classification"), {}, "classification is not fine-tuned; leave it out or take"),
    "weights": (("pretrain", "vqa"), {"weights": "x.safetensors"}, "pre-training starts afresh; to go on from some"),
    "data": (("finetune", "vqa"), {"data": "nowhere"}, "nowhere: no such folder"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused_in_one_line(name: str) -> None:
    words, changes, message = REFUSED[name]
    with pytest.raises(HarnessError) as caught:
        plan_stages(words[0], "albef-tiny", words[1], **{"device": "cpu"} | changes)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_evaluated_is_not_trained_on_unasked(world: Path, plan: Plan, scenes: str) -> None:
    with pytest.raises(HarnessError, match="says nothing of splits, so that vqa would be trained on what is evaluated"):
        plan_stages("finetune", "albef-tiny", "vqa", data=str(world / "vqa"), device="cpu")
    asked = {"finetune": {"data": str(world / "vqa")}}
    assert plan_stages("finetune", "albef-tiny", "vqa", data=str(world / "vqa"), device="cpu", given=asked)
    with pytest.raises(HarnessError, match=r"holds dev, no train; say what .* with --set-train finetune.split=NAME"):
        plan_stages("finetune", "albef-tiny", "nlvr2", data=str(world / "nlvr2"), device="cpu")
    assert plan_stages("finetune", "albef-tiny", "vqa", data=scenes, device="cpu")[0].data == (scenes,)


def test_the_word_no_is_a_precision_and_answers_are_for_questions_alone(plan: Plan, tmp_path: Path) -> None:
    (tmp_path / "answers.json").write_text('["red", "blue"]')
    asked = {"precision": False, "answers": str(tmp_path / "answers.json")}
    (questions,), (pairs,) = (plan("finetune", task, finetune=asked) for task in ("vqa", "nlvr2"))
    assert questions.precision == "no"
    assert ("answers" in questions.digests, "answers" in pairs.digests) == (True, False)


@pytest.mark.parametrize(
    ("family", "task"),
    [
        *(("albef", task) for task in finetuned_tasks("albef-tiny")),
        *[("blip", "captioning"), ("meter", "nlvr2"), ("clip", "retrieval")],
    ],
)
def test_fine_tuning_trains_with_the_method_as_the_cell_states_it(
    plan: Plan, tmp_path: Path, family: str, task: str
) -> None:
    # The first differs from what CLIP's paper has, the schedule from METER's.
    stages = reduced(plan("finetune", task, family), "elip", 0.75, count_class_token=False, vision_weight=0.7)
    out, told = run(stages, tmp_path)
    assert done(out)["method"] == {"name": "elip", **stages[0].config}
    assert load_model(f"{family}-tiny", out).model.config.task == task
    assert out.name == stage_name(stages)
    assert out.name.startswith(f"finetune-elip-{task}-")
    assert [(one["stage"], one["folder"], one["steps"]) for one in told] == [("finetune", out.name, 2)]
    assert told[0]["weights_sha256"] == done(out)["weights_sha256"]
    assert told[0]["samples_per_second"] > 0


@pytest.mark.parametrize(
    ("family", "task", "method"),
    [
        *(("albef", "vqa", method) for method in ("dense", "evit", "random", "tome")),
        *(("albef", task, method) for task in ("entailment", "nlvr2") for method in ("evit", "tome", "random")),
        *[("blip", "captioning", "random"), ("meter", "vqa", "random"), ("clip", "retrieval", "random")],
    ],
)
def test_other_methods_train_too_as_they_were_resolved(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, task: str, method: str
) -> None:
    built = []
    reducer = Session.reducer

    def watched(session: Session, host: Any, learned: Any = None) -> Any:
        built.append(reducer(session, host, learned))
        return built[-1]

    monkeypatch.setattr(Session, "reducer", watched)
    stages = reduced(plan("finetune", task, family), method, None if method == "dense" else 0.75)
    out, _ = run(stages, tmp_path)
    assert done(out)["method"] == {"name": method, **stages[0].config}
    assert [(type(one), one.config.model_dump(mode="json")) for one in built] == [
        (methods.get(method), stages[0].config)
    ]


def test_pretraining_is_reduced_shared_by_tasks_and_fine_tuned_densely(plan: Plan, tmp_path: Path) -> None:
    folders = {}
    for task in ("vqa", "nlvr2", "classification"):
        stages = reduced(plan("pretrain", task), "elip")
        out, told = run(stages, tmp_path)
        folders[task] = [one["folder"] for one in told]
        assert out.name == folders[task][-1]
    assert len({names[0] for names in folders.values()}) == 1
    assert [len(names) for names in folders.values()] == [2, 2, 1]
    first, second = (done(tmp_path / name) for name in folders["vqa"])
    assert first["method"] == {"name": "elip", **stages[0].config}
    assert second["method"] == {"name": "dense"}
    assert second["places"]["init"] == str(tmp_path / folders["vqa"][0])
    assert folders["vqa"][0].startswith("pretrain-elip-")
    assert folders["vqa"][1].startswith("finetune-dense-vqa-")


def test_a_finished_stage_is_not_run_again_and_keeps_no_checkpoints(plan: Plan, tmp_path: Path) -> None:
    stages = plan("pretrain", "vqa")
    first = run(stages, tmp_path / "one")
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert run(stages, tmp_path / "one") == first
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == times
    assert len(list(tmp_path.rglob("model.safetensors"))) == 2
    assert not list(tmp_path.rglob("checkpoints"))
    (tmp_path / "one").rename(tmp_path / "moved")
    assert run(stages, tmp_path / "moved")[1] == first[1]
    (first[0].parent.parent / "moved" / first[0].name / "model.safetensors").unlink()
    with pytest.raises(HarnessError, match=r"its model\.safetensors is gone; delete the folder to train again"):
        run(stages, tmp_path / "moved")


@pytest.fixture
def stopping(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Make the step after so many of all runs fail as Ctrl-C does; later runs are left alone."""
    advance, left = Run._advance, [0]

    def counted(self: Run, pairs: Any) -> None:
        if left[0] == 1:
            left[0] = 0
            raise KeyboardInterrupt
        left[0] -= 1
        advance(self, pairs)

    monkeypatch.setattr(Run, "_advance", counted)

    def after(steps: int) -> None:
        left[0] = steps + 1

    return after


def test_an_interrupted_second_stage_goes_on_to_the_same_weights(
    plan: Plan, tmp_path: Path, stopping: Callable[[int], None], capsys: pytest.CaptureFixture[str]
) -> None:
    stages = plan("pretrain", "vqa", finetune={"steps": 4, "save_every": 2})
    whole, told = run(stages, tmp_path / "whole")
    stopping(2 + 3)
    with pytest.raises(KeyboardInterrupt):
        run(stages, tmp_path / "parts")
    begun = tmp_path / "parts" / whole.name
    assert [path.name for path in (begun / "checkpoints").glob("*.pt")] == ["step-00000002.pt"]
    weights = tmp_path / "parts" / told[0]["folder"] / "model.safetensors"
    before = weights.stat().st_mtime_ns
    parts, again = trained(stages, tmp_path / "parts", device="cpu")
    assert "resuming at step 2 of 4" in capsys.readouterr().err
    assert [one["weights_sha256"] for one in again] == [one["weights_sha256"] for one in told]
    assert weights.stat().st_mtime_ns == before
    assert not (parts / "checkpoints").exists()


def test_an_interrupted_stage_goes_on_where_its_files_were_moved(
    plan: Plan, tmp_path: Path, stopping: Callable[[int], None], start: Callable[[str], str], scenes: str
) -> None:
    shutil.copytree(start("albef"), tmp_path / "weights")
    shutil.copytree(scenes, tmp_path / "data")
    numbers = {"steps": 3, "save_every": 1}
    before = plan("finetune", "nlvr2", finetune=numbers)
    moved = plan("finetune", "nlvr2", weights=tmp_path / "weights", finetune=numbers | {"data": str(tmp_path / "data")})
    whole, told = run(before, tmp_path / "whole")
    stopping(2)
    with pytest.raises(KeyboardInterrupt):
        run(before, tmp_path / "parts")
    assert [one["weights_sha256"] for one in run(moved, tmp_path / "parts")[1]] == [told[0]["weights_sha256"]]
    assert done(tmp_path / "parts" / whole.name)["places"]["data"] == [str(tmp_path / "data")]


def test_a_stage_that_another_command_trains_is_waited_for_and_not_trained_twice(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warned: Queue[str] = Queue()
    monkeypatch.setattr("harness.train.stages.warn_on_stderr", warned.put)
    stages = plan("finetune", "nlvr2")
    other, told = run(stages, tmp_path / "other")
    out = tmp_path / "both" / other.name
    shutil.copytree(tmp_path / "other", tmp_path / "both")
    (out / "recipe.json").rename(tmp_path / "recipe.json")
    (out / "checkpoints").mkdir()
    with ThreadPoolExecutor() as pool:
        with FileLock(out.with_name(f".{out.name}.lock")):
            second = pool.submit(run, stages, tmp_path / "both")
            heard = warned.get(timeout=120)
            assert heard == f"{out}: another command trains it; waiting for that one, to take its weights"
            before = (out / "model.safetensors").stat().st_mtime_ns
            assert (out / "checkpoints").is_dir()
            (tmp_path / "recipe.json").rename(out / "recipe.json")
        assert second.result() == (out, told)
    assert (out / "model.safetensors").stat().st_mtime_ns == before
    assert not (out / "checkpoints").exists()


def test_a_folder_that_cannot_be_written_is_said_in_one_line(plan: Plan, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HarnessError, match=r"cannot be trained in: .*; make the folder above it writable, or set"):
        run(plan("finetune", "nlvr2"), tmp_path / "file")


def test_scenes_are_those_of_the_one_world_whatever_the_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: Callable[[str], str], cache_folder: Path
) -> None:
    monkeypatch.setattr("harness.data.training_scenes.TRAINING_SCENES", 12)
    given = {"finetune": SMALL | {"image_size": 32}}
    asked: dict[str, Any] = {"weights": start("albef"), "seed": 5, "device": "cpu", "given": given}
    out, _ = run(plan_stages("finetune", "albef-tiny", "nlvr2", **asked), tmp_path)
    assert list(cache_folder.glob("scenes-train-12-seed0-*"))
    assert not list(cache_folder.glob("scenes-train-12-seed5-*"))
    assert done(out)["places"]["data"] == ["scenes"]


def test_stages_of_other_precisions_follow_each_other(plan: Plan, tmp_path: Path) -> None:
    stages = plan("pretrain", "vqa", pretrain={"precision": "bf16"}, finetune={"precision": "no"})
    out, _ = run(stages, tmp_path)
    assert [done(tmp_path / name)["facts"]["precision"] for name in (stage_name(stages[:1]), out.name)] == [
        "bf16",
        "no",
    ]
