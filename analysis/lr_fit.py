"""From measurements to laws: an optimum per cell, a law per objective, what is left out and why, and predictions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from analysis.lr_law import FEWEST, Estimate, Law, fit_law, leave_one_out
from analysis.lr_points import Measurements, Objective
from analysis.optimum import Optimum, find_optimum
from mm1_lab.config import RequestError

VERDICT_SEEDS = 3
"""Seeds per rate below which numbers are shown and no verdict: a seed moves all rates of a size together."""


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
    def used(self) -> dict[str, float]:
        """Cells that the law rests on, with their residuals in ln η."""
        law = self.law
        return {o.cell.name: float(r) for o, r in zip(law.optima, law.residuals, strict=True)} if law else {}

    @property
    def left_out(self) -> list[Optimum]:
        return [optimum for optimum in self.optima if optimum.cell.name not in self.used]

    @cached_property
    def leave_one_out(self) -> dict[str, Estimate]:
        return leave_one_out(self.law) if self.law else {}

    @property
    def resolved(self) -> list[Optimum]:
        """Cells whose interval ends within the rates that were tried."""
        return [optimum for optimum in self.optima if optimum.resolved]

    @property
    def seeds(self) -> int:
        """That every cell of the law has at least; 1 where runs do not say theirs."""
        return min((o.cell.known_seeds for o in self.law.optima), default=0) if self.law else 0

    @property
    def decided(self) -> bool:
        """Whether the law may be given a verdict."""
        return self.law is not None and self.law.freedom > 0 and self.seeds >= VERDICT_SEEDS


def fit_all(measurements: Measurements, targets: Sequence[Target], keep_unbracketed: bool = False) -> list[Fit]:
    """A fit per objective, in order. Raises RequestError for a target without tokens where a law has them."""
    fits = []
    for objective in measurements.objectives:
        optima = [find_optimum(cell) for cell in measurements.cells(objective)]
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
    both = [o for o in first.optima if o.bracketed and o.cell.name in others]
    gaps = np.array([o.log_rate - others[o.cell.name].log_rate for o in both])
    if len(gaps) == 0:
        return None
    mean, half = float(gaps.mean()), float("nan")
    if len(gaps) > 1:
        half = float(stdtrit(len(gaps) - 1, 0.975) * gaps.std(ddof=1) / math.sqrt(len(gaps)))
    return Estimate(mean, mean - half, mean + half)
