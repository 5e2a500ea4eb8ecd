"""The index of one user file, for random access to its samples, and the table of all files of a source.

An index is written once and memory-mapped. It holds the texts, and the images or their locations: an offset in a tar,
or the path of a separate image file. Images inside a table are copied, as tables lack cheap random access. The key of
an index is the content of its file (above 64 MiB: size, date, first and last MiB), never its path; for a remote file,
its URL, size and date. The table of a source lists its files, so that they can be opened without being read.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mm1_lab.config import RequestError, canonical_json
from mm1_lab.data.shards.cache import damaged, new_folder, short_hash
from mm1_lab.data.shards.readers import READERS, Image, Sample, split_number
from mm1_lab.data.shards.remote import Copies, File, unreadable
from mm1_lab.data.shards.tables import Reading
from mm1_lab.data.types import Answer
from mm1_lab.files import new_file

INDEX_VERSION = 4
"""Increased when the format of the index changes, so that cached indexes in an old format are ignored."""
CONVERSATIONS_INDEX_VERSION = 5
"""That of conversations alone, whose texts have been joined since."""
LARGE = 1_000_000
"""A source with more samples is read in windows of files, so that no list of all its samples is held in memory."""
HELD_OUT_SHARE = 0.05
HELD_OUT_BELOW = np.uint64(HELD_OUT_SHARE * 2**64)
"""Samples with a split number below this are held out."""
WHOLE = 64 << 20
EDGE = 1 << 20
"""For files above `WHOLE` bytes, only the size and the first and last `EDGE` bytes are hashed."""
BATCH = 64
"""Samples written at once."""
IMAGE = pa.struct({"bytes": pa.large_binary(), "path": pa.string(), "offset": pa.int64(), "length": pa.int64()})
SCHEMA = pa.schema(
    {
        "split": pa.uint64(),
        "name": pa.string(),
        "texts": pa.list_(pa.string()),
        "answers": pa.list_(pa.int32()),
        "images": pa.list_(IMAGE),
    }
)
"""`texts` is null where an image belongs; `images` lists these in order; `answers` holds the indices of answers."""


@dataclass(frozen=True, slots=True)
class Shard:
    """An indexed file."""

    file: File
    index: str
    """Name of its index."""
    digest: str
    """Hash of the content: 64 hexadecimal digits."""
    samples: int
    held_out: int
    """Samples whose split number is below `HELD_OUT_BELOW`."""
    left_out: dict[str, int]
    """Number of samples that were skipped, by reason."""
    beside: tuple[str, ...]
    """The separate image files that a table refers to, with their sizes."""


def index_version(reader: str) -> int:
    return CONVERSATIONS_INDEX_VERSION if reader == "conversations" else INDEX_VERSION


def index_file(file: File, reader: str, longest: int, cache: Path, copies: Copies) -> Shard:
    """Indexes the file unless its index is cached; safe to run in several processes at once.

    `longest` is the maximum length of a document in characters. Raises RequestError if the file cannot be read, is
    damaged, or contains nothing usable for the reader.
    """
    content = "" if file.is_remote else _digest(Path(file.name))
    found_by = file if file.is_remote else content if file.size <= WHOLE else f"{content} {file.date}"
    name = short_hash(index_version(reader), reader, longest, found_by)
    folder = cache / "files" / name
    if not folder.exists():
        path = copies.path(file)
        try:
            _build(Reading(path, longest), reader, folder, content or _digest(path))
        except RequestError as error:
            raise RequestError(str(error).replace(str(path), file.name)) from None
    try:
        about = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        shard = Shard(file, name, beside=(), **about)
    except (FileNotFoundError, ValueError, TypeError):
        raise damaged(folder) from None
    if not shard.samples:
        reasons = ", ".join(f"{count} {reason}" for reason, count in shard.left_out.items()) or "it is empty"
        raise RequestError(f"{file.name}: contains no usable {reader} ({reasons})")
    beside = tuple(_sizes_beside(file, open_index(cache, name)))
    if beside and file.is_remote:
        raise RequestError(f"{file.name}: refers to separate image files; a remote file must contain its images")
    return replace(shard, beside=beside)


def open_index(cache: Path, name: str) -> pa.Table:
    """Opens an index, memory-mapped, with one row of `SCHEMA` per sample.

    Raises RequestError if it is missing or cut off.
    """
    folder = cache / "files" / name
    try:
        with pa.memory_map(str(folder / "index.arrow")) as stream:
            return pa.ipc.open_file(stream).read_all()
    except (FileNotFoundError, pa.ArrowInvalid):
        raise damaged(folder) from None


def _digest(path: Path) -> str:
    """Hashes the content, or size and edges of a large file. Raises RequestError if the file cannot be read."""
    try:
        size = path.stat().st_size
        digest = hashlib.sha256(str(size).encode())
        with path.open("rb") as stream:
            if size > WHOLE:
                digest.update(stream.read(EDGE))
                stream.seek(-EDGE, os.SEEK_END)
            digest.update(stream.read())
        return digest.hexdigest()
    except OSError as error:
        raise unreadable(path, error) from None


def _build(reading: Reading, reader: str, folder: Path, content: str) -> None:
    """Writes the index into `folder`; `content` is the hash of the file's content."""
    digest = hashlib.sha256(content.encode())
    samples = held_out = 0
    with new_folder(folder) as temporary:
        with pa.ipc.new_file(str(temporary / "index.arrow"), SCHEMA) as writer:
            for rows in _batches(READERS[reader][0](reading)):
                writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=SCHEMA))
                digest.update(canonical_json([[row["split"], row["texts"]] for row in rows]).encode())
                samples += len(rows)
                held_out += sum(row["split"] < HELD_OUT_BELOW for row in rows)
        about = {"digest": digest.hexdigest(), "samples": samples, "held_out": int(held_out)}
        about["left_out"] = dict(sorted(reading.left_out.items()))
        (temporary / "index.json").write_text(json.dumps(about), encoding="utf-8")


