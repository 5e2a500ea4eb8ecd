"""What the commands share: options, exit codes, and functions that build a ledger or a request from the options."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic_core import to_json

from mm1_lab import files
from mm1_lab.config import RateSearch, RequestError, Search, load_sweep
from mm1_lab.files import PUBLISHED, RESULTS, expanded, here_or_shipped
from mm1_lab.formatting import at_seeds
from mm1_lab.orchestrate.planning.finding import CONFIRMATION, SWEEPS, find_sweep, only_of_search, split_settings
from mm1_lab.results.manifest import read_manifest, read_trials, seeds_of

if TYPE_CHECKING:
    from mm1_lab.orchestrate.execution.executor import Executor
    from mm1_lab.orchestrate.planning.request import Request

Function = Callable[[argparse.Namespace], int]
Option = tuple[str, dict[str, Any]]
"""Arguments for argparse: a flag or the name of a positional argument, and the keyword arguments."""


class Command(NamedTuple):
    """A command; its name and help come from the function's name and docstring."""

    function: Function
    example: str
    options: tuple[Option, ...]


COMMANDS: dict[str, Command] = {}
"""Commands by name, in the order of the help."""


def command(example: str, *options: Option) -> Callable[[Function], Function]:
    """Registers a command; `example` are the arguments shown after its name."""

    def register(function: Function) -> Function:
        COMMANDS[function.__name__.replace("_", "-")] = Command(function, example, options)
        return function

    return register


def option(flag: str, text: str, metavar: str | None = None, **settings: Any) -> Option:
    return flag, {"help": text, "metavar": metavar, **settings}


def switch(flag: str, text: str) -> Option:
    return flag, {"help": text, "action": "store_true"}


def repeated(flag: str, text: str, metavar: str, **settings: Any) -> Option:
    return option(flag, text, metavar, action="append", default=[], **settings)


SWEEP = option("sweep", "a YAML file, or the name of one in sweeps/", "SWEEP")
ONLY = repeated("--only", "only these arms (base,blind); may be repeated", "ARM")
DEFAULT_SCALE = "mini"
SCALE = option(
    "--scale",
    "smoke, mini or lab, paper for planning only, or one of your own: a file in sweeps/scales/ (default: mini)",
    default=DEFAULT_SCALE,
)
DATA = option("--data", "your own data instead of the miniature world", "YAML", type=expanded)
SEEDS = option(
    "--seeds", "how many (3: seeds 0, 1, 2), or which (5,6,7 or 300-305; a single one with a comma: 100,); default: 1"
)
SEEDS_OF_RESULTS = option("--seeds", "how many or which, as for run; default: those of the results")
SET = repeated(
    "--set",
    "change a setting of the scale (train.steps=200) or the recipe (connector=c-abstractor); may be repeated",
    "PATH=VALUE",
)
DEFAULT_STORE = files.STORE
IN_RESULTS = option("--results", "default: %(default)s", "DIR", type=expanded, default=RESULTS)
STORE = option(
    "--store",
    "where weights and the index of your data are kept; default: %(default)s",
    "DIR",
    type=expanded,
    default=DEFAULT_STORE,
)
REQUEST = (SCALE, DATA, SEEDS, SET, IN_RESULTS, STORE)
ARMS = (SWEEP, ONLY, *REQUEST)
INLINE = switch("--inline", "run one stage after another in this process, without Ray")
EXECUTOR = (
    INLINE,
    option("--address", "a running Ray cluster (auto: the one on this machine)", "ADDRESS"),
    switch(
        "--share",
        "share the work: start this command any number of times, on any machines that see the results (a job array). "
        "Each process takes the next stage that no other has, waits if a running one will free work, and leaves when "
        "nothing is left for it; the last draws the tables",
    ),
    option(
        "--minutes",
        "with --share: leave within N minutes of the start, with a checkpoint from which the next process resumes",
        "N",
        type=float,
    ),
)
SIZES = option("--sizes", "of lr_law: which sizes of decoder to search; default: those of sweeps/lr_law.yaml", "LIST")
JSON = switch("--json", "print JSON, with the keys in docs/reference.md")
STATE = (DATA, SEEDS_OF_RESULTS, SET, IN_RESULTS, STORE, JSON)
"""Of commands that show what there is of a sweep."""
VARY = (
    repeated(
        "--vary",
        "SWEEP is a recipe, such as base: vary one of its fields, e.g. image_tokens=64,144, data_mix.text=0.5,2 or "
        "scale.train.weight_decay=0,0.1, in a sweep that `run` writes to sweeps/; may be repeated",
        "FIELD=VALUE,…",
    ),
    switch("--grid", "with --vary: all combinations, not one field at a time"),
)
DRAWN_RESULTS = option(
    "--results",
    f"default: {RESULTS}; if that has no results, {PUBLISHED}, drawn in {RESULTS}/{PUBLISHED.name}",
    "DIR",
    type=expanded,
)
OWN_RESULTS = option(
    "--results", f"default: {RESULTS}; if the sweep has none there, {PUBLISHED}", "DIR", type=expanded, default=RESULTS
)
ALL_RESULTS = option("--results", f"default: {RESULTS}; if that has no results, {PUBLISHED}", "DIR", type=expanded)


