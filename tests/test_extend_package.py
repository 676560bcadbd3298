"""docs/extend.md: a package of one's own with a host, a task, a metric, a cost, a study, a dataset and an objective.

It is built from the blocks of the page, found by its entry points, and touches no file of the program.
"""

import json
import sys
import tomllib
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from harness.check.data import lines
from harness.cli.main import main
from harness.cost.latency import measure_latency
from harness.cost.quantities import extra_costs
from harness.cost.report import cost_report
from harness.data.scenes import write_scenes
from harness.kit.errors import HarnessError
from harness.kit.registry import KINDS, downstream, tasks
from harness.report.quantities import of_metrics
from harness.run.cell import cost_code
from harness.run.store import Store

from .conftest import EXAMPLES

PACKAGE = "my_package"
PROJECT = tomllib.loads(EXAMPLES["pyproject.toml"])["project"]
COUNT = 8
TRAINED = (
    *("--model", "bag-tiny", "--method", "tome", "--ratio", "0.8", "--device", "cpu", "--log-every", "1", "--quiet"),
    *("--recipe", "batch_size=8", "--recipe", "warmup_steps=2"),
    *("--recipe", "crop=null", "--recipe", "flip=false", "--recipe", "randaugment=false"),
)
AFRESH = ("pretrain", *TRAINED, "--vocabulary", "100", "--size", "width=24")


def forget():
    """What is found is kept for a process; here packages come and go."""
    of_metrics.cache_clear()
    extra_costs.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder of the package, which is installed for these tests."""
    root = tmp_path_factory.mktemp("installed")
    for path, content in EXAMPLES.items():
        if path.startswith(f"{PACKAGE}/"):
            (root / path).parent.mkdir(exist_ok=True)
            (root / path).write_text(content, encoding="utf-8")
    (root / PACKAGE / "__init__.py").write_text("")
    information = root / f"{PACKAGE}-{PROJECT['version']}.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {PROJECT['name']}\nVersion: {PROJECT['version']}\n"
    )
    groups = [
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in points.items())
        for group, points in PROJECT["entry-points"].items()
    ]
    (information / "entry_points.txt").write_text("\n".join(groups))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(root)
        patch.setattr("harness.cost.report.measure_latency", partial(measure_latency, runs=5, seconds=0.0))
        forget()
        yield root / PACKAGE
    forget()


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "scenes"
    write_scenes(folder, "val", COUNT, 0)
    return folder


def pairs_of(scenes):
    """The options that name a split's captions as pairs for pre-training."""
    return "--data", scenes / "captions_val.json", "--root", scenes / "images"


def harness(*words) -> None:
    """Call the command line; it ends well."""
    with pytest.raises(SystemExit) as caught:
        main(list(map(str, words)))
    assert caught.value.code == 0


def losses_of(folder: Path, name: str) -> list[float]:
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [entry["losses"][name] for entry in log if "losses" in entry]


@pytest.fixture(scope="module")
def weights(installed, scenes, tmp_path_factory) -> Path:
    """The host after a few steps of CLIP's objective."""
    out = tmp_path_factory.mktemp("weights")
    harness(*AFRESH, "--objective", "clip", *pairs_of(scenes), "--out", out, "--steps", 4)
    return out


@pytest.fixture(scope="module")
def runs(weights, scenes, tmp_path_factory) -> Path:
    """Records of the host in retrieval and in the task, dense and reduced."""
    out = tmp_path_factory.mktemp("runs")
    asked = ("--model", "bag-tiny", "--weights", weights, "--tasks", "retrieval,pairing", "--set-task=pairing.wrong=2")
    small = ("--batch-size", 4, "--device", "cpu", "--quiet")
    harness("run", *asked, "--method", "tome", "--ratios", 0.5, "--data", scenes, "--out", out, *small)
    return out


def test_the_page_has_an_example_of_every_kind_and_entry_points_of_all_of_them(installed):
    groups = {group.removeprefix("harness."): points for group, points in PROJECT["entry-points"].items()}
    assert set(groups) == {*KINDS, "objectives.downstream"} - {"methods"}  # those have tests of their own
    assert set(groups.pop("objectives.downstream")) <= set(downstream.names())
    for kind, points in groups.items():
        for name in points:
            assert (f"{name}-tiny" if kind == "models" else name) in KINDS[kind].names()


