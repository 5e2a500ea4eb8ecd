"""Tables of a sweep: scores with the paper's numbers beside ours, losses and claims; for people, and as data (CSV)."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.paper import PaperNumber
from analysis.power import MOST_SEEDS
from analysis.statistics import Interval, one_sample
from analysis.study import UNPARSED, Study
from analysis.table import MISSING, Table, as_text, write_csv, write_tables
from mm1_lab.results.summary import TEXT_CORE, benchmark_scores

if TYPE_CHECKING:
    import pandas as pd

Row = Mapping[Hashable, Any]
"""A row of a frame of claims or lessons."""


def means(study: Study) -> pd.DataFrame:
    """A row per panel, label and measure, controls last: value, interval, seeds, and the paper's number if known."""
    import pandas as pd

    shown = [(key, label, arm) for key, panel in study.panels.items() for label, arm in panel.arms.items()]
    shown += [("other", arm, arm) for arm in study.others] + [("control", arm, arm) for arm in study.controls]
    rows = []
    for panel, label, arm in shown:
        for measure in (*study.measures, UNPARSED):
            point, number = study.mean(arm, measure), study.paper.value(panel, label, measure)
            row: dict[str, object] = {"panel": panel, "label": label, "arm": arm, "measure": measure}
            row |= {"value": point.estimate if point else None, "error": point.error if point else None}
            row |= {"low": point.low if point else None, "high": point.high if point else None}
            row |= {"seeds": len(study.seed_values(arm, measure)), "interval": study.uncertainty}
            row |= {"paper": number.value if number else None, "paper_bound": number.bound if number else None}
            rows.append(row | {"paper_source": number.source if number else None})
    return pd.DataFrame(rows)


def means_table(study: Study) -> Table:
    """The main table: a group per panel, a row per label, with the paper's numbers below ours; then controls."""
    import pandas as pd

    cited = list(dict.fromkeys(number.source for number in study.paper.values.values()))
    groups = {key: f"{key}  {panel.title}".strip() for key, panel in study.panels.items()}
    groups |= {"other": "Other arms", "control": "Controls"}
    measures, name = [*study.measures, UNPARSED], study.sweep.reproduces or "arm"
    rows: list[dict[str, str]] = []

    def add(panel: str, label: str, arm: str) -> None:
        count = len(study.seed_values(arm, study.measures[0]))
        lacking = f" ({count} of {len(study.seeds)} seeds)" if 0 < count < len(study.seeds) else ""
        own = {measure: plus_minus(study.mean(arm, measure)) for measure in measures}
        rows.append({"group": groups[panel], name: label + lacking} | own)
        numbers = {measure: study.paper.value(panel, label, measure) for measure in measures}
        known = {m: f"*{number}* [{cited.index(number.source) + 1}]" for m, number in numbers.items() if number}
        if known:
            rows.append({"group": groups[panel], name: f"*{label}, MM1*"} | dict.fromkeys(measures, "") | known)

    for key, panel in study.panels.items():
        for label, arm in panel.arms.items():
            add(key, label, arm)
    for key, arms in (("other", study.others), ("control", study.controls)):
        for arm in arms:
            add(key, arm, arm)
    majority = {measure: study.majority(measure) for measure in study.measures}
    if any(value is not None for value in majority.values()):
        cells = {m: "" if value is None else as_text(value) for m, value in majority.items()}
        rows.append({"group": "Controls", name: "majority answer"} | cells | {UNPARSED: ""})
    return Table(
        title(study), pd.DataFrame(rows), [*study.notes, *study.benchmark_notes, *references(cited)], group="group"
    )


def short_table(study: Study) -> Table:
    """A row per arm for the end of a run: the mean scores by number of shots and of text, with intervals."""
    import pandas as pd

    columns = sorted((measure for measure in study.measures if " " not in measure), key=lambda name: name == TEXT_CORE)
    rows = [
        {"arm": arm} | {measure: plus_minus(study.mean(arm, measure)) for measure in columns}
        for arm in study.sweep.arms
        if study.representative(arm) == arm
    ]
    return Table(title(study), pd.DataFrame(rows), study.notes)


