"""A document of tables, written as Markdown, as LaTeX (booktabs) or as HTML from the same cells.

Cells are text in which `**bold**` and `*emphasis*` mean that; everything else is literal.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass

HOLE = "–"

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
    r"""A table environment a section; the preamble needs \usepackage{booktabs,graphicx}."""
    parts = [f"% {document.title}"]
    below = [*document.notes]
    below += [f"[{number}] {source}." for number, source in enumerate(document.sources, 1)]
    for place, section in enumerate(document.sections):
        last = place == len(document.sections) - 1
        caption = " ".join([f"{document.title}.", *([f"{section.title}."] if section.title else []), *document.remarks])
        columns = "".join("l" if text else "r" for text in section.is_text)
        lines = [
            r"\begin{table}",
            r"\centering\small",
            rf"\caption{{{_latex(caption)}}}",
            r"\resizebox{\linewidth}{!}{%",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            *_latex_rows([section.head]),
            r"\midrule",
            *_latex_rows(section.rows),
            r"\bottomrule",
            r"\end{tabular}}",
            *([rf"\par\smallskip\footnotesize\raggedright {_latex(' '.join(below))}"] if last and below else []),
            r"\end{table}",
        ]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _latex_rows(rows: Sequence[Sequence[str]]) -> list[str]:
    return [" & ".join(_latex(cell) for cell in row) + r" \\" for row in rows]


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
