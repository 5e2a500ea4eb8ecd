"""A trial's answers, one row per question and number of shots, in `scores.parquet`."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, get_type_hints

from mm1_lab.files import new_file
from mm1_lab.results.schema import FOLDER_AGAIN, cannot_read
from mm1_lab.rows import ScoreRow

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

SCORES = "scores.parquet"
OF_CONVERSATIONS, KINDS_BEFORE = "chat-vqa", {"color": "colour", "the": "place", "thing": "shape"}
"""A benchmark of the world, and kinds of its questions as earlier versions wrote them."""
SCORE_COLUMNS = tuple(field.name for field in fields(ScoreRow))
NO_ANSWERS = tuple(name for name in SCORE_COLUMNS if name != "prediction")
CATEGORIES = {"benchmark", "family", "metric", "question", "kind"}
"""Columns of few texts."""
PAGE = 64 << 20
"""Bytes of a page, so large that a column is compressed as a whole."""


def write_scores(folder: Path, rows: Sequence[ScoreRow]) -> None:
    """Writes a trial's rows; equal rows give equal bytes."""
    import pyarrow as pa

    columns = {name: [getattr(row, name) for row in rows] for name in SCORE_COLUMNS}
    _write(folder / SCORES, pa.table(columns, schema=_schema()), level=19)


def read_score_table(folder: Path) -> pd.DataFrame:
    """A trial's rows with SCORE_COLUMNS. Raises RequestError if the file cannot be read or lacks a column."""
    import pandas as pd
    import pyarrow as pa

    texts = {pa.string(): pd.StringDtype()}
    table = _read(folder).to_pandas(types_mapper=texts.get).astype({"score": float})
    _rename_kinds(table)
    return table


def read_short_tables(folders: Sequence[Path], columns: Sequence[str] = NO_ANSWERS) -> pd.DataFrame:
    """The rows of several trials one after another, with the trial's place among `folders` in the column `trial`:
    without the answers themselves and with texts as categories, so that reading takes a fifth of the time."""
    import numpy as np
    import pyarrow as pa

    texts = [name for name in columns if name in CATEGORIES]
    tables = [_read(folder, columns, texts) for folder in folders]
    frame = pa.concat_tables(tables).unify_dictionaries().to_pandas().astype({"score": float})
    if {"benchmark", "kind"} <= set(columns):
        _rename_kinds(frame)
    frame.insert(0, "trial", np.repeat(np.arange(len(tables)), [len(table) for table in tables]))
    return frame


def _rename_kinds(table: pd.DataFrame) -> None:
    """Calls the kinds of conversations' questions as today."""
    from pandas.api.types import pandas_dtype

    before = (table["benchmark"] == OF_CONVERSATIONS) & table["kind"].isin(list(KINDS_BEFORE))
    if before.any():
        kinds = table["kind"].astype(object)
        kinds[before] = kinds[before].map(KINDS_BEFORE)
        table["kind"] = kinds.astype(pandas_dtype(table["kind"].dtype.name))


def pack_scores(path: Path, trials: Iterable[Path]) -> None:
    """Writes the rows of several trials' folders to one file; equal rows give equal bytes."""
    import pyarrow as pa

    tables = []
    for folder in trials:
        table = _read(folder)
        tables.append(table.append_column("trial", pa.array([folder.name] * len(table))))
    table = pa.concat_tables(tables)  # of dozens of trials a third smaller than sorted by question
    repetitive = [name for name in table.column_names if name not in ("score", "prediction")]
    _write(path, table, level=19, dictionaries=repetitive)


def unpack_scores(path: Path, wanted: Container[str]) -> Iterator[tuple[str, pa.Table]]:
    """The rows of each of the `wanted` trials in a file of `pack_scores`, for `write_table`."""
    import pyarrow.parquet as pq

    table = pq.ParquetFile(path).read(use_threads=False)
    if "row" in table.column_names:  # an earlier pack, sorted by question
        table = table.sort_by([("trial", "ascending"), ("row", "ascending")])
    start = 0
    # a trial's rows stand together, and values are counted in the order in which they first appear
    for of_trial in table["trial"].value_counts().to_pylist():
        trial, count = of_trial["values"], of_trial["counts"]
        if trial in wanted:
            yield trial, table.slice(start, count).select(SCORE_COLUMNS)
        start += count


def write_table(folder: Path, table: pa.Table) -> None:
    _write(folder / SCORES, table.cast(_schema()), level=1)


def _write(path: Path, table: pa.Table, level: int, dictionaries: Sequence[str] = ()) -> None:
    """Without dictionaries by default: a column's own values compress best, with them a trial takes 14 % more."""
    import pyarrow.parquet as pq

    with new_file(path) as temporary:
        pq.write_table(
            table,
            temporary,
            row_group_size=max(1, len(table)),
            data_page_size=PAGE,
            dictionary_pagesize_limit=PAGE,
            compression="zstd",
            compression_level=level,
            use_dictionary=list(dictionaries) or False,
            write_statistics=False,
            store_schema=False,
        )


def _read(folder: Path, columns: Sequence[str] = SCORE_COLUMNS, categories: Sequence[str] = ()) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / SCORES
    try:
        # Arrow's pool of a single thread (OMP_NUM_THREADS=1, as in tests and workers) has waited for itself for ever
        file = pq.ParquetFile(path, read_dictionary=categories)
        return file.read(columns, use_threads=False).select(columns)
    except (OSError, pa.ArrowException, KeyError) as error:
        raise cannot_read(path, error, FOLDER_AGAIN) from None


def _schema() -> pa.Schema:
    import pyarrow as pa

    # Scores have seven digits, as those of float32 models do, and half the bytes.
    kinds = {str: pa.string(), int: pa.int64(), bool: pa.bool_(), float: pa.float32()}
    hints = get_type_hints(ScoreRow)
    return pa.schema([(name, kinds[hints[name]]) for name in SCORE_COLUMNS])
