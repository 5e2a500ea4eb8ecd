"""Contrastive pre-training of the image encoder on image-caption pairs (CLIP; Table 1 of the paper)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from mm1_lab import team
from mm1_lab.config import EncoderStage, Resources, Size
from mm1_lab.data.batches import TensorBatch
from mm1_lab.data.pixels import NONE_ASKED, Decoded, held_out_pictures, image_tensor
from mm1_lab.data.types import Data, Pixels, Tokenizer
from mm1_lab.model import Encoder, build_encoder, load_weights
from mm1_lab.train.fit import fit
from mm1_lab.train.module import Losses
from mm1_lab.train.pairs import StepPairs
from mm1_lab.train.progress import Report
from mm1_lab.train.recorder import Recorder
from mm1_lab.train.sharding import compile_parts

CAPTION_TOKENS = 77
"""Maximum caption length, begin and end token included; longer captions are truncated."""
LENGTHS = 4
"""Number of length groups into which the text tower's captions are divided."""
LARGEST_SCALE = 100.0
HELD_OUT_PAIRS = 256
TEXT_TOWER = "text.safetensors"


@dataclass(frozen=True, slots=True)
class PairBatch(TensorBatch):
    """A batch of images and their captions."""

    images: torch.Tensor
    """uint8 (pairs, 3, side, side)"""
    tokens: torch.Tensor
    """int64 (pairs, length), padded at the end."""
    ends: torch.Tensor
    """int64 (pairs,): position of each caption's end token."""
    groups: torch.Tensor
    """int64 (pairs,): equal for identical captions."""
    lengths: tuple[int, ...]
    """Of the longest caption of each of up to LENGTHS groups of captions, sorted by length."""


def pair_batch(
    images: Sequence[Pixels], captions: Sequence[str], tokenizer: Tokenizer, decoded: Decoded = NONE_ASKED
) -> PairBatch:
    """Converts images, each (side, side, 3), and captions to tensors."""
    limit = CAPTION_TOKENS - 2
    ids = [[tokenizer.begin, *tokenizer.encode(caption)[:limit], tokenizer.end] for caption in captions]
    longest = max(map(len, ids))
    groups = [int.from_bytes(sha256(caption.encode()).digest()[:8], "big", signed=True) for caption in captions]
    return PairBatch(
        images=image_tensor(images),
        tokens=torch.tensor([row + [tokenizer.pad] * (longest - len(row)) for row in ids]),
        ends=torch.tensor([len(row) - 1 for row in ids]),
        groups=torch.tensor(groups),
        lengths=tuple(int(group[-1]) for group in torch.tensor(sorted(map(len, ids))).chunk(LENGTHS)),
        decoded=decoded,
    )


