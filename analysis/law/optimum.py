"""Finds the learning rate with the best score: interpolated in ln η, with an interval.

At every rate, the question is how certain it is that the score still rises there: the probability, by Student's t, that
the slope of a cubic in ln η, fitted to the runs around the best rate, is positive. (A cubic, because scores fall faster
above the optimum than below it.) The right width of the window is unknown, so cubics are fitted to several windows and
averaged with AIC weights. The averaged probability falls from 1 far below the optimum to 0 far above it. The optimum is
where it is a half, and the interval ends where it is 97.5 % and 2.5 %. For one curve this is Fieller's interval; for
several, the model-averaged tail areas of Turek and Fletcher (2012). The interval thus includes the choice of window and
is as wide as necessary where curves are flat. docs/learning-rate-law.md explains it, and what was tried instead.

Rates beyond a cliff are not part of any curve: rates above the best one at which at least half of the runs failed, or
whose score is far below any score on the other side. They bound the optimum from above.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import stdtr

from analysis.law.lr_points import Cell
from analysis.statistics import Floats

Basis = Literal["seeds", "curve", "bracket"]

REACHES = tuple(np.log((3.0, 6.0, 12.0)).tolist())
"""Distance in ln η from the best rate that each curve's window covers, but always at least five rates, as a cubic
through four leaves no residual. Beyond a factor of 12 scores do not follow a cubic."""
CLIFF = 5.0
"""A cliff is a drop above the best rate this many times the largest drop below it at a comparable distance."""
TAIL = 0.025
"""Probability beyond either end of an interval."""


@dataclass(frozen=True)
class Curve:
    """A polynomial in x = ln η − centre, fitted to the rates of a window; each other rate has a mean of its own."""

    centre: float
    coefficients: Floats
    """(degree + 1,), lowest power first."""
    covariance: Floats
    """Covariance of the coefficients for noise of variance 1."""
    squares: float
    """Sum of squared residuals."""
    parameters: int
    """Number of parameters: of the polynomial, the means outside the window and the seeds."""
    freedom: int
    """Residual degrees of freedom."""
    window: tuple[float, float]
    """The ends of the window in ln η."""

    def value(self, log_rates: Floats) -> Floats:
        return np.asarray(np.polynomial.polynomial.polyval(log_rates - self.centre, self.coefficients))


@dataclass(frozen=True)
class Optimum:
    """The best learning rate of a cell."""

    cell: Cell
    log_rate: float
    low: float
    high: float
    """The 95 % interval in ln η."""
    basis: Basis
    """The source of the noise estimate: `seeds`, or the runs' scatter around the curves (`curve`); `bracket`: there is
    none, and the interval extends to the neighbouring rates."""
    grid_best: float
    """ln η of the best rate tried."""
    below: bool
    above: bool
    """Whether a worse score, or failed runs, bound the optimum on this side."""
    resolved: bool
    """Whether the interval ends within the rates tried."""
    curves: tuple[Curve, ...] = ()
    """One per entry of REACHES; empty for fewer than three rates."""
    weights: Floats | None = None
    """(curves,), with sum 1."""
    tops: Floats | None = None
    """(curves,): ln η of each curve's maximum, or the optimum if it has none."""

    @property
    def curve(self) -> Curve | None:
        """The curve with the greatest weight."""
        return self.curves[int(np.argmax(self.weights))] if self.weights is not None else None

    @property
    def bracketed(self) -> bool:
        return self.below and self.above

    @property
    def variance(self) -> float:
        """Variance of `log_rate`, from the length of the interval; NaN without a noise estimate."""
        return ((self.high - self.low) / 3.92) ** 2 if self.basis != "bracket" else float("nan")

    @property
    def needs(self) -> str:
        """The rates to try so that it is bracketed, in words; empty if it is."""
        rates = np.exp(self.cell.log_rates)
        usable = rates[np.isfinite(self.cell.scores)]
        if len(usable) == 0:
            return f"rates below {rates.min():.3g}: every run failed"
        if self.bracketed:
            return ""
        if self.below:
            return f"rates above {usable.max():.3g}"
        both = f"rates on both sides of {np.exp(self.grid_best):.3g}"
        return f"rates below {usable.min():.3g}" if self.above else both


