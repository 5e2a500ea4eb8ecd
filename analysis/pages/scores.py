"""A sweep's scores, as data and as tables: means with the paper's numbers, CIDEr, losses."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis.likeness import HELD_OUT_DOCUMENTS, HELD_OUT_TOKENS, unlike
from analysis.pages.cells import plus_minus, published_cell, references
from analysis.pages.notes import benchmark_notes, notes_of
from analysis.statistics import Interval, one_sample
from analysis.study import Study
from analysis.table import MISSING, Table, as_text
from mm1_lab.config import CHAT, TEXT_CORE, UNPARSED, Measure, SftRecipe
from mm1_lab.formatting import short
from mm1_lab.results.summary import rows_of
from mm1_lab.results.trained import summary_of_model

CONTROLS = "Controls"
CIDER_NOTE = "MM1's metric, which rewards the wording of the references."
ENCODER_NOTE = (
    "Retrieval: how often the nearest of 256 held-out alt-texts is an image's own. A reconstructive one has no text "
    "tower to retrieve with."
)
OTHER_DOCUMENTS = (
    "With {cause}, fewer of the held-out documents fit a row: these arms' losses are those of other, "
    "shorter documents and not comparable with the others."
)
TUNED_TEXT = (
    "Of text, the losses of tuned arms are of answers alone, as in their training, and not comparable with the others."
)
PARAMETERS_NOTE = "Of the models that are evaluated; `mm1-lab plan` has the FLOPs of their training."


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
        for label, arm in panel.arms.items():
            rows.append(Shown(key, label, arm, heading))
    in_panels = {row.arm for row in rows}
    for arm in study.others:
        rows.append(Shown("other", arm, arm, "Other arms"))
    for arm in study.controls:
        if arm not in in_panels:
            rows.append(Shown("control", arm, arm, CONTROLS))
    return rows


def shown_measures(study: Study) -> list[Measure]:
    """The measures with a column: means, then each of the user's own benchmarks. A family of a single own benchmark has
    no column beside it."""
    further = study.asked["benchmark"][study.asked["family"] == "further"].unique()  # other metrics of the same answers
    own = [measure for measure in study.own_benchmarks if measure.of not in further]
    if len({measure.of for measure in own}) < 2:
        return study.measures  # the only one is the mean already
    shown = []
    for measure in study.measures:
        averaged = {Measure(name, measure.shots) for name in rows_of(study.asked, measure)["benchmark"]}
        if not measure.of or len(averaged) > 1 or not averaged <= set(own):
            shown.append(measure)
    return [*shown, *own]


def means(study: Study) -> pd.DataFrame:
    """A row per panel, label and measure: value, interval, seeds, and the paper's number if known."""
    rows = []
    for shown in shown_rows(study):
        for measure in (*shown_measures(study), *study.cider_measures, UNPARSED):
            point = study.mean(shown.arm, measure)
            number = study.paper.value(shown.panel, shown.label, measure)
            rows.append(
                {
                    "panel": shown.panel,
                    "label": shown.label,
                    "arm": shown.arm,
                    "measure": str(measure),
                    "value": point.estimate,
                    "error": point.error,
                    "low": point.low,
                    "high": point.high,
                    "seeds": len(study.seed_values(shown.arm, measure)),
                    "interval": study.uncertainty,
                    "paper": number.value,
                    "paper_bound": number.bound,
                    "paper_source": number.source,
                }
            )
    return pd.DataFrame(rows)


def means_table(study: Study) -> Table:
    """`means` for people: a group per panel, a row per arm with the paper's numbers below ours, controls last."""
    name = study.sweep.reproduces or "arm"
    sources = study.paper.sources
    measures = shown_measures(study)
    rows = []
    for shown in shown_rows(study):
        row = {"group": shown.heading, name: f"{shown.label}{lacking_seeds(study, shown.arm)}"}
        rows.append(row | _cells(study, shown.arm, [*measures, UNPARSED]))
        published = {measure: study.paper.value(shown.panel, shown.label, measure) for measure in measures}
        if any(published.values()):
            row = {"group": shown.heading, name: f"*{shown.label}, MM1*"}
            rows.append(row | {str(measure): published_cell(number, sources) for measure, number in published.items()})
    majority = {str(measure): as_text(study.majority(measure)).replace(MISSING, "") for measure in measures}
    if any(majority.values()):
        rows.append({"group": CONTROLS, name: "majority answer"} | majority)
    notes = [*notes_of(study), *benchmark_notes(study), *references(sources)]
    return Table(title(study), pd.DataFrame(rows).fillna(""), notes, group="group")


def arms_table(study: Study, measures: Sequence[Measure], heading: str, notes: Sequence[str]) -> Table:
    """The means of `measures`, with a row per arm with scores, one for arms that are the same trials."""
    rows = [{"arm": f"{arm}{lacking_seeds(study, arm)}"} | _cells(study, arm, measures) for arm in study.distinct]
    return Table(heading, pd.DataFrame(rows), notes)


