"""Users' images: read when they are needed, and kept at the sizes asked for while there is room."""

import io
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from mm1_lab.data.types import BrokenPicture, Pixels

ROOM = 256 << 20
"""Bytes of pixels that a process keeps."""


@dataclass(slots=True)
class PixelCache:
    """Decoded images, kept until `room` bytes are full: a small data set is decoded once, a large one each time."""

    room: int = ROOM
    kept: dict[tuple[str, int], Pixels] = field(default_factory=dict, repr=False)

    def get(self, name: str, side: int, read: Callable[[], bytes]) -> Pixels:
        """The image `name` at `side` pixels. Raises BrokenPicture if its bytes cannot be read or decoded."""
        pixels = self.kept.get((name, side))
        if pixels is None:
            pixels = _decode(name, side, read)
            if self.room >= pixels.nbytes:
                self.room -= pixels.nbytes
                self.kept[name, side] = pixels
        return pixels


def _decode(name: str, side: int, read: Callable[[], bytes]) -> Pixels:
    """The whole image, squeezed to a square. Pillow raises many kinds of errors for damaged files."""
    try:
        with Image.open(io.BytesIO(read())) as image:
            image.draft("RGB", (2 * side, 2 * side))
            small = image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
    except Exception as error:
        raise BrokenPicture(f"{name} ({str(error).strip() or type(error).__name__})") from error
    pixels = np.asarray(small)
    pixels.flags.writeable = False
    return pixels


@dataclass(frozen=True, slots=True)
class StoredPicture:
    """An image of a shard, not yet read."""

    name: str
    """File and place, for messages."""
    read: Callable[[], bytes]
    cache: PixelCache = field(repr=False)

    def pixels(self, side: int) -> Pixels:
        return self.cache.get(self.name, side, self.read)
