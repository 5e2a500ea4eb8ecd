"""Small models of the transformers library, saved as the hub holds them: a folder with configuration and weights."""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedTokenizerFast

WIDTH, LAYERS, HEADS = 16, 3, 2
PATCH, SIDE = 7, 28
MEAN, STD = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)
ROWS = 320
"""Of a decoder's embedding."""

_TOWER = {
    "hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
    "patch_size": PATCH,
}  # fmt: skip
_TEXT = {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": HEADS}
_LANGUAGE = _TEXT | {
    "num_hidden_layers": 2, "num_key_value_heads": 1, "vocab_size": ROWS, "max_position_embeddings": 2048,
    "head_dim": 8, "pad_token_id": None, "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip

ENCODERS = ("clip", "siglip", "aimv2", "dinov2", "dinov2_with_registers", "dinov3")
DECODERS = ("llama", "mistral", "qwen2", "qwen3", "smollm3", "gemma", "gemma3")
WINDOW = 5


def save_encoder(family: str, folder: Path) -> Path:
    """CLIP's and SigLIP's with their text towers, as on the hub."""
    torch.manual_seed(1)
    tower: dict[str, Any] = _TOWER | {"image_size": SIDE}
    whole = {"vision_config": tower, "text_config": _TEXT | {"vocab_size": 30}}
    registers = {"num_register_tokens": 3}
    kind, values = {
        "clip": ("clip", whole | {"projection_dim": 8}),
        "siglip": ("siglip", whole),
        "aimv2": ("aimv2_vision_model", tower),
        "aimv2-whole": ("aimv2", whole | {"projection_dim": 8}),
        "dinov2": ("dinov2", tower),
        "dinov2_with_registers": ("dinov2_with_registers", tower | registers),
        "dinov3": ("dinov3_vit", tower | registers),
    }[family]
    model = AutoModel.from_config(AutoConfig.for_model(kind, **values))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "position_embed" in name or "norm" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    preprocessor = {"image_mean": MEAN, "image_std": STD, "size": {"height": SIDE, "width": SIDE}}
    preprocessor |= {"do_normalize": True, "do_rescale": True, "rescale_factor": 0.00392156862745098}
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return folder


def save_decoder(family: str, folder: Path, windowed: bool = False, **tokens: str | None) -> Path:
    """With a byte-level tokenizer; Gemma's and Qwen 2's have tied embeddings. `windowed`: in some layers."""
    torch.manual_seed(2)
    windows: dict[str, Any] = {"sliding_window": WINDOW if windowed else 2048} if family == "mistral" else {}
    if windowed and family != "mistral":
        kinds = ["sliding_attention", "full_attention"]
        windows = {"use_sliding_window": True, "sliding_window": WINDOW, "layer_types": kinds}
    tied, kind = family in ("gemma", "qwen2"), family.replace("gemma3", "gemma3_text")
    config = AutoConfig.for_model(kind, **_LANGUAGE, **windows, tie_word_embeddings=tied)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    save_tokenizer(folder, **tokens)
    return folder


def save_tokenizer(folder: Path, entries: int = 300, more: int = 0, **tokens: str | None) -> Path:
    """`more` tokens are added that no text needs."""
    backend = Tokenizer(BPE())
    backend.pre_tokenizer = ByteLevel(add_prefix_space=False)
    special = ["<pad>", "</s>"]
    trainer = BpeTrainer(
        vocab_size=entries, special_tokens=special, initial_alphabet=ByteLevel.alphabet(), show_progress=False
    )
    backend.train_from_iterator(["a large red circle is at the top left . what color is the square ?"] * 4, trainer)
    backend.add_tokens([f"<{number}>" for number in range(more)])
    named = {"eos_token": "</s>", "pad_token": "<pad>"} | tokens
    PreTrainedTokenizerFast(tokenizer_object=backend, **{k: v for k, v in named.items() if v}).save_pretrained(folder)
    return folder
