"""Linear probes of an encoder: how well ridge regression on its features predicts the words of captions."""

from collections.abc import Callable

import torch

from mm1_lab.data.pixels import held_out_pictures, image_tensor
from mm1_lab.data.types import Data, Pixels
from mm1_lab.model import Encoder

DOCUMENTS = 768
FIT_SHARE = 2 / 3
"""Share of the documents used for fitting; the others are for testing."""
COMMON = (0.05, 0.95)
"""Words that occur in a smaller or larger share of captions are left out."""
RIDGE = 0.01
"""Penalty on standardised features, relative to the number of images."""
CHUNK = 64
"""Images encoded at a time."""


@torch.no_grad()
def word_probe(encoder: Encoder, data: Data, side: int) -> dict[str, float]:
    """The mean `auc` of linear probes for `words` words, tested on `documents` held-out images.

    Each probe is a ridge regression from the mean of an image's patch features to whether a word occurs in its caption
    (the dense one if the data have any). The area under the ROC curve is the probability that an image with the word
    scores above one without: 0.5 is chance, 1 perfect. Returns an empty dict if there are too few documents.
    """
    images, texts = held_out_pictures(data, ("synthetic", "captions"), DOCUMENTS, side)
    captions = [set(data.tokenizer.encode(text)) for text in texts]
    split = int(FIT_SHARE * len(images))
    if len(images) - split < 8:
        return {}
    vocabulary = sorted(set().union(*captions))
    labels = torch.tensor([[word in caption for word in vocabulary] for caption in captions])
    fitted, tested = labels[:split], labels[split:]
    share = labels.double().mean(dim=0)
    usable = (share > COMMON[0]) & (share < COMMON[1])
    for half in (fitted, tested):
        usable &= half.any(dim=0)
        usable &= ~half.all(dim=0)
    if not usable.any():
        return {}
    fitted, tested = fitted[:, usable], tested[:, usable]
    features = features_of(encoder, images, lambda patches: patches.mean(dim=1))
    scores = ridge_predictions(features[:split], fitted.double(), features[split:])
    areas = []
    for score, label in zip(scores.T, tested.T, strict=True):
        right = score[label]
        wrong = score[~label]
        differences = right[:, None] - wrong
        wins = (differences > 0).double()
        ties = (differences == 0).double()
        areas.append((wins + ties / 2).mean())
    return {"auc": torch.stack(areas).mean().item(), "words": len(areas), "documents": len(tested)}


def features_of(
    encoder: Encoder, images: list[Pixels], summary: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """float64 (n, features) on the CPU: `summary` of each image's features (patches, width)."""
    device = next(encoder.parameters()).device
    features = []
    for start in range(0, len(images), CHUNK):
        chunk = image_tensor(images[start : start + CHUNK]).to(device)
        features.append(summary(encoder(chunk)).double().cpu())
    return torch.cat(features)


def ridge_predictions(train: torch.Tensor, labels: torch.Tensor, test: torch.Tensor) -> torch.Tensor:
    """Ridge regression from `train` (n, features) to `labels` (n, k), applied to `test` (m, features) → (m, k).

    The predictions are differences from the mean of the labels.
    """
    mean = train.mean(dim=0)
    spread = train.std(dim=0) + 1e-6
    inputs = (train - mean) / spread
    targets = labels - labels.mean(dim=0)
    count, width = inputs.shape
    squares = inputs.T @ inputs
    squares += RIDGE * count * torch.eye(width, dtype=inputs.dtype)
    weights = torch.linalg.solve(squares, inputs.T @ targets)
    return (test - mean) / spread @ weights
