"""Scenes as pictures: drawn at 72 pixels and scaled down by area, so that a lower resolution loses detail."""

from dataclasses import dataclass
from functools import cache, lru_cache
from random import Random
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mm1_lab.data.types import Pixels
from mm1_lab.data.world.scenes import Scene
from mm1_lab.data.world.words import COLOURS

CANVAS = 72
_CELL = CANVAS // 2
_JITTER = 1
_NOISE = 8.0
"""Standard deviation of the pixel noise, in grey levels of 255."""
_NOISE_FIELDS = 64
_CROP = 9
_BLUR = 7
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
    """A scene to be drawn, perhaps with a flaw (a bad photograph)."""

    scene: Scene
    flaw: Flaw | None = None

    def pixels(self, side: int) -> Pixels:
        """(side, side, 3)."""
        small = _draw(self.scene, side) if self.flaw is None else _draw_flawed(self.scene, self.flaw, side)
        small += _noise(side)[self.scene.look % _NOISE_FIELDS]
        return small.clip(0, 255).astype(np.uint8)


def _draw(scene: Scene, side: int) -> NDArray[np.float32]:
    """(side, side, 3). Things never overlap, so scaling each cover down is scaling the picture down."""
    random = Random(scene.look)
    background = 20 + 60 * random.random()
    small = np.full((side, side, 3), background, np.float32)
    for thing in scene.things:
        jitter = int(random.random() * (2 * _JITTER + 1)) - _JITTER, int(random.random() * (2 * _JITTER + 1)) - _JITTER
        cover = _cover(thing.name, thing.size, thing.place, *jitter, side)
        small += cover * (_rgb(thing.colour) - background)
    return small


@lru_cache(maxsize=20_000)
def _cover(name: str, size: str, place: int, down: int, right: int, side: int) -> NDArray[np.float32]:
    """(side, side, 1): the share of each pixel that the thing covers."""
    mask = _mask(name, size)
    row, column = divmod(place, 2)
    margin = (_CELL - mask.shape[0]) // 2
    canvas = np.zeros((CANVAS, CANVAS), np.float32)
    top, left = row * _CELL + margin + down, column * _CELL + margin + right
    canvas[top : top + mask.shape[0], left : left + mask.shape[1]] = mask
    shrink = _shrink(side)
    return np.asarray(shrink @ canvas @ shrink.T, np.float32)[:, :, None]


@cache
def _rgb(colour: str) -> NDArray[np.float32]:
    return np.array(COLOURS[colour], np.float32)


def _mask(name: str, size: str) -> NDArray[np.float32]:
    """(n, n): 1 where the thing is. Large things are 34 pixels of the canvas, small ones 22."""
    return mask_of(name, 34 if size == "large" else 22)


@cache
def mask_of(name: str, side: int) -> NDArray[np.float32]:
    """(side, side): the share of each pixel that a shape or letter covers."""
    fine = 4 * side
    grid = (np.arange(fine) + 0.5) / fine * 2 - 1
    x, y = np.meshgrid(grid, grid)
    radius = np.sqrt(x * x + y * y)
    inside: dict[str, NDArray[np.bool_]] = {
        "circle": radius < 1,
        "square": (abs(x) < 0.9) & (abs(y) < 0.9),
        "triangle": (abs(x) < (y + 0.9) / 1.8) & (abs(y) < 0.9),
        "cross": (abs(x) < 0.3) | (abs(y) < 0.3),
        "ring": (radius < 1) & (radius > 0.55),
        "diamond": abs(x) + abs(y) < 1,
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
    """(side, CANVAS): averages over the area that each small pixel covers."""
    edges = np.linspace(0, CANVAS, side + 1)
    pixel = np.arange(CANVAS)
    overlap = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    return (np.clip(overlap, 0, None) * side / CANVAS).astype(np.float32)


@cache
def _noise(side: int) -> NDArray[np.float32]:
    generator = np.random.default_rng(side)
    return generator.normal(0, _NOISE, (_NOISE_FIELDS, side, side, 3)).astype(np.float32)


def _draw_flawed(scene: Scene, flaw: Flaw, side: int) -> NDArray[np.float32]:
    """(side, side, 3): a bad photograph of the scene."""
    if flaw == "dark":
        return _draw(scene, side) * np.float32(0.35)
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
