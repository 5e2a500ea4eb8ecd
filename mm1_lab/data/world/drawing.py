"""Renders scenes at 72 pixels and downsamples them by area averaging, so that lower resolutions lose detail."""

from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mm1_lab.data.types import Pixels
from mm1_lab.data.world.scenes import Scene
from mm1_lab.data.world.words import COLOURS, CORNERS

CANVAS = 72
_CELL = CANVAS // 2
"""Side of the cell that a thing occupies: a quarter of the picture's area."""
_LENGTHS = {"large": 34, "small": 22}
"""In canvas pixels. Small things of 12 would be recognised as poorly at 336 as at 224 (results/LOG.md)."""
_JITTER = 1
_NOISE = 8.0
"""Standard deviation of the pixel noise, in grey levels of 255."""
_NOISE_FIELDS = 64
_CROP, _BLUR, _DARK = 9, 7, 0.35
"""Flaws of a photograph: a shift and a blur in pixels of the canvas, and the brightness that is left; chosen by eye, so
that what is asked can still be seen."""
Flaw = Literal["blurred", "dark", "cropped"]

_LETTERS = {
    "c": ".#### #.... #.... #.... #.... #.... .####",
    "h": "#...# #...# #...# ##### #...# #...# #...#",
    "l": "#.... #.... #.... #.... #.... #.... #####",
    "t": "##### ..#.. ..#.. ..#.. ..#.. ..#.. ..#..",
    "z": "##### ....# ...#. ..#.. .#... #.... #####",
}


@dataclass(frozen=True, slots=True)
class ScenePicture:
    """A picture of a scene, optionally degraded by a flaw, as in a bad photograph."""

    scene: Scene
    flaw: Flaw | None = None

    def pixels(self, side: int) -> Pixels:
        """(side, side, 3)."""
        small = _draw(self.scene, side) if self.flaw is None else _draw_flawed(self.scene, self.flaw, side)
        small += _noise(side)[self.scene.look % _NOISE_FIELDS]
        return small.clip(0, 255).astype(np.uint8)


def _draw(scene: Scene, side: int) -> NDArray[np.float32]:
    """(side, side, 3). As things never overlap, each one's mask is downsampled separately instead of the picture."""
    random = Random(scene.look)
    background = 20 + 60 * random.random()
    small = np.full((side, side, 3), background, np.float32)
    shrink = _shrink(side)
    for thing, (top, left) in zip(scene.things, _corners(scene, random), strict=True):
        mask = mask_of(thing.name, _LENGTHS[thing.size])
        rows, columns = (slice(at * side // CANVAS, -(-(at + len(mask)) * side // CANVAS)) for at in (top, left))
        cover = shrink[rows, top : top + len(mask)] @ mask @ shrink[columns, left : left + len(mask)].T
        small[rows, columns] += cover[:, :, None] * (_rgb(thing.colour) - background)
    return small


def _corners(scene: Scene, random: Random) -> list[tuple[int, int]]:
    """(top, left) of each thing: centred in its cell, up to `_JITTER` pixels off."""
    corners = []
    for thing in scene.things:
        margin = (_CELL - _LENGTHS[thing.size]) // 2 - _JITTER
        down, right = (margin + int(random.random() * (2 * _JITTER + 1)) for _ in range(2))
        row, column = divmod(CORNERS.index(thing.place), 2)
        corners.append((row * _CELL + down, column * _CELL + right))
    return corners


@cache
def _rgb(colour: str) -> NDArray[np.float32]:
    return np.array(COLOURS[colour], np.float32)


@cache
def mask_of(name: str, side: int) -> NDArray[np.float32]:
    """(side, side): the share of each pixel that the shape or letter covers."""
    fine = 4 * side
    grid = (np.arange(fine) + 0.5) / fine * 2 - 1
    x, y = np.meshgrid(grid, grid)
    radius = np.sqrt(x * x + y * y)
    inside: dict[str, NDArray[np.bool_]] = {
        "circle": radius < 1,
        "square": np.full_like(radius, True, bool),
        "triangle": (abs(x) < (y + 0.9) / 1.8) & (abs(y) < 0.9),
        "cross": (abs(x) < 0.3) | (abs(y) < 0.3),
        "ring": (radius < 1) & (radius > 0.55),
        "diamond": 1.8 * abs(x) + abs(y) < 1,  # narrow, as small circles look like a wide diamond
    }
    shape = inside[name] if name in inside else _letter(name, fine)
    return shape.reshape(side, 4, side, 4).mean((1, 3)).astype(np.float32)


def _letter(name: str, fine: int) -> NDArray[np.bool_]:
    bitmap = np.array([[dot == "#" for dot in line] for line in _LETTERS[name].split()])
    rows = np.arange(fine) * 7 // fine
    columns = np.arange(fine) * 7 // fine - 1
    letter = bitmap[rows][:, np.clip(columns, 0, 4)]
    letter[:, (columns < 0) | (columns > 4)] = False
    return letter


@cache
def _shrink(side: int) -> NDArray[np.float32]:
    """(side, CANVAS): the matrix that averages canvas pixels over the area of each output pixel."""
    edges = np.linspace(0, CANVAS, side + 1)
    pixel = np.arange(CANVAS)
    overlap = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    return (np.clip(overlap, 0, None) * side / CANVAS).astype(np.float32)


@cache
def _noise(side: int) -> NDArray[np.float32]:
    generator = np.random.default_rng(side)
    return generator.normal(0, _NOISE, (_NOISE_FIELDS, side, side, 3)).astype(np.float32)


def _draw_flawed(scene: Scene, flaw: Flaw, side: int) -> NDArray[np.float32]:
    """(side, side, 3): the scene, blurred, darkened or cropped."""
    if flaw == "dark":
        return _draw(scene, side) * _DARK
    canvas = _draw(scene, CANVAS)
    if flaw == "cropped":
        canvas = np.roll(canvas, (_CROP, -_CROP), (0, 1))
        canvas[:_CROP] = 0
        canvas[:, -_CROP:] = 0
    else:
        kernel = np.ones(_BLUR) / _BLUR
        for axis in (0, 1):
            canvas = np.apply_along_axis(lambda line: np.convolve(line, kernel, "same"), axis, canvas)
    shrink = _shrink(side)
    rows = (shrink @ canvas.reshape(CANVAS, -1)).reshape(side, CANVAS, 3)
    return np.matmul(shrink, rows).astype(np.float32)
