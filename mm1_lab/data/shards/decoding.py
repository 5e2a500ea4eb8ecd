"""Users' images: read when they are needed, and kept at the sizes asked for while there is room."""

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageOps

from mm1_lab.data.pixels import MEAN_COLOUR
from mm1_lab.data.types import BrokenPicture, Pixels

Shape = Literal["squeeze", "crop", "pad"]
"""How an image becomes a square; `crop` keeps its middle, `pad` adds mean colour."""
ROOM = 256 << 20
"""Bytes of pixels that a process keeps."""
LARGEST = 64_000_000
"""Pixels of an image; they take three bytes each while it is decoded."""
MOST_BYTES = 256 << 20
"""Of an image's file; a photograph of 50 megapixels has a tenth of that."""
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""Others are not tried: for some of them Pillow starts programs."""

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # `largest` is the limit


@dataclass(slots=True)
class Decoder:
    """Decodes images and keeps them until `room` bytes are full: a small data set is decoded once."""

    shape: Shape = "squeeze"
    largest: int = LARGEST
    """Pixels; larger ones are broken."""
    room: int = ROOM
    kept: dict[tuple[str, int], Pixels] = field(default_factory=dict, repr=False)

    def get(self, name: str, side: int, read: Callable[[], bytes]) -> Pixels:
        """The image `name` at `side` pixels. Raises BrokenPicture if its bytes cannot be read or decoded."""
        pixels = self.kept.get((name, side))
        if pixels is None:
            pixels = self._decode(name, side, read)
            if self.room >= pixels.nbytes:
                self.room -= pixels.nbytes
                self.kept[name, side] = pixels
        return pixels

    def _decode(self, name: str, side: int, read: Callable[[], bytes]) -> Pixels:
        try:
            with Image.open(io.BytesIO(read()), formats=FORMATS) as image:
                if image.width * image.height > self.largest:
                    raise ValueError(f"{image.width} × {image.height} pixels are more than {self.largest}")
                image.draft("RGB", (2 * side, 2 * side))
                small = square(image.convert("RGB"), side, self.shape)
        except Exception as error:  # Pillow raises many kinds for damaged files
            raise BrokenPicture(f"{name} ({str(error).strip() or type(error).__name__})") from error
        pixels = np.asarray(small)
        pixels.flags.writeable = False
        return pixels


def square(image: Image.Image, side: int, shape: str) -> Image.Image:
    """The image at `side` × `side` pixels, made a square as `Decoder.shape` says."""
    if shape == "crop":
        return ImageOps.fit(image, (side, side), Image.Resampling.BICUBIC)
    if shape == "pad":
        return ImageOps.pad(image, (side, side), Image.Resampling.BICUBIC, color=(MEAN_COLOUR,) * 3)
    return image.resize((side, side), Image.Resampling.BICUBIC)


def read_file(path: Path) -> bytes:
    """The file's bytes. Raises OSError for what is no file (a pipe or a device would never end), or too large a one."""
    if not path.is_file():
        raise OSError(f"there is no file {path.name}")
    return read_stretch(path, 0, path.stat().st_size)


def read_stretch(path: Path, offset: int, length: int) -> bytes:
    """A part of a file. Raises OSError for one that is too large."""
    if length > MOST_BYTES:
        raise OSError(f"{length} bytes are more than an image may have")
    with path.open("rb") as stream:
        stream.seek(offset)
        return stream.read(length)


@dataclass(frozen=True, slots=True)
class StoredPicture:
    """An image of a shard, not yet read."""

    name: str
    """File and place, for messages."""
    read: Callable[[], bytes]
    decoder: Decoder = field(repr=False)

    def pixels(self, side: int) -> Pixels:
        return self.decoder.get(self.name, side, self.read)
