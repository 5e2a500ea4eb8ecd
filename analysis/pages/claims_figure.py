"""The figure of claims or lessons: a row each, with the difference, its interval, what is claimed, and the verdict."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.markers import CARETLEFT, CARETRIGHT

from analysis.judging.claims import LAW
from analysis.judging.p_values import claimed
from analysis.pages.cells import are_losses, in_short
from analysis.pages.verdicts import ONE_SIDED, claim_text
from analysis.style import BASE, BLUE, DARK, GREY, RED, WIDTH, annotate, annotate_head, label_rows, row_name
from analysis.table import Row
from mm1_lab.config import UNPARSED

COLOURS = {"supported": BLUE, "contradicted": RED}
"""Colours by verdict; grey for all others."""
ROW = 0.21
"""Inches of a row: the 25 lessons take a page of 1,400 pixels."""
LETTERS = 62
"""Characters on a line of a claim: most of the lessons take one."""
LESSON = 24
"""Characters on a line of a lesson's name beside the axis."""
NOTE = "Dots: the difference with its 95 % interval. Grey bands: what is claimed."


def is_drawn(claims: pd.DataFrame, scale: str) -> bool:
    """Whether a figure has something to show: not at smoke, where models learn nothing."""
    return scale != "smoke" and len(_shown(claims)) > 0


def _shown(claims: pd.DataFrame) -> pd.DataFrame:
    """The claims with an estimate in points, so none about losses and the learning-rate law's slope."""
    return claims[claims["estimate"].notna() & (claims["sweep"] != LAW) & ~are_losses(claims)]


def draw_claims(claims: pd.DataFrame, head: str, caution: str = "", unit: str = "difference in points") -> Figure:
    """Draws what has an estimate."""
    shown = _shown(claims)
    rows = shown.to_dict("records")
    height = 1.0 + ROW * len(rows)
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axis = figure.subplots()
    axis.axvline(0, color=DARK, linewidth=0.6)
    axis.set_xlim(*_range(shown))
    labels = []
    for place, row in enumerate(rows):
        _draw(axis, place, row)
        labels.append(row_name(claim_text(row), LETTERS))
    axis.set_yticks(range(len(rows)), labels, linespacing=0.9)
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.set_xlabel(unit)
    label_rows(axis)
    notes = _notes(claims, shown, axis.get_xlim())
    annotate_head(figure, head, *notes, caution)
    return figure


def _notes(claims: pd.DataFrame, shown: pd.DataFrame, ends: tuple[float, float]) -> list[str]:
    """What the marks of a figure mean; `ends` are those of its axis."""
    notes = [NOTE]
    left, right = ends
    goes_on = (shown["low"] < left) | (shown["high"] > right)
    if goes_on.any():
        notes.append("Arrows: the interval goes on.")
    if shown["expect"].isin(["equivalent", "keeps"]).any():
        notes.append(ONE_SIDED)
    if any(_verdict(row)[1] == BASE for row in shown.to_dict("records")):
        notes.append("Black: part of the lesson that is named beside it, whose verdict counts (`lessons.md`).")
    if "p_holm" in shown:
        notes.append("Verdicts are corrected for the number of lessons (Holm), intervals are not.")
    if shown["paper"].notna().any():
        notes.append("Diamonds: MM1's own difference, on its benchmarks; triangles: MM1's is more.")
    left_out = int(claims["estimate"].notna().sum()) - len(shown)
    if left_out:
        notes.append(f"Not drawn, as slopes and losses are no points: {left_out}.")
    if (shown["interval"] == "questions").any():
        notes.append("Open: one seed, interval over questions, no verdict.")
    return notes


def _range(shown: pd.DataFrame) -> tuple[float, float]:
    """The ends of the axis: all that is drawn, but of intervals at most twice the largest difference, ours or MM1's,
    or half of their ends, so that a few wide ones do not squeeze all others."""
    points = shown[["estimate", "paper"]]
    margin = shown["margin"].max()
    ends = shown[["low", "high"]].astype(float)
    reach = np.nanmax([margin, 2 * points.abs().max().max(), ends.abs().stack().median()])
    drawn = [0.0, -margin, margin]
    drawn += points.to_numpy(float).flat
    drawn += ends.clip(-reach, reach).to_numpy().flat
    low = 1.08 * np.nanmin(drawn)
    high = 1.08 * np.nanmax(drawn)
    room = min(0.5, 0.05 * (high - low)) or 0.5  # scores of others may differ in the third decimal
    return low - room, high + room


def _draw(axis: Axes, place: int, row: Row) -> None:
    """Draws one row: the claimed range, the difference, the paper's number, and the verdict."""
    left, right = axis.get_xlim()
    ends = claimed(row["expect"], row["margin"], row["measure"] == str(UNPARSED))
    low, high = np.clip(ends, left, right)
    axis.barh(place, high - low, height=0.72, left=low, color="#EFEFEF", linewidth=0, zorder=0)
    word, colour = _verdict(row)
    weight = "normal" if colour == BASE else "bold"
    fill = "white" if row["interval"] == "questions" else colour
    mark: dict[str, Any] = {"markersize": 4, "linestyle": "none", "color": colour, "mfc": fill}
    axis.plot([row["low"], row["high"]], [place, place], color=colour, linewidth=1.4)
    if row["low"] < left:
        axis.plot(left, place, marker=CARETLEFT, clip_on=False, **mark)
    if row["high"] > right:
        axis.plot(right, place, marker=CARETRIGHT, clip_on=False, **mark)
    axis.plot(row["estimate"], place, marker="o", **mark)
    if np.isfinite(row["paper"]):
        shape = ">" if row["paper_bound"] == "above" else "D"
        axis.plot(row["paper"], place, marker=shape, **mark | {"color": DARK, "mfc": "white"})
    annotate(axis, word, (1.01, place), va="center", color=colour, fontweight=weight, fontsize=6.5)


def _verdict(row: Row) -> tuple[str, str]:
    """The verdict, the lesson that has it, or in short why there is none, with its colour."""
    verdict = row["verdict"]
    if verdict == "not judged":
        reason = in_short(row["reason"])
        if 0 < len(reason) <= len("contradicted"):
            verdict = reason
    if row.get("aside"):
        verdict = "not judged"
    elif row.get("of_lesson") and row["verdict"] != "not judged":
        return row_name(row["of_lesson"], LESSON), BASE
    return verdict, COLOURS.get(verdict, GREY)
