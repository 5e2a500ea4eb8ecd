"""Judges claims about arms from a table of scores: supported, contradicted or undecided, and the seeds still needed.

Arms that share seeds are compared within each seed; the differences' variance is moderated towards that of the other
arms (see `analysis/statistics.py`). Without a column of seeds an arm's repeats are independent runs: the variance is
that within arms, moderated alike. Claims are one family under Holm's correction; with looks, p is over the looks (see
`analysis/judging/sequential.py`). One run an arm gives no verdict: its interval, if any, is over questions.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field

from analysis.external.tables import Scores, make_scores, read_scores
from analysis.judging.p_values import DECIDED, Tested, holm, p_values
from analysis.judging.sequential import FUTILE, chance_yet, over_looks
from analysis.seeds import seeds_needed, smallest_difference
from analysis.statistics import UNKNOWN, Floats, Interval, moderated, other_arms, over_questions, quantile, shrunk
from mm1_lab.config import Expectation, RequestError, nearest
from mm1_lab.config.base import Config
from mm1_lab.config.yaml_files import read_yaml

AVERAGE = "average"


class OutsideClaim(Config):
    """A claim about two arms of a table; as a sweep's contrast, but only the arms must be given."""

    first: str
    second: str
    """The difference is `first` − `second`."""
    claim: str = ""
    measure: str = AVERAGE
    """`average` (over all benchmarks and shots), `4-shot`, a benchmark, or `BENCHMARK 4-shot`."""
    expect: Expectation = "greater"
    margin: float = Field(0.0, ge=0)


@dataclass(frozen=True)
class Judgement:
    """What a table says about claims."""

    claims: list[dict[str, Any]]
    """A mapping per claim, with the keys that docs/judge.md lists; None where there is no value."""
    spread: dict[str, Any] | None
    """How far repeats of an arm lie apart: `deviation` of one run, `degrees_of_freedom`, and `smallest_gain` of one run
    over another that is told from luck at 5 %. None if no arm was repeated."""
    notes: list[str]

    @property
    def decided(self) -> bool:
        return all(claim["verdict"] in DECIDED for claim in self.claims)

    @property
    def go_on(self) -> bool:
        """Whether further seeds may decide a claim that is open."""
        return any(claim["open"] for claim in self.claims)

    def to_dict(self) -> dict[str, Any]:
        parts = {"claims": self.claims, "spread": self.spread, "notes": self.notes}
        return parts | {"decided": self.decided, "go_on": self.go_on}


def judge(
    scores: Path | str | pd.DataFrame,
    claims: Path | str | Sequence[Mapping[str, Any]] | None = None,
    columns: Mapping[str, str] | None = None,
    lower_is_better: bool = False,
    looks: Sequence[int] = (),
) -> Judgement:
    """Judges `claims` (a YAML file with `contrasts`, such as a sweep, or mappings with its keys) about `scores`.

    Without claims, every arm is claimed to be better than the table's first. `looks` are the numbers of seeds at which
    the claims are judged while runs come in; the last one is the most there will be. Raises RequestError.
    """
    table = make_scores(scores, columns) if isinstance(scores, pd.DataFrame) else read_scores(Path(scores), columns)
    if claims is None:
        first, *others = table.arms
        better: Expectation = "less" if lower_is_better else "greater"
        asked = [OutsideClaim(first=arm, second=first, expect=better) for arm in others]
    else:
        asked = _read_claims(claims)
    for claim in asked:
        _check_arms(claim, table)
    notes, evidence = list(table.notes), []
    measures = dict.fromkeys(claim.measure for claim in asked)
    matrices = {measure: _Matrix.of(_of_measure(table, measure)) for measure in measures}
    for claim in asked:
        matrix = matrices[claim.measure]
        common = matrix.of_both(claim.first, claim.second)
        evidence.append(_evidence(table, common, claim, looks))
        if 0 < len(common.values) < len(matrix.values):
            lost = len(matrix.values) - len(common.values)
            notes.append(f"{_name(claim)}: {lost} of {len(matrix.values)} scores are left out, as a run lacks them.")
    # a claim that cannot be judged yet counts as others do
    tested = holm({str(place): one.p or {"supported": 1.0} for place, one in enumerate(evidence)})
    spreads = {measure: _spread(matrix, table.paired) for measure, matrix in matrices.items()}
    rows = []
    for place, one in enumerate(evidence):
        rows.append(_row(one, tested[str(place)], spreads[one.claim.measure], looks))
    spread = spreads[AVERAGE] if AVERAGE in spreads else _spread(_Matrix.of(table.frame), table.paired)
    if not table.paired:
        notes.append("No column of seeds: an arm's rows are taken for independent runs of it.")
    return Judgement(rows, _spread_told(spread), notes)


