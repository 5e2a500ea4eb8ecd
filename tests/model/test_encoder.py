"""The image encoder's normalisation (its features: test_pretrained.py)."""

import torch

from mm1_lab.config import Size
from mm1_lab.data.preprocessing import MEAN_COLOUR
from mm1_lab.model import build_encoder


def test_a_blind_image_becomes_zero() -> None:
    images = torch.full((2, 3, 6, 6), MEAN_COLOUR, dtype=torch.uint8)
    normalise = build_encoder(Size(layers=2, width=16, heads=2), 6, 6).normalise
    assert torch.equal(normalise(images), torch.zeros(2, 3, 6, 6))
    ends = torch.tensor([0, 255], dtype=torch.uint8).expand(3, 1, 2)
    assert normalise(ends).tolist() == [[[-2.0, 127 / 64]]] * 3
