"""Tables of a sweep, as CSV for programs and Markdown for people; the paper's known numbers stand beside ours."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.statistics import Interval
from analysis.study import Study
from mm1_lab.config import Contrast
from mm1_lab.results.files import write_text
from mm1_lab.results.summary import benchmark_scores

if TYPE_CHECKING:
    import pandas as pd

HOLE = "–"


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


def means_markdown(study: Study) -> str:
    """The main table: a section a panel, a row a label, with the paper's numbers below ours."""
    columns = [*study.measures, "unparsed %"]
    cited = list(dict.fromkeys(number.source for number in study.paper.values.values()))
    head = [study.sweep.reproduces, *columns]
    parts = [_title(study), f"Points; ± {study.uncertainty_note}.", *_holes(study)]
    for key, panel in study.panels.items():
        rows = []
        for label, arm in panel.arms.items():
            rows.append([label, *_cells(study, arm)])
            numbers = [study.paper.value(key, label, measure) for measure in study.measures]
            if any(numbers):
                known = [f"*{n}* [{cited.index(n.source) + 1}]" if n else "" for n in numbers]
                rows.append([f"*{label}, MM1*", *known, ""])
        parts += [f"## {key}  {panel.title}".replace("##   ", "## "), _markdown(head, rows)]
    controls = [[arm, *_cells(study, arm)] for arm in study.others]
    majority = [study.majority(measure) for measure in study.measures]
    if any(value is not None for value in majority):
        controls.append(["majority answer", *("" if value is None else f"{value:.1f}" for value in majority), ""])
    if controls:
        parts += ["## Controls", _markdown(["", *columns], controls)]
    parts += ["## Held-out loss", _losses_markdown(study)]
    if cited:
        parts += ["MM1's numbers, where they are known:", _numbered(cited)]
    return "\n\n".join(parts) + "\n"


def _numbered(sources: list[str]) -> str:
    return "\n".join(f"{place}. {source}" for place, source in enumerate(sources, 1))


def _cells(study: Study, arm: str) -> list[str]:
    unparsed = study.unparsed(arm)
    cells = [_cell(study.mean(arm, measure)) for measure in study.measures]
    return [*cells, HOLE if unparsed is None else f"{unparsed:.1f}"]


def _cell(point: Interval | None) -> str:
    if point is None:
        return HOLE
    return f"{point.estimate:.1f}" + ("" if point.half_width != point.half_width else f" ± {point.half_width:.1f}")


def contrasts(study: Study) -> pd.DataFrame:
    """A row a contrast: the claim, its difference with 95 and 90 % intervals, and the verdict."""
    import pandas as pd

    rows = []
    for contrast in study.sweep.contrasts:
        difference, verdict = study.verdict(contrast)
        number = study.paper_difference(contrast)
        rows.append(
            {
                **contrast.model_dump(),
                "difference": difference.estimate if difference else None,
                "low": difference.low if difference else None,
                "high": difference.high if difference else None,
                "low_90": difference.low_90 if difference else None,
                "high_90": difference.high_90 if difference else None,
                "verdict": verdict,
                "interval": study.uncertainty,
                "mixes_machines": study.mixes_machines(contrast),
                "paper": number.value if number else None,
                "paper_bound": number.bound if number else None,
                "paper_source": number.source if number else None,
            }
        )
    return pd.DataFrame(rows)


