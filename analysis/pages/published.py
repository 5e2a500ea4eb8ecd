"""The paper's tables of models (Tables 1, 3 and 4), with our numbers next to the published ones."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd

from analysis.pages.cells import plus_minus, published_cell, references
from analysis.pages.frames import benchmarks
from analysis.pages.notes import benchmark_notes, notes_of
from analysis.pages.output import Output
from analysis.pages.scores import title
from analysis.paper import read_paper
from analysis.statistics import UNKNOWN, quantile
from analysis.study import Study
from analysis.table import MISSING, Table
from mm1_lab.results.summary import TEXT_CORE, encoder_quality

DATA = {"dfn": "DFN", "dfn+vecap": "DFN+VeCap", "imagetext": "ImageText"}
QUALITY = {"retrieval %": "retrieval", "probe %": "probe"}
NOTE = (
    "Retrieval: how often the nearest of 256 held-out alt-texts is an image's own. Probe: mean area under the curve "
    "(50 knows nothing, 100 everything) of linear read-outs of the words of held-out captions. Both are of the encoder "
    "by itself, before the trial; a reconstructive one has no text tower to retrieve with."
)
POPE = dict.fromkeys(("pope-random f1", "pope-popular f1", "pope-adversarial f1"), "POPE")
POPE_NOTE = "F1 of yes-no questions, half of which are to be answered by yes: 67 is what always saying yes gives."
MIRRORS: dict[str, dict[str, str | None]] = {
    "Table 3": {
        "captions": "COCO", "novel-captions": "NoCaps", "text-captions": "TextCaps", "vqa": "VQAv2",
        "text-vqa": "TextVQA", "degraded-vqa": "VizWiz", "relation-vqa": "GQA", "knowledge-vqa": "OKVQA",
    },
    "Table 4": {
        **POPE,
        "chat-vqa": "VQAv2", "chat-reading": "TextVQA", "chat-knowledge": "ScienceQA", "chat-choice": "MMBench",
        "chat-solutions": "MathVista", "chat-charts": "SEED images", "chat-descriptions": "LLaVA-Bench",
        "vqav2_val": "VQAv2", "textvqa_val": "TextVQA", "scienceqa_img": "ScienceQA", "mmmu_val": "MMMU val",
        "mmbench_en_dev": "MMBench", "seedbench seed_image": "SEED images", "pope pope_f1_score": "POPE", "pope": None,
    },
}  # fmt: skip
"""Maps the miniature world's mirrors and lmms-eval's names to the paper's benchmarks; others keep their own names.
lmms-eval's `pope` is accuracy, not F1, and is left out."""
ASKED = {"Table 3": ("captioning", "vqa"), "Table 4": ("imported",)}
"""Families of benchmarks that may be the paper's own, by table."""
OWN_TASKS = (
    "Our rows: mean ± half the 95 % interval over seeds, with one seed over blocks of questions, on our own mirrors of "
    "the benchmarks unless they are named alike; compare their order with MM1's, not their height. "
    "A dash or a blank: not measured, or not known."
)


def write_published(study: Study, output: Output) -> None:
    """Writes `table_1.*` if the sweep reproduces it; `table_3.*` and `table_4.*` also if it has scores for them."""
    if study.sweep.reproduces == "Table 1":
        output.csv("table_1", encoder_rows(study))
        output.tables("table_1", table_1(study))
    for name in MIRRORS:
        if name == study.sweep.reproduces or _is_asked(study, name):
            output.tables(name.lower().replace(" ", "_"), table_by_benchmark(study, name))


def _is_asked(study: Study, name: str) -> bool:
    """Whether models were evaluated on the table's own benchmarks, or for Table 4 on the world's chat benchmarks."""
    scores = study.scores
    asked = scores.loc[scores["family"].isin(ASKED[name]), "benchmark"].unique()
    known = _columns_of(name) if name == "Table 3" else _columns_of(name) | MIRRORS[name]
    return any(known.get(one.lower()) for one in asked) or (name == "Table 4" and "chat" in scores["family"].unique())


def _columns_of(name: str) -> dict[str, str | None]:
    """The table's columns by name in lower case, including GQA, which has no published numbers."""
    labels = [*(label for _, label, _ in read_paper(name).values), *MIRRORS[name].values()]
    return {label.lower(): label for label in labels if label}


