"""From pictures to the images of a batch: users' files are decoded on demand; what cannot be decoded is counted."""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError

from mm1_lab.config import RequestError, Shape
from mm1_lab.data.preprocessing import PICTURE_FORMATS, WHOLE, Grid, GridRule, as_shown, shown_size, square, tiles
from mm1_lab.data.types import BrokenPicture, Picture, Pixels
from mm1_lab.files import PASSING

if TYPE_CHECKING:
    import torch

ROOM = 256 << 20
"""Bytes of decoded pixels that a process caches."""
CACHED_SIDE = 128
"""Largest side in pixels of an image that is cached: of larger ones only a few hundred would fit, and memory that is
never given back has to be fetched from the system page by page."""
LARGEST_PICTURE = 64_000_000
"""Pixels; a larger image counts as broken. Each takes three bytes during decoding."""
DECODING_VERSION = 2
"""Increased when the pixels of users' images change; part of the data's identity."""
BROKEN_SHARE = 0.01
BROKEN_LEAST = 10
"""A stage stops once more than `BROKEN_SHARE` of its images, and at least `BROKEN_LEAST`, cannot be decoded. The share
is tested after each batch: a minimum of 3 would stop every fifth stage on data of which only 0.5 % are broken."""
LISTED = 10
"""Broken images that the error names."""

Found = TypeVar("Found")

TASTED = 16
"""At most so many image files of a folder are hashed."""

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # LARGEST_PICTURE is checked instead


