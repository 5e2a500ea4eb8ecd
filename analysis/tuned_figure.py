"""The figure of instruction-tuned models (MM1, Fig. 6b and 6c): conversations and worked solutions."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.statistics import Interval
from analysis.study import Study
from analysis.style import GREY, MARKERS, PALETTE, WIDTH, annotate_head, save, styled
from mm1_lab.results.summary import CHAT

SOLUTIONS = "solutions"
MEAN = 1.6
"""Line width of means, thicker than that of single benchmarks."""


def draw_tuned(study: Study, path: Path, head: str) -> list[Path]:
    """Draws conversations by arm on the left (means per panel and single benchmarks), solutions by shots on the right.

    For MM1's Fig. 6b, the left axis is in percent of the first arm, as in the paper.
    """
    solutions = [measure for measure in study.measures if measure.startswith(f"{SOLUTIONS} ")]
    with styled():
        figure = Figure(figsize=(WIDTH, 3.0), layout="constrained")
        axes = figure.subplots(1, 1 + bool(solutions), squeeze=False, width_ratios=[1.4, 1][: 1 + bool(solutions)])[0]
        _conversations(axes[0], study, relative=study.sweep.reproduces == "Fig. 6b")
        if solutions:
            _solutions(axes[1], study, solutions)
        unknown = "MM1's values were never published." * bool(study.sweep.reproduces)
        annotate_head(figure, head, f"{study.uncertainty_note}.", study.caution, unknown)
        return save(figure, path)


def _conversations(axis: Axes, study: Study, relative: bool) -> None:
    labels = list(dict.fromkeys(label for panel in study.panels.values() for label in panel.arms))
    arms = {label: arm for panel in reversed(study.panels.values()) for label, arm in panel.arms.items()}
    names = study.scores["benchmark"][study.scores["family"] == "chat"].unique()
    singles = [[_level(study, arms[label], f"{name} 0-shot") for label in labels] for name in names]
    for number, heights in enumerate(singles):
        name = "single benchmarks" if number == 0 else None
        axis.plot(range(len(labels)), _scaled(heights, heights, relative), color=GREY, lw=0.5, alpha=0.7, label=name)
    for number, panel in enumerate(study.panels.values()):
        points = [study.mean(arm, CHAT) for arm in panel.arms.values()]
        heights = [point.estimate if point else np.nan for point in points]
        reach = [point.half_width if point else np.nan for point in points]
        look = {"color": PALETTE[number], "marker": MARKERS[number], "linewidth": MEAN, "elinewidth": 0.8}
        title = panel.title if len(study.panels) > 1 else "mean"
        places = [labels.index(label) for label in panel.arms]
        scaled = _scaled(heights, heights, relative)
        axis.errorbar(places, scaled, _scaled(reach, heights, relative), label=title, **look)  # type: ignore[arg-type]
    axis.set_xticks(range(len(labels)), [label.replace(" of ", "\nof ") for label in labels])
    axis.set_title("conversations, 0-shot")
    axis.set_ylabel(f"% of {labels[0]}" if relative else "points")
    axis.margins(y=0.15)
    axis.legend(fontsize=6, ncols=2, loc="upper right")


def _level(study: Study, arm: str, measure: str) -> float:
    return float(np.mean(study.seed_values(arm, measure) or [np.nan]))


def _scaled(values: Sequence[float], heights: Sequence[float], relative: bool) -> list[float]:
    """The values unchanged, or if `relative` in percent of the first height (NaN if that is 0)."""
    whole = heights[0] or np.nan
    return [100 * value / whole for value in values] if relative else list(values)


def _solutions(axis: Axes, study: Study, measures: Sequence[str]) -> None:
    shown = dict.fromkeys(arm for panel in study.panels.values() for arm in panel.arms.values())
    for number, arm in enumerate(shown):
        points: list[Interval | None] = [study.mean(arm, measure) for measure in measures]
        if not any(points):
            continue
        heights = [point.estimate if point else np.nan for point in points]
        aside = np.arange(len(measures)) + 0.06 * (number - len(shown) / 2)
        look = {"color": PALETTE[number % len(PALETTE)], "marker": MARKERS[number % len(MARKERS)], "elinewidth": 0.6}
        reach = [point.half_width if point else np.nan for point in points]
        axis.errorbar(aside, heights, reach, label=arm, **look)  # type: ignore[arg-type]
    axis.set_xticks(range(len(measures)), [measure.split()[-1].removesuffix("-shot") for measure in measures])
    axis.set_xlabel("worked solutions in the prompt")
    axis.set_title("solutions")
    axis.legend(fontsize=6)
