"""Judges claims about arms from a table of scores: supported, contradicted or undecided, and the seeds still needed.

Arms that share seeds are compared within each seed; the differences' variance is moderated towards that of the other
arms (see `analysis/statistics.py`). Without a column of seeds an arm's repeats are independent runs, tested twice: with
one variance for all of the claim's arms (Student), and with each arm's own (Welch), both moderated alike; the larger p
counts. Claims are one family under Holm's correction; with looks, p is over the looks (see
`analysis/judging/sequential.py`). One run an arm gives no verdict: its interval, if any, is over questions.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analysis.external.tables import Columns, Scores, make_scores, read_scores, some
from analysis.judging.claims import claim_of
from analysis.judging.p_values import DECIDED, LEAST_ERROR, SAME, P, Tested, holm, p_values, sides
from analysis.judging.sequential import FUTILE, chance_yet, levels_of_looks, p_over_looks
from analysis.seeds import seeds_needed
from analysis.statistics import (
    LEVEL,
    PRIOR,
    UNKNOWN,
    Interval,
    around_arms_and_seeds,
    moderated,
    one_sample,
    other_arms,
    over_questions,
    shrunk,
)
from mm1_lab.config import TEXT_CORE, Contrast, Expectation, RequestError, nearest
from mm1_lab.config.base import read_yaml
from mm1_lab.results.summary import PLAIN

AVERAGE = "average"
CELL = ["benchmark", "shots"]
UNLIKE = 0.5
"""Level of the F test of own variance ≤ pool, in place of the lab's (see `analysis.statistics`): a table may have arms
of any kind at two seeds. A pair of which one arm has 3 times the other arms' standard deviation would be judged wrongly
in 12, 9 and 7 % of tables at a level of 0.2 (2, 3 and 4 seeds), and is in 7, 5 and 5 % at this; a difference of 4
standard deviations would be found in 68, 84 and 96 % if all vary alike, and is in 43, 73 and 95 %."""


UNLIKE_SIZES = 20.0
"""Times which mean scores of benchmarks in one average may differ, without a word of it."""


class OutsideClaim(Contrast):
    """A claim about arms of a table; as a sweep's contrast, but only the arms must be given."""

    claim: str = ""
    measure: str = AVERAGE  # type: ignore[assignment]
    """`average` (over all benchmarks and shots), `4-shot`, a benchmark, or `BENCHMARK 4-shot`."""
    expect: Expectation = "greater"

    @property
    def name(self) -> str:
        return self.claim or claim_of(self).detail.removesuffix(f", {self.measure}")

    @property
    def weights(self) -> dict[str, float]:
        """Of each arm in the difference; an arm that stands on both sides alike is in none."""
        return {arm: weight for (arm, _), weight in claim_of(self).weights.items() if weight}


@dataclass(frozen=True)
class Judgement:
    """What a table says about claims."""

    claims: list[dict[str, Any]]
    """A mapping per claim, with the keys that docs/judge.md lists; None where there is no value."""
    spread: dict[str, Any] | None
    """How far repeats of an arm lie apart: `deviation` of one run, `degrees_of_freedom`, and `smallest_gain` of one run
    over another that is told from luck at 5 %, and whether of `same_seed` alone. None if no arm was repeated."""
    notes: list[str]

    @property
    def decided(self) -> bool:
        return all(claim["verdict"] in DECIDED for claim in self.claims)

    @property
    def go_on(self) -> bool:
        """Whether further seeds may decide a claim that is open."""
        return any(claim["open"] for claim in self.claims)

    def to_dict(self) -> dict[str, Any]:
        return vars(self) | {"decided": self.decided, "go_on": self.go_on}


