"""Rows of users' files as plain values, each with its place in the file. Nothing in a file is ever run.

A row that cannot be read is yielded as `Broken`; a file that cannot be read on raises a RequestError.
"""

import csv
import io
import json
import re
import sys
import tarfile
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from mm1_lab.config import RequestError
from mm1_lab.formatting import first_line, sound

PICTURE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp")
"""Endings of pictures in a tar."""
COLUMNAR = (".parquet", ".arrow", ".csv")
"""Endings of files whose rows all have the same columns."""
BATCH = 64
"""Rows of a Parquet file that are converted to plain values at once; few, as they may hold pictures."""
NOT_UTF_8 = "is not UTF-8 text; save it in that encoding"
BETWEEN = re.compile(r"[\s,]*")
"""What stands between the values of a JSON array."""
csv.field_size_limit(sys.maxsize)  # by default 128 KiB; texts that are too long are left out and counted

Fields = dict[str, Any]
Columns = Mapping[str, tuple[str, ...]]
"""Field → the names of columns under which it may be found."""


class Broken(Exception):
    """A row that cannot be used although it is meant to be; the message says why."""


FileRows = Iterator[tuple[str, Fields | Broken]]
"""The place of each row in its file, and its columns."""


def read_rows(path: Path, name: str, columns: Columns, required: Collection[str]) -> FileRows:
    """Yields the rows of the file at `path`, which messages call `name`, with their fields under standard names.

    A required field that the first row lacks raises RequestError, and one that a later row lacks makes it `Broken`.
    """
    wanted = {column for names in columns.values() for column in names}
    place = ""
    try:
        for number, (place, row) in enumerate(ENDINGS[path.suffix](path, wanted)):
            if isinstance(row, dict):
                row = _fields(row, columns, required)
                if isinstance(row, Broken) and number == 0 and path.suffix in COLUMNAR:
                    raise RequestError(f"{name}, {place}: {row}")
            yield place, row
    except (RequestError, MemoryError):
        raise
    except Exception as error:  # each library has kinds of its own for damaged files
        where = f" after {place}" if place else ""
        if isinstance(error, UnicodeDecodeError):
            raise RequestError(f"{name}{where}: {NOT_UTF_8}") from None
        raise RequestError(
            f"{name}: cannot be read, or is cut off, damaged or no {path.suffix}{where} ({first_line(error)}); mend "
            "this, or fetch or write the file again"
        ) from None


def _fields(row: Fields, columns: Columns, required: Collection[str]) -> Fields | Broken:
    """The row's fields by standard names; Broken if a required one has none of its columns."""
    for field in required:
        names = columns[field]
        if row.keys().isdisjoint(names):
            has = ", ".join(map(str, list(row)[:20]))[:200] or "nothing"
            return Broken(
                f"has no column {names[0]!r} (it has {has}); rename one to {' or '.join(names[:2])}, or name yours in "
                "the data file by `image` or `text`"
            )
    return {field: _first(row, names) for field, names in columns.items()}


def _first(row: Mapping[str, Any], names: Iterable[str]) -> Any:
    return next((row[name] for name in names if row.get(name) is not None), None)


def _arrow(path: Path, wanted: Collection[str]) -> FileRows:
    """The rows of a Parquet file or an Arrow stream; columns that nobody reads are there as None, for messages."""
    is_parquet = path.suffix == ".parquet"
    file = pq.ParquetFile(path) if is_parquet else pa.ipc.open_stream(pa.memory_map(str(path)))
    there = (file.schema_arrow if is_parquet else file.schema).names
    names = [name for name in there if name in wanted]
    number = 0
    for batch in file.iter_batches(BATCH, columns=names) if is_parquet else file:
        batch.validate(full=True)  # invalid offsets would crash the process
        for row in batch.select(names).to_pylist():
            yield f"row {number}", dict.fromkeys(there) | row
            number += 1


def _lines(path: Path) -> Iterator[bytes]:
    # Arrow decompresses by the file's ending; without Python's buffer, each line would be a call to it
    with io.BufferedReader(pa.input_stream(str(path)), 1 << 16) as stream:
        yield from stream


def _csv(path: Path, _: object) -> FileRows:
    numbered = enumerate(_lines(path))
    lines = (line.decode("utf-8-sig", "surrogateescape" if number else "strict") for number, line in numbered)
    table = csv.DictReader(lines, strict=True)
    columns = table.fieldnames or ("",)
    if len(columns) == 1 and ";" in columns[0]:  # told before commas and quotes in texts make other errors of the rows
        yield "line 1", Broken(f"its columns are divided by semicolons ({columns[0]}); separate them by commas")
        return
    for row in table:
        broken = None
        if None in row:
            broken = Broken("has more fields than the first line; quote texts that contain commas")
        elif any(text and sound(text) != text for text in row.values()):
            broken = Broken(NOT_UTF_8)
        yield f"line {table.line_num}", broken or row


def _json_lines(path: Path, _: object) -> FileRows:
    for number, line in enumerate(_lines(path), start=1):
        if line.strip():
            yield f"line {number}", _parse_object(line)