DONE, FAILED = 0, 1
"""Exit codes: everything succeeded; a trial or a gate failed."""


def print_json(value: Any) -> None:
    """Prints plain values as JSON, with null for what is not a finite number."""
    text = to_json(value, indent=1, inf_nan_mode="null").decode()
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:  # as JSON escapes what the locale lacks; Python's `\xe9` is none of its escapes
        text = json.dumps(json.loads(text), indent=1)
    print(text)


def parse_looks(text: str | None) -> tuple[int, ...]:
    """Parses `--looks`, increasing numbers of seeds (`4,6,8`); none without the option. Raises RequestError."""
    if text is None:
        return ()
    with suppress(ValueError):
        looks = tuple(map(int, text.split(",")))
        if looks[0] >= 2 and list(looks) == sorted(set(looks)):
            return looks
    raise RequestError(f"--looks {text}: give increasing numbers of seeds, from 2 on, such as 4,6,8")


def check_there(folder: Path, usual: Path) -> None:
    """Raises RequestError for a folder that was named, not the `usual` one, and is missing: perhaps misspelt."""
    if folder != usual and not folder.is_dir():
        raise RequestError(f"{folder}: there is no such folder")


def executor_of(options: argparse.Namespace, request: Request, started: float, rounds: bool) -> Executor:
    """The executor that the options `EXECUTOR` describe; others as in `make_executor`. Raises RequestError."""
    from mm1_lab.orchestrate.execution.executor import make_executor

    return make_executor(request, options.inline, options.address, options.share, options.minutes, rounds, started)


def request_of(options: argparse.Namespace, sweep: str, only: Sequence[str] | None = None, text: str = "") -> Request:
    """The request that the options describe. `only` names the arms for a command without an `--only` option; `text` is
    that of the sweep's file, if it is not written yet."""
    from mm1_lab.orchestrate.planning.doubts import ignored
    from mm1_lab.orchestrate.planning.loading import load_request

    given = vars(options)
    seeds = given.get("seeds")
    request = load_request(
        sweep,
        scale=options.scale,
        seeds="1" if seeds is None else seeds,
        only=given.get("only", ()) if only is None else only,
        settings=options.set,
        data=given.get("data"),
        results=options.results,
        store=options.store,
        text=text,
    )
    if only is None and given.get("only") and isinstance(request.sweep.search, Search):
        raise only_of_search(request.asked)
    for remark in ignored(request):
        print(remark, file=sys.stderr)
    return request


def folder_shown(request: Request) -> Path:
    """The sweep's folder, or if it has no results, the one among the shipped results. Raises RequestError if there are
    results at other scales or with other settings alone."""
    folder = request.folder
    if (folder / "sweep.json").exists():
        return folder
    elsewhere = request.elsewhere
    lacking = f"{folder}: holds no results{elsewhere}"
    published = here_or_shipped(PUBLISHED) / request.scale_name / request.variant
    if (published / "sweep.json").exists():
        print(f"{lacking}; showing {published} instead", file=sys.stderr)
        return published
    if elsewhere:
        raise RequestError(lacking)
    return folder


