"""A sheet of samples of data: cards with a picture and the text that belongs to it, two in a row."""

import textwrap
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from analysis.style import BASE, DARK, WIDTH, styled
from mm1_lab.files import write_bytes
from mm1_lab.fonts import letters_of

CARD, PICTURE, TITLE = 1.02, 0.9, 0.35
"""Inches: the height of a card, the side of its picture, the height of the sheet's title."""
LETTERS, LINES = 50, 7
"""Characters on a line beside a picture, and lines below a card's heading; longer texts end in an ellipsis."""

Sample = tuple[str, NDArray[np.generic] | None, str]
"""A source, its picture (height, width, 3) if it has one, and its text."""


def write_data_sheet(path: Path, title: str, samples: Iterable[Sample]) -> None:
    """Writes samples as PNG; creates the folder."""
    cards = list(samples)
    height = 0.5 + CARD * ((len(cards) + 1) // 2)
    with styled():
        figure = Figure(figsize=(WIDTH, height))
        figure.text(0.01, 1 - 0.2 / height, title, fontsize=9, parse_math=False)
        for number, (source, pixels, text) in enumerate(cards):
            row, column = divmod(number, 2)
            left = column / 2 + 0.01
            below = TITLE + CARD * (row + 1) - 0.06
            place = (left, 1 - below / height, PICTURE / WIDTH, PICTURE / height)
            axis = figure.add_axes(place)
            axis.set_axis_off()
            if pixels is not None:
                axis.imshow(pixels, interpolation="nearest")
            lines = textwrap.wrap(text, LETTERS, max_lines=LINES, placeholder=" …")
            # texts may hold dollar signs, which would begin a formula
            style = {"va": "top", "fontsize": 6.3, "parse_math": False, "transform": axis.transAxes}
            axis.text(1.07, 0.98, source, style, color=BASE, fontweight="bold")
            axis.text(1.07, 0.86, "\n".join(lines), style, color=DARK)
        file = BytesIO()
        with letters_of(figure):
            figure.savefig(file, format="png", dpi=150, metadata={"Software": None})
        write_bytes(path, file.getvalue())
