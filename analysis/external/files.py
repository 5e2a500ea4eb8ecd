"""Reads a file with a table as it is; what its cells mean is for others."""

import csv
import json
import re
from pathlib import Path

import pandas as pd

from mm1_lab.config import RequestError
from mm1_lab.formatting import first_line

TEXT = (".csv", ".tsv", ".txt")


def read_file(path: Path) -> pd.DataFrame:
    """A table, by the numbers of its rows in the file if that has lines. Raises RequestError."""
    if not path.exists():
        raise RequestError(f"{path}: there is no such file")
    ending = path.suffix.lower()
    try:
        if ending == ".parquet":
            return pd.read_parquet(path)
        if ending == ".jsonl":
            return _read_lines(path)
        if ending == ".json":
            told = json.loads(path.read_bytes())
            if not isinstance(told, list | dict):
                raise ValueError("must be a list of objects, a row each")
            return pd.DataFrame(told)
        if ending in TEXT:
            return read_csv(path)
    except UnicodeDecodeError:
        raise RequestError(f"{path}: is not in UTF-8; save it as such") from None
    except (ValueError, TypeError, AttributeError, OSError, RecursionError) as error:
        raise RequestError(f"{path}: cannot be read as a table ({first_line(error)})") from None
    raise RequestError(f"{path}: is no table; give a .csv, .tsv, .json, .jsonl or .parquet file, or a folder of logs")


def _read_lines(path: Path) -> pd.DataFrame:
    """JSON Lines, by the numbers of their lines. Raises ValueError or OSError."""
    rows = {}
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), 1):
        if not line.strip():
            continue
        try:
            rows[number] = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{error.msg}: line {number} column {error.colno}") from None
        if not isinstance(rows[number], dict):
            raise ValueError(f"must be an object, {{…}}: line {number}")
    return pd.DataFrame(list(rows.values()), index=list(rows))


def read_csv(path: Path) -> pd.DataFrame:
    """Reads a table separated by commas, semicolons or tabs, with every cell as text, so that a value that is no number
    can be named. Its index is the rows of the file, from 1 on; empty ones are left out. Raises ValueError or OSError.
    """
    above = 0
    with path.open(encoding="utf-8-sig") as file:
        while (head := file.readline()) and not head.strip(",; \t\n"):
            above += 1
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
            skiprows=above,
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
    table.index += above + 2
    is_empty = (table.map(str.strip) == "").all(axis=1)
    return table[~is_empty].rename(columns=str.strip)
