"""How sure a mean or a difference is, and what that makes of a claim.

Two sources of chance are crossed: the seeds that models were trained with, and the questions they were asked.

- `seed_model`, from two seeds on: score = arm + seed + rest, least squares, one variance of the rest for the whole
  sweep. Arms at one seed share encoder, decoder and order of data, so a seed's luck cancels in a difference; t
  intervals. A percentile bootstrap over three seeds would cover about 75 %.
- `block_model`: a bootstrap over blocks of questions, the same resample in all arms. It says how the models at hand
  would do on other questions, and nothing about models trained anew: its results are conditional on these models.

Both give `ArmScores`: every arm's score, and how the errors of the arms hang together. A claim is then a weighted sum
of arms. Claims of one sweep are one family: `decide` applies Holm's correction to them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mm1_lab.config import Contrast

Verdict = Literal["supported", "contradicted", "undecided", "–"]
Expectation = Literal["greater", "less", "equivalent"]
Floats = NDArray[np.float64]

LEVEL = 0.05
REPLICATES = 2000


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its standard error; its intervals and tests are Student's."""

    estimate: float
    error: float
    degrees_of_freedom: float

    @property
    def half_width(self) -> float:
        """Of the 95 % interval."""
        return self.error * quantile(0.975, self.degrees_of_freedom)

    @property
    def low(self) -> float:
        return self.estimate - self.half_width

    @property
    def high(self) -> float:
        return self.estimate + self.half_width

    def below(self, value: float) -> float:
        """p of the one-sided test that the truth is `value` or more: small where the estimate lies well below it."""
        from scipy.special import stdtr

        distance = self.estimate - value
        t = distance / self.error if self.error else np.copysign(np.inf, distance) if distance else 0.0
        return float(stdtr(self.degrees_of_freedom, t))

    def p_value(self, value: float = 0.0) -> float:
        """p of the two-sided test that the truth is `value`."""
        below = self.below(value)
        return 2 * min(below, 1 - below)


@lru_cache(maxsize=1024)
def quantile(share: float, degrees_of_freedom: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(degrees_of_freedom, share))


@dataclass(frozen=True)
class ArmScores:
    """Scores of arms with the covariance of their errors, which is a sum of independent parts.

    `values` is (arms,); each part is ((arms, arms), degrees of freedom). `free` is (arms, directions): what the data
    leave open, because no seed connects some arms; a weighted sum that touches it has no estimate.
    """

    arms: tuple[str, ...]
    values: Floats
    parts: tuple[tuple[Floats, float], ...]
    free: Floats

    def combine(self, weights: Mapping[str, float]) -> Interval | None:
        """The weighted sum of arms; None where an arm has no score or no seeds connect them.

        Degrees of freedom of several parts are Welch and Satterthwaite's.
        """
        if not set(weights) <= set(self.arms):
            return None
        vector = np.array([weights.get(arm, 0.0) for arm in self.arms])
        if self.free.size and np.abs(vector @ self.free).max() > 1e-9:
            return None
        variances = np.array([max(float(vector @ part @ vector), 0.0) for part, _ in self.parts])
        freedom = np.array([degrees for _, degrees in self.parts])
        spread = float((variances**2 / freedom).sum())
        degrees = float(variances.sum() ** 2 / spread) if spread > 0 else float(freedom.sum())
        return Interval(float(vector @ self.values), float(np.sqrt(variances.sum())), degrees)

    def mean(self, arm: str) -> Interval | None:
        """The arm's score; over seeds, its interval is for comparing arms at the same seeds."""
        return self.combine({arm: 1.0})

    def difference(self, first: str, second: str) -> Interval | None:
        """`first` − `second`."""
        return self.combine({first: 1.0, second: -1.0}) if first != second else None


def seed_model(scores: Mapping[tuple[str, int], float]) -> ArmScores | None:
    """score = arm + seed + rest; `scores` maps (arm, seed) to a score, holes are allowed.

    Seeds' effects sum to zero, so an arm's score is the one at the average of the sweep's seeds. None where nothing is
    left to estimate the spread from: one seed, or arms that share none.
    """
    arms = sorted({arm for arm, _ in scores})
    seeds = sorted({seed for _, seed in scores})
    if len(seeds) < 2:
        return None
    design = np.array(
        [
            [float(a == arm) for a in arms] + [float(s == seed) - float(seed == seeds[-1]) for s in seeds[:-1]]
            for arm, seed in scores
        ]
    )
    values = np.array(list(scores.values()))
    degrees = len(values) - int(np.linalg.matrix_rank(design))
    if degrees == 0:
        return None
    inverse = np.linalg.pinv(design.T @ design)
    coefficients = inverse @ design.T @ values
    rest = values - design @ coefficients
    free = np.eye(design.shape[1]) - inverse @ (design.T @ design)
    free = free[: len(arms)] if np.abs(free).max() > 1e-9 else np.zeros((len(arms), 0))
    covariance = inverse[: len(arms), : len(arms)] * float(rest @ rest) / degrees
    return ArmScores(tuple(arms), coefficients[: len(arms)], ((covariance, float(degrees)),), free)


