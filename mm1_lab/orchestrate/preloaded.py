"""Imports all that every task imports, with the garbage collector at rest.

Ray's waiting processes import this module before they get a task. The collector would look again and again through
objects that stay: a fifth of the time.
"""

import gc
from importlib import import_module

from mm1_lab.orchestrate.executor import STAGES

gc.disable()
for name in ("ray.tune", *STAGES):
    import_module(name)
gc.freeze()
gc.enable()
