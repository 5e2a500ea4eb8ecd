"""From evidence to verdicts: a contrast is judged by itself, the lessons of a scale as one family.

A question is a lesson or a contrast. It is supported if all its deciding parts are (the largest p counts) and
contradicted if one is (the smallest p times their number); it is smaller than the paper's size if every part with a
size is. A claim rests on the measure that it names; captions by their content stand beside, but for lessons that were
frozen with `both_scores`, of which each statement must hold by both.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis.effects import levels_of
from analysis.judging.claims import LAW, Claim, Lesson, claim_of, claims_of, lessons_about
from analysis.judging.evidence import Evidence, of_contrasts
from analysis.judging.p_values import SUPPORTED, P, Tested, Verdict, combine, holm
from analysis.seeds import seeds_needed
from analysis.statistics import LEVEL, Interval
from analysis.study import Study
from mm1_lab.config import Contrast, Expectation

ESTIMATE = (
    *("detail", "measure", "expect", "margin", "expectation", "size", "estimate", "error", "df", "low", "high"),
    *("interval", "p", "seeds", "seed_list", "seeds_are", "mixes_machines", "paper", "paper_bound", "paper_source"),
)
"""Columns of an estimate and what it is compared with."""
STATEMENTS = ("p_supported", "p_contradicted", "p_smaller")
PARTS = ("lesson", "part", "decides", "scored_by", "sweep", *ESTIMATE, *STATEMENTS, "says", "reason")
"""The columns of `lesson_parts.csv`. `says` is the uncorrected verdict of the row by itself."""


class Judged(NamedTuple):
    """The verdict on a question; all but the lead are columns of `lessons.csv`."""

    lead: Evidence | None
    """The part that determines the verdict."""
    parts: int
    """The number of parts that decide."""
    scored_by: str
    p_holm: float
    family: int
    """The number of questions that are judged together."""
    tests: int
    """The lead is tested at LEVEL / tests."""
    seeds_needed: float
    """For a question that is not decided."""
    verdict: Verdict
    reason: str
    """Why it is not judged; empty if it was not run."""


def judge(questions: Mapping[str, Sequence[Evidence]]) -> dict[str, Judged]:
    """Judges questions together, at 5 % for all of them, from the evidence on each."""
    p = {name: statements(evidence) for name, evidence in questions.items()}
    tested = holm({name: own for name, own in p.items() if own})
    left = max(1, sum(one.p_holm > LEVEL for one in tested.values()))
    judged = {}
    for name, evidence in questions.items():
        one = tested.get(name, Tested("not judged", np.nan, 1))
        deciding = [own for own in evidence if not own.aside]
        shown = deciding or evidence
        lead = lead_of(shown, one.verdict) if shown else None
        reason = ""
        if one.verdict == "not judged":
            reason = next((own.aside or own.reason for own in shown if own.aside or own.reason), "")
        scores = dict.fromkeys(score.scored_by for own in deciding for score in own.scores)
        # any of the parts may contradict
        tests = one.tests * len(deciding) if lead and lead.is_against else one.tests
        judged[name] = Judged(
            lead=lead,
            parts=len(deciding),
            scored_by=" and ".join(scores),
            p_holm=one.p_holm,
            family=len(tested),
            tests=tests,
            seeds_needed=needed(deciding, left) if one.verdict == "undecided" else np.nan,
            verdict=one.verdict,
            reason=reason,
        )
    return judged


def statements(evidence: Iterable[Evidence], of_look: bool = False) -> P:
    """The p of the statements about a question; none if no part decides or if a deciding part has no p."""
    parts = [one.joint(of_look) for one in evidence if not one.aside]
    return combine(parts) if all(parts) else {}


def lead_of(evidence: Sequence[Evidence], verdict: Verdict) -> Evidence:
    """The part to show: the weakest support if supported or if nothing is against it, the strongest evidence against it
    otherwise; of two scores that by which this is weaker, as it must hold by both."""
    known = [one for one in evidence if one.joint()]
    against = [one for one in known if any(score.is_against for score in one.scores)]
    if not known:
        return evidence[0]
    if verdict in SUPPORTED or not against:
        statement = "supported"
        part = max(known, key=lambda one: one.joint()["supported"])
    elif verdict == "refuted in size":
        statement = "smaller"
        part = max(known, key=lambda one: one.joint().get("smaller", -1.0))
    else:
        statement = "contradicted"
        part = min(against, key=lambda one: one.joint()["contradicted"])
    return max(part.scores, key=lambda score: score.p_of(statement))


def needed(deciding: Sequence[Evidence], family: int) -> float:
    """Seeds that decide a question with 80 % power if the true differences are the estimates: with all its parts; or
    with the first part against it, whose p is multiplied by the number of parts; or by refuting all sizes.

    No number is enough if a part that must hold by both scores is against it by one alone.
    """
    if any(one.unit == "sizes" for one in deciding):
        return np.nan  # a learning-rate law needs sizes, not seeds
    scores = [score for one in deciding for score in one.scores]
    against = [one for one in deciding if all(score.is_against for score in one.scores)]
    if against:
        tests = family * len(deciding)
        direction = min(max(needed_for(score, tests) for score in one.scores) for one in against)
    elif any(score.is_against for score in scores):
        direction = np.inf
    else:
        direction = max(needed_for(score, family) for score in scores)
    sized = [_needed_to_refute(score, family) for score in scores if score.claim and score.claim.size is not None]
    return min(direction, max(sized, default=np.inf))


def needed_for(one: Evidence, family: int = 1) -> float:
    """Seeds that would decide a claim, but for the paper's size."""
    assert one.claim and one.found
    return _seeds(one, one.claim.expect, one.claim.margin, one.found.estimate, family)


