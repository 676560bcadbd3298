"""The command line as a user meets it: exit statuses, one line per failure, nothing lost, nothing recomputed."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from harness import __version__
from harness.cli.main import main
from harness.data.scenes import write_scenes
from harness.hosts.weights.find import weights_file

COUNT = 12


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """Twelve held-out scenes in the real annotation formats."""
    folder = tmp_path_factory.mktemp("data") / "scenes"
    write_scenes(folder, "val", COUNT, 0)
    return folder


def time_shortly(patch: pytest.MonkeyPatch) -> None:
    """Measure latency in five short runs."""
    from harness.cost.latency import measure_latency

    patch.setattr("harness.cost.report.measure_latency", partial(measure_latency, runs=5, seconds=0.0))


@pytest.fixture
def harness(capsys, monkeypatch):
    """Call the command line: (exit status, stdout, stderr)."""
    time_shortly(monkeypatch)

    def call(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            main(list(map(str, words)))
        out, err = capsys.readouterr()
        return caught.value.code, out, err

    return call


TASKS = ("--tasks", "retrieval,vqa")


def small(world: Path, out: Path, *words: str) -> tuple[str, ...]:
    return ("run", "--method", "elip", "--ratios", "0.5", "--data", str(world), "--out", str(out), *TASKS, *words)


@pytest.fixture(scope="module")
def finished(world, tmp_path_factory) -> tuple[Path, str]:
    """The records of `small`, dense and elip in both tasks, and what that run printed as JSON."""
    out = tmp_path_factory.mktemp("finished") / "runs"
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        time_shortly(patch)
        with redirect_stdout(printed), pytest.raises(SystemExit) as caught:
            main([*small(world, out, "--json")])
    assert caught.value.code == 0
    return out, printed.getvalue()


@pytest.fixture
def records(finished, tmp_path) -> Path:
    """Those records in a folder of the test's own."""
    return shutil.copytree(finished[0], tmp_path / "runs")


