"""Tables of checks: of a sweep's base, and of a scale's gates."""

from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.judging.validity import arm_of
from analysis.output import Output
from analysis.seeds import tuned_on
from analysis.study import Study
from analysis.table import Table, as_text
from mm1_lab.config import GATES, Check

INTERVAL = "95 % interval"
SHOWN = ["check", "what", "value", INTERVAL, "needed", "verdict"]
"""The columns of tables of checks."""


def validity_table(study: Study, checks: Sequence[Check]) -> Table:
    frame = _frame(checks)
    tally = ", ".join(f"{verdict} {number}" for verdict, number in frame["verdict"].value_counts().items())
    note = f"Of {len(checks)} checks: {tally}"
    if frame["low"].notna().any():
        base = arm_of(study, study.sweep.base)
        count = study.scores["seed"][study.scores["arm"] == base].nunique()
        over = "questions, one seed"
        if count > 1:
            over = f"{count} seeds, of differences over those of both arms"
        note += f"; 95 % intervals over {over}"
    title = f"Validity of the base: {study.manifest.variant}, scale {study.manifest.scale}"
    return Table(title, frame[SHOWN], [f"{note}.", study.caution])


def write_gates(scale: str, seeds: Iterable[int], folder: Path, checks: Sequence[Check], setup: str) -> None:
    """Writes `gates.csv` and `gates.md`, which has of what the decoder is asked in words only what misses its bound.
    `setup` is what was checked at these seeds."""
    in_words = [check for check in checks if check.check == GATES["words"]]
    met = [check for check in in_words if check.verdict in ("pass", "reported")]
    notes = []
    if met:
        lowest = min(check.value for check in met)
        notes.append(
            f"*{GATES['words']}*: the other {len(met)} of {len(in_words)} settings, all at {lowest:.0f} % or more, "
            "are in `gates.csv`."
        )
    known = {*seeds, *(check.seed for check in checks if check.seed is not None)}
    shown = [check for check in checks if check not in met]
    output = Output(folder)
    output.csv("gates", pd.DataFrame(checks).astype({"seed": "Int64"}).assign(setup=setup))
    output.tables("gates", gates_table(scale, known, shown, notes))


def gates_table(scale: str, seeds: Iterable[int], checks: Sequence[Check], notes: Sequence[str] = ()) -> Table:
    frame = _frame(checks)
    frame["value"] = [as_text(check.value, ".0f" if np.isnan(check.low) else ".1f") for check in checks]
    known = sorted(seeds)
    title = f"Gates of {scale}, seeds {', '.join(map(str, known))}"
    shown = frame[["check", "seed", *SHOWN[1:]]]
    return Table(title, shown, [*notes, tuned_on(known)], formats={"seed": ".0f"})


def _frame(checks: Sequence[Check]) -> pd.DataFrame:
    frame = pd.DataFrame(checks, columns=[field.name for field in fields(Check)])
    frame[INTERVAL] = [f"{as_text(one.low)} to {as_text(one.high)}" for one in checks]
    frame.loc[frame["low"].isna(), INTERVAL] = ""
    return frame
