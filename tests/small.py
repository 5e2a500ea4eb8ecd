"""Small models from scratch."""

import torch

from mm1_lab.config import Size
from mm1_lab.data.batches import Batch, find_places
from mm1_lab.model import MM1, MM1Config
from mm1_lab.model.decoder import decoder_config, initialise
from mm1_lab.model.mm1 import encoder_config


def small_mm1(
    encoder: Size, decoder: Size, connector: str, vocabulary: int, sequence: int, image_id: int, side: int = 24
) -> MM1:
    """With patches of 6 pixels a side, and four tokens for an image."""
    config = MM1Config(
        encoder_config=encoder_config(encoder, 6, side),
        text_config=decoder_config(decoder, vocabulary, sequence),
        connector={"kind": connector, "image_tokens": 4, "width": 16},
        image_token_id=image_id,
    )
    model = MM1(config)
    initialise(model.decoder)
    return model


def rows_of(documents: torch.Tensor) -> Batch:
    """Packed rows with these documents (rows, sequence), and nothing else."""
    starts = torch.where(documents.diff(dim=1, prepend=documents[:, :1]) != 0, torch.arange(documents.shape[1]), 0)
    weights = torch.zeros_like(documents, dtype=torch.float32)
    return Batch(
        tokens=torch.zeros_like(documents),
        weights=weights,
        documents=documents,
        positions=torch.arange(documents.shape[1]) - starts.cummax(dim=1).values,
        images=torch.empty(0, 3, 1, 1, dtype=torch.uint8),
        sources=("text",) * len(documents),
        image_counts=(0,) * len(documents),
        **find_places(weights, documents),
    )
