"""Facts about runs of objectives beside the hosts' own: they go on bit for bit, two processes are one, losses fall."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.cli.main import main
from harness.data.scenes import write_scenes
from harness.kit.errors import HarnessError
from harness.train.pretrain import pretrain
from tests.train.conftest import STAGES
from tests.train.runs import LastState, assert_one_is_two, assert_same_end, by_one_and_by_two, interrupted

Settings = dict[str, dict[str, Any]]
# Of each objective: the host, and settings for twenty pairs.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "protoclip": ("clip", {"hidden": 16, "projection": 8, "clusters": 4, "external_teacher": True}),
    "lotlip": ("albef", {}),
    "uta": ("clip", {}),
    "epic": ("albef", {}),
    "semantic": ("albef", {}),
}
WHOLE = {"crop": None, "flip": False, "randaugment": False}


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A label file of the twenty images."""
    path = tmp_path_factory.mktemp("labels") / "labels.json"
    boxes = ([0, 0, 0.5, 0.5], [0.25, 0.5, 1, 1])
    objects = {
        f"{number}.jpg": [
            {"class": ("dog", "cat")[number % 2], "attribute": ("red", None)[at], "box": box}
            for at, box in enumerate(boxes)
        ]
        for number in range(20)
    }
    path.write_text(json.dumps({"classes": ["dog", "cat"], "attributes": ["red"], "images": objects}))
    return path


@pytest.fixture(scope="module")
def settings(labels: Path, start: Callable[[str], str]) -> Callable[[str], Settings]:
    """By objective, its settings, of a teacher that is there and of labels that are."""
    own: Settings = {"uta": {"teacher": start("albef")}, "semantic": {"labels": str(labels)}}
    return lambda name: {name: CASES[name][1] | own.get(name, {})}


@pytest.mark.parametrize("name", CASES)
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(
    ask: Any,
    settings: Callable[[str], Settings],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    last_state: LastState,
    name: str,
) -> None:
    family = CASES[name][0]
    chosen = {"objective": name, "objective_settings": settings(name)}
    asked = ask(family, tmp_path / "stopped", WHOLE | {"batch_size": 6}, steps=8, **chosen)
    interrupted(asked, monkeypatch)
    other = asked.model_copy(update={"objective": None, "objective_settings": {}})
    with pytest.raises(HarnessError, match=f"of a run with objective {name}, not {family}; start the run as it was"):
        pretrain(other)
    pretrain(asked)
    pretrain(asked.model_copy(update={"out": tmp_path / "whole"}))
    assert_same_end(tmp_path / "stopped", tmp_path / "whole", last_state, 8)


def words(name: str, command: Any, pairs: str, settings: Settings, out: Path, batch_size: int) -> list[str]:
    """The command of a run in float64 whose batches are those of any number of processes."""
    given = [f"--set-objective={name}.{field}={json.dumps(value)}" for field, value in settings[name].items()]
    more = ("--objective", name, "--steps", 6, "--dtype", "float64", "--batch-size", batch_size, "--save-every", 6)
    recipe = [f"--recipe={field}={json.dumps(value)}" for field, value in (WHOLE | {"negatives": "global"}).items()]
    return list(command(CASES[name][0], pairs, out, *more, *given, *recipe))