def find_optimum(cell: Cell) -> Optimum:
    """The optimum of a cell; `log_rate` is NaN if no score is finite."""
    rates, means, usable = _by_rate(cell)
    if not usable.any():
        return Optimum(cell, np.nan, np.nan, np.nan, "bracket", np.nan, False, False, False)
    tied = np.flatnonzero(usable & (means == means[usable].max()))
    best = int(tied[(len(tied) - 1) // 2])
    cliff = _cliff(rates, means, usable, best)
    bounded, worse = cliff < np.inf, usable & (means < means[best])
    peak, places = float(rates[best]), rates[usable & (rates < cliff)]
    left, right = places[places < peak], places[places > peak]
    found = Optimum(
        cell,
        log_rate=peak,
        low=float(left[-1] if len(left) else peak),
        high=float(right[0] if len(right) else cliff if bounded else peak),
        basis="bracket",
        grid_best=peak,
        below=bool(worse[:best].any()),
        above=bounded or bool(worse[best + 1 :].any()),
        resolved=False,
    )
    if len(places) < 3:
        return found
    # up to two rates from the best, or half the step to the cliff
    farthest = (peak + cliff) / 2 if bounded and not len(right) else [peak, *right[:2]][-1]
    room = (float([*left[-2:], peak][0]), float(farthest))
    limits = (float(places[0]), cliff if bounded else float(places[-1]))
    return _locate(found, _AveragedCurves(_curves(cell, places, len(left)), cell.scores), room, limits)


def _by_rate(cell: Cell) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """The rates in order, each one's mean score (NaN if all of its runs failed), and whether fewer than half failed."""
    rates, place = np.unique(cell.log_rates, return_inverse=True)
    finite = np.isfinite(cell.scores)
    good = np.bincount(place[finite], minlength=len(rates))
    means = np.bincount(place[finite], cell.scores[finite], len(rates)) / np.where(good, good, np.nan)
    return rates, means, good * 2 > np.bincount(place)


def _cliff(rates: Floats, means: Floats, usable: NDArray[np.bool_], best: int) -> float:
    """The first rate above the best at which half of the runs failed, or the score has dropped far more than it drops
    below the best; infinite if there is none."""
    peak = rates[best]
    failed = min(rates[~usable & (rates > peak)], default=np.inf)
    left = usable & (rates < peak) & (np.abs(rates - peak) <= REACHES[-1])
    right = usable & (rates > peak) & (rates < failed)
    if not left.any():
        return float(failed)
    drops = means[best] - means
    wider = np.maximum((rates[right] - peak) / (peak - rates[left].min()), 1.0)
    fallen = drops[right] > CLIFF * drops[left].max() * wider**2
    return float(min(rates[right][fallen], default=failed))


def _curves(cell: Cell, rates: Floats, best: int) -> list[Curve]:
    """One curve per reach, all fitted to the same runs, those of the widest window."""
    windows = []
    for reach in REACHES:
        near = np.abs(rates - rates[best]) <= reach
        start = max(min(best - 2, len(rates) - 5), 0)
        near[start : start + 5] = True
        windows.append(rates[near])
    chosen = np.isin(cell.log_rates, windows[-1]) & np.isfinite(cell.scores)
    runs = cell.log_rates[chosen], cell.scores[chosen], cell.seeds[chosen]
    for degree in (min(3, len(windows[0]) - 1), 2):
        fitted = {len(window): _curve(*runs, window, float(rates[best]), degree) for window in windows}
        if min(curve.freedom for curve in fitted.values()) > 0:  # not with four rates and one seed
            break
    return [fitted[len(window)] for window in windows]


def _curve(
    log_rates: Floats, scores: Floats, seeds: NDArray[np.int64], window: Floats, centre: float, degree: int
) -> Curve:
    """Fits a curve by least squares to runs, (runs,) each, with finite scores and with an offset per seed.

    Each rate outside the window has a mean of its own, which counts as a parameter.
    """
    inside = np.isin(log_rates, window)
    powers = np.where(inside[:, None], (log_rates - centre)[:, None] ** np.arange(degree + 1), 0.0)
    outside = log_rates[:, None] == np.setdiff1d(log_rates, window)
    known = np.unique(seeds)
    shared = known[0] >= 0 and 1 < len(known) <= len(scores) // 2
    # the seeds' offsets sum to zero, so that the curve is their mean
    effects = (seeds[:, None] == known[:-1]).astype(float) - (seeds == known[-1])[:, None] if shared else powers[:, :0]
    design = np.hstack([powers, outside, effects])
    u, values, vt = np.linalg.svd(design, full_matrices=False)
    rank = int((values > 1e-10 * values[0]).sum())
    inverse = (vt[:rank].T / values[:rank]) @ u[:, :rank].T
    fitted = inverse @ scores
    rest = scores - design @ fitted
    covariance = (inverse @ inverse.T)[: degree + 1, : degree + 1]
    ends = float(window[0]), float(window[-1])
    return Curve(centre, fitted[: degree + 1], covariance, float(rest @ rest), rank, len(scores) - rank, ends)


class _AveragedCurves:
    """Curves averaged with the weights of AIC for an unknown variance; with equal ones if a curve has no residual."""

    def __init__(self, curves: Sequence[Curve], scores: Floats) -> None:
        self.curves = tuple(curves)
        self._coefficients = np.array([curve.coefficients for curve in curves])
        self._covariances = np.array([curve.covariance for curve in curves])
        freedom = np.array([curve.freedom for curve in curves])
        parameters = np.array([curve.parameters for curve in curves])
        rounding = 1e-18 * float(np.ptp(scores[np.isfinite(scores)])) ** 2 + 1e-300
        squares = np.array([curve.squares for curve in curves]) + rounding
        self.has_noise = bool(freedom.min() > 0)
        information = -(freedom + parameters) / 2 * np.log(squares) - parameters
        weights = np.exp(information - information.max()) if self.has_noise else np.ones(len(curves))
        self.weights = weights / weights.sum()
        self._freedom = np.maximum(freedom, 1)
        self._deviations = np.sqrt(squares / self._freedom)

    def rises(self, log_rates: Floats) -> Floats:
        """The probability that the score rises at each ln η, (rates,)."""
        powers, x = np.arange(self._coefficients.shape[1]), log_rates[:, None] - self.curves[0].centre
        slopes = powers * x ** np.maximum(powers - 1, 0)  # of each power of x
        variances = np.einsum("ri,cij,rj->rc", slopes, self._covariances, slopes)
        errors = np.sqrt(np.maximum(variances, 0)) * self._deviations
        t = slopes @ self._coefficients.T / np.maximum(errors, 1e-300)
        return np.asarray(stdtr(self._freedom, t) @ self.weights)

    def first(self, start: float, end: float, share: float) -> float | None:
        """The first place on the way from `start` to `end` at which `rises` reaches `share`; None if it does not."""
        if start == end:
            return None
        places = np.linspace(start, end, 60)
        beyond = np.flatnonzero((self.rises(places) - share) * np.sign(end - start) <= 0)
        if len(beyond) == 0:
            return None
        at = int(beyond[0])
        if at == 0:
            return start
        between = places[at - 1], places[at]
        return float(brentq(lambda place: self.rises(np.array([place]))[0] - share, *between, xtol=1e-10))

    def tops(self, otherwise: float, limits: tuple[float, float]) -> Floats:
        """ln η of each curve's maximum within `limits`, (curves,); `otherwise` for a curve without one."""
        _, first, second, third = np.pad(self._coefficients, ((0, 0), (0, 4 - self._coefficients.shape[1]))).T
        with np.errstate(invalid="ignore", divide="ignore"):
            # the root of the derivative at which it decreases, in the form that is also valid for a parabola
            root = np.sqrt(second**2 - 3 * third * first)
            tops = np.where(root > second, self.curves[0].centre + first / (root - second), otherwise)
        return np.asarray(np.clip(tops, *limits))


def _locate(
    found: Optimum, averaged: _AveragedCurves, room: tuple[float, float], limits: tuple[float, float]
) -> Optimum:
    """The optimum with its interval by the averaged curves. `room` bounds the optimum and `limits` the interval's ends,
    all in ln η."""
    best = found.log_rate
    top = averaged.first(best, room[1] if averaged.rises(np.array([best]))[0] > 0.5 else room[0], 0.5)
    top = best if top is None else top
    low, high, basis = found.low, found.high, found.basis
    ends: list[float | None] = [None, None]
    if averaged.has_noise:
        ends = [averaged.first(top, limits[0], 1 - TAIL), averaged.first(top, limits[1], TAIL)]
        low, high = (limit if end is None else end for limit, end in zip(limits, ends, strict=True))
        basis = "seeds" if found.cell.known_seeds > 1 else "curve"
    return replace(
        found,
        log_rate=top,
        low=low,
        high=high,
        basis=basis,
        resolved=None not in ends and found.bracketed,
        curves=averaged.curves,
        weights=averaged.weights,
        tops=averaged.tops(top, limits),
    )
