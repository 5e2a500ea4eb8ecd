"""A contact sheet: samples of the data's sources, and of the world's benchmarks, as a model sees them."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mm1_lab.config import EvaluationSettings
from mm1_lab.data.types import BrokenPicture, Document, Picture, Tokens
from mm1_lab.data.world import World
from mm1_lab.evaluate.questions import Question
from mm1_lab.evaluate.world import world_benchmarks

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from mm1_lab.data.shards import Shards

COLUMNS = 5
PIXELS = 36
"""Side of an image, as models at `mini` see it."""
MARGIN, COLUMN, SIDE, TITLE, LINE, GAP = 0.1, 2.4, 1.2, 0.3, 0.165, 0.2
"""In inches: the left and top margin, the width of a column, the side of an image, the height of a title and of a line
of text, and the gap below a section."""
LETTERS = 29
"""Characters per line of text that fit a column."""
_STANDS_FOR = {
    "captions": "captions: noisy alt-text, some of it about another picture",
    "synthetic": "synthetic: dense captions (VeCap's part)",
    "interleaved": "interleaved: one page about a theme, in reading order",
    "text": "text: no pictures; the only place where questions have answers",
}


@dataclass(frozen=True)
class Cell:
    """A text, below an image if there is one."""

    picture: Picture | None
    text: str


Section = tuple[str, list[Cell]]
"""A title and the cells below it."""


def draw_contact_sheet(path: Path, sections: Sequence[Section]) -> None:
    """Writes the sheet as PNG to `path`, creating its folder. Each section is as high as its tallest cell."""
    from matplotlib.figure import Figure

    loaded = [(title, [_load(cell) for cell in cells[:COLUMNS]]) for title, cells in sections]
    heights = [TITLE + max((_height(*cell) for cell in cells), default=0.0) + GAP for _, cells in loaded]
    width, height = MARGIN + COLUMNS * COLUMN, MARGIN + sum(heights)
    figure, top = Figure(figsize=(width, height)), height - MARGIN
    style: dict[str, Any] = {"va": "top", "parse_math": False}  # texts may hold dollar signs
    for (title, cells), own in zip(loaded, heights, strict=True):
        figure.text(MARGIN / width, top / height, title, **style, fontsize=11, fontweight="bold")
        for number, (pixels, text) in enumerate(cells):
            left, upper = MARGIN + number * COLUMN, top - TITLE
            if pixels is not None:
                upper -= SIDE
                axes = figure.add_axes((left / width, upper / height, SIDE / width, SIDE / height))
                axes.imshow(pixels, interpolation="nearest")
                axes.axis("off")
                upper -= GAP / 3
            figure.text(left / width, upper / height, text, **style, fontsize=9)
        top -= own
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=84, metadata={"Software": None})


def _load(cell: Cell) -> tuple[np.ndarray | None, str]:
    """The pixels, if any, and the wrapped text."""
    try:
        pixels = cell.picture.pixels(PIXELS) if cell.picture else None
    except BrokenPicture as error:
        return None, textwrap.fill(f"broken: {error}", LETTERS)
    return pixels, textwrap.fill(cell.text, LETTERS)


def _height(pixels: np.ndarray | None, text: str) -> float:
    return (SIDE + GAP / 3) * (pixels is not None) + LINE * (text.count("\n") + 1)


def world_sections() -> list[Section]:
    """The world's sources and benchmarks."""
    return [*_sources(), *_benchmarks()]


def data_sections(data: Shards) -> list[Section]:
    """The first training documents of each source; of a document with several images, the first three."""
    sections = []
    for name in data.identity.sources:
        source, documents, row = data.source(name, seed=0), dict[str, Document](), 0
        while len(documents) < COLUMNS and not (documents and source.epochs(row) >= 1):
            documents |= {document.key: document for document in source.documents(row)}
            row += 1
        cells = [cell for document in documents.values() for cell in _in_order(document)[:3]]
        sections.append((name, [Cell(cell.picture, textwrap.shorten(cell.text, 300)) for cell in cells[:COLUMNS]]))
    return sections


def _sources() -> list[Section]:
    sections = []
    for name, title in _STANDS_FOR.items():
        source = World().source(name, seed=0)
        documents = [source.document(index) for index in range(COLUMNS)]
        if name == "interleaved":
            page = next(document for document in documents if len(document.parts) >= 8)
            sections.append((title, _in_order(page)[:COLUMNS]))
        else:
            sections.append((title, [_whole(document) for document in documents]))
    return sections


def _whole(document: Document) -> Cell:
    """The cell of a document with at most one image."""
    words = (str(part) for part in document.parts if isinstance(part, str | Tokens))
    return Cell(next(iter(document.pictures), None), " ".join(words))


def _in_order(document: Document) -> list[Cell]:
    """The cells of a page: each image with the text that follows it."""
    cells: list[Cell] = []
    for part in document.parts:
        if not isinstance(part, str | Tokens):
            cells.append(Cell(part, ""))
        elif cells:
            cells[-1] = Cell(cells[-1].picture, f"{cells[-1].text} {part}".strip())
        else:
            cells.append(Cell(None, str(part)))
    return cells


def _benchmarks() -> list[Section]:
    settings = EvaluationSettings(questions=8 * COLUMNS, batch_size=1)
    return [
        (
            f"{benchmark.name} ({benchmark.mirrors}'s part, {benchmark.metric})",
            [_asked(question) for question in benchmark.blocks[0][:COLUMNS]],
        )
        for benchmark in world_benchmarks(settings)
    ]


def _asked(question: Question) -> Cell:
    """A question with its accepted answers, or for captions two references."""
    different = list(dict.fromkeys(question.references))
    answers = " / ".join(different[::3] if question.kind == "caption" else different)
    return Cell(next(iter(question.pictures), None), f"{question.prompt} [{answers}]".strip())