REFUSED = {
    "unknown method": (["--method", "elpi"], "did you mean elip"),
    "unknown model": (["--model", "albef-tinny"], "did you mean albef-tiny"),
    "unknown task": (["--tasks", "vqaa"], "did you mean vqa"),
    "unknown setting": (["--set", "lamda=0.5"], "lamda: unknown setting; ELIPConfig has"),
    "setting out of range": (
        ["--set", "vision_weight=2"],
        "vision_weight: Input should be less than or equal to 1",
    ),
    "setting without value": (["--set", "vision_weight"], "--set 'vision_weight': expected name=value"),
    "task option without value": (["--set-task", "retrieval"], "--set-task 'retrieval': expected name=value"),
    "setting that is no YAML": (["--set", "vision_weight=["], "not valid YAML (expected the node content"),
    "budget given twice": (["--set", "keep_tokens=40,30,20"], "keep_tokens sets the budget already"),
    "unknown task option": (["--set-task", "retrieval.depth=3"], "depth: unknown setting"),
    "ratio 0": (["--ratios", "0"], "ratio 0: expected a number above 0 and at most 1"),
    "negative ratio": (["--ratios", "-0.5"], "ratio -0.5: expected a number above 0"),
    "ratio above 1": (["--ratios", "0.5,1.5"], "ratio 1.5: expected a number above 0"),
    "ratio not a number": (["--ratios", "half"], "ratio half: expected a number above 0"),
    "ratio nobody reaches": (["--ratios", "0.05"], "ratio 0.05 is not reachable: the nearest is"),
    "begin beyond depth": (
        ["--schedule", "begin=12 keep=.5"],
        "begin block 12 for stage 1: the tower has blocks 0 to 11",
    ),
    "unsorted begin": (
        ["--schedule", "begin=4,2 keep=.9,.5"],
        "begin [4, 2]: expected block numbers from 0 in increasing order",
    ),
    "lengths that differ": (["--schedule", "begin=2,4 keep=.9"], "keep has 1 entries and begin has 2"),
    "look-ahead beyond depth": (
        ["--schedule", "begin=10 keep=.5 lookahead=3"],
        "begin 10 plus look-ahead 3 for stage 1 goes beyond",
    ),
    "more kept than there are": (
        ["--set", "keep_tokens=100,50,20"],
        "keep_tokens 100: more tokens kept than the 64 there are",
    ),
    "image size": (["--image-size", "60"], "image size 60: expected a multiple of the patch size 8"),
    "data folder": (["--data", "/nowhere"], "data /nowhere: no such folder"),
    "device": (["--device", "tpu"], "device 'tpu': expected auto, cpu, cuda or cuda:N"),
    "dtype": (["--dtype", "float8"], "dtype 'float8': expected one of"),
    "protocol": (["--protocol", "zero-shot"], "unknown protocol 'zero-shot': known: finetune, inference, pretrain"),
    "stage": (["--set-train", "finetune.steps=3"], "--set-train finetune: protocol inference has no such stage"),
    "unknown stage": (["--set-train", "tuning.steps=3"], "unknown stage of training 'tuning'"),
    "training option": (["--set-train", "steps=3"], "--set-train steps: expected STAGE.option=value, as finetune"),
    "seed": (["--seed", "0,one"], "--seed '0,one': expected a whole number, or several as 0,1,2"),
    "negative seed": (["--seed", "0,-1"], "--seed -1: expected a whole number from 0 to 4294967295"),
    "task beyond the host": (
        ["--model", "albef-tiny", "--tasks", "captioning"],
        "captioning: Albef cannot caption: it can",
    ),
    "task nobody does": (
        ["--data", "ablations", "--tasks", "vqa"],
        "vqa: data ablations: no questions with answers in it",
    ),
    "two hosts and one's weights": (
        ["--model", "albef-tiny,blip-tiny", "--weights", "w.safetensors"],
        "--weights w.safetensors: are one host's; name it alone with --model, not albef-tiny, blip-tiny",
    ),
    "match": (["--match", "flops"], "flops"),
    "MACs ratio out of reach": (["--ratios", "0.2", "--match", "macs"], "MACs ratio 0.2 is not reachable"),
    "weights missing": (["--weights", "/nowhere/model.safetensors"], "/nowhere/model.safetensors"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_one_line_and_status_2(case, harness, world, tmp_path):
    words, said = REFUSED[case]
    status, out, err = harness(*small(world, tmp_path / "runs", *words, "--quiet"))
    assert status == 2
    assert out == ""
    assert said in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_an_option_without_its_value_is_told_by_its_own_name(harness):
    for option in ("--size", "--recipe", "--set"):
        status, _, err = harness("pretrain", option, "depth")
        assert (status, err) == (2, f"error: {option} 'depth': expected name=value\n")


def test_cuda_where_there_is_none(harness, world, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    status, _, err = harness(*small(world, tmp_path, "--device", "cuda"))
    assert (status, "no such CUDA device here; use --device cpu" in err) == (2, True)


def test_unknown_options_and_commands_are_one_line(harness):
    for words in (["run", "--metod", "elip"], ["rum"], ["run"], ["list", "method"]):
        status, _, err = harness(*words)
        assert status == 2
        assert err.startswith("error: ")
        assert err.count("\n") == 1


def test_a_command_not_built_refuses_in_one_line(harness):
    status, _, err = harness("report")
    assert (status, "not built yet" in err) == (2, True)


@pytest.mark.parametrize("kind", ["truncated", "text", "another model"])
def test_unusable_weights(kind, harness, world, tmp_path):
    path = tmp_path / "weights.safetensors"
    if kind == "truncated":
        path.write_bytes(weights_file("albef-tiny").read_bytes()[:100_000])
    elif kind == "text":
        path.write_text("these are no weights")
    else:
        save_file({f"other.{name}": value for name, value in load_file(weights_file("albef-tiny")).items()}, path)
    status, _, err = harness(*small(world, tmp_path / "runs", "--weights", path))
    assert status == 2
    assert err.count("\n") == 1
    assert str(path) in err


@pytest.mark.parametrize("damage", ["annotations", "missing image", "unreadable image"])
def test_damaged_data(damage, harness, tmp_path):
    folder = tmp_path / "data"
    write_scenes(folder, "val", 3, 0)
    if damage == "annotations":
        for path in folder.rglob("*.json"):
            path.unlink()
    else:
        picture = sorted((folder / "images").glob("*.png"))[1]
        picture.unlink() if damage == "missing image" else picture.write_bytes(b"not a picture")
    status, _, err = harness(*small(folder, tmp_path / "runs"))
    lines = [line for line in err.splitlines() if not line.startswith("4 cells, 4 to run")]
    assert status == 2
    assert len(lines) == 1
    assert lines[0].startswith("error: ")


def test_out_that_cannot_be_written(harness, world, tmp_path):
    (tmp_path / "file").write_text("in the way")
    status, _, err = harness(*small(world, tmp_path / "file" / "runs"))
    assert (status, err.count("\n")) == (2, 1)
    assert "cannot be written" in err


def test_run_measures_dense_beside_the_method_and_a_second_run_computes_nothing(harness, world, finished):
    folder, printed = finished
    done = json.loads(printed)
    assert [(record["spec"]["method"], record["spec"]["task"]) for record in done] == [
        ("dense", "retrieval"),
        ("elip", "retrieval"),
        ("dense", "vqa"),
        ("elip", "vqa"),
    ]
    assert all(record["status"] == "done" for record in done)
    elip = done[1]
    assert elip["quality"]["retrieval"]["t2i_r1"]["delta_to_dense"] == 0  # the first stage has no text: all tokens
    assert elip["diagnostics"]["fallback"].startswith("all tokens")
    assert elip["cost"]["encodings"]["pairs"] == elip["diagnostics"]["pairs_reranked"] == COUNT**2
    assert elip["cost"]["encodings"]["images"] == COUNT
    assert done[0]["cost"]["encodings"]["pairs"] == 0
    assert elip["cost"]["tokens_per_mlp"][-1] < 65
    assert done[0]["quality"]["retrieval"]["t2i_r1"]["delta_to_dense"] is None
    kept = elip["diagnostics"]["mentioned_kept_per_block"]
    assert kept[0] == 1
    assert kept[-1] < 1
    stamps = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    status, again, err = harness(*small(world, folder, "--json"))
    names = ["dense 1 retrieval", "elip 0.5 retrieval", "dense 1 vqa", "elip 0.5 vqa"]
    assert status == 0
    kept_cells = [f"[{number}/4] albef-tiny {name} (kept)" for number, name in enumerate(names, 1)]
    assert err.splitlines() == ["4 cells, 0 to run", *kept_cells]
    assert json.loads(again) == done
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == stamps


def test_force_computes_again_and_agrees(harness, world, records):
    words = small(world, records, "--tasks", "vqa", "--json")
    first = json.loads(harness(*words)[1])
    second = json.loads(harness(*words, "--force")[1])
    assert [record["quality"] for record in first] == [record["quality"] for record in second]
    assert all(before["run"] != after["run"] for before, after in zip(first, second))


def test_plan_tells_cells_tokens_and_what_is_there(harness, world, records):
    for path in records.glob("elip*"):
        path.unlink()
    status, out, _ = harness("plan", *small(world, records, "--tasks", "vqa", "--json")[1:])
    rows = json.loads(out)
    assert status == 0
    assert [row["done"] for row in rows] == [True, False]
    assert rows[0]["tokens_per_mlp"] == [65] * 12
    assert rows[1]["forward_to_dense"] > 0


def test_deltas_are_filled_in_once_dense_is_there(harness, world, tmp_path, monkeypatch):
    words = small(world, tmp_path, "--method", "evit", "--tasks", "vqa", "--json")
    harness(*words)
    dense = next(tmp_path.glob("dense*.json"))
    complete = json.loads(harness(*words)[1])[1]
    for path in tmp_path.iterdir():
        path.unlink()
    monkeypatch.setattr("harness.run.measure.Measurer.run", failing_dense())
    assert harness(*words)[0] == 1
    monkeypatch.undo()
    records = json.loads(harness(*words)[1])
    assert [record["status"] for record in records] == ["done", "done"]
    assert records[1]["quality"] == complete["quality"]
    assert dense.exists()


def failing_dense():
    """Measurer.run that runs out of memory for dense."""
    from harness.run.measure import Measurer

    run = Measurer.run

    def some(self, cell):
        if cell.method == "dense":
            raise MemoryError("out of memory")
        return run(self, cell)

    return some


def test_plan_loads_no_weights(harness, world, tmp_path, monkeypatch):
    monkeypatch.setattr("harness.hosts.ready.load_model", None)
    assert harness("plan", *small(world, tmp_path)[1:])[0] == 0


def test_tables_and_figures_of_records(harness, records, tmp_path):
    for form in ("text", "csv", "md", "latex"):
        status, out, _ = harness("table", "--runs", records, "--format", form)
        assert status == 0
        assert "elip" in out
    status, out, _ = harness("plot", "--runs", records, "--out", tmp_path / "figures", "--no-patches")
    assert status == 0
    assert all(Path(line).stat().st_size > 0 for line in out.splitlines())
    assert {Path(line).suffix for line in out.splitlines()} == {".svg", ".png"}


def test_a_table_of_one_host(harness, records):
    whole = harness("table", "--runs", records)[1]
    assert harness("table", "--runs", records, "--model", "albef-tiny,blip-tiny")[1] == whole
    status, _, err = harness("table", "--runs", records, "--model", "blip-tiny")
    assert status == 2
    assert "no record of blip-tiny; there are records of albef-tiny" in err
    assert harness("table", "--runs", records, "--model", "albef-tiny", "--split", "tome")[0] == 2


def test_table_without_records(harness, tmp_path):
    status, _, err = harness("table", "--runs", tmp_path / "none")
    assert (status, err.count("\n")) == (2, 1)


def test_cost_prints_the_contract(harness):
    status, out, _ = harness(
        "cost",
        "--model",
        "vit_base_patch16_224",
        "--image-size",
        "256",
        "--method",
        "elip",
        "--schedule",
        "paper",
        "--json",
    )
    found = json.loads(out)
    assert status == 0
    assert found["tokens_per_block"] == [257] * 2 + [232] * 2 + [168] * 6 + [104] * 2
    assert found["forward"]["total_gmacs"] <= 28.6
    assert found["dense"]["forward_gmacs"] == pytest.approx(23.197, abs=0.001)
    assert found["train_step"]["total_gmacs"] <= 0.885 * found["dense"]["train_step_gmacs"]
    assert set(found) >= {
        "model",
        "method",
        "config",
        "image_size",
        "params_m",
        "ratio",
        "tokens_per_mlp",
        "parts",
        "memory",
        "latency",
    }


def test_cost_of_a_host_tells_its_parts(harness):
    status, out, _ = harness("cost", "--model", "albef-tiny", "--method", "evit", "--ratio", "0.5", "--json")
    parts = json.loads(out)["parts"]
    assert status == 0
    assert set(parts) == {"vision", "text", "fusion", "momentum", "other"}
    assert parts["momentum"]["train_step_gmacs"] == parts["momentum"]["forward_gmacs"] > 0
    assert all(
        parts[name]["train_step_gmacs"] > parts[name]["forward_gmacs"] > 0 for name in ("vision", "text", "fusion")
    )


def test_cost_of_unknown_models(harness):
    status, _, err = harness("cost", "--model", "vit_base_patch16_225", "--method", "elip")
    assert (status, "did you mean" in err, err.count("\n")) == (2, True, 1)
    status, _, err = harness("cost", "--model", "vit_base_patch16_224", "--image-size", "250", "--method", "elip")
    assert (status, "250" in err, err.count("\n")) == (2, True, 1)


def test_check_golden_fails_with_status_1(harness, tmp_path):
    (tmp_path / "bad.safetensors").write_text("no")
    status, out, _ = harness("check", "golden", tmp_path / "bad.safetensors")
    assert (status, "FAIL" in out) == (1, True)


def test_check_data_and_results(harness, world, records):
    status, out, _ = harness("check", "data", world)
    assert (status, f"{COUNT} images" in out) == (0, True)
    status, out, _ = harness("check", "results", records)
    assert (status, "4 of them were measured by this very code" in out) == (0, True)
    path = next(records.glob("elip-0.5-vqa*.json"))
    path.write_text(path.read_text().replace('"value": ', '"value": 1'))
    assert harness("check", "results", records)[0] == 1


def test_a_failing_cell_is_recorded_and_the_others_go_on(world, tmp_path, monkeypatch):
    from baselines.elip import ELIP
    from harness.kit.progress import Progress
    from harness.run.grid import plan_cells
    from harness.run.here import Here
    from harness.run.measure import Measurer
    from harness.run.request import RunRequest
    from harness.run.store import Store

    def broken(*_):
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")

    cells = plan_cells(RunRequest(methods=("elip", "evit"), ratios=(0.5,), tasks=("vqa",), data=str(world)))
    monkeypatch.setattr(ELIP, "before_block", broken)
    records = list(Here().run(cells, Store(tmp_path), Measurer(None, Progress(quiet=True))))
    assert [record["status"] for record in records] == ["done", "out_of_memory", "done"]
    assert records[1]["error"].startswith("CUDA out of memory")
    monkeypatch.undo()
    again = list(Here().run(cells, Store(tmp_path), Measurer(None, Progress(quiet=True))))
    assert [record["status"] for record in again] == ["done"] * 3
    assert again[0] == records[0]


def test_run_ends_with_1_and_lists_failed_cells(harness, world, tmp_path, monkeypatch):
    monkeypatch.setattr("harness.tasks.vqa.vqa_accuracy", lambda *_: 1 / 0)
    status, _, err = harness(*small(world, tmp_path))
    assert status == 1
    assert err.splitlines()[-2:] == [
        "failed: albef-tiny dense 1 vqa: division by zero",
        "failed: albef-tiny elip 0.5 vqa: division by zero",
    ]
    assert err.count("failed: albef-tiny") == 2


def started(*words) -> subprocess.Popen:
    """The command line as a process that heeds Ctrl-C, even where these tests run in the background of a shell."""

    def heed() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    command = [sys.executable, "-m", "harness", *words]
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env={**os.environ}, preexec_fn=heed
    )


def wait_for_a_record(folder: Path) -> None:
    deadline = time.monotonic() + 120
    while not list(folder.glob("*.json")) and time.monotonic() < deadline:
        time.sleep(0.02)


def test_ctrl_c_keeps_the_records_so_far_and_exits_130(world, tmp_path):
    process = started(*small(world, tmp_path, "--method", "evit,random", "--ratios", "0.9,0.8,0.7,0.6,0.5", "--quiet"))
    try:
        wait_for_a_record(tmp_path)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert err == "stopped; records so far are kept\n"
    assert not list(tmp_path.glob(".*"))
    for path in tmp_path.glob("*.json"):
        assert json.loads(path.read_text())["status"] == "done"


def test_a_killed_run_loses_at_most_the_cell_in_flight(world, tmp_path, harness):
    words = small(world, tmp_path, "--method", "evit,tome", "--tasks", "vqa", "--json")
    process = started(*words)
    wait_for_a_record(tmp_path)
    process.kill()
    process.communicate()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.json")}
    assert before
    status, out, _ = harness(*words)
    assert (status, len(json.loads(out))) == (0, 3)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_the_version_is_printed_without_a_command(harness):
    assert harness("--version") == (0, f"vlm-token-harness {__version__}\n", "")


@pytest.mark.parametrize("words", [["--help"], ["list"], ["run", "--help"], ["--version"]])
def test_help_and_list_import_no_torch(words):
    code = (
        f"import sys; sys.argv = ['harness', *{words!r}]\n"
        "from harness.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: print('torch' in sys.modules, 'pandas' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines()[-1] == "False False"


def test_a_study_runs_resumes_and_is_drawn(harness, world, tmp_path, monkeypatch):
    from harness.kit.entries import Entry
    from harness.kit.registry import Registry

    (tmp_path / "mini.yaml").write_text(
        "# Mini\ndraw: schedule\nrun: {tasks: vqa, limit: 4}\ncells:\n"
        "- {label: early, placement: early, stages: 1, methods: evit, ratios: [0.7], schedule: begin=2 keep=.5}\n"
        "- {label: late, placement: late, stages: 1, methods: evit, ratios: [0.7], schedule: begin=5 keep=.5}\n"
    )
    entry = Entry("mini", "Mini", "mini.yaml", tmp_path / "mini.yaml")
    monkeypatch.setattr("harness.run.study.studies", Registry("study", lambda: [entry], lambda found: found.path))
    words = ("ablate", "mini", "--data", world, "--out", tmp_path / "studies")
    status, first, err = harness(*words)
    assert (status, "3 cells, 3 to run, about " in err) == (0, True)
    assert "early" in first
    assert "late" in first
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "studies" / "mini").glob("*-*.json")}
    assert len(stamps) == 3
    assert harness(*words)[1] == first
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    named = ("--study", "mini", "--runs", tmp_path / "studies")
    assert harness("table", *named)[1] == first
    status, out, _ = harness("plot", *named, "--out", tmp_path / "figures")
    assert (status, all(Path(line).is_file() for line in out.split())) == (0, True)


def test_a_study_ranks_the_answers_that_are_given(harness, world, tmp_path):
    cells = "cells: [{methods: evit, ratios: [0.7], schedule: begin=2 keep=.5}]\n"
    (tmp_path / "asks.yaml").write_text(f"draw: schedule\nrun: {{tasks: vqa, limit: 4}}\n{cells}")
    (tmp_path / "looks.yaml").write_text(f"draw: schedule\nrun: {{tasks: retrieval, limit: 4}}\n{cells}")
    (tmp_path / "few.json").write_text(json.dumps(["red", "blue"]))
    options = ("--data", world, "--out", tmp_path / "studies", "--no-latency", "--answers", tmp_path / "few.json")
    assert harness("ablate", tmp_path / "asks.yaml", *options)[0] == 0
    records = [json.loads(path.read_text()) for path in (tmp_path / "studies" / "asks").glob("*-vqa-*.json")]
    assert len(records) == 2
    for record in records:
        assert record["spec"]["task_options"]["answers"] == str(tmp_path / "few.json")
        assert record["quality"]["vqa"]["vqa_accuracy"]["value"] < 0.5
    status, _, err = harness("ablate", tmp_path / "looks.yaml", *options)
    assert (status, "--answers: vqa is not measured here (retrieval); leave it out" in err) == (2, True)


def test_a_study_that_was_not_run_or_is_malformed(harness, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, _, err = harness("table", "--study", "keep-ratio")
    assert (status, "python -m harness ablate keep-ratio" in err, err.count("\n")) == (2, True, 1)
    assert harness("ablate", "keep_ratio")[0] == 2


def test_the_picture_of_kept_patches(harness, world, records, tmp_path, monkeypatch):
    monkeypatch.setattr("harness.report.traces.data_folder", lambda *_: world)
    assert harness("plot", "--runs", records, "--out", tmp_path / "figures")[0] == 0
    assert (tmp_path / "figures" / "patches.png").stat().st_size > 10_000


def test_several_methods_are_checked_each_line_under_its_name(capsys, monkeypatch):
    monkeypatch.setattr("harness.check.method.lines", lambda name: [("identity ok", True), ("saving", name != "tome")])
    monkeypatch.setattr("harness.check.drawn.lines", lambda name, draws: [])
    with pytest.raises(SystemExit) as left:
        main(["check", "method", "topk,tome"])
    assert left.value.code == 1
    out = capsys.readouterr().out
    assert out == "topk: identity ok\ntopk: saving\ntome: identity ok\ntome: saving\n"
    with pytest.raises(SystemExit) as left:
        main(["check", "method", "topk"])
    assert not left.value.code
    assert capsys.readouterr().out == "identity ok\nsaving\n"
