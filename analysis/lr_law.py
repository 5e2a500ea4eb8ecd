"""The learning-rate law: ln η* regressed on ln N (and ln D), with intervals (MM1, section 3.4, Eq. 1).

η* are the optima of cells, each with a variance of its own; the true ones scatter around the law too. So the regression
weighs a cell by 1 / (its variance + the scatter), with the scatter estimated from the residuals (Paule and Mandel). A
law of three to five sizes leaves one to three degrees of freedom, and the variances are estimates themselves: errors
are therefore scaled by the residuals that are seen, intervals are t (Knapp and Hartung), and no cell counts for more
than a typical one: only those that are unusually unsure count for less. With equal variances this is ordinary least
squares with its exact intervals. A prediction interval is for the true optimum of a new size, scatter included.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.lr_curve import Floats
from analysis.optimum import Optimum
from mm1_lab.config import RequestError

FEWEST = 3
"""Bracketed sizes that make a law: two points have no residual."""


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval; the interval is NaN where nothing is left to estimate it from."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Law:
    """ln η* = coefficients · (ln N, [ln D,] 1)."""

    optima: tuple[Optimum, ...]
    """The cells that it was fitted to."""
    with_tokens: bool
    coefficients: Floats
    covariance: Floats
    """Scaled by the residuals."""
    freedom: int
    scatter: float
    """Standard deviation in ln η of true optima around the law; 0 where the cells' own noise explains the residuals,
    the residuals' own where that noise is not known."""
    weights: Floats
    """(cells,), of sum 1."""

    @property
    def names(self) -> tuple[str, ...]:
        return ("ln N", "ln D", "constant") if self.with_tokens else ("ln N", "constant")

    def estimates(self) -> dict[str, Estimate]:
        """Coefficients with confidence intervals."""
        errors = np.sqrt(np.diag(self.covariance))
        return {
            name: self._around(float(value), float(error))
            for name, value, error in zip(self.names, self.coefficients, errors, strict=True)
        }

    def line(self, params: float, tokens: float | None = None) -> Estimate:
        """ln η of the law with its confidence interval."""
        row = self._row(params, tokens)
        return self._around(float(row @ self.coefficients), math.sqrt(row @ self.covariance @ row))

    def predict(self, params: float, tokens: float | None = None) -> Estimate:
        """ln η with its prediction interval."""
        row = self._row(params, tokens)
        variance = float(row @ self.covariance @ row) + self.scatter**2
        return self._around(float(row @ self.coefficients), math.sqrt(variance))

    @property
    def fitted(self) -> Floats:
        return np.array([self._row(o.cell.params, o.cell.tokens) @ self.coefficients for o in self.optima])

    @property
    def residuals(self) -> Floats:
        """ln η* − law."""
        return np.array([o.log_rate for o in self.optima]) - self.fitted

    @property
    def r_squared(self) -> float:
        """Weighted share of the variance of ln η* that the law explains; NaN where there is none."""
        values = np.array([o.log_rate for o in self.optima])
        total = float(self.weights @ (values - self.weights @ values) ** 2)
        return 1 - float(self.weights @ self.residuals**2) / total if total > 0 else float("nan")

    def _row(self, params: float, tokens: float | None) -> Floats:
        if not self.with_tokens:
            return np.array([math.log(params), 1.0])
        assert tokens is not None
        return np.array([math.log(params), math.log(tokens), 1.0])

    def _around(self, value: float, error: float) -> Estimate:
        from scipy.special import stdtrit

        half = float(stdtrit(self.freedom, 0.975)) * error if self.freedom else float("nan")
        return Estimate(value, value - half, value + half)


def fit_law(optima: Sequence[Optimum]) -> Law:
    """The law of these optima; ln D is in it where every cell says its tokens and they tell D's effect from N's.

    Raises RequestError where fewer cells than coefficients or fewer than two sizes are left.
    """
    with_tokens = _tokens_matter(optima)
    x = np.array(
        [[math.log(o.cell.params), *([math.log(o.cell.tokens or 1)] if with_tokens else []), 1.0] for o in optima]
    )
    y = np.array([o.log_rate for o in optima])
    if np.linalg.matrix_rank(x) < x.shape[1]:
        raise RequestError("a law needs optima at two or more sizes")
    variances = _steadied(np.array([o.variance for o in optima]))
    noise_known = any(math.isfinite(o.variance) for o in optima)
    freedom = len(y) - x.shape[1]
    scatter = _scatter(x, y, variances) if noise_known else 0.0
    weights = 1 / (variances + scatter)
    unscaled = np.linalg.inv(x.T @ (weights[:, None] * x))
    coefficients = unscaled @ (x.T @ (weights * y))
    rest = y - x @ coefficients
    scale = float(weights @ rest**2) / freedom if freedom else float("nan")
    return Law(
        optima=tuple(optima),
        with_tokens=with_tokens,
        coefficients=coefficients,
        covariance=unscaled * scale,
        freedom=freedom,
        scatter=math.sqrt(scatter if noise_known else scale),
        weights=weights / weights.sum(),
    )


def leave_one_out(law: Law) -> dict[float, Estimate]:
    """By size: the prediction for it of the law of the other sizes; sizes are left out whose others make no law."""
    found = {}
    for params in dict.fromkeys(optimum.cell.params for optimum in law.optima):
        others = [optimum for optimum in law.optima if optimum.cell.params != params]
        left_out = [optimum.cell.tokens for optimum in law.optima if optimum.cell.params == params]
        try:
            other = fit_law(others)
        except RequestError:
            continue
        if other.with_tokens == law.with_tokens:
            tokens = math.exp(np.mean([math.log(t) for t in left_out if t])) if law.with_tokens else None
            found[params] = other.predict(params, tokens)
    return found


def _tokens_matter(optima: Sequence[Optimum]) -> bool:
    """Whether every cell says its tokens, and ln D varies otherwise than with ln N."""
    if any(optimum.cell.tokens is None for optimum in optima):
        return False
    n = np.log([optimum.cell.params for optimum in optima])
    d = np.log([optimum.cell.tokens or 1 for optimum in optima])
    rest = d - d.mean() - (n - n.mean()) * ((n - n.mean()) @ d) / max(float((n - n.mean()) @ (n - n.mean())), 1e-12)
    return len(optima) > FEWEST and float(np.abs(rest).max()) > 0.01


def _steadied(variances: Floats) -> Floats:
    """Variances to weigh by: unknown ones count as the largest known, small ones as the median."""
    known = variances[np.isfinite(variances)]
    if len(known) == 0 or np.median(known) < 1e-18:
        return np.ones(len(variances))
    filled = np.where(np.isfinite(variances), variances, known.max())
    return np.asarray(np.maximum(filled, np.median(known)))


def _scatter(x: Floats, y: Floats, variances: Floats) -> float:
    """The variance of true optima around the law that makes the weighted residuals as large as they should be."""
    from scipy.optimize import brentq

    freedom = len(y) - x.shape[1]

    def excess(scatter: float) -> float:
        root = np.sqrt(1 / (variances + scatter))
        rest = root * y - (root[:, None] * x) @ np.linalg.lstsq(root[:, None] * x, root * y)[0]
        return float(rest @ rest) - freedom

    if freedom == 0 or excess(0.0) <= 0:
        return 0.0
    most = float(np.ptp(y)) ** 2 * len(y) + 1e-12
    return float(brentq(excess, 0.0, most)) if excess(most) < 0 else most
