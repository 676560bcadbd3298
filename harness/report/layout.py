"""A table's parts laid out as aligned text, Markdown or LaTeX."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from textwrap import wrap
from typing import Any

from harness.kit.shown import markdown_text, on_one_line

WIDTH = 110
# A table of LaTeX is shrunk to the line, and a page of Markdown scrolls: both may be wider than a screen.
LATEX_WIDTH = 140
# Rows beside a title on a page of an article.
LATEX_ROWS = 42
MARKDOWN_WIDTH = 170
BETWEEN = "  "


@dataclass(frozen=True)
class Column:
    """A heading, a unit line, the cells, and which cells are the best of their ratio. `left` aligns names."""

    heading: str
    unit: str
    cells: list[str]
    best: list[bool]
    left: bool = False

    @cached_property
    def width(self) -> int:
        return max(len(text) for text in (self.heading, self.unit, *self.cells))


def plain(heading: str, unit: str, cells: Iterable[Any], left: bool = False) -> Column:
    """A column of anything, nothing in it marked as best."""
    texts = [on_one_line(str(cell)) for cell in cells]
    return Column(heading, unit, texts, [False] * len(texts), left)


def shortest(value: float) -> str:
    """A bound of an interval, to one decimal: '94.8', and '100' for 100."""
    return f"{round(value, 1) + 0.0:.1f}".removesuffix(".0")


@dataclass(frozen=True)
class Part:
    """One table: its title, the columns that name a row, and those that say something of it."""

    title: str
    names: list[Column]
    values: list[Column]

    def __post_init__(self) -> None:
        object.__setattr__(self, "title", on_one_line(self.title))


def text(part: Part) -> str:
    """Aligned columns; as many values as fit beside the names, the others below."""
    title = wrap(part.title, WIDTH, break_long_words=False, break_on_hyphens=False)
    return "\n".join([*title, *(_text_block(columns) for columns in _pages(part, WIDTH))])


def _pages(part: Part, width: int) -> list[list[Column]]:
    """The columns of a part, in as many tables as they need at `width` characters, each with the names."""
    names_width = sum(column.width + len(BETWEEN) for column in part.names)
    pages: list[list[Column]] = [[]]
    for column in part.values:
        used = names_width + sum(other.width + len(BETWEEN) for other in pages[-1])
        if pages[-1] and used + column.width > width:
            pages.append([])
        pages[-1].append(column)
    return [[*part.names, *values] for values in pages]


def _text_block(columns: Sequence[Column]) -> str:
    lines = [
        [column.heading for column in columns],
        [column.unit for column in columns],
        ["-" * column.width for column in columns],
    ]
    lines += [list(cells) for cells in zip(*(column.cells for column in columns), strict=True)]
    aligned = [
        BETWEEN.join(
            f"{cell:{'<' if column.left else '>'}{column.width}}" for cell, column in zip(line, columns, strict=True)
        )
        for line in lines
    ]
    return "\n".join(line.rstrip() for line in aligned) + "\n"


def markdown(part: Part) -> str:
    """A pipe table under its title in bold, or several where the columns would be too many."""
    return f"**{markdown_text(part.title)}**\n\n" + "\n".join(
        _markdown_table(columns) for columns in _pages(part, MARKDOWN_WIDTH)
    )


def _markdown_table(columns: Sequence[Column]) -> str:
    heads = [f"{column.heading}, {column.unit}" if column.unit else column.heading for column in columns]
    escaped = [replace(column, cells=[markdown_text(cell) for cell in column.cells]) for column in columns]
    lines = [[markdown_text(head) for head in heads], [":--" if column.left else "--:" for column in columns]]
    return "\n".join("| " + " | ".join(line) + " |" for line in [*lines, *_marked(escaped, "**{}**")]) + "\n"


def _marked(columns: Sequence[Column], mark: str) -> list[list[str]]:
    """The rows, best cells within `mark`, runs of spaces made single."""
    cells = [
        [
            mark.format(" ".join(cell.split())) if best else " ".join(cell.split())
            for cell, best in zip(column.cells, column.best, strict=True)
        ]
        for column in columns
    ]
    return [list(row) for row in zip(*cells, strict=True)]


def latex(part: Part) -> str:
    """A table environment with a booktabs tabular, or several; needs the packages booktabs and graphicx."""
    pages = [rows for columns in _pages(part, LATEX_WIDTH) for rows in _row_pages(columns, part.names[-1].cells)]
    return "\n".join(_latex_table(part.title + ", continued" * (number > 0), page) for number, page in enumerate(pages))


def _row_pages(columns: list[Column], groups: Sequence[str]) -> Iterable[list[Column]]:
    """The columns in tables that a page holds, cut where a group of rows ends, or within one that no page holds."""
    ends = [row for row in range(1, len(groups)) if groups[row] != groups[row - 1]] + [len(groups)]
    start = 0
    while start < len(groups):
        most = start + LATEX_ROWS
        end = max((row for row in ends if start < row <= most), default=most)
        yield [replace(one, cells=one.cells[start:end], best=one.best[start:end]) for one in columns]
        start = end


def _latex_table(title: str, columns: Sequence[Column]) -> str:
    escaped = [
        replace(c, heading=_tex(c.heading), unit=_tex(c.unit), cells=[_tex(cell) for cell in c.cells]) for c in columns
    ]
    end = " \\\\\n"
    head = end.join(" & ".join(line) for line in ([c.heading for c in escaped], [c.unit for c in escaped]))
    body = end.join(" & ".join(row) for row in _marked(escaped, "\\textbf{{{}}}"))
    lines = [
        "\\begin{table}\n\\centering",
        f"\\caption{{{_tex(title)}}}",
        "\\resizebox{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}{!}{%",
        f"\\begin{{tabular}}{{{''.join('l' if column.left else 'r' for column in columns)}}}",
        f"\\toprule\n{head} \\\\\n\\midrule\n{body} \\\\\n\\bottomrule",
        "\\end{tabular}}\n\\end{table}\n",
    ]
    return "\n".join(lines)


TEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "Δ": r"$\Delta$",
    "×": r"$\times$",
    "·": r"$\cdot$",
    "…": r"\dots{}",
    "†": r"$\dagger$",
    "−": r"$-$",
    "→": r"$\to$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "²": r"$^2$",
    '"': r"\textquotedbl{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    **{letter: f"\\{letter}" for letter in "%_&#${}"},
}


# Behind what joins the words of a name or command, but not within a number.
JOINTS = re.compile(r"(?<=[/_=])|(?<=\.)(?=[^\W\d])")


def standalone(body: str) -> str:
    """LaTeX with the preamble that it needs: a document that compiles as it is, with any of the TeX engines."""
    packages = ["[T1]{fontenc}", "{textcomp}", "{booktabs}", "{graphicx}"]
    preamble = ["\\documentclass{article}", *(f"\\usepackage{one}" for one in packages)]
    return "\n".join([*preamble, "\\begin{document}", body, "\\end{document}"])


def latex_note(line: str) -> str:
    """A line under a table, in print; the names and commands in it may be broken behind what joins their words."""
    text = "\\allowbreak{}".join(_tex(part) for part in JOINTS.split(line))
    return f"\\par\\noindent{{\\footnotesize\\sloppy {text}\\par}}"


def _tex(text: str) -> str:
    return "".join(TEX.get(letter, letter) for letter in text)
