"""Weights of pre-trained models as the transformers library reads them, and whether they fit the configuration."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mm1_lab.config import PretrainedDecoder, PretrainedEncoder, RequestError
from mm1_lab.formatting import counted, first_line
from mm1_lab.weights.families import ENCODERS
from mm1_lab.weights.pretrained import layers_of, text_config, vision_config, weight_files
from mm1_lab.weights.stored import quiet_library

if TYPE_CHECKING:
    import torch

    Model = PretrainedEncoder | PretrainedDecoder
    Stored = dict[str, tuple[Path, tuple[int, ...]]]

LAYER = re.compile(r"(?:^|\.)layers?\.(\d+)\.")
"""In the name of a vision tower's tensor; 1: which layer."""
DECODER_LAYER = re.compile(r"^(?:model\.)?layers\.")
"""At the beginning of the name of a decoder's tensor, but not of layers for further tokens (`mtp.layers.0`)."""
ALIKE = ({"LlamaForCausalLM", "MistralForCausalLM"}, {"Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"})
"""Classes that compute the same by the same configuration."""
HEADS = ("lm_head.", "score.")
"""Beginnings of the names of heads in place of which a decoder would have another."""
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
BUFFERS = ("inv_freq", ".k_scale", ".v_scale")
"""Ends of the names of a layer's tensors that change nothing: of RoPE, computed anew, and of a cache in 8 bits."""
ROWS = 64
"""Rows by which an embedding and a head are compared."""


def library_weights(model: Model) -> dict[str, torch.Tensor]:
    """The weights in a model's folder, named as in the library's class, in single precision. Raises RequestError for
    weights that do not fit."""
    check_weights(model)
    kind, config = _library_class(model)
    loaded, _ = _load(kind, model.folder, config, local_files_only=True, use_safetensors=True)
    weights = dict(loaded.state_dict())
    _refuse_broken(model, weights)
    return weights


