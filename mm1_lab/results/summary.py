"""Aggregates scores of questions to a trial's measures: plain means over benchmarks, as the paper gives no formula."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mm1_lab.config import AVERAGE, TEXT_CORE, UNPARSED, Measure, RequestError
from mm1_lab.results.reading import held_out_losses
from mm1_lab.results.score_file import read_score_table, read_short_tables

if TYPE_CHECKING:
    import pandas as pd

PLAIN = ("captioning", "vqa")
"""Families of the benchmarks with images on which every model is evaluated."""
MANY = 5.0
"""Percent of unparsed answers that are worth a word beside their score."""


def benchmark_scores(scores: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """The mean score over each benchmark's questions: columns `by`, benchmark, family, shots, score."""
    keys = [*by, "benchmark", "family", "shots"]
    groups = scores.groupby(keys, sort=False, observed=True)
    return groups["score"].mean().reset_index()


def measures(scores: pd.DataFrame, by: str | Sequence[str] = ("arm", "seed")) -> pd.DataFrame:
    """Each trial's means over benchmarks: columns `by`, measure (as text: `vqa 4-shot`), value. They are the plain
    means of MM1's section 3.1, and those of families that these exclude; further metrics, with scales of their own,
    have none, and losses are in `held_out`. Tables show their means over seeds, of arms with fewer seeds adjusted."""
    import pandas as pd

    by = [by] if isinstance(by, str) else by
    if not isinstance(scores, pd.DataFrame) or scores.empty:
        raise RequestError("the table of scores is none, or is empty; give that of results.scores")
    means = benchmark_scores(scores, by)
    shown = []
    for family, shots in dict.fromkeys(zip(means["family"], means["shots"], strict=True)):
        if family == "text":
            shown.append(TEXT_CORE)
        elif family in PLAIN:
            shown += [Measure(shots=shots), Measure(family, shots), AVERAGE]
        elif family != "further":
            shown.append(Measure(family, shots))
    tables = []
    for measure in dict.fromkeys(shown):
        rows = rows_of(means, measure).copy()
        rows.insert(0, "measure", str(measure))
        tables.append(rows)
    return value_by(pd.concat(tables), [*by, "measure"]).reset_index(name="value")


def rows_of(scores: pd.DataFrame, measure: Measure) -> pd.DataFrame:
    """The rows of a table of scores, by question or by benchmark, that a measure averages; their column `score` is the
    measure's. A name is matched to a family first, then to a benchmark. None of a measure of loss."""
    family = scores["family"]
    if measure.about == "loss":
        return scores[:0]
    if measure == UNPARSED:
        rows = scores[family == "vqa"]
        return rows.assign(score=100.0 * ~rows["parsed"]) if "parsed" in rows else rows
    if measure.of == TEXT_CORE.of and measure.shots is None:
        chosen = family == "text"
    elif measure.about == "kind":
        chosen = family.isin(PLAIN) & (scores["kind"] == measure.of)
    elif not measure.of:
        chosen = family.isin(PLAIN)
    else:
        chosen = family == measure.of
        if not chosen.any():
            chosen = scores["benchmark"] == measure.of
    if measure.shots is not None:
        chosen &= scores["shots"] == measure.shots
    return scores[chosen]


def over_benchmarks(scores: pd.DataFrame, measure: Measure, by: Sequence[str]) -> pd.Series[float]:
    """Each trial's value of a measure of answers, by a table of scores by question: the mean over benchmarks, of
    unparsed answers over questions."""
    rows = rows_of(scores, measure)
    if measure != UNPARSED:
        rows = benchmark_scores(rows, by)
    return value_by(rows, by)


def value_by(rows: pd.DataFrame, by: Sequence[str]) -> pd.Series[float]:
    """Each trial's value of a measure whose rows these are, one for each benchmark."""
    return rows.groupby(list(by), sort=False, observed=True)["score"].mean()


