"""Blank images, throughput, scores beyond 1, and many tasks of several models in one table."""

import csv
import io
from math import isnan

import matplotlib
import pytest
from matplotlib.figure import Figure

from harness.report.figures import plot_quality
from harness.report.frame import boards, to_frame
from harness.report.layout import WIDTH
from harness.report.lines import blind_line, scale
from harness.report.notes import IN_TURN
from harness.report.quantities import of_metrics, quantity_of
from harness.report.tables import render_table

from .conftest import full_record, make_record, number


def pair(task, values, dense_fields=None, **fields):
    """Dense with the given values and elip 0.1 below it."""
    return [
        full_record(
            "dense", 1.0, task, {name: (value, None) for name, value in values.items()}, **(dense_fields or {})
        ),
        full_record("elip", 0.5, task, {name: (value - 0.1, -0.1) for name, value in values.items()}, **fields),
    ]


@pytest.fixture
def records():
    return [
        *pair("vqa", {"vqa_accuracy": 0.9}, {"blind": {"vqa_accuracy": 0.45}, "rate": (400, 500)}, rate=(500, 1000)),
        *pair("nlvr2", {"nlvr2_accuracy": 0.8, "nlvr2_consistency": 0.6}),
    ]


def lines_of(records, format="text"):
    return render_table(to_frame(records), format).splitlines()


def test_blank_images_are_a_row_after_dense(records):
    rows = [line.split() for line in lines_of(records)[3:7]]
    assert [row[0] for row in rows] == ["------", "dense", "blind", "elip"]
    assert rows[2] == ["blind", "-", "-", "45.0"]


def test_blank_images_are_explained_in_a_line(records):
    assert any(line.startswith("blind: ") for line in lines_of(records))
    assert not any(line.startswith("blind") for line in lines_of(records[2:]))


@pytest.mark.parametrize(
    ("format", "row"), [("md", "| blind | - | - | 45.0 |"), ("latex", "blind & - & - & 45.0 \\\\")]
)
def test_blank_images_are_in_markdown_and_latex(records, format, row):
    assert row in lines_of(records, format)


def test_csv_has_blank_images_in_the_row_of_dense(records):
    rows = list(csv.DictReader(io.StringIO(render_table(to_frame(records), "csv"))))
    assert [row["blind"] for row in rows if row["quantity"] == "vqa_accuracy"] == ["0.45", ""]


def test_throughput_is_a_part_with_dense_as_100_percent(records):
    lines = lines_of(records)
    start = next(number for number, line in enumerate(lines) if line.startswith("Throughput · "))
    assert lines[start + 1].split() == ["method", "ratio", "vqa,", "questions/s", "vqa"]
    assert lines[start + 4].split() == ["dense", "1", "400", "(500)", "100", "(100)"]
    assert lines[start + 5].split() == ["elip", "0.5", "500", "(1000)", "125", "(200)"]


def test_of_dense_is_beside_the_passes_made_in_turn_with_it_where_there_are_some(records):
    dense = {"end_to_end_per_second": 250.0, "model_per_second": 800.0}
    measured = [
        {**record, "throughput": {**record["throughput"], "dense": dense}}
        if record["spec"]["method"] == "elip"
        else record
        for record in records[:2]
    ]
    lines = lines_of(measured)
    start = next(number for number, line in enumerate(lines) if line.startswith("Throughput · "))
    assert lines[start + 4].split() == ["dense", "1", "400", "(500)", "100", "(100)"]
    assert lines[start + 5].split() == ["elip", "0.5", "500", "(1000)", "200", "(125)"]
    assert IN_TURN in lines
    assert IN_TURN not in lines_of(records)


def test_throughput_is_left_out_where_no_record_has_it(records):
    assert not any("hroughput" in line for line in lines_of(records[2:]))