def judge(
    scores: Path | str | pd.DataFrame,
    claims: Path | str | Sequence[Mapping[str, Any]] | None = None,
    columns: Columns | None = None,
    lower_is_better: bool = False,
    looks: Sequence[int] = (),
) -> Judgement:
    """Judges `claims` (a YAML file with `contrasts`, such as a sweep, or a list with their keys) about `scores`.

    `columns` names columns, as `{"arm": "commit", "score": ["vqa", "gqa"]}` (several: a column per benchmark).
    Without claims, every arm is claimed to be better than the table's first. `looks` are the numbers of seeds at which
    the claims are judged while runs come in; the last one is the most there will be. Raises RequestError.
    """
    table = make_scores(scores, columns) if isinstance(scores, pd.DataFrame) else read_scores(Path(scores), columns)
    looks = list(looks)
    are_numbers = all(isinstance(look, int | np.integer) for look in looks)
    if looks and (not are_numbers or looks[0] < 2 or looks != sorted(set(looks))):
        raise RequestError(f"looks {looks}: give increasing numbers of seeds, from 2 on, such as [4, 6, 8]")
    if claims is None:
        first, *others = table.arms
        expect: Expectation = "less" if lower_is_better else "greater"
        asked = [OutsideClaim(first=arm, second=first, expect=expect) for arm in others]
    elif lower_is_better:
        raise RequestError("--lower-is-better is for tables without CLAIMS; there say `expect: less`")
    else:
        asked = _read_claims(claims)
    arms = table.arms
    for claim in asked:
        _check_arms(claim, arms)
    by_measure = {}
    for measure in dict.fromkeys([*(claim.measure for claim in asked), AVERAGE]):
        scored = _of_measure(table, measure)
        if len(scored):
            by_measure[measure] = _Asked(_by_question(scored), table.paired)
    for claim in asked:
        if claim.measure not in by_measure:
            raise RequestError(f"{claim.name}: the table has no benchmark of the average; name a measure")
    notes = list(table.notes)
    if any(claim.measure == AVERAGE for claim in asked):
        sizes = by_measure[AVERAGE].questions.abs().groupby(level="benchmark").mean().mean(axis=1).sort_values()
        if sizes.iloc[-1] > UNLIKE_SIZES * sizes.iloc[0] > 0:
            least, *_, most = (f"{name} {size:.3g}" for name, size in sizes.items())
            notes.append(
                f"The average is over scores of unlike sizes ({most}, {least}), so that the largest decide it; claims "
                "may name a measure."
            )
    evidence = []
    for claim in asked:
        common, left_out = _in_common(claim, by_measure[claim.measure])
        evidence.append(_evidence(claim, common, looks))
        if left_out:
            notes.append(left_out)
    # a claim that cannot be judged yet counts as others do
    tested = holm({str(place): one.p or {"supported": 1.0} for place, one in enumerate(evidence)})
    rows = []
    for place, (claim, one) in enumerate(zip(asked, evidence, strict=True)):
        rows.append(_row(claim, one, tested[str(place)], by_measure[claim.measure], looks))
    if not table.paired:
        notes.append("No column of seeds: an arm's rows are taken for independent runs of it.")
    for look in dict.fromkeys(one.look for one in evidence if 0 < one.look < one.count):
        notes.append(
            f"p and verdict are of the look at {look} seeds; differences and intervals are of all that are there."
        )
    if looks and any(row["open"] and row["p"] is not None for row in rows):
        notes.append("What is open may be decided at a later look; seeds needed are those of such a look.")
    spread = None
    if AVERAGE in by_measure and (luck := by_measure[AVERAGE].luck):
        spread = {
            "deviation": luck.error,
            "degrees_of_freedom": int(luck.degrees_of_freedom),
            "smallest_gain": math.sqrt(2) * luck.half_width,
            "same_seed": table.paired,
        }
    return Judgement(rows, spread, notes)


def _read_claims(claims: Path | str | Sequence[Mapping[str, Any]]) -> list[OutsideClaim]:
    where, values = "claims", claims
    if isinstance(claims, Path | str):
        where, values = str(claims), read_yaml(Path(claims)).get("contrasts", ())
    if not isinstance(values, list | tuple) or not values:
        raise RequestError(f"{where}: must hold a list of `contrasts`, each with first, second, expect, and margin")
    return [OutsideClaim.parse(one, f"{where}: contrast {number}") for number, one in enumerate(values, 1)]


def _check_arms(claim: OutsideClaim, arms: Sequence[str]) -> None:
    for arm in (*claim.sides[0], *claim.sides[1]):
        if arm not in arms:
            raise RequestError(f"{claim.name}: the table has no arm {arm!r}{nearest(arm, arms)}")
    if not claim.weights:
        raise RequestError(f"{claim.name}: both sides are the same")