def _read_claims(claims: Path | str | Sequence[Mapping[str, Any]]) -> list[OutsideClaim]:
    if isinstance(claims, Path | str):
        where, values = str(claims), read_yaml(Path(claims)).get("contrasts")
    else:
        where, values = "claims", claims
    if not isinstance(values, list | tuple) or not values:
        raise RequestError(f"{where}: holds no list of `contrasts`, each with first, second, expect, and margin")
    found = []
    for number, one in enumerate(values, 1):
        if not isinstance(one, Mapping):
            raise RequestError(f"{where}: contrast {number} is not a mapping with first, second and expect")
        found.append(OutsideClaim.parse(one, f"{where}: contrast {number}"))
    return found


def _check_arms(claim: OutsideClaim, table: Scores) -> None:
    for arm in (claim.first, claim.second):
        if arm not in table.arms:
            raise RequestError(f"{_name(claim)}: the table has no arm {arm!r}{nearest(arm, table.arms)}")
    if claim.first == claim.second:
        raise RequestError(f"{_name(claim)}: compares {claim.first!r} with itself")
    if claim.expect == "equivalent" and claim.margin == 0:
        raise RequestError(f"{_name(claim)}: no difference is within 0; give `equivalent` a margin")


def _name(claim: OutsideClaim) -> str:
    return claim.claim or f"{claim.first} − {claim.second}"


def _of_measure(table: Scores, measure: str) -> pd.DataFrame:
    """The rows that a measure is about. Raises RequestError if there are none."""
    frame = table.frame
    if measure == AVERAGE:
        return frame
    name, _, shots = measure.rpartition(" ")
    if found := re.fullmatch(r"(\d{1,4})-shot", shots):
        rows = frame[frame["shots"] == found.group(1)]
        rows = rows[rows["benchmark"] == name] if name else rows
    else:
        rows = frame[frame["benchmark"] == measure]
    if rows.empty:
        benchmarks = sorted(set(frame["benchmark"]) - {""})
        at_shots = [f"{shots}-shot" for shots in sorted(set(frame["shots"]) - {""}, key=int)]
        raise RequestError(f"the table has no {measure!r}{nearest(measure, [AVERAGE, *benchmarks, *at_shots])}")
    return rows


@dataclass(frozen=True)
class _Matrix:
    """The scores that a measure is about: a row per question, a column per run of an arm, NaN where there is none."""

    values: Floats
    """(questions, runs)"""
    cells: NDArray[np.integer[Any]]
    """(questions,): the benchmark and number of shots of each, as a number."""
    arms: NDArray[np.object_]
    """(runs,)"""
    runs: NDArray[np.object_]
    """(runs,): the seeds, or the numbers of repeats."""

    @classmethod
    def of(cls, frame: pd.DataFrame) -> _Matrix:
        rows = frame.groupby(["benchmark", "shots", "question"], sort=False).ngroup().to_numpy()
        columns = frame.groupby(["arm", "run"], sort=False).ngroup().to_numpy()
        _, first_of_row = np.unique(rows, return_index=True)
        _, first_of_column = np.unique(columns, return_index=True)
        values = np.full((len(first_of_row), len(first_of_column)), np.nan)
        values[rows, columns] = frame["score"]
        cells = frame.groupby(["benchmark", "shots"], sort=False).ngroup().to_numpy()[first_of_row]
        arms, runs = (frame[name].to_numpy(object)[first_of_column] for name in ("arm", "run"))
        return cls(values, cells, arms, runs)

    def of_both(self, first: str, second: str) -> _Matrix:
        """The questions that all runs of both arms have; none if one of them has no run."""
        theirs = np.isin(self.arms, [first, second])
        complete = np.flatnonzero(np.isfinite(self.values[:, theirs]).all(axis=1))
        if not {first, second} <= set(self.arms):
            complete = complete[:0]
        return replace(self, values=self.values[complete], cells=self.cells[complete])

    def means(self) -> dict[str, dict[str, float]]:
        """By arm and run: the mean over questions, then over benchmarks and shots, which weigh the same. A run that
        lacks one of the questions has no mean."""
        means: dict[str, dict[str, float]] = {}
        if not len(self.values):
            return means
        cells = np.unique(self.cells)
        for place, (arm, run) in enumerate(zip(self.arms, self.runs, strict=True)):
            scores = self.values[:, place]
            if np.isfinite(scores).all():
                each = [scores[self.cells == cell].mean() for cell in cells]
                means.setdefault(arm, {})[run] = float(np.mean(each))
        return means

    def over_questions(self, first: str, second: str, run: str) -> Interval:
        """The difference of two runs, with the error from the spread of questions: it is about these models alone."""
        columns = [np.flatnonzero((self.arms == arm) & (self.runs == run))[0] for arm in (first, second)]
        differences = self.values[:, columns[0]] - self.values[:, columns[1]]
        values = {str(cell): differences[self.cells == cell] for cell in np.unique(self.cells)}
        return over_questions(values, {cell: np.ones(len(own)) for cell, own in values.items()})


