"""The paper's tables of models (Tables 1, 3 and 4), with our numbers next to the published ones."""

from dataclasses import replace

import numpy as np
import pandas as pd
import yaml

from analysis.pages.cells import plus_minus, published_cell, references
from analysis.pages.frames import benchmarks
from analysis.pages.notes import benchmark_notes, notes_of
from analysis.pages.output import Output
from analysis.pages.scores import mean_cell, title
from analysis.paper import FOLDER, read_paper
from analysis.statistics import quantile
from analysis.study import Study
from analysis.table import MISSING, Row, Table
from mm1_lab.config import TEXT_CORE, Measure
from mm1_lab.results.summary import encoder_quality, shot_means

DATA = {"dfn": "DFN", "dfn+vecap": "DFN+VeCap", "imagetext": "ImageText"}
ENCODER_NOTE = (
    "Retrieval: how often the nearest of 256 held-out alt-texts is an image's own. Probe: mean area under the curve "
    "(50 knows nothing, 100 everything) of linear read-outs of the words of held-out captions. Both are of the encoder "
    "by itself, before the trial; a reconstructive one has no text tower to retrieve with."
)
MIRRORS = yaml.safe_load((FOLDER / "mirrors.yaml").read_text(encoding="utf-8"))
ASKED_BY = {"Table 3": ("captioning", "vqa"), "Table 4": ("chat",)}
"""Families of benchmarks that are in the paper's tables, or mirror those that are."""
OWN_TASKS = (
    "Our rows: mean ± half the 95 % interval over seeds, with one seed over blocks of questions, on our own mirrors of "
    "the benchmarks unless they are named alike; compare their order with MM1's, not their height. "
    "A dash or a blank: not measured, or not known."
)
POPE_NOTE = "F1 of yes-no questions, half of which are to be answered by yes: 67 is what always saying yes gives."


def write_published(study: Study, output: Output) -> None:
    """Writes `table_1.md` if the sweep reproduces it; `table_3.md` and `table_4.md` also if it has scores for them."""
    if study.sweep.reproduces == "Table 1":
        output.tables("table_1", table_1(study))
    for name in MIRRORS:
        if name == study.sweep.reproduces or _is_asked(study, name):
            output.tables(name.lower().replace(" ", "_"), table_by_benchmark(study, name))


def _is_asked(study: Study, name: str) -> bool:
    """Whether models were evaluated on the table's own benchmarks, or for Table 4 on their mirrors."""
    of_families = study.asked["family"].isin(ASKED_BY[name])
    asked = set(study.asked["benchmark"][of_families].str.lower())
    known = set(_labels(name))
    if name == "Table 3":  # every model is asked the mirrors
        known -= set(MIRRORS[name])
    return bool(asked & known)


def _labels(name: str) -> dict[str, str]:
    """The table's benchmarks by their names in lower case and those of their mirrors; GQA has no published numbers."""
    mirrors = MIRRORS[name]
    published = [label for _, label, _ in read_paper(name).values]
    known = {label.lower(): label for label in [*published, *mirrors.values()]}
    known.pop("pope", None)  # as lmms-eval names the accuracy; the paper's is F1
    return known | mirrors


def table_by_benchmark(study: Study, name: str) -> Table:
    """Table 3 or 4: a column per benchmark; for each of the paper's numbers of shots, our arms, then MM1's models."""
    paper = read_paper(name)
    asked = study.scores.drop(columns="content", errors="ignore")  # captions by CIDEr alone
    asked["label"] = asked["benchmark"].str.lower().map(_labels(name))
    asked = asked.dropna(subset="label")
    # several benchmarks of ours are one column, whatever their metrics
    ours = benchmarks(replace(study, scores=asked.assign(benchmark=asked["label"], metric="")))
    labels = dict.fromkeys(label for _, label, _ in paper.values)
    labels |= dict.fromkeys(ours["benchmark"])
    rows = []
    for measure in shot_means({Measure.parse(words) for *_, words in paper.values}):
        shots = str(measure)
        at_shots = ours[ours["shots"] == measure.shots]
        for arm, of_arm in at_shots.groupby("arm", sort=False):
            scores = {row["benchmark"]: _cell(row) for row in of_arm.to_dict("records")}
            row = {"shots": shots, "model": arm}
            for label in labels:
                row[label] = scores.get(label, MISSING)
            rows.append(row)
        for model in dict.fromkeys(model for model, _, known in paper.values if known == shots):
            row = {"shots": shots, "model": f"*{model}*"}
            for label in labels:
                row[label] = published_cell(paper.value(model, label, measure), paper.sources)
            rows.append(row)
    frame = pd.DataFrame(rows)
    if study.manifest.in_world:
        frame = frame.rename(columns=_headings(asked))
    notes = [OWN_TASKS]
    if (ours["benchmark"] == "POPE").any():
        notes.append(POPE_NOTE)
    if study.caution:
        notes.append(study.caution)
    notes += [*benchmark_notes(study), *references(paper.sources)]
    return Table(f"{name}: {title(study)}", frame, notes, group="shots")


def _cell(row: Row) -> str:
    """A score of `benchmarks` with half its 95 % interval."""
    units = row["error_units"]
    half = row["error"] * quantile(0.975, units - 1.0) if units > 1 else np.nan
    return plus_minus(row["score"], half)


def _headings(asked: pd.DataFrame) -> dict[str, str]:
    """`chat-knowledge (mirrors ScienceQA)` for each of the paper's benchmarks that the world has its own version of."""
    names: dict[str, list[str]] = {}
    for label, name in asked[["label", "benchmark"]].drop_duplicates().itertuples(index=False):
        if name.lower() != label.lower():
            names.setdefault(label, []).append(name)
    return {label: f"{', '.join(mirrors)} (mirrors {label})" for label, mirrors in names.items()}


def _encoder_quality(study: Study) -> pd.DataFrame:
    """By arm its encoder's `retrieval` and `probe` in percent, means over seeds."""
    rows = []
    for trial in study.variant.done.to_dict("records"):
        quality = encoder_quality(study.records[trial["fingerprint"]]["summaries"].get("encoder", {}))
        rows.append((trial["arm"], quality.get("retrieval"), quality.get("probe")))
    frame = pd.DataFrame(rows, columns=["arm", "retrieval", "probe"])
    return 100 * frame.groupby("arm").mean().astype(float)


def table_1(study: Study) -> Table:
    """Table 1 with the paper's rows in its order: our numbers, then MM1's if they are known."""
    quality = _encoder_quality(study)
    measures = [measure for measure in study.averages if measure != TEXT_CORE]
    rows = []
    for key, panel in study.panels.items():
        for label, arm in panel.arms.items():
            recipe = study.sweep.arms[arm]
            row: dict[str, object] = {"encoder": label, "loss": recipe.encoder.loss, "res.": recipe.resolution}
            row["data"] = DATA[recipe.encoder.data] if recipe.encoder.loss == "contrastive" else "images"
            row["retrieval %"] = quality["retrieval"].get(arm)
            row["probe %"] = quality["probe"].get(arm)
            for measure in measures:
                row[str(measure)] = mean_cell(study, arm, measure)
            for measure in measures:
                row[f"MM1 {measure}"] = published_cell(study.paper.value(key, label, measure), study.paper.sources)
            rows.append(row)
    return Table(title(study), pd.DataFrame(rows), [*notes_of(study), ENCODER_NOTE, *references(study.paper.sources)])
