"""The image encoder: normalisation, patch features, other resolutions."""

import math

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


def test_positions_of_another_resolution_are_interpolated() -> None:
    """Against cubic convolution (a = −0.75, borders repeated) worked out a point at a time."""
    small, large = build_encoder(SIZE, 6, 24), build_encoder(SIZE, 6, 36)
    weights = small.state_dict()
    name = "vision.embeddings.position_embedding.weight"
    grid = torch.randn(4, 4, 16)
    weights[name] = torch.cat([torch.full((1, 16), 7.0), grid.flatten(0, 1)])
    large.load_state_dict(weights)

    loaded = large.state_dict()[name]
    assert loaded.shape == (37, 16)
    assert torch.equal(loaded[0], torch.full((16,), 7.0))
    across = torch.zeros(6, 4)
    for new in range(6):
        centre = (new + 0.5) * 4 / 6 - 0.5
        for old in range(math.floor(centre) - 1, math.floor(centre) + 3):
            across[new, min(max(old, 0), 3)] += cubic(abs(centre - old))
    expected = torch.einsum("ai,bj,ijw->abw", across, across, grid).flatten(0, 1)
    torch.testing.assert_close(loaded[1:], expected, rtol=1e-4, atol=1e-5)


def cubic(distance: float, a: float = -0.75) -> float:
    if distance <= 1:
        return (a + 2) * distance**3 - (a + 3) * distance**2 + 1
    return a * (distance**3 - 5 * distance**2 + 8 * distance - 4) if distance < 2 else 0.0
