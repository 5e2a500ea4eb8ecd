"""Cached files and folders derived from users' data, written atomically: each is either complete or absent."""

import hashlib
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def short_hash(*values: object) -> str:
    """A hash of `values` that names what is derived from them: 24 hexadecimal digits."""
    return hashlib.sha256(repr(values).encode()).hexdigest()[:24]


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yields a temporary folder that is renamed to `folder` at the end; if several processes do so, the first wins."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    try:
        yield temporary
        temporary.rename(folder)
    except OSError:
        if not folder.exists():
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yields a temporary file next to `path`, with its extension, that replaces `path` at the end; the last wins."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.stem}.{uuid.uuid4().hex}{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def kept(path: Path, make: Callable[[], NDArray[np.int64]]) -> NDArray[np.int64]:
    """Returns the array in `path`, memory-mapped; on first use, writes what `make` returns."""
    if not path.exists():
        with new_file(path) as temporary:
            np.save(temporary, make(), allow_pickle=False)
    return np.load(path, mmap_mode="r", allow_pickle=False)