def contrasts_markdown(study: Study) -> str:
    """The claims with their verdicts."""
    rows = []
    numbers = [study.paper_difference(contrast) for contrast in study.sweep.contrasts]
    sources = list(dict.fromkeys(number.source for number in numbers if number))
    for contrast, number in zip(study.sweep.contrasts, numbers, strict=True):
        difference, verdict = study.verdict(contrast)
        interval = f"{difference.estimate:+.1f} [{difference.low:+.1f}, {difference.high:+.1f}]" if difference else HOLE
        known = f"{number} [{sources.index(number.source) + 1}]" if number else ""
        arms = f"{contrast.first} − {contrast.second}, {contrast.measure}" + " ‡" * study.mixes_machines(contrast)
        rows.append([contrast.claim, arms, _expectation(contrast), interval.replace("-", "−"), known, f"**{verdict}**"])
    notes = [
        "A claim is *supported* or *contradicted* when the whole interval lies on one side of what it says; "
        "equivalence is supported when two one-sided tests at 5 % reject a difference as large as the margin.",
    ]
    if "‡" in str(rows):
        notes.append("‡ The two arms were scored on different machines or with different libraries.")
    if sources:
        notes += ["MM1's differences, where they are known:", _numbered(sources)]
    head = ["claim", "difference", "expected", "estimate", "MM1", "verdict"]
    return "\n\n".join([_title(study), f"Points; {study.uncertainty_note}.", _markdown(head, rows), *notes]) + "\n"


def _expectation(contrast: Contrast) -> str:
    if contrast.expect == "equivalent":
        return f"within ± {contrast.margin:g}"
    sign = ">" if contrast.expect == "greater" else "< −"
    return f"{sign} {contrast.margin:g}".replace("< − 0", "< 0").replace("− ", "−")


def benchmarks(study: Study) -> pd.DataFrame:
    """A row an arm, benchmark and number of shots: the mean over seeds of the mean over questions."""
    keys = ["arm", "benchmark", "family", "shots"]
    each = benchmark_scores(study.scores).groupby(keys, sort=False)["score"].agg(["mean", "min", "max", "count"])
    unparsed = 100 * (1 - study.scores.groupby(keys, sort=False)["parsed"].mean())
    table = each.set_axis(["score", "lowest_seed", "highest_seed", "seeds"], axis=1).assign(unparsed_percent=unparsed)
    return table.reset_index()


def sources(study: Study) -> pd.DataFrame:
    """A row an arm, seed and source: held-out loss, and the text and image tokens and epochs of its training."""
    table = study.held_out.copy()
    trained = [study.records[fingerprint]["summaries"].get("multimodal", {}) for fingerprint in table["fingerprint"]]
    for name in ("tokens", "epochs"):
        known = zip(trained, table["source"], strict=True)
        table[name] = [summary.get(name, {}).get(source, 0) for summary, source in known]
    return table.drop(columns="fingerprint")


def _losses_markdown(study: Study) -> str:
    """A row an arm, a column a source: held-out losses, means over seeds."""
    losses = study.held_out.pivot_table(index="arm", columns="source", values="loss", sort=False)
    rows = [[arm, *(f"{loss:.3f}" for loss in losses.loc[arm])] for arm in study.scored]
    return _markdown(["nats a text token", *map(str, losses.columns)], rows)


def write_tables(study: Study, folder: Path) -> list[Path]:
    """Writes table, contrasts, benchmarks and sources; `table.md` last. Numbers in CSV files have six digits."""
    tables = {"table": means(study), "benchmarks": benchmarks(study), "sources": sources(study)}
    texts: dict[str, str] = {}
    if study.sweep.contrasts:
        tables["contrasts"], texts["contrasts"] = contrasts(study), contrasts_markdown(study)
    texts["table"] = means_markdown(study)
    written = []
    for name, table in tables.items():
        written.append(folder / f"{name}.csv")
        table.to_csv(written[-1], index=False, float_format="%.6g", lineterminator="\n")
    for name, text in texts.items():
        written.append(folder / f"{name}.md")
        write_text(written[-1], text)
    return written


def _title(study: Study) -> str:
    manifest = study.variant.manifest
    details = ", ".join([f"scale {manifest.scale}", f"data {manifest.data_name}", *manifest.overrides])
    return f"# {study.sweep.title} (MM1, {study.sweep.reproduces}): {details}"


def _holes(study: Study) -> list[str]:
    missing = study.missing()
    return [f"Without scores: {', '.join(missing)}."] if missing else []


def _markdown(head: list[str], rows: Iterable[list[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
