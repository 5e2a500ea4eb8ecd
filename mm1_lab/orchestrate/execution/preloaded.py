"""Imports everything that a task needs, with the garbage collector disabled.

Ray's idle worker processes import this module before they get a task. The collector would take a fifth of the time
scanning objects that stay alive.
"""

import gc
from importlib import import_module

from mm1_lab.orchestrate.execution.executor import STAGES

gc.disable()
for name in ("ray.tune", *STAGES):
    import_module(name)
gc.freeze()
gc.enable()