class Contrastive(nn.Module):
    """An image encoder and a text tower with a shared embedding space, and CLIP's learnt temperature.

    An image is represented by the mean of its patch features; a caption by the output of CLIP's causal text transformer
    at the end token.
    """

    def __init__(self, encoder: Encoder, text: Size, vocabulary: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.text = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=vocabulary,
                hidden_size=text.width,
                intermediate_size=4 * text.width,
                num_hidden_layers=text.layers,
                num_attention_heads=text.heads,
                max_position_embeddings=CAPTION_TOKENS,
                hidden_act="gelu",
                pad_token_id=None,
                bos_token_id=None,
                eos_token_id=0,  # only used by CLIP's pooling, which is not called
            )
        )
        self.image_projection = nn.Linear(encoder.width, text.width, bias=False)
        self.text_projection = nn.Linear(text.width, text.width, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(self, batch: PairBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Unit vectors (pairs, width) of the images and of the captions."""
        images = self.image_projection(self.encoder(batch.images).mean(dim=1))
        texts = self.text_projection(self._encode_text(batch))
        return nn.functional.normalize(images, dim=1), nn.functional.normalize(texts, dim=1)

    def _encode_text(self, batch: PairBatch) -> torch.Tensor:
        """The text tower's output (pairs, width) at the end tokens. Grouping captions by length saves padding."""
        order = batch.ends.argsort()
        states = []
        for group, length in zip(order.chunk(LENGTHS), batch.lengths, strict=True):
            hidden = self.text(batch.tokens[group, :length]).last_hidden_state
            states.append(hidden[torch.arange(len(group), device=hidden.device), batch.ends[group]])
        return torch.cat(states)[order.argsort()]

    def loss(self, batch: PairBatch) -> Losses:
        """The contrastive loss, with negatives from the whole team, and its tally with one row."""
        pairs = len(batch.images)
        own, count = team.span(pairs)
        images, texts, groups = (team.gather(rows, own, count) for rows in (*self(batch), batch.groups))
        scale = self.log_scale.exp().clamp(max=LARGEST_SCALE)
        loss = contrastive_loss(images, texts, scale, groups, own)
        tally = torch.zeros(1, 4, dtype=torch.float64, device=loss.device)
        tally[0, 0] = loss.detach() * pairs
        tally[0, 2] = (batch.ends + 1).sum()
        tally[0, 1] = tally[0, 3] = pairs
        return Losses(loss * (pairs * team.size() / count), tally)


def contrastive_loss(
    images: torch.Tensor, texts: torch.Tensor, scale: torch.Tensor, groups: torch.Tensor, own: slice = slice(None)
) -> torch.Tensor:
    """Symmetric InfoNCE between unit vectors `images` and `texts` (pairs, width); `scale` multiplies their cosines.

    Pairs of the same group (pairs,) have identical captions. They are excluded from each other's negatives, because
    such a caption is correct for both images. The mean is over the pairs `own`.
    """
    others = groups[:, None] == groups[None, :]
    others.fill_diagonal_(False)
    with torch.autocast(images.device.type, enabled=False):  # products around 50 would be rounded to steps of 0.25
        scores = (scale * images.float() @ texts.float().T).masked_fill(others, -torch.inf)
    right = torch.arange(len(images), device=images.device)[own]
    both = nn.functional.cross_entropy(scores[own], right) + nn.functional.cross_entropy(scores.T[own], right)
    return both / 2


def train_contrastive(
    stage: EncoderStage, folder: Path, start: Path | None, data: Data, report: Report, resources: Resources
) -> tuple[Encoder, Recorder, dict[str, Any]]:
    """Trains the encoder; returns it with its losses and held-out retrieval accuracy.

    Training continues from the encoder and text tower in `start`, if given. The text tower is saved in a separate file.
    """
    with team.only_in_first():
        encoder = build_encoder(stage.size, stage.patch, stage.image_size)
        network = Contrastive(encoder, stage.training.text, data.tokenizer.size)
    if start is not None and team.is_first():
        load_weights(encoder, start)
        network.load_state_dict(load_file(start / TEXT_TOWER), strict=False)
    if stage.compile:
        compile_parts(network.encoder)
    pairs = StepPairs(stage, data)

    def batch(step: int) -> PairBatch:
        images, captions, _, decoded = pairs(step)
        return pair_batch(images, captions, data.tokenizer, decoded)

    recorder, network = fit(stage, folder, network, network.loss, ["pairs"], batch, report, resources)
    text = {name: value.contiguous() for name, value in network.state_dict().items() if not name.startswith("encoder.")}
    save_file(text, folder / TEXT_TOWER)
    return network.encoder, recorder, {"retrieval": held_out_retrieval(network, data, stage.image_size)}


@torch.no_grad()
def held_out_retrieval(network: Contrastive, data: Data, side: int) -> dict[str, float]:
    """Retrieval accuracy in both directions on held-out image-caption pairs; `pairs` is their number.

    A caption that is identical to the image's own counts as correct.
    """
    pixels, captions = held_out_pictures(data, ("captions", "synthetic"), HELD_OUT_PAIRS, side)
    if not pixels:
        return {"pairs": 0}
    batch = pair_batch(pixels, captions, data.tokenizer)
    network.eval().to(team.device())  # where Lightning has put it back on the CPU
    images, texts = network(batch.to(team.device()))
    groups = batch.groups.to(team.device())
    scores = images @ texts.T

    def accuracy(nearest: torch.Tensor) -> float:
        return (groups[nearest] == groups).double().mean().item()

    return {
        "pairs": len(pixels),
        "image_to_text": accuracy(scores.argmax(dim=1)),
        "text_to_image": accuracy(scores.argmax(dim=0)),
    }
