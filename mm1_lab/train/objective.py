"""What the stages minimise: the language-model loss on text, and the contrastive loss on image-caption pairs."""

from collections.abc import Sequence

import torch
from torch import nn
from transformers import PreTrainedModel

from mm1_lab import team
from mm1_lab.data.batches import Batch
from mm1_lab.model import States
from mm1_lab.train.module import Losses

ALL = slice(None)


def language_loss(decoder: PreTrainedModel, states: States, batch: Batch, names: Sequence[str]) -> Losses:
    """The weighted mean cross-entropy over all text tokens of `batch`, and a tally with a row for each of `names`.

    In a team `batch` is a process's share, and the loss its part of that mean (see `Losses`).

    Only positions whose next token counts go through the vocabulary projection, which saves it on images and padding.
    """
    rows, sequence = batch.tokens.shape
    weights = batch.weights[:, 1:]
    row, place = (weights > 0).nonzero(as_tuple=True)
    asked = states.hidden.flatten(0, 1).index_select(0, row * sequence + place)
    loss_weights = weights[row, place]
    losses = nn.functional.cross_entropy(
        decoder.lm_head(asked).float(), batch.tokens[row, place + 1].long(), reduction="none"
    )
    weighted = losses * loss_weights
    loss = weighted.sum() / team.mean(loss_weights.sum()).clamp_min(1e-8)

    device = loss.device
    by_row = torch.zeros(rows, 4, dtype=torch.float64, device=device)
    by_row.index_add_(0, row, _columns(weighted.detach(), loss_weights))
    by_row[:, 2] = (batch.documents > 0).sum(dim=1)
    by_row[:, 3] = 1
    source = torch.tensor([names.index(name) for name in batch.sources], device=device)
    tally = torch.zeros(len(names), 4, dtype=torch.float64, device=device).index_add_(0, source, by_row)
    return Losses(loss, tally, states.auxiliary, states.routing)


def _columns(losses: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return nn.functional.pad(torch.stack([losses, weights], dim=1).double(), (0, 2))


def contrastive_loss(
    images: torch.Tensor, texts: torch.Tensor, scale: torch.Tensor, groups: torch.Tensor, own: slice = ALL
) -> torch.Tensor:
    """Symmetric InfoNCE between unit vectors `images` and `texts` (pairs, width), whose cosines `scale` multiplies.

    Pairs of one group (pairs,) have the same caption word for word: they are left out of each other's negatives, since
    such a caption is as true of one image as of the other. The mean is over the pairs `own`.
    """
    others = groups[:, None] == groups[None, :]
    others.fill_diagonal_(False)
    scores = (scale * images @ texts.T).float().masked_fill(others, -torch.inf)
    right = torch.arange(len(images), device=images.device)[own]
    both = nn.functional.cross_entropy(scores[own], right) + nn.functional.cross_entropy(scores.T[own], right)
    return both / 2
