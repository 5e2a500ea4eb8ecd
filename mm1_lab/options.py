"""The options of `mm1-lab`, each once, and the decorator that makes a function of `commands/` a command with some."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

RESULTS = Path("results/local")
STUDY = Path("results/study")
PARTS = Path("results/parts")

Function = Callable[[argparse.Namespace], int]
Option = tuple[str, dict[str, Any]]
"""What argparse is given: a flag, or the name of a positional argument, and the rest."""


class Command(NamedTuple):
    """Its name and its help are the function's name and docstring."""

    function: Function
    example: str
    options: tuple[Option, ...]


COMMANDS: dict[str, Command] = {}
"""By name, in the order of the help."""


def command(example: str, *options: Option) -> Callable[[Function], Function]:
    """Registers a command; `example` is what stands behind its name."""

    def register(function: Function) -> Function:
        COMMANDS[function.__name__.replace("_", "-")] = Command(function, example, options)
        return function

    return register


def option(flag: str, text: str | None = None, metavar: str | None = None, **settings: Any) -> Option:
    return flag, {"help": text, "metavar": metavar, **settings}


def switch(flag: str, text: str) -> Option:
    return flag, {"help": text, "action": "store_true"}


def repeated(flag: str, text: str, metavar: str, **settings: Any) -> Option:
    return option(flag, text, metavar, action="append", default=[], **settings)


SWEEP = option("sweep", "a YAML file, or the name of one in sweeps/", "SWEEP")
ONLY = repeated("--only", "this arm alone; may be repeated", "ARM")
SCALE = option("--scale", "smoke, mini, lab; to be planned, paper (default: mini)", default="mini")
DATA = option("--data", "your own data instead of the miniature world", "YAML", type=Path)
SEEDS = option("--seeds", "a count (3: seeds 0, 1, 2) or a list (5,6,7); default: 1", default="1")
SET = repeated("--set", "a setting of the scale, e.g. train.steps=200", "PATH=VALUE")
IN_RESULTS = option("--results", f"default: {RESULTS}", "DIR", type=Path, default=RESULTS)
STORE = option(
    "--store", f"where weights are kept; default: {RESULTS / 'store'}", "DIR", type=Path, default=RESULTS / "store"
)
SETTINGS = (SEEDS, SET, IN_RESULTS, STORE)
REQUEST = (SCALE, DATA, *SETTINGS)
ARMS = (SWEEP, ONLY, *REQUEST)
INLINE = switch("--inline", "one stage after another in this process, without Ray")
EXECUTOR = (INLINE, option("--address", "a running Ray cluster (auto: the one on this machine)", "ADDRESS"))
UNTIL_DECIDED = (
    switch("--until-decided", "judge at looks, and give seeds only to arms that a lesson still needs"),
    option("--looks", "with it: numbers of seeds; default: 4, 6, … up to those of --seeds", "4,6,8,10"),
)
NO_PARTS = switch("--no-parts", f"compute anew what is shipped in {PARTS}")
ALL_RESULTS = option(
    "--results",
    f"default: {RESULTS}, and {STUDY} (figures, report: a copy of it, and only where the first has none)",
    "DIR",
    type=Path,
)
