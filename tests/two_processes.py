"""What each of two processes does for `tests/kit/test_distributed.py`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from harness.data.image_store import ImageStore
from harness.data.scenes import scenes_folder
from harness.kit.distributed import (
    end_processes,
    gather_rows,
    main_process_first,
    map_shared,
    on_main_process,
    rank,
    run_together,
    start_processes,
    world,
)
from harness.kit.errors import HarnessError
from harness.kit.progress import SILENT
from tests.tasks.every_task import CASES, SCENES, error_of, evaluated, results, scene_set


def main(folder: str) -> None:
    """Write what this process finds to folder/RANK.json."""
    torch.set_num_threads(1)
    start_processes(torch.device("cpu"))
    assert world() == 2
    with main_process_first():
        scenes_folder(SCENES, 3)
    found: dict[str, Any] = {case: measured(case) for case in CASES}
    one = scene_set("vqa")
    found["one sample"] = results(evaluated("vqa", replace(one, questions=one.questions[:1]))[0])
    found["failures"] = {name: error_of(action) for name, action in failures(Path(folder)).items()}
    made = Path(folder) / "made"
    with main_process_first():
        if not made.is_file():
            made.write_text(f"made by {rank()}")
    found["first"] = made.read_text()
    found["by the first alone"] = on_main_process(rank)
    found["gathered"] = gathered()
    (Path(folder) / f"{rank()}.json").write_text(json.dumps(found))
    end_processes()


def measured(case: str) -> dict[str, Any]:
    outcome, encoder = evaluated(case, method="elip")
    return {
        "results": results(outcome),
        "diagnostics": outcome.diagnostics,
        "throughput": asdict(outcome.throughput),
        "images": encoder.encoded_images,
        "pairs": encoder.encoded_pairs,
    }


def failures(folder: Path) -> dict[str, Callable[[], Any]]:
    """Actions that fail in the second process only, but for the last two."""
    own = folder / str(rank())
    own.mkdir()
    for name in "ab":
        Image.new("RGB", (8, 8)).save(own / f"{name}.png")
    if rank() == 1:
        (own / "b.png").write_bytes(b"")
    store = ImageStore([own / "a.png", own / "b.png"], 8, (0, 0, 0), (1, 1, 1))

    def compute(part: slice) -> torch.Tensor:
        if part.stop == 5:
            raise HarnessError("in the middle of a batch")
        return torch.zeros(1)

    def between() -> None:
        if rank() == 1:
            raise HarnessError("while the other computes")
        map_shared(5, 1, lambda part: torch.zeros(1), SILENT, "samples")

    def in_first() -> None:
        with main_process_first():
            if rank() == 0:
                raise HarnessError("nothing was made")

    return {
        "user error": lambda: run_together(lambda: fail(HarnessError("bad weights: fetch them"))),
        "out of memory": lambda: run_together(lambda: fail(torch.OutOfMemoryError("CUDA out of memory"))),
        "host memory": lambda: run_together(lambda: fail(RuntimeError("can't allocate memory: you tried"))),
        "bug": lambda: run_together(lambda: fail(KeyError("name"))),
        "inside": lambda: run_together(lambda: map_shared(5, 1, compute, SILENT, "samples")),
        "between": lambda: run_together(between),
        "bad image": store.ready,
        "second of two": lambda: run_together(
            lambda: fail(HarnessError("no, I do"), HarnessError("process 0 fails too"))
        ),
        "in first": in_first,
    }


def fail(error: Exception, elsewhere: Exception | None = None) -> None:
    """Raise in the second process, and `elsewhere` in the first."""
    if rank() == 1:
        raise error
    if elsewhere is not None:
        raise elsewhere


def gathered() -> dict[str, Any]:
    """Two rows of the first process and one of the second; none; and rows of the second alone."""
    rows = torch.tensor([1, 0]) if rank() == 0 else torch.tensor([1])
    found = {
        str(dtype): gather_rows(rows.to(dtype)).tolist()
        for dtype in (torch.bool, torch.bfloat16, torch.float64, torch.int64)
    }
    found["nothing"] = gather_rows(None).tolist()
    found["only the second"] = gather_rows(None if rank() == 0 else torch.tensor([[5, 6]])).tolist()
    return found
