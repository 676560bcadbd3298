"""Facts about resumption: a killed run, started again, ends with the very bits of one that was never killed."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from harness.kit.errors import HarnessError
from harness.train.pretrain import pretrain
from harness.train.vocabulary import build_vocabulary
from tests.train.runs import LastState, assert_same_end, interrupted, uninterrupted

# The command, killed in the middle of writing its third checkpoint.
KILLED_IN_A_CHECKPOINT = """
import os, signal, sys, torch
from harness.cli.main import main
save, written = torch.save, []
def cut(state, file):
    save(state, file)
    written.append(file)
    if len(written) == 3:
        file.truncate(file.tell() // 2)
        os.kill(os.getpid(), signal.SIGKILL)
torch.save = cut
main(sys.argv[1:])
"""


def started(words: list[str], code: str | None = None) -> subprocess.Popen[str]:
    program = ["-m", "harness"] if code is None else ["-c", code]
    return subprocess.Popen(
        [sys.executable, *program, *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def kill_after_a_checkpoint(words: list[str], out: Path) -> None:
    """Kill the command as soon as its first checkpoint is finished."""
    process = started(words)
    while not list((out / "checkpoints").glob("*.json")) and process.poll() is None:
        time.sleep(0.002)
    process.kill()
    _, err = process.communicate()
    assert process.returncode == -signal.SIGKILL, err
    assert not (out / "recipe.json").exists()


def test_albef_killed_after_and_within_a_checkpoint_ends_with_the_same_bits(
    command: Any, pairs: str, tmp_path: Path, last_state: LastState
) -> None:
    extra = ("--steps", 16, "--batch-size", 6, "--size", "dropout=0.1")
    out = tmp_path / "killed"
    words = command("albef", pairs, out, *extra)
    kill_after_a_checkpoint(words, out)
    process = started(words, KILLED_IN_A_CHECKPOINT)
    _, err = process.communicate()
    assert process.returncode == -signal.SIGKILL, err
    assert len(list((out / "checkpoints").glob("*.part"))) == 1
    process = started(words)
    _, err = process.communicate()
    assert process.returncode == 0, err
    uninterrupted(command("albef", pairs, tmp_path / "whole", *extra))
    assert_same_end(out, tmp_path / "whole", last_state, 16)
    assert not list((out / "checkpoints").glob("*.part"))


def test_clip_killed_in_a_stream_of_shards_ends_with_the_same_bits(
    command: Any, shards: str, tmp_path: Path, last_state: LastState
) -> None:
    words_file = tmp_path / "vocab.txt"
    words_file.write_text("\n".join(build_vocabulary(["red green blue dog cat house tree"], 80)))
    extra = ("--steps", 16, "--batch-size", 6, "--tokenizer", words_file)
    out = tmp_path / "killed"
    words = command("clip", shards, out, *extra)
    kill_after_a_checkpoint(words, out)
    process = started(words)
    _, err = process.communicate()
    assert process.returncode == 0, err
    uninterrupted(command("clip", shards, tmp_path / "whole", *extra))
    assert_same_end(out, tmp_path / "whole", last_state, 16)


@pytest.mark.parametrize("family", ["albef", "blip", "meter", "clip"])
def test_every_host_goes_on_from_the_middle_of_an_epoch(
    ask: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last_state: LastState, family: str
) -> None:
    sizes = {} if family == "clip" else {"sizes": {"dropout": 0.1}}
    asked = ask(family, tmp_path / "stopped", {"batch_size": 6}, steps=8, **sizes)
    interrupted(asked, monkeypatch)
    with pytest.raises(HarnessError, match=r"step-00000004.pt: of a run with seed 0, not 1; start the run as it was"):
        pretrain(asked.model_copy(update={"seed": 1}))
    pretrain(asked)
    pretrain(asked.model_copy(update={"out": tmp_path / "whole"}))
    assert_same_end(tmp_path / "stopped", tmp_path / "whole", last_state, 8)


def test_a_damaged_newest_checkpoint_is_told_even_where_progress_is_not(
    ask: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str], last_state: LastState
) -> None:
    asked = ask("clip", tmp_path / "damaged")
    pretrain(asked)
    (asked.out / "recipe.json").unlink()
    newest = max((asked.out / "checkpoints").glob("*.pt"))
    newest.write_bytes(newest.read_bytes()[:-100])
    pretrain(asked)
    err = capfd.readouterr().err
    assert f"warning: {newest} is damaged (its digest differs); going back to the one before it\n" in err
    pretrain(asked.model_copy(update={"out": tmp_path / "whole"}))
    assert_same_end(asked.out, tmp_path / "whole", last_state, 6)


def test_other_data_at_the_same_path_are_not_gone_on_with(ask: Any, pairs: str, tmp_path: Path) -> None:
    shutil.copytree(Path(pairs).parent, tmp_path / "data")
    listed = tmp_path / "data" / "pairs.json"
    asked = ask("clip", tmp_path / "out", steps=2, data=(str(listed),))
    pretrain(asked)
    listed.write_text(listed.read_text().replace("red", "blue"))
    with pytest.raises(HarnessError, match="holds a finished run with data_digests"):
        pretrain(asked)
    (asked.out / "recipe.json").unlink()
    with pytest.raises(HarnessError, match="data_digests"):
        pretrain(asked)
