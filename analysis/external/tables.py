"""Reads a table of scores that the lab did not make, and refuses what cannot be compared."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd

from mm1_lab.config import RequestError, nearest
from mm1_lab.formatting import first_line
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
OF_ONE_RUN = re.compile(
    "seed|random|question|doc|sample|item|subject|task|dataset|metric|split|fold|step|epoch|iter|checkpoint|ckpt|prompt"
)
"""In names of columns that may tell scores of one run apart."""
OF_RUNS = re.compile("run|rep|trial|attempt|try|number|index|unnamed")
"""How names of columns begin that number an arm's independent runs."""
OURS = {"family", "metric"}
"""Columns of a table of this lab."""
ASKED = ["benchmark", "shots", "question"]
KEY = ["arm", "seed", "repeat", *ASKED]


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


def read_scores(scores: Path | str | pd.DataFrame, columns: Columns | None = None) -> Scores:
    """Reads a frame, a file, or a folder with logs of lmms-eval or lm-evaluation-harness.

    `columns` is for what is called otherwise in the table than in `KNOWN`. Raises RequestError.
    """
    if isinstance(scores, pd.DataFrame):
        return make_scores(_numbered(scores), columns, "the table")
    path = Path(scores)
    if path.is_dir():
        from analysis.external.logs import read_logs

        if columns:
            raise RequestError(f"{path}: --columns is for tables; the columns of a harness's logs are known")
        frame, notes = read_logs(path)
        return replace(make_scores(_numbered(frame), None, str(path)), notes=notes)
    if not path.exists():
        raise RequestError(f"{path}: there is no such file")
    reader = READERS.get(path.suffix.lower())
    if not reader:
        raise RequestError(
            f"{path}: is no table; give a .csv, .tsv, .json, .jsonl or .parquet file, or a folder of logs"
        )
    try:
        table = reader(path)
    except UnicodeDecodeError:
        raise RequestError(f"{path}: is not in UTF-8; save it as such") from None
    except (ValueError, TypeError, AttributeError, OSError, RecursionError) as error:
        raise RequestError(f"{path}: cannot be read as a table ({first_line(error)})") from None
    return make_scores(table, columns, str(path))


def _numbered(table: pd.DataFrame) -> pd.DataFrame:
    """The table with rows that count from 1 on."""
    return table.set_axis(pd.RangeIndex(1, len(table) + 1))


def _read_json(path: Path) -> pd.DataFrame:
    return _numbered(pd.DataFrame(json.loads(path.read_bytes())))


def _read_jsonl(path: Path) -> pd.DataFrame:
    rows = {}
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), 1):
        if line.strip():
            try:
                rows[number] = dict(json.loads(line))
            except (ValueError, TypeError) as error:
                raise ValueError(f"line {number} is no object: {getattr(error, 'msg', error)}") from None
    return pd.DataFrame(list(rows.values()), index=list(rows))


def read_csv(path: Path) -> pd.DataFrame:
    """Reads a table separated by commas, semicolons or tabs, with every cell as text, so that a value that is no number
    can be named. Its index is the rows of the file, from 1 on; empty ones are left out. Raises ValueError or OSError.
    """
    with path.open(encoding="utf-8-sig") as file:
        head = file.readline()
    separator = max(",;\t", key=re.sub('"[^"]*"', "", head).count)
    names = [name.strip() for name in next(csv.reader([head], delimiter=separator), [])]
    if twice := [name for name in names if name and names.count(name) > 1]:  # pandas would rename the second one
        raise ValueError(f"the column {twice[0]!r} is there twice; leave one out")

    def read(has_quotes: bool) -> pd.DataFrame:
        return pd.read_csv(
            path,
            sep=separator,
            quoting=csv.QUOTE_MINIMAL if has_quotes else csv.QUOTE_NONE,
            dtype=str,
            keep_default_na=False,
            skipinitialspace=True,
            skip_blank_lines=False,
            encoding="utf-8-sig",
        )

    try:
        table = read(has_quotes=True)
    except pd.errors.ParserError:
        if separator != "\t":
            raise
        table = read(has_quotes=False)
    if separator == "\t" and table.map(lambda cell: "\n" in cell).any(axis=None):
        table = read(has_quotes=False)  # a remark began with a quote, which swallowed rows up to the next one
    if not isinstance(table.index, pd.RangeIndex):  # pandas takes the first cells of such rows for names of rows
        raise ValueError("a row has more cells than the header; name every column, or remove cells")
    table.index += 2
    is_empty = (table.map(str.strip) == "").all(axis=1)
    return table[~is_empty].rename(columns=str.strip)


