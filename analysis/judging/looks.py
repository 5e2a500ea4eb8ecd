"""Judges a growing study at a look: which lessons are decided or futile, and which arms the open ones still need."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from analysis.judging.claims import Claim, claim_of, grounds, judge_claims
from analysis.judging.lessons import Lesson, claims_of, known_lessons
from analysis.judging.sequential import FUTILE, SPENT_OF_STUDENT, chance_yet, nominal_levels
from analysis.judging.statements import DECIDED, p_columns, say
from analysis.judging.validity import failed_gates, validity_rows
from analysis.judging.verdicts import combined, lesson_parts, lessons_about
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
    return [2 * level for level in nominal_levels(SPENT_OF_STUDENT * LEVEL / 2, tuple(n / looks[-1] for n in looks))]


def open_arms(folder: Path, seeds: Sequence[int]) -> tuple[list[str], list[str]]:
    """A line per lesson about a sweep (or per claim of its file if there is no lesson), and the arms, in the sweep's
    order, of those that more seeds can decide; judged on `seeds` alone."""
    study = read_study(folder).at_seeds(seeds)
    return standing(study, known_lessons(folder.absolute().parents[1]), failed_gates(study, validity_rows(study)))


def standing(study: Study, lessons: Iterable[Lesson], failed: tuple[str, ...] = ()) -> tuple[list[str], list[str]]:
    """`open_arms` for a study.

    A lesson is decided at its Holm level with no other lesson decided, so it stays decided whatever the others show. A
    claim of the sweep's file is decided at the uncorrected level.
    """
    if (reason := grounds(study, failed)) not in ("", "one seed"):
        return [f"no verdicts: {reason}"], list(study.sweep.arms)
    looks, lines, arms = study.manifest.looks, [], set[str]()
    is_last = bool(looks) and len(study.seeds) >= looks[-1]
    for name, verdict, now, claims in _lesson_questions(study, list(lessons), failed) or _own_questions(study, failed):
        chance = max((chance_yet(p, len(study.seeds), looks[-1]) for p in now.values()), default=float("nan"))
        if verdict in DECIDED:
            lines.append(f"{name}: {verdict}")
        elif is_last:
            lines.append(f"{name}: undecided by itself; `lessons.md` corrects it together with what is decided")
        elif chance < FUTILE:
            lines.append(f"{name}: given up, a chance of {chance:.0%} to be decided by the last seed")
        else:
            lines.append(f"{name}: open" + (f", a chance of {chance:.0%} to be decided" if pd.notna(chance) else ""))
            arms |= {study.representative(arm) for claim in claims for arm, _ in claim.weights}
    return lines, [arm for arm in study.sweep.arms if study.representative(arm) in arms]


class Question(NamedTuple):
    """A lesson about a sweep, or a claim of its file."""

    name: str
    verdict: str
    """Empty if it cannot be tested yet."""
    now: Mapping[str, float]
    """The p of its statements at the present look alone."""
    claims: Sequence[Claim]


def _lesson_questions(study: Study, lessons: Sequence[Lesson], failed: tuple[str, ...]) -> list[Question]:
    """The lessons about the sweep that have a claim about its arms."""
    parts, sweep, questions = lesson_parts(study, lessons, failed), study.sweep, []
    for lesson in lessons_about(study, lessons):
        rows = parts[(parts["lesson"] == lesson.name) & parts["decides"].astype(bool)]
        deciding = [part for part in lesson.parts if not part.why_aside(study.manifest)]
        if claims := [claim for part in deciding for claim in claims_of(part, lesson, sweep, sweep.arms)]:
            p = combined(rows).both
            now = combined(rows, "now").both if p and study.manifest.looks else {}
            questions.append(Question(lesson.name, say(p, len(lessons)) if p else "", now, claims))
    return questions


def _own_questions(study: Study, failed: tuple[str, ...]) -> list[Question]:
    """The claims of the sweep's file."""
    rows = judge_claims(study, failed).to_dict("records")
    return [
        Question(contrast.claim, row["verdict"], p_columns(row, "now"), [claim_of(contrast)])
        for contrast, row in zip(study.sweep.contrasts, rows, strict=True)
    ]
