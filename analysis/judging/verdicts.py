"""From evidence to verdicts: a contrast is judged by itself, the lessons of a scale as one family.

A question is a lesson or a contrast. It is supported if all its deciding parts are (the largest p counts) and
contradicted if one is (the smallest p times their number); it is smaller than the paper's size if every part with a
size is. Each of these must hold by the wording score and, if there is one, by the content score.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis.effects import levels_of
from analysis.judging.claims import LAW, Claim, Lesson, claim_of, claims_of, lessons_about
from analysis.judging.evidence import Evidence, of_contrasts
from analysis.judging.p_values import DECIDED, SUPPORTED, P, Tested, TwoScores, Verdict, combine, holm
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
CONTENT = {"": "estimate", "_low": "low", "_high": "high"}
FLOOR = ("without_floor", "without_floor_low", "without_floor_high")
PARTS = ("lesson", "part", "decides", "scored_by", "sweep", *ESTIMATE, *STATEMENTS, "says", "reason", *FLOOR)
"""The columns of `lesson_parts.csv`. `says` is the uncorrected verdict of the row by itself."""
CONTRASTS = ("sweep", "claim", *ESTIMATE, *STATEMENTS, *FLOOR)
"""The columns of `contrasts.csv` that are those of the evidence by wording."""


class Judged(NamedTuple):
    """The verdict on a question."""

    verdict: Verdict
    reason: str
    """Why it is not judged; empty if it was not run."""
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


def judge(questions: Mapping[str, Sequence[Evidence]]) -> dict[str, Judged]:
    """Judges questions together, at 5 % for all of them, from the evidence on each."""
    p = {name: statements(evidence) for name, evidence in questions.items()}
    tested = holm({name: own.both for name, own in p.items() if own.both})
    left = max(1, sum(one.p_holm > LEVEL for one in tested.values()))
    judged = {}
    for name, evidence in questions.items():
        one = tested.get(name, Tested("not judged", np.nan, 1))
        verdict = p[name].by_one(one.verdict, left)
        deciding = [own for own in evidence if not own.aside]
        shown = deciding or evidence
        parts = sum(own.scored_by != "content" for own in deciding)  # by content they are the same parts
        lead = lead_of(shown, verdict) if shown else None
        reason, more = "", np.nan
        if verdict == "not judged":
            reason = next((own.aside or own.reason for own in shown if own.aside or own.reason), "")
        elif verdict not in DECIDED:
            more = needed(deciding, left)
        judged[name] = Judged(
            verdict=verdict,
            reason=reason,
            lead=lead,
            parts=parts,
            scored_by=" and ".join(dict.fromkeys(own.scored_by for own in deciding)),
            p_holm=one.p_holm,
            family=len(tested),
            tests=one.tests * (parts if lead and lead.is_against else 1),  # any of the parts may contradict
            seeds_needed=more,
        )
    return judged


def statements(evidence: Iterable[Evidence], p_of: Callable[[Evidence], P | None] = lambda one: one.p) -> TwoScores:
    """The p of the statements about a question; none if no part decides or if a deciding part has no p."""
    deciding = [one for one in evidence if not one.aside]
    if not all(one.p for one in deciding):
        return TwoScores({}, {})
    wording, content = (combine([p_of(one) or {} for one in own]) for own in by_score(deciding))
    return TwoScores(wording, content)


def by_score(deciding: Sequence[Evidence]) -> tuple[list[Evidence], list[Evidence]]:
    """The evidence by wording and by content: a part without captions counts by both. That by content is empty if no
    part has such a score."""
    wording = [one for one in deciding if one.scored_by != "content"]
    parts = {one.part for one in deciding if one.scored_by == "content"}
    if not parts:
        return wording, []
    return wording, [one for one in deciding if one.scored_by == "content" or one.part not in parts]


def lead_of(evidence: Sequence[Evidence], verdict: Verdict) -> Evidence:
    """The part to show: the weakest support if supported or if nothing is against it, the strongest evidence against it
    otherwise; of the two scores, that by which this is weaker, as it must hold by both."""
    known = [one for one in evidence if one.p]
    against = [one for one in known if one.is_against]
    if not known:
        return evidence[0]
    if verdict in SUPPORTED or not against:
        return max(known, key=lambda one: one.p_of("supported"))
    if verdict == "refuted in size":
        return max((one for one in known if "smaller" in (one.p or {})), key=lambda one: one.p_of("smaller"))
    strongest = []
    for score in sorted({one.scored_by for one in against}):
        own = [one for one in against if one.scored_by == score]
        strongest.append(min(own, key=lambda one: one.p_of("contradicted")))
    return max(strongest, key=lambda one: one.p_of("contradicted"))


def needed(deciding: Sequence[Evidence], family: int) -> float:
    """Seeds that decide a question with 80 % power if the true differences are the estimates: with all its parts; or
    with the first part against it, whose p is multiplied by the number of parts; or by refuting all sizes.

    A verdict needs both scores, so no number is enough if parts are against it by one score alone.
    """
    if any(one.unit == "sizes" for one in deciding):
        return np.nan  # a learning-rate law needs sizes, not seeds
    scores = [own for own in by_score(deciding) if own]
    against = [[one for one in own if one.is_against] for own in scores]
    if all(against):
        fewest = []
        for own, every in zip(against, scores, strict=True):
            fewest.append(min(needed_for(one, family * len(every)) for one in own))
        direction = max(fewest)
    elif any(against):
        direction = np.inf
    else:
        direction = max(needed_for(one, family) for one in deciding)
    sizes = [needed_to_refute(one, family) for one in deciding if one.claim and one.claim.size is not None]
    return min(direction, max(sizes, default=np.inf))


def needed_for(one: Evidence, family: int = 1) -> float:
    """Seeds that would decide a claim, but for the paper's size."""
    assert one.claim and one.found
    return _seeds(one, one.claim.expect, one.claim.margin, one.found.estimate, family)


