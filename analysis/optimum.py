"""Where a score is best over learning rates: interpolated in ln η, with an interval.

A curve is laid through the runs around the best rate: a cubic in ln η, because scores fall faster above the optimum
than below it, or a parabola where there are three rates alone; each seed may lie higher or lower by an amount of
its own. Its top is the optimum. The interval is Fieller's: the rates at which the curve's slope does not differ from 0
at 5 %, so it is as wide as it must be where the curve is flat.

What lies beyond a cliff is no part of the curve: rates above the best at which at least half of the runs failed, or
whose score is far below anything on the other side. They bound the optimum from above.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from analysis.lr_curve import Curve, Floats, fit_curve

Basis = Literal["curve", "seeds", "seeds and questions", "bracket"]

REACHES = (float(np.log(8.2)), float(np.log(4.1)))
"""The curve takes runs within this of the best rate in ln η, and the two nearest rates on either side in any case. The
narrow reach is for sweeps so precise that a curve of the wide one does not fit them."""
MISFIT = 0.8
"""Probability below which residuals of the wide curves are put down to chance."""
CUBIC_FROM = 4
"""Rates."""
CLIFF = 5.0
"""A drop above the best rate this many times the largest one below it, at like distance, is a cliff."""
BORROWED = 4.0
"""Degrees of freedom with which the noise of all cells stands behind the noise of one."""
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Cell:
    """Runs of one model size (and one number of training tokens) that differ in learning rate and seed."""

    name: str
    params: float
    tokens: float | None
    log_rates: Floats
    """(runs,)"""
    scores: Floats
    """(runs,), higher is better; not finite where a run failed."""
    seeds: NDArray[np.int64]
    """(runs,); −1 where it is not known which runs share one."""

    @property
    def failed(self) -> int:
        return int((~np.isfinite(self.scores)).sum())


@dataclass(frozen=True)
class Optimum:
    """The best learning rate of a cell."""

    cell: Cell
    log_rate: float
    low: float
    high: float
    """ln η; the 95 % interval."""
    variance: float
    """Of log_rate; NaN where nothing tells the noise."""
    grid_best: float
    """ln η of the best rate that was tried."""
    basis: Basis
    """What the interval comes from; `bracket`: the neighbouring rates, for want of anything that tells the noise."""
    below: bool
    above: bool
    """Whether a worse score, or failed runs, bound the optimum on that side."""
    resolved: bool
    """Whether the interval ends within the rates that were tried."""
    curve: Curve | None

    @property
    def bracketed(self) -> bool:
        return self.below and self.above

    @property
    def needs(self) -> str:
        """What would bracket it, for people; empty if it is."""
        rates = np.exp(self.cell.log_rates)
        usable = rates[np.isfinite(self.cell.scores)]
        if len(usable) == 0:
            return f"rates below {rates.min():.3g}: every run failed"
        if self.bracketed:
            return ""
        if not self.below and not self.above:
            return f"rates on both sides of {np.exp(self.grid_best):.3g}"
        return f"rates below {usable.min():.3g}" if not self.below else f"rates above {usable.max():.3g}"


@dataclass(frozen=True)
class _Found:
    """A cell's optimum before the noise is known."""

    cell: Cell
    log_rate: float
    best: float
    bracket: tuple[float, float]
    """ln η of the neighbours of the best rate, or of the cliff."""
    limits: tuple[float, float]
    """The lowest rate and the highest, or the cliff."""
    below: bool
    above: bool
    curve: Curve | None


def find_optima(cells: Sequence[Cell]) -> list[Optimum]:
    """The optimum of every cell; the noise of each is steadied by that of all.

    A cell with no finite score has log_rate NaN. Cells must measure the score in the same units.
    """
    from scipy.special import fdtr

    found, narrow = ([_find(cell, reach) for cell in cells] for reach in REACHES)
    noise, freedom = _noise(found)
    narrow_noise, narrow_freedom = _noise(narrow)
    if freedom and narrow_freedom and narrow_noise < noise:
        chance = fdtr(freedom, narrow_freedom, noise / narrow_noise) if narrow_noise else 1.0
        if chance > MISFIT:
            found, noise, freedom = narrow, narrow_noise, narrow_freedom
    return [_with_interval(each, noise, freedom) for each in found]


