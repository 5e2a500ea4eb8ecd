"""How much each level of a design choice changes the scores, over all sweeps of a scale: table, figure, words."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.effects import UNSET, groups, levels_of, varying
from analysis.judging.claims import Levels, differences_of
from analysis.judging.difference import Difference
from analysis.pages.cells import estimate
from analysis.seeds import seed_columns
from analysis.study import Study
from analysis.style import BLUE, DARK, GREY, WIDTH, annotate, annotate_head, label_rows
from analysis.table import Table, as_text
from mm1_lab.config import AVERAGE, CHAT

CONTROL_AXES = (
    "images", "steps", "learning rate", "lr multipliers encoder", "lr multipliers connector", "lr multipliers decoder",
    "sft steps", "sft learning rate", "sft lr multipliers",
)  # fmt: skip
"""Axes of how a model is trained or tested, not of what it is: shown apart from design choices."""
NOTE = (
    "Points by which a level differs from the base's, over pairs of arms that differ in this axis alone (their number, "
    "or the only pair's names: it need not hold the base), with 95 % intervals over seeds, uncorrected: of the "
    "average, or of conversations with tuned models (chat). A data mix is captions : interleaved : text in percent."
)
ONE_SEED = "At one seed: 95 % intervals over questions, conditional on these models."
LONGEST = 40
"""Characters of a level in the figure."""
NOTHING_MATTERED = (
    "No design choice can be said to matter most: that takes arms that differ from the base in it alone, with scores "
    "at each of two seeds or more."
)


def level_rows(study: Study) -> pd.DataFrame:
    """How each level of an axis differs from the base's level, or of a grid beside which the base stands, from its
    first one: the mean over pairs of arms that differ in it alone, of the world's conversations if all models are
    tuned, otherwise of the average."""
    measure = CHAT if "chat" in study.families and study.are_tuned else AVERAGE
    known = study.all_values(measure).loc[study.distinct].dropna(how="all")
    levels = varying(study.sweep, known.index)
    base_levels = levels_of(study.sweep.base)
    rows = []
    for axis in map(str, levels):
        base = base_levels.get(axis, UNSET)
        compared = [group for group in groups(levels, axis) if len(group) > 1]
        # where no arm has the base's level, as among a law's rates, none stands in for it
        is_beside_grid = base in set(levels[axis]) and not any(base in group for group in compared)
        if compared and is_beside_grid:
            base = next(iter(compared[0]))
        for level in levels[axis].unique():
            if level == base:
                continue
            pair = Levels(axis=axis, more=level, less=base)
            for arms in differences_of(pair, levels, study.sweep).values():
                difference = Difference(study, {(arm, measure): weight for arm, weight in arms.items()})
                found = difference.found
                if np.isnan(found.estimate):
                    continue
                row = {
                    "sweep": study.sweep.name,
                    "axis": axis,
                    "base": base,
                    "level": level,
                    "measure": str(measure),
                    "pairs": len(arms) // 2,
                    "arms": " − ".join(arms) if len(arms) == 2 else "",
                    "estimate": found.estimate,
                    "low": found.low,
                    "high": found.high,
                    "interval": difference.unit,
                }
                rows.append(row | seed_columns(difference.seeds, study.manifest.in_world))
    return pd.DataFrame(rows)


def axes_table(levels: pd.DataFrame, title: str, caution: str) -> Table:
    """A row per level; `caution` is a note on seeds."""
    frame = levels[["axis", "sweep", "base", "level", "measure", "pairs", "seeds"]].copy()
    frame["pairs"] = [arms or count for arms, count in zip(levels["arms"], levels["pairs"], strict=True)]
    frame.insert(4, "difference", [estimate(row) for row in levels.to_dict("records")])
    questions = ONE_SEED if (levels["interval"] == "questions").any() else ""
    return Table(title, frame, [NOTE, questions, caution])


def drawn_levels(levels: pd.DataFrame) -> pd.DataFrame:
    """The levels in the figure: over seeds, by one measure (of tuned models only where there are
    no others). An axis of several sweeps is of the one with the most pairs. The largest first, controls last."""
    if levels.empty:
        return levels
    measure = str(AVERAGE if (levels["measure"] == str(AVERAGE)).any() else CHAT)
    shown = levels[(levels["measure"] == measure) & (levels["interval"] == "seeds")]
    kept = []
    for _, of_axis in shown.groupby("axis", sort=False):
        pairs = of_axis.groupby("sweep", sort=False)["pairs"].sum()
        own = of_axis[of_axis["sweep"] == pairs.idxmax()]
        kept.append(own.sort_values("estimate", ascending=False, kind="stable"))
    kept.sort(key=lambda own: (own["axis"].iloc[0] in CONTROL_AXES, -own["estimate"].abs().max()))
    return pd.concat(kept, ignore_index=True) if kept else shown


def what_mattered(levels: pd.DataFrame) -> str:
    """A sentence on the axes of design whose levels are the farthest from the base's, and on the nearest."""
    shown = drawn_levels(levels)
    if len(shown):
        shown = shown[~shown["axis"].isin(CONTROL_AXES)]
    if shown.empty:
        return NOTHING_MATTERED
    distances = shown["estimate"].abs()
    farthest = shown.loc[distances.groupby(shown["axis"], sort=False).idxmax()]
    words = []
    for row in farthest.to_dict("records"):
        interval = f"95 % interval {as_text(row['low'])} to {as_text(row['high'])}"
        words.append(f"{row['axis']} ({row['level']}: {as_text(row['estimate'], '+.1f')} points, {interval})")
    measure = "conversations with tuned models" if farthest["measure"].iloc[0] == str(CHAT) else "the average"
    text = f"Of the levels that were tried, the farthest from the base by {measure}: {words[0]}"
    if len(words) > 1:
        text += f", then {words[1]}"
    if len(words) > 2:
        text += f"; least, {words[-1]}"
    return f"{text}."


