"""Users' files by path or by address: told apart by size and date, and fetched whole where they lie elsewhere.

An address is what `fsspec` knows (`s3://…`, `gs://…`; the package for it must be installed). Its file is copied into a
folder of bounded size, from which the copies that were used longest ago go first; several processes share a copy.
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
from mm1_lab.data.shards.cache import new_file, short_hash
from mm1_lab.files import locked

FETCHING = "fetch files ahead"
"""Name of the threads that do."""
WAITS = (1.0, 5.0)
"""Seconds before a file that could not be fetched is asked for again."""
DATES = ("ETag", "etag", "md5Hash", "LastModified", "updated", "mtime", "created")
"""What file systems tell of a file's content or date, the surest first."""


@dataclass(frozen=True, slots=True)
class File:
    """A file of the user's."""

    name: str
    """A path, or an address."""
    size: int
    date: str
    """Changes when the content does."""

    @property
    def is_remote(self) -> bool:
        return "://" in self.name

    @property
    def whole_name(self) -> str:
        """From wherever a command is typed."""
        return self.name if self.is_remote else os.path.abspath(self.name)


def local_file(path: Path) -> File:
    """Raises RequestError for a file that cannot be read."""
    try:
        status = path.stat()
    except OSError as error:
        raise unreadable(path, error) from None
    return File(str(path), status.st_size, str(status.st_mtime_ns))


def unreadable(path: Path, error: OSError) -> RequestError:
    return RequestError(f"{path}: cannot be read ({error.strerror}); check that it is there and readable")


def remote_files(address: str) -> list[File]:
    """The files at an address, which may hold `*`. Raises RequestError where it cannot be listed."""
    try:
        system, place = fsspec.core.url_to_fs(address)
        found = system.glob(place, detail=True)
    except Exception as error:  # of whatever library serves the address
        raise RequestError(f"{address}: cannot be listed ({error}); check the address and your access to it") from None
    return [
        _file(system.unstrip_protocol(name), found[name]) for name in sorted(found) if found[name]["type"] == "file"
    ]


def _file(name: str, about: dict[str, Any]) -> File:
    date = next((about[date] for date in DATES if date in about), "")
    return File(name, int(about["size"]), str(date.timestamp() if isinstance(date, datetime) else date))


class Copies:
    """Files as paths of this machine; of remote ones, copies of up to `gigabytes` are kept in `folder`."""

    def __init__(self, folder: Path, gigabytes: float) -> None:
        self._folder = folder
        self._room = gigabytes * 1e9

    def path(self, file: File) -> Path:
        """The file, or its copy. Raises RequestError where it cannot be fetched, or is another than was listed."""
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

    def ahead(self, files: Sequence[File]) -> None:
        """Fetches what is remote of `files` in the background, in order, as far as there is room for all of them."""
        if any(file.is_remote for file in files):
            Thread(target=self._fetch_in_order, args=(files,), name=FETCHING, daemon=True).start()

    def _fetch_in_order(self, files: Sequence[File]) -> None:
        total = 0
        for file in files:
            total += file.size
            if total > self._room:
                return
            try:
                self.path(file)
            except RequestError:  # told when the file is needed
                return

    def _fetch(self, file: File, copy: Path) -> None:
        for wait in (*WAITS, None):
            try:
                system, place = fsspec.core.url_to_fs(file.name)  # anew: a connection does not outlive a fork
                if _file(file.name, system.info(place)) != file:
                    raise RequestError(f"{file.name}: has changed since it was listed; run `mm1-lab index` again")
                with new_file(copy) as temporary:
                    system.get_file(place, str(temporary))
                self._make_room(copy)
                return
            except RequestError:
                raise
            except Exception as error:  # of whatever library serves the address
                if wait is None:
                    raise RequestError(f"{file.name}: cannot be fetched ({error}); check the connection") from None
                time.sleep(wait)

    def _make_room(self, newest: Path) -> None:
        with locked(self._folder / "room.lock"):
            ages = []
            for path in self._folder.iterdir():
                with suppress(FileNotFoundError):  # another process has just renamed it
                    ages.append((path.stat().st_mtime_ns, path.stat().st_size, path))
            total = sum(size for _, size, _ in ages)
            for _, size, path in sorted(ages):
                if total <= self._room:
                    break
                if path.suffix != ".lock" and path != newest:
                    path.unlink(missing_ok=True)
                    total -= size