def test_csv_has_throughput_by_task(records):
    rows = csv.DictReader(io.StringIO(render_table(to_frame(records), "csv")))
    found = [
        (row["task"], row["quantity"], float(row["value"]), row["unit"])
        for row in rows
        if row["method"] == "elip" and "throughput" in row["quantity"]
    ]
    assert found == [
        ("vqa", "throughput", 500, "questions/s"),
        ("vqa", "model_throughput", 1000, "questions/s"),
    ]


def test_slow_rates_keep_a_digit():
    records = pair("vqa", {"vqa_accuracy": 0.9}, {"rate": (4.26, 5)}, rate=(8.52, 20))
    assert any("8.5 (20.0)" in line and "200 (400)" in line for line in lines_of(records))


def test_cider_is_printed_times_100_and_not_called_percent():
    lines = lines_of(pair("captioning", {"cider": 1.173, "bleu_4": 0.381}))
    assert lines[1].split() == ["method", "ratio", "BLEU-4", "CIDEr"]
    unit = ["captioning,", "%", "(Δ", "dense)"]
    assert lines[2].split() == [*unit, unit[0], "×", "100", *unit[2:]]
    assert lines[5].split() == ["elip", "0.5", "28.1", "±2.0", "(-10.0", "±1.0)", "107.3", "±2.0", "(-10.0", "±1.0)"]


def test_only_percents_end_at_100():
    axes = Figure().subplots(1, 2)
    for panel, metric in zip(axes, ("cider", "vqa_accuracy"), strict=True):
        panel.set_ylim(80, 140)
        scale(panel, quantity_of({"cider": "captioning"}.get(metric, "vqa"), metric))
    assert [round(panel.get_ylim()[1], 1) for panel in axes] == [140, 100.6]
    assert axes[0].get_ylabel() == "× 100"


@pytest.mark.parametrize(
    ("metric", "title"), [("rouge_l", "ROUGE-L"), ("meteor", "METEOR"), ("nlvr2_accuracy", "NLVR2 accuracy")]
)
def test_metrics_of_captions_have_their_papers_names(metric, title):
    assert {one.title for (_, name), one in of_metrics().items() if name == metric} == {title}


@pytest.mark.parametrize(("low", "drawn"), [(40, True), (55, True), (80, False)])
def test_a_line_of_blank_images_is_drawn_unless_it_squashes_the_axis(records, low, drawn):
    panel = Figure().subplots()
    panel.set_ylim(low, 95)
    assert blind_line(panel, to_frame(records), "vqa_accuracy") is drawn
    assert len(panel.lines) == drawn
    assert [text.get_text() for text in panel.texts] == ([] if drawn else ["blank images: 45.0"])


def test_each_model_has_a_board_with_its_own_tasks_only(records):
    captions = pair("captioning", {"cider": 1.1}, {"model": "blip-tiny", "base": "b"}, model="blip-tiny", base="b")
    found = [board.headline() for _, board in boards(to_frame([*records, *captions]))]
    assert found == [["nlvr2_accuracy", "vqa_accuracy"], ["cider"]]


def test_tables_of_many_tasks_fit_a_screen(records):
    more = [
        *pair("entailment", {"entailment_accuracy": 0.8, "entailment_neutral": 0.7}),
        *pair("classification", {"top1": 0.9, "top5": 1.0, "mean_per_class": 0.9}),
        *pair("captioning", dict.fromkeys(("bleu_1", "bleu_4", "meteor", "rouge_l", "cider", "spice"), 0.3)),
        make_record("dense", 1.0, "retrieval", **CURRENT),
        make_record("elip", 0.5, "retrieval", **CURRENT),
    ]
    frame = to_frame([*records, *more])
    assert len(boards(frame)) == 1
    assert len(frame.headline()) == 13
    lines = render_table(frame).splitlines()
    assert max(map(len, lines)) <= WIDTH
    assert sum(line.startswith("dense ") for line in lines) > 4
    assert render_table(frame, "latex").count(", continued}") >= 2