def draw_axes(levels: pd.DataFrame, title: str, caution: str) -> Figure:
    """Draws a row a level, in blocks by axis; controls are grey and stand below."""
    shown = drawn_levels(levels)
    figure = Figure(figsize=(WIDTH, 1.0 + 0.21 * len(shown)), layout="constrained")
    axis = figure.subplots()
    axis.axvline(0, color=DARK, linewidth=0.8)
    above = None
    for place, row in enumerate(shown.to_dict("records")):
        heading, colour = row["axis"], BLUE
        if heading in CONTROL_AXES:
            heading, colour = f"{heading} (a control)", GREY
        axis.plot([row["low"], row["high"]], [place, place], color=colour, linewidth=1.3)
        axis.plot(row["estimate"], place, marker="o", color=colour)
        if heading != above:
            axis.axhline(place - 0.5, color=GREY, linewidth=0.5)
            annotate(axis, f"{heading}, base: {_end(row['base'])}", (1.02, place), va="center", fontsize=6.8)
        above = heading
    axis.set_yticks(range(len(shown)), shown["level"].map(_end))
    axis.set_ylim(len(shown) - 0.5, -0.5)
    label_rows(axis)
    tuned = shown["measure"].iloc[0] == str(CHAT)
    what = "of conversations with tuned models" if tuned else "of the average of image benchmarks"
    axis.set_xlabel(f"← worse than the base      points {what}      better than the base →")
    note = "Each level against the base's, over arms that differ in it alone; lines: 95 % intervals over seeds."
    if (shown["axis"] == "data mix").any():
        note += " Data mixes: captions : interleaved : text."
    annotate_head(figure, title, note, caution)
    return figure


def _end(level: str) -> str:
    """A level, or its end: that of a long path to a model tells it from others."""
    return level if len(level) <= LONGEST else f"…{level[1 - LONGEST :]}"
