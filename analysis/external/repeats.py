"""Repeats in a table without seeds: which of an arm's rows are of one run, and whether runs are independent."""

from __future__ import annotations

import math
import re

import pandas as pd

from mm1_lab.config import RequestError
from mm1_lab.formatting import some

OF_ONE_RUN = re.compile(
    "seed|random|question|doc|sample|item|subject|task|dataset|metric|split|fold|step|epoch|iter|checkpoint|ckpt|prompt"
)
"""In names of columns that may tell scores of one run apart."""
OF_RUNS = re.compile("run|rep|trial|attempt|try|number|index|unnamed")
"""How names of columns begin that number an arm's independent runs."""
RUN = re.compile("(runs?|rep|repeat|repetition|replicate|trial|attempt|try)(id|name|no|nr|number|index)?")
"""What columns are called that name an arm's runs, without signs."""
QUESTION = ["benchmark", "shots", "question"]
SELDOM = 0.001
"""Chance below which scores do not repeat in the same order by luck."""


def numbers_of_runs(table: pd.DataFrame, frame: pd.DataFrame) -> tuple[pd.Series[int], list[str]]:
    """Numbers each arm's runs by the first column that names runs, such as `run`; without one the n-th score of each
    benchmark is of the n-th run, with a note if an arm has more scores of one than of another."""
    for name in table.columns:
        if RUN.fullmatch(re.sub("[^a-z]", "", name.lower())):
            runs = frame.assign(run=table[name].map(str))
            if runs.duplicated(["arm", "run"]).any() and not runs.duplicated(["arm", "run", *QUESTION]).any():
                return runs.groupby("arm")["run"].transform(lambda own: pd.factorize(own)[0]), []
    of_cells = frame.groupby(["arm", *QUESTION])
    counts = of_cells.size().groupby("arm").nunique()
    uneven = some(list(counts.index[counts > 1]))
    by_order = (
        f"Which scores of {uneven} are of one run is not told, and some are missing: the first of each benchmark are "
        "taken for one run, and so on; name runs in a column `run`."
    )
    return of_cells.cumcount(), [by_order] if uneven else []


def check_independent(table: pd.DataFrame, frame: pd.DataFrame, where: str) -> list[str]:
    """Notes on columns of `table`, which are read for nothing else, that tell an arm's repeats apart, in every arm by
    the same values, as seeds, questions or checkpoints do, whose scores are no independent runs. Raises RequestError
    for one that is called like these."""
    is_repeat = frame.duplicated(["arm", *QUESTION], keep=False)
    table, repeats = table[is_repeat], frame[is_repeat]
    if repeats["arm"].nunique() < 2:
        return []
    suspect = [name for name in table.columns if OF_ONE_RUN.search(name.lower())]
    for names in [*([name] for name in suspect), suspect]:
        if names and _tell_apart(repeats, table[names]):
            raise RequestError(
                f"{where}: an arm's rows differ in {' and '.join(map(repr, names))}, by the same values in every arm, "
                f"so they may be no independent runs; say what it is, --columns seed={names[0]} (or question, "
                "benchmark, shots), or leave it out if they are"
            )
    notes = []
    for name in table.columns:
        if not OF_RUNS.match(re.sub("[^a-z]", "", name.lower())) and _tell_apart(repeats, table[[name]]):
            notes.append(
                f"An arm's rows differ in {name!r}, by the same values in every arm: if it is a seed, say --columns "
                f"seed={name}."
            )
    return notes


def copies(frame: pd.DataFrame) -> list[str]:
    """A note on arms whose runs are there again in the same order, as of rows that were pasted twice.

    Scores of few possible values, such as rounded ones, repeat by luck: m different runs stand so many `times` in the
    same order in at most m! / m^(m · times) of cases, as if m values were equally likely; among many arms, some do.
    """
    runs = frame.set_index(["arm", "repeat", *QUESTION])["score"].unstack(QUESTION)
    arms = runs.groupby(level="arm", sort=False)
    copied, chance = [], 1.0
    for arm, own in arms:
        scores = list(own.fillna(math.inf).itertuples(index=False, name=None))
        different = len(set(scores))
        times = len(scores) // different
        if different > 1 and times > 1 and scores == scores[:different] * times:
            copied.append(str(arm))
            chance *= math.factorial(different) / different ** (different * times)
    if math.comb(len(arms), len(copied)) * chance > SELDOM:
        return []
    return [
        f"All scores of {some(copied)} are there again in the same order: if rows were pasted twice, remove the "
        "copies, as they are no further runs."
    ]


def _tell_apart(repeats: pd.DataFrame, columns: pd.DataFrame) -> bool:
    """Whether columns tell the repeats of each arm apart, by values of which arms share most; three or more, as two may
    be the same by chance."""
    rows = columns.itertuples(index=False)
    values = repeats.assign(value=[repr(tuple(map(str, row))) for row in rows])
    if values.duplicated(["arm", *QUESTION, "value"]).any():
        return False
    first, *others = (set(own) for _, own in values.groupby("arm")["value"])
    return all(
        min(len(first), len(other)) > 2 and 2 * len(first & other) > len(min(first, other, key=len)) for other in others
    )
