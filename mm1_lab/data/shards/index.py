"""The index of one file of the user's: made once, kept in the cache, memory-mapped, so that any sample is one look-up.

It holds the texts, and the images or where they lie: in a tar by offset, beside a table by path. A table's own images
are copied, uncompressed, as it has no cheap random access. An index is found again by the file's content (for files
above 64 MiB by size, date, first and last MiB), never by its path.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from mm1_lab.config import RequestError, canonical_json
from mm1_lab.data.shards.cache import new_folder, short_hash
from mm1_lab.data.shards.readers import READERS, Image, Sample, split_number
from mm1_lab.data.shards.tables import Reading
from mm1_lab.data.types import Answer
from mm1_lab.source_code import code_hash

INDEX_VERSION = 3
"""Raised when the form of the index changes, so that old ones in a cache are not read."""
WHOLE = 64 << 20
EDGE = 1 << 20
BATCH = 64
"""Samples that are written at a time."""
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
"""A text is null where an image stands; the images follow in their order. `answers` are the places of answers."""


@dataclass(frozen=True, slots=True)
class IndexedFile:
    """A file with its index."""

    path: Path
    digest: str
    """Hash of the content, 64 hexadecimal digits."""
    table: pa.Table
    left_out: dict[str, int]
    """Samples that were of no use, by reason."""


def open_file(path: Path, reader: str, longest: int, cache: Path) -> IndexedFile:
    """The file's index, built if the cache lacks it; several processes may do so at once.

    `longest` counts characters of a document. Raises RequestError if the file cannot be read, is damaged, or holds
    nothing for the reader.
    """
    try:
        content, name = _digests(path)
    except OSError as error:
        raise RequestError(f"{path}: cannot be read ({error.strerror}); check that it is there and readable") from None
    folder = cache / "files" / short_hash(INDEX_VERSION, reader, code_hash("reader", reader), longest, name)
    if not folder.exists():
        _build(Reading(path, longest), reader, folder, content)
    with pa.memory_map(str(folder / "index.arrow")) as stream:
        table = pa.ipc.open_file(stream).read_all()
    described = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    if not table.num_rows:
        reasons = ", ".join(f"{count} {reason}" for reason, count in described["left_out"].items()) or "it is empty"
        raise RequestError(f"{path}: holds no {reader} that can be trained on ({reasons})")
    return IndexedFile(path, described["digest"], table, described["left_out"])


def _digests(path: Path) -> tuple[str, str]:
    """The hash of the content (of a large file: of its size and edges), and what the index is found by."""
    status = path.stat()
    digest = hashlib.sha256(str(status.st_size).encode())
    with path.open("rb") as stream:
        if status.st_size <= WHOLE:
            digest.update(stream.read())
            return digest.hexdigest(), digest.hexdigest()
        digest.update(stream.read(EDGE))
        stream.seek(-EDGE, os.SEEK_END)
        digest.update(stream.read())
    return digest.hexdigest(), f"{digest.hexdigest()} {status.st_mtime_ns}"


def _build(reading: Reading, reader: str, folder: Path, content: str) -> None:
    """Writes the index into `folder`; `content` is the hash of the file."""
    digest = hashlib.sha256(content.encode())
    with new_folder(folder) as temporary:
        with pa.ipc.new_file(str(temporary / "index.arrow"), SCHEMA) as writer:
            for rows in _batches(READERS[reader][0](reading)):
                writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=SCHEMA))
                digest.update(canonical_json([[row["split"], row["texts"]] for row in rows]).encode())
        described = {"digest": digest.hexdigest(), "left_out": dict(sorted(reading.left_out.items()))}
        (temporary / "index.json").write_text(json.dumps(described), encoding="utf-8")


def _batches(samples: Iterator[Sample]) -> Iterator[list[dict[str, Any]]]:
    rows: list[dict[str, Any]] = []
    for sample in samples:
        texts = [part if isinstance(part, str) else None for part in sample.parts]
        images = [_image(part) for part in sample.parts if isinstance(part, Image)]
        answers = [at for at, part in enumerate(sample.parts) if isinstance(part, Answer)]
        row = {"name": sample.name, "texts": texts, "answers": answers, "images": images}
        rows.append({"split": split_number(sample.key), **row})
        if len(rows) == BATCH:
            yield rows
            rows = []
    if rows:
        yield rows


def _image(image: Image) -> dict[str, Any]:
    match image.stored:
        case bytes() as content:
            return {"bytes": content}
        case str() as path:
            return {"path": path}
        case (offset, length):
            return {"offset": offset, "length": length}
