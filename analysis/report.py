"""The report: one HTML file that needs nothing else, light and dark, for a desk, a phone or a keyboard alone."""

from __future__ import annotations

import base64
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.document import Document, Section, to_html
from analysis.effects import UNSET, levels_of
from analysis.lesson_tables import estimate_cell, expected, lesson_notes, seeds_text, tally
from analysis.lessons import LAW
from analysis.overview import Drawn, Group, cost_text, group_sweeps
from analysis.paper import PaperNumber
from analysis.table import environment
from analysis.tables import seeds_cell
from mm1_lab.config import Sweep
from mm1_lab.results.files import write_text

if TYPE_CHECKING:
    import pandas as pd

TITLE = "What matters in a multimodal model"
FIGURES = {"figure": "Scores of the arms", "contrasts": "Contrasts of the sweep's file with their intervals"}
"""Figures with words of their own for those who cannot see them; every number stands in a table too."""


def write_report(results: Path, drawn: Sequence[Drawn]) -> Path:
    """Writes `report.html` into the results folder, from sweeps that were just drawn."""
    groups = group_sweeps(results, drawn)
    text = (
        environment()
        .get_template("report.html.jinja")
        .render(
            title=TITLE,
            groups=[_group(results, group) for group in groups],
            machines=_table(_machines(drawn)),
            commands=[one.command for one in drawn],
            trials=_table(_trials(drawn)),
            samples=[sample for one in drawn for sample in one.samples],
        )
    )
    path = results / "report.html"
    write_text(path, text)
    return path


def _group(results: Path, group: Group) -> dict[str, Any]:
    left, right = _reach(group.lessons)
    axes = results / group.scale / f"axes{group.suffix}.png"
    return {
        "id": _id(f"lessons {group.name}"),
        "name": group.name,
        "tally": tally(group.lessons),
        "reach": f"{left:.0f} to {right:.0f}".replace("-", "−"),
        "lessons": [_lesson(one, left, right) for one in group.lessons.to_dict("records")],
        "notes": " ".join(_plain(note) for note in lesson_notes(group.lessons)),
        "axes": _sections(group.axes_document.sections) if group.axes is not None else "",
        "axes_figure": _embedded(axes) if group.axes is not None else "",
        "sweeps": [_sweep(one, group) for one in group.drawn],
    }


def _lesson(one: Mapping[Hashable, Any], left: float, right: float) -> dict[str, Any]:
    known = one["paper"] == one["paper"]
    return {
        "claim": one["claim"] + " (ours)" * (one["by"] == "ours"),
        "paper": one["paper_says"],
        "section": one["section"],
        "contrast": one["detail"] if isinstance(one["detail"], str) else "",
        "plot": _markup(_interval(one, left, right)),
        "estimate": estimate_cell(one),
        "known": str(PaperNumber(one["paper"], one["paper_bound"], one["paper_source"])) if known else "",
        "seeds": seeds_text(one),
        "css": one["verdict"].partition(",")[0].replace(" ", "-"),
        "verdict": one["verdict"],
        "needed": f"{seeds_cell(one)} seeds would tell" if seeds_cell(one) else one["reason"],
    }


def _reach(lessons: pd.DataFrame) -> tuple[float, float]:
    """The ends of the interval plots' common axis, in points."""
    known = lessons[lessons["sweep"] != LAW][["low", "high", "paper"]].to_numpy(float)
    ends = [0.0, 1.0, -1.0, *(float(end) for end in known[np.isfinite(known)])]
    reach = 0.05 * (max(ends) - min(ends))
    return min(ends) - reach, max(ends) + reach


