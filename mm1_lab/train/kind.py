"""What a kind of stage is to those who run it; `stages.py` has the table of all kinds."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from mm1_lab.config import Stage
from mm1_lab.data.types import Data, Tokenizer
from mm1_lab.train.progress import Report

Train = Callable[[Any, Path, Mapping[str, Path], Data, Report], None]
"""(stage, folder, folders of its inputs by field name, data, report): trains in `folder`, from a checkpoint there if
there is one, and writes `model.safetensors`, `stage.json`, `training.csv` and `summary.json`."""


@dataclass(frozen=True)
class StageKind:
    """A kind of stage that leaves weights."""

    config: type[Stage]
    """Its configuration, with its inputs, parameters and positions (mm1_lab/config/kinds.py)."""
    build: Callable[[Any, Tokenizer], nn.Module]
    """The network that the stage trains and keeps, from scratch; on the meta device, to be counted."""
    train: Train
    check: Callable[[Any], None] = lambda stage: None
    """Raises RequestError for a stage whose network cannot be built; called on the meta device before anything runs."""
