"""The lessons of a scale as tables and as a figure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.document import HOLE, Document, Section
from analysis.figures import draw_claims
from analysis.lessons import LAW, Taught
from analysis.tables import evidence_row, paper_cell, seeds_cell, signed

if TYPE_CHECKING:
    import pandas as pd


def lessons_table(taught: Sequence[Taught]) -> pd.DataFrame:
    """A row a part of each lesson, with the lesson's verdict; one row for a lesson that was not run."""
    import pandas as pd

    rows = []
    for one in taught:
        lesson, judged = one.lesson, one.judged
        about: dict[str, object] = {
            "lesson": lesson.name,
            "claim": lesson.claim,
            "section": lesson.section,
            "sweep": lesson.sweep,
        }
        verdict: dict[str, object] = {
            "verdict": judged.verdict,
            "p_holm": judged.p_value,
            "seeds_needed": judged.seeds_needed,
        }
        verdict |= {"seeds": one.seeds, "interval": one.interval, "note": one.note}
        for evidence in judged.evidence or (None,):
            part: dict[str, object] = {}
            if evidence:
                claim, finding = evidence.claim, evidence.finding
                part = {"contrast": claim.detail, "expect": claim.expect, "margin": claim.margin}
                part |= {"p": finding.p_value if finding else None} | evidence_row(evidence)
            rows.append(about | part | verdict)
    return pd.DataFrame(rows)


def lessons_document(taught: Sequence[Taught], title: str) -> Document:
    """One table: every lesson with the part that its verdict hangs on."""
    leads = [one.judged.lead for one in taught]
    sources = list(dict.fromkeys(lead.paper.source for lead in leads if lead and lead.paper))
    rows = []
    for one, lead in zip(taught, leads, strict=True):
        claim = lead.claim if lead else None
        parts = len(one.judged.evidence)
        detail = f"{claim.detail}{f' (of {parts} parts)' if parts > 1 else ''}" if claim else HOLE
        rows.append(
            [
                one.lesson.claim,
                f"{one.lesson.paper} ({one.lesson.section})",
                detail,
                claim.expectation if claim else HOLE,
                estimate_cell(one),
                paper_cell(lead.paper if lead else None, sources),
                seeds_text(one),
                seeds_cell(one.judged),
                f"**{one.judged.verdict}**" if not one.note else one.note,
            ]
        )
    head = ["lesson", "the paper", "contrast", "expected", "estimate", "MM1", "seeds", "seeds needed", "verdict"]
    words = ["the paper", "contrast", "expected", "verdict"]
    return Document(title, [f"{tally(taught)}."], [Section("", head, rows, words)], lesson_notes(taught), sources)


def tally(taught: Sequence[Taught]) -> str:
    """`7 supported, 2 contradicted, 3 undecided, 4 without results`."""
    counts = Counter("without results" if one.judged.verdict == "–" else one.judged.verdict for one in taught)
    order = ("supported", "contradicted", "undecided", "without results")
    return ", ".join(f"{counts[verdict]} {verdict}" for verdict in order if counts[verdict])


def estimate_cell(taught: Taught) -> str:
    """In points, or for the learning-rate law its slope."""
    lead = taught.judged.lead
    if lead and lead.difference and taught.lesson.sweep == LAW:
        point = lead.difference
        return f"{point.estimate:+.2f} [{point.low:+.2f}, {point.high:+.2f}]".replace("-", "−")
    return signed(lead.difference if lead else None)


def seeds_text(taught: Taught) -> str:
    if taught.interval == "questions":
        return "1, over questions"
    return str(taught.seeds) if taught.interval == "seeds" else taught.interval or HOLE


def lesson_notes(taught: Sequence[Taught]) -> list[str]:
    notes = [
        "Differences in points with 95 % intervals; of a lesson with several parts, the one that its verdict hangs on. "
        "*Supported* or *contradicted* at 5 % after Holm's correction over all contrasts and lessons of the sweep; a "
        "lesson needs all its parts and falls with one. *Undecided* says that the results allow either; *seeds needed* "
        "is how many would decide it four times out of five if the truth is as estimated.",
    ]
    if any(one.interval == "questions" for one in taught):
        notes.append(
            "*1, over questions*: with one seed the interval is conditional on these models and says nothing about "
            "models trained from other seeds."
        )
    return notes


def draw_lessons(taught: Sequence[Taught], path: Path, title: str) -> list[Path]:
    """The lessons that are about points, as far as they were run."""
    shown = [one for one in taught if one.judged.evidence and one.lesson.sweep != LAW]
    missing = [one.lesson.name for one in taught if not one.judged.evidence]
    note = "95 % intervals of the part that each verdict hangs on." + f" Not run: {', '.join(missing)}." * bool(missing)
    return draw_claims({one.lesson.claim: one.judged for one in shown}, path, title, note)