def short_table(study: Study) -> Table:
    """The table at the end of a run: chat, the means by shots, that of text, and own benchmarks."""
    chosen = [measure for measure in study.measures if measure in (CHAT, TEXT_CORE) or not measure.of]
    chosen.sort(key=lambda measure: (measure == TEXT_CORE, measure != CHAT))
    chosen += [measure for measure in shown_measures(study) if measure not in study.measures]
    return arms_table(study, chosen, title(study), notes_of(study))


def _cells(study: Study, arm: str, measures: Sequence[Measure]) -> dict[str, str]:
    """The means of an arm, by measure."""
    return {str(measure): plus_minus(as_shown(study, study.mean(arm, measure))) for measure in measures}


def as_shown(study: Study, mean: Interval) -> Interval:
    """The mean as tables and figures show it: without an interval if the study has too few seeds."""
    return mean if study.shows_intervals else replace(mean, error=np.nan)


def lacking_seeds(study: Study, arm: str) -> str:
    """` (3 of 6 seeds)` after the name of an arm that has scores at some of the study's seeds only."""
    seeds = study.seed_count(arm)
    return f" ({seeds} of {len(study.seeds)} seeds)" if 0 < seeds < len(study.seeds) else ""


def losses_table(study: Study) -> Table:
    """Held-out losses with a row per arm and a column per source: means over seeds ± half their 95 % interval."""
    frame = pd.DataFrame({"arm": [f"{arm}{lacking_seeds(study, arm)}" for arm in study.scored]})
    sources = study.held_out["source"].unique()
    for source in sources:
        cells = []
        for arm in study.scored:
            values = study.seed_values(arm, Measure(source, about="loss"))
            mean = one_sample(values)
            cells.append(plus_minus(mean if len(values) > 2 else replace(mean, error=np.nan), 3))
        frame[source] = cells
    several = ", ± half the 95 % interval over seeds" if len(study.seeds) > 2 else ""
    recipes = [study.sweep.arms[arm] for arm in study.scored]
    views = {(sft.views, sft.tiling) for sft in (recipe.sft or SftRecipe() for recipe in recipes)}
    notes = []
    apart = {unlike(study, frozenset(study.scored), Measure(name, about="loss")) for name in sources}
    if HELD_OUT_TOKENS in apart:
        notes.append(TUNED_TEXT)
    if HELD_OUT_DOCUMENTS in apart:
        is_five = views == {(1, "square"), (5, "square")}
        notes.append(OTHER_DOCUMENTS.format(cause="five views per picture" if is_five else "more tokens"))
    return Table(f"Held-out loss, nats per text token{several}", frame, notes)


def encoders_table(study: Study) -> Table:
    """How well each encoder by itself retrieves, in percent, means over seeds."""
    shares = []
    for _, _, record in study.finished:
        encoder = record.get("summaries", {}).get("encoder", {})
        shares.append(encoder.get("retrieval", {}).get("image_to_text"))
    percent = study.done.assign(**{"retrieval %": 100 * pd.Series(shares, study.done.index, float)})
    means = percent.groupby("arm")[["retrieval %"]].mean().reindex(study.scored)
    return Table("The encoders by themselves, before the trial", means.reset_index(), [ENCODER_NOTE])


def parameters_table(study: Study) -> Table | None:
    """The parameters of the arms' models by part; None if the arms do not differ in them."""
    rows = []
    for arm in study.distinct:
        record = study.records[study.done["fingerprint"][study.done["arm"] == arm].iloc[0]]
        parts = summary_of_model(record).get("parameters", {})
        counts = {name: short(count) for name, count in parts.items()}
        rows.append({"arm": arm} | counts | {"all": short(sum(parts.values()))})
    frame = pd.DataFrame(rows).fillna(MISSING)
    if len(frame.drop(columns="arm").drop_duplicates()) < 2:
        return None
    return Table("Parameters", frame, [PARAMETERS_NOTE])


def scores_by_benchmark(study: Study) -> pd.DataFrame:
    """Arm × seed × benchmark × shots × metric: the score, and the percentage of answers that could not be parsed."""
    rows = study.scores.groupby(["arm", "seed", "benchmark", "family", "shots", "metric"], sort=False, observed=True)
    table = pd.DataFrame(
        {
            "score": rows["score"].mean(),
            "questions": rows["score"].size(),
            "unparsed_percent": 100 * (1 - rows["parsed"].mean()),
        }
    )
    return table.reset_index()


def title(study: Study) -> str:
    return headed(study, ": ", *study.manifest.overrides)


def headed(study: Study, mark: str, *overridden: str) -> str:
    """The sweep's heading, then its setting, after a `mark` or the heading's own question mark."""
    setting = ", ".join([study.setting, *overridden])
    heading = study.sweep.heading
    return f"{heading} {setting[0].upper()}{setting[1:]}" if heading.endswith("?") else f"{heading}{mark}{setting}"
