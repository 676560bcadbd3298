"""Facts about stages in two processes: what both have, an error of one of them, frozen parts, and one that ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.data.scenes import write_scenes

SCRIPT = """
import json, sys
from pathlib import Path
import torch
from harness.kit import distributed
from harness.kit.errors import HarnessError
from harness.train import finetune as tuning
from harness.train.loop import Run
from harness.train.protocol import plan_stages, stage_key
from harness.train.stages import trained

torch.set_num_threads(1)
distributed.start_processes(torch.device("cpu"))
folder, weights, data = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
numbers = {"data": data, "image_size": 32, "batch_size": 4, "queue_size": 16, "steps": 2}
numbers["multipliers"] = {"vision": 0}


def run(**changed):
    given = {"finetune": numbers | changed}
    stages = plan_stages("finetune", "albef-tiny", "vqa", weights=weights, device="cpu", given=given)
    return trained(stages, folder, device="cpu", quiet=True)


def fails(*words):
    raise HarnessError("no image here")


load, found = tuning.load_model, {}
if distributed.rank() == 1:
    tuning.load_model = fails
try:
    run()
except HarnessError as error:
    found["before"] = str(error)
tuning.load_model = load
out, found["lines"] = run()
found["again"] = run()[1]
(folder / f"{distributed.rank()}.json").write_text(json.dumps(found | {"out": str(out)}))
if distributed.rank() == 1:
    Run._advance = fails
run(learning_rate=1e-5)
"""


@pytest.fixture(scope="module")
def ended(start: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """The folder of two processes that train a stage, and how they ended."""
    folder = tmp_path_factory.mktemp("stages")
    write_scenes(folder / "data", "train", 12, 0)
    (folder / "script.py").write_text(SCRIPT)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words = [str(folder / "script.py"), str(folder), start("albef"), str(folder / "data")]
    quick = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([*torchrun, *words], capture_output=True, text=True, check=False, timeout=300, env=quick)
    return folder, done


def test_an_error_of_one_process_before_training_is_known_to_both_and_they_go_on(ended: tuple[Path, Any]) -> None:
    folder, done = ended
    assert (folder / "1.json").is_file(), done.stderr[-3000:]
    both = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]
    assert [one["before"] for one in both] == ["no image here"] * 2


def test_both_have_the_stage_with_frozen_parts_and_train_it_once(ended: tuple[Path, Any]) -> None:
    both = [json.loads((ended[0] / f"{rank}.json").read_text()) for rank in range(2)]
    assert both[0] == both[1]
    assert both[0]["lines"] == both[0]["again"]
    assert [one["steps"] for one in both[0]["lines"]] == [2]
    assert json.loads(Path(both[0]["out"], "recipe.json").read_text())["processes"] == 2


def test_an_error_of_one_process_in_training_ends_both(ended: tuple[Path, Any]) -> None:
    done = ended[1]
    assert done.returncode != 0
    assert "error: process 1 of 2: no image here" in done.stderr.splitlines()
    assert len(list(ended[0].glob("finetune-*/recipe.json"))) == 1
