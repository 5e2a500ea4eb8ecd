"""MM1 as a model of the transformers library: encoder, connector and decoder; image features replace the image tokens
in the decoder's input.

An exported model's folder holds a copy of this file, so that `AutoModelForImageTextToText.from_pretrained(FOLDER,
trust_remote_code=True)` loads it where this package is not installed. Training has a subclass of its own (mm1.py).
"""

import warnings
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationMixin,
    PreTrainedConfig,
    PreTrainedModel,
    initialization,
)
from transformers.configuration_utils import SubConfigSpec

from mm1_lab.model.connectors import build_connector
from mm1_lab.model.encoder import Encoder, EncoderConfig

IMAGES_AT_ONCE = 256
"""Images encoded at a time, which limits the memory that five views of many pictures take."""


class MM1Config(PreTrainedConfig):
    model_type = "mm1"
    sub_configs_defaults: ClassVar = {
        "encoder_config": SubConfigSpec(EncoderConfig),
        "text_config": SubConfigSpec(AutoConfig, model_type="qwen2"),
    }

    encoder_config: Any = None
    text_config: Any = None
    connector: dict[str, Any] | None = None
    """Fields of a ConnectorConfig."""
    image_token_id: int = 0
    scale_images: bool = False
    """Whether image tokens are scaled to the decoder's embeddings (see `match_embedding_scale`)."""


def without_stray_windows(config: PreTrainedConfig) -> PreTrainedConfig:
    """Removes windows of families without any, such as Llama, whose layers ignore them: masks and the library's cache
    would not."""
    for name in ("sliding_window", "layer_types"):
        if hasattr(config, name) and not hasattr(type(config), name):
            delattr(config, name)
    return config


class MM1Parts(PreTrainedModel):
    config_class = MM1Config
    _supports_sdpa = True
    supports_gradient_checkpointing = True

    def __init__(self, config: MM1Config) -> None:
        super().__init__(config)
        self.encoder = Encoder(config.encoder_config)
        self.connector = self._make_connector()
        self.decoder = self._make_decoder(config.text_config)
        self.image_id: int = config.image_token_id
        self.image_scale: Tensor | None
        self.register_buffer("image_scale", torch.ones(()) if config.scale_images else None)
        self.post_init()

    def _make_connector(self) -> nn.Module:
        settings = SimpleNamespace(**(self.config.connector or {}))
        return build_connector(settings, self.encoder.width, self.config.text_config.hidden_size, self.encoder.patches)

    @staticmethod
    def _make_decoder(config: PreTrainedConfig) -> PreTrainedModel:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Initializing zero-element")  # experts without a shared one
            return AutoModelForCausalLM.from_config(without_stray_windows(config))

    def _init_weights(self, module: nn.Module) -> None:
        """Does nothing: every part has initialised itself, and the library's default would overwrite that."""

    def get_input_embeddings(self) -> nn.Module:
        return self.decoder.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        return self.decoder.get_output_embeddings()

    def get_image_features(self, pixel_values: Tensor, **_: Any) -> Tensor:
        """uint8 (n, 3, side, side) → image tokens (n, image tokens, width), at the scale of the word embeddings."""
        chunks = pixel_values.split(IMAGES_AT_ONCE)
        features = torch.cat([self.connector(self.encoder(some)) for some in chunks])
        return features if self.image_scale is None else features * self.image_scale

    def embed(self, tokens: Tensor, images: Tensor, is_counted: bool = True) -> Tensor:
        """Embeddings (rows, length, width) of `tokens` (rows, length), with image features at the image tokens.

        `images` are uint8 (n, 3, side, side), in the order of their tokens. If these are counted, raises ValueError for
        a number that does not match the images; a GPU has to be waited for.
        """
        embedded: Tensor = self.get_input_embeddings()(tokens)
        is_image = (tokens == self.image_id).flatten()
        expected = len(images) * self.config.connector["image_tokens"]
        if is_counted and (count := int(is_image.sum())) != expected:
            raise ValueError(f"{count} image tokens in the text, but {len(images)} images give {expected}")
        if not len(images):
            return embedded
        features = self.get_image_features(images).flatten(0, 1).to(embedded.dtype)
        # nothing waits for the second, which not every kind of device has
        places = is_image.nonzero() if is_counted else is_image.nonzero_static(size=expected)
        return embedded.flatten(0, 1).index_put((places[:, 0],), features).view_as(embedded)


class MM1ForConditionalGeneration(MM1Parts, GenerationMixin):
    """Called with the library's arguments, and generates; prompts are padded on the left.

    Images are uint8 tensors (n, 3, side, side), in the order of their tokens in the batch; the model normalises them.
    """

    main_input_name = "input_ids"

    def _init_weights(self, module: nn.Module) -> None:
        """Fills the buffers of a connector that are in no file: the library builds what it loads on the meta device."""
        for place, part in self.connector.named_modules():
            if part is module and (buffers := dict(part.named_buffers(recurse=False))):
                made = self._make_connector().get_submodule(place)
                for name, buffer in buffers.items():
                    initialization.copy_(buffer, made.get_buffer(name))  # unless it has been loaded

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        labels: Tensor | None = None,
        **settings: Any,
    ) -> Any:
        """The library's output of the decoder: logits (batch, length, vocabulary), and a loss if `labels` are given.

        Raises ValueError if the numbers of image tokens and images do not match.
        """
        if inputs_embeds is None:
            assert input_ids is not None
            # of tokens that it generated, an image token is an ordinary word, not a placeholder
            cache = settings.get("cache", settings.get("past_key_values"))  # its name before transformers 5.24
            generated = cache is not None and cache.get_seq_length() > 0
            images = input_ids.new_empty(0) if pixel_values is None else pixel_values
            is_counted = pixel_values is not None or not generated
            inputs_embeds = self.embed(input_ids, images, is_counted)
        return self.decoder(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            logits_to_keep=logits_to_keep,
            labels=labels,
            **settings,
        )

    def _expand_inputs_for_generation(
        self,
        expand_size: int = 1,
        is_encoder_decoder: bool = False,
        input_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Any, dict[str, Any]]:
        """Repeats each row for beams or several answers, and all pictures of a row together.

        The library repeats `pixel_values` one by one, as if each row had exactly one.
        """
        images = kwargs.pop("pixel_values", None)
        ids, kwargs = super()._expand_inputs_for_generation(expand_size, is_encoder_decoder, input_ids, **kwargs)
        if images is not None and expand_size > 1:
            assert input_ids is not None
            counts = (input_ids == self.image_id).sum(dim=1) // self.config.connector["image_tokens"]
            images = torch.cat([own for own in images.split(counts.tolist()) for _ in range(expand_size)])
        return ids, kwargs if images is None else kwargs | {"pixel_values": images}
