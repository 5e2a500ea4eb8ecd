"""From the entries of a data file to files: paths, globs, ranges, folders, hub sets, and URLs that `fsspec` reads.

Hugging Face `datasets` tells which files are a split of a hub set, or of a folder in the hub's layout; it reads the
card and runs nothing. Tars are read in place. Remote files are copied whole into the cache.
"""

import glob
import hashlib
import logging
import os
import re
from itertools import islice
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import NamedTuple

import fsspec

from mm1_lab.config import RequestError
from mm1_lab.data.derived import make_once
from mm1_lab.data.shards.tables import ENDINGS
from mm1_lab.files import expanded
from mm1_lab.formatting import first_line

HUB = re.compile(r"hf://datasets/([\w.-]+/[\w.-]+)(?:@([\w.-]+))?")
"""A hub set, perhaps at a revision; a longer URL is that of a file in it."""
RANGE = re.compile(r"\{(\d{1,12})\.\.(\d{1,12})\}")
"""As in WebDataset: `{08..10}.tar` stands for 08.tar, 09.tar, 10.tar."""
MOST_ENTRIES = 50_000
"""In a folder in the hub's layout, which `datasets` walks through many times, in silence: half a minute for as many."""
A_FOLDER_NEEDS = "a folder of pictures needs metadata.csv, .jsonl or .parquet with `file_name` and `text`"


def short_hash(*values: object) -> str:
    """24 hexadecimal digits that name what is derived from `values`."""
    return hashlib.sha256(repr(values).encode()).hexdigest()[:24]


class File(NamedTuple):
    name: str
    """An absolute path or a URL."""
    size: int
    """Bytes; 0 if a server does not tell it."""
    version: str
    """Changes when the content does."""
    folder: Path = Path()
    """Where the pictures are that it refers to."""
    reader: str = ""
    """What its rows are read as, by the data file."""
    image: str = ""
    text: str = ""
    """Its columns of pictures and texts, if the data file names them."""

    @property
    def is_remote(self) -> bool:
        return "://" in self.name

    @property
    def identity(self) -> str:
        return short_hash(self.name, self.size, self.version)

    def check_unchanged(self, status: os.stat_result) -> None:
        """Raises RequestError if a local file is no longer the one that was listed."""
        if not self.is_remote and (status.st_size, str(status.st_mtime_ns)) != (self.size, self.version):
            raise self.changed()

    def changed(self) -> RequestError:
        return RequestError(f"{self.name}: the file changed while it was in use; run the same command again")

    def local(self, copies: Path) -> Path:
        """The file, or its copy. Raises RequestError if a remote file cannot be fetched or has changed since listed."""
        if not self.is_remote:
            return Path(self.name)
        path = copies / f"{self.identity}{PurePosixPath(self.name).suffix}"
        make_once(path, self._fetch)
        return path

    def _fetch(self, path: Path) -> None:
        try:
            system, place = fsspec.core.url_to_fs(self.name)
            system.get_file(place, str(path))
        except Exception as error:  # depends on the library that serves the URL, which tries again by itself
            lack = f"{self.name}: cannot be fetched ({first_line(error)}); check the connection and the disk's space"
            raise RequestError(lack) from None
        if self.size and path.stat().st_size != self.size:
            raise RequestError(f"{self.name}: has changed since it was listed; give the command again")


