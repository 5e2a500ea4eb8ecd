"""Reads a table of scores that the lab did not make, and refuses what cannot be compared."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd

from analysis.external.files import TEXT, read_file
from analysis.external.logs import read_logs
from analysis.external.repeats import QUESTION, check_independent, copies, numbers_of_runs
from mm1_lab.config import RequestError, nearest
from mm1_lab.formatting import some
from mm1_lab.rows import Family

NEEDED = ("arm", "score")
KNOWN = (*NEEDED, "seed", "benchmark", "shots", "question", "status")
UNFINISHED = re.compile(
    "aborted|bootfail|canceled|cancelled|crash|crashed|deadline|diverged|error|errored|fail|failed|failure|"
    "interrupted|killed|launchfailed|nodefail|oom|outofme|outofmemory|paused|nan|oomkilled|pending|preempted|"
    "preempting|pruned|queued|requeued|revoked|running|scheduled|suspended|timedout|timeout|waiting"
)
"""What a `status` begins with, in small letters alone, of runs whose scores do not count: words of Slurm, Optuna, W&B,
MLflow, Ray and Kubernetes."""
OTHER_NAMES = {
    **dict.fromkeys(("task", "dataset", "subject"), "benchmark"),
    **dict.fromkeys(("doc_id", "question_id", "sample_id"), "question"),
    **dict.fromkeys(("random_seed", "random_state"), "seed"),
    "state": "status",
    "num_fewshot": "shots",
}
"""What other tools call columns that change what is compared; if a table has one, it is told that it is not read."""
WITH_SHOTS = re.compile(r"(.+?)[ _](\d+)[-_ ]?shots?")
"""The name of a column such as `vqa 4-shot`."""
OURS = {"family", "metric"}
"""Columns of a table of this lab."""
KEY = ["arm", "seed", "repeat", *QUESTION]


@dataclass(frozen=True)
class Scores:
    """A table of scores with the columns `KEY`, `family` and `score`, one row per question, or per benchmark, of every
    run. `family` is that of a benchmark in a `scores.csv` of this lab, whose averages are over some families alone;
    empty in other tables."""

    frame: pd.DataFrame
    paired: bool
    """Whether arms share seeds; otherwise `seed` is empty, and `repeat` numbers the runs of an arm, which are
    independent."""
    notes: list[str]

    @property
    def arms(self) -> list[str]:
        """In the order of the table."""
        return list(dict.fromkeys(self.frame["arm"]))


Columns = Mapping[str, str | Sequence[str]]
"""The table's names for columns of `KNOWN`; several of `score` are a column per benchmark."""


def read_scores(path: Path, columns: Columns | None = None) -> Scores:
    """Reads a file (.csv, .tsv, .json, .jsonl or .parquet), or a folder with logs of lmms-eval or
    lm-evaluation-harness.

    `columns` is for what is called otherwise in the table than in `KNOWN`. Raises RequestError.
    """
    if path.is_dir():
        if columns:
            raise RequestError(f"{path}: --columns is for tables; the columns of a harness's logs are known")
        frame, notes = read_logs(path)
        return replace(make_scores(frame, None, str(path)), notes=notes)
    table = read_file(path)
    has_lines = path.suffix.lower() in (*TEXT, ".jsonl")
    return make_scores(table, columns, str(path), table.index if has_lines else None)


