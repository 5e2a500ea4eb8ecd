"""Converts MM1 to LLaVA where that is exact, for inference servers that support LLaVA but not this model.

LLaVA feeds the output of a layer of a CLIP tower into two linear layers with GELU between them. So the encoder must be
CLIP's with an explicit `layer` (without one every patch passes the final norm, which LLaVA does not apply), the
connector must be `mlp`, and each picture a single view.
"""

from transformers import CLIPImageProcessorPil, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

from mm1_lab.config import RequestError
from mm1_lab.model.export import MM1ForConditionalGeneration, MM1Processor

LLAMA_LIKE = ("llama", "qwen2", "qwen3")


def to_llava(model: MM1ForConditionalGeneration, processor: MM1Processor) -> LlavaForConditionalGeneration:
    """The same model as a LLaVA model. Raises RequestError with the reason if they would not be equivalent."""
    encoder, text = model.config.encoder_config, model.config.text_config
    reasons = {
        "the connector must be mlp": model.config.connector["kind"] != "mlp",
        "the encoder must be CLIP's": encoder.vision_config.model_type != "clip_vision_model",
        "the encoder applies its final norm, which LLaVA does not; set its `layer`": encoder.layer is None,
        f"the decoder's family must be one of {', '.join(LLAMA_LIKE)}": text.model_type not in LLAMA_LIKE,
        "a picture must be one view": processor.views != 1,
        "the model is blind": processor.blind,
        "pictures must be squeezed into a square": processor.shape != "squeeze",
    }
    for reason, holds in reasons.items():
        if holds:
            raise RequestError(f"--as llava: this arm has no exact equivalent in LLaVA: {reason}")
    config = LlavaConfig(
        vision_config=encoder.vision_config,
        text_config=text,
        image_token_index=model.config.image_token_id,
        projector_hidden_act="gelu",
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_seq_length=processor.image_tokens,
        tie_word_embeddings=text.tie_word_embeddings,
    )
    llava = LlavaForConditionalGeneration(config)
    weights = {}
    for name, value in model.state_dict().items():
        part, _, rest = name.partition(".")
        if part == "decoder":
            key = rest.replace("model.", "model.language_model.", 1) if rest.startswith("model.") else rest
        elif part == "encoder":
            key = f"model.vision_tower.{rest.removeprefix('vision.')}"
        elif part == "connector":
            key = rest.replace("project.0", "model.multi_modal_projector.linear_1")
            key = key.replace("project.2", "model.multi_modal_projector.linear_2")
            if "linear_2" in key and model.image_scale is not None:
                value = value * model.image_scale
        else:
            continue
        weights[key] = value
    found = llava.load_state_dict(weights, strict=False)
    # the tower's final norm only affects the class token, which is not used
    missing = [key for key in found.missing_keys if "post_layernorm" not in key]
    assert not missing and not found.unexpected_keys, (missing, found.unexpected_keys)
    return llava.eval()


def llava_processor(model: MM1ForConditionalGeneration, processor: MM1Processor) -> LlavaProcessor:
    """The processor that prepares pictures and text for the LLaVA model.

    A chat begins with the begin token, as every document in training does; LLaVA's processor itself adds none.
    """
    encoder = model.config.encoder_config
    side = {"height": encoder.image_size, "width": encoder.image_size}
    images = CLIPImageProcessorPil(
        do_resize=True,
        size=side,
        do_center_crop=False,
        rescale_factor=1 / encoder.white,
        image_mean=list(encoder.mean),
        image_std=list(encoder.std),
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=processor.tokenizer,
        patch_size=encoder.vision_config.patch_size,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=processor.chat_template and "{{ bos_token }}" + processor.chat_template,
    )
