"""The difference that a claim about a table is about, and its tests.

Arms that share seeds are compared within each seed; the differences' variance is moderated towards that of the other
arms (see `analysis/statistics.py`). Without a column of seeds an arm's repeats are independent runs, tested twice: with
one variance for all of the claim's arms (Student), and with each arm's own (Welch), both moderated alike; the larger p
counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis.external.claims import OutsideClaim
from analysis.external.measured import CELL, Asked, within_arms
from analysis.judging.p_values import LEAST_ERROR, SAME, P, p_values
from analysis.judging.sequential import p_over_looks
from analysis.statistics import PRIOR, UNKNOWN, Interval, moderated, one_sample, other_arms, over_questions, shrunk

UNLIKE_IN_TABLES = 0.5
"""Level of the F test of own variance ≤ pool, in place of the lab's (see `analysis.statistics`): a table may have arms
of any kind at two seeds. A pair of which one arm has 3 times the other arms' standard deviation would be judged wrongly
in 12, 9 and 7 % of tables at a level of 0.2 (2, 3 and 4 seeds), and is in 7, 5 and 5 % at this; a difference of 4
standard deviations would be found in 68, 84 and 96 % if all vary alike, and is in 43, 73 and 95 %."""


@dataclass(frozen=True)
class OutsideEvidence:
    """What the table holds about one claim."""

    found: Interval = UNKNOWN
    over: str = ""
    """What the interval is over: `seeds`, `runs`, or `questions`, which give no verdict; empty without one."""
    count: int = 0
    """Seeds that all of its arms have, or runs of the one that has fewest."""
    error_of_one: float = math.nan
    """The standard deviation of the difference at a single seed, or between single runs."""
    own_degrees: int = 0
    """Degrees of freedom that the claim's arms themselves bring."""
    p: P = field(default_factory=dict)
    """The p of each statement, over the looks; empty if nothing can be judged."""
    now: P = field(default_factory=dict)
    """The p of each statement, at the last finished look alone."""
    look: int = 0
    """Seeds of the last finished look; 0 without looks."""
    reason: str = ""
    """Why nothing is judged."""


def evidence_of(claim: OutsideClaim, common: Asked, looks: Sequence[int]) -> OutsideEvidence:
    """`common` are the scores of questions that all of its arms have."""
    if reason := common.lacking:
        return OutsideEvidence(reason=reason)
    weights, paired, means = claim.weights, common.paired, common.means
    theirs = means.loc[list(weights)]
    if paired:
        theirs = theirs.dropna(axis=1)
    count = int(theirs.count(axis=1).min())
    if count == 0:
        return OutsideEvidence(reason="no seed in common: run the arms at the same seeds")
    if count == 1:
        each = common.weighed[list(weights)].dropna(axis=1)
        each = each.T.groupby(level="arm").mean().T
        found = _between_questions(each.dot(pd.Series(weights)))
        over = "questions" if np.isfinite(found.error) else ""
        what = "seed" if paired else "run of an arm"
        return OutsideEvidence(found, over, count, reason=f"one {what}: its luck is not known")
    tests_of = _within_seeds if paired else _between_runs
    tests = tests_of(weights, means, None)
    found, error_of_one = _widest(tests)
    over = "seeds" if paired else "runs"
    least = LEAST_ERROR * np.nanmax(theirs.abs())
    if found.error <= least:
        reason = f"the {over} change nothing, as if one model had been scored several times"
        if paired and theirs.std(axis=1).max() > least:
            reason = SAME
        return OutsideEvidence(Interval(found.estimate), count=count, reason=reason)
    own_degrees = count - 1 if paired else int((theirs.count(axis=1) - 1).sum())
    evidence = OutsideEvidence(found, over, count, error_of_one, own_degrees)
    if not looks:
        return replace(evidence, p=_largest_p(claim, tests))
    finished = [look for look in looks if look <= count]
    if not finished:
        return replace(evidence, reason=f"before the first look, at {looks[0]} seeds")
    by_look = []
    for look in finished:
        tests = tests_of(weights, means, look)
        by_look.append(_largest_p(claim, tests) if _widest(tests).interval.error > least else {})
    p = p_over_looks(by_look, looks)
    reason = "" if p else f"the {over} up to the look change nothing"
    return replace(evidence, p=p, now=by_look[-1], look=finished[-1], reason=reason)