def short_claims(claims: pd.DataFrame) -> Table:
    """The claims for the end of a run: estimate with interval, and verdict; why there is none, once."""
    import pandas as pd

    rows = [
        {"claim": one["claim"], "estimate": estimate(one), "verdict": one["verdict"]}
        for one in claims.to_dict("records")
    ]
    reasons = dict.fromkeys(reason for reason in claims["reason"] if reason)
    return Table(
        "Claims: differences in points with their 95 % intervals",
        pd.DataFrame(rows),
        [f"Not judged: {reason}." for reason in reasons],
    )


def losses_table(study: Study) -> Table:
    """A row per arm, a column per source: held-out losses, means over seeds, ± the standard error over them."""
    each = study.held_out.groupby(["arm", "source"], sort=False)["loss"].agg(list).unstack("source", sort=False)
    cells = each.reindex(study.scored).map(lambda losses: _loss(losses) if isinstance(losses, list) else MISSING)
    several = ", ± standard error over seeds" if len(study.seeds) > 1 else ""
    title = f"Held-out loss, nats per text token{several}"
    return Table(title, cells.rename_axis("arm").reset_index().rename_axis(columns=None))


def _loss(values: list[float]) -> str:
    point = one_sample(values)
    return f"{point.estimate:.3f} ± {point.error:.3f}" if point else f"{values[0]:.3f}"


def claims_table(study: Study, claims: pd.DataFrame) -> Table:
    """The claims of the sweep's file with their verdicts."""
    import pandas as pd

    cited = list(dict.fromkeys(source for source in claims["paper_source"] if source))
    over_seeds = bool((claims["interval"] == "seeds").any())
    rows = []
    for one in claims.to_dict("records"):
        row = {"claim": one["claim"], "difference": one["detail"] + " ‡" * one["mixes_machines"]}
        row |= {"expected": one["expectation"], "estimate": estimate(one)}
        if over_seeds:
            row |= {"over questions": _bounds(one["low_questions"], one["high_questions"])}
            row |= {"smallest seen": as_text(one["smallest_difference"]), "seeds needed": seeds_cell(one)}
        rows.append(row | {"MM1": paper_cell(one, cited), "verdict": verdict_cell(one)})
    notes = [*study.notes]
    if over_seeds:
        notes.append(
            "Each claim is judged by itself at 5 %, uncorrected; lessons, which are corrected for one another, stand "
            "in `lessons.md`. A pair's variance over seeds is moderated towards that of the other arms. A direction "
            "takes a two-sided test, equivalence two one-sided ones against its margin, *keeps* (≥) one against it. "
            "*Smallest seen*: the true difference that such a sweep finds four times out of five. *Over questions*: "
            "the 95 % interval for other questions to the same models. *Seeds needed*: how many decide an undecided "
            "claim four times out of five if the truth is as estimated."
        )
    if claims["mixes_machines"].any():
        notes.append("‡ The arms were scored on different machines or with different libraries.")
    return Table(title(study), pd.DataFrame(rows), [*notes, *references(cited)])


def plus_minus(point: Interval | None) -> str:
    """`44.5 ± 2.3`, with the half width of the 95 % interval."""
    return MISSING if point is None else f"{as_text(point.estimate)} ± {as_text(point.half_width)}"


def estimate(row: Row, digits: int = 1) -> str:
    """`+1.5 [−0.2, +3.2]` of a row of claims or lessons; without an interval where there is none."""
    bounds = f" {_bounds(row['low'], row['high'], digits)}" if row["low"] == row["low"] else ""
    return as_text(row["estimate"], f"+.{digits}f") + bounds


def _bounds(low: float, high: float, digits: int = 1) -> str:
    return MISSING if low != low else f"[{as_text(low, f'+.{digits}f')}, {as_text(high, f'+.{digits}f')}]"


