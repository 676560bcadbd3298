"""Several seeds of a setting are one row: means, standard deviations, and what a failed seed leaves."""

import csv
import io
from math import isnan, sqrt
from types import SimpleNamespace

import pytest

from harness.report.frame import to_frame
from harness.report.lines import spread
from harness.report.tables import render_table

from .conftest import full_record, number


def draws(values, deltas=None, method="random", ratio=0.5, **fields):
    deltas = [None] * len(values) if deltas is None else deltas
    return [
        full_record(method, ratio, "vqa", {"vqa_accuracy": pair}, **{"seed": seed, "config": {"seed": seed}, **fields})
        for seed, pair in enumerate(zip(values, deltas, strict=True))
    ]


def dense(value=0.9, **fields):
    return full_record("dense", 1.0, "vqa", {"vqa_accuracy": (value, None)}, **fields)


@pytest.fixture
def records():
    return [dense(), *draws([0.60, 0.62, 0.70], [-0.30, -0.28, -0.20])]


def row_of(records, method="random", name="vqa_accuracy"):
    return number(to_frame(records), name, method)


def setting_of(records, method="random"):
    settings = to_frame(records).settings
    (row,) = settings[settings["method"] == method].to_dict("records")
    return row


def test_a_metric_is_the_mean_over_seeds_with_its_standard_deviation(records):
    row = row_of(records)
    assert row["value"] == pytest.approx(0.64)
    # Deviations -0.04, -0.02, 0.06 from the mean: squares sum to 0.0056, over n - 1 = 2.
    assert row["sd"] == pytest.approx(sqrt(0.0028))
    assert row["seed_count"] == 3
    assert setting_of(records)["seeds"] == ("0", "1", "2")


def test_bounds_are_the_means_of_the_seeds_bounds(records):
    row = row_of(records)
    assert row["low"] == pytest.approx(0.62)
    assert row["high"] == pytest.approx(0.66)
    assert row["delta_low"] == pytest.approx(-0.27)
    assert row["n"] == 100


def test_deltas_are_the_mean_of_the_seeds_deltas(records):
    row = row_of(records)
    assert row["delta"] == pytest.approx(-0.26)
    assert row["delta_sd"] == pytest.approx(sqrt(0.0028))


def test_one_seed_has_its_exact_value_and_no_deviation(records):
    row = row_of(records, "dense")
    assert row["value"] == 0.9
    assert row["seed_count"] == 1
    assert isnan(row["sd"])


def test_seeds_are_on_one_board_with_a_dense_of_one_seed_and_no_variants(records):
    table = render_table(to_frame(records))
    assert table.count("Quality · ") == 1
    assert "variant" not in table
    assert to_frame(records).settings["variant"].tolist() == ["", ""]


def test_the_table_shows_the_deviation_and_explains_it(records):
    table = render_table(to_frame(records))
    assert "64.0 ±2.0 sd 5.3 (-26.0 ±1.0)" in table
    assert "90.0 ±2.0\n" in table
    assert "seeds 0, 1, 2: random" in table
    assert "sd is over the seeds" in table


def test_nothing_is_explained_where_every_row_has_one_seed():
    assert "seeds" not in render_table(to_frame([dense(), *draws([0.6], [-0.3])]))


def test_the_costs_are_the_first_seed_s(records):
    records[1]["cost"]["memory"]["train_mib_per_image"] = 1.0
    records[2]["cost"]["memory"]["train_mib_per_image"] = 2.0
    assert row_of(records[::-1], name="train_mib_per_image")["value"] == 1.0


def test_a_seed_that_failed_leaves_the_others_and_is_said(records):
    failed = full_record("random", 0.5, "vqa", {}, "out_of_memory", seed=3, config={"seed": 3})
    row = row_of([*records, failed])
    assert row["value"] == pytest.approx(0.64)
    assert row["seed_count"] == 3
    assert row["error"] == ""
    assert setting_of([*records, failed])["status"] == "out_of_memory"
    assert "no value: random 0.5 vqa, seed 3: out of memory" in render_table(to_frame([*records, failed]))


def test_seeds_that_all_failed_have_no_value():
    failed = [full_record("random", 0.5, "vqa", {}, "failed", seed=seed) for seed in (0, 1)]
    assert row_of([dense(), *failed])["error"] == "failed"


def test_a_method_s_own_seed_is_a_draw_too():
    records = draws([0.5, 0.7], seed=0)
    assert row_of([dense(), *records])["value"] == pytest.approx(0.6)
    assert setting_of([dense(), *records])["seeds"] == ("0", "0:1")


def test_of_one_seed_the_latest_record_counts(records):
    newer = draws([0.9], [0.0], code="newer")[0]
    newer["run"]["started"] = "2027-01-01T00:00:00"
    frame = to_frame([newer, *records])
    assert number(frame, "vqa_accuracy", "random")["value"] == pytest.approx((0.9 + 0.62 + 0.70) / 3)
    assert frame.superseded == 1


def test_error_bars_are_the_deviation_of_several_seeds_and_the_interval_of_one(records):
    assert spread(SimpleNamespace(**row_of(records)), 100) == pytest.approx((64 - 5.2915, 64 + 5.2915))
    assert spread(SimpleNamespace(**row_of(records, "dense")), 100) == pytest.approx((88, 92))


def test_csv_has_the_seeds_and_their_deviation(records):
    rows = list(csv.DictReader(io.StringIO(render_table(to_frame(records), "csv"))))
    rows = [row for row in rows if row["quantity"] == "vqa_accuracy"]
    assert [row["seeds"] for row in rows] == ["0", "0 1 2"]
    assert float(rows[1]["sd"]) == pytest.approx(sqrt(0.0028))


def test_intervals_over_seeds_stand_in_place_of_the_seeds_own(records):
    several = {"seeds": 3, "ci95": [0.5, 0.8], "delta_ci95": [-0.4, -0.1]}
    for record in records:
        if record["spec"]["method"] == "random":
            record["quality"] = {
                task: {metric: entry | {"over_seeds": several} for metric, entry in metrics.items()}
                for task, metrics in record["quality"].items()
            }
    row = row_of(records)
    assert [row[name] for name in ("low", "high", "delta_low", "delta_high")] == [0.5, 0.8, -0.4, -0.1]
    # A table of two of the three knows nothing of the third.
    assert row_of(records[:-1])["low"] != 0.5
