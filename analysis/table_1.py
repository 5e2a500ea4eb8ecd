"""Table 1: each image encoder with what it is by itself, its trial's scores, and MM1's beside them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from analysis.study import Study
from analysis.table import Table, write_csv, write_tables
from analysis.tables import plus_minus, published_cell, references, shown_rows, title
from mm1_lab.results.summary import encoder_quality

DATA = {"dfn": "DFN", "dfn+vecap": "DFN+VeCap", "imagetext": "ImageText"}
QUALITY = {"retrieval %": "retrieval", "probe %": "probe"}
NOTE = (
    "Retrieval: how often the nearest of 256 held-out alt-texts is an image's own. Probe: mean area under the curve "
    "(50 knows nothing, 100 everything) of linear read-outs of the words of held-out captions. Both are of the encoder "
    "by itself, before the trial; a reconstructive one has no text tower to retrieve with."
)


def table_1(study: Study) -> pd.DataFrame:
    """A row per arm and seed: the recipe's encoder, its `retrieval` and `probe` (0 to 1), and the trial's measures."""
    values = study.values.set_index(["arm", "seed", "measure"])["value"]
    rows = []
    for trial in study.variant.trials.to_dict("records"):
        record = study.records.get(trial["fingerprint"])
        if record is not None:
            arm, seed = trial["arm"], trial["seed"]
            known = encoder_quality(record["summaries"].get("encoder", {}))
            quality = {name: known.get(name) for name in QUALITY.values()}
            scores = {measure: values.get((arm, seed, measure)) for measure in _columns(study)}
            rows.append({"arm": arm, "seed": seed, **_described(study, arm), **quality, **scores})
    return pd.DataFrame(rows)


def table_1_for_people(study: Study) -> Table:
    """The table's rows in its order; our numbers, then MM1's where they are known."""
    columns = _columns(study)
    cited = study.paper.sources
    quality = 100 * table_1(study).groupby("arm")[list(QUALITY.values())].mean().astype(float)
    rows = []
    for panel, label, arm in shown_rows(study):
        if panel not in study.panels:
            continue
        described = _described(study, arm)
        row: dict[str, object] = {"encoder": label, "loss": described["loss"], "res.": described["resolution"]}
        row |= {"data": described["data"], **{head: quality[name].get(arm) for head, name in QUALITY.items()}}
        row |= {measure: plus_minus(study.mean(arm, measure)) for measure in columns}
        published = {measure: study.paper.value(panel, label, measure) for measure in columns}
        rows.append(row | {f"MM1 {measure}": published_cell(number, cited) for measure, number in published.items()})
    return Table(title(study), pd.DataFrame(rows), [*study.notes, NOTE, *references(cited)])


def write_table_1(study: Study, folder: Path) -> list[Path]:
    """Writes `table_1.csv`, `.tex` and `.md`."""
    path = folder / "table_1"
    return [write_csv(table_1(study), path.with_suffix(".csv")), *write_tables(path, table_1_for_people(study))]


def _columns(study: Study) -> list[str]:
    return [measure for measure in study.measures if measure.endswith("shot") and " " not in measure]


def _described(study: Study, arm: str) -> dict[str, object]:
    recipe = study.sweep.arms[arm]
    data = DATA[recipe.encoder.data] if recipe.encoder.loss == "contrastive" else "images"
    size, loss = recipe.encoder.size, recipe.encoder.loss
    return {"size": size, "loss": loss, "resolution": recipe.resolution, "data": data}
