"""Tables of a sweep, as CSV for programs, Markdown for people and LaTeX for papers; the paper's numbers beside ours."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.document import HOLE, Document, Section, to_latex, to_markdown
from analysis.paper import PaperNumber
from analysis.power import MOST_SEEDS
from analysis.statistics import Interval, one_sample
from analysis.study import UNPARSED, Study
from mm1_lab.results.files import write_text
from mm1_lab.results.summary import benchmark_scores

if TYPE_CHECKING:
    import pandas as pd


def means(study: Study) -> pd.DataFrame:
    """A row a panel, label and measure, controls last: value, interval, seeds, and the paper's number if known."""
    import pandas as pd

    rows = []
    for panel, label, arm in _entries(study):
        for measure in study.measures:
            point, number = study.mean(arm, measure), study.paper.value(panel, label, measure)
            rows.append(
                {
                    "panel": panel,
                    "label": label,
                    "arm": arm,
                    "measure": measure,
                    "value": point.estimate if point else None,
                    "error": point.error if point else None,
                    "low": point.low if point else None,
                    "high": point.high if point else None,
                    "seeds": len(study.seed_values(arm, measure)),
                    "interval": study.uncertainty,
                    "paper": number.value if number else None,
                    "paper_bound": number.bound if number else None,
                    "paper_source": number.source if number else None,
                }
            )
    return pd.DataFrame(rows)


def _entries(study: Study) -> list[tuple[str, str, str]]:
    """(panel, label, arm) of every row of the main table."""
    shown = [(key, label, arm) for key, panel in study.panels.items() for label, arm in panel.arms.items()]
    return shown + [("control", arm, arm) for arm in study.others]


def means_document(study: Study) -> Document:
    """The main table: a section a panel, a row a label, with the paper's numbers below ours; controls; losses."""
    columns = [*study.measures, UNPARSED]
    cited = list(dict.fromkeys(number.source for number in study.paper.values.values()))
    sections = []
    for key, panel in study.panels.items():
        rows = []
        for label, arm in panel.arms.items():
            rows.append([label + _lacking(study, arm), *(cell(study.mean(arm, measure)) for measure in columns)])
            numbers = [study.paper.value(key, label, measure) for measure in study.measures]
            if any(numbers):
                known = [f"*{n}* [{cited.index(n.source) + 1}]" if n else "" for n in numbers]
                rows.append([f"*{label}, MM1*", *known, ""])
        sections.append(Section(f"{key}  {panel.title}".strip(), [study.sweep.reproduces or "arm", *columns], rows))
    controls = [[arm + _lacking(study, arm), *(cell(study.mean(arm, m)) for m in columns)] for arm in study.others]
    majority = [study.majority(measure) for measure in study.measures]
    if any(value is not None for value in majority):
        controls.append(["majority answer", *("" if value is None else f"{value:.1f}" for value in majority), ""])
    if controls:
        sections.append(Section("Controls", ["", *columns], controls))
    sections.append(_losses(study))
    remarks = [f"Points; ± {study.uncertainty_note}.", *_holes(study)]
    return Document(title(study), remarks, sections, sources=cited)


def _lacking(study: Study, arm: str) -> str:
    """` (2 of 3 seeds)` where an arm lacks some of the sweep's seeds."""
    have = len(study.seed_values(arm, study.measures[0]))
    return f" ({have} of {len(study.seeds)} seeds)" if 0 < have < len(study.seeds) else ""


def cell(point: Interval | None) -> str:
    """`44.5 ± 2.3`, with the half width of the 95 % interval."""
    return HOLE if point is None else f"{point.estimate:.1f} ± {point.half_width:.1f}"


def estimate(row: Mapping[Hashable, Any], digits: int = 1) -> str:
    """`+1.5 [−0.2, +3.2]` of a row of claims or lessons."""
    if row["estimate"] != row["estimate"]:
        return HOLE
    return f"{row['estimate']:+.{digits}f} {_bounds(row['low'], row['high'], digits)}".replace("-", "−")


def contrasts_document(study: Study, claims: pd.DataFrame) -> Document:
    """The claims of the sweep's file with their verdicts."""
    sources = list(dict.fromkeys(source for source in claims["paper_source"] if source))
    over_seeds = bool((claims["interval"] == "seeds").any())
    rows = []
    for one in claims.to_dict("records"):
        row = [one["claim"], one["detail"] + " ‡" * one["mixes_machines"], one["expectation"], estimate(one)]
        row += [_bounds(one["low_questions"], one["high_questions"])] if over_seeds else []
        smallest = one["smallest_difference"]
        row += [HOLE if smallest != smallest else f"{smallest:.1f}", seeds_cell(one)] if over_seeds else []
        reason = f": {one['reason']}" if one["reason"] else ""
        rows.append([*row, paper_cell(one, sources), f"**{one['verdict']}**{reason}"])
    head = ["claim", "difference", "expected", "estimate", *(["over questions"] if over_seeds else [])]
    head += [*(["smallest seen", "seeds needed"] if over_seeds else []), "MM1", "verdict"]
    section = Section("", head, rows, ["difference", "expected", "verdict"])
    remarks = [f"Points; {study.uncertainty_note}.", *_holes(study)]
    return Document(title(study), remarks, [section], _contrast_notes(rows, over_seeds), sources)


