"""The results of a sweep as data, for CSV files."""

import pandas as pd

from analysis.study import Study
from mm1_lab.results.summary import CONTENT

KEPT = ("arm", "seed", "benchmark", "family", "shots", "metric", "block", "score", "parsed")
"""What this module needs of the scores; each further column takes time to sort."""


def scores_by_benchmark(study: Study) -> pd.DataFrame:
    """Arm × seed × benchmark × shots × metric: the score, and the percentage of answers that could not be parsed."""
    rows = _by_metric(study).groupby(["arm", "seed", "benchmark", "family", "shots", "metric"], sort=False)
    table = rows.agg(score=("score", "mean"), questions=("score", "size"), parsed=("parsed", "mean")).reset_index()
    return table.assign(unparsed_percent=100 * (1 - table.pop("parsed")))


def _by_metric(study: Study) -> pd.DataFrame:
    """The scores of questions, and after each one of a caption that has a content score a row with it, whose metric is
    `content`."""
    rows = study.scores.reset_index(drop=True)
    if CONTENT not in rows:
        return rows
    rows = rows[[*KEPT, CONTENT]]
    said = rows[rows[CONTENT].notna()]
    said = said.assign(score=said[CONTENT].astype(float), metric=CONTENT)
    return pd.concat([rows, said]).sort_index(kind="stable")


def benchmarks(study: Study) -> pd.DataFrame:
    """A row per arm, benchmark, number of shots and metric with the score, the mean over seeds and questions.

    `error` is the standard error over seeds, or with one seed over blocks of questions (see the column `error_over`),
    of which there are `error_units`.
    """
    keys, rows = ["arm", "benchmark", "family", "shots", "metric"], _by_metric(study)
    trials = rows.groupby([*keys, "seed"], sort=False)["score"].mean()
    each = trials.groupby(keys, sort=False).agg(["mean", "min", "max", "count", "sem"])
    table = each.set_axis(["score", "lowest_seed", "highest_seed", "seeds", "error"], axis=1)
    blocks = rows.groupby([*keys, "block"], sort=False)["score"].mean().groupby(keys, sort=False)
    single = table["seeds"] == 1
    table["error"] = table["error"].where(~single, blocks.sem())
    table["error_units"] = table["seeds"].where(~single, blocks.count())
    table["error_over"] = single.map({True: "blocks of questions", False: "seeds"})
    unparsed = 100 * (1 - rows.groupby(keys, sort=False)["parsed"].mean())
    return table.assign(unparsed_percent=unparsed).reset_index()


def sources(study: Study) -> pd.DataFrame:
    """A row per arm, seed and source with the held-out loss, and the tokens and epochs of its training."""
    table = study.held_out.copy()
    for name in ("tokens", "epochs"):
        table[name] = [
            study.records[trial]["summaries"].get("multimodal", {}).get(name, {}).get(source, 0)
            for trial, source in zip(table["fingerprint"], table["source"], strict=True)
        ]
    return table.drop(columns="fingerprint")


EXPERTS = {
    "busiest_expert": "busiest expert's share",
    "dead_experts": "experts never chosen",
    "router_entropy": "router's entropy, nats",
}


def experts(study: Study) -> pd.DataFrame:
    """How each layer with experts uses them at the end of training: a row per arm, seed and layer; empty without any.

    `experts` is their number; the columns of `EXPERTS` are those of the training curves.
    """
    rows = []
    for trial in study.variant.done.to_dict("records"):
        record = study.records[trial["fingerprint"]]
        trained = record["summaries"].get("sft") or record["summaries"].get("multimodal", {})
        points: dict[int, dict[str, float]] = {}
        for name, value in trained.get("experts", {}).items():
            kind, _, layer = name.partition("/layer_")
            points.setdefault(int(layer), {})[kind] = value
        size = record["config"]["model"]["decoder"]["size"] if points else {}
        own = {"arm": trial["arm"], "seed": trial["seed"], "experts": size.get("experts")}
        rows += [{**own, "layer": layer, **values} for layer, values in sorted(points.items())]
    return pd.DataFrame(rows)
