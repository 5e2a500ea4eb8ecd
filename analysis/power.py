"""What a sweep can see: the differences that it would find, and the seeds that it would need."""

from functools import lru_cache

import numpy as np

from analysis.statistics import LEVEL, Expectation, Floats, Interval

POWER = 0.8
MOST_SEEDS = 1000


def smallest_difference(interval: Interval) -> float:
    """The true difference that a two-sided 5 % test with this error finds in 80 % of all sweeps."""
    return interval.error * _noncentrality(interval.degrees_of_freedom)


@lru_cache(maxsize=1024)
def _noncentrality(degrees_of_freedom: float) -> float:
    """Of the t distribution that lies beyond the 5 % bound with 80 %."""
    from scipy.optimize import brentq

    return float(brentq(lambda shift: _power(shift, degrees_of_freedom, LEVEL / 2) - POWER, 0.0, 200.0))


def _power(shift: float | Floats, degrees_of_freedom: float | Floats, level: float) -> float | Floats:
    """The chance that a one-sided test at `level` finds a truth `shift` standard errors away."""
    from scipy.special import nctdtr, stdtrit

    return np.nan_to_num(1 - nctdtr(degrees_of_freedom, shift, stdtrit(degrees_of_freedom, 1 - level)), nan=1.0)


def seeds_needed(
    expect: Expectation, margin: float, difference: Interval, seeds: int, arms: int, family: int = 1
) -> float:
    """Seeds at which a claim would be decided with 80 %, were the truth what was estimated; infinite beyond 1,000.

    `difference` comes from `seeds` seeds of a sweep of `arms` arms; the level is Holm's first step over `family`
    claims. An estimate on the margin itself can never be decided.
    """
    many = np.arange(2, MOST_SEEDS + 1, dtype=np.float64)
    degrees = (arms - 1) * (many - 1)
    errors = difference.error * np.sqrt(seeds / many)
    level = LEVEL / family
    if difference.error == 0:
        return 2.0
    if expect == "equivalent" and abs(difference.estimate) < margin:
        ends = (margin - difference.estimate, margin + difference.estimate)
        power = sum(_power(end / errors, degrees, level) for end in ends) - 1
    else:
        bound = {"greater": margin, "less": -margin}.get(expect, float(np.copysign(margin, difference.estimate)))
        power = _power(abs(difference.estimate - bound) / errors, degrees, level / 2)
    enough = np.flatnonzero(power >= POWER)
    return float(many[enough[0]]) if len(enough) else float("inf")
