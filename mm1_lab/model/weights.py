"""A stage's weights on disk: `model.safetensors`, and `stage.json`, which says what they are."""

import json
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import nn

from mm1_lab.config import Stage

WEIGHTS = "model.safetensors"
STAGE = "stage.json"


def save_weights(module: nn.Module, folder: Path, stage: Stage) -> None:
    """Writes the weights of `module` and the whole resolved configuration of `stage` with its fingerprint."""
    weights = {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
    save_file(weights, folder / WEIGHTS)
    identity = {"kind": stage.KIND, "version": stage.VERSION, "fingerprint": stage.fingerprint}
    description = json.dumps(identity | {"stage": stage.model_dump(mode="json")}, indent=1)
    (folder / STAGE).write_text(description + "\n", encoding="utf-8")


def load_weights(module: nn.Module, folder: Path) -> None:
    """Reads weights that `save_weights` wrote into `module`, which must be of the same shape.

    An encoder's weights may be of another resolution: their position embeddings are interpolated.
    """
    module.load_state_dict(load_file(folder / WEIGHTS))
