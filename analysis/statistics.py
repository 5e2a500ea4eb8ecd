"""Uncertainty of means and differences.

The unit is the seed. Arms with the same seed share encoder, decoder and order of data, so every contrast (of two arms,
of the means over an axis, of two such differences) is first computed within each seed, and Student's t is then applied
to its values over seeds. Variation that an axis shares within a seed thus enters the error as it enters the estimate; a
variance pooled over arms would instead count every pair of arms as independent evidence.

Two or three seeds hardly determine a variance, so that of a contrast Σ wᵢ armᵢ is moderated towards that of others, as
limma does for genes (Smyth 2004, Stat. Appl. Genet. Mol. Biol. 3(1), article 3):

    s² = (PRIOR · s²_pool + d · s²_own) / (PRIOR + d),    t with PRIOR + d degrees of freedom,    d = seeds − 1

where s²_own is the variance of the contrast over seeds, and s²_pool is Σ wᵢ² times a mean square over like contrasts at
these seeds: for a pair, all contrasts of the other arms; for means over several arms, those of the sweep's other axes,
because an axis changes from seed to seed as a whole and the rest between cells would promise too much. PRIOR is fixed
rather than estimated, as a sweep has too few arms. The pool excludes controls, and each measure has its own, so text is
never pooled with images. A contrast whose own variance is too large for the pool (UNLIKE) keeps it.

With one seed there is no such interval. `over_questions` estimates how the models at hand would do on other questions;
it is conditional on these models, says nothing about newly trained ones, and gives no verdict.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import fdtri, stdtr, stdtrit

Floats = NDArray[np.float64]

LEVEL = 0.05
NO_ERROR = 1e-100
"""Stands for an error of 0, by which nothing can be divided."""
PRIOR = 5.0
"""Degrees of freedom of the pool: 95 % of pairs' true variances are within 0.4 to 6 times the pool's. Of 4, 5 and 6,
the one with which simulated intervals of pairs cover the truth in 95 to 97 %, whatever differs in spread."""
UNLIKE = 0.2
"""Level of the F test of own variance ≤ pool. Intervals of a pair with one arm of 25 times the others' variance cover
the truth in 75, 82 and 89 % without it (3, 5 and 10 seeds), in 93, 95 and 95 % with it; at a level of 0.05 in 89, 94
and 95 %; of 9 times the variance in 91 % at 3 seeds. Where nothing differs they are 3 % wider at 3 seeds. Two seeds
cannot tell (86 %). Those of a mean over six pairs whose axis alone changes from seed to seed do in 86, 91, 93 and 94 %
at worst (2, 3, 4 and 6 seeds)."""


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its standard error, NaN if that is not known; intervals and tests are Student's t."""

    estimate: float
    error: float = np.nan
    degrees_of_freedom: float = np.nan

    def __bool__(self) -> bool:
        """Whether there is an interval around the estimate."""
        return not np.isnan(self.error)

    @property
    def half_width(self) -> float:
        """Half the width of the 95 % interval."""
        return self.error * float(stdtrit(self.degrees_of_freedom, 0.975))

    @property
    def low(self) -> float:
        return self.estimate - self.half_width

    @property
    def high(self) -> float:
        return self.estimate + self.half_width

    def below(self, value: float) -> float:
        """p of the one-sided test of truth ≥ `value`: small if the estimate is well below it."""
        return self._tail(self.estimate - value)

    def above(self, value: float) -> float:
        """p of the one-sided test of truth ≤ `value`: small if the estimate is well above it."""
        return self._tail(value - self.estimate)

    def _tail(self, distance: float) -> float:
        """The probability that Student's t is below `distance` divided by the error."""
        t = distance / max(self.error, NO_ERROR)
        return float(stdtr(self.degrees_of_freedom, t))


UNKNOWN = Interval(np.nan)
"""Stands for a missing estimate."""


