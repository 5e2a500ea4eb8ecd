"""The model card of an exported arm, from the ledger: what was trained, scores, and how to load it."""

import json
import math
from typing import Any

import pandas as pd

from analysis.statistics import over_blocks
from analysis.table import environment
from mm1_lab.config import ModelStage
from mm1_lab.results.trained import frozen_parts, in_the_papers_words, learning_rates, summary_of_model, what_ran


def model_card(
    name: str, form: str, record: dict[str, Any] | None, scores: pd.DataFrame | None, model: ModelStage
) -> str:
    """The card of `model` as Markdown. `record` and `scores` are the trial's, or None if it is not evaluated yet.

    Intervals are computed from blocks of questions, so they apply to this one model only.
    """
    values: dict[str, Any] = {
        "name": name,
        "form": form,
        "image_tokens": f"up to {model.picture_tokens}" if model.tiling == "ratio" else model.picture_tokens,
        "in_world": model.data.kind == "world",
        "tuned": model.tuned,
        "scores": [],
    }
    if record is not None and scores is not None:
        values |= _evaluated(record, scores)
    return environment().get_template("model_card.md.jinja").render(values) + "\n"


def _evaluated(record: dict[str, Any], scores: pd.DataFrame) -> dict[str, Any]:
    config = record["config"]
    made_with = record["environment"]
    rows = []
    for (benchmark, metric, shots), asked in scores.groupby(["benchmark", "metric", "shots"], sort=False):
        found = over_blocks(asked)
        most = math.inf if metric == "cider" else 100.0
        interval = ""
        if found:  # not of a single block
            interval = f"{max(found.low, 0.0):.1f} to {min(found.high, most):.1f}"
        rows.append((benchmark, metric, shots, len(asked), f"{found.estimate:.1f}", interval))
    trained = what_ran(config)
    if not config["model"].get("aligns"):  # whose rates are in its own row
        trained["learning_rate"] = learning_rates(config["model"])
    return {
        "record": record,
        "trained": trained | frozen_parts(config),
        "parameters": summary_of_model(record).get("parameters"),
        "recipe": json.dumps(in_the_papers_words(record["recipe"], config), indent=1),
        "versions": {"mm1-lab": made_with.get("mm1_lab", "before 0.3.0"), **made_with["versions"]},
        "scores": rows,
    }
