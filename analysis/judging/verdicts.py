"""Judges each lesson by the results of a scale.

`lesson_parts` gives a sweep's rows, one per claim of a lesson (`lessons.py`), with the columns of `claims.py`;
`judge_lessons` combines them to one row per lesson. All lessons that can be judged form one family for multiple
testing.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analysis.effects import levels_of
from analysis.judging.claims import (
    Claim,
    by_both_scores,
    claim_of,
    claim_row,
    columns_without_floor,
    grounds,
    needed,
    needed_to_refute,
    row_of,
)
from analysis.judging.lessons import LAW, Lesson, Part, claims_of
from analysis.judging.statements import DECIDED, SUPPORTED, Evidence, Verdict, p_columns, p_values, say
from analysis.law.fit import VERDICT_SEEDS
from analysis.paper import read_paper
from analysis.seeds import seed_columns
from analysis.statistics import LEVEL, Interval, quantile
from analysis.study import Study
from mm1_lab.config import RequestError

COLUMNS = (
    *("detail", "measure", "expect", "margin", "expectation", "size", "estimate", "error", "df", "low", "high"),
    *("interval", "p", "seeds", "seed_list", "seeds_are", "mixes_machines", "paper", "paper_bound", "paper_source"),
)
"""Columns that a lesson takes from the claim that determines its verdict."""

PARTS = (
    *("lesson", "part", "decides", "scored_by", "sweep", *COLUMNS, "low_questions", "high_questions"),
    *("p_supported", "p_contradicted", "p_smaller", "smallest_difference", "says", "reason"),
    *("without_floor", "without_floor_low", "without_floor_high"),
)
"""The columns of `all_parts`."""


def lessons_about(study: Study, lessons: Iterable[Lesson]) -> list[Lesson]:
    """The lessons that a sweep's trials can answer; the one about the learning-rate law is judged by its fit."""
    return [lesson for lesson in lessons if lesson.sweep == study.sweep.name != LAW]


def lesson_parts(
    study: Study, lessons: Iterable[Lesson], failed: tuple[str, ...] = (), kept: Study | None = None
) -> pd.DataFrame:
    """A row per claim of the lessons about a sweep, and a second one by content if captions have a content score.

    Columns in addition to those of claims: `lesson`, `part` (its number), `scored_by` (`wording` or `content`),
    `decides`, and `says`, the uncorrected verdict of the row by itself. `reason` says why a row does not decide.
    `kept` is as in `judge_claims`.
    """
    reason, rows = grounds(study, failed), []
    for lesson in lessons_about(study, lessons):
        for number, part in enumerate(lesson.parts, 1):
            aside = part.why_aside(study.manifest)
            about = {"lesson": lesson.name, "part": number, "decides": not aside}
            claims = claims_of(part, lesson, study.sweep, study.scored)
            for claim in claims:
                for scored_by, one in by_both_scores(study, claim).items():
                    row = claim_row(study, one, reason) | columns_without_floor(kept, one)
                    rows.append(about | {"scored_by": scored_by, **row, "reason": aside or row["reason"]})
            if not claims:
                why = f"no contrast in the sweep's file: {part.contrast!r}" if part.contrast else "no scores"
                rows.append(about | {"scored_by": "wording", "says": "not judged", "reason": why})
    return pd.DataFrame(rows)


def with_lessons(study: Study, claims: pd.DataFrame, lessons: Sequence[Lesson]) -> pd.DataFrame:
    """The judged contrasts of the sweep's file with two more columns, both empty where there is nothing to say.

    `of_lesson` names the lesson of which a contrast is a part: the same difference with the same expectation, whose
    verdict, corrected for multiple testing, is the lesson's. `aside` is as in `asides`.
    """
    if claims.empty:
        return claims
    found: dict[str, str] = {}
    for lesson in lessons_about(study, lessons):
        parts = [
            (dict(claim.weights), claim.expect, claim.margin)
            for part in lesson.parts
            for claim in claims_of(part, lesson, study.sweep, study.scored)
        ]
        for contrast in study.sweep.contrasts:
            own = claim_of(contrast)
            if (dict(own.weights), own.expect, own.margin) in parts:
                found.setdefault(contrast.claim, lesson.name)
    told = {"of_lesson": found, "aside": asides(study, lessons)}
    return claims.assign(**{name: claims["claim"].map(of).fillna("") for name, of in told.items()})


