"""Renders scenes at 72 pixels and downsamples them by area averaging, so that lower resolutions lose detail."""

import math
from functools import cache
from random import Random
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mm1_lab.data.types import Pixels
from mm1_lab.data.world.scenes import Scene
from mm1_lab.data.world.words import COLOURS, CORNERS

CANVAS = 72
_CELL = CANVAS // 2
"""Side of the cell that a thing occupies: a quarter of the picture's area."""
_LENGTHS = {"large": (12.0, 24.0), "small": (6.0, 12.0)}
"""Shortest and longest side in canvas pixels, drawn log-uniformly: two octaves, of which a resolution shows a part."""
_SHIFT = 6
"""Canvas pixels by which things stand off the middle of their quarters, turned round the centre like a pinwheel, so
that quarters do not coincide with the cells that few image tokens stand for."""
_OFFSETS = ((0, 1), (1, 0), (-1, 0), (0, -1))
"""(down, right) of each quarter in reading order, times `_SHIFT`."""
_JITTER = 1
_NOISE = 8.0
"""Standard deviation of the pixel noise, in grey levels of 255."""
_NOISE_FIELDS = 64
RGB = {colour: np.array(rgb, np.float32) for colour, rgb in COLOURS.items()}
_CROP, _BLUR, _DARK = 9, 7, 0.35
"""Flaws of a photograph: a shift and a blur in pixels of the canvas, and the brightness that is left; chosen by eye, so
that what is asked can still be seen."""
Flaw = Literal["blurred", "dark", "cropped"]
Floats = NDArray[np.float32]

_LETTERS = {
    "c": ".#### #.... #.... #.... #.... #.... .####",
    "e": "##### #.... #.... ####. #.... #.... #####",
    "f": "##### #.... #.... ####. #.... #.... #....",
    "h": "#...# #...# #...# ##### #...# #...# #...#",
    "k": "#...# #..#. #.#.. ##... #.#.. #..#. #...#",
    "l": "#.... #.... #.... #.... #.... #.... #####",
    "t": "##### ..#.. ..#.. ..#.. ..#.. ..#.. ..#..",
    "u": "#...# #...# #...# #...# #...# #...# .###.",
    "x": "#...# #...# .#.#. ..#.. .#.#. #...# #...#",
    "z": "##### ....# ...#. ..#.. .#... #.... #####",
}


class Spot(NamedTuple):
    """Where a thing or letter is drawn, in canvas pixels."""

    side: int
    top: int
    left: int


class ScenePicture(NamedTuple):
    """A picture of a scene, optionally degraded by a flaw, as in a bad photograph."""

    scene: Scene
    flaw: Flaw | None = None

    def pixels(self, side: int) -> Pixels:
        small = _photograph(self.scene, self.flaw, side)
        small += _noise(side)[self.scene.look % _NOISE_FIELDS]
        return small.clip(0, 255).astype(np.uint8)


def _draw(scene: Scene, side: int) -> Floats:
    """(side, side, 3). As things never overlap, each one's mask is downsampled separately instead of the picture."""
    background = 20 + 60 * Random(scene.look).random()
    small = np.full((side, side, 3), background, np.float32)
    shrink = _shrink(side)
    for thing, (length, top, left) in zip(scene.things, layout(scene), strict=True):
        down = slice(top, top + length)
        along = slice(left, left + length)
        rows, columns = _covering(down, side), _covering(along, side)
        cover = shrink[rows, down] @ mask_of(thing.name, length) @ shrink[columns, along].T
        small[rows, columns] += cover[:, :, None] * (RGB[thing.colour] - background)
    return small


