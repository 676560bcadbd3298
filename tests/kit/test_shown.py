"""Text of strangers reaches a terminal, a shell, a CSV file and Markdown as text, whatever it holds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.check.data import lines
from harness.kit.errors import HarnessError, warn_on_stderr
from harness.kit.shown import csv_cell, markdown_text, on_one_line, shell_words

HOSTILE = "\x1b[2J\nred\u202egnp.exe\x07\u2028"


def test_control_characters_are_shown() -> None:
    assert on_one_line(HOSTILE) == "\\x1b[2J\\nred\\u202egnp.exe\\x07\\u2028"
    for plain in ("a b", "ü 😀 👩‍💻", "日本", "\udcff"):
        assert on_one_line(plain) == plain
    assert on_one_line(on_one_line(HOSTILE)) == on_one_line(HOSTILE)


def test_errors_and_warnings_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert str(HarnessError(f"image {HOSTILE}")) == f"image {on_one_line(HOSTILE)}"
    warn_on_stderr(HOSTILE)
    assert capsys.readouterr().err == f"warning: {on_one_line(HOSTILE)}\n"


@pytest.mark.parametrize("word", ["plain", "two words", "it's", "\udcff\udcfe/x", "a\nb\x1b", "$HOME `x` \\", ""])
def test_a_shell_reads_the_words_back(word: str) -> None:
    code = "import os, sys; sys.stdout.buffer.write(os.fsencode(sys.argv[1]))"
    line = shell_words([sys.executable, "-c", code, word])
    assert line.isprintable()
    read = subprocess.run(["bash", "-c", line], capture_output=True, check=True)
    assert os.fsdecode(read.stdout) == word


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\t=1", "\r=1"])
def test_cells_that_would_be_formulas_are_text(text: str) -> None:
    assert csv_cell(text) == f"'{on_one_line(text)}"


@pytest.mark.parametrize("value", [-1.5, 3, None, "a=1", "", "t2i_r1"])
def test_other_cells_stay(value: object) -> None:
    assert csv_cell(value) == value


def test_markdown_follows_no_mark_of_a_name() -> None:
    assert markdown_text("<img src=x> & *a* [b](c) `d` | e_f _g_") == (
        "&lt;img src=x&gt; &amp; \\*a\\* \\[b\\](c) \\`d\\` \\| e_f \\_g\\_"
    )


def test_check_data_prints_names_that_a_terminal_cannot_follow(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text('[{"image": "\\u001b[2J\\nno.jpg", "caption": "a"}]')
    for line, _ in lines(tmp_path):
        assert "\x1b" not in line
        assert "\n" not in line


def test_links_to_the_folders_above_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "list.json").write_text('[{"image": "x.jpg", "caption": "a"}]')
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "up").symlink_to("..")
    assert "(0 images, 0 other files)" in lines(tmp_path / "data")[0][0]
