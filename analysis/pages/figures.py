"""The figure of a sweep: scores by shots, per panel, in groups, or per arm."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.pages.notes import uncertainty_note
from analysis.pages.tuned_figure import draw_tuned
from analysis.statistics import estimates, half_widths, one_sample
from analysis.study import Study
from analysis.style import (
    BLUE,
    DARK,
    DASHES,
    GREY,
    MARKERS,
    PALETTE,
    WIDTH,
    annotate_head,
    arm_colours,
    save,
    styled,
)
from mm1_lab.config import Panel
from mm1_lab.results.summary import TEXT_CORE

MOST_SETTINGS = 4
"""Overridden settings in a title."""
LOSS = "held-out loss"
TITLES = {
    LOSS: "held-out loss\n(less is better)",
    "all image benchmarks": "all image\nbenchmarks",
    "captioning (CIDEr)": "captioning\n(CIDEr)",
    "choice by likelihood": "choice by\nlikelihood",
}
"""Titles of columns that take two lines."""
LONGEST_TICKS = 14
"""Characters of sources' names beside each other that a column holds."""
OWN_SCALE = "MM1's are of its own benchmarks and sizes: compare their order with ours, not their height."


def draw_scores(study: Study, path: Path) -> list[Path]:
    """Draws the sweep's figure: grouped like MM1's Fig. 4, for tuned models like its Fig. 6, by panels, or by arm."""
    if study.sweep.reproduces == "Fig. 4" and set(study.averages) - {TEXT_CORE}:
        return draw_groups(study, path)
    if "chat" in study.families:
        return draw_tuned(study, path, head(study))
    most = max(len(panel.arms) for panel in study.panels.values())
    return draw_panels(study, path) if study.sweep.panels and most <= len(MARKERS) else draw_arms(study, path)


def head(study: Study) -> str:
    """A figure's title: the sweep, its setting, and what was overridden, shortened so that it leaves room for axes."""
    shown = study.manifest.overrides
    if len(shown) > MOST_SETTINGS:
        shown = (*shown[: MOST_SETTINGS - 1], f"{len(shown) - MOST_SETTINGS + 1} more settings (table.md)")
    return ", ".join([study.sweep.heading, study.setting, *shown])


def draw_panels(study: Study, path: Path) -> list[Path]:
    """Draws a row per panel, with columns for text-core, held-out losses (for user data) and the means by shots.

    A column has the same range in all rows. An arm without scores leaves a gap, and its label says so.
    """
    columns = _panel_columns(study)
    published = {measure for _, _, measure in study.paper.values}
    paper = [measure for measure in study.averages if measure in published]
    rows, widths = len(study.panels), [1.0 if len(measures) == 1 else 2.0 for measures in columns.values()]
    widths += [2.0] * bool(paper)
    with styled():
        figure = Figure(figsize=(WIDTH, 0.9 + 1.7 * rows), layout="constrained")
        grid = figure.subplots(rows, len(widths), sharey="col", squeeze=False, width_ratios=widths)
        for place, ((key, panel), axes) in enumerate(zip(study.panels.items(), grid, strict=True), 1):
            for axis, (title, measures) in zip(axes, columns.items(), strict=False):
                _column(axis, study, panel, measures)
                space = "\n\n" * (axis is axes[0])  # for the panel's name
                axis.set_title(space + TITLES.get(title, title), color=DARK)
                axis.set_ylabel("nats per text token" if title == LOSS else "points" if axis is axes[0] else "")
                axis.set_xlabel({TEXT_CORE: "arms in order", LOSS: ""}.get(title, "shots") if place == rows else "")
            if paper:
                _paper_column(axes[-1], study, key, panel, paper)
            name = f"{key}   {panel.title}".strip() if key else ""
            offset: dict[str, Any] = {"xytext": (0, 26), "textcoords": "offset points", "annotation_clip": False}
            text = axes[0].annotate(name, (0, 1), xycoords="axes fraction", fontsize=8, fontweight="bold", **offset)
            text.set_in_layout(False)
            _legend(axes[-1], study, key, panel)
        note = f"{uncertainty_note(study)}. {'Small dots: single seeds.' * (len(study.seeds) > 1)}"
        annotate_head(figure, head(study), note, study.caution, OWN_SCALE * bool(study.paper.values))
        return save(figure, path)


def _panel_columns(study: Study) -> dict[str, list[str]]:
    """The measures of each column by its title; for held-out losses the sources."""
    columns = {
        LOSS: [] if study.manifest.in_world else [str(source) for source in study.held_out["source"].unique()],
        TEXT_CORE: [TEXT_CORE] if TEXT_CORE in study.measures else [],
    }
    for family, title in study.families.items():
        if family != "novel":  # a probe on the floor; its scores are in the tables
            columns[title] = [m for k in study.shots if (m := f"{family} {k}-shot".strip()) in study.measures]
    return {title: measures for title, measures in columns.items() if measures}


