"""Writing so that a kill or a power cut at any instant leaves either the old state or the new one."""

import csv
import gzip
import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

DONE = "DONE"


def write_text(path: Path, text: str) -> None:
    """Replaces a text file in one step; leaves one alone that holds this text already."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Replaces a file in one step; leaves one alone that holds these bytes already."""
    if path.exists() and path.read_bytes() == data:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(data)
        replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def replace(temporary: Path, path: Path) -> None:
    """Renames a file or a folder into place, with what is in it on the disk before, and the name after."""
    for written in (temporary, *temporary.rglob("*")):
        _sync(written)
    if path.is_dir():
        shutil.rmtree(path)
    os.replace(temporary, path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    """Replaces a JSON file in one step; keys stay in their order, which may mean something (arms)."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_csv(path: Path, columns: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """Replaces a CSV file in one step, compressed if its name ends in `.gz`; lines end as in Unix."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    data = text.getvalue().encode()
    # no time in the archive, so that equal tables are equal bytes
    write_bytes(path, gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)


def is_complete(folder: Path | str) -> bool:
    """Whether the folder was committed."""
    return os.path.exists(f"{folder}/{DONE}")  # asked for every trial of a plan; a Path costs more than the look


def commit(partial: Path, folder: Path) -> None:
    """Makes `partial` the complete `folder`: DONE, with a digest of each file, is written last, then it is renamed."""
    digests = {}
    for path in sorted(p for p in partial.rglob("*") if p.is_file() and p.name != DONE):
        with path.open("rb") as file:
            digests[path.relative_to(partial).as_posix()] = _digest(file)
            os.fsync(file.fileno())  # before DONE is there, which vouches for it
    write_json(partial / DONE, {"files": digests})
    replace(partial, folder)


def damage(folder: Path) -> str | None:
    """The first thing in which a complete folder is not as `commit` left it; None if there is none."""
    try:
        digests: dict[str, str] = json.loads((folder / DONE).read_text(encoding="utf-8"))["files"]
        for name, digest in digests.items():
            with (folder / name).open("rb") as file:
                if _digest(file) != digest:
                    return f"{name} is not what {DONE} says"
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        return f"{DONE} cannot be read" if not isinstance(error, OSError) else f"{error.filename}: {error.strerror}"
    return None


def _digest(file: io.BufferedReader) -> str:
    return hashlib.file_digest(file, "sha256").hexdigest()[:16]


class Busy(Exception):
    """Another process holds the lock."""


@contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[None]:
    """Holds the lock file `path` between processes while the block runs; the system gives it back when one dies.

    Raises Busy where another process holds it and `wait` is False.
    """
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(path, timeout=-1 if wait else 0):
            yield
    except Timeout:
        raise Busy(f"{path} is locked by another process") from None
