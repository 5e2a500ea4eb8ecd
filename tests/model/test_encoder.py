"""The image encoder: normalisation, patch features, other resolutions."""

import pytest
import torch

from mm1_lab.config import Size
from mm1_lab.data.preprocessing import MEAN_COLOUR
from mm1_lab.model import build_encoder

SIZE = Size(layers=2, width=16, heads=2)


def test_a_blind_image_becomes_zero() -> None:
    images = torch.full((2, 3, 6, 6), MEAN_COLOUR, dtype=torch.uint8)
    normalise = build_encoder(SIZE, 6, 6).normalise
    assert torch.equal(normalise(images), torch.zeros(2, 3, 6, 6))
    ends = torch.tensor([0, 255], dtype=torch.uint8).expand(3, 1, 2)
    assert normalise(ends).tolist() == [[[-2.0, 127 / 64]]] * 3


@pytest.mark.parametrize(("side", "patches"), [(24, 16), (36, 36), (42, 49)])
def test_patch_features_are_normed_and_in_grid_order(side: int, patches: int) -> None:
    torch.manual_seed(0)
    encoder = build_encoder(SIZE, 6, side)
    assert encoder.patches == patches
    features = encoder(torch.randn(2, 3, side, side))
    assert features.shape == (2, patches, 16)
    torch.testing.assert_close(features.mean(dim=2), torch.zeros(2, patches), rtol=0, atol=1e-5)

    # the patch that changes is the one whose features change most: row 1, column 2
    grid = side // 6
    images = torch.zeros(1, 3, side, side)
    before = encoder(images)
    images[:, :, 6:12, 12:18] = 200.0
    change = (encoder(images) - before).norm(dim=2)[0]
    assert change.argmax() == grid + 2
