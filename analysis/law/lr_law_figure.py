"""The figure of a learning-rate fit: scores over rates per size, and the optima over sizes with the law."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from analysis.law.lr_law import Fit, Law
from analysis.law.lr_points import Measurements
from analysis.law.optimum import Optimum
from analysis.style import DARK, DASHES, GREY, MARKERS, WIDTH, annotate_head, save, styled
from mm1_lab.config import PAPER_LAW, parse_count, short_count

MOST_CURVES = 12
"""Limit of cells in the left panel; with more, evenly spaced ones by size are shown."""
FARTHEST = 500.0
"""The largest |ln η| that is drawn: exp overflows beyond 709."""


def draw_law(measurements: Measurements, fits: Sequence[Fit], path: Path) -> list[Path]:
    """Draws a row per objective: on the left scores over η, a colour per size; on the right η* over N on log axes."""
    with styled(formulas=True):
        figure = Figure(figsize=(WIDTH, 1.0 + 2.9 * len(fits)), layout="constrained")
        grid = figure.subplots(len(fits), 2, squeeze=False, width_ratios=[1.15, 1])
        drawn: set[str] = set()
        for fit, (left, right) in zip(fits, grid, strict=True):
            groups = _groups(fit)
            drawn |= _draw_scores(left, fit, groups) | _draw_law(right, fit, groups)
        annotate_head(figure, f"Learning-rate law: {measurements.title}", _caption(drawn), *measurements.cautions)
        return save(figure, path)


def _caption(drawn: set[str]) -> str:
    """A caption that explains only the elements in `drawn`."""
    says = {
        "means": "Left: means over seeds, dots single runs",
        "scores": "Left: scores",
        "curves": "lines: the curve with the greatest weight",
        "optima": "below, optima with 95 % intervals",
        "ends": "open arrows: an interval that ends with the rates that were tried",
        "failed": "crosses: failed runs",
        "some": "not every size is shown",
        "right": "Right: optima with 95 % intervals",
        "open": "open: not bracketed, left out",
        "band": "line and band: the law and its 95 %",
        "lines": "lines: the law at these numbers of tokens, without its interval",
        "dotted": "dotted: 95 % of a prediction",
        "stars": "stars: predictions with their 95 %",
        "beyond": "filled arrows: intervals that go on beyond the panel",
        "paper": "dashed: MM1's Eq. 1",
    }
    parts = [text for key, text in says.items() if key in drawn]
    return "; ".join(parts).replace("; Right", ". Right") + "."


def sized(name: str, params: float) -> str:
    """`30B (31M here)` for a size of the paper that stands for a smaller one."""
    try:
        same = math.isclose(parse_count(name), params, rel_tol=0.01)
    except ValueError:  # a name, or a size with tokens
        same = True
    return name if same else f"{name} ({short_count(float(f'{params:.2g}'))} here)"


def _groups(fit: Fit) -> dict[str, tuple[Any, str]]:
    """Each cell's colour (by tokens if the law has them, else by size) and marker (by size)."""
    tokens = bool(fit.law and fit.law.with_tokens)
    warmth = {o.cell.name: (o.cell.tokens or 0.0) if tokens else o.cell.params for o in fit.optima}
    levels, sizes = sorted(set(warmth.values())), sorted({o.cell.params for o in fit.optima})
    return {
        o.cell.name: (
            colormaps["viridis"](0.05 + 0.75 * levels.index(warmth[o.cell.name]) / max(len(levels) - 1, 1)),
            MARKERS[sizes.index(o.cell.params) % len(MARKERS)],
        )
        for o in fit.optima
    }