def asides(study: Study, lessons: Iterable[Lesson]) -> dict[str, str]:
    """Why a contrast of the sweep's file is withdrawn, or why a lesson does not rest on it, by the contrast's claim: it
    names the contrast, or compares the same two levels of an axis, in a part that is set aside."""
    found = dict(study.manifest.withdrawn)
    for contrast in study.sweep.contrasts:
        first, second = (levels_of(study.sweep.arms[arm]) for arm in (contrast.first, contrast.second))
        differ = {axis: {first.get(axis), second.get(axis)} for axis in first | second}
        differ = {axis: levels for axis, levels in differ.items() if len(levels) > 1}
        for part in (part for lesson in lessons_about(study, lessons) for part in lesson.parts):
            same = part.contrast == contrast.claim or differ == {part.axis: {part.more, part.less}}
            if same and (aside := part.why_aside(study.manifest)):
                found.setdefault(contrast.claim, aside)
    return found


def all_parts(
    lessons: Iterable[Lesson], frames: Iterable[pd.DataFrame], law: Path, in_world: bool = True
) -> pd.DataFrame:
    """The parts from all sweeps of a scale and from its learning-rate law in the file `law`.

    `in_world`: they are of the miniature world.
    """
    found = [*frames, *(law_parts(lesson, law, in_world) for lesson in lessons if lesson.sweep == LAW)]
    found = [frame for frame in found if len(frame)]
    return pd.concat(found, ignore_index=True).reindex(columns=PARTS) if found else pd.DataFrame(columns=PARTS)


def judge_lessons(lessons: Iterable[Lesson], parts: pd.DataFrame, scale: str = "mini") -> pd.DataFrame:
    """A row per lesson: `lesson`, `claim`, `by`, `paper_says`, `section`, `sweep`; the columns of claims for the part
    that determines the verdict; `parts`, the number of deciding parts; `p_holm`, `family`, `tests` (that part is tested
    at LEVEL / tests), `seeds_needed`, `verdict`, `reason`.

    A lesson is supported if all deciding parts are (the largest p counts) and contradicted if one is (the smallest p
    times their number); it is smaller than the paper's size if every part with a size is. Each of these must hold by
    the wording score and, if there is one, by the content score. Holm's correction orders lessons by the smallest p of
    their possible statements, and all statements about a lesson use its level. `parts` come from `all_parts`, of
    results at `scale`.
    """
    lessons = list(lessons)
    found = {lesson.name: parts[parts["lesson"] == lesson.name] for lesson in lessons}
    p = {name: combined(rows) for name, rows in found.items()}
    verdicts = judge_family({name: known.both for name, known in p.items() if known.both})
    left = max(1, sum(judged.p_holm > LEVEL for judged in verdicts.values()))
    rows = []
    for lesson in lessons:
        judged = verdicts.get(lesson.name, Judged("not judged", np.nan, 1))
        judged = judged._replace(verdict=p[lesson.name].or_by_one(judged.verdict, left))
        rows.append(_lesson_row(lesson, found[lesson.name], judged, len(verdicts), left, scale))
    return pd.DataFrame(rows)


class Judged(NamedTuple):
    """A lesson's verdict in its family."""

    verdict: Verdict
    p_holm: float
    """The smallest p of its statements, adjusted."""
    tests: int
    """The lesson is tested at LEVEL / tests: those not rejected yet when Holm's procedure comes to it, or stops."""


