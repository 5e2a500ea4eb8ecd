"""What demonstrations must bring the base of a sweep in the miniature world: rules fixed before any comparison of arms.

Half of the questions expect an answer in words that only demonstrations show (`mm1_lab/evaluate/world.py`), and the
captions of a block are in one convention.
"""

from collections.abc import Iterator

import pandas as pd

from analysis.statistics import UNKNOWN, mean_of
from mm1_lab.config import Check, CheckVerdict
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
    yield _told(f"second words, {FEW} shots, percent of first words", share, TOLD)
    captions = scores[scores["benchmark"].astype(str).str.endswith(FOLLOWED)]
    for shots, rows in captions[captions["shots"] > 0].groupby("shots"):
        yield _told(f"captions' words in the convention shown, {shots} shots, percent", _mean(rows), KEPT)

    most = int(scores["shots"].max())
    images = by_content(scores[scores["family"].isin(PLAIN)])
    yield _gain("all", images, most, GAIN)
    for family in PLAIN:
        yield _gain(family, images[images["family"] == family], most, -LOSS)


def _mean(rows: pd.DataFrame) -> float:
    """The plain mean over benchmarks and seeds."""
    return float(benchmark_scores(rows, ["seed"])["score"].mean())


def _told(what: str, value: float, least: float) -> Check:
    verdict: CheckVerdict = "pass" if value >= least else "fail"
    return Check(check="told by demonstrations", what=what, value=value, needed=f"≥ {least:g}", verdict=verdict)


def _gain(family: str, rows: pd.DataFrame, most: int, least: float) -> Check:
    """The points that a family gains from none to the most demonstrations, with an interval over seeds if there are
    several."""
    means = benchmark_scores(rows, ["seed"]).groupby(["seed", "shots"])["score"].mean().unstack("shots")
    gains = (means[most] - means[0]).tolist()
    gained = mean_of(gains) or UNKNOWN
    return Check(
        check="demonstrations help",
        what=f"{family}, {most} shots − 0 shots, captions by content",
        value=gained.estimate,
        low=gained.low,
        high=gained.high,
        needed=f"≥ {least:g}",
        verdict="pass" if gained.estimate >= least else "fail",
    )