def _noise(found: Sequence[_Found]) -> tuple[float, int]:
    """The variance of a run around the curves of all cells, and its degrees of freedom."""
    curves = [each.curve for each in found if each.curve]
    freedom = sum(curve.freedom for curve in curves)
    return (sum(curve.squares for curve in curves) / freedom if freedom else float("nan")), freedom


def add_question_noise(optimum: Optimum, replicates: Floats) -> Optimum:
    """Widens the interval by what other questions would change: `replicates` is (rates of the curve, resamples)."""
    curve = optimum.curve
    if curve is None:
        return optimum
    tops = curve.top(curve.smoother @ replicates)
    tops = np.clip(np.where(np.isnan(tops), optimum.log_rate, tops), curve.rates[0], curve.rates[-1])
    quarter, three_quarters = np.percentile(tops, [25, 75])
    deviation = float(three_quarters - quarter) / 1.349
    low, high = (np.hypot(end - optimum.log_rate, 1.96 * deviation) for end in (optimum.low, optimum.high))
    return replace(
        optimum,
        low=optimum.log_rate - low,
        high=optimum.log_rate + high,
        variance=optimum.variance + deviation**2,
        basis="seeds and questions",
    )


def _find(cell: Cell, reach: float) -> _Found:
    rates, means, usable = _by_rate(cell)
    if not usable.any():
        nothing = (float("nan"), float("nan"))
        return _Found(cell, nothing[0], nothing[0], nothing, nothing, False, False, None)
    best = _best(means, usable)
    failed = rates[~usable & (rates > rates[best])]
    inside = usable & (rates < (failed[0] if len(failed) else np.inf))
    window = _window(rates, inside, best, reach)
    cliff = min([*failed[:1], *_cliff(rates, means, window, best)], default=np.inf)
    window = window[rates[window] < cliff]
    worse = usable & (means < means[best])
    left, right = rates[window[window < best]], rates[window[window > best]]
    peak, bounded = float(rates[best]), bool(np.isfinite(cliff))
    bracket = (
        float(left[-1]) if len(left) else peak,
        float(right[0]) if len(right) else float(cliff) if bounded else peak,
    )
    # the top may leave the best rate by two rates where the curve goes on, by half a step towards a cliff
    room = (
        float(left[-2:][0]) if len(left) else peak,
        float(right[:2][-1]) if len(right) else (peak + bracket[1]) / 2,
    )
    log_rate, curve = _top(cell, rates[window], peak, room, may_bend=len(left) > 0 and len(right) > 0)
    return _Found(
        cell,
        log_rate,
        peak,
        bracket,
        limits=(float(rates[inside][0]), float(cliff if bounded else rates[inside][-1])),
        below=bool(worse[:best].any()),
        above=bounded or bool(worse[best + 1 :].any()),
        curve=curve,
    )


def _by_rate(cell: Cell) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """(rates,) each: ln η, ascending; the mean of the finite scores; whether fewer than half of the runs failed."""
    rates, place = np.unique(cell.log_rates, return_inverse=True)
    finite = np.isfinite(cell.scores)
    runs, good = np.bincount(place), np.bincount(place[finite], minlength=len(rates))
    sums = np.bincount(place[finite], cell.scores[finite], minlength=len(rates))
    return rates, np.where(good > 0, sums / np.maximum(good, 1), np.nan), good * 2 > runs


