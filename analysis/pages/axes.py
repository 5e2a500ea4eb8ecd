"""Summarises how much each design choice (axis) changes the scores, over all sweeps of a scale."""

from dataclasses import replace

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.effects import (
    UNSET,
    Effect,
    axis_effect,
    compared,
    forest_importances,
    grid_effects,
    groups,
    levels_of,
    varying,
)
from analysis.judging.difference import Difference
from analysis.pages.cells import estimate
from analysis.seeds import seed_columns, worlds_in
from analysis.study import Study
from analysis.style import BLUE, DARK, GREY, WIDTH, annotate_head
from analysis.table import MISSING, Row, Table, as_text
from mm1_lab.results.summary import AVERAGE, CHAT

LEADING = (AVERAGE, CHAT)
"""The measures that axes are ranked by: of pre-trained and of tuned models."""

CONTROLS = ("images", "steps", "learning rate", "sft steps", "sft learning rate")
"""Axes of how a model is trained or tested, not of what it is: shown apart from design choices."""

NAMES = {
    "data mix": "data mix, % captions : pages : text",
    "synthetic captions": "synthetic among captions",
    "encoder data": "data of the encoder's training",
    "encoder loss": "the encoder's own training",
    "image tokens": "image tokens per picture",
    "images": "pictures shown with a document",
    "sft after steps": "pre-training steps before tuning",
    "sft frozen": "frozen in tuning",
    "sft resolution": "resolution in tuning",
    "sft sharp demonstrations": "sharp pictures in demonstrations",
    "sft views": "views of a picture in tuning",
    "steps": "pre-training steps",
}
"""Plain names of axes in the figure."""

ROW = 0.19
"""Inches of a level in the figure."""

