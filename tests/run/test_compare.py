"""Differences to dense: which record each is compared with, and that what is kept beside records is never stale."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from harness.run.compare import NAME, NAMES, _write, with_deltas
from harness.run.measure import skeleton_record
from harness.run.store import Record, Store

from .test_runner import cell


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def saved(store: Store, score: float, method: str = "dense", status: str = "done", **changes: Any) -> Record:
    """A record whose three samples score the same."""
    one = cell(method, **changes)
    samples = {"task": one.task, "metric": "accuracy", "sample": list("abc"), "cluster": list("abc"), "value": score}
    entry = {"value": score, "ci95": [score, score], "n": 3}
    started = {"started": f"2026-01-01T00:00:{len(store.records()):02d}"}
    record = skeleton_record(one) | {"status": status, "quality": {one.task: {"accuracy": entry}}, "run": started}
    if status != "done":
        return store.save(record | {"quality": {}}, None)
    return store.save(record, pd.DataFrame(samples))


def stage(method: str, seed: int, **recipe: Any) -> dict[str, Any]:
    fixed = {
        "processes": 1,
        "precision": "no",
        "recompute": False,
        "data": ["scenes"],
        "digests": {"data.0": str(seed)},
    }
    made = {"stage": "finetune", "model": "albef-tiny", "task": "vqa", "recipe": recipe or {"rate": 1}}
    return {**made, "method": method, "config": {"of": method}, "steps": 3, "seed": seed, **fixed}


def deltas(store: Store, **options: Any) -> list[float | None]:
    """Of the methods in the order they were saved, dense left out."""
    records = with_deltas(store.records(), store, **options)
    ordered = sorted(records, key=lambda record: record["run"]["started"])
    found = [record for record in ordered if record["spec"]["method"] != "dense" and record["status"] == "done"]
    return [record["quality"][record["spec"]["task"]]["accuracy"]["delta_to_dense"] for record in found]


def test_a_record_knows_itself_alone_and_is_compared_when_it_is_read(store: Store) -> None:
    saved(store, 0.5)
    assert set(saved(store, 0.25, "elip")["quality"]["vqa"]["accuracy"]) == {"value", "ci95", "n"}
    dense, elip = with_deltas(store.records(), store)
    assert dense["quality"]["vqa"]["accuracy"]["delta_to_dense"] is None
    assert elip["quality"]["vqa"]["accuracy"]["delta_to_dense"] == -0.25
    assert elip["quality"]["vqa"]["accuracy"]["delta_ci95"] == [-0.25, -0.25]


def test_what_draws_is_compared_with_the_one_dense_of_its_task(store: Store) -> None:
    for task in ("vqa", "nlvr2"):
        saved(store, 0.5 if task == "vqa" else 1, task=task)
        for seed in (0, 1):
            saved(store, 0.25 + seed / 8, "random", task=task, seed=seed)
    assert deltas(store) == [-0.25, -0.125, -0.75, -0.625]


def test_a_trained_record_is_compared_with_the_dense_of_its_seed_and_training_alone(store: Store) -> None:
    for seed in (0, 1):
        saved(store, 0.5 + seed / 4, protocol="finetune", seed=seed, training=[stage("dense", seed)])
        saved(store, 0.5, "elip", protocol="finetune", seed=seed, training=[stage("elip", seed)])
    saved(store, 0.5, "elip", protocol="finetune", seed=2, training=[stage("elip", 2)])
    saved(store, 0.5, "elip", protocol="finetune", seed=0, training=[stage("elip", 0, rate=2)])
    assert deltas(store) == [0, -0.25, None, None]


@pytest.mark.parametrize(
    "other",
    [{"model": "blip-tiny"}, {"base": "b2"}, {"task": "nlvr2"}, {"limit": 3}, {"data_digest": "e"}, {"threads": 2}],
)
def test_dense_of_another_host_set_task_or_machine_is_no_reference(store: Store, other: dict[str, Any]) -> None:
    saved(store, 0.5)
    saved(store, 0.5, "elip", **other)
    assert deltas(store) == [None]


def test_the_latest_dense_counts_and_none_where_it_failed(store: Store) -> None:
    saved(store, 0.5)
    saved(store, 0.25, "elip")
    saved(store, 0.75, code={"harness/tasks/vqa.py": "d"})
    assert deltas(store) == [-0.5]
    saved(store, 0.75, status="failed", code={"harness/tasks/vqa.py": "e"})
    assert deltas(store) == [None]


def test_what_was_computed_is_kept_by_both_digests(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(store, 0.5)
    saved(store, 0.25, "elip")
    first = with_deltas(store.records(), store)
    with monkeypatch.context() as patch:
        patch.setattr("harness.metrics.stats.deltas", lambda *_: 1 / 0)
        assert with_deltas(store.records(), store) == first
    saved(store, 0.375, "elip")
    assert deltas(store) == [-0.125]
    saved(store, 0.25)
    assert deltas(store) == [0.125]


@pytest.mark.parametrize("damage", [lambda text: text.replace("-0.25", "-0.75"), lambda text: text[:-9], lambda _: ""])
def test_a_file_that_was_edited_or_cut_off_is_not_believed(store: Store, damage: Any) -> None:
    saved(store, 0.5)
    saved(store, 0.25, "elip")
    assert deltas(store) == [-0.25]
    path = store.folder / NAME
    path.write_text(damage(path.read_text()))
    assert deltas(store) == [-0.25]
    assert [json.loads(line)[1] for line in path.read_text().splitlines()[1:]]


def test_records_beside_which_nothing_can_be_kept_are_compared(store: Store) -> None:
    saved(store, 0.5)
    saved(store, 0.25, "elip")
    (store.folder / NAME).mkdir()
    assert deltas(store) == [-0.25]
    assert not list(store.folder.glob(".*.tmp"))


def test_samples_that_differ_are_a_warning_each_time_and_no_difference(store: Store) -> None:
    saved(store, 0.5)
    record = saved(store, 0.25, "elip")
    store.save(record, store.samples(record).iloc[:2])
    for _ in range(2):
        said: list[str] = []
        assert deltas(store, warn=said.append) == [None]
        assert len(said) == 1
        assert "samples differ from dense's: 0 only here, 1 only there" in said[0]


def scored(store: Store, scores: list[float], method: str, **changes: Any) -> None:
    """A record of images that score apart."""
    one, names = cell(method, **changes), [f"i{number}" for number in range(len(scores))]
    samples = {"task": one.task, "metric": "accuracy", "sample": names, "cluster": names, "value": scores}
    value = sum(scores) / len(scores)
    entry = {"value": value, "ci95": [value, value], "n": len(scores)}
    started = {"started": f"2026-01-01T00:00:{len(store.records()):02d}"}
    record = skeleton_record(one) | {"status": "done", "quality": {one.task: {"accuracy": entry}}, "run": started}
    store.save(record, pd.DataFrame(samples))


def test_seeds_of_a_setting_are_resampled_together_and_others_are_not(store: Store) -> None:
    scored(store, [1, 0, 1, 1], "dense")
    for seed in (0, 1):
        scored(store, [seed, 0, 1, 1], "random", seed=seed, config={"seed": seed})
    scored(store, [0, 0, 1, 1], "elip")
    read = {(one["spec"]["method"], one["spec"]["seed"]): one for one in with_deltas(store.records(), store)}
    entries = {name: one["quality"]["vqa"]["accuracy"] for name, one in read.items()}
    assert "over_seeds" not in entries["dense", 0]
    assert "over_seeds" not in entries["elip", 0]
    several = entries["random", 0]["over_seeds"]
    assert several == entries["random", 1]["over_seeds"]
    assert several["seeds"] == 2
    (low, high), mean = several["delta_ci95"], -0.125
    assert low < mean <= high
    assert with_deltas(store.records(), store) == list(read.values())  # what was kept is the same

    # A seed that is measured again, with another outcome, is another comparison.
    scored(store, [1, 1, 1, 1], "random", seed=1, config={"seed": 1}, code={"harness/tasks/vqa.py": "later"})
    latest = with_deltas(store.records(), store)
    again = [one for one in latest if "later" in one["spec"]["code"].values()]
    assert again[0]["quality"]["vqa"]["accuracy"]["over_seeds"]["delta_ci95"] != several["delta_ci95"]


def test_seeds_on_other_samples_are_left_apart_with_a_line(store: Store) -> None:
    scored(store, [1, 0], "random", seed=0)
    scored(store, [1, 0, 1], "random", seed=1)
    said: list[str] = []
    read = with_deltas(store.records(), store, said.append)
    assert all("over_seeds" not in one["quality"]["vqa"]["accuracy"] for one in read)
    assert any("2 seeds" in line and "other samples" in line for line in said)


def to_random(store: Store) -> dict[tuple[str, float, int], float | None]:
    """Difference to random by method, ratio and seed."""
    found = {}
    for record in with_deltas(store.records(), store):
        spec = record["spec"]
        entry = record["quality"][spec["task"]]["accuracy"]
        assert set(entry) - {"over_seeds"} == {
            "value",
            "ci95",
            "n",
            *(name for names in NAMES.values() for name in names.values()),
        }
        found[spec["method"], spec["ratio"], spec["seed"]] = entry["delta_to_random"]
    return found


def test_random_is_that_of_the_same_ratio_and_of_the_same_seed_or_the_first(store: Store) -> None:
    saved(store, 0.5)
    for seed in (0, 1):
        saved(store, 0.25 + seed / 8, "random", ratio=0.5, seed=seed)
    saved(store, 0.5, "elip", ratio=0.5)
    saved(store, 0.5, "dpcknn", ratio=0.5, seed=1)
    saved(store, 0.5, "dpcknn", ratio=0.5, seed=2)
    saved(store, 0.5, "elip", ratio=0.7)
    saved(store, 0.5, "evit", ratio=0.5, match="macs")
    found = to_random(store)
    assert found["elip", 0.5, 0] == 0.25
    assert [found["dpcknn", 0.5, seed] for seed in (1, 2)] == [0.125, 0.25]
    assert {found[one] for one in found if one[:2] in {("elip", 0.7), ("evit", 0.5), ("dense", None)}} == {None}
    assert all(found[one] is None for one in found if one[0] in {"random", "dense"})


def test_a_difference_says_how_likely_chance_makes_it(store: Store) -> None:
    """Three images of three, all as much worse: of the eight ways to swap them two are as far."""
    saved(store, 0.5)
    saved(store, 0.25, "elip")
    elip = next(one for one in with_deltas(store.records(), store) if one["spec"]["method"] == "elip")
    assert elip["quality"]["vqa"]["accuracy"]["p_to_dense"] == 0.25
    assert elip["quality"]["vqa"]["accuracy"]["p_to_random"] is None


def test_comparisons_by_other_code_are_made_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole, and of these very records, but computed by a test that has changed since."""
    saved(store, 0.5)
    saved(store, 0.25, "elip")
    expected = with_deltas(store.records(), store)
    path = store.folder / NAME
    _, line = path.read_text().splitlines()
    pair, made = json.loads(line)
    made["vqa"]["accuracy"]["p"] = 0.125
    with monkeypatch.context() as earlier:
        earlier.setattr("harness.run.compare.code_parts", lambda *_: {"harness/metrics": "before"})
        _write(store, {pair: made})
        elip = next(one for one in with_deltas(store.records(), store) if one["spec"]["method"] == "elip")
        assert elip["quality"]["vqa"]["accuracy"]["p_to_dense"] == 0.125
    assert with_deltas(store.records(), store) == expected
