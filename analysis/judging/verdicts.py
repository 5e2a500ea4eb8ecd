"""From evidence to verdicts: a contrast is judged by itself, the lessons of a scale as one family.

A question is a lesson or a contrast. It is supported if all its deciding parts are (the largest p counts) and
contradicted if one is (the smallest p times their number).
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis.judging.claims import Lesson
from analysis.judging.evidence import Evidence, of_contrasts
from analysis.judging.p_values import P, Tested, Verdict, combine, holm
from analysis.judging.sequential import seeds_at_look
from analysis.seeds import seeds_needed
from analysis.study import Study
from mm1_lab.files import RESULTS
from mm1_lab.results.manifest import Manifest

ESTIMATE = (
    "detail",
    "measure",
    "expect",
    "margin",
    "expectation",
    "estimate",
    "error",
    "df",
    "low",
    "high",
    "interval",
    "p",
    "seeds",
    "seed_list",
    "seeds_are",
    "mixes_machines",
    "paper",
    "paper_bound",
    "paper_source",
)
"""Columns of an estimate and what it is compared with."""
STATEMENTS = ("p_supported", "p_contradicted")
PARTS = ("lesson", "part", "decides", "sweep", *ESTIMATE, *STATEMENTS, "says", "reason")
"""The columns of `lesson_parts.csv`. `says` is the uncorrected verdict of the row by itself."""


SAME = ("of_lesson", "claim", "detail", "expectation", "seed_list")
"""The columns of `contrasts.csv` in which a row must be the same for a lesson's verdict in it to be kept."""
BY_FIGURES = "by mm1-lab figures"
"""Stands for the verdict of a lesson that was not judged with these scores yet, as one sweep alone cannot."""


class Judged(NamedTuple):
    """The verdict on a question; all but the lead are columns of `lessons.csv`."""

    lead: Evidence | None
    """The part that determines the verdict."""
    parts: int
    """The number of parts that decide."""
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
    tested = holm({name: statements(evidence) for name, evidence in questions.items()})
    judged = {}
    for name, evidence in questions.items():
        one = tested.get(name, Tested("not judged", np.nan, 1))
        deciding = [part for part in evidence if not part.aside]
        shown = deciding or evidence
        lead = lead_of(shown, one.verdict) if shown else None
        reasons = [part.aside or part.reason for part in shown]
        judged[name] = Judged(
            lead=lead,
            parts=len(deciding),
            p_holm=one.p_holm,
            family=len(tested),
            # any of the parts may contradict
            tests=one.tests * len(deciding) if lead and lead.is_against else one.tests,
            seeds_needed=needed(deciding, one.tests) if one.verdict == "undecided" else np.nan,
            verdict=one.verdict,
            reason=next(filter(None, reasons), ""),
        )
    return judged


def statements(evidence: Iterable[Evidence], of_look: bool = False) -> P:
    """The p of the statements about a question; none if no part decides or if a deciding part has no p."""
    parts = [one.p_of_look if of_look else one.p for one in evidence if not one.aside]
    return combine(parts) if parts and all(parts) else {}


def lead_of(evidence: Sequence[Evidence], verdict: Verdict) -> Evidence:
    """The part to show: the weakest support if supported or if nothing is against it, the strongest evidence against it
    otherwise."""
    known = [one for one in evidence if one.p] or evidence[:1]
    against = [one for one in known if one.is_against]
    if verdict == "supported" or not against:
        return max(known, key=lambda one: one.p_of("supported"))
    return min(against, key=lambda one: one.p_of("contradicted"))


def needed(deciding: Sequence[Evidence], family: int) -> float:
    """Seeds that decide a question with 80 % power if the true differences are the estimates: with all its parts; or
    with the first part against it, whose p is multiplied by the number of parts."""
    if any(one.unit == "sizes" for one in deciding):
        return np.nan  # a learning-rate law needs sizes, not seeds
    against = [needed_for(one, family * len(deciding)) for one in deciding if one.is_against]
    return min(against) if against else max(needed_for(one, family) for one in deciding)


