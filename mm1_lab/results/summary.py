"""Aggregates scores of questions to a trial's measures (section 3.1 of the paper: the plain mean over benchmarks)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mm1_lab.config import AVERAGE, TEXT_CORE, UNPARSED, Measure
from mm1_lab.results.reading import read_table
from mm1_lab.results.schema import HELD_OUT_COLUMNS
from mm1_lab.results.score_file import read_score_table

if TYPE_CHECKING:
    import pandas as pd

CONTENT = "content"
"""The score column for the content of captions, whatever their wording."""
PLAIN = ("captioning", "vqa")
"""Families of the benchmarks with images on which every model is evaluated."""


def encoder_quality(summary: Mapping[str, Any]) -> dict[str, float]:
    """The quality of an encoder by itself, on held-out images, from its stage's summary.

    `retrieval`: image-to-text accuracy at rank 1 among the `pairs` held-out pairs; `probe`: the mean AUC of linear
    probes for the captions' words. Measures that the stage did not take are left out.
    """
    found = {
        "retrieval": summary.get("retrieval", {}).get("image_to_text"),
        "probe": summary.get("probe", {}).get("auc"),
    }
    return {name: float(value) for name, value in found.items() if value is not None}


def benchmark_scores(scores: pd.DataFrame, by: Sequence[str] = ("arm", "seed")) -> pd.DataFrame:
    """The mean score over each benchmark's questions: columns `by`, benchmark, family, shots, score."""
    keys = [*by, "benchmark", "family", "shots"]
    return scores.groupby(keys, sort=False, observed=True)["score"].mean().reset_index()


def benchmark_means(scores: pd.DataFrame, by: Sequence[str] = ("arm", "seed")) -> pd.DataFrame:
    """`benchmark_scores`, and if captions have content scores, these in the column `content` (NaN for others)."""
    means = benchmark_scores(scores, by)
    if CONTENT in scores:
        captions = scores[scores[CONTENT].notna()]
        said = benchmark_scores(captions.assign(score=captions[CONTENT]), by)
        means = means.merge(said.rename(columns={"score": CONTENT}), how="left")
    return means


def measures(scores: pd.DataFrame, by: Sequence[str] = ("arm", "seed")) -> pd.DataFrame:
    """The value of every measure that tables show (`measures_with`): columns `by`, measure, value."""
    import pandas as pd

    means = benchmark_means(scores, by)
    parts = []
    for measure in measures_in(means):
        values = rows_of(means, measure).groupby(list(by), sort=False, observed=True)["score"].mean()
        found = values.rename("value").reset_index()
        found.insert(len(by), "measure", [measure] * len(found))
        parts.append(found)
    return pd.concat(parts, ignore_index=True)


def measures_in(scores: pd.DataFrame) -> list[Measure]:
    """The measures that tables show of a table of scores, by question or by benchmark: also by content if captions have
    such scores."""
    found: dict[Measure, None] = {}
    asked = scores[["benchmark", "family", "shots"]].drop_duplicates()
    for benchmark, family, shots in asked.itertuples(index=False):
        found |= dict.fromkeys(measures_with(benchmark, family, shots))
    if CONTENT in scores and scores[CONTENT].notna().any():
        found |= dict.fromkeys(measure.content for measure in found if measure.of in ("", "captioning"))
    return list(found)


def measures_with(benchmark: str, family: str, shots: int) -> list[Measure]:
    """The measures that tables show and that average a benchmark at a number of shots (MM1, section 3.1: plain means).

    A family that the means over all benchmarks exclude has one, and so has each of its benchmarks.
    """
    if family == "text":
        return [TEXT_CORE]
    if family in PLAIN:
        return [Measure(shots=shots), Measure(family, shots), AVERAGE]
    return [Measure(family, shots), Measure(benchmark, shots)]


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
    rows = scores[chosen]
    if not measure.by_content:
        return rows
    if CONTENT not in rows or rows[CONTENT].isna().all():
        return rows[:0]  # no captions among them, or captions without content scores
    return by_content(rows)


def by_content(scores: pd.DataFrame) -> pd.DataFrame:
    """The same rows, with the content score in place of the metric where there is one."""
    return scores.assign(score=scores[CONTENT].fillna(scores["score"]))


def headline(folder: Path) -> str:
    """A finished trial's main scores: `0-shot 41.2, 4-shot 44.0, 8-shot 45.1, text-core 60.3`."""
    values = _trial_measures(folder)
    chosen = [*shot_means(values), *([TEXT_CORE] if TEXT_CORE in values else [])]
    return ", ".join(f"{measure} {values[measure]:.1f}" for measure in chosen)


def search_scores(folder: Path, shares: Mapping[str, float]) -> tuple[float, float]:
    """A finished trial's mean score at the largest number of shots, and its held-out loss (see `held_out_loss`)."""
    values = _trial_measures(folder)
    held_out = read_table(folder / "held_out.csv", HELD_OUT_COLUMNS)
    losses = {str(name): float(loss) for name, loss in zip(held_out["source"], held_out["loss"], strict=True)}
    return values[shot_means(values)[-1]], held_out_loss(losses, shares)


def _trial_measures(folder: Path) -> dict[Measure, float]:
    overall = measures(read_score_table(folder).assign(trial=""), ["trial"])
    return {measure: float(value) for measure, value in zip(overall["measure"], overall["value"], strict=True)}


def shot_means(measures: Iterable[Measure]) -> list[Measure]:
    """Those among `measures` that are means over all benchmarks at a number of shots, fewest shots first."""
    found = [one for one in measures if one.shots is not None and not one.of and not one.by_content]
    return sorted(found, key=lambda measure: measure.shots or 0)


def held_out_loss(losses: Mapping[str, float], shares: Mapping[str, float]) -> float:
    """The mean of a trial's held-out losses per source, weighted by the sources' shares of its training data."""
    known = {name: share for name, share in shares.items() if name in losses}
    return sum(share * losses[name] for name, share in known.items()) / sum(known.values())