def _paper_column(axis: Axes, study: Study, key: str, panel: Panel, measures: Sequence[str]) -> None:
    """Draws the paper's own numbers of a panel on an axis of their own, as their height is not ours."""
    colours = arm_colours(study.sweep)
    if not any(panel_key == key for panel_key, _, _ in study.paper.values):
        axis.set_axis_off()
        return
    for label, arm in panel.arms.items():
        for place, measure in enumerate(measures):
            if number := study.paper.value(key, label, measure):
                marker = "^" if number.bound == "above" else "D"
                axis.plot(place, number.value, marker=marker, color=colours[arm], mfc="white", ms=5, linestyle="none")
    axis.set_title("MM1's own\nnumbers", color=DARK)
    axis.set_xticks(range(len(measures)), [measure.removesuffix("-shot") for measure in measures])
    axis.set_xlim(-0.5, len(measures) - 0.5)
    axis.margins(y=0.1)


def _column(axis: Axes, study: Study, panel: Panel, measures: Sequence[str]) -> None:
    """Draws arms side by side for a single measure, or as lines over several."""
    colours, alone = arm_colours(study.sweep), measures == [TEXT_CORE]
    by_loss = measures[0] in set(study.held_out["source"])
    places = np.arange(len(measures), dtype=float)
    for order, arm in enumerate(panel.arms.values()):
        aside = 0.32 * (order / max(len(panel.arms) - 1, 1) - 0.5) * (len(panel.arms) > 1)
        x = np.array([float(order)]) if alone else places + aside
        singles = [_losses(study, arm, m) if by_loss else study.seed_values(arm, m) for m in measures]
        points = [one_sample(s) if by_loss else study.mean(arm, m) for s, m in zip(singles, measures, strict=True)]
        heights = [p.estimate if p else s[0] if s else np.nan for p, s in zip(points, singles, strict=True)]
        axis.errorbar(
            x, heights, half_widths(points), elinewidth=0.8, color=colours[arm], marker=MARKERS[order % len(MARKERS)],
            linestyle="none" if by_loss else "-",
        )  # fmt: skip
        for place, values in zip(x, singles, strict=True):
            if len(values) > 1:
                same = {"marker": ".", "markersize": 2.5, "alpha": 0.5, "linestyle": "none", "color": colours[arm]}
                axis.plot([place] * len(values), values, **same)  # type: ignore[arg-type]
    reach = [-0.7, len(panel.arms) - 0.3] if alone else [-0.4, len(places) - 0.6]
    blind = [study.mean(study.blind, m) if study.blind and not by_loss else None for m in measures]
    levels: dict[Any, Sequence[float | None]] = {DASHES: estimates(blind)}
    levels |= {":": [study.majority(m) for m in measures]} if not by_loss else {}
    for style, level in levels.items():
        heights = [np.nan if value is None else value for value in level]
        if not np.isnan(heights).all():
            axis.plot(reach if alone else places, heights * 2 if alone else heights, color=GREY, linestyle=style, lw=1)
    ticks = list(measures) if by_loss else [m.split()[-1].removesuffix("-shot") for m in measures]
    slanted: dict[str, Any] = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    too_long = by_loss and len("".join(ticks)) > LONGEST_TICKS
    axis.set_xticks([] if alone else places, [] if alone else ticks, **slanted if too_long else {})
    axis.set_xlim(*reach)
    axis.margins(y=0.1)


def _losses(study: Study, arm: str, source: str) -> list[float]:
    rows = study.held_out
    return [float(loss) for loss in rows["loss"][(rows["arm"] == arm) & (rows["source"] == source)]]


def _legend(axis: Axes, study: Study, key: str, panel: Panel) -> None:
    colours = arm_colours(study.sweep)
    handles = []
    for order, (label, arm) in enumerate(panel.arms.items()):
        handles.append(Line2D([], [], color=colours[arm], marker=MARKERS[order % len(MARKERS)], label=label))
        if arm not in study.scored:
            handles[-1].set(linestyle="none", markerfacecolor="none", label=f"{label} (missing)")
    if study.blind in study.scored:
        handles.append(Line2D([], [], color=GREY, linestyle=DASHES, linewidth=1, label="blind control"))
    if any(study.majority(measure) is not None for measure in study.measures):
        handles.append(Line2D([], [], color=GREY, linestyle=":", linewidth=1, label="majority answer"))
    bounds = {number.bound for (panel_key, _, _), number in study.paper.values.items() if panel_key == key}
    for bound, marker, words in (("equal", "D", "MM1's own number"), ("above", "^", "MM1: more than this")):
        if bound in bounds:
            handles.append(Line2D([], [], color=DARK, marker=marker, mfc="white", ms=5, linestyle="none", label=words))
    beside = 1.02 if axis.axison else 0.0  # in the place of a column that the panel does not have
    axis.legend(handles=handles, loc="center left", bbox_to_anchor=(beside, 0.5), borderaxespad=0)


