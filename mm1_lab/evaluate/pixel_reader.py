"""How much of the world a resolution shows: a small convolutional network that reads single things off their pixels.

It knows where a thing stands and learns nothing but names, so that it depends on no encoder, connector or decoder.
"""

from random import Random

import torch
from torch import nn

from mm1_lab.data.world.drawing import ScenePicture, centre_of
from mm1_lab.data.world.scenes import Split, sample_scene
from mm1_lab.data.world.words import LETTERS, SHAPES

TRAINING_SCENES, TEST_SCENES = 4000, 1500
_EPOCHS, _BATCH, _LEARNING_RATE = 6, 128, 1e-3
_NAMES = (*SHAPES, *LETTERS)


def names_read(side: int) -> tuple[int, int]:
    """How many of the things in test scenes are named rightly in pictures of this side, and how many there are."""
    train, names = _things("train", TRAINING_SCENES, side)
    test, truth = _things("test", TEST_SCENES, side)
    reader = _trained(train, names)
    with torch.no_grad():
        right = reader(test).argmax(1) == truth
    return int(right.sum()), len(right)


def _things(split: Split, count: int, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(things, 3, side / 2, side / 2): each thing cut out of its picture; (things,): its name."""
    cuts, names = [], []
    half = side // 4
    for number in range(count):
        scene = sample_scene(Random(f"reader/{split}/{number}"), split, letters=0.5)
        picture = torch.from_numpy(ScenePicture(scene).pixels(side)).permute(2, 0, 1)
        for thing in scene.things:
            row, column = (int(at * side) for at in centre_of(thing.place))
            cuts.append(picture[:, row - half : row + half, column - half : column + half])
            names.append(_NAMES.index(thing.name))
    return torch.stack(cuts).float() / 128 - 1, torch.tensor(names)


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
