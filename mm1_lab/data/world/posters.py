"""Pictures with small print, which need high resolution: posters of letters, and bar charts with countable steps.

The canvas has 144 pixels. A poster's letters are 8 or 7 pixels high on it: 2 pixels or less at side 36 (the paper's
336), where a reader of pixels that knows where they stand tells four of ten, and 8 or 7 at 144 (1344 in five views).
"""

from random import Random
from typing import NamedTuple

import numpy as np
from PIL import Image

from mm1_lab.data.types import Pixels
from mm1_lab.data.world.drawing import RGB, Floats, Spot, mask_of
from mm1_lab.data.world.scenes import Split, split_of
from mm1_lab.data.world.words import COLOURS, CORNERS, LETTERS

CANVAS = 144
_QUARTER = CANVAS // 2
_LETTERS = (8, 7)
"""Side of a letter in canvas pixels; each value applies to half of the posters."""
_BAR, _STEP = 20, 24
"""Width of a bar and height of one step, in canvas pixels."""
_NOISE = 8.0
MOST = 5
"""Steps of the highest possible bar."""


class Poster(NamedTuple):
    """Two to four quarters, each with a small coloured letter at a random position within the quarter."""

    letters: tuple[tuple[int, str, str], ...]
    """(place, letter, colour) of each; places are from CORNERS, and no place or letter occurs twice."""
    look: int

    def pixels(self, side: int) -> Pixels:
        random = Random(self.look)
        canvas = _background(random)
        spots = self._spots(random)
        for (_, letter, colour), spot in zip(self.letters, spots, strict=True):
            _paint(canvas, mask_of(letter, spot.side), spot.top, spot.left, colour)
        return _finish(canvas, random, side)

    def layout(self) -> list[Spot]:
        random = Random(self.look)
        random.random()  # the background's
        return self._spots(random)

    def _spots(self, random: Random) -> list[Spot]:
        size = _LETTERS[self.look % 2]
        spots = []
        for place, _, _ in self.letters:
            row, column = divmod(CORNERS.index(place), 2)
            top = row * _QUARTER + random.randrange(4, _QUARTER - size - 4)
            left = column * _QUARTER + random.randrange(4, _QUARTER - size - 4)
            spots.append(Spot(size, top, left))
        return spots


class Chart(NamedTuple):
    """Two to four bars of different colours, from left to right, each a stack of as many steps as its count."""

    bars: tuple[tuple[str, int], ...]
    """(colour, count) of each."""
    look: int

    def pixels(self, side: int) -> Pixels:
        random = Random(self.look)
        canvas = _background(random)
        block = np.ones((_STEP - 3, _BAR), np.float32)
        for number, (colour, count) in enumerate(self.bars):
            left = 12 + number * (CANVAS - 24) // len(self.bars)
            for step in range(count):
                top = CANVAS - 8 - (step + 1) * _STEP
                _paint(canvas, block, top, left, colour)
        return _finish(canvas, random, side)


def sample_poster(random: Random, split: Split) -> Poster:
    while True:
        count = random.choice((2, 3, 4))
        places = sorted(random.sample(CORNERS, count))
        letters = random.sample(LETTERS, count)
        colours = random.choices(list(COLOURS), k=count)
        poster = Poster(tuple(zip(places, letters, colours, strict=True)), random.getrandbits(30))
        if split_of(poster.letters) == split:
            return poster


def sample_chart(random: Random, split: Split) -> Chart:
    while True:
        colours = random.sample(list(COLOURS), random.choice((2, 3, 4)))
        bars = tuple((colour, random.randint(1, MOST)) for colour in colours)
        chart = Chart(bars, random.getrandbits(30))
        if split_of(bars) == split:
            return chart


def _background(random: Random) -> Floats:
    grey = 20 + 60 * random.random()
    return np.full((CANVAS, CANVAS, 3), grey, np.float32)


def _paint(canvas: Floats, mask: Floats, top: int, left: int, colour: str) -> None:
    height, width = mask.shape
    part = canvas[top : top + height, left : left + width]
    part += mask[:, :, None] * (RGB[colour] - part)


def _finish(canvas: Floats, random: Random, side: int) -> Pixels:
    """Downsamples the canvas to `side` pixels by area averaging and adds noise to each pixel."""
    whole = Image.fromarray(canvas.clip(0, 255).astype(np.uint8))
    small = whole.resize((side, side), Image.Resampling.BOX)
    generator = np.random.default_rng(random.getrandbits(30))
    noisy = np.asarray(small, np.float32) + generator.normal(0, _NOISE, (side, side, 3))
    return noisy.clip(0, 255).astype(np.uint8)