def one_sample(values: Sequence[float] | Floats) -> Interval:
    """The mean of independent values, one per seed; without an interval for fewer than two."""
    count = len(values)
    if not count:
        return UNKNOWN
    error = np.std(values, ddof=1) / np.sqrt(count) if count > 1 else np.nan
    return Interval(float(np.mean(values)), float(error), count - 1.0)


def moderated(values: Sequence[float] | Floats, pool: Floats, squares: float = 2.0, unlike: float = UNLIKE) -> Interval:
    """`one_sample` with the variance moderated towards the pool (see above).

    `pool` (contrasts, seeds) is that of `other_arms` or `other_axes` at the same seeds, and may be empty; `squares` is
    the sum of the squared weights of the arms in `values`, 2 for a pair; `unlike` is the level of the F test.
    """
    found = one_sample(values)
    degrees = len(pool) * (len(values) - 1)
    if degrees < 1:
        return found
    pooled = squares * float(pool.var(axis=1, ddof=1).mean())
    own = float(np.var(values, ddof=1))
    variance, freedom = shrunk(own, found.degrees_of_freedom, pooled, degrees, unlike)
    error = np.sqrt(variance / len(values))
    return Interval(found.estimate, float(error), freedom)


def shrunk(
    own: float, own_degrees: float, pooled: float, degrees: float, unlike: float = UNLIKE
) -> tuple[float, float]:
    """A variance moderated towards the pool, and its degrees of freedom."""
    if degrees == 0:
        return own, own_degrees
    most = pooled * fdtri(own_degrees, degrees, 1 - unlike)
    if own > most:
        return own, own_degrees
    prior = min(PRIOR, degrees)
    total = prior + own_degrees
    return (prior * pooled + own_degrees * own) / total, total


def other_arms(scores: Floats) -> Floats:
    """The pool of a pair, from the scores (arms, seeds) of all other arms: all of their contrasts, each of which sets
    an arm against the mean of those before it (Helmert's)."""
    numbers = np.arange(1.0, len(scores))[:, None]
    before = np.cumsum(scores, axis=0)[:-1] / numbers
    return (scores[1:] - before) * np.sqrt(numbers / (numbers + 1))


def other_axes(weights: Floats, levels: Floats, scores: Floats) -> Floats:
    """The pool of a contrast with `weights` (arms,), from the scores (arms, seeds) of all arms: what their levels
    (arms, levels of all axes; 0 or 1) change beside it, along orthonormal contrasts of the arms."""
    direction = weights / np.linalg.norm(weights)
    beside = levels - np.outer(direction, direction @ levels)
    vectors, sizes, _ = np.linalg.svd(beside - beside.mean(0), full_matrices=False)
    return np.asarray(vectors[:, sizes > 1e-9].T @ scores)


def around_arms_and_seeds(scores: pd.DataFrame) -> tuple[float, float, Floats | None]:
    """The variance of scores (arms, seeds; may have gaps) around a least-squares fit of score = arm + seed + rest, its
    degrees of freedom, and each seed's part, 0 for one without scores; None for the latter if shared seeds do not
    connect all arms."""
    values = scores.to_numpy(np.float64)
    known = ~np.isnan(values)
    arms, seeds = known.any(axis=1), known.any(axis=0)
    luck = np.zeros(len(seeds))
    values, known = values[arms][:, seeds], known[arms][:, seeds]
    counts = known.sum(axis=1, keepdims=True)
    rest = np.where(known, values, 0.0)
    rest -= known * rest.sum(axis=1, keepdims=True) / counts
    rank = 0
    if len(values) > 1:  # of an arm alone, what seeds do is part of the rest
        # the normal equations of the seeds' parts, once arms' means are taken away from them too; seeds that arms
        # connect leave one eigenvalue of 0, which the rounding of thousands of arms keeps far below `rcond`
        equations = np.diag(known.sum(axis=0)) - (known / counts).T @ known
        parts, _, rank, _ = np.linalg.lstsq(equations, rest.sum(axis=0), rcond=1e-9)
        rest -= known * (parts - known @ parts[:, None] / counts)
        luck[seeds] = parts - parts.mean()
    degrees = float(known.sum() - len(values) - rank)
    squares = float((rest**2).sum())
    variance = squares / max(degrees, 1.0)
    is_connected = len(values) < 2 or rank == len(equations) - 1
    return variance, degrees, luck if is_connected else None


