"""How much each design choice (axis) changes the scores, over all sweeps of a scale, as data and tables."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from analysis.effects import UNSET, Effect, axis_effect, compared, grid_effects, groups, levels_of, varying
from analysis.judging.difference import Difference
from analysis.pages.cells import estimate
from analysis.seeds import seed_columns, worlds_in
from analysis.study import Study
from analysis.table import MISSING, Row, Table, as_text
from mm1_lab.config import AVERAGE, CHAT, Measure

LEADING = (str(AVERAGE), str(CHAT))
"""The measures that axes are ranked by: of pre-trained and of tuned models."""
CONTROLS = ("images", "steps", "learning rate", "sft steps", "sft learning rate")
"""Axes of how a model is trained or tested, not of what it is: shown apart from design choices."""
LEVELS_NOTE = (
    "Points by which a level differs from the base's, over pairs of arms that differ in this axis alone, with 95 % "
    "intervals over seeds, uncorrected: of the average, or of conversations with tuned models (chat)."
)
SPREAD_NOTE = (
    "Spread in points: twice the root mean square distance of an axis' levels from the mean of arms that differ in "
    "this axis alone; between two levels, their difference. 95 % intervals compare each effect with its own variation "
    "over the seeds that all of these arms have. A spread of three or more levels is above 0 by chance alone; p, of "
    "the average or of chat, says whether it is more. *Full grid*: an exact analysis of variance, with the share of "
    "the variance between its arms."
)


def level_rows(study: Study) -> pd.DataFrame:
    """How each level of an axis differs from the base's level: the mean over pairs of arms that differ in it alone.

    Columns: sweep, axis, base, level, measure (conversations of tuned models, the average of others), pairs, estimate,
    low, high, interval (its unit), and the seeds.
    """
    measure = CHAT if study.trial_values(CHAT) else AVERAGE
    scored = {arm for arm, _ in study.trial_values(measure)}
    levels = {arm: own for arm, own in varying(study.sweep).items() if arm in scored}
    base_levels = levels_of(study.sweep.base)
    rows = []
    for axis in next(iter(levels.values()), {}):
        base = base_levels.get(axis, UNSET)
        pairs: dict[str, list[tuple[str, str]]] = {}
        for group in groups(levels, axis):
            by_level = {levels[arm][axis]: arm for arm in group}
            for level, arm in by_level.items():
                if base in by_level and level != base:
                    pairs.setdefault(level, []).append((arm, by_level[base]))
        for level, arms in pairs.items():
            weights = {}
            for arm, other in arms:
                weights[arm, measure] = 1 / len(arms)
                weights[other, measure] = -1 / len(arms)
            difference = Difference(study, weights)
            found = difference.found
            if found is None:
                continue
            rows.append(
                {
                    "sweep": study.sweep.name,
                    "axis": axis,
                    "base": base,
                    "level": level,
                    "measure": str(measure),
                    "pairs": len(arms),
                    "estimate": found.estimate,
                    "low": found.low,
                    "high": found.high,
                    "interval": difference.unit,
                    **seed_columns(difference.seeds, study.manifest.in_world),
                }
            )
    return pd.DataFrame(rows)


def axis_rows(study: Study) -> pd.DataFrame:
    """The effect of every axis that varies in the sweep and of every interaction in a full grid, by measure; of tuned
    models on conversations only, as the benchmarks of pre-trained models are not what they were tuned for. An axis in
    which no two arms differ alone is left out.

    Columns: sweep, axis (interactions with ×), axes (their number), levels, measure, method, arms, spread, low, high,
    p, share (of the variance between the arms of a full grid), and the seeds.
    """
    levels = varying(study.sweep)
    rows = []
    measures = [AVERAGE, *(Measure(shots=shots) for shots in study.shots)]
    if study.trial_values(CHAT):
        measures = [CHAT]
    for measure in measures:
        for method, effect in _effects(study, measure):
            together, _ = compared(study.trial_values(measure), levels, effect.axes[0])
            in_use = {arm for group in together for arm in group}
            own = dict.fromkeys(levels[arm][effect.axes[0]] for arm in levels if arm in in_use)
            if len(own) < 2:  # the arms with scores do not differ in it
                continue
            rows.append(
                {
                    "sweep": study.sweep.name,
                    "axis": " × ".join(effect.axes),
                    "axes": len(effect.axes),
                    "levels": " / ".join(own) if len(effect.axes) == 1 else "",
                    "measure": str(measure),
                    "method": method,
                    "arms": effect.arms,
                    "spread": effect.spread,
                    "low": effect.low,
                    "high": effect.high,
                    "p": effect.p_value,
                    "share": effect.share,
                    **seed_columns(effect.seeds, study.manifest.in_world),
                }
            )
    return pd.DataFrame(rows)


def _effects(study: Study, measure: Measure) -> Iterator[tuple[str, Effect]]:
    """The effects at a measure with the method of each: of a full grid all of its terms, otherwise axis by axis."""
    trials, levels = study.trial_values(measure), varying(study.sweep)
    of_grid = grid_effects(trials, levels)
    for effect in of_grid:
        yield "full grid", effect
    if of_grid:
        return
    for axis in next(iter(levels.values()), {}):
        of_axis = axis_effect(trials, levels, axis)
        if of_axis:
            yield "one factor", of_axis


def ranked(rows: pd.DataFrame) -> pd.DataFrame:
    """Single axes by their effect on the average, or on conversations for tuned models, largest first; then those with
    one seed, those of an earlier world (column `world`), and controls."""
    single = rows[(rows["axes"] == 1) & rows["measure"].isin(LEADING)]
    single = single.sort_values("spread", ascending=False, kind="stable")
    places = [_place(row) for row in single.to_dict("records")]
    return single.assign(place=places).sort_values("place", kind="stable").drop(columns="place")


def _place(row: Row) -> int:
    if row["axis"] in CONTROLS:
        return 3
    if row.get("world"):
        return 2
    return 1 if np.isnan(row["low"]) else 0


def axes_tables(rows: pd.DataFrame, levels: pd.DataFrame, title: str, caution: str) -> list[Table]:
    """Each level against the base's, the ranking of axes by spread, and the full variance decomposition of each grid;
    `caution` is a note on seeds."""
    tables = []
    if len(levels):
        tables.append(_levels_table(levels, title, caution))
    tables.append(_ranking(rows, "Spread of each axis" if tables else title, caution))
    grids = rows[(rows["method"] == "full grid") & rows["measure"].isin(LEADING)]
    for sweep, terms in grids.groupby("sweep", sort=False):
        lines = []
        for row in terms.to_dict("records"):
            share = f"{100 * row['share']:.1f} %"
            lines.append((row["axis"], share, _spread(row), _p(row)))
        measure = terms["measure"].iloc[0]
        heading = f"{sweep}: what explains the differences between the cells of the grid ({measure})"
        names = ["axis or interaction", "share of the variance", "spread", "p"]
        tables.append(Table(heading, pd.DataFrame(lines, columns=names)))
    return tables


def _levels_table(levels: pd.DataFrame, title: str, caution: str) -> Table:
    lines = []
    for row in levels.to_dict("records"):
        lines.append(
            {
                "axis": row["axis"],
                "sweep": _sweep(row),
                "base": row["base"],
                "level": row["level"],
                "difference": estimate(row),
                "measure": row["measure"],
                "pairs": row["pairs"],
                "seeds": row["seeds"],
            }
        )
    return Table(title, pd.DataFrame(lines), list(filter(None, [LEVELS_NOTE, worlds_in(levels), caution])))


def _ranking(rows: pd.DataFrame, title: str, caution: str) -> Table:
    """A row per axis of each sweep with its spread at each measure, in the order of `ranked`."""
    spreads = {(row["sweep"], row["axis"], row["measure"]): _spread(row) for row in rows.to_dict("records")}
    lines = []
    for row in ranked(rows).to_dict("records"):
        line = {"axis": row["axis"], "sweep": _sweep(row), "levels": row["levels"]}
        for measure in rows["measure"].unique():
            line[measure] = spreads.get((row["sweep"], row["axis"], measure), MISSING)
        share = MISSING if np.isnan(row["share"]) else f"{100 * row['share']:.0f} %"
        lines.append({**line, "p": _p(row), "share": share, "seeds": row["seeds"], "method": row["method"]})
    return Table(title, pd.DataFrame(lines), list(filter(None, [SPREAD_NOTE, worlds_in(rows), caution])))


def _sweep(row: Row) -> str:
    return f"{row['sweep']} ({row['world']})" if row.get("world") else row["sweep"]


def _spread(row: Row) -> str:
    interval = "" if np.isnan(row["low"]) else f" [{row['low']:.1f}, {row['high']:.1f}]"
    return as_text(row["spread"]) + interval


def _p(row: Row) -> str:
    return "< 0.001" if row["p"] < 0.001 else as_text(row["p"], ".3f")


def levels_in_short(row: Row) -> str:
    """`contrastive, none`; the number of levels if the list is long."""
    levels = row["levels"].split(" / ")
    return ", ".join(levels) if len(row["levels"]) <= 24 else f"{len(levels)} levels"
