"""The learning-rate law: a regression of ln η* on ln N (and ln D) with intervals (MM1, section 4, Eq. 1).

η* are the optima of cells. The fit is weighted least squares, in which an unusually uncertain optimum counts for less
and none counts for more than a typical one. Errors are scaled by the residuals, and intervals are Student's t with
(optima − coefficients) degrees of freedom; with equal weights this is ordinary least squares with its exact intervals.
The variance of the coefficients also includes how they change with the choice of curve in all cells at once, because a
curve that puts all optima too high, or only those of large sizes, does not show in the residuals.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from analysis.law.lr_points import Measurements, Objective
from analysis.law.optimum import Optimum, find_optimum
from analysis.statistics import Floats, Interval, mean_of
from mm1_lab.config import RequestError

FEWEST = 3
"""Bracketed sizes that a law needs: with two there is no residual."""
MOST_LEFT_OUT = 100
"""Limit for leave-one-out: with more sizes, one hardly changes the law, and the cost is quadratic."""
VERDICT_SEEDS = 3
"""Seeds per rate that a verdict needs, as a seed shifts all rates of a size together; with fewer there is none."""


@dataclass(frozen=True)
class Law:
    """ln η* = coefficients · (ln N, [ln D,] 1). Intervals are NaN without degrees of freedom."""

    optima: tuple[Optimum, ...]
    """The optima that it was fitted to."""
    with_tokens: bool
    coefficients: Floats
    covariance: Floats
    freedom: int
    residuals: Floats
    """ln η* − law."""
    scatter: float
    """Standard deviation of the residuals of cells of full weight, in ln η; NaN without degrees of freedom."""
    r_squared: float
    """Weighted share of the variance of ln η* that the law explains; NaN if there is no variance."""

    def estimates(self) -> dict[str, Interval]:
        """Coefficients with confidence intervals."""
        names = ("ln N", "ln D", "constant") if self.with_tokens else ("ln N", "constant")
        pairs = zip(names, self.coefficients.tolist(), np.diag(self.covariance), strict=True)
        return {name: Interval(value, math.sqrt(variance), self.freedom) for name, value, variance in pairs}

    def line(self, params: float, tokens: float | None = None, spread: float = 0.0) -> Interval:
        """ln η by the law with its confidence interval; `spread` is a standard deviation added to its error."""
        row = _row(params, tokens, self.with_tokens)
        error = math.sqrt(float(row @ self.covariance @ row) + spread**2)
        return Interval(float(row @ self.coefficients), error, self.freedom)

    def predict(self, params: float, tokens: float | None = None) -> Interval:
        """ln η with the prediction interval for the optimum that a search at this size would find."""
        return self.line(params, tokens, self.scatter)


def _row(params: float, tokens: float | None, with_tokens: bool) -> Floats:
    return np.array([math.log(params), *([math.log(tokens or 1)] if with_tokens else []), 1.0])


def fit_law(optima: Sequence[Optimum]) -> Law:
    """Fits the law to these optima. It includes ln D if all cells have tokens and D's effect can be told from N's.

    Raises RequestError for fewer cells than coefficients or fewer than two sizes.
    """
    with_tokens = _tokens_matter(optima)
    x = np.array([_row(o.cell.params, o.cell.tokens, with_tokens) for o in optima])
    y = np.array([o.log_rate for o in optima])
    if np.linalg.matrix_rank(x) < x.shape[1]:
        raise RequestError("a law needs optima at two or more sizes")
    weights = _weights(np.array([o.variance for o in optima]))
    unscaled = np.linalg.inv(x.T @ (weights[:, None] * x))
    solve = unscaled @ (x.T * weights)
    coefficients = solve @ y
    residuals = y - x @ coefficients
    freedom = len(y) - x.shape[1]
    squares = float(weights @ residuals**2)
    scale = squares / freedom if freedom else math.nan
    total = float(weights @ (y - weights @ y / weights.sum()) ** 2)
    return Law(
        optima=tuple(optima),
        with_tokens=with_tokens,
        coefficients=coefficients,
        covariance=unscaled * scale + _of_curves(optima, solve),
        freedom=freedom,
        residuals=residuals,
        scatter=math.sqrt(scale),
        r_squared=1 - squares / total if total > 0 else math.nan,
    )


def leave_one_out(law: Law) -> dict[str, Interval]:
    """The prediction for each cell, by name, from the law fitted to the other sizes.

    Without cells whose other sizes make no law; empty for more than MOST_LEFT_OUT sizes.
    """
    found: dict[str, Interval] = {}
    sizes = dict.fromkeys(optimum.cell.params for optimum in law.optima)
    for params in sizes if len(sizes) <= MOST_LEFT_OUT else ():
        try:
            other = fit_law([optimum for optimum in law.optima if optimum.cell.params != params])
        except RequestError:
            continue
        if other.with_tokens == law.with_tokens:
            cells = [optimum.cell for optimum in law.optima if optimum.cell.params == params]
            found |= {cell.name: other.predict(params, cell.tokens) for cell in cells}
    return found


def _tokens_matter(optima: Sequence[Optimum]) -> bool:
    """Whether every cell has tokens and ln D is not a linear function of ln N."""
    if len(optima) <= FEWEST or any(optimum.cell.tokens is None for optimum in optima):
        return False
    n, d = np.log([(optimum.cell.params, optimum.cell.tokens or 1) for optimum in optima]).T
    rest = d - d.mean() - (n - n.mean()) * ((n - n.mean()) @ d) / max(float((n - n.mean()) @ (n - n.mean())), 1e-12)
    return float(np.abs(rest).max()) > 0.01


def _weights(variances: Floats) -> Floats:
    """Weights of the cells, at most 1 (a typical cell's); unknown variances count as the largest known one."""
    known = variances[np.isfinite(variances)]
    if len(known) == 0 or np.median(known) < 1e-18:
        return np.ones(len(variances))
    variances = np.where(np.isfinite(variances), variances, known.max())
    return np.asarray(np.minimum(1.0, np.median(known) / np.maximum(variances, 1e-300)))


def _of_curves(optima: Sequence[Optimum], solve: Floats) -> Floats:
    """The covariance of the coefficients over the choice of curve, with the same choice for all cells."""
    read = [(o.weights, o.tops) for o in optima if o.weights is not None and o.tops is not None]
    if len(read) < len(optima):
        return np.zeros((len(solve), len(solve)))
    weights = np.array([each for each, _ in read]).mean(axis=0)
    moved = solve @ np.array([tops for _, tops in read])  # (coefficients, curves)
    moved -= (moved @ weights)[:, None]
    return np.asarray((moved * weights) @ moved.T)


# From measurements to laws


@dataclass(frozen=True)
class Target:
    """A size to predict the learning rate for."""

    name: str
    params: float
    tokens: float | None = None


@dataclass(frozen=True)
class Fit:
    """The fit by one objective."""

    objective: Objective
    optima: tuple[Optimum, ...]
    law: Law | None
    why: str
    """Why there is no law."""
    predictions: tuple[tuple[Target, Interval], ...]
    """Predictions in ln η."""

    @property
    def name(self) -> str:
        return self.objective.column

    @cached_property
    def used(self) -> dict[str, float]:
        """The cells that the law is fitted to, with their residuals in ln η."""
        law = self.law
        return {o.cell.name: float(r) for o, r in zip(law.optima, law.residuals, strict=True)} if law else {}

    @cached_property
    def leave_one_out(self) -> dict[str, Interval]:
        return leave_one_out(self.law) if self.law else {}

    @property
    def resolved(self) -> int:
        """The number of optima whose interval ends within the rates tried."""
        return sum(optimum.resolved for optimum in self.optima)

    @property
    def seeds(self) -> int:
        """The smallest number of seeds of the law's cells; 1 if seeds are not given."""
        return min((o.cell.known_seeds for o in self.law.optima), default=0) if self.law else 0


def fit_all(measurements: Measurements, targets: Sequence[Target], keep_unbracketed: bool = False) -> list[Fit]:
    """One fit per objective, in order. Raises RequestError for a target without tokens if a law includes them."""
    fits = []
    for objective in measurements.objectives:
        optima = tuple(find_optimum(cell) for cell in measurements.cells(objective))
        used = [o for o in optima if o.bracketed or (keep_unbracketed and math.isfinite(o.log_rate))]
        sizes = len({optimum.cell.params for optimum in used})
        if sizes < FEWEST:
            found = f"{sizes} bracketed {'size' if sizes == 1 else 'sizes'} of the {FEWEST} that a law takes"
            why = "; ".join([found, *(f"{o.cell.name} needs {o.needs}" for o in optima if o.needs)])
            fits.append(Fit(objective, optima, None, why, ()))
            continue
        law = fit_law(used)
        for target in targets:
            if law.with_tokens and target.tokens is None:
                raise RequestError(
                    f"--predict {target.name}: this law depends on training tokens; give them too, e.g. "
                    f"{target.name}:100B"
                )
        predictions = tuple((target, law.predict(target.params, target.tokens)) for target in targets)
        fits.append(Fit(objective, optima, law, "", predictions))
    return fits


def agreement(first: Fit, second: Fit) -> Interval | None:
    """The mean log ratio of the first fit's optima to the second's over cells that both bracket; None without any."""
    others = {optimum.cell.name: optimum for optimum in second.optima if optimum.bracketed}
    both = [o for o in first.optima if o.bracketed and o.cell.name in others]
    return mean_of([o.log_rate - others[o.cell.name].log_rate for o in both])
