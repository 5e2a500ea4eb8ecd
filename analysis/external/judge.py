"""Judges claims about arms from a table of scores: supported, contradicted or undecided, and the seeds still needed.

Claims are one family under Holm's correction; with looks, p is over the looks (see `analysis/judging/sequential.py`).
One run an arm gives no verdict: its interval, if any, is over questions.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import index
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.external.claims import AVERAGE, OutsideClaim, check_arms, read_claims
from analysis.external.differences import OutsideEvidence, evidence_of
from analysis.external.measured import Asked, asked_by, by_number, in_common
from analysis.external.tables import Columns, Scores, make_scores, read_scores
from analysis.judging.p_values import DECIDED, Tested, holm, sides
from analysis.judging.sequential import FUTILE, chance_yet, seeds_at_look
from analysis.seeds import seeds_needed
from mm1_lab.config import RequestError
from mm1_lab.files import expanded
from mm1_lab.formatting import some

ONCE = (
    "Judged once, by the runs that are there; to add runs until it is decided, name the looks beforehand (--looks "
    "4,6,8), or luck decides it."
)
UNLIKE_SIZES = 20.0
"""Times which mean scores of benchmarks in one average may differ, without a word of it."""


@dataclass(frozen=True)
class Judgement:
    """What a table says about claims."""

    claims: list[dict[str, Any]]
    """A mapping per claim, with the keys that docs/judge.md lists; None where there is no value."""
    spread: dict[str, Any] | None
    """How far repeats of an arm lie apart: the standard `deviation` of a run, its `degrees_of_freedom`, the
    `smallest_gain` of one run over another that differs from luck at 5 %, and whether only runs of the `same_seed` are
    compared. None if no arm was repeated."""
    notes: list[str]

    @property
    def decided(self) -> bool:
        return all(claim["verdict"] in DECIDED for claim in self.claims)

    @property
    def go_on(self) -> bool | None:
        """Whether further seeds may decide a claim that is open; without looks None, as whoever adds seeds until a
        claim is decided finds differences where there are none."""
        still_open = [claim["open"] for claim in self.claims]
        return None if None in still_open else any(still_open)

    def to_dict(self) -> dict[str, Any]:
        return vars(self) | {"decided": self.decided, "go_on": self.go_on}


def judge(
    scores: Path | str | pd.DataFrame,
    claims: Path | str | Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    columns: Columns | None = None,
    lower_is_better: bool = False,
    looks: Sequence[int] = (),
) -> Judgement:
    """Judges `claims` (a YAML file with `contrasts`, such as a sweep, or what one holds) about `scores`.

    `columns` names columns, as `{"arm": "commit", "score": ["vqa", "gqa"]}` (several: a column per benchmark).
    Without claims, every arm is claimed to be better than the table's first. `looks` are the numbers of seeds at which
    the claims are judged while runs come in; the last one is the most there will be. Raises RequestError.
    """
    if not isinstance(scores, Path | str | pd.DataFrame):
        raise RequestError(f"give a file or a data frame of scores, not a {type(scores).__name__}")
    table = make_scores(scores, columns) if isinstance(scores, pd.DataFrame) else read_scores(expanded(scores), columns)
    looks = _checked(looks)
    asked = _asked_claims(table.arms, claims, lower_is_better)
    by_measure = _by_measure(table, asked)
    evidence, left_out = _evidence(table, asked, by_measure, looks)
    judged = list(zip(asked, evidence, strict=True))
    # a claim that cannot be judged yet counts as others do
    tested = holm({claim.question: one.p or {"supported": 1.0} for claim, one in judged})
    rows = [_row(claim, one, tested[claim.question], by_measure[claim.measure], looks) for claim, one in judged]
    notes = [*table.notes]
    if any(claim.measure == AVERAGE for claim in asked):
        notes += _unlike_sizes(by_measure[AVERAGE])
    notes += left_out
    if not table.paired:
        notes.append("No column of seeds: an arm's rows are taken for independent runs of it.")
    if looks:
        notes += _notes_on_looks(table, evidence)
    elif any(row["open"] is None and row["p"] is not None for row in rows):
        notes.append(ONCE)
    return Judgement(rows, _spread(by_measure.get(AVERAGE)), notes)


def _checked(looks: Sequence[int]) -> list[int]:
    """The numbers of seeds. Raises RequestError unless they increase."""
    try:
        numbers = [index(look) for look in looks]
    except TypeError:  # no list, or not of whole numbers
        numbers = [0]
    if numbers and (numbers[0] < 2 or numbers != sorted(set(numbers))):
        raise RequestError(f"looks {looks}: give increasing numbers of seeds, from 2 on, such as [4, 6, 8]")
    return numbers


def _asked_claims(arms: Sequence[str], claims: Any, lower_is_better: bool) -> list[OutsideClaim]:
    """The given claims about these arms; without any, that each is better than the first. Raises RequestError."""
    if claims is None:
        first, *others = arms
        expect = "less" if lower_is_better else "greater"
        asked = [OutsideClaim(first=arm, second=first, expect=expect) for arm in others]
    elif lower_is_better:
        raise RequestError("--lower-is-better is for tables without CLAIMS; there say `expect: less`")
    else:
        asked = read_claims(claims)
    for claim in asked:
        check_arms(claim, arms)
    return asked


def _by_measure(table: Scores, asked: Sequence[OutsideClaim]) -> dict[str, Asked]:
    """The scores by each measure that is claimed, and by the average if there is one. Raises RequestError."""
    by_measure = {}
    for measure in dict.fromkeys([*(claim.measure for claim in asked), AVERAGE]):
        if scored := asked_by(table, measure):
            by_measure[measure] = scored
    for claim in asked:
        if claim.measure not in by_measure:
            raise RequestError(f"{claim.name}: the table has no benchmark of the average; name a measure")
    return by_measure


def _evidence(
    table: Scores, asked: Sequence[OutsideClaim], by_measure: Mapping[str, Asked], looks: Sequence[int]
) -> tuple[list[OutsideEvidence], list[str]]:
    """What the table holds about each claim, and notes on the scores and runs that are left out."""
    evidence, notes, alone = [], [], []
    for claim in asked:
        scored = by_measure[claim.measure]
        if table.paired and (count := scored.alone(list(claim.weights))):
            alone.append(f"{claim.name}: {count}")
        common, left_out = in_common(claim, scored)
        evidence.append(evidence_of(claim, common, looks))
        if left_out:
            notes.append(left_out)
    if alone:
        notes.append(f"Runs left out, as another arm has none at their seed: {some(alone)}.")
    return evidence, notes


def _notes_on_looks(table: Scores, evidence: Sequence[OutsideEvidence]) -> list[str]:
    notes = []
    if not by_number(table.frame["seed"]):
        notes.append("Looks count runs in the order of the rows, which must be that in which they were made.")
    for look in dict.fromkeys(one.look for one in evidence if 0 < one.look < one.count):
        notes.append(
            f"p and verdict are of the look at {look} seeds; differences and intervals are of all that are there."
        )
    return notes


def _spread(average: Asked | None) -> dict[str, Any] | None:
    """`Judgement.spread`."""
    if not average or not (luck := average.luck):
        return None
    return {
        "deviation": luck.error,
        "degrees_of_freedom": int(luck.degrees_of_freedom),
        "smallest_gain": math.sqrt(2) * luck.half_width,
        "same_seed": average.paired,
    }


def _unlike_sizes(average: Asked) -> list[str]:
    """A note if a few benchmarks decide an average, as their scores are so much larger."""
    sizes = average.questions.abs().groupby(level="benchmark").mean().mean(axis=1).sort_values()
    if not sizes.iloc[-1] > UNLIKE_SIZES * sizes.iloc[0] > 0:
        return []
    least, *_, most = (f"{name} {size:.3g}" for name, size in sizes.items())
    return [
        f"The average is over scores of unlike sizes ({most}, {least}), so that the largest decide it; claims may name "
        "a measure."
    ]


def _row(
    claim: OutsideClaim, one: OutsideEvidence, tested: Tested, asked: Asked, looks: Sequence[int]
) -> dict[str, Any]:
    """One claim of a judgement."""
    found = one.found
    verdict = tested.verdict if one.p else "not judged"
    needed = math.nan
    is_open: bool | None = None
    if verdict in DECIDED:
        is_open = False
    else:
        needed = _seeds_needed(claim, one, tested.tests, asked, looks)
        if looks:
            chances = [chance_yet(p, one.look, looks[-1], sides(claim.expect, name)) for name, p in one.now.items()]
            is_open = max(chances, default=1.0) >= FUTILE and one.count < looks[-1]
    values = {
        "claim": claim.name,
        **claim.model_dump(exclude={"claim"}),
        "difference": found.estimate,
        "low": found.low,
        "high": found.high,
        "interval_over": one.over,
        "seeds": one.count,
        "p": tested.p_holm if one.p else math.nan,
        "verdict": verdict,
        "reason": one.reason,
        "seeds_needed": needed,
        "open": is_open,
    }
    for name, value in values.items():
        if isinstance(value, float) and not np.isfinite(value):
            values[name] = None  # JSON has no NaN
    return values


def _seeds_needed(claim: OutsideClaim, one: OutsideEvidence, tests: float, asked: Asked, looks: Sequence[int]) -> float:
    """Seeds that decide an open claim among so many `tests`, with looks at one of these; NaN if that is not known."""
    error = one.error_of_one
    variances = 1.0 if asked.paired else len(claim.weights)
    if one.count > 1:
        own_degrees = min(one.found.degrees_of_freedom, one.own_degrees)  # Welch's test has fewer than the arms bring
        variances = min(variances, own_degrees / (one.count - 1))
    elif asked.luck:  # of arms that were run once, by the repeats of others
        error = asked.luck.error * math.sqrt(sum(weight**2 for weight in claim.weights.values()))
    if not np.isfinite(error):
        return math.nan

    def seeds_at(family: float) -> float:
        """Without what the pool lends, which hardly changes it: every second pair keeps its own variance."""
        estimate = one.found.estimate
        return seeds_needed(claim.expect, claim.margin, estimate, error, family=family, variances=variances)

    return seeds_at_look(seeds_at, tests, looks, one.count)
