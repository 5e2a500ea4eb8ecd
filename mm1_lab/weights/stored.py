"""Saves the weights of transformers models together with their stage, and loads them."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mm1_lab.config import RequestError, Stage
from mm1_lab.files import WEIGHTS, write_json

STAGE = "stage.json"


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