def _draw_scores(axis: Axes, fit: Fit, groups: dict[str, tuple[Any, str]]) -> set[str]:
    sign = -1.0 if fit.objective.lower_is_better else 1.0
    places = sorted({round(place) for place in np.linspace(0, len(fit.optima) - 1, min(len(fit.optima), MOST_CURVES))})
    shown = [fit.optima[place] for place in places]
    drawn = {"some"} if len(shown) < len(fit.optima) else set()
    for optimum in shown:
        cell, curve, (colour, marker) = optimum.cell, optimum.curve, groups[optimum.cell.name]
        finite = np.isfinite(cell.scores)
        rates = np.unique(cell.log_rates[finite])
        means = np.array([cell.scores[finite & (cell.log_rates == rate)].mean() for rate in rates])
        axis.plot(np.exp(rates), sign * means, color=colour, marker=marker, label=sized(cell.name, cell.params),
                  linestyle="none" if curve else ":", linewidth=0.8)  # fmt: skip
        if len(rates) < finite.sum():
            dots = np.exp(cell.log_rates[finite]), sign * cell.scores[finite]
            axis.plot(*dots, ".", color=colour, markersize=2, alpha=0.6)
            drawn.add("means")
        if curve:
            along = np.linspace(curve.window[0], curve.window[1], 100)
            axis.plot(np.exp(along), sign * curve.value(along), color=colour, linewidth=1)
            drawn.add("curves")
    _limit_scores(axis, shown, sign)
    drawn |= _draw_optima(axis, shown, [groups[optimum.cell.name][0] for optimum in shown])
    axis.set_xscale("log")
    axis.set_xlabel("peak learning rate η")
    axis.set_ylabel(f"{fit.name}, {fit.objective.unit}" if fit.objective.unit else fit.name)
    columns = 4 if max(len(sized(o.cell.name, o.cell.params)) for o in shown) < 13 else 2
    axis.legend(fontsize=6, ncols=columns, loc="lower center", bbox_to_anchor=(0.5, 1.0), columnspacing=1)
    return drawn | ({"scores"} if "means" not in drawn else set())


def _draw_optima(axis: Axes, shown: Sequence[Optimum], colours: Sequence[Any]) -> set[str]:
    """Draws below the scores a line per optimum, with its interval, and the rates at which runs failed."""
    drawn = set()
    low, high = axis.get_ylim()
    step = 0.035 * (high - low)
    for order, (optimum, colour) in enumerate(zip(shown, colours, strict=True), 1):
        place = low - step * order
        failed = np.unique(optimum.cell.log_rates[~np.isfinite(optimum.cell.scores)])
        axis.plot(np.exp(failed), np.full(len(failed), place), "x", color=colour, markersize=3)
        drawn |= {"failed"} if len(failed) else set()
        if optimum.bracketed:
            axis.plot(np.exp([optimum.low, optimum.high]), [place, place], color=colour, linewidth=1)
            for end, arrow in _open_ends(optimum, "<>"):
                axis.plot(end, place, marker=arrow, color=colour, mfc="white", markersize=3)
                drawn.add("ends")
            axis.plot(math.exp(optimum.log_rate), place, marker="d", color=colour, markersize=3.5)
            drawn.add("optima")
    axis.set_ylim(low - step * (len(shown) + 1), high)
    return drawn


def _limit_scores(axis: Axes, shown: Sequence[Optimum], sign: float) -> None:
    """Limits the axis so that diverged runs with a finite score do not flatten everything else."""
    inside = []
    for optimum in shown:
        rates, scores = optimum.cell.log_rates, optimum.cell.scores
        low, high = optimum.curve.window if optimum.curve else (-np.inf, np.inf)
        inside.append(scores[np.isfinite(scores) & (rates >= low) & (rates <= high)])
    values = sign * np.concatenate(inside)
    if len(values):
        reach = 0.25 * float(np.ptp(values)) or 1.0
        low, high = axis.get_ylim()
        axis.set_ylim(max(low, float(values.min()) - reach), min(high, float(values.max()) + reach))


