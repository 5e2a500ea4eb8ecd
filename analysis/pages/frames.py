"""The results of a sweep as data, for CSV files."""

import pandas as pd

from analysis.study import Study
from mm1_lab.results.summary import CONTENT

KEPT = ("arm", "seed", "benchmark", "family", "shots", "metric", "block", "score", "parsed")
"""What this module needs of the scores; each further column takes time to sort."""


def scores_by_benchmark(study: Study) -> pd.DataFrame:
    """Arm × seed × benchmark × shots × metric: the score, and the percentage of answers that could not be parsed."""
    keys = ["arm", "seed", "benchmark", "family", "shots", "metric"]
    rows = _by_metric(study).groupby(keys, sort=False)
    table = rows.agg(score=("score", "mean"), questions=("score", "size"), parsed=("parsed", "mean")).reset_index()
    table["unparsed_percent"] = 100 * (1 - table["parsed"])
    return table.drop(columns="parsed")


def _by_metric(study: Study) -> pd.DataFrame:
    """The scores of questions, and after each one of a caption that has a content score a row with it, whose metric is
    `content`."""
    rows = study.scores.reset_index(drop=True)
    if CONTENT not in rows:
        return rows
    rows = rows[[*KEPT, CONTENT]]
    of_content = rows[rows[CONTENT].notna()]
    of_content = of_content.assign(score=of_content[CONTENT].astype(float), metric=CONTENT)
    return pd.concat([rows, of_content]).sort_index(kind="stable")


def benchmarks(study: Study) -> pd.DataFrame:
    """A row per arm, benchmark, number of shots and metric with the score, the mean over seeds and questions.

    `error` is the standard error over seeds, or with one seed over blocks of questions (see the column `error_over`),
    of which there are `error_units`.
    """
    keys = ["arm", "benchmark", "family", "shots", "metric"]
    rows = _by_metric(study)
    by_seed = rows.groupby([*keys, "seed"], sort=False)["score"].mean().groupby(keys, sort=False)
    by_block = rows.groupby([*keys, "block"], sort=False)["score"].mean().groupby(keys, sort=False)
    seeds = by_seed.count()
    several = seeds > 1
    columns = {
        "score": by_seed.mean(),
        "lowest_seed": by_seed.min(),
        "highest_seed": by_seed.max(),
        "seeds": seeds,
        "error": by_seed.sem().where(several, by_block.sem()),
        "error_units": seeds.where(several, by_block.count()),
        "error_over": several.map({True: "seeds", False: "blocks of questions"}),
        "unparsed_percent": 100 * (1 - rows.groupby(keys, sort=False)["parsed"].mean()),
    }
    return pd.DataFrame(columns).reset_index()


def sources(study: Study) -> pd.DataFrame:
    """A row per arm, seed and source with the held-out loss, and the tokens and epochs of its training."""
    rows = []
    for row in study.held_out.to_dict("records"):
        trained = study.records[row.pop("fingerprint")]["summaries"].get("multimodal", {})
        for name in ("tokens", "epochs"):
            row[name] = trained.get(name, {}).get(row["source"], 0)
        rows.append(row)
    columns = [name for name in study.held_out.columns if name != "fingerprint"]
    return pd.DataFrame(rows, columns=[*columns, "tokens", "epochs"])
