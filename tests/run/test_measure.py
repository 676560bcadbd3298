"""Facts about measured records: blind scores, throughput, training, and evaluation in two processes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from harness.cost.latency import measure_latency
from harness.data.image_store import PixelBudget
from harness.data.pixel_kind import KIND_FILE
from harness.data.scenes import write_scenes
from harness.evaluate.timing import REPEATS
from harness.hosts.weights.find import assets_of
from harness.kit.errors import HarnessError
from harness.kit.progress import Progress
from harness.report.frame import boards, to_frame
from harness.report.tables import render_table
from harness.run.compare import NAME, with_deltas
from harness.run.grid import plan_cells
from harness.run.here import Here
from harness.run.measure import Measurer
from harness.run.request import RunRequest
from harness.run.runner import summary
from harness.run.store import Store

from ..photographs import photograph_like

COUNT = 11
# A caption and an image each ask for the other; two questions are asked of each scene.
SAMPLES = {"retrieval": ("queries", 2 * COUNT), "vqa": ("questions", 2 * COUNT)}
REPOSITORY = Path(__file__).parents[2]
Measure = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few scenes to evaluate, in val/, and to train on, in train/."""
    folder = tmp_path_factory.mktemp("worlds")
    for split in ("val", "train"):
        write_scenes(folder / split, split, COUNT, 0)
    return folder


@pytest.fixture(scope="module", autouse=True)
def short_latency() -> Iterator[None]:
    """Latency from five runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("harness.cost.report.measure_latency", partial(measure_latency, runs=5, seconds=0.0))
        yield


@pytest.fixture(scope="module")
def measure(worlds: Path) -> Measure:
    """The records of a request in a folder, of evit beside dense unless something else is asked for."""

    def records(out: Path, **changes: Any) -> list[dict[str, Any]]:
        asked: dict[str, Any] = {"methods": ("evit",), "ratios": (0.5,), "data": str(worlds / "val"), "device": "cpu"}
        request = RunRequest(**asked | {"batch_size": 4} | changes)
        store = Store(out)
        store.prepare()
        return list(Here().run(plan_cells(request), store, Measurer(request.weights, Progress(quiet=True))))

    return records


@pytest.fixture(scope="module")
def alone(measure: Measure, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Dense and evit on retrieval and vqa, in one process."""
    out = tmp_path_factory.mktemp("alone")
    return measure(out, tasks=("retrieval", "vqa"))


def own(quality: dict[str, Any]) -> dict[str, Any]:
    """What a record holds of its quality, without what a comparison adds when it is read."""
    return {
        task: {name: {key: entry[key] for key in ("value", "ci95", "n")} for name, entry in metrics.items()}
        for task, metrics in quality.items()
    }


def test_blind_is_what_dense_scores_by_texts_alone(alone: list[dict[str, Any]]) -> None:
    blind = {(record["spec"]["method"], record["spec"]["task"]): record["blind"] for record in alone}
    assert {cell for cell, scores in blind.items() if scores} == {("dense", "vqa")}
    dense = alone[2]["quality"]["vqa"]
    assert blind["dense", "vqa"].keys() == dense.keys()
    assert blind["dense", "vqa"]["vqa_accuracy"] < dense["vqa_accuracy"]["value"]


def test_blind_is_the_task_with_blank_images(measure: Measure, alone: list[dict[str, Any]], tmp_path: Path) -> None:
    (record,) = measure(tmp_path, methods=("dense",), tasks=("vqa",), task_options={"vqa": {"blank_images": True}})
    assert record["blind"] is None
    assert {name: found["value"] for name, found in record["quality"]["vqa"].items()} == pytest.approx(
        alone[2]["blind"]
    )


def test_throughput_counts_the_tasks_samples(alone: list[dict[str, Any]]) -> None:
    for record in alone:
        speed = record["throughput"]
        assert (speed["unit"], speed["samples"]) == SAMPLES[record["spec"]["task"]]
        assert 1 <= speed["passes"] <= REPEATS
        assert (speed["dense"] is None) == (record["spec"]["method"] == "dense")
        assert 0 < speed["model_seconds"] <= speed["end_to_end_seconds"]
        assert speed["end_to_end_per_second"] == pytest.approx(speed["samples"] / speed["end_to_end_seconds"], rel=0.02)
        assert speed["model_per_second"] >= speed["end_to_end_per_second"]
    assert {record["run"]["processes"] for record in alone} == {1}


