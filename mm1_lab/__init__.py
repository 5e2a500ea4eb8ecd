"""mm1-lab: ablations of multimodal language models, one YAML file per question.

For use from Python see `mm1_lab/lab.py`: `from mm1_lab import load_sweep, plan, run, contrasts, judge, results`; what
cannot be done raises its `RequestError`.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from mm1_lab.version import __version__

if TYPE_CHECKING:
    from analysis.external.judge import judge
    from mm1_lab import results
    from mm1_lab.config import RequestError
    from mm1_lab.lab import contrasts, load_sweep, plan, run

# large tensors that are made at every step, as gradients are, come ten times as fast in pages of 2 MiB
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

__all__ = ["RequestError", "contrasts", "judge", "load_sweep", "plan", "results", "run"]


def __getattr__(name: str) -> Any:
    """Looks names up on first use, so that `import mm1_lab` and `mm1-lab --help` are fast."""
    if name == "results":
        return import_module("mm1_lab.results")
    if name in __all__:
        places = {"judge": "analysis.external.judge", "RequestError": "mm1_lab.config"}
        return getattr(import_module(places.get(name, "mm1_lab.lab")), name)
    raise AttributeError(f"module 'mm1_lab' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
