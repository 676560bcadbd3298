"""docs/objectives.md has a row for each objective in each of its tables, and names settings that are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from harness.kit.registry import objectives

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "objectives.md").read_text(encoding="utf-8")
TABLES = ("What each minimises", "Hosts, batches and what they go with", "With a reduced tower")


def rows(title: str) -> set[str]:
    """The names in the first column of a section's table."""
    section = TEXT.split(f"## {title}\n")[1].split("\n## ")[0]
    return {name for row in re.findall(r"^\| (`.+?) \|", section, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)}


@pytest.mark.parametrize("title", TABLES)
def test_every_objective_has_a_row(title: str) -> None:
    assert rows(title) >= set(objectives.names())


def test_settings_that_are_named_are_there() -> None:
    for name, field in re.findall(r"`(\w+)\.(\w+)[`=]", TEXT):
        if name in objectives.names():
            assert field in objectives.get(name).Config.model_fields, f"{name}.{field}"


def test_vectors_that_are_named_are_there() -> None:
    known = {path.stem for path in (ROOT / "tests" / "goldens").glob("*.safetensors")}
    section = TEXT.split("## Hosts")[0]
    named = {name for row in re.findall(r"^\| .*", section, re.MULTILINE) for name in re.findall(r"`(\w+_\w+)`", row)}
    here = {name for name in named if name.split("_")[0] in {*objectives.names(), "flip", "umt"}}
    masked = {name for name in named if name.startswith(("mae_", "moca_", "aclip_"))}
    assert here - masked <= known
