"""The table of verdicts, of claims in a sweep's file as of the paper's lessons, and the notes below it."""

from collections import Counter
from collections.abc import Sequence
from typing import get_args

import pandas as pd

from analysis.judging.claims import LAW, is_interaction
from analysis.judging.looks import reached_text
from analysis.judging.p_values import Verdict
from analysis.pages.cells import are_losses, estimate, paper_cell, references, seeds_cell
from analysis.pages.notes import MIXED, remarks, start_notes
from analysis.seeds import SEEN
from analysis.study import Study
from analysis.table import MISSING, Row, Table

SHORT = ["claim", "verdict", "estimate", "seeds"]
"""The columns of the short table."""
CAPTIONS_NOTE = (
    "Captions of the miniature world are scored by content: F1 over what they say, in any wording. MM1's numbers are "
    "by CIDEr."
)
ONE_SIDED = "Claims of a band (within ±) or of a bound below 0 (≥ −) hold if the 90 % interval lies inside."
UNSEEN = "†"
"""Marks lessons whose base does not see in some of the conversations that they are about."""
NEEDED_NOTE = "*Seeds needed*: how many decide a claim with 80 % power if the true difference is the estimate."


def verdicts_table(frame: pd.DataFrame, title: str = "", notes: Sequence[str] = ()) -> Table:
    """A row per claim of a frame of `analysis.judging`: claims, lessons, or their parts. Columns that say nothing in
    any row are left out."""
    sources = [source for source in frame["paper_source"].dropna().unique() if source]
    rows = []
    for row, is_loss in zip(frame.to_dict("records"), are_losses(frame), strict=True):
        digits, unit = (3, " nats") if is_loss and row["estimate"] == row["estimate"] else (1, "")
        if row["sweep"] == LAW:
            digits = 2  # of the learning-rate law its slope
        difference = row["detail"] if isinstance(row["detail"], str) else ""  # of arms that the sweep does not have
        if row.get("parts", 1) > 1:
            difference += f" (of {row['parts']} parts)"
        if row.get("mixes_machines") == 1:
            difference += " ‡"
        rows.append(
            {
                "claim": claim_text(row),
                "verdict": verdict_cell(row),
                "estimate": estimate(row, digits) + unit,
                "difference": difference,
                "expected": row["expectation"],
                "seeds": seeds_of(row),
                "seeds needed": "" if row.get("aside") or row.get("of_lesson") else seeds_cell(row),
                "MM1": paper_cell(row, sources),
                "the paper": f"{row['paper_says']} ({row['section']})" if "paper_says" in row else "",
            }
        )
    table = pd.DataFrame(rows)
    filled = [name for name in table if (table[name] != "").any()]
    return Table(title, table[filled], [*notes, *references(sources)])


def in_little_room(table: Table, title: str = "", notes: Sequence[str] = ()) -> Table:
    """A table of verdicts for a terminal, a summary, the report."""
    return Table(title, table.frame.filter(SHORT), notes)


def claims_notes(study: Study, claims: pd.DataFrame) -> list[str]:
    """Below the claims of a sweep's file."""
    intervals = set(claims["interval"])
    notes = []
    if "seeds" in intervals:
        notes.append(
            "Differences in points with 95 % t intervals over seeds, each formed within a seed; a variance is shrunk "
            "towards that of the other arms (limma) unless far above it. Claims are judged one by one at 5 %, "
            "uncorrected."
        )
    halves = [repr(one.claim) for one in study.sweep.contrasts if is_interaction(one, study.sweep)]
    if halves:
        notes.append(
            f"As groups are means, {', '.join(halves)} has half of an interaction: twice its estimate and interval is "
            "by how much more one change does beside the other."
        )
    if claims["expect"].isin(["equivalent", "keeps"]).any():
        notes.append(ONE_SIDED)
    if (claims["of_lesson"] != "").any():
        notes.append(
            "A claim that is part of a lesson has its verdict there, corrected for their number: `lessons.md`."
        )
    if "questions" in intervals:
        notes.append("At one seed: 95 % intervals over questions, conditional on these models, which give no verdict.")
    if claims["seeds_are"].str.endswith(SEEN).any():
        notes.append(f"*{SEEN.capitalize()}*: it was written or changed after these seeds had scores.")
    if looks := reached_text(study):
        notes.append(f"Judged look by look as seeds are added: {looks}. Intervals are those of a single look.")
    if study.cider_measures:
        notes.append(CAPTIONS_NOTE)
    if claims["seeds_needed"][claims["of_lesson"] == ""].notna().any():
        notes.append(NEEDED_NOTE)
    if (claims["mixes_machines"] == 1).any():
        notes.append(f"‡ {MIXED}")
    compared = dict.fromkeys(arm for one in study.sweep.contrasts for side in one.sides for arm in side)
    return [*notes, *start_notes(study, compared), *remarks(study)]