METHODS = {
    "one factor": "arms that differ in this axis alone",
    "full grid": "exact analysis of variance of a full grid",
    "forest": "Optuna's fANOVA, because no two arms differ in this axis alone; how it divides a share among axes that "
    "only change together means nothing",
    "incomplete": "no two arms that differ in this axis alone share a seed, so there is no spread",
}


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
        for level, own in pairs.items():
            weights = {}
            for arm, other in own:
                weights[arm, measure] = 1 / len(own)
                weights[other, measure] = -1 / len(own)
            difference = Difference(study, weights)
            if found := difference.found:
                row: dict[str, object] = {
                    "sweep": study.sweep.name,
                    "axis": axis,
                    "base": base,
                    "level": level,
                    "measure": measure,
                }
                row |= {"pairs": len(own), "estimate": found.estimate, "low": found.low, "high": found.high}
                row["interval"] = difference.unit
                rows.append(row | seed_columns(difference.seeds, study.manifest.in_world))
    return pd.DataFrame(rows)


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
    one seed, those of an earlier world (column `world`), controls, and those without a spread."""
    single = rows[(rows["axes"] == 1) & rows["measure"].isin(LEADING)]
    single = single.sort_values("spread", ascending=False, na_position="last", kind="stable")
    single = single.assign(rank=[_rank(row) for row in single.to_dict("records")])
    return single.sort_values("rank", kind="stable").drop(columns="rank")


def _rank(row: Row) -> int:
    """0 for an effect with an interval, 1 with one seed, 2 in an earlier world, 3 of a control, 4 without a spread."""
    if np.isnan(row["spread"]):
        return 4
    if row["axis"] in CONTROLS:
        return 3
    return 2 if row.get("world") else int(np.isnan(row["low"]))


def axes_tables(rows: pd.DataFrame, levels: pd.DataFrame, title: str, caution: str) -> list[Table]:
    """Each level against the base's, the ranking of axes by spread, and the full variance decomposition of each grid;
    `caution` is a note on seeds."""
    tables = []
    if len(levels):
        about = (
            "Points by which a level differs from the base's, over pairs of arms that differ in this axis alone, with "
            "95 % intervals over seeds, uncorrected: of the average, or of conversations with tuned models (chat)."
        )
        lines = [
            {"axis": row["axis"], "sweep": _sweep(row), "base": row["base"], "level": row["level"]}
            | {"difference": estimate(row), "measure": row["measure"], "pairs": row["pairs"], "seeds": row["seeds"]}
            for row in levels.to_dict("records")
        ]
        tables.append(Table(title, pd.DataFrame(lines), [note for note in (about, worlds_in(levels), caution) if note]))
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
    tables.append(Table("Spread of each axis" if tables else title, pd.DataFrame(ranking), notes))
    grids = rows[(rows["method"] == "full grid") & rows["measure"].isin(LEADING)]
    for sweep, split in grids.groupby("sweep", sort=False):
        shares = [(row["axis"], _share(row, 1), _spread(row), _p(row)) for row in split.to_dict("records")]
        measure = split["measure"].iloc[0]
        heading = f"{sweep}: what explains the differences between the cells of the grid ({measure})"
        names = ["axis or interaction", "share of the variance", "spread", "p"]
        tables.append(Table(heading, pd.DataFrame(shares, columns=names)))
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


def drawn_levels(levels: pd.DataFrame) -> pd.DataFrame:
    """The levels in the figure, by one measure: of pre-trained models, or if there are none, of tuned ones. An axis of
    several sweeps is of the one with the most pairs; those of an earlier world are only in the table."""
    if levels.empty:
        return levels
    measure = AVERAGE if (levels["measure"] == AVERAGE).any() else CHAT
    shown = levels[(levels["measure"] == measure) & (levels["interval"] == "seeds")]
    if "world" in shown:
        shown = shown[shown["world"] == ""]
    kept = []
    for _, own in shown.groupby("axis", sort=False):
        pairs = own.groupby("sweep", sort=False)["pairs"].sum()
        kept.append(own[own["sweep"] == pairs.idxmax()].sort_values("estimate", ascending=False, kind="stable"))
    kept.sort(key=lambda own: (own["axis"].iloc[0] in CONTROLS, -own["estimate"].abs().max()))
    return pd.concat(kept, ignore_index=True) if kept else shown


def draw_axes(levels: pd.DataFrame, title: str, caution: str) -> Figure:
    """Draws a row an axis, and in it each level's difference from the base's; controls stand apart, below."""
    rows = drawn_levels(levels).to_dict("records")
    names = list(dict.fromkeys(row["axis"] for row in rows))
    places, place = [], 0.0
    for row, last in zip(rows, [None, *rows], strict=False):
        if last and row["axis"] != last["axis"]:
            place += 0.4
            if row["axis"] in CONTROLS and last["axis"] not in CONTROLS:
                place += 1.0
        places.append(place)
        place += 1
    figure = Figure(figsize=(WIDTH, 1.0 + ROW * place), layout="constrained")
    axis = figure.subplots()
    axis.axvline(0, color=DARK, linewidth=0.8)
    for row, at in zip(rows, places, strict=True):
        colour = GREY if row["axis"] in CONTROLS else BLUE
        axis.plot([row["low"], row["high"]], [at, at], color=colour, linewidth=1.3)
        axis.plot(row["estimate"], at, marker="o", color=colour)
    for number, name in enumerate(names):
        own = [at for row, at in zip(rows, places, strict=True) if row["axis"] == name]
        if number % 2 == 0:
            axis.axhspan(own[0] - 0.6, own[-1] + 0.6, color="#EFEFEF", linewidth=0, zorder=0)
        _name(axis, name, next(row["base"] for row in rows if row["axis"] == name), own)
    controls = [at for row, at in zip(rows, places, strict=True) if row["axis"] in CONTROLS]
    if controls:
        axis.annotate(
            "Controls: how models are trained and tested, no design choices",
            (0.01, controls[0] - 0.75),
            xycoords=("axes fraction", "data"),
            fontsize=6.5,
            color=DARK,
        )
    axis.set_yticks(places, [row["level"].replace(UNSET, "not set") for row in rows])
    axis.tick_params(axis="y", length=0)
    axis.set_ylim(place - 0.3, -0.8)
    axis.grid(visible=False, axis="y")
    axis.grid(axis="x")
    axis.spines["left"].set_visible(False)
    what = "of conversations with tuned models" if rows[0]["measure"] == CHAT else "of the average of image benchmarks"
    axis.set_xlabel(f"← worse than the base      points {what}      better than the base →")
    note = "Each level against the base's, over arms that differ in it alone; lines: 95 % intervals over seeds."
    annotate_head(figure, title, note, caution)
    return figure


def _name(axis: Axes, name: str, base: str, places: list[float]) -> None:
    """Writes the axis and the base's level at the right, beside the rows of the axis."""
    text = f"{NAMES.get(name, name)}\n(base: {base.replace(UNSET, 'not set')})"
    axis.annotate(
        text,
        (1.02, (places[0] + places[-1]) / 2),
        xycoords=("axes fraction", "data"),
        va="center",
        linespacing=1.0,
        fontsize=6.8,
        annotation_clip=False,
    )
