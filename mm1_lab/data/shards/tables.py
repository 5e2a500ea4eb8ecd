"""Rows of users' files as plain values, each with its place in the file: Parquet, Arrow, JSON, JSON Lines, CSV, tars.

A row that cannot be read is yielded as `Broken`, and those after it are read on; a file that cannot be read on raises a
RequestError. Nothing in a file is ever run.
"""

import csv
import io
import json
import sys
import tarfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from mm1_lab.config import RequestError
from mm1_lab.formatting import first_line

TABLES = (".parquet", ".arrow", ".json", ".jsonl", ".csv", ".gz", ".zst")
"""Endings of tables; `.gz` and `.zst` are compressed JSON Lines."""
PICTURES = (".jpg", ".jpeg", ".png", ".webp")
"""Endings of pictures in a tar."""
BATCH = 64
"""Rows of a Parquet file that are converted to plain values at once; few, as they may hold pictures."""
LONGEST_TEXT = 64 << 20
"""Bytes of a caption or a JSON file in a tar above which it is not read."""
csv.field_size_limit(sys.maxsize)  # by default 128 KiB; texts that are too long are left out and counted

Row = dict[str, Any]
Columns = Mapping[str, tuple[str, ...]]
"""Field → the names of columns under which it may be found."""


class Broken(Exception):
    """A row that cannot be used although it is meant to be; the message says why."""


Rows = Iterator[tuple[str, Row | Broken]]
"""The place of each row in its file, and its columns."""


def read_rows(path: Path, required: Columns, optional: Columns) -> Rows:
    """Yields the rows of a file with their fields under standard names.

    A required field that the first row lacks raises RequestError, and one that a later row lacks makes it `Broken`.
    """
    columns = {**required, **optional}
    wanted = {name for names in columns.values() for name in names}
    is_first = True
    for place, row in _rows(path, wanted):
        if isinstance(row, dict):
            lack = _missing_column(path, list(row), required)
            if lack and is_first:
                raise RequestError(f"{path}, {place}: {lack}")
            row = Broken(lack) if lack else {field: _first(row, names) for field, names in columns.items()}
        is_first = False
        yield place, row


def _rows(path: Path, wanted: Collection[str]) -> Rows:
    match path.suffix:
        case ".parquet" | ".arrow":
            return _arrow(path, wanted)
        case ".json":
            return _json(path)
        case ".csv":
            return _csv(path)
        case ".tar":
            return _tar(path)
        case _:
            return _json_lines(path)


def _first(row: Row, names: Sequence[str]) -> Any:
    """The first of the columns that has a value."""
    return next((row[name] for name in names if row.get(name) is not None), None)


def _missing_column(path: Path, there: Sequence[object], required: Columns) -> str:
    """What to say of the first field that has none of its columns; empty if there is no such field."""
    for field, names in required.items():
        if any(name in there for name in names):
            continue
        has = ", ".join(map(str, there[:20]))[:200] or "nothing"
        if path.suffix == ".csv" and len(there) == 1 and ";" in has:
            return f"its columns are divided by semicolons ({has}); separate them by commas"
        advice = "correct the name in the data file"
        if field in names:  # no other name was given
            advice = f"rename one to {' or '.join(names[:2])}"
        return f"has no column {names[0]!r} (it has {has}); {advice}"
    return ""


def _cut_off(path: Path, kind: str, error: Exception) -> RequestError:
    return RequestError(f"{path}: is cut off or not {kind} ({first_line(error)}); fetch it again")


def _arrow(path: Path, wanted: Collection[str]) -> Rows:
    """The rows of a Parquet file or an Arrow stream; columns that nobody reads are there as None, for messages."""
    is_parquet = path.suffix == ".parquet"
    try:
        file = pq.ParquetFile(path) if is_parquet else pa.ipc.open_stream(pa.memory_map(str(path)))
        there = (file.schema_arrow if is_parquet else file.schema).names
    except Exception as error:  # Arrow raises many kinds for a damaged footer
        raise _cut_off(path, "Parquet" if is_parquet else "an Arrow stream", error) from None
    names = [name for name in there if name in wanted]
    batches: Iterable[pa.RecordBatch] = file.iter_batches(BATCH, columns=names) if is_parquet else file
    others = dict.fromkeys(there)
    number = 0
    try:
        for batch in batches:
            batch.validate(full=True)  # invalid offsets would crash the process
            for row in batch.select(names).to_pylist():
                yield f"row {number}", {**others, **row}
                number += 1
    except (pa.ArrowException, OSError, ValueError) as error:  # UnicodeDecodeError is a ValueError
        raise RequestError(f"{path}: is damaged after row {number} ({first_line(error)}); fetch it again") from None