def _needed_to_refute(one: Evidence, family: int) -> float:
    """The same for showing that the difference is smaller than the paper's size; infinite if the estimate is not."""
    assert one.claim and one.found and one.claim.size is not None
    estimate = -one.found.estimate if one.claim.expect == "less" else one.found.estimate
    return np.inf if estimate >= one.claim.size else _seeds(one, "less", -one.claim.size, estimate, family)


def _seeds(one: Evidence, expect: Expectation, margin: float, estimate: float, family: int) -> float:
    assert one.found
    count = len(one.seeds)
    one_seed = Interval(estimate, one.found.error * np.sqrt(count), one.found.degrees_of_freedom)
    pooled = one.found.degrees_of_freedom - (count - 1)  # degrees of freedom from the pool of other arms
    return seeds_needed(expect, margin, one_seed, pooled, family)


def judge_contrasts(study: Study, failed: Sequence[str] = ()) -> pd.DataFrame:
    """The contrasts of the sweep's file, each judged by itself at 5 %: sweep, claim, `ESTIMATE` and `STATEMENTS` by
    wording, verdict, reason, `seeds_needed`, and the difference by content (`content`, `content_low`, `content_high`).

    `failed` names the gates that the base fails.
    """
    rows = []
    for evidence in of_contrasts(study, failed):
        judged = judge({"": [evidence]})[""]
        found = evidence.row()
        row = {name: found[name] for name in ("sweep", "claim", *ESTIMATE, *STATEMENTS)}
        row |= {"verdict": judged.verdict, "reason": judged.reason, "seeds_needed": judged.seeds_needed}
        said = evidence.content.row() if evidence.content else {}
        for name, column in (("content", "estimate"), ("content_low", "low"), ("content_high", "high")):
            row[name] = said.get(column, np.nan)
        rows.append(row)
    return pd.DataFrame(rows)


def with_lessons(study: Study, contrasts: pd.DataFrame, lessons: Sequence[Lesson]) -> pd.DataFrame:
    """The judged contrasts with two more columns, both empty where there is nothing to say.

    `of_lesson` names the lesson of which a contrast is a part: the same difference with the same expectation, whose
    verdict, corrected for multiple testing, is the lesson's. `aside` says why a contrast is withdrawn, or why a lesson
    does not rest on it.
    """
    if contrasts.empty:
        return contrasts
    of_lesson: dict[str, str] = {}
    aside = dict(study.manifest.withdrawn)
    for lesson in lessons_about(study.sweep, lessons):
        for part in lesson.parts:
            parts = [_compared(claim) for claim in claims_of(part, lesson, study.sweep, study.scored)]
            why_aside = part.why_aside(study.manifest)
            for contrast in study.sweep.contrasts:
                if _compared(claim_of(contrast)) in parts:
                    of_lesson.setdefault(contrast.claim, lesson.name)
                same_levels = part.axis and _levels_compared(study, contrast) == {part.axis: {part.more, part.less}}
                if why_aside and (same_levels or part.contrast == contrast.claim):
                    aside.setdefault(contrast.claim, why_aside)
    claims = contrasts["claim"]
    return contrasts.assign(of_lesson=claims.map(of_lesson).fillna(""), aside=claims.map(aside).fillna(""))


def _compared(claim: Claim) -> object:
    return dict(claim.weights), claim.expect, claim.margin


def _levels_compared(study: Study, contrast: Contrast) -> dict[str, set[str | None]]:
    """The axes in which the arms of a contrast differ, with their levels."""
    first, second = contrast.sides
    arms = [levels_of(study.sweep.arms[arm]) for arm in (*first, *second)]
    differing = {}
    for axis in dict.fromkeys(axis for levels in arms for axis in levels):
        found = {levels.get(axis) for levels in arms}
        if len(found) > 1:
            differing[axis] = found
    return differing


def judge_lessons(lessons: Sequence[Lesson], evidence: Iterable[Evidence], scale: str = "mini") -> pd.DataFrame:
    """The lessons, judged as one family from the evidence of all sweeps of a scale: `ESTIMATE` of the part that
    determines the verdict, what the paper says, and the fields of `Judged`."""
    questions: dict[str, list[Evidence]] = {lesson.name: [] for lesson in lessons}
    for one in evidence:
        questions[one.question].append(one)
    judged = judge(questions)
    rows = []
    for lesson in lessons:
        own = judged[lesson.name]
        found = own.lead.row() if own.lead else {}
        if own.verdict == "not judged" and not own.reason and all(one.found is None for one in questions[lesson.name]):
            command = "lr-law" if lesson.sweep == LAW else f"sweep-{lesson.sweep.replace('_', '-')}"
            at_scale = "" if scale == "mini" else f" SCALE={scale}"  # mini is make's own
            own = own._replace(reason=f"not run: make {command}{at_scale}")
        rows.append(
            {
                **{name: found.get(name, np.nan) for name in ESTIMATE},
                "lesson": lesson.name,
                "claim": lesson.claim,
                "by": lesson.by,
                "paper_says": lesson.paper,
                "section": lesson.section,
                "sweep": lesson.sweep,
                **own._asdict(),
            }
        )
    return pd.DataFrame(rows).drop(columns="lead")


def parts_frame(evidence: Iterable[Evidence]) -> pd.DataFrame:
    """`PARTS` of each part of the lessons by each score."""
    rows = []
    for one in evidence:
        rows.append(one.row())
        if one.content:
            rows.append(one.content.row() | {"decides": one.both_scores and not one.aside})
    return pd.DataFrame(rows, columns=list(PARTS))