def _of_measure(table: Scores, measure: str) -> pd.DataFrame:
    """The rows that a measure is about. Raises RequestError if there are none, but of the average."""
    frame = table.frame
    in_average = frame["family"].isin(["", *PLAIN])
    if measure == AVERAGE:
        return frame[in_average]
    name, _, last = measure.rpartition(" ")
    shots = re.fullmatch(r"(\d{1,4})-shot", last)
    of_text = frame["family"] == "text"
    if measure == str(TEXT_CORE) and of_text.any():
        rows = frame[of_text]
    elif shots:
        of_family = frame["family"] == name
        named = of_family if of_family.any() else frame["benchmark"] == name
        rows = frame[(frame["shots"] == shots[1]) & (named if name else in_average)]
    else:
        rows = frame[frame["benchmark"] == measure]
    if rows.empty:
        benchmarks = sorted(set(frame["benchmark"]) - {""})
        at_shots = [f"{count}-shot" for count in sorted(set(frame["shots"]) - {""}, key=int)]
        raise RequestError(f"the table has no {measure!r}{nearest(measure, [AVERAGE, *benchmarks, *at_shots])}")
    return rows


def _by_question(rows: pd.DataFrame) -> pd.DataFrame:
    """The scores with a row per seed, benchmark, shots and question, a column per arm and repeat; NaN where there is
    none."""
    questions = rows.set_index(["seed", *CELL, "question", "arm", "repeat"])["score"].unstack(["arm", "repeat"])
    return questions.reindex(rows["seed"].unique(), level="seed")  # seeds count in the table's order


@dataclass(frozen=True, eq=False)
class _Asked:
    """The scores of a measure, or of those of its questions that a claim's arms have in common."""

    questions: pd.DataFrame
    """As `_by_question` makes them."""
    paired: bool

    @cached_property
    def means(self) -> pd.DataFrame:
        """A row per arm, a column per run: the mean over questions, then over benchmarks and shots, which weigh the
        same. A run that lacks one of its seed's questions, or any of a benchmark's, has none."""
        seeds = self.questions.index.unique("seed")
        of_cells: Any = self.questions.groupby(level=["seed", *CELL]).mean().unstack("seed")
        means: pd.DataFrame = of_cells.mean(skipna=False).unstack("seed")
        is_complete = self.questions.notna().groupby(level="seed").all().T
        runs = pd.DataFrame(means.where(is_complete)[seeds].unstack("repeat"))
        return runs.set_axis(range(runs.shape[1]), axis="columns")

    @cached_property
    def luck(self) -> Interval:
        """How far a single run lies from what its arm, and its seed, explain; UNKNOWN if no arm was repeated."""
        if not self.paired:
            variance, degrees = _within_arms(self.means)
            return Interval(0.0, math.sqrt(variance), degrees) if degrees else UNKNOWN
        variance, degrees, _ = around_arms_and_seeds(self.means)
        return Interval(0.0, math.sqrt(variance), degrees) if degrees >= 1 else UNKNOWN


def _in_common(claim: OutsideClaim, asked: _Asked) -> tuple[_Asked, str]:
    """The scores of questions that all of the claim's arms have, with shared seeds at the same seed; and a note on what
    is left out.

    A run that lacks a benchmark does not count, as its mean would be of something else; nor does a benchmark that most
    runs of an arm lack.
    """
    questions, arms = asked.questions, list(claim.weights)
    if not set(arms) <= set(questions.columns.get_level_values("arm")):
        return replace(asked, questions=questions[:0]), ""
    have: Any = questions[arms].notna()
    # a seed that some of the arms lack takes nothing from the others
    is_shared = have.groupby(level="seed").transform("any").all(axis=1)
    have = have[is_shared]
    if have.empty:
        return asked, ""
    count = int(have.to_numpy().sum())
    of_runs: Any = have.groupby(level=["seed", *CELL]).any().unstack("seed", fill_value=False)
    if len(have) == len(questions) and have.all(axis=None) and of_runs.all(axis=None):
        return asked, ""
    of_runs = of_runs.loc[:, of_runs.any()]
    is_counted = (of_runs.T.groupby(level="arm").mean() >= 0.5).all()
    lacking = of_runs.columns[~of_runs[is_counted].all()]
    have = have[have.index.droplevel(["seed", "question"]).isin(of_runs.index[is_counted])]
    for arm, repeat, seed in lacking:
        have.loc[have.index.get_level_values("seed") == seed, (arm, repeat)] = False
    in_seed = have.groupby(level="seed").transform("any")
    kept = have.index[(have | ~in_seed).all(axis=1) & in_seed.T.groupby(level="arm").any().all()]
    common = questions.loc[kept]
    lost = count - int(have.loc[kept].to_numpy().sum())
    if not lost:
        return replace(asked, questions=common), ""
    left_out = [" ".join(filter(None, (name, shots and f"{shots}-shot"))) for name, shots in of_runs.index[~is_counted]]
    for arm, _, seed in lacking:
        left_out.append(f"{arm} at seed {seed}" if asked.paired else f"a run of {arm}")
    which = f": {some([one for one in left_out if one])}" if any(left_out) else ""
    note = f"{lost} of {count} scores are left out, as another run lacks question or benchmark{which}."
    return replace(asked, questions=common), f"{claim.name}: {note}"