@pytest.fixture(scope="module")
def both(command: Any, pairs: str, settings: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders one/NAME and two/NAME of every run, by one process and by two."""

    def made(name: str, out: Path, batch_size: int) -> list[str]:
        return words(name, command, pairs, settings(name), out, batch_size)

    return by_one_and_by_two(tmp_path_factory.mktemp("ranks"), CASES, made)


@pytest.mark.parametrize("name", CASES)
def test_two_processes_end_as_one(both: Path, last_state: LastState, name: str) -> None:
    assert_one_is_two(both, name, last_state)
    losses = [json.loads(line)["losses"] for line in (both / "two" / name / "log.jsonl").open()]
    assert losses[-1] != losses[0]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder of 96 scenes."""
    folder = tmp_path_factory.mktemp("world") / "scenes"
    write_scenes(folder, "train", 96, 0)
    return str(folder)


# Of each objective: a loss that falls, and by how much in so many steps.
FALLS = {
    "protoclip": ("prototypes", 0.1),
    "uta": ("alignment", 0.15),
    "epic": ("consistency", 0.05),
    "semantic": ("classes", 0.2),
}


@pytest.mark.parametrize("method", ["dense", "tome"])
@pytest.mark.parametrize("name", FALLS)
def test_the_loss_falls_on_scenes(ask: Any, scenes: str, tmp_path: Path, name: str, method: str) -> None:
    loss, by = FALLS[name]
    # One episode of all steps, whose clusters stay as they are.
    settings = {"protoclip": {"hidden": 64, "projection": 32, "clusters": 12, "episode": 384, "warm_up_episodes": 0}}
    chosen = {"objective": name, "objective_settings": {name: settings[name]} if name in settings else {}}
    recipe = WHOLE | {"batch_size": 16, "image_size": 64}
    reduced = {"method": method, "schedule": None, "settings": {"r": 12} if method == "tome" else {}}
    pretrain(ask(CASES[name][0], tmp_path, recipe, steps=24, data=(scenes,), save_every=100, **chosen, **reduced))
    losses = [json.loads(line)["losses"] for line in (tmp_path / "log.jsonl").open()]
    first, last = (sum(one[loss] for one in part) / 4 for part in (losses[:4], losses[-4:]))
    assert last < first - by


@pytest.mark.parametrize(("family", "method"), [("albef", "dense"), ("albef", "tome"), ("clip", "elip")])
def test_lotlip_learns_eight_scenes_by_heart(ask: Any, tmp_path: Path, family: str, method: str) -> None:
    write_scenes(tmp_path / "scenes", "train", 8, 0)
    reduced = {"method": method, "schedule": STAGES if method == "elip" else None}
    reduced["settings"] = {"r": 12} if method == "tome" else {}
    recipe = WHOLE | {"batch_size": 8, "image_size": 64}
    data = (str(tmp_path / "scenes"),)
    pretrain(ask(family, tmp_path / "out", recipe, steps=60, data=data, save_every=100, objective="lotlip", **reduced))
    losses = [json.loads(line)["losses"] for line in (tmp_path / "out" / "log.jsonl").open()]
    chance = math.log(8) / 7  # each of seven contrasts of eight pairs, over seven
    assert losses[-1]["short"] < 0.6 * chance
    assert losses[-1]["long"] < 0.6 * 6 * chance


def refused(given: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a command ends with."""
    with pytest.raises(SystemExit) as caught:
        main(given)
    err = capsys.readouterr().err
    assert (caught.value.code, err.count("\n")) == (2, 1)
    return err


def test_a_host_without_the_part_is_refused_before_data_are_read(
    command: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for family, name, reason in (
        ("clip", "epic", "EpicObjective: Clip has no fuse, mlm_logits"),
        ("meter", "lotlip", "objective lotlip: Meter has no contrast"),
        ("albef", "clip+protoclip", "objectives clip and protoclip: need different batches"),
        ("albef", "albef+lotlip", "objectives albef and lotlip: need different batches"),
    ):
        assert reason in refused(command(family, "nowhere.json", tmp_path, "--objective", name), capsys)


def test_an_episode_has_pairs_for_its_clusters_and_no_shards(
    command: Any, pairs: str, shards: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--objective", "protoclip", "--batch-size", 6, "--set-objective", "protoclip.clusters=30")
    assert "30 clusters of an episode of 18 pairs; lower" in refused(command("clip", pairs, tmp_path, *more), capsys)
    assert "cannot be drawn with replacement from shards" in refused(command("clip", shards, tmp_path, *more), capsys)


def test_semantic_asks_for_labels_before_the_first_step(
    command: Any, pairs: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--objective", "semantic", "--batch-size", 6)
    assert "labels speak of the whole image" in refused(command("albef", pairs, tmp_path, *more), capsys)
    whole = [f"--recipe={field}={json.dumps(value)}" for field, value in WHOLE.items()]
    assert "no labels of image 0.jpg" in refused(command("albef", pairs, tmp_path, *more, *whole), capsys)