class _Test(NamedTuple):
    """Student's test of a difference."""

    interval: Interval
    error_of_one: float
    """The standard deviation of the difference at a single seed, or between single runs."""


def _widest(tests: Sequence[_Test]) -> _Test:
    return max(tests, key=lambda test: test.interval.half_width)


def _largest_p(claim: OutsideClaim, tests: Sequence[_Test]) -> P:
    """The p of each statement about a claim: it holds if all tests say so."""
    by_test = [p_values(claim.expect, claim.margin, test.interval) for test in tests]
    return {statement: max(p[statement] for p in by_test) for statement in by_test[0]}


def _between_questions(each: pd.Series[float]) -> Interval:
    """The mean over benchmarks and shots of a difference by question. A question that is asked at several numbers of
    shots is one: what makes it easy for a model does so at all of them."""
    questions = each.groupby(level=["benchmark", "question"]).agg(["mean", "size"])
    cells = each.groupby(level=CELL).mean()
    found = over_questions((questions["mean"], questions["size"], cells.groupby(level="benchmark").size()))
    return replace(found, estimate=float(cells.mean()))


def _within_seeds(weights: Mapping[str, float], means: pd.DataFrame, look: int | None) -> list[_Test]:
    """The test over the seeds that all arms of the claim have; at a `look`, over the first so many.

    Only a pair's variance is moderated: other arms alone do not tell how far means over groups of arms vary together.
    """
    arms = list(weights)
    differences = means.loc[arms].T.dot(pd.Series(weights)).dropna()[:look]
    values = differences.to_numpy(np.float64)
    if len(arms) == 2:
        others = means.drop(index=arms)[differences.index].dropna()
        pool = other_arms(others.to_numpy(np.float64))
        found = moderated(values, pool, sum(weight**2 for weight in weights.values()), UNLIKE_IN_TABLES)
    else:
        found = one_sample(values)
    return [_Test(found, found.error * math.sqrt(len(values)))]


def _between_runs(weights: Mapping[str, float], means: pd.DataFrame, look: int | None) -> list[_Test]:
    """The tests over independent runs, at a `look` over the first so many of each arm: with one variance for all arms
    of the claim (Student), and with each arm's own (Welch).

    One variance promises too much if the wildest arm was run least, and an arm's own if its few runs happen to lie
    close together, and few runs do not tell which. Both are moderated towards the variance within the other arms.
    """
    if look:
        means = means.where(means.notna().cumsum(axis=1) <= look)
    own = means.loc[list(weights)]
    pool = within_arms(means.drop(index=list(weights)))
    counts = own.count(axis=1).to_numpy()
    factors = np.array(list(weights.values()))
    squares = factors**2
    estimate = float(own.mean(axis=1).to_numpy() @ factors)

    variance, degrees = shrunk(*within_arms(own), *pool, UNLIKE_IN_TABLES)
    error = math.sqrt(variance * (squares / counts).sum())
    student = _Test(Interval(estimate, error, degrees), math.sqrt(variance * squares.sum()))

    variances, lent = np.empty(len(own)), np.empty(len(own))
    for place, each in enumerate(own.var(axis=1)):
        own_degrees = float(counts[place] - 1)
        variances[place], total = shrunk(each, own_degrees, *pool, UNLIKE_IN_TABLES)
        lent[place] = pool[0] * (total - own_degrees) / total
    parts = squares * (variances - lent) / counts
    shared = (squares * lent / counts).sum()  # by all arms, so it varies as one
    square = parts.sum() + shared
    spread = (parts**2 / (counts - 1)).sum()
    if shared:
        spread += shared**2 / min(PRIOR, pool[1])
    if spread:
        degrees = float(square**2 / spread)  # by Welch and Satterthwaite
    of_one = math.sqrt((squares * variances).sum())
    welch = _Test(Interval(estimate, math.sqrt(square), degrees), of_one)
    return [student, welch]
