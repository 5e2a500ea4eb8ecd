"""Sheets of samples: cards with a picture and the text that belongs to it, two in a row."""

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from analysis.style import BASE, DARK, WIDTH, styled

CARD, PICTURE, TITLE = 1.02, 0.9, 0.35
"""Inches: the height of a card, the side of its picture, the height of the sheet's title."""
LETTERS, LINES = 50, 7
"""Characters on a line beside a picture, and lines below a card's heading."""


@dataclass(frozen=True)
class Card:
    """A picture, if there is one, with a heading and texts in their colours."""

    pixels: NDArray[np.generic] | None
    """(height, width, 3): bytes, or floats from 0 to 1."""
    heading: str
    texts: Sequence[tuple[str, str]]
    """Each text with its colour."""


def draw_cards(title: str, cards: Sequence[Card]) -> Figure:
    """Draws all cards; long texts end in an ellipsis."""
    rows = (len(cards) + 1) // 2
    height = 0.5 + CARD * rows
    figure = Figure(figsize=(WIDTH, height))
    figure.text(0.01, 1 - 0.2 / height, title, fontsize=9, parse_math=False)
    for number, card in enumerate(cards):
        row, column = divmod(number, 2)
        left = column / 2 + 0.01
        bottom = 1 - (TITLE + CARD * (row + 1) - 0.06) / height
        axis = figure.add_axes((left, bottom, PICTURE / WIDTH, PICTURE / height))
        axis.set_axis_off()
        if card.pixels is not None:
            axis.imshow(card.pixels, interpolation="nearest")
        _write(axis, card)
    return figure


def _write(axis: Axes, card: Card) -> None:
    """Writes a card's text beside its picture."""
    lines = [(card.heading, BASE)]
    for text, colour in card.texts:
        wrapped = textwrap.wrap(text, LETTERS, max_lines=max(2, LINES // len(card.texts)), placeholder=" …")
        lines += [(line, colour) for line in wrapped]
    for number, (line, colour) in enumerate(lines):
        axis.annotate(
            line,
            (1.07, 0.98 - 0.122 * number),
            xycoords="axes fraction",
            va="top",
            fontsize=6.3,
            color=colour,
            fontweight="normal" if number else "bold",
            annotation_clip=False,
            parse_math=False,  # texts may hold dollar signs
        )


def write_data_sheet(path: Path, title: str, samples: Iterable[tuple[str, NDArray[np.generic] | None, str]]) -> None:
    """Writes a sheet of samples of data, each with its source, picture and text, as PNG; creates its folder."""
    cards = [Card(pixels, source, [(text, DARK)]) for source, pixels, text in samples]
    path.parent.mkdir(parents=True, exist_ok=True)
    with styled():
        draw_cards(title, cards).savefig(path, dpi=150, metadata={"Software": None})
