"""The figure of axes: each level's difference from the base's, under the axes that change the scores most."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.effects import UNSET
from analysis.pages.axes import CONTROLS, drawn_levels
from analysis.style import BLUE, DARK, GREY, WIDTH, annotate, annotate_head, label_rows
from mm1_lab.config import CHAT

NAMES = {
    "data mix": "data mix, % captions : pages : text",
    "synthetic captions": "synthetic among captions",
    "encoder data": "data of the encoder's training",
    "encoder loss": "the encoder's own training",
    "image tokens": "image tokens per picture",
    "images": "pictures shown with a document",
    "sft after steps": "pre-training steps before tuning",
    "sft frozen": "frozen in tuning",
    "sft resolution": "resolution in tuning",
    "sft sharp demonstrations": "sharp pictures in demonstrations",
    "sft views": "views of a picture in tuning",
    "steps": "pre-training steps",
}
"""Plain names of axes in the figure."""
CONTROLS_NOTE = "Controls: how models are trained and tested, no design choices"
ROW = 0.19
"""Inches of a level in the figure."""
AXIS_GAP, CONTROLS_GAP = 0.4, 1.0
"""Rows that are left free above an axis, and above the first control."""


def draw_axes(levels: pd.DataFrame, title: str, caution: str) -> Figure:
    """Draws a row a level, in blocks by axis; controls stand apart, below."""
    shown = drawn_levels(levels)
    heights: list[float] = []
    free, above = 0.0, None
    for name in shown["axis"]:
        if above not in (None, name):
            free += AXIS_GAP
            if name in CONTROLS and above not in CONTROLS:
                free += CONTROLS_GAP
        heights.append(free)
        free, above = free + 1, name
    shown = shown.assign(height=heights)
    figure = Figure(figsize=(WIDTH, 1.0 + ROW * free), layout="constrained")
    axis = figure.subplots()
    axis.axvline(0, color=DARK, linewidth=0.8)
    for number, (name, rows) in enumerate(shown.groupby("axis", sort=False)):
        _draw_block(axis, str(name), rows, shaded=number % 2 == 0)
    of_controls = shown[shown["axis"].isin(CONTROLS)]
    if len(of_controls):
        above_first = of_controls["height"].iloc[0] - 0.75
        annotate(axis, CONTROLS_NOTE, (0.01, above_first), fontsize=6.5, color=DARK)
    axis.set_yticks(heights, shown["level"].replace(UNSET, "not set").tolist())
    axis.set_ylim(free - 0.3, -0.8)
    label_rows(axis)
    tuned = shown["measure"].iloc[0] == str(CHAT)
    what = "of conversations with tuned models" if tuned else "of the average of image benchmarks"
    axis.set_xlabel(f"← worse than the base      points {what}      better than the base →")
    note = "Each level against the base's, over arms that differ in it alone; lines: 95 % intervals over seeds."
    annotate_head(figure, title, note, caution)
    return figure


def _draw_block(axis: Axes, name: str, rows: pd.DataFrame, shaded: bool) -> None:
    """Draws an axis' levels, and beside them at the right the axis and the base's level."""
    colour = GREY if name in CONTROLS else BLUE
    for row in rows.to_dict("records"):
        axis.plot([row["low"], row["high"]], [row["height"]] * 2, color=colour, linewidth=1.3)
        axis.plot(row["estimate"], row["height"], marker="o", color=colour)
    first, last = rows["height"].iloc[0], rows["height"].iloc[-1]
    if shaded:
        axis.axhspan(first - 0.6, last + 0.6, color="#EFEFEF", linewidth=0, zorder=0)
    base = rows["base"].iloc[0].replace(UNSET, "not set")
    text = f"{NAMES.get(name, name)}\n(base: {base})"
    annotate(axis, text, (1.02, (first + last) / 2), va="center", linespacing=1.0, fontsize=6.8)
