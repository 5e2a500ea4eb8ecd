"""Linear probes of an encoder: what ridge regression can read from its features.

`word_probe` works on any data and predicts the words of a held-out image's caption. `attribute_probe` uses the
miniature world's scenes and predicts what is in each place.
"""

from collections.abc import Callable
from pathlib import Path
from random import Random

import torch

from mm1_lab.config import EncoderStage
from mm1_lab.data.pixels import held_out_pictures, image_tensor
from mm1_lab.data.types import Data, Pixels
from mm1_lab.data.world.drawing import ScenePicture
from mm1_lab.data.world.scenes import Scene, Split, sample_scene
from mm1_lab.data.world.words import COLOURS, CORNERS, LETTERS, SHAPES, SIZES
from mm1_lab.model import Encoder, build_encoder, load_weights

DOCUMENTS = 768
FIT_SHARE = 2 / 3
"""Share of the documents used for fitting; the others are for testing."""
COMMON = (0.05, 0.95)
"""Words that occur in a smaller or larger share of captions are left out."""
RIDGE = 0.01
"""Penalty on standardised features, relative to the number of images."""
CHUNK = 64
"""Images encoded at a time."""

TRAINING_SCENES = 8000
TEST_SCENES = 2000
_EMPTY = "empty"
_NAMES = (_EMPTY, *SHAPES, *LETTERS)
_COLOURS = (_EMPTY, *COLOURS)
_LENGTHS = (_EMPTY, *SIZES)
_OPTIONS = (len(_NAMES), len(_COLOURS), len(_LENGTHS)) * len(CORNERS)
_MOST_THINGS = 3


@torch.no_grad()
def word_probe(encoder: Encoder, data: Data, side: int) -> dict[str, float]:
    """The mean `auc` of linear probes for `words` words, tested on `documents` held-out images.

    Each probe is a ridge regression from the mean of an image's patch features to whether a word occurs in its caption
    (the dense one if the data have any). The area under the ROC curve is the probability that an image with the word
    scores above one without: 0.5 is chance, 1 perfect. Returns an empty dict if there are too few documents.
    """
    images, captions = _held_out(data, side)
    vocabulary = sorted(set().union(*captions)) if captions else []
    labels = torch.tensor([[word in caption for word in vocabulary] for caption in captions])
    split = int(FIT_SHARE * len(images))
    test = len(images) - split
    if test < 8 or not vocabulary:
        return {}
    common = labels.double().mean(dim=0)
    usable = (common > COMMON[0]) & (common < COMMON[1])
    for half in (labels[:split], labels[split:]):
        usable &= half.any(dim=0) & ~half.all(dim=0)
    if not usable.any():
        return {}
    labels = labels[:, usable]
    features = _features(encoder, images, lambda patches: patches.mean(dim=1))
    scores = _ridge_predictions(features[:split], labels[:split].double(), features[split:])
    auc = torch.stack([_area_under_curve(scores[:, word], labels[split:, word]) for word in range(labels.shape[1])])
    return {"auc": auc.mean().item(), "words": labels.shape[1], "documents": test}


def _held_out(data: Data, side: int) -> tuple[list[Pixels], list[set[int]]]:
    """Images, and the set of words in each one's caption."""
    images, texts = held_out_pictures(data, ("synthetic", "captions"), DOCUMENTS, side)
    return images, [set(data.tokenizer.encode(text)) for text in texts]


def _features(encoder: Encoder, images: list[Pixels], summary: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """float64 (n, features) on the CPU: `summary` of each image's features (patches, width)."""
    device = next(encoder.parameters()).device
    chunks = (images[start : start + CHUNK] for start in range(0, len(images), CHUNK))
    return torch.cat(
        [summary(encoder(encoder.normalise(image_tensor(chunk).to(device)))).double().cpu() for chunk in chunks]
    )


def _ridge_predictions(train: torch.Tensor, labels: torch.Tensor, test: torch.Tensor) -> torch.Tensor:
    """Ridge regression from `train` (n, features) to `labels` (n, k), applied to `test` (m, features) → (m, k).

    The predictions are differences from the mean of the labels.
    """
    mean, spread = train.mean(dim=0), train.std(dim=0) + 1e-6
    inputs = (train - mean) / spread
    square = inputs.T @ inputs + RIDGE * len(inputs) * torch.eye(inputs.shape[1], dtype=inputs.dtype)
    weights = torch.linalg.solve(square, inputs.T @ (labels - labels.mean(dim=0)))
    return (test - mean) / spread @ weights


def _area_under_curve(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The probability that a positive of `labels` (m,) scores above a negative; ties count half."""
    differences = scores[labels][:, None] - scores[~labels]
    return ((differences > 0).double() + (differences == 0).double() / 2).mean()


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
    encoder.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    train, test = _scenes("train", TRAINING_SCENES), _scenes("test", TEST_SCENES)
    read = [_scene_features(encoder, scenes, stage.image_size) for scenes in (train, test)]
    return _correct_and_total(_answers(read[0], _targets(train), read[1]), _targets(test))


def _scenes(split: Split, count: int) -> list[Scene]:
    """Scenes of which half have a letter, so that every letter occurs in every place."""
    return [sample_scene(Random(f"probe/{split}/{number}"), split, letters=0.5) for number in range(count)]


def _scene_features(encoder: Encoder, scenes: list[Scene], side: int) -> torch.Tensor:
    """(scenes, patches · width)"""
    return _features(
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
    *places, things = (_ridge_predictions(features, wanted, test) + wanted.mean(dim=0)).split((*_OPTIONS, 1), dim=1)
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