def make_scores(
    table: pd.DataFrame, columns: Columns | None, where: str = "the table", numbers: pd.Index[int] | None = None
) -> Scores:
    """Checks a frame of scores; `columns` as in `read_scores`. `numbers` are those of its rows in messages, by default
    from 1 on. Raises RequestError, with `where` in front."""
    if table.columns.nlevels > 1:
        raise RequestError(f"{where}: its columns have {table.columns.nlevels} levels; give each column one name")
    if not isinstance(columns, Mapping | None):
        raise RequestError(f"columns: must be a mapping such as {{'arm': 'commit'}} (it is {columns!r})")
    table = table.set_axis(pd.RangeIndex(1, len(table) + 1) if numbers is None else numbers)
    names, by_benchmark = _own_names(columns or {})
    table = _named(table, names, where, by_benchmark)
    notes = []
    for own in table.columns:
        name = OTHER_NAMES.get(own.lower())
        if name and name not in table:
            notes.append(f"The column {own!r} is not read; --columns {name}={own} would.")
    if "status" in table:
        table, of_status = _finished(table)
        notes += of_status
    if table.empty:
        raise RequestError(f"{where}: has no rows, or by its column of status none of a finished run")
    if by_benchmark:
        table, of_empty = _one_score_a_row(table, by_benchmark, where)
        notes += of_empty
    frame = pd.DataFrame(index=table.index)
    for name in ("arm", "benchmark", "question", "shots", "seed"):
        frame[name] = labels(table[name], name, where) if name in table else ""
    is_ours = set(table) >= OURS and set(table["family"].map(str)) <= set(get_args(Family))
    frame["family"] = table["family"] if is_ours else ""
    unread = [name for name in table.columns if name not in KNOWN and not (is_ours and name in OURS)]
    paired = "seed" in table
    frame["repeat"], of_runs = (0, []) if paired else numbers_of_runs(table, frame)
    notes += of_runs
    if by_benchmark:  # after the runs were numbered, as an empty cell is a run that lacks the benchmark
        is_scored = ~table["score"].map(_is_blank)
        table, frame = table[is_scored], frame[is_scored]
    frame = frame.assign(score=_numbers(table["score"], where))
    if not paired:
        notes += [*check_independent(table[unread], frame, where), *copies(frame)]
    doubled = frame.duplicated(KEY)
    if doubled.any():
        twice = frame[doubled].iloc[0]
        cell = ", ".join(f"{name} {twice[name]}" for name in KEY if name in table)
        raise RequestError(f"{where}: row {frame.index[doubled][0]} is a second score of {cell}; leave one of them out")
    if frame["arm"].nunique() < 2:
        raise RequestError(f"{where}: has one arm, {frame['arm'].iloc[0]!r}, so there is nothing to compare")
    return Scores(frame[[*KEY, "family", "score"]].reset_index(drop=True), paired, notes)


def _own_names(columns: Columns) -> tuple[dict[str, str], list[str]]:
    """The table's names for columns, and those of its scores if each benchmark has a column. Raises RequestError."""
    names = {}
    by_benchmark = []
    for name, own in columns.items():
        if not isinstance(own, list | tuple):
            names[name] = str(own)
        elif name == "score":
            by_benchmark = [str(one) for one in own]
        else:
            raise RequestError(f"columns: {name!r} is one column; only 'score' may be several")
    return names, by_benchmark


