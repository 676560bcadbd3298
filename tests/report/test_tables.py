"""What a table says, and that every format says the same."""

import csv
import io

import pytest

from harness.kit.errors import HarnessError
from harness.kit.sources import code_parts
from harness.report.frame import boards, study_frame, to_frame
from harness.report.layout import LATEX_ROWS, WIDTH, Part, latex, plain
from harness.report.quantities import of_metrics
from harness.report.tables import FORMATS, render_study_table, render_summary, render_table

from .conftest import make_record, make_records, number


@pytest.fixture
def frame(records):
    return to_frame(records)


def test_dense_is_first_then_ratios_fall_and_methods_rise(frame):
    rows = list(zip(frame.settings["method"], frame.settings["ratio"], strict=True))
    methods = ("elip", "evit", "random", "tome")
    assert rows == [("dense", 1.0), *((method, ratio) for ratio in (0.7, 0.5) for method in methods)]


def test_a_row_joins_the_tasks_of_a_setting(frame):
    assert number(frame, "vqa_accuracy", "elip", 0.5)["value"] == pytest.approx(0.954)
    assert number(frame, "t2i_r1", "elip", 0.5)["value"] == pytest.approx(0.442)
    assert {len(keys) for keys in frame.settings["keys"]} == {2}


def test_costs_are_relative_to_dense(frame):
    for cost, value in {"gmacs_ratio": 0.61, "scoring_share": 0.11 / 0.61, "train_step_ratio": 0.5}.items():
        assert number(frame, cost, "elip", 0.5)["value"] == pytest.approx(value)


def test_the_headline_leaves_recalls_beyond_one_out(frame):
    assert frame.headline() == ["t2i_r1", "i2t_r1", "t2i_r1_rerank", "i2t_r1_rerank", "vqa_accuracy"]
    assert len(frame.metrics) == 13


@pytest.mark.parametrize(
    ("metric", "title"),
    [
        ("t2i_r1_rerank", "t2i R@1, re-ranked"),
        ("mean_recall_rerank", "mean recall, re-ranked"),
        ("vqa_accuracy", "VQA accuracy"),
        ("bleu_4", "BLEU-4"),
    ],
)
def test_metrics_have_readable_names(metric, title):
    assert {one.title for (_, name), one in of_metrics().items() if name == metric} == {title}


def test_the_text_fits_a_screen(frame):
    lines = render_table(frame).splitlines()
    assert max(map(len, lines)) <= WIDTH
    assert lines[0].startswith("Quality · albef-tiny · inference · scenes, limit 1000")


def test_a_value_has_its_interval_and_its_difference_to_dense(frame):
    lines = render_table(frame).splitlines()
    assert any(line.endswith("95.4 ±1.3  (-2.8 ±1.0)") for line in lines)
    assert any(line.endswith("98.2 ±1.3") for line in lines)


def test_markdown_marks_the_best_of_each_ratio_and_no_other(frame):
    rows = [line for line in render_table(frame, "md", ["vqa_accuracy"]).splitlines() if "**" in line]
    assert [row.split(" | ")[:2] for row in rows if row.startswith("| ")] == [
        ["| elip", "0.7"],
        ["| elip", "0.5"],
    ]


def test_a_method_alone_at_its_ratio_is_not_best(records):
    alone = [record for record in records if record["spec"]["method"] in {"dense", "tome"}]
    assert "| **" not in render_table(to_frame(alone), "md")


def test_latex_is_balanced_and_escaped(frame):
    table = render_table(frame, "latex")
    assert table.count("{") == table.count("}")
    assert table.count("\\toprule") == table.count("\\bottomrule") == table.count("\\begin{table}") == 2
    assert "\\% ($\\Delta$ dense)" in table
    assert "\\textbf{95.4 $\\pm$1.3" in table
    body = [line for line in table.splitlines() if line.endswith("\\\\")]
    assert {line.count(" & ") for line in body} == {6, 9}


@pytest.mark.parametrize(
    ("groups", "tables"),
    [([19, 19, 19, 19], [38, 38]), ([20, 22, 5], [42, 5]), ([30, 30, 5], [30, 35]), ([100], [42, 42, 16]), ([3], [3])],
)
def test_latex_fits_its_page_in_length_and_is_not_enlarged(groups, tables):
    ratios = [f"0.{number}" for number, rows in enumerate(groups) for _ in range(rows)]
    rows = [f"row{number}" for number in range(len(ratios))]
    written = latex(Part("t", [plain("method", "", rows, left=True), plain("ratio", "", ratios)], [])).split("{table}")
    bodies = [body for body in written if "toprule" in body]
    assert [body.count("row") for body in bodies] == tables
    assert max(tables) <= LATEX_ROWS
    assert [word for body in bodies for word in body.split() if word.startswith("row")] == rows
    assert [body.count(", continued}") for body in bodies] == [0] + [1] * (len(tables) - 1)
    assert all("\\resizebox{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}{!}" in body for body in bodies)


