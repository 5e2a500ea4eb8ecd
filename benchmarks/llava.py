"""The reference for training: LLaVA from `transformers`, with the base's sizes, on padded batches of the same
documents.

LLaVA turns every patch into a token. To get the same number of tokens per image as here, its features are averaged
before its projector (same encoder, and a far smaller connector than ours). Other deviations from common practice favour
LLaVA: there is no image processor and no trainer, and the fastest of several batch sizes is used.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from transformers import CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration

from mm1_lab.config import MultimodalStage
from mm1_lab.data.batches import Batch
from mm1_lab.data.preprocessing import MEAN_COLOUR
from mm1_lab.data.types import Tokenizer
from mm1_lab.model.decoder import decoder_config
from mm1_lab.model.encoder import COLOUR_SPREAD

IGNORED = -100
"""Label of positions without loss, as in `transformers`."""


@dataclass(frozen=True, slots=True)
class PaddedDocument:
    """A single document."""

    tokens: torch.Tensor
    """(length,)"""
    labels: torch.Tensor
    """(length,)"""
    images: torch.Tensor
    """uint8 (n, 3, side, side)"""


class PooledProjector(nn.Module):
    """LLaVA's projector, after average pooling of the patch grid to `tokens` tokens."""

    def __init__(self, projector: nn.Module, tokens: int) -> None:
        super().__init__()
        self.projector = projector
        self.pool = nn.AdaptiveAvgPool2d(math.isqrt(tokens))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(n, patches, encoder width) → (n, tokens, decoder width)."""
        side = math.isqrt(features.shape[1])
        pooled: torch.Tensor = self.projector(
            self.pool(features.transpose(1, 2).unflatten(2, (side, side))).flatten(2).transpose(1, 2)
        )
        return pooled


def build_llava(stage: MultimodalStage, tokenizer: Tokenizer) -> LlavaForConditionalGeneration:
    """LLaVA with the layers, widths and heads of encoder and decoder."""
    size = stage.encoder.size
    tokens = stage.connector.image_tokens
    vision = CLIPVisionConfig(
        hidden_size=size.width,
        intermediate_size=4 * size.width,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        image_size=stage.image_size,
        patch_size=stage.encoder.patch,
        hidden_act="gelu",
    )
    model = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=vision,
            text_config=decoder_config(stage.decoder.size, tokenizer.size, stage.sequence_length),
            image_token_index=tokenizer.image,
            image_seq_length=tokens,
            vision_feature_layer=-1,
        )
    )
    model.model.multi_modal_projector = PooledProjector(model.model.multi_modal_projector, tokens)
    return model.train()


def unpack(batch: Batch, image_id: int, image_tokens: int) -> list[PaddedDocument]:
    """The documents of packed rows as separate sequences, in order."""
    documents = []
    at = 0
    for tokens, weights, numbers in zip(batch.tokens, batch.weights, batch.documents, strict=True):
        for number in range(1, int(numbers.max()) + 1):
            own = numbers == number
            labels = tokens[own].masked_fill(weights[own] == 0, IGNORED)
            count = int((tokens[own] == image_id).sum()) // image_tokens
            documents.append(PaddedDocument(tokens[own], labels, batch.images[at : at + count]))
            at += count
    return documents


def shuffled(documents: Sequence[PaddedDocument], seed: int) -> list[PaddedDocument]:
    """Shuffles documents as a data loader would: those of a row share their source, those of a padded batch do not."""
    order = torch.randperm(len(documents), generator=torch.Generator().manual_seed(seed))
    return [documents[index] for index in order.tolist()]


def padded_loss(
    model: LlavaForConditionalGeneration, documents: Sequence[PaddedDocument], pad: int
) -> tuple[torch.Tensor, int]:
    """The mean loss of the documents as one batch, padded to the longest, and the number of tokens with loss."""
    sequences = nn.utils.rnn.pad_sequence
    tokens = sequences([document.tokens for document in documents], batch_first=True, padding_value=pad)
    labels = sequences([document.labels for document in documents], batch_first=True, padding_value=IGNORED)
    real = sequences([torch.ones_like(document.tokens) for document in documents], batch_first=True)
    images = torch.cat([document.images for document in documents])
    pixels = (images.float() - MEAN_COLOUR) / COLOUR_SPREAD if len(images) else None
    loss = model(input_ids=tokens, attention_mask=real, labels=labels, pixel_values=pixels, use_cache=False).loss
    return loss, int((labels[:, 1:] != IGNORED).sum())
