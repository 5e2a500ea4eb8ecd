"""What demonstrations must bring the base of a sweep in the miniature world: rules fixed before any comparison of arms.

Half of the questions expect an answer in words that only demonstrations show (`mm1_lab/evaluate/world.py`), and the
captions of a block are in one convention.
"""

from collections.abc import Iterator

import pandas as pd

from analysis.statistics import UNKNOWN, mean_of
from mm1_lab.config import Check
from mm1_lab.results.summary import PLAIN, benchmark_scores, by_content

OTHERWISE = "-otherwise"
"""Ends the key of a question that expects second words."""
FOLLOWED = " followed"
"""Ends the name of the benchmark for how far captions follow the convention shown."""
TOLD = 85.0
"""Least percentage, of what the known words reach, that second words reach after four demonstrations."""
GAIN, LOSS = 5.0, 3.0
"""Points that the mean must gain by most demonstrations, and that a family of benchmarks may lose."""
KEPT = 80.0
"""Least percentage of a caption's words in the convention shown."""
FEW = 4


def demonstration_checks(scores: pd.DataFrame) -> Iterator[Check]:
    """The checks of one arm's scores by question; none where no question expects second words."""
    vqa = scores[(scores["family"] == "vqa") & (scores["shots"] == FEW)]
    second = vqa["question"].astype(str).str.endswith(OTHERWISE)
    if not second.any():
        return
    kinds = vqa["benchmark"].astype(str) + " " + vqa["kind"].astype(str)
    known = _mean(vqa[kinds.isin(set(kinds[second])) & ~second])
    share = 100 * _mean(vqa[second]) / known if known else 0.0  # at smoke nothing is known
    yield Check.bound("told by demonstrations", f"second words, {FEW} shots, percent of first words", share, "≥", TOLD)
    captions = scores[scores["benchmark"].astype(str).str.endswith(FOLLOWED)]
    for shots, rows in captions[captions["shots"] > 0].groupby("shots"):
        what = f"captions' words in the convention shown, {shots} shots, percent"
        yield Check.bound("told by demonstrations", what, _mean(rows), "≥", KEPT)

    most = int(scores["shots"].max())
    images = by_content(scores[scores["family"].isin(PLAIN)])
    yield _gain("all", images, most, GAIN)
    for family in PLAIN:
        yield _gain(family, images[images["family"] == family], most, -LOSS)


def _mean(rows: pd.DataFrame) -> float:
    """The plain mean over benchmarks and seeds."""
    return float(benchmark_scores(rows, ["seed"])["score"].mean())


def _gain(family: str, rows: pd.DataFrame, most: int, least: float) -> Check:
    """The points that a family gains from none to the most demonstrations, with an interval over seeds if there are
    several."""
    means = benchmark_scores(rows, ["seed"]).groupby(["seed", "shots"])["score"].mean().unstack("shots")
    gained = mean_of((means[most] - means[0]).tolist()) or UNKNOWN
    what = f"{family}, {most} shots − 0 shots, captions by content"
    return Check.bound("demonstrations help", what, gained.estimate, "≥", least, low=gained.low, high=gained.high)
