"""Statements about a sweep's arms, and what its results say of them."""

from __future__ import annotations

from dataclasses import dataclass

from analysis.paper import PaperNumber
from analysis.power import seeds_needed, smallest_difference
from analysis.statistics import LEVEL, Expectation, Finding, Interval, Verdict, find
from analysis.study import Study
from mm1_lab.config import Contrast


@dataclass(frozen=True)
class Claim:
    """A weighted sum of arms' scores, and where it should lie."""

    text: str
    detail: str
    """The sum in words: `captions − interleaved, 0-shot`."""
    weights: dict[str, float]
    measure: str
    expect: Expectation
    margin: float = 0.0
    over: str = ""
    """Where not empty: how much more the one arm scores on `measure` than on this."""

    @property
    def expectation(self) -> str:
        """`> 0`, `< −2`, `within ± 2`."""
        if self.expect == "equivalent":
            return f"within ± {self.margin:g}"
        if self.expect == "greater":
            return f"> {self.margin:g}"
        return f"< −{self.margin:g}" if self.margin else "< 0"


def claim_of(contrast: Contrast) -> Claim:
    detail = f"{contrast.first} − {contrast.second}, {contrast.measure}"
    weights = {contrast.first: 1.0, contrast.second: -1.0}
    return Claim(contrast.claim, detail, weights, contrast.measure, contrast.expect, contrast.margin)


@dataclass(frozen=True)
class Evidence:
    """What the results say of one claim, by itself. Intervals are None where an arm that it needs has no scores."""

    claim: Claim
    difference: Interval | None
    """Over seeds where there are several, otherwise over questions."""
    questions: Interval | None = None
    """Over questions, conditional on the models at hand."""
    paper: PaperNumber | None = None
    mixes_machines: bool = False

    @property
    def finding(self) -> Finding | None:
        return find(self.claim.expect, self.claim.margin, self.difference)

    @property
    def smallest(self) -> float | None:
        """The true difference that such a sweep finds four times out of five."""
        return smallest_difference(self.difference) if self.difference else None


def gather(study: Study, claim: Claim) -> Evidence:
    """The evidence of one sweep's results."""
    if claim.over:
        arm = next(iter(claim.weights))
        difference = study.gain(arm, claim.measure, claim.over)
        questions = study.gain(arm, claim.measure, claim.over, questions=True) if difference else None
        return Evidence(claim, difference, questions)
    difference = study.combine(claim.weights, claim.measure)
    return Evidence(
        claim,
        difference,
        study.combine(claim.weights, claim.measure, questions=True) if difference else None,
        study.paper_difference(claim.weights, claim.measure),
        study.mixes_machines(claim.weights),
    )


@dataclass(frozen=True)
class Judged:
    """The verdict on a statement that comes to one claim or more."""

    evidence: tuple[Evidence, ...]
    verdict: Verdict
    p_value: float
    """Adjusted over the family that it was judged in."""
    seeds_needed: float | None = None
    """Of an undecided statement: seeds that would decide it, were the truth what was estimated; infinite: more than
    1,000. None where it cannot be told, from one seed."""

    @property
    def lead(self) -> Evidence | None:
        """The claim that the verdict hangs on: the surest of those that speak against it, else the least sure."""
        known = [(one, found) for one in self.evidence if (found := one.finding)]
        against = [pair for pair in known if not pair[1].supports]
        if against:
            return min(against, key=lambda pair: pair[1].p_value)[0]
        return max(known, key=lambda pair: pair[1].p_value)[0] if known else None


def needed(study: Study, evidence: tuple[Evidence, ...], family: int) -> float | None:
    """Seeds that would decide every one of these claims at Holm's first step over `family` claims; None: one seed."""
    if study.uncertainty == "questions":
        return None
    found = [
        seeds_needed(
            one.claim.expect,
            one.claim.margin,
            one.difference,
            len(study.seeds),
            2 if one.claim.over else len(study.scored),
            family,
        )
        for one in evidence
        if one.difference and one.finding and one.finding.p_value > LEVEL / family
    ]
    return max(found, default=None)