def _contrast_notes(rows: Sequence[Sequence[str]], over_seeds: bool) -> list[str]:
    notes = [
        "Each claim is judged by itself at 5 %, uncorrected; lessons, which are corrected for one another, stand in "
        "`lessons.md`. A pair's variance over seeds is moderated towards that of the other arms. A direction takes a "
        "two-sided test, equivalence two one-sided ones against the margin, *keeps* (≥) one against the margin.",
    ]
    if over_seeds:
        notes.append(
            "*Over questions*: the 95 % interval for other questions to the same models, conditional on these models. "
            "*Smallest seen*: the true difference that such a sweep finds four times out of five. *Seeds needed*: of "
            "an undecided claim, seeds that decide it four times out of five if the truth is as estimated."
        )
    else:
        notes.append(
            "With one seed nothing is known about models trained from other seeds; how many would be needed cannot be "
            "told either. Two seeds or more (`--seeds 3`) give intervals over seeds."
        )
    if "‡" in str(rows):
        notes.append("‡ The arms were scored on different machines or with different libraries.")
    return notes


def _bounds(low: float, high: float, digits: int = 1) -> str:
    return HOLE if low != low else f"[{low:+.{digits}f}, {high:+.{digits}f}]".replace("-", "−")


def seeds_cell(row: Mapping[Hashable, Any]) -> str:
    """Of an undecided claim; empty where nothing is needed."""
    needed = row["seeds_needed"]
    return "" if needed != needed else f"> {MOST_SEEDS}" if np.isinf(needed) else f"{needed:.0f}"


def paper_cell(row: Mapping[Hashable, Any], sources: Sequence[str]) -> str:
    """`> 14.3 [2]`, as the paper or its source has it."""
    value, source = row["paper"], row["paper_source"]
    if value != value:
        return ""
    return f"{PaperNumber(value, row['paper_bound'], source)} [{sources.index(source) + 1}]".replace("-", "−")


def benchmarks(study: Study) -> pd.DataFrame:
    """A row an arm, benchmark and number of shots: the mean over seeds of the mean over questions.

    `error` is the standard error over seeds, or with one seed over blocks of questions, as `error_over` says.
    """
    keys = ["arm", "benchmark", "family", "shots"]
    each = benchmark_scores(study.scores).groupby(keys, sort=False)["score"].agg(["mean", "min", "max", "count", "sem"])
    table = each.set_axis(["score", "lowest_seed", "highest_seed", "seeds", "error"], axis=1)
    blocks = study.scores.groupby([*keys, "block"], sort=False)["score"].mean().groupby(keys, sort=False).sem()
    single = table["seeds"] == 1
    table["error"] = table["error"].where(~single, blocks)
    table["error_over"] = single.map({True: "blocks of questions", False: "seeds"})
    return table.assign(
        unparsed_percent=100 * (1 - study.scores.groupby(keys, sort=False)["parsed"].mean())
    ).reset_index()


def sources(study: Study) -> pd.DataFrame:
    """A row an arm, seed and source: held-out loss, and the text and image tokens and epochs of its training."""
    table = study.held_out.copy()
    trained = [study.records[fingerprint]["summaries"].get("multimodal", {}) for fingerprint in table["fingerprint"]]
    for name in ("tokens", "epochs"):
        known = zip(trained, table["source"], strict=True)
        table[name] = [summary.get(name, {}).get(source, 0) for summary, source in known]
    return table.drop(columns="fingerprint")


def _losses(study: Study) -> Section:
    """A row an arm, a column a source: held-out losses, means over seeds, ± the standard error over them."""
    names = [str(source) for source in study.held_out["source"].unique()]
    losses: dict[tuple[str, str], list[float]] = {}
    for arm, source, loss in zip(*(study.held_out[name].tolist() for name in ("arm", "source", "loss")), strict=True):
        losses.setdefault((arm, source), []).append(loss)
    rows = [[arm, *(_loss(losses.get((arm, source), [])) for source in names)] for arm in study.scored]
    several = " (± standard error over seeds)" if len(study.seeds) > 1 else ""
    return Section("Held-out loss", [f"nats a text token{several}", *names], rows)


def _loss(values: list[float]) -> str:
    point = one_sample(values)
    if point:
        return f"{point.estimate:.3f} ± {point.error:.3f}"
    return f"{values[0]:.3f}" if values else HOLE


def write_tables(study: Study, claims: pd.DataFrame, folder: Path) -> list[Path]:
    """Writes table, contrasts, benchmarks and sources; `table.md` last."""
    written = [
        write_csv(benchmarks(study), folder / "benchmarks.csv"),
        write_csv(sources(study), folder / "sources.csv"),
    ]
    if study.sweep.contrasts:
        written.append(write_csv(claims, folder / "contrasts.csv"))
        written += write_document(contrasts_document(study, claims), folder / "contrasts")
    written.append(write_csv(means(study), folder / "table.csv"))
    return written + write_document(means_document(study), folder / "table")


def write_csv(table: pd.DataFrame, path: Path) -> Path:
    """Numbers have six digits."""
    table.to_csv(path, index=False, float_format="%.6g", lineterminator="\n")
    return path


def write_document(document: Document, path: Path) -> list[Path]:
    """Writes `path` with the endings .tex and .md."""
    texts = {".tex": to_latex(document), ".md": to_markdown(document)}
    for ending, text in texts.items():
        write_text(path.with_name(path.name + ending), text)
    return [path.with_name(path.name + ending) for ending in texts]


def title(study: Study) -> str:
    manifest = study.variant.manifest
    details = ", ".join([f"scale {manifest.scale}", f"data {manifest.data_name}", *manifest.overrides])
    return f"{study.sweep.heading}: {details}"


def _holes(study: Study) -> list[str]:
    missing = study.missing()
    return [f"Without scores: {', '.join(missing)}."] if missing else []
