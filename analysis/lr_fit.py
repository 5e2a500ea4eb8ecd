"""From measurements to laws: an optimum a cell, a law an objective, what is left out and why, and predictions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from analysis.lr_curve import Floats
from analysis.lr_law import FEWEST, Estimate, Law, fit_law, leave_one_out
from analysis.lr_points import Measurements, Objective
from analysis.optimum import Optimum, add_question_noise, find_optima
from mm1_lab.config import RequestError

Resample = Callable[[Objective, Optimum], Floats | None]
"""(rates of the optimum's curve, resamples) mean scores on resampled questions, or None."""


@dataclass(frozen=True)
class Target:
    """A size to predict the rate of."""

    name: str
    params: float
    tokens: float | None = None


@dataclass(frozen=True)
class Fit:
    """Everything that one objective says."""

    objective: Objective
    optima: tuple[Optimum, ...]
    law: Law | None
    why: str
    """Why there is no law."""
    predictions: tuple[tuple[Target, Estimate], ...]
    """In ln η."""

    @property
    def name(self) -> str:
        return self.objective.column

    @cached_property
    def left_out(self) -> list[Optimum]:
        """Cells that the law does not rest on."""
        used = [id(optimum) for optimum in self.law.optima] if self.law else []
        return [optimum for optimum in self.optima if id(optimum) not in used]

    @cached_property
    def leave_one_out(self) -> dict[float, Estimate]:
        return leave_one_out(self.law) if self.law else {}

    @property
    def resolved(self) -> list[Optimum]:
        """Cells whose interval ends within the rates that were tried."""
        return [optimum for optimum in self.optima if optimum.resolved]


def fit_all(
    measurements: Measurements,
    targets: Sequence[Target],
    keep_unbracketed: bool = False,
    resample: Resample = lambda objective, optimum: None,
) -> list[Fit]:
    """A fit an objective, in order. Raises RequestError for a target without tokens where a law has them."""
    fits = []
    for objective in measurements.objectives:
        optima = []
        for optimum in find_optima(measurements.cells(objective)):
            replicates = resample(objective, optimum)
            optima.append(optimum if replicates is None else add_question_noise(optimum, replicates))
        law, why = _law(optima, keep_unbracketed)
        predictions = tuple((target, _predict(law, target)) for target in targets) if law else ()
        fits.append(Fit(objective, tuple(optima), law, why, predictions))
    return fits


def _law(optima: Sequence[Optimum], keep_unbracketed: bool) -> tuple[Law | None, str]:
    used = [o for o in optima if o.bracketed or (keep_unbracketed and math.isfinite(o.log_rate))]
    sizes = {optimum.cell.params for optimum in used}
    if len(sizes) >= FEWEST:
        return fit_law(used), ""
    needs = [f"{o.cell.name} needs {o.needs}" for o in optima if o.needs]
    found = f"{len(sizes)} bracketed {'size' if len(sizes) == 1 else 'sizes'} of the {FEWEST} that a law takes"
    return None, "; ".join([found, *needs])


def _predict(law: Law, target: Target) -> Estimate:
    if law.with_tokens and target.tokens is None:
        raise RequestError(
            f"--predict {target.name}: this law has training tokens in it; write them too, as in {target.name}:100B"
        )
    return law.predict(target.params, target.tokens)


def agreement(first: Fit, second: Fit) -> Estimate | None:
    """ln of the first's optimum over the second's, over the cells that both bracket; None where there are none."""
    from scipy.special import stdtrit

    others = {optimum.cell.name: optimum for optimum in second.optima if optimum.bracketed}
    gaps = np.array(
        [o.log_rate - others[o.cell.name].log_rate for o in first.optima if o.bracketed and o.cell.name in others]
    )
    if len(gaps) == 0:
        return None
    mean = float(gaps.mean())
    half = float("nan")
    if len(gaps) > 1:
        half = float(stdtrit(len(gaps) - 1, 0.975) * gaps.std(ddof=1) / math.sqrt(len(gaps)))
    return Estimate(mean, mean - half, mean + half)
