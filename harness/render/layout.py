"""A table's parts laid out as aligned text, Markdown or LaTeX."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

WIDTH = 110
BETWEEN = "  "


@dataclass(frozen=True)
class Column:
    """A heading, a unit line, the cells, and which cells are the best of their ratio. `left` aligns names."""

    heading: str
    unit: str
    cells: list[str]
    best: list[bool]
    left: bool = False

    @property
    def width(self) -> int:
        return max(len(text) for text in (self.heading, self.unit, *self.cells))


@dataclass(frozen=True)
class Part:
    """One table: its title, the columns that name a row, and those that say something of it."""

    title: str
    names: list[Column]
    values: list[Column]


def text(part: Part) -> str:
    """Aligned columns; as many values as fit beside the names, the others below."""
    names_width = sum(column.width + len(BETWEEN) for column in part.names)
    rows: list[list[Column]] = [[]]
    for column in part.values:
        used = names_width + sum(other.width + len(BETWEEN) for other in rows[-1])
        if rows[-1] and used + column.width > WIDTH:
            rows.append([])
        rows[-1].append(column)
    return part.title + "\n" + "\n".join(_text_block([*part.names, *values]) for values in rows)


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
    columns = [*part.names, *part.values]
    heads = [f"{column.heading}, {column.unit}" if column.unit else column.heading for column in columns]
    lines = [heads, [":--" if column.left else "--:" for column in columns], *_marked(columns, "**{}**")]
    body = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
    return f"**{part.title}**\n\n{body}\n"


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
    """A table environment with a booktabs tabular; needs the packages booktabs and graphicx."""
    columns = [*part.names, *part.values]
    escaped = [
        replace(c, heading=_tex(c.heading), unit=_tex(c.unit), cells=[_tex(cell) for cell in c.cells]) for c in columns
    ]
    end = " \\\\\n"
    head = end.join(" & ".join(line) for line in ([c.heading for c in escaped], [c.unit for c in escaped]))
    body = end.join(" & ".join(row) for row in _marked(escaped, "\\textbf{{{}}}"))
    lines = [
        "\\begin{table}\n\\centering",
        f"\\caption{{{_tex(part.title)}}}",
        "\\resizebox{\\linewidth}{!}{%",
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
    "·": r"$\cdot$",
    "…": r"\dots{}",
    **{letter: f"\\{letter}" for letter in "%_&#${}"},
}


def _tex(text: str) -> str:
    return "".join(TEX.get(letter, letter) for letter in text)
