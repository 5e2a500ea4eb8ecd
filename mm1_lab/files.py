"""Writing so that a kill or a power cut at any instant leaves the old state or the new one; this machine's cores."""

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
LARGE = 64 << 20
"""Bytes from which a file also has a digest of some stretches: gigabytes are too much to read before each loading."""
STRETCHES, STRETCH = 64, 256 << 10
"""Of a large file: how many stretches are looked at, and their bytes."""

PACKAGE = Path(__file__).resolve().parent
SHIPPED = PACKAGE / "shipped" if (PACKAGE / "shipped").is_dir() else PACKAGE.parent
"""What comes with the package: `sweeps`, `results/parts`; in a clone, the clone."""


def machine_cpus() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
    digests, stretches = {}, {}
    for path in sorted(p for p in partial.rglob("*") if p.is_file() and p.name != DONE):
        name = path.relative_to(partial).as_posix()
        with path.open("rb") as file:
            digests[name] = _digest(file)
            os.fsync(file.fileno())  # before DONE is there, which vouches for it
            if path.stat().st_size >= LARGE:
                stretches[name] = _digest_of_stretches(file)
    write_json(partial / DONE, {"files": digests} | ({"stretches": stretches} if stretches else {}))
    mode = (partial / DONE).stat().st_mode
    for name in digests:
        (partial / name).chmod(mode)  # safetensors lets the owner alone read its files
    replace(partial, folder)


def damage(folder: Path, full: bool = True) -> str | None:
    """The first thing in which a complete folder is not as `commit` left it; None if there is none.

    Unless `full`, of large files only the size and some stretches are looked at.
    """
    try:
        done = json.loads((folder / DONE).read_text(encoding="utf-8"))
        digests: dict[str, str] = done["files"]
        stretches: dict[str, str] = {} if full else done.get("stretches", {})
        for name, digest in digests.items():
            with (folder / name).open("rb") as file:
                same = _digest_of_stretches(file) == stretches[name] if name in stretches else _digest(file) == digest
                if not same:
                    return f"{name} is not what {DONE} says"
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        return f"{DONE} cannot be read" if not isinstance(error, OSError) else f"{error.filename}: {error.strerror}"
    return None if digests else f"{DONE} names no files"


def put_aside(path: Path) -> Path | None:
    """Renames what is damaged to `NAME.damaged`, in place of one that was put aside before; None where it cannot be."""
    aside = path.with_name(f"{path.name}.damaged")
    try:
        if aside.is_dir():
            shutil.rmtree(aside)
        os.replace(path, aside)
        if aside.is_dir():
            (aside / DONE).unlink(missing_ok=True)  # so that nobody takes it for complete
    except OSError:
        return None
    return aside


def _digest(file: io.BufferedReader) -> str:
    return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _digest_of_stretches(file: io.BufferedReader) -> str:
    """Over the size and evenly spread stretches, the beginning and the end among them."""
    size = file.seek(0, os.SEEK_END)
    digest = hashlib.sha256(str(size).encode())
    for number in range(STRETCHES):
        file.seek(max(0, size - STRETCH) * number // (STRETCHES - 1))
        digest.update(file.read(STRETCH))
    return digest.hexdigest()[:16]


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