def _draw_law(axis: Axes, fit: Fit, groups: dict[str, tuple[Any, str]]) -> set[str]:
    drawn = {"right", "paper"}
    known = [optimum for optimum in fit.optima if math.isfinite(optimum.log_rate)]
    for optimum in known:
        (colour, marker), size, rate = groups[optimum.cell.name], optimum.cell.params, math.exp(optimum.log_rate)
        if optimum.cell.name in fit.used or optimum.bracketed:
            errors = [[rate - math.exp(optimum.low)], [math.exp(optimum.high) - rate]]
            axis.errorbar(size, rate, yerr=errors, marker=marker, color=colour, elinewidth=0.8)
            for end, arrow in _open_ends(optimum, "v^"):
                axis.plot(size, end, marker=arrow, color=colour, mfc="white", markersize=3)
        else:
            axis.plot(size, rate, marker=marker, color=colour, markerfacecolor="white", linestyle="none")
            drawn.add("open")
    sizes = [o.cell.params for o in fit.optima] + [target.params for target, _ in fit.predictions]
    along = np.geomspace(min(sizes) / 1.5, max(sizes) * 1.5, 80)
    paper = PAPER_LAW.slope * np.log(along) + PAPER_LAW.constant
    axis.plot(along, np.exp(paper), color=GREY, linestyle=DASHES, linewidth=1)
    if fit.law:
        drawn |= _draw_lines(axis, fit.law, along, groups)
    # room for optima, their intervals, predictions and Eq. 1, but not for a band of many decades
    ends = [end for optimum in known for end in (optimum.low, optimum.high, optimum.log_rate)]
    ends += [*(estimate.estimate for _, estimate in fit.predictions), *paper[[0, -1]]]
    lowest, highest = min(ends) - 0.7, max(ends) + 0.7
    drawn |= _draw_predictions(axis, fit, lowest, highest)
    axis.set(xscale="log", yscale="log", ylim=_rates(lowest, highest))
    axis.set(xlabel="non-embedding parameters N", ylabel="best η")
    axis.xaxis.set_minor_formatter(NullFormatter())
    if fit.law is None:
        axis.set_title("no law: fewer than three sizes are bracketed")
    else:
        powers = {name[3:]: e.estimate for name, e in fit.law.estimates().items() if name != "constant"}
        axis.set_title("η ∝ " + " ".join(f"{name}$^{{{power:.3f}}}$" for name, power in powers.items()))
    return drawn


def _draw_predictions(axis: Axes, fit: Fit, lowest: float, highest: float) -> set[str]:
    """Draws a star per prediction with its interval, and an arrow at an end of the panel, in ln η, that cuts it."""
    drawn = {"stars"} if fit.predictions else set()
    for target, estimate in fit.predictions:
        if math.isfinite(estimate.low):
            axis.plot([target.params] * 2, _rates(estimate.low, estimate.high), color="black", linewidth=0.8)
        place = target.params, math.exp(estimate.estimate)
        axis.plot(*place, marker="*", color="black", markersize=7, linestyle="none")
        axis.annotate(target.name, place, textcoords="offset points", xytext=(4, 4), fontsize=6)
    for target, estimate in fit.predictions:
        for edge, beyond, arrow in ((lowest, estimate.low < lowest, "v"), (highest, estimate.high > highest, "^")):
            if beyond:
                axis.plot(target.params, _rates(edge), marker=arrow, color="black", markersize=4, clip_on=False)
                drawn.add("beyond")
    return drawn


def _open_ends(optimum: Optimum, arrows: str) -> list[tuple[float, str]]:
    """The ends of an optimum's interval that are those of the rates tried, each with the arrow that points beyond."""
    tried = optimum.cell.log_rates
    ends = ((optimum.low, optimum.low <= tried.min() + 1e-6), (optimum.high, optimum.high >= tried.max() - 1e-6))
    return [(math.exp(end), arrow) for (end, cut), arrow in zip(ends, arrows, strict=True) if cut]


def _rates(*log_rates: float) -> Any:
    return np.exp(np.clip(log_rates, -FARTHEST, FARTHEST))


def _draw_lines(axis: Axes, law: Law, along: Any, groups: dict[str, tuple[Any, str]]) -> set[str]:
    """Draws the law with its bands, or if it has tokens a line each for the fewest, the median and the most tokens."""
    if law.with_tokens:
        colours = {o.cell.tokens: groups[o.cell.name][0] for o in law.optima if o.cell.tokens}
        counts = sorted(colours)
        for count in dict.fromkeys((counts[0], counts[len(counts) // 2], counts[-1])):
            values = [law.line(n, count).estimate for n in along]
            label = f"{short_count(count)} tokens"
            axis.plot(along, _rates(*values), color=colours[count], linewidth=1, label=label)
        axis.legend(fontsize=6, loc="lower left")
        return {"lines"}
    bands = [law.line(n) for n in along], [law.predict(n) for n in along]
    axis.plot(along, _rates(*(e.estimate for e in bands[0])), color="black", linewidth=1)
    if not law.freedom:
        return set()
    (low, high), sides = ([_rates(*(getattr(e, end) for e in each)) for end in ("low", "high")] for each in bands)
    axis.fill_between(along, low, high, color="#D9D9D9", linewidth=0, zorder=0)
    for side in sides:
        axis.plot(along, side, color=DARK, linestyle=":", linewidth=0.8)
    return {"band", "dotted"}
