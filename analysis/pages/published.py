"""The paper's tables of models (Tables 1, 3 and 4), with our numbers next to the published ones."""

from dataclasses import replace

import numpy as np
import pandas as pd

from analysis.pages.cells import plus_minus, published_cell, references
from analysis.pages.frames import benchmarks
from analysis.pages.notes import benchmark_notes, notes_of
from analysis.pages.output import Output
from analysis.pages.scores import mean_cell, title
from analysis.paper import read_paper
from analysis.statistics import quantile
from analysis.study import Study
from analysis.table import MISSING, Table
from mm1_lab.config import TEXT_CORE, Measure
from mm1_lab.results.summary import encoder_quality, shot_means

DATA = {"dfn": "DFN", "dfn+vecap": "DFN+VeCap", "imagetext": "ImageText"}
ENCODER_NOTE = (
    "Retrieval: how often the nearest of 256 held-out alt-texts is an image's own. Probe: mean area under the curve "
    "(50 knows nothing, 100 everything) of linear read-outs of the words of held-out captions. Both are of the encoder "
    "by itself, before the trial; a reconstructive one has no text tower to retrieve with."
)
TABLE_3 = {
    "captions": "COCO",
    "novel-captions": "NoCaps",
    "text-captions": "TextCaps",
    "vqa": "VQAv2",
    "text-vqa": "TextVQA",
    "degraded-vqa": "VizWiz",
    "relation-vqa": "GQA",
    "knowledge-vqa": "OKVQA",
}
TABLE_4 = {
    "pope-random f1": "POPE",
    "pope-popular f1": "POPE",
    "pope-adversarial f1": "POPE",
    "chat-vqa": "VQAv2",
    "chat-reading": "TextVQA",
    "chat-knowledge": "ScienceQA",
    "chat-choice": "MMBench",
    "chat-solutions": "MathVista",
    "chat-charts": "SEED images",
    "chat-descriptions": "LLaVA-Bench",
    "vqav2_val": "VQAv2",
    "textvqa_val": "TextVQA",
    "scienceqa_img": "ScienceQA",
    "mmmu_val": "MMMU val",
    "mmbench_en_dev": "MMBench",
    "seedbench seed_image": "SEED images",
    "pope pope_f1_score": "POPE",
}
MIRRORS = {"Table 3": TABLE_3, "Table 4": TABLE_4}
"""The paper's benchmarks by the names of the miniature world's mirrors and lmms-eval's; others keep their own names."""
ASKED_BY = {"Table 3": ("captioning", "vqa"), "Table 4": ("imported", "chat")}
"""Families of benchmarks that are in the paper's tables, or mirror those that are."""
OWN_TASKS = (
    "Our rows: mean ± half the 95 % interval over seeds, with one seed over blocks of questions, on our own mirrors of "
    "the benchmarks unless they are named alike; compare their order with MM1's, not their height. "
    "A dash or a blank: not measured, or not known."
)
POPE_NOTE = "F1 of yes-no questions, half of which are to be answered by yes: 67 is what always saying yes gives."


def write_published(study: Study, output: Output) -> None:
    """Writes `table_1.*` if the sweep reproduces it; `table_3.*` and `table_4.*` also if it has scores for them."""
    if study.sweep.reproduces == "Table 1":
        output.csv("table_1", encoder_rows(study))
        output.tables("table_1", table_1(study))
    for name in MIRRORS:
        if name == study.sweep.reproduces or _is_asked(study, name):
            output.tables(name.lower().replace(" ", "_"), table_by_benchmark(study, name))


def _is_asked(study: Study, name: str) -> bool:
    """Whether models were evaluated on the table's own benchmarks, or for Table 4 on their mirrors."""
    asked = study.asked["benchmark"][study.asked["family"].isin(ASKED_BY[name])].str.lower()
    known = _labels(name)
    if name == "Table 3":  # every model is asked the mirrors
        known = {own: label for own, label in known.items() if own not in TABLE_3}
    return bool(asked.isin(list(known)).any())


def _labels(name: str) -> dict[str, str]:
    """The table's benchmarks by their names in lower case and those of their mirrors; GQA has no published numbers."""
    labels = [label for _, label, _ in read_paper(name).values]
    known = {label.lower(): label for label in [*labels, *MIRRORS[name].values()]}
    known.pop("pope", None)  # as lmms-eval names the accuracy; the paper's is F1
    return known | MIRRORS[name]


