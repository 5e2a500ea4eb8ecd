"""Pre-trained models: finds their folders, here or on the hub, and checks that they can be used.

Planning loads no model: configurations are read, weights are only hashed, and torch is not imported. To support another
family, add the `model_type` of its configuration to `ENCODERS` (families.py) or `DECODERS`.
"""

import hashlib
import os
import sys
from collections.abc import Callable
from functools import cache
from math import isclose, isfinite
from pathlib import Path
from typing import Any

from mm1_lab.config import NotHere, Pretrained, PretrainedDecoder, PretrainedEncoder, PretrainedMM1, RequestError
from mm1_lab.files import WEIGHTS, evenly_spaced, expanded, load_json
from mm1_lab.formatting import first_line
from mm1_lab.weights.families import ENCODERS
from mm1_lab.weights.stored import quiet_library

DECODERS = ["llama", "mistral", "qwen2", "qwen3", "smollm3", "gemma", "gemma3_text"]
"""Families with causal attention, full or within a sliding window, whose logits are the output of `lm_head`."""
CHANGING_ROPES = ("dynamic", "longrope")
"""Rope types whose frequencies depend on the longest text of a call."""
FILES = ["*.json", "model.safetensors", "model-*.safetensors", "*.txt", "*.model", "chat_template.jinja"]
"""Files fetched from the hub: of the weights, those that transformers reads and no other variants."""
SAMPLES, SAMPLE_BYTES = 64, 1 << 16
"""Number and size in bytes of the evenly spaced samples of a weight file that are hashed."""


class HuggingFace:
    """Finds pre-trained models and describes them; reads each folder once. Raises RequestError."""

    def __init__(self) -> None:
        self.fetches = True
        """Whether models that are not here yet are fetched; otherwise they raise NotHere."""
        self.encoder: Callable[[Pretrained], PretrainedEncoder] = cache(lambda one: read_encoder(one, self.fetches))
        self.decoder: Callable[[Pretrained], PretrainedDecoder] = cache(lambda one: read_decoder(one, self.fetches))
        self.whole: Callable[[str], PretrainedMM1] = cache(lambda name: read_exported(name, self.fetches))


def read_encoder(requested: Pretrained, fetch: bool = True) -> PretrainedEncoder:
    """Describes the vision tower in a folder, possibly part of a model with a text tower. Raises RequestError."""
    folder = find_folder(requested.weights, fetch)
    config = _tower(folder)
    if config.model_type not in ENCODERS:
        raise RequestError(
            f"{requested.weights}: vision towers of family {config.model_type!r} are not supported; known: "
            f"{', '.join(ENCODERS)}; to add one, see ENCODERS in mm1_lab/weights/families.py"
        )
    count = config.num_hidden_layers
    layer = -1 if requested.layer is None else requested.layer
    layers = layer if layer >= 0 else count + 1 + layer
    if not 1 <= layers <= count:
        raise RequestError(f"{requested.weights}: has {count} layers, so layer {requested.layer} cannot be used")
    found = _normalisation(folder) | _described(requested.weights, folder, config, layers)
    found |= tower_shape(found["size"], config)
    found |= {"image_size": config.image_size, "layer": requested.layer}
    return PretrainedEncoder.parse(found, str(folder / "config.json"))


def read_decoder(requested: Pretrained, fetch: bool = True) -> PretrainedDecoder:
    """Describes the causal language model in a folder. Raises RequestError, also for an unusable tokenizer."""
    from mm1_lab.data.tokenizers import folder_tokenizer

    folder = find_folder(requested.weights, fetch)
    if is_exported(folder):
        raise RequestError(
            f"{requested.weights}: is a whole model written by `mm1-lab export`; tune or evaluate it by `sft: {{start: "
            "…}`, or export its decoder alone (--as decoder)"
        )
    config = _config(folder)
    if config.model_type not in DECODERS:
        raise RequestError(
            f"{requested.weights}: decoders of family {config.model_type!r} are not supported: causal attention, "
            f"full or in a sliding window, and logits straight from lm_head, are known only of {', '.join(DECODERS)}; "
            "if they hold for this one, add it to DECODERS in mm1_lab/weights/pretrained.py"
        )
    for name in ("use_bidirectional_attention", "final_logit_softcapping"):  # of Gemma's families
        if getattr(config, name, None):
            raise RequestError(
                f"{requested.weights}: decoders with {name} (its config.json) are not supported: attention must be "
                "causal and logits come straight from lm_head; give another model"
            )
    windowed = "sliding_attention" in (getattr(config, "layer_types", None) or ())
    if windowed and not getattr(config, "use_sliding_window", True):  # masks go by one, kernels by the other
        raise RequestError(
            f"{requested.weights}: its config.json has layers of sliding_attention (layer_types), but "
            "use_sliding_window is false; set it to true, or make them full_attention, as the model was trained"
        )
    if (rope := _changing_rope(config.rope_parameters)) is not None:
        raise RequestError(
            f"{requested.weights}: decoders with rope type {rope} (its config.json) are not supported: its frequencies "
            "depend on how much is read at a time, so packed rows would change them; give another model"
        )
    if requested.layer is not None:
        raise RequestError(f"{requested.weights}: `layer` is for encoders; a decoder is used whole, so remove it")
    found = _described(requested.weights, folder, config, config.num_hidden_layers)
    folder_tokenizer(folder, rows=config.vocab_size)
    found |= text_shape(found["size"], config)
    return PretrainedDecoder.parse(found, str(folder / "config.json"))