READERS: dict[str, Callable[[Path], pd.DataFrame]] = {
    ".csv": read_csv,
    ".tsv": read_csv,
    ".txt": read_csv,
    ".json": _read_json,
    ".jsonl": _read_jsonl,
    ".parquet": lambda path: _numbered(pd.read_parquet(path)),
}


def make_scores(table: pd.DataFrame, columns: Columns | None, where: str) -> Scores:
    """Checks a frame of scores; `columns` as in `read_scores`, and its index has the numbers of rows in messages.

    Raises RequestError, with `where` in front.
    """
    names = dict(columns or {})
    of_benchmarks: list[str] = []
    if not isinstance(names.get("score", ""), str):
        of_benchmarks = list(names.pop("score"))
    table = _named(table, names, of_benchmarks, where)
    notes: list[str] = []
    table = _finished(table, notes)
    if of_benchmarks:
        is_empty = table[of_benchmarks].map(_is_blank).all(axis=1)
        if is_empty.any():
            arms = some(list(dict.fromkeys(table["arm"][is_empty].map(str))))
            notes.append(
                f"Left out {int(is_empty.sum())} of {len(table)} rows, which have none of the scores ({arms})."
            )
        table = _one_score_a_row(table[~is_empty], of_benchmarks, where)
    if table.empty:
        raise RequestError(f"{where}: has no row of a finished run with a score")
    named = [name for name in ("arm", "seed", *ASKED) if name in table]
    paired = "seed" in named
    is_ours = set(table) >= OURS and set(table["family"]) <= set(get_args(Family))
    if not is_ours:
        table = table.assign(family="")
    for name in ("arm", "seed", *ASKED):
        table = table.assign(**{name: labels(table[name], name, where) if name in named else ""})
    table = table.assign(repeat=0 if paired else table.groupby(["arm", *ASKED]).cumcount())
    if of_benchmarks:  # after the runs were numbered, as an empty cell is a run that lacks the benchmark
        table = table[~table["score"].map(_is_blank)]
    table = table.assign(score=_numbers(table["score"], where))
    if not paired:
        notes += _check_independent(table, where)
    doubled = table[table.duplicated(KEY)]
    if len(doubled):
        cell = ", ".join(f"{name} {doubled[name].iloc[0]}" for name in named)
        raise RequestError(
            f"{where}: row {doubled.index[0]} is a second score of {cell}; leave one of them out, or name what tells "
            "them apart, such as --columns benchmark=COLUMN"
        )
    if table["arm"].nunique() < 2:
        raise RequestError(f"{where}: has one arm, {table['arm'].iloc[0]!r}, so there is nothing to compare")
    return Scores(table[[*KEY, "family", "score"]].reset_index(drop=True), paired, notes)


