"""From an image to squares of pixels. An exported model's folder holds a copy of this file."""

import math
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps

IMAGE = "<image>"
"""Marks a picture in a text."""
MEAN_COLOUR = 128
"""Value of every channel where there is nothing to see: blank and broken images, borders. Encoders trained here
normalise it to 0; pre-trained ones have means of their own."""
PICTURE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""Formats that are decoded; for some others, Pillow would start external programs."""
MARKS = (":", ",", ";")
"""Stand after the overview of a tiled picture, between the tiles of a row, and at its end: the miniature world, too,
has these words, but no line break."""


class Grid(NamedTuple):
    """The tiles that are seen of a picture beside the whole; where there is but one, only the whole is seen."""

    rows: int = 1
    columns: int = 1

    @property
    def views(self) -> int:
        """The whole and its tiles."""
        return 1 if self == WHOLE else 1 + self.rows * self.columns


WHOLE = Grid()


class GridRule(NamedTuple):
    """Which grid a picture gets, and how its views are laid out in a text."""

    views: int = 1
    """The most views of a picture."""
    side: int = 0
    """Pixels of a side of a view, where the grid depends on the picture; 0: all pictures get the largest square one."""
    marked: bool = False
    """Whether one of the MARKS follows each view of a tiled picture."""

    def grid(self, size: tuple[int, int] | None = None) -> Grid:
        """The grid of a picture of this width and height in pixels; None: of a square that is drawn at any size.

        As in InternVL 1.5 the one whose ratio of width to height is nearest to the picture's, and of several the one
        with the most tiles, if the picture has over half of its pixels; here grids beyond that are never chosen, so
        that small pictures get few tiles.
        """
        most = self.views - 1
        if not self.side or size is None:
            along = max(1, math.isqrt(most))
            return Grid(along, along)
        width, height = size
        grids = [WHOLE]
        for rows in range(1, most + 1):
            for columns in range(1, most // rows + 1):
                if 2 * width * height > rows * columns * self.side**2:
                    grids.append(Grid(rows, columns))
        return min(grids, key=lambda grid: (abs(width * grid.rows - height * grid.columns) / grid.rows, -grid.views))

    def laid_out(self, grid: Grid, view: list[int], encode: Callable[[str], list[int]]) -> list[int]:
        """The ids of a picture's views, each of which takes those of `view`, with marks if the rule has some."""
        if not self.marked or grid == WHOLE:
            return view * grid.views
        # one token each, without the space that SentencePiece tokenizers may put before it
        overview, between, end = (encode(mark)[-1:] for mark in MARKS)
        row = (view + between) * (grid.columns - 1) + view + end
        return view + overview + row * grid.rows


USUAL_RULE = GridRule()
"""Every picture is seen as a whole."""


def shown_size(image: Image.Image) -> tuple[int, int]:
    """Width and height of `as_shown(image)`, from the head of a file that is not decoded yet."""
    width, height = image.size
    if image.format == "TIFF":  # turned by Pillow itself
        return width, height
    with suppress(Exception):  # as there
        # a PNG's own method decodes its pixels, in case that an orientation follows them
        if Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8):
            return height, width
    return width, height


def as_shown(image: Image.Image) -> Image.Image:
    """The image in RGB as a viewer shows it: turned as its EXIF orientation says, and on white if it is transparent.

    Raises ValueError for numbers of 32 bits, whose white is not known.
    """
    with suppress(Exception):  # damaged EXIF data, which raise many kinds, do not spoil the pixels
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        if orientation != 1:
            image = ImageOps.exif_transpose(image)
    if image.mode in ("I", "F"):
        raise ValueError("its pixels are numbers of 32 bits; convert it to 8 bits per channel")
    if image.mode.startswith("I;16"):  # converted directly, everything above 255 would be white
        eight_bits = np.asarray(image) // 257
        image = Image.fromarray(eight_bits.astype(np.uint8))
    if image.has_transparency_data:  # converted directly, black on transparent would be black on black
        drawn = image.convert("RGBA")
        white = Image.new("RGBA", drawn.size, "white")
        image = Image.alpha_composite(white, drawn)
    return image if image.mode == "RGB" else image.convert("RGB")


def square(image: Image.Image, side: int, shape: str, grid: Grid = WHOLE) -> Image.Image:
    """Resizes the image to `side` × `side` pixels, or to a grid of such squares, bicubically; `crop` keeps its centre,
    `pad` adds borders of `MEAN_COLOUR`, `squeeze` keeps all of it."""
    size = (grid.columns * side, grid.rows * side)
    bicubic = Image.Resampling.BICUBIC
    if shape == "crop":
        return ImageOps.fit(image, size, bicubic)
    if shape == "pad":
        return ImageOps.pad(image, size, bicubic, color=(MEAN_COLOUR,) * 3)
    return image.resize(size, bicubic)


def tiles(whole: np.ndarray, grid: Grid) -> list[np.ndarray]:
    """The tiles of an image (rows · side, columns · side, 3), in row-major order; of 2 × 2 its quarters as in SPHINX
    (section 5)."""
    return [tile for row in np.split(whole, grid.rows) for tile in np.split(row, grid.columns, axis=1)]