def needed_to_refute(one: Evidence, family: int = 1) -> float:
    """The same for showing that the difference is smaller than the paper's size; infinite if the estimate is not."""
    assert one.claim and one.found and one.claim.size is not None
    estimate = -one.found.estimate if one.claim.expect == "less" else one.found.estimate
    if estimate >= one.claim.size:
        return np.inf
    return _seeds(one, "less", -one.claim.size, estimate, family)


def _seeds(one: Evidence, expect: Expectation, margin: float, estimate: float, family: int) -> float:
    assert one.found
    count = len(one.seeds)
    one_seed = Interval(estimate, one.found.error * np.sqrt(count), one.found.degrees_of_freedom)
    pooled = one.found.degrees_of_freedom - (count - 1)  # degrees of freedom from the pool of other arms
    return seeds_needed(expect, margin, one_seed, pooled, family)


def judge_contrasts(study: Study, failed: Sequence[str] = (), kept: Study | None = None) -> pd.DataFrame:
    """The contrasts of the sweep's file, each judged by itself at 5 %: the columns `CONTRASTS`, verdict, reason,
    `seeds_needed`, and `content`, `content_low` and `content_high`, the difference by content; others are by wording.

    `failed` and `kept` are as in `of_lessons`.
    """
    rows = []
    for evidence in of_contrasts(study, failed, kept):
        judged = judge({"": evidence})[""]
        found = evidence[0].row()
        row = {name: found[name] for name in CONTRASTS}
        row |= {"verdict": judged.verdict, "reason": judged.reason, "seeds_needed": judged.seeds_needed}
        said = evidence[1].row() if len(evidence) > 1 else {}
        row |= {f"content{end}": said.get(name, np.nan) for end, name in CONTENT.items()}
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
    """The axes in which the two arms of a contrast differ, with their levels."""
    first, second = (levels_of(study.sweep.arms[arm]) for arm in (contrast.first, contrast.second))
    levels = {axis: {first.get(axis), second.get(axis)} for axis in first | second}
    return {axis: both for axis, both in levels.items() if len(both) > 1}


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
        reason = own.reason
        if own.verdict == "not judged" and not reason and all(one.found is None for one in questions[lesson.name]):
            reason = f"not run: make {_command(lesson, scale)}"
        rows.append(
            {
                **{name: found.get(name, np.nan) for name in ESTIMATE},
                "lesson": lesson.name,
                "claim": lesson.claim,
                "by": lesson.by,
                "paper_says": lesson.paper,
                "section": lesson.section,
                "sweep": lesson.sweep,
                "parts": own.parts,
                "scored_by": own.scored_by,
                "p_holm": own.p_holm,
                "family": own.family,
                "tests": own.tests,
                "seeds_needed": own.seeds_needed,
                "verdict": own.verdict,
                "reason": reason,
            }
        )
    return pd.DataFrame(rows)


def _command(lesson: Lesson, scale: str) -> str:
    command = "lr-law" if lesson.sweep == LAW else f"sweep-{lesson.sweep.replace('_', '-')}"
    return command if scale == "mini" else f"{command} SCALE={scale}"  # mini is make's own


def parts_frame(evidence: Iterable[Evidence]) -> pd.DataFrame:
    """`PARTS` of each part of the lessons by each score."""
    return pd.DataFrame([one.row() for one in evidence], columns=list(PARTS))