def lessons_tables(lessons: pd.DataFrame, parts: pd.DataFrame, title: str) -> list[Table]:
    """The lessons that were run, each with the part that determines its verdict; then all parts by themselves."""
    shown = run_lessons(lessons)
    tables = [verdicts_table(shown, title, [f"{tally(lessons)}.", *lesson_notes(lessons)])]
    known = parts[parts["detail"].notna()]
    verdicts = known["says"].where(known["reason"] == "", "not judged")
    about = known.assign(claim=known["lesson"], verdict=verdicts, seeds_needed=float("nan"))
    notes = ["Each part by itself, at 5 % without correction for their number."]
    return [*tables, verdicts_table(about, "Part by part", notes)]


def run_lessons(lessons: pd.DataFrame) -> pd.DataFrame:
    """The lessons but those whose sweeps were not run or have no scores yet."""
    to_come = lessons["reason"].str.startswith("not run") | (lessons["reason"] == "no scores")
    return lessons[lessons["estimate"].notna() | ~to_come]


def lesson_notes(lessons: pd.DataFrame) -> list[str]:
    family = int(lessons["family"].max())
    notes = [
        "Differences in points with 95 % intervals over seeds, of the part that decides a lesson: it needs all its "
        f"parts and falls with one. All lessons are one family ({family} could be judged); verdicts hold at 5 % after "
        "Holm's correction, intervals are uncorrected. *Development* seeds are those used to tune world and recipes.",
        CAPTIONS_NOTE,
    ]
    if lessons["seeds_needed"].notna().any():
        notes[-1] += f" {NEEDED_NOTE}"
    if left := len(lessons) - len(run_lessons(lessons)):
        notes.append(f"{left} more lessons were not run here; `lessons.csv` names the commands.")
    looks = []
    if "looks" in lessons:
        for text, rows in lessons[lessons["looks"] != ""].groupby("looks", sort=False):
            looks.append(f"{', '.join(rows['sweep'].unique())}: {text}")
    if looks:
        notes.append(
            f"Judged look by look as seeds are added: {'; '.join(looks)}. The 5 % are spent over looks and divided "
            "among lessons."
        )
    notes += unseen_notes(lessons)
    if (lessons["interval"] == "questions").any():
        notes.append("*Over questions*: one seed, conditional on these models, and no verdict.")
    return notes


def unseen_notes(lessons: pd.DataFrame) -> list[str]:
    """Which verdicts stand against the words of the protocol, and why."""
    if "unseen" not in lessons:
        return []
    notes = []
    for names, marked in run_lessons(lessons[lessons["unseen"] != ""]).groupby("unseen", sort=False):
        notes.append(
            f"{UNSEEN} By the words of the protocol (`docs/study.md`) none of these would have been judged "
            f"({tally(marked)}): their tuned base is not 5 points above its blind control in {names}."
        )
    return notes


def tally(lessons: pd.DataFrame) -> str:
    """`7 supported, 2 contradicted, 3 undecided, 4 not judged`."""
    counts = Counter(lessons["verdict"])
    return ", ".join(f"{counts[verdict]} {verdict}" for verdict in get_args(Verdict) if counts[verdict])


def claim_text(row: Row) -> str:
    return f"{row['claim']} (ours)" if row.get("by", "MM1") not in ("MM1", None) else str(row["claim"])


def verdict_cell(row: Row) -> str:
    """The verdict, and why there is none; where a lesson judges the same difference, corrected, the lesson instead."""
    if aside := row.get("aside"):
        return f"**not judged**: {aside}"
    if row.get("of_lesson") and row["verdict"] != "not judged":
        return f"lesson *{row['of_lesson']}*"
    mark = f" {UNSEEN}" if row.get("unseen") else ""
    return f"**{row['verdict']}**{mark}: {row['reason']}" if row["reason"] else f"**{row['verdict']}**{mark}"


def seeds_of(row: Row) -> str:
    """`3, development`, or `1, development, over questions` for an interval conditional on one seed's models."""
    if row["seeds"] != row["seeds"] or not row["seeds"]:
        return MISSING
    words = [f"{row['seeds']:.0f}", row["seeds_are"]]
    if row["interval"] == "questions":
        words.append("over questions")
    return ", ".join(word for word in words if word and word == word)
