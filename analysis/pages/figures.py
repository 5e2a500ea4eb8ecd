"""The figure of a sweep: a row per arm under the heading of its panel, a column per mean, a mark per shot count."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.pages.scores import CONTROLS, Shown, shown_measures, shown_rows
from analysis.statistics import Interval, mean_of
from analysis.study import Study
from analysis.style import BASE, BLUE, DARK, MARKERS, SERIES, WIDTH, annotate_head
from mm1_lab.results.summary import PLAIN, TEXT_CORE

LABELS = 1.7
"""Inches for the names of arms."""
LEAST = 0.95
"""Inches of a column at least; a figure of many columns is wider than a page."""
ROW = 0.2
"""Inches of a row."""
TITLES = {
    "all image benchmarks": "all image\nbenchmarks",
    "captioning (CIDEr)": "captioning\n(CIDEr)",
    "choice by likelihood": "choice by\nlikelihood",
    "worked solutions": "worked\nsolutions",
}
"""Titles of columns that take two lines."""


@dataclass(frozen=True)
class Column:
    """A column of the figure: its measures by number of shots, empty for a mean over none."""

    title: str
    measures: Mapping[str, str]
    kind: str = "points"
    """`points`, `loss` of the source in `measures`, or `paper` for the numbers that MM1 states."""


def draw_scores(study: Study) -> Figure:
    """Draws every arm's means with their intervals, the controls below them, and MM1's own numbers on an axis of their
    own, as they are of other benchmarks and sizes."""
    columns, rows = _columns(study), shown_rows(study)
    places, labels, headings = _places(study, rows)
    width = max(WIDTH, LABELS + LEAST * len(columns))
    figure = Figure(figsize=(width, 1.3 + ROW * len(labels)), layout="constrained")
    axes = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    shots = list(dict.fromkeys(name for column in columns for name in column.measures if name))
    for axis, column in zip(axes, columns, strict=True):
        for row, place in zip(rows, places, strict=True):
            _draw_row(axis, study, column, row, place, shots)
        _draw_majority(axis, study, column, len(labels) - 1, shots)
        axis.set_title(TITLES.get(column.title, column.title), color=DARK)
        axis.set_xlabel("nats per token" if column.kind == "loss" else "points")
        axis.grid(axis="x")
        axis.margins(x=0.12)
        for heading in headings:
            axis.axhspan(heading - 0.5, heading + 0.5, color="#EFEFEF", linewidth=0, zorder=0)
    axes[0].set_yticks(range(len(labels)), labels)
    axes[0].set_ylim(len(labels) - 0.4, -0.6)
    for place, label in enumerate(axes[0].get_yticklabels()):
        label.set_fontweight("bold" if place in headings else "normal")
    for axis in axes:
        axis.tick_params(axis="y", length=0)
    handles = []
    for name in shots:
        colour, marker = _look(name, shots)
        handles.append(Line2D([], [], linestyle="none", label=f"{name}-shot", color=colour, marker=marker))
    if len(shots) > 1:
        figure.legend(handles=handles, loc="outside upper right", ncols=len(handles))
    notes = [f"Lines: 95 % intervals over {study.uncertainty}, to compare arms by eye (`table.md` says how)."]
    if any(number.bound == "above" for number in study.paper.values.values()):
        notes.append("MM1's triangles: more than this.")
    annotate_head(figure, head(study), *notes, study.caution)
    return figure


def head(study: Study) -> str:
    """A figure's title: the sweep, its setting, and how many settings were overridden."""
    overridden = study.manifest.overrides
    if len(overridden) > 4:
        overridden = (*overridden[:3], f"{len(overridden) - 3} more settings (table.md)")
    return ", ".join([study.sweep.heading, study.setting, *overridden])


