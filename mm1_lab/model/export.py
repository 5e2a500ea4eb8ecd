"""MM1 as a model of the transformers library: a folder of it loads with the Auto classes and supports `generate`.

After `import mm1_lab.model`, `AutoModelForImageTextToText.from_pretrained(FOLDER)` loads the model of a multimodal
stage or an exported one, and `AutoProcessor` loads the processor that prepares its inputs. Images are uint8 tensors (n,
3, side, side), in the order of their tokens in the batch; prompts are padded on the left.

In a text `<image>` marks the position of a picture. Each picture becomes one or five square views of uint8 pixels, as
in training; the model normalises them. A picture is a file path, read as training reads files, or a PIL or numpy image,
which has been decoded.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    BatchFeature,
    GenerationMixin,
    PreTrainedTokenizerFast,
    ProcessorMixin,
)

from mm1_lab.data.decoding import ImageDecoder, StoredPicture, as_shown, read_file, square
from mm1_lab.data.pixels import MEAN_COLOUR, image_tensor, views
from mm1_lab.data.tokenizers import IMAGE
from mm1_lab.data.types import Picture, Pixels, Tokenizer
from mm1_lab.model.mm1 import MM1, MM1Config
from mm1_lab.weights.folder import check_folder


class MM1ForConditionalGeneration(MM1, GenerationMixin):
    """MM1 with the same parts and weights, called with the library's arguments."""

    main_input_name = "input_ids"

    @classmethod
    def from_pretrained(cls, name: Any, *args: Any, **settings: Any) -> Any:
        """Loads a model as the library does, from safetensors only.

        Raises RequestError for a folder with pickled weights, or without a file that its DONE lists.
        """
        if Path(name).is_dir():
            check_folder(Path(name))
        return super().from_pretrained(name, *args, **settings | {"use_safetensors": True})

    def forward(  # type: ignore[override]
        self,
        input_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        labels: torch.Tensor | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """The library's output of the decoder: logits (batch, length, vocabulary), and a loss if `labels` are given.

        Raises ValueError if the numbers of image tokens and images do not match.
        """
        if inputs_embeds is None:
            assert input_ids is not None
            if pixel_values is None and past_key_values is not None and past_key_values.get_seq_length():
                # generated tokens: an image token that the model wrote is an ordinary word, not a placeholder
                inputs_embeds = self.decoder.get_input_embeddings()(input_ids)
            else:
                none = input_ids.new_empty((0, 3, 1, 1), dtype=torch.uint8)
                inputs_embeds = self.embed(input_ids, none if pixel_values is None else pixel_values)
        return self.decoder(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
            labels=labels,
            return_dict=return_dict,
        )

    def _expand_inputs_for_generation(
        self,
        expand_size: int = 1,
        is_encoder_decoder: bool = False,
        input_ids: torch.Tensor | None = None,
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


@dataclass(frozen=True, slots=True)
class _Loaded:
    """Makes an image in memory a Picture."""

    image: Image.Image
    shape: str

    def pixels(self, side: int) -> Pixels:
        return np.asarray(square(as_shown(self.image), side, self.shape))


class MM1Processor(ProcessorMixin):
    """Prepares text and pictures as the model was trained on them: tokenizer and image preprocessing together."""

    def __init__(
        self,
        tokenizer: Any = None,
        side: int = 0,
        views: int = 1,
        image_tokens: int = 0,
        shape: str = "squeeze",
        blind: bool = False,
        chat_template: str | None = None,
        **_: Any,
    ) -> None:
        """`image_tokens`: tokens per view; `side`: its pixels; `shape`: how an image is made square."""
        self.side, self.views, self.image_tokens = side, views, image_tokens
        self.shape, self.blind = shape, blind
        super().__init__(tokenizer, chat_template=chat_template)

    @property
    def model_input_names(self) -> list[str]:
        return ["input_ids", "attention_mask", "pixel_values"]

    def __call__(self, images: Any = None, text: Any = None, **_: Any) -> BatchFeature:
        """`input_ids` and `attention_mask` (batch, length), and uint8 `pixel_values` (views, 3, side, side) if any.

        `images` is one image, a list of all images, or a list per text, in the order of the `<image>` markers. If no
        text has a marker, each picture is put before its text. Raises ValueError if markers and pictures do not match.
        """
        texts = [text or ""] if isinstance(text, str) or text is None else list(text)
        pictures = _flat(images)
        if pictures and not any(IMAGE in one for one in texts):
            if len(texts) not in (1, len(pictures)):
                raise ValueError(f"{len(pictures)} pictures for {len(texts)} texts; mark where each goes by {IMAGE}")
            texts = [IMAGE * (len(pictures) // len(texts)) + one for one in texts]
        markers = sum(one.count(IMAGE) for one in texts)
        if markers != len(pictures):
            raise ValueError(f"{markers} {IMAGE} in the text, but {len(pictures)} pictures")
        rows = [self._encode(one) for one in texts]
        longest = max(map(len, rows))
        pad = self.tokenizer.pad_token_id
        batch = {
            "input_ids": torch.tensor([[pad] * (longest - len(row)) + row for row in rows]),
            "attention_mask": torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows]),
        }
        if pictures:
            batch["pixel_values"] = image_tensor([view for picture in pictures for view in self._see(picture)])
        return BatchFeature(batch)

    def _encode(self, text: str) -> list[int]:
        """Begin token and text, with image tokens for each `<image>`, and end tokens, which follow the answers of a
        conversation. Other special tokens are encoded as text."""
        backend = self.tokenizer.backend_tokenizer
        backend.encode_special_tokens = True
        placeholder = [backend.token_to_id(IMAGE)] * (self.image_tokens * self.views)
        ids = [self.tokenizer.bos_token_id]
        for number, piece in enumerate(text.split(IMAGE)):
            ids += placeholder if number else []
            for said, text in enumerate(piece.split(self.tokenizer.eos_token)):
                ids += [self.tokenizer.eos_token_id] if said else []
                ids += backend.encode(text, add_special_tokens=False).ids
        return ids

    def _see(self, image: Any) -> list[Pixels]:
        if self.blind:
            return [np.full((self.side, self.side, 3), MEAN_COLOUR, np.uint8)] * self.views
        picture: Picture
        if isinstance(image, str | Path):
            decoder = ImageDecoder(self.shape, room=0)  # type: ignore[arg-type]
            picture = StoredPicture(str(image), partial(read_file, Path(image)), decoder, key=str(image))
        else:
            loaded = image if isinstance(image, Image.Image) else Image.fromarray(np.asarray(image))
            picture = _Loaded(loaded, self.shape)
        return views(picture, self.side, self.views)


def _flat(images: Any) -> list[Any]:
    """All images of a batch in one list."""
    if images is None:
        return []
    if isinstance(images, list | tuple):
        return [one for each in images for one in _flat(each)]
    return [images]


def library_tokenizer(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    """The tokenizer as a transformers tokenizer."""
    backend = tokenizer.backend
    named = {"pad_token": tokenizer.pad, "bos_token": tokenizer.begin, "eos_token": tokenizer.end}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        **{name: backend.id_to_token(number) for name, number in named.items()},
        extra_special_tokens=[IMAGE],
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


AutoConfig.register(MM1Config.model_type, MM1Config)
AutoModelForImageTextToText.register(MM1Config, MM1ForConditionalGeneration)
AutoProcessor.register(MM1Config, MM1Processor)
