"""How much each level of a design choice (axis) changes the scores, over all sweeps of a scale: data and a table."""

import pandas as pd

from analysis.effects import UNSET, levels_of, varying
from analysis.judging.claims import Levels, differences_of
from analysis.judging.difference import Difference
from analysis.pages.cells import estimate
from analysis.seeds import earlier_world, seed_columns, worlds_in
from analysis.study import Study
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