def seeds_cell(row: Row) -> str:
    """Seeds that an undecided claim needs; empty where nothing is needed."""
    needed = row["seeds_needed"]
    return "" if needed != needed else f"> {MOST_SEEDS}" if np.isinf(needed) else f"{needed:.0f}"


def paper_cell(row: Row, sources: Sequence[str]) -> str:
    """`> 14.3 [2]`, as the paper or its source has it."""
    if row["paper"] != row["paper"]:
        return ""
    number = PaperNumber(row["paper"], row["paper_bound"], row["paper_source"])
    return f"{number} [{sources.index(number.source) + 1}]".replace("-", "−")


def verdict_cell(row: Row) -> str:
    """The verdict, and where there is none, why."""
    return f"**{row['verdict']}**" + f": {row['reason']}" * bool(row["reason"])


def scores(study: Study) -> pd.DataFrame:
    """Arm × seed × benchmark × shots: the score, and what share of the questions was answered in no proper form."""
    keys = ["arm", "seed", "benchmark", "family", "shots"]
    parsed = study.scores.groupby(keys, sort=False)["parsed"].agg(["size", "mean"]).reset_index()
    table = benchmark_scores(study.scores).merge(parsed, on=keys)
    unparsed = 100 * (1 - table["mean"])
    return table.assign(questions=table["size"], unparsed_percent=unparsed).drop(columns=["size", "mean"])


def benchmarks(study: Study) -> pd.DataFrame:
    """A row per arm, benchmark and number of shots: the mean over seeds of the mean over questions.

    `error` is the standard error over seeds, or with one seed over blocks of questions, as `error_over` says.
    """
    keys = ["arm", "benchmark", "family", "shots"]
    each = benchmark_scores(study.scores).groupby(keys, sort=False)["score"].agg(["mean", "min", "max", "count", "sem"])
    table = each.set_axis(["score", "lowest_seed", "highest_seed", "seeds", "error"], axis=1)
    blocks = study.scores.groupby([*keys, "block"], sort=False)["score"].mean().groupby(keys, sort=False).sem()
    single = table["seeds"] == 1
    table["error"] = table["error"].where(~single, blocks)
    table["error_over"] = single.map({True: "blocks of questions", False: "seeds"})
    unparsed = 100 * (1 - study.scores.groupby(keys, sort=False)["parsed"].mean())
    return table.assign(unparsed_percent=unparsed).reset_index()


def sources(study: Study) -> pd.DataFrame:
    """A row per arm, seed and source: held-out loss, and the text and image tokens and epochs of its training."""
    trained = [study.records[name]["summaries"].get("multimodal", {}) for name in study.held_out["fingerprint"]]
    known = list(zip(trained, study.held_out["source"], strict=True))
    counts = {
        name: [summary.get(name, {}).get(source, 0) for summary, source in known] for name in ("tokens", "epochs")
    }
    return study.held_out.drop(columns="fingerprint").assign(**counts)


def write_sweep_tables(study: Study, claims: pd.DataFrame, folder: Path) -> list[Path]:
    """Writes benchmarks, sources, contrasts and the main table; `table.md` last."""
    written = [
        write_csv(benchmarks(study), folder / "benchmarks.csv"),
        write_csv(sources(study), folder / "sources.csv"),
    ]
    if len(claims):
        written.append(write_csv(claims, folder / "contrasts.csv"))
        written += write_tables(folder / "contrasts", claims_table(study, claims))
    written.append(write_csv(means(study), folder / "table.csv"))
    return written + write_tables(folder / "table", means_table(study), losses_table(study))


def references(sources: Sequence[str]) -> list[str]:
    """Notes for `[1]`, `[2]`, …, the sources of the paper's numbers."""
    return [f"[{number}] {source}" for number, source in enumerate(sources, 1)]


def title(study: Study) -> str:
    manifest = study.variant.manifest
    data = f"data {manifest.data_name}" if manifest.data_name != "world" else ""
    return ", ".join(filter(None, [f"{study.sweep.heading}: scale {manifest.scale}", data, *manifest.overrides]))
