"""The figure of claims or lessons: differences with intervals, beside what is claimed."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from analysis.pages.cells import in_short
from analysis.statistics import LEVEL, quantile
from analysis.style import BASE, BLUE, DARK, GREY, NARROW, RED, annotate_head, save, styled
from analysis.table import Row

VERDICT_COLOURS = {"supported": BLUE, "supported, smaller": BLUE, "refuted in size": RED, "contradicted": RED}
"""Colours by verdict; grey for all others."""


def draw_claims(claims: pd.DataFrame, path: Path, head: str, note: str) -> list[Path]:
    """Draws a row per claim or lesson: difference with interval, claimed range (shaded), verdict, the paper's number.

    A contrast with a content score has its difference by content below, lighter; one that a lesson judges has no
    verdict. If verdicts are corrected for multiple testing, thin lines are the corrected intervals.
    """
    contrasts = ["content", "content_low", "content_high"] if "content" in claims else []
    known = claims[["low", "high", "estimate", "paper", *contrasts]].to_numpy(float)
    ends = [0.0, *known[np.isfinite(known)], *claims["margin"], *-claims["margin"]]
    for row in claims.to_dict("records"):
        wide = corrected(row)
        ends += [row["estimate"] - wide, row["estimate"] + wide] if np.isfinite(row["estimate"]) else []
    reach = 0.08 * (max(ends) - min(ends) or 1.0)
    with styled():
        figure = Figure(figsize=(NARROW, 0.9 + 0.44 * len(claims)), layout="constrained")
        axis = figure.subplots()
        axis.axvline(0, color=DARK, linewidth=0.6)
        axis.set_xlim(min(ends) - reach, max(ends) + reach)
        for place, row in enumerate(claims.to_dict("records")):
            _claim(axis, place, row)
        axis.set_yticks([])
        axis.set_ylim(len(claims) - 0.55, -0.75)
        axis.set_xlabel("difference in points; shaded: what is claimed")
        axis.grid(axis="x")
        axis.spines["left"].set_visible(False)
        annotate_head(figure, head, note + _explained(claims))
        lines = figure.get_suptitle().count("\n") + figure.get_supxlabel().count("\n")
        figure.set_figheight(figure.get_figheight() + 0.12 * max(0, lines - 1))  # inches per line beyond one
        return save(figure, path)


def _explained(claims: pd.DataFrame) -> str:
    """What the marks and colours of these claims mean."""
    note, records = "", claims.to_dict("records")
    if "p_holm" in claims and claims["p_holm"].notna().any():
        note += " Thin: the same, widened by Holm's correction"
        note += ", which verdicts go by." if "looks" not in claims else "; a look's level is stricter still."
    if any(row["expect"] in ("keeps", "equivalent") and _judged(row) for row in records):
        note += " Alike and not worse are tested one-sided: by 90 % intervals."
    if "content" in claims and claims["content"].notna().any():
        note += " Squares: by the content of captions instead of CIDEr."
    if any(map(_lesson, records)):
        note += " Black: judged as a part of a lesson, corrected for multiple testing, in lessons.md."
    if (claims["interval"] == "questions").any():
        note += " Open circles: one seed, intervals over questions, no verdict."
    if claims["paper"].notna().any():
        note += " Diamonds: MM1's own difference, on its benchmarks; triangles: MM1's is more."
    return note


def _judged(row: Row) -> bool:
    """Whether the figure gives a verdict on a row."""
    return row["verdict"] != "not judged" and not row.get("aside") and not _lesson(row)


def _claim(axis: Axes, place: int, row: Row) -> None:
    """Draws one row: the claimed range, the difference by each score, the paper's number, and the words."""
    margin, (left, right) = row["margin"], axis.get_xlim()
    regions = {"greater": (margin, right), "less": (left, -margin), "keeps": (-margin, right)}
    low, high = regions.get(row["expect"], (-margin, margin))
    axis.add_patch(Rectangle((low, place - 0.05), high - low, 0.4, color="#EDEDED", linewidth=0, zorder=0))
    colour = BASE if _lesson(row) else GREY if row.get("aside") else VERDICT_COLOURS.get(row["verdict"], GREY)
    content, estimate = row.get("content", np.nan), row["estimate"]
    middle = place + (0.15 if np.isnan(content) else 0.08)  # of the shading, or with room for a second mark
    look: dict[str, Any] = {"color": colour, "mfc": "white" if row["interval"] == "questions" else colour}
    if np.isfinite(estimate):
        wide = corrected(row)
        axis.plot([estimate - wide, estimate + wide], [middle, middle], color=colour, linewidth=0.6)
        errors = np.nan_to_num([[estimate - row["low"]], [row["high"] - estimate]])
        axis.errorbar(estimate, middle, xerr=errors, marker="o", linewidth=1.6, **look)
    if np.isfinite(content):
        errors = np.nan_to_num([[content - row["content_low"]], [row["content_high"] - content]])
        axis.errorbar(content, place + 0.24, xerr=errors, marker="s", ms=3, alpha=0.5, linewidth=1.2, **look)
    if np.isfinite(row["paper"]):
        marker = "^" if row["paper_bound"] == "above" else "D"
        axis.plot(row["paper"], middle, marker=marker, color=DARK, mfc="white", ms=4, linestyle="none")
    _words(axis, place, middle, row, colour)


def _words(axis: Axes, place: int, middle: float, row: Row, colour: str) -> None:
    """Writes the claim and its detail above the row, and the verdict, or why there is none, beside it."""
    aside, lesson = row.get("aside") or "", _lesson(row)
    paper = {"facecolor": "white", "edgecolor": "none", "pad": 0.4}
    beside: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
    beside["annotation_clip"] = False
    detail = row["detail"] + f"; lesson: {lesson}" * bool(lesson)
    for text, height, largest, shade in ((row["claim"], 9, 7.5, "black"), (detail, 2, 5.5, GREY)):
        size = min(largest, 480 / len(text))  # fits the width
        words = axis.annotate(text, (0, place - 0.05), (0, height), color=shade, fontsize=size, bbox=paper, **beside)
        words.set_in_layout(False)
    verdict = "not judged" if aside else row["verdict"]
    reason = in_short(aside or row["reason"])
    word = reason if 0 < len(reason) <= len("contradicted") and verdict == "not judged" else verdict
    word = "see lessons" if lesson else word
    axis.annotate(word, (1.01, middle), (0, 0), va="center", color=colour, fontweight="bold", fontsize=6.5, **beside)


def _lesson(row: Row) -> str:
    """The lesson that judges a contrast; empty if none does, or if the results allow no verdict."""
    return "" if row.get("aside") or row["verdict"] == "not judged" else row.get("of_lesson") or ""


def corrected(row: Row) -> float:
    """Half the width of the interval at this row's level after Holm's correction, on which the verdict is based."""
    if np.isnan(row.get("p_holm", np.nan)) or np.isnan(row["error"]):
        return 0.0
    return float(row["error"] * quantile(1 - LEVEL / 2 / row["tests"], row["df"]))
