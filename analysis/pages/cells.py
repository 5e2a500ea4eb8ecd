"""Cells of tables, and the notes that they refer to."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.paper import PaperNumber
from analysis.seeds import MOST_SEEDS
from analysis.statistics import Interval
from analysis.table import ALIKE, MISSING, Row, as_text


def plus_minus(mean: Interval, digits: int = 1) -> str:
    """`44.5 ± 2.3`: a mean and half the width of its 95 % interval, if it has one; a dash for UNKNOWN."""
    form = f".{digits}f"
    text = as_text(mean.estimate, form)
    return text if np.isnan(mean.half_width) else f"{text} ± {as_text(mean.half_width, form)}"


def interval(row: Row, form: str) -> str:
    """`[−0.2, 3.2]`: the ends of an interval, `low` and `high`; a dash without one. What is all alike, over seeds or
    questions, tells no width."""
    low = as_text(row["low"], form)
    if low == MISSING:
        return MISSING
    if math.isclose(row["low"], row["high"]):
        return ALIKE
    return f"[{low}, {as_text(row['high'], form)}]"


def estimate(row: Row, digits: int = 1) -> str:
    """`+1.5 [−0.2, +3.2]` for a row of claims or lessons, with the interval if there is one."""
    form = f"+.{digits}f"
    text = as_text(row["estimate"], form)
    return text if np.isnan(row["low"]) else f"{text} {interval(row, form)}"


def are_losses(claims: pd.DataFrame) -> pd.Series[bool]:
    """Whether claims are about losses, which are in nats and not in points."""
    return claims["measure"].astype(str).str.fullmatch(r"loss \S+( - loss \S+)?")


def seeds_cell(row: Row) -> str:
    """The seeds that an undecided claim needs; empty for a decided one."""
    needed = row["seeds_needed"]
    if np.isnan(needed):
        return ""
    return f"> {MOST_SEEDS}" if np.isinf(needed) else f"{needed:.0f}"


def published_cell(number: PaperNumber, sources: Sequence[str]) -> str:
    """`*> 14.3* [2]`: a number of the paper, with the index of its source."""
    return f"*{number}* [{sources.index(number.source) + 1}]" if number else ""


def paper_cell(row: Row, sources: Sequence[str]) -> str:
    """`> 14.3 [2]`: the paper's number for a row of claims or lessons."""
    number = PaperNumber(row["paper"], row["paper_bound"], row["paper_source"])
    return published_cell(number, sources).replace("*", "").replace("-", "−")


def in_short(reason: str) -> str:
    """What stands before the first comma or colon of a reason, for a figure or a count: `not testable` for
    `not testable in this world: …`."""
    return re.split("[:,]| in this", reason)[0]


def references(sources: Sequence[str]) -> list[str]:
    """The notes `[1] …`, `[2] …` with the sources of the paper's numbers."""
    return [f"[{number}] {source}" for number, source in enumerate(sources, 1)]
