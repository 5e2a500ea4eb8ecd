"""The figure of a sweep: a row per arm under the heading of its panel, a column per mean, a mark per shot count."""

import textwrap
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.pages.notes import few_seeds_note
from analysis.pages.scores import CONTROLS, Shown, as_shown, headed, lacking_seeds, shown_measures, shown_rows
from analysis.statistics import Interval, one_sample
from analysis.study import Study
from analysis.style import BASE, DARK, LEGEND_COLUMNS, MARKERS, SERIES, WIDTH, annotate_head, row_name
from mm1_lab.config import Measure
from mm1_lab.formatting import columns_of
from mm1_lab.results.summary import PLAIN

LABELS, LETTER = 1.7, 0.05
"""Inches for the names of arms at least, and of one of their letters."""
TITLE = 14
"""Characters on a line of a benchmark's name above its column."""
LEAST = 0.95
"""Inches of a column at least; a figure of many columns is wider than a page."""
ROW = 0.2
"""Inches of a row."""
MAJORITY = "majority answer"
Looks = dict[str, tuple[str, str, float]]
"""Colour, marker, and how far from the middle of a row, by number of shots; empty for what is over none."""


@dataclass(frozen=True)
class Column:
    """A column of the figure: its measures by number of shots, empty for a mean over none."""

    title: str
    measures: Mapping[str, Measure]
    kind: str = "points"
    """`points`, `loss` of the source in `measures`, or `paper` for the numbers that MM1 states."""


def draw_scores(study: Study) -> Figure:
    """Draws every arm's means with their intervals, the controls below them, and MM1's own numbers on an axis of their
    own, as they are of other benchmarks and sizes."""
    columns = _columns(study)
    lines = _lines(study)
    shots = list(dict.fromkeys(name for column in columns for name in column.measures if name))
    looks = _looks(shots)
    figure, axes = _empty_rows(lines, len(columns))
    rows = {height: row for height, (_, row) in enumerate(lines) if row}
    for axis, column in zip(axes, columns, strict=True):
        axis.set_title(column.title, color=DARK)
        axis.set_xlabel("nats per token" if column.kind == "loss" else "points")
        axis.tick_params(axis="y", length=0)
        axis.grid(axis="x")
        axis.margins(x=0.12)
        for height in range(len(lines)):
            if height not in rows:
                axis.axhspan(height - 0.5, height + 0.5, color="#EFEFEF", linewidth=0, zorder=0)
        _draw_column(axis, study, column, rows, looks)
    if len(shots) > 1:
        handles = []
        for name in shots:
            colour, marker, _ = looks[name]
            handles.append(Line2D([], [], linestyle="none", label=f"{name}-shot", color=colour, marker=marker))
        figure.legend(handles=handles, loc="outside upper right", ncols=min(len(handles), LEGEND_COLUMNS))
    annotate_head(figure, head(study), *_notes(study), few_seeds_note(study), study.caution)
    return figure


def _empty_rows(lines: Sequence[tuple[str, Shown | None]], columns: int) -> tuple[Figure, Sequence[Axes]]:
    """A figure with so many columns, and a row for each of `_lines`, headings in bold."""
    names = [row_name(label) for label, _ in lines]
    longest = max(columns_of(line) for name in names for line in name.split("\n"))
    width = max(WIDTH, max(LABELS, LETTER * longest) + LEAST * columns)
    figure = Figure(figsize=(width, 1.3 + ROW * len(lines)), layout="constrained")
    axes = figure.subplots(1, columns, sharey=True, squeeze=False)[0]
    axes[0].set_yticks(range(len(lines)), names)
    axes[0].set_ylim(len(lines) - 0.4, -0.6)
    for text, (_, row) in zip(axes[0].get_yticklabels(), lines, strict=True):
        text.set_fontweight("normal" if row else "bold")
        if "\n" in text.get_text():
            text.set_linespacing(0.9)
    return figure, axes


def _notes(study: Study) -> list[str]:
    notes = ["No intervals below three seeds (`table.md` says why)."]
    if study.shows_intervals:
        notes = [f"Lines: 95 % intervals over {study.uncertainty}, to compare arms by eye (`table.md` says how)."]
    lacking = [arm for arm in study.requested if study.representative(arm) not in study.scored]
    if lacking and not study.sweep.panels:
        notes.append(f"Without scores: {', '.join(lacking)}.")
    if any(number.bound == "above" for number in study.paper.values.values()):
        notes.append("MM1's triangles that point right: more than this.")
    return notes


def head(study: Study) -> str:
    """A figure's title: the sweep, its setting, and how many settings were overridden."""
    overridden = study.manifest.overrides
    if len(overridden) > 4:
        overridden = (*overridden[:3], f"{len(overridden) - 3} more settings (table.md)")
    return headed(study, ", ", *overridden)