@dataclass(frozen=True)
class _Evidence:
    """What the table holds about one claim."""

    found: Interval = UNKNOWN
    over: str = ""
    """What the interval is over: `seeds`, `runs`, or `questions`, which give no verdict; empty without one."""
    count: int = 0
    """Seeds that all of its arms have, or runs of the one that has fewest."""
    error_of_one: float = math.nan
    """The error of a single seed's difference, or of that of single runs."""
    p: P = field(default_factory=dict)
    """By statement, over the looks; empty if nothing can be judged."""
    now: P = field(default_factory=dict)
    """By statement, at the last finished look alone."""
    look: int = 0
    """Seeds of the last finished look; 0 without looks."""
    reason: str = ""
    """Why nothing is judged."""


def _evidence(claim: OutsideClaim, common: _Asked, looks: Sequence[int]) -> _Evidence:
    """`common` are the scores of questions that all of its arms have."""
    if common.questions.empty:
        return _Evidence(reason="no question in common")
    weights, paired, means = claim.weights, common.paired, common.means
    theirs = means.loc[list(weights)]
    if paired:
        theirs = theirs.dropna(axis=1)
    count = int(theirs.count(axis=1).min())
    if count == 0:
        return _Evidence(reason="no seed in common: run the arms at the same seeds")
    if count == 1:
        each = common.questions[list(weights)].dropna().T.groupby(level="arm").mean().T
        found = _between_questions(each.dot(pd.Series(weights)))
        over = "questions" if np.isfinite(found.error) else ""
        what = "seed" if paired else "run of an arm"
        return _Evidence(found, over, count, reason=f"one {what}: its luck is not known")
    tests_of = _within_seeds if paired else _between_runs
    tests = tests_of(weights, means, None)
    found, error_of_one = _widest(tests)
    over = "seeds" if paired else "runs"
    evidence = _Evidence(found, over, count)
    least = LEAST_ERROR * np.nanmax(theirs.abs())
    if found.error <= least:
        reason = f"the {over} change nothing, as if one model had been scored several times"
        if paired and theirs.std(axis=1).max() > least:
            reason = SAME
        return replace(evidence, reason=reason)
    evidence = replace(evidence, error_of_one=error_of_one)
    if not looks:
        return replace(evidence, p=_largest_p(claim, tests))
    finished = [look for look in looks if look <= count]
    if not finished:
        return replace(evidence, reason=f"before the first look, at {looks[0]} seeds")
    by_look: list[P] = []
    for look in finished:
        tests = tests_of(weights, means, look)
        by_look.append(_largest_p(claim, tests) if _widest(tests).interval.error > least else {})
    p = p_over_looks(by_look, looks)
    reason = "" if p else f"the {over} up to the look change nothing"
    return replace(evidence, p=p, now=by_look[-1], look=finished[-1], reason=reason)


class _Test(NamedTuple):
    """Student's test of a difference."""

    interval: Interval
    error_of_one: float
    """The error of a single seed's difference, or of that of single runs."""


def _widest(tests: Sequence[_Test]) -> _Test:
    return max(tests, key=lambda test: test.interval.half_width)


def _largest_p(claim: OutsideClaim, tests: Sequence[_Test]) -> P:
    """The p of each statement about a claim: it holds if all tests say so."""
    by_test = [p_values(claim.expect, claim.margin, test.interval) for test in tests]
    return {statement: max(p[statement] for p in by_test) for statement in by_test[0]}


def _between_questions(each: pd.Series[float]) -> Interval:
    """The mean over benchmarks and shots of a difference by question. A question that is asked at several numbers of
    shots is one: what makes it easy for a model does so at all of them."""
    questions = each.groupby(level=["benchmark", "question"]).agg(["mean", "size"])
    cells = each.groupby(level=CELL).mean()
    found = over_questions(questions["mean"], questions["size"], cells.groupby(level="benchmark").size())
    return replace(found, estimate=float(cells.mean()))