def test_csv_has_the_exact_numbers_of_every_metric(frame):
    rows = list(csv.DictReader(io.StringIO(render_table(frame, "csv"))))
    (row,) = (row for row in rows if (row["method"], row["ratio"], row["quantity"]) == ("elip", "0.7", "vqa_accuracy"))
    assert float(row["delta"]) == -0.04 * (1 - 0.7) * 1.4
    assert (row["title"], row["unit"], row["scale"], row["better"]) == ("VQA accuracy", "%", "100.0", "higher")
    assert len({(row["setting"], row["task"], row["quantity"]) for row in rows}) == len(rows)


def test_failed_cells_say_why(records):
    records += [
        make_record("elip", 0.3, "vqa", "out_of_memory"),
        make_record("elip", 0.3, "retrieval", "failed"),
    ]
    table = render_table(to_frame(records))
    row = next(line for line in table.splitlines() if line.startswith("elip") and " 0.3 " in line)
    assert row.split()[2:] == ["failed"] * 4
    assert "no memory" in table
    assert "no value: elip 0.3 vqa: out of memory: CUDA out of memory at batch 64" in table


def test_a_table_of_failures_alone_is_a_table():
    table = render_table(to_frame([make_record("elip", 0.5, "vqa", "failed")]))
    assert "no value: elip 0.5 vqa: failed" in table


def test_a_task_that_was_not_run_is_said(records):
    assert "not run" in render_table(to_frame([*records, make_record("elip", 0.3, "vqa")]))


def test_the_paper_s_own_setting_is_called_so(records):
    assert "elip    paper" in render_table(to_frame([*records, make_record("elip", None, "vqa")]))


def test_the_latest_of_two_measurements_counts(records):
    newer = make_record("elip", 0.5, "vqa", code="newer")
    newer["quality"]["vqa"]["vqa_accuracy"]["value"] = 0.5
    newer["run"]["started"] = "2026-02-01T00:00:00"
    frame = to_frame([newer, *records])
    assert number(frame, "vqa_accuracy", "elip", 0.5)["value"] == 0.5
    assert "1 record(s) of the same settings, older or of other code, are not shown" in render_table(frame)


def test_of_two_measurements_that_of_the_installed_code_counts(records):
    """Also where other code measured later, as before a change that was taken back."""
    now = {"harness/tasks": "1", **code_parts("baselines.elip")}
    other = now | {"baselines/elip.py": "0" * 12}
    for value, code, started in ((0.25, now, "2026-02-01"), (0.5, other, "2026-03-01")):
        record = make_record("elip", 0.5, "vqa", code=code)
        record["quality"]["vqa"]["vqa_accuracy"]["value"] = value
        record["run"]["started"] = f"{started}T00:00:00"
        records = [*records, record]
    for given in (records, records[::-1]):
        assert number_of_elip(given) == 0.25


def number_of_elip(records):
    return number(to_frame(records), "vqa_accuracy", "elip", 0.5)["value"]


def test_a_package_whose_name_begins_as_the_harness_s_has_versions_too():
    records = [make_record("own", ratio, "vqa", code={"harness_own": str(ratio)}) for ratio in (0.7, 0.5)]
    assert to_frame([make_record("dense", 1.0, "vqa"), *records]).mixed[0].startswith("own: rows come from several")


@pytest.mark.parametrize("format", ["text", "md", "latex"])
def test_rows_of_several_versions_of_a_method_are_named(format):
    code = {"harness/tasks": "1", "baselines/elip.py": "a", "baselines": "b"}
    records = [make_record("dense", 1.0, "vqa", code=code), make_record("elip", 0.7, "vqa", code=code)]
    other = make_record("elip", 0.5, "vqa", code=code | {"harness/tasks": "2"})
    said = "elip: rows come from several versions of baselines/elip.py"
    assert said not in render_table(to_frame([*records, other]))
    frame = to_frame([*records, make_record("elip", 0.5, "vqa", code=code | {"baselines/elip.py": "c"})])
    assert frame.mixed == [frame.mixed[0]]
    assert frame.mixed[0].startswith(said)
    for text in (render_table(frame, format), render_summary(frame, format)):
        assert "several versions of" in text


def test_settings_of_one_method_and_ratio_are_told_apart(records):
    other = make_record("elip", 0.5, "vqa", config={"guidance": 0.5}, schedule="begin=3 keep=.4")
    frame = to_frame([*records, other])
    rows = frame.settings[(frame.settings["method"] == "elip") & (frame.settings["ratio"] == 0.5)]
    assert set(rows["variant"]) == {"guidance=None paper", "guidance=0.5 begin=3 keep=.4"}
    assert "guidance=0.5" in render_table(frame)


