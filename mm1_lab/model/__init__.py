"""The model: encoder, connector, decoder, and MM1, which joins them (section 3); what it offers is in `parts.py`."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mm1_lab.model.parts import *


def __getattr__(name: str) -> Any:
    """Looks names up on first use: a connector is checked without transformers, whose import takes seconds."""
    if name.startswith("__"):
        raise AttributeError(name)
    return getattr(import_module("mm1_lab.model.parts"), name)
