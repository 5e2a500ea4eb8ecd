"""The index of one file of the user's: made once, kept in the cache, memory-mapped, so that any sample is one look-up.

A tar's index holds captions and where the images lie; parquet and JSON Lines have no cheap random access, so their
index holds the samples themselves, uncompressed. It is found again by the file's content (for files above 64 MiB by
size, date, first and last MiB), never by its path.
"""

import hashlib
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from mm1_lab.config import RequestError, canonical_json
from mm1_lab.data.shards.readers import Reader, read_interleaved, read_pairs, read_text

READERS: dict[str, Reader] = {
    "captions": read_pairs,
    "synthetic": read_pairs,
    "interleaved": read_interleaved,
    "text": read_text,
}
INDEX_VERSION = 1
"""Raised when the form of the index changes, so that old ones in a cache are not read."""
WHOLE = 64 << 20
EDGE = 1 << 20


@dataclass(frozen=True, slots=True)
class IndexedFile:
    """A file with its index."""

    path: Path
    digest: str
    """Hash of the content, 64 hexadecimal digits."""
    table: pa.Table
    folder: Path
    """In the cache; what is derived from this file alone may be kept there."""


def open_file(path: Path, source: str, cache: Path) -> IndexedFile:
    """The file's index, built if the cache lacks it; several processes may do so at once.

    Raises RequestError if the file cannot be read, is damaged, or holds nothing for `source`.
    """
    reader = READERS[source]
    try:
        content, name = _digests(path)
    except OSError as error:
        raise RequestError(f"{path}: cannot be read ({error.strerror}); check that it is there and readable") from None
    name = hashlib.sha256(f"{INDEX_VERSION} {reader.__name__} {name}".encode()).hexdigest()[:24]
    folder = cache / "files" / name
    if not folder.exists():
        _build(path, reader, folder, content)
    with pa.memory_map(str(folder / "index.arrow")) as stream:
        table = pa.ipc.open_file(stream).read_all()
    if not table.num_rows:
        raise RequestError(f"{path}: holds no {source} that can be trained on")
    return IndexedFile(path, (folder / "digest").read_text(encoding="ascii"), table, folder)


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


def _build(path: Path, reader: Reader, folder: Path, content: str) -> None:
    """Writes the index to a temporary folder and renames it; whoever comes second drops theirs."""
    schema, batches = reader(path)
    digest = hashlib.sha256(content.encode())
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    try:
        with pa.ipc.new_file(str(temporary / "index.arrow"), schema) as writer:
            for batch in batches:
                writer.write_batch(batch)
                texts = batch.select([name for name in schema.names if name != "images"])
                digest.update(canonical_json(texts.to_pylist()).encode())
        (temporary / "digest").write_text(digest.hexdigest(), encoding="ascii")
        temporary.rename(folder)
    except OSError:
        if not folder.exists():
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
