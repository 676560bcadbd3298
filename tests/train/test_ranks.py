"""Facts about training in many processes: two with half the batch each are one with the whole batch."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.cli.main import main

# Family, steps, dtype: all in one start of the two processes.
RUNS = {
    "albef": ("albef", 20, "float64"),
    "clip": ("clip", 20, "float64"),
    "blip": ("blip", 4, "float64"),
    "meter": ("meter", 4, "float64"),
    "albef-single": ("albef", 20, "float32"),
    "clip-single": ("clip", 20, "float32"),
}
SCRIPT = """
import json, sys
from harness.cli.main import main
for words in json.loads(sys.argv[1]):
    try:
        main(words)
    except SystemExit as ended:
        if ended.code:
            raise
"""


@pytest.fixture(scope="module")
def both(command: Any, pairs: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders one/NAME and two/NAME of every run, by one process and by two."""
    folder = tmp_path_factory.mktemp("ranks")

    def words(name: str, processes: str, batch_size: int) -> list[str]:
        family, steps, dtype = RUNS[name]
        more = ("--steps", steps, "--dtype", dtype, "--batch-size", batch_size, "--save-every", steps)
        recipe = ("--recipe", "negatives=global", "--recipe", "learning_rate=8e-4")
        return list(command(family, pairs, folder / processes / name, *more, *recipe))

    (folder / "script.py").write_text(SCRIPT)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    commands = json.dumps([words(name, "two", 4) for name in RUNS])
    done = subprocess.run([*torchrun, str(folder / "script.py"), commands], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    for name in RUNS:
        with pytest.raises(SystemExit) as caught:
            main(words(name, "one", 8))
        assert caught.value.code == 0
    return folder


def losses(out: Path) -> list[dict[str, float]]:
    return [json.loads(line)["losses"] for line in (out / "log.jsonl").open()]


@pytest.mark.parametrize("name", ["albef", "clip", "blip", "meter"])
def test_every_tensor_of_the_last_checkpoint_agrees_in_float64(
    both: Path, last_state: Callable[[Path], dict[str, Tensor]], name: str
) -> None:
    one, two = (last_state(both / processes / name) for processes in ("one", "two"))
    names = [path for path in one if not path.startswith("/generators")]
    assert names == [path for path in two if not path.startswith("/generators")]
    assert sum(one[path].dtype == torch.float64 for path in names) > 100
    apart = {path: (one[path] - two[path]).abs().max().item() for path in names}
    assert {path: by for path, by in apart.items() if not by <= 1e-8} == {}
    assert json.loads((both / "two" / name / "recipe.json").read_text())["processes"] == 2


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
