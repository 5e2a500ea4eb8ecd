"""One type of table: a pandas frame with a title and notes, as Markdown, LaTeX (booktabs), HTML or plain text."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup, escape

from mm1_lab.files import write_text
from mm1_lab.results.samples import TEMPLATES, templates

MISSING = "–"
Row = Mapping[Hashable, Any]
"""Of a frame, by column."""

LATEX = {
    "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "±": r"$\pm$", "−": "$-$", "×": r"$\times$", "·": r"$\cdot$", "≤": r"$\leq$", "≥": r"$\geq$", "η": r"$\eta$",
    "–": "--", "<": "$<$", ">": "$>$", "†": r"\dag{}", "‡": r"\ddag{}", "…": r"\dots{}",
}  # fmt: skip

WRAP = 24
"""Characters of a cell that LaTeX keeps on one line; at some 4 characters per em, longer text fills 12 em or less."""
WIDE = 6
"""Columns that fit one column of a two-column paper; a table of more runs over both."""


@dataclass(frozen=True)
class Table:
    """Rows for people to read; `write_csv` writes data for programs.

    The first column names the row. A cell is text, in which `**bold**` and `*emphasis*` mean that, or a number, shown
    with one digit unless `formats` has another format for its column; None and NaN are shown as a dash. A column in
    which no cell has a letter is aligned to the right. The values of the column `group` head the rows that have them.
    """

    title: str
    frame: pd.DataFrame
    notes: Sequence[str] = ()
    group: str = ""
    formats: Mapping[str, str] = field(default_factory=dict)

    @property
    def head(self) -> list[str]:
        return [str(name) for name in self.frame.columns if name != self.group]

    @property
    def is_text(self) -> list[bool]:
        """By column, whether it is aligned to the left."""
        columns = zip(*(row for _, rows in self.grouped() for row in rows), strict=True)
        letters = [any(re.search(r"[^\W\d_]", cell) for cell in column) for column in columns]
        return [place == 0 or text for place, text in enumerate(letters or [True] * len(self.head))]

    def grouped(self) -> Iterator[tuple[str, list[list[str]]]]:
        """Every group's heading (empty without groups) with its rows, as text."""
        columns = [[as_text(cell, self.formats.get(name, ".1f")) for cell in self.frame[name]] for name in self.head]
        rows = [list(row) for row in zip(*columns, strict=True)]
        heads = self.frame[self.group] if self.group else [""] * len(rows)
        for name, members in groupby(zip(heads, rows, strict=True), key=lambda pair: pair[0]):
            yield str(name), [row for _, row in members]


def as_text(cell: object, form: str = ".1f") -> str:
    """A cell as people read it: a true minus, a dash for what is not there."""
    if pd.isna(cell):  # type: ignore[call-overload]
        return MISSING
    if isinstance(cell, Real):
        return format(cell, "d" if isinstance(cell, Integral) else form).replace("-", "−")
    return str(cell)


