"""The best arms of a search over recipes, as `run` ranked them: for its page, the summary and the report."""

from contextlib import suppress
from pathlib import Path

import pandas as pd

from analysis.likeness import HELD_OUT_DOCUMENTS, HELD_OUT_TOKENS, unlike
from analysis.study import read_study
from analysis.table import Table
from mm1_lab.config import RequestError, Search, Sweep

SHOWN = 10
NO_ORDER = (
    "The order tells nothing, as the arms' losses are of different {what}: search by scores, or leave out {cause}."
)
CAUSES = {HELD_OUT_DOCUMENTS: "what changes the tokens per picture", HELD_OUT_TOKENS: "`sft`"}


def search_table(sweep: Sweep, folder: Path) -> Table | None:
    """The best arms and the base, by the search's own `search.csv`; None if there is none."""
    path = folder / "search.csv"
    if not isinstance(sweep.search, Search) or not path.exists():
        return None
    arms = pd.read_csv(path, dtype={"arm": str, "status": str}).dropna(subset="arm")  # without refused proposals
    shown = arms[(arms.index < SHOWN) | (arms["arm"] == "base")]
    measure = sweep.search.measure
    is_loss = measure.about == "loss"
    frame = pd.DataFrame(
        {
            "arm": shown["arm"],
            "rank": shown["rank"],
            str(measure): shown["score"],
            "sd over seeds": shown["sd"],
            "status": shown["status"],
        }
    ).dropna(axis="columns", how="all")
    digits = ".4f" if is_loss else ".2f"
    unit = "In nats" if is_loss else "In points"
    notes = [f"{unit}. The best score is partly luck: what counts is the winner's confirmation, a sweep of its own."]
    if is_loss and (arms["status"] == "scored").any():
        with suppress(RequestError):  # none of these is in `trials.csv` yet
            study = read_study(folder)
            if what := unlike(study, frozenset(study.scored), measure):
                notes.append(NO_ORDER.format(what=what, cause=CAUSES[what]))
    formats = {"rank": ".0f", str(measure): digits, "sd over seeds": digits}
    return Table(f"The search: its best of {len(arms)} arms", frame, notes, formats=formats)
