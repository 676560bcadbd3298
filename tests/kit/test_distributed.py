"""Evaluation in two processes: outcomes are those of one, and an error in one process is raised in both."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.kit.distributed import (
    batches,
    gather_rows,
    main_process_first,
    map_shared,
    on_main_process,
    own_share,
    run_together,
)
from harness.kit.progress import SILENT
from tests.tasks.every_task import CASES, evaluated, results

REPOSITORY = Path(__file__).parents[2]
# Of pytest's workers only one starts the two processes.
pytestmark = pytest.mark.xdist_group("two processes")
SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
from tests.two_processes import main
main(sys.argv[2])
"""


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes found."""
    folder = tmp_path_factory.mktemp("processes")
    (folder / "script.py").write_text(SCRIPT)
    with socket.create_server(("127.0.0.1", 0)) as free:
        about = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    words = [sys.executable, str(folder / "script.py"), str(REPOSITORY), str(folder)]
    started = [
        subprocess.Popen(words, env=os.environ | about | {"RANK": rank}, stderr=subprocess.PIPE, text=True)
        for rank in "01"
    ]
    try:
        for process in started:
            _, faults = process.communicate(timeout=300)
            assert process.returncode == 0, faults[-3000:]
    finally:
        for process in started:
            process.kill()
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize("case", CASES)
def test_outcomes_of_two_processes_are_those_of_one(both: list[dict[str, Any]], case: str) -> None:
    outcome, encoder = evaluated(case, method="elip")
    expected = json.loads(json.dumps(results(outcome)))
    assert both[0][case]["results"] == both[1][case]["results"] == expected
    for found in both:
        assert found[case]["pairs"] == encoder.encoded_pairs
        # An image whose samples fall to both processes is encoded in both.
        assert encoder.encoded_images <= found[case]["images"] <= encoder.encoded_images + 4
    assert both[0][case]["diagnostics"] == both[1][case]["diagnostics"]
    assert both[0][case]["throughput"] == both[1][case]["throughput"]


def test_diagnostics_of_two_processes_are_those_of_one(both: list[dict[str, Any]]) -> None:
    expected = evaluated("vqa", method="elip")[0].diagnostics
    assert expected["mentioned_pairs"] > 2
    assert 0 < expected["token_damage"] < 1
    found = both[1]["vqa"]["diagnostics"]
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name] == pytest.approx(values, abs=2e-6)


def test_one_sample_is_enough_for_two_processes(both: list[dict[str, Any]]) -> None:
    for found in both:
        assert found["one sample"]["vqa_accuracy"] == both[0]["one sample"]["vqa_accuracy"]
        assert len(found["one sample"]["vqa_accuracy"]) == 1


@pytest.mark.parametrize(
    ("failure", "kind", "text"),
    [
        ("user error", "HarnessError", "bad weights: fetch them"),
        ("out of memory", "OutOfMemoryError", "CUDA out of memory"),
        ("host memory", "RuntimeError", "can't allocate memory: you tried"),
        ("bug", "RuntimeError", "KeyError('name')"),
        ("inside", "HarnessError", "in the middle of a batch"),
        ("between", "HarnessError", "while the other computes"),
        ("second of two", "HarnessError", "process 0 fails too"),
        ("bad image", "HarnessError", "b.png: cannot be read (it is empty); fetch it again or leave it out"),
        ("in first", "HarnessError", "nothing was made"),
    ],
)
def test_an_error_in_one_process_is_raised_in_both(
    both: list[dict[str, Any]], failure: str, kind: str, text: str
) -> None:
    told = [found["failures"][failure] for found in both]
    own, other = (told[1], told[0]) if failure != "in first" else (told[0], told[1])
    assert other[0] == kind
    assert other[1].endswith(text)
    assert own[0] in (kind, "KeyError")
    assert own[1] == other[1] or own[0] == "KeyError"


def test_the_first_process_goes_first_and_its_result_is_everybodys(both: list[dict[str, Any]]) -> None:
    for found in both:
        assert found["first"] == "made by 0"
        assert found["by the first alone"] == 0


def test_rows_of_all_processes_are_gathered_whatever_their_number_and_dtype(both: list[dict[str, Any]]) -> None:
    for found in both:
        assert found["gathered"] == {
            "torch.bool": [True, False, True],
            "torch.bfloat16": [1.0, 0.0, 1.0],
            "torch.float64": [1.0, 0.0, 1.0],
            "torch.int64": [1, 0, 1],
            "nothing": [],
            "only the second": [[5, 6]],
        }


def test_in_one_process_everything_is_ones_own() -> None:
    assert own_share(5) == slice(0, 5)
    assert map_shared(5, 2, lambda part: torch.arange(part.start, part.stop), SILENT, "samples").tolist() == [
        0,
        1,
        2,
        3,
        4,
    ]
    assert map_shared(0, 2, lambda part: torch.arange(1), SILENT, "samples").tolist() == []
    assert gather_rows(None).tolist() == []
    assert run_together(lambda: 3) == on_main_process(lambda: 3) == 3
    with main_process_first():
        pass
    with pytest.raises(KeyError), main_process_first():
        raise KeyError


def test_batches_cover_everything_once() -> None:
    assert [(part.start, part.stop) for part in batches(5, 2)] == [(0, 2), (2, 4), (4, 5)]


@pytest.mark.parametrize(("count", "parts"), [(7, [(0, 3), (3, 5), (5, 7)]), (2, [(0, 1), (1, 2), (2, 2)])])
def test_shares_are_contiguous_and_differ_by_one_at_most(
    monkeypatch: pytest.MonkeyPatch, count: int, parts: list[tuple[int, int]]
) -> None:
    monkeypatch.setattr("harness.kit.distributed.world", lambda: 3)
    for number, part in enumerate(parts):
        monkeypatch.setattr("harness.kit.distributed.rank", lambda number=number: number)
        assert (own_share(count).start, own_share(count).stop) == part
