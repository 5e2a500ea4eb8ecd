"""The scores that a claim about a table is judged by: those of its measure, at questions that all of its arms have."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from analysis.external.claims import AVERAGE, OutsideClaim
from analysis.external.tables import Scores
from analysis.judging.p_values import LEAST_ERROR
from analysis.statistics import UNKNOWN, Interval, around_arms_and_seeds
from mm1_lab.config import TEXT_CORE, RequestError, nearest
from mm1_lab.config.measure import splits
from mm1_lab.formatting import some
from mm1_lab.results.summary import PLAIN

CELL = ["benchmark", "shots"]


def of_measure(table: Scores, measure: str) -> pd.DataFrame:
    """The rows that a measure is about, if it is no difference; none if the table does not know it."""
    frame = table.frame
    in_average = frame["family"].isin(["", *PLAIN])
    if measure == AVERAGE:
        return frame[in_average]
    name, _, last = measure.rpartition(" ")
    shots = re.fullmatch(r"(\d{1,4})-shot", last)
    of_text = frame["family"] == "text"
    if measure == str(TEXT_CORE) and of_text.any():
        return frame[of_text]
    if not shots:
        return frame[frame["benchmark"] == measure]
    of_family = frame["family"] == name
    named = of_family if of_family.any() else frame["benchmark"] == name
    return frame[(frame["shots"] == shots[1]) & (named if name else in_average)]


def by_question(rows: pd.DataFrame) -> pd.DataFrame:
    """The scores with a row per seed, benchmark, shots and question, a column per arm and repeat; NaN where there is
    none."""
    questions = rows.set_index(["seed", *CELL, "question", "arm", "repeat"])["score"].unstack(["arm", "repeat"])
    return questions.reindex(by_number(rows["seed"]) or rows["seed"].unique(), level="seed")


def by_number(seeds: pd.Series[str]) -> list[str]:
    """Seeds in the order in which looks take them, so that none hangs on how a table is sorted; empty unless all are
    numbers."""
    try:
        return sorted(seeds.unique(), key=float)
    except ValueError:
        return []


@dataclass(frozen=True, eq=False)
class Asked:
    """The scores of a measure, or of those of its questions that a claim's arms have in common."""

    questions: pd.DataFrame
    """As `by_question` makes them."""
    paired: bool
    sides: Sequence[Collection[tuple[str, str]]] = ()
    """If the measure is a difference of two: the benchmarks and shots of each."""

    @cached_property
    def _cells(self) -> pd.Index[Any]:
        index: Any = self.questions.index
        return index.droplevel(["seed", "question"])

    @property
    def lacking(self) -> str:
        """Why nothing can be compared; empty if something can. A difference must not be left with a benchmark on one
        side that the other has lost, or with alike sides."""
        there = set(self._cells)
        kept = [there.intersection(side) for side in self.sides]
        if not there or not all(kept):
            return "no question in common"
        if not kept:
            return ""
        lost = [{benchmark for benchmark, _ in set(side) - there} for side in self.sides]
        first, second = ({benchmark for benchmark, _ in side} for side in kept)
        is_lopsided = lost[0] & second or lost[1] & first or kept[0] == kept[1]
        if is_lopsided:
            return "what is left out leaves other benchmarks on one side of the difference"
        return ""

    @cached_property
    def weighed(self) -> pd.DataFrame:
        """The questions; of a difference times what makes its value, too, the mean over all benchmarks and shots."""
        if not self.sides:
            return self.questions
        cells = self._cells.unique()
        weights = np.zeros(len(cells))
        for sign, side in zip((1.0, -1.0), self.sides, strict=True):
            is_own = cells.isin(side)
            weights += sign * is_own * len(cells) / is_own.sum()
        return self.questions.mul(weights[cells.get_indexer(self._cells)], axis="index")

    @cached_property
    def means(self) -> pd.DataFrame:
        """A row per arm, a column per run: the mean over questions, then over benchmarks and shots, which weigh the
        same. A run that lacks one of its seed's questions, or any of a benchmark's, has none."""
        seeds = self.questions.index.unique("seed")
        of_cells: Any = self.weighed.groupby(level=["seed", *CELL]).mean().unstack("seed")
        means: pd.DataFrame = of_cells.mean(skipna=False).unstack("seed")
        is_complete = self.questions.notna().groupby(level="seed").all().T
        runs = pd.DataFrame(means.where(is_complete)[seeds].unstack("repeat"))
        return runs.set_axis(range(runs.shape[1]), axis="columns")

    @cached_property
    def seeds_of_arms(self) -> dict[str, set[str]]:
        """The seeds at which an arm has any score."""
        of_runs: Any = self.questions.notna().groupby(level="seed").any()
        of_arms = of_runs.T.groupby(level="arm").any().T
        return {arm: set(there.index[there]) for arm, there in of_arms.items()}

    def alone(self, arms: Sequence[str]) -> int:
        """How many runs of these arms are at seeds that another of them lacks; 0 if they share none, which is told
        otherwise."""
        seeds = [self.seeds_of_arms.get(arm, set()) for arm in arms]
        shared = set.intersection(*seeds)
        return sum(len(own - shared) for own in seeds) if shared else 0

    @cached_property
    def luck(self) -> Interval:
        """How far a single run lies from what its arm, and its seed, explain: by the complete runs or, if they do not
        tell, by the questions that all runs of a seed have. UNKNOWN if no arm was repeated, or all repeats are alike.
        """
        if found := self._luck_of_complete_runs():
            return found
        have = self.questions.notna()
        is_run = have.groupby(level="seed").transform("any")
        shared = self.questions[(have | ~is_run).all(axis=1)]
        return replace(self, questions=shared)._luck_of_complete_runs() if len(shared) else UNKNOWN

    def _luck_of_complete_runs(self) -> Interval:
        if self.paired:
            variance, degrees, _ = around_arms_and_seeds(self.means)
        else:
            variance, degrees = within_arms(self.means)
        error = math.sqrt(variance)
        is_known = degrees >= 1 and error > LEAST_ERROR * np.nanmax(self.means.abs())
        return Interval(0.0, error, degrees) if is_known else UNKNOWN


