"""What the README says is what the program does: its example runs, its blocks are what the commands print."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

import baselines
from harness import registry
from harness.cli import main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"<!-- (?:table|output): python -m harness ([^\n]*?) -->\n(.*?)<!-- end -->", README, re.DOTALL)
FROM_RECORDS = [(words, block) for words, block in BLOCKS if words.startswith(("table", "cost", "throughput"))]


def test_the_example_dropped_into_baselines_is_a_method(monkeypatch, tmp_path, capsys):
    source = re.search(r"```python\n(\"\"\"Norm:.*?)```", README, re.DOTALL)
    assert source is not None
    assert len(source[1].splitlines()) <= 30
    folder = shutil.copytree(registry.package_folder("baselines"), tmp_path / "baselines")
    (folder / "norm.py").write_text(source[1])
    found = registry.package_folder
    monkeypatch.setattr(registry, "package_folder", lambda name: folder if name == "baselines" else found(name))
    monkeypatch.setattr(baselines, "__path__", [str(folder)])
    with pytest.raises(SystemExit) as caught:
        main(["check", "method", "norm"])
    assert caught.value.code == 0
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["cost", "--model", "deit_tiny_patch16_224", "--method", "norm", "--ratio", "0.7", "--json"])
    assert json.loads(capsys.readouterr().out)["ratio"] == pytest.approx(0.7, abs=0.01)


@pytest.mark.parametrize(("words", "block"), FROM_RECORDS, ids=[words for words, _ in FROM_RECORDS])
def test_blocks_are_what_the_commands_print(words, block, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit):
        main(shlex.split(words))
    printed = capsys.readouterr().out.strip()
    assert block.strip().removeprefix("```").removesuffix("```").strip() == printed


def test_every_block_is_filled():
    assert len(BLOCKS) == 10
    assert all(block.strip() for _, block in BLOCKS)


def test_pictures_and_folders_that_it_names_exist():
    for path in re.findall(r"\]\(((?:results|harness)/[^)]*)\)", README):
        assert (ROOT / path).exists(), path


def test_the_minutes_of_training_are_those_of_the_recipes():
    about = README[README.index("**albef-tiny** is") :]
    recipes = (ROOT / "harness" / "assets" / name / "recipe.json" for name in ("albef-tiny", "blip-tiny"))
    seconds = [json.loads(path.read_text(encoding="utf-8"))["seconds"] for path in recipes]
    assert re.findall(r"(\d+) minutes", about) == [str(round(took / 60)) for took in seconds]


def test_methods_it_names_exist():
    assert {"elip", "evit", "tome"} <= set(registry.methods.names())
