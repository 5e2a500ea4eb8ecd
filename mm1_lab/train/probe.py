"""What linear probes of an encoder need: its features of images, and ridge regression on them."""

from collections.abc import Callable

import torch

from mm1_lab.data.pixels import image_tensor
from mm1_lab.data.types import Pixels
from mm1_lab.model import Encoder

RIDGE = 0.01
"""Penalty on standardised features, relative to the number of images."""
CHUNK = 64
"""Images encoded at a time."""


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
