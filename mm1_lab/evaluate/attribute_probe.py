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
_CLASSES = {
    "name": (_EMPTY, *SHAPES, *LETTERS),
    "colour": (_EMPTY, *COLOURS),
    "size": (_EMPTY, *SIZES),
}
"""What may stand in a place, by attribute."""
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
    train = _scenes("train", TRAINING_SCENES)
    test = _scenes("test", TEST_SCENES)
    seen = _scene_features(encoder, train, tokens)
    unseen = _scene_features(encoder, test, tokens)

    labels = []
    for attribute, options in _CLASSES.items():
        classes = one_hot(_classes(train, attribute), len(options))
        labels.append(classes.flatten(1))
    outputs = _ridge_predictions(seen, torch.cat(labels, dim=1).double(), unseen)
    widths = [columns.shape[1] for columns in labels]
    answers, right = {}, {}
    for attribute, scores in zip(_CLASSES, outputs.split(widths, dim=1), strict=True):
        answers[attribute] = scores.unflatten(1, (len(CORNERS), -1)).argmax(2)
        right[attribute] = answers[attribute] == _classes(test, attribute)
    names = _classes(test, "name")
    occupied = names > 0
    is_letter = names > len(SHAPES)
    identity = right["name"][occupied]
    cases = {
        "colour": right["colour"][occupied],
        "shape": right["name"][occupied & ~is_letter],
        "letter": right["name"][is_letter],
        "size": right["size"][occupied],
        "place": (answers["name"] > 0) == occupied,
        "identity": identity,
    }
    lengths = torch.tensor([float(length) for scene in test for length, _, _ in layout(scene)])
    edges = lengths.quantile(torch.linspace(0, 1, QUARTERS + 1))
    quarters = torch.bucketize(lengths, edges[1:-1])
    for quarter in range(QUARTERS):
        cases[f"identity, size quarter {quarter + 1}"] = identity[quarters == quarter]
    return {attribute: (int(case.sum()), case.numel()) for attribute, case in cases.items()}


def _scenes(split: Split, count: int) -> list[Scene]:
    """Scenes of which half have a letter, so that every letter occurs in every place."""
    return [sample_scene(Random(f"probe/{split}/{number}"), split, letters=0.5) for number in range(count)]


def _scene_features(encoder: Encoder, scenes: list[Scene], tokens: int | None) -> torch.Tensor:
    """float64 (scenes, patches · width), or (scenes, tokens · width), on the CPU."""
    features = []
    for start in range(0, len(scenes), CHUNK):
        some = scenes[start : start + CHUNK]
        pictures = [ScenePicture(scene).pixels(encoder.config.image_size) for scene in some]
        patches = encoder(image_tensor(pictures).to(team.device()))
        if tokens is not None:
            grid = patches.unflatten(1, (encoder.side, -1)).movedim(3, 1)
            patches = adaptive_avg_pool2d(grid, math.isqrt(tokens))
        features.append(patches.flatten(1).double().cpu())
    return torch.cat(features)


def _ridge_predictions(train: torch.Tensor, labels: torch.Tensor, test: torch.Tensor) -> torch.Tensor:
    """Ridge regression from `train` (n, features) to `labels` (n, k), applied to `test` (m, features) → (m, k)."""
    mean = train.mean(dim=0)
    mean_label = labels.mean(dim=0)
    spread = train.std(dim=0) + 1e-6
    inputs = (train - mean) / spread
    count, width = inputs.shape
    squares = inputs.T @ inputs
    squares += RIDGE * count * torch.eye(width, dtype=inputs.dtype)
    weights = torch.linalg.solve(squares, inputs.T @ (labels - mean_label))
    return (test - mean) / spread @ weights + mean_label


def _classes(scenes: list[Scene], attribute: str) -> torch.Tensor:
    """(scenes, places): the class of what stands in each place."""
    classes = []
    for scene in scenes:
        for place in CORNERS:
            thing = scene.at(place)
            value = getattr(thing, attribute) if thing else _EMPTY
            classes.append(_CLASSES[attribute].index(value))
    return torch.tensor(classes).view(len(scenes), len(CORNERS))
