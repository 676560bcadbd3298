"""Quantities: what tasks declare is read without importing them; tables are what they were when names were parsed."""

import subprocess
import sys
from pathlib import Path

import pytest

from harness.kit.errors import HarnessError
from harness.kit.registry import tasks
from harness.metrics.quantity import declared
from harness.report.frame import to_frame
from harness.report.quantities import of_metrics, quantity_of
from harness.report.tables import render_table

from .conftest import UNITS, make_record, make_records


@pytest.mark.parametrize("name", tasks.names())
def test_what_is_read_of_a_task_is_what_it_declares(name):
    assert tuple(declared(tasks.entry(name).path)) == tasks.get(name).quantities
    assert tasks.get(name).quantities


def test_no_two_tasks_declare_a_metric_of_one_name():
    names = [metric for _, metric in of_metrics()]
    assert len(names) == len(set(names))


def test_a_metric_that_nobody_declares_is_called_by_its_name():
    found = quantity_of("vqa", "of_old_times")
    assert (found.title, found.unit, found.scale, found.headline) == ("of old times", "%", 100, True)


@pytest.mark.parametrize("source", ["quantities = [one for one in ()]", "quantities = (Quantity(NAME, 'title'),)"])
def test_quantities_that_cannot_be_read_are_refused(source, tmp_path):
    path = tmp_path / "task.py"
    path.write_text(f"class Task:\n    {source}\n")
    with pytest.raises(HarnessError, match="line 2: quantities: expected a tuple"):
        list(declared(path))


def test_the_table_is_what_it_was_when_columns_were_parsed():
    """table.md was written by the program that had a wide row and tables of titles, from the same records."""
    records = make_records()
    for record in records:
        ratio, spec = record["cost"]["ratio"], record["spec"]
        record["cost"]["latency"] = {"ratio": ratio + 0.1}
        record["throughput"] = {"unit": UNITS[spec["task"]]}
        record["throughput"] |= {"end_to_end_per_second": 100 / ratio, "model_per_second": 200 / ratio}
        if (spec["method"], spec["task"]) == ("dense", "vqa"):
            record["blind"] = {"vqa_accuracy": 0.45}
    records.append(make_record("elip", 0.3, "vqa", "failed"))
    assert render_table(to_frame(records), "md") + "\n" == Path(__file__).with_name("table.md").read_text()


def test_a_table_needs_no_torch():
    program = "import sys, harness.cli.outputs; sys.exit('torch' in sys.modules or 'scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
