"""From intervals to verdicts: the p value of each possible statement about a claim, and what they say together.

The statements are that a claim is `supported`, that it is `contradicted`, and that the difference is `smaller` than the
paper's. Their p are mappings by statement, without those that cannot be tested.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import numpy as np

from analysis.statistics import LEVEL, Interval
from mm1_lab.config import Expectation

Verdict = Literal[
    "supported",
    "supported, smaller",
    "by wording only",
    "by content only",
    "refuted in size",
    "contradicted",
    "undecided",
    "not judged",
]

SUPPORTED = ("supported", "supported, smaller")
DECIDED = (*SUPPORTED, "refuted in size", "contradicted")
STATEMENTS = ("supported", "contradicted", "smaller")


def p_values(expect: Expectation, margin: float, found: Interval, size: float | None = None) -> dict[str, float]:
    """The p value of each possible statement about a claim; a statement holds if its p is at most the level.

    A direction, or its opposite, is tested two-sided against the margin, and being smaller than the paper's `size`
    two-sided against the size. `equivalent` needs two one-sided tests (the 90 % interval lies within the margins),
    `keeps` one (non-inferiority: the one-sided 95 % bound lies above minus the margin); both are contradicted by
    two-sided tests against the margins.
    """
    if expect == "less":
        turned = replace(found, estimate=-found.estimate)
        return p_values("greater", margin, turned, size)
    if expect == "keeps":
        p = {"supported": found.above(-margin), "contradicted": 2 * found.below(-margin)}
    elif expect == "equivalent":
        outside = 2 * min(found.below(-margin), found.above(margin))
        p = {"supported": max(found.above(-margin), found.below(margin)), "contradicted": outside}
    else:
        p = {"supported": 2 * found.above(margin), "contradicted": 2 * found.below(margin)}
        if size is not None:
            p["smaller"] = 2 * found.below(size)
    return {name: min(value, 1.0) for name, value in p.items() if np.isfinite(value)}


def say(p: Mapping[str, float], factor: float = 1.0) -> Verdict:
    """The verdict for p values from `p_values`, each multiplied by `factor`."""
    sure = {name for name, value in p.items() if factor * value <= LEVEL}
    if "supported" in sure:
        return "supported, smaller" if "smaller" in sure else "supported"
    if "contradicted" in sure:
        return "contradicted"
    return "refuted in size" if "smaller" in sure else "undecided"


class Evidence(NamedTuple):
    """The p of each possible statement about a claim or a lesson, by each score of captions."""

    wording: Mapping[str, float]
    """By the captions' metric."""
    content: Mapping[str, float]
    """By their content; empty without such a score."""

    @property
    def both(self) -> Mapping[str, float]:
        """The p of each statement that must hold by both."""
        if not self.content:
            return self.wording
        return {name: max(p, self.content[name]) for name, p in self.wording.items() if name in self.content}

    def or_by_one(self, verdict: Verdict, factor: float = 1.0) -> Verdict:
        """The verdict by both, or which of them alone supports what both leave open; `factor` as in `say`."""
        if not self.content or verdict not in ("undecided", "refuted in size"):
            return verdict
        by_wording, by_content = (say(p, factor) in SUPPORTED for p in self)
        if by_wording == by_content:
            return verdict
        return "by wording only" if by_wording else "by content only"


def p_columns(row: Mapping[Any, Any], prefix: str = "p") -> dict[str, float]:
    """The p values of a row's statements; with the prefix `now` those of a growing study by its present look alone."""
    found = {name: float(row.get(f"{prefix}_{name}", np.nan)) for name in STATEMENTS}
    return {name: value for name, value in found.items() if not np.isnan(value)}
