"""What the README and docs/ say is what the program does: examples run, blocks are what the commands print."""

import json
import re
import shlex
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from harness.cli.main import main
from harness.hosts.weights.sets import task_weights
from harness.kit import registry
from harness.run.grid import stages_of
from tests import update_readme

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
BLOCK = re.compile(r"<!-- (?:table|output): python -m harness ([^\n]*?) -->\n(.*?)<!-- end -->", re.DOTALL)
BLOCKS = [block for page in PAGES for block in BLOCK.findall(page.read_text(encoding="utf-8"))]
FROM_RECORDS = [(words, block) for words, block in BLOCKS if words.startswith(("table", "cost", "throughput", "list"))]
TRAINING_RUNS = re.findall(r"^python -m harness run (--protocol .*)$", README.replace("\\\n", " "), re.MULTILINE)
ASSETS = ROOT / "harness" / "assets"


@pytest.mark.parametrize(("words", "block"), FROM_RECORDS, ids=[words for words, _ in FROM_RECORDS])
def test_blocks_are_what_the_commands_print(words, block, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit):
        main(shlex.split(words))
    printed = capsys.readouterr().out.strip()
    assert block.strip().removeprefix("```").removesuffix("```").strip() == printed


def test_every_block_is_filled():
    assert len(BLOCKS) == 16
    assert all(block.strip() for _, block in BLOCKS)


@pytest.mark.parametrize(
    ("status", "out", "said"),
    [
        (1, "VQA accuracy 10.0% (floor 90%)", "VQA accuracy 10.0%"),
        (0, "| elip | 0.5 | failed | 3.0 |", "'failed' in the table"),
        (
            0,
            "| dense | 1 | 3.0 |\n- 2 record(s) of the same settings, older or of other code, are not shown",
            "record(s) of the same settings",
        ),
        (0, "| dense | 1 | 3.0 |\n- elip: rows come from several versions of baselines/elip.py", "several versions"),
    ],
    ids=["the command fails", "a cell failed", "records of two runs", "records of two versions"],
)
def test_filling_stops_at_what_is_not_to_be_published(status, out, said, monkeypatch):
    monkeypatch.setattr(
        update_readme.subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, status, out, "")
    )
    block = update_readme.BLOCK.search("<!-- table: python -m harness table --format md -->\nold\n<!-- end -->")
    with pytest.raises(SystemExit, match=re.escape(said)):
        update_readme.filled(block, ())


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_pictures_files_and_sections_that_pages_name_exist(page):
    prose = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)  # code has a[i](b), too
    for link in re.findall(r"\]\(((?!https?:)[^)]*)\)", prose):
        path, _, section = link.partition("#")
        named = page.parent / path if path else page
        assert named.exists(), link
        if section:
            titles = re.findall(r"^#+ (.*)$", named.read_text(encoding="utf-8"), re.MULTILINE)
            assert section in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}, link


def test_the_minutes_of_training_are_those_of_the_recipes():
    about = (ROOT / "docs" / "world.md").read_text(encoding="utf-8")
    recipes = (ASSETS / name / "recipe.json" for name in ("albef-tiny", "albef-tiny/entailment", "blip-tiny"))
    seconds = [json.loads(path.read_text(encoding="utf-8"))["seconds"] for path in recipes]
    # In parentheses, as of what ships; minutes of trials and of CPU stand in sentences.
    assert re.findall(r"\((\d+) minutes", about) == [str(round(took / 60)) for took in seconds]


def test_the_commands_that_made_the_shipped_heads_are_those_of_their_recipes():
    """Of a head that took several runs, the last one."""
    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8").replace("\\\n", " ")
    commands = [shlex.split(line) for line in re.findall(r"^python -m harness (finetune .*)$", text, re.MULTILINE)]
    heads = [task for task in registry.tasks.names() if task != "classification"]
    recipes = sorted(path for task in heads for path in ASSETS.glob(f"*/{task}/recipe.json"))
    assert recipes
    for path in recipes:
        made = json.loads(path.read_text(encoding="utf-8"))
        host_and_task = [made["facts"]["model"], path.parent.name]
        *_, last = [
            words
            for words in commands
            if [words[words.index(name) + 1] for name in ("--model", "--task")] == host_and_task
        ]
        numbers = [word for option, word in pairwise(last) if option == "--recipe"]
        changed = yaml.safe_load("{" + ", ".join(word.replace("=", ": ", 1) for word in numbers) + "}")
        said = {name: last[last.index(f"--{name}") + 1] for name in ("model", "data", "steps", "store")}
        assert said == {
            "model": made["facts"]["model"],
            "data": made["facts"]["data"][0],
            "steps": str(made["facts"]["steps"]),
            "store": made["stored"],
        }
        assert changed.get("multipliers", {}) == made["recipe"]["multipliers"]
        assert ("--init" in last) == (made["facts"]["init"] is not None)


def test_the_runs_it_shows_of_protocols_train_what_it_says(monkeypatch, capsys):
    def trained(request, *_, **__):
        stages = [stages_of(request, task, seed) for task in request.tasks for seed in request.seeds]
        return [[stage.stage, stage.steps] for found in stages for stage in found]

    monkeypatch.setattr("harness.run.plan.plan_rows", trained)
    found = []
    for line in TRAINING_RUNS:
        with pytest.raises(SystemExit):
            main(["plan", *shlex.split(line), "--json"])
        found.append(json.loads(capsys.readouterr().out))
    assert found == [[["finetune", 300]], 3 * [["pretrain", 2000], ["finetune", 300]]]


def test_the_example_of_weights_by_task_is_read_as_it_says(tmp_path):
    for name, line in re.findall(r"^runs/albef/(\S*model\.safetensors) +(.*)$", README, re.MULTILINE):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(line.encode())
    found = {task: task_weights("albef-tiny", tmp_path, task).parent.name for task in ("retrieval", "vqa", "nlvr2")}
    assert found == {"retrieval": "retrieval", "vqa": "vqa", "nlvr2": tmp_path.name}


def test_methods_it_names_exist():
    assert {"elip", "evit", "tome"} <= set(registry.methods.names())
