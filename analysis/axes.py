"""A summary of axes: how far each design choice moves the scores, over all sweeps of a scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from analysis.document import HOLE, Document, Section
from analysis.effects import Effect, axis_effect, forest_importances, grid_effects, varying
from analysis.study import Study
from analysis.style import GREY, PALETTE, WIDTH, annotate_head, save, styled
from mm1_lab.results.summary import AVERAGE

if TYPE_CHECKING:
    import pandas as pd

METHODS = {
    "one factor": "arms that differ in this axis alone",
    "full grid": "exact analysis of variance of a full grid",
    "forest": "Optuna's fANOVA, because no two arms differ in this axis alone",
}


@dataclass(frozen=True)
class AxisRow:
    """What one axis, or an interaction of axes of a full grid, does to one measure in one sweep."""

    sweep: str
    axes: tuple[str, ...]
    levels: tuple[str, ...]
    """Of a single axis, in the sweep's order."""
    measure: str
    method: str
    effect: Effect | None
    share: float | None
    """Of the variance between arms: exact on a full grid, a forest's guess elsewhere."""
    seeds: int
    interval: str

    @property
    def name(self) -> str:
        return " × ".join(self.axes)


def axis_rows(study: Study) -> tuple[AxisRow, ...]:
    """Every axis that varies in the sweep, by the average over shots and by each number of shots."""
    levels = varying(study.sweep)
    axes = list(next(iter(levels.values()), {}))
    rows: list[AxisRow] = []

    def add(names: tuple[str, ...], measure: str, method: str, effect: Effect | None, share: float | None) -> None:
        known = _levels(study, levels, names[0]) if len(names) == 1 else ()
        seeds, interval = len(study.seeds), study.uncertainty
        rows.append(AxisRow(study.sweep.name, names, known, measure, method, effect, share, seeds, interval))

    for measure in (AVERAGE, *(f"{shots}-shot" for shots in study.shots)):
        scores = study.arm_scores(measure)
        grid = grid_effects(scores, levels) if scores and axes else []
        for effect in grid:
            add(effect.axes, measure, "full grid", effect, effect.share)
        if grid or not scores:
            continue
        found = {axis: axis_effect(scores, levels, axis) for axis in axes}
        alone = not all(found.values()) and measure == AVERAGE
        shares = forest_importances(study.trial_values(measure), levels) if alone else {}
        for axis, known in found.items():
            add((axis,), measure, "one factor" if known else "forest", known, shares.get(axis))
    return tuple(rows)


def _levels(study: Study, levels: dict[str, dict[str, str]], axis: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(levels[arm][axis] for arm in study.sweep.arms if arm in levels))


def axes_table(rows: Sequence[AxisRow]) -> pd.DataFrame:
    """A row an axis or interaction, sweep and measure."""
    import pandas as pd

    return pd.DataFrame(
        [
            {
                "sweep": row.sweep,
                "axis": row.name,
                "levels": " / ".join(row.levels),
                "measure": row.measure,
                "method": row.method,
                "arms": row.effect.arms if row.effect else None,
                "spread": row.effect.spread if row.effect else None,
                "low": row.effect.low if row.effect else None,
                "high": row.effect.high if row.effect else None,
                "p": row.effect.p_value if row.effect else None,
                "share": row.share,
                "seeds": row.seeds,
                "interval": row.interval,
            }
            for row in rows
        ]
    )


def ranked(rows: Sequence[AxisRow]) -> list[AxisRow]:
    """Single axes by what they do to the average, largest first; those without a spread last."""
    single = [row for row in rows if len(row.axes) == 1 and row.measure == AVERAGE]
    return sorted(single, key=lambda row: -row.effect.spread if row.effect else np.inf)


