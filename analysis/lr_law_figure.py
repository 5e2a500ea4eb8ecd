"""The figure of a learning-rate fit: scores over rates a size, and the optima over sizes with the law."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.lr_fit import Fit
from analysis.lr_points import Measurements
from analysis.optimum import Optimum
from analysis.style import GREY, MARKERS, WIDTH, save, styled
from mm1_lab.config import PAPER_LAW, short_count

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DARK = "#444444"
DASHES = (0, (4, 2))
MOST_CURVES = 12
"""Cells that the left panel shows; of more, these at even distances by size."""


def draw_law(measurements: Measurements, fits: Sequence[Fit], path: Path) -> list[Path]:
    """A row an objective. Left: score against η, a colour a size. Right: η* against N, log axes."""
    from matplotlib.figure import Figure

    with styled():
        figure = Figure(figsize=(WIDTH, 0.9 + 2.6 * len(fits)), layout="constrained")
        grid = figure.subplots(len(fits), 2, squeeze=False, width_ratios=[1.15, 1])
        for fit, (left, right) in zip(fits, grid, strict=True):
            colours = _colours(fit)
            _scores(left, fit, colours)
            _law(right, fit, colours)
        figure.suptitle(f"Learning-rate law: {measurements.title}", fontsize=9, x=0.01, ha="left")
        note = (
            "Left: means over seeds (dots: single runs) with the curve that the optimum is the top of; below, optima "
            "with 95 % intervals; crosses: failed runs. Right: open symbols are not bracketed and left out; band: 95 % "
            "of the law, dotted: 95 % of a prediction; stars: predictions with theirs; dashed: MM1's Eq. 1."
        )
        figure.supxlabel(textwrap.fill(note, 150), fontsize=6, color=DARK, x=0.01, ha="left")
        return save(figure, path)


def _colours(fit: Fit) -> dict[str, Any]:
    """From cold to warm by size; cells of one size share a colour."""
    from matplotlib import colormaps

    sizes = sorted({optimum.cell.params for optimum in fit.optima})
    places = {size: 0.05 + 0.85 * place / max(len(sizes) - 1, 1) for place, size in enumerate(sizes)}
    return {o.cell.name: colormaps["viridis"](places[o.cell.params]) for o in fit.optima}


def _shown(fit: Fit) -> list[Optimum]:
    count = len(fit.optima)
    places = sorted({round(place) for place in np.linspace(0, count - 1, min(count, MOST_CURVES))})
    return [fit.optima[place] for place in places]


def _scores(axis: Axes, fit: Fit, colours: dict[str, Any]) -> None:
    sign = -1.0 if fit.objective.lower_is_better else 1.0
    shown = _shown(fit)
    for order, optimum in enumerate(shown):
        cell, colour = optimum.cell, colours[optimum.cell.name]
        finite = np.isfinite(cell.scores)
        rates = np.unique(cell.log_rates[finite])
        means = [cell.scores[finite & (cell.log_rates == rate)].mean() for rate in rates]
        axis.plot(np.exp(rates), sign * np.array(means), color=colour, marker=MARKERS[order % len(MARKERS)],
                  linestyle="none" if optimum.curve else ":", linewidth=0.8, label=cell.name)  # fmt: skip
        if len(rates) < finite.sum():
            axis.plot(
                np.exp(cell.log_rates[finite]), sign * cell.scores[finite], ".", color=colour, markersize=2, alpha=0.6
            )
        if optimum.curve:
            along = np.linspace(optimum.curve.rates[0], optimum.curve.rates[-1], 100)
            axis.plot(np.exp(along), sign * optimum.curve.value(along), color=colour, linewidth=1)
    _limit_scores(axis, shown, sign)
    low, high = axis.get_ylim()
    step = 0.035 * (high - low)
    for order, optimum in enumerate(shown):
        colour = colours[optimum.cell.name]
        place = low - step * (order + 1)
        failed = np.unique(optimum.cell.log_rates[~np.isfinite(optimum.cell.scores)])
        axis.plot(np.exp(failed), np.full(len(failed), place), "x", color=colour, markersize=3)
        if optimum.bracketed:
            axis.plot(np.exp([optimum.low, optimum.high]), [place, place], color=colour, linewidth=1)
            axis.plot(math.exp(optimum.log_rate), place, marker="d", color=colour, markersize=3.5)
    axis.set_ylim(low - step * (len(shown) + 1), high)
    axis.set_xscale("log")
    axis.set_xlabel("peak learning rate η")
    axis.set_ylabel(fit.name)
    if len(shown) > 6:
        axis.legend(fontsize=6, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.16), columnspacing=1)
    else:
        axis.legend(fontsize=6)
    if len(shown) < len(fit.optima):
        axis.set_title(f"{len(shown)} of {len(fit.optima)} cells")


def _limit_scores(axis: Axes, shown: Sequence[Optimum], sign: float) -> None:
    """Diverged runs that ended with a number may not flatten everything else."""
    inside = np.concatenate(
        [o.cell.scores[np.isfinite(o.cell.scores) & np.isin(o.cell.log_rates, o.curve.rates)] for o in shown if o.curve]
        or [o.cell.scores[np.isfinite(o.cell.scores)] for o in shown]
    )
    if len(inside):
        low, high = float((sign * inside).min()), float((sign * inside).max())
        reach = 0.25 * (high - low) or 1.0
        axis.set_ylim(max(axis.get_ylim()[0], low - reach), min(axis.get_ylim()[1], high + reach))


def _law(axis: Axes, fit: Fit, colours: dict[str, Any]) -> None:
    from matplotlib.ticker import NullFormatter

    used = {id(optimum) for optimum in fit.law.optima} if fit.law else set()
    for optimum in fit.optima:
        if not math.isfinite(optimum.log_rate):
            continue
        colour, size, rate = colours[optimum.cell.name], optimum.cell.params, math.exp(optimum.log_rate)
        if id(optimum) in used or optimum.bracketed:
            ends = np.exp([[optimum.log_rate - optimum.low], [optimum.high - optimum.log_rate]])
            errors = [[rate - rate / ends[0][0]], [rate * ends[1][0] - rate]]
            axis.errorbar(size, rate, yerr=errors, marker="o", color=colour, elinewidth=0.8)
        else:
            axis.plot(size, rate, marker="o", color=colour, markerfacecolor="white", linestyle="none")
    sizes = [o.cell.params for o in fit.optima] + [target.params for target, _ in fit.predictions]
    along = np.geomspace(min(sizes) / 1.5, max(sizes) * 1.5, 80)
    axis.plot(
        along, np.exp(PAPER_LAW.slope * np.log(along) + PAPER_LAW.constant), color=GREY, linestyle=DASHES, linewidth=1
    )
    limits = _rate_limits(fit, along)
    if fit.law:
        _band(axis, fit, along)
    for target, estimate in fit.predictions:
        if math.isfinite(estimate.low):
            ends = np.exp(np.clip([estimate.low, estimate.high], -500, 500))
            axis.plot([target.params] * 2, ends, color="black", linewidth=0.8)
        axis.plot(target.params, math.exp(estimate.value), marker="*", color="black", markersize=7, linestyle="none")
        axis.annotate(
            target.name,
            (target.params, math.exp(estimate.value)),
            textcoords="offset points",
            xytext=(4, 4),
            fontsize=6,
        )
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_ylim(*limits)
    axis.set_xlabel("non-embedding parameters N")
    axis.set_ylabel("best η")
    if fit.law is None:
        axis.set_title("no law: fewer than three sizes are bracketed")
    else:
        names = {"ln N": "N", "ln D": "D"}
        powers = " ".join(
            f"{names[name]}$^{{{e.value:.3f}}}$" for name, e in fit.law.estimates().items() if name in names
        )
        axis.set_title(f"η ∝ {powers}")


def _band(axis: Axes, fit: Fit, along: Any) -> None:
    law = fit.law
    assert law is not None
    token_counts: list[float | None] = [None]
    if law.with_tokens:
        tokens = sorted({o.cell.tokens for o in law.optima if o.cell.tokens})
        token_counts = [*dict.fromkeys((tokens[0], tokens[len(tokens) // 2], tokens[-1]))]
    for count in token_counts:
        line = [law.line(n, count) for n in along]
        axis.plot(along, np.exp([e.value for e in line]), color="black", linewidth=1)
        if count is not None:
            label = f"{short_count(count)} tokens"
            axis.annotate(label, (along[-1], math.exp(line[-1].value)), fontsize=6, ha="right", va="bottom")
        if math.isfinite(line[0].low) and len(token_counts) == 1:
            ends = np.clip([[e.low, e.high] for e in line], -500, 500).T
            axis.fill_between(along, np.exp(ends[0]), np.exp(ends[1]), color="#D9D9D9", linewidth=0, zorder=0)
            predicted = [law.predict(n, count) for n in along]
            for end in ([e.low for e in predicted], [e.high for e in predicted]):
                axis.plot(along, np.exp(np.clip(end, -500, 500)), color=DARK, linestyle=":", linewidth=0.8)


def _rate_limits(fit: Fit, along: Any) -> tuple[float, float]:
    """Room for optima, their intervals, predictions and Eq. 1, but not for a band of many decades."""
    ends = [end for o in fit.optima if math.isfinite(o.log_rate) for end in (o.low, o.high, o.log_rate)]
    ends += [estimate.value for _, estimate in fit.predictions]
    ends += [PAPER_LAW.slope * math.log(n) + PAPER_LAW.constant for n in (along[0], along[-1])]
    return math.exp(min(ends) - 0.7), math.exp(max(ends) + 0.7)
