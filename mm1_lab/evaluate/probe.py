"""A linear probe on a frozen encoder: what of a scene stands in its patch features, to be read off by a weighted sum.

For each of the four places there are three questions with `empty` among the answers (which name, which colour, which
size), of which the largest indicator wins, and one for the whole picture: how many things, rounded. So a scene with any
number of things has exactly one right answer to each. All are fitted by one ridge regression.
"""

from pathlib import Path
from random import Random

import numpy as np
import torch

from mm1_lab.config import EncoderStage
from mm1_lab.data.world.drawing import ScenePicture
from mm1_lab.data.world.scenes import Scene, Split, sample_scene
from mm1_lab.data.world.words import COLOURS, LETTERS, PLACES, SHAPES, SIZES
from mm1_lab.model import Encoder, build_encoder, load_weights

TRAINING_SCENES = 8000
TEST_SCENES = 2000
RIDGE = 0.01
"""Penalty on standardised features, as a share of the number of scenes."""
_EMPTY = "empty"
_NAMES = (_EMPTY, *SHAPES, *LETTERS)
_COLOURS = (_EMPTY, *COLOURS)
_LENGTHS = (_EMPTY, *SIZES)
_OPTIONS = (len(_NAMES), len(_COLOURS), len(_LENGTHS)) * len(PLACES)
_MOST_THINGS = 3
_BATCH = 256


def probe_encoder(stage: EncoderStage, folder: Path) -> dict[str, tuple[int, int]]:
    """For each attribute, how many cases of the test split the probe got right, and how many there were.

    `place` counts every place (is there something?), `count` every picture; the others count the things.
    """
    encoder = build_encoder(stage.size, stage.patch, stage.image_size)
    load_weights(encoder, folder)
    encoder.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    fitted = _scenes("train", TRAINING_SCENES)
    asked = _scenes("test", TEST_SCENES)
    features = torch.cat([_features(encoder, scenes, stage.image_size) for scenes in (fitted, asked)])
    answers = _regress(features[: len(fitted)], _targets(fitted), features[len(fitted) :])
    return _count(answers, _targets(asked))


def _scenes(split: Split, count: int) -> list[Scene]:
    """Half of them with a letter, so that each letter is seen at each place."""
    return [sample_scene(Random(f"probe/{split}/{number}"), split, letters=0.5) for number in range(count)]


@torch.inference_mode()
def _features(encoder: Encoder, scenes: list[Scene], side: int) -> torch.Tensor:
    """(scenes, patches · width), float64 on the CPU."""
    device = next(encoder.parameters()).device
    batches = []
    for start in range(0, len(scenes), _BATCH):
        pixels = np.stack([ScenePicture(scene).pixels(side) for scene in scenes[start : start + _BATCH]])
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().to(device)
        batches.append(encoder(encoder.normalise(images)).flatten(1).double().cpu())
    return torch.cat(batches)


def _targets(scenes: list[Scene]) -> torch.Tensor:
    """(scenes, questions): the number of the right answer; name, colour and size of each place, then the count."""
    rows = []
    for scene in scenes:
        row = []
        for place in range(len(PLACES)):
            thing = scene.at(place)
            values = (thing.name, thing.colour, thing.size) if thing else (_EMPTY,) * 3
            row += [options.index(value) for options, value in zip((_NAMES, _COLOURS, _LENGTHS), values, strict=True)]
        rows.append([*row, len(scene.things)])
    return torch.tensor(rows)


def _regress(features: torch.Tensor, targets: torch.Tensor, asked: torch.Tensor) -> torch.Tensor:
    """(asked, questions): the answers of a ridge regression that was fitted to `targets`."""
    mean, spread = features.mean(0), features.std(0) + 1e-6
    inputs, asked = (torch.cat([(some - mean) / spread, torch.ones(len(some), 1)], dim=1) for some in (features, asked))
    indicators = [torch.nn.functional.one_hot(targets[:, at], count).double() for at, count in enumerate(_OPTIONS)]
    wanted = torch.cat([*indicators, targets[:, -1:].double()], dim=1)
    penalty = RIDGE * len(inputs) * torch.eye(inputs.shape[1], dtype=inputs.dtype)
    weights = torch.linalg.solve(inputs.T @ inputs + penalty, inputs.T @ wanted)
    *places, things = (asked @ weights).split((*_OPTIONS, 1), dim=1)
    count = things[:, 0].round().long().clamp(1, _MOST_THINGS)
    return torch.stack([*(part.argmax(1) for part in places), count], dim=1)


def _count(answers: torch.Tensor, targets: torch.Tensor) -> dict[str, tuple[int, int]]:
    right = answers == targets
    names, given = targets[:, 0:-1:3], answers[:, 0:-1:3]
    occupied = names > 0
    is_letter = names > len(SHAPES)
    cases = {
        "colour": right[:, 1:-1:3][occupied],
        "shape": right[:, 0:-1:3][occupied & ~is_letter],
        "letter": right[:, 0:-1:3][is_letter],
        "size": right[:, 2:-1:3][occupied],
        "place": ((given > 0) == occupied).flatten(),
        "count": right[:, -1],
    }
    return {attribute: (int(case.sum()), case.numel()) for attribute, case in cases.items()}
