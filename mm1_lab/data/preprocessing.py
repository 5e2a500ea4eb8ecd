"""From an image to a square of pixels. An exported model's folder holds a copy of this file."""

from contextlib import suppress

import numpy as np
from PIL import ExifTags, Image, ImageOps

IMAGE = "<image>"
"""Marks a picture in a text."""
MEAN_COLOUR = 128
"""Value of every channel where there is nothing to see: blank and broken images, borders. Encoders trained here
normalise it to 0; pre-trained ones have means of their own."""
PICTURE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""Formats that are decoded; for some others, Pillow would start external programs."""


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


def square(image: Image.Image, side: int, shape: str) -> Image.Image:
    """Resizes the image to `side` × `side` pixels, bicubically; `crop` keeps its centre, `pad` adds borders of
    `MEAN_COLOUR`, `squeeze` keeps all of it."""
    size = (side, side)
    bicubic = Image.Resampling.BICUBIC
    if shape == "crop":
        return ImageOps.fit(image, size, bicubic)
    if shape == "pad":
        return ImageOps.pad(image, size, bicubic, color=(MEAN_COLOUR,) * 3)
    return image.resize(size, bicubic)


def tiles(whole: np.ndarray, along: int) -> list[np.ndarray]:
    """The tiles of a square image (along · side, along · side, 3), in row-major order; its quarters as in SPHINX
    (section 5)."""
    return [tile for row in np.split(whole, along) for tile in np.split(row, along, axis=1)]
