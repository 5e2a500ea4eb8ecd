"""Rows of users' files as plain values, each with its place in the file: Parquet, Arrow, JSON, JSON Lines, CSV, tars.

A row that cannot be read is yielded as `Broken`, and those after it are read on; a file that cannot be read on raises a
RequestError. Nothing in a file is ever run.
"""

import csv
import io
import json
import sys
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from mm1_lab.config import RequestError
from mm1_lab.formatting import first_line

COMPRESSED = {".gz": "gzip", ".zst": "zstd"}
"""How JSON Lines of this ending are compressed."""
TABLES = (".parquet", ".arrow", ".json", ".jsonl", ".csv", *COMPRESSED)
PICTURES = (".jpg", ".jpeg", ".png", ".webp")
"""Endings of pictures in a tar."""
BATCH = 64
"""Rows of a Parquet or Arrow file converted to plain values at once; few, as they may hold pictures."""
LONGEST_TEXT = 64 << 20
"""Bytes of a caption or a JSON file in a tar above which it is not read."""
ZERO_BLOCK = bytes(512)
csv.field_size_limit(sys.maxsize)  # by default 128 KiB; texts that are too long are left out and counted

Row = dict[str, Any]
Columns = Mapping[str, tuple[str, ...]]
"""Field → the names of columns under which it may be found."""


class Broken(Exception):
    """A row that cannot be used although it is meant to be; the message says why."""


Rows = Iterator[tuple[str, Row | Broken]]
"""The place of each row in its file, and its fields."""


def read_rows(path: Path, required: Columns, optional: Columns) -> Rows:
    """Yields the rows of a file with their fields under standard names.

    A required field that the first row lacks raises RequestError, and one that a later row lacks makes it `Broken`.
    """
    is_first = True
    columns = {**required, **optional}
    for place, row in _READ[path.suffix](path, [name for names in columns.values() for name in names]):
        if isinstance(row, dict):
            try:
                check_columns(path, list(row), required)
            except RequestError as error:
                if is_first:
                    raise RequestError(f"{path}, {place}: {error}") from None
                row = Broken(str(error))
            else:
                row = {field: _first(row, names) for field, names in columns.items()}
        is_first = False
        yield place, row


def _first(row: Row, names: Sequence[str]) -> Any:
    """The first of the columns that has a value."""
    return next((row[name] for name in names if row.get(name) is not None), None)


def check_columns(path: Path, there: Sequence[object], required: Columns) -> None:
    """Raises RequestError if a field has none of its columns."""
    for field, names in required.items():
        if not any(name in there for name in names):
            has = ", ".join(map(str, there[:20]))[:200] or "nothing"
            if path.suffix == ".csv" and len(there) == 1 and ";" in has:
                raise RequestError(f"its columns are divided by semicolons ({has}); separate them by commas")
            advice = (
                f"rename one to {' or '.join(names[:2])}" if field in names else "correct the name in the data file"
            )
            raise RequestError(f"has no column {names[0]!r} (it has {has}); {advice}")


def _parquet(path: Path, names: Sequence[str]) -> Rows:
    try:
        parquet = pq.ParquetFile(path)
        there = [name for name in parquet.schema_arrow.names if name in names]
    except Exception as error:  # Arrow raises many kinds for a damaged footer
        raise RequestError(f"{path}: is cut off or not Parquet ({first_line(error)}); fetch it again") from None
    return _batches(path, parquet.schema_arrow.names, parquet.iter_batches(batch_size=BATCH, columns=there))


def _arrow(path: Path, names: Sequence[str]) -> Rows:
    try:
        stream = pa.ipc.open_stream(pa.memory_map(str(path)))
        there = stream.schema.names
    except Exception as error:
        raise RequestError(f"{path}: is cut off or not an Arrow stream ({first_line(error)}); fetch it again") from None

    def pieces() -> Iterator[pa.RecordBatch]:
        for batch in stream:
            batch.validate(full=True)  # invalid offsets would crash the process
            kept = batch.select([name for name in there if name in names])
            yield from (kept.slice(at, BATCH) for at in range(0, batch.num_rows, BATCH))

    return _batches(path, there, pieces())


def _batches(path: Path, there: Sequence[str], batches: Iterable[pa.RecordBatch]) -> Rows:
    """The rows of `batches`; fields that the file has but nobody reads are there as None, for messages."""
    number = 0
    others = dict.fromkeys(there)
    try:
        for batch in batches:
            for row in batch.to_pylist():
                yield f"row {number}", {**others, **row}
                number += 1
    except (pa.ArrowException, OSError, ValueError) as error:  # UnicodeDecodeError is a ValueError
        raise RequestError(f"{path}: is damaged after row {number} ({first_line(error)}); fetch it again") from None


def _json_lines(path: Path, names: Sequence[str]) -> Rows:
    number = 0
    with path.open("rb") if path.suffix not in COMPRESSED else _decompressed(path) as stream:
        while True:
            try:
                line = stream.readline()
            except OSError as error:
                raise RequestError(
                    f"{path}: cannot be read after line {number} ({first_line(error)}); fetch it again"
                ) from None
            if not line:
                return
            number += 1
            if line.strip():
                yield f"line {number}", parse_object(line)


