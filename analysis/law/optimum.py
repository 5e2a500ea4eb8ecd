"""The best learning rate of one model size: the top of a cubic in ln η, with a bootstrap interval.

docs/learning-rate-law.md explains the choices and shows how often the intervals contain the truth.
"""

from dataclasses import dataclass, replace
from statistics import median_low

import numpy as np
import pandas as pd
from numpy.polynomial.polynomial import polyval
from numpy.typing import NDArray

from analysis.statistics import Floats

REACH = float(np.log(5.0))
"""The cubic is fitted within this distance in ln η of the best rate. Scores farther away do not follow a cubic."""
FEWEST_FITTED = 5
"""Rates that are fitted however far apart they are: a cubic through four of them leaves no residual."""
CLIFF = 5.0
"""A cliff is a drop above the best rate this many times the largest drop below it at a comparable distance."""
DRAWS = 2000


@dataclass(frozen=True)
class Cell:
    """The runs of one model size. They differ in learning rate and seed."""

    name: str
    params: float
    log_rates: Floats
    """(runs,)"""
    scores: Floats
    """(runs,), higher is better; not finite for failed runs."""
    seeds: NDArray[np.int64]
    """(runs,); −1 if unknown."""

    @property
    def failed(self) -> NDArray[np.bool_]:
        return ~np.isfinite(self.scores)

    @property
    def seeds_per_rate(self) -> int:
        """At the rate with the fewest; 1 if seeds are unknown."""
        return int(pd.Series(self.seeds).groupby(self.log_rates).nunique().min())


@dataclass(frozen=True)
class Optimum:
    """The best learning rate of a cell, in ln η; NaN if no score is finite or none is better than another."""

    cell: Cell
    log_rate: float = np.nan
    low: float = np.nan
    high: float = np.nan
    """The 95 % interval; to the neighbouring rates if the runs leave no estimate of the noise, and to the cliff if the
    scores may still rise at the last rate before it."""
    grid_best: float = np.nan
    """The best rate that was tried."""
    needs: str = ""
    """The rates to try so that a worse score or a cliff bounds the optimum on either side; empty if it is bracketed."""
    finer: str = ""
    """The rates to try between the last good one and the cliff, if the best is the last one."""
    gap: float = 0.0
    """How far above `log_rate` the cliff is, if `log_rate` is the last rate before it; otherwise 0."""
    window: tuple[float, float] = (np.nan, np.nan)
    """The first and last rate that the curve is fitted to."""
    coefficients: Floats | None = None
    """The curve in ln η − grid_best, lowest power first; None with fewer than three rates."""


