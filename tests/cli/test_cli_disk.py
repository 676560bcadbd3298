"""A full disk or a folder without write permission, as a user meets it: one line that says what to do, nothing lost.

The errors are the kernel's own. A disk "fills up" by a limit on the size of files (EFBIG, handled as ENOSPC is), or
is /dev/full. Root gives up its right to pass over permission bits, so that they bind as for anyone else.
"""

import ctypes
import io
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path

import pytest

from harness.cli.main import main
from harness.data.scenes import write_scenes
from harness.run.compare import NAME as COMPARISONS

PR_CAPBSET_READ, PR_CAPBSET_DROP, CAP_DAC_OVERRIDE = 23, 24, 1
COUNT = 3
SMALL = ("--threads", "1", "--ratios", "0.5", "--tasks", "vqa", "--limit", str(COUNT), "--batch-size", "1")


def command(*words: object, before: Callable[[], None] | None = None, stdout: int = subprocess.PIPE, **variables: str):
    """`python -m harness` in a process of its own, which calls `before` first and writes no bytecode."""
    return subprocess.run(
        [sys.executable, "-m", "harness", *map(str, words)],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **variables},
        preexec_fn=before,
        check=False,
    )


def files_of_at_most(size: int) -> Callable[[], None]:
    """Writing a file beyond `size` bytes fails in the process that calls the result."""
    return partial(resource.setrlimit, resource.RLIMIT_FSIZE, (size, size))


def as_anyone() -> Callable[[], None]:
    """After the call of the result and an exec, permission bits bind root too; nothing to do for others."""
    libc = ctypes.CDLL(None, use_errno=True)

    def drop() -> None:
        may_pass_over = os.geteuid() == 0 and libc.prctl(PR_CAPBSET_READ, CAP_DAC_OVERRIDE, 0, 0, 0) == 1
        if may_pass_over and libc.prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "CAP_DAC_OVERRIDE cannot be dropped")

    return drop


def content(folder: Path) -> dict[str, bytes]:
    """The files of a folder; comparisons, which may be lost and are computed again, left out."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != COMPARISONS]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def refused(process, *said: str) -> None:
    """Status 2, nothing on stdout, one error on stderr that holds all of `said`, after warnings of counts not kept."""
    assert (process.returncode, process.stdout or "") == (2, ""), process.stderr
    lines = process.stderr.splitlines()
    assert lines[-1].startswith("error: ")
    assert [line for line in lines[:-1] if not (line.startswith("warning: ") and "/kept/" in line)] == []
    assert [words for words in said if words not in lines[-1]] == []


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "scenes"
    write_scenes(folder, "val", COUNT, 0)
    return folder


def run_words(world: Path, out: Path, method: str) -> list[str]:
    return [*map(str, ("run", "--method", method, *SMALL, "--data", world, "--out", out, "--json", "--quiet"))]


def run(world: Path, out: Path, method: str, **options):
    return command(*run_words(world, out, method), **options)


def run_here(world: Path, out: Path, method: str) -> list[dict]:
    """The records of the same run in this process, which has nothing to import any more."""
    printed = io.StringIO()
    with redirect_stdout(printed), pytest.raises(SystemExit) as caught:
        main(run_words(world, out, method))
    assert caught.value.code == 0
    return json.loads(printed.getvalue())


@pytest.fixture(scope="module")
def measured(world, tmp_path_factory) -> Path:
    """A folder with the finished records of dense and random."""
    out = tmp_path_factory.mktemp("measured") / "runs"
    assert len(run_here(world, out, "random")) == 2
    assert len(content(out)) == 4
    return out


@pytest.fixture
def records(measured, tmp_path) -> Path:
    """Finished records of the test's own."""
    return shutil.copytree(measured, tmp_path / "runs")


@pytest.fixture
def locked(tmp_path):
    """A folder with a file in it, in which nothing can be written."""
    folder = tmp_path / "locked"
    folder.mkdir()
    (folder / "mine").write_text("mine")
    folder.chmod(0o555)
    yield folder
    folder.chmod(0o755)


def test_a_disk_that_fills_up_loses_no_record_and_the_run_goes_on_later(world, records):
    finished = content(records)
    refused(run(world, records, "random,evit", before=files_of_at_most(512)), "evit-0.5-vqa", "free space or choose")
    assert content(records) == finished
    assert [record["status"] for record in run_here(world, records, "random,evit")] == ["done"] * 3
    assert content(records).items() > finished.items()


def test_a_table_on_a_full_disk_leaves_the_earlier_one(records, tmp_path):
    (tmp_path / "table.txt").write_text("earlier")
    words = ("table", "--runs", records, "--out", tmp_path / "table.txt")
    refused(command(*words, before=files_of_at_most(64)), "table.txt", "free space or choose", "nothing was changed")
    assert (tmp_path / "table.txt").read_text() == "earlier"


def test_scenes_on_a_full_disk_leave_nothing(tmp_path):
    found = command("plan", "--method", "random", before=files_of_at_most(64), HARNESS_CACHE=str(tmp_path))
    refused(found, "scenes cannot be written", "free space or set HARNESS_CACHE")
    # A line of counts that was cut off is known by its digest and counted again.
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.parent.name != "kept"] == []


@pytest.mark.parametrize("words", [("list", "--json"), ("--help",)])
def test_output_that_meets_a_full_disk(words):
    with open("/dev/full", "w") as full:
        refused(command(*words, stdout=full.fileno()), "No space left on device", "free space or send it elsewhere")


WRITERS = {
    "run": (("run", "--method", "random", "--out"), "choose another --out"),
    "ablate": (("ablate", "keep-ratio", "--out"), "choose another --out"),
    "table": (("table", "--runs", "{records}", "--out"), "choose another place"),
    "plot": (("plot", "--runs", "{records}", "--no-patches", "--out"), "choose another --out"),
}


@pytest.mark.parametrize("case", WRITERS)
def test_a_folder_without_write_permission(case, records, locked):
    words, remedy = WRITERS[case]
    words = (*(word.format(records=records) for word in words), locked / "new")
    refused(command(*words, before=as_anyone()), str(locked), "Permission denied", remedy)
    assert content(locked) == {"mine": b"mine"}


def test_records_without_write_permission_stay(world, records):
    finished = content(records)
    records.chmod(0o555)
    try:
        found = run(world, records, "random,evit", before=as_anyone())
    finally:
        records.chmod(0o755)
    refused(found, str(records), "Permission denied", "choose another --out")
    assert content(records) == finished


def test_a_cache_without_write_permission(locked):
    found = command("plan", "--method", "random", before=as_anyone(), HARNESS_CACHE=str(locked))
    refused(found, str(locked), "Permission denied", "set HARNESS_CACHE to a folder that can be written")
    assert content(locked) == {"mine": b"mine"}
