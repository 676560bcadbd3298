"""What the README says is what the program does: its example runs, its blocks are what the commands print."""

import re
import shlex
from pathlib import Path

import pytest

from harness.check import method as checks
from harness.cli import main
from harness.registry import Entry, Registry, methods

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"<!-- (?:table|output): python -m harness ([^\n]*?) -->\n(.*?)<!-- end -->", README, re.DOTALL)
FROM_RECORDS = [(words, block) for words, block in BLOCKS if words.startswith(("table", "cost"))]


def test_the_example_is_a_complete_method(monkeypatch, tmp_path):
    source = re.search(r"```python\n(\"\"\"Norm:.*?)```", README, re.DOTALL)
    assert source is not None
    assert len(source[1].splitlines()) <= 34
    scope: dict = {}
    exec(compile(source[1], "norm.py", "exec"), scope)
    fake = Registry("method", lambda: [Entry("norm", "", "nowhere")], lambda _: scope["Norm"])
    monkeypatch.setattr("harness.methods.methods", fake)
    monkeypatch.setattr(checks, "methods", fake)
    assert all(good for _, good in checks.lines("norm"))


@pytest.mark.parametrize(("words", "block"), FROM_RECORDS, ids=[words for words, _ in FROM_RECORDS])
def test_blocks_are_what_the_commands_print(words, block, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit):
        main(shlex.split(words))
    printed = capsys.readouterr().out.strip()
    assert block.strip().removeprefix("```").removesuffix("```").strip() == printed


def test_every_block_is_filled():
    assert len(BLOCKS) == 4
    assert all(block.strip() for _, block in BLOCKS)


def test_pictures_and_folders_that_it_names_exist():
    for path in re.findall(r"\]\(((?:results|harness)/[^)]*)\)", README):
        assert (ROOT / path).exists(), path


def test_methods_it_names_exist():
    assert {"elip", "evit", "tome"} <= set(methods.names())