def test_a_record_of_any_machine_keeps_no_times_and_says_where_it_was_measured(
    measure: Measure, alone: list[dict[str, Any]], tmp_path: Path
) -> None:
    timed, records = alone[2:], measure(tmp_path, tasks=("vqa",), any_machine=True)
    for record, other in zip(records, timed, strict=True):
        assert record["status"] == "done"
        assert own(record["quality"]) == own(other["quality"])
        assert record["throughput"] is None
        assert record["cost"]["latency"] is None
        assert record["run"]["device"] == other["run"]["device"] == other["spec"]["hardware"]
        assert (record["spec"]["hardware"], record["spec"]["threads"]) == (None, None)
        assert "/s" not in summary(record)
    frame = to_frame(with_deltas(records, Store(tmp_path)))
    assert len(boards(frame)) == 1
    assert not set(frame.values["kind"]) - {"quality", "cost"}
    assert "latency" not in render_table(frame)


def test_minutes_of_training_on_several_machines_are_in_no_table(
    measure: Measure, worlds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    training = {"finetune": {"data": str(worlds / "train"), "steps": 2, "batch_size": 4, "warmup_steps": 1}}
    asked: dict[str, Any] = {"methods": ("dense",), "protocol": "finetune", "training": training, "tasks": ("vqa",)}
    (record,) = measure(tmp_path / "runs", any_machine=True, **asked)
    here = record | {"spec": record["spec"] | {"hardware": record["run"]["device"], "threads": 1}}
    assert record["trained"][-1]["seconds"] > 0
    shown, of_one = (set(to_frame([one]).values["quantity"]) for one in (record, here))
    assert of_one - shown == {"trained_minutes"}


def test_a_task_that_the_weights_have_no_head_for_is_refused_before_anything_is_measured(
    measure: Measure, tmp_path: Path
) -> None:
    said = "captioning: Albef cannot caption: it can .*; leave the task out, or name another --model or --weights"
    with pytest.raises(HarnessError, match=said):
        measure(tmp_path, tasks=("vqa", "captioning"))
    assert not list(tmp_path.iterdir())


def test_a_host_stays_loaded_while_its_cells_follow_each_other(
    measure: Measure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.hosts.ready import load_host

    loaded: list[tuple[Any, ...]] = []

    def counting(*words: Any, **options: Any) -> Any:
        loaded.append(words)
        return load_host(*words, **options)

    monkeypatch.setattr("harness.run.measure.load_host", counting)
    measure(tmp_path, methods=("dense",), tasks=("vqa", "retrieval"))
    assert len(loaded) == 1


def test_tasks_on_other_images_keep_them_within_one_budget(worlds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    budget = PixelBudget((COUNT + 2) * 3 * 64 * 64)
    monkeypatch.setattr("harness.run.measure.PixelBudget", lambda: budget)
    tasks = ("vqa", "classification")
    cells = plan_cells(RunRequest(methods=("dense",), tasks=tasks, data=str(worlds / "val"), device="cpu"))
    measurer, left = Measurer(None, Progress(quiet=True)), []
    for cell in cells:
        measurer.prepare(cell)
        left.append(budget.left)
    assert left == [2 * 3 * 64 * 64, 0]


@pytest.mark.parametrize("protocol", ["finetune", "pretrain"])
def test_a_protocol_trains_once_measures_and_then_keeps_everything(
    measure: Measure, worlds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: str
) -> None:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    small = {"data": str(worlds / "train"), "steps": 2, "batch_size": 4, "warmup_steps": 1}
    training = {"finetune": small} | ({"pretrain": small | {"queue_size": 16}} if protocol == "pretrain" else {})
    asked: dict[str, Any] = {"methods": ("elip",), "protocol": protocol, "training": training, "tasks": ("vqa",)}
    records = measure(tmp_path / "runs", **asked)
    assert [(record["status"], record["error"]) for record in records] == [("done", None)] * 2
    stages = ["pretrain", "finetune"] if protocol == "pretrain" else ["finetune"]
    for record in records:
        method = record["spec"]["method"]
        assert [(one["stage"], one["steps"]) for one in record["trained"]] == [(stage, 2) for stage in stages]
        assert [stage["method"] for stage in record["spec"]["training"]] == [method, "dense"][: len(stages)]
        assert record["spec"]["training"][0]["config"] == record["spec"]["config"] == record["cost"]["config"]
    compared = with_deltas(records, Store(tmp_path / "runs"))
    assert compared[1]["quality"]["vqa"]["vqa_accuracy"]["delta_to_dense"] is not None
    encoded = records[1]["cost"]["encodings"]
    if protocol == "pretrain":  # evaluated with all tokens
        assert encoded["images"] == COUNT
        assert encoded["pairs"] == 0
        assert encoded["gmacs_total"] == encoded["dense_gmacs_total"]
        assert records[1]["cost"]["forward"]["total_gmacs"] < records[1]["cost"]["dense"]["forward_gmacs"]
    else:
        assert encoded["pairs"] > 0
    stamps = {
        path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"
    }
    assert len(list((tmp_path / "cache" / "trained").glob("[!.]*"))) == 2 * len(stages)
    assert measure(tmp_path / "runs", **asked) == records
    again = measure(tmp_path / "elsewhere", **asked)
    assert [record["quality"] for record in again] == [record["quality"] for record in records]
    assert [record["trained"] for record in again] == [record["trained"] for record in records]
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps


# `run` in one of two processes, where ELIP works in the first alone.
ONE_OF_TWO = """
from functools import partial
import harness.cost.report
from baselines.elip import ELIP
from harness.cost.latency import measure_latency
harness.cost.report.measure_latency = partial(measure_latency, runs=5, seconds=0.0)
from harness.cli.main import main
from harness.kit.distributed import rank

whole = ELIP.before_block


def broken(self, *given):
    if rank() == 1:
        raise ValueError("only in the second")
    return whole(self, *given)


ELIP.before_block = broken
main()
"""


def test_two_processes_have_the_quality_of_one_save_each_record_once_and_end_though_one_fails(
    alone: list[dict[str, Any]], worlds: Path, tmp_path: Path
) -> None:
    (tmp_path / "run.py").write_text(ONE_OF_TWO)
    words = ["run", "--method", "evit,elip", "--ratios", "0.5", "--tasks", "retrieval,vqa", "--batch-size", "4"]
    words += ["--data", str(worlds / "val"), "--device", "cpu", "--json", "--out", str(tmp_path / "runs")]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*torchrun, str(tmp_path / "run.py"), *words],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 1
    for task in ("retrieval", "vqa"):
        reason = "method ELIP: its tokens cannot be counted: ValueError: only in the second"
        assert done.stderr.count(f"failed: albef-tiny elip 0.5 {task}: {reason}\n") == 1
    printed = json.loads(done.stdout)
    assert [record["spec"]["method"] for record in printed] == ["dense", "evit", "elip"] * 2
    whole = [record for record in printed if record["status"] == "done"]
    for record, expected in zip(whole, alone, strict=True):
        assert own(record["quality"]) == expected["quality"]
        assert record["blind"] == expected["blind"]
        assert record["run"]["processes"] == 2
    saved = Store(tmp_path / "runs").records()
    assert sorted(record["key"] for record in saved) == sorted(record["key"] for record in printed)
    assert {path.suffix for path in (tmp_path / "runs").glob("*-*")} == {".json", ".parquet"}
    assert len(list((tmp_path / "runs").iterdir())) == 6 + 4 + (tmp_path / "runs" / NAME).exists()


def test_words_that_a_host_never_read_are_counted_and_warned_of(
    measure: Measure, worlds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "other"
    shutil.copytree(worlds / "val", folder)
    known = measure(tmp_path / "known", tasks=("vqa",), methods=("dense",), data=str(folder))
    assert known[0]["diagnostics"]["unknown_words"] == 0
    assert "does not know" not in capsys.readouterr().err
    for path in folder.glob("*.json"):
        content = path.read_text()
        path.write_text(content.replace('"question": "', '"question": "zebras graze beneath enormous clouds '))
    (record,) = measure(tmp_path / "unknown", tasks=("vqa",), methods=("dense",), data=str(folder))
    assert record["diagnostics"]["unknown_words"] > 0.2
    assert "does not know" in capsys.readouterr().err


def test_pictures_of_a_kind_that_a_host_never_saw_are_counted_and_warned_of(
    measure: Measure, worlds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "photographs"
    shutil.copytree(worlds / "val", folder)
    asked: dict[str, Any] = {"tasks": ("vqa",), "methods": ("dense",), "data": str(folder)}
    (record,) = measure(tmp_path / "scenes", **asked)
    assert record["diagnostics"]["unknown_pixels"] == 0
    assert "unlike" not in capsys.readouterr().err
    pictures = sorted((folder / "images").iterdir())
    for number, path in enumerate(pictures[: len(pictures) // 2]):
        photograph_like(number).save(path)
    (record,) = measure(tmp_path / "half", **asked)
    assert record["diagnostics"]["unknown_pixels"] == pytest.approx((len(pictures) // 2) / len(pictures), abs=1e-6)
    said = capsys.readouterr().err
    assert "albef-tiny was trained on pictures of scenes, and 45 % of those of" in said


def test_weights_that_do_not_say_what_they_saw_are_not_judged(
    measure: Measure, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(assets_of("albef-tiny"), tmp_path / "own", ignore=shutil.ignore_patterns(KIND_FILE))
    (record,) = measure(tmp_path / "runs", tasks=("vqa",), methods=("dense",), weights=tmp_path / "own")
    assert record["diagnostics"]["unknown_pixels"] is None
