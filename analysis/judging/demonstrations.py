"""What the base of a sweep in the miniature world must see, and what demonstrations must bring it.

Half of the questions expect an answer in words that only demonstrations show (`mm1_lab/evaluate/world.py`), and the
captions of a block are in one convention. The bounds were fixed before any comparison of arms.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from analysis.statistics import UNKNOWN, mean_of
from mm1_lab.config import Check
from mm1_lab.results.summary import PLAIN, benchmark_scores

OTHERWISE = "-otherwise"
"""Ends the key of a question that expects second words."""
FOLLOWED = " followed"
"""Ends the name of the benchmark for how far captions follow the convention shown."""
TOLD = 85.0
"""Least percentage, of what the known words reach, that second words reach after four demonstrations."""
GAIN, LOSS = 5.0, 3.0
"""Points that the mean must gain by most demonstrations, and that a family of benchmarks may lose."""
ABOVE_BLIND, ABOVE_MAJORITY = 20.0, 10.0
"""Points by which the base must exceed its blind control and the best constant answers, in each visual benchmark."""
KEPT = 80.0
"""Least percentage of a caption's words in the convention shown."""
FEW = 4
Majorities = Mapping[str, Mapping[Any, float]]
"""The best constant answer's score by benchmark and kind of question."""


def demonstration_checks(scores: pd.DataFrame, blind: pd.DataFrame, majorities: Majorities) -> Iterator[Check]:
    """The checks of the base's scores by question; none where no question expects second words."""
    asked = scores[scores["family"] == "vqa"]
    vqa, alone = asked[asked["shots"] == FEW], asked[asked["shots"] == 0]
    second = vqa["question"].astype(str).str.endswith(OTHERWISE)
    if not second.any():
        return
    kinds = vqa["benchmark"].astype(str) + " " + vqa["kind"].astype(str)
    has_second = kinds.isin(set(kinds[second]))
    known = _mean(vqa[has_second & ~second])
    share = 100 * _mean(vqa[second]) / known if known else 0.0  # at smoke nothing is known
    yield Check.within("told by demonstrations", f"second words, {FEW} shots, percent of first words", share, TOLD)
    captions = scores[scores["benchmark"].astype(str).str.endswith(FOLLOWED)]
    for shots, rows in captions[captions["shots"] > 0].groupby("shots"):
        what = f"captions' words in the convention shown, {shots} shots, percent"
        yield Check.within("told by demonstrations", what, _mean(rows), KEPT)

    yield from _seen(vqa, "", blind, majorities)
    first = ~alone["question"].astype(str).str.endswith(OTHERWISE)
    yield from _seen(alone[first], ", first words", blind, majorities)
    most = int(scores["shots"].max())
    images = scores[scores["family"].isin(PLAIN)]
    if (images["shots"] == 0).any():
        yield _gain("all", images, most, GAIN)
        for family in PLAIN:
            yield _gain(family, images[images["family"] == family], most, -LOSS)


def _seen(scores: pd.DataFrame, words: str, blind: pd.DataFrame, majorities: Majorities) -> Iterator[Check]:
    """Each visual benchmark at one number of shots, against the blind control at the seeds that it has, and against the
    majority answer."""
    for (benchmark, shots), own in scores.groupby(["benchmark", "shots"], sort=False, observed=True):
        what = f"{benchmark}, {shots} shots{words}"
        same = blind[(blind["benchmark"] == benchmark) & (blind["shots"] == shots)]
        unseen = same["score"][same["question"].isin(own["question"])].mean()
        seen = own["score"][own["seed"].isin(same["seed"])].mean()
        yield Check.within("sees", f"{what}, − blind", float(seen - unseen), ABOVE_BLIND)
        level = own["kind"].map(majorities[str(benchmark)]).mean()
        yield Check.within("sees", f"{what}, − majority", float(own["score"].mean() - level), ABOVE_MAJORITY)


def _mean(rows: pd.DataFrame) -> float:
    """The plain mean over benchmarks and seeds."""
    return float(benchmark_scores(rows, ["seed"])["score"].mean())


def _gain(family: str, rows: pd.DataFrame, most: int, least: float) -> Check:
    """The points that a family gains from none to the most demonstrations, with an interval over seeds if there are
    several."""
    each = benchmark_scores(rows, ["seed"])
    means = each.groupby(["seed", "shots"])["score"].mean().unstack("shots")
    gained = mean_of((means[most] - means[0]).tolist()) or UNKNOWN
    what = f"{family}, {most} shots − 0 shots"
    return Check.within("demonstrations help", what, gained.estimate, least, low=gained.low, high=gained.high)
