"""Connectors: every kind at every resolution and token count, and what each does with the patch grid."""

import pytest
import torch
from torch import nn

from mm1_lab.config import ConnectorConfig, RequestError
from mm1_lab.model import CONNECTORS, build_connector
from mm1_lab.model.connectors import AveragePooling, CAbstractor


def build(kind: str, tokens: int, patches: int) -> nn.Module:
    torch.manual_seed(0)
    return build_connector(ConnectorConfig(kind=kind, image_tokens=tokens, width=24), 32, 40, patches)


@pytest.mark.parametrize("kind", CONNECTORS)
@pytest.mark.parametrize("patches", [16, 36, 49])
@pytest.mark.parametrize("tokens", [4, 9])
def test_every_resolution_and_token_count(kind: str, patches: int, tokens: int) -> None:
    connector = build(kind, tokens, patches)
    features = torch.randn(3, patches, 32, requires_grad=True)
    out = connector(features)
    assert out.shape == (3, tokens, 40)
    out.square().sum().backward()
    assert features.grad is not None and bool((features.grad.abs().sum(dim=2) > 0).all())
    assert all(parameter.grad is not None for parameter in connector.parameters())
    # images do not mix
    torch.testing.assert_close(connector(features[1:2]), out[1:2], rtol=1e-4, atol=1e-5)


def test_average_pooling_is_the_mean_of_each_quarter() -> None:
    connector = build("average-pooling", 4, 16)
    assert isinstance(connector, AveragePooling)
    features = torch.randn(1, 16, 32)
    top_right = features[0, [2, 3, 6, 7]].mean(dim=0)
    torch.testing.assert_close(connector(features)[0, 1], connector.project(top_right))


def test_attention_pooling_knows_no_order() -> None:
    """Where a patch stands is known from its features alone, so a permutation changes nothing."""
    connector = build("attention-pooling", 9, 16)
    features = torch.randn(1, 16, 32)
    torch.testing.assert_close(connector(features[:, torch.randperm(16)]), connector(features))
    tokens = connector(features)[0]
    assert torch.pdist(tokens).min() > 1e-3


def test_c_abstractor_keeps_what_is_near_together() -> None:
    """What changes in one corner changes that corner's token most."""
    connector = build("c-abstractor", 9, 36)
    assert isinstance(connector, CAbstractor)
    features = torch.randn(1, 36, 32)
    changed = features.clone()
    changed[0, 35] += 3 * torch.randn(32)
    change = (connector(changed) - connector(features)).norm(dim=2)[0]
    assert change.argmax() == 8


def test_c_abstractor_block_by_hand() -> None:
    """One block against the same mathematics with the library's convolutions, channels first (RegNet-Y's block)."""
    connector = build("c-abstractor", 4, 16)
    assert isinstance(connector, CAbstractor)
    block = connector.before[0]
    features = torch.randn(2, 4, 4, 32)

    def convolve(linear: nn.Module, x: torch.Tensor) -> torch.Tensor:
        assert isinstance(linear, nn.Linear)
        return nn.functional.conv2d(x, linear.weight[:, :, None, None], linear.bias)

    def norm(x: torch.Tensor) -> torch.Tensor:
        centred = x - x.mean(dim=1, keepdim=True)
        return centred / (centred.square().mean(dim=1, keepdim=True) + 1e-5).sqrt()

    silu = nn.functional.silu
    x = features.permute(0, 3, 1, 2)
    inner = silu(norm(convolve(block.enter[0], x)))
    inner = silu(norm(nn.functional.conv2d(inner, block.spatial.weight, padding=1, groups=24)))
    squeezed = inner.mean(dim=(2, 3), keepdim=True)
    inner = inner * torch.sigmoid(convolve(block.excite[2], silu(convolve(block.excite[0], squeezed))))
    expected = silu(norm(convolve(block.leave[0], inner)) + norm(convolve(block.shortcut[0], x)))
    assert block.excite[0].out_features == 8  # a quarter of the width that comes in
    torch.testing.assert_close(block(features), expected.permute(0, 2, 3, 1), rtol=1e-4, atol=1e-5)


def test_an_unknown_connector_names_the_nearest() -> None:
    with pytest.raises(RequestError, match="there is no connector 'c-abstracter'; did you mean 'c-abstractor'"):
        build("c-abstracter", 4, 16)


@pytest.mark.parametrize(("tokens", "patches"), [(5, 16), (4, 15)])
def test_counts_that_are_not_squares(tokens: int, patches: int) -> None:
    with pytest.raises(RequestError, match="not a square number"):
        build("average-pooling", tokens, patches)
