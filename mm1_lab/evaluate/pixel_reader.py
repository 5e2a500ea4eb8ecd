"""How much of the world a resolution shows: a small convolutional network that reads single things off their pixels.

It knows where a thing stands and learns nothing but names, so that it depends on no encoder, connector or decoder.
"""

from random import Random

import torch
from torch import nn
from torch.utils.data import default_collate

from mm1_lab.data.types import Pixels
from mm1_lab.data.world import posters
from mm1_lab.data.world.drawing import ScenePicture, centre_of
from mm1_lab.data.world.scenes import Split, sample_scene
from mm1_lab.data.world.words import LETTERS, SHAPES

TRAINING_PICTURES = 4000
TEST_PICTURES = 1500
_EPOCHS = 6
_BATCH = 128
_NAMES = (*SHAPES, *LETTERS)
_WINDOW = 24
"""Side of what is cut out around a letter of a poster, in canvas pixels."""
Cuts = list[tuple[torch.Tensor, int]]
"""Each thing as cut out of its picture (3, height, width), and its name, an index into `_NAMES`."""


def names_read(side: int) -> tuple[int, int]:
    """How many of the things in test scenes are named rightly in pictures of this side, and how many there are."""
    return _read(_things("train", TRAINING_PICTURES, side), _things("test", TEST_PICTURES, side))


def print_read(side: int) -> tuple[int, int]:
    """As `names_read`, for the letters of posters, the small print of instruction tuning; each has three on average."""
    return _read(_print("train", TRAINING_PICTURES // 2, side), _print("test", TEST_PICTURES // 2, side))


def _things(split: Split, count: int, side: int) -> Cuts:
    """Each cut is a quarter of the picture, with a thing in its middle."""
    cuts = []
    for number in range(count):
        scene = sample_scene(Random(f"reader/{split}/{number}"), split, letters=0.5)
        pixels = ScenePicture(scene).pixels(side)
        for thing in scene.things:
            row, column = centre_of(thing.place)
            cuts.append(_cut(pixels, thing.name, row * side, column * side, side // 4))
    return cuts


def _print(split: Split, count: int, side: int) -> Cuts:
    """Each cut is `_WINDOW` canvas pixels wide, with a letter of a poster in its middle."""
    cuts = []
    half = max(1, _WINDOW * side // (2 * posters.CANVAS))
    for number in range(count):
        poster = posters.sample_poster(Random(f"reader/{split}/{number}"), split)
        pixels = poster.pixels(side)
        for (_, letter, _), (size, top, left) in zip(poster.letters, poster.layout(), strict=True):
            row, column = ((at + size / 2) * side / posters.CANVAS for at in (top, left))
            cuts.append(_cut(pixels, letter, row, column, half))
    return cuts


def _cut(pixels: Pixels, name: str, row: float, column: float, half: int) -> tuple[torch.Tensor, int]:
    """What is around a point, as far as `half` pixels, and its name."""
    picture = torch.from_numpy(pixels).permute(2, 0, 1).float() / 128 - 1
    top, left = int(row), int(column)
    around = nn.functional.pad(picture, [half] * 4)
    cut = around[:, top : top + 2 * half, left : left + 2 * half].clone()  # the rest of the picture is freed
    return cut, _NAMES.index(name)


def _read(train: Cuts, test: Cuts) -> tuple[int, int]:
    reader = _trained(*default_collate(train))
    things, names = default_collate(test)
    with torch.no_grad():
        right = reader(things).argmax(1) == names
    return int(right.sum()), len(right)


def _trained(things: torch.Tensor, names: torch.Tensor) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        reader = nn.Sequential(
            nn.Conv2d(3, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveMaxPool2d(6),
            nn.Flatten(),
            nn.Linear(64 * 36, 128),
            nn.ReLU(),
            nn.Linear(128, len(_NAMES)),
        )
    optimiser = torch.optim.Adam(reader.parameters(), lr=1e-3)
    for _ in range(_EPOCHS):
        for batch in torch.randperm(len(things), generator=generator).split(_BATCH):
            loss = nn.functional.cross_entropy(reader(things[batch]), names[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return reader