def find(
    pattern: str, base: Path, config: str | None = None, split: str | None = None, revision: str | None = None
) -> list[File]:
    """The files at a path (relative to `base`), a glob, a range or a URL; of a folder of pictures, the table in it or
    beside it; of a hub set, or of a folder in the hub's layout, those of a split.

    Raises RequestError if there are none.
    """
    numbers = RANGE.search(pattern)
    if numbers and int(numbers[1]) <= int(numbers[2]):
        files = []
        for number in range(int(numbers[1]), int(numbers[2]) + 1):
            files += find(RANGE.sub(f"{number:0{len(numbers[1])}}", pattern, count=1), base)
        return files
    hub = HUB.fullmatch(pattern)
    if hub:
        files = []
        for url in _of_split(hub[1], config, split, revision or hub[2]):
            files += _remote_files(url)
        return files
    if "://" in pattern:
        return _remote_files(pattern)
    path = base / expanded(pattern)
    if path.is_file():
        return [_local_file(path)]
    if path.is_dir():
        for table in () if config or split else (path / "metadata", path):  # which may list several splits
            for ending in (".csv", ".jsonl", ".parquet"):
                beside = Path(f"{table}{ending}")
                if beside.is_file():
                    return [_local_file(beside)._replace(folder=path)]
        if next(islice(path.rglob("*"), MOST_ENTRIES, None), None):
            raise RequestError(
                f"{pattern!r} holds over {MOST_ENTRIES:,} files and folders; name a folder in it, or its tables "
                f"or tars (`{pattern}/**/*.parquet`)"
            )
        return [_local_file(Path(file)) for file in _of_split(str(path), config, split, None)]
    # relative to the folder, whose own name may contain brackets
    matches = sorted(glob.glob(str(expanded(pattern)), root_dir=base, recursive=True))
    files = [_local_file(base / match) for match in matches if (base / match).is_file()]
    if not files:
        raise RequestError(f"there is no file {pattern!r}; paths are relative to the data file")
    return files


def _local_file(path: Path) -> File:
    status = path.stat()
    return File(os.path.abspath(path), status.st_size, str(status.st_mtime_ns), path.parent)


def _remote_files(url: str) -> list[File]:
    files = []
    try:
        system, place = fsspec.core.url_to_fs(url)
        for name, about in sorted(system.glob(place, detail=True).items()):
            if about["type"] == "file":
                files.append(File(system.unstrip_protocol(name), about["size"] or 0, system.ukey(name)))
    except Exception as error:  # depends on the library that serves the URL
        lack = f"{url}: cannot be listed ({first_line(error)}); check the URL and your access to it"
        raise RequestError(lack) from None
    if not files:
        raise RequestError(f"no remote file matches {url!r}")
    return files


def _ask_hub(name: str) -> None:
    """Raises ConnectionError if the hub does not answer; `datasets` would try for half a minute, with a line each."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        HfApi().dataset_info(name, timeout=20.0)
    except (HfHubHTTPError, ValueError):
        pass  # `datasets` says what is wrong with the name
    except Exception as error:  # of the library for requests, which differs by version
        raise ConnectionError(first_line(error)) from None


def _of_split(name: str, config: str | None, split: str | None, revision: str | None) -> list[str]:
    """The files of a split that can be read, of a name on the hub or of a folder in its layout."""
    import datasets

    logging.getLogger("huggingface_hub.repocard").setLevel(logging.ERROR)  # a missing card is no news
    try:
        if not os.path.isdir(name):
            _ask_hub(name)
        with TemporaryDirectory() as unused:
            builder = datasets.load_dataset_builder(name, config, revision=revision, cache_dir=unused)
    except ConnectionError as error:
        pin = f" --revision {revision}" if revision else ""
        raise RequestError(
            f"the hub cannot be reached ({first_line(error)}); where there is a network, run "
            f"`hf download {name} --repo-type dataset{pin} --local-dir DIR`, and write `{{dataset: DIR}}` here"
        ) from None
    except Exception as error:  # the library raises many kinds
        said = " ".join(str(error).partition("Example of usage")[0].split())[:300]  # of configurations it lists all
        remedy = A_FOLDER_NEEDS
        if "config" in said.lower():
            remedy = "of several configurations, name one: `{dataset: …, config: NAME}`"
        raise RequestError(f"{name} cannot be read as a data set ({said}); {remedy}") from None
    splits = {str(name): files for name, files in builder.config.data_files.items()}
    if split is None and len(splits) == 1:
        split = next(iter(splits))
    if split not in splits:
        raise RequestError(f"has the splits {', '.join(splits)}; name one of them: `{{dataset: …, split: NAME}}`")
    read = [file for file in splits[split] if PurePosixPath(file).suffix in ENDINGS]
    if not read:
        other = PurePosixPath(splits[split][0]).name
        raise RequestError(f"split {split!r} of {name} has no table and no tar, but {other}; {A_FOLDER_NEEDS}")
    return read
