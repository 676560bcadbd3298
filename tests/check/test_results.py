"""`check results`: what it says of failures and of cells that this code measured again, and what --prune deletes."""

import pandas as pd
import pytest

from harness.check.results import lines
from harness.kit.digest import key_of
from harness.run.cell import cell_code
from harness.run.store import Store

SAMPLES = pd.DataFrame({"task": ["vqa"], "metric": ["vqa_accuracy"], "sample": ["0"], "cluster": ["0"], "value": [1.0]})

# What the program at hand would write into a record.
CURRENT = cell_code("albef-tiny", "random", "vqa", [], "scenes", "d")


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path)
    store.prepare()
    return store


def save(store, *, code="c", started="2026-01-01T00:00:00+00:00", status="done", **spec):
    plain = {"model": "albef-tiny", "method": "random", "ratio": 0.5, "task": "vqa", "seed": 2, "training": []}
    plain |= {"data": "scenes", "data_digest": "d"}
    spec = plain | {"code": CURRENT if code is None else {"harness/tasks/vqa.py": code}} | spec
    done = status == "done"
    record = {"format": 2, "key": key_of(spec), "spec": spec, "status": status, "error": None if done else "no image"}
    record |= {"quality": {}, "cost": None, "diagnostics": {}, "run": {"started": started}, "samples": None}
    return store.save(record, SAMPLES if done else None)["key"]


def keys(store):
    return {record["key"] for record in store.records()}


def test_a_failed_seed_is_named(store):
    save(store, status="failed")
    assert ("failed  albef-tiny random 0.5 vqa seed 2: no image", False) in lines(store.folder)


def test_cells_that_this_code_measured_again_are_counted_and_deleted_only_on_demand(store):
    save(store, code="a", started="2026-01-01T00:00:00+00:00")
    save(store, code="b", started="2026-01-02T00:00:00+00:00", status="failed")
    current = save(store, code=None, started="2026-01-03T00:00:00+00:00")
    other = save(store, code="a", seed=3)
    said = "2 records of cells that this very code measured again"
    assert (f"{said}: --prune deletes them", True) in lines(store.folder)
    assert len(keys(store)) == 4
    pruned = lines(store.folder, prune=True)
    assert (f"{said}: deleted", True) in pruned
    assert ("2 records: 2 done", True) in pruned
    assert keys(store) == {current, other}
    assert len(list(store.folder.iterdir())) == 4
    assert not any("measured again" in line for line, _ in lines(store.folder))


def test_a_clock_that_runs_ahead_does_not_delete_what_this_code_measured(store):
    current = save(store, code=None, started="2026-01-01T00:00:00+00:00")
    save(store, code="a", started="2031-01-01T00:00:00+00:00")
    lines(store.folder, prune=True)
    assert keys(store) == {current}


def test_records_of_other_code_supersede_nothing_whatever_their_time(store):
    kept = {save(store, code="a"), save(store, code="b", started="2026-01-02T00:00:00+00:00")}
    lines(store.folder, prune=True)
    assert keys(store) == kept


def test_a_failure_of_this_code_supersedes_nothing(store):
    kept = {save(store, code="a"), save(store, code=None, status="failed")}
    lines(store.folder, prune=True)
    assert keys(store) == kept


def test_damaged_records_are_left_where_they_are(store):
    save(store, code="a")
    current = save(store, code=None)
    newest = next(path for path in store.folder.glob("*.json") if current[:12] in path.name)
    newest.write_text(newest.read_text()[:-20])
    found = lines(store.folder, prune=True)
    assert sum(line.startswith("damaged") for line, _ in found) == 1
    assert len(list(store.folder.iterdir())) == 4


def test_records_of_an_earlier_version_are_a_line_that_fails_nothing(store):
    save(store)
    path = next(store.folder.glob("*.json"))
    path.write_text(path.read_text().replace('"format": 2', '"format": 1'))
    found = lines(store.folder)
    assert all(good for _, good in found)
    assert found[0][0].startswith("earlier  record ")
    assert "measured by an earlier version" in found[0][0]
