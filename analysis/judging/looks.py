"""Judges a growing study at a look: which lessons are decided or futile, and which arms the open ones still need."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from analysis.judging.claims import Claim, Lesson, claim_of, claims_of, lessons_for
from analysis.judging.difference import SAME_TRIALS, UNLIKE
from analysis.judging.evidence import CHANGED, Evidence, of_contrasts, of_lessons, study_not_judged
from analysis.judging.p_values import DECIDED, sides, verdict_from_p
from analysis.judging.sequential import FUTILE, chance_yet, levels_of_looks
from analysis.judging.validity import read_judged
from analysis.judging.verdicts import statements
from analysis.runs import finished_looks
from analysis.statistics import LEVEL
from analysis.study import Study

NEVER = ("no scores", SAME_TRIALS, CHANGED, f"{UNLIKE}held-out")
"""How reasons begin that further seeds do not change: an arm was left out or fails, the measure has no values, arms are
equal, the claim came after the scores, losses are of other documents or tokens."""


def reached_text(study: Study) -> str:
    """The last look that a growing study has finished, and its two-sided nominal level; empty for other studies."""
    looks = study.manifest.looks
    if not looks:
        return ""
    number = len(finished_looks(study))
    if not number:
        return f"before the first look (at {looks[0]} of at most {looks[-1]} seeds), so there are no verdicts"
    level = levels_of_looks(LEVEL, looks)[number - 1]
    return f"look {number} of {len(looks)} (at {looks[number - 1]} of at most {looks[-1]} seeds), tested at {level:.2g}"


def open_arms(folder: Path, seeds: Sequence[int]) -> tuple[list[str], list[str]]:
    """A line per lesson about a sweep (or per claim of its file if there is no lesson), and the arms, in the sweep's
    order, of those that more seeds can decide; judged on `seeds` alone."""
    study, _ = read_judged(folder, seeds)
    return question_status(study, lessons_for(folder))


def question_status(study: Study, lessons: Sequence[Lesson]) -> tuple[list[str], list[str]]:
    """`open_arms` for a study."""
    reason = study_not_judged(study)
    if reason:
        return [f"no verdicts: {reason}"], list(study.sweep.arms)
    claims = defaultdict[str, list[Claim]](list)  # of all arms: one without scores may have failed at these seeds alone
    for lesson in lessons:
        for part in lesson.parts if lesson.sweep == study.sweep.name else ():
            own = claims_of(part, lesson, study.sweep, study.sweep.arms)
            if own and not part.aside:
                claims[lesson.name] += own
    if claims:
        evidence = of_lessons(study, lessons)
        tests = len(lessons)  # as if no other were decided, so that one stays decided whatever the others show
        undecided = "undecided by itself; `lessons.md`, by `mm1-lab figures`, corrects it together with what is decided"
    else:
        evidence = of_contrasts(study)
        tests = 1
        undecided = "undecided"
        for contrast in study.sweep.contrasts:
            claims[contrast.claim].append(claim_of(contrast))
    lines, arms = [], set[str]()
    for name, own in claims.items():
        deciding = [one for one in evidence if one.question == name and not one.aside]
        status, is_open = _status(study, deciding, tests, undecided)
        lines.append(f"{name}: {status}")
        if is_open:
            arms |= {study.representative(arm) for claim in own for arm, _ in claim.weights}
    return lines, [arm for arm in study.sweep.arms if study.representative(arm) in arms]


def _status(study: Study, evidence: Sequence[Evidence], tests: int, undecided: str) -> tuple[str, bool]:
    """The status of a question, by the evidence that decides it at LEVEL / `tests`; and whether more seeds could decide
    it."""
    claims = []
    for one in evidence:
        if not one.claim or one.reason.startswith(NEVER):
            return f"not judged: {one.reason}", False
        claims.append(one.claim)
    seeds, looks = len(study.seeds), study.manifest.looks
    p = statements(evidence)
    verdict = verdict_from_p(p, tests)
    if verdict in DECIDED:
        return verdict, False
    if looks and seeds >= looks[-1]:
        return undecided if p else "not judged", False
    if not p or not looks:
        return "open", True
    chance = 0.0
    for statement, value in statements(evidence, of_look=True).items():
        most_sides = max(sides(claim.expect, statement) for claim in claims)
        chance = max(chance, chance_yet(value, seeds, looks[-1], most_sides))
    if chance < FUTILE:
        return f"given up, a chance of {chance:.0%} to be decided by the last seed", False
    return f"open, a chance of {chance:.0%} to be decided by itself", True
