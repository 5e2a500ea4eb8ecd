"""Judges a growing study at a look: which lessons are decided or futile, and which arms the open ones still need."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from analysis.judging.claims import Claim, Lesson, claim_of, claims_of, known_lessons, lessons_about
from analysis.judging.evidence import Evidence, of_contrasts, of_lessons, study_not_judged
from analysis.judging.p_values import DECIDED, verdict_from_p
from analysis.judging.sequential import FUTILE, SPENT_OF_STUDENT, chance_yet, nominal_levels
from analysis.judging.validity import failed_gates, validity_checks
from analysis.judging.verdicts import statements
from analysis.runs import finished_looks
from analysis.statistics import LEVEL
from analysis.study import Study, read_study


def looks_text(looks: Sequence[int]) -> str:
    """What looks do to a plan, and the two-sided test level of each, for a single lesson."""
    each = ", ".join(f"{level:.2g} after {seeds}" for seeds, level in zip(looks, _levels(looks), strict=True))
    return (
        "This is the most that can run: after a look, arms whose lessons are decided or given up get no more seeds.\n"
        f"Levels of the tests, by seeds: {each}; {LEVEL:.0%} in all, divided among lessons as Holm does."
    )


def reached_text(study: Study) -> str:
    """The last look that a growing study has finished, and the level of its test; empty for other studies."""
    looks = study.manifest.looks
    if not looks:
        return ""
    number = len(finished_looks(study))
    if not number:
        return f"before the first look (at {looks[0]} of at most {looks[-1]} seeds), so there are no verdicts"
    level = _levels(looks)[number - 1]
    return f"look {number} of {len(looks)} (at {looks[number - 1]} of at most {looks[-1]} seeds), tested at {level:.2g}"


def _levels(looks: Sequence[int]) -> list[float]:
    """The two-sided nominal level of the test at each look."""
    shares = tuple(seeds / looks[-1] for seeds in looks)
    return [2 * level for level in nominal_levels(SPENT_OF_STUDENT * LEVEL / 2, shares)]


def open_arms(folder: Path, seeds: Sequence[int]) -> tuple[list[str], list[str]]:
    """A line per lesson about a sweep (or per claim of its file if there is no lesson), and the arms, in the sweep's
    order, of those that more seeds can decide; judged on `seeds` alone."""
    study = read_study(folder).at_seeds(seeds)
    lessons = known_lessons(folder.absolute().parents[1])
    return question_status(study, lessons, failed_gates(study, validity_checks(study)))


def question_status(study: Study, lessons: Sequence[Lesson], failed: Sequence[str] = ()) -> tuple[list[str], list[str]]:
    """`open_arms` for a study."""
    reason = study_not_judged(study, failed)
    if reason not in ("", "one seed"):
        return [f"no verdicts: {reason}"], list(study.sweep.arms)
    lines, arms = [], set[str]()
    for question in _questions(study, lessons, failed):
        status, is_open = _status(study, question)
        lines.append(f"{question.name}: {status}")
        if is_open:
            arms |= {study.representative(arm) for claim in question.claims for arm, _ in claim.weights}
    return lines, [arm for arm in study.sweep.arms if study.representative(arm) in arms]


class Question(NamedTuple):
    """A lesson about a sweep, or a claim of its file."""

    name: str
    claims: Sequence[Claim]
    evidence: Sequence[Evidence]
    tests: int
    """It is decided at LEVEL / tests."""


def _status(study: Study, question: Question) -> tuple[str, bool]:
    """What is said of a question, and whether more seeds could decide it."""
    seeds, looks = len(study.seeds), study.manifest.looks
    p = statements(question.evidence)
    verdict = verdict_from_p(p, question.tests) if p else "not judged"
    if verdict in DECIDED:
        return verdict, False
    if looks and seeds >= looks[-1]:
        return "undecided by itself; `lessons.md` corrects it together with what is decided", False
    p_of_look = statements(question.evidence, lambda one: one.p_of_look) if p and looks else {}
    if not p_of_look:
        return "open", True
    chance = max(chance_yet(value, seeds, looks[-1]) for value in p_of_look.values())
    if chance < FUTILE:
        return f"given up, a chance of {chance:.0%} to be decided by the last seed", False
    return f"open, a chance of {chance:.0%} to be decided", True


def _questions(study: Study, lessons: Sequence[Lesson], failed: Sequence[str]) -> list[Question]:
    """The lessons about the sweep that have a claim about its arms; without any, the claims of its file.

    A lesson is tested as if no other were decided, so it stays decided whatever the others show; a claim of the file is
    tested at the uncorrected level.
    """
    questions = []
    evidence = of_lessons(study, lessons, failed)
    for lesson in lessons_about(study.sweep, lessons):
        claims: list[Claim] = []
        for part in lesson.parts:
            if not part.why_aside(study.manifest):
                claims += claims_of(part, lesson, study.sweep, study.sweep.arms)
        if claims:
            own = [one for one in evidence if one.question == lesson.name]
            questions.append(Question(lesson.name, claims, own, len(lessons)))
    if questions:
        return questions
    for contrast, one in zip(study.sweep.contrasts, of_contrasts(study, failed), strict=True):
        questions.append(Question(contrast.claim, [claim_of(contrast)], [one], 1))
    return questions