def _changing_rope(parameters: dict[str, Any]) -> str | None:
    """The rope type that computes other frequencies for longer texts, if there is one; Gemma 3's kinds of layers have
    parameters of their own."""
    for one in (parameters, *parameters.values()):
        kind = one.get("rope_type") if isinstance(one, dict) else None
        if kind in CHANGING_ROPES:
            return str(kind)
    return None


def is_exported(folder: Path) -> bool:
    """Whether the folder says that it holds an MM1."""
    try:
        return bool(load_json(folder / "config.json")["model_type"] == "mm1")
    except Exception:  # of many kinds, as the file may hold anything; whoever reads on tells
        return False


def chat_template(decoder: PretrainedDecoder) -> str | None:
    """The chat template of the decoder's tokenizer, as those of Instruct models have, of several the one called
    `default`; None without any."""
    folder = Path(decoder.folder)
    file = folder / "chat_template.jinja"
    if file.exists():
        return file.read_text(encoding="utf-8")
    template = load_json(folder / "tokenizer_config.json").get("chat_template")
    if isinstance(template, list):  # as version 4 of the library saves several
        template = {one.get("name"): one.get("template") for one in template if isinstance(one, dict)}
    if isinstance(template, dict):
        template = template.get("default")
    return template if isinstance(template, str) else None


def end_tokens(decoder: PretrainedDecoder) -> list[int]:
    """The ids at which the decoder's folder ends what is generated."""
    for name in ("generation_config.json", "config.json"):
        try:
            ids = load_json(Path(decoder.folder) / name)["eos_token_id"]
        except Exception:  # of many kinds, as the file may be missing or hold anything
            continue
        ids = ids if isinstance(ids, list) else [ids]
        if ids and all(isinstance(one, int) for one in ids):
            return ids
    return []


def read_exported(name: str, fetch: bool) -> PretrainedMM1:
    """Describes a model in a folder written by `mm1-lab export`. Raises RequestError for other folders, and if
    something is missing or damaged."""
    from transformers import AutoConfig

    from mm1_lab.data.tokenizers import folder_tokenizer

    folder = find_folder(name, fetch)
    try:
        config = load_json(folder / "config.json")
        if config["model_type"] != "mm1":
            raise ValueError(f"its model_type is {config['model_type']!r}")
        text = AutoConfig.for_model(**config["text_config"])
        encoder = _exported_tower(name, folder, config["encoder_config"])
        processor = load_json(folder / "processor_config.json")
        seen = {
            "blind": processor["blind"],
            "pictures": processor["shape"],
            "views": processor["views"],
            "tiling": processor["tiling"],
            "tile_marks": processor.get("tile_marks", "none"),  # version 0.4.0 had no marks
            "tuned": processor["tuned"],
            "connector": config["connector"],
        }
        tensors = tensor_names(folder)
    except Exception as error:  # JSON, the library and safetensors raise various errors for bad files
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise RequestError(
            f"{name}: is not a model written by this version's `mm1-lab export` ({reason}); export it again"
        ) from None
    for part in ("encoder", "connector", "decoder"):
        if not any(key.startswith(part) for key in tensors):
            raise RequestError(f"{name}: its weights lack {part}; the copy is incomplete, export it again")
    folder_tokenizer(folder, rows=text.vocab_size)
    decoder = _described(name, folder, text, text.num_hidden_layers)
    if getattr(text, "num_experts", 0):
        decoder["size"] |= {
            "experts": text.num_experts,
            "experts_every": text.decoder_sparse_step,
            "experts_per_token": text.num_experts_per_tok,
        }
    found = decoder | {"family": "mm1", "encoder": encoder, "decoder": decoder | text_shape(decoder["size"], text)}
    return PretrainedMM1.parse(found | seen, str(folder / "config.json"))


