"""The figure of instruction-tuned models (MM1, Fig. 6b and 6c): conversations and worked solutions."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.pages.notes import uncertainty_note
from analysis.statistics import estimates, half_widths
from analysis.study import Study
from analysis.style import DASHES, GREY, MARKERS, PALETTE, WIDTH, annotate_head, save, styled
from mm1_lab.results.summary import CHAT

SOLUTIONS = "solutions"
MEAN = 1.6
"""Line width of means, thicker than that of single benchmarks."""
AXES = {
    "connector": "connector",
    "data_mix": "pre-training data",
    "frozen": "image encoder during tuning",
    "resolution": "resolution of images in tuning (px)",
    "sharp demonstrations": "resolution of images in tuning",
    "steps": "pre-training steps",
}
"""What the arms on the left are, by the sweep's axis; of any other, its name."""


def draw_tuned(study: Study, path: Path, head: str) -> list[Path]:
    """Draws conversations by arm on the left (means per panel and single benchmarks), solutions by shots on the right.

    Arms that are named by a number are joined by lines, as steps of one scale; others stand beside them.
    """
    solutions = [measure for measure in study.measures if measure.startswith(f"{SOLUTIONS} ")]
    with styled():
        figure = Figure(figsize=(WIDTH, 3.0), layout="constrained")
        axes = figure.subplots(1, 1 + bool(solutions), squeeze=False, width_ratios=[1.4, 1][: 1 + bool(solutions)])[0]
        below = _conversations(axes[0], study)
        if solutions:
            _solutions(axes[1], study, solutions)
        dashes = "Dashed: no arm is above the majority answer. " * below
        unknown = dashes + "MM1's values could not be found." * bool(study.sweep.reproduces)
        annotate_head(figure, head, f"{uncertainty_note(study)}.", study.caution, unknown)
        return save(figure, path)


def _conversations(axis: Axes, study: Study) -> bool:
    """Draws conversations by arm; whether a benchmark is dashed, because no arm is above its majority answer."""
    panels = list(study.panels.values())
    labels = list(dict.fromkeys(label for panel in panels for label in panel.arms))
    if any(map(_is_step, labels)):
        labels.sort(key=lambda label: not _is_step(label))  # what is no step of the scale stands last
    arms = {label: arm for panel in reversed(panels) for label, arm in panel.arms.items()}
    levels, dashed = _draw_benchmarks(axis, study, {label: arms[label] for label in labels})
    for number, panel in enumerate(panels):
        own = [label for label in labels if label in panel.arms]
        points = [study.mean(panel.arms[label], CHAT) for label in own]
        places, heights, steps = [labels.index(label) for label in own], estimates(points), _steps(own)
        colour, marker = PALETTE[number % len(PALETTE)], MARKERS[number % len(MARKERS)]
        axis.plot(places[:steps], heights[:steps], color=colour, linewidth=MEAN)
        title = panel.title if len(panels) > 1 else "mean"
        more: dict[str, Any] = {"marker": marker, "elinewidth": 0.8, "label": title, "linestyle": "none"}
        axis.errorbar(places, heights, half_widths(points), color=colour, **more)
    ticks = [label.replace(" of ", "\nof ") for label in labels]
    axis.set_xticks(range(len(labels)), ticks)
    axis.set_xlabel(AXES.get(study.sweep.axis, study.sweep.axis.replace("_", " ")))
    axis.set_xlim(-0.3, 1.3 * (len(labels) - 0.7))
    shared = len(labels) < sum(len(panel.arms) for panel in panels)  # then `arms` holds the first panel's
    axis.set_title("conversations, 0-shot; grey: single benchmarks" + f" ({panels[0].title})" * shared)
    axis.set_ylabel("points")
    axis.margins(y=0.1)
    axis.set_ylim(bottom=0)
    _name_lines(axis, len(labels) - 0.9, levels)
    below = -0.25 - 0.08 * max(tick.count("\n") for tick in ticks)  # a line of ticks takes 0.08 of the axes' height
    axis.legend(fontsize=6, ncols=3, loc="upper center", bbox_to_anchor=(0.5, below))
    return dashed


def _draw_benchmarks(axis: Axes, study: Study, arms: Mapping[str, str]) -> tuple[dict[str, float], bool]:
    """Draws a grey line per chat benchmark over `arms`, by label: steps of a scale first. Returns the height of each
    line at its right end, and whether one is dashed."""
    levels: dict[str, float] = {}
    dashed = False
    for name in study.scores["benchmark"][study.scores["family"] == "chat"].unique():
        measure = f"{name} 0-shot"
        heights = [float(np.mean(study.seed_values(arm, measure) or [np.nan])) for arm in arms.values()]
        majority = study.majority(measure)
        seen = majority is None or not np.nanmax([-np.inf, *heights]) <= majority
        dashed |= not seen
        look: dict[str, Any] = {"color": GREY, "lw": 0.5, "alpha": 0.7, "linestyle": "-" if seen else DASHES}
        steps = _steps(arms) if _steps(arms) > 1 else 0
        axis.plot(range(steps), heights[:steps], **look)
        for place in range(steps, len(arms)):  # short strokes
            axis.plot([place - 0.08, place + 0.08], [heights[place]] * 2, **look)  # shorter than to the names
        levels[str(name).removeprefix("chat-")] = heights[-1]
    return levels, dashed


def _is_step(label: str) -> bool:
    return label.isdigit()


def _steps(labels: Collection[str]) -> int:
    """How many labels, from the first, are steps of one scale: all of them if none is a number."""
    return sum(map(_is_step, labels)) or len(labels)


def _name_lines(axis: Axes, right: float, levels: Mapping[str, float]) -> None:
    """Writes each benchmark's name at the right end of its line, from low to high, each clear of the one below."""
    low, high = axis.get_ylim()
    gap, free = 0.045 * (high - low), -np.inf
    for name, level in sorted(levels.items(), key=lambda one: one[1]):
        if np.isfinite(level):
            free = max(level, free + gap)
            axis.plot([right - 0.1, right - 0.02], [level, free], color=GREY, linewidth=0.3)
            axis.annotate(name, (right, free), va="center", fontsize=5, color=GREY)


def _solutions(axis: Axes, study: Study, measures: Sequence[str]) -> None:
    shown = dict.fromkeys(arm for panel in study.panels.values() for arm in panel.arms.values())
    for number, arm in enumerate(shown):
        points = [study.mean(arm, measure) for measure in measures]
        if not any(points):
            continue
        aside = np.arange(len(measures)) + 0.06 * (number - (len(shown) - 1) / 2)
        own = number + len(study.panels)  # not a colour of the left, which are the panels'
        look = {"color": PALETTE[own % len(PALETTE)], "marker": MARKERS[own % len(MARKERS)], "elinewidth": 0.6}
        axis.errorbar(aside, estimates(points), half_widths(points), label=arm, **look)  # type: ignore[arg-type]
    axis.set_xticks(range(len(measures)), [measure.split()[-1].removesuffix("-shot") for measure in measures])
    majority = [study.majority(measure) for measure in measures]
    if all(level is not None for level in majority):
        axis.plot(range(len(measures)), majority, color=GREY, linestyle=":", linewidth=1, label="majority answer")  # type: ignore[arg-type]
    axis.set_xlabel("worked solutions in the prompt")
    axis.set_ylabel("points")
    axis.set_title("solutions")
    axis.set_ylim(bottom=0)
    axis.legend(fontsize=6, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.25))
