"""Facts about mae, moca and aclip in training: losses fall on scenes, killed runs end alike, two processes are one."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.data.scenes import scenes_folder
from harness.kit.errors import HarnessError
from harness.objectives.parts import batches
from harness.train.pretrain import pretrain
from harness.train.request import PretrainRequest
from tests.train.runs import LastState, assert_one_is_two, assert_same_end, by_one_and_by_two, interrupted

DECODER = {"decoder_depth": 1, "decoder_width": 24, "decoder_heads": 2}
SETTINGS: dict[str, dict[str, Any]] = {
    "mae": DECODER,
    "moca": DECODER | {"words": 12, "new_words": 4, "border": 1, "early": 1},
    "aclip": {"hidden": 16, "out": 8, "momentum": 0.9},
}
CROPPED = {"crop": (0.5, 1.0), "randaugment": True}
CHANCE = math.log(8)  # of a batch of 8 pairs


@pytest.fixture
def on_scenes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., list[dict[str, float]]]:
    """Losses of every step of 160, of a tiny CLIP on 8 scenes, which it can learn by heart."""
    monkeypatch.setattr(batches, "training_scenes", lambda *_: scenes_folder(8, 0, "train"))

    def losses(objective: str, recipe: dict[str, Any], **settings: Any) -> list[dict[str, float]]:
        request = PretrainRequest(
            model="clip-tiny",
            out=tmp_path / objective,
            objective=objective,
            objective_settings={objective: SETTINGS[objective] | settings},
            recipe={"batch_size": 8, "warmup_steps": 4, "learning_rate": 0.003, "clip_norm": 1.0} | recipe,
            sizes={"depth": 3, "width": 48, "heads": 3, "text_layers": 1, "text_width": 24, "projection": 16},
            steps=160,
            log_every=1,
            device="cpu",
            quiet=True,
        )
        pretrain(request)
        return [json.loads(line)["losses"] for line in (request.out / "log.jsonl").open()]

    return losses


def mean(steps: list[dict[str, float]], name: str) -> float:
    return sum(step[name] for step in steps) / len(steps)


def test_mae_learns_pixels_and_pairs_of_scenes(on_scenes: Any) -> None:
    last = on_scenes("mae", {}, decoder_width=48, decoder_heads=3)[-20:]
    assert mean(last, "pixels") < 0.93  # each patch's own mean, which is not given, costs 191 / 192
    assert mean(last, "contrast") < CHANCE / 4


def test_moca_learns_the_words_of_scenes(on_scenes: Any) -> None:
    found = on_scenes("moca", {}, words=16)
    for name in ("image", "patches"):  # the words are those of scenes from the fourth step on
        assert mean(found[-20:], name) < 0.6 * mean(found[4:24], name), name


def test_aclip_learns_pairs_and_views_of_scenes(on_scenes: Any) -> None:
    found = on_scenes("aclip", CROPPED, same_view_simclr=False)
    for name in ("contrast_1", "contrast_2"):
        assert mean(found[-20:], name) < 0.8 * CHANCE / 2, name
    for name in ("byol", "simclr"):
        assert mean(found[-20:], name) < 0.6 * mean(found[:20], name), name


def words_of(objective: str) -> list[str]:
    """The command's words for an objective with its small settings."""
    return ["--objective", objective] + [
        f"--set-objective={objective}.{name}={value}" for name, value in SETTINGS[objective].items()
    ]


@pytest.mark.parametrize(
    ("family", "objective"), [("clip", "mae"), ("albef", "mae"), ("clip", "moca"), ("clip", "aclip")]
)
def test_a_stopped_run_ends_with_the_bits_of_a_whole_one(
    ask: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    last_state: LastState,
    family: str,
    objective: str,
) -> None:
    asked = ask(
        family,
        tmp_path / "stopped",
        {"batch_size": 6},
        steps=8,
        objective=objective,
        objective_settings={objective: SETTINGS[objective]},
    )
    interrupted(asked, monkeypatch)
    with pytest.raises(HarnessError, match="of a run with objective_settings"):
        pretrain(asked.model_copy(update={"objective_settings": {objective: _other(objective)}}))
    pretrain(asked)
    pretrain(asked.model_copy(update={"out": tmp_path / "whole"}))
    assert_same_end(tmp_path / "stopped", tmp_path / "whole", last_state, 8)


def _other(objective: str) -> dict[str, Any]:
    """The settings with another number."""
    changed = {"mae": {"mask_ratio": 0.5}, "moca": {"kappa": 5.0}, "aclip": {"temperature": 0.2}}
    return SETTINGS[objective] | changed[objective]


# Family and objective: all in one start of the two processes.
RUNS = {
    "clip-mae": ("clip", "mae"),
    "albef-mae": ("albef", "mae"),
    "moca": ("clip", "moca"),
    "aclip": ("clip", "aclip"),
}


@pytest.fixture(scope="module")
def both(command: Any, pairs: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders one/NAME and two/NAME of every run, by one process and by two."""

    def words(name: str, out: Path, batch_size: int) -> list[str]:
        family, objective = RUNS[name]
        more = ("--steps", 6, "--dtype", "float64", "--batch-size", batch_size, *words_of(objective))
        recipe = ("--recipe", "negatives=global", "--recipe", "learning_rate=8e-4", "--recipe", "crop=[0.5,1]")
        return list(command(family, pairs, out, *more, *recipe))

    return by_one_and_by_two(tmp_path_factory.mktemp("masked"), RUNS, words)


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_are_one(both: Path, last_state: LastState, name: str) -> None:
    assert_one_is_two(both, name, last_state)