def _interval(one: Mapping[Hashable, Any], left: float, right: float) -> str:
    """A small plot on an axis of 200 units; nothing for what has no interval in points."""
    if one["low"] != one["low"] or one["sweep"] == LAW:
        return ""

    def x(points: float) -> float:
        return round(200 * (min(max(points, left), right) - left) / (right - left), 1)

    margin = one["margin"]
    region = {"greater": (margin, right), "less": (left, -margin), "keeps": (-margin, right)}
    low, high = region.get(one["expect"], (-margin, margin))
    words = f"{one['estimate']:+.1f}, from {one['low']:+.1f} to {one['high']:+.1f} points; claim: {expected(one)}"
    parts = [
        f'<svg class="interval {one["verdict"].partition(",")[0].replace(" ", "-")}" viewBox="0 0 200 24" role="img" '
        f'aria-label="{words.replace("<", "below ").replace(">", "above ")}">',
        f'<rect class="region" x="{x(low)}" y="2" width="{round(x(high) - x(low), 1)}" height="20"/>',
        f'<line class="zero" x1="{x(0)}" x2="{x(0)}" y1="0" y2="24"/>',
        f'<line class="line" x1="{x(one["low"])}" x2="{x(one["high"])}" y1="12" y2="12"/>',
        f'<circle class="dot" cx="{x(one["estimate"])}" cy="12" r="4"/>',
    ]
    if one["paper"] == one["paper"]:
        at = x(one["paper"])
        parts.append(f'<path class="paper" d="M{at} 7 l5 5 l-5 5 l-5 -5 z"/>')
    return "".join([*parts, "</svg>"])


def _sweep(one: Drawn, group: Group) -> dict[str, Any]:
    sweep = one.manifest.sweep
    figures = [path for path in one.files if path.suffix == ".png" and path.stem != "predictions"]
    alt = "{}: {}; the numbers stand in the tables below"
    return {
        "id": _id(f"{sweep.name} {group.name}"),
        "title": sweep.title,
        "question": _question(sweep),
        "reproduces": sweep.reproduces,
        "seeds": ", ".join(map(str, sorted({run.seed for run in one.runs}))),
        "cost": cost_text(one.cost),
        "missing": ", ".join(one.missing),
        "figures": [
            {"alt": alt.format(FIGURES.get(path.stem, path.stem), sweep.title), "data": _embedded(path)}
            for path in figures
        ],
        "documents": [_document(name, document) for name, document in one.documents.items()],
        "samples": one.samples,
    }


def _question(sweep: Sweep) -> str:
    unsaid = ("images", "frozen", "encoder schedule")
    levels = levels_of(sweep.base).items()
    base = ", ".join(f"{axis} {level}" for axis, level in levels if axis not in unsaid and level != UNSET)
    axis = sweep.axis.replace("_", " ")
    return f"What changes with the {axis}? {len(sweep.arms)} arms, each a change to the base: {base}."


def _document(name: str, document: Document) -> dict[str, Any]:
    return {
        "name": name,
        "remarks": [_plain(remark) for remark in document.remarks],
        "sections": [{"title": section.title, "table": _table(section)} for section in document.sections],
        "notes": [_plain(note) for note in document.notes],
        "sources": document.sources,
    }


def _machines(drawn: Iterable[Drawn]) -> Section:
    """A row for every combination of commit, machine and versions that made scores."""
    found: dict[tuple[str, ...], list[str]] = {}
    for one in drawn:
        for run in one.runs:
            place = f"{one.manifest.variant} at {one.manifest.scale}"
            found.setdefault((place, run.commit, run.processor, run.versions), []).append(run.date)
    rows = [
        [place, str(len(dates)), f"{min(dates)} – {max(dates)}", commit, processor, versions]
        for (place, commit, processor, versions), dates in found.items()
    ]
    words = ["dates", "commit", "processor", "versions"]
    return Section("How it was run", ["sweep", "trials", *words], rows, words)


def _trials(drawn: Iterable[Drawn]) -> Section:
    rows = [
        [
            f"{run.arm} / seed {run.seed}",
            f"{one.manifest.variant} at {one.manifest.scale}",
            run.fingerprint,
            f"{run.seconds:.0f}",
        ]
        for one in drawn
        for run in one.runs
    ]
    return Section("Trials", ["trial", "sweep", "fingerprint", "seconds"], rows, ["sweep", "fingerprint"])


def _sections(sections: Iterable[Section]) -> Any:
    return _markup("\n".join(to_html(section) for section in sections))


def _table(section: Section) -> Any:
    return _markup(to_html(section))


def _markup(text: str) -> Any:
    from markupsafe import Markup

    return Markup(text)


def _plain(text: str) -> str:
    return re.sub(r"[*`]+", "", text)


def _embedded(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def _id(name: str) -> str:
    return re.sub(r"\W+", "-", name.lower()).strip("-")