def _json_lines(path: Path) -> Rows:
    number = 0
    try:
        # Arrow decompresses by the file's ending; without Python's buffer, each line would be a call to it
        with io.BufferedReader(pa.input_stream(str(path)), 1 << 16) as stream:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    yield f"line {number}", _parse_object(line)
    except OSError as error:
        raise RequestError(
            f"{path}: cannot be read after line {number} ({first_line(error)}); fetch it again"
        ) from None


def _json(path: Path) -> Rows:
    """The objects of one large array; or JSON Lines, if the file does not begin with a bracket."""
    with path.open("rb") as stream:
        is_array = stream.read(64).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[")
    if not is_array:
        yield from _json_lines(path)
        return
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise RequestError(f"{path}: is not JSON in UTF-8 ({first_line(error)}); repair it") from None
    # object by object, to name one that is broken, and as all of them take several times the file's size
    decoder, number = json.JSONDecoder(), 0
    at = _next_value(text, text.index("[") + 1)
    while text[at : at + 1] != "]":
        try:
            row, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            raise RequestError(
                f"{path}, entry {number}: is not JSON ({first_line(error)}); repair or remove it"
            ) from None
        yield f"entry {number}", _as_object(row)
        at = _next_value(text, at)
        number += 1


def _next_value(text: str, at: int) -> int:
    while text[at : at + 1].isspace() or text[at : at + 1] == ",":
        at += 1
    return at


def _parse_object(text: bytes) -> Row | Broken:
    try:
        return _as_object(json.loads(text.decode("utf-8-sig")))
    except (ValueError, RecursionError) as error:  # also for huge numbers and deep nesting
        return Broken(f"is not JSON ({first_line(error)})")


def _as_object(value: Any) -> Row | Broken:
    return value if isinstance(value, dict) else Broken(f"must be a JSON object, but is a {type(value).__name__}")


def _csv(path: Path) -> Rows:
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


def _tar(path: Path) -> Rows:
    """A row per key: `image` is the offset and length of KEY.jpg, `caption` is KEY.txt, the others are of KEY.json."""
    samples: dict[str, dict[str, tarfile.TarInfo]] = {}
    with path.open("rb") as stream:
        for member in _members(path, stream):
            folder, slash, name = sound(member.name).rpartition("/")
            stem, _, ending = name.partition(".")
            if member.isfile() and not member.issparse() and stem:
                samples.setdefault(f"{folder}{slash}{stem}", {})[f".{ending.lower()}"] = member
        for key, members in samples.items():
            image = _first(members, PICTURES)
            row: Row = {"key": key, "image": None, "caption": None}
            try:
                if image:
                    row |= _described(stream, members)
                    row |= {"key": key, "image": (image.offset_data, image.size)}
                yield key, row
            except Broken as error:
                yield key, error


def _described(stream: BinaryIO, members: Mapping[str, tarfile.TarInfo]) -> Row:
    """What KEY.json and KEY.txt say. Raises Broken."""
    row: Row = {}
    for ending in (".json", ".txt"):
        member = members.get(ending)
        if member is None or member.size > LONGEST_TEXT:
            continue
        stream.seek(member.offset_data)
        content = stream.read(member.size)
        if ending == ".json":
            described = _parse_object(content)
            if isinstance(described, Broken):
                raise Broken(f"KEY.json {described}")
            row |= described
        else:
            try:
                row["caption"] = content.decode("utf-8-sig")
            except UnicodeDecodeError:
                raise Broken("KEY.txt is not UTF-8 text") from None
    return row


def _members(path: Path, stream: BinaryIO) -> list[tarfile.TarInfo]:
    """All members. Unlike tarfile, also rejects a file that is cut off between two members."""
    try:
        with tarfile.open(fileobj=stream, mode="r:") as archive:
            members = archive.getmembers()
        if members:  # after the last one, padded to whole blocks, comes a block of zeros
            stream.seek(members[-1].offset_data + (members[-1].size + 511) // 512 * 512)
            if stream.read(512) != bytes(512):
                raise ValueError(f"it ends in {sound(members[-1].name)!r}")
    except Exception as error:  # tarfile raises many kinds, e.g. for sizes of 2⁶⁰ or malformed sparse maps
        raise _cut_off(path, "an uncompressed tar", error) from None
    return members


def sound(text: str) -> str:
    """Replaces lone surrogates in `text`, which JSON and file names may contain but UTF-8 cannot encode."""
    return text.encode("utf-8", "replace").decode("utf-8")
