"""Tables whose records hold hostile names: no format follows them, and LaTeX stands on its own where asked."""

from __future__ import annotations

import csv
import io

import pytest

from harness.cli.main import main
from harness.report.frame import to_frame
from harness.report.layout import Column, Part, latex, latex_note, markdown, standalone, text
from harness.report.tables import render_table

from .conftest import make_records

NAME = "=cmd|' /C'!A0 <b>\x1b[2J 50% & $x_1$ #{~^\\}\nnext"


@pytest.fixture
def hostile():
    records = make_records()
    for record in records:
        record["spec"]["data"] = NAME
    return to_frame(records)


@pytest.mark.parametrize("format", ["text", "md", "latex", "csv"])
def test_no_format_sends_an_escape_or_breaks_a_line(hostile, format):
    assert "\x1b" not in render_table(hostile, format)
    assert "\nnext" not in render_table(hostile, format)


def test_a_cell_of_csv_is_never_a_formula(hostile):
    rows = list(csv.DictReader(io.StringIO(render_table(hostile, "csv"))))
    assert all(row["data"].startswith("'=cmd") for row in rows)
    assert any(float(row["value"]) < 0 or row["value"] for row in rows)


def test_latex_escapes_and_prints_its_notes(hostile):
    table = render_table(hostile, "latex")
    assert "50\\% \\& \\$x\\_1\\$ \\#\\{\\textasciitilde{}\\textasciicircum{}\\textbackslash{}\\}" in table
    assert "\n% " not in table
    note = "a\\_\\allowbreak{}b/\\allowbreak{}c.\\allowbreak{}py $\\pm$ 0.05 \\%. No"
    assert latex_note("a_b/c.py ± 0.05 %. No") == f"\\par\\noindent{{\\footnotesize\\sloppy {note}\\par}}"


def test_every_writer_takes_a_title_and_cells_as_text():
    column = Column("head", "", ["plain"], [False])
    for write in (text, markdown, latex):
        assert "\x1b" not in write(Part(NAME, [column], []))
    assert "&lt;b&gt;" in markdown(Part(NAME, [column], []))


def test_standalone_is_a_whole_document(capsys):
    body = latex(Part("t", [Column("h", "", ["x"], [False])], []))
    whole = standalone(body)
    assert whole.startswith("\\documentclass{article}\n")
    assert all(f"{{{name}}}" in whole.partition("\\begin{document}")[0] for name in ("booktabs", "graphicx"))
    assert whole.endswith(f"\\begin{{document}}\n{body}\n\\end{{document}}")
    with pytest.raises(SystemExit) as ended:
        main(["table", "--standalone", "--format", "md"])
    assert ended.value.code == 2
    assert "--standalone: is for --format latex, not md" in capsys.readouterr().err
