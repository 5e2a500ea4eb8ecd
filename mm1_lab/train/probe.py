"""How good an encoder is by itself: which words of a held-out image's caption a linear read-out finds."""

import torch

from mm1_lab.config import RequestError
from mm1_lab.data.pixels import image_tensor, pictures_and_texts
from mm1_lab.data.types import Data, Pixels
from mm1_lab.model import Encoder

DOCUMENTS = 768
FIT_SHARE = 2 / 3
"""Of the documents; the others are asked."""
COMMON = (0.05, 0.95)
"""Words in fewer or more captions than these shares are left out."""
RIDGE = 0.01
CHUNK = 64
"""Images encoded at a time."""


@torch.no_grad()
def word_probe(encoder: Encoder, data: Data, side: int) -> dict[str, float]:
    """The mean `auc` of linear read-outs of `words` words, asked of `documents` held-out images.

    A read-out is ridge regression from the mean of an image's patches to whether a word is in its caption, a dense one
    where the data have such; its area under the curve is the chance that an image with the word scores above one
    without: 0.5 knows nothing, 1 everything. Empty where there are too few documents.
    """
    images, captions = _held_out(data, side)
    vocabulary = sorted(set().union(*captions)) if captions else []
    labels = torch.tensor([[word in caption for word in vocabulary] for caption in captions])
    split = int(FIT_SHARE * len(images))
    asked = len(images) - split
    if asked < 8 or not vocabulary:
        return {}
    common = labels.double().mean(dim=0)
    telling = (common > COMMON[0]) & (common < COMMON[1])
    for half in (labels[:split], labels[split:]):
        telling &= half.any(dim=0) & ~half.all(dim=0)
    if not telling.any():
        return {}
    labels = labels[:, telling]
    features = _features(encoder, images)
    scores = _read_out(features[:split], labels[:split].double(), features[split:])
    auc = torch.stack([_area_under_curve(scores[:, word], labels[split:, word]) for word in range(labels.shape[1])])
    return {"auc": auc.mean().item(), "words": labels.shape[1], "documents": asked}


def _held_out(data: Data, side: int) -> tuple[list[Pixels], list[set[int]]]:
    """Images, and the words of each one's caption."""
    try:
        documents = data.held_out("synthetic", DOCUMENTS)
    except RequestError:
        documents = data.held_out("captions", DOCUMENTS)
    images, texts = pictures_and_texts(documents, side)
    return images, [set(data.tokenizer.encode(text)) for text in texts]


def _features(encoder: Encoder, images: list[Pixels]) -> torch.Tensor:
    """float64 (n, width): the mean of each image's patches."""
    device = next(encoder.parameters()).device
    means = []
    for start in range(0, len(images), CHUNK):
        features = encoder(encoder.normalise(image_tensor(images[start : start + CHUNK]).to(device)))
        means.append(features.mean(dim=1).double().cpu())
    return torch.cat(means)


def _read_out(known: torch.Tensor, labels: torch.Tensor, asked: torch.Tensor) -> torch.Tensor:
    """Ridge regression from `known` (n, width) to `labels` (n, words), applied to `asked` (m, width) → (m, words)."""
    mean, spread = known.mean(dim=0), known.std(dim=0) + 1e-6
    inputs = (known - mean) / spread
    square = inputs.T @ inputs + RIDGE * len(inputs) * torch.eye(inputs.shape[1], dtype=inputs.dtype)
    weights = torch.linalg.solve(square, inputs.T @ (labels - labels.mean(dim=0)))
    return (asked - mean) / spread @ weights


def _area_under_curve(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The chance that a true one of `labels` (m,) has the higher of two scores; ties count half."""
    differences = scores[labels][:, None] - scores[~labels]
    return ((differences > 0).double() + (differences == 0).double() / 2).mean()