def needed_for(one: Evidence, family: int = 1) -> float:
    claim, found = one.claim, one.found
    assert claim
    count = len(one.seeds)
    error = found.error * np.sqrt(count)
    pooled = found.degrees_of_freedom - (count - 1)  # degrees of freedom from the pool of other arms
    is_turned = claim.expect == "keeps" and claim.measure.less_is_better
    estimate = -found.estimate if is_turned else found.estimate

    def seeds_at(tests: float) -> float:
        return seeds_needed(claim.expect, claim.margin, estimate, error, pooled, tests)

    return seeds_at_look(seeds_at, family, one.looks, count)


def judge_contrasts(study: Study, on_lessons: Sequence[Evidence] = ()) -> pd.DataFrame:
    """The contrasts of the sweep's file, each judged by itself at 5 %: sweep, claim, `ESTIMATE` and `STATEMENTS`,
    verdict, reason, `seeds_needed`, and what evidence on lessons about this sweep says of the same claim.

    `of_lesson` names the lesson that it is a part of, whose verdict, corrected for multiple testing, counts:
    `lesson_verdict`, as last drawn of the same claim, seeds and difference; `aside` says why a lesson does not rest on
    it. Each may be empty.
    """
    rows = []
    drawn = _drawn_verdicts(study.folder / "contrasts.csv") if on_lessons else {}
    for evidence in of_contrasts(study):
        judged = judge({"": [evidence]})[""]
        same = [one for one in on_lessons if one.claim == evidence.claim]
        of_lesson = next((one.question for one in same), "")
        aside = next((one.aside for one in same if one.aside), "")
        row = evidence.row() | judged._asdict() | {"of_lesson": of_lesson, "aside": aside}
        estimate, known = drawn.get(tuple(row[column] for column in SAME), (np.nan, BY_FIGURES))
        is_same = np.isclose(estimate, row["estimate"], rtol=1e-4, equal_nan=True)  # the file has six digits
        row["lesson_verdict"] = (known if is_same else BY_FIGURES) if of_lesson else ""
        rows.append(row)
    columns = ["sweep", "claim", *ESTIMATE, *STATEMENTS, "verdict", "reason", "seeds_needed"]
    return pd.DataFrame(rows, columns=[*columns, "of_lesson", "lesson_verdict", "aside"])


def _drawn_verdicts(path: Path) -> dict[tuple[str, ...], tuple[float, str]]:
    """The estimates and the verdicts of lessons in a `contrasts.csv`, by `SAME`; empty if it has none or is cut."""
    try:
        drawn = pd.read_csv(path, dtype=str, keep_default_na=False)
        values = zip(pd.to_numeric(drawn["estimate"]), drawn["lesson_verdict"], strict=True)
        return dict(zip(zip(*(drawn[column] for column in SAME), strict=True), values, strict=True))
    except (OSError, ValueError, KeyError):
        return {}


def judge_lessons(
    lessons: Sequence[Lesson], evidence: Iterable[Evidence], manifest: Manifest, results: Path = RESULTS
) -> pd.DataFrame:
    """The lessons, judged as one family from the evidence of all sweeps with the scale, settings and data of
    `manifest`: `ESTIMATE` of the part that determines the verdict, what the paper says, and the fields of `Judged`.
    `results` is their folder, which commands name."""
    questions: dict[str, list[Evidence]] = {lesson.name: [] for lesson in lessons}
    for one in evidence:
        questions[one.question].append(one)
    judged = judge(questions)
    rows = []
    for lesson in lessons:
        own = judged[lesson.name]
        row = own.lead.row() if own.lead else {}
        row |= lesson.model_dump(include={"claim", "by", "section", "sweep"})
        row |= {"lesson": lesson.name, "paper_says": lesson.paper} | own._asdict()
        if not questions[lesson.name]:
            row["reason"] = f"not run: {manifest.command(sweep=lesson.sweep, results=results)}"
        rows.append(row)
    columns = [*ESTIMATE, "lesson", "claim", "by", "paper_says", "section", "sweep", *Judged._fields]
    return pd.DataFrame(rows, columns=columns).drop(columns="lead")


def parts_frame(evidence: Iterable[Evidence]) -> pd.DataFrame:
    """`PARTS` of each part of the lessons."""
    return pd.DataFrame([one.row() for one in evidence], columns=list(PARTS))