def _json(path: Path, wanted: Collection[str]) -> FileRows:
    """The objects of one large array; or COCO's captions, or JSON Lines, if the file does not begin with a bracket."""
    with path.open("rb") as stream:
        start = stream.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()
    if not start.startswith(b"["):
        for place, row in _json_lines(path, wanted):
            if isinstance(row, dict) and {"images", "annotations"} <= row.keys() and row.keys().isdisjoint(wanted):
                yield from _coco(row)
            else:
                yield place, row
        return
    # entry by entry: the values of a whole file take several times its size
    decoder = json.JSONDecoder()
    text = path.read_text(encoding="utf-8-sig")
    at = text.index("[") + 1
    for number in count():
        at = BETWEEN.match(text, at).end()  # type: ignore[union-attr]
        if text[at : at + 1] == "]":
            break
        row, at = decoder.raw_decode(text, at)
        yield f"entry {number}", _as_object(row)
    if text[at + 1 :].strip():
        raise ValueError("goes on after the end of its array")


def _coco(content: Fields) -> FileRows:
    """A row per picture of `captions_*.json`: {images: [{id, file_name}], annotations: [{image_id, caption}]}."""
    names = {image["id"]: image["file_name"] for image in content["images"]}
    captions = defaultdict[Any, list[Any]](list)
    for annotation in content["annotations"]:
        captions[annotation["image_id"]].append(annotation.get("caption"))
    for number, texts in captions.items():
        yield f"image {number}", {"image": names.get(number), "caption": texts}  # one may be left out of `images` alone


def _parse_object(text: bytes) -> Fields | Broken:
    try:
        return _as_object(json.loads(text.decode("utf-8-sig")))
    except UnicodeDecodeError:
        return Broken(NOT_UTF_8)
    except (ValueError, RecursionError) as error:  # also for huge numbers and deep nesting
        return Broken(f"is not JSON ({first_line(error)})")


def _as_object(value: Any) -> Fields | Broken:
    return value if isinstance(value, dict) else Broken(f"must be a JSON object, but is a {type(value).__name__}")


def _tar(path: Path, wanted: Collection[str]) -> FileRows:
    """A row per key: `image` is the offset and length of KEY.jpg, `caption` is KEY.txt, the others are of KEY.json."""
    samples: dict[str, dict[str, tarfile.TarInfo]] = {}
    twice: set[str] = set()
    with tarfile.open(path, mode="r:") as archive, path.open("rb") as stream:
        for member in archive:
            folder, slash, name = sound(member.name).rpartition("/")
            stem, _, ending = name.partition(".")
            if member.isfile() and not member.issparse() and stem:  # what is sparse is not in one piece
                key = f"{folder}{slash}{stem}"
                ending = f".{ending.lower()}"
                members = samples.setdefault(key, {})
                if ending in members:
                    twice.add(key)
                members[ending] = member
        stream.seek(archive.offset)  # tarfile accepts a file that is cut off between two members
        if samples and stream.read(512) != bytes(512):
            raise ValueError(f"it ends in {next(reversed(samples))!r}")
        for key, members in samples.items():
            if key in twice:
                yield key, Broken("occurs twice in the tar; samples need different keys")
            else:
                yield key, _tar_row(key, members, stream, wanted)


def _tar_row(
    key: str, members: Mapping[str, tarfile.TarInfo], stream: BinaryIO, wanted: Collection[str]
) -> Fields | Broken:
    """The row of the members that share a key, by their endings."""
    image = _first(members, PICTURE_ENDINGS)
    row: Fields = {"caption": None}
    if not image:
        dotted = [ending for ending in members if ending.endswith(PICTURE_ENDINGS)]
        if dotted:
            return Broken(f"goes on with {dotted[0]!r}, but keys end at the first dot; rename it to KEY.jpg")
        row |= dict.fromkeys(wanted)  # a conversation may be in KEY.json alone; others are left out
    if ".json" in members:
        described = _parse_object(_content(members[".json"], stream))
        if isinstance(described, Broken):
            return Broken(f"KEY.json {described}")
        row |= described
    if ".txt" in members:
        try:
            row["caption"] = _content(members[".txt"], stream).decode("utf-8-sig")
        except UnicodeDecodeError:
            return Broken(f"KEY.txt {NOT_UTF_8}")
    return row | {"key": key, "image": image and (image.offset_data, image.size)}


def _content(member: tarfile.TarInfo, stream: BinaryIO) -> bytes:
    stream.seek(member.offset_data)
    return stream.read(member.size)


ENDINGS: dict[str, Callable[[Path, Collection[str]], FileRows]] = {
    ".tar": _tar,
    ".parquet": _arrow,
    ".arrow": _arrow,
    ".json": _json,
    ".jsonl": _json_lines,
    ".csv": _csv,
    ".gz": _json_lines,
    ".zst": _json_lines,
}
"""Readers by the endings of files; `.gz` and `.zst` are compressed JSON Lines."""
