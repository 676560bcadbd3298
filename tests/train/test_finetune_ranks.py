"""Facts about fine-tuning in many processes: two with half the batch each are one with the whole batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.train.conftest import STAGES
from tests.train.runs import LastState, assert_one_is_two, by_one_and_by_two

PAIRS = (("albef", "retrieval"), ("albef", "vqa"), ("meter", "retrieval"), ("meter", "nlvr2"), ("blip", "captioning"))
RUNS = {f"{family}-{task}": (family, task) for family, task in PAIRS}


@pytest.fixture(scope="module")
def both(world: Path, start: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders one/FAMILY-TASK and two/FAMILY-TASK of every run, by one process and by two."""

    def words(name: str, out: Path, batch_size: int) -> list[str]:
        family, task = RUNS[name]
        data = world / ("captions" if task in ("retrieval", "captioning") else task)
        numbers = {"image_size": 32, "queue_size": 24, "warmup_steps": 1, "false_texts": 3, "negatives": "global"}
        numbers |= {"alpha": 0.4 if family == "albef" else 0.0}
        place = ["--data", str(data), "--init", start(family), "--out", str(out), "--schedule", STAGES]
        plain = [
            "--method",
            "elip",
            "--device",
            "cpu",
            "--threads",
            "1",
            "--steps",
            "4",
            "--save-every",
            "4",
            "--dtype",
            "float64",
            "--quiet",
        ]
        recipe = [f"--recipe={name}={value}" for name, value in numbers.items()]
        split = ["--split", "dev"] if task == "nlvr2" else []
        chosen = ["finetune", "--model", f"{family}-tiny", "--task", task, "--batch-size", str(batch_size)]
        return [*chosen, *place, *plain, *recipe, *split]

    return by_one_and_by_two(tmp_path_factory.mktemp("ranks"), RUNS, words)


@pytest.mark.parametrize("name", RUNS)
def test_every_tensor_of_the_last_checkpoint_agrees_in_float64(both: Path, last_state: LastState, name: str) -> None:
    assert_one_is_two(both, name, last_state)
