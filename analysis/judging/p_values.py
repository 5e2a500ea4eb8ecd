"""The p value of each possible statement about a claim, and the verdict that they give.

The statements are that a claim is `supported` and that it is `contradicted`. Their p are mappings by statement, without
those that cannot be tested.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np

from analysis.statistics import LEVEL, Interval
from mm1_lab.config import Expectation

Verdict = Literal["supported", "contradicted", "undecided", "not judged"]
DECIDED = ("supported", "contradicted")

P = Mapping[str, float]
"""The p of each statement that can be tested; a statement holds if its p is at most the level."""


def p_values(expect: Expectation, margin: float, found: Interval) -> dict[str, float]:
    """The p of the statements about a difference.

    A direction, or its opposite, is tested two-sided against the margin. `equivalent` needs two one-sided tests (the
    90 % interval lies within the margins), `keeps` one (non-inferiority: the one-sided 95 % bound lies above minus the
    margin); both are contradicted by two-sided tests against the margins.
    """
    if expect == "less":
        return p_values("greater", margin, replace(found, estimate=-found.estimate))
    if expect == "keeps":
        p = {"supported": found.above(-margin), "contradicted": 2 * found.below(-margin)}
    elif expect == "equivalent":
        outside = 2 * min(found.below(-margin), found.above(margin))
        p = {"supported": max(found.above(-margin), found.below(margin)), "contradicted": outside}
    else:
        p = {"supported": 2 * found.above(margin), "contradicted": 2 * found.below(margin)}
    return {name: min(value, 1.0) for name, value in p.items() if np.isfinite(value)}


def verdict_from_p(p: P, factor: float = 1.0) -> Verdict:
    """The verdict if each p is multiplied by `factor`."""
    sure = {name for name, value in p.items() if factor * value <= LEVEL}
    if "supported" in sure:
        return "supported"
    return "contradicted" if "contradicted" in sure else "undecided"


def combine(parts: Sequence[P]) -> dict[str, float]:
    """The p of the statements about several parts together: all must be supported, one contradicted part is enough, so
    its p is multiplied by their number."""
    return {
        "supported": max(part["supported"] for part in parts),
        "contradicted": min(1.0, len(parts) * min(part["contradicted"] for part in parts)),
    }


class Tested(NamedTuple):
    """A verdict in its family."""

    verdict: Verdict
    p_holm: float
    """The smallest p of its statements, adjusted."""
    tests: int
    """It is tested at LEVEL / tests: those not rejected yet when Holm's procedure comes to it, or stops."""


def holm(p: Mapping[str, P]) -> dict[str, Tested]:
    """Holm's procedure over questions, in the order of the smallest p of their statements; all statements about a
    question use its level."""
    smallest = {name: min(own.values()) for name, own in p.items()}
    order = sorted(smallest, key=lambda name: smallest[name])
    left = range(len(order), 0, -1)
    products = [count * smallest[name] for count, name in zip(left, order, strict=True)]
    adjusted = np.minimum(1.0, np.maximum.accumulate(products)).tolist()
    still_open = sum(one > LEVEL for one in adjusted)
    tested = {}
    for name, count, one in zip(order, left, adjusted, strict=True):
        tests = max(count, still_open)
        tested[name] = Tested(verdict_from_p(p[name], tests) if one <= LEVEL else "undecided", one, tests)
    return tested