def draw_groups(study: Study, path: Path) -> list[Path]:
    """Draws a column per number of shots, a group per panel (resolution and image tokens), a colour per connector."""
    groups = list(study.panels.values())
    labels = list(dict.fromkeys(label for panel in groups for label in panel.arms))
    measures = [measure for measure in study.averages if measure != TEXT_CORE]
    with styled():
        figure = Figure(figsize=(WIDTH, 2.6), layout="constrained")
        axes = figure.subplots(1, len(measures), sharey=True, squeeze=False)[0]
        for axis, measure in zip(axes, measures, strict=True):
            for order, label in enumerate(labels):
                x = np.arange(len(groups)) + 0.22 * (order - (len(labels) - 1) / 2)
                points = [study.mean(panel.arms[label], measure) if label in panel.arms else None for panel in groups]
                look: dict[str, Any] = {"marker": MARKERS[order % len(MARKERS)], "color": PALETTE[order % len(PALETTE)]}
                look |= {"linestyle": "none", "elinewidth": 0.8, "label": label}
                axis.errorbar(x, estimates(points), half_widths(points), **look)
            axis.set_title(measure)
            ticks = [panel.title.replace(", ", "\n").removesuffix(" tokens") for panel in groups]
            axis.set_xticks(range(len(groups)), ticks)
            axis.set_xlim(-0.5, len(groups) - 0.5)
        axes[0].set_ylabel("points")
        axes[len(axes) // 2].set_xlabel("resolution, image tokens")
        axes[-1].legend(loc="center left", bbox_to_anchor=(1.02, 0.5), borderaxespad=0)
        unknown = "" if study.paper.values else "MM1's values could not be found."
        annotate_head(figure, head(study), f"{uncertainty_note(study)}.", study.caution, unknown)
        return save(figure, path)


def draw_arms(study: Study, path: Path) -> list[Path]:
    """Draws a row per arm and a column per main measure (all shots on one range), and MM1's numbers in the last one.

    Results of other families alone, such as imported scores, have a column each instead.
    """
    columns = study.averages or study.measures
    arms = [arm for arm in study.sweep.arms if study.representative(arm) == arm]
    paper = {measure: [study.paper_value(arm, measure) for arm in arms] for measure in columns}
    known = [measure for measure in columns if any(paper[measure])]
    with styled():
        figure = Figure(figsize=(WIDTH, 1.1 + 0.22 * len(arms)), layout="constrained")
        axes = figure.subplots(1, len(columns) + bool(known), sharey=True, squeeze=False)[0]
        shots = [axis for axis, measure in zip(axes, columns, strict=False) if measure != TEXT_CORE]
        for axis, measure in zip(axes, columns, strict=False):
            for row, arm in enumerate(arms):
                if point := study.mean(arm, measure):
                    colour = GREY if arm == study.blind else BLUE
                    reach = None if np.isnan(point.half_width) else point.half_width
                    axis.errorbar(point.estimate, row, xerr=reach, marker="o", color=colour, elinewidth=0.8)
            axis.set_title(measure)
            axis.set_xlabel("points")
            if axis in shots[1:]:
                axis.sharex(shots[0])
        for measure, marker in zip(known, MARKERS, strict=False):
            places = [(number.value, row) for row, number in enumerate(paper[measure]) if number]
            axes[-1].plot(*zip(*places, strict=True), marker=marker, color=DARK, mfc="white", lw=0, label=measure)
        if known:
            axes[-1].set_title("MM1's own numbers")
            axes[-1].set_xlabel("points on\nits benchmarks")
            axes[-1].legend(loc="center left", bbox_to_anchor=(1.02, 0.5), borderaxespad=0)
        for axis in axes:
            axis.grid(axis="x")
        axes[0].set_yticks(range(len(arms)), [arm if arm in study.scored else f"{arm} (missing)" for arm in arms])
        axes[0].set_ylim(len(arms) - 0.4, -0.6)
        annotate_head(figure, head(study), f"{uncertainty_note(study)}.", study.caution)
        return save(figure, path)
