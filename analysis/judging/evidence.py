"""From a claim to its evidence: the difference that was measured, the p of each statement, or why there is none.

Contrasts of a sweep's file and parts of lessons have the same evidence; `verdicts.py` judges both. That on the lessons
about the learning-rate law is the slope of its fit, over sizes.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from analysis.judging.claims import SLOPE, Claim, Lesson, LessonPart, claim_of, claims_of, misnamed
from analysis.judging.difference import SAME_TRIALS, Difference, Weights
from analysis.judging.p_values import LEAST_ERROR, SAME, P, expectation, p_values, verdict_from_p
from analysis.judging.sequential import p_over_looks
from analysis.law.fit import VERDICT_SEEDS, Fit
from analysis.paper import UNPUBLISHED, PaperNumber, combine_numbers, read_paper
from analysis.runs import finished_looks, mixes_machines
from analysis.seeds import seed_columns
from analysis.statistics import UNKNOWN, Interval, one_sample
from analysis.study import Study
from mm1_lab.config import Measure

ABOVE = 5.0
"""Points by which the interval's lower end must exceed the majority answer (and, of a base, the blind control)."""
ONE_SEED = "one seed"
CHANGED = "its claim was written or changed after scores were seen"
SEEN = "written or changed after all of these scores were seen; other seeds decide it"
NOTHING_LEARNT = "smoke scale: nothing is learnt"
SOLUTIONS = Measure("solutions", 0)
"""The benchmarks that are asked after worked solutions, without any."""


@dataclass(frozen=True)
class Evidence:
    """What results say about one claim: a row of `lesson_parts.csv`."""

    question: str
    """The lesson, or the contrast by itself."""
    part: int
    claim: Claim | None = None
    """None if the sweep has no such arms."""
    sweep: str = ""
    found: Interval = UNKNOWN
    unit: str = ""
    """What the interval is over: `seeds`; with one seed `questions`, conditional on the models at hand; `sizes`."""
    seeds: Sequence[int] = ()
    in_world: bool = True
    p: P = field(default_factory=dict)
    """The p of each statement; of a growing study over its looks. Empty if there is a `reason`."""
    p_of_look: P = field(default_factory=dict)
    """In a growing study, at the present look alone."""
    looks: Sequence[int] = ()
    """Of a study that grows still."""
    reason: str = ""
    """Why it is not judged."""
    aside: str = ""
    """Why it is shown but does not decide."""
    paper: PaperNumber = UNPUBLISHED
    mixes_machines: bool | float = np.nan
    seen: int = 0
    """How many of these seeds had scores before the claim was written as it is."""

    def p_of(self, statement: str) -> float:
        return self.p.get(statement, np.nan)

    @property
    def is_against(self) -> bool:
        return self.p_of("contradicted") < self.p_of("supported")

    def row(self) -> dict[str, Any]:
        """The columns of `lesson_parts.csv`, of which `lessons.csv` and `contrasts.csv` have some."""
        row = {
            "lesson": self.question,
            "part": self.part,
            "decides": not self.aside,
            "says": verdict_from_p(self.p) if self.p else "not judged",
            "reason": self.aside or self.reason,
        }
        if self.claim is None:
            return row
        found = self.found
        return row | {
            "sweep": self.sweep,
            "claim": self.claim.text,
            "detail": self.claim.detail,
            "measure": str(self.claim.measure),
            "expect": self.claim.expect,
            "margin": self.claim.margin,
            "expectation": expectation(self.claim.expect, self.claim.margin, self.claim.measure.less_is_better),
            "estimate": found.estimate,
            "error": found.error,
            "df": found.degrees_of_freedom,
            "low": found.low,
            "high": found.high,
            "interval": self.unit,
            "p": min(self.p.values(), default=np.nan),
            "p_supported": self.p_of("supported"),
            "p_contradicted": self.p_of("contradicted"),
            **seed_columns(self.seeds, self.in_world, self.seen),
            "mixes_machines": self.mixes_machines,
            "paper": self.paper.value,
            "paper_bound": self.paper.bound,
            "paper_source": self.paper.source,
        }


def of_lessons(study: Study, lessons: Iterable[Lesson], fits: Sequence[Fit] = ()) -> list[Evidence]:
    """The evidence on each part of the lessons about a sweep; `fits` are those of a search for the law."""
    found = []
    for lesson in lessons:
        if lesson.sweep != study.sweep.name:
            continue
        for number, part in enumerate(lesson.parts, 1):
            if part.law:
                found.append(_of_law(study, lesson, number, part, fits))
                continue
            claims = claims_of(part, lesson, study.sweep, study.scored)
            for claim in claims:
                seen = study.seen_before_claims.get(part.contrast or "", ())
                one = gather(study, claim, lesson.name, number, part.aside, seen)
                if one.seen:  # lessons are fixed before the runs
                    one = replace(one, p={}, p_of_look={}, reason=CHANGED)
                found.append(one)
            if not claims:
                reason = misnamed(part, study.sweep) or "no scores"
                found.append(Evidence(lesson.name, number, reason=reason, aside=part.aside))
    return found


def of_contrasts(study: Study) -> list[Evidence]:
    found = []
    for contrast in study.sweep.contrasts:
        seen = study.seen_before_claims.get(contrast.claim, ())
        one = gather(study, claim_of(contrast), contrast.claim, seen=seen)
        if one.seen and one.seen == len(one.seeds):
            one = replace(one, p={}, p_of_look={}, reason=one.reason or SEEN)
        found.append(one)
    return found


