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
    tied = _tied(module)
    values = {name: value for name, value in module.state_dict().items() if name not in tied}
    weights = {name: value.detach().cpu().contiguous() for name, value in values.items()}
    save_file(weights, folder / WEIGHTS)
    identity = {"kind": stage.KIND, "version": stage.VERSION, "fingerprint": stage.fingerprint}
    description = json.dumps(identity | {"stage": stage.model_dump(mode="json")}, indent=1)
    (folder / STAGE).write_text(description + "\n", encoding="utf-8")


def load_weights(module: nn.Module, folder: Path) -> None:
    """Reads weights that `save_weights` wrote into `module`, which must be of the same shape.

    An encoder's weights may be of another resolution: their position embeddings are interpolated.
    """
    weights = load_file(folder / WEIGHTS)
    weights |= {name: weights[first] for name, first in _tied(module).items()}
    module.load_state_dict(weights)


def _tied(module: nn.Module) -> dict[str, str]:
    """Names of parameters that are another one once more, which a file holds once: each with the first name."""
    first: dict[int, str] = {}
    names = [(name, id(value)) for name, value in module.named_parameters(remove_duplicate=False)]
    return {name: first[key] for name, key in names if first.setdefault(key, name) != name}
