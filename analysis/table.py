"""The type of all tables: a pandas frame with a title and notes, as Markdown, HTML, plain text or LaTeX (booktabs)."""

import re
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup

from mm1_lab.files import write_text
from mm1_lab.formatting import text_table
from mm1_lab.results.samples import TEMPLATES, templates

MISSING = "–"
Row = Mapping[Hashable, Any]
"""A row of a frame, by column."""

LATEX = {letter: f"\\{letter}" for letter in "&%$#_{}"}
LATEX |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "|": r"\textbar{}"}
LATEX |= {"±": r"$\pm$", "−": "$-$", "×": r"$\times$", "≤": r"$\leq$", "≥": r"$\geq$", "η": r"$\eta$"}
LATEX |= {"<": "$<$", ">": "$>$", "‡": r"\ddag{}", "·": r"$\cdot$", "–": "--", "…": r"\dots{}"}

BREAKS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
"""Line breaks and other control characters, which would end a caption, a heading or a row."""


@dataclass(frozen=True)
class Table:
    """A table for people to read; `write_csv` writes data for programs.

    The first column names the row. A cell is text, which may contain `**bold**` and `*emphasis*`, or a number, shown
    with one decimal unless `formats` has another format for its column; None and NaN are shown as a dash. A column
    without any letters is right-aligned. The values of the column `group` become headings above their rows.
    """

    title: str
    frame: pd.DataFrame
    notes: Sequence[str] = ()
    group: str = ""
    formats: Mapping[str, str] = field(default_factory=dict)

    def only(self, *columns: str) -> "Table":
        """The table with these of its columns."""
        return replace(self, frame=self.frame[[name for name in columns if name in self.frame]])

    @property
    def head(self) -> list[str]:
        return [str(name) for name in self.frame.columns if name != self.group]

    @property
    def is_text(self) -> list[bool]:
        """Whether each column is left-aligned."""
        columns = zip(*(row for _, rows in self.grouped() for row in rows), strict=True)
        letters = [any(re.search(r"[^\W\d_]", cell) for cell in column) for column in columns]
        return [place == 0 or text for place, text in enumerate(letters or [True] * len(self.head))]

    def lines(self, head: Callable[[str], str], cell: Callable[[str], str] = str) -> list[list[str]]:
        """All rows as text, with a heading line above each group."""
        lines = []
        for name, rows in self.grouped():
            lines += [[head(name), *[""] * (len(self.head) - 1)]] if name else []
            lines += [[cell(text) for text in row] for row in rows]
        return lines

    def grouped(self) -> Iterator[tuple[str, list[list[str]]]]:
        """The heading (empty without groups) and rows of every group, as text."""
        columns = [[as_text(cell, self.formats.get(name, ".1f")) for cell in self.frame[name]] for name in self.head]
        rows = [list(row) for row in zip(*columns, strict=True)]
        heads = self.frame[self.group] if self.group else [""] * len(rows)
        for name, members in groupby(zip(heads, rows, strict=True), key=lambda pair: pair[0]):
            yield str(name), [row for _, row in members]


def as_text(cell: object, form: str = ".1f") -> str:
    """A cell as text, with a true minus sign, and a dash for a missing value."""
    if pd.isna(cell):  # type: ignore[call-overload]
        return MISSING
    if isinstance(cell, Real):
        # the last bits of a mean such as 46.95 differ between processors: one would round it up, another down
        return (format(cell, "d") if isinstance(cell, Integral) else format(round(cell, 9), form)).replace("-", "−")
    return str(cell)


def to_markdown(*tables: Table) -> str:
    """A document with all tables under the first one's title."""
    parts = []
    for place, table in enumerate(tables):
        parts += [f"{'##' if place else '#'} {plain_markdown(table.title)}"] if table.title else []
        lines = [table.head, ["---" if text else "---:" for text in table.is_text]]
        lines += table.lines(lambda name: f"**{name}**")
        cells = [[plain_markdown(cell).replace("|", "\\|") for cell in line] for line in lines]
        parts.append("\n".join(f"| {' | '.join(line)} |" for line in cells))
        parts += map(plain_markdown, table.notes)
    return "\n\n".join(parts) + "\n"


def plain_markdown(text: str) -> str:
    """Text on one line, in which `<b>` is no tag of HTML."""
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", BREAKS.sub(" ", text))


def to_latex(*tables: Table) -> str:
    r"""A table environment per table; the preamble needs \usepackage{booktabs}."""
    parts = []
    for table in tables:
        lines = table.lines(lambda name: rf"\textbf{{{_latex(name)}}}", _latex)
        columns = ["l" if text else "r" for text in table.is_text]
        heads = pd.Index([_latex(name) for name in table.head])
        styler = pd.DataFrame(lines, columns=heads).style.hide(axis="index")
        latex = styler.to_latex(
            hrules=True,
            column_format="".join(columns),
            position_float="centering",
            caption=_latex(table.title or tables[0].title),
        )
        notes = _latex(" ".join(table.notes))
        parts.append(latex.replace("\\end{tabular}\n", f"\\end{{tabular}}\n\\par\\raggedright {notes}\n"))
    return "\n".join(parts)


def _latex(text: str) -> str:
    text = BREAKS.sub(" ", re.sub(r"[*`]", "", text))
    escaped = "".join(LATEX.get(letter, letter) for letter in text)
    # after the end of a line LaTeX would take [ for an option of it
    return f"{{}}{escaped}" if escaped.startswith("[") else escaped


def environment() -> jinja2.Environment:
    """The analysis' Jinja environment; the filter `marked` turns `**bold**`, `*emphasis*` and backticks into tags."""
    found = templates(Path(__file__).parent, TEMPLATES)
    found.filters["marked"] = _html
    return found


def _html(text: str) -> Any:
    forms = {"**": "<strong>%s</strong>", "*": "<em>%s</em>", "`": "<code>%s</code>", "": "%s"}
    return Markup("").join(Markup(forms[mark]) % piece for piece, mark in _marked(text))


def _marked(text: str) -> list[tuple[str, str]]:
    """Pieces of text with the mark around each: `**`, `*`, a backtick or none."""
    found = re.findall(r"\*\*(.+?)\*\*|\*(.+?)\*|`(.+?)`|([^*`]+|[*`])", text)
    return [(b or e or c or plain, "**" if b else "*" if e else "`" if c else "") for b, e, c, plain in found]


def to_plain(table: Table) -> str:
    """Aligned columns for a terminal, without markup."""
    rows = table.lines(str, lambda cell: re.sub(r"[*`]", "", cell))
    right = [place for place, text in enumerate(table.is_text) if not text]
    return "\n".join([table.title, "", *text_table(table.head, rows, right), "", *table.notes])


def write_csv(frame: pd.DataFrame, path: Path) -> Path:
    """Writes a frame with six significant digits, first rounded to twelve decimals: sums that differ in their last bit
    between processors are written alike, and 0 as 0."""
    frame = frame.copy()
    floats = frame.select_dtypes("float").columns
    frame[floats] = frame[floats].round(12) + 0.0  # + 0.0: no "-0"
    write_text(path, frame.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
    return path
