"""The report: one self-contained HTML file, in light and dark, for large and small screens and keyboard navigation."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.effects import UNSET, levels_of
from analysis.pages.lesson_tables import lesson_notes, short_lessons
from analysis.pages.overview import Drawn, Group
from analysis.table import Table, environment
from mm1_lab.config import Sweep
from mm1_lab.files import write_text
from mm1_lab.results.samples import data_uri

TITLE = "What matters in a multimodal model"
FIGURES = {"figure": "Scores of the arms", "contrasts": "Claims of the sweep's file with their intervals"}
"""Alternative texts of figures; every number is also in a table."""


def write_report(results: Path, groups: Sequence[Group]) -> Path:
    """Writes `report.html` to the results folder, from sweeps that have just been drawn."""
    drawn = [one for group in groups for one in group.drawn]
    text = environment().get_template("report.html.jinja").render(
        title=TITLE,
        groups=[_group(results, group) for group in groups],
        machines=_machines(drawn),
        commands=[one.command for one in drawn],
        trials=_trials(drawn),
        samples=[sample for one in drawn for sample in one.samples],
    )  # fmt: skip
    path = results / "report.html"
    write_text(path, text)
    return path


def _group(results: Path, group: Group) -> dict[str, Any]:
    folder = results / group.scale
    pictures = {name: folder / f"{name}{group.suffix}.png" for name in ("axes", "lessons")}
    cautions = {one.caution for one in group.drawn}
    return {
        "id": _id(f"lessons {group.name}"),
        "name": group.name,
        "opening": group.opening,
        "caution": cautions.pop() if len(cautions) == 1 else "",
        "figures": {name: data_uri(path) if path.exists() else "" for name, path in pictures.items()},
        "axes": group.axes_tables,
        "accuracy": group.accuracy_table,
        "lessons": short_lessons(group.lessons, group.lessons_title),
        "notes": lesson_notes(group.lessons),
        "sweeps": [_sweep(one, group) for one in group.drawn],
    }


def _sweep(one: Drawn, group: Group) -> dict[str, Any]:
    sweep = one.manifest.sweep
    figures = [path for path in one.files if path.suffix == ".png" and path.stem != "predictions"]
    return {
        "id": _id(f"{sweep.name} {group.name}"),
        "title": sweep.title,
        "question": _question(sweep),
        "reproduces": sweep.reproduces,
        "caution": one.caution,
        "seeds": ", ".join(map(str, sorted(set(one.runs["seed"])))),
        "cost": one.cost,
        "missing": ", ".join(one.missing),
        "figures": {
            f"{FIGURES.get(p.stem, p.stem)}: {sweep.title}; the numbers are in the tables": data_uri(p) for p in figures
        },
        "tables": one.tables,
        "samples": one.samples,
    }


def _question(sweep: Sweep) -> str:
    unsaid = ("images", "frozen", "encoder schedule")
    levels = levels_of(sweep.base).items()
    base = ", ".join(f"{axis} {level}" for axis, level in levels if axis not in unsaid and level != UNSET)
    return f"{len(sweep.arms)} arms, each a change to the base: {base}."


def _machines(drawn: Sequence[Drawn]) -> Table:
    """A row for every combination of commit, machine and library versions that produced scores."""
    keys = ["sweep", "commit", "processor", "versions"]
    dates = _runs(drawn).groupby(keys, sort=False)["date"].agg(["count", "min", "max"]).reset_index()
    dates["dates"] = dates["min"] + " – " + dates["max"]
    return Table("How it was run", dates.rename(columns={"count": "trials"})[["sweep", "trials", "dates", *keys[1:]]])


def _trials(drawn: Sequence[Drawn]) -> Table:
    runs = _runs(drawn)
    runs["trial"] = runs["arm"] + " / seed " + runs["seed"].astype(str)
    return Table("Trials", runs[["trial", "sweep", "fingerprint", "seconds"]], formats={"seconds": ".0f"})


def _runs(drawn: Sequence[Drawn]) -> pd.DataFrame:
    runs = [one.runs.assign(sweep=f"{one.manifest.variant} at {one.manifest.scale}") for one in drawn]
    return pd.concat(runs, ignore_index=True)


def _id(name: str) -> str:
    return re.sub(r"\W+", "-", name.lower()).strip("-")
