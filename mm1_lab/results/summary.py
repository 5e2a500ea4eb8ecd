"""Aggregates scores of questions to a trial's measures (section 3.1 of the paper: the plain mean over benchmarks)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mm1_lab.results.reading import read_table
from mm1_lab.results.schema import HELD_OUT_COLUMNS
from mm1_lab.results.score_file import read_score_table

if TYPE_CHECKING:
    import pandas as pd

TEXT_CORE = "text-core"
AVERAGE = "average"
CHAT = "chat 0-shot"
"""The mean over the chat benchmarks, which only tuned models are evaluated on."""
CONTENT = "content"
"""The score column for the content of captions, whatever their wording; also the prefix of measures of it."""
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


def measures(scores: pd.DataFrame, by: Sequence[str] = ("arm", "seed")) -> pd.DataFrame:
    """The measures that a sweep is judged by: columns `by`, measure, value.

    - `0-shot`, `4-shot`, …: the plain mean over the benchmarks with images;
    - `captioning 0-shot`, `vqa 4-shot`, …: the same within a family;
    - `average`: the plain mean over benchmarks with images and numbers of shots; `text-core`: over text benchmarks;
    - `chat 0-shot`, `solutions 4-shot`, …: within a family that the other means exclude, and each of its benchmarks by
      itself (`pope-random f1 0-shot`);
    - `content 0-shot`, `content average`, …, if captions have a content score: the means with it instead of the metric.
    """
    import pandas as pd

    table = _measures(scores, by)
    if CONTENT not in scores or scores[CONTENT].isna().all():
        return table
    said = _measures(by_content(scores[scores["family"].isin(PLAIN)]), by)
    said = said[~said["measure"].str.startswith("vqa")]
    return pd.concat([table, said.assign(measure=f"{CONTENT} " + said["measure"])], ignore_index=True)


def by_content(scores: pd.DataFrame) -> pd.DataFrame:
    """The same rows, with the content score in place of the metric where there is one."""
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


def measures_with(benchmark: str, family: str, shots: int) -> list[str]:
    """The measures that average a benchmark at a number of shots, or that are its score by itself."""
    one = f"{benchmark} {shots}-shot"
    if family == "text":
        return [TEXT_CORE, f"{family} {shots}-shot", one]
    means = [f"{shots}-shot", AVERAGE] if family in PLAIN else []
    return [*means, f"{family} {shots}-shot", one]


def rows_of(scores: pd.DataFrame, measure: str) -> pd.DataFrame:
    """The rows of a table of scores, by question or by benchmark, that a measure averages.

    A name is that of a family, or if there is none, of a benchmark.
    """
    if measure.startswith(f"{CONTENT} "):
        return by_content(rows_of(scores, measure.removeprefix(f"{CONTENT} ")))
    family = scores["family"]
    if measure == TEXT_CORE:
        return scores[family == "text"]
    plain = family.isin(PLAIN)
    if measure == AVERAGE:
        return scores[plain]
    name, _, shots = measure.rpartition(" ")
    chosen = (family == name if (family == name).any() else scores["benchmark"] == name) if name else plain
    return scores[chosen & (scores["shots"] == int(shots.removesuffix("-shot")))]


def headline(folder: Path) -> str:
    """A finished trial's main scores: `0-shot 41.2, 4-shot 44.0, 8-shot 45.1, text-core 60.3`."""
    values = _trial_measures(folder)
    chosen = [name for name in values if name == TEXT_CORE or name.removesuffix("-shot").isdigit()]
    return ", ".join(f"{name} {values[name]:.1f}" for name in chosen)


def search_scores(folder: Path, shares: Mapping[str, float]) -> tuple[float, float]:
    """A finished trial's mean score at the largest number of shots, and its held-out loss (see `held_out_loss`)."""
    averages = _trial_measures(folder)
    held_out = read_table(folder / "held_out.csv", HELD_OUT_COLUMNS)
    losses = {str(name): float(loss) for name, loss in zip(held_out["source"], held_out["loss"], strict=True)}
    return averages[most_shots(averages)], held_out_loss(losses, shares)


def _trial_measures(folder: Path) -> dict[str, float]:
    overall = measures(read_score_table(folder).assign(trial=""), ["trial"])
    return {str(name): float(value) for name, value in zip(overall["measure"], overall["value"], strict=True)}


def most_shots(names: Iterable[str]) -> str:
    """The measure among `names` with the most demonstrations, e.g. `8-shot`."""
    counts = [int(name.removesuffix("-shot")) for name in names if name.removesuffix("-shot").isdigit()]
    return f"{max(counts)}-shot"


def held_out_loss(losses: Mapping[str, float], shares: Mapping[str, float]) -> float:
    """The mean of a trial's held-out losses per source, weighted by the sources' shares of its training data."""
    known = {name: share for name, share in shares.items() if name in losses}
    return sum(share * losses[name] for name, share in known.items()) / sum(known.values())
