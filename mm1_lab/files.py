"""File writing that is atomic and durable across kills and power failures, digests, locks, and users' Python files."""

from __future__ import annotations

import csv
import errno
import gzip
import hashlib
import io
import json
import os
import shutil
import stat
import sys
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from types import ModuleType
from typing import TYPE_CHECKING, Any
from unicodedata import normalize
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from filelock import SoftFileLease

DONE = "DONE"
WEIGHTS = "model.safetensors"
"""The transformers library's name of weights in one file; if they are in several, an index by this name lists them."""
LARGE = 64 << 20
"""Files of at least this many bytes also get a digest of samples: reading gigabytes before each use takes too long."""
STRETCHES, STRETCH = 64, 256 << 10
"""Number and size in bytes of the samples of a large file."""
RENEW_SECONDS = 5.0
LEASE_SECONDS = 120.0
"""How often a lease is renewed, and when it lapses: network file systems may keep dates for a minute."""
HELD = "waits for another command that works on it; if that was killed, for at most two minutes"
"""What is told of what another process holds; on other machines a lease lasts for LEASE_SECONDS."""
PASSING = (errno.EMFILE, errno.ENFILE, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN)
"""Errors of a busy process or a network disk, which pass."""
FAILING = (errno.EIO, *PASSING)
"""Errors for which no request is to blame."""
UNREADABLE = (errno.EACCES, errno.EPERM, *FAILING)
"""Errors that say nothing about a file's content."""
ABSENT = (FileNotFoundError, NotADirectoryError)
"""Errors by which a file is not there; others, as of a network disk, are raised."""
NO_FOLDERS = (errno.EINVAL, errno.EBADF, errno.ENOTSUP)
"""Errors of file systems, such as network disks, that cannot sync a folder, only files."""
NOT_OURS = (errno.EACCES, errno.EPERM, errno.EROFS)
"""Errors of a place in which this user may not write."""
FULL = (errno.ENOSPC, errno.EDQUOT)
"""Errors of a disk, or of a user's part of it, that is full."""
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
LEASES: WeakKeyDictionary[SoftFileLease, tuple[object, float]] = WeakKeyDictionary()
"""The leases that this process has made, held or not: what it last saw of another's, and since when."""
TEMPORARY: set[Path] = set()
"""Folders that this process has made for as long as it lives."""
GUARD_SECONDS = 5.0
"""How long the removal of an abandoned lease takes at most, unless its process was killed."""

PACKAGE = Path(__file__).resolve().parent
SHIPPED = PACKAGE / "shipped" if (PACKAGE / "shipped").is_dir() else PACKAGE.parent
"""Root of the files that come with the package (`sweeps`, `results/parts`); in a clone, the clone itself."""
RESULTS = Path("results/local")
STORE = RESULTS / "store"
"""Results, store and MLflow database by default; these folders are relative to the working directory."""
PUBLISHED = Path("results/study")
"""The committed results."""
PUBLISHED_CONTROLS = Path("results/controls")
PARTS = Path("results/parts")


def here_or_shipped(folder: Path) -> Path:
    """The folder in the working directory if it exists there, otherwise the one shipped with the package."""
    return folder if folder.is_dir() else SHIPPED / folder


def spelt_otherwise(folder: Path, name: str) -> str:
    """What to add where this file is missing, if it is there under a name that looks the same."""
    if any(os.path.isfile(folder / normalize(form, name)) for form in ("NFC", "NFD")):
        return ", but one whose accents are spelt otherwise (as on a Mac, NFD in place of NFC); rename it"
    return ""


def write_text(path: Path, text: str) -> None:
    """Replaces a text file atomically, gzipped if its name ends in `.gz`; does nothing if it has this content."""
    data = text.encode()
    # without a timestamp, so that equal texts give equal bytes
    write_bytes(path, gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)


def write_bytes(path: Path, data: bytes) -> None:
    """Replaces a file atomically; does nothing if it already has this content."""
    try:
        if path.exists() and path.read_bytes() == data:
            return
        with new_file(path) as temporary:
            temporary.write_bytes(data)
    except OSError as error:
        error.filename = str(path)  # some are reported without one, some with the temporary file's
        raise