def files_apart(folder: Path, names: Iterable[str]) -> tuple[list[str], list[str]]:
    """What tells these image files of a folder from others: name and size of each (-1 if it is missing), and where they
    are few or many have one size, as bitmaps do, a hash of every so many's content. And the names of the missing ones.

    Not the content of all, which would be read whenever data are opened.
    """
    told: list[str] = []
    missing: list[str] = []
    sizes: dict[str, int] = {}  # of those that are there
    for name in names:
        try:
            size = os.stat(f"{folder}/{name}").st_size
            sizes[name] = size
        except (OSError, ValueError) as error:
            _raise_passing(error, f"{folder}/{name}")
            size = -1
            missing.append(name)
        told.append(f"{name} {size}")
    if sizes:
        alike = max(Counter(sizes.values()).values())
        if len(sizes) <= TASTED or 4 * alike > len(sizes):
            for name in list(sizes)[:: -(-len(sizes) // TASTED)]:
                try:
                    told.append(hashlib.sha256(read_file(folder / name)).hexdigest())
                except OSError as error:  # a folder, or without permission: for whoever decodes it to tell
                    _raise_passing(error, f"{folder}/{name}")
    return told, missing


def _raise_passing(error: Exception, name: str) -> None:
    """Raises RequestError for an error that passes: with the image counted as missing or broken the data would be
    others, and a run would not repeat another. EIO may stay."""
    if isinstance(error, OSError) and error.errno in PASSING:
        raise RequestError(f"{name} cannot be read now ({error.strerror}); run the command again") from None


@dataclass(eq=False)
class ImageDecoder:
    """Decodes images and caches up to `room` bytes of small ones, so that a small data set is decoded only once."""

    shape: Shape = "squeeze"
    room: int = ROOM
    kept: dict[tuple[Hashable, int, Grid], Pixels] = field(default_factory=dict, repr=False)

    def get(self, picture: StoredPicture, side: int, grid: Grid) -> Pixels:
        """Returns the image as a grid of squares of `side` pixels. Raises as `StoredPicture.opened`."""
        pixels = self.kept.get((picture.key, side, grid))
        if pixels is None:
            pixels = np.asarray(picture.opened(lambda image: square(as_shown(image), side, self.shape, grid)))
            pixels.flags.writeable = False
            if side * max(grid) <= CACHED_SIDE and self.room >= pixels.nbytes:
                self.room -= pixels.nbytes
                self.kept[picture.key, side, grid] = pixels
        return pixels


def read_file(path: Path) -> bytes:
    """Returns the file's bytes. Raises OSError if it is not a regular file: a pipe might never end."""
    if not path.is_file():
        raise OSError(f"{path} is no file" if path.exists() else f"there is no file {path}")
    return path.read_bytes()


@dataclass(frozen=True, slots=True)
class StoredPicture:
    """An image of a shard, read when its pixels are requested."""

    name: str
    """File and place in it, for messages."""
    read: Callable[[], bytes]
    decoder: ImageDecoder = field(repr=False)
    key: Hashable
    """Differs from those of the decoder's other images; names, which readers choose, may be equal."""

    def pixels(self, side: int, grid: Grid = WHOLE) -> Pixels:
        return self.decoder.get(self, side, grid)

    def size(self) -> tuple[int, int]:
        """Width and height in pixels, without decoding it. Raises as `opened`."""
        return self.opened(shown_size)

    def opened(self, use: Callable[[Image.Image], Found]) -> Found:
        """What `use` finds in the image, of which it decodes what it needs.

        Raises BrokenPicture if its bytes cannot be read or decoded, RequestError if they cannot be read at present.
        """
        try:
            with Image.open(io.BytesIO(self.read()), formats=PICTURE_FORMATS) as image:
                if image.width * image.height > LARGEST_PICTURE:
                    raise ValueError(f"{image.width} × {image.height} pixels exceed the limit of {LARGEST_PICTURE}")
                return use(image)
        except (RequestError, MemoryError):  # of the connection or the machine, which say nothing about the image
            raise
        except UnidentifiedImageError:  # whose message holds an address instead of a name
            raise BrokenPicture(f"{self.name} (is none of {', '.join(PICTURE_FORMATS)}; convert it)") from None
        except Exception as error:  # Pillow raises many kinds for damaged files
            _raise_passing(error, self.name)
            raise BrokenPicture(f"{self.name} ({str(error).strip() or type(error).__name__})") from error


def image_tensor(images: Sequence[Pixels]) -> torch.Tensor:
    """Stacks uint8 images of shape (side, side, 3) into a tensor (n, 3, side, side)."""
    import torch  # imported late: planning opens data too, and need not wait for this import

    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()


def decodes(picture: Picture) -> bool:
    """Whether the picture can be decoded, tested at a size of one pixel."""
    return not decode([picture], 1)[1].broken


@dataclass(frozen=True)
class Decoded:
    """How many pictures a batch requested, and one error message for each that could not be decoded."""

    asked: int = 0
    broken: tuple[str, ...] = ()


NONE_ASKED = Decoded()


def grid_of(picture: Picture, rule: GridRule) -> Grid:
    """The grid in which a picture is seen. Broken ones are seen as a whole; what is drawn is square, of any size.

    Raises RequestError if it cannot be read at present.
    """
    if not rule.side or not isinstance(picture, StoredPicture):
        return rule.grid()
    try:
        return rule.grid(picture.size())
    except BrokenPicture:
        return WHOLE


def views(picture: Picture, side: int, grid: Grid) -> list[Pixels]:
    """The views of a picture: the whole at `side` pixels and, if the grid has several, its tiles likewise.

    Raises BrokenPicture.
    """
    overview = picture.pixels(side)
    if grid == WHOLE:
        return [overview]
    # of what is drawn all grids are square
    whole = picture.pixels(side, grid) if isinstance(picture, StoredPicture) else picture.pixels(grid.rows * side)
    return [overview, *tiles(whole, grid)]


def decode(pictures: Sequence[Picture], side: int) -> tuple[dict[int, Pixels], Decoded]:
    """Returns the pictures that can be decoded, by their place in `pictures`, and the `Decoded` counts."""
    images = {}
    broken = []
    for place, picture in enumerate(pictures):
        try:
            images[place] = picture.pixels(side)
        except BrokenPicture as error:
            broken.append(str(error))
    return images, Decoded(len(pictures), tuple(broken))


class TooManyBrokenPictures(Exception):
    """Too many images cannot be decoded for training to continue; the message lists the first ten."""


class BrokenPictures:
    """Counts the images of a stage that cannot be decoded and stops it when they are too many."""

    def __init__(self) -> None:
        self.asked = 0
        self.broken = 0
        self.messages: dict[str, None] = {}
        """The first `LISTED` different ones; billions of images may have millions."""

    def add(self, decoded: Decoded) -> None:
        """Adds a batch. Raises TooManyBrokenPictures if ten or more, and more than 1 %, cannot be decoded."""
        self.asked += decoded.asked
        self.broken += len(decoded.broken)
        for message in decoded.broken:
            if len(self.messages) < LISTED:
                self.messages[message] = None
        if decoded.broken and self.broken >= BROKEN_LEAST and self.broken > BROKEN_SHARE * self.asked:
            listed = "; ".join(self.messages)
            raise TooManyBrokenPictures(
                f"{self.broken} of the {self.asked} images read so far cannot be decoded; repair or remove: {listed}"
            )
