"""A linear probe of an encoder on the miniature world's scenes: what ridge regression reads from each place."""

from pathlib import Path
from random import Random

import torch

from mm1_lab import team
from mm1_lab.config import EncoderStage
from mm1_lab.data.world.drawing import ScenePicture
from mm1_lab.data.world.scenes import Scene, Split, sample_scene
from mm1_lab.data.world.words import COLOURS, CORNERS, LETTERS, SHAPES, SIZES
from mm1_lab.model import Encoder, build_encoder, load_weights
from mm1_lab.train.probe import features_of, ridge_predictions

TRAINING_SCENES = 8000
TEST_SCENES = 2000
_EMPTY = "empty"
_NAMES = (_EMPTY, *SHAPES, *LETTERS)
_COLOURS = (_EMPTY, *COLOURS)
_LENGTHS = (_EMPTY, *SIZES)
_OPTIONS = (len(_NAMES), len(_COLOURS), len(_LENGTHS)) * len(CORNERS)
_MOST_THINGS = 3


@torch.no_grad()
def attribute_probe(stage: EncoderStage, folder: Path) -> dict[str, tuple[int, int]]:
    """For each attribute, the numbers of correct predictions and of cases in the test split.

    For each of the four places there are three classifications (name, colour, size) with `empty` as a class, of which
    the class with the largest output wins; for the whole picture there is a regression of the number of things,
    rounded. So every scene has exactly one correct answer to each question. `place` counts all places (is anything
    there?), `count` all pictures; the others count the things.
    """
    encoder = build_encoder(stage.features, stage.patch, stage.image_size)
    load_weights(encoder, folder)
    encoder.to(team.device()).eval()
    train, test = _scenes("train", TRAINING_SCENES), _scenes("test", TEST_SCENES)
    read = [_scene_features(encoder, scenes, stage.image_size) for scenes in (train, test)]
    return _correct_and_total(_answers(read[0], _targets(train), read[1]), _targets(test))


def _scenes(split: Split, count: int) -> list[Scene]:
    """Scenes of which half have a letter, so that every letter occurs in every place."""
    return [sample_scene(Random(f"probe/{split}/{number}"), split, letters=0.5) for number in range(count)]


def _scene_features(encoder: Encoder, scenes: list[Scene], side: int) -> torch.Tensor:
    """(scenes, patches · width)"""
    return features_of(
        encoder, [ScenePicture(scene).pixels(side) for scene in scenes], lambda patches: patches.flatten(1)
    )


def _targets(scenes: list[Scene]) -> torch.Tensor:
    """(scenes, questions): index of the correct answer; name, colour and size of each place, then the count."""
    rows = []
    for scene in scenes:
        row = []
        for place in CORNERS:
            thing = scene.at(place)
            values = (thing.name, thing.colour, thing.size) if thing else (_EMPTY,) * 3
            row += [options.index(value) for options, value in zip((_NAMES, _COLOURS, _LENGTHS), values, strict=True)]
        rows.append([*row, len(scene.things)])
    return torch.tensor(rows)


def _answers(features: torch.Tensor, targets: torch.Tensor, test: torch.Tensor) -> torch.Tensor:
    """(test, questions): predicted answers."""
    indicators = [torch.nn.functional.one_hot(targets[:, at], count).double() for at, count in enumerate(_OPTIONS)]
    wanted = torch.cat([*indicators, targets[:, -1:].double()], dim=1)
    *places, things = (ridge_predictions(features, wanted, test) + wanted.mean(dim=0)).split((*_OPTIONS, 1), dim=1)
    count = things[:, 0].round().long().clamp(1, _MOST_THINGS)
    return torch.stack([*(part.argmax(1) for part in places), count], dim=1)


def _correct_and_total(answers: torch.Tensor, targets: torch.Tensor) -> dict[str, tuple[int, int]]:
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
