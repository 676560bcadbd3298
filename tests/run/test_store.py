"""Records are whole or absent, and nothing is served for something else."""

import hashlib
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from harness.kit.digest import canonical, key_of
from harness.kit.errors import HarnessError
from harness.run.store import Store, stem_of

SAMPLES = pd.DataFrame(
    {
        "task": "vqa",
        "metric": "vqa_accuracy",
        "sample": ["q1", "q2", "q3"],
        "cluster": ["a", "a", "b"],
        "value": [1.0, 0.0, 0.6],
    }
)


def make_record(status="done", **changes):
    spec = {"method": "elip", "ratio": 0.5, "task": "vqa", "seed": 0, **changes}
    return {
        "format": 2,
        "key": key_of(spec),
        "spec": spec,
        "status": status,
        "error": None if status == "done" else "boom",
        "quality": {"vqa": {"vqa_accuracy": {"value": 0.5, "ci95": [0.25, 0.75], "n": 3}}},
        "samples": None,
    }


@pytest.fixture
def warnings():
    return []


@pytest.fixture
def store(tmp_path, warnings):
    store = Store(tmp_path / "runs", warn=warnings.append)
    store.prepare()
    return store


def names(store):
    return sorted(path.name for path in store.folder.iterdir())


def test_a_saved_record_is_found_with_its_samples(store):
    record = make_record()
    stored = store.save(record, SAMPLES)
    assert (
        store.find([record["key"]])[record["key"]]
        == stored
        == {**record, **{name: stored[name] for name in ("samples", "samples_sha256", "digest")}}
    )
    assert store.samples(stored).equals(SAMPLES) or store.samples(stored).astype(object).equals(SAMPLES.astype(object))
    assert names(store) == [
        f"elip-0.5-vqa-{record['key'][:12]}.json",
        f"elip-0.5-vqa-{record['key'][:12]}.parquet",
    ]


def test_the_json_is_one_line_per_field_in_the_order_of_the_schema(store):
    store.save(make_record(), None)
    text = next(store.folder.glob("*.json")).read_text()
    assert text.startswith('{\n "format": 2,\n "key": ')
    assert text.endswith("}\n")
    assert list(json.loads(text)) == [
        "format",
        "key",
        "spec",
        "status",
        "error",
        "quality",
        "samples",
        "samples_sha256",
        "digest",
    ]


def test_saving_twice_writes_the_same_json(store):
    store.save(make_record(), SAMPLES)
    first = next(store.folder.glob("*.json")).read_bytes()
    store.save(make_record(), SAMPLES)
    assert next(store.folder.glob("*.json")).read_bytes() == first


def test_no_ratio_is_called_paper():
    assert stem_of(make_record(ratio=None)).startswith("elip-paper-vqa-")


def test_the_key_ignores_the_order_of_fields_and_nothing_else():
    assert key_of({"a": 1, "b": [1, 2]}) == key_of({"b": [1, 2], "a": 1})
    assert key_of({"a": 1}) != key_of({"a": 2})
    assert canonical({"b": 0.5, "a": None}) == b'{"a":null,"b":0.5}'


def test_another_key_is_not_found_even_with_the_same_beginning(store):
    record = make_record()
    store.save(record, SAMPLES)
    assert not store.find([record["key"][:12] + "0" * 52])
    assert not store.find([make_record(seed=1)["key"]])


@pytest.mark.parametrize("status", ["failed", "out_of_memory"])
def test_failures_are_kept_but_tried_again_and_replaced(store, status):
    failed = make_record(status)
    store.save(failed, None)
    assert not store.find([failed["key"]])
    assert [record["status"] for record in store.records()] == [status]
    store.save(make_record(), SAMPLES)
    assert [record["status"] for record in store.records()] == ["done"]


def test_a_failure_that_replaces_a_done_record_takes_its_samples_away(store):
    store.save(make_record(), SAMPLES)
    store.save(make_record("failed"), None)
    assert [name for name in names(store) if name.endswith(".parquet")] == []


def test_a_done_record_without_samples_is_found(store):
    store.save(make_record(), None)
    assert store.find([make_record()["key"]])[make_record()["key"]]["samples"] is None


