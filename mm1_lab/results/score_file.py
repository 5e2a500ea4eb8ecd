"""A trial's answers, one row per question and number of shots, in `scores.parquet`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, get_type_hints

from mm1_lab.config import RequestError
from mm1_lab.files import new_file
from mm1_lab.rows import ScoreRow

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

SCORES = "scores.parquet"
SCORE_COLUMNS = tuple(field.name for field in fields(ScoreRow))


def write_scores(folder: Path, rows: Sequence[ScoreRow]) -> None:
    """Writes a trial's rows; equal rows give equal bytes. Probabilities are rounded to three digits."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {name: [getattr(row, name) for row in rows] for name in SCORE_COLUMNS}
    # more digits would be a third of the file
    columns["reference_probability"] = [
        value if value is None else float(f"{value:.3g}") for value in columns["reference_probability"]
    ]
    table = pa.table(columns, schema=_schema())
    with new_file(folder / SCORES) as path:
        # A column's own values compress best: with dictionaries a trial takes 14 % more.
        pq.write_table(
            table,
            path,
            compression="zstd",
            compression_level=19,
            use_dictionary=False,
            write_statistics=False,
            store_schema=False,
        )


def read_rows(folder: Path) -> list[ScoreRow]:
    """A trial's rows as they were written."""
    return [ScoreRow(**row) for row in _read(folder).to_pylist()]


def read_score_table(folder: Path) -> pd.DataFrame:
    """A trial's rows with SCORE_COLUMNS; NaN where there is no content or probability.

    Raises RequestError if the file cannot be read or lacks a column.
    """
    import pandas as pd
    import pyarrow as pa

    table: pd.DataFrame = _read(folder).to_pandas(types_mapper={pa.string(): pd.StringDtype()}.get)
    return table.astype({name: float for name, type_ in table.dtypes.items() if type_ == "float32"})


def _read(folder: Path) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / SCORES
    try:
        table = pq.read_table(path, partitioning=None)  # a folder named `train.steps=350` is no column
    except (OSError, pa.ArrowException) as error:
        raise RequestError(f"{path}: cannot be read ({error}); delete its folder and run the sweep again") from None
    if missing := [name for name in SCORE_COLUMNS if name not in table.column_names]:
        raise RequestError(f"{path}: lacks the column {missing[0]!r}; delete its folder and run the sweep again")
    return table.select(SCORE_COLUMNS)


def _schema() -> pa.Schema:
    import pyarrow as pa

    # Scores have seven digits, as those of float32 models do, and half the bytes.
    kinds = {str: pa.string(), int: pa.int64(), bool: pa.bool_(), float: pa.float32(), float | None: pa.float32()}
    hints = get_type_hints(ScoreRow)
    return pa.schema([(name, kinds[hints[name]]) for name in SCORE_COLUMNS])