def why_not_writable(folder: Path) -> str:
    """Why the folder, which is made if necessary, cannot be written to, and what to do; empty if it can."""
    try:
        str(folder).encode()  # libraries that write weights and scores take no other paths
        make_folder(folder)
        TemporaryFile(dir=folder).close()
    except (OSError, UnicodeEncodeError) as error:
        reason = getattr(error, "strerror", "its name is not in UTF-8") or error
        return f"{folder}: cannot be written to ({reason}); choose another folder"
    return ""


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yields a hidden file next to `path`, with its extension, that replaces `path` at the end; the last wins."""
    make_folder(path.parent)
    # containers on a shared disk have equal process ids
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex}{path.suffix}")
    try:
        yield temporary
        share(temporary, path)
        replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def share(made: Path, path: Path) -> None:
    """Gives a new file or folder, whatever the user's umask, the mode of the file that it will replace at `path`, and
    its folder's rights of the group, if the group may write there (and not everybody, as in /tmp): then others work in
    it, too."""
    status, folder = made.stat(), made.parent.stat()
    mode = own = stat.S_IMODE(status.st_mode)
    with suppress(FileNotFoundError):
        mode = stat.S_IMODE(path.stat().st_mode)
    # in folders of another group, as below /tmp, files are of the user's own, to which nobody gave the folder
    if folder.st_mode & (stat.S_IWGRP | stat.S_IWOTH) == stat.S_IWGRP and folder.st_gid == status.st_gid:
        mode |= folder.st_mode & (stat.S_IRWXG if made.is_dir() else stat.S_IRGRP | stat.S_IWGRP)
    if mode != own:
        with suppress(OSError):  # some network disks have no modes
            made.chmod(mode)


def make_folder(folder: Path) -> None:
    """Creates a folder and those above it where they are missing, for `share`."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    share(folder, folder)


