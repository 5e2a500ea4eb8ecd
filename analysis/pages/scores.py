"""The tables of a sweep's scores: means with the paper's numbers, losses, and how experts are used."""

from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from analysis.pages.cells import plus_minus, published_cell, references
from analysis.pages.frames import EXPERTS
from analysis.pages.notes import benchmark_notes, notes_of
from analysis.statistics import UNKNOWN, mean_of
from analysis.study import UNPARSED, Study
from analysis.table import Table, as_text
from mm1_lab.results.summary import CHAT, CONTENT, TEXT_CORE, rows_of

CONTROLS = "Controls"
OTHER_DOCUMENTS = (
    "With five views per picture, fewer of the held-out documents fit a row: these arms' losses are those of other, "
    "shorter documents and not comparable with the others."
)


class Shown(NamedTuple):
    """A row of tables and figures: an arm in a panel."""

    panel: str
    """`other` and `control` for arms outside panels."""
    label: str
    arm: str
    heading: str


def shown_rows(study: Study) -> list[Shown]:
    """All arms in the order of tables: panel by panel, then those outside panels, then controls that stand in none."""
    rows = []
    for key, panel in study.panels.items():
        heading = f"{key}  {panel.title}" if key else panel.title
        rows += [Shown(key, label, arm, heading) for label, arm in panel.arms.items()]
    in_panels = {row.arm for row in rows}
    rows += [Shown("other", arm, arm, "Other arms") for arm in study.others]
    rows += [Shown("control", arm, arm, CONTROLS) for arm in study.controls if arm not in in_panels]
    return rows


def shown_measures(study: Study) -> list[str]:
    """The measures with a column: means, then each of the user's own benchmarks. A family of a single own benchmark has
    no column beside it."""
    further = study.asked["benchmark"][study.asked["family"] == "further"].unique()  # other metrics of the same answers
    own = [measure for measure in study.own_benchmarks if measure.rpartition(" ")[0] not in further]
    if len({measure.rpartition(" ")[0] for measure in own}) < 2:
        return study.measures  # the only one is the mean already
    shown = []
    for measure in study.measures:
        names = rows_of(study.asked, measure)["benchmark"].unique()
        if " " not in measure or len(names) > 1 or f"{names[0]} {measure.split()[-1]}" not in own:
            shown.append(measure)
    return [*shown, *own]


def means(study: Study) -> pd.DataFrame:
    """A row per panel, label and measure: value, interval, seeds, and the paper's number if known."""
    rows = []
    for shown in shown_rows(study):
        for measure in (*shown_measures(study), *study.content_measures, UNPARSED):
            point = study.mean(shown.arm, measure) or UNKNOWN
            number = study.paper.value(shown.panel, shown.label, measure)
            rows.append(
                {
                    "panel": shown.panel,
                    "label": shown.label,
                    "arm": shown.arm,
                    "measure": measure,
                    "value": point.estimate,
                    "error": point.error,
                    "low": point.low,
                    "high": point.high,
                    "seeds": len(study.seed_values(shown.arm, measure)),
                    "interval": study.uncertainty,
                    "paper": number.value if number else None,
                    "paper_bound": number.bound if number else None,
                    "paper_source": number.source if number else None,
                }
            )
    return pd.DataFrame(rows)


def means_table(study: Study, frame: pd.DataFrame) -> Table:
    """`means` for people: a group per panel, a row per arm with the paper's numbers below ours, controls last."""
    name, cited = study.sweep.reproduces or "arm", study.paper.sources
    measures = [*shown_measures(study), UNPARSED]
    cells = _cells(frame, ["panel", "label"])
    rows: list[dict[str, str]] = []
    for shown in shown_rows(study):
        seeds = len(study.seed_values(shown.arm, study.measures[0]))
        lacking = f" ({seeds} of {len(study.seeds)} seeds)" if 0 < seeds < len(study.seeds) else ""
        own = {measure: cells[shown.panel, shown.label, measure] for measure in measures}
        rows.append({"group": shown.heading, name: f"{shown.label}{lacking}", **own})
        numbers = {measure: study.paper.value(shown.panel, shown.label, measure) for measure in measures}
        if any(numbers.values()):
            published = {measure: published_cell(number, cited) for measure, number in numbers.items()}
            rows.append({"group": shown.heading, name: f"*{shown.label}, MM1*", **published})
    majority = {measure: study.majority(measure) for measure in measures if measure != UNPARSED}
    if any(level is not None for level in majority.values()):
        own = {measure: "" if level is None else as_text(level) for measure, level in majority.items()}
        rows.append({"group": CONTROLS, name: "majority answer", **own, UNPARSED: ""})
    notes = [*notes_of(study), *benchmark_notes(study), *references(cited)]
    return Table(title(study), pd.DataFrame(rows), notes, group="group")