@dataclass(frozen=True)
class _Evidence:
    """What the table holds about one claim."""

    claim: OutsideClaim
    found: Interval = UNKNOWN
    over: str = ""
    """What the interval is over: `seeds`, `runs`, or `questions`, which give no verdict; empty without one."""
    count: int = 0
    """Seeds that both arms have, or runs of the one that has fewer."""
    single: Interval = UNKNOWN
    """The difference with the error of a single seed."""
    p: Mapping[str, float] = field(default_factory=dict)
    """By statement, over the looks; empty if nothing can be judged."""
    now: Mapping[str, float] = field(default_factory=dict)
    """By statement, at the last finished look alone."""
    reason: str = ""
    """Why nothing is judged."""


def _evidence(table: Scores, matrix: _Matrix, claim: OutsideClaim, looks: Sequence[int]) -> _Evidence:
    """`matrix` has the questions that both arms have."""
    means = matrix.means()
    if claim.first not in means or claim.second not in means:
        return _Evidence(claim, reason="no question in common")
    if table.paired:
        return _within_seeds(matrix, means, claim, looks)
    return _between_runs(means, claim, looks)


def _within_seeds(
    matrix: _Matrix, means: Mapping[str, Mapping[str, float]], claim: OutsideClaim, looks: Sequence[int]
) -> _Evidence:
    first, second = means[claim.first], means[claim.second]
    seeds = [seed for seed in dict.fromkeys(matrix.runs) if seed in first and seed in second]
    count = len(seeds)
    if count == 0:
        return _Evidence(claim, reason="no seed in common: run both arms at the same seeds")
    if count == 1:
        found = matrix.over_questions(claim.first, claim.second, seeds[0])
        over = "questions" if np.isfinite(found.error) else ""
        return _Evidence(claim, found, over, 1, reason="one seed: its luck is not known")
    differences = np.array([first[seed] - second[seed] for seed in seeds])
    others = [own for arm, own in means.items() if arm not in (claim.first, claim.second) and own.keys() >= set(seeds)]
    pool = np.array([[own[seed] for seed in seeds] for own in others]).reshape(len(others), count)
    intervals = {}
    for number in {*looks, count}:
        if 2 <= number <= count:
            intervals[number] = moderated(differences[:number], other_arms(pool[:, :number])) or UNKNOWN
    found = intervals[count]
    single = replace(found, error=found.error * math.sqrt(count))
    p, now, reason = _at_looks(claim, intervals, count, looks)
    return _Evidence(claim, found, "seeds", count, single, p, now, reason)


def _between_runs(means: Mapping[str, Mapping[str, float]], claim: OutsideClaim, looks: Sequence[int]) -> _Evidence:
    runs = {arm: np.array(list(own.values())) for arm, own in means.items()}
    first, second = runs.pop(claim.first), runs.pop(claim.second)
    count = min(len(first), len(second))
    if count < 2:
        found = Interval(float(first.mean() - second.mean()), math.nan, 0.0)
        return _Evidence(claim, found, count=count, reason="one run of an arm: its luck is not known")
    intervals = {count: _independent(first, second, list(runs.values()))}
    for number in looks:
        if 2 <= number < count:
            others = [own[:number] for own in runs.values()]
            intervals[number] = _independent(first[:number], second[:number], others)
    found = intervals[count]
    single = replace(found, error=found.error * math.sqrt(2 / (1 / len(first) + 1 / len(second))))
    p, now, reason = _at_looks(claim, intervals, count, looks)
    return _Evidence(claim, found, "runs", count, single, p, now, reason)


