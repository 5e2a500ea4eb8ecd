"""From scores of questions to the numbers that stand for a trial (section 3.1: the plain mean over the benchmarks)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mm1_lab.results.reading import read_table
from mm1_lab.results.schema import HELD_OUT_COLUMNS, SCORE_COLUMNS, SCORES

if TYPE_CHECKING:
    import pandas as pd

TEXT_CORE = "text-core"
AVERAGE = "average"
CHAT = "chat 0-shot"
"""The mean of what tuned models alone are asked, as conversations."""
CONTENT = "content"
"""A column of scores, for captions: what is said, whatever the wording; and a measure's prefix."""
PLAIN = ("captioning", "vqa")
"""Families of the benchmarks with images that every model is asked."""
APART = ("novel", "chat", "solutions", "likelihood", "imported")
"""Families that no mean over all benchmarks has: new combinations, what tuned models alone are asked, and what other
programs scored."""


def encoder_quality(summary: Mapping[str, Any]) -> dict[str, float]:
    """How good an encoder is by itself, from the summary that its stage wrote, on held-out images.

    `retrieval`: how often the nearest caption is an image's own, of those that `pairs` asked with; `probe`: the mean
    area under the curve of linear read-outs of the captions' words. What the stage did not measure is left out.
    """
    found = {
        "retrieval": summary.get("retrieval", {}).get("image_to_text"),
        "probe": summary.get("probe", {}).get("auc"),
    }
    return {name: float(value) for name, value in found.items() if value is not None}


def benchmark_scores(scores: pd.DataFrame, by: Sequence[str] = ("arm", "seed")) -> pd.DataFrame:
    """Mean over a benchmark's questions: columns `by`, benchmark, family, shots, score."""
    keys = [*by, "benchmark", "family", "shots"]
    return scores.groupby(keys, sort=False, observed=True)["score"].mean().reset_index()


def measures(scores: pd.DataFrame, by: Sequence[str] = ("arm", "seed")) -> pd.DataFrame:
    """The numbers a sweep is judged by: columns `by`, measure, value.

    `chat 0-shot`, `solutions 4-shot`, …: the mean within a family that no other mean has, and each of its benchmarks by
    itself: `pope-random f1 0-shot`.
    `0-shot`, `4-shot`, …: the plain mean over the benchmarks with images; `captioning 0-shot`, `vqa 4-shot`, …: within
    a family; `average`: the plain mean over the benchmarks with images and numbers of shots; `text-core`: the same over
    text benchmarks. Where captions have a score of their content beside their metric, `content 0-shot`, `content
    average`, …: the same with that score in its place.
    """
    import pandas as pd

    table = _measures(scores, by)
    if CONTENT not in scores or scores[CONTENT].isna().all():
        return table
    said = _measures(by_content(scores[scores["family"].isin(PLAIN)]), by)
    said = said[~said["measure"].str.startswith("vqa")]
    return pd.concat([table, said.assign(measure=f"{CONTENT} " + said["measure"])], ignore_index=True)


def by_content(scores: pd.DataFrame) -> pd.DataFrame:
    """The same answers, captions scored by their content where they have such a score."""
    return scores.assign(score=scores[CONTENT].fillna(scores["score"]))


def _measures(scores: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    import pandas as pd

    means = benchmark_scores(scores, by)
    text, plain = means["family"] == "text", means["family"].isin(PLAIN)
    shots = means["shots"].astype(str) + "-shot"
    parts = [
        means[plain].assign(measure=shots),
        means[~text].assign(measure=means["family"] + " " + shots),
        means[~text & ~plain].assign(measure=means["benchmark"] + " " + shots),
        means[plain].assign(measure=AVERAGE),
        means[text].assign(measure=TEXT_CORE),
    ]
    table = pd.concat(parts, ignore_index=True)
    grouped = table.groupby([*by, "measure"], sort=False, observed=True)["score"]
    return grouped.mean().rename("value").reset_index()


def headline(folder: Path) -> str:
    """A finished trial's scores in a few words: `0-shot 41.2, 4-shot 44.0, 8-shot 45.1, text-core 60.3`."""
    values = _trial_measures(folder)
    chosen = [name for name in values if name == TEXT_CORE or name.removesuffix("-shot").isdigit()]
    return ", ".join(f"{name} {values[name]:.1f}" for name in chosen)


def search_scores(folder: Path, shares: Mapping[str, float]) -> tuple[float, float]:
    """A finished trial's average at the most shots, and its held-out loss (held_out_loss)."""
    averages = _trial_measures(folder)
    held_out = read_table(folder / "held_out.csv", HELD_OUT_COLUMNS)
    losses = {str(name): float(loss) for name, loss in zip(held_out["source"], held_out["loss"], strict=True)}
    return averages[most_shots(averages)], held_out_loss(losses, shares)


def _trial_measures(folder: Path) -> dict[str, float]:
    overall = measures(read_table(folder / SCORES, SCORE_COLUMNS).assign(trial=""), ["trial"])
    return {str(name): float(value) for name, value in zip(overall["measure"], overall["value"], strict=True)}


def most_shots(names: Iterable[str]) -> str:
    """`8-shot`: of the averages over all benchmarks with images, the one with the most demonstrations."""
    counts = [int(name.removesuffix("-shot")) for name in names if name.removesuffix("-shot").isdigit()]
    return f"{max(counts)}-shot"


def held_out_loss(losses: Mapping[str, float], shares: Mapping[str, float]) -> float:
    """The held-out losses of a trial's sources, weighed by their shares of its training."""
    known = {name: share for name, share in shares.items() if name in losses}
    return sum(share * losses[name] for name, share in known.items()) / sum(known.values())