def _within_seeds(weights: Mapping[str, float], means: pd.DataFrame, look: int | None) -> list[_Test]:
    """Of the difference over the seeds that its arms have, at a `look` over the first so many of them.

    Only that of a pair is moderated: other arms alone do not tell how far means over groups of arms vary together.
    """
    arms = list(weights)
    differences = means.loc[arms].T.dot(pd.Series(weights)).dropna()[:look]
    values = differences.to_numpy(np.float64)
    if sorted(weights.values()) == [-1.0, 1.0]:
        others = means.drop(index=arms)[differences.index].dropna()
        found = moderated(values, other_arms(others.to_numpy(np.float64)), unlike=UNLIKE)
    else:
        found = one_sample(values)
    return [_Test(found, found.error * math.sqrt(len(values)))]


def _between_runs(weights: Mapping[str, float], means: pd.DataFrame, look: int | None) -> list[_Test]:
    """Of the difference of independent runs, at a `look` of the first so many of each arm: with one variance for all of
    its arms, and with each arm's own (Welch).

    One variance promises too much if the wildest arm was run least, and an arm's own if its few runs happen to lie
    close together, and few runs do not tell which. Both are moderated towards the variance within the other arms.
    """
    if look:
        means = means.where(means.notna().cumsum(axis=1) <= look)
    own = means.loc[list(weights)]
    pool = _within_arms(means.drop(index=list(weights)))
    counts = own.count(axis=1).to_numpy()
    squares = np.square(list(weights.values()))
    estimate = float(own.mean(axis=1).to_numpy() @ list(weights.values()))

    variance, degrees = shrunk(*_within_arms(own), *pool, UNLIKE)
    error = math.sqrt(variance * (squares / counts).sum())
    student = _Test(Interval(estimate, error, degrees), math.sqrt(variance * squares.sum()))

    variances, lent = np.empty(len(own)), np.empty(len(own))
    for place, each in enumerate(own.var(axis=1)):
        own_degrees = float(counts[place] - 1)
        variances[place], total = shrunk(each, own_degrees, *pool, UNLIKE)
        lent[place] = pool[0] * (total - own_degrees) / total
    parts = squares * (variances - lent) / counts
    shared = (squares * lent / counts).sum()  # by all arms, so it varies as one
    spread = (parts**2 / (counts - 1)).sum() + (shared**2 / min(PRIOR, pool[1]) if shared else 0.0)
    square = parts.sum() + shared
    degrees = float(square**2 / spread) if spread else degrees  # by Welch and Satterthwaite
    welch = _Test(Interval(estimate, math.sqrt(square), degrees), math.sqrt((squares * variances).sum()))
    return [student, welch]


def _within_arms(means: pd.DataFrame) -> tuple[float, float]:
    """The variance of runs within arms, and its degrees of freedom."""
    degrees = float((means.count(axis=1) - 1).clip(lower=0).sum())
    squares = float(np.nansum(np.square(means.sub(means.mean(axis=1), axis=0))))
    return (squares / degrees if degrees else 0.0), degrees


def _row(
    claim: OutsideClaim,
    one: _Evidence,
    tested: Tested,
    asked: _Asked,
    looks: Sequence[int],
) -> dict[str, Any]:
    """One claim of a judgement."""
    found = one.found
    verdict = tested.verdict if one.p else "not judged"
    is_open = verdict not in DECIDED
    error, prior = one.error_of_one, max(found.degrees_of_freedom - (one.count - 1), 0.0)
    if one.count == 1 and asked.luck:  # of arms that were run once, by the repeats of others
        prior = asked.luck.degrees_of_freedom
        error = asked.luck.error * math.sqrt(sum(weight**2 for weight in claim.weights.values()))

    def seeds_at(family: float) -> float:
        return seeds_needed(claim.expect, claim.margin, found.estimate, error, prior, family, UNLIKE)

    needed = seeds_at(tested.tests) if is_open and np.isfinite(error) else math.nan
    if is_open and looks:
        chances = [chance_yet(p, one.look, looks[-1], sides(claim.expect, name)) for name, p in one.now.items()]
        is_open = max(chances, default=1.0) >= FUTILE and one.count < looks[-1]
        if np.isfinite(error):  # it is only decided at a look, of which each spends a part of the level
            for look, level in zip(looks, levels_of_looks(LEVEL / tested.tests, looks), strict=True):
                needed = seeds_at(LEVEL / level)
                if look > one.count and needed <= look:
                    needed = float(look)
                    break
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