def _independent(first: Floats, second: Floats, others: Sequence[Floats]) -> Interval:
    """The difference of two arms' independent runs; the variance within them is moderated towards the others'."""
    own_degrees = len(first) + len(second) - 2
    squares = float(((first - first.mean()) ** 2).sum() + ((second - second.mean()) ** 2).sum())
    degrees = sum(len(one) - 1 for one in others)
    pooled = sum(float(((one - one.mean()) ** 2).sum()) for one in others) / degrees if degrees else 0.0
    variance, freedom = shrunk(squares / own_degrees, own_degrees, pooled, degrees)
    error = math.sqrt(variance * (1 / len(first) + 1 / len(second)))
    return Interval(float(first.mean() - second.mean()), error, freedom)


def _at_looks(
    claim: OutsideClaim, intervals: Mapping[int, Interval], count: int, looks: Sequence[int]
) -> tuple[dict[str, float], dict[str, float], str]:
    """The p of each statement over the finished looks and at the last of them, or why there is none."""
    finished = [look for look in looks if look <= count] or ([] if looks else [count])
    if not finished:
        return {}, {}, f"before the first look, at {looks[0]} seeds"
    each = [p_values(claim.expect, claim.margin, intervals[look]) for look in finished]
    now = each[-1]
    if not looks:
        return now, now, ""
    return {name: over_looks([one[name] for one in each], looks) for name in now}, now, ""


def _row(one: _Evidence, tested: Tested, spread: tuple[float, float] | None, looks: Sequence[int]) -> dict[str, Any]:
    """One claim of a judgement."""
    claim, found = one.claim, one.found
    verdict = tested.verdict if one.p else "not judged"
    needed = smallest = math.nan
    if one.p:
        smallest = smallest_difference(found)
    if verdict not in DECIDED:
        single, prior = one.single, max(found.degrees_of_freedom - (one.count - 1), 0.0)
        if not one.p and spread:  # of arms that were run once, by the repeats of others
            single, prior = Interval(found.estimate, math.sqrt(2) * spread[0], spread[1]), spread[1]
        if np.isfinite(single.error) and np.isfinite(single.estimate):
            needed = seeds_needed(claim.expect, claim.margin, single, prior, tested.tests)
    chance = max((chance_yet(p, one.count, looks[-1]) for p in one.now.values()), default=1.0) if looks else 1.0
    values = {
        "claim": _name(claim),
        "first": claim.first,
        "second": claim.second,
        "measure": claim.measure,
        "expect": claim.expect,
        "margin": claim.margin,
        "difference": found.estimate,
        "low": found.low,
        "high": found.high,
        "interval_over": one.over,
        "seeds": one.count,
        "p": tested.p_holm if one.p else math.nan,
        "verdict": verdict,
        "reason": one.reason,
        "smallest_difference": smallest,
        "seeds_needed": needed,
        "open": verdict not in DECIDED and chance >= FUTILE and not (looks and one.count >= looks[-1]),
    }
    return {name: _plain(value) for name, value in values.items()}


def _plain(value: Any) -> Any:
    """None for what is not a finite number, as JSON has no NaN."""
    if isinstance(value, bool | str | int):
        return value
    return float(value) if np.isfinite(value) else None


def _spread(matrix: _Matrix, paired: bool) -> tuple[float, float] | None:
    """The standard deviation of a single run around what its arm, and its seed, explain, and its degrees of freedom."""
    scores, arms, runs = [], [], []
    for arm, own in matrix.means().items():
        for run, mean in own.items():
            scores.append(mean)
            arms.append(arm)
            runs.append(run)
    if not scores:
        return None
    effects = [pd.get_dummies(pd.Series(arms), dtype=float)]
    if paired:
        effects.append(pd.get_dummies(pd.Series(runs), dtype=float))
    design, known = np.concatenate(effects, axis=1), np.array(scores)
    degrees = len(known) - int(np.linalg.matrix_rank(design))
    if degrees < 1:
        return None
    fitted = design @ np.linalg.lstsq(design, known, rcond=None)[0]
    return math.sqrt(float(((known - fitted) ** 2).sum()) / degrees), float(degrees)


def _spread_told(spread: tuple[float, float] | None) -> dict[str, Any] | None:
    if spread is None:
        return None
    deviation, degrees = spread
    smallest = quantile(0.975, degrees) * math.sqrt(2) * deviation
    return {"deviation": deviation, "degrees_of_freedom": int(degrees), "smallest_gain": smallest}
