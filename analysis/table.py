"""The type of all tables: a pandas frame with a title and notes, as Markdown, LaTeX (booktabs), HTML or plain text."""

import re
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
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

LATEX = str.maketrans({
    "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "±": r"$\pm$", "−": "$-$", "×": r"$\times$", "·": r"$\cdot$", "≤": r"$\leq$", "≥": r"$\geq$", "η": r"$\eta$",
    "–": "--", "<": "$<$", ">": "$>$", "|": r"\textbar{}", "†": r"\dag{}", "‡": r"\ddag{}", "…": r"\dots{}",
})  # fmt: skip

BREAKS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
"""Line breaks and other control characters, which would end a caption, a heading or a row."""
WRAP = 24
"""Longest cell in characters that LaTeX keeps on one line; longer text wraps at 12 em or less, 4 characters per em."""
WIDE = 6
"""Most columns of a table that fits one column of a two-column paper; wider tables span both."""


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
    r"""A table environment per table; the preamble needs \usepackage{array,booktabs}."""
    return "\n".join(_latex_table(table, table.title or tables[0].title) for table in tables)


def _latex_table(table: Table, title: str) -> str:
    lines = table.lines(lambda name: rf"\rlap{{\textbf{{{_latex(name)}}}}}", _latex)
    for line in lines:  # after the end of a line LaTeX would take [ or * for an option of it
        line[0] = "{}" * line[0].startswith(("[", "*")) + line[0]
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
    """The heading of a column; for numbers with a line per word, so that it is no wider than the numbers."""
    words = [_latex(word) for word in name.split(" ")]
    return " ".join(words) if text or len(words) == 1 else r"\shortstack[r]{" + r"\\".join(words) + "}"


def _latex(text: str) -> str:
    forms = {"**": r"\textbf{%s}", "*": r"\emph{%s}"}
    pieces = [(piece.translate(LATEX), forms.get(mark, "%s")) for piece, mark in _marked(BREAKS.sub(" ", text))]
    return "".join(form % piece for piece, form in pieces)


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


def write_tables(path: Path, *tables: Table) -> list[Path]:
    """Writes `path` with the suffixes .tex and .md."""
    files = [path.with_name(f"{path.name}.tex"), path.with_name(f"{path.name}.md")]
    for file, text in zip(files, (to_latex(*tables), to_markdown(*tables)), strict=True):
        write_text(file, text)
    return files


def write_csv(frame: pd.DataFrame, path: Path) -> Path:
    """Writes a frame with six significant digits, first rounded to twelve decimals: sums that differ in their last bit
    between processors are written alike, and 0 as 0."""
    frame = frame.copy()
    floats = frame.select_dtypes("float").columns
    frame[floats] = frame[floats].round(12) + 0.0  # + 0.0: no "-0"
    write_text(path, frame.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
    return path