def taken_for_yes(scores: pd.DataFrame) -> list[str]:
    """What is to be told of yes-no questions if many of an arm's answers are neither, given the arms' scores."""
    asked = scores[scores["metric"] == "yes-no"]
    read = asked.groupby(["benchmark", "arm"], sort=False, observed=True)["parsed"].mean().reset_index()
    told = defaultdict[str, dict[str, list[str]]](lambda: defaultdict(list))
    for benchmark, arm, part in read[["benchmark", "arm", "parsed"]].itertuples(index=False):
        if (share := 100 * (1 - part)) > MANY:
            told[benchmark][f"{share:.0f} %"].append(arm)
    notes = []
    for benchmark, arms in told.items():
        of = "; ".join(f"{share} of {', '.join(names)}" for share, names in arms.items())
        notes.append(f"{benchmark}: answers that say neither yes nor no count as yes: {of}.")
    return notes


def value_of(folder: Path, measure: Measure) -> float:
    """A finished trial's value of a measure; NaN if its benchmarks do not give it."""
    if measure.minus:
        first, second = measure.parts
        return value_of(folder, first) - value_of(folder, second)
    if measure.about == "loss":
        return held_out_losses(folder).get(measure.of, math.nan)
    return _value(read_score_table(folder), measure)


def _value(scores: pd.DataFrame, measure: Measure) -> float:
    """The measure's value for a single trial, whose scores these are."""
    return float(over_benchmarks(scores.assign(trial=""), measure, ["trial"]).mean())


def headline(folder: Path) -> str:
    """A finished trial's main scores: `0-shot 41.2, 4-shot 44.0, 8-shot 45.1, text-core 60.3`."""
    scores = read_score_table(folder)
    plain = scores[scores["family"].isin(PLAIN)]  # on which every model is evaluated
    shots = sorted(plain["shots"].unique().tolist())
    words = []
    for measure in (*[Measure(shots=count) for count in shots], TEXT_CORE):
        value = _value(scores, measure)
        if not math.isnan(value):
            words.append(f"{measure} {value:.1f}")
    return ", ".join(words)


class SearchScores(NamedTuple):
    """What a search for a learning rate judges a finished trial by."""

    shots: int
    """The largest number of shots."""
    average: float
    """The mean score at these shots."""
    loss: float
    """The mean held-out loss, weighted by the sources' shares of the training data."""
    questions: Mapping[str, float]
    """The mean score at these shots of each benchmark of questions about images."""


def search_scores(trials: Mapping[Path, Mapping[str, float]]) -> dict[Path, SearchScores]:
    """The scores of trials, given the folder of each with its sources' shares. Raises RequestError if a trial has no
    benchmark with images, or none of its sources has held-out documents."""
    if not trials:  # all may have diverged
        return {}
    scores = read_short_tables([*trials], ["benchmark", "family", "shots", "score"])
    plain = benchmark_scores(scores[scores["family"].isin(PLAIN)], ["trial"])
    most = plain[plain["shots"] == plain.groupby("trial")["shots"].transform("max")]
    averages = most.groupby("trial")["score"].mean()
    asked = most[most["family"] == "vqa"]
    questions = defaultdict[int, dict[str, float]](dict)
    for trial, benchmark, score in zip(asked["trial"], asked["benchmark"], asked["score"], strict=True):
        questions[trial][benchmark] = score
    shots = most.groupby("trial")["shots"].first()
    found = {}
    for trial, (folder, shares) in enumerate(trials.items()):
        losses = held_out_losses(folder)
        known = {name: share for name, share in shares.items() if name in losses}
        if trial not in averages.index or not known:
            lacks = "held-out documents of its sources" if trial in averages.index else "a benchmark with images"
            raise RequestError(f"learning rates are searched by scores and held-out loss, and {folder} lacks {lacks}")
        weighted = sum(share * losses[name] for name, share in known.items())
        loss = weighted / sum(known.values())
        found[folder] = SearchScores(int(shots[trial]), float(averages[trial]), loss, questions[trial])
    return found