def test_the_host_trains_and_is_measured_with_what_it_learned(weights, runs):
    assert len(losses_of(weights, "contrast")) == 4
    records = Store(runs).records()
    assert [record["status"] for record in records] == ["done"] * 4
    for record in records:
        assert record["spec"]["model"] == "bag-tiny"
        assert PACKAGE in record["spec"]["code"]
        if record["spec"]["method"] == "tome":
            assert record["cost"]["ratio"] == pytest.approx(0.5, abs=0.01)
            assert record["cost"]["forward"]["total_gmacs"] < record["cost"]["dense"]["forward_gmacs"]
    assert {record["spec"]["task"] for record in records} == {"retrieval", "pairing"}


def test_the_task_its_metric_and_the_cost_stand_in_the_table(runs, capsys):
    (record,) = [
        record
        for record in Store(runs).records()
        if (record["spec"]["task"], record["spec"]["method"]) == ("pairing", "dense")
    ]
    assert set(record["quality"]["pairing"]) == {"pairing_accuracy", "pairing_mrr"}
    assert record["quality"]["pairing"]["pairing_mrr"]["n"] == COUNT
    assert record["spec"]["task_options"] == {"wrong": 2}
    assert record["cost"]["states"] == {"states_kib": 65 * 24 * 4 / 1024}
    capsys.readouterr()
    harness("table", "--runs", runs)
    table = capsys.readouterr().out
    for title in ("pairing accuracy", "pairing MRR", "t2i R@1", "image states"):
        assert title in table
    assert "6.1" in table  # KiB of dense


def test_the_metric_on_a_matrix_that_is_checked_by_hand(installed):
    from my_package.ranks import reciprocal_ranks

    scores = np.array([[3.0, 1.0, 2.0], [1.0, 2.0, 0.0], [0.0, 0.0, 1.0]])
    assert reciprocal_ranks(scores).tolist() == [1, 1 / 2, 1 / 3]


def test_a_cost_of_ones_own_is_in_the_command_and_its_code_counts(installed, capsys, monkeypatch):
    capsys.readouterr()
    harness("cost", "--model", "test_vit", "--method", "dense")
    assert "image states" in capsys.readouterr().out
    assert PACKAGE in cost_code("albef-tiny", "dense")
    monkeypatch.setattr("harness.cost.cost.LATER", {"states"})
    with pytest.raises(HarnessError, match="cost states: a cost report has another entry of this name; rename it"):
        cost_report("test_vit", "dense")


def test_the_study_runs_and_has_its_table(installed, scenes, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    small = ("--limit", 4, "--batch-size", 4, "--device", "cpu", "--quiet")
    harness("ablate", "halves", "--data", scenes, *small)
    records = Store(tmp_path / "runs" / "studies" / "halves").records()
    assert {record["spec"]["method"] for record in records} == {"dense", "tome", "random"}
    printed = capsys.readouterr().out
    harness("table", "--study", "halves", "--runs", tmp_path / "runs" / "studies")
    assert capsys.readouterr().out == printed
    assert all(name in printed for name in ("tome", "random", "t2i R@1"))


def test_the_dataset_is_recognised_and_loaded(installed, scenes, tmp_path):
    names = sorted(path.name for path in (scenes / "images").iterdir())[:2]
    for name in names:
        (tmp_path / name).write_bytes((scenes / "images" / name).read_bytes())
    (tmp_path / "all.captions").write_text("".join(f"{name}\ta caption of {name}\n" for name in names))
    found = [line.strip() for line, good in lines(tmp_path) if good]
    assert found[:2] == ["captions in tabbed lines: all.captions", "2 images, 2 captions, 1 captions each"]
    for task in ("pairing", "retrieval"):
        assert f"python -m harness run --method elip --tasks {task} --data {tmp_path}" in found
        loaded = tasks.get(task)().load(tmp_path, None)
        assert [caption.text for caption in loaded.captions] == [f"a caption of {name}" for name in names]


def test_the_objective_trains_and_its_loss_falls(installed, scenes, tmp_path):
    chosen = ("--objective", "sigmoid", "--set-objective", "sigmoid.bias=-5")
    harness(*AFRESH, *chosen, *pairs_of(scenes), "--out", tmp_path, "--steps", 20)
    record = json.loads((tmp_path / "recipe.json").read_text())
    assert record["objective"] == {"name": "sigmoid", "sigmoid": {"scale": 10.0, "bias": -5.0}}
    losses = losses_of(tmp_path, "sigmoid")
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])


def test_the_host_is_fine_tuned_on_the_task(weights, scenes, tmp_path):
    asked = ("--task", "pairing", "--init", weights, "--data", scenes, "--split", "val", "--out", tmp_path)
    harness("finetune", *TRAINED, *asked, "--steps", 2)
    assert len(losses_of(tmp_path, "sigmoid")) == 2
    assert json.loads((tmp_path / "recipe.json").read_text())["recipe"]["epochs"] == 2
