"""Summarises how much each design choice (axis) changes the scores, over all sweeps of a scale."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.effects import Effect, axis_effect, compared, forest_importances, grid_effects, groups, varying
from analysis.seeds import seed_columns, worlds_in
from analysis.study import Study
from analysis.style import BLUE, DARK, GREY, NARROW, annotate_head, save, styled
from analysis.table import MISSING, Row, Table, as_text
from mm1_lab.results.summary import AVERAGE, CHAT

LEADING = (AVERAGE, CHAT)
"""The measures that axes are ranked by: of pre-trained and of tuned models."""

BESIDE: dict[str, Any] = {"xycoords": ("axes fraction", "data")}
"""Coordinates of words beside the rows of the figure."""

METHODS = {
    "one factor": "arms that differ in this axis alone",
    "full grid": "exact analysis of variance of a full grid",
    "forest": "Optuna's fANOVA, because no two arms differ in this axis alone; how it divides a share among axes that "
    "only change together means nothing",
    "incomplete": "no two arms that differ in this axis alone share a seed, so there is no spread",
}


def axis_rows(study: Study) -> pd.DataFrame:
    """The effect of every axis that varies in the sweep and of every interaction in a full grid, by measure; of tuned
    models on conversations only, as the benchmarks of pre-trained models are not what they were tuned for.

    Columns: sweep, axis (interactions with ×), axes (their number), levels, measure, method, arms, spread, low, high,
    p, share (of the variance between arms: exact on a full grid, otherwise a random forest's estimate), and the seeds.
    """
    levels = varying(study.sweep)
    axes = list(next(iter(levels.values()), {}))
    rows = []
    measures = (AVERAGE, *(f"{shots}-shot" for shots in study.shots))
    for measure in (CHAT,) if study.trial_values(CHAT) else measures:
        trials = study.trial_values(measure)
        effects = [("full grid", effect) for effect in grid_effects(trials, levels)]
        if trials and not effects:
            known = {axis: axis_effect(trials, levels, axis) for axis in axes}
            guess = measure in LEADING and not all(known.values())
            shares = forest_importances(trials, levels) if guess else {}
            scored = {arm: own for arm, own in levels.items() if any(arm == other for other, _ in trials)}
            for axis, found in known.items():
                effect = replace(found or Effect((axis,)), share=shares.get(axis, np.nan))
                method = "one factor" if found else "incomplete" if groups(scored, axis) else "forest"
                effects.append((method, effect))
        for method, effect in effects:
            together, _ = compared(trials, levels, effect.axes[0])
            used = {arm for group in together for arm in group} or {arm for arm, _ in trials}
            own = dict.fromkeys(levels[arm][effect.axes[0]] for arm in levels if arm in used)
            if len(own) < 2:  # the arms with scores do not differ in it
                continue
            own = own if len(effect.axes) == 1 else {}
            row = {"sweep": study.sweep.name, "axis": " × ".join(effect.axes), "axes": len(effect.axes)}
            row |= {"levels": " / ".join(own), "measure": measure, "method": method, "arms": effect.arms}
            row |= {"spread": effect.spread, "low": effect.low, "high": effect.high, "p": effect.p_value}
            row |= {"share": effect.share}
            rows.append(row | seed_columns(effect.seeds or study.seeds, study.manifest.in_world))
    return pd.DataFrame(rows)


def ranked(rows: pd.DataFrame) -> pd.DataFrame:
    """Single axes by their effect on the average, or on conversations for tuned models, largest first; then those with
    one seed, those of an earlier world (column `world`), and those without a spread."""
    single = rows[(rows["axes"] == 1) & rows["measure"].isin(LEADING)]
    single = single.sort_values("spread", ascending=False, na_position="last", kind="stable")
    single = single.assign(rank=[_rank(row) for row in single.to_dict("records")])
    return single.sort_values("rank", kind="stable").drop(columns="rank")


def _rank(row: Row) -> int:
    """0 for an effect with an interval, 1 with one seed, 2 in an earlier world, 3 without a spread."""
    return 3 if np.isnan(row["spread"]) else 2 if row.get("world") else int(np.isnan(row["low"]))


def axes_tables(rows: pd.DataFrame, title: str, caution: str) -> list[Table]:
    """The ranking of axes, then the full variance decomposition of each grid; `caution` is a note on seeds."""
    measures = list(dict.fromkeys(rows["measure"]))
    cells = {(row["sweep"], row["axis"], row["measure"]): _spread(row) for row in rows.to_dict("records")}
    ranking = [
        {"axis": row["axis"], "sweep": _sweep(row), "levels": row["levels"]}
        | {measure: cells.get((row["sweep"], row["axis"], measure), MISSING) for measure in measures}
        | {"p": _p(row), "share": _share(row, 0), "seeds": row["seeds"], "method": row["method"]}
        for row in ranked(rows).to_dict("records")
    ]
    notes = [
        "Spread in points: twice the root mean square distance of an axis' levels from the mean of arms that differ "
        "in this axis alone; between two levels, their difference. 95 % intervals compare each effect with its own "
        "variation over the seeds that all of these arms have. A spread of three or more levels is above 0 by chance "
        "alone; p, of the average or of chat, says whether it is more. Share: of the variance between arms, exact on a "
        "full grid, otherwise a forest's.",
        *(f"*{method}*: {text}." for method, text in METHODS.items() if (rows["method"] == method).any()),
    ]
    if (rows["seeds"] == 1).any():
        notes.append("With one seed there are numbers without an interval.")
    notes += [note for note in (worlds_in(rows), caution) if note]
    tables = [Table(title, pd.DataFrame(ranking), notes)]
    grids = rows[(rows["method"] == "full grid") & rows["measure"].isin(LEADING)]
    for sweep, split in grids.groupby("sweep", sort=False):
        lines = [(row["axis"], _share(row, 1), _spread(row), _p(row)) for row in split.to_dict("records")]
        measure = split["measure"].iloc[0]
        heading = f"{sweep}: what explains the differences between the cells of the grid ({measure})"
        names = ["axis or interaction", "share of the variance", "spread", "p"]
        tables.append(Table(heading, pd.DataFrame(lines, columns=names)))
    return tables


def _sweep(row: Row) -> str:
    return row["sweep"] + (f" ({row['world']})" if row.get("world") else "")


def _share(row: Row, digits: int) -> str:
    return MISSING if np.isnan(row["share"]) else f"{100 * row['share']:.{digits}f} %"


def _spread(row: Row) -> str:
    return as_text(row["spread"]) + ("" if np.isnan(row["low"]) else f" [{row['low']:.1f}, {row['high']:.1f}]")


def _p(row: Row) -> str:
    return "< 0.001" if row["p"] < 0.001 else as_text(row["p"], ".3f")


def levels_in_short(row: Row) -> str:
    """`contrastive, none`; the number of levels if the list is long."""
    levels = row["levels"].split(" / ")
    return ", ".join(levels) if len(row["levels"]) <= 24 else f"{len(levels)} levels"


def draw_axes(rows: pd.DataFrame, path: Path, title: str, caution: str) -> list[Path]:
    """Draws the ranking as dots with intervals, and a rule above each kind without a rank; `caution` as above."""
    shown = ranked(rows).dropna(subset="spread").to_dict("records")
    with styled():
        figure = Figure(figsize=(NARROW, 0.9 + 0.3 * len(shown)), layout="constrained")
        axis = figure.subplots()
        for place, row in enumerate(shown):
            _draw_axis(axis, place, row)
        for place, (above, below) in enumerate(pairwise(shown)):
            if _rank(above) != _rank(below):
                axis.axhline(place + 0.5, color=DARK, linewidth=0.6)
                words = "one seed, no interval" if _rank(below) == 1 else "earlier world"
                axis.annotate(words, (0.99, place + 0.53), ha="right", va="top", fontsize=6, color=DARK, **BESIDE)
        axis.set_yticks([])
        axis.set_ylim(len(shown) - 0.4, -0.6)
        longest = max(row["spread"] for row in shown) or 1
        furthest = max(np.nanmax([row["spread"], row["high"]]) for row in shown)
        end = 1.05 * min(furthest or longest, 1.4 * longest)  # one wide interval must not squeeze all others
        axis.set_xlim(0, end)
        axis.grid(axis="x")
        axis.spines["left"].set_visible(False)
        tuned = ", or of chat" * any(row["measure"] == CHAT for row in shown)
        axis.set_xlabel(f"spread of the average{tuned}, in points")
        notes = ["95 % intervals; between two levels the spread is their difference."]
        notes += [f"Lines that reach the right edge go on, up to {furthest:.0f}."] * bool(furthest > end)
        notes += ["Open circles: one seed, no interval."] * any(row["seeds"] == 1 for row in shown)
        notes += ["Chat: conversations with tuned models."] * bool(tuned)
        annotate_head(figure, title, *notes, worlds_in(pd.DataFrame(shown)), caution)
        return save(figure, path)


def _draw_axis(axis: Axes, place: int, row: Row) -> None:
    """Draws the spread of an axis of the recipe with its interval; names it on the left."""
    errors = np.array([[row["spread"] - row["low"]], [row["high"] - row["spread"]]])
    face = "white" if row["seeds"] == 1 else BLUE
    bar = axis.errorbar(row["spread"], place, xerr=np.maximum(errors, 0), marker="o", color=BLUE, mfc=face, zorder=3)
    bar[0].set_clip_on(False)
    left: dict[str, Any] = {"ha": "right", "annotation_clip": False, **BESIDE}
    axis.annotate(row["axis"], (-0.02, place), va="bottom", **left)
    small = f"{_sweep(row)}{', chat' * (row['measure'] == CHAT)}: {levels_in_short(row)}"
    axis.annotate(small, (-0.02, place), va="top", color=GREY, fontsize=6, **left)
    axis.annotate(f"{row['spread']:.1f}", (1.01, place), va="center", **BESIDE)