def judge_family(p: Mapping[str, Mapping[str, float]]) -> dict[str, Judged]:
    """The verdict on each lesson, from the p of each possible statement about it."""
    order = sorted(p, key=lambda name: min(p[name].values()))
    running, tests, verdicts = 0.0, len(order), {}
    for rank, name in enumerate(order):
        rejected = running <= LEVEL
        tests = len(order) - rank if rejected else tests
        running = max(running, min(1.0, (len(order) - rank) * min(p[name].values())))
        verdicts[name] = Judged(say(p[name], tests) if running <= LEVEL else "undecided", running, tests)
    return verdicts


def combined(rows: pd.DataFrame, prefix: str = "p") -> Evidence:
    """The p of the statements about a lesson, from the rows of its parts; `prefix` is as in `p_columns`.

    Empty if no part decides or if a deciding part has no p.
    """
    deciding = rows[rows["decides"].astype(bool)]
    if deciding.empty or deciding["p"].isna().any():
        return Evidence({}, {})
    wording, content = (
        combine([p_columns(row, prefix) for row in rows.to_dict("records")]) if len(rows) else {}
        for rows in by_wording_and_content(deciding)
    )
    return Evidence(wording, content)


def by_wording_and_content(deciding: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of a lesson's parts by each score: a part without captions counts by both. Those by content are empty if
    no part has such a score."""
    content = deciding["scored_by"] == "content"
    others = ~deciding["part"].isin(deciding["part"][content]) & bool(content.any())
    return deciding[~content], deciding[content | others]


def combine(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The p of each possible statement about a lesson, from those of its parts (`p_values`)."""
    sizes = [part["smaller"] for part in parts if "smaller" in part]
    p = {"supported": max(part["supported"] for part in parts)}
    p["contradicted"] = min(1.0, len(parts) * min(part["contradicted"] for part in parts))
    return p | ({"smaller": max(sizes)} if sizes else {})


def _lesson_row(
    lesson: Lesson, rows: pd.DataFrame, judged: Judged, family: int, left: int, scale: str
) -> dict[str, object]:
    verdict = judged.verdict
    deciding = rows[rows["decides"].astype(bool)]
    shown = deciding if len(deciding) else rows
    reason, needs = "", np.nan
    if verdict == "not judged":
        command = "lr-law" if lesson.sweep == LAW else f"sweep-{lesson.sweep.replace('_', '-')}"
        command += f" SCALE={scale}" * (scale != "mini")  # make's own
        not_run = f"not run: make {command}" if shown["estimate"].isna().all() else ""
        reason = next((one for one in shown["reason"] if one), not_run)
    elif verdict not in DECIDED and lesson.sweep != LAW:
        needs = _needed(deciding, left)
    lead = _lead(shown, verdict) if len(rows) else dict.fromkeys(COLUMNS, np.nan)
    row: dict[str, object] = {name: lead[name] for name in COLUMNS}
    row |= {"lesson": lesson.name, "claim": lesson.claim, "by": lesson.by, "paper_says": lesson.paper}
    count = int((deciding["scored_by"] != "content").sum())  # by content they are the same parts
    row |= {"section": lesson.section, "sweep": lesson.sweep, "parts": count}
    row |= {"scored_by": " and ".join(dict.fromkeys(deciding["scored_by"])), "p_holm": judged.p_holm, "family": family}
    against = lead.get("p_contradicted", 1.0) < lead.get("p_supported", 1.0)  # any of the parts may contradict a lesson
    row["tests"] = judged.tests * (count if against else 1)
    return row | {"seeds_needed": needs, "verdict": verdict, "reason": reason}


def _needed(deciding: pd.DataFrame, left: int) -> float:
    """Seeds that decide a lesson: with all its parts, or with the first part against it, whose p counts as often as it
    has parts; by both scores, so no number does if parts are against it by one alone. Or all sizes are refuted."""
    by_score = [rows for rows in by_wording_and_content(deciding) if len(rows)]
    against = [rows[rows["p_contradicted"] < rows["p_supported"]] for rows in by_score]
    rows = deciding.to_dict("records")
    if all(map(len, against)):
        direction = max(_fewest(own, left * len(each)) for own, each in zip(against, by_score, strict=True))
    else:
        direction = np.inf if any(map(len, against)) else max(needed(row, left) for row in rows)
    sizes = [needed_to_refute(row, left) for row in rows if not np.isnan(row["size"])]
    return min(direction, max(sizes, default=np.inf))


def _fewest(rows: pd.DataFrame, family: int) -> float:
    return min(needed(row, family) for row in rows.to_dict("records"))


def _lead(rows: pd.DataFrame, verdict: str) -> dict[str, Any]:
    """The row that determines a verdict: for a supported lesson, or if no part is against it, the part with the least
    certain support; for a refuted size, the part that refutes it least certainly; otherwise the most certain part
    against the lesson, by the score (wording or content) by which that is less certain, as it must hold by both."""
    known = rows[rows["p"].notna()]
    against = known[known["p_contradicted"] < known["p_supported"]]
    if known.empty:
        place = rows.index[0]
    elif verdict in SUPPORTED or against.empty:
        place = known["p_supported"].idxmax()
    elif verdict == "refuted in size":
        place = known["p_smaller"].idxmax()
    else:
        strongest = against.loc[against.groupby("scored_by")["p_contradicted"].idxmin(), "p_contradicted"]
        place = strongest.idxmax()
    return dict(rows.loc[place])


def law_parts(lesson: Lesson, path: Path, in_world: bool) -> pd.DataFrame:
    """The rows of a lesson about the law's slope, from the fit in `path`; empty if there is no law."""
    if not path.exists():
        return pd.DataFrame()
    try:
        fits = {fit["objective"]: fit for fit in json.loads(path.read_text(encoding="utf-8"))["fits"]}
        seeds = sorted(pd.read_csv(path.with_name("points.csv"))["seed"].unique().tolist())
        rows = [_law_row(lesson, part, fits, seeds, path, in_world) for part in lesson.parts]
    except (OSError, ValueError, TypeError, KeyError, IndexError, RecursionError) as error:
        raise RequestError(f"{path}: cannot be read ({error}); fit the law again: mm1-lab fit-lr-law") from None
    return pd.DataFrame(rows).assign(lesson=lesson.name, part=range(1, len(rows) + 1))


def _law_row(
    lesson: Lesson, part: Part, fits: Mapping[str, Any], seeds: Sequence[int], path: Path, in_world: bool
) -> dict[str, object]:
    published = read_paper("Equation 1").values["", "slope", "ln rate on ln parameters"]
    minus = published.value if part.minus else 0.0
    detail = f"slope by {part.law}" + (f" − ({minus})".replace("-", "−") if part.minus else "")
    claim = Claim(lesson.claim, detail, {}, "slope", part.expect, part.margin)
    fit = fits.get(str(part.law), {"coefficients": None, "why": f"no fit by {part.law}"})
    reason, slope = "smoke scale: nothing is learnt" if path.parents[1].name == "smoke" else "", None
    if fit["coefficients"] is None:
        reason = f"no law: {fit['why']}"
    else:
        if not reason and fit["seeds"] < VERDICT_SEEDS:
            reason = f"{fit['seeds']} of the {VERDICT_SEEDS} seeds that a verdict needs"
        value, high = float(fit["coefficients"]["ln N"]), float(fit["intervals"]["ln N"][1])
        degrees = float(fit["degrees_of_freedom"])
        slope = Interval(value - minus, (high - value) / quantile(0.975, degrees), degrees)
    paper = replace(published, value=np.nan) if part.minus else published
    p = p_values(part.expect, part.margin, slope) if slope else {}
    row = row_of(
        claim,
        sweep=LAW,
        found=slope,
        interval="sizes",
        seeds=seed_columns(seeds, in_world),
        paper=paper,
        p=p,
        reason="" if part.aside and slope else reason,
    )
    return row | {"decides": not part.aside, "scored_by": part.law, "reason": part.aside or row["reason"]}
