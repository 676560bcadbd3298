"""Shared by all tests: one thread each, so that parallel workers do not fight, and a cache of the session's
own.
"""

import os

import pytest

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
