"""Finds a benchmark's images by file name, in a folder or in tar and zip archives, which are read without unpacking."""

import os
import tarfile
import zipfile
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path

from mm1_lab.config import RequestError
from mm1_lab.data.decoding import ImageDecoder, Shape, StoredPicture, check_size, read_file, read_stretch
from mm1_lab.data.types import BrokenPicture
from mm1_lab.evaluate.items import regular
from mm1_lab.formatting import first_line

ARCHIVES = (".zip", ".tar")

Members = dict[str, Callable[[], bytes]]
"""What reads an image, by its name in an archive."""


class Images:
    """A folder of images, an archive, or a folder whose subfolders may be replaced by archives of the same name.

    An image is looked up by its given name, then by that name without its first folders. In an archive, the first
    folders of a member may be left out, unless several members would then have the same name.
    """

    def __init__(self, path: Path, shape: Shape, largest: int) -> None:
        """`shape`, `largest`: as in `ImageDecoder`. Raises RequestError if `path` is no folder and no archive."""
        self.path = path
        self._decoder = _decoder(shape, largest)
        self._members: Members | None = None
        """Of an archive; None for a folder."""
        try:
            if path.is_dir():
                return
            self._members = _of_zip(path) if zipfile.is_zipfile(regular(path)) else _of_tar(path)
        except FileNotFoundError:
            raise RequestError(f"{path}: there is no such folder or file of images") from None
        except Exception as error:  # zipfile and tarfile raise many kinds for damaged archives
            raise RequestError(f"{path}: is not a folder, tar or zip of images ({first_line(error)})") from None

    def picture(self, name: str) -> StoredPicture | None:
        """The image of that name, or None."""
        for candidate in _suffixes(name):
            read = self._read(candidate)
            if read:
                return StoredPicture(f"{self.path}: {candidate}", read, self._decoder, key=(self.path, candidate))
        return None

    def _read(self, name: str) -> Callable[[], bytes] | None:
        if self._members is not None:
            return self._members.get(name)
        file = self.path / name
        if file.is_file():
            return partial(read_file, file)
        folder, slash, inner = name.partition("/")
        if slash:  # `val2014/1.jpg` may be in val2014.zip
            for ending in ARCHIVES:
                archive = self.path / f"{folder}{ending}"
                if archive.is_file():
                    return open_images(archive, self._decoder.shape, self._decoder.largest)._read(inner)
        return None


@lru_cache
def _decoder(shape: Shape, largest: int) -> ImageDecoder:
    """Shared by all folders and archives, because each decoder has its own cache of pixels."""
    return ImageDecoder(shape, largest)


@lru_cache(maxsize=16)
def open_images(path: Path, shape: Shape, largest: int) -> Images:
    """The images at `path`, indexed once per process."""
    return Images(path, shape, largest)


def undecodable(error: BrokenPicture) -> str:
    """What to do about a question's image that cannot be decoded."""
    return f"{error}: cannot be decoded; repair the image, or remove its question"


def _of_zip(path: Path) -> Members:
    members: Members = {}
    for name in _opened(path, os.getpid()).namelist():
        if not name.endswith("/"):
            members[name] = partial(_unzip, path, name)
    return _by_suffix(members)


def _unzip(path: Path, name: str) -> bytes:
    archive = _opened(path, os.getpid())
    check_size(archive.getinfo(name).file_size)
    return archive.read(name)


@lru_cache(maxsize=16)
def _opened(path: Path, process: int) -> zipfile.ZipFile:
    """Kept open, as each opening would read the table of contents: one second per 80,000 images. A forked process needs
    one of its own, as its position in the file would otherwise be that of its parent."""
    return zipfile.ZipFile(path)


def _of_tar(path: Path) -> Members:
    members: Members = {}
    with tarfile.open(path, "r:") as archive:
        for member in archive.getmembers():
            if member.isfile():
                members[member.name] = partial(read_stretch, path, member.offset_data, member.size)
    return _by_suffix(members)


def _by_suffix(members: Members) -> Members:
    """Members by full name, and by each end of it that belongs to only one member."""
    names: dict[str, list[str]] = {}
    for name in members:
        for suffix in _suffixes(name):
            names.setdefault(suffix, []).append(name)
    found: Members = {}
    for suffix, own in names.items():
        if len(own) == 1:
            found[suffix] = members[own[0]]
    return found | members


def _suffixes(name: str) -> list[str]:
    """`a/b/1.jpg`, `b/1.jpg`, `1.jpg`"""
    parts = name.split("/")
    return ["/".join(parts[start:]) for start in range(len(parts))]
