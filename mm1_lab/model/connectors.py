"""Vision-language connectors: patch features in, a fixed number of image tokens out (section 3.2, Fig. 4).

Each adapts to any number of patches and any square number of image tokens. To add one, write a class with the same
arguments and name it in CONNECTORS.
"""

import math
from itertools import pairwise

import torch
from torch import nn

from mm1_lab.config import ConnectorConfig, RequestError, nearest


def _grid(features: torch.Tensor) -> torch.Tensor:
    """(n, patches, width) → (n, width, side, side)."""
    side = math.isqrt(features.shape[1])
    return features.transpose(1, 2).unflatten(2, (side, side))


class AveragePooling(nn.Module):
    """Average pooling on the patch grid to √k × √k, then a linear projection."""

    def __init__(self, config: ConnectorConfig, encoder_width: int, decoder_width: int, patches: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(math.isqrt(config.image_tokens))
        self.project = nn.Linear(encoder_width, decoder_width)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(n, patches, encoder width) → (n, image tokens, decoder width)."""
        tokens: torch.Tensor = self.project(self.pool(_grid(features)).flatten(2).transpose(1, 2))
        return tokens


class AttentionPooling(nn.Module):
    """k learnt queries look at the patches through one multi-head cross-attention; then a linear projection.

    Queries start as N(0, 1), so that they differ from the first step on.
    """

    def __init__(self, config: ConnectorConfig, encoder_width: int, decoder_width: int, patches: int) -> None:
        super().__init__()
        heads = next(count for count in (16, 8, 4, 2, 1) if encoder_width % count == 0 and encoder_width >= 16 * count)
        self.queries = nn.Parameter(torch.randn(config.image_tokens, encoder_width))
        self.attention = nn.MultiheadAttention(encoder_width, heads, batch_first=True)
        self.project = nn.Linear(encoder_width, decoder_width)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(n, patches, encoder width) → (n, image tokens, decoder width)."""
        queries = self.queries.to(features.dtype).expand(len(features), -1, -1)
        pooled, _ = self.attention(queries, features, features, need_weights=False)
        tokens: torch.Tensor = self.project(pooled)
        return tokens


class _Bottleneck(nn.Module):
    """A residual block of Honeybee's convolutional stage, which is RegNet-Y's: 1×1, 3×3, squeeze and excite, 1×1.

    As there, the bottleneck is as wide as the output, the 3×3 works on each channel by itself, the excitation's inner
    width is a quarter of the input's, each convolution is followed by a layer norm over the channels and, but for the
    last, by SiLU; the last SiLU comes after the sum. Where the widths differ, the shortcut is a normed 1×1 convolution.
    Features are kept channels-last, where a 1×1 convolution is a linear layer.
    """

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        squeezed = max(1, round(before / 4))
        self.enter = nn.Sequential(nn.Linear(before, after, bias=False), nn.LayerNorm(after), nn.SiLU())
        self.spatial = nn.Conv2d(after, after, 3, padding=1, groups=after, bias=False)
        self.spatial_norm = nn.Sequential(nn.LayerNorm(after), nn.SiLU())
        self.excite = nn.Sequential(nn.Linear(after, squeezed), nn.SiLU(), nn.Linear(squeezed, after), nn.Sigmoid())
        self.leave = nn.Sequential(nn.Linear(after, after, bias=False), nn.LayerNorm(after))
        self.shortcut = (
            nn.Identity()
            if before == after
            else nn.Sequential(nn.Linear(before, after, bias=False), nn.LayerNorm(after))
        )
        self.activation = nn.SiLU()

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(n, side, side, before) → (n, side, side, after)."""
        inner = self.spatial(self.enter(features).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        inner = self.spatial_norm(inner)
        inner = inner * self.excite(inner.mean(dim=(1, 2), keepdim=True))
        out: torch.Tensor = self.activation(self.leave(inner) + self.shortcut(features))
        return out


class CAbstractor(nn.Module):
    """Honeybee's C-Abstractor: convolutions before and after adaptive pooling keep what is near together.

    A learnt position embedding (σ 0.02) on the features, three bottleneck blocks to `config.width`, average pooling to
    √k × √k, three more blocks, and two linear layers with SiLU between them to the decoder's width.
    """

    BLOCKS = 3

    def __init__(self, config: ConnectorConfig, encoder_width: int, decoder_width: int, patches: int) -> None:
        super().__init__()
        width = config.width
        self.positions = nn.Parameter(torch.empty(patches, encoder_width))
        nn.init.trunc_normal_(self.positions, std=0.02)
        widths = [encoder_width] + [width] * self.BLOCKS
        self.before = nn.Sequential(*[_Bottleneck(a, b) for a, b in pairwise(widths)])
        self.pool = nn.AdaptiveAvgPool2d(math.isqrt(config.image_tokens))
        self.after = nn.Sequential(*[_Bottleneck(width, width) for _ in range(self.BLOCKS)])
        self.project = nn.Sequential(
            nn.Linear(width, decoder_width), nn.SiLU(), nn.Linear(decoder_width, decoder_width)
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(n, patches, encoder width) → (n, image tokens, decoder width)."""
        side = math.isqrt(features.shape[1])
        grid = self.before((features + self.positions).unflatten(1, (side, side)))
        pooled = self.pool(grid.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        tokens: torch.Tensor = self.project(self.after(pooled).flatten(1, 2))
        return tokens


CONNECTORS: dict[str, type[AveragePooling] | type[AttentionPooling] | type[CAbstractor]] = {
    "average-pooling": AveragePooling,
    "attention-pooling": AttentionPooling,
    "c-abstractor": CAbstractor,
}


def build_connector(config: ConnectorConfig, encoder_width: int, decoder_width: int, patches: int) -> nn.Module:
    """The connector that `config` names, from `patches` features to `config.image_tokens` tokens.

    Raises RequestError for an unknown kind, or counts that are not squares.
    """
    if config.kind not in CONNECTORS:
        raise RequestError(f"there is no connector {config.kind!r}{nearest(config.kind, CONNECTORS)}")
    for what, count in {"image tokens": config.image_tokens, "patches": patches}.items():
        if math.isqrt(count) ** 2 != count:
            raise RequestError(f"connector {config.kind!r}: {count} {what} are not a square number; choose one that is")
    connector = CONNECTORS[config.kind](config, encoder_width, decoder_width, patches)
    connector.apply(_keep_variance)
    return connector


def _keep_variance(module: nn.Module) -> None:
    """Linear layers that keep the scale of what they get, so that image tokens start as large as word embeddings.

    With torch's own initialisation they start at a third of that, and differ between images by a twelfth.
    """
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=1 / math.sqrt(module.in_features))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
