"""The type of all tables: a pandas frame with a title and notes, as Markdown, HTML, LaTeX or plain text."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup, escape

from mm1_lab.files import write_text
from mm1_lab.formatting import on_one_line, text_table

MISSING = "–"
ALIKE = "[all alike]"
"""Stands for an interval among numbers."""
Row = Mapping[Any, Any]
"""A row of a frame, by column."""

MARKS = {
    r"(?<![\w*])\*\*(?=\S)(.+?)(?<=\S)\*\*(?!\w)": "strong",
    r"(?<![\w*])\*(?=\S)(.+?)(?<=\S)\*(?!\w)": "em",
    r"`(.+?)`": "code",
}
"""Tags by the marks that they stand for; the stars of `rate*4 − rate*2` are none."""
STARS = re.compile(r"(?<=\w)\*+(?=\w)")
"""Stars inside of a word, which Markdown takes for marks."""

LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "[": "{[}",  # after the end of a line, [ would begin an option of it
        **{mark: f"\\{mark}" for mark in "&%$#_{}"},
        # pdfLaTeX shows < > | as other characters, and stops at − ≤ ≥ η
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "−": "$-$",
        "≤": r"$\leq$",
        "≥": r"$\geq$",
        "η": r"$\eta$",
    }
)
FITTING = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"
"""Begins what is made as narrow as a line if it is wider."""


@dataclass(frozen=True)
class Table:
    """A table for people to read; `write_csv` writes data for programs.

    The first column names the row. A cell is text, which may contain `**bold**` and `*emphasis*`, or a number, shown
    with one decimal unless `formats` has another format for its column; None and NaN are shown as a dash. A column
    without any letters is right-aligned. The values of the column `group` become headings above their rows. Notes that
    are empty are left out.
    """

    title: str
    frame: pd.DataFrame
    notes: Sequence[str] = ()
    group: str = ""
    formats: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "notes", [note for note in self.notes if note])

    @property
    def head(self) -> list[str]:
        return [str(name) for name in self.frame.columns if name != self.group]

    @cached_property
    def columns(self) -> list[list[str]]:
        """The cells of each column of `head`, as text."""
        columns = []
        for name, cells in self.frame.items():  # two may have one name, as an arm can be called `difference`
            if name != self.group:
                form = self.formats.get(str(name), ".1f")
                columns.append([as_text(cell, form) for cell in cells])
        return columns

    @cached_property
    def is_text(self) -> list[bool]:
        """Whether each column is left-aligned."""
        found = []
        for place, cells in enumerate(self.columns):
            has_letters = re.search(r"[^\W\d_]", "".join(cells).replace(ALIKE, ""))
            found.append(place == 0 or not cells or bool(has_letters))
        return found

    def grouped(self) -> Iterator[tuple[str, list[list[str]]]]:
        """The heading (empty without groups) and rows of every group, as text."""
        headings = self.frame[self.group] if self.group else [""] * len(self.frame)
        for heading, members in groupby(zip(headings, *self.columns, strict=True), key=lambda row: row[0]):
            yield str(heading), [list(row[1:]) for row in members]

    def lines(self, heading: str = "%s") -> list[list[str]]:
        """All rows as text, with a line above each group that has its heading in the form `heading`."""
        lines = []
        for name, rows in self.grouped():
            if name:
                lines.append([heading % name] + [""] * (len(self.head) - 1))
            lines += rows
        return lines


def as_text(cell: object, form: str = ".1f") -> str:
    """A cell as text, with a true minus sign, and a dash for a missing value."""
    if pd.isna(cell):  # type: ignore[call-overload]
        return MISSING
    if isinstance(cell, Integral):
        return str(cell).replace("-", "−")
    if isinstance(cell, Real):
        # the last bits of a mean such as 46.95 differ between processors: one would round it up, another down
        return format(round(float(cell), 9) + 0.0, form).replace("-", "−")  # no −0.0
    return str(cell)


def to_markdown(*tables: Table) -> str:
    """A document with all tables under the first one's title."""
    parts = []
    for place, table in enumerate(tables):
        if table.title:
            parts.append(f"{'##' if place else '#'} {plain_markdown(table.title)}")
        ruler = ["---" if text else "---:" for text in table.is_text]
        lines = []
        for line in [table.head, ruler, *table.lines("**%s**")]:
            cells = [plain_markdown(cell).replace("|", "\\|") for cell in line]
            lines.append(STARS.sub(lambda stars: r"\*" * len(stars[0]), f"| {' | '.join(cells)} |"))
        parts.append("\n".join(lines))
        parts += [plain_markdown(note) for note in table.notes]
    return "\n\n".join(parts) + "\n"


def to_latex(*tables: Table) -> str:
    r"""A table environment per table, for pdfLaTeX, too.

    It needs \usepackage{booktabs,graphicx}; what is wider than a line is scaled to it.
    """
    parts = []
    for table in tables:
        rows = pd.DataFrame(table.lines(), columns=pd.Index(table.head))
        escaped = rows.map(_latex).rename(columns=_latex)
        text = escaped.style.hide(axis="index").to_latex(
            hrules=True,
            column_format="".join("l" if left else "r" for left in table.is_text),
            position_float="centering",
            caption=_latex(table.title or tables[0].title),
        )
        notes = rf"\par\smallskip\raggedright\footnotesize {_latex(' '.join(table.notes))}"
        text = text.replace("\\begin{tabular}", f"{FITTING}\n\\begin{{tabular}}")
        parts.append(text.replace("\\end{tabular}\n", f"\\end{{tabular}}}}\n{notes}\n"))
    return "\n".join(parts)


def _latex(text: str) -> str:
    return without_marks(on_one_line(text)).translate(LATEX)


def plain_markdown(text: str) -> str:
    """Text on one line, in which `<b>` is no tag of HTML and `![b](http://…)` no picture, which would be fetched."""
    text = re.sub(r"(?<=!)\[|\\*\](?=[(\[])", lambda found: f"\\{found[0][-1]}", text)
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", on_one_line(text))


def without_marks(text: str) -> str:
    """Text without the marks that stand in pairs; the stars of arms named `rate*2` and `rate*4` stay."""
    for pattern in MARKS:
        text = re.sub(pattern, r"\1", text)
    return text


def environment() -> jinja2.Environment:
    """The analysis' Jinja environment; the filter `marked` turns `**bold**`, `*emphasis*` and backticks into tags."""
    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=jinja2.select_autoescape(["html.jinja"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    found.filters["marked"] = _html
    return found


def _html(text: str) -> Markup:
    html = str(escape(text))
    for pattern, tag in MARKS.items():
        html = re.sub(pattern, rf"<{tag}>\1</{tag}>", html)
    return Markup(html)


def to_plain(table: Table) -> str:
    """Aligned columns for a terminal, without markup."""
    rows = [[without_marks(cell) for cell in line] for line in table.lines()]
    right = [place for place, text in enumerate(table.is_text) if not text]
    notes = map(on_one_line, table.notes)
    return "\n".join([on_one_line(table.title), "", *text_table(table.head, rows, right), "", *notes])


def write_csv(frame: pd.DataFrame, path: Path) -> None:
    """Writes a frame with six significant digits, first rounded to twelve decimals: sums that differ in their last bit
    between processors are written alike, and 0 as 0."""
    frame = frame.copy()
    floats = frame.select_dtypes("float").columns
    frame[floats] = frame[floats].round(12) + 0.0  # + 0.0: no "-0"
    write_text(path, frame.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