def check_weights(model: Model) -> None:
    """Raises RequestError for weights that do not fit the model's config.json: their names and shapes alone are read,
    and loaded as the library would load them, without memory."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    stored = _stored(model)
    kind, config = _library_class(model)
    if isinstance(model, PretrainedDecoder) and config.tie_word_embeddings and {EMBEDDING, HEAD} <= stored.keys():
        _check_tied(model, stored)
        del stored[HEAD]
    zero = torch.zeros(())
    tensors = {name: zero.expand(shape) for name, (_, shape) in stored.items()}
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):  # what a checkpoint lacks is made without memory
            _, found = _load(_undrawn(kind), None, config, state_dict=tensors)
    except Exception as error:
        raise RequestError(f"{model.name}: its weights cannot be loaded ({first_line(error)})") from None
    _refuse_unfit(model, found)


def _library_class(model: Model) -> tuple[Any, Any]:
    """The library's class of what is used of the model, and its configuration. Raises RequestError for a decoder that
    says it is of two families."""
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    if isinstance(model, PretrainedEncoder):
        return getattr(transformers, ENCODERS[model.family].model), vision_config(model, model.image_size)
    config = text_config(model, vocabulary=0)
    kind = transformers.MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    for other in config.architectures or ():
        is_same = other == kind.__name__ or {other, kind.__name__} in ALIKE
        if not is_same and other in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values():
            raise RequestError(  # families may share all names and shapes, and compute otherwise, as Llama and Gemma
                f"{model.name}: its config.json names model_type {model.family}, but architectures {other}, of another "
                "family; correct the wrong one"
            )
    return kind, config


def _load(kind: Any, folder: str | None, config: Any, **how: Any) -> Any:
    import torch

    with quiet_library():
        return kind.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # `_refuse_unfit` does not
            key_mapping={r"^vision_model\.": ""},  # of a whole AIMv2, where the library does not do so itself
            **how,
        )


def _undrawn(kind: Any) -> Any:
    """The library's class, without drawing values of what a checkpoint lacks: for some it would look at numbers. Under
    the same name and module, by which the library goes."""
    return type(kind.__name__, (kind,), {"__module__": kind.__module__, "initialize_weights": lambda model: None})


def _stored(model: Model) -> Stored:
    """For each tensor its file and shape."""
    from safetensors import safe_open

    stored: Stored = {}
    folder = Path(model.folder)
    for file in weight_files(folder):
        path = folder / file
        try:
            with safe_open(path, "pt") as tensors:
                stored |= {name: (path, tuple(tensors.get_slice(name).get_shape())) for name in tensors.keys()}  # noqa: SIM118
        except Exception as error:  # safetensors raises various errors for damaged files
            reason = f"{file}: {first_line(error)}"
            raise RequestError(
                f"{model.name}: its weights cannot be loaded ({reason}); fetch it again (of git-lfs by `git lfs pull`)"
            ) from None
    return stored


def _check_tied(model: Model, stored: Stored) -> None:
    """Raises RequestError for a head that is not the embedding, of a model whose head should be."""
    from safetensors import safe_open

    rows = []
    if stored[EMBEDDING][1] == stored[HEAD][1]:
        for name in (EMBEDDING, HEAD):
            path, shape = stored[name]
            with safe_open(path, "pt") as tensors:
                values = tensors.get_slice(name)
                rows.append([values[row : row + 1] for row in range(0, shape[0], max(1, shape[0] // ROWS))])
    # one may be the other rounded
    if not rows or any((a.to(b.dtype) != b).any() and (b.to(a.dtype) != a).any() for a, b in zip(*rows, strict=True)):
        raise RequestError(
            f"{model.name}: its weights have a {HEAD} that differs from {EMBEDDING}, and its config.json "
            f"({model.family}) has one for both; correct tie_word_embeddings or model_type there"
        )


def _refuse_broken(model: Model, weights: dict[str, torch.Tensor]) -> None:
    """Raises RequestError for weights that are not finite, as of a copy that was cut or a training that diverged. The
    first loss does not tell of those that few texts need, such as the embedding of a rare token."""
    for name, values in weights.items():
        # a sum takes a thirtieth of the time that looking at each number does; it is not finite if one of them is not
        if not values.sum().isfinite() and not values.isfinite().all():
            file = next((path.name for own, (path, _) in _stored(model).items() if own.endswith(name)), "a file")
            raise RequestError(
                f"{model.name}: {name} in {file} has NaN or infinite numbers; fetch it again, or give another model"
            )


def _refuse_unfit(model: Model, found: dict[str, Any]) -> None:
    """Raises RequestError for tensors that are missing, of other shapes, or left out though they shape the output."""
    if found["missing_keys"]:
        lack = f"its weights lack {min(found['missing_keys'])}"
        raise RequestError(f"{model.name}: {lack}: incomplete, or saved from another class")
    for name, shape, expected in sorted(found["mismatched_keys"]):
        raise RequestError(
            f"{model.name}: its weights do not fit its config.json: {name} has the shape {tuple(shape)}, "
            f"and by config.json {tuple(expected)}"
        )
    if unused := sorted(name for name in found["unexpected_keys"] if _is_missed(name, model)):
        raise RequestError(
            f"{model.name}: its weights have {unused[0]}, for which its config.json ({model.family}, "
            f"{counted(layers_of(model), 'layer')}) has no place; correct it, or give another model"
        )


def _is_missed(name: str, model: Model) -> bool:
    """Whether the output would be another with this tensor, which the library's class does not have: one of a layer,
    unless features are taken before it, or of a head. A vision tower's own head and other towers are left out."""
    if isinstance(model, PretrainedDecoder):
        is_in_layer = bool(DECODER_LAYER.match(name)) and not name.endswith(BUFFERS)
        return is_in_layer or name.startswith(HEADS)
    layer = LAYER.search(name)
    is_after = layer and model.size.layers <= int(layer[1]) < layers_of(model)
    return bool(layer) and not is_after and not name.startswith("text_model.")
