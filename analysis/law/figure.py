"""The figure of a learning-rate fit: scores over rates per size, and the optima over sizes with the law."""

import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from numpy.polynomial import Polynomial

from analysis.law.fit import Fit, Law, is_vague, to_rates
from analysis.law.runs import Runs
from analysis.style import DARK, DASHES, GREY, MARKERS, WIDTH, annotate_head
from mm1_lab.config import PAPER_LAW
from mm1_lab.formatting import short_count

CAPTION = (
    "Left: single runs; lines: the fitted cubics; diamonds: optima with 95 % intervals. Right: the same optima (open: "
    "not bracketed, left out); lines: the law with its 95 %; dashed: MM1's Eq. 1."
)
PREDICTED = "Stars: predictions; their bars: 95 % for what a search at that size would find."
FAILED = "Crosses at the edge: failed runs."


def draw_law(runs: Runs, fits: Sequence[Fit], targets: Mapping[str, float]) -> Figure:
    """Draws a row per objective: on the left scores over η, a colour per size; on the right η* over N on log axes."""
    figure = Figure(figsize=(WIDTH, 1.0 + 2.9 * len(fits)), layout="constrained")
    grid = figure.subplots(len(fits), 2, squeeze=False, width_ratios=[1.15, 1])
    for fit, (left, right) in zip(fits, grid, strict=True):
        colours = colormaps["viridis"](np.linspace(0.05, 0.8, len(fit.optima)))
        _draw_scores(left, fit, colours)
        _draw_law(right, fit, targets, colours)
    notes = [CAPTION]
    if targets:
        notes.append(PREDICTED)
    if any(optimum.cell.failed.any() for fit in fits for optimum in fit.optima):
        notes.append(FAILED)
    annotate_head(figure, f"Learning-rate law: {runs.title}", *notes, *runs.cautions)
    return figure


def sized(name: str, params: float) -> str:
    """`30B (31M here)` for a size of the paper that stands for a smaller one."""
    here = short_count(float(f"{params:.2g}"))
    return name if name in (here, short_count(params)) else f"{name} ({here} here)"


def under_one_name(targets: Mapping[str, float]) -> dict[str, float]:
    """The sizes of equal N as one: `3B, 3B-MoE`."""
    names: dict[float, list[str]] = {}
    for name, params in targets.items():
        names.setdefault(params, []).append(name)
    return {", ".join(alike): params for params, alike in names.items()}


def _draw_scores(axis: Axes, fit: Fit, colours: Any) -> None:
    sign = -1.0 if fit.objective.lower_is_better else 1.0
    for optimum, colour, marker in zip(fit.optima, colours, cycle(MARKERS), strict=False):
        cell = optimum.cell
        label = sized(cell.name, cell.params)
        axis.plot(
            np.exp(cell.log_rates),
            sign * cell.scores,
            label=label,
            color=colour,
            marker=marker,
            markersize=2.4,
            linestyle="none",
        )
        failed = np.exp(cell.log_rates[cell.failed])
        edge = np.full(len(failed), 0.98 if fit.objective.lower_is_better else 0.02)  # that of the worst scores
        axis.plot(failed, edge, "x", color=colour, markersize=3.5, transform=axis.get_xaxis_transform())
        if optimum.coefficients is None:
            continue
        curve = sign * Polynomial(optimum.coefficients)
        along = np.linspace(*optimum.window, 100)
        axis.plot(np.exp(along), curve(along - optimum.grid_best), color=colour, linewidth=1)
        if optimum.needs:
            continue
        top = curve(optimum.log_rate - optimum.grid_best)
        ends = to_rates([optimum.low, optimum.high])
        axis.plot(ends, [top, top], color=colour, linewidth=2, alpha=0.4)
        axis.plot(np.exp(optimum.log_rate), top, marker="d", color=colour, mec="black", markersize=4)
    axis.set_xscale("log")
    axis.set_xlabel("peak learning rate η")
    unit = fit.objective.unit
    axis.set_ylabel(f"{fit.objective.column}, {unit}" if unit else fit.objective.column, parse_math=False)
    legend = axis.legend(fontsize=6, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0), columnspacing=1)
    for text in legend.get_texts():
        text.set_parse_math(False)


def _draw_law(axis: Axes, fit: Fit, targets: Mapping[str, float], colours: Any) -> None:
    sizes = [optimum.cell.params for optimum in fit.optima]
    sizes += targets.values()
    along = np.geomspace(min(sizes) / 1.5, max(sizes) * 1.5, 80)
    paper = PAPER_LAW.slope * np.log(along) + PAPER_LAW.constant
    axis.plot(along, np.exp(paper), color=GREY, linestyle=DASHES, linewidth=1)
    shown = [paper[0], paper[-1]]
    for optimum, colour in zip(fit.optima, colours, strict=True):
        if not math.isfinite(optimum.log_rate):
            continue
        params, ends = optimum.cell.params, [optimum.low, optimum.high]
        shown += ends
        axis.plot([params, params], to_rates(ends), color=colour, linewidth=0.8)
        fill = "white" if optimum.needs else colour
        axis.plot(params, math.exp(optimum.log_rate), marker="o", color=colour, mfc=fill)
    if fit.law:
        axis.set_title(f"η ∝ N$^{{{fit.law.slope.estimate:.3f}}}$")
        line = [fit.law.line(params) for params in along]
        axis.plot(along, to_rates([point.estimate for point in line]), color="black", linewidth=1)
        axis.plot(along, to_rates([[point.low, point.high] for point in line]), color=DARK, linewidth=0.8)
        stars = under_one_name(targets)
        lifted = _lifted(stars, fit.law, math.log(along[-1] / along[0]))
        for name, params in stars.items():
            predicted = fit.law.predict(params)
            if is_vague(predicted):
                continue
            ends = [predicted.low, predicted.high]
            shown += ends
            place = params, math.exp(predicted.estimate)
            axis.plot([params, params], to_rates(ends), color="black", linewidth=0.8)
            axis.plot(*place, marker="*", color="black", markersize=7)
            above = (4, 4 + 7 * lifted[name])
            axis.annotate(name, place, textcoords="offset points", xytext=above, fontsize=6, parse_math=False)
    else:
        axis.set_title("no law: fewer than three sizes are bracketed")
    axis.set_xscale("log")
    axis.set_yscale("log")
    # room for optima, predictions and Eq. 1, but not for intervals of many decades
    axis.set_ylim(to_rates([min(shown) - 0.7, max(shown) + 0.7]))
    axis.set_xlabel("non-embedding parameters N")
    axis.set_ylabel("best η")
    axis.xaxis.set_minor_formatter(NullFormatter())


def _lifted(stars: Mapping[str, float], law: Law, span: float) -> dict[str, int]:
    """The lines by which each star's name is lifted above those of stars so near that they would overprint it, on an
    axis of `span` in ln N. The lowest star's is not."""
    lifted: dict[str, int] = {}
    for name, params in sorted(stars.items(), key=lambda star: law.line(star[1]).estimate):
        near = 0.02 * len(name) * span  # a letter is a fiftieth of the axis
        lines = [lines + 1 for other, lines in lifted.items() if abs(math.log(params / stars[other])) < near]
        lifted[name] = max(lines, default=0)
    return lifted