def damage_truncate(json_path, parquet_path):
    json_path.write_bytes(json_path.read_bytes()[:-20])


def damage_edit(json_path, parquet_path):
    json_path.write_text(json_path.read_text().replace('"value": 0.5', '"value": 0.9'))


def damage_other_json(json_path, parquet_path):
    json_path.write_text("[1, 2]\n")


def damage_samples_missing(json_path, parquet_path):
    parquet_path.unlink()


def damage_samples_truncated(json_path, parquet_path):
    parquet_path.write_bytes(parquet_path.read_bytes()[:100])


def damage_samples_elsewhere(json_path, parquet_path):
    json_path.write_text(json_path.read_text().replace(parquet_path.name, "../../other.parquet"))


@pytest.mark.parametrize(
    "damage",
    [
        damage_truncate,
        damage_edit,
        damage_other_json,
        damage_samples_missing,
        damage_samples_truncated,
        damage_samples_elsewhere,
    ],
)
def test_a_damaged_record_is_reported_never_served_and_replaced(store, warnings, damage):
    record = make_record()
    store.save(record, SAMPLES)
    other = make_record(seed=1)
    store.save(other, SAMPLES)
    path = store.folder / f"{stem_of(record)}.json"
    damage(path, path.with_suffix(".parquet"))
    assert not store.find([record["key"]])
    assert [found["key"] for found in store.records(samples=True)] == [other["key"]]
    assert len(warnings) == 2
    assert all(str(path) in line and "computed again" in line for line in warnings)
    store.save(record, SAMPLES)
    assert store.find([record["key"]])


@pytest.mark.parametrize("damage", [damage_truncate, damage_edit, damage_other_json, damage_samples_missing])
def test_a_record_is_checked_without_its_samples(store, warnings, damage):
    record = make_record()
    store.save(record, SAMPLES)
    path = store.folder / f"{stem_of(record)}.json"
    damage(path, path.with_suffix(".parquet"))
    assert store.records() == []
    assert len(warnings) == 1


def test_samples_that_were_changed_are_an_error_where_they_are_read(store):
    stored = store.save(make_record(), SAMPLES)
    SAMPLES.assign(value=1.0).to_parquet(store.folder / stored["samples"])
    assert store.records() == [stored]
    with pytest.raises(HarnessError, match="changed after they were saved"):
        store.samples(stored)


def by_an_earlier_program(store, record):
    """The record as a program saved it whose digest was of text and samples together."""
    stored = store.save(record, SAMPLES)
    path = store.folder / f"{stem_of(record)}.json"
    del stored["samples_sha256"], stored["digest"]
    text = json.dumps(stored, indent=1)
    samples = path.with_suffix(".parquet").read_bytes()
    stored["digest"] = hashlib.sha256(text.encode() + samples).hexdigest()
    path.write_text(f'{text[:-2]},\n "digest": "{stored["digest"]}"\n}}\n')
    return stored, path


def test_a_record_of_one_digest_is_read_and_saved_again_with_two(store, warnings):
    stored, _ = by_an_earlier_program(store, make_record())
    assert store.records() == [stored] == list(store.find([stored["key"]]).values())
    again = store.save(stored, store.samples(stored))
    assert again["samples_sha256"] == store.samples_digest(stored)
    assert store.records(samples=True) == [again]
    assert warnings == []


@pytest.mark.parametrize("damage", [damage_edit, damage_samples_truncated])
def test_a_damaged_record_of_one_digest_is_reported(store, warnings, damage):
    _, path = by_an_earlier_program(store, make_record())
    damage(path, path.with_suffix(".parquet"))
    assert store.records() == []
    assert "its digest does not fit" in warnings[0]


def test_records_come_in_the_order_of_their_names(store):
    for ratio in (0.7, 0.3, 0.5):
        store.save(make_record(ratio=ratio), None)
    assert [record["spec"]["ratio"] for record in store.records()] == [0.3, 0.5, 0.7]


def test_an_unknown_folder_is_an_error(tmp_path):
    with pytest.raises(HarnessError, match="not found"):
        Store(tmp_path / "nowhere").records()