CURRENT = {"base": "set1", "hardware": "cpu", "threads": 1, "split": None, "training": []}


def test_old_records_and_new_ones_are_told_by_their_weights(records):
    old = [make_record("dense", 1.0, "vqa", weights="set1", hardware="cpu", threads=1)]
    assert len(boards(to_frame([*records, *old]))) == 1
    other = [make_record("dense", 1.0, "vqa", weights="w9", hardware="cpu", threads=1)]
    assert len(boards(to_frame([*records, *other]))) == 2


def test_figures_show_captions_and_answers_of_several_seeds(tmp_path, records):
    again = [
        full_record("elip", 0.5, "vqa", {"vqa_accuracy": (0.84, -0.06)}, seed=1),
        *pair("captioning", {"cider": 1.173}),
    ]
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        written = plot_quality(to_frame([*records, *again]), tmp_path, ["vqa_accuracy", "cider"])
    drawn = written[0].read_text(encoding="utf-8")
    assert "error bars: standard deviation over seeds; of one seed the 95 % interval" in drawn
    assert "blank images" in drawn
    assert "× 100" in drawn


def test_a_metric_that_could_not_be_measured_is_absent_with_the_reason():
    dense = full_record("dense", 1.0, "captioning", {"cider": (3.0, None)})
    dense["diagnostics"]["absent"] = {"spice": "its parser is not installed"}
    frame = to_frame([dense])
    assert number(frame, "spice", "dense")["error"] == "absent"
    assert isnan(number(frame, "spice", "dense")["value"])
    text = render_table(frame)
    assert "       absent" in text
    assert "SPICE absent: its parser is not installed" in text


def test_a_method_that_fell_back_is_drawn_at_dense_s_cost_where_there_was_no_text(monkeypatch, tmp_path):
    records = pair("captioning", {"cider": 3.0}) + pair("vqa", {"vqa_accuracy": 0.9})
    for record, images in zip(records, (5, 5, 5, 0), strict=True):
        record["cost"]["encodings"] = {"images": images, "pairs": 0 if images else 9}
        record["diagnostics"]["fallback"] = "all tokens" if record["spec"]["method"] == "elip" else None
    drawn = {"cider": [], "vqa_accuracy": []}
    monkeypatch.setattr(
        "harness.report.figures.metric_line",
        lambda axes, rows, costs, *_: drawn[rows["quantity"].iloc[0]].extend(costs.tolist()),
    )
    plot_quality(to_frame(records), tmp_path)
    dense, elip = (record["cost"]["forward"]["total_gmacs"] for record in records[:2])
    # Against MACs, then against the token ratio in %.
    assert drawn == {"cider": [dense, 100.0], "vqa_accuracy": [elip, 50.0]}
    assert dense != elip


@pytest.mark.parametrize("format", ["text", "md", "latex"])
@pytest.mark.parametrize(
    ("fallback", "share", "marked"),
    [("all tokens", None, True), ("all tokens", 1.0, True), ("by their norm", 0.5, False)],
)
def test_what_was_really_kept_decides_the_mark_not_what_a_method_says(format, fallback, share, marked):
    """A user's task that encodes images alone, but does not say so of its metric, is marked all the same."""
    records = pair("vqa", {"vqa_accuracy": 0.9}) + [full_record("evit", 0.5, "vqa", {"vqa_accuracy": (0.7, -0.2)})]
    for record in records:
        record["cost"]["encodings"] = {"images": 5, "pairs": 0}
    records[1]["diagnostics"] |= {"fallback": fallback} | ({} if share is None else {"unguided_tokens": share})
    table = render_table(to_frame(records), format)
    sign = "$\\dagger$" if format == "latex" else "†"
    best = {"text": "", "md": "**80.0", "latex": "\\textbf{80.0"}[format]
    assert (sign in table) == marked
    assert f"where no text is given: {fallback}" in table
    assert not (best and marked and best in table)
    assert not best or marked or best in table
