"""Vision-language connectors: patch features in, a fixed number of image tokens out (section 3.2, Fig. 4).

Each turns (n, patches, encoder width) into (n, image tokens, decoder width). To add one, write a class with the same
constructor arguments and decorate it with `@connector(NAME)`, here or in a file of your own that a sweep names; recipes
select it by that name. The paper's three connectors adapt to any number of patches and any square number of image
tokens; a class that does not raises ValueError in its constructor. An exported folder holds a copy of this file.
"""

import math
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy


class ConnectorSettings(Protocol):
    """What a connector is told of the recipe; at run time a ConnectorConfig."""

    @property
    def kind(self) -> str: ...

    @property
    def image_tokens(self) -> int: ...

    @property
    def width(self) -> int:
        """Inner width, for those that have one."""


Build = Callable[[ConnectorSettings, int, int, int], nn.Module]
"""(configuration, encoder width, decoder width, patches) → the connector."""

CONNECTORS: dict[str, Build] = {}
"""Connector classes by name."""
find_own: Callable[[str], Build | None] = CONNECTORS.get
"""Finds `NAME@DIGEST` of a user's own file (`own_connectors.py`); nothing in an exported model's folder, where such a
file is a module that registers its classes by name."""


def connector(name: str) -> Callable[[type[nn.Module]], type[nn.Module]]:

    def enter(kind: type[nn.Module]) -> type[nn.Module]:
        CONNECTORS[name] = kind
        return kind

    return enter


def _grid(features: Tensor) -> Tensor:
    """(n, patches, width) → (n, width, side, side)."""
    side = math.isqrt(features.shape[1])
    return features.transpose(1, 2).unflatten(2, (side, side))


def _heads(width: int) -> int:
    """The number of attention heads: up to 16, each at least 16 wide."""
    for count in (16, 8, 4, 2):
        if width % count == 0 and width >= 16 * count:
            return count
    return 1


def depthwise(convolution: nn.Conv2d, grid: Tensor, multiple: int) -> Tensor:
    """A convolution of channels-last features (n, side, side, width) that leaves their shape, `n` filled up with zeros
    to a multiple."""
    filled = nn.functional.pad(grid, (0,) * 7 + (-len(grid) % multiple,)) if multiple > 1 else grid
    return convolution(filled.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)[: len(grid)]


def _norm_linear(before: int, after: int) -> nn.Sequential:
    """A 1×1 convolution of channels-last features, and a layer norm over the channels."""
    return nn.Sequential(nn.Linear(before, after, bias=False), nn.LayerNorm(after))


