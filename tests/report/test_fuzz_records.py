"""Records, indexes of studies and kept comparisons that were damaged: left out and named, never a wrong table.

The draws are the same on every run and end with the processor time that is set for them.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import strategies as st

from harness.check.results import lines
from harness.cli.outputs import table_text
from harness.kit.errors import HarnessError
from harness.run.store import DIGEST, END, Store
from harness.run.study_index import INDEX_FILE, read_index, save_index
from tests.data.test_fuzz_annotations import damaged
from tests.fuzz import fuzz, in_one_line
from tests.report.conftest import make_record

SECONDS = 4.0


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Dense and a method, each with its samples."""
    store = Store(tmp_path / "runs", warn=lambda line: None)
    store.prepare()
    for method, ratio in (("dense", 1.0), ("tome", 0.5)):
        record = make_record(method, ratio, "vqa")
        record["spec"] |= {"base": "b", "split": None, "hardware": "cpu", "threads": 1, "training": [], "weights": "w"}
        samples = pd.DataFrame({"task": ["vqa"], "metric": ["vqa_accuracy"], "sample": ["0"], "cluster": ["0"]})
        store.save({"format": 2, **record}, samples.assign(value=[0.5]))
    return store


def digested(text: bytes) -> bytes:
    """A record's text with the digest of what it now says."""
    content = text.rpartition(DIGEST)[0] + END
    found = hashlib.sha256(content).hexdigest()
    return content.removesuffix(END) + DIGEST + found.encode() + b'"' + END + b"\n"


def test_damaged_records_are_left_out_and_the_others_stay(store: Store) -> None:
    (path,) = store.folder.glob("tome-*.json")
    whole = path.read_bytes()
    assert "tome" in table_text(store.folder, None, "text")

    def action(data: st.DataObject) -> None:
        path.write_bytes(data.draw(damaged(json.loads(whole))))
        (store.folder / "comparisons.cache").write_bytes(data.draw(st.binary(max_size=20)))
        table = table_text(store.folder, None, "text")
        assert "dense" in table
        assert "tome" not in table
        found = lines(store.folder)
        assert [line for line, good in found if not good and line.startswith("damaged") and path.name in line]
        assert "1 records: 1 done" in [line for line, _ in found]

    fuzz(action, 60, SECONDS)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("spec", None),
        ("spec", []),
        ("key", 3),
        ("status", "fine"),
        ("quality", None),
        ("quality", 7),
        ("run", "now"),
        ("spec.method", None),
        ("spec.task", 5),
        ("spec.ratio", "half"),
    ],
)
def test_a_digest_that_fits_makes_no_record(store: Store, field: str, value: Any) -> None:
    (path,) = store.folder.glob("tome-*.json")
    record = json.loads(path.read_bytes())
    target, _, name = field.rpartition(".")
    (record[target] if target else record)[name] = value
    text = json.dumps(record, indent=1, ensure_ascii=False).encode()
    path.write_bytes(digested(text))
    assert "tome" not in table_text(store.folder, None, "text")
    assert any("not a record of this program, though its digest fits" in line for line, _ in lines(store.folder))


def test_what_is_no_file_is_no_record(store: Store) -> None:
    os.mkfifo(store.folder / "evit-0.5-vqa-0123456789ab.json")
    (store.folder / "evit-0.5-vqa-0123456789ac.json").mkdir()
    (store.folder / "evit-0.5-vqa-0123456789ad.json").symlink_to("/dev/zero")
    found = [line for line, good in lines(store.folder) if not good]
    assert len(found) == 3
    assert all("is no regular file" in line and line.count("evit-0.5") == 1 for line in found)


def test_indexes_of_studies(store: Store) -> None:
    keys = [record["key"] for record in store.records()]
    cells = [{"method": "tome", "label": "half", "placement": "even", "stages": 1, "keys": keys[1:]}]
    save_index(store.folder, "mine", "schedule", keys[:1], cells)
    path = store.folder / INDEX_FILE
    whole = path.read_bytes()
    assert "half" in table_text(store.folder, "mine", "text")

    def action(data: st.DataObject) -> None:
        path.write_bytes(data.draw(damaged(json.loads(whole))))
        in_one_line(lambda: table_text(store.folder, "mine", "text"))

    fuzz(action, 60, SECONDS)
    path.unlink()
    with pytest.raises(HarnessError, match="study mine has not been run here"):
        read_index(store.folder, "mine")
