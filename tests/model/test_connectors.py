"""Connectors: every kind at every resolution and token count, and what each does with the patch grid."""

import pytest
import torch
from torch import nn

from mm1_lab.config import ConnectorConfig
from mm1_lab.model import CONNECTORS, build_connector
from mm1_lab.model.connectors import depthwise

ADAPTIVE = [kind for kind in CONNECTORS if kind not in ("mlp", "pixel-shuffle")]


def build(kind: str, tokens: int, patches: int) -> nn.Module:
    torch.manual_seed(0)
    return build_connector(ConnectorConfig(kind=kind, image_tokens=tokens, width=24), 32, 40, patches)


CASES = [
    *((kind, tokens, patches) for kind in ADAPTIVE for tokens, patches in ((4, 16), (9, 49), (64, 256), (144, 729))),
    *(("pixel-shuffle", tokens, patches) for tokens, patches in ((4, 16), (9, 36), (64, 256))),
    *(("mlp", patches, patches) for patches in (16, 49)),
]


@pytest.mark.parametrize(("kind", "tokens", "patches"), CASES)
def test_every_resolution_and_token_count(kind, tokens, patches):
    """Shapes, and gradients to every patch and every parameter."""
    connector = build(kind, tokens, patches)
    features = torch.randn(3, patches, 32, requires_grad=True)
    out = connector(features)
    assert out.shape == (3, tokens, 40)
    out.square().sum().backward()
    assert (features.grad.abs().sum(dim=2) > 0).all()
    still = [n for n, p in connector.named_parameters() if p.grad is None or not bool((p.grad != 0).any())]
    assert not still
    # images do not mix
    torch.testing.assert_close(connector(features[1:2]), out[1:2], rtol=1e-4, atol=1e-5)


def test_a_depthwise_convolution_of_more_pictures_is_that_of_those_asked_for():
    convolution = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
    shapes, results = [], []
    convolution.register_forward_hook(lambda module, inputs, output: shapes.append(len(output)))
    for multiple in (1, 4):
        grid = torch.randn(5, 6, 6, 8, generator=torch.Generator().manual_seed(1)).requires_grad_()
        out = depthwise(convolution, grid, multiple)
        out.square().sum().backward()
        assert out.shape == grid.shape
        results.append((out.detach(), grid.grad, convolution.weight.grad))
        convolution.zero_grad()
    assert shapes == [5, 8]
    torch.testing.assert_close(results[0], results[1])


def test_an_unknown_one_is_told():
    with pytest.raises(ValueError, match=r"there is no connector 'c-abstracter'.*c-abstractor"):
        build("c-abstracter", 4, 16)