def _batches(samples: Iterator[Sample]) -> Iterator[list[dict[str, Any]]]:
    rows: list[dict[str, Any]] = []
    for sample in samples:
        parts = _joined(sample.parts)
        texts = [part if isinstance(part, str) else None for part in parts]
        images = [_image(part) for part in parts if isinstance(part, Image)]
        answers = [at for at, part in enumerate(parts) if isinstance(part, Answer)]
        row = {"name": sample.name, "texts": texts, "answers": answers, "images": images}
        rows.append({"split": split_number(sample.key), **row})
        if len(rows) == BATCH:
            yield rows
            rows = []
    if rows:
        yield rows


def _joined(parts: Sequence[str | Image]) -> list[str | Image]:
    """Joins adjacent texts, except answers: tokens may span what a reader divides, as `?\\n` does in Qwen's tokenizer,
    and prompts of a conversation or a benchmark are tokenised whole."""
    joined: list[str | Image] = []
    for part in parts:
        if joined and type(part) is str and type(joined[-1]) is str:
            joined[-1] += part
        else:
            joined.append(part)
    return joined


def _image(image: Image) -> dict[str, Any]:
    match image.stored:
        case bytes() as content:
            return {"bytes": content}
        case str() as path:
            return {"path": path}
        case (offset, length):
            return {"offset": offset, "length": length}


def _sizes_beside(file: File, index: pa.Table) -> Iterator[str]:
    """Path and size of each image file that a table refers to; the size of a missing file is null."""
    for images in index.column("images").chunks:
        for image in images.flatten().field("path").drop_null().to_pylist():
            path = Path(file.name).parent / image
            yield canonical_json([image, path.stat().st_size if path.is_file() else None])


def write_table(path: Path, shards: Sequence[Shard]) -> None:
    """Writes the table of a source's files, from which `open_shards` then opens them."""
    rows = [
        {"name": shard.file.whole_name, "size": shard.file.size, "date": shard.file.date}
        | {field.name: getattr(shard, field.name) for field in fields(shard) if field.name != "file"}
        | {"left_out": json.dumps(shard.left_out)}
        for shard in shards
    ]
    with new_file(path) as temporary:
        pq.write_table(pa.Table.from_pylist(rows), temporary)
