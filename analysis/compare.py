"""Two arms of a sweep side by side, measure by measure, for a terminal."""

from __future__ import annotations

from analysis.claims import Claim, claim_row
from analysis.study import Study, seeds_text
from analysis.table import Table, as_text
from mm1_lab.config import RequestError, nearest


def compare_table(study: Study, first: str, second: str) -> Table:
    """A row per measure: both scores, and their difference within seeds with its 95 % interval.

    With one seed the interval is over questions, conditional on the two models. Raises RequestError for an arm
    without scores.
    """
    import pandas as pd

    for arm in (first, second):
        if study.representative(arm) not in study.scored:
            known = nearest(arm, study.scored)
            raise RequestError(f"{study.variant.folder}: the arm {arm!r} has no scores{known}")
    rows = []
    for measure in study.measures:
        row = claim_row(study, Claim("", "", {(first, measure): 1.0, (second, measure): -1.0}, measure, "greater"))
        low, high = (as_text(row[name]) for name in ("low", "high"))
        means = (study.mean(arm, measure) for arm in (first, second))
        rows.append((measure, *(mean and mean.estimate for mean in means), row["estimate"], f"[{low}, {high}]"))
    frame = pd.DataFrame(rows, columns=["measure", first, second, "difference", "95 %"])
    title = f"{study.sweep.name} at {study.variant.manifest.scale}: {first} and {second}"
    over = "seeds" if len(study.seeds) > 1 else "questions, conditional on these models"
    notes = [
        f"Points, {seeds_text(study.seeds)}; the difference's interval is over {over}, uncorrected.",
        study.caution,
    ]
    if study.representative(first) == study.representative(second):
        notes = [f"{first} and {second} are the same trials."]
    return Table(title, frame, [note for note in notes if note])
