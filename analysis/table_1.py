"""Table 1: each image encoder with what it is by itself, its trial's scores, and MM1's beside them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.document import HOLE, Document, Section
from analysis.study import Study
from analysis.tables import cell, title, write_csv, write_document
from mm1_lab.config import Recipe
from mm1_lab.results.summary import encoder_quality

if TYPE_CHECKING:
    import pandas as pd

DATA = {"dfn": "DFN", "dfn+vecap": "DFN+VeCap", "imagetext": "ImageText"}


def table_1(study: Study) -> pd.DataFrame:
    """A row an arm and seed: the recipe's encoder, its `retrieval` and `probe` (0 to 1), and the trial's measures."""
    import pandas as pd

    trials = study.variant.trials
    rows = []
    for arm, seed, fingerprint in zip(trials["arm"], trials["seed"], trials["fingerprint"], strict=True):
        if fingerprint in study.records:
            values = study.values[(study.values["arm"] == arm) & (study.values["seed"] == seed)]
            scores = dict(zip(values["measure"], values["value"], strict=True))
            rows.append(
                {"arm": arm, "seed": seed, **_described(study.sweep.arms[arm]), **_quality(study, fingerprint)}
                | {measure: scores.get(measure) for measure in _columns(study)}
            )
    return pd.DataFrame(rows)


def table_1_document(study: Study) -> Document:
    """The table's rows in its order; our numbers, then MM1's where they are known."""
    columns = _columns(study)
    cited = list(dict.fromkeys(number.source for number in study.paper.values.values()))
    head = ["encoder", "loss", "res.", "data", "retrieval %", "probe %", *columns, *(f"MM1 {name}" for name in columns)]
    rows = []
    for key, panel in study.panels.items():
        for label, arm in panel.arms.items():
            described = _described(study.sweep.arms[arm])
            numbers = [study.paper.value(key, label, measure) for measure in columns]
            rows.append(
                [label, described["loss"], str(described["resolution"]), described["data"]]
                + [_mean_quality(study, arm, name) for name in ("retrieval", "probe")]
                + [cell(study.mean(arm, measure)) for measure in columns]
                + [f"*{number}* [{cited.index(number.source) + 1}]" if number else "" for number in numbers]
            )
    note = (
        "Retrieval: how often the nearest of 256 held-out alt-texts is an image's own. Probe: mean area under the "
        "curve (50 knows nothing, 100 everything) of linear read-outs of the words of held-out captions. Both are of "
        "the encoder by itself, before the trial; a reconstructive one has no text tower to retrieve with."
    )
    section = Section("", head, rows, words=("loss", "res.", "data"))
    return Document(title(study), [f"Points; ± {study.uncertainty_note}."], [section], [note], cited)


def write_table_1(study: Study, folder: Path) -> list[Path]:
    """Writes `table_1.csv`, `.tex` and `.md`."""
    return [
        write_csv(table_1(study), folder / "table_1.csv"),
        *write_document(table_1_document(study), folder / "table_1"),
    ]


def _columns(study: Study) -> list[str]:
    return [measure for measure in study.measures if measure.endswith("shot") and " " not in measure]


def _described(recipe: Recipe) -> dict[str, Any]:
    encoder = recipe.encoder
    data = DATA[encoder.data] if encoder.loss == "contrastive" else "images"
    return {"size": encoder.size, "loss": encoder.loss, "resolution": recipe.resolution, "data": data}


def _quality(study: Study, fingerprint: str) -> dict[str, float | None]:
    known = encoder_quality(study.records[fingerprint]["summaries"].get("encoder", {}))
    return {name: known.get(name) for name in ("retrieval", "probe")}


def _mean_quality(study: Study, arm: str, name: str) -> str:
    """Percent, the mean over seeds."""
    prints = study.variant.trials.loc[study.variant.trials["arm"] == arm, "fingerprint"]
    found = [_quality(study, fingerprint)[name] for fingerprint in prints if fingerprint in study.records]
    values = [value for value in found if value is not None]
    return f"{100 * sum(values) / len(values):.1f}" if values else HOLE