def table_by_benchmark(study: Study, name: str) -> Table:
    """Table 3 or 4: a column per benchmark; for each of the paper's numbers of shots, our arms, then MM1's models."""
    paper = read_paper(name)
    # one row per column of the table: captions by CIDEr alone, several benchmarks of ours as one whatever their metrics
    asked = study.scores.drop(columns="content", errors="ignore").assign(metric="")
    asked["label"] = asked["benchmark"].str.lower().map(_labels(name))
    asked = asked.dropna(subset="label")
    ours = benchmarks(replace(study, scores=asked.assign(benchmark=asked["label"])))
    published = [label for _, label, _ in paper.values]
    shown = list(dict.fromkeys([*published, *ours["benchmark"]]))
    cells = {}
    for row in ours.to_dict("records"):
        units = row["error_units"]
        half = row["error"] * quantile(0.975, units - 1.0) if units > 1 else np.nan
        cells[row["shots"], row["arm"], row["benchmark"]] = plus_minus(row["score"], half)
    rows = []
    for measure in shot_means({Measure.parse(words) for *_, words in paper.values}):
        shots = measure.shots
        for arm in ours["arm"][ours["shots"] == shots].unique():
            scores = {label: cells.get((shots, arm, label), MISSING) for label in shown}
            rows.append({"shots": str(measure), "model": arm, **scores})
        for model in dict.fromkeys(panel for panel, _, known in paper.values if known == str(measure)):
            scores = {label: published_cell(paper.value(model, label, measure), paper.sources) for label in shown}
            rows.append({"shots": str(measure), "model": f"*{model}*", **scores})
    frame = pd.DataFrame(rows)
    if study.manifest.in_world:
        frame = frame.rename(columns=_headings(asked))
    notes = [OWN_TASKS, study.caution, *benchmark_notes(study), *references(paper.sources)]
    if (ours["benchmark"] == "POPE").any():
        notes.insert(1, POPE_NOTE)
    return Table(f"{name}: {title(study)}", frame, [note for note in notes if note], group="shots")


def _headings(asked: pd.DataFrame) -> dict[str, str]:
    """`chat-knowledge (mirrors ScienceQA)` for each of the paper's benchmarks that the world has its own version of."""
    headings = {}
    own = asked[asked["family"] != "imported"]  # other programs ask the paper's own
    for label, rows in own.groupby("label"):
        names = [name for name in rows["benchmark"].unique() if name.lower() != label.lower()]
        if names:
            headings[label] = f"{', '.join(names)} (mirrors {label})"
    return headings


def encoder_rows(study: Study) -> pd.DataFrame:
    """A row per arm and seed: the recipe's encoder, its `retrieval` and `probe` (0 to 1), and the trial's measures."""
    rows = []
    for trial in study.variant.done.to_dict("records"):
        arm, seed = trial["arm"], trial["seed"]
        quality = encoder_quality(study.records[trial["fingerprint"]]["summaries"].get("encoder", {}))
        row = {"arm": arm, "seed": seed, **_described(study, arm)}
        row |= {"retrieval": quality.get("retrieval"), "probe": quality.get("probe")}
        for measure in _measures(study):
            row[str(measure)] = study.trial_values(measure).get((study.representative(arm), seed))
        rows.append(row)
    return pd.DataFrame(rows)


def table_1(study: Study) -> Table:
    """Table 1 with the paper's rows in its order: our numbers, then MM1's if they are known."""
    quality = 100 * encoder_rows(study).groupby("arm")[["retrieval", "probe"]].mean().astype(float)
    rows = []
    for key, panel in study.panels.items():
        for label, arm in panel.arms.items():
            described = _described(study, arm)
            row = {"encoder": label, "loss": described["loss"], "res.": described["resolution"]}
            row["data"] = described["data"]
            row["retrieval %"] = quality["retrieval"].get(arm)
            row["probe %"] = quality["probe"].get(arm)
            for measure in _measures(study):
                row[str(measure)] = mean_cell(study, arm, measure)
            for measure in _measures(study):
                row[f"MM1 {measure}"] = published_cell(study.paper.value(key, label, measure), study.paper.sources)
            rows.append(row)
    return Table(title(study), pd.DataFrame(rows), [*notes_of(study), ENCODER_NOTE, *references(study.paper.sources)])


def _measures(study: Study) -> list[Measure]:
    return [measure for measure in study.averages if measure != TEXT_CORE]


def _described(study: Study, arm: str) -> dict[str, object]:
    recipe = study.sweep.arms[arm]
    data = DATA[recipe.encoder.data] if recipe.encoder.loss == "contrastive" else "images"
    size, loss = recipe.encoder.size, recipe.encoder.loss
    return {"size": size, "loss": loss, "resolution": recipe.resolution, "data": data}