def test_models_are_not_compared_with_each_other(records):
    other = [make_record("dense", 1.0, "vqa", model="albef-base")]
    assert render_table(to_frame([*records, *other])).count("Quality · ") == 2


def test_the_order_of_records_does_not_matter(records):
    for format in FORMATS:
        assert render_table(to_frame(records), format) == render_table(to_frame(records[::-1]), format)


def test_unknown_formats_and_metrics_are_refused(frame):
    with pytest.raises(HarnessError, match="did you mean latex"):
        render_table(frame, "latx")
    with pytest.raises(HarnessError, match="did you mean vqa_accuracy"):
        render_table(frame, "text", ["vqa_acuracy"])


def test_no_records_are_an_error():
    with pytest.raises(HarnessError, match="no records"):
        to_frame([])


def test_a_study_names_its_rows(records):
    chosen = [record for record in records if record["spec"]["method"] == "elip"]
    labels = [
        {"keys": [record["key"] for record in chosen if record["spec"]["ratio"] == ratio], "label": label}
        for ratio, label in ((0.5, "early, 3 stages"), (0.7, None))
    ]
    frame = study_frame(records, labels)
    assert list(frame.settings["label"]) == ["", "early, 3 stages", "0.7"]
    assert "elip    early, 3 stages" in render_study_table(records, labels)


def test_a_study_without_records_is_an_error():
    with pytest.raises(HarnessError, match="ablate"):
        study_frame(make_records(), [{"keys": ["0" * 64], "label": "x"}])


@pytest.mark.parametrize(
    ("value", "low", "high", "said"),
    [
        (1.0, 0.948, 1.0, "100.0 [94.8, 100]"),
        (0.5, 0.4, 0.6, "50.0 ±10.0"),
        (0.5, 0.41, 0.592, "50.0 ±9.2"),
        (0.5, 0.4, 0.55, "50.0 [40, 55]"),
        (0.9996, 0.9988, 1.0, "100.0 [99.9, 100]"),
        (0.9996, 0.995, 1.0, "100.0 [99.5, 100]"),
        (0.0, 0.0, 0.07, "0.0 [0, 7]"),
    ],
)
def test_an_interval_that_is_not_symmetric_is_printed_as_one(value, low, high, said):
    record = make_record("dense", 1.0, "vqa")
    record["quality"]["vqa"]["vqa_accuracy"] |= {"value": value, "ci95": [low, high]}
    (row,) = (line for line in render_table(to_frame([record])).splitlines() if said in line)
    assert row.split("  ")[-1].strip() == said


def timed(ratio, quartiles=None):
    return {"ratio": ratio, "ratio_iqr": quartiles, "median_ms": 2.0}


def test_latency_has_its_spread_dense_is_100_and_an_unsteady_machine_is_said():
    records = make_records((0.5,), ("elip",))
    for record, latency in zip(records, (timed(1.05, [1.02, 1.08]), timed(1.0), timed(0.6, [0.55, 0.7]), timed(0.6))):
        record["cost"]["latency"] = latency
    for table in (render_table(to_frame(records)), render_summary(to_frame(records))):
        assert "60.0 [55, 70]" in table
        assert "105.0" not in table.partition("latency of dense beside itself")[0]
    said = "latency of dense beside itself is 105.0 % [102, 108], not 100: the machine was not steady"
    assert said in render_table(to_frame(records))
    records[0]["cost"]["latency"] = timed(1.01, [0.99, 1.03])
    assert "beside itself" not in render_table(to_frame(records))


def test_a_metric_names_its_task_once():
    table = render_table(to_frame(make_records((0.5,), ("elip",))), "md")
    assert "| t2i R@1, retrieval, % (Δ dense) |" in table
    assert "| VQA accuracy, % (Δ dense) |" in table


def test_one_sequence_of_random_draws_is_said_to_be_one():
    records = make_records((0.5,), ("elip", "random"))
    for record in records:
        record["spec"]["config"] = {"seed": 0} if record["spec"]["method"] == "random" else {}
    assert "one sequence of random draws: random; --seed 0,1,2 measures several" in render_table(to_frame(records))


def cells(table, method, ratio):
    """The cells of a row of the summary in Markdown, after its names."""
    (row,) = (line for line in table.splitlines() if line.startswith(f"| {method} | {ratio} |"))
    return [cell.strip().replace("\\", "") for cell in row.strip("|").split("|")][2:]