def asked_by(table: Scores, measure: str) -> Asked | None:
    """The scores of a measure, or of the two that it is the difference of; None if it is the average and the table has
    none. Raises RequestError if the table does not know it."""
    rows = [of_measure(table, side) for side in _measures_in(table, measure)]
    if len(rows) == 1:
        return Asked(by_question(rows[0]), table.paired) if len(rows[0]) else None
    sides = [set(one[CELL].itertuples(index=False, name=None)) for one in rows]
    if sides[0] == sides[1]:
        raise RequestError(f"{measure!r} subtracts the same scores; name another measure")
    both = rows[0].index.union(rows[1].index)
    return Asked(by_question(table.frame.loc[both]), table.paired, sides)


def _measures_in(table: Scores, measure: str) -> Sequence[str]:
    """The measure itself, even if a benchmark is called `a - b`; otherwise the two that it is the difference of."""
    if measure == AVERAGE or len(of_measure(table, measure)):
        return [measure]
    pairs = splits(measure)
    known = [pair for pair in pairs if all(len(of_measure(table, side)) for side in pair)]
    if len(known) == 1:
        return known[0]
    unknown = measure
    if len(pairs) == 1:
        unknown = next(side for side in pairs[0] if of_measure(table, side).empty)
    benchmarks = sorted(set(table.frame["benchmark"]) - {""})
    at_shots = [f"{count}-shot" for count in sorted(set(table.frame["shots"]) - {""}, key=int)]
    raise RequestError(f"the table has no {unknown!r}{nearest(unknown, [AVERAGE, *benchmarks, *at_shots])}")


def in_common(claim: OutsideClaim, asked: Asked) -> tuple[Asked, str]:
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
    of_runs = of_runs.loc[:, of_runs.any()]
    is_counted = (of_runs.T.groupby(level="arm").mean() >= 0.5).all()
    lacking = of_runs.columns[~of_runs[is_counted].all()]
    cells = have.index.droplevel(["seed", "question"])
    have = have[cells.isin(of_runs.index[is_counted])]
    for arm, repeat, seed in lacking:
        is_of_seed = have.index.get_level_values("seed") == seed
        have.loc[is_of_seed, (arm, repeat)] = False
    runs_there = have.groupby(level="seed").transform("any")
    all_answered = (have | ~runs_there).all(axis=1)
    all_arms_there = runs_there.T.groupby(level="arm").any().all()
    kept = have.index[all_answered & all_arms_there]
    common = questions.loc[kept]
    lost = count - int(have.loc[kept].to_numpy().sum())
    if not lost:
        return replace(asked, questions=common), ""
    left_out = []
    for benchmark, shots in of_runs.index[~is_counted]:
        left_out.append(f"{benchmark} {shots}-shot".strip() if shots else benchmark)
    left_out += [f"{arm} at seed {seed}" if asked.paired else f"a run of {arm}" for arm, _, seed in lacking]
    which = f": {some(left_out)}" if left_out else ""
    note = f"{lost} of {count} scores are left out, as another run lacks question or benchmark{which}."
    return replace(asked, questions=common), f"{claim.name}: {note}"


def within_arms(means: pd.DataFrame) -> tuple[float, float]:
    """The variance of runs within arms, and its degrees of freedom."""
    degrees = float((means.count(axis=1) - 1).clip(lower=0).sum())
    squares = float(np.nansum(np.square(means.sub(means.mean(axis=1), axis=0))))
    return (squares / degrees if degrees else 0.0), degrees