def _columns(study: Study) -> list[Column]:
    not_drawn = {"novel"}  # a probe that all arms fail; its scores are in the tables
    if "chat" in study.families and study.are_tuned:  # what they were tuned for
        not_drawn |= set(PLAIN)
        if not any(arm.sft and arm.sft.replay for arm in study.sweep.arms.values()):  # for what pre-training taught
            not_drawn.add("")
    by_name: dict[str, dict[str, Measure]] = {}
    for measure in shown_measures(study):
        if measure.of not in not_drawn:
            shots = "" if measure.shots is None else str(measure.shots)
            by_name.setdefault(measure.of, {})[shots] = measure
    columns = []
    if not study.manifest.in_world:
        for source in study.held_out["source"].unique():
            loss = Measure(str(source), about="loss")
            title = textwrap.fill(f"{source},".replace("instructions.", "instructions. "), TITLE)
            columns.append(Column(f"{title}\nheld-out loss\n(less is better)", {"": loss}, "loss"))
    for name, by_shots in by_name.items():
        title = textwrap.fill(name, TITLE)
        if name in study.families:
            title = textwrap.fill(study.families[name], 10, break_long_words=False)
        columns.append(Column(title, by_shots))
    published = {measure for _, _, measure in study.paper.values}
    means = [measure for measure in study.measures if not measure.of]
    paper = {str(mean.shots): mean for mean in means if str(mean) in published}
    if paper:
        columns.append(Column("MM1's own\nnumbers", paper, "paper"))
    return columns


def _lines(study: Study) -> list[tuple[str, Shown | None]]:
    """Labels with their rows, which headings lack; last the majority answer, of no arm, among the controls."""
    rows = shown_rows(study)
    if not study.sweep.panels:  # whose arms somebody chose
        rows = [row for row in rows if study.representative(row.arm) == row.arm and row.arm in study.scored]
    if not np.isnan([study.majority(measure) for measure in study.measures]).all():
        rows.append(Shown("control", MAJORITY, "", CONTROLS))
    lines: list[tuple[str, Shown | None]] = []
    above = ""
    for row in rows:
        if row.heading != above and row.panel:
            lines.append((row.heading, None))
        above = row.heading
        lines.append((row.label + _remark(study, row), row))
    return lines


def _remark(study: Study, row: Shown) -> str:
    if not row.arm:
        return ""
    if study.representative(row.arm) not in study.scored:
        return " (no scores)"
    lacking = lacking_seeds(study, row.arm)
    if row.arm in study.controls:
        return f" (reads text, no pictures){lacking}"
    is_base = study.sweep.arms[row.arm] == study.sweep.base and row.label != "base"
    same = [] if study.sweep.panels else [arm for arm in study.scored if study.representative(arm) == row.arm]
    alike = "".join(f" = {arm}" for arm in same if arm != row.arm)
    return alike + (" (base)" if is_base else "") + lacking


def _draw_column(axis: Axes, study: Study, column: Column, rows: Mapping[int, Shown], looks: Looks) -> None:
    """Draws in each row, by its height, a mark with its interval for each number of shots, beside each other."""
    for name, measure in column.measures.items():
        colour, usual, shift = looks[name]
        marks = defaultdict[str, list[tuple[float, float]]](list)
        bars = []
        for height, row in rows.items():
            at = height + shift
            marker, point = _mark(study, column.kind, measure, row, usual)
            if np.isnan(point.estimate):
                continue
            marks[marker].append((point.estimate, at))
            if as_shown(study, point):
                bars += [(point.low, at), (point.high, at), (np.nan, np.nan)]
        # one call for all rows, as each makes an object that is laid out and drawn by itself
        fill = "white" if column.kind == "paper" else colour
        for marker, places in marks.items():
            axis.plot(*zip(*places, strict=True), marker=marker, color=colour, mfc=fill, linestyle="none", zorder=2)
        if bars:  # over the markers, which are often wider
            axis.plot(*zip(*bars, strict=True), color=BASE, linewidth=0.9, zorder=3)


def _mark(study: Study, kind: str, measure: Measure, row: Shown, marker: str) -> tuple[str, Interval]:
    """The marker of a row, and its value; UNKNOWN if there is none."""
    if kind == "paper":
        number = study.paper.value(row.panel, row.label, measure)
        return ">" if number.bound == "above" else marker, Interval(number.value)
    if not row.arm:
        return "|", Interval(study.majority(measure) if kind == "points" else np.nan)
    if kind == "loss":
        return marker, one_sample(study.seed_values(row.arm, measure))
    return marker, study.mean(row.arm, measure)


def _looks(shots: list[str]) -> Looks:
    looks = {"": (DARK, "o", 0.0)}  # no number of shots has this colour
    for number, name in enumerate(shots):
        shift = 0.52 * (number / max(len(shots) - 1, 1) - 0.5)
        looks[name] = SERIES[number % len(SERIES)], MARKERS[number % len(MARKERS)], shift
    return looks
