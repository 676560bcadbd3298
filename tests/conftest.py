"""Shared by all tests: one thread each, so that parallel workers do not fight, and a cache of the session's
own.
"""

import os
import re
import shutil
import sys
from pathlib import Path

import pytest
from hypothesis import settings

# pytest --hypothesis-profile nightly: many draws where a test takes few.
settings.register_profile("nightly", max_examples=1000, deadline=None)

# Before torch is imported anywhere, and inherited by the commands that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory):
    """HARNESS_CACHE for the session: tests neither find nor leave anything in the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    before = os.environ.get("HARNESS_CACHE")
    os.environ["HARNESS_CACHE"] = str(folder)
    yield folder
    if before is None:
        del os.environ["HARNESS_CACHE"]
    else:
        os.environ["HARNESS_CACHE"] = before


ROOT = Path(__file__).parents[1]
# The files that docs/extend.md shows, by the path in their first line.
PAGE = (ROOT / "docs" / "extend.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"```(?:python|toml|yaml)\n# (\S+)\n(.*?)```", PAGE, re.DOTALL))


@pytest.fixture
def own_methods(tmp_path, monkeypatch):
    """The names of the methods of docs/extend.md, which stand beside those that ship, for this process alone."""
    import baselines
    from harness.kit import packages

    folder = shutil.copytree(packages.package_folder("baselines"), tmp_path / "baselines")
    files = [path for path in EXAMPLES if path.startswith("baselines/")]
    for path in files:
        (folder / Path(path).name).write_text(EXAMPLES[path], encoding="utf-8")
    found = packages.package_folder
    monkeypatch.setattr(packages, "package_folder", lambda name: folder if name == "baselines" else found(name))
    monkeypatch.setattr(baselines, "__path__", [str(folder)])
    names = [Path(path).stem for path in files]
    yield names
    for name in names:
        sys.modules.pop(f"baselines.{name}", None)