def _finished(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The rows of finished runs, by the column `status`; and notes on it."""
    notes = []
    status = table["status"].fillna("").astype(str).str.strip()
    unfinished = status.map(_is_unfinished)
    if unfinished.any():
        left_out = some(sorted(set(status[unfinished])))
        notes.append(f"Left out {int(unfinished.sum())} of {len(table)} rows by their status ({left_out}).")
    if counted := sorted(set(status[~unfinished]) - {""}):
        notes.append(f"Rows that count have the status {some(counted)}.")
    return table[~unfinished], notes


def _is_unfinished(status: str) -> bool:
    """Whether a status is, or begins with, one to three words that are among `UNFINISHED`, as `out of memory: killed`
    does."""
    words = re.findall("[a-z]+", re.split(r"[^\w\s-]|\d", status.lower())[0])
    return any(UNFINISHED.fullmatch("".join(words[:count])) for count in (1, 2, 3))


def _is_blank(cell: Any) -> bool:
    is_missing = np.ndim(cell) == 0 and pd.isna(cell)
    return bool(is_missing) or not str(cell).strip()


def _one_score_a_row(table: pd.DataFrame, scores: list[str], where: str) -> tuple[pd.DataFrame, list[str]]:
    """A table with a column per benchmark as one with a row per score, and a note on rows without any, which are left
    out. The rows keep their numbers."""
    notes = []
    is_empty = table[scores].map(_is_blank).all(axis=1)
    if is_empty.all():
        raise RequestError(f"{where}: the columns {some(scores)} are empty")
    if is_empty.any():
        arms = some(list(dict.fromkeys(table["arm"][is_empty].map(str))))
        notes.append(f"Left out {int(is_empty.sum())} of {len(table)} rows, which have none of the scores ({arms}).")
    table = table[~is_empty]
    names_shots = "shots" not in table and all(map(WITH_SHOTS.fullmatch, scores))
    asked: dict[tuple[str, str], str] = {}
    for own in scores:
        named = WITH_SHOTS.fullmatch(own) if names_shots else None
        key = (named[1], named[2]) if named else (own, "")
        if key in asked:
            raise RequestError(f"{where}: {asked[key]!r} and {own!r} are the same benchmark and shots; leave one out")
        asked[key] = own
    others = table.drop(columns=[*scores, "score"], errors="ignore")
    before = labels(table["benchmark"], "benchmark", where) + " " if "benchmark" in table else ""
    rows = []
    for (benchmark, shots), own in asked.items():
        part = others.assign(benchmark=before + benchmark, score=table[own].astype(object))
        rows.append(part.assign(shots=shots) if shots else part)
    return pd.concat(rows), notes


def _named(table: pd.DataFrame, columns: Mapping[str, str], where: str, scores: list[str]) -> pd.DataFrame:
    """The table with the lab's names for its columns, but those of `scores`, a column per benchmark."""
    table = table.rename(columns=lambda name: str(name).strip())
    for name in columns:
        if name not in KNOWN:
            raise RequestError(f"--columns: there is no {name!r}{nearest(name, KNOWN)}")
    for own in (*columns.values(), *scores):
        if own not in table:
            raise RequestError(f"{where}: has no column {own!r}{nearest(own, list(table.columns))}")
    renamed: dict[str, str] = {}
    for name, own in columns.items():
        if own in renamed:
            raise RequestError(f"--columns: {own!r} cannot be both {renamed[own]} and {name}")
        renamed[own] = name
    for own in scores:
        if own in renamed:
            raise RequestError(f"--columns: {own!r} is named twice")
    for own in table.columns.difference(scores, sort=False):  # `Seed`, as spreadsheets begin names
        name = own.lower()
        if name in KNOWN and name not in columns and name not in table and own not in renamed:
            renamed[own] = name
    replaced = [name for name in renamed.values() if name in table and name not in renamed]
    table = table.drop(columns=replaced).rename(columns=renamed)
    for name in NEEDED:
        if name not in table and not (name == "score" and scores):
            held = ", ".join(map(str, table.columns[:12])) or "none"
            raise RequestError(
                f"{where}: has no column {name!r} (it has {held}); name it with --columns {name}=COLUMN; of a column "
                "per benchmark, name each: --columns score=FIRST,score=SECOND"
            )
    for name in table.columns[table.columns.duplicated()]:  # of a frame; in a file `read_csv` has found them
        raise RequestError(f"{where}: has the column {name!r} twice")
    return table


def _numbers(column: pd.Series[Any], where: str) -> pd.Series[float]:
    # as objects, dates are no numbers
    numbers = pd.to_numeric(column.astype(object), errors="coerce").astype(np.float64)
    wrong = ~(numbers.abs() < 1e100).to_numpy()  # the squares of larger ones overflow
    if wrong.any():
        place = column.index[wrong][0]
        value = str(column[wrong].iloc[0]).strip()
        raise RequestError(
            f"{where}: the score of row {place} is {value[:40]!r}, not a number such as 50.1 (with a point, no "
            "percent sign); leave the row out, or name a column that says which runs crashed: --columns status=COLUMN"
        )
    return numbers


def labels(column: pd.Series[Any], name: str, where: str) -> pd.Series[str]:
    """Names and numbers as text; seeds and shots that are whole numbers without `.0`, as spreadsheets write them."""
    cells = column.astype(object).where(column.notna(), "")
    texts = cells.map(str).str.strip()
    empty = texts == ""
    if empty.any():
        raise RequestError(f"{where}: row {texts.index[empty][0]} has no {name}")
    if name in ("seed", "shots"):
        texts = texts.str.replace(r"\.0+$", "", regex=True)
    if name == "shots":
        wrong = texts[~texts.str.fullmatch(r"\d{1,4}")]
        for place, value in wrong.items():
            raise RequestError(f"{where}: the shots of row {place} are {value!r}; they must be a whole number")
    return texts
