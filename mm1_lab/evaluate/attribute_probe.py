"""A linear probe of an encoder on the miniature world's scenes: what ridge regression reads from each place."""

import math
from pathlib import Path
from random import Random

import torch
from torch.nn.functional import adaptive_avg_pool2d, one_hot

from mm1_lab import team
from mm1_lab.config import EncoderStage
from mm1_lab.data.pixels import image_tensor
from mm1_lab.data.world.drawing import ScenePicture, layout
from mm1_lab.data.world.scenes import Scene, Split, sample_scene
from mm1_lab.data.world.words import COLOURS, CORNERS, LETTERS, SHAPES, SIZES
from mm1_lab.model import Encoder, build_encoder, load_weights

TRAINING_SCENES = 8000
TEST_SCENES = 2000
_EMPTY = "empty"
_CLASSES = ((_EMPTY, *SHAPES, *LETTERS), (_EMPTY, *COLOURS), (_EMPTY, *SIZES))
"""Of what stands in a place: its name, colour and size."""
QUARTERS = 4
RIDGE = 0.01
"""Penalty on standardised features, relative to the number of images."""
CHUNK = 64
"""Images encoded at a time."""


@torch.no_grad()
def attribute_probe(stage: EncoderStage, folder: Path, tokens: int | None = None) -> dict[str, tuple[int, int]]:
    """For each attribute, the numbers of correct predictions and of cases in the test split.

    For each of the four places there are three classifications (name, colour, size) with `empty` as a class, of which
    the class with the largest output wins. `place` counts all places (is anything there?); the others count the things.
    `identity` is the name, of shapes and letters alike, in all and by quarter of sizes, from the smallest things to the
    largest. `tokens`, a square number: features are first averaged to as many cells, as average pooling would hand them
    to the decoder.
    """
    encoder = build_encoder(stage.features, stage.patch, stage.image_size)
    load_weights(encoder, folder)
    encoder.to(team.device()).eval()
    train, test = _scenes("train", TRAINING_SCENES), _scenes("test", TEST_SCENES)
    seen = _scene_features(encoder, train, stage.image_size, tokens)
    unseen = _scene_features(encoder, test, stage.image_size, tokens)
    return _right_and_total(_answers(seen, _classes(train), unseen), _classes(test), _lengths(test))


def _scenes(split: Split, count: int) -> list[Scene]:
    """Scenes of which half have a letter, so that every letter occurs in every place."""
    return [sample_scene(Random(f"probe/{split}/{number}"), split, letters=0.5) for number in range(count)]


def _scene_features(encoder: Encoder, scenes: list[Scene], side: int, tokens: int | None) -> torch.Tensor:
    """float64 (scenes, patches · width), or (scenes, tokens · width), on the CPU."""
    features = []
    for start in range(0, len(scenes), CHUNK):
        pictures = [ScenePicture(scene).pixels(side) for scene in scenes[start : start + CHUNK]]
        patches = encoder(image_tensor(pictures).to(team.device()))
        if tokens is not None:
            grid = patches.unflatten(1, (encoder.side, encoder.side)).movedim(3, 1)
            patches = adaptive_avg_pool2d(grid, math.isqrt(tokens))
        features.append(patches.flatten(1).double().cpu())
    return torch.cat(features)


def _ridge_predictions(train: torch.Tensor, labels: torch.Tensor, test: torch.Tensor) -> torch.Tensor:
    """Ridge regression from `train` (n, features) to `labels` (n, k), applied to `test` (m, features) → (m, k)."""
    mean, mean_label = train.mean(dim=0), labels.mean(dim=0)
    spread = train.std(dim=0) + 1e-6
    inputs = (train - mean) / spread
    count, width = inputs.shape
    squares = inputs.T @ inputs
    squares += RIDGE * count * torch.eye(width, dtype=inputs.dtype)
    weights = torch.linalg.solve(squares, inputs.T @ (labels - mean_label))
    return (test - mean) / spread @ weights + mean_label


def _classes(scenes: list[Scene]) -> torch.Tensor:
    """(scenes, places, 3): class of the name, colour and size in each place."""
    classes = []
    for scene in scenes:
        for place in CORNERS:
            thing = scene.at(place)
            values = (thing.name, thing.colour, thing.size) if thing else (_EMPTY,) * 3
            classes.append([names.index(value) for names, value in zip(_CLASSES, values, strict=True)])
    return torch.tensor(classes).view(len(scenes), len(CORNERS), 3)


def _lengths(scenes: list[Scene]) -> torch.Tensor:
    """(scenes, places): the side of the thing in each place, in canvas pixels; 0 if there is none."""
    lengths = torch.zeros(len(scenes), len(CORNERS))
    for number, scene in enumerate(scenes):
        for thing, (length, _, _) in zip(scene.things, layout(scene), strict=True):
            lengths[number, CORNERS.index(thing.place)] = length
    return lengths


def _answers(features: torch.Tensor, classes: torch.Tensor, unseen: torch.Tensor) -> torch.Tensor:
    """What the regression from `features` (scenes, …) to `classes` predicts from other features, as `_classes`."""
    columns = []
    for place in range(len(CORNERS)):
        for attribute, names in enumerate(_CLASSES):
            columns.append(one_hot(classes[:, place, attribute], len(names)).double())
    wanted = torch.cat(columns, dim=1)
    outputs = _ridge_predictions(features, wanted, unseen)
    classified = outputs.split([column.shape[1] for column in columns], dim=1)
    return torch.stack([scores.argmax(1) for scores in classified], dim=1).view(-1, len(CORNERS), 3)


def _right_and_total(answers: torch.Tensor, classes: torch.Tensor, lengths: torch.Tensor) -> dict[str, tuple[int, int]]:
    right, names = answers == classes, classes[:, :, 0]
    occupied, is_letter = names > 0, names > len(SHAPES)
    cases = {
        "colour": right[:, :, 1][occupied],
        "shape": right[:, :, 0][occupied & ~is_letter],
        "letter": right[:, :, 0][is_letter],
        "size": right[:, :, 2][occupied],
        "place": ((answers[:, :, 0] > 0) == occupied).flatten(),
        "identity": right[:, :, 0][occupied],
    }
    edges = lengths[occupied].quantile(torch.linspace(0, 1, QUARTERS + 1))
    for quarter in range(QUARTERS):
        longer, at_most = edges[quarter], edges[quarter + 1]
        within = (lengths > longer if quarter else lengths >= longer) & (lengths <= at_most)
        cases[f"identity, size quarter {quarter + 1}"] = right[:, :, 0][occupied & within]
    return {attribute: (int(case.sum()), case.numel()) for attribute, case in cases.items()}
