"""The style of all figures: colour-blind-safe colours, and files that are byte-identical for the same numbers."""

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from mm1_lab.fonts import letters_of
from mm1_lab.formatting import columns_of

WIDTH = 170 / 25.4
"""Width in inches of grids of panels: the text width of a page."""

BASE = "#000000"
BLUE, RED = "#0072B2", "#C04A00"
"""What is supported, or a measurement without an arm's colour; what is refuted."""
GREY = "#8A8A8A"
DARK = "#444444"
SERIES = ("#E69F00", "#009E73", "#0072B2", "#CC79A7", "#882255", "#332288", "#88CCEE", "#DDCC77")
"""For what stands in one row, numbers of shots: four of Okabe and Ito's colours and four of Tol's, of which any two are
at least 17 apart in CIELAB, also as the colour-blind see them."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")
DASHES = (0, (4, 2))

LEGEND_COLUMNS = 5
"""A title stands beside the legend, so more entries get further rows."""

STYLE = Path(__file__).with_name("style.mplstyle")


@contextmanager
def styled(formulas: bool = False) -> Iterator[None]:
    """Applies the style, whatever the user's own matplotlib settings. `$` is a dollar unless there are `formulas`."""
    with matplotlib.style.context([STYLE, {"text.parse_math": formulas}], after_reset=True):
        yield


def annotate_head(figure: Figure, title: str, *notes: str) -> None:
    """Adds a title above the figure, beside its legend, and notes below it (14 and 22 characters per inch)."""
    width = figure.get_figwidth()
    legend = sum(0.66 * min(len(one.get_texts()), LEGEND_COLUMNS) for one in figure.legends)
    columns = int(14 * (width - legend))  # of which a Chinese letter takes two
    head = textwrap.fill(title, columns * max(1, len(title)) // max(1, columns_of(title)))
    figure.suptitle(head, fontsize=8.5, x=0.01, ha="left", parse_math=False)
    note = textwrap.fill(" ".join(filter(None, notes)), int(22 * width))
    figure.supxlabel(note, fontsize=6, color=DARK, x=0.01, ha="left", parse_math=False)


def annotate(axis: Axes, text: str, place: tuple[float, float], **style: Any) -> None:
    """Writes text at a share of the axis' width and at a row, also beside the axis."""
    axis.annotate(text, place, xycoords=("axes fraction", "data"), annotation_clip=False, **style)


def row_name(text: str, width: int = 56) -> str:
    """A line of `width` characters at most, or two alike; a longer text is cut, and a word longer than a line where the
    line ends, as those of arms named by their settings are."""
    text = " ".join(text.splitlines())
    if len(text) <= width:
        return text
    for narrower in range(len(text) // 2, width):
        lines = textwrap.wrap(text, narrower, break_long_words=False, break_on_hyphens=False)
        if len(lines) == 2 and max(map(len, lines)) <= narrower:
            return "\n".join(lines)
    return textwrap.fill(text, width, max_lines=2, placeholder=" …", break_on_hyphens=False)


def label_rows(axis: Axes) -> None:
    """For a figure with a row per label: a grid of columns, and no line and ticks beside the labels."""
    axis.tick_params(axis="y", length=0)
    axis.grid(visible=False, axis="y")
    axis.grid(axis="x")
    axis.spines["left"].set_visible(False)


def png(figure: Figure) -> bytes:
    """The figure as PNG, without dates or program names."""
    figure.set_dpi(matplotlib.rcParams["savefig.dpi"])
    canvas = FigureCanvasAgg(figure)
    with letters_of(figure):
        canvas.draw()  # `savefig` would draw it twice, first without ink for the sake of the layout
    drawn = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    # a third of the bytes; median cut, the default, would merge the colours of small marks, and maximum coverage tints
    # greys
    small = drawn.quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    file = BytesIO()
    small.save(file, format="png", optimize=True)
    return file.getvalue()


def pdf(figure: Figure) -> bytes:
    """The figure as PDF, in the same way."""
    nothing = {"CreationDate": None, "Creator": None, "Producer": None}
    file = BytesIO()
    with letters_of(figure):
        figure.savefig(file, format="pdf", metadata=nothing)
    return file.getvalue()
