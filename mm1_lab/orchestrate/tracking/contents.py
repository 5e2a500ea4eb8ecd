"""What trackers show of a trial: parameters, metrics and curves, from its files."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from mm1_lab.config import EvaluationStage, RequestError, Trial
from mm1_lab.formatting import flat
from mm1_lab.results import Ledger, Manifest
from mm1_lab.results.reading import curves_of, held_out_losses, read_table
from mm1_lab.results.schema import CURVES
from mm1_lab.results.score_file import read_score_table
from mm1_lab.results.summary import benchmark_scores, measures
from mm1_lab.results.trained import in_the_papers_words, summary_of_model, what_ran

Names = Sequence[tuple[str, int]]
"""Arms and seeds. Arms with the same recipe share a run, which is named after all of them."""
Point = tuple[str, float, int]
"""Name, value and step of a metric."""
VERSION = 3
"""Raised when parameters or metrics change, so that MLflow's runs are logged anew. Runs of other trackers, which cannot
be deleted, stay as they are."""


def run_name(manifest: Manifest, names: Names) -> str:
    """`base / seed 0 at smoke`, and the settings of a variant."""
    trials = ", ".join(f"{arm} / seed {seed}" for arm, seed in names)
    _, comma, settings = manifest.variant.partition(",")  # before it the sweep's name, as a folder may have it
    return f"{trials} at {manifest.scale}{comma}{settings}"


def identity(manifest: Manifest, names: Names) -> dict[str, Any]:
    """Which trial it is."""
    arms = ", ".join(dict.fromkeys(arm for arm, _ in names))
    return {"arm": arms, "seed": names[0][1], "scale": manifest.scale, "data": manifest.data_name}


def parameters(manifest: Manifest, names: Names, record: Mapping[str, Any]) -> dict[str, Any]:
    """What ran, in the units of this machine, and as `paper.…` what is set of the recipe."""
    config = record["config"]
    values: dict[str, Any] = dict(what_ran(config))
    for name, kind in (("image_tokens", int), ("steps", int), ("learning_rate", float)):
        with suppress(ValueError):  # `none`, without steps
            values[name] = kind(values[name])
    recipe = in_the_papers_words(record["recipe"], config)
    for name, value in flat(recipe).items():
        if value not in (None, [], {}):
            values[f"paper.{name}"] = value
    values |= identity(manifest, names)
    model, training = config["model"], config["model"]["training"]
    values |= {
        "batch_size": training["batch_size"],
        "sequence_length": training.get("sequence_length", model.get("sequence_length")),
        "warmup_steps": round(training["warmup_fraction"] * training["steps"]),
    }
    counts = summary_of_model(record).get("parameters")
    if counts:
        values["parameters"] = sum(counts.values())
    return values


def metrics(ledger: Ledger, fingerprint: str, record: Mapping[str, Any]) -> list[Point]:
    """Scores by benchmark (`captions/0-shot`) and their means (`captioning 0-shot`), losses (`held-out/captions`),
    quality of the encoder, tokens per second, and training curves (`train/loss`, `train/gradient_norm`; of an alignment
    `align/loss`, …)."""
    folder = ledger.trial_folder(fingerprint)
    table = read_score_table(folder)
    table["trial"] = ""
    scores = benchmark_scores(table, ["trial"]).itertuples()
    found: dict[str, Any] = {f"{row.benchmark}/{row.shots}-shot": row.score for row in scores}
    for row in measures(table, ["trial"]).itertuples():
        found[str(row.measure)] = row.value
    found |= {f"held-out/{source}": loss for source, loss in held_out_losses(folder).items()}
    if retrieval := record["summaries"].get("encoder", {}).get("retrieval"):
        found["encoder/retrieval"] = retrieval["image_to_text"]
    summaries = {"train": summary_of_model(record), "align": record["summaries"].get("alignment", {})}
    if summaries["train"] == summaries["align"]:  # nothing followed the alignment
        del summaries["train"]
    for stage, summary in summaries.items():
        tokens = sum(summary.get("tokens", {}).values())  # without padding
        if tokens and summary.get("seconds"):
            found[f"{stage}/tokens per second"] = tokens / summary["seconds"]
    points = [(name, float(f"{value:.6g}"), 0) for name, value in found.items()]
    return points + _points(curves_of(folder))


def _points(curves: Mapping[str, Any]) -> list[Point]:
    rows = ((stage, row) for stage, curve in curves.items() for row in curve.itertuples(index=False))
    return [(f"{stage}/{name}", value, step) for stage, (step, name, value) in rows]


def planned_record(trial: Trial) -> dict[str, Any]:
    """What `parameters` reads of the record that the trial will have."""
    recipe, config = trial.recipe.model_dump(mode="json"), trial.evaluation.model_dump(mode="json")
    return {"recipe": recipe, "config": config, "fingerprints": {"model": "", "evaluation": ""}, "summaries": {}}


def points_so_far(ledger: Ledger, evaluation: EvaluationStage) -> list[Point]:
    """The points of a trial's curves while it has no scores."""
    curves = {}
    for name, stage in evaluation.with_curves.items():
        key = stage.fingerprint
        folder = ledger.stage_folder(key) if ledger.has_weights(key) else ledger.partial_folder(key)
        with suppress(RequestError):  # it has no points yet, or its folder is just being renamed
            curves[name] = read_table(folder / CURVES["train"])
    return _points(curves)
