"""Tables of a sweep: scores with the paper's numbers, losses, claims, experts; and the function that writes all."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from analysis.judging.looks import reached_text
from analysis.pages.cells import (
    bounds,
    cited_in,
    claim_cell,
    estimate,
    estimate_in,
    floorless,
    paper_cell,
    plus_minus,
    published_cell,
    references,
    seeds_cell,
)
from analysis.pages.frames import EXPERTS, benchmarks, experts, sources
from analysis.pages.notes import benchmark_notes, notes_of, remarks
from analysis.statistics import UNKNOWN, one_sample
from analysis.study import UNPARSED, Study
from analysis.table import MISSING, Table, as_text, write_csv, write_tables
from mm1_lab.results.summary import CHAT, CONTENT, TEXT_CORE

CONTROLS = "Controls"


def means(study: Study) -> pd.DataFrame:
    """A row per panel, label and measure, controls last: value, interval, seeds, and the paper's number if known."""
    rows = []
    for panel, label, arm, _ in shown_rows(study):
        for measure in (*study.measures, *study.content_measures, UNPARSED):
            row: dict[str, object] = {"panel": panel, "label": label, "arm": arm, "measure": measure}
            point = study.mean(arm, measure) or UNKNOWN
            row |= {"value": point.estimate, "error": point.error, "low": point.low, "high": point.high}
            row |= {"seeds": len(study.seed_values(arm, measure)), "interval": study.uncertainty}
            number = study.paper.value(panel, label, measure)
            row |= {"paper": number.value if number else None, "paper_bound": number.bound if number else None}
            rows.append(row | {"paper_source": number.source if number else None})
    return pd.DataFrame(rows)


def shown_rows(study: Study) -> list[tuple[str, str, str, str]]:
    """(panel, label, arm, heading) in the order of tables: panels, arms outside them (`other`), controls (`control`)
    that stand in none."""
    heads = {key: f"{key}  {panel.title}".strip() for key, panel in study.panels.items()}
    rows = [(key, label, arm, heads[key]) for key, panel in study.panels.items() for label, arm in panel.arms.items()]
    controls = [("control", arm, arm, CONTROLS) for arm in study.controls if arm not in {row[2] for row in rows}]
    return rows + [("other", arm, arm, "Other arms") for arm in study.others] + controls


def means_table(study: Study) -> Table:
    """The main table: a group per panel, a row per label with the paper's numbers below ours; controls last."""
    cited = study.paper.sources
    measures, name = [*study.measures, UNPARSED], study.sweep.reproduces or "arm"
    rows: list[dict[str, str]] = []
    for panel, label, arm, heading in shown_rows(study):
        count = len(study.seed_values(arm, study.measures[0]))
        lacking = f" ({count} of {len(study.seeds)} seeds)" if 0 < count < len(study.seeds) else ""
        own = {measure: plus_minus(study.mean(arm, measure)) for measure in measures}
        rows.append({"group": heading, name: label + lacking, **own})
        numbers = {measure: study.paper.value(panel, label, measure) for measure in measures}
        if any(numbers.values()):
            published = {measure: published_cell(number, cited) for measure, number in numbers.items()}
            rows.append({"group": heading, name: f"*{label}, MM1*", **published})
    majority = {measure: study.majority(measure) for measure in study.measures}
    if any(value is not None for value in majority.values()):
        cells = {measure: "" if value is None else as_text(value) for measure, value in majority.items()}
        rows.append({"group": CONTROLS, name: "majority answer", **cells, UNPARSED: ""})
    notes = [*notes_of(study), *benchmark_notes(study), *references(cited)]
    return Table(title(study), pd.DataFrame(rows), notes, group="group")


def content_table(study: Study) -> Table:
    """The means with captions scored by content, a row per arm with scores and a column per measure."""
    columns = {measure.removeprefix(f"{CONTENT} "): measure for measure in study.content_measures}
    note = "In place of CIDEr, which rewards the references' wording: F1 over what captions say, in any wording."
    return Table("Captions by content", _means_by_arm(study, columns), [note])


def _means_by_arm(study: Study, columns: Mapping[str, str]) -> pd.DataFrame:
    """A row per arm with scores, one for arms that are the same trials; `columns` are measures by heading."""
    arms = [arm for arm in study.scored if study.representative(arm) == arm]
    means = {head: [plus_minus(study.mean(arm, measure)) for arm in arms] for head, measure in columns.items()}
    return pd.DataFrame({"arm": arms} | means)