def _exported_tower(name: str, folder: Path, tower: dict[str, Any]) -> dict[str, Any]:
    from transformers import AutoConfig

    vision = AutoConfig.for_model(**tower["vision_config"])
    found = _described(name, folder, vision, vision.num_hidden_layers)
    found |= tower_shape(found["size"], vision)
    for key in ("mean", "std"):
        found[key] = [value / tower["white"] for value in tower[key]]
    beside = _exported_tower(name, folder, tower["beside"]) if tower.get("beside") else None
    return found | {"image_size": tower["image_size"], "layer": tower["layer"], "beside": beside}


def _described(name: str, folder: Path, config: Any, layers: int) -> dict[str, Any]:
    size = {"layers": layers, "width": config.hidden_size, "heads": config.num_attention_heads}
    found = {"name": name, "folder": str(folder), "digest": weights_digest(folder, name)}
    return found | {"family": config.model_type, "size": size}


def tower_shape(size: dict[str, Any], tower: Any) -> dict[str, Any]:
    if tower.model_type.startswith("dinov2"):  # its SwiGLU keeps two thirds of the width, rounded up to a multiple of 8
        inner = int(tower.hidden_size * tower.mlp_ratio)
        gated = tower.use_swiglu_ffn
        inner = (int(inner * 2 / 3) + 7) // 8 * 8 if gated else inner
    else:
        inner = tower.intermediate_size
        gated = tower.model_type == "aimv2_vision_model" or getattr(tower, "use_gated_mlp", False)
    return {"shape": size | {"feed_forward": inner, "gated": gated}, "patch": tower.patch_size}


def text_shape(size: dict[str, Any], config: Any) -> dict[str, Any]:
    heads = config.num_attention_heads
    shape = size | {
        "kv_heads": config.num_key_value_heads,
        "feed_forward": config.intermediate_size,  # also of experts, which exports widen with zeros
        "head_width": getattr(config, "head_dim", None) or config.hidden_size // max(1, heads),
    }
    window = config.sliding_window if config.model_type == "mistral" else None
    longest = config.max_position_embeddings
    return {"shape": shape, "vocabulary": config.vocab_size, "longest": longest, "window": window}


def vision_config(encoder: PretrainedEncoder, image_size: int) -> Any:
    """The tower's library configuration for another image size, without unused layers and parts."""
    config = _tower(Path(encoder.folder))
    values = config.to_dict() | ENCODERS[encoder.family].settings
    values |= {"num_hidden_layers": encoder.size.layers, "image_size": image_size}
    for name in ("stage_names", "out_features", "out_indices"):  # DINOv2's may name layers that are not used
        values.pop(name, None)
    return type(config).from_dict(values)


def text_config(decoder: PretrainedDecoder, vocabulary: int) -> Any:
    """The decoder's library configuration; the embedding grows if `vocabulary` is larger."""
    config = _config(Path(decoder.folder))
    config.vocab_size = max(vocabulary, config.vocab_size)
    return config


def layers_of(model: PretrainedEncoder | PretrainedDecoder) -> int:
    """Layers that its configuration has, of which an encoder's may be used in part."""
    return int(_tower(Path(model.folder)).num_hidden_layers)


def _tower(folder: Path) -> Any:
    config = _config(folder)
    return getattr(config, "vision_config", config)


def _config(folder: Path) -> Any:
    """The library's configuration object; runs no code from the folder."""
    from transformers import AutoConfig

    if not (folder / "config.json").is_file():
        raise RequestError(
            f"{folder}: has no config.json; give a folder that save_pretrained of transformers wrote (merge a LoRA "
            "adapter into its model first; a GGUF file cannot be trained)"
        )
    try:
        with quiet_library():  # it warns of the text tower beside SigLIP's, which is not used
            config = AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the library raises various errors for bad configurations
        raise RequestError(
            f"{folder}: its config.json cannot be used ({first_line(error)}); mend it, or give a model whose family "
            "transformers knows, as code from a folder is not run"
        ) from None
    if getattr(config, "quantization_config", None):
        raise RequestError(f"{folder}: its weights are quantised, so it cannot be trained; give the original model")
    return config


