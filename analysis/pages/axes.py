"""How much each level of a design choice (axis) changes the scores, over all sweeps of a scale: table and figure."""

import pandas as pd
from matplotlib.figure import Figure

from analysis.effects import UNSET, levels_of, varying
from analysis.judging.claims import Levels, differences_of
from analysis.judging.difference import Difference
from analysis.pages.cells import estimate
from analysis.seeds import earlier_world, seed_columns, worlds_in
from analysis.study import Study
from analysis.style import BLUE, DARK, GREY, WIDTH, annotate, annotate_head, label_rows
from analysis.table import Table
from mm1_lab.config import AVERAGE, CHAT

CONTROLS = ("images", "steps", "learning rate", "sft steps", "sft learning rate")
"""Axes of how a model is trained or tested, not of what it is: shown apart from design choices."""
LEVELS_NOTE = (
    "Points by which a level differs from the base's, over pairs of arms that differ in this axis alone, with 95 % "
    "intervals over seeds, uncorrected: of the average, or of conversations with tuned models (chat)."
)


def level_rows(study: Study) -> pd.DataFrame:
    """How each level of an axis differs from the base's level: the mean over pairs of arms that differ in it alone.

    Columns: sweep, axis, base, level, measure (conversations of tuned models, the average of others), pairs, estimate,
    low, high, interval (its unit), the seeds, and the world, if it is an earlier one.
    """
    measure = CHAT if study.trial_values(CHAT) else AVERAGE
    scored = {arm for arm, _ in study.trial_values(measure)}
    levels = {arm: own for arm, own in varying(study.sweep).items() if arm in scored}
    base_levels = levels_of(study.sweep.base)
    rows = []
    for axis in next(iter(levels.values()), {}):
        base = base_levels.get(axis, UNSET)
        for level in dict.fromkeys(own[axis] for own in levels.values() if own[axis] != base):
            for _, arms in differences_of(Levels(axis=axis, more=level, less=base), levels, study.sweep):
                difference = Difference(study, {(arm, measure): weight for arm, weight in arms.items()})
                if found := difference.found:
                    row: dict[str, object] = {"sweep": study.sweep.name, "axis": axis, "base": base, "level": level}
                    row |= {"measure": str(measure), "pairs": len(arms) // 2, "estimate": found.estimate}
                    row |= {"low": found.low, "high": found.high, "interval": difference.unit}
                    row |= seed_columns(difference.seeds, study.manifest.in_world)
                    rows.append(row | {"world": earlier_world(study.manifest)})
    return pd.DataFrame(rows)


def axes_table(levels: pd.DataFrame, title: str, caution: str) -> Table:
    """A row per level; `caution` is a note on seeds."""
    lines = []
    for row in levels.to_dict("records"):
        lines.append(
            {
                "axis": row["axis"],
                "sweep": f"{row['sweep']} ({row['world']})" if row["world"] else row["sweep"],
                "base": row["base"],
                "level": row["level"],
                "difference": estimate(row),
                "measure": row["measure"],
                "pairs": row["pairs"],
                "seeds": row["seeds"],
            }
        )
    return Table(title, pd.DataFrame(lines), list(filter(None, [LEVELS_NOTE, worlds_in(levels), caution])))


def largest_differences(levels: pd.DataFrame) -> pd.DataFrame:
    """Of each axis of design the level that differs most from the base's, by one measure, the largest first; without
    controls, and as `drawn_levels` of one sweep an axis."""
    shown = drawn_levels(levels)
    if shown.empty:
        return shown
    shown = shown[~shown["axis"].isin(CONTROLS)]
    order = shown["estimate"].abs().sort_values(ascending=False, kind="stable").index
    return shown.loc[order].drop_duplicates("axis")


def drawn_levels(levels: pd.DataFrame) -> pd.DataFrame:
    """The levels in the figure, by one measure: of pre-trained models, or if there are none, of tuned ones. An axis of
    several sweeps is of the one with the most pairs; those of an earlier world are only in the table."""
    if levels.empty:
        return levels
    measure = str(AVERAGE if (levels["measure"] == str(AVERAGE)).any() else CHAT)
    shown = levels[(levels["measure"] == measure) & (levels["interval"] == "seeds")]
    shown = shown[shown["world"] == ""]
    kept = []
    for _, own in shown.groupby("axis", sort=False):
        pairs = own.groupby("sweep", sort=False)["pairs"].sum()
        of_sweep = own[own["sweep"] == pairs.idxmax()]
        kept.append(of_sweep.sort_values("estimate", ascending=False, kind="stable"))
    kept.sort(key=lambda own: (own["axis"].iloc[0] in CONTROLS, -own["estimate"].abs().max()))
    return pd.concat(kept, ignore_index=True) if kept else shown


def draw_axes(levels: pd.DataFrame, title: str, caution: str) -> Figure:
    """Draws a row a level, in blocks by axis; controls are grey and stand below."""
    shown = drawn_levels(levels)
    figure = Figure(figsize=(WIDTH, 1.0 + 0.21 * len(shown)), layout="constrained")
    axis = figure.subplots()
    axis.axvline(0, color=DARK, linewidth=0.8)
    rows = shown.to_dict("records")
    above = None
    for place, row in enumerate(rows):
        colour = GREY if row["axis"] in CONTROLS else BLUE
        axis.plot([row["low"], row["high"]], [place, place], color=colour, linewidth=1.3)
        axis.plot(row["estimate"], place, marker="o", color=colour)
        if row["axis"] != above:
            axis.axhline(place - 0.5, color=GREY, linewidth=0.5)
            control = " (a control)" if row["axis"] in CONTROLS else ""
            annotate(axis, f"{row['axis']}{control}, base: {row['base']}", (1.02, place), va="center", fontsize=6.8)
        above = row["axis"]
    axis.set_yticks(range(len(rows)), [row["level"] for row in rows])
    axis.set_ylim(len(rows) - 0.5, -0.5)
    label_rows(axis)
    tuned = shown["measure"].iloc[0] == str(CHAT)
    what = "of conversations with tuned models" if tuned else "of the average of image benchmarks"
    axis.set_xlabel(f"← worse than the base      points {what}      better than the base →")
    note = "Each level against the base's, over arms that differ in it alone; lines: 95 % intervals over seeds."
    annotate_head(figure, title, note, caution)
    return figure
