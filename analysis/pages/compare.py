"""The comparison of two arms."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.judging.difference import Difference
from analysis.pages.cells import interval
from analysis.pages.notes import unlike_notes
from analysis.seeds import seeds_text
from analysis.study import Study
from analysis.table import Table
from mm1_lab.config import Measure, RequestError, nearest


@dataclass(frozen=True)
class Comparison:
    """Two arms, compared."""

    title: str
    rows: list[dict[str, Any]]
    """Per measure, and per benchmark of the user's data: `measure`, `first` and `second` (the arms' means),
    `difference`, `low` and `high` (95 %), what these are `over` (seeds, questions), and `seeds`."""
    notes: list[str]


def compare_table(
    study: Study, first: str, second: str, only: Sequence[int] = (), measure: Measure | None = None
) -> Table:
    """`compare_arms` as a table for people."""
    found = compare_arms(study, first, second, only, measure)
    form = ".3f" if _is_loss(measure) else ".1f"
    frame = pd.DataFrame(found.rows)
    frame["95 %"] = [interval(row, form) for row in found.rows]
    frame = frame[["measure", "first", "second", "difference", "95 %"]]
    formats = dict.fromkeys([first, second, "difference"], form)
    return Table(found.title, frame.rename(columns={"first": first, "second": second}), found.notes, formats=formats)


def compare_arms(
    study: Study, first: str, second: str, only: Sequence[int] = (), measure: Measure | None = None
) -> Comparison:
    """Compares two arms at the seeds that both have, or at those in `only`, by their differences within seeds; by one
    `measure`, or all that tables show.

    With one seed the interval is over questions, conditional on the two models. Raises RequestError for an arm
    without scores, at a seed in `only` or at all, and for an arm and itself.
    """
    if first == second:
        raise RequestError(f"{first!r} is given twice; give two arms, of {', '.join(study.scored)}")
    own = {first: study.representative(first), second: study.representative(second)}
    for arm, representative in own.items():
        if representative not in study.scored:
            known = nearest(arm, study.scored)
            raise RequestError(f"{study.folder}: the arm {arm!r} has no scores{known}")
    study = study.at_seeds(_compared(study, own, only))
    rows = []
    for one in [measure] if measure else [*study.measures, *study.own_benchmarks]:
        difference = Difference(study, {(first, one): 1.0, (second, one): -1.0})
        found = difference.found
        values = study.all_values(one)
        means = values[difference.seeds or study.seeds].mean(axis=1)  # of a newer benchmark some seeds may lack scores
        rows.append(
            {
                "measure": str(one),
                "first": means[own[first]],
                "second": means[own[second]],
                "difference": found.estimate,
                "low": found.low,
                "high": found.high,
                "over": difference.unit,
                "seeds": difference.seeds,
            }
        )
    notes = []
    seeds = sorted({seed for row in rows for seed in row["seeds"]})
    if own[first] == own[second]:
        notes.append(f"{first} and {second} are the same trials.")
    elif seeds:
        unit = "Nats per text token" if _is_loss(measure) else "Points"
        over = "seeds" if len(seeds) > 1 else "questions, conditional on these models"
        interval_is = f"the difference's interval is over {over}, uncorrected"
        if len(seeds) == 1 and all(np.isnan(row["low"]) for row in rows):
            interval_is = "at one seed there is no interval"
        notes.append(f"{unit}, {seeds_text(seeds, study.manifest.in_world)}; {interval_is}.")
    notes += unlike_notes(study, own.values(), [measure] if measure else ())
    if study.caution:
        notes.append(study.caution)
    return Comparison(f"{study.sweep.name} at {study.manifest.scale}: {first} and {second}", rows, notes)


def _is_loss(measure: Measure | None) -> bool:
    return measure is not None and measure.about == "loss"


def _compared(study: Study, own: dict[str, str], only: Sequence[int]) -> list[int]:
    """The seeds at which both arms have scores. Raises RequestError if there is none, or if one of `only` is not."""
    both = set(only or study.seeds)
    texts = []
    for arm, representative in own.items():
        same = [other for other in study.scored if study.representative(other) == representative]
        known = set(study.scores["seed"][study.scores["arm"].isin(same)])
        texts.append(f"{arm} has {seeds_text(sorted(known), study.manifest.in_world)}")
        both &= known
    if not both or not both.issuperset(only):
        asked = f" (--seeds asks for {', '.join(map(str, only))})" if only else ""
        raise RequestError(
            f"{study.folder}: {' and '.join(texts)}; arms are compared at seeds that both have{asked}, so give "
            "--seeds of both, or run one of them"
        )
    return sorted(both)
