"""The comparison of two arms."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.judging.difference import Difference
from analysis.seeds import seeds_text
from analysis.statistics import UNKNOWN
from analysis.study import Study
from analysis.table import Table, as_text
from mm1_lab.config import RequestError, nearest

UNITS = {"seeds": "seeds", "questions": "questions, conditional on these models"}
"""What an interval is over, by a difference's `unit`."""


@dataclass(frozen=True)
class Comparison:
    """Two arms, compared."""

    title: str
    rows: list[dict[str, Any]]
    """Per measure, and per benchmark of the user's data: `measure`, `first` and `second` (the arms' means),
    `difference`, `low` and `high` (95 %), what these are `over` (seeds, questions), and `seeds`."""
    notes: list[str]


def compare_table(study: Study, first: str, second: str, only: Sequence[int] = ()) -> Table:
    """`compare_arms` as a table for people."""
    found = compare_arms(study, first, second, only)
    rows = []
    for row in found.rows:
        interval = f"[{as_text(row['low'])}, {as_text(row['high'])}]"
        means = {"measure": row["measure"], first: row["first"], second: row["second"]}
        rows.append(means | {"difference": row["difference"], "95 %": interval})
    return Table(found.title, pd.DataFrame(rows), found.notes)


def compare_arms(study: Study, first: str, second: str, only: Sequence[int] = ()) -> Comparison:
    """Compares two arms at the seeds that both have, or at those in `only`, by their differences within seeds.

    With one seed the interval is over questions, conditional on the two models. Raises RequestError for an arm
    without scores, at a seed in `only` or at all, and for an arm and itself.
    """
    if first == second:
        raise RequestError(f"{first!r} is given twice; give two arms, of {', '.join(study.scored)}")
    for arm in (first, second):
        if study.representative(arm) not in study.scored:
            known = nearest(arm, study.sweep.arms)
            raise RequestError(f"{study.variant.folder}: the arm {arm!r} has no scores{known}")
    study = study.at_seeds(_compared(study, first, second, only))
    rows = []
    units: dict[str, None] = {}
    seeds: set[int] = set()
    for measure in (*study.measures, *study.content_measures, *study.own_benchmarks):
        difference = Difference(study, {(first, measure): 1.0, (second, measure): -1.0})
        found = difference.found or UNKNOWN
        row: dict[str, Any] = {"measure": str(measure)}
        for name, arm in (("first", first), ("second", second)):
            values = study.seed_values(study.representative(arm), measure)
            row[name] = float(np.mean(values)) if values else None
        row |= {"difference": found.estimate, "low": found.low, "high": found.high}
        rows.append(row | {"over": difference.unit, "seeds": difference.seeds})
        if difference.unit:
            units[UNITS[difference.unit]] = None
        seeds |= set(difference.seeds)
    notes = []
    if study.representative(first) == study.representative(second):
        notes.append(f"{first} and {second} are the same trials.")
    elif seeds:
        text = seeds_text(sorted(seeds), study.manifest.in_world)
        over = " or, with one seed, ".join(units)
        notes.append(f"Points, {text}; the difference's interval is over {over}, uncorrected.")
    if study.caution:
        notes.append(study.caution)
    return Comparison(f"{study.sweep.name} at {study.manifest.scale}: {first} and {second}", rows, notes)


def _compared(study: Study, first: str, second: str, only: Sequence[int]) -> list[int]:
    """The seeds at which both arms have scores. Raises RequestError if there is none, or if one of `only` is not."""
    rows = study.scores

    def text(seeds: set[int]) -> str:
        return seeds_text(sorted(seeds), study.manifest.in_world)

    own = {arm: set(rows["seed"][rows["arm"] == study.representative(arm)]) for arm in (first, second)}
    for arm, known in own.items():
        if lacking := set(only) - known:
            raise RequestError(f"--seeds: {arm} has no scores at {text(lacking)}, only at {text(known)}")
    if not (both := set.intersection(*own.values())):
        each = " and ".join(f"{arm} has {text(known)}" for arm, known in own.items())
        raise RequestError(
            f"{study.variant.folder}: {each}; arms are compared at seeds that both have, so run one of them"
        )
    return sorted(both & set(only) if only else both)
