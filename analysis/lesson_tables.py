"""The lessons of a scale as tables and as a figure, from the frames of `analysis.lessons`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from analysis.claims import Verdict
from analysis.document import HOLE, Document, Section
from analysis.figures import draw_claims
from analysis.lessons import LAW
from analysis.tables import estimate, paper_cell, seeds_cell

if TYPE_CHECKING:
    import pandas as pd

Row = Mapping[Hashable, Any]


def lessons_document(lessons: pd.DataFrame, parts: pd.DataFrame, title: str) -> Document:
    """Every lesson with the part that its verdict hangs on; then every part by itself."""
    sources = list(dict.fromkeys(source for source in lessons["paper_source"].dropna() if source))
    rows = []
    for row in lessons.to_dict("records"):
        known = isinstance(row["detail"], str)
        claim = row["claim"] if row["by"] == "MM1" else f"{row['claim']} (ours)"
        several = f" (of {row['parts']})" if row["parts"] > 1 else ""
        cells = [claim, f"{row['paper_says']} ({row['section']})", row["detail"] + several if known else HOLE]
        cells += [expected(row) if known else HOLE, estimate_cell(row), paper_cell(row, sources), seeds_text(row)]
        rows.append([*cells, seeds_cell(row), f"**{row['verdict']}**{because(row)}"])
    head = ["lesson", "the paper", "hangs on", "expected", "estimate", "MM1", "seeds", "seeds needed", "verdict"]
    sections = [Section("", head, rows, ["the paper", "hangs on", "expected", "verdict"])]
    if len(parts):
        cells = [
            [row["lesson"], row["detail"], expected(row), estimate_cell(row), f"{row['says']}{because(row)}"]
            for row in parts[parts["detail"].notna()].to_dict("records")
        ]
        head = ["lesson", "part", "expected", "estimate", "by itself"]
        sections.append(Section("Part by part", head, cells, ["part", "expected", "by itself"]))
    return Document(title, [f"{tally(lessons)}."], sections, lesson_notes(lessons), sources)


def expected(row: Row) -> str:
    """`> 0; MM1 3`, with the paper's size where it is a bound too."""
    size = row["size"]
    return str(row["expectation"]) if size != size else f"{row['expectation']}; MM1 {size:g}"


def because(row: Row) -> str:
    return f": {row['reason']}" if row["reason"] else ""


def tally(lessons: pd.DataFrame) -> str:
    """`7 supported, 2 contradicted, 3 undecided, 4 not judged`."""
    counts = Counter(lessons["verdict"])
    return ", ".join(f"{counts[verdict]} {verdict}" for verdict in get_args(Verdict) if counts[verdict])


def estimate_cell(row: Row) -> str:
    """In points, or for the learning-rate law its slope."""
    return estimate(row, 2 if row["sweep"] == LAW else 1)


def seeds_text(row: Row) -> str:
    """`3, development`, and `1, over questions` where an interval is conditional on the models of one seed."""
    if row["seeds"] != row["seeds"] or not row["seeds"]:
        return HOLE
    return f"{row['seeds']:.0f}, {row['seeds_are']}" + ", over questions" * (row["interval"] == "questions")


def lesson_notes(lessons: pd.DataFrame) -> list[str]:
    notes = [
        "Differences in points, with 95 % intervals over seeds; of a lesson with several parts, the one that its "
        "verdict hangs on. A lesson needs all its parts and falls with one; all lessons are one family, and verdicts "
        "hold at 5 % after Holm's correction. *Supported, smaller*: the direction is the paper's, the size is below "
        "the paper's. *Refuted in size*: too small for the paper, whatever its sign. *By wording only*: by CIDEr and "
        "not by what captions say. *Undecided*: the results allow either; *seeds needed* would decide it four times "
        "out of five if the truth is as estimated. *Development* seeds are those that world and recipes were tuned on."
    ]
    if (lessons["interval"] == "questions").any():
        notes.append(
            "*Over questions*: with one seed the interval is conditional on these models, and there is no verdict."
        )
    return notes


def draw_lessons(lessons: pd.DataFrame, path: Path, title: str) -> list[Path]:
    """The lessons that are about points, as far as they were run."""
    there = lessons["estimate"].notna()
    missing = ", ".join(lessons["lesson"][~there])
    note = "95 % intervals of the part that each verdict hangs on." + f" Not run: {missing}." * bool(missing)
    return draw_claims(lessons[there & (lessons["sweep"] != LAW)], path, title, note)
