"""Checks whether the base of a sweep uses its demonstrations, in the miniature world.

Half of the world's questions expect words that only demonstrations show (mm1_lab/evaluate/world.py).
"""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from analysis.statistics import one_sample
from mm1_lab.config import Check
from mm1_lab.results.summary import PLAIN, benchmark_scores
from mm1_lab.rows import OTHERWISE

FOLLOWED = " followed"
"""Ends the name of the benchmark for how far captions follow the convention shown."""
TOLD = 85.0
"""Least score of questions that expect second words, after four demonstrations, in percent of the score of the same
kinds of questions that expect first words."""
GAIN, LOSS = 5.0, 3.0
"""Points that the mean must gain by most demonstrations, and that a family of benchmarks may lose."""
ABOVE_BLIND, ABOVE_MAJORITY = 20.0, 10.0
"""Points by which the base must exceed its blind control and the best constant answers, in each visual benchmark."""
KEPT = 80.0
"""Least percentage of a caption's words in the convention shown."""
FEW = 4


def demonstration_checks(scores: pd.DataFrame) -> Iterator[Check]:
    """The checks, from the base's scores by question. The columns `blind` and `majority` hold the scores of the blind
    control and of the best constant answer. No checks if no question expects second words."""
    visual = scores[scores["family"] == "vqa"]
    is_second = visual["question"].astype(str).str.endswith(OTHERWISE)
    at_few = visual["shots"] == FEW
    second = visual[at_few & is_second]
    if second.empty:
        return
    kinds = visual["benchmark"].astype(str) + " " + visual["kind"].astype(str)
    asked_both_ways = kinds.isin(kinds[at_few & is_second])
    first = visual[at_few & asked_both_ways & ~is_second]
    known = mean_by_seed(first).mean()
    share = 0.0  # at smoke nothing is known
    if known:
        share = 100 * mean_by_seed(second).mean() / known
    what = f"second words, {FEW} shots, percent of first words"
    yield Check.within("told by demonstrations", what, share, TOLD)
    follows = scores["benchmark"].astype(str).str.endswith(FOLLOWED)
    for shots, rows in scores[follows & (scores["shots"] > 0)].groupby("shots"):
        what = f"captions' words in the convention shown, {shots} shots, percent"
        yield Check.within("told by demonstrations", what, mean_by_seed(rows).mean(), KEPT)

    yield from _seen(visual[at_few], "")
    yield from _seen(visual[(visual["shots"] == 0) & ~is_second], ", first words")
    images = scores[scores["family"].isin(PLAIN)]
    if (images["shots"] == 0).any():
        yield _gain("all", images, GAIN)
        for family in PLAIN:
            yield _gain(family, images[images["family"] == family], -LOSS)


def _seen(scores: pd.DataFrame, words: str) -> Iterator[Check]:
    """Each visual benchmark at one number of shots, against the blind control at the seeds that it has, and against the
    majority answer."""
    for (benchmark, shots), own in scores.groupby(["benchmark", "shots"], sort=False, observed=True):
        what = f"{benchmark}, {shots} shots{words}"
        above_blind = own["score"] - own["blind"]
        yield Check.within("sees", f"{what}, − blind", above_blind.mean(), ABOVE_BLIND)
        above_majority = own["score"].mean() - own["majority"].mean()
        yield Check.within("sees", f"{what}, − majority", above_majority, ABOVE_MAJORITY)


def _gain(family: str, rows: pd.DataFrame, least: float) -> Check:
    """The points that a family gains from none to the most demonstrations, with an interval over seeds if there are
    several."""
    each = benchmark_scores(rows, ["seed"])
    means = each.groupby(["seed", "shots"])["score"].mean().unstack("shots")
    most = means.columns.max()
    gained = one_sample((means[most] - means[0]).tolist())
    what = f"{family}, {most} shots − 0 shots"
    return Check.within("demonstrations help", what, gained.estimate, least, low=gained.low, high=gained.high)


def mean_by_seed(table: pd.DataFrame) -> pd.Series[float]:
    """The plain mean over benchmarks and shots for each seed."""
    return benchmark_scores(table, ["seed"]).groupby("seed")["score"].mean()