def arm_means(scores: pd.DataFrame, fitted: pd.DataFrame | None = None) -> dict[str, Interval]:
    """The mean of every arm by a least-squares fit of score = arm + seed + rest; `scores` (arms, seeds) may have gaps.
    The fit is of `fitted`, if some of the arms are no repeats.

    An arm's mean is adjusted to the average of the seeds, so a missing seed does not bias it. The intervals, from one
    residual variance over all arms, are for comparing arms by eye at these seeds; claims are not judged by them. Of an
    arm alone, what seeds do to it is part of the rest. Empty without residual degrees of freedom, as with one seed, and
    if shared seeds do not connect all arms.
    """
    variance, degrees, luck = around_arms_and_seeds(scores if fitted is None else fitted)
    if luck is None or degrees < 1:
        return {}
    means = {}
    for arm, own in zip(scores.index, scores.to_numpy(np.float64) - luck, strict=True):
        values = own[~np.isnan(own)]
        if len(values):
            error = np.sqrt(variance / len(values))
            means[str(arm)] = Interval(float(values.mean()), float(error), degrees)
    return means


def over_questions(*terms: tuple[pd.Series[float], pd.Series[int], pd.Series[int]]) -> Interval:
    """The mean of a score or difference over benchmarks, with an error from the spread between blocks of questions; of
    several terms, whose benchmarks may differ, the sum: they deviate together in the blocks that they share.

    A term is the means of blocks and their numbers of questions, indexed by benchmark and block, and the benchmarks'
    weights. The unit is the block, as its questions share demonstrations; the result is the closed form of a bootstrap
    over blocks. Degrees of freedom are by Welch and Satterthwaite.
    """
    estimate = 0.0
    deviations: Any = None
    for means, counts, weights in terms:
        codes, names = pd.factorize(means.index.get_level_values(0))
        values = means.to_numpy(np.float64)
        sizes = counts.reindex(means.index).to_numpy(np.float64)
        share = sizes / np.bincount(codes, sizes)[codes]
        parts = np.bincount(codes, share * values)
        of_blocks = weights.loc[names].to_numpy(np.float64)
        weight = of_blocks / of_blocks.sum()
        estimate += float(weight @ parts)
        own = pd.Series(weight[codes] * share * (values - parts[codes]), means.index)
        own[np.bincount(codes)[codes] == 1] = np.nan  # a single block has no variance, whatever others have
        if deviations is None:
            deviations = own
        else:
            every = deviations.index.union(own.index)
            before = deviations.reindex(every, fill_value=0.0)
            deviations = before + own.reindex(every, fill_value=0.0)
    codes, _ = pd.factorize(deviations.index.get_level_values(0))
    squares = np.bincount(codes, deviations.to_numpy() ** 2)
    blocks = np.bincount(codes)
    with np.errstate(divide="ignore", invalid="ignore"):
        variances = squares * blocks / (blocks - 1)
    freedom = np.maximum(blocks - 1.0, 1.0)
    total = variances.sum()
    spread = (variances**2 / freedom).sum()
    degrees = total**2 / spread if spread > 0 else freedom.sum()
    return Interval(estimate, float(np.sqrt(total)), float(degrees))


def over_blocks(rows: pd.DataFrame) -> Interval:
    """`over_questions` of scores: rows with benchmark, block, shots and score."""
    blocks = rows.groupby(["benchmark", "block"], observed=True)["score"].agg(["mean", "count"])
    shots = rows.groupby("benchmark", observed=True)["shots"].nunique()
    return over_questions((blocks["mean"], blocks["count"], shots))
