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


def parameters(
    manifest: Manifest, names: Names, recipe: Mapping[str, Any], config: Mapping[str, Any]
) -> dict[str, str]:
    """What ran, and as `paper.…` how the recipe says that in the paper's names and numbers.

    Of instruction tuning, and of the parts that are not trained, what is set.
    """
    tuning = recipe.get("sft") or {}
    values: dict[str, Any] = {
        f"paper.sft.{name}": _words(value) for name, value in tuning.items() if value not in (None, [], {})
    }
    if not tuning.get("start"):
        mix, encoder = dict(recipe["data_mix"]), in_the_papers_words(recipe, config)["encoder"]
        share, sources = mix.pop("synthetic_share"), manifest.data.sources
        has_share = "synthetic" in sources and "synthetic" not in mix
        synthetic = f", synthetic {100 * share:g} % of captions" * has_share
        values |= {f"paper.{name}": recipe[name] for name in ("resolution", "image_tokens", "decoder", "steps")}
        values |= {"paper.frozen": _words(recipe["frozen"])} if recipe.get("frozen") else {}
        values["paper.encoder"] = ", ".join(encoder[key] for key in ("size", "data", "loss") if key in encoder)
        values |= {"data_mix": _words(mix) + synthetic, "images": recipe["images"]}
    values |= what_ran(config) | {
        "arm": ", ".join(dict.fromkeys(arm for arm, _ in names)),
        "seed": config["seed"],
        "scale": manifest.scale,
        "data": manifest.data_name,
    }
    return {name: str(value) for name, value in values.items()}


def _words(value: Any) -> Any:
    """A field's value in words: `encoder, decoder`, `mine 1 / other 2`."""
    if isinstance(value, dict):
        return " / ".join(f"{name} {weight:g}" for name, weight in value.items())
    return ", ".join(value) if isinstance(value, list) else value


def curves(path: Path) -> list[Point]:
    """The points of a `training.csv`, if it exists, without an incomplete last row of a file that is being written."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    rows = csv.DictReader(text[: text.rfind("\n") + 1].splitlines())
    return [(f"train/{row['name']}", float(row["value"]), int(row["step"])) for row in rows]


def final_metrics(folder: Path) -> list[Point]:
    """A trial's metrics, at step 0: `captions/0-shot`, …, its measures, and `held-out/captions`, …"""
    scores = read_score_table(folder).assign(trial="")
    held_out = read_table(folder / "held_out.csv", HELD_OUT_COLUMNS)
    means = benchmark_scores(scores, ["trial"])
    overall = measures(scores, ["trial"])
    names = [
        *(f"{name}/{shots}-shot" for name, shots in zip(means["benchmark"], means["shots"], strict=True)),
        *map(str, overall["measure"]),
        *(f"held-out/{source}" for source in held_out["source"]),
    ]
    values = [*means["score"], *overall["value"], *held_out["loss"]]
    return [(name, round(float(value), 3), 0) for name, value in zip(names, values, strict=True)]


def quality(summary: Mapping[str, Any], prefix: str = "") -> list[Point]:
    """The quality of an encoder by itself, from its stage's summary; nothing for other stages."""
    return [(f"{prefix}{name}", value, 0) for name, value in encoder_quality(summary).items()]


def speed(summary: Mapping[str, Any]) -> list[Point]:
    """The metric `train/tokens per second` over a stage's whole training, if it is known; padding does not count."""
    tokens, seconds = sum(summary.get("tokens", {}).values()), summary.get("seconds", 0.0)
    return [("train/tokens per second", round(tokens / seconds, 1), 0)] if tokens and seconds else []
