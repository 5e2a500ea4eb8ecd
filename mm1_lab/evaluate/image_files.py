"""Finds a benchmark's images by file name in a folder."""

from functools import lru_cache, partial
from pathlib import Path

from mm1_lab.config import RequestError
from mm1_lab.data.decoding import ImageDecoder, Shape, StoredPicture, read_file
from mm1_lab.data.types import BrokenPicture


class Images:
    """A folder of images."""

    def __init__(self, path: Path, shape: Shape, largest: int) -> None:
        """`shape`, `largest`: as in `ImageDecoder`. Raises RequestError if `path` is no folder."""
        if not path.is_dir():
            remedy = (
                "is not a folder of images; unpack an archive first" if path.exists() else "there is no such folder"
            )
            raise RequestError(f"{path}: {remedy}")
        self.path = path
        self._decoder = _decoder(shape, largest)

    def picture(self, name: str) -> StoredPicture | None:
        """The image of that name, or of that name without its first folders (`a/b/1.jpg`, `b/1.jpg`, `1.jpg`)."""
        parts = name.split("/")
        for start in range(len(parts)):
            file = self.path.joinpath(*parts[start:])
            if file.is_file():
                return StoredPicture(str(file), partial(read_file, file), self._decoder, key=file)
        return None


@lru_cache
def _decoder(shape: Shape, largest: int) -> ImageDecoder:
    """Shared by all folders, because each decoder has its own cache of pixels."""
    return ImageDecoder(shape, largest)


@lru_cache(maxsize=16)
def open_images(path: Path, shape: Shape, largest: int) -> Images:
    return Images(path, shape, largest)


def undecodable(error: BrokenPicture) -> str:
    """What to do about a question's image that cannot be decoded."""
    return f"{error}: cannot be decoded; repair the image, or remove its question"
