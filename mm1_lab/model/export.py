"""MM1 as other people's tools know models: a folder of it loads by the library's Auto classes, and generates.

After `import mm1_lab.model`, `AutoModelForImageTextToText.from_pretrained(FOLDER)` gives the model of a multimodal
stage, or an exported one, and `AutoProcessor` what makes its inputs (`processor.py`). Images are uint8 tensors
(n, 3, side, side), in the order in which their tokens stand in the batch; prompts are padded on the left.
"""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, GenerationMixin

from mm1_lab.config import RequestError
from mm1_lab.files import DONE
from mm1_lab.model.mm1 import MM1, MM1Config
from mm1_lab.pretrained import PICKLED


class MM1ForConditionalGeneration(MM1, GenerationMixin):
    """The same parts and weights as MM1, with the arguments that the library calls models with."""

    main_input_name = "input_ids"

    @classmethod
    def from_pretrained(cls, name: Any, *args: Any, **settings: Any) -> Any:
        """As the library does it, from safetensors alone.

        Raises RequestError for a folder that has pickled weights, or lacks a file that its DONE names.
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
        """The library's output of the decoder, with logits (batch, length, vocabulary), and a loss where `labels` are.

        Raises ValueError where tokens of images and images do not match.
        """
        if inputs_embeds is None:
            assert input_ids is not None
            if pixel_values is None and past_key_values is not None and past_key_values.get_seq_length():
                # what goes on is the model's own: an image token that it wrote is a word, no place for an image
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


def check_folder(folder: Path) -> None:
    """Raises RequestError for a folder with pickled weights, or without a file that was exported with it."""
    pickled = sorted(path.name for pattern in PICKLED for path in folder.glob(pattern))
    if pickled:
        raise RequestError(f"{folder}: {pickled[0]} is pickled and can run code when it is loaded; delete it")
    if (folder / DONE).exists():
        for name in json.loads((folder / DONE).read_text(encoding="utf-8"))["files"]:
            if not (folder / name).exists():
                raise RequestError(f"{folder}: lacks {name}; the copy is not complete, export it again")


AutoConfig.register(MM1Config.model_type, MM1Config)
AutoModelForImageTextToText.register(MM1Config, MM1ForConditionalGeneration)