def _columns(study: Study) -> list[Column]:
    columns = []
    if not study.manifest.in_world:
        for source in study.held_out["source"].unique():
            columns.append(Column(f"{source},\nheld-out loss\n(less is better)", {"": str(source)}, "loss"))
    if TEXT_CORE in study.measures:
        columns.append(Column(TEXT_CORE, {"": TEXT_CORE}))
    measures, families = shown_measures(study), study.families
    if "chat" in families:  # of tuned models, what they were tuned for
        families = {name: title for name, title in families.items() if name not in ("", *PLAIN)}
    for family, title in families.items():
        by_shots = {str(shots): f"{family} {shots}-shot".strip() for shots in study.shots}
        known = {shots: measure for shots, measure in by_shots.items() if measure in measures}
        if known and family != "novel":  # a probe that all arms fail; its scores are in the tables
            columns.append(Column(title, known))
    own: dict[str, dict[str, str]] = {}
    for measure in measures:
        if measure in study.measures:
            continue
        name, _, shots = measure.rpartition(" ")
        own.setdefault(name, {})[shots.removesuffix("-shot")] = measure
    columns += [Column(name, by_shots) for name, by_shots in own.items()]
    published = {measure for _, _, measure in study.paper.values}
    paper = {measure.removesuffix("-shot"): measure for measure in study.averages if measure in published}
    paper.pop(TEXT_CORE, None)
    return columns + ([Column("MM1's own\nnumbers", paper, "paper")] if paper else [])


def _places(study: Study, rows: list[Shown]) -> tuple[list[int], list[str], set[int]]:
    """The place of each row; the words at all places, headings and the majority answer included; where headings are."""
    places: list[int] = []
    labels: list[str] = []
    headings: set[int] = set()
    last = ""
    for row in rows:
        if row.heading != last and row.panel:
            headings.add(len(labels))
            labels.append(row.heading)
        last = row.heading
        places.append(len(labels))
        labels.append(row.label + _remark(study, row.arm))
    if last != CONTROLS and any(study.majority(measure) is not None for measure in study.measures):
        headings.add(len(labels))
        labels.append(CONTROLS)
    labels.append("majority answer")
    return places, labels, headings


def _remark(study: Study, arm: str) -> str:
    if study.representative(arm) not in study.scored:
        return " (no scores)"
    if arm in study.controls:
        return " (reads text, no pictures)"
    return " (base)" if study.sweep.arms[arm] == study.sweep.base else ""


def _draw_row(axis: Axes, study: Study, column: Column, row: Shown, place: int, shots: list[str]) -> None:
    for name, measure in column.measures.items():
        height = place + _aside(name, shots)
        colour, marker = _look(name, shots)
        if column.kind == "paper":
            number = study.paper.value(row.panel, row.label, measure)
            if number:
                marker = ">" if number.bound == "above" else marker
                axis.plot(number.value, height, marker=marker, color=colour, mfc="white", linestyle="none")
            continue
        point = _loss(study, row.arm, measure) if column.kind == "loss" else study.mean(row.arm, measure)
        if point is None:
            continue
        axis.plot(point.estimate, height, marker=marker, color=colour, linestyle="none", zorder=2)
        if np.isfinite(point.half_width):  # over the marker, which is often wider
            axis.plot([point.low, point.high], [height, height], color=BASE, linewidth=0.9, zorder=3)


def _draw_majority(axis: Axes, study: Study, column: Column, place: int, shots: list[str]) -> None:
    for name, measure in column.measures.items():
        level = study.majority(measure) if column.kind == "points" else None
        if level is not None:
            axis.plot(level, place + _aside(name, shots), marker="|", color=_look(name, shots)[0], linestyle="none")


def _loss(study: Study, arm: str, source: str) -> Interval | None:
    rows = study.held_out[(study.held_out["arm"] == arm) & (study.held_out["source"] == source)]
    return mean_of(rows["loss"].tolist())


def _look(name: str, shots: list[str]) -> tuple[str, str]:
    """Colour and marker of a number of shots."""
    if not name:
        return BLUE, "o"
    number = shots.index(name)
    return SERIES[number % len(SERIES)], MARKERS[number % len(MARKERS)]


def _aside(name: str, shots: list[str]) -> float:
    """How far a mark is from the middle of its row, so that numbers of shots do not hide each other."""
    return 0.26 * (shots.index(name) / max(len(shots) - 1, 1) - 0.5) * 2 if name else 0.0
