"""What is logged to MLflow about a trial or stage: parameters, metrics and curves, from its files."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mm1_lab.results import Manifest
from mm1_lab.results.reading import read_table
from mm1_lab.results.schema import HELD_OUT_COLUMNS
from mm1_lab.results.score_file import read_score_table
from mm1_lab.results.summary import benchmark_scores, encoder_quality, measures
from mm1_lab.results.trained import in_the_papers_words, what_ran

Names = Sequence[tuple[str, int]]
"""Arms and seeds. Arms with the same recipe share a run, which is named after all of them."""
Point = tuple[str, float, int]
"""Name, value and step of a metric."""


def listed(names: Names) -> str:
    """`base / seed 0`."""
    return ", ".join(f"{arm} / seed {seed}" for arm, seed in names)


def parameters(manifest: Manifest, names: Names, record: Mapping[str, Any]) -> dict[str, str]:
    """What ran in a trial, and as `paper.…` how its recipe says that in the paper's names and numbers.

    Of instruction tuning, and of the parts that are not trained, what is set.
    """
    recipe = record["recipe"]
    config = record["config"]
    tuning = recipe.get("sft") or {}
    values: dict[str, Any] = {}
    for name, value in tuning.items():
        if value not in (None, [], {}):
            values[f"paper.sft.{name}"] = _words(value)
    if not tuning.get("start"):
        for name in ("resolution", "image_tokens", "decoder", "steps"):
            values[f"paper.{name}"] = recipe[name]
        if recipe.get("frozen"):
            values["paper.frozen"] = _words(recipe["frozen"])
        encoder = in_the_papers_words(recipe, config)["encoder"]
        words = [encoder[key] for key in ("size", "data", "loss") if key in encoder]
        values["paper.encoder"] = ", ".join(words)
        values["data_mix"] = _mix(manifest, recipe["data_mix"])
        values["images"] = recipe["images"]
    values.update(what_ran(config))
    values["arm"] = ", ".join(dict.fromkeys(arm for arm, _ in names))
    values["seed"] = config["seed"]
    values["scale"] = manifest.scale
    values["data"] = manifest.data_name
    return {name: str(value) for name, value in values.items()}


def model_size(summary: Mapping[str, Any]) -> dict[str, str]:
    """The number of parameters of the model that was evaluated, if its stage counted them."""
    counted = summary.get("parameters")
    return {"parameters": str(sum(counted.values()))} if counted else {}


def _mix(manifest: Manifest, weights: Mapping[str, float]) -> str:
    """`captions 5 / text 1, synthetic 7 % of captions`."""
    mix = dict(weights)
    share = mix.pop("synthetic_share")
    text = _words(mix)
    if "synthetic" in manifest.data.sources and "synthetic" not in mix:
        text += f", synthetic {100 * share:g} % of captions"
    return text


def _words(value: Any) -> Any:
    """A field's value in words: `encoder, decoder`, `mine 1 / other 2`."""
    if isinstance(value, dict):
        return " / ".join(f"{name} {weight:g}" for name, weight in value.items())
    if isinstance(value, list):
        return ", ".join(value)
    return value


def curves(path: Path) -> list[Point]:
    """The points of a `training.csv`, if it exists."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [(f"train/{row['name']}", float(row["value"]), int(row["step"])) for row in rows]


def final_metrics(folder: Path) -> list[Point]:
    """A trial's metrics, at step 0: `captions/0-shot`, …, its measures, and `held-out/captions`, …"""
    scores = read_score_table(folder).assign(trial="")
    held_out = read_table(folder / "held_out.csv", HELD_OUT_COLUMNS)
    found: list[tuple[str, Any]] = []
    for row in benchmark_scores(scores, ["trial"]).itertuples():
        found.append((f"{row.benchmark}/{row.shots}-shot", row.score))
    for row in measures(scores, ["trial"]).itertuples():
        found.append((str(row.measure), row.value))
    for row in held_out.itertuples():
        found.append((f"held-out/{row.source}", row.loss))
    return [(name, round(float(value), 3), 0) for name, value in found]


def quality(summary: Mapping[str, Any], prefix: str = "") -> list[Point]:
    """The quality of an encoder by itself, from its stage's summary; nothing for other stages."""
    return [(f"{prefix}{name}", value, 0) for name, value in encoder_quality(summary).items()]


def speed(summary: Mapping[str, Any]) -> list[Point]:
    """The metric `train/tokens per second` over a stage's whole training, if it is known; padding does not count."""
    tokens = sum(summary.get("tokens", {}).values())
    seconds = summary.get("seconds", 0.0)
    if not tokens or not seconds:
        return []
    return [("train/tokens per second", round(tokens / seconds, 1), 0)]
