"""From the entries of a data file to files: paths, globs, ranges, folders, hub sets, and URLs that `fsspec` reads.

A hub set, or a folder in the hub's layout, is resolved into the files of one split by Hugging Face `datasets`, which
reads its card and runs nothing of it. Tars are read in place. Remote files are copied whole into the cache.
"""

import glob
import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

import fsspec

from mm1_lab.config import RequestError
from mm1_lab.data.shards.arrow import short_hash
from mm1_lab.data.shards.tables import TABLES
from mm1_lab.files import locked, new_file
from mm1_lab.formatting import counted, first_line, short

HUB = re.compile(r"(?:hf://datasets/)?([\w.-]+/[\w.-]+)(?:@([\w.-]+))?")
CARDS = ["README.md", ".huggingface.yaml"]
"""Files of a hub set that say which files belong to which split."""
READ = (".tar", *TABLES)
HUB_SECONDS = 5.0
"""Timeout for the hub's first response."""
VERSIONS = ("ETag", "etag", "md5Hash", "LastModified", "updated", "mtime", "created", "Last-Modified", "blob_id")
"""Metadata by which file systems identify a file's version, the most reliable first."""


@dataclass(frozen=True)
class File:
    """A user's file."""

    name: str
    """An absolute path or a URL."""
    size: int
    version: str
    """Changes when the content does."""
    folder: Path = Path()
    """Where the pictures are that it refers to."""
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Columns that the data file names for fields of its rows."""
    room: float = 0.0
    """Gigabytes that copies of remote files may take."""

    @property
    def is_remote(self) -> bool:
        return "://" in self.name

    @property
    def identity(self) -> str:
        return short_hash(self.name, self.size, self.version)

    def local(self, copies: Path) -> Path:
        """The file, or its copy. Raises RequestError if a remote file cannot be fetched or has changed since listed."""
        if not self.is_remote:
            return Path(self.name)
        path = copies / f"{self.identity}{PurePosixPath(self.name).suffix}"
        if not path.exists():
            with locked(copies / f"{self.identity[:2]}.lock"):
                if not path.exists():
                    self._fetch(path)
        return path

    def _fetch(self, path: Path) -> None:
        there = sum(copy.stat().st_size for copy in path.parent.glob("*.tar"))
        if there + self.size > self.room * 1e9:
            raise RequestError(
                f"{self.name}: copies of remote files would take more than {self.room:g} GB of {path.parent} (it has "
                f"{short(self.size, 'B')}, and {short(there, 'B')} are there); give them more `room` in the data file"
            )
        try:
            system, place = fsspec.core.url_to_fs(self.name)
            if _version(system.info(place)) != (self.size, self.version):
                raise RequestError(f"{self.name}: has changed since it was listed; give the command again")
            with new_file(path) as temporary:
                system.get_file(place, str(temporary))
        except RequestError:
            raise
        except Exception as error:  # depends on the library that serves the URL, which tries again by itself
            raise RequestError(f"{self.name}: cannot be fetched ({first_line(error)}); check the connection") from None


def find(pattern: str, base: Path) -> list[File]:
    """The files at a path (relative to `base`), a glob, a range, a folder, a URL or a hub set's URL.

    Raises RequestError if there are none.
    """
    return [file for name in _in_range(pattern) for file in _expand(name, base)]


def _in_range(pattern: str) -> Iterator[str]:
    """The names that ranges as in WebDataset stand for: `{08..10}.tar` for 08.tar, 09.tar, 10.tar."""
    range_of = re.search(r"\{(\d{1,12})\.\.(\d{1,12})\}", pattern)
    first, last = range_of.groups() if range_of else ("", "")
    if not range_of or int(first) > int(last):  # then it is reported as a file that is not there
        yield pattern
        return
    for number in range(int(first), int(last) + 1):
        yield from _in_range(f"{pattern[: range_of.start()]}{number:0{len(first)}}{pattern[range_of.end() :]}")


def _expand(pattern: str, base: Path) -> list[File]:
    if pattern.startswith("hf://") and HUB.fullmatch(pattern):
        return data_set(pattern, None, None, None, base)
    if "://" in pattern:
        return remote_files(pattern)
    path = base / Path(pattern).expanduser()
    if path.is_dir():
        return in_folder(path)
    if path.is_file():
        return [local_file(path)]
    # relative to the folder, whose own name may contain brackets
    matches = sorted(glob.glob(str(Path(pattern).expanduser()), root_dir=base, recursive=True))
    files = [local_file(base / match) for match in matches if (base / match).is_file()]
    if not files:
        lack = "no file matches" if glob.has_magic(pattern) else "there is no file"
        raise RequestError(f"{lack} {pattern!r}; paths are relative to the data file")
    return files


def local_file(path: Path) -> File:
    """The file at `path`. Raises RequestError if it cannot be read."""
    try:
        path.open("rb").close()
        status = path.stat()
    except OSError as error:
        raise RequestError(f"{path}: cannot be read ({error.strerror}); check that it is there and readable") from None
    return File(os.path.abspath(path), status.st_size, str(status.st_mtime_ns), path.parent)


def remote_files(url: str) -> list[File]:
    """The files at a URL, which may contain `*`. Raises RequestError if there are none or they cannot be listed."""
    try:
        system, place = fsspec.core.url_to_fs(url)
        found = system.glob(place, detail=True)
    except Exception as error:  # depends on the library that serves the URL
        raise RequestError(
            f"{url}: cannot be listed ({first_line(error)}); check the URL and your access to it"
        ) from None
    files = []
    for name in sorted(name for name in found if found[name]["type"] == "file"):
        size, version = _version(found[name])
        files.append(File(system.unstrip_protocol(name), size, version))
        if size is None:
            raise RequestError(f"{files[-1].name}: its server does not tell its size; download it and name the copy")
    if not files:
        raise RequestError(f"no remote file matches {url!r}")
    return files


def _version(about: Mapping[str, Any]) -> tuple[Any, str]:
    """The size of a remote file, and what changes when it does."""
    version = next((about[name] for name in VERSIONS if name in about), "")
    if isinstance(version, datetime):  # whose time zone is written in several ways
        version = version.timestamp()
    return about.get("size"), str(version)


def in_folder(folder: Path) -> list[File]:
    """The files of a data set that `save_to_disk` wrote, or the table of a folder of pictures, in it or beside it."""
    if (folder / "dataset_dict.json").is_file():
        splits = sorted(state.parent.name for state in folder.glob("*/state.json"))
        raise RequestError(
            f"{folder} holds several splits ({', '.join(splits)}); write `{{dataset: FOLDER, split: NAME}}`"
        )
    if (folder / "state.json").is_file():
        parts = sorted(folder.glob("data-*-of-*.arrow"))
        if not parts or not parts[0].stem.endswith(f"-{len(parts):05}"):
            raise RequestError(f"{folder} lacks files of the dataset that was saved there; fetch it again")
        return [local_file(part) for part in parts]
    for table in (folder / "metadata", folder):
        for ending in (".csv", ".jsonl", ".parquet"):
            path = table.with_name(table.name + ending)
            if path.is_file():
                return [replace(local_file(path), folder=folder)]
    raise RequestError(
        f"{folder} is neither a data set saved by `datasets` nor a folder of pictures with a table: add metadata.csv, "
        ".jsonl or .parquet with `file_name` and `text` (for the hub's layout, write `{dataset: FOLDER}`)"
    )


def data_set(name: str, config: str | None, split: str | None, revision: str | None, base: Path) -> list[File]:
    """The files of one split of a data set: a folder saved by `datasets`, one in the hub's layout, a table, a hub name.

    Raises RequestError; for a hub set that is not here and cannot be fetched, it says what to fetch and where to.
    """
    path = base / Path(name).expanduser()
    if path.is_file():
        return [local_file(path)]
    if path.is_dir():
        for folder in (path / (split or "."), path):
            if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
                return in_folder(folder)
        return [local_file(file) for file in _of_split(path, config, split)]
    hub = HUB.fullmatch(name)
    if not hub:
        raise RequestError(f"there is no folder {name!r}, and it is not a hub name (OWNER/NAME)")
    return _from_hub(hub[1], config, split, revision or hub[2])


def _from_hub(name: str, config: str | None, split: str | None, revision: str | None) -> list[File]:
    """The files of the split in the hub's own cache, fetched if they are not there."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    fetch: Any = partial(snapshot_download, name, repo_type="dataset", etag_timeout=HUB_SECONDS)
    try:
        try:
            about = HfApi().dataset_info(name, revision=revision, timeout=HUB_SECONDS)
            revision, names = about.sha, [file.rfilename for file in about.siblings or ()]
        except HfHubHTTPError:
            raise
        except Exception:  # no network, of which each layer below has kinds of its own: what is here may do
            here = Path(fetch(revision=revision, allow_patterns=CARDS, local_files_only=True))
            revision, names = here.name, [str(path.relative_to(here)) for path in here.rglob("*") if path.is_file()]
        cards = Path(fetch(revision=revision, allow_patterns=CARDS))
        with TemporaryDirectory() as mirror:  # of empty files: the library finds a split's files by their names
            for file in names:
                path = Path(mirror, file)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes((cards / file).read_bytes() if file in CARDS else b"")
            chosen = [file.relative_to(mirror) for file in _of_split(Path(mirror), config, split)]
        print(f"{name}: reading {counted(len(chosen), 'file')} of revision {revision}", file=sys.stderr)
        # all of a numbered series, so that a part that is not here is noticed without network
        series = sorted({re.sub(r"\d+", "*", str(file)) for file in chosen})
        folder = Path(fetch(revision=revision, allow_patterns=series))
    except LocalEntryNotFoundError:
        pin = f" --revision {revision}" if revision else ""
        raise RequestError(
            f"the data set {name} is not (or not wholly) on this machine, and the hub cannot be reached; elsewhere, "
            f"run `hf download {name} --repo-type dataset{pin} --local-dir DIR`, and name the copy of that folder "
            "here: `{dataset: DIR}`"
        ) from None
    except (HfHubHTTPError, OSError) as error:
        raise RequestError(f"{name}: cannot be fetched from the hub ({first_line(error)})") from None
    return [local_file(folder / file) for file in chosen]


def _of_split(folder: Path, config: str | None, split: str | None) -> list[Path]:
    """The files of a split that can be read, by the names and the card of a folder in the hub's layout."""
    import datasets

    logging.getLogger("huggingface_hub.repocard").setLevel(logging.ERROR)  # a missing card is no news
    try:
        with TemporaryDirectory() as unused:
            splits = datasets.load_dataset_builder(str(folder), name=config, cache_dir=unused).config.data_files
    except Exception as error:  # the library raises many kinds
        raise RequestError(f"{folder} is not a data set in the hub's layout ({first_line(error)})") from None
    if split is None and len(splits) > 1:
        raise RequestError(f"holds the splits {', '.join(splits)}; write `{{dataset: …, split: NAME}}`")
    if split is not None and split not in splits:
        raise RequestError(f"has no split {split!r} (it has {', '.join(map(str, splits))})")
    files = [Path(file) for file in splits[split or next(iter(splits))]]
    read = [file for file in files if file.suffix in READ]
    if not read:
        raise RequestError(
            f"has no files that can be read ({', '.join(sorted({file.suffix for file in files}))}); convert them to "
            f"Parquet, or to one of {', '.join(READ)}"
        )
    return read