def replace(temporary: Path, path: Path) -> None:
    """Atomically renames a file or a folder into place; syncs its content to disk before, and the name after. A folder
    that exists already is moved aside first, as no system replaces one by another."""
    for written in (temporary, *temporary.rglob("*")):
        _sync(written)
    aside = path.with_name(f"{path.name}.replaced") if path.is_dir() else None
    if aside:
        shutil.rmtree(aside, ignore_errors=True)
        os.replace(path, aside)
    os.replace(temporary, path)
    _sync(path.parent)
    if aside:
        shutil.rmtree(aside, ignore_errors=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with naming(path):
            os.fsync(descriptor)
    except OSError as error:
        if not (error.errno in NO_FOLDERS and path.is_dir()):
            raise
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    """Replaces a JSON file as `write_text` does; keeps the order of keys, which may be meaningful (arms)."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def is_there(path: Path | str) -> bool:
    """Raises OSError for what a network disk does not tell now; since Python 3.14 `Path.exists` says no."""
    try:
        os.stat(path)
    except ABSENT:
        return False
    return True


def load_json(path: Path) -> Any:
    with naming(path):
        return json.loads(path.read_bytes())


@contextmanager
def naming(path: Path | str) -> Iterator[None]:
    """Gives errors the file's name, which those of reading and writing, unlike those of opening, lack."""
    try:
        yield
    except OSError as error:
        if error.errno:  # a name would hide the message of others, which libraries raise
            error.filename = error.filename or str(path)
        raise
    except Exception as error:  # libraries in Rust have kinds of their own
        full = next((number for number in FULL if os.strerror(number) in str(error)), None)
        if full is None:
            raise
        raise OSError(full, os.strerror(full), str(path)) from error


def run_file(path: str, content: bytes, name: str) -> ModuleType:
    """Runs a user's Python file as the module `name`, where dataclasses look for what annotations name."""
    module = ModuleType(name)
    module.__file__ = path
    sys.modules[name] = module
    exec(compile(content, path, "exec", dont_inherit=True), module.__dict__)
    return module


def write_csv(path: Path, columns: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """Replaces a CSV file as `write_text` does; lines end with `\\n`."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    write_text(path, text.getvalue())


def is_complete(folder: Path | str) -> bool:
    """Whether the folder has been committed."""
    return os.path.exists(f"{folder}/{DONE}")  # for every trial of a plan; a Path costs more than the check


def commit(partial: Path, folder: Path) -> None:
    """Turns `partial` into the complete `folder`: writes DONE with a digest of each file last, then renames."""
    digests, stretches = {}, {}
    for path in sorted(partial.rglob("*")):
        if not path.is_file() or path.name == DONE or path.name.startswith((".DS_Store", "._")):  # of macOS
            continue
        name = path.relative_to(partial).as_posix()
        with path.open("rb") as file, naming(path):
            digests[name] = _digest(file)
            os.fsync(file.fileno())  # before DONE, which attests to it
            if path.stat().st_size >= LARGE:
                stretches[name] = _digest_of_samples(file)
    done = {"files": digests, "stretches": stretches} if stretches else {"files": digests}
    write_json(partial / DONE, done)
    mode = (partial / DONE).stat().st_mode
    for name in digests:
        if (partial / name).stat().st_mode != mode:  # safetensors makes its files readable by the owner only
            with suppress(PermissionError):  # of a colleague who began the stage
                (partial / name).chmod(mode)
    replace(partial, folder)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yields an empty folder next to `folder` that is committed as `folder` at the end."""
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    make_folder(partial)
    yield partial
    commit(partial, folder)


def damage(folder: Path, full: bool = True, only: str | None = None) -> str | None:
    """The first difference between a complete folder and what `commit` wrote; None if there is none. Unless `full`,
    only the size and some samples of large files are checked; with `only`, just the file of this name. Raises OSError
    for files that exist and that this process cannot read now."""
    try:
        done = load_json(folder / DONE)
        digests: dict[str, str] = done["files"]
        stretches: dict[str, str] = {} if full else done.get("stretches", {})
        for name, digest in digests.items():
            if only not in (None, name):
                continue
            with (folder / name).open("rb") as file:
                same = _digest_of_samples(file) == stretches[name] if name in stretches else _digest(file) == digest
                if not same:
                    return f"{name} does not match {DONE}"
    except OSError as error:
        if error.errno in UNREADABLE:
            raise
        return f"{error.filename}: {error.strerror}"
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return f"{DONE} cannot be read"
    return None if digests else f"{DONE} lists no files"


def expanded(name: str | Path) -> Path:
    """The path with `~` as the home folder; unlike `Path.expanduser` it leaves a user whom nobody knows as written."""
    return Path(os.path.expanduser(name))


def aside_of(path: Path) -> Path:
    """Where `put_aside` puts a file or folder."""
    return path.with_name(f"{path.name}.damaged")


def put_aside(path: Path) -> Path | None:
    """Renames a damaged file or folder to `NAME.damaged`, replacing an earlier one; None if that fails."""
    aside = aside_of(path)
    try:
        shutil.rmtree(aside, ignore_errors=True)
        os.replace(path, aside)
        if aside.is_dir() and not aside.is_symlink():
            (aside / DONE).unlink(missing_ok=True)  # so that it does not count as complete
    except OSError:
        return None
    return aside


def file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return _digest(file)


def _digest(file: io.BufferedReader) -> str:
    with naming(file.name):
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _digest_of_samples(file: io.BufferedReader) -> str:
    """Digest of the size and of samples."""
    size = os.fstat(file.fileno()).st_size
    digest = hashlib.sha256(str(size).encode())
    for sample in evenly_spaced(file, STRETCHES, STRETCH):
        digest.update(sample)
    return digest.hexdigest()[:16]


def evenly_spaced(file: io.BufferedReader, count: int, length: int) -> Iterator[bytes]:
    """`count` samples of `length` bytes, which may overlap; the file's beginning and end included."""
    size = os.fstat(file.fileno()).st_size
    for number in range(count):
        file.seek(max(0, size - length) * number // (count - 1))
        yield file.read(length)


def lease(path: Path, timeout: float) -> SoftFileLease:
    """A file at `path` that one process at a time can hold, after trying for `timeout` seconds. That of a dead process
    is free at once on its machine, elsewhere when its date has stood still for LEASE_SECONDS."""
    from filelock import SoftFileLease

    make_folder(path.parent)
    made = SoftFileLease(
        path, timeout=timeout, lease_duration=LEASE_SECONDS, heartbeat_interval=RENEW_SECONDS, thread_local=False
    )
    LEASES[made] = None, 0.0
    return made


def take(wanted: SoftFileLease) -> bool:
    """Tries to take a lease for as long as its `timeout` says. An abandoned one may be free the next time."""
    from filelock import Timeout

    path = Path(wanted.lock_file)
    if _is_of_another_boot(wanted):  # filelock would look for the process on this machine if the names are equal
        time.sleep(min(wanted.timeout, 1.0))
    else:
        with suppress(Timeout), naming(path):
            wanted.acquire()
            return True
    with suppress(OSError):
        _remove_abandoned(wanted, path)
    return False


def _remove_abandoned(wanted: SoftFileLease, path: Path) -> None:
    """Removes an abandoned lease where filelock does not: it exchanges two names, which NFS, SMB and FUSE refuse, and
    waits for ever for one without a name in it."""
    seen, now = (wanted.owner, path.stat().st_mtime_ns), time.monotonic()
    if LEASES[wanted][0] != seen:
        LEASES[wanted] = seen, now
    still = now - LEASES[wanted][1]
    if still < 2 * RENEW_SECONDS or (still < LEASE_SECONDS and (_is_of_another_boot(wanted) or not _has_ended(path))):
        return
    guard = path.with_name(f"{path.name}.break")
    _remove_old(guard)
    guard.touch(exist_ok=False)  # one process at a time, lest it removes that of another, who was quicker
    try:
        if (wanted.owner, path.stat().st_mtime_ns) == seen:
            wanted.force_break()
    finally:
        guard.unlink(missing_ok=True)


def _remove_old(guard: Path) -> None:
    """Removes the guard of a process that was killed beside it."""
    with suppress(FileNotFoundError):
        if now_in(guard.parent) - guard.stat().st_mtime > GUARD_SECONDS:
            guard.unlink()


def _is_of_another_boot(wanted: SoftFileLease) -> bool:
    """Whether the holder was started by a machine of another boot id, which filelock writes above the 64 bits of its
    start: perhaps another machine of the same name."""
    try:
        boot = uuid.UUID(BOOT_ID.read_text(encoding="ascii").strip()).int
    except (OSError, ValueError):  # not Linux
        return False
    owner = wanted.owner
    return owner is not None and (owner.start or 0) >> 64 not in (0, boot)


def _has_ended(path: Path) -> bool:
    """Whether the holder of a lease was killed before it wrote its name, or was a process of this machine and is dead:
    then filelock takes a copy at once."""
    from filelock import MarkerSoftFileLock, Timeout

    if not path.stat().st_size:
        return True
    with TemporaryDirectory() as folder, suppress(Timeout):
        copy = shutil.copyfile(path, Path(folder, "copy"))
        with MarkerSoftFileLock(copy, timeout=0):
            return True
    return False


def holder_is_dead(path: Path) -> bool:
    """Whether a lease is of a process of this machine that is dead."""
    return path.stat().st_size > 0 and not _is_of_another_boot(lease(path, timeout=0)) and _has_ended(path)


def leave_nothing() -> None:
    """For a process that ends at once: removes its temporary folders and the files of the leases that it holds, for
    which other machines would wait for LEASE_SECONDS."""
    for folder in TEMPORARY:
        shutil.rmtree(folder, ignore_errors=True)
    for held in LEASES:
        if held.is_locked and not held.compromise:
            Path(held.lock_file).unlink(missing_ok=True)


def now_in(folder: Path) -> float:
    """The time by the clock that dates the folder's files, perhaps a file server's; ours where we may not write."""
    try:
        with TemporaryFile(dir=folder) as file:
            return os.fstat(file.fileno()).st_mtime
    except OSError:
        return time.time()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the lock `path` while the block runs; waits while another process holds it, which is told after some
    seconds."""
    held = lease(path.with_suffix(".lease"), timeout=RENEW_SECONDS)  # earlier versions left empty files at `path`
    if not take(held):
        print(f"{held.lock_file}: {HELD}", file=sys.stderr, flush=True)
        while not take(held):
            continue
    try:
        yield
    finally:
        held.release()