def block_model(
    arms: Sequence[str], sums: Mapping[str, Floats], counts: Mapping[str, Floats], seed: int = 0
) -> ArmScores:
    """Scores by a bootstrap over blocks of questions; an arm's score is the mean over benchmarks.

    `sums[benchmark]` is (arms, blocks), the sum of scores in each block; `counts[benchmark]` is (blocks,), the
    questions in each.
    """
    values = np.mean([sums[name].sum(1) / counts[name].sum() for name in sums], axis=0)
    parts = []
    for name, replicates in resample_blocks(sums, counts, seed).items():
        covariance = np.atleast_2d(np.cov(replicates)) / len(sums) ** 2
        parts.append((covariance, float(max(len(counts[name]) - 1, 1))))
    return ArmScores(tuple(arms), values, tuple(parts), np.zeros((len(arms), 0)))


def resample_blocks(sums: Mapping[str, Floats], counts: Mapping[str, Floats], seed: int = 0) -> dict[str, Floats]:
    """By benchmark, (arms, REPLICATES): the mean over questions of resampled blocks, the same ones in all arms.

    A resample of n blocks varies less than fresh blocks would, by (n − 1) / n: deviations are stretched by the root of
    its inverse.
    """
    generator = np.random.default_rng(seed)
    found = {}
    for name, block_sums in sums.items():
        blocks = len(counts[name])
        drawn = generator.multinomial(blocks, np.full(blocks, 1 / blocks), REPLICATES).T
        mean = (block_sums.sum(1) / counts[name].sum())[:, None]
        resampled = (block_sums @ drawn) / (counts[name] @ drawn)
        found[name] = mean + (resampled - mean) * np.sqrt(blocks / max(blocks - 1, 1))
    return found


def one_sample(values: Sequence[float]) -> Interval | None:
    """The mean of independent values, one a seed; None for fewer than two."""
    if len(values) < 2:
        return None
    error = float(np.std(values, ddof=1) / np.sqrt(len(values)))
    return Interval(float(np.mean(values)), error, len(values) - 1.0)


# Claims


@dataclass(frozen=True, slots=True)
class Finding:
    """Which side of a claim the estimate lies on, and the p of the test that could have shown the other side."""

    supports: bool
    p_value: float


def find(expect: Expectation, margin: float, difference: Interval | None) -> Finding | None:
    """What a difference says of a claim about it; None where there is no difference to judge.

    `greater` and `less` are about the margin, two-sided. `equivalent` inside the margin takes two one-sided tests that
    the difference is as large as it, and outside a two-sided test against the nearer end.
    """
    if difference is None or not np.isfinite([difference.estimate, difference.error]).all():
        return None
    if expect == "equivalent":
        inside = abs(difference.estimate) < margin
        if inside:
            return Finding(True, max(1 - difference.below(-margin), difference.below(margin)))
        return Finding(False, difference.p_value(float(np.copysign(margin, difference.estimate))))
    bound = margin if expect == "greater" else -margin
    return Finding((difference.estimate > bound) == (expect == "greater"), difference.p_value(bound))


def all_of(findings: Sequence[Finding | None]) -> Finding | None:
    """One finding for a claim that says several things at once; None where one of them cannot be judged.

    It holds if all do: each must be shown by itself (an intersection-union test), so the largest p counts. It is
    refuted if one is: the smallest p of those that speak against it counts, times their number (Bonferroni).
    """
    known = [found for found in findings if found]
    if not known or len(known) < len(findings):
        return None
    against = [found.p_value for found in known if not found.supports]
    if against:
        return Finding(False, min(1.0, len(known) * min(against)))
    return Finding(True, max(found.p_value for found in known))


def decide(findings: Iterable[Finding | None]) -> list[tuple[Verdict, float]]:
    """Verdict and adjusted p of each claim of a family; "–" and NaN where there is nothing to judge.

    A claim is supported or contradicted where its p, adjusted by Holm over the family, is at most 5 %: the chance of
    any wrong verdict in the family is at most that. A difference that is merely not significant decides nothing.
    """
    every = list(findings)
    adjusted = iter(holm([found.p_value for found in every if found]))
    verdicts: list[tuple[Verdict, float]] = []
    for found in every:
        if found is None:
            verdicts.append(("–", float("nan")))
            continue
        p = next(adjusted)
        decided: Verdict = "supported" if found.supports else "contradicted"
        verdicts.append((decided if p <= LEVEL else "undecided", p))
    return verdicts


def judge(contrast: Contrast, difference: Interval | None) -> Verdict:
    """The verdict on one claim by itself."""
    return decide([find(contrast.expect, contrast.margin, difference)])[0][0]


def holm(p_values: Sequence[float]) -> list[float]:
    """p values adjusted by Holm's step-down method."""
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = running
    return adjusted