def table_by_benchmark(study: Study, name: str) -> Table:
    """Table 3 or 4: a column per benchmark; for each of the paper's numbers of shots, our arms, then MM1's models."""
    paper = read_paper(name)
    columns = list(dict.fromkeys(label for _, label, _ in paper.values))
    mirrors = _columns_of(name) | MIRRORS[name]
    # one row per column of the table: captions by CIDEr alone, several benchmarks of ours as one whatever their metrics
    named = study.scores.drop(columns="content", errors="ignore").assign(metric="")
    named["benchmark"] = named["benchmark"].str.lower().map(mirrors)
    ours = benchmarks(replace(study, scores=named.dropna(subset="benchmark")))
    columns += [column for column in ours["benchmark"].unique() if column not in columns]
    ours["cell"] = [plus_minus(score, half) for score, half in zip(ours["score"], _half_width(ours), strict=True)]
    rows = []
    for measure in sorted({measure for *_, measure in paper.values}, key=lambda one: int(one.removesuffix("-shot"))):
        asked = ours[ours["shots"] == int(measure.removesuffix("-shot"))]
        for arm, cells in asked.groupby("arm", sort=False):
            known = dict(zip(cells["benchmark"], cells["cell"], strict=True))
            rows.append({"shots": measure, "model": arm} | {column: known.get(column, MISSING) for column in columns})
        for model in dict.fromkeys(panel for panel, _, own in paper.values if own == measure):
            numbers = {one: published_cell(paper.value(model, one, measure), paper.sources) for one in columns}
            rows.append({"shots": measure, "model": f"*{model}*", **numbers})
    heads = _mirrored(study, mirrors) if study.manifest.in_world else {}
    rows = [{heads.get(column, column): cell for column, cell in row.items()} for row in rows]
    notes = [OWN_TASKS, study.caution, *benchmark_notes(study), *references(paper.sources)]
    if any(named["benchmark"] == "POPE"):
        notes.insert(1, POPE_NOTE)
    heading = f"{name}: {title(study)}"
    return Table(heading, pd.DataFrame(rows), [note for note in notes if note], group="shots")


def _mirrored(study: Study, mirrors: Mapping[str, str | None]) -> dict[str, str]:
    """`chat-knowledge (mirrors ScienceQA)` for each of the paper's benchmarks that the world has its own version of."""
    own: dict[str, list[str]] = {}
    scores = study.scores[study.scores["family"] != "imported"]  # other programs ask the paper's own
    for name in scores["benchmark"].unique():
        if (label := mirrors.get(name.lower())) and name.lower() != label.lower():
            own.setdefault(label, []).append(name)
    rate = {label: ", F1" for label, names in own.items() if all(name.endswith(" f1") for name in names)}
    return {
        label: f"{names[0] if len(names) == 1 else f'mean of {len(names)}'} (mirrors {label}{rate.get(label, '')})"
        for label, names in own.items()
    }


def _half_width(scores: pd.DataFrame) -> list[float]:
    """Half the widths of the 95 % intervals of `benchmarks`."""
    units = zip(scores["error"], scores["error_units"], strict=True)
    return [error * quantile(0.975, count - 1.0) if count > 1 else np.nan for error, count in units]


def encoder_rows(study: Study) -> pd.DataFrame:
    """A row per arm and seed: the recipe's encoder, its `retrieval` and `probe` (0 to 1), and the trial's measures."""
    values = study.values.set_index(["arm", "seed", "measure"])["value"]
    rows = []
    for trial in study.variant.done.to_dict("records"):
        arm, seed, record = trial["arm"], trial["seed"], study.records[trial["fingerprint"]]
        known = encoder_quality(record["summaries"].get("encoder", {}))
        quality = {name: known.get(name) for name in QUALITY.values()}
        scores = {measure: values.get((arm, seed, measure)) for measure in _columns(study)}
        rows.append({"arm": arm, "seed": seed, **_described(study, arm), **quality, **scores})
    return pd.DataFrame(rows)


def table_1(study: Study) -> Table:
    """Table 1 with the paper's rows in its order: our numbers, then MM1's if they are known."""
    columns, cited = _columns(study), study.paper.sources
    quality = 100 * encoder_rows(study).groupby("arm")[list(QUALITY.values())].mean().astype(float)
    rows = []
    for panel, label, arm in ((key, *pair) for key, one in study.panels.items() for pair in one.arms.items()):
        described = _described(study, arm)
        row: dict[str, object] = {"encoder": label, "loss": described["loss"], "res.": described["resolution"]}
        row |= {"data": described["data"], **{head: quality[name].get(arm) for head, name in QUALITY.items()}}
        for measure in columns:
            point = study.mean(arm, measure) or UNKNOWN
            row[measure] = plus_minus(point.estimate, point.half_width)
        published = {measure: study.paper.value(panel, label, measure) for measure in columns}
        rows.append(row | {f"MM1 {measure}": published_cell(number, cited) for measure, number in published.items()})
    return Table(title(study), pd.DataFrame(rows), [*notes_of(study), NOTE, *references(cited)])


def _columns(study: Study) -> list[str]:
    return [measure for measure in study.averages if measure != TEXT_CORE]


def _described(study: Study, arm: str) -> dict[str, object]:
    recipe = study.sweep.arms[arm]
    data = DATA[recipe.encoder.data] if recipe.encoder.loss == "contrastive" else "images"
    size, loss = recipe.encoder.size, recipe.encoder.loss
    return {"size": size, "loss": loss, "resolution": recipe.resolution, "data": data}