@pytest.mark.parametrize(
    "change", [{"status": "finished"}, {"quality": {"vqa": {"vqa_accuracy": {"value": float("nan")}}}}]
)
def test_what_a_record_cannot_hold_is_refused_and_leaves_nothing(store, change):
    with pytest.raises(HarnessError):
        store.save({**make_record(), **change}, SAMPLES)
    assert names(store) == []


def test_the_samples_of_a_failed_cell_are_an_error(store):
    failed = store.save(make_record("failed"), None)
    with pytest.raises(HarnessError, match="has no samples"):
        store.samples(failed)


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(HarnessError, match="choose another --out"):
        Store(tmp_path / "file" / "runs").prepare()


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX permissions")
def test_a_folder_without_write_permission_is_one_line(tmp_path):
    tmp_path.chmod(0o555)
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    try:
        with pytest.raises(HarnessError, match=r"Permission denied.*choose another --out"):
            Store(tmp_path / "runs").prepare()
    finally:
        if is_root:
            os.seteuid(0)
        tmp_path.chmod(0o755)


@pytest.fixture
def full_disk():
    """Writes beyond 64 bytes of a file fail, as on a full disk (the kernel's error, not a stub)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_no_file(store, full_disk):
    with pytest.raises(HarnessError, match="cannot be saved"):
        store.save(make_record(), SAMPLES)
    assert names(store) == []


def test_a_full_disk_leaves_the_earlier_record_whole(store):
    earlier = store.save(make_record("done"), SAMPLES)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, hard))
    try:
        with pytest.raises(HarnessError, match="cannot be saved"):
            store.save(make_record(), SAMPLES.assign(value=0.0))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert store.find([make_record()["key"]]) == {earlier["key"]: earlier}


KILLED = """
import os, sys, pandas as pd
sys.path.insert(0, {tests!r}); sys.path.insert(0, {root!r})
import harness.run.store as store
from test_store import SAMPLES, make_record
real, calls = os.{call}, []
def dying(*arguments):
    calls.append(1)
    if len(calls) == {after}:
        os.kill(os.getpid(), 9)
    return real(*arguments)
os.{call} = dying
store.Store({folder!r}).save(make_record(), SAMPLES)
"""


@pytest.mark.parametrize(("call", "after"), [("fsync", 1), ("fsync", 2), ("replace", 1), ("replace", 2), ("fsync", 4)])
def test_a_kill_leaves_a_whole_record_or_none(store, call, after):
    tests = Path(__file__).parent
    script = KILLED.format(
        tests=str(tests), root=str(tests.parents[1]), folder=str(store.folder), call=call, after=after
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
    whole = (call, after) == ("fsync", 4)
    assert [record["status"] for record in store.records()] == (["done"] if whole else [])
    store.save(make_record(), SAMPLES)
    assert store.find([make_record()["key"]])


def test_other_json_in_the_folder_is_not_a_record(store, warnings):
    (store.folder / "study.json").write_text("{}")
    assert store.records() == []
    assert warnings == []


def test_leftovers_of_killed_runs_go_after_a_day(store):
    old, fresh = store.folder / ".old.json.1.tmp", store.folder / ".fresh.json.2.tmp"
    for path in (old, fresh):
        path.write_text("half")
    os.utime(old, (0, 0))
    store.prepare()
    assert names(store) == [fresh.name]


def test_records_of_an_earlier_version_are_one_line_and_not_damaged(store, warnings):
    for seed in range(3):
        store.save(make_record(seed=seed), SAMPLES)
    for path in sorted(store.folder.glob("*.json"))[:2]:
        path.write_text(path.read_text().replace('"format": 2', '"format": 1'))
    assert len(store.records()) == 1
    assert warnings == [f"2 records in {store.folder}: measured by an earlier version; left out, to be computed again"]
    assert len(store.find(make_record(seed=seed)["key"] for seed in range(3))) == 1


def test_records_of_a_later_version_say_so(store, warnings):
    store.save(make_record(), SAMPLES)
    path = next(store.folder.glob("*.json"))
    path.write_text(path.read_text().replace('"format": 2', '"format": 3'))
    assert store.records() == []
    assert "format 3: expected 2; a later version may have measured it" in warnings[0]
