"""The learning-rate law ln η* = a ln N + b: least squares through the optima of the sizes (MM1, section 4, Eq. 1)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from analysis.law.optimum import Cell, Optimum, find_optimum
from analysis.law.runs import Objective, Runs
from analysis.statistics import Floats, Interval
from mm1_lab.config import FEWEST_SIZES
from mm1_lab.formatting import counted

VERDICT_SEEDS = 3
"""Seeds per rate that a verdict needs, as a seed shifts all rates of a size together; with fewer there is none."""

WIDEST = 3.0
"""Orders of magnitude over which a prediction's interval may extend. Beyond, it excludes no rate that one would try."""


@dataclass(frozen=True)
class Law:
    """A least-squares line. Intervals are Student's t with (optima − 2) degrees of freedom."""

    coefficients: Floats
    """(2,): slope and constant."""
    covariance: Floats
    scatter: float
    """Standard deviation of the optima around the line, in ln η; NaN for two optima."""
    gaps: Floats
    """(2, optima): how far slope and constant change if an optimum that is the last rate before a cliff is the cliff
    instead; the intervals are wider by what those of all optima can change. Zeros for the other optima."""

    @property
    def degrees_of_freedom(self) -> int:
        return self.gaps.shape[1] - 2

    @property
    def slope(self) -> Interval:
        return self._of(1.0, 0.0)

    @property
    def constant(self) -> Interval:
        return self._of(0.0, 1.0)

    @property
    def slopes(self) -> list[Interval]:
        """The slope at either end of what optima at cliffs leave open, with the error of the scatter alone."""
        error = math.sqrt(self.covariance[0, 0])
        ends = self.coefficients[0] + _most(self.gaps[0])
        return [Interval(end, error, self.degrees_of_freedom) for end in ends.tolist()]

    def line(self, params: float) -> Interval:
        """ln η by the law."""
        return self._of(math.log(params), 1.0)

    def predict(self, params: float) -> Interval:
        """ln η with the prediction interval for the optimum that a search at this size would find."""
        return self._of(math.log(params), 1.0, self.scatter)

    def _of(self, slopes: float, constants: float, spread: float = 0.0) -> Interval:
        """So many slopes and constants together; `spread` is a standard deviation added to their error."""
        row = np.array([slopes, constants])
        error = math.sqrt(row @ self.covariance @ row + spread**2)
        found = Interval(float(row @ self.coefficients), error, self.degrees_of_freedom)
        t = replace(found, error=1.0).half_width
        return replace(found, error=error + abs(_most(row @ self.gaps)).max() / t)


def _most(changes: Floats) -> Floats:
    """(2,): the most that some of the changes add up to, downwards and upwards."""
    return np.array([changes.clip(max=0).sum(), changes.clip(min=0).sum()])


@dataclass(frozen=True)
class Fit:
    """The optima by one objective and the law through those that are bracketed."""

    objective: Objective
    optima: Sequence[Optimum]
    law: Law | None
    why: str
    """Why there is no law."""
    without: dict[float, Law]
    """For each size, by its parameters: the law through the other sizes."""
    seeds: int
    """The smallest number of seeds of a cell; 1 if seeds are not given."""

    @property
    def through(self) -> str:
        """`3 of 4 sizes; 1.2B left out`; empty if the law is that of all sizes."""
        out = [optimum.cell.name for optimum in self.optima if optimum.needs]
        if not out:
            return ""
        return f"{len(self.optima) - len(out)} of {len(self.optima)} sizes; {', '.join(out)} left out"


def fit_runs(runs: Runs) -> list[Fit]:
    """A fit by each objective; the first one that has a law is the main one."""
    fits = [fit_objective(runs.points, objective) for objective in runs.objectives]
    return sorted(fits, key=lambda fit: fit.law is None)


def fit_objective(points: pd.DataFrame, objective: Objective) -> Fit:
    """Fits the law by one column of scores."""
    sign = -1.0 if objective.lower_is_better else 1.0
    optima = []
    for (params, size), rows in points.groupby(["params", "size"]):
        cell = Cell(
            name=str(size),
            params=float(str(params)),
            log_rates=np.round(np.log(rows["learning_rate"].to_numpy(np.float64)), 10),
            scores=sign * rows[objective.column].to_numpy(np.float64),
            seeds=rows["seed"].to_numpy(np.int64),
        )
        optima.append(find_optimum(cell))
    used = [optimum for optimum in optima if not optimum.needs]
    seeds = min((optimum.cell.seeds_per_rate for optimum in used), default=0)
    sizes = {optimum.cell.params for optimum in used}
    if len(sizes) < FEWEST_SIZES:
        told = [f"{counted(len(sizes), 'bracketed size')} of the {FEWEST_SIZES} that a law takes"]
        told += [f"{optimum.cell.name} needs {optimum.needs}" for optimum in optima if optimum.needs]
        return Fit(objective, optima, None, "; ".join(told), {}, seeds)
    without = {params: fit_law([one for one in used if one.cell.params != params]) for params in sizes}
    return Fit(objective, optima, fit_law(used), "", without, seeds)


def fit_law(optima: Sequence[Optimum]) -> Law:
    """The line through optima of two or more sizes; of two optima, it is without intervals (NaN).

    Where the optimum of a size is the last rate before a cliff, the true one may be anywhere between the two. Scatter
    does not show this if grids are alike.
    """
    design = np.array([[math.log(optimum.cell.params), 1.0] for optimum in optima])
    log_rates = np.array([optimum.log_rate for optimum in optima])
    solve = np.linalg.pinv(design)
    coefficients = solve @ log_rates
    squares = float(((log_rates - design @ coefficients) ** 2).sum())
    variance = squares / (len(optima) - 2) if len(optima) > 2 else math.nan
    gaps = solve * [optimum.gap for optimum in optima]
    return Law(coefficients, variance * solve @ solve.T, math.sqrt(variance), gaps)


def orders_of_magnitude(log_rate: Interval) -> float:
    """Over which the interval of a rate extends."""
    return 2 * log_rate.half_width / math.log(10)


def is_vague(log_rate: Interval) -> bool:
    return orders_of_magnitude(log_rate) > WIDEST


def to_rates(log_rates: Any) -> Any:
    """exp of a number or an array, which intervals of hundreds of decades do not overflow."""
    return np.exp(np.clip(log_rates, -500, 500))
