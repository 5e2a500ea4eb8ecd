"""The index of one user file: its samples as memory-mapped Arrow, with random access.

It holds texts, and pictures or where they are: their offset in a tar, or the path of a file of their own. Pictures
inside a table are copied into the index, as Parquet and JSON have no random access. An index is found by the content of
its file (above 8 MiB: size, date, first and last 64 KiB), never by its path; that of a remote file by its URL, size and
date.
"""

import hashlib
import inspect
import json
import os
from collections import Counter
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from mm1_lab.config import RequestError, canonical_json
from mm1_lab.data.pixels import BROKEN_SHARE
from mm1_lab.data.shards.arrow import damaged, kept, short_hash
from mm1_lab.data.shards.finding import File, unreadable
from mm1_lab.data.shards.readers import READERS
from mm1_lab.data.shards.samples import Image, LeftOut, Sample
from mm1_lab.data.shards.tables import Broken, read_rows
from mm1_lab.data.types import Answer
from mm1_lab.files import new_file

if TYPE_CHECKING:
    from datasets import Dataset

INDEX_VERSION = 6
"""Increased when readers or the format of the index change, so that cached indexes in an old form are ignored."""
HELD_OUT_SHARE = 0.05
HELD_OUT_BELOW = int(HELD_OUT_SHARE * 2**64)
"""Samples with a split number below this are held out."""
WHOLE, EDGE = 8 << 20, 64 << 10
"""For files above `WHOLE` bytes, only the size and the first and last `EDGE` bytes are hashed."""
BATCH, BATCH_BYTES = 1000, 32 << 20
"""Most samples, and most bytes of pictures, that are written at once."""
IMAGE = pa.struct({"bytes": pa.large_binary(), "path": pa.string(), "offset": pa.int64(), "length": pa.int64()})
SCHEMA = pa.schema(
    {
        "split": pa.uint64(),
        "place": pa.string(),
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
    name: str
    """Name of its index."""
    digest: str
    """Hash of the content and, if it refers to image files, of their paths and sizes."""
    samples: "Dataset"
    """A row of `SCHEMA` per sample."""
    left_out: Counter[str]
    """Number of rows that were left out, by reason."""
    has_paths: bool
    """Whether it refers to image files."""
    notes: tuple[str, ...]
    """What is said of rows that are broken and pictures that are missing."""


def index_file(file: File, reader: str, longest: int, cache: Path) -> Shard:
    """Indexes the file unless its index is cached; safe to run in several processes at once.

    `longest` is the most characters of a document. Raises RequestError if the file cannot be read, is damaged, contains
    nothing usable for the reader, or if more than 1 % of its rows are broken or of its pictures missing.
    """
    content = file.identity if file.is_remote else _digest(Path(file.name))
    date = file.version if file.size > WHOLE else ""
    code = inspect.getsource(READERS[reader].read)  # one of one's own may have been edited
    name = short_hash(INDEX_VERSION, reader, code, longest, sorted(file.columns.items()), content, date)
    path = cache / "index" / f"{name}.arrow"
    about_path = path.with_suffix(".json")

    def make() -> Iterator[pa.RecordBatch]:
        local = file.local(cache / "copies")
        try:
            about = yield from _build(local, file, reader, longest, content if not file.is_remote else _digest(local))
        except RequestError as error:
            raise RequestError(str(error).replace(str(local), file.name)) from None
        if file.is_remote and local.suffix != ".tar":
            local.unlink(missing_ok=True)  # all of it is in the index
        with new_file(about_path) as temporary:
            temporary.write_text(json.dumps(about), encoding="utf-8")

    samples = kept(path, SCHEMA, make)
    try:
        about = json.loads(about_path.read_text(encoding="utf-8"))
        left_out, digest, notes = Counter(about["left_out"]), about["digest"], about["notes"]
    except (OSError, ValueError, KeyError, TypeError):
        raise damaged(path) from None
    sizes, missing = _beside(file, samples)
    if sizes:
        digest = short_hash(digest, sizes)
    return Shard(file, name, digest, samples, left_out, bool(sizes), (*notes, *missing))


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


def _build(
    path: Path, file: File, name: str, longest: int, content: str
) -> Generator[pa.RecordBatch, None, dict[str, Any]]:
    """Yields the index of `path`; returns what is to be known about it. `content` is the hash of the file."""
    reader = READERS[name]
    required, optional = (
        {field: file.columns.get(field, names) for field, names in columns.items()}
        for columns in (reader.required, reader.optional)
    )
    digest = hashlib.sha256(content.encode())
    left_out, broken = Counter[str](), list[str]()
    rows, size, count, total = list[dict[str, Any]](), 0, 0, 0
    for place, row in read_rows(path, required, optional):
        total += 1
        try:
            if isinstance(row, Broken):
                raise row
            sample = reader.read(row)
            if sum(len(part) for part in sample.parts if isinstance(part, str)) > longest:
                raise LeftOut("too long")
        except LeftOut as reason:
            left_out[str(reason)] += 1
        except Broken as reason:
            broken.append(f"{path}, {place}: {reason}")
        else:
            rows.append(_row(place, sample))
            size += sum(len(image.get("bytes", b"")) for image in rows[-1]["images"])
            count += 1
        if len(rows) == BATCH or size > BATCH_BYTES:
            yield _batch(rows, digest)
            rows, size = [], 0
    if len(broken) > BROKEN_SHARE * total:
        others = f"; {len(broken)} of {total} rows are broken" if len(broken) > 1 else ""
        raise RequestError(f"{broken[0]}{others}; repair or remove it (up to 1 % are left out)")
    if not count:
        reasons = ", ".join(f"{number} {reason}" for reason, number in left_out.items()) or "it is empty"
        needs = (
            "KEY.jpg (or .png, .webp) and KEY.txt, or KEY.json with `caption`"
            if path.suffix == ".tar"
            else reader.needs
        )
        raise RequestError(f"{path}: contains no usable {name} ({reasons}); each must have {needs}")
    if rows:
        yield _batch(rows, digest)
    if broken:
        left_out["broken"] += len(broken)
    notes = [message.replace(str(path), file.name) for message in broken[:5]]
    return {"digest": digest.hexdigest(), "left_out": dict(sorted(left_out.items())), "notes": notes}


def _row(place: str, sample: Sample) -> dict[str, Any]:
    return {
        "split": split_number(sample.key),
        "place": place,
        "texts": [None if isinstance(part, Image) else part for part in sample.parts],
        "answers": [at for at, part in enumerate(sample.parts) if isinstance(part, Answer)],
        "images": [part.fields() for part in sample.parts if isinstance(part, Image)],
    }


def _batch(rows: list[dict[str, Any]], digest: Any) -> pa.RecordBatch:
    digest.update(canonical_json([[row["split"], row["texts"]] for row in rows]).encode())
    return pa.RecordBatch.from_pylist(rows, schema=SCHEMA)


def split_number(key: str) -> int:
    """A hash from 0 to 2⁶⁴ − 1 that determines whether the sample of `key` is held out."""
    return int.from_bytes(hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()[:8], "big")


def _beside(file: File, samples: "Dataset") -> tuple[list[str], list[str]]:
    """Path and size of each image file that the samples refer to (-1 if it is missing), and a note on missing ones.

    Looked up whenever data are opened, as an index may be found by another file of the same content in another folder.
    Raises RequestError if more than 1 % are missing.
    """
    sizes, missing = list[str](), list[str]()
    for chunk in samples.data.column("images").chunks:
        for path in chunk.flatten().field("path").drop_null().to_pylist():
            if file.is_remote:
                raise RequestError(
                    f"{file.name}: refers to separate image files; a remote file must contain its images"
                )
            try:
                size = os.stat(f"{file.images}/{path}").st_size
            except (OSError, ValueError):
                size = -1
                missing.append(path)
            sizes.append(f"{path} {size}")
    if len(missing) > BROKEN_SHARE * len(sizes):
        raise RequestError(
            f"{file.name}: there is no image {missing[0]!r} in {file.images}; {len(missing)} of {len(sizes)} images "
            "are missing; name their folder (`{file: FILE, images: FOLDER}`), or fetch them (up to 1 % may be missing)"
        )
    told = [f"{file.name}: there is no image {path!r} in {file.images}" for path in missing[:5]]
    return sizes, told
