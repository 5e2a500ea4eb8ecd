"""How sure a mean or a difference is, and what that makes of a claim.

Two sources of chance are crossed: the seeds that models were trained with, and the questions they were asked.

- `SeedModel`, from two seeds on: score = arm + seed + rest, least squares, one variance of the rest for the whole
  sweep. Arms at one seed share encoder, decoder and order of data, so a seed's luck cancels in a difference; t
  intervals.
- `Blocks`, with one seed: a bootstrap over blocks of questions, the same resample in all arms. It says how the models
  at hand would do on other questions, and nothing about models trained anew: its results are conditional on these
  models.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mm1_lab.config import Contrast

Verdict = Literal["supported", "contradicted", "undecided", "–"]
Floats = NDArray[np.float64]

CONFIDENCE = 0.95
REPLICATES = 4000


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its 95 % interval, and the 90 % interval that two one-sided 5 % tests come down to."""

    estimate: float
    low: float
    high: float
    low_90: float
    high_90: float

    @property
    def half_width(self) -> float:
        """Of the 95 % interval."""
        return (self.high - self.low) / 2


def judge(contrast: Contrast, difference: Interval | None) -> Verdict:
    """What the difference `first` − `second` says of the claim; "–" where there is no difference to judge.

    `greater` and `less` are about the side of the margin on which the whole 95 % interval lies. `equivalent` is
    supported when both one-sided 5 % tests reject a difference as large as the margin, and contradicted when the whole
    95 % interval lies beyond it; a difference that is merely not significant leaves the claim undecided.
    """
    if difference is None or not np.isfinite([difference.low, difference.high]).all():
        return "–"
    margin = contrast.margin
    if contrast.expect == "equivalent":
        supported = -margin < difference.low_90 and difference.high_90 < margin
        contradicted = difference.low > margin or difference.high < -margin
    elif contrast.expect == "greater":
        supported, contradicted = difference.low > margin, difference.high < margin
    else:
        supported, contradicted = difference.high < -margin, difference.low > -margin
    return "supported" if supported else "contradicted" if contradicted else "undecided"


class SeedModel:
    """score = arm + seed + rest over the trials of a sweep; holes are allowed.

    `scores` maps (arm, seed) to a score; at least two seeds.
    """

    def __init__(self, scores: Mapping[tuple[str, int], float]) -> None:
        self._arms = sorted({arm for arm, _ in scores})
        seeds = sorted({seed for _, seed in scores})
        rows = [self._row(arm, seeds, seed) for arm, seed in scores]
        design, values = np.array(rows), np.array(list(scores.values()))
        self._inverse = np.linalg.pinv(design.T @ design)
        self._coefficients: Floats = self._inverse @ design.T @ values
        self._seeds = len(seeds)
        self._null = np.eye(design.shape[1]) - self._inverse @ (design.T @ design)
        self.degrees_of_freedom = len(values) - int(np.linalg.matrix_rank(design))
        rest = values - design @ self._coefficients
        self.variance = float(rest @ rest) / self.degrees_of_freedom if self.degrees_of_freedom else float("nan")

    def _row(self, arm: str, seeds: list[int], seed: int) -> list[float]:
        """Indicators of the arms, then the seeds' effects, which sum to zero."""
        effects = [float(s == seed) - float(seed == seeds[-1]) for s in seeds[:-1]]
        return [float(a == arm) for a in self._arms] + effects

    def mean(self, arm: str) -> Interval | None:
        """The arm's mean over the sweep's seeds; its interval is for comparing arms at the same seeds."""
        return self._combine({arm: 1.0})

    def difference(self, first: str, second: str) -> Interval | None:
        """`first` − `second`; None where no seeds connect the two."""
        return self._combine({first: 1.0, second: -1.0}) if first != second else None

    def _combine(self, weights: Mapping[str, float]) -> Interval | None:
        from scipy.stats import t

        if not set(weights) <= set(self._arms):
            return None
        combination = np.array([weights.get(arm, 0.0) for arm in self._arms] + [0.0] * (self._seeds - 1))
        if np.abs(combination @ self._null).max() > 1e-9:
            return None
        estimate = float(combination @ self._coefficients)
        error = float(np.sqrt(max(combination @ self._inverse @ combination, 0.0) * self.variance))
        wide, narrow = (error * float(t.ppf(q, self.degrees_of_freedom)) for q in (0.975, 0.95))
        return Interval(estimate, estimate - wide, estimate + wide, estimate - narrow, estimate + narrow)


@dataclass(frozen=True)
class Blocks:
    """Bootstrap over blocks of questions, resampled within each benchmark, alike for everything that is compared.

    `sums[benchmark]` is (columns, blocks), the sum of scores in each block; `counts[benchmark]` is (blocks,), the
    questions in each. A column is whatever shares the questions: an arm at a shot count.
    """

    sums: Mapping[str, Floats]
    counts: Mapping[str, Floats]
    seed: int = 0

    @cached_property
    def means(self) -> Floats:
        """(columns,): the mean over benchmarks of the mean over questions."""
        return np.mean([self.sums[name].sum(1) / self.counts[name].sum() for name in self.sums], axis=0)

    @cached_property
    def replicates(self) -> Floats:
        """(columns, REPLICATES): the same of resampled blocks.

        A resample of n blocks varies less than fresh blocks would, by (n − 1) / n: each benchmark's deviations are
        stretched by the root of its inverse.
        """
        generator = np.random.default_rng(self.seed)
        total = np.zeros((len(self.means), REPLICATES))
        for name, sums in self.sums.items():
            blocks = len(self.counts[name])
            drawn = generator.multinomial(blocks, np.full(blocks, 1 / blocks), REPLICATES).T
            mean = (sums.sum(1) / self.counts[name].sum())[:, None]
            resampled = (sums @ drawn) / (self.counts[name] @ drawn)
            total += mean + (resampled - mean) * np.sqrt(blocks / max(blocks - 1, 1))
        return total / len(self.sums)

    def mean(self, column: int) -> Interval:
        return _percentiles(self.means[column], self.replicates[column])

    def difference(self, first: int, second: int) -> Interval:
        return _percentiles(self.means[first] - self.means[second], self.replicates[first] - self.replicates[second])


def _percentiles(estimate: float, replicates: Floats) -> Interval:
    low, low_90, high_90, high = np.percentile(replicates, [2.5, 5, 95, 97.5])
    return Interval(float(estimate), float(low), float(high), float(low_90), float(high_90))
