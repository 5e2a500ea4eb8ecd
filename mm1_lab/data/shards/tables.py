"""Reads rows of users' tables as plain values: Parquet, Arrow (Hugging Face `datasets`), JSON Lines, CSV.

Every error is a RequestError that names the file, the place in it and the remedy.
"""

import csv
import io
import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from mm1_lab.config import RequestError
from mm1_lab.formatting import first_line

COMPRESSED = {".gz": "gzip", ".zst": "zstd"}
"""How JSON Lines of this ending are compressed."""
TABLES = (".parquet", ".arrow", ".jsonl", ".csv", *COMPRESSED)
BATCH = 64
"""Rows of a Parquet or Arrow file converted to plain values at once; kept low as rows may contain images."""
ESCAPED = 12
"""Maximum bytes of a character in JSON."""
SPARE = 1 << 16
"""Bytes allowed for a line of JSON in addition to its text."""
csv.field_size_limit(sys.maxsize)  # by default 128 KiB; readers skip and count texts that are too long
Row = dict[str, Any]
Columns = Mapping[str, tuple[str, ...]]
"""Field name → the column names under which it may be found."""

OPTIONAL: Columns = {"key": ("key", "id", "__key__"), "status": ("status",)}
"""The user's key of a sample, and whether img2dataset could fetch it."""


@dataclass
class Reading:
    """The file being read, and the number of samples skipped so far, by reason."""

    path: Path
    longest: int
    """Maximum length of a document in characters."""
    left_out: Counter[str] = field(default_factory=Counter)


def read_rows(
    reading: Reading, columns: Columns, optional: Columns = OPTIONAL, *, every_row: bool = True
) -> Iterator[tuple[str, Row]]:
    """Yields each row's place (for messages) and its required and optional fields under their standard names.

    Raises RequestError if a required field is missing from a row or, unless `every_row`, from the first one.
    """
    wanted = {**columns, **optional}
    for number, (where, row) in enumerate(_READ[reading.path.suffix](reading, columns, optional)):
        found = {name: alias for name, aliases in wanted.items() for alias in reversed(aliases) if alias in row}
        if every_row or not number:
            _check(where, list(row), columns)
        yield where, {name: row[alias] for name, alias in found.items()}


def _check(where: str, names: Sequence[object], columns: Columns) -> None:
    for aliases in columns.values():
        if not any(alias in names for alias in aliases):
            has = ", ".join(map(str, names[:20]))[:200] or "nothing"
            raise RequestError(f"{where}: has no column {aliases[0]!r} (it has {has})")


def _parquet(reading: Reading, columns: Columns, optional: Columns) -> Iterator[tuple[str, Row]]:
    try:
        parquet = pq.ParquetFile(reading.path)
        there = parquet.schema_arrow.names
    except Exception as error:  # Arrow raises many kinds for a damaged footer
        raise RequestError(f"{reading.path}: is cut off or not Parquet ({first_line(error)}); fetch it again") from None
    names = _chosen(reading.path, there, columns, optional)
    return _numbered(reading.path, parquet.iter_batches(batch_size=BATCH, columns=names))


def _arrow(reading: Reading, columns: Columns, optional: Columns) -> Iterator[tuple[str, Row]]:
    try:
        stream = pa.ipc.open_stream(pa.memory_map(str(reading.path)))
        there = stream.schema.names
    except Exception as error:
        raise RequestError(
            f"{reading.path}: is cut off or not an Arrow stream ({first_line(error)}); fetch it again"
        ) from None
    names = _chosen(reading.path, there, columns, optional)

    def pieces() -> Iterator[pa.RecordBatch]:
        for batch in stream:
            batch.validate(full=True)  # invalid offsets would crash the process
            yield from (batch.slice(at, BATCH).select(names) for at in range(0, batch.num_rows, BATCH))

    return _numbered(reading.path, pieces())


def _chosen(path: Path, names: list[str], columns: Columns, optional: Columns) -> list[str]:
    _check(str(path), names, columns)
    return [alias for aliases in (*columns.values(), *optional.values()) for alias in aliases if alias in names]


def _numbered(path: Path, batches: Iterator[pa.RecordBatch]) -> Iterator[tuple[str, Row]]:
    number = 0
    try:
        for batch in batches:
            for row in batch.to_pylist():
                yield f"{path}, row {number}", row
                number += 1
    except Exception as error:  # Arrow's errors, and UnicodeDecodeError
        raise RequestError(f"{path}: is damaged after row {number} ({first_line(error)}); fetch it again") from None


def _jsonl(reading: Reading, columns: Columns, optional: Columns) -> Iterator[tuple[str, Row]]:
    most = ESCAPED * reading.longest + SPARE
    with _open(reading.path) as stream:
        number = 0
        while text := _line(stream, most, reading.path, number):
            number += 1
            where = f"{reading.path}, line {number}"
            if len(text) == most and not text.endswith(b"\n"):
                while (rest := _line(stream, most, reading.path, number)) and not rest.endswith(b"\n"):
                    pass
                reading.left_out["too long"] += 1
            elif text.strip():
                row = parse_json(text, where)
                if not isinstance(row, dict):
                    raise RequestError(f"{where}: must be an object, but is a {type(row).__name__}; repair it")
                yield where, row


def _open(path: Path) -> BinaryIO:
    """The bytes of the file, decompressed."""
    if path.suffix not in COMPRESSED:
        return path.open("rb")
    return io.BufferedReader(pa.input_stream(str(path), compression=COMPRESSED[path.suffix]), SPARE)


def _line(stream: BinaryIO, most: int, path: Path, after: int) -> bytes:
    """The next line, or `most` bytes of it."""
    try:
        return stream.readline(most)
    except OSError as error:
        raise RequestError(f"{path}: cannot be read after line {after} ({first_line(error)}); fetch it again") from None


def _csv(reading: Reading, columns: Columns, optional: Columns) -> Iterator[tuple[str, Row]]:
    with reading.path.open(encoding="utf-8-sig", newline="") as stream:
        table = csv.DictReader(stream)
        try:
            for row in table:
                yield f"{reading.path}, line {table.line_num}", row
        except (csv.Error, UnicodeDecodeError) as error:
            # text is decoded in blocks, before it is divided into lines
            is_encoding = isinstance(error, UnicodeDecodeError)
            where = f"{reading.path}, line {_first_not_utf_8(reading.path) if is_encoding else table.line_num + 1}"
            raise RequestError(f"{where}: is not CSV in UTF-8 ({first_line(error)}); repair it") from None


def _first_not_utf_8(path: Path) -> int:
    """Number of the first line that is not UTF-8."""
    with path.open("rb") as stream:
        return next(
            number for number, line in enumerate(stream, start=1) if line.decode(errors="ignore").encode() != line
        )


_READ = {".parquet": _parquet, ".arrow": _arrow, ".jsonl": _jsonl, ".csv": _csv, **dict.fromkeys(COMPRESSED, _jsonl)}


def parse_json(text: bytes, where: str) -> Any:
    """Parses `text`. Raises RequestError if it is not JSON."""
    try:
        return json.loads(text.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:  # also for huge numbers and deep nesting
        raise RequestError(f"{where}: is not JSON ({first_line(error)}); repair or remove it") from None
