"""The paper's tables of models by benchmark (Tables 3 and 4), with our numbers next to the published ones."""

from dataclasses import replace

import pandas as pd
import yaml

from analysis.output import Output
from analysis.pages.cells import plus_minus, published_cell, references
from analysis.pages.notes import benchmark_notes, unparsed_notes
from analysis.pages.scores import title
from analysis.paper import FOLDER, read_paper
from analysis.statistics import one_sample
from analysis.study import Study
from analysis.table import MISSING, Table
from mm1_lab.config import Measure

MIRRORS = yaml.safe_load((FOLDER / "mirrors.yaml").read_text(encoding="utf-8"))
TABLES = {"Table 3": False, "Table 4": True}
"""Whether the models of the paper's tables are tuned."""
OWN_TASKS = (
    "Our rows: mean ± half the 95 % interval over seeds, with one seed over blocks of questions, on our own mirrors of "
    "the benchmarks unless they are named alike; compare their order with MM1's, not their height. "
    "A dash or a blank: not measured, or not known."
)
POPE_NOTE = "F1 of yes-no questions, half of which are to be answered by yes: 67 is what always saying yes gives."


def write_published(study: Study, output: Output) -> None:
    """Writes `table_3.md` and, of tuned models, `table_4.md` if the sweep reproduces them or models were asked the
    table's own benchmarks, or for Table 4 their mirrors (every model is asked those of Table 3)."""
    for name in TABLES:
        asked = _of_models(study, name)["benchmark"].str.lower()
        telling = set(_labels(study, name))
        if name == "Table 3":
            telling -= set(MIRRORS[name])
        if name == study.sweep.reproduces or asked.isin(telling).any():
            output.tables(name.lower().replace(" ", "_"), table_by_benchmark(study, name))


def _of_models(study: Study, name: str) -> pd.DataFrame:
    """The scores of arms that are tuned if the table's models are, and of those that are not otherwise."""
    arms = [arm for arm in study.sweep.arms if study.is_tuned(arm) == TABLES[name]]
    return study.scores[study.scores["arm"].isin(arms)]


def _labels(study: Study, name: str) -> dict[str, str]:
    """The table's benchmarks by their names in lower case, and those of their mirrors or of lmms-eval; GQA has no
    published numbers."""
    published = [label for _, label, _ in read_paper(name).values]
    known = {label.lower(): label for label in [*published, *MIRRORS[name].values()]}
    known.pop("pope", None)  # as lmms-eval names the accuracy; the paper's is taken to be F1
    if study.manifest.in_world:
        return known | MIRRORS[name]
    if TABLES[name]:
        return known | MIRRORS["own data"]
    return known


def table_by_benchmark(study: Study, name: str) -> Table:
    """Table 3 or 4: a column per benchmark; for each of the paper's numbers of shots, our arms, then MM1's models."""
    paper = read_paper(name)
    sources = paper.sources
    labels = []
    published: dict[str, dict[str, dict[str, str]]] = {}
    for (model, label, shots), number in paper.values.items():
        labels.append(label)
        models = published.setdefault(shots, {})
        models.setdefault(model, {})[label] = published_cell(number, sources)
    scores = _of_models(study, name)
    asked = scores.assign(label=scores["benchmark"].str.lower().map(_labels(study, name))).dropna(subset="label")
    labels += asked["label"].tolist()
    rows = []
    for shots, models in published.items():
        at_shots = asked[asked["shots"] == Measure.parse(shots).shots]
        for arm, of_arm in at_shots.groupby("arm", sort=False, observed=True):
            row = {"shots": shots, "model": str(arm)} | dict.fromkeys(labels, MISSING)
            for benchmark, of_label in of_arm.groupby("label", observed=True):
                row[str(benchmark)] = _cell(of_label)
            rows.append(row)
        for model, cells in models.items():
            rows.append({"shots": shots, "model": f"*{model}*"} | dict.fromkeys(labels, "") | cells)
    frame = pd.DataFrame(rows)
    if study.manifest.in_world:
        mirrored = asked[asked["benchmark"].str.lower() != asked["label"].str.lower()]
        names = mirrored.groupby("label", observed=True)["benchmark"].unique()
        frame = frame.rename(columns={label: f"{', '.join(own)} (mirrors {label})" for label, own in names.items()})
    notes = [OWN_TASKS]
    if (asked["label"] == "POPE").any():
        notes.append(POPE_NOTE)
    notes.append(study.caution)
    notes += [*unparsed_notes(study, study.scored), *benchmark_notes(study)]
    notes += references(sources)
    return Table(f"{name}: {title(study)}", frame, notes, group="shots")


def _cell(asked: pd.DataFrame) -> str:
    """The mean over questions, with half its 95 % interval over seeds, or with one seed over blocks of questions."""
    of_seeds = asked.groupby("seed")["score"].mean()
    units = of_seeds if len(of_seeds) > 1 else asked.groupby("block")["score"].mean()
    found = one_sample(units.to_numpy())
    return plus_minus(replace(found, estimate=of_seeds.mean()))