def short_table(study: Study) -> Table:
    """The table printed at the end of a run: a row per arm with the means of chat, by shots, and of text."""
    columns = [measure for measure in study.measures if measure == CHAT]
    columns += sorted(study.averages, key=lambda name: name == TEXT_CORE)
    return Table(title(study), _means_by_arm(study, {measure: measure for measure in columns}), notes_of(study))


def short_claims(claims: pd.DataFrame) -> Table:
    """The claims printed at the end of a run: estimate with interval and verdict; notes say why any are not judged."""
    records = claims.to_dict("records")
    said = any(estimate_in(one, "content") for one in records)
    rows = [
        {"claim": one["claim"], "estimate": estimate(one)}
        | ({"by content": estimate_in(one, "content")} if said else {})
        | {"verdict": "not judged" if one.get("aside") else claim_cell(one | {"reason": ""})}
        for one in records
    ]
    asides, reasons = (dict.fromkeys(filter(None, (one.get(key) for one in records))) for key in ("aside", "reason"))
    notes = [f"Not judged: {reason}." for reason in asides | reasons]
    if any(row["verdict"].startswith("lesson") for row in rows):
        notes.append("Lessons, judged with correction for their number: `lessons.md`, by `mm1-lab figures`.")
    return Table("Claims: differences in points with their 95 % intervals", pd.DataFrame(rows), notes)


OTHER_DOCUMENTS = (
    "With five views per picture, fewer of the held-out documents fit a row: these arms' losses are those of other, "
    "shorter documents and not comparable with the others."
)


def losses_table(study: Study) -> Table:
    """Held-out losses with a row per arm and a column per source: means over seeds ± half their 95 % interval."""
    each = study.held_out.groupby(["arm", "source"], sort=False)["loss"].agg(list).unstack("source", sort=False)
    cells = each.reindex(study.scored).map(lambda losses: _loss(losses) if isinstance(losses, list) else MISSING)
    several = ", ± half the 95 % interval over seeds" if len(study.seeds) > 1 else ""
    title = f"Held-out loss, nats per text token{several}"
    views = {recipe.sft.views if recipe.sft else 1 for recipe in study.sweep.arms.values()}
    notes = [OTHER_DOCUMENTS] if len(views) > 1 else []
    return Table(title, cells.rename_axis("arm").reset_index().rename_axis(columns=None), notes)


def _loss(values: list[float]) -> str:
    point = one_sample(values)
    return f"{point.estimate:.3f} ± {point.half_width:.3f}" if point else f"{values[0]:.3f}"


def claims_table(study: Study, claims: pd.DataFrame) -> Table:
    """The table of the claims of the sweep's file with their verdicts."""
    cited = cited_in(claims)
    over_seeds = bool((claims["interval"] == "seeds").any())
    said = bool(claims["content"].notna().any())
    records, rows = claims.to_dict("records"), []
    needs = ["" if one.get("aside") or one.get("of_lesson") else seeds_cell(one) for one in records]
    for one, seeds in zip(records, needs, strict=True):
        row = {"claim": one["claim"], "difference": one["detail"] + " ‡" * one["mixes_machines"]}
        row |= {"expected": one["expectation"], "estimate": estimate(one)}
        row |= {"by content": estimate_in(one, "content")} if said else {}
        if over_seeds:
            row |= {"over questions": bounds(one["low_questions"], one["high_questions"])}
            row |= {"detectable": as_text(one["smallest_difference"])}
            row |= {"seeds needed": seeds} if any(needs) else {}
        rows.append(row | {"MM1": paper_cell(one, cited), "verdict": claim_cell(one)})
    notes = _claims_notes(study, claims, needs_seeds=any(needs))
    return Table(title(study), pd.DataFrame(rows), [*notes, *references(cited)])


