"""Facts about training in many processes: two with half the batch each are one with the whole batch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.cli.main import main
from tests.train.runs import LastState, assert_one_is_two, by_one_and_by_two

# Family, steps, dtype: all in one start of the two processes.
RUNS = {
    "albef": ("albef", 20, "float64"),
    "clip": ("clip", 20, "float64"),
    "blip": ("blip", 4, "float64"),
    "meter": ("meter", 4, "float64"),
    "albef-late": ("albef", 4, "float64"),
    "blip-late": ("blip", 4, "float64"),
    "meter-late": ("meter", 4, "float64"),
    "albef-single": ("albef", 20, "float32"),
    "clip-single": ("clip", 20, "float32"),
}


@pytest.fixture(scope="module")
def both(command: Any, pairs: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders one/NAME and two/NAME of every run, by one process and by two."""

    def words(name: str, out: Path, batch_size: int) -> list[str]:
        family, steps, dtype = RUNS[name]
        more = ("--steps", steps, "--dtype", dtype, "--batch-size", batch_size, "--save-every", steps)
        recipe = ("--recipe", "negatives=global", "--recipe", "learning_rate=8e-4")
        given = list(command(family, pairs, out, *more, *recipe))
        if not name.endswith("-late"):
            return given
        at = given.index("--schedule")  # dense, whose parameters all have gradients but for matching's
        dense = ["dense" if word == "elip" else word for word in [*given[:at], *given[at + 2 :]]]
        return [*dense, "--recipe", "matching_from=0.5"]

    return by_one_and_by_two(tmp_path_factory.mktemp("ranks"), RUNS, words)


def losses(out: Path) -> list[dict[str, float]]:
    return [json.loads(line)["losses"] for line in (out / "log.jsonl").open()]


@pytest.mark.parametrize("name", [name for name in RUNS if not name.endswith("-single")])
def test_every_tensor_of_the_last_checkpoint_agrees_in_float64(both: Path, last_state: LastState, name: str) -> None:
    assert_one_is_two(both, name, last_state)
    assert json.loads((both / "two" / name / "recipe.json").read_text())["processes"] == 2


@pytest.mark.parametrize("name", ["albef-late", "blip-late", "meter-late"])
def test_matching_that_begins_late_is_trained_from_then_on(both: Path, name: str) -> None:
    for processes in ("one", "two"):
        found = losses(both / processes / name)
        assert ["matching" in step for step in found] == [False, False, True, True]


@pytest.mark.parametrize("name", ["albef-single", "clip-single"])
def test_the_losses_agree_in_float32(both: Path, name: str) -> None:
    one, two = losses(both / "one" / name), losses(both / "two" / name)
    assert len(one) == len(two) == 20
    for own, other in zip(one, two, strict=True):
        assert own == pytest.approx(other, abs=1e-4, rel=0)


def test_another_number_of_processes_is_refused(both: Path, command: Any, pairs: str, capsys: Any) -> None:
    out = both / "two" / "clip"
    (out / "recipe.json").rename(out / "hidden.json")
    recipe = ("--recipe", "negatives=global", "--recipe", "learning_rate=8e-4")
    more = ("--steps", 20, "--dtype", "float64", "--batch-size", 4, *recipe)
    with pytest.raises(SystemExit) as caught:
        main(command("clip", pairs, out, *more))
    (out / "hidden.json").rename(out / "recipe.json")
    err = capsys.readouterr().err
    assert (caught.value.code, err.count("\n")) == (2, 1)
    assert "step-00000020.pt: of a run with processes 2, not 1; start the run as it was" in err
