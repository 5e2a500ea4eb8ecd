"""Users' images: read and decoded on demand, and cached in memory at the requested sizes."""

import io
import warnings
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

from mm1_lab.config import RequestError
from mm1_lab.data.preprocessing import FORMATS, as_shown, square
from mm1_lab.data.types import BrokenPicture, Pixels

Shape = Literal["squeeze", "crop", "pad"]
"""How an image is made square: `crop` keeps its centre, `pad` adds borders of the mean colour."""
ROOM = 256 << 20
"""Bytes of decoded pixels that a process caches."""
CACHED_SIDE = 128
"""Largest side in pixels of an image that is cached: of larger ones only a few hundred would fit, and memory that is
never given back has to be fetched from the system page by page."""
LARGEST_PICTURE = 64_000_000
"""Pixels; a larger image counts as broken. Each takes three bytes during decoding."""
DECODING_VERSION = 2
"""Increased when the pixels of users' images change; part of the data's identity."""

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # LARGEST_PICTURE is checked instead


@dataclass(slots=True)
class ImageDecoder:
    """Decodes images and caches up to `room` bytes of small ones, so that a small data set is decoded only once."""

    shape: Shape = "squeeze"
    room: int = ROOM
    kept: dict[tuple[Hashable, int], Pixels] = field(default_factory=dict, repr=False)

    def get(self, picture: "StoredPicture", side: int) -> Pixels:
        """Returns the image at `side` pixels.

        Raises BrokenPicture if its bytes cannot be read or decoded, RequestError if its remote file cannot be fetched.
        """
        pixels = self.kept.get((picture.key, side))
        if pixels is None:
            pixels = self._decode(picture, side)
            if side <= CACHED_SIDE and self.room >= pixels.nbytes:
                self.room -= pixels.nbytes
                self.kept[picture.key, side] = pixels
        return pixels

    def _decode(self, picture: "StoredPicture", side: int) -> Pixels:
        try:
            with Image.open(io.BytesIO(picture.read()), formats=FORMATS) as image:
                if image.width * image.height > LARGEST_PICTURE:
                    raise ValueError(f"{image.width} × {image.height} pixels exceed the limit of {LARGEST_PICTURE}")
                small = square(as_shown(image), side, self.shape)
        except RequestError:  # the connection failed, which says nothing about the image
            raise
        except UnidentifiedImageError:  # whose message holds an address instead of a name
            raise BrokenPicture(f"{picture.name} (is none of {', '.join(FORMATS)}; convert it)") from None
        except Exception as error:  # Pillow raises many kinds for damaged files
            raise BrokenPicture(f"{picture.name} ({str(error).strip() or type(error).__name__})") from error
        pixels = np.asarray(small)
        pixels.flags.writeable = False
        return pixels


def read_file(path: Path) -> bytes:
    """Returns the file's bytes. Raises OSError if it is not a regular file: a pipe might never end."""
    if not path.is_file():
        raise OSError(f"there is no file {path}")
    return path.read_bytes()


def read_stretch(path: Path, offset: int, length: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(length)


@dataclass(frozen=True, slots=True)
class StoredPicture:
    """An image of a shard, read when its pixels are requested."""

    name: str
    """File and place in it, for messages."""
    read: Callable[[], bytes]
    decoder: ImageDecoder = field(repr=False)
    key: Hashable
    """Differs from those of the decoder's other images; names, which readers choose, may be equal."""

    def pixels(self, side: int) -> Pixels:
        return self.decoder.get(self, side)
