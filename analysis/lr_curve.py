"""A polynomial in ln η through the runs of one size; each seed may lie higher or lower by an amount of its own."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """A polynomial in x = ln η − centre, fitted to the runs of a window."""

    centre: float
    coefficients: Floats
    """(degree + 1,), lowest power first."""
    covariance: Floats
    """Of the coefficients, for noise of variance 1."""
    squares: float
    """Sum of squared residuals."""
    freedom: int
    """Residual degrees of freedom."""
    rates: Floats
    """(rates,) ln η of the window, ascending."""
    smoother: Floats = field(repr=False)
    """(degree + 1, rates): from a mean score a rate to coefficients."""
    shared_seeds: bool

    def value(self, log_rates: Floats) -> Floats:
        return np.asarray(np.polynomial.polynomial.polyval(log_rates - self.centre, self.coefficients))

    def top(self, coefficients: Floats | None = None) -> Floats:
        """ln η of the maximum; NaN where the polynomial has none. `coefficients` may be (degree + 1, n)."""
        c = self.coefficients if coefficients is None else coefficients
        with np.errstate(invalid="ignore", divide="ignore"):
            if len(c) == 3:
                return np.asarray(self.centre + np.where(c[2] < 0, -c[1] / (2 * c[2]), np.nan))
            # the root of c1 + 2 c2 x + 3 c3 x² at which the slope falls, in the form that also holds for c3 = 0
            root = np.sqrt(c[2] ** 2 - 3 * c[3] * c[1])
            return np.asarray(self.centre + np.where(root - c[2] > 0, c[1] / (root - c[2]), np.nan))

    def slope_error(self, log_rates: Floats) -> Floats:
        """Standard error of the slope for noise of variance 1."""
        x = log_rates - self.centre
        powers = np.arange(len(self.coefficients))
        design = powers * x[:, None] ** np.maximum(powers - 1, 0)
        return np.asarray(np.sqrt(np.einsum("ij,jk,ik->i", design, self.covariance, design)))

    def slope(self, log_rates: Floats) -> Floats:
        derivative = np.polynomial.polynomial.polyder(self.coefficients)
        return np.asarray(np.polynomial.polynomial.polyval(log_rates - self.centre, derivative))

    def bend(self, log_rate: float) -> float:
        second = np.polynomial.polynomial.polyder(self.coefficients, 2)
        return float(np.polynomial.polynomial.polyval(log_rate - self.centre, second))


def fit_curve(log_rates: Floats, scores: Floats, seeds: NDArray[np.int64], centre: float, degree: int) -> Curve:
    """Least squares through runs, (runs,) each, of finite scores; a seed of −1 says that it is not known."""
    rates, x = np.unique(log_rates), log_rates - centre
    known = np.unique(seeds)
    shared = bool(known[0] >= 0) and 1 < len(known) <= len(x) // 2
    powers = x[:, None] ** np.arange(degree + 1)
    # effects of the seeds sum to zero, so that the curve is their mean
    effects = (seeds[:, None] == known[:-1]).astype(float) - (seeds == known[-1])[:, None] if shared else powers[:, :0]
    design = np.hstack([powers, effects])
    inverse = np.linalg.pinv(design)
    fitted = inverse @ scores
    rest = scores - design @ fitted
    smoother: Floats = np.asarray(np.linalg.pinv((rates - centre)[:, None] ** np.arange(degree + 1)), np.float64)
    return Curve(
        centre,
        fitted[: degree + 1],
        (inverse @ inverse.T)[: degree + 1, : degree + 1],
        float(rest @ rest),
        len(scores) - int(np.linalg.matrix_rank(design)),
        rates,
        smoother,
        shared,
    )