def folder_with_results(request: Request) -> Path:
    """As `folder_shown`. Raises RequestError without results, too."""
    folder = folder_shown(request)
    if not (folder / "sweep.json").exists():
        manifest = request.manifest
        asked = () if manifest.confirms else request.seeds  # a confirmation's are not its search's
        command = request.command(*at_seeds(seeds_of(folder, manifest) or asked))
        remedy = f"run the sweep first: {command}"
        searched = folder.with_name(manifest.variant_of(manifest.confirms or manifest.sweep.name))
        if (page := searched / "search.md").exists():  # to run a finished search again changes nothing
            remedy = f"{page} says why; if it is not finished, go on with {command}"
        raise RequestError(f"{folder}: holds no results; {remedy}")
    return folder


def as_run(request: Request, folder: Path, seeds: str | None = None) -> Request:
    """The request at the `seeds` that it was asked at, by default those of the results in `folder`; of a search, with
    the arms that it made by these, of a law with the sizes that it was run with."""
    from mm1_lab.orchestrate.lr_search import with_sizes
    from mm1_lab.orchestrate.recipe_search import rounds_of

    if (folder / "sweep.json").exists() and (sizes := read_manifest(folder).sizes):
        request = with_sizes(request, sizes)
    return rounds_of(request.at_seeds_of(folder) if seeds is None else request)[0]


def confirming(options: argparse.Namespace, name: str) -> Request | None:
    """The request for a search's confirmation under its name, which no file has, with trials of the search. None for
    other sweeps. Raises RequestError if there is no such search."""
    ending = CONFIRMATION.search(name)
    if not ending:
        return None
    with suppress(RequestError):
        find_sweep(str(expanded(name)))
        return None
    searched = name.removesuffix(ending[0])
    request = request_of(options, searched, ())
    if not isinstance(request.sweep.search, Search):
        raise RequestError(f"there is no sweep {name!r}, and {searched} is no search that it would confirm")
    sweep = request.sweep.model_copy(update={"name": f"{request.sweep.name}{ending[0]}", "search": None})
    return replace(request, sweep=sweep)


def confirmation_of(options: argparse.Namespace) -> Request | None:
    """As `confirming`, with the confirmation's trials that have results, or those of `--only` and `--seeds`. Raises
    RequestError if it has no results, too."""
    from mm1_lab.orchestrate.planning.loading import arms_named

    request = confirming(options, options.sweep)
    if not request:
        return None
    folder = folder_with_results(request)
    sweep, given = read_manifest(folder).sweep, vars(options)
    only = arms_named(given.get("only", ()), sweep, folder)
    confirmed = dict.fromkeys(row.seed for row in read_trials(folder))
    seeds = confirmed if given.get("seeds") is None else dict.fromkeys(request.seeds)
    for seed in seeds:
        if seed not in confirmed:
            there = ", ".join(map(str, confirmed))
            raise RequestError(f"--seeds {given['seeds']}: {folder} has no seed {seed}; it has {there}")
    return request.with_arms({arm: sweep.arms[arm] for arm in only or sweep.arms}, seeds)


def known_arms(request: Request, found: Iterable[str]) -> list[str]:
    """The arms of a sweep, with those `found` in its results. A search for learning rates that was run has these alone,
    as it runs each arm of its file at several rates."""
    arms = dict.fromkeys(found)
    if arms and isinstance(request.sweep.search, RateSearch):
        return [*arms]
    return [*dict.fromkeys([*request.sweep.arms, *arms])]


def has_changed(request: Request, folder: Path, arm: str) -> bool:
    """Whether an arm of the sweep is another now than in its results."""
    before = {row.seed: row.fingerprint for row in read_trials(folder) if row.arm == arm}
    now = {trial.seed: trial.fingerprint for trial in request.at_seeds(before).trials if trial.arm == arm}
    return any(fingerprint != before.get(seed, fingerprint) for seed, fingerprint in now.items())


def request_about(options: argparse.Namespace, arms: Sequence[str]) -> Request:
    """The request for those of `arms` that the sweep has, or if it has none of them, for all of its arms; or for a
    search's confirmation under its name.

    So an arm that the data do not allow is refused only if it is asked about.
    """
    if confirmation := confirmation_of(options):
        return confirmation
    of_recipe, _ = split_settings(options.set)
    sweep = load_sweep(find_sweep(options.sweep), *SWEEPS, settings=of_recipe)
    asked = () if sweep.search else [arm for arm in arms if arm in sweep.arms]  # a search is of all of its arms
    return request_of(options, options.sweep, asked)