def axes_document(rows: Sequence[AxisRow], title: str) -> Document:
    """The ranking of axes, then the full split of each grid."""
    measures = list(dict.fromkeys(row.measure for row in rows if row.measure != AVERAGE))
    by_key = {(row.sweep, row.axes, row.measure): row for row in rows}
    ranking = []
    for row in ranked(rows):
        cells = [_spread(by_key.get((row.sweep, row.axes, measure))) for measure in (AVERAGE, *measures)]
        share = HOLE if row.share is None else f"{100 * row.share:.0f} %"
        ranking.append([row.name, row.sweep, " / ".join(row.levels), *cells, _p(row), share, row.method])
    head = ["axis", "sweep", "levels", AVERAGE, *measures, "p", "share", "method"]
    sections = [Section("", head, ranking, ["sweep", "levels", "method"])]
    for sweep in dict.fromkeys(row.sweep for row in rows if row.method == "full grid"):
        split = [r for r in rows if r.sweep == sweep and r.measure == AVERAGE and r.share is not None]
        lines = [[row.name, f"{100 * (row.share or 0):.1f} %", _spread(row), _p(row)] for row in split]
        heading = f"{sweep}: what explains the differences between the cells of the grid ({AVERAGE})"
        sections.append(Section(heading, ["axis or interaction", "share of the variance", "spread", "p"], lines))
    remarks = [
        "How far an axis moves the scores, in points: twice the root mean square distance of arms from the middle of "
        "those that differ in this axis alone, which between two arms is their difference; with 95 % interval.",
    ]
    notes = [f"*{method}*: {text}." for method, text in METHODS.items() if any(row.method == method for row in rows)]
    conditional = sorted({row.sweep for row in rows if row.interval == "questions"})
    if conditional:
        notes.append(
            f"Intervals of {', '.join(conditional)} are over questions, conditional on these models: one seed."
        )
    return Document(title, remarks, sections, notes)


def _spread(row: AxisRow | None) -> str:
    if row is None or row.effect is None:
        return HOLE
    return f"{row.effect.spread:.1f} [{row.effect.low:.1f}, {row.effect.high:.1f}]"


def _p(row: AxisRow) -> str:
    if row.effect is None:
        return HOLE
    return "< 0.001" if row.effect.p_value < 0.001 else f"{row.effect.p_value:.3f}"


def draw_axes(rows: Sequence[AxisRow], path: Path, title: str) -> list[Path]:
    """The ranking as dots with intervals; one colour a sweep."""
    from matplotlib.figure import Figure

    shown = [row for row in ranked(rows) if row.effect]
    sweeps = list(dict.fromkeys(row.sweep for row in shown))
    with styled():
        figure = Figure(figsize=(WIDTH, 0.9 + 0.32 * max(len(shown), 1)), layout="constrained")
        axis = figure.subplots()
        for place, row in enumerate(shown):
            effect = row.effect
            assert effect is not None
            colour = PALETTE[(sweeps.index(row.sweep) + 4) % len(PALETTE)]
            errors = np.array([[effect.spread - effect.low], [effect.high - effect.spread]])
            axis.errorbar(effect.spread, place, xerr=np.maximum(errors, 0), marker="o", color=colour)
            beside = {"xycoords": ("axes fraction", "data"), "annotation_clip": False, "ha": "right"}
            axis.annotate(row.name, (-0.01, place), va="bottom", **beside)  # type: ignore[arg-type]
            small = f"{row.sweep}: {', '.join(row.levels) if len(row.levels) <= 3 else f'{len(row.levels)} levels'}"
            axis.annotate(small, (-0.01, place), va="top", color=GREY, fontsize=6, **beside)  # type: ignore[arg-type]
            axis.annotate(f"{effect.spread:.1f}", (1.01, place), xycoords=("axes fraction", "data"), va="center")
        axis.set_yticks([])
        axis.set_ylim(len(shown) - 0.4, -0.6)
        axis.set_xlim(left=0)
        axis.grid(axis="x")
        axis.spines["left"].set_visible(False)
        axis.set_xlabel("spread of the average over 0, 4 and 8 shots, in points")
        annotate_head(figure, title, "95 % intervals; between two levels the spread is their difference.")
        return save(figure, path)