def test_a_summary_says_what_is_kept_with_its_interval_and_what_loses_most():
    frame = to_frame(make_records((0.5,), ("elip",)))
    table = render_summary(frame, "md")
    assert cells(table, "dense", "1")[:2] == ["100.0", "-"]
    # ELIP loses 0.04 * 0.5 * 1.4 = 0.028 of every metric, the interval of the difference is -0.01 and +0.009.
    dense = {"retrieval": (0.47, 0.47, 0.78, 0.78), "vqa": (0.982,)}
    means = {
        end: [sum(1 + (delta - 0.028) / one for one in task) / len(task) for task in dense.values()]
        for end, delta in {"value": 0, "low": -0.01, "high": 0.009}.items()
    }
    value, low, high = (100 * sum(tasks) / 2 for tasks in means.values())
    kept, worst, tokens, forward, step, memory = cells(table, "elip", "0.5")
    assert kept == f"{value:.1f} [{low:.1f}, {high:.1f}]".replace(".0]", "]").replace(".0,", ",")
    assert worst == f"{100 * means['value'][0]:.1f} retrieval"
    assert (tokens, forward, step, memory) == ("50.0", "61.0", "50.0", "50.0")


def test_a_summary_averages_the_same_metrics_for_all_methods():
    # ELIP has no text where images alone are encoded: the contrast's recalls are dense's, and count for nobody.
    records = make_records((0.5,), ("elip", "tome"))
    for record in records:
        is_elip, of_pairs = record["spec"]["method"] == "elip", record["spec"]["task"] == "vqa"
        record["diagnostics"]["fallback"] = "all tokens" if is_elip else None
        record["cost"]["encodings"] = {"images": 0 if of_pairs else 5, "pairs": 9}
    frame = to_frame(records)
    (_, board), *_ = boards(frame)
    unguided = [metric for metric in board.headline() if board.column(metric)["unguided"].any()]
    assert unguided == ["t2i_r1", "i2t_r1"]
    table = render_summary(frame, "md")
    for record in records:
        for name in unguided:
            record["quality"].get("retrieval", {}).pop(name, None)
    alone = render_summary(to_frame(records), "md")
    assert table.partition("\n\n- ")[0] == alone.partition("\n\n- ")[0]
    line = "quality leaves out, for all methods, metrics for which elip saw no text and kept all tokens: "
    assert f"{line}t2i R@1 (retrieval), i2t R@1 (retrieval)" in table
    assert line not in alone


def test_a_method_that_kept_everything_everywhere_has_no_quality_and_costs_others_nothing():
    records = [one for one in make_records((0.5,), ("elip", "tome")) if one["spec"]["task"] == "vqa"]
    before = cells(render_summary(to_frame(records), "md"), "tome", "0.5")
    for record in records:
        record["cost"]["encodings"] = {"images": 5, "pairs": 0}
        record["diagnostics"]["fallback"] = "all tokens" if record["spec"]["method"] == "elip" else None
        record["spec"]["task"] = "captioning"
        record["quality"] = {"captioning": {"cider": record["quality"]["vqa"]["vqa_accuracy"]}}
    table = render_summary(to_frame(records), "md")
    assert cells(table, "elip", "0.5")[0] == "-"
    assert cells(table, "tome", "0.5")[0] == before[0]
    assert "quality of elip: none, as all images were seen without a text, and with all tokens" in table


def test_nothing_is_kept_to_less_than_none():
    records = [one for one in make_records((0.5,), ("elip",)) if one["spec"]["task"] == "vqa"]
    for record in records:
        if record["spec"]["method"] == "elip":
            entry = record["quality"]["vqa"]["vqa_accuracy"]
            entry |= {"value": 0.02, "delta_to_dense": -0.962, "delta_ci95": [-0.99, -0.93]}
    assert cells(render_summary(to_frame(records), "md"), "elip", "0.5")[0] == "2.0 [0, 5.3]"


def test_a_summary_fits_a_screen():
    records = make_records((0.5, 0.7), ("elip", "tome"))
    for record in records:
        record["cost"]["latency"] = timed(1.324, [1.296, 1.499])
    table = render_summary(to_frame(records))
    assert max(map(len, table.splitlines())) <= WIDTH
    assert table.count("method") == 1


def test_an_adaptive_method_has_the_spread_of_its_images():
    records = make_records((0.5,), ("elip",))
    for record in records[2:]:
        record["cost"]["spread"] = {"tokens_p5": 20.0, "ratio_p5": 0.31, "ratio_p95": 0.66, "images": 9}
    table = render_summary(to_frame(records), "md")
    assert cells(table, "elip", "0.5")[2] == "50.0 [31, 66]"
    assert "5 and 95 % of images" in table


def test_a_quick_measurement_is_called_one_and_stands_on_a_board_of_its_own():
    quick = [make_record("elip", 0.5, "vqa", quick=True), make_record("dense", 1.0, "vqa", quick=True)]
    tables = render_table(to_frame([*make_records((0.5,), ("elip",)), *quick]))
    titles = [line for line in tables.splitlines() if line.startswith("Quality")]
    assert ["quick, 2000 samples" in title for title in titles] == [False, True]
