"""Users' files, local or remote: versions are distinguished by size and date; remote files are downloaded whole.

A remote file is given by a URL that `fsspec` supports (`s3://…`, `gs://…`; the package for it must be installed). It is
copied into a folder of bounded size, from which the least recently used copies are deleted; processes share copies.
"""

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from threading import Thread
from typing import Any

import fsspec

from mm1_lab.config import RequestError
from mm1_lab.data.shards.cache import short_hash
from mm1_lab.data.shards.decoding import read_stretch
from mm1_lab.files import locked, new_file

FETCHING = "prefetch files"
"""Name of the prefetching threads."""
WAITS = (1.0, 5.0)
"""Seconds to wait before each retry of a failed download."""
TRIES = 3
"""How often a copy is fetched that other processes delete before it is opened."""
DATES = ("ETag", "etag", "md5Hash", "LastModified", "updated", "mtime", "created", "Last-Modified", "blob_id")
"""Metadata by which file systems identify a file's version, the most reliable first."""


@dataclass(frozen=True, slots=True)
class File:
    """A user's file."""

    name: str
    """A path or a URL."""
    size: int
    date: str
    """Changes when the content does."""

    @property
    def is_remote(self) -> bool:
        return "://" in self.name

    @property
    def whole_name(self) -> str:
        """The URL or the absolute path."""
        return self.name if self.is_remote else os.path.abspath(self.name)


def local_file(path: Path) -> File:
    """The file at `path`. Raises RequestError if it cannot be read."""
    try:
        status = path.stat()
    except OSError as error:
        raise unreadable(path, error) from None
    return File(str(path), status.st_size, str(status.st_mtime_ns))


def unreadable(path: Path, error: OSError) -> RequestError:
    return RequestError(f"{path}: cannot be read ({error.strerror}); check that it is there and readable")


def remote_files(url: str) -> list[File]:
    """The files at a URL, which may contain `*`. Raises RequestError if it cannot be listed."""
    try:
        system, place = fsspec.core.url_to_fs(url)
        found = system.glob(place, detail=True)
    except Exception as error:  # depends on the library that serves the URL
        raise RequestError(f"{url}: cannot be listed ({error}); check the URL and your access to it") from None
    return [
        _file(system.unstrip_protocol(name), found[name]) for name in sorted(found) if found[name]["type"] == "file"
    ]


def _file(name: str, about: dict[str, Any]) -> File:
    if about.get("size") is None:
        raise RequestError(f"{name}: its server does not tell its size; download it and name the copy")
    date = next((about[date] for date in DATES if date in about), "")
    return File(name, int(about["size"]), str(date.timestamp() if isinstance(date, datetime) else date))


class Copies:
    """Provides files as local paths; keeps up to `gigabytes` of copies of remote files in `folder`."""

    def __init__(self, folder: Path, gigabytes: float) -> None:
        self._folder = folder
        self._room = gigabytes * 1e9

    def path(self, file: File) -> Path:
        """Path of the file or of its copy. Raises RequestError if it cannot be fetched or has changed since listed."""
        if not file.is_remote:
            return Path(file.name)
        key = short_hash(file)
        copy = self._folder / f"{key}{PurePosixPath(file.name).suffix}"
        try:
            os.utime(copy)
        except FileNotFoundError:
            with locked(self._folder / f"{key[:2]}.lock"):
                if not copy.exists():
                    self._fetch(file, copy)
        return copy

    def read(self, file: File, offset: int, length: int) -> bytes:
        """`length` bytes of a file. Raises RequestError as `path` does, OSError if they cannot be read.

        Another process may delete a copy between finding and opening it; then it is fetched again.
        """
        for _ in range(TRIES):
            try:
                return read_stretch(self.path(file), offset, length)
            except FileNotFoundError:
                if not file.is_remote:
                    raise
        raise RequestError(
            f"{file.name}: its copy in {self._folder} is deleted as soon as it is there; give copies more `room` in "
            "the data file"
        )

    def prefetch(self, files: Sequence[File]) -> None:
        """Fetches remote files in the background, in order, until the folder's size limit is reached."""
        if files:
            Thread(target=self._fetch_in_order, args=(files,), name=FETCHING, daemon=True).start()

    def _fetch_in_order(self, files: Sequence[File]) -> None:
        total = 0
        for file in files:
            total += file.size
            if total > self._room:
                return
            try:
                self.path(file)
            except RequestError:  # raised again when the file is needed
                return

    def _fetch(self, file: File, copy: Path) -> None:
        for wait in (*WAITS, None):
            try:
                system, place = fsspec.core.url_to_fs(file.name)  # not reused: connections do not survive a fork
                if _file(file.name, system.info(place)) != file:
                    raise RequestError(f"{file.name}: has changed since it was listed; run `mm1-lab index` again")
                with new_file(copy) as temporary:
                    system.get_file(place, str(temporary))
                self._make_room(copy)
                return
            except RequestError:
                raise
            except Exception as error:  # depends on the library that serves the URL
                if wait is None:
                    raise RequestError(f"{file.name}: cannot be fetched ({error}); check the connection") from None
                time.sleep(wait)

    def _make_room(self, newest: Path) -> None:
        with locked(self._folder / "room.lock"):
            ages = []
            for path in self._folder.iterdir():
                with suppress(FileNotFoundError):  # renamed meanwhile by another process
                    ages.append((path.stat().st_mtime_ns, path.stat().st_size, path))
            total = sum(size for _, size, _ in ages)
            for _, size, path in sorted(ages):
                if total <= self._room:
                    break
                if path.suffix != ".lock" and path != newest:
                    path.unlink(missing_ok=True)
                    total -= size
