"""Whatever a folder forbids and a terminal cannot show, a command ends with its status and no traceback."""

from __future__ import annotations

import ctypes
import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from harness.cli.main import main
from harness.run.store import Store
from tests.cli.test_cli_disk import PR_CAPBSET_DROP, as_anyone, command
from tests.report.conftest import make_record

CAP_DAC_READ_SEARCH = 2


def closed_to_root() -> Callable[[], None]:
    """After an exec, bits that forbid reading bind root too, as those that forbid writing."""
    libc, forbid_writing = ctypes.CDLL(None, use_errno=True), as_anyone()

    def drop() -> None:
        if os.geteuid() == 0 and libc.prctl(PR_CAPBSET_DROP, CAP_DAC_READ_SEARCH, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "CAP_DAC_READ_SEARCH cannot be dropped")
        forbid_writing()

    return drop


def set_of_captions(folder: Path) -> Path:
    for name in ("a", "b"):
        (folder / "images").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(folder / "images" / f"{name}.jpg")
    rows = [{"image": f"images/{name}.jpg", "caption": ["A", "B"]} for name in ("a", "b")]
    (folder / "c.json").write_text(json.dumps(rows))
    return folder


@pytest.mark.parametrize(
    ("closed", "said"),
    [
        ("", "is not readable"),
        ("images", "images: cannot be listed (Permission denied); make it readable"),
        ("c.json", "cannot be read (Permission denied)"),
        ("images/b.jpg", "cannot be read"),
    ],
)
def test_what_may_not_be_read_is_named(tmp_path: Path, closed: str, said: str) -> None:
    folder = set_of_captions(tmp_path / "set")
    (folder / closed).chmod(0)
    try:
        done = command("check", "data", folder, before=closed_to_root())
    finally:
        (folder / closed).chmod(0o755)
    assert done.returncode in (1, 2), done.stdout
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


class Latin(io.TextIOWrapper):
    """A terminal of few letters."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding="latin-1")

    def shown(self) -> str:
        self.flush()
        raw: Any = self.buffer
        return raw.getvalue().decode("latin-1")


@pytest.mark.parametrize(
    "words",
    [
        ["table", "--runs", "runs"],
        ["table", "--runs", "runs", "--format", "md"],
        ["table", "--runs", "runs", "--format", "latex"],
        ["table", "--runs", "runs", "--format", "csv"],
        ["check", "results", "runs"],
        ["check", "data", "set"],
        ["list"],
    ],
    ids=" ".join,
)
def test_letters_that_a_terminal_has_not_are_escaped(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = Store(tmp_path / "runs")
    store.prepare()
    record = make_record("dense", 1.0, "vqa", data="\u4e2d\U0001f600", error="\u4e2d")
    record["spec"] |= {"base": "b", "split": None, "hardware": "cpu", "threads": 1, "training": [], "weights": "w"}
    samples = pd.DataFrame({"task": ["vqa"], "metric": ["vqa_accuracy"], "sample": ["0"], "cluster": ["0"]})
    store.save({"format": 2, **record}, samples.assign(value=[0.5]))
    set_of_captions(tmp_path / "set" / "\u4e2d\U0001f600")
    out, err = Latin(), Latin()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code in (0, 1), err.shown()
    assert out.shown().strip()
    if words[0] == "table" and words[-1] not in ("latex",):
        assert "\\u4e2d\\U0001f600" in out.shown() or "\\\\u4e2d" in out.shown()


@pytest.mark.parametrize("words", [("run", "--data"), ("run", "--out"), ("plot", "--text"), ("plan", "--weights")])
def test_an_argument_that_is_no_utf8_is_one_line_before_anything_runs(
    words: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*words, os.fsdecode(b"n\xff8")])
    line = "error: argument n\\udcff8: not UTF-8; rename the file or folder, or write it in UTF-8"
    assert (ended.value.code, capsys.readouterr().err.encode("utf-8", "backslashreplace").decode().strip()) == (2, line)


@pytest.mark.parametrize("words", [("run", "--data", ""), ("check", "data", ""), ("pretrain", "--out", "")])
def test_an_empty_argument_is_not_taken_for_this_folder(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(list(words))
    told = capsys.readouterr().err.strip()
    place = f"{words[1]}: " if words[1].startswith("--") else ""
    line = f"error: {place}an empty argument, as of a variable that is not set; give a value or leave it out"
    assert (ended.value.code, told) == (2, line)
