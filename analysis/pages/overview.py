"""The files about several sweeps: lessons, axes, measures and decision accuracy of each scale, a summary, a report."""

import base64
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from analysis.effects import UNSET, levels_of
from analysis.output import Output
from analysis.pages.axes import draw_axes
from analysis.pages.claims_figure import draw_claims, is_drawn
from analysis.pages.groups import Group
from analysis.pages.verdicts import lesson_notes, lessons_tables
from analysis.style import styled
from analysis.table import Table, environment, plain_markdown, to_markdown
from mm1_lab.config import Recipe, SftRecipe, Sweep
from mm1_lab.files import write_text

ALWAYS_TOLD = {
    "encoder size",
    "encoder loss",
    "encoder data",
    "resolution",
    "connector",
    "image tokens",
    "decoder",
    "data mix",
    "synthetic captions",
    "steps",
    "learning rate",
    "sft resolution",
    "sft steps",
}
"""Axes of which the report gives the base's level even if it is the usual one."""


@styled()
def write_overview(out: Path, groups: Sequence[Group], latex: bool, left_out: Sequence[str]) -> list[Path]:
    """Writes the files of each scale to its folder, and `summary.md`, to read on a code host: own sweeps, then lessons
    and the sweeps they are about. `left_out`: a line for each sweep without scores. Returns all files."""
    written = []
    for group in groups:
        output = Output(out / group.scale, group.suffix, latex)
        if group.has_lessons:
            title = f"The paper's lessons at {group.name}"
            output.csv("lessons", group.lessons)
            output.csv("lesson_parts", group.parts)
            verdicts = group.lessons.set_index("lesson")["verdict"]
            for one in group.of_lessons:
                if len(one.contrasts):
                    own = one.contrasts["of_lesson"].map(verdicts).fillna("")
                    Output(one.folder).csv("contrasts", one.contrasts.assign(lesson_verdict=own))
            output.tables("lessons", *lessons_tables(group.lessons, group.parts, title))
            if is_drawn(group.lessons, group.scale):
                output.figure("lessons", draw_claims(group.lessons, title, group.caution))
        tables = group.tables
        for name, table in tables.items():
            output.tables(name, table)
        if "axes" in tables:
            output.csv("axes", group.levels)
        if group.has_axes_figure:
            output.figure("axes", draw_axes(group.levels, tables["axes"].title, group.caution))
        if "decision_accuracy" in tables:
            output.csv("decision_accuracy", group.accuracy)
        # there may have been lessons of the user's own, and other sweeps
        output.remove("lessons", "lesson_parts", "axes", "measures", "decision_accuracy")
        written += output.files
    templates = environment()
    templates.filters |= {"markdown": _markdown, "plain": plain_markdown}
    text = templates.get_template("summary.md.jinja").render(groups=groups, left_out=left_out)
    path = out / "summary.md"
    write_text(path, f"{text}\n")
    return [*written, path]


def _markdown(table: Table) -> str:
    """The table without its title."""
    return to_markdown(replace(table, title="")).rstrip()


def write_report(out: Path, groups: Sequence[Group], left_out: Sequence[str]) -> Path:
    """Writes `report.html` to `out`, from sweeps that have just been drawn there: one self-contained file."""
    drawn = [one for group in groups for one in group.drawn]
    templates = environment()
    templates.filters |= {"id": _id, "question": _question, "picture": _picture, "lesson_notes": lesson_notes}
    text = templates.get_template("report.html.jinja").render(groups=groups, folder=out, drawn=drawn, left_out=left_out)
    path = out / "report.html"
    write_text(path, text)
    return path


def _picture(path: Path) -> str:
    """The PNG file for embedding; empty if there is none."""
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}" if path.exists() else ""


def _question(sweep: Sweep) -> str:
    usual = levels_of(Recipe(sft=SftRecipe()))
    told = []
    for axis, level in levels_of(sweep.base).items():
        if level != UNSET and (axis in ALWAYS_TOLD or level != usual.get(axis)):
            told.append(f"{axis} {level}")
    base = ", ".join(told)
    return f"{len(sweep.arms)} arms, each a change to the base: {base}."


def _id(name: str) -> str:
    return re.sub(r"\W+", "-", name.lower()).strip("-")