def _best(means: Floats, usable: NDArray[np.bool_]) -> int:
    """The rate with the best mean; of several that tie, the middle one."""
    tied = np.flatnonzero(usable & (means == means[usable].max()))
    return int(tied[(len(tied) - 1) // 2])


def _window(rates: Floats, inside: NDArray[np.bool_], best: int, reach: float) -> NDArray[np.intp]:
    """The rates that the curve may use."""
    places = np.flatnonzero(inside)
    at = int(np.searchsorted(places, best))
    near = np.abs(rates[places] - rates[best]) <= reach
    near[max(at - 2, 0) : at + 3] = True
    return places[near]


def _cliff(rates: Floats, means: Floats, window: NDArray[np.intp], best: int) -> list[float]:
    """The first rate above the best at which the score has fallen off; needs two rates below to compare with."""
    left, right = window[window < best], window[window > best]
    if len(left) < 2:
        return []
    drops = means[best] - means
    wider = np.maximum((rates[right] - rates[best]) / (rates[best] - rates[left[0]]), 1.0)
    fallen = drops[right] > CLIFF * drops[left].max() * wider**2
    return [float(rate) for rate in rates[right[fallen]][:1]]


def _top(
    cell: Cell, rates: Floats, best: float, room: tuple[float, float], may_bend: bool
) -> tuple[float, Curve | None]:
    """The curve through the runs at `rates`, and its top within `room`; the best rate where it has none."""
    if len(rates) < 3:
        return best, None
    chosen = np.isin(cell.log_rates, rates) & np.isfinite(cell.scores)
    runs = cell.log_rates[chosen], cell.scores[chosen], cell.seeds[chosen]
    cubic = [3] if may_bend and len(rates) >= CUBIC_FROM else []
    for degree in (*cubic, 2):
        curve = fit_curve(*runs, centre=best, degree=degree)
        top = float(curve.top())
        if room[0] <= top <= room[1]:
            return top, curve
    return (best if np.isnan(top) else float(np.clip(top, *room))), curve


def _with_interval(found: _Found, noise: float, freedom: int) -> Optimum:
    """`noise`: the variance of a run around the curves of all cells, with `freedom` degrees of freedom."""
    from scipy.special import stdtrit

    curve = found.curve

    def optimum(low: float | None, high: float | None, variance: float, basis: Basis) -> Optimum:
        return Optimum(
            found.cell,
            found.log_rate,
            found.limits[0] if low is None else low,
            found.limits[1] if high is None else high,
            variance,
            found.best,
            basis,
            found.below,
            found.above,
            resolved=basis != "bracket" and None not in (low, high) and found.below and found.above,
            curve=curve,
        )

    borrowed = min(BORROWED, freedom - curve.freedom) if curve else 0.0
    if curve is None or borrowed + curve.freedom < 1:
        return optimum(*found.bracket, variance=float("nan"), basis="bracket")
    own = borrowed + curve.freedom
    deviation = float(np.sqrt((borrowed * noise + curve.squares) / own))
    quantile = float(stdtrit(own, (1 + CONFIDENCE) / 2))
    low, high = (_where_it_falls(curve, found.log_rate, end, quantile * deviation) for end in found.limits)
    bend = curve.bend(found.log_rate)
    variance = (found.limits[1] - found.limits[0]) ** 2 / 12  # at most: that of a flat guess
    if bend < 0:
        error = deviation * float(curve.slope_error(np.array([found.log_rate]))[0])
        variance = min((error / bend) ** 2, variance)
    return optimum(low, high, variance, "seeds" if curve.shared_seeds else "curve")


def _where_it_falls(curve: Curve, top: float, end: float, scale: float) -> float | None:
    """The first place on the way from `top` to `end` where the slope differs from 0 by `scale` standard errors."""
    start = top
    for _ in range(3):  # each time over the step in which the last one found it
        places = np.linspace(start, end, 60)
        excess = np.abs(curve.slope(places)) - scale * curve.slope_error(places)
        outside = np.flatnonzero(excess > 0)
        if len(outside) == 0:
            return None
        if outside[0] == 0:
            return float(places[0])
        start, end = float(places[outside[0] - 1]), float(places[outside[0]])
    return end
