"""From scores of questions to the numbers that stand for a trial (section 3.1: the plain mean over the benchmarks)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

TEXT_CORE = "text-core"
AVERAGE = "average"


def benchmark_scores(scores: pd.DataFrame, by: Sequence[str] = ("arm", "seed")) -> pd.DataFrame:
    """Mean over a benchmark's questions: columns `by`, benchmark, family, shots, score."""
    keys = [*by, "benchmark", "family", "shots"]
    return scores.groupby(keys, sort=False, observed=True)["score"].mean().reset_index()


def measures(scores: pd.DataFrame, by: Sequence[str] = ("arm", "seed")) -> pd.DataFrame:
    """The numbers a sweep is judged by: columns `by`, measure, value.

    `0-shot`, `4-shot`, …: the plain mean over the benchmarks with images; `captioning 0-shot`, `vqa 4-shot`, …: within
    a family; `average`: the plain mean over the benchmarks with images and numbers of shots; `text-core`: the same over
    text benchmarks.
    """
    import pandas as pd

    means = benchmark_scores(scores, by)
    text = means["family"] == "text"
    shots = means["shots"].astype(str) + "-shot"
    parts = [
        means[~text].assign(measure=shots),
        means[~text].assign(measure=means["family"] + " " + shots),
        means[~text].assign(measure=AVERAGE),
        means[text].assign(measure=TEXT_CORE),
    ]
    table = pd.concat(parts, ignore_index=True)
    grouped = table.groupby([*by, "measure"], sort=False, observed=True)["score"]
    return grouped.mean().rename("value").reset_index()
