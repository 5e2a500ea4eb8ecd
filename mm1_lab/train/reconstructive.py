"""Reconstructive pre-training of the image encoder: each patch predicts the pixels of the next (AIM; Table 1).

Attention is bidirectional within a prefix of random length and causal after it, in row-major order, so that the encoder
can later be used with bidirectional attention. Only patches after the prefix count in the loss. Pixels are normalised
per patch. Here the class token precedes the first patch, and positions are learnt, as in the contrastive ViT.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from mm1_lab import team
from mm1_lab.config import EncoderStage, Resources
from mm1_lab.data.batches import TensorBatch
from mm1_lab.data.pixels import image_tensor
from mm1_lab.data.types import Data
from mm1_lab.model import Encoder, build_encoder
from mm1_lab.train.fit import fit
from mm1_lab.train.module import Losses
from mm1_lab.train.pairs import StepPairs
from mm1_lab.train.progress import Report
from mm1_lab.train.recorder import Recorder

VARIANCE_FLOOR = 1.0
"""In squared grey levels; keeps noise in uniform patches from being amplified."""


@dataclass(frozen=True, slots=True)
class ImageBatch(TensorBatch):
    """A batch of images, or a process's part of one."""

    images: torch.Tensor
    """uint8 (n, 3, side, side)"""
    prefix: torch.Tensor
    """(n,) length of each prefix in patches"""


def normalised_patches(images: torch.Tensor, patch: int) -> torch.Tensor:
    """uint8 (n, 3, side, side) → (n, patches, 3 · patch²), row-major, with mean 0 and variance 1 in each patch."""
    pixels = nn.functional.unfold(images.float(), kernel_size=patch, stride=patch).transpose(1, 2)
    variance, mean = torch.var_mean(pixels, dim=2, correction=0, keepdim=True)
    return (pixels - mean) / (variance + VARIANCE_FLOOR).sqrt()


def prefix_mask(prefix: torch.Tensor, length: int) -> torch.Tensor:
    """bool (n, 1, length, length): whether a position (row) attends to another: the prefix and all positions up to
    itself.

    `prefix` (n,) is in positions.
    """
    places = torch.arange(length, device=prefix.device)
    causal = places[:, None] >= places
    return (causal | (places < prefix[:, None, None]))[:, None]


class Reconstructive(nn.Module):
    """A ViT, and a head that predicts from its output at a patch the pixels of the next patch."""

    def __init__(self, trunk: Encoder, patch: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.patch = patch
        width = trunk.width
        self.head = nn.Sequential(
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Linear(4 * width, 3 * patch**2),
        )

    def forward(self, images: torch.Tensor, prefix: torch.Tensor) -> torch.Tensor:
        """Predictions (n, patches, 3 · patch²) of each patch from those before it; `prefix` (n,) is in patches."""
        vision = self.trunk.vision
        embedded = vision.pre_layrnorm(vision.embeddings(self.trunk.normalise(images)))
        mask = prefix_mask(prefix + 1, embedded.shape[1])
        states = vision.encoder(inputs_embeds=embedded, attention_mask=mask).last_hidden_state
        return self.head(vision.post_layernorm(states[:, :-1]))

    def loss(self, batch: ImageBatch) -> Losses:
        """The mean squared error over the patches after the prefix, and its tally with one row."""
        images, patches = len(batch.images), self.trunk.patches
        predictions = self(batch.images, batch.prefix).float()
        errors = (predictions - normalised_patches(batch.images, self.patch)).square().mean(dim=2)
        is_after = torch.arange(patches, device=errors.device) >= batch.prefix[:, None]
        total, count = (errors * is_after).sum(), is_after.sum()
        tally = torch.zeros(1, 4, dtype=torch.float64, device=errors.device)
        tally[0, 0] = total.detach()
        tally[0, 1] = count
        tally[0, 2] = images * patches
        tally[0, 3] = images
        return Losses(total / team.mean(count), tally)


def train_reconstructive(
    stage: EncoderStage, folder: Path, data: Data, report: Report, resources: Resources
) -> tuple[Encoder, Recorder]:
    """Trains the encoder; returns it without its last layers, and its losses."""
    with team.only_in_first():
        network = Reconstructive(build_encoder(stage.size, stage.patch, stage.image_size), stage.patch)
    pairs = StepPairs(stage, data)
    patches = network.trunk.patches

    def batch(step: int) -> ImageBatch:
        images, _, places, decoded = pairs(step)
        # for all of the step, so that a team draws as a single process does
        prefixes = np.random.default_rng([stage.seed, step]).integers(1, patches, stage.training.batch_size)
        return ImageBatch(image_tensor(images), torch.from_numpy(prefixes[places]), decoded=decoded)

    recorder, network = fit(stage, folder, network, network.loss, ["images"], batch, report, resources)
    return without_last_layers(network.trunk, stage), recorder


def without_last_layers(trunk: Encoder, stage: EncoderStage) -> Encoder:
    """The first layers of `trunk`, as many as `stage.features` has, with a newly initialised final norm."""
    encoder = build_encoder(stage.features, stage.patch, stage.image_size)
    trained = trunk.state_dict()
    weights = encoder.state_dict()
    for name in weights:
        if ".post_layernorm." not in name:
            weights[name] = trained[name]
    encoder.load_state_dict(weights)
    return encoder
