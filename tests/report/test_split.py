"""Quality on the samples that a control gets wrong, and right, on made-up outcomes whose shares are known."""

import csv
import io

import pandas as pd
import pytest

from harness.kit.errors import HarnessError
from harness.report.split import render_split

from .conftest import full_record

# Outcomes of eight questions; downsample gets the last four wrong at 0.5, the last two at 0.7.
OUTCOMES = {
    ("dense", 1.0): [1, 1, 1, 1, 1, 1, 1, 0],
    ("downsample", 0.5): [1, 1, 1, 0.6, 0.3, 0, 0, 0],
    ("downsample", 0.7): [1, 1, 1, 1, 1, 1, 0, 0],
    ("evit", 0.5): [1, 1, 1, 0, 1, 1, 1, 0],
    ("evit", 0.7): [1, 1, 1, 1, 1, 0, 1, 0],
}


def record(method, ratio, metric="vqa_accuracy", **spec):
    return full_record(method, ratio, "vqa", {metric: (0.5, None)}, **spec)


def records(without=(), **spec):
    return [record(*cell, **spec) for cell in OUTCOMES if cell not in without]


def samples_of(record, outcomes=OUTCOMES, metric="vqa_accuracy"):
    values = outcomes[record["spec"]["method"], record["spec"]["ratio"]]
    names = [f"q{number}" for number in range(len(values))]
    return pd.DataFrame({"task": "vqa", "metric": metric, "sample": names, "cluster": names, "value": values})


def rows(text):
    return {
        (row["method"], row["ratio"], row["side"]): (float(row["value"]), int(row["n"]))
        for row in csv.DictReader(io.StringIO(text))
    }


def test_a_method_is_measured_where_the_control_is_wrong_and_where_it_is_right():
    found = rows(render_split(records(), samples_of, "downsample", "runs", "csv"))
    assert found["evit", "0.5", "wrong"] == (0.75, 4)
    assert found["evit", "0.5", "right"] == (0.75, 4)
    assert found["evit", "0.7", "wrong"] == (0.5, 2)
    assert found["evit", "0.7", "right"] == (pytest.approx(5 / 6), 6)
    assert found["dense", "0.5", "wrong"] == (0.75, 4)
    assert found["dense", "0.7", "wrong"] == (0.5, 2)
    assert found["downsample", "0.5", "right"] == (0.9, 4)


def test_the_order_of_samples_does_not_matter():
    def turned(one):
        table = samples_of(one)
        return table.iloc[::-1] if one["spec"]["method"] == "evit" else table

    plain = render_split(records(), samples_of, "downsample", "runs", "csv")
    assert rows(render_split(records(), turned, "downsample", "runs", "csv")) == rows(plain)


def test_the_table_has_a_column_for_each_side_with_intervals_and_numbers():
    text = render_split(records(), samples_of, "downsample", "runs")
    assert "vqa, wrong, %" in text
    assert "vqa, right, %" in text
    assert [line.split()[:2] for line in text.splitlines() if line.strip().startswith("0.")] == [
        ["0.7", method] for method in ("dense", "downsample", "evit")
    ] + [["0.5", method] for method in ("dense", "downsample", "evit")]
    assert "(4)" in text
    assert "±" in text
    for format in ("md", "latex"):
        assert "wrong" in render_split(records(), samples_of, "downsample", "runs", format)


def test_a_budget_without_the_control_says_which_command_makes_it():
    without = records(without={("downsample", 0.7)}, limit=8, match="macs")
    text = render_split(without, samples_of, "downsample", "runs/mine")
    assert (
        "downsample is not measured at ratio 0.7: python -m harness run --method downsample --ratios 0.7 --model "
        "albef-tiny --tasks vqa --data scenes --match macs --limit 8 --out runs/mine"
    ) in text
    assert "0.7  evit" not in text
    assert "0.5 MACs  evit" in text


def test_without_the_control_at_all_the_command_is_the_error():
    without = records(without={("downsample", 0.7), ("downsample", 0.5)})
    with pytest.raises(HarnessError, match=r"run --method downsample --ratios 0\.7") as caught:
        render_split(without, samples_of, "downsample", "runs")
    assert "\n" not in str(caught.value)


def test_a_paper_s_own_setting_is_beside_the_control_of_as_many_macs():
    """`make_cost`: a setting without a ratio spends 0.71 of dense."""
    outcomes = OUTCOMES | {("topk", None): [1] * 8}
    made = [*records(), record("topk", None)]
    found = rows(render_split(made, lambda one: samples_of(one, outcomes), "downsample", "runs", "csv"))
    assert found["topk", "paper", "wrong"] == (1, 2)


def test_a_metric_that_is_never_right_or_wrong_is_left_out():
    outcomes = {cell: [0.1 * value + 0.2 for value in values] for cell, values in OUTCOMES.items()}

    def both(one):
        return pd.concat([samples_of(one), samples_of(one, outcomes, "rouge_l")])

    text = render_split(records(), both, "downsample", "runs", "csv")
    assert {row["metric"] for row in csv.DictReader(io.StringIO(text))} == {"vqa_accuracy"}


def test_other_samples_than_the_control_s_are_refused():
    def fewer(one):
        return samples_of(one).iloc[: 6 if one["spec"]["method"] == "evit" else 8]

    with pytest.raises(HarnessError, match="samples differ"):
        render_split(records(), fewer, "downsample", "runs")