def _finished(table: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """The rows that count by their status; adds notes on it."""
    if "status" not in table:
        return table
    status = table["status"].fillna("").astype(str).str.strip()
    unfinished = status.map(_is_unfinished)
    if unfinished.any():
        left_out = some(sorted(set(status[unfinished])))
        notes.append(f"Left out {int(unfinished.sum())} of {len(table)} rows by their status ({left_out}).")
    if counted := sorted(set(status[~unfinished]) - {""}):
        notes.append(f"Rows that count have the status {some(counted)}.")
    return table[~unfinished]


def _check_independent(table: pd.DataFrame, where: str) -> list[str]:
    """Notes on columns that tell an arm's repeats apart, in every arm by the same values, as seeds, questions or
    checkpoints do, whose scores are no independent runs. Raises RequestError for one that is called like these."""
    repeats = table[table.duplicated(["arm", *ASKED], keep=False)]
    if repeats["arm"].nunique() < 2:
        return []
    known = {*KNOWN, *OURS} if repeats["family"].iloc[0] else KNOWN
    unread = [name for name in table.columns if name not in known]
    suspect = [name for name in unread if OF_ONE_RUN.search(name.lower())]
    for names in [*([name] for name in suspect), suspect]:
        if names and _tell_apart(repeats, names):
            raise RequestError(
                f"{where}: an arm's rows differ in {' and '.join(map(repr, names))}, by the same values in every arm, "
                f"so they may be no independent runs; say what it is, --columns seed={names[0]} (or question, "
                "benchmark, shots), or leave it out if they are"
            )
    notes = []
    for name in unread:
        if not OF_RUNS.match(re.sub("[^a-z]", "", name.lower())) and _tell_apart(repeats, [name]):
            notes.append(
                f"An arm's rows differ in {name!r}, by the same values in every arm: if it is a seed, say --columns "
                f"seed={name}."
            )
    return notes


def _tell_apart(repeats: pd.DataFrame, columns: list[str]) -> bool:
    """Whether columns tell the repeats of each arm apart, by values of which arms share most; three or more, as two may
    be the same by chance."""
    rows = repeats[columns].itertuples(index=False)
    values = repeats.assign(value=[repr(tuple(map(str, row))) for row in rows])
    if values.duplicated(["arm", *ASKED, "value"]).any():
        return False
    first, *others = (set(own) for _, own in values.groupby("arm")["value"])
    for other in others:
        fewer = min(len(first), len(other))
        if fewer < 3 or 2 * len(first & other) <= fewer:
            return False
    return True


def _is_unfinished(status: str) -> bool:
    """Whether a status is, or begins with, one to three words that are among `UNFINISHED`, as `out of memory: killed`
    does."""
    words = re.findall("[a-z]+", re.split(r"[^\w\s-]|\d", status.lower())[0])
    return any(UNFINISHED.fullmatch("".join(words[:count])) for count in (1, 2, 3))


def some(names: Sequence[str]) -> str:
    """At most five of the names."""
    more = [f"{len(names) - 5} more"] if len(names) > 5 else []
    return ", ".join([*names[:5], *more])


def _is_blank(cell: Any) -> bool:
    is_missing = np.ndim(cell) == 0 and pd.isna(cell)
    return bool(is_missing) or not str(cell).strip()


def _one_score_a_row(table: pd.DataFrame, scores: list[str], where: str) -> pd.DataFrame:
    """A table with a column per benchmark as one with a row per score. The rows keep their numbers."""
    others = table.drop(columns=[*scores, "score"], errors="ignore")
    before = labels(table["benchmark"], "benchmark", where) + " " if "benchmark" in table else ""
    return pd.concat([others.assign(benchmark=before + own, score=table[own].astype(object)) for own in scores])


def _named(table: pd.DataFrame, columns: Mapping[str, Any], scores: list[str], where: str) -> pd.DataFrame:
    """The table with the lab's names for its columns, but those of `scores`, a column per benchmark."""
    table = table.rename(columns=lambda name: str(name).strip())
    named = [*columns.values(), *scores]
    for name in columns:
        if name not in KNOWN:
            raise RequestError(f"--columns: there is no {name!r}{nearest(name, KNOWN)}")
    for own in named:
        if own not in table:
            raise RequestError(f"{where}: has no column {own!r}{nearest(str(own), list(table.columns))}")
        if named.count(own) > 1:
            raise RequestError(f"--columns: {own!r} is named twice")
    ours = {own: name for name, own in columns.items()}
    for own in table.columns.difference(named, sort=False):  # `Seed`, as spreadsheets begin names
        name = own.lower()
        if name in KNOWN and name not in table and name not in ours.values():
            ours[own] = name
    replaced = [name for name in ours.values() if name in table and name not in ours]
    table = table.drop(columns=replaced).rename(columns=ours)
    for name in NEEDED:
        if name not in table and not (name == "score" and scores):
            held = ", ".join(map(str, table.columns[:12])) or "none"
            raise RequestError(
                f"{where}: has no column {name!r} (it has {held}); name it with --columns {name}=COLUMN; of a column "
                "per benchmark, name each: --columns score=FIRST,score=SECOND"
            )
    return table


def _numbers(column: pd.Series[Any], where: str) -> pd.Series[float]:
    cells = column.astype(object)  # as objects, dates are no numbers
    numbers = pd.to_numeric(cells, errors="coerce").astype(np.float64)
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
    nested = cells[cells.map(np.ndim) > 0]
    if len(nested):
        raise RequestError(
            f"{where}: the {name} of row {nested.index[0]} is {str(nested.iloc[0])[:40]}, no name or number"
        )
    texts = cells.map(str).str.strip()
    empty = texts == ""
    if empty.any():
        raise RequestError(f"{where}: row {texts.index[empty][0]} has no {name}")
    if name in ("seed", "shots"):
        texts = texts.str.replace(r"\.0+$", "", regex=True)
    if name == "shots":
        wrong = texts[~texts.str.fullmatch(r"\d{1,4}")]
        if len(wrong):
            place = wrong.index[0]
            raise RequestError(f"{where}: the shots of row {place} are {wrong[place]!r}; they must be a whole number")
    return texts
