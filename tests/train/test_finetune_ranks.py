"""Facts about fine-tuning in many processes: two with half the batch each are one with the whole batch."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import Tensor

from harness.cli.main import main
from tests.train.conftest import STAGES
from tests.train.test_ranks import SCRIPT

RUNS = (("albef", "retrieval"), ("albef", "vqa"), ("meter", "retrieval"), ("meter", "nlvr2"), ("blip", "captioning"))


@pytest.fixture(scope="module")
def both(world: Path, start: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders one/FAMILY-TASK and two/FAMILY-TASK of every run, by one process and by two."""
    folder = tmp_path_factory.mktemp("ranks")

    def words(family: str, task: str, processes: str, batch_size: int) -> list[str]:
        data = world / ("captions" if task in ("retrieval", "captioning") else task)
        numbers = {"image_size": 32, "queue_size": 24, "warmup_steps": 1, "false_texts": 3, "negatives": "global"}
        numbers |= {"alpha": 0.4 if family == "albef" else 0.0}
        place = ["--data", str(data), "--init", start(family), "--out", str(folder / processes / f"{family}-{task}")]
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
        return [*chosen, *place, *plain, "--schedule", STAGES, *recipe, *split]

    (folder / "script.py").write_text(SCRIPT)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    commands = json.dumps([words(*run, "two", 4) for run in RUNS])
    done = subprocess.run([*torchrun, str(folder / "script.py"), commands], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    for run in RUNS:
        with pytest.raises(SystemExit) as caught:
            main(words(*run, "one", 8))
        assert caught.value.code == 0
    return folder


@pytest.mark.parametrize("run", ["-".join(run) for run in RUNS])
def test_every_tensor_of_the_last_checkpoint_agrees_in_float64(
    both: Path, last_state: Callable[[Path], dict[str, Tensor]], run: str
) -> None:
    one, two = (last_state(both / processes / run) for processes in ("one", "two"))
    names = [path for path in one if not path.startswith("/generators")]
    assert names == [path for path in two if not path.startswith("/generators")]
    apart = {path: (one[path] - two[path]).abs().max().item() for path in names}
    assert {path: by for path, by in apart.items() if not by <= 1e-8} == {}