def content_table(study: Study, frame: pd.DataFrame) -> Table:
    """The means with captions scored by content, a row per arm with scores and a column per measure."""
    note = "In place of CIDEr, which rewards the references' wording: F1 over what captions say, in any wording."
    return Table("Captions by content", _by_arm(study, frame, study.content_measures), [note])


def short_table(study: Study, frame: pd.DataFrame) -> Table:
    """The table at the end of a run: a row per arm with the means of chat, by shots, of text, and own benchmarks."""
    columns = [measure for measure in study.measures if measure == CHAT]
    columns += [measure for measure in study.averages if measure != TEXT_CORE]
    columns += [measure for measure in study.averages if measure == TEXT_CORE]
    columns += [measure for measure in shown_measures(study) if measure not in study.measures]
    return Table(title(study), _by_arm(study, frame, columns), notes_of(study))


def _by_arm(study: Study, frame: pd.DataFrame, measures: Sequence[str]) -> pd.DataFrame:
    """A row per arm with scores, one for arms that are the same trials."""
    cells = _cells(frame, ["arm"])
    rows = []
    for arm in study.scored:
        if study.representative(arm) == arm:
            own = {measure.removeprefix(f"{CONTENT} "): cells[arm, measure] for measure in measures}
            rows.append({"arm": arm, **own})
    return pd.DataFrame(rows)


def _cells(frame: pd.DataFrame, keys: list[str]) -> dict[tuple[str, ...], str]:
    """`44.5 ± 2.3`, by `keys` and measure."""
    cells = {}
    for row in frame.to_dict("records"):
        key = (*(row[name] for name in keys), row["measure"])
        cells[key] = plus_minus(row["value"], (row["high"] - row["low"]) / 2)
    return cells


def losses_table(study: Study) -> Table:
    """Held-out losses with a row per arm and a column per source: means over seeds ± half their 95 % interval."""
    several = ", ± half the 95 % interval over seeds" if len(study.seeds) > 1 else ""
    views = {recipe.sft.views if recipe.sft else 1 for recipe in study.sweep.arms.values()}
    found = study.held_out.groupby(["arm", "source"], sort=False)["loss"].agg(list)
    sources = study.held_out["source"].unique()
    rows = []
    for arm in study.scored:
        row = {"arm": arm}
        for source in sources:
            point = mean_of(found.get((arm, source), [])) or UNKNOWN
            row[source] = plus_minus(point.estimate, point.half_width, 3)
        rows.append(row)
    notes = [OTHER_DOCUMENTS] if len(views) > 1 else []
    return Table(f"Held-out loss, nats per text token{several}", pd.DataFrame(rows, columns=["arm", *sources]), notes)


def experts_table(frame: pd.DataFrame) -> Table:
    """Means over seeds of `frames.experts`, with a row per arm and layer."""
    found = frame.groupby(["arm", "layer", "experts"], sort=False)[list(EXPERTS)].mean().reset_index()
    note = (
        "At the end of training; layers with experts, from the first. If all experts are used alike, the busiest one's "
        "share is 1 / experts and the entropy log(experts); a router without doubt has an entropy of 0."
    )
    formats = {EXPERTS["busiest_expert"]: ".3f", EXPERTS["dead_experts"]: ".1f", EXPERTS["router_entropy"]: ".2f"}
    return Table("Experts", found.rename(columns=EXPERTS), [note], formats=formats)


def title(study: Study) -> str:
    return ", ".join([f"{study.sweep.heading}: {study.setting}", *study.manifest.overrides])
