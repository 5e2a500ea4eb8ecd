"""Group sequential tests: looking at a study while seeds are still being added, without inflating the error rate.

Testing at 5 % after four, six, eight and ten seeds errs in more than 5 % of studies. Here the 5 % are spent over looks
that are fixed in advance, by the spending function of Lan and DeMets (1983, Biometrika 70) that approximates O'Brien
and Fleming's bounds: almost nothing early, almost everything at the last look. For a one-sided level α and the share t
of all seeds,

    spent(t) = 2 − 2 Φ(z / √t),    z the 1 − α / 2 quantile

The resulting bounds hold for a normal test. Ours is Student's with few seeds, so each look uses the nominal level of
its bound, not the bound itself (Jennison and Turnbull 2000, Group Sequential Methods, section 3.8).

For several lessons, a lesson's p over its looks is the smallest overall level at which one of them would have decided
it. Holm's correction of these is the closed test of Maurer and Bretz (2013, Stat. Biopharm. Res. 5) for looks.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from analysis.judging.p_values import P
from analysis.statistics import LEVEL, Floats

STEP = 0.02
"""Step of the grid on which the test statistic's path is followed; halving it changes no bound by 0.001."""
SPENT_OF_STUDENT = 0.92
"""Factor on the level. In 400,000 simulated studies, Student's tests at nominal levels erred 0.98 to 1.09 times as
often as they should (5 or 10 seeds; levels 0.05 to 0.005; two to five looks). With this factor they err at 5 % in 4.7
to 5.3 % of two million studies: 5.3 at looks of 3, 4, 5 and 6 seeds, 5.0 at 2, 4, 6 and 8, or 4, 6, 8 and 10, 4.7 at
3 and 6. With a variance moderated towards other arms' they do in 2.8 to 3.6 % if all arms vary alike, and in 5.7 to
7.9 % if one of the pair varies three times as much, but in 10.5 % at looks of 2, 3 and 4."""
LEAST_P = 1e-300
"""Smaller levels and p count as this, so that all have a logarithm: early looks may spend less than can be counted."""
FUTILE = 0.1
"""A lesson gets no more seeds if its conditional power to be decided by the last look is below this. In simulated
studies whose true differences vary as much as seeds do, or twice as much, chances of 5 to 10 % at three seeds or more
came true in 0 to 11 %; at two seeds in 17 to 26 %."""


def spent(level: float, share: float) -> float:
    """How much of a one-sided `level` may be spent by the time that `share` of all seeds are finished."""
    return float(2 - 2 * ndtr(ndtri(1 - level / 2) / np.sqrt(share)))


def nominal_levels(level: float, shares: tuple[float, ...]) -> tuple[float, ...]:
    """The one-sided nominal level of the test at each look; `shares` of all seeds at the looks, increasing to 1.

    Follows the path of the test statistic: after each look, the density (on a grid) of the paths that have not crossed
    any bound is convolved with the independent normal increment up to the next look, where the bound is set such that
    the tail probability is what may be spent.
    """
    levels: list[float] = []
    before = 0.0
    used = 0.0
    grid = np.arange(-9, 9 + STEP / 2, STEP)  # for B(t) = √t · Z, whose standard deviation is at most 1
    density = np.zeros_like(grid)
    for share in shares:
        allowed = spent(level, share) - used
        used += allowed
        step = np.sqrt(share - before)
        before = share
        if levels:
            reach = int(np.ceil(8 * step / STEP))
            increments = np.arange(-reach, reach + 1) * STEP
            density = np.convolve(density, _normal(increments, step) * STEP, mode="same")
            above = np.cumsum(density[::-1])[::-1] * STEP
            tail = above - density * STEP / 2
            bound = np.interp(-allowed, -tail, grid) / np.sqrt(share)
        else:
            density = _normal(grid, step)
            bound = ndtri(1 - allowed)
        levels.append(float(ndtr(-bound)))
        inside = (bound * np.sqrt(share) - grid) / STEP + 0.5
        density *= np.clip(inside, 0, 1)  # share of each grid cell
    return tuple(levels)


def _normal(values: NDArray[np.floating[Any]], scale: float) -> NDArray[np.floating[Any]]:
    """The normal density; importing scipy.stats for it takes a second."""
    z = values / scale
    return np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi) / scale


def over_looks(p: Sequence[float], looks: Sequence[int]) -> float:
    """The overall p of a statement whose two-sided tests gave `p` at the first of `looks` (numbers of seeds): the
    smallest overall level at which one of the tests would have been significant at its look.
    """
    if len(looks) == 1:
        return p[0]
    overall, nominal = _table(tuple(looks))
    logs = []
    for one, of_look in zip(p, nominal.T, strict=False):  # later looks have no p yet
        logs.append(np.interp(np.log(max(one, LEAST_P)), of_look, overall))
    return float(np.exp(min(logs)))


def p_over_looks(tests: Sequence[P], looks: Sequence[int]) -> P:
    """The overall p of each statement by its tests at the first of `looks`; a look at which it was not tested has 1."""
    found = {}
    for name in sorted({name for test in tests for name in test}):
        p = [test.get(name, 1.0) for test in tests]
        found[name] = over_looks(p, looks)
    return found


def levels_of_looks(level: float, looks: Sequence[int]) -> list[float]:
    """The two-sided level of the test at each look of a statement that is tested at `level` over all of them."""
    if len(looks) == 1:
        return [level]
    overall, nominal = _table(tuple(looks))
    return [float(np.exp(np.interp(np.log(level), overall, of_look))) for of_look in nominal.T]


def seeds_at_look(seeds_at: Callable[[float], float], tests: float, looks: Sequence[int], count: int) -> float:
    """The seeds that decide a statement among so many `tests`, by `seeds_at`; with looks those of the next one after
    `count` seeds that has enough, as it is only decided at a look, of which each spends a part of the level."""
    if not looks:
        return seeds_at(tests)
    for look, level in zip(looks, levels_of_looks(LEVEL / tests, looks), strict=True):
        needed = seeds_at(LEVEL / level)
        if look > count and needed <= look:
            return float(look)
    return needed


@cache
def _table(looks: tuple[int, ...]) -> tuple[Floats, Floats]:
    """ln of two-sided overall levels from 1e-6 to 1, (levels,), and of each look's nominal level, (levels, looks)."""
    shares = tuple(seeds / looks[-1] for seeds in looks)
    overall = np.geomspace(1e-6, 1.0, 60)
    one_sided = SPENT_OF_STUDENT * overall / 2
    nominal = 2 * np.array([nominal_levels(level, shares) for level in one_sided.tolist()])
    return np.log(overall), np.log(np.maximum(nominal, LEAST_P))


def chance_yet(p: float, seeds: int, last: int, sides: int) -> float:
    """The conditional power under the current trend: the probability that a statement with the `p` of so many sides at
    `seeds` is significant at the `last` look if the true difference is the current estimate.

    Of a band only its nearer end counts, so chances of 20 to 40 % come true in 2 to 4 % if the band is too narrow for
    the last look's interval. This costs seeds, but with both ends bands would be given up of which 42 % could be
    decided (at four of ten seeds, where the spread is hardly known).
    """
    share = seeds / last
    if share >= 1:
        return float(p <= LEVEL)
    z = ndtri(1 - min(p, 1.0) / sides)
    ahead = z / np.sqrt(share)  # expected z of the whole study if the trend continues
    return float(ndtr((ahead - ndtri(1 - LEVEL / sides)) / np.sqrt(1 - share)))
