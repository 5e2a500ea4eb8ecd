"""Tables and the figure of a scale's lessons, from the frames of `analysis.judging.verdicts`."""

from collections import Counter
from pathlib import Path
from typing import get_args

import pandas as pd

from analysis.judging.lessons import LAW
from analysis.judging.statements import Verdict
from analysis.pages.cells import (
    cited_in,
    estimate,
    floorless,
    in_short,
    paper_cell,
    references,
    seeds_cell,
    verdict_cell,
)
from analysis.pages.claims_figure import draw_claims
from analysis.seeds import worlds_in
from analysis.table import MISSING, Row, Table
from mm1_lab.results.summary import CONTENT

SPENT = (
    "The 5 % are spent over looks and divided among lessons; intervals and *seeds needed* are those of a single look, "
    "so that an undecided lesson may have as many already."
)

FLOOR = "Kinds on the floor: what a decoder fails in words by the scale's last check. Verdicts are by all kinds."


def lessons_tables(lessons: pd.DataFrame, parts: pd.DataFrame, title: str) -> list[Table]:
    """A table of lessons, each with the part that determines its verdict; then a table of all parts by themselves."""
    sources = cited_in(lessons)
    rows = []
    for row in lessons.to_dict("records"):
        known, several = isinstance(row["detail"], str), f" (of {row['parts']})" if row["parts"] > 1 else ""
        cells = {"lesson": claim_text(row)}
        cells |= {"the paper": f"{row['paper_says']} ({row['section']})"}
        cells |= {"decisive part": row["detail"] + several if known else MISSING}
        cells |= {"expected": expected(row) if known else MISSING, "estimate": estimate_cell(row)}
        cells |= {"MM1": paper_cell(row, sources), "seeds": seeds_of(row), "seeds needed": seeds_cell(row)}
        rows.append(cells | {"verdict": verdict_cell(row)})
    notes = [f"{tally(lessons)}.", *lesson_notes(lessons), *references(sources)]
    tables = [Table(title, pd.DataFrame(rows), notes)]
    moved = any(floorless(row) for row in parts.to_dict("records"))
    each = [
        {"lesson": row["lesson"], "part": row["detail"], "expected": expected(row), "estimate": estimate_cell(row)}
        | ({"without kinds on the floor": floorless(row)} if moved else {})
        | {"verdict of the part": f"not judged: {row['reason']}" if row["reason"] else row["says"]}
        for row in parts[parts["detail"].notna()].to_dict("records")
    ]
    notes = ["Each part by itself, by wording and by *content*, at 5 % without correction for the number of lessons."]
    notes += [FLOOR] * moved
    return [*tables, *([Table("Part by part", pd.DataFrame(each), notes)] if each else [])]


def short_lessons(lessons: pd.DataFrame, title: str) -> Table:
    """A table with a row per lesson: estimate and verdict."""
    rows = [
        {"lesson": claim_text(row), "verdict": verdict_cell(row)}  # a phone shows two
        | {"estimate, points": estimate_cell(row) + ", content" * str(row["measure"]).startswith(f"{CONTENT} ")}
        | {"seeds": seeds_of(row), "MM1": row["section"]}
        for row in lessons.to_dict("records")
    ]
    return Table(title, pd.DataFrame(rows))


def claim_text(row: Row) -> str:
    return f"{row['claim']} (ours)" if row["by"] != "MM1" else str(row["claim"])


def expected(row: Row) -> str:
    """`> 0; MM1 3`: the expectation, and the paper's effect size if it is a second bound."""
    size = row["size"]
    return str(row["expectation"]) if size != size else f"{row['expectation']}; MM1 {size:g}"


def tally(lessons: pd.DataFrame) -> str:
    """`7 supported, 2 contradicted, 3 undecided, 4 not judged`."""
    counts = Counter(lessons["verdict"])
    return ", ".join(f"{counts[verdict]} {verdict}" for verdict in get_args(Verdict) if counts[verdict])


def estimate_cell(row: Row) -> str:
    """The estimate in points, or for the learning-rate law its slope."""
    return estimate(row, 2 if row["sweep"] == LAW else 1)


def seeds_of(row: Row) -> str:
    """`3, development`, or `1, development, world 2, over questions` for results of an earlier world and an interval
    that is conditional on one seed's models."""
    if row["seeds"] != row["seeds"] or not row["seeds"]:
        return MISSING
    asked = "over questions" * (row["interval"] == "questions")
    return ", ".join(filter(None, (f"{row['seeds']:.0f}", row["seeds_are"], row.get("world", ""), asked)))


def lesson_notes(lessons: pd.DataFrame) -> list[str]:
    family = int(lessons["family"].max()) if len(lessons) else 0
    notes = [
        "Differences in points, with 95 % intervals over seeds. For a lesson with several parts, the table shows the "
        "part that decides its verdict: a lesson needs all its parts and falls with one. All lessons are one family "
        f"({family} that could be judged); verdicts hold at 5 % after Holm's correction. *Supported, "
        "smaller*: the direction is the paper's, the size is smaller. *Refuted in size*: smaller than the paper's, "
        "whatever its sign; the paper's sizes are in its own means, with CIDEr, so by content it says only that the "
        "content score moves less. *By wording only*: by CIDEr, but not by the content of captions (F1 over "
        "what they say). *By content only*: the reverse. *Undecided*: the data allow either, although the interval, "
        "which is uncorrected, may exclude 0; with the *seeds needed*, it would be decided with 80 % power if the true "
        "difference is the estimate. *Development* seeds are those used to tune world and recipes."
    ]
    if note := worlds_in(lessons):
        notes.append(note)
    if note := looks_note(lessons):
        notes.append(f"{note} {SPENT}")
    if (lessons["interval"] == "questions").any():
        notes.append(
            "*Over questions*: with one seed the interval is conditional on these models, and there is no verdict."
        )
    return notes


def looks_note(lessons: pd.DataFrame) -> str:
    """Names the looks that growing studies have reached, and the studies; empty without any."""
    if "looks" not in lessons:
        return ""
    reached: dict[str, dict[str, None]] = {}
    for sweep, text in zip(lessons["sweep"], lessons["looks"], strict=True):
        if text:
            reached.setdefault(text, {})[sweep] = None
    words = "; ".join(f"{', '.join(sweeps)}: {text}" for text, sweeps in reached.items())
    return f"Judged look by look as seeds are added: {words}."


def draw_lessons(lessons: pd.DataFrame, path: Path, title: str, caution: str = "") -> list[Path]:
    """Draws the lessons in points that have scores, so none about the learning-rate law; `caution` is on seeds."""
    there = lessons["estimate"].notna()
    note = "95 % intervals of the part that decides each verdict."
    for reason, rows in lessons[~there].groupby(lessons["reason"].map(in_short), sort=False):
        note += f" {str(reason).capitalize()}: {', '.join(rows['lesson'])}."
    slopes = there & (lessons["sweep"] == LAW)
    note += f" A slope, not in points: {', '.join(lessons['lesson'][slopes])} ({LAW})." * bool(slopes.any())
    shown = lessons[there & ~slopes]
    shown = shown.assign(claim=[claim_text(row) for row in shown.to_dict("records")])
    note = " ".join(filter(None, (note, worlds_in(shown), looks_note(shown), caution)))
    return draw_claims(shown, path, title, note)
