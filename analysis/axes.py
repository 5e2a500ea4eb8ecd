"""Summarises how much each design choice (axis) changes the scores, over all sweeps of a scale."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.effects import Effect, axis_effect, forest_importances, grid_effects, varying
from analysis.seeds import seed_columns
from analysis.study import Study
from analysis.style import GREY, NARROW, PALETTE, annotate_head, save, styled
from analysis.table import MISSING, Row, Table, as_text
from mm1_lab.results.summary import AVERAGE

METHODS = {
    "one factor": "arms that differ in this axis alone",
    "full grid": "exact analysis of variance of a full grid",
    "forest": "Optuna's fANOVA, because no two arms differ in this axis alone",
}


def axis_rows(study: Study) -> pd.DataFrame:
    """The effect of every axis that varies in the sweep and of every interaction in a full grid, by measure.

    Columns: sweep, axis (interactions with ×), axes (their number), levels, measure, method, arms, spread, low, high,
    p, share (of the variance between arms: exact on a full grid, otherwise a random forest's estimate), and the seeds.
    """
    levels = varying(study.sweep)
    axes = list(next(iter(levels.values()), {}))
    rows = []
    for measure in (AVERAGE, *(f"{shots}-shot" for shots in study.shots)):
        trials = study.trial_values(measure)
        effects = [("full grid", effect) for effect in grid_effects(trials, levels)]
        if trials and not effects:
            known = {axis: axis_effect(trials, levels, axis) for axis in axes}
            guess = measure == AVERAGE and not all(known.values())
            shares = forest_importances(trials, levels) if guess else {}
            for axis, found in known.items():
                effect = replace(found or Effect((axis,)), share=shares.get(axis, np.nan))
                effects.append(("one factor" if found else "forest", effect))
        for method, effect in effects:
            own = dict.fromkeys(each[effect.axes[0]] for each in levels.values()) if len(effect.axes) == 1 else ()
            row = {"sweep": study.sweep.name, "axis": " × ".join(effect.axes), "axes": len(effect.axes)}
            row |= {"levels": " / ".join(own), "measure": measure, "method": method, "arms": effect.arms}
            row |= {"spread": effect.spread, "low": effect.low, "high": effect.high, "p": effect.p_value}
            rows.append(row | {"share": effect.share} | seed_columns(study.seeds))
    return pd.DataFrame(rows)


def ranked(rows: pd.DataFrame) -> pd.DataFrame:
    """Single axes by their effect on the average, largest first; those without a spread last."""
    single = rows[(rows["axes"] == 1) & (rows["measure"] == AVERAGE)]
    return single.sort_values("spread", ascending=False, na_position="last", kind="stable")


def axes_tables(rows: pd.DataFrame, title: str) -> list[Table]:
    """The ranking of axes, then the full variance decomposition of each grid."""
    measures = list(dict.fromkeys(rows["measure"]))
    cells = {(row["sweep"], row["axis"], row["measure"]): _spread(row) for row in rows.to_dict("records")}
    ranking = [
        {"axis": row["axis"], "sweep": row["sweep"], "levels": row["levels"]}
        | {measure: cells.get((row["sweep"], row["axis"], measure), MISSING) for measure in measures}
        | {"p": _p(row), "share": _share(row, 0), "method": row["method"]}
        for row in ranked(rows).to_dict("records")
    ]
    notes = [
        "Spread in points: twice the root mean square distance of an axis' levels from the mean of arms that differ "
        "in this axis alone; between two levels, their difference. 95 % intervals compare each effect with its own "
        "variation from seed to seed.",
        *(f"*{method}*: {text}." for method, text in METHODS.items() if (rows["method"] == method).any()),
    ]
    if alone := sorted(set(rows["sweep"][rows["seeds"] == 1])):
        notes.append(f"{', '.join(alone)}: one seed, so numbers without an interval.")
    tables = [Table(title, pd.DataFrame(ranking), notes)]
    grids = rows[(rows["method"] == "full grid") & (rows["measure"] == AVERAGE)]
    for sweep, split in grids.groupby("sweep", sort=False):
        lines = [(row["axis"], _share(row, 1), _spread(row), _p(row)) for row in split.to_dict("records")]
        heading = f"{sweep}: what explains the differences between the cells of the grid ({AVERAGE})"
        names = ["axis or interaction", "share of the variance", "spread", "p"]
        tables.append(Table(heading, pd.DataFrame(lines, columns=names)))
    return tables


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


def draw_axes(rows: pd.DataFrame, path: Path, title: str) -> list[Path]:
    """Draws the ranking as dots with intervals, one colour per sweep."""
    shown = ranked(rows).dropna(subset="spread").to_dict("records")
    sweeps = list(dict.fromkeys(row["sweep"] for row in shown))
    with styled():
        figure = Figure(figsize=(NARROW, 0.9 + 0.3 * max(len(shown), 1)), layout="constrained")
        axis = figure.subplots()
        for place, row in enumerate(shown):
            colour = PALETTE[(sweeps.index(row["sweep"]) + 4) % len(PALETTE)]
            errors = np.array([[row["spread"] - row["low"]], [row["high"] - row["spread"]]])
            face = "white" if row["seeds"] == 1 else colour
            axis.errorbar(row["spread"], place, xerr=np.maximum(errors, 0), marker="o", color=colour, mfc=face)
            beside = {"xycoords": ("axes fraction", "data"), "annotation_clip": False, "ha": "right"}
            axis.annotate(row["axis"], (-0.01, place), va="bottom", **beside)  # type: ignore[arg-type]
            small = f"{row['sweep']}: {levels_in_short(row)}"
            axis.annotate(small, (-0.01, place), va="top", color=GREY, fontsize=6, **beside)  # type: ignore[arg-type]
            axis.annotate(f"{row['spread']:.1f}", (1.01, place), xycoords=("axes fraction", "data"), va="center")
        axis.set_yticks([])
        axis.set_ylim(len(shown) - 0.4, -0.6)
        axis.set_xlim(0, 1.05 * max((np.nanmax([row["spread"], row["high"]]) for row in shown), default=1) or 1)
        axis.grid(axis="x")
        axis.spines["left"].set_visible(False)
        axis.set_xlabel("spread of the average, in points")
        notes = ["95 % intervals; between two levels the spread is their difference."]
        notes += ["Open circles: one seed, no interval."] * any(row["seeds"] == 1 for row in shown)
        notes += ["All seeds are development seeds."] * all(row["seeds_are"] == "development" for row in shown)
        annotate_head(figure, title, *notes)
        return save(figure, path)
