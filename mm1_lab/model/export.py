"""MM1 as other people's tools know models: a folder of a stage loads by the library's Auto classes, and generates.

After `import mm1_lab.model`, `AutoModelForImageTextToText.from_pretrained(FOLDER)` gives the model of a multimodal
stage. Images are uint8 tensors (n, 3, side, side), in the order in which their tokens stand in the batch; prompts are
padded on the left.
"""

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, GenerationMixin

from mm1_lab.model.mm1 import MM1, MM1Config


class MM1ForConditionalGeneration(MM1, GenerationMixin):
    """The same parts and weights as MM1, with the arguments that the library calls models with."""

    main_input_name = "input_ids"

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


AutoConfig.register(MM1Config.model_type, MM1Config)
AutoModelForImageTextToText.register(MM1Config, MM1ForConditionalGeneration)
