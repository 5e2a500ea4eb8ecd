"""The p value of each possible statement about a claim, and the verdict that they give.

The statements are that a claim is `supported` and that it is `contradicted`. Their p are mappings by statement, without
those that cannot be tested.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from analysis.statistics import LEVEL, Interval
from mm1_lab.config import Expectation

Verdict = Literal["supported", "contradicted", "undecided", "not judged"]
DECIDED: tuple[Verdict, ...] = ("supported", "contradicted")

P = Mapping[str, float]
"""The p of each statement that can be tested; a statement holds if its p is at most the level."""
LEAST_ERROR = 1e-9
"""Less is left of equal differences by rounding: nothing tells how far seeds lie apart, and there is no test."""
SAME = "the difference is the same at every seed, so nothing tells how far seeds lie apart"
"""Why such differences are not judged."""


def claimed(expect: Expectation, margin: float, less_is_better: bool) -> tuple[float, float]:
    """The ends of what is claimed: a difference lies between them."""
    if expect == "keeps" and less_is_better:
        return -np.inf, margin
    if expect == "greater":
        return margin, np.inf
    if expect == "less":
        return -np.inf, -margin
    return -margin, np.inf if expect == "keeps" else margin


def expectation(expect: Expectation, margin: float, less_is_better: bool = False) -> str:
    """What is claimed in words: `> 0`, `< −2`, `within ± 2`, `≥ −2`, or of a loss `≤ 2`."""
    if expect == "keeps" and less_is_better:
        return f"≤ {margin:g}"
    minus = f"−{margin:g}" if margin else "0"
    words = {"greater": f"> {margin:g}", "less": f"< {minus}", "keeps": f"≥ {minus}"}
    return words.get(expect, f"within ± {margin:g}")


def sides(expect: Expectation, statement: str) -> int:
    """How many sides the test of a statement has."""
    return 1 if statement == "supported" and expect in ("equivalent", "keeps") else 2


def p_values(expect: Expectation, margin: float, found: Interval, less_is_better: bool = False) -> dict[str, float]:
    """The p of the statements about a difference.

    A direction, or its opposite, is tested two-sided against the margin. `equivalent` needs two one-sided tests (the
    90 % interval lies within the margins), `keeps` one (non-inferiority: the one-sided 95 % bound lies above minus the
    margin, or below the margin where less is better); both are contradicted by two-sided tests against the margins.
    """
    low, high = claimed(expect, margin, less_is_better)
    p = {
        "supported": sides(expect, "supported") * max(found.above(low), found.below(high)),
        "contradicted": 2 * min(found.below(low), found.above(high)),
    }
    return {name: min(value, 1.0) for name, value in p.items() if np.isfinite(value)}


def verdict_from_p(p: P, factor: float = 1.0) -> Verdict:
    """The verdict if each p is multiplied by `factor`."""
    for verdict in DECIDED:
        if factor * p.get(verdict, np.inf) <= LEVEL:
            return verdict
    return "undecided"


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
    question use its level. Those without any p are left out."""
    smallest = {name: min(own.values()) for name, own in p.items() if own}
    left = tests = len(smallest)
    p_holm = 0.0
    tested = {}
    for name in sorted(smallest, key=lambda name: smallest[name]):
        p_holm = min(1.0, max(p_holm, left * smallest[name]))
        tested[name] = Tested(verdict_from_p(p[name], tests), p_holm, tests)
        left -= 1
        if p_holm <= LEVEL:
            tests = left
    return tested
