"""Memory-mapped Arrow files derived from users' data, opened with Hugging Face `datasets`; each is whole or absent."""

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from mm1_lab.config import RequestError
from mm1_lab.files import locked, new_file

if TYPE_CHECKING:
    from datasets import Dataset

END = b"\xff\xff\xff\xff\0\0\0\0"
"""How an Arrow stream ends; one that is cut off between two batches would be read as whole."""


def short_hash(*values: object) -> str:
    """A hash of `values` that names what is derived from them: 24 hexadecimal digits."""
    return hashlib.sha256(repr(values).encode()).hexdigest()[:24]


def cached(path: Path, schema: pa.Schema, make: Callable[[], Iterable[pa.RecordBatch]]) -> "Dataset":
    """The data set in `path`, memory-mapped; if it is missing, of the batches that `make` yields.

    One process makes it, on whatever node, while others wait at its lock. Raises RequestError if the file is cut off;
    changed bytes are not noticed, as hashing all of it would read gigabytes before every run.
    """
    if not path.exists():
        # a lock per kind of file, as packing rows may have to make tokens
        with locked(path.parents[1] / "locks" / f"{path.parent.name}-{path.stem[:2]}.lock"):
            if not path.exists():
                with new_file(path) as temporary, pa.ipc.new_stream(str(temporary), schema) as writer:
                    for batch in make():
                        writer.write_batch(batch)
    from datasets import Dataset  # imported late, as it takes a second

    try:
        with path.open("rb") as stream:
            stream.seek(-len(END), 2)
            if stream.read() != END:
                raise ValueError("is cut off")
        return Dataset.from_file(str(path))
    except (OSError, ValueError, pa.ArrowException):
        raise damaged(path) from None


def damaged(path: Path) -> RequestError:
    return RequestError(f"{path}: is damaged; delete it and give the command again")
