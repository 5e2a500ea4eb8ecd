"""How much of the world a resolution shows: a small convolutional network that reads single things off their pixels.

It knows where a thing stands and learns nothing but names, so that it depends on no encoder, connector or decoder.
"""

from random import Random

import torch
from torch import nn

from mm1_lab.data.types import Pixels
from mm1_lab.data.world import posters
from mm1_lab.data.world.drawing import ScenePicture, centre_of
from mm1_lab.data.world.scenes import Split, sample_scene
from mm1_lab.data.world.words import LETTERS, SHAPES

TRAINING_PICTURES, TEST_PICTURES = 4000, 1500
_EPOCHS, _BATCH, _LEARNING_RATE = 6, 128, 1e-3
_NAMES = (*SHAPES, *LETTERS)
_WINDOW = 24
"""Side of what is cut out around a letter of a poster, in canvas pixels."""
Cuts = tuple[torch.Tensor, torch.Tensor]
"""(things, 3, height, width): each thing cut out of its picture; (things,): its name, an index into `_NAMES`."""


def names_read(side: int) -> tuple[int, int]:
    """How many of the things in test scenes are named rightly in pictures of this side, and how many there are."""
    return _read(_things("train", TRAINING_PICTURES, side), _things("test", TEST_PICTURES, side))


def print_read(side: int) -> tuple[int, int]:
    """The same for the letters of posters, the small print of instruction tuning; each has three on average."""
    return _read(_print("train", TRAINING_PICTURES // 2, side), _print("test", TEST_PICTURES // 2, side))


def _read(train: Cuts, test: Cuts) -> tuple[int, int]:
    reader = _trained(*train)
    with torch.no_grad():
        right = reader(test[0]).argmax(1) == test[1]
    return int(right.sum()), len(right)


def _things(split: Split, count: int, side: int) -> Cuts:
    """Each cut is a quarter of the picture, with a thing in its middle."""
    cuts, names = [], []
    half = side // 4
    for number in range(count):
        scene = sample_scene(Random(f"reader/{split}/{number}"), split, letters=0.5)
        picture = _as_tensor(ScenePicture(scene).pixels(side))
        for thing in scene.things:
            row, column = (int(at * side) for at in centre_of(thing.place))
            cuts.append(picture[:, row - half : row + half, column - half : column + half])
            names.append(_NAMES.index(thing.name))
    return torch.stack(cuts), torch.tensor(names)


def _print(split: Split, count: int, side: int) -> Cuts:
    """Each cut is `_WINDOW` canvas pixels wide, with a letter of a poster in its middle."""
    cuts, names = [], []
    half = max(1, _WINDOW * side // (2 * posters.CANVAS))
    for number in range(count):
        poster = posters.sample_poster(Random(f"reader/{split}/{number}"), split)
        picture = nn.functional.pad(_as_tensor(poster.pixels(side)), [half] * 4)
        for (_, letter, _), (size, *corner) in zip(poster.letters, poster.layout(), strict=True):
            top, left = (int((at + size / 2) * side / posters.CANVAS) for at in corner)
            cuts.append(picture[:, top : top + 2 * half, left : left + 2 * half])
            names.append(_NAMES.index(letter))
    return torch.stack(cuts), torch.tensor(names)


def _as_tensor(pixels: Pixels) -> torch.Tensor:
    """(side, side, 3) → (3, side, side), around zero."""
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 128 - 1


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
    optimiser = torch.optim.Adam(reader.parameters(), _LEARNING_RATE)
    for _ in range(_EPOCHS):
        for batch in torch.randperm(len(things), generator=generator).split(_BATCH):
            loss = nn.functional.cross_entropy(reader(things[batch]), names[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return reader