def find_optimum(cell: Cell) -> Optimum:
    """The optimum of a cell."""
    at_rates = pd.Series(_without_luck(cell)).groupby(cell.log_rates)
    # a rate at which half of the seeds fail is no rate to train at
    is_failed = at_rates.count() * 2 <= at_rates.size()
    failed = is_failed.index[is_failed].to_numpy()
    means = at_rates.mean()[~is_failed]
    if means.empty:
        return Optimum(cell, needs=f"rates below {np.exp(failed[0]):.3g}: every run failed")
    rates = means.index.to_numpy()
    drops = np.asarray(means.max() - means, np.float64)
    peak = float(median_low(rates[drops == 0]))
    cliff = _cliff(rates, drops, peak, failed)

    needs = []
    if not drops[rates < peak].any():
        needs.append(f"rates below {np.exp(rates[0]):.3g}")
    if cliff == np.inf and not drops[rates > peak].any():
        needs.append(f"rates above {np.exp(rates[-1]):.3g}")
    if len(rates) > 1 and not drops.any():  # none of them is better than another
        return Optimum(cell, needs=" and ".join(needs))

    usable = rates[rates < cliff]
    place = int(np.searchsorted(usable, peak))
    last = float(usable[-1])
    low = float(usable[max(place - 1, 0)])
    if peak < last:
        high = float(usable[place + 1])
    else:
        high = cliff if cliff < np.inf else last
    optimum = Optimum(cell, peak, low, high, peak, " and ".join(needs))
    if len(usable) >= 3:
        near = np.abs(usable - peak) <= REACH
        start = max(min(place - FEWEST_FITTED // 2, len(usable) - FEWEST_FITTED), 0)
        near[start : start + FEWEST_FITTED] = True
        optimum = _interpolated(optimum, usable[near], cliff if near[-1] else np.inf)
    is_last = bool(np.isclose(optimum.log_rate, last))
    if cliff == np.inf or not (is_last or peak == last):  # noise alone may let the interval extend to the cliff
        return optimum
    why = "as runs beyond diverge" if cliff in failed else "as scores drop steeply beyond"
    finer = f"rates between {np.exp(last):.3g} and {np.exp(cliff):.3g}, {why}"
    return replace(optimum, finer=finer, gap=cliff - last if is_last else 0.0)


def _without_luck(cell: Cell) -> Floats:
    """The scores, NaN for failed runs; where rates have different seeds, without what each seed adds at all rates."""
    scores = np.where(cell.failed, np.nan, cell.scores)
    known = ~cell.failed
    rates = pd.get_dummies(cell.log_rates[known]).to_numpy(np.float64)
    runs = rates.T @ pd.get_dummies(cell.seeds[known]).to_numpy(np.float64)
    if runs.size and np.ptp(runs):
        offsets = _seed_offsets(cell.seeds[known])
        effects = np.linalg.pinv(np.hstack([rates, offsets])) @ scores[known]
        scores[known] -= offsets @ effects[len(runs) :]
    return scores


def _cliff(rates: Floats, drops: Floats, peak: float, failed: Floats) -> float:
    """The first rate above the peak at which half of the runs failed, or the score has dropped far more than it drops
    below the peak; infinite if there is none."""
    bounds = [np.inf, *failed[failed > peak]]
    below, above = rates < peak, rates > peak
    if below.any():
        # two rates below, however far: a curve whose top is right of the best rate drops little to the first
        below &= rates >= min(peak - REACH, *rates[below][-2:])
        # a smooth curve drops with the square of the distance, so a rate twice as far may drop four times as much
        farther = np.maximum((rates[above] - peak) / (peak - rates[below][0]), 1.0)
        fallen = drops[above] > CLIFF * drops[below].max() * farther**2
        bounds += [*rates[above][fallen]]
    return float(min(bounds))


def _interpolated(optimum: Optimum, window: Floats, cliff: float) -> Optimum:
    """The optimum at the top of a cubic through the runs at the window's rates, with the interval of its bootstrap.

    `cliff` is the rate after the window's last if that is a cliff, and otherwise infinite.
    """
    cell, centre = optimum.cell, optimum.grid_best
    start, end = float(window[0]), float(window[-1])
    limits = (start - centre, end - centre)
    chosen = np.isin(cell.log_rates, window) & np.isfinite(cell.scores)
    scores = cell.scores[chosen]
    offsets = _seed_offsets(cell.seeds[chosen])
    degree = min(3, len(window) - 1)
    if len(scores) <= degree + 1 + offsets.shape[1]:
        degree = 2  # four rates and one seed: a parabola leaves a residual, a cubic does not
    design = np.hstack([(cell.log_rates[chosen] - centre)[:, None] ** np.arange(degree + 1), offsets])
    solve = np.linalg.pinv(design)
    curve = (solve @ scores)[: degree + 1]
    low, high = optimum.low, optimum.high
    freedom = len(scores) - np.linalg.matrix_rank(design)
    if freedom > 0:
        # Parametric bootstrap: the runs are drawn anew around the fitted curve. The noise is known from few residuals
        # only, so each draw has its own (as in Student's t); resampling them would give too short intervals.
        generator = np.random.default_rng(0)
        fitted = design @ solve @ scores
        squares = ((scores - fitted) ** 2).sum()
        noise = np.sqrt(squares / generator.chisquare(freedom, DRAWS))
        drawn = fitted + noise[:, None] * generator.normal(size=(DRAWS, len(scores)))
        tops = _tops(drawn @ solve[: degree + 1].T, limits)
        low, high = (centre + np.quantile(tops, (0.025, 0.975))).tolist()
        if cliff < np.inf and np.isclose(high, end):
            high = cliff
    top = centre + float(_tops(curve[None], limits)[0])
    return replace(optimum, log_rate=top, low=low, high=high, window=(start, end), coefficients=curve)


def _seed_offsets(seeds: NDArray[np.int64]) -> Floats:
    """Columns (runs, seeds − 1) for what each seed adds at all rates; they sum to zero over seeds, so that the curve is
    the seeds' mean. None if seeds are unknown, or if most runs have a seed of their own."""
    known = np.unique(seeds)
    if known[0] < 0 or len(known) > len(seeds) // 2:
        return np.zeros((len(seeds), 0))
    is_last = (seeds == known[-1])[:, None]
    return (seeds[:, None] == known[:-1]).astype(float) - is_last


def _tops(curves: Floats, limits: tuple[float, float]) -> Floats:
    """Where each curve (curves, degree + 1) is highest: at its local maximum if within `limits`, or at one of them."""
    cubics = np.pad(curves, ((0, 0), (0, 4 - curves.shape[1])))
    _, first, second, third = cubics.T
    with np.errstate(invalid="ignore", divide="ignore"):
        # the root of the derivative at which it decreases, in the form that is also valid for a parabola
        root = np.sqrt(second**2 - 3 * third * first)
        local = first / (root - second)
    low, high = limits
    inside = (root > second) & (low < local) & (local < high)
    at_low, at_high = polyval(np.array(limits), curves.T).T
    return np.where(inside, local, np.where(at_high > at_low, high, low))
