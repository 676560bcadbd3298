"""Runs as the tests of training start, stop and compare them: in one process and in two, whole and interrupted."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from harness.cli.main import main
from harness.train.loop import Run
from harness.train.pretrain import pretrain
from tests.train.conftest import LastState as LastState

# Many commands in one start of the processes.
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


def uninterrupted(words: list[str]) -> None:
    """The command, in this process, to its end."""
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 0


def by_one_and_by_two(folder: Path, names: Iterable[str], words: Callable[[str, Path, int], list[str]]) -> Path:
    """Folders one/NAME and two/NAME below a folder: every run by one process with 8 a batch, and by two with 4 each.

    words: the command of a run by its name, the folder it writes to and its batch size in each process.
    """
    named = list(names)
    (folder / "script.py").write_text(SCRIPT)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    commands = json.dumps([words(name, folder / "two" / name, 4) for name in named])
    done = subprocess.run([*torchrun, str(folder / "script.py"), commands], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    for name in named:
        uninterrupted(words(name, folder / "one" / name, 8))
    return folder


def assert_one_is_two(both: Path, name: str, last_state: LastState) -> None:
    """Every tensor of the last checkpoints agrees in float64, but for each process's own generators."""
    one, two = (last_state(both / processes / name) for processes in ("one", "two"))
    names = [path for path in one if not path.startswith("/generators")]
    assert names == [path for path in two if not path.startswith("/generators")]
    assert sum(one[path].dtype == torch.float64 for path in names) > 100
    apart = {path: (one[path].double() - two[path].double()).abs().max().item() for path in names if one[path].numel()}
    assert {path: by for path, by in apart.items() if not by <= 1e-8} == {}


def interrupted(asked: Any, monkeypatch: pytest.MonkeyPatch, step: int = 5) -> None:
    """Pre-training that ends by Ctrl-C after a step: by default in the middle of an epoch, after a checkpoint."""
    advance = Run._advance

    def stop(run: Run, pairs: Any) -> None:
        advance(run, pairs)
        if run.position.step == step:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Run, "_advance", stop)
        with pytest.raises(KeyboardInterrupt):
            pretrain(asked)


def assert_same_end(out: Path, expected: Path, last_state: LastState, steps: int) -> None:
    """Two runs end with the same bits, and have logged the same losses of every step."""
    for read in (last_state, lambda folder: load_file(folder / "model.safetensors")):
        own, other = read(out), read(expected)
        assert own.keys() == other.keys()
        assert [name for name in own if not torch.equal(own[name], other[name])] == []
    entries = [[json.loads(line) for line in (folder / "log.jsonl").open()] for folder in (out, expected)]
    assert [entry["step"] for entry in entries[0]] == list(range(1, steps + 1))
    assert [entry["losses"] for entry in entries[0]] == [entry["losses"] for entry in entries[1]]