def _normalisation(folder: Path) -> dict[str, list[float]]:
    """Mean and standard deviation for pixel values between 0 and 1, from the folder's preprocessor configuration."""
    path = folder / "preprocessor_config.json"
    if not path.is_file():
        path = folder / "processor_config.json"  # where version 5 of the library saves a whole processor
    try:
        values = load_json(path)
        values = values.get("image_processor", values)
        mean, std = ([float(value) for value in values[key]] for key in ("image_mean", "image_std"))
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0 or not all(map(isfinite, mean + std)):
            raise ValueError("three numbers each, the latter above 0")
        scale = 255 * float(values.get("rescale_factor") or 1 / 255)
    except Exception as error:  # of many kinds, as the file may hold anything
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise RequestError(
            f"{folder}: preprocessor_config.json, or else processor_config.json, must contain image_mean and image_std "
            f"({reason}); save the model's image processor there"
        ) from None
    if values.get("do_rescale") is False or values.get("do_normalize") is False or not isclose(scale, 1, rel_tol=5e-3):
        raise RequestError(
            f"{path}: pixels are divided by 255, then normalised, but do_rescale, rescale_factor or do_normalize says "
            "otherwise; write image_mean and image_std for that, and remove these three"
        )
    return {"mean": mean, "std": std}


def find_folder(name: str, fetch: bool = True) -> Path:
    """The folder of a model: a path, or a hub name, downloaded on first use if `fetch`. Raises RequestError, of the
    kind NotHere if there is none."""
    path = expanded(name)
    if os.path.isdir(path):  # unlike Path's, it accepts lengths that no folder can have
        return path.resolve()
    if os.path.isfile(path):
        raise RequestError(f"{name}: is a file; give a folder that save_pretrained of transformers wrote")
    unknown = NotHere(f"{name}: there is no such folder, and it is not a hub name (OWNER/NAME)")
    if name.count("/") != 1:
        raise unknown
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        cached = Path(snapshot_download(name, allow_patterns=FILES, local_files_only=True))
        if not _missing_weights(cached):
            return cached
    except LocalEntryNotFoundError:
        pass
    except HFValidationError:
        raise unknown from None
    if not fetch:
        raise NotHere(f"{name}: is not in the Hugging Face hub's cache on this machine")
    print(f"{name}: fetching it from the Hugging Face hub (once)", file=sys.stderr)
    try:
        folder = Path(snapshot_download(name, allow_patterns=FILES))
        if others := _missing_weights(folder):  # an index may name any file
            snapshot_download(name, allow_patterns=others)
        return folder
    except (OSError, ValueError) as error:  # of the hub's answer, or without one
        reason = first_line(error).removeprefix("Got: ")
        raise RequestError(
            f"{name}: is neither a folder here nor complete in the hub's cache, and cannot be fetched from the hub "
            f"({reason}); give the folder of a local copy"
        ) from None


def tensor_names(folder: Path) -> set[str]:
    from safetensors import safe_open

    names: set[str] = set()
    for path in folder.glob("[!.]*.safetensors"):
        with safe_open(path, "numpy") as file:
            names |= set(file.keys())
    return names


def weight_files(folder: Path) -> list[str]:
    """Names of the files with a folder's weights; some are missing after an interrupted or partial download."""
    if (folder / WEIGHTS).exists():
        return [WEIGHTS]
    index = folder / f"{WEIGHTS}.index.json"  # if they are several
    try:
        return sorted(set(load_json(index)["weight_map"].values())) if index.exists() else [WEIGHTS]
    except Exception as error:  # of many kinds, as the file may hold anything
        raise RequestError(f"{index}: cannot be used ({first_line(error)}); fetch it again") from None


def _missing_weights(folder: Path) -> list[str]:
    return [file for file in weight_files(folder) if not (folder / file).exists()]


def weights_digest(folder: Path, name: str) -> str:
    """16 hexadecimal digits over the configuration and the name, size and samples of each weight file. Raises
    RequestError for a folder without weights, or with some missing."""
    weights = sorted(path for path in folder.glob("[!.]*.safetensors") if path.is_file())
    if not weights:
        lack = "there are no weights in the folder (*.safetensors; pickled ones could run code)"
        raise RequestError(f"{name}: {lack}; save_pretrained of transformers writes them")
    if missing := _missing_weights(folder):
        raise RequestError(
            f"{name}: lacks {missing[0]}; the copy is incomplete, or holds a LoRA adapter, which is to be merged into "
            "its model first"
        )
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    for path in weights:
        digest.update(f"{path.name} {path.stat().st_size}".encode())
        with path.open("rb") as file:
            for sample in evenly_spaced(file, SAMPLES, SAMPLE_BYTES):
                digest.update(sample)
    return digest.hexdigest()[:16]
