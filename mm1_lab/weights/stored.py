"""Saves the weights of transformers models together with their stage, and loads them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mm1_lab.config import PretrainedDecoder, PretrainedEncoder, RequestError, Stage
from mm1_lab.files import WEIGHTS, write_json
from mm1_lab.formatting import first_line

if TYPE_CHECKING:
    import torch


STAGE = "stage.json"


def library_weights(
    kind: Any, model: PretrainedEncoder | PretrainedDecoder, config: Any = None
) -> dict[str, torch.Tensor]:
    """The weights in a model's folder, named as in the library's class `kind`, in single precision. Raises RequestError
    for a folder without weights."""
    import torch

    try:
        with quiet_library():
            loaded, found = kind.from_pretrained(
                model.folder,
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
                key_mapping={r"^vision_model\.": ""},  # of a whole AIMv2, where the library does not do so itself
            )
    except Exception as error:  # the library and safetensors raise various errors for damaged files
        raise RequestError(f"{model.name}: its weights cannot be loaded ({first_line(error)})") from None
    if found["missing_keys"]:
        raise RequestError(f"{model.name}: its weights lack {min(found['missing_keys'])}; the copy is incomplete")
    return dict(loaded.state_dict())


def save_weights(model: Any, folder: Path, stage: Stage) -> None:
    """Saves a transformers model, and `stage.json`: the resolved configuration of `stage`."""
    with quiet_library():
        model.save_pretrained(folder, save_original_format=False)
    identity = {"kind": stage.KIND, "version": stage.VERSION, "fingerprint": stage.fingerprint}
    write_json(folder / STAGE, identity | {"stage": stage.model_dump(mode="json")})


def load_weights(model: Any, folder: Path) -> None:
    """Loads weights written by `save_weights` into `model`, which must have the same shape. An encoder's position
    embeddings are interpolated. Raises RequestError for weights of another model."""
    from huggingface_hub import load_torch_model

    one = folder / WEIGHTS  # the folder may contain other weights too; large models have several files
    found: Any = load_torch_model(model, one if one.exists() else folder)
    mismatched = [*(set(found.missing_keys) - set(model.all_tied_weights_keys)), *found.unexpected_keys]
    if mismatched:
        raise RequestError(f"{folder}: its weights do not fit the model ({min(mismatched)}); recreate it")


@contextmanager
def quiet_library() -> Iterator[None]:
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Initializing zero-element")  # experts without a shared one
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
