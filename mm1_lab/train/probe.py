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
    features = features_of(encoder, images, lambda patches: patches.mean(dim=1))
    scores = ridge_predictions(features[:split], labels[:split].double(), features[split:])
    auc = torch.stack([_area_under_curve(scores[:, word], labels[split:, word]) for word in range(labels.shape[1])])
    return {"auc": auc.mean().item(), "words": labels.shape[1], "documents": test}


def features_of(
    encoder: Encoder, images: list[Pixels], summary: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """float64 (n, features) on the CPU: `summary` of each image's features (patches, width)."""
    device = next(encoder.parameters()).device
    chunks = (images[start : start + CHUNK] for start in range(0, len(images), CHUNK))
    return torch.cat(
        [summary(encoder(encoder.normalise(image_tensor(chunk).to(device)))).double().cpu() for chunk in chunks]
    )


def ridge_predictions(train: torch.Tensor, labels: torch.Tensor, test: torch.Tensor) -> torch.Tensor:
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