@connector("average-pooling")
class AveragePooling(nn.Module):
    """Average pooling of the patch grid to √k × √k, then a linear projection."""

    def __init__(self, config: ConnectorSettings, encoder_width: int, decoder_width: int, patches: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(math.isqrt(config.image_tokens))
        self.project = nn.Linear(encoder_width, decoder_width)

    def forward(self, features: Tensor) -> Tensor:
        return self.project(self.pool(_grid(features)).flatten(2).transpose(1, 2))


@connector("attention-pooling")
class AttentionPooling(nn.Module):
    """k learnt queries attend to the patches in one multi-head cross-attention, followed by a linear projection.
    Queries are initialised from N(0, 1)."""

    def __init__(self, config: ConnectorSettings, encoder_width: int, decoder_width: int, patches: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(config.image_tokens, encoder_width))
        self.attention = nn.MultiheadAttention(encoder_width, _heads(encoder_width), batch_first=True)
        self.project = nn.Linear(encoder_width, decoder_width)

    def forward(self, features: Tensor) -> Tensor:
        queries = self.queries.to(features.dtype).expand(len(features), -1, -1)
        pooled, _ = self.attention(queries, features, features, need_weights=False)
        return self.project(pooled)


class _Bottleneck(nn.Module):
    """A residual block of Honeybee's convolutional stage (RegNet-Y's): 1×1, 3×3, squeeze and excitation, 1×1.

    As there, the bottleneck is as wide as the output, the 3×3 convolution is depthwise, and the excitation's inner
    width is a quarter of the input's. Each convolution is followed by a layer norm over the channels and, except the
    last, by SiLU; the last SiLU follows the sum. If the widths differ, the shortcut is a 1×1 convolution with a layer
    norm. Features are channels-last, so that a 1×1 convolution is a linear layer.
    """

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        squeezed = max(1, round(before / 4))
        self.enter = _norm_linear(before, after).append(nn.SiLU())
        self.spatial = nn.Conv2d(after, after, 3, padding=1, groups=after, bias=False)
        self.spatial_norm = nn.Sequential(nn.LayerNorm(after), nn.SiLU())
        self.excite = nn.Sequential(
            nn.Linear(after, squeezed),
            nn.SiLU(),
            nn.Linear(squeezed, after),
            nn.Sigmoid(),
        )
        self.leave = _norm_linear(after, after)
        self.shortcut = nn.Identity() if before == after else _norm_linear(before, after)
        self.activation = nn.SiLU()

    def forward(self, features: Tensor) -> Tensor:
        """(n, side, side, before) → (n, side, side, after)."""
        # on an H200 cuDNN took 0.8 s to plan this for each new n, and n changes with every step
        inner = depthwise(self.spatial, self.enter(features), multiple=16 if features.is_cuda else 1)
        inner = self.spatial_norm(inner)
        inner = inner * self.excite(inner.mean(dim=(1, 2), keepdim=True))
        return self.activation(self.leave(inner) + self.shortcut(features))


def stretch_positions(positions: Tensor, leading: int, patches: int, antialias: bool = False) -> Tensor:
    """Position embeddings (leading + old patches, width) → (leading + `patches`, width), interpolated on their grid."""
    grid = positions[leading:]
    if len(grid) == patches:
        return positions
    old = round(len(grid) ** 0.5)
    new = round(patches**0.5)
    square = grid.T.reshape(1, -1, old, old)
    stretched = nn.functional.interpolate(square, size=(new, new), mode="bicubic", antialias=antialias)
    return torch.cat([positions[:leading], stretched.flatten(2)[0].T])


def _interpolate_positions(module: nn.Module, weights: dict[str, Any], prefix: str, *_: Any) -> None:
    """Interpolates position embeddings in `weights` to the patch grid of `module`, as the encoder does with its own."""
    key = f"{prefix}positions"
    if key in weights:
        weights[key] = stretch_positions(weights[key], 0, len(module.get_parameter("positions")))


@connector("c-abstractor")
class CAbstractor(nn.Module):
    """Honeybee's C-Abstractor: convolutions before and after adaptive pooling, which preserve local context.

    A learnt position embedding (σ 0.02) is added to the features; then come three bottleneck blocks of `config.width`,
    average pooling to √k × √k, three more blocks, and two linear layers with SiLU between them to the decoder's width.
    """

    BLOCKS = 3

    def __init__(self, config: ConnectorSettings, encoder_width: int, decoder_width: int, patches: int) -> None:
        super().__init__()
        width = config.width
        self.positions = nn.Parameter(torch.empty(patches, encoder_width))
        nn.init.trunc_normal_(self.positions, std=0.02)
        self.register_load_state_dict_pre_hook(_interpolate_positions)
        widths = [encoder_width] + [width] * (self.BLOCKS - 1)
        self.before = nn.Sequential(*(_Bottleneck(before, width) for before in widths))
        self.pool = nn.AdaptiveAvgPool2d(math.isqrt(config.image_tokens))
        self.after = nn.Sequential(*(_Bottleneck(width, width) for _ in range(self.BLOCKS)))
        self.project = nn.Sequential(
            nn.Linear(width, decoder_width), nn.SiLU(), nn.Linear(decoder_width, decoder_width)
        )

    def forward(self, features: Tensor) -> Tensor:
        side = math.isqrt(features.shape[1])
        grid = self.before((features + self.positions).unflatten(1, (side, side)))
        pooled = self.pool(grid.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.project(self.after(pooled).flatten(1, 2))


@connector("mlp")
class TwoLayerMLP(nn.Module):
    """LLaVA 1.5's connector: two linear layers with GELU between them, one image token per patch."""

    def __init__(self, config: ConnectorSettings, encoder_width: int, decoder_width: int, patches: int) -> None:
        super().__init__()
        if config.image_tokens != patches:
            raise ValueError(
                f"connector 'mlp' makes a token of each of the {patches} patches, not {config.image_tokens} tokens; "
                "write `image_tokens: patches`, and for tuning `resolution: native`"
            )
        self.project = nn.Sequential(
            nn.Linear(encoder_width, decoder_width), nn.GELU(), nn.Linear(decoder_width, decoder_width)
        )

    def forward(self, features: Tensor) -> Tensor:
        return self.project(features)


@connector("pixel-shuffle")
class PixelShuffle(nn.Module):
    """The connector of Idefics 3, SmolVLM and nanoVLM: r × r neighbouring patches are concatenated into one token. A
    linear layer projects their r² · width features to the decoder's width; nothing is averaged."""

    def __init__(self, config: ConnectorSettings, encoder_width: int, decoder_width: int, patches: int) -> None:
        super().__init__()
        before, after = math.isqrt(patches), math.isqrt(config.image_tokens)
        if before % after:
            raise ValueError(
                f"connector 'pixel-shuffle': a grid of {before} × {before} patches cannot give {config.image_tokens} "
                f"tokens, {after} a side; choose a side that divides {before}, or another resolution"
            )
        self.factor = before // after
        self.project = nn.Linear(encoder_width * self.factor**2, decoder_width)

    def forward(self, features: Tensor) -> Tensor:
        joined = nn.functional.pixel_unshuffle(_grid(features), self.factor)
        return self.project(joined.flatten(2).transpose(1, 2))


class _ResamplerLayer(nn.Module):
    """Latents attend to the patches and to each other, then pass a feed-forward; both are pre-norm and residual."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm_patches = nn.LayerNorm(width)
        self.norm_latents = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, _heads(width), batch_first=True)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, latents: Tensor, patches: Tensor) -> Tensor:
        """(n, image tokens, width) and (n, patches, width) → (n, image tokens, width)."""
        queries = self.norm_latents(latents)
        seen = torch.cat([self.norm_patches(patches), queries], dim=1)
        latents = latents + self.attention(queries, seen, seen, need_weights=False)[0]
        return latents + self.feed_forward(latents)


@connector("resampler")
class PerceiverResampler(nn.Module):
    """Flamingo's resampler with three layers, as in Idefics 2: k learnt latents attend to the patches. It works at
    `config.width`, after a linear layer; a final norm and another linear layer follow."""

    LAYERS = 3

    def __init__(self, config: ConnectorSettings, encoder_width: int, decoder_width: int, patches: int) -> None:
        super().__init__()
        width = config.width
        self.enter = nn.Linear(encoder_width, width)
        self.latents = nn.Parameter(torch.randn(config.image_tokens, width))
        self.layers = nn.ModuleList(_ResamplerLayer(width) for _ in range(self.LAYERS))
        self.project = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, decoder_width))

    def forward(self, features: Tensor) -> Tensor:
        patches = self.enter(features)
        latents = self.latents.to(patches.dtype).expand(len(features), -1, -1)
        for layer in self.layers:
            latents = layer(latents, patches)
        return self.project(latents)


def build_connector(config: ConnectorSettings, encoder_width: int, decoder_width: int, patches: int) -> nn.Module:
    """The connector that `config` selects. Raises ValueError for an unknown kind, and for counts that it does not
    support."""
    name, _, digest = config.kind.partition("@")
    build = find_own(config.kind) or CONNECTORS.get(name)
    if build is None and digest:
        raise ValueError(
            f"connector {name!r} is from a file of its author's own: load the exported folder with "
            "trust_remote_code=True, or name the file, unchanged, under `connectors` of the sweep"
        )
    if build is None:
        raise ValueError(
            f"there is no connector {name!r}; known: {', '.join(CONNECTORS)}; one of your own needs `connectors: FILE` "
            "in the sweep"
        )
    connector = build(config, encoder_width, decoder_width, patches)
    if any(map(is_lazy, connector.parameters())):
        raise ValueError(f"connector {name!r} has lazy layers, which get their shapes too late; give them input widths")
    connector.apply(_keep_variance)
    return connector


def _keep_variance(module: nn.Module) -> None:
    """Initialises linear layers to preserve variance, so that image tokens start at the scale of the word embeddings.

    With torch's default initialisation they start at a third of it, and differ between images by only a twelfth.
    The queries', keys' and values' projections of `MultiheadAttention`, no linear layers, keep torch's: tokens of
    attention pooling and of the resampler start nearly alike, as in the committed study. A version of them that starts
    otherwise needs another fingerprint. A layer whose weights are all 0 was made so by its author, and stays.
    """
    if isinstance(module, nn.Linear) and not module.weight.is_meta and module.weight.any():
        nn.init.normal_(module.weight, std=1 / math.sqrt(module.in_features))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
