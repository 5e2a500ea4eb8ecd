"""The index of one user file: its samples as memory-mapped Arrow, with random access.

It holds texts, and pictures or where they are: their offset in a tar, or the path of a file of their own. Pictures
inside a table are copied into the index, as Parquet and JSON have no random access.
"""

import hashlib
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
from mm1_lab.data.shards.arrow import cached, damaged, short_hash
from mm1_lab.data.shards.finding import File
from mm1_lab.data.shards.readers import READERS
from mm1_lab.data.shards.samples import Image, LeftOut, Sample
from mm1_lab.data.shards.tables import Broken, read_rows
from mm1_lab.data.types import Answer
from mm1_lab.files import new_file

if TYPE_CHECKING:
    from datasets import Dataset

INDEX_VERSION = 7
"""Increased when readers or the format of the index change, so that cached indexes in an old form are ignored."""
HELD_OUT_SHARE = 0.05
HELD_OUT_BELOW = int(HELD_OUT_SHARE * 2**64)
"""Samples with a split number below this are held out."""
WHOLE, EDGE = 8 << 20, 64 << 10
"""Of files above `WHOLE` bytes, only the size and the first and last `EDGE` bytes are hashed."""
BATCH, BATCH_BYTES = 1000, 32 << 20
"""Most samples, and most bytes of pictures, that are written at once."""
IMAGE = pa.struct({"content": pa.large_binary(), "path": pa.string(), "offset": pa.int64(), "length": pa.int64()})
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


def index_path(file: File, reader: str, longest: int, cache: Path) -> Path:
    """Where the index of this version of the file is."""
    columns = sorted(file.columns.items())
    return cache / "index" / f"{short_hash(INDEX_VERSION, reader, longest, columns, file.identity)}.arrow"


def index_file(file: File, reader: str, longest: int, cache: Path) -> Shard:
    """Indexes the file unless its index is cached; safe to run in several processes at once.

    `longest` is the most characters of a document. Raises RequestError if the file cannot be read, is damaged, contains
    nothing usable for the reader, or if more than 1 % of its rows are broken or of its pictures missing.
    """
    path = index_path(file, reader, longest, cache)
    about_path = path.with_suffix(".json")

    def make() -> Iterator[pa.RecordBatch]:
        local = file.local(cache / "copies")
        try:
            about = yield from _build(local, file, reader, longest)
        except RequestError as error:
            raise RequestError(str(error).replace(str(local), file.name)) from None
        if file.is_remote and local.suffix != ".tar":
            local.unlink(missing_ok=True)  # all of it is in the index
        with new_file(about_path) as temporary:
            temporary.write_text(json.dumps(about), encoding="utf-8")

    samples = cached(path, SCHEMA, make)
    try:
        about = json.loads(about_path.read_text(encoding="utf-8"))
        digest, left_out, notes = about["digest"], Counter(about["left_out"]), about["notes"]
    except (OSError, ValueError, KeyError, TypeError):
        raise damaged(path) from None
    sizes, missing = _pictures_beside(file, samples)
    if sizes:
        digest = short_hash(digest, sizes)
    return Shard(file, path.stem, digest, samples, left_out, bool(sizes), (*notes, *missing))


def _build(path: Path, file: File, name: str, longest: int) -> Generator[pa.RecordBatch, None, dict[str, Any]]:
    """Yields the index of `path`; returns what is to be known about it."""
    reader = READERS[name]
    required = {field: file.columns.get(field, names) for field, names in reader.required.items()}
    optional = {field: file.columns.get(field, names) for field, names in reader.optional.items()}
    digest = _content_hash(path)
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
            continue
        except Broken as reason:
            broken.append(f"{file.name}, {place}: {reason}")
            continue
        rows.append(_row(place, sample))
        count += 1
        size += sum(len(image["content"] or b"") for image in rows[-1]["images"])
        if len(rows) == BATCH or size > BATCH_BYTES:
            yield _batch(rows, digest)
            rows, size = [], 0
    if len(broken) > BROKEN_SHARE * total:
        others = f"; {len(broken)} of {total} rows are broken" if len(broken) > 1 else ""
        raise RequestError(f"{broken[0]}{others}; repair or remove it (up to 1 % are left out)")
    if not count:
        reasons = ", ".join(f"{number} {reason}" for reason, number in left_out.items()) or "it is empty"
        needs = reader.needs
        if path.suffix == ".tar":
            needs = "KEY.jpg (or .png, .webp) and KEY.txt, or KEY.json with `caption`"
        raise RequestError(f"{path}: contains no usable {name} ({reasons}); each must have {needs}")
    yield _batch(rows, digest)
    if broken:
        left_out["broken"] += len(broken)
    return {"digest": digest.hexdigest(), "left_out": dict(sorted(left_out.items())), "notes": broken[:5]}


def _content_hash(path: Path) -> Any:
    """A hash of the content, or of size and edges of a large file, to which those of its texts are added."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as stream:
        if size > WHOLE:
            digest.update(stream.read(EDGE))
            stream.seek(-EDGE, os.SEEK_END)
        digest.update(stream.read())
    return digest


def _row(place: str, sample: Sample) -> dict[str, Any]:
    return {
        "split": split_number(sample.key),
        "place": place,
        "texts": [None if isinstance(part, Image) else part for part in sample.parts],
        "answers": [at for at, part in enumerate(sample.parts) if isinstance(part, Answer)],
        "images": [part._asdict() for part in sample.parts if isinstance(part, Image)],
    }


def _batch(rows: list[dict[str, Any]], digest: Any) -> pa.RecordBatch:
    digest.update(canonical_json([[row["split"], row["texts"]] for row in rows]).encode())
    return pa.RecordBatch.from_pylist(rows, schema=SCHEMA)


def split_number(key: str) -> int:
    """A hash from 0 to 2⁶⁴ − 1 that determines whether the sample of `key` is held out."""
    return int.from_bytes(hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()[:8], "big")


def _pictures_beside(file: File, samples: "Dataset") -> tuple[list[str], list[str]]:
    """Path and size of each image file that the samples refer to (-1 if it is missing), and a note on missing ones.

    Looked up whenever data are opened, as pictures may go while their table stays. Raises RequestError if more than 1 %
    are missing.
    """
    images = [chunk.flatten() for chunk in samples.data.column("images").chunks]
    sizes, missing = list[str](), list[str]()
    for path in [path for chunk in images for path in chunk.field("path").drop_null().to_pylist()]:
        if file.is_remote:
            raise RequestError(f"{file.name}: refers to separate image files; a remote file must contain its images")
        try:
            size = os.stat(f"{file.folder}/{path}").st_size
        except (OSError, ValueError):
            size = -1
            missing.append(path)
        sizes.append(f"{path} {size}")
    if len(missing) > BROKEN_SHARE * len(sizes):
        raise RequestError(
            f"{file.name}: there is no image {missing[0]!r} in {file.folder}; {len(missing)} of {len(sizes)} images "
            "are missing; name their folder (`{file: FILE, images: FOLDER}`), or fetch them (up to 1 % may be missing)"
        )
    return sizes, [f"{file.name}: there is no image {path!r} in {file.folder}" for path in missing[:5]]
