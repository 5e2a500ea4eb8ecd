"""A summary of axes: how far each design choice moves the scores, over all sweeps of a scale."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.claims import seed_columns
from analysis.effects import Effect, axis_effect, forest_importances, grid_effects, varying
from analysis.study import Study
from analysis.style import GREY, NARROW, PALETTE, annotate_head, save, styled
from analysis.table import MISSING, Table
from mm1_lab.results.summary import AVERAGE

if TYPE_CHECKING:
    import pandas as pd

METHODS = {
    "one factor": "arms that differ in this axis alone",
    "full grid": "exact analysis of variance of a full grid",
    "forest": "Optuna's fANOVA, because no two arms differ in this axis alone",
}


def axis_rows(study: Study) -> pd.DataFrame:
    """Every axis that varies in the sweep and every interaction of a full grid, by the average and by shots.

    Columns: sweep, axis (interactions with ×), axes (their number), levels, measure, method, arms, spread, low, high,
    p, share (of the variance between arms: exact on a full grid, a forest's guess elsewhere), and the seeds.
    """
    import pandas as pd

    levels = varying(study.sweep)
    axes = list(next(iter(levels.values()), {}))
    rows: list[dict[str, object]] = []

    def add(names: tuple[str, ...], measure: str, method: str, effect: Effect | None, share: float | None) -> None:
        own = (
            dict.fromkeys(levels[arm][names[0]] for arm in study.sweep.arms if arm in levels) if len(names) == 1 else ()
        )
        row = {"sweep": study.sweep.name, "axis": " × ".join(names), "axes": len(names), "levels": " / ".join(own)}
        row |= {"measure": measure, "method": method}
        for column, name in zip(("arms", "spread", "low", "high", "p"), (*NAMES,), strict=True):
            row[column] = getattr(effect, name) if effect else np.nan
        rows.append(row | {"share": np.nan if share is None else share} | seed_columns(study.seeds))

    for measure in (AVERAGE, *(f"{shots}-shot" for shots in study.shots)):
        trials = study.trial_values(measure)
        grid = grid_effects(trials, levels) if trials and axes else []
        for effect in grid:
            add(effect.axes, measure, "full grid", effect, effect.share)
        if grid or not trials:
            continue
        found = {axis: axis_effect(trials, levels, axis) for axis in axes}
        alone = not all(found.values()) and measure == AVERAGE
        shares = forest_importances(trials, levels) if alone else {}
        for axis, known in found.items():
            add((axis,), measure, "one factor" if known else "forest", known, shares.get(axis))
    return pd.DataFrame(rows)


NAMES = ("arms", "spread", "low", "high", "p_value")


def ranked(rows: pd.DataFrame) -> pd.DataFrame:
    """Single axes by what they do to the average, largest first; those without a spread last."""
    single = rows[(rows["axes"] == 1) & (rows["measure"] == AVERAGE)]
    return single.sort_values("spread", ascending=False, na_position="last", kind="stable")


def axes_tables(rows: pd.DataFrame, title: str) -> list[Table]:
    """The ranking of axes, then the full split of each grid."""
    import pandas as pd

    measures = list(dict.fromkeys(rows["measure"]))
    cells = {(row["sweep"], row["axis"], row["measure"]): _spread(row) for row in rows.to_dict("records")}
    ranking = [
        {"axis": row["axis"], "sweep": row["sweep"], "levels": row["levels"]}
        | {measure: cells.get((row["sweep"], row["axis"], measure), MISSING) for measure in measures}
        | {"p": _p(row), "share": _share(row, 0), "method": row["method"]}
        for row in ranked(rows).to_dict("records")
    ]
    notes = [
        "How far an axis moves the scores, in points: twice the root mean square distance of levels from the middle of "
        "arms that differ in this axis alone, which between two levels is their difference; with 95 % intervals, each "
        "effect against its own change from seed to seed.",
        *(f"*{method}*: {text}." for method, text in METHODS.items() if (rows["method"] == method).any()),
    ]
    if alone := sorted(set(rows["sweep"][rows["seeds"] == 1])):
        notes.append(f"{', '.join(alone)}: one seed, so numbers without an interval.")
    tables = [Table(title, pd.DataFrame(ranking), notes)]
    grids = rows[(rows["method"] == "full grid") & (rows["measure"] == AVERAGE)]
    for sweep, split in grids.groupby("sweep", sort=False):
        lines = [
            {"axis or interaction": row["axis"], "share of the variance": _share(row, 1)}
            | {"spread": _spread(row), "p": _p(row)}
            for row in split.to_dict("records")
        ]
        heading = f"{sweep}: what explains the differences between the cells of the grid ({AVERAGE})"
        tables.append(Table(heading, pd.DataFrame(lines)))
    return tables


def _share(row: Mapping[Hashable, Any], digits: int) -> str:
    return MISSING if np.isnan(row["share"]) else f"{100 * row['share']:.{digits}f} %"


def _spread(row: Mapping[Hashable, Any]) -> str:
    if np.isnan(row["spread"]):
        return MISSING
    return f"{row['spread']:.1f}" + ("" if np.isnan(row["low"]) else f" [{row['low']:.1f}, {row['high']:.1f}]")


def _p(row: Mapping[Hashable, Any]) -> str:
    if np.isnan(row["p"]):
        return MISSING
    return "< 0.001" if row["p"] < 0.001 else f"{row['p']:.3f}"


def draw_axes(rows: pd.DataFrame, path: Path, title: str) -> list[Path]:
    """The ranking as dots with intervals; one colour a sweep."""
    from matplotlib.figure import Figure

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
            levels = row["levels"].split(" / ")
            small = f"{row['sweep']}: {', '.join(levels) if len(row['levels']) <= 24 else f'{len(levels)} levels'}"
            axis.annotate(small, (-0.01, place), va="top", color=GREY, fontsize=6, **beside)  # type: ignore[arg-type]
            axis.annotate(f"{row['spread']:.1f}", (1.01, place), xycoords=("axes fraction", "data"), va="center")
        axis.set_yticks([])
        axis.set_ylim(len(shown) - 0.4, -0.6)
        axis.set_xlim(left=0)
        axis.grid(axis="x")
        axis.spines["left"].set_visible(False)
        axis.set_xlabel("spread of the average, in points")
        notes = ["95 % intervals; between two levels the spread is their difference."]
        notes += ["Open circles: one seed, no interval."] * any(row["seeds"] == 1 for row in shown)
        notes += ["All seeds are development seeds."] * all(row["seeds_are"] == "development" for row in shown)
        annotate_head(figure, title, *notes)
        return save(figure, path)