def to_markdown(*tables: Table) -> str:
    """A document of the tables; the first one's title heads it."""
    parts = []
    for place, table in enumerate(tables):
        parts += [f"{'##' if place else '#'} {table.title}"] if table.title else []
        lines = [table.head, ["---" if text else "---:" for text in table.is_text]]
        for name, rows in table.grouped():
            lines += [[f"**{name}**", *[""] * (len(table.head) - 1)]] if name else []
            lines += rows
        parts.append("\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines))
        parts += table.notes
    return "\n\n".join(parts) + "\n"


def to_latex(*tables: Table) -> str:
    r"""A table environment each; the preamble needs \usepackage{array,booktabs}."""
    return "\n".join(_latex_table(table, f"{table.title or tables[0].title}") for table in tables)


def _latex_table(table: Table, title: str) -> str:
    lines = []
    for name, rows in table.grouped():
        lines += [[rf"\rlap{{\textbf{{{_latex(name)}}}}}", *[""] * (len(table.head) - 1)]] if name else []
        lines += [[_latex(cell) for cell in row] for row in rows]
    columns = []
    for place, text in enumerate(table.is_text):
        longest = max((len(row[place]) for _, rows in table.grouped() for row in rows), default=0)
        wrapped = rf">{{\raggedright\arraybackslash}}p{{{min(longest / 4, 12):.1f}em}}"
        columns.append(wrapped if text and longest > WRAP else "l" if text else "r")
    heads = [_stacked(name, text) for name, text in zip(table.head, table.is_text, strict=True)]
    styler = pd.DataFrame(lines, columns=pd.Index(heads)).style.hide(axis="index")
    latex: str = styler.to_latex(
        hrules=True, column_format="".join(columns), position_float="centering", caption=_latex(title),
        environment="table" if len(columns) <= WIDE else "table*",
    )  # fmt: skip
    latex = latex.replace("\\centering\n", "\\centering\\footnotesize\\setlength{\\tabcolsep}{3pt}\n")
    notes = rf"\par\smallskip\raggedright {_latex(' '.join(table.notes))}" + "\n" if table.notes else ""
    return latex.replace("\\end{tabular}\n", "\\end{tabular}\n" + notes)


def _stacked(name: str, text: bool) -> str:
    """The head of a column of numbers has a line per word, so that it is no wider than the numbers."""
    words = [_latex(word) for word in name.split(" ")]
    return " ".join(words) if text or len(words) == 1 else r"\shortstack[r]{" + r"\\".join(words) + "}"


def _latex(text: str) -> str:
    pieces = []
    for piece, mark in _marked(text):
        escaped = "".join(LATEX.get(character, character) for character in piece)
        pieces.append({"**": rf"\textbf{{{escaped}}}", "*": rf"\emph{{{escaped}}}"}.get(mark, escaped))
    return "".join(pieces)


def to_html(table: Table) -> Any:
    """The table in a box that scrolls by itself and can be reached by keyboard, with its notes, as `Markup`."""
    return environment().get_template("table.html.jinja").module.table(table)  # type: ignore[attr-defined]


def environment() -> jinja2.Environment:
    """The templates of the analysis; `| marked` turns `**bold**`, `*emphasis*` and backticks into tags."""
    found = templates(Path(__file__).parent, TEMPLATES)
    found.filters["marked"] = _html
    return found


def _html(text: str) -> Any:
    tags = {"**": "strong", "*": "em", "`": "code"}
    pieces = [
        Markup("<{0}>{1}</{0}>").format(Markup(tags[mark]), piece) if mark else escape(piece)
        for piece, mark in _marked(text)
    ]
    return Markup("").join(pieces)


def _marked(text: str) -> list[tuple[str, str]]:
    """Pieces of text with the mark around each: `**`, `*`, a backtick or none."""
    found = re.findall(r"\*\*(.+?)\*\*|\*(.+?)\*|`(.+?)`|([^*`]+|[*`])", text)
    return [(b or e or c or plain, "**" if b else "*" if e else "`" if c else "") for b, e, c, plain in found]


def to_plain(table: Table) -> str:
    """Aligned columns for a terminal, without marks."""
    rows = [table.head]
    for name, members in table.grouped():
        rows += [[name, *[""] * (len(table.head) - 1)]] if name else []
        rows += [[re.sub(r"[*`]", "", cell) for cell in row] for row in members]
    widths = [max(len(row[column]) for row in rows) for column in range(len(table.head))]
    aligned = [
        "  ".join(
            cell.ljust(w) if text else cell.rjust(w) for cell, w, text in zip(row, widths, table.is_text, strict=True)
        )
        for row in rows
    ]
    return "\n".join([table.title, "", *(line.rstrip() for line in aligned), "", *table.notes])


def write_tables(path: Path, *tables: Table) -> list[Path]:
    """Writes `path` with the endings .tex and .md."""
    texts = {".tex": to_latex(*tables), ".md": to_markdown(*tables)}
    for ending, text in texts.items():
        write_text(path.with_name(path.name + ending), text)
    return [path.with_name(path.name + ending) for ending in texts]


def write_csv(frame: pd.DataFrame, path: Path) -> Path:
    """Numbers have six digits."""
    write_text(path, frame.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
    return path