def _of_law(study: Study, lesson: Lesson, number: int, part: LessonPart, fits: Sequence[Fit]) -> Evidence:
    published = read_paper("Equation 1").values["", "slope", "ln rate on ln parameters"]
    detail, minus = f"slope by {part.law}", 0.0
    if part.minus:
        minus = published.value
        detail += f" − ({minus})".replace("-", "−")
        published = replace(published, value=np.nan)
    fit = next((fit for fit in fits if fit.objective.column == part.law), None)
    slope, ends = UNKNOWN, []
    reason = ""
    if fit and fit.law:
        detail += f" ({fit.through})" if fit.through else ""
        slope, *ends = (replace(one, estimate=one.estimate - minus) for one in (fit.law.slope, *fit.law.slopes))
        if study.manifest.scale == "smoke":
            reason = NOTHING_LEARNT
        elif fit.seeds < VERDICT_SEEDS:
            reason = f"{fit.seeds} of the {VERDICT_SEEDS} seeds that a verdict needs"
    else:
        reason = f"no law: {fit.why if fit else f'no fit by {part.law}'}"
    p: P = {}
    if slope and not reason:
        by_end = [p_values(part.expect, part.margin, end) for end in ends]
        p = {statement: max(one[statement] for one in by_end) for statement in by_end[0]}
    return Evidence(
        question=lesson.name,
        part=number,
        claim=Claim(lesson.claim, detail, {}, SLOPE, part.expect, part.margin),
        sweep=study.sweep.name,
        found=slope,
        unit="sizes",
        seeds=study.seeds,
        in_world=study.manifest.in_world,
        p=p,
        reason=reason,
        aside=part.aside,
        paper=published,
    )


def gather(
    study: Study, claim: Claim, question: str, part: int = 1, aside: str = "", seen: Collection[int] = ()
) -> Evidence:
    difference = Difference(study, claim.weights)
    looks = study.manifest.looks
    now = _tested(claim, difference.over_seeds)
    at_looks = [len(set(difference.seeds) & set(study.seeds[:look])) for look in finished_looks(study)]
    p = p_over_looks(_tests(difference, claim, at_looks, seen), looks) if looks else now
    reason = difference.lacking
    if reason != SAME_TRIALS:
        reason = study_not_judged(study) or unsolved(study, claim.weights) or reason
    if not reason and not difference.over_seeds:
        reason = ONE_SEED
    elif not reason and not p:
        tested = [count for count in at_looks if not set(difference.seeds[:count]) <= set(seen)]
        reason = "before the first look" if looks and max(tested, default=0) < 2 else SAME
    return Evidence(
        question=question,
        part=part,
        claim=claim,
        sweep=study.sweep.name,
        found=difference.found,
        unit=difference.unit,
        seeds=difference.seeds,
        in_world=study.manifest.in_world,
        p={} if reason else p,
        p_of_look=now if looks else {},
        looks=looks if looks and len(study.seeds) < looks[-1] else (),
        reason=reason,
        aside=aside,
        paper=paper_difference(study, claim.weights),
        mixes_machines=mixes_machines(study, [arm for arm, _ in claim.weights]),
        seen=len(set(difference.seeds).intersection(seen)),
    )


def _tested(claim: Claim, found: Interval) -> P:
    if not found or found.error <= LEAST_ERROR:
        return {}
    return p_values(claim.expect, claim.margin, found, claim.measure.less_is_better)


def _tests(difference: Difference, claim: Claim, at_looks: Sequence[int], seen: Collection[int]) -> list[P]:
    """The p of each possible statement at the looks that the study has finished, at which it has so many seeds.

    A look at which the claim has no more seeds than at the last, as an arm got none or failed, is not tested again;
    nor is one whose seeds were all `seen` before the claim.
    """
    tests = []
    before = 1
    for count in at_looks:
        is_new = count > before and not set(difference.seeds[:count]) <= set(seen)
        tests.append(_tested(claim, difference.over_first(count)) if is_new else {})
        before = max(before, count)
    return tests


def study_not_judged(study: Study) -> str:
    """Why a sweep's results do not allow any verdict; empty if they do."""
    if study.manifest.scale == "smoke":
        return NOTHING_LEARNT
    if not study.failed_gates:
        return ""
    further = len(study.failed_gates) - 3
    more = f" and {further} more (gates.md, validity.md)" if further > 0 else ""
    return f"the base fails its gates: {', '.join(study.failed_gates[:3])}{more}"


def unsolved(study: Study, weights: Weights) -> str:
    """Why a claim about worked solutions cannot be judged: the first of its arms that, without any solution, does not
    beat the majority answer (a floor effect: there is nothing for demonstrations to raise or lower). Empty if all arms
    beat it, or at a single seed."""
    majority = study.majority(SOLUTIONS)
    for arm, measure in weights:
        is_about = any(part.of == SOLUTIONS.of for part in measure.parts)
        found = one_sample(study.seed_values(arm, SOLUTIONS)) if is_about else UNKNOWN
        if found.low < majority + ABOVE:
            score = f"{found.estimate:.1f} [{found.low:.1f}, {found.high:.1f}]"
            return f"floor: {arm} scores {score} without solutions, needed: low ≥ {majority:.1f} + {ABOVE:g}"
    return ""


def paper_difference(study: Study, weights: Weights) -> PaperNumber:
    """The weighted sum of the paper's numbers; for two arms of one panel the difference that it states, if any."""
    if sorted(weights.values()) == [-1, 1]:
        (second, other), (first, measure) = sorted(weights, key=lambda term: weights[term])
        for key, panel in study.panels.items():
            labels = {arm: label for label, arm in panel.arms.items()}
            if measure == other and {first, second} <= set(labels):
                number = study.paper.difference(key, labels[first], labels[second], measure)
                if number:
                    return number
    return combine_numbers([(weight, study.paper_value(*term)) for term, weight in weights.items()])