def _decompressed(path: Path) -> Any:
    # without Python's own buffer, each line would be a call to Arrow
    return io.BufferedReader(pa.input_stream(str(path), compression=COMPRESSED[path.suffix]), 1 << 16)


def _json(path: Path, names: Sequence[str]) -> Rows:
    """The objects of one large array; or JSON Lines, if the file does not begin with a bracket."""
    with path.open("rb") as stream:
        if not stream.read(64).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
            yield from _json_lines(path, names)
            return
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise RequestError(f"{path}: is not JSON in UTF-8 ({first_line(error)}); repair it") from None
    decoder, number = json.JSONDecoder(), 0
    at = _skip_space(text, _skip_space(text, 0) + 1)
    while text[at : at + 1] != "]":
        try:
            row, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            raise RequestError(
                f"{path}, entry {number}: is not JSON ({first_line(error)}); repair or remove it"
            ) from None
        yield f"entry {number}", _as_object(row)
        at = _skip_space(text, at)
        if text[at : at + 1] == ",":
            at = _skip_space(text, at + 1)
        number += 1


def _skip_space(text: str, at: int) -> int:
    while text[at : at + 1].isspace():
        at += 1
    return at


def parse_object(text: bytes) -> Row | Broken:
    try:
        return _as_object(json.loads(text.decode("utf-8-sig")))
    except (ValueError, RecursionError) as error:  # also for huge numbers and deep nesting
        return Broken(f"is not JSON ({first_line(error)})")


def _as_object(value: Any) -> Row | Broken:
    return value if isinstance(value, dict) else Broken(f"must be a JSON object, but is a {type(value).__name__}")


def _csv(path: Path, names: Sequence[str]) -> Rows:
    with path.open("rb") as stream:
        table = csv.DictReader(_lines(path, stream))
        try:
            for row in table:
                yield f"line {table.line_num}", row
        except csv.Error as error:
            raise RequestError(f"{path}, line {table.line_num + 1}: is not CSV ({error}); repair it") from None


def _lines(path: Path, stream: BinaryIO) -> Iterator[str]:
    for number, line in enumerate(stream, start=1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise RequestError(f"{path}, line {number}: is not CSV in UTF-8 ({first_line(error)}); repair it") from None


def _tar(path: Path, names: Sequence[str]) -> Rows:
    """A row per key: `image` is the offset and length of KEY.jpg, `caption` is KEY.txt, the others are of KEY.json."""
    samples: dict[str, dict[str, tarfile.TarInfo]] = {}
    with path.open("rb") as stream:
        for member in _members(path, stream):
            folder, _, name = sound(member.name).rpartition("/")
            stem, dot, ending = name.partition(".")
            if member.isfile() and not member.issparse() and stem:
                samples.setdefault(f"{folder}/{stem}" if folder else stem, {})[dot + ending.lower()] = member
        for key, members in samples.items():
            image = next((members[ending] for ending in PICTURES if ending in members), None)
            row = _captioned(stream, members) if image else {"image": None, "caption": None}
            if isinstance(row, dict):
                row |= {"key": key, "image": (image.offset_data, image.size) if image else None}
            yield key, row


def _captioned(stream: BinaryIO, members: Mapping[str, tarfile.TarInfo]) -> Row | Broken:
    """What KEY.json and KEY.txt say."""
    row: Row = {"caption": None}
    for ending in (".json", ".txt"):
        if ending not in members or members[ending].size > LONGEST_TEXT:
            continue
        stream.seek(members[ending].offset_data)
        content = stream.read(members[ending].size)
        if ending == ".json":
            described = parse_object(content)
            if isinstance(described, Broken):
                return Broken(f"KEY.json {described}")
            row |= described
        else:
            try:
                row["caption"] = content.decode("utf-8-sig")
            except UnicodeDecodeError:
                return Broken("KEY.txt is not UTF-8 text")
    return row


def _members(path: Path, stream: BinaryIO) -> list[tarfile.TarInfo]:
    """All members. Unlike tarfile, also rejects a file that is cut off between two members."""
    try:
        with tarfile.open(fileobj=stream, mode="r:") as archive:
            members = archive.getmembers()
        size = stream.seek(0, 2)
        if members:
            end = members[-1].offset_data + (members[-1].size + 511) // 512 * 512
            is_whole = size >= end and stream.seek(end) == end and stream.read(512) == ZERO_BLOCK
    except Exception as error:  # tarfile raises many kinds, e.g. for sizes of 2⁶⁰ or malformed sparse maps
        raise RequestError(
            f"{path}: is cut off or not an uncompressed tar ({first_line(error)}); fetch it again"
        ) from None
    if members and not is_whole:
        raise RequestError(f"{path}: is cut off after {sound(members[-1].name)!r}; fetch it again")
    return members


def sound(text: str) -> str:
    """Replaces lone surrogates in `text`, which JSON and file names may contain but UTF-8 cannot encode."""
    return text.encode("utf-8", "replace").decode("utf-8")


_READ = {
    ".parquet": _parquet,
    ".arrow": _arrow,
    ".json": _json,
    ".jsonl": _json_lines,
    ".csv": _csv,
    ".tar": _tar,
    **dict.fromkeys(COMPRESSED, _json_lines),
}
