"""Images of a benchmark by file name: in a folder, or in a tar or zip file that is not unpacked."""

import tarfile
import zipfile
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath

from mm1_lab.config import RequestError
from mm1_lab.data.shards.decoding import Decoder, Shape, StoredPicture, read_file, read_stretch


class Images:
    """Where images lie. A name is looked for as it is, then without its folders."""

    def __init__(self, path: Path, shape: Shape) -> None:
        """`shape`: how they become squares. Raises RequestError if there is no such folder or file, or no archive."""
        self.path = path
        self._decoder = Decoder(shape)
        self._members: dict[str, Callable[[], bytes]] | None = None
        try:
            if path.is_dir():
                return
            self._members = _of_zip(path) if zipfile.is_zipfile(path) else _of_tar(path)
        except FileNotFoundError:
            raise RequestError(f"{path}: there is no such folder or file of images") from None
        except (OSError, tarfile.TarError) as error:
            raise RequestError(f"{path}: is no folder, tar or zip of images ({error})") from None

    def picture(self, name: str) -> StoredPicture | None:
        """None if there is no image of that name."""
        for candidate in (name, PurePosixPath(name).name):
            read = self._read(candidate)
            if read:
                return StoredPicture(f"{self.path}: {candidate}", read, self._decoder)
        return None

    def _read(self, name: str) -> Callable[[], bytes] | None:
        if self._members is not None:
            return self._members.get(name)
        file = self.path / name
        return partial(read_file, file) if file.is_file() else None


@lru_cache(maxsize=16)
def open_images(path: Path, shape: Shape = "squeeze") -> Images:
    """The images at `path`, indexed once per process."""
    return Images(path, shape)


def _of_zip(path: Path) -> dict[str, Callable[[], bytes]]:
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
    return _by_name({name: partial(_unzip, path, name) for name in names})


def _unzip(path: Path, name: str) -> bytes:
    with zipfile.ZipFile(path) as archive:
        return archive.read(name)


def _of_tar(path: Path) -> dict[str, Callable[[], bytes]]:
    with tarfile.open(path, "r:") as archive:
        members = [member for member in archive.getmembers() if member.isfile()]
    return _by_name({member.name: partial(read_stretch, path, member.offset_data, member.size) for member in members})


def _by_name(members: dict[str, Callable[[], bytes]]) -> dict[str, Callable[[], bytes]]:
    """Members by whole name, and by the name without folders."""
    return {PurePosixPath(name).name: read for name, read in members.items()} | members