def _claims_notes(study: Study, claims: pd.DataFrame, needs_seeds: bool) -> list[str]:
    """Below the table of claims; `needs_seeds`: it has a column of the seeds that undecided claims need."""
    said = bool(claims["content"].notna().any())
    notes = ["Points; 95 % intervals over questions, conditional on these models.", *remarks(study)]
    if (claims["interval"] == "seeds").any():
        notes[0] = "Points; 95 % t intervals of differences formed within each seed."
        if (claims["interval"] == "questions").any():
            notes[0] += " At one seed: over questions, conditional on these models, and no verdict."
        if looks := reached_text(study):
            notes.insert(
                1,
                f"Judged look by look as seeds are added: {looks}. The 5 % are spent over looks; intervals and "
                "*seeds needed* are those of a single look.",
            )
        both = ", by wording and by content as lessons are" if said else ""
        notes.append(
            "A claim that is the part of a lesson has its verdict there, corrected for multiple testing: `lessons.md`. "
            f"Every other one is judged individually at 5 %, uncorrected{both}. A pair's variance over seeds is shrunk "
            "towards the pool of the other arms (limma). Directions are tested two-sided, equivalence by two one-sided "
            "tests against its margin, *keeps* (≥) by one. *Detectable*: the true difference that is found with 80 % "
            "power. *Over questions*: the 95 % interval for other questions to the same models."
            + " *Seeds needed*: how many decide a claim with 80 % power if the true difference is the estimate."
            * needs_seeds
        )
    if said:
        notes.append(
            "Captions are scored by CIDEr, which rewards wording; *by content*: the same difference with F1 over what "
            "captions say. A verdict needs both. The other columns are by CIDEr."
        )
    if claims["mixes_machines"].any():
        notes.append("‡ At some seed the arms were scored on different machines or with different libraries.")
    return notes


def floor_tables(claims: pd.DataFrame, floor: Sequence[str]) -> list[Table]:
    """The differences that kinds of question on the floor move, without them; no table if there are none."""
    said = bool(claims["content"].notna().any())
    rows = [
        {"claim": one["claim"], "all kinds": estimate(one), "without kinds on the floor": floorless(one)}
        | ({"without them, by content": estimate_in(one, "content_without_floor")} if said else {})
        for one in claims.to_dict("records")
        if floorless(one)
    ]
    note = (
        f"Kinds on the floor are those that a decoder fails in words by the scale's last check (`gates.md`): "
        f"{', '.join(floor)}. Verdicts are by all kinds."
    )
    return [Table("Without kinds on the floor", pd.DataFrame(rows), [note])] if rows else []


def experts_table(frame: pd.DataFrame) -> Table:
    """Means over seeds of `experts`, with a row per arm and layer."""
    means = frame.groupby(["arm", "layer", "experts"], sort=False)[list(EXPERTS)].mean().reset_index()
    note = (
        "At the end of training; layers with experts, from the first. If all experts are used alike, the busiest one's "
        "share is 1 / experts and the entropy log(experts); a router without doubt has an entropy of 0."
    )
    formats = {EXPERTS["busiest_expert"]: ".3f", EXPERTS["dead_experts"]: ".1f", EXPERTS["router_entropy"]: ".2f"}
    return Table("Experts", means.rename(columns=EXPERTS), [note], formats=formats)


def write_sweep_tables(
    study: Study, claims: pd.DataFrame, folder: Path, floor: Sequence[str] = ()
) -> tuple[list[Path], dict[str, list[Table]]]:
    """Writes benchmarks, sources, contrasts and the main table, `table.md` last; returns the files and the tables by
    their heading in the report. `floor` names the kinds of question on the floor that the sweep asks."""
    content = [content_table(study)] if study.content_measures else []
    tables = {"All scores": [means_table(study), *content, losses_table(study)]}
    frames = {"benchmarks": benchmarks(study), "sources": sources(study)}
    if len(used := experts(study)):
        tables["All scores"].append(experts_table(used))
        frames["experts"] = used
    written = [write_csv(frame, folder / f"{name}.csv") for name, frame in frames.items()]
    if len(claims):
        written.append(write_csv(claims, folder / "contrasts.csv"))
        tables = {"Claims of the sweep's file": [claims_table(study, claims), *floor_tables(claims, floor)]} | tables
        written += write_tables(folder / "contrasts", *tables["Claims of the sweep's file"])
    written.append(write_csv(means(study), folder / "table.csv"))
    return written + write_tables(folder / "table", *tables["All scores"]), tables


def title(study: Study) -> str:
    return ", ".join([f"{study.sweep.heading}: {study.setting}", *study.manifest.overrides])
