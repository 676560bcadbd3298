"""The wheel holds what the program needs at run time, from any folder."""

import os
import zipfile
from pathlib import Path

import pytest
from hatchling import build

ROOT = Path(__file__).parents[1]
PACKAGES = ("harness", "baselines", "ablations")


@pytest.fixture(scope="module")
def wheel_names(tmp_path_factory):
    before = Path.cwd()
    os.chdir(ROOT)
    try:
        folder = tmp_path_factory.mktemp("wheel")
        name = build.build_wheel(str(folder))
    finally:
        os.chdir(before)
    with zipfile.ZipFile(folder / name) as wheel:
        return set(wheel.namelist())


def test_the_wheel_holds_every_file_of_the_packages(wheel_names):
    source = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith(".")
    }
    assert source <= wheel_names


def test_the_wheel_holds_nothing_else(wheel_names):
    others = {name for name in wheel_names if name.partition("/")[0] not in PACKAGES}
    assert all(".dist-info/" in name for name in others)


@pytest.mark.parametrize("ending", [".py", ".yaml", ".txt", ".safetensors", ".json"])
def test_the_wheel_holds_each_kind_of_file(wheel_names, ending):
    assert any(name.endswith(ending) for name in wheel_names if ".dist-info/" not in name)
