"""A document of tables, written as Markdown, as LaTeX (booktabs) or as HTML from the same cells.

Cells are text in which `**bold**` and `*emphasis*` mean that; everything else is literal.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

HOLE = "–"

LINE = 24
"""Characters of a cell that LaTeX keeps on one line."""

LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "−": "$-$",
    "–": "--",
    "<": "$<$",
    ">": "$>$",
    "×": r"$\times$",
    "†": r"\dag{}",
    "‡": r"\ddag{}",
    "·": r"$\cdot$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "…": r"\dots{}",
    "η": r"$\eta$",
}


@dataclass(frozen=True)
class Section:
    """A table with a heading; the first column is text, the others are numbers unless `words` names them."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: Sequence[str] = ()

    @property
    def is_text(self) -> list[bool]:
        return [place == 0 or name in self.words for place, name in enumerate(self.head)]


@dataclass(frozen=True)
class Document:
    """A title, remarks, tables, and notes below them; `sources` are numbered and cited as [1], [2], …"""

    title: str
    remarks: Sequence[str]
    sections: Sequence[Section]
    notes: Sequence[str] = ()
    sources: Sequence[str] = ()
    sources_title: str = "MM1's numbers, where they are known:"


def to_markdown(document: Document) -> str:
    parts = [f"# {document.title}", *document.remarks]
    for section in document.sections:
        parts += [f"## {section.title}"] if section.title else []
        parts.append(markdown_table(section))
    parts += document.notes
    if document.sources:
        parts += [document.sources_title, "\n".join(f"{n}. {source}" for n, source in enumerate(document.sources, 1))]
    return "\n\n".join(parts) + "\n"


def markdown_table(section: Section) -> str:
    rule = ["---" if text else "---:" for text in section.is_text]
    lines = [list(section.head), rule, *section.rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def to_latex(document: Document) -> str:
    r"""A table environment a section; the preamble needs \usepackage{array,booktabs,graphicx}."""
    parts = [f"% {document.title}"]
    below = [*document.notes]
    below += [f"[{number}] {source}." for number, source in enumerate(document.sources, 1)]
    for place, section in enumerate(document.sections):
        last = place == len(document.sections) - 1
        caption = " ".join([f"{document.title}.", *([f"{section.title}."] if section.title else []), *document.remarks])
        lines = [
            r"\begin{table}",
            r"\centering\small",
            rf"\caption{{{_latex(caption)}}}",
            r"\resizebox{\linewidth}{!}{%",
            rf"\begin{{tabular}}{{{_latex_columns(section)}}}",
            r"\toprule",
            _latex_row(map(_stacked, section.head, section.is_text)),
            r"\midrule",
            *(_latex_row(map(_latex, row)) for row in section.rows),
            r"\bottomrule",
            r"\end{tabular}}",
            *([rf"\par\smallskip\footnotesize\raggedright {_latex(' '.join(below))}"] if last and below else []),
            r"\end{table}",
        ]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _latex_columns(section: Section) -> str:
    """Sentences are broken into lines; what is shorter is as wide as it is."""
    columns = []
    for place, text in enumerate(section.is_text):
        longest = max((len(row[place]) for row in section.rows), default=0)
        broken = rf">{{\raggedright\arraybackslash}}p{{{min(longest / 4, 12):.1f}em}}"
        columns.append(broken if text and longest > LINE else "l" if text else "r")
    return "".join(columns)


def _stacked(name: str, text: bool) -> str:
    """The head of a column of numbers has a line a word, so that it is no wider than the numbers."""
    words = [_latex(word) for word in name.split(" ")]
    if text or len(words) == 1:
        return " ".join(words)
    return r"\shortstack[r]{" + r"\\".join(words) + "}"


def _latex_row(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def _latex(text: str) -> str:
    pieces = []
    for piece, mark in _marked(text):
        escaped = "".join(LATEX.get(character, character) for character in piece)
        pieces.append({"**": rf"\textbf{{{escaped}}}", "*": rf"\emph{{{escaped}}}"}.get(mark, escaped))
    return "".join(pieces)


def to_html(section: Section) -> str:
    """The table alone, in a box that scrolls by itself and can be reached by keyboard."""
    kinds = ["" if text else ' class="number"' for text in section.is_text]
    heads = zip(section.head, kinds, strict=True)
    head = "".join(f'<th scope="col"{kind}>{_html(name)}</th>' for name, kind in heads)
    rows = []
    for row in section.rows:
        cells = [f'<th scope="row">{_html(row[0])}</th>']
        cells += [f"<td{kind}>{_html(cell)}</td>" for cell, kind in zip(row[1:], kinds[1:], strict=True)]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    label = html.escape(section.title or str(section.head[0]), quote=True)
    body = "\n".join(rows)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="table: {label}">\n<table>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>\n</div>"
    )


def _html(text: str) -> str:
    tags = {"**": "strong", "*": "em"}
    pieces = [
        f"<{tags[mark]}>{html.escape(piece)}</{tags[mark]}>" if mark else html.escape(piece)
        for piece, mark in _marked(text)
    ]
    return "".join(pieces)


def _marked(text: str) -> list[tuple[str, str]]:
    """Pieces of text with the mark around each: `**`, `*` or none."""
    found = re.findall(r"\*\*(.+?)\*\*|\*(.+?)\*|([^*]+|\*)", text)
    return [(bold or slanted or plain, "**" if bold else "*" if slanted else "") for bold, slanted, plain in found]
