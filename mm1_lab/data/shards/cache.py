"""Cached files and folders derived from users' data, written atomically: each is either complete or absent.

A disk or a copy may still damage them. What is cut off is noticed when it is opened; changed bytes are not, as hashing
all of it would read gigabytes before every run.
"""

import hashlib
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mm1_lab.config import RequestError
from mm1_lab.files import new_file, replace


def short_hash(*values: object) -> str:
    """A hash of `values` that names what is derived from them: 24 hexadecimal digits."""
    return hashlib.sha256(repr(values).encode()).hexdigest()[:24]


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yields a temporary folder that is renamed to `folder` at the end; if several processes do so, the first wins."""
    temporary = folder.with_name(f"{folder.name}.{uuid.uuid4().hex}")
    temporary.mkdir(parents=True)  # unlike those of `tempfile`, with the permissions that the user's umask gives
    try:
        yield temporary
        replace(temporary, folder, over=False)
    except OSError:
        if not folder.exists():
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def kept(path: Path, make: Callable[[], NDArray[np.int64]]) -> NDArray[np.int64]:
    """Returns the array in `path`, memory-mapped; if it is missing or damaged, writes what `make` returns."""
    try:
        return _array(path)
    except (FileNotFoundError, EOFError, ValueError):
        with new_file(path) as temporary:
            np.save(temporary, make(), allow_pickle=False)
    return _array(path)


def _array(path: Path) -> NDArray[np.int64]:
    """The array; unlike `np.load`'s memory maps, it keeps no file descriptor, as many are open at once."""
    with path.open("rb") as stream:
        if np.lib.format.read_magic(stream) != (1, 0):
            raise ValueError
        shape, is_transposed, kind = np.lib.format.read_array_header_1_0(stream)
        begin = stream.tell()
    with pa.memory_map(str(path)) as file:
        flat = np.frombuffer(file.read_buffer(), np.uint8)[begin:].view(kind)
    return flat.reshape(shape, order="F" if is_transposed else "C")


def damaged(folder: Path) -> RequestError:
    return RequestError(
        f"{folder}: is damaged; delete it and give the command again (after `mm1-lab index`, if you used that)"
    )