def _covering(span: slice, side: int) -> slice:
    """The pixels of a picture of this side that canvas pixels lie in, wholly or in part."""
    return slice(span.start * side // CANVAS, math.ceil(span.stop * side / CANVAS))


def centre_of(place: int) -> tuple[float, float]:
    """(row, column) of the middle of what stands in a place, but for the jitter, as shares of the picture's side."""
    top, left = _corner_of(place)
    return (top + _CELL / 2) / CANVAS, (left + _CELL / 2) / CANVAS


def _corner_of(place: int) -> tuple[int, int]:
    """(top, left) of the cell around what stands in a place, in canvas pixels."""
    quarter = CORNERS.index(place)
    row, column = divmod(quarter, 2)
    down, right = _OFFSETS[quarter]
    return row * _CELL + down * _SHIFT, column * _CELL + right * _SHIFT


def layout(scene: Scene) -> list[Spot]:
    random = Random(scene.look)
    random.random()  # the background's
    spots = []
    for thing in scene.things:
        shortest, longest = _LENGTHS[thing.size]
        length = round(shortest * (longest / shortest) ** random.random())
        margin = (_CELL - length) // 2 - _JITTER
        top, left = _corner_of(thing.place)
        top += margin + int(random.random() * (2 * _JITTER + 1))
        left += margin + int(random.random() * (2 * _JITTER + 1))
        spots.append(Spot(length, top, left))
    return spots


@cache
def mask_of(name: str, side: int) -> Floats:
    """(side, side): the share of each pixel that the shape or letter covers."""
    fine = 4 * side
    grid = (np.arange(fine) + 0.5) / fine * 2 - 1
    x, y = np.meshgrid(grid, grid)
    radius = np.sqrt(x * x + y * y)
    aside, away = abs(x), abs(y)
    inside: dict[str, NDArray[np.bool_]] = {
        "circle": radius < 1,
        "square": np.full_like(radius, True, bool),
        "triangle": (aside < (y + 0.9) / 1.8) & (away < 0.9),
        "cross": (aside < 0.3) | (away < 0.3),
        "ring": (radius < 1) & (radius > 0.55),
        "diamond": 1.8 * aside + away < 1,  # narrow, as small circles look like a wide diamond
        "moon": (radius < 1) & (np.hypot(x - 0.6, y) > 0.8),
        "arch": ((aside > 0.5) | (y < -0.5)) & (aside < 0.95),
        "bow": away < aside,
        "frame": np.maximum(aside, away) > 0.55,
    }
    shape = inside[name] if name in inside else _letter(name, fine)
    return shape.reshape(side, 4, side, 4).mean((1, 3)).astype(np.float32)


def _letter(name: str, fine: int) -> NDArray[np.bool_]:
    """(fine, fine): 7 rows, and 5 columns between two empty ones."""
    dots = np.array([list(f".{line}.") for line in _LETTERS[name].split()])
    places = np.arange(fine) * 7 // fine
    return dots[np.ix_(places, places)] == "#"


@cache
def _shrink(side: int) -> Floats:
    """(side, CANVAS): the matrix that averages canvas pixels over the area of each output pixel."""
    edges = np.linspace(0, CANVAS, side + 1)
    pixel = np.arange(CANVAS)
    overlap = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    return (np.clip(overlap, 0, None) * side / CANVAS).astype(np.float32)


@cache
def _noise(side: int) -> Floats:
    generator = np.random.default_rng(side)
    return generator.normal(0, _NOISE, (_NOISE_FIELDS, side, side, 3)).astype(np.float32)


def _photograph(scene: Scene, flaw: Flaw | None, side: int) -> Floats:
    """(side, side, 3)"""
    if flaw is None:
        return _draw(scene, side)
    if flaw == "dark":
        return _draw(scene, side) * _DARK
    canvas = _draw(scene, CANVAS)
    if flaw == "cropped":
        whole = canvas
        canvas = np.zeros_like(whole)
        canvas[_CROP:, :-_CROP] = whole[:-_CROP, _CROP:]
    else:
        kernel = np.ones(_BLUR) / _BLUR
        for axis in (0, 1):
            canvas = np.apply_along_axis(lambda line: np.convolve(line, kernel, "same"), axis, canvas)
    shrink = _shrink(side)
    rows = (shrink @ canvas.reshape(CANVAS, -1)).reshape(side, CANVAS, 3)
    return np.matmul(shrink, rows).astype(np.float32)
