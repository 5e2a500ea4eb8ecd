"""Commands that plan and run sweeps: plan, run."""

from __future__ import annotations

import argparse
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from shlex import quote
from typing import TYPE_CHECKING

from mm1_lab.commands import common as opt
from mm1_lab.commands.common import (
    DONE,
    FAILED,
    command,
    confirming,
    executor_of,
    option,
    parse_looks,
    print_json,
    repeated,
    request_of,
    switch,
)
from mm1_lab.commands.varying import varied_sweep
from mm1_lab.config import RequestError
from mm1_lab.config.base import parse_yaml
from mm1_lab.files import PUBLISHED, here_or_shipped, write_text
from mm1_lab.formatting import at_seeds
from mm1_lab.results.manifest import seeds_of

if TYPE_CHECKING:
    from mm1_lab.orchestrate.planning.request import Request


@command(
    "data_mix encoder connector --seeds 3",
    option("sweeps", "YAML files, or names of files in sweeps/; shared stages are counted once", "SWEEP", nargs="+"),
    opt.ONLY,
    *opt.REQUEST,
    *opt.VARY,
    opt.SIZES,
    opt.JSON,
)
def plan(options: argparse.Namespace) -> int:
    """Show what would run and what it would cost."""
    from mm1_lab.orchestrate.lr_search import of_sizes
    from mm1_lab.orchestrate.planning.plan_text import name_arms, plan_text, plan_values
    from mm1_lab.orchestrate.recipe_search import rounds_of

    if options.vary and len(options.sweeps) > 1:
        raise RequestError("--vary changes one recipe; give one")
    requests = []
    for sweep in options.sweeps:
        with _asked(options, sweep, keep=False) as request:
            if options.sizes is not None:
                if request.sweep.name != "lr_law":
                    raise RequestError(f"--sizes is for lr_law alone; {request.asked} names its own decoders")
                request, _ = of_sizes(request, options.sizes)
            requests += rounds_of(request, to_the_end=True)
    values = plan_values(requests)
    if options.json:
        name_arms(values["stages"], requests)
        print_json(values)
        return DONE
    print(plan_text(requests, values))
    if values["seconds"]:
        for text in dict.fromkeys(map(_what_deciding_takes, requests)):
            if text:
                print(textwrap.fill(text, 110))
    return DONE


@command(
    "data_mix --set train.steps=200",
    *opt.ARMS,
    *opt.EXECUTOR,
    switch(
        "--until-decided",
        "add seeds, at most --seeds, until the sweep's lessons are decided (if it has none, the claims of its file, "
        "uncorrected): judge them at interim looks, then run only the arms that undecided ones need",
    ),
    option(
        "--looks", "with --until-decided: after how many seeds to judge; default: 4, 6, … up to --seeds", "4,6,8,10"
    ),
    *opt.VARY,
    switch("--anew", "train and evaluate these trials again: after a change of code, gc, or if they diverged"),
    repeated("--tracker", "log finished trials to wandb, trackio or a module like them, too; may be repeated", "NAME"),
)
def run(options: argparse.Namespace) -> int:
    """Run the trials of a sweep that are missing."""
    started = time.monotonic()
    from analysis import draw_sweep, sweep_in_short
    from mm1_lab.orchestrate.execution.executor import Leaving
    from mm1_lab.orchestrate.planning.doubts import doubts
    from mm1_lab.orchestrate.planning.plan import make_plan
    from mm1_lab.orchestrate.recipe_search import rounds_of, run_request
    from mm1_lab.orchestrate.sweeping import check_plan, check_study, forget_trials, run_until_decided
    from mm1_lab.orchestrate.tracking.trackers import import_tracker

    for name in options.tracker:
        import_tracker(name)
    with _asked(options, options.sweep, keep=True) as request:
        request = replace(request, trackers=tuple(options.tracker), looks=_looks(options, request))
        if options.share and options.anew:
            raise RequestError("--anew deletes what other processes with --share have done; leave one of them out")
        executor = executor_of(options, request, started, rounds=bool(request.looks or request.sweep.search))
        ledger = request.ledger
        if options.vary or not (ledger.results.exists() and ledger.store.exists()):
            # what is refused leaves no file or folder; if none is new, the run checks its plan, which takes a while for
            # many trials, once, before it writes
            for part in rounds_of(request):
                check_plan(make_plan(part.trials, ledger), part, executor)
    request.ledger.check_writable()
    for doubt in doubts(request):
        print(doubt)
    with executor:
        try:
            if options.anew:
                check_study(request)
                trials = [trial for part in rounds_of(request) for trial in part.trials]
                forget_trials(trials, request, executor)
            if request.looks:
                from analysis.judging.looks import open_arms

                return run_until_decided(request, executor, draw_sweep, open_arms, sweep_in_short)
            return run_request(request, executor, draw_sweep, sweep_in_short)
        except Leaving as leaving:
            print(leaving)
            return FAILED if leaving.failed else DONE


def _looks(options: argparse.Namespace, request: Request) -> tuple[int, ...]:
    """After how many seeds `--until-decided` judges; empty without it. Raises RequestError."""
    from mm1_lab.orchestrate.sweeping import looks_of

    if not options.until_decided:
        if options.looks is not None:
            raise RequestError("--looks needs --until-decided")
        return ()
    if request.sweep.search:
        raise RequestError(f"--until-decided: {request.sweep.name} is a search, and its number of seeds is fixed")
    return looks_of(parse_looks(options.looks), len(request.seeds))


@contextmanager
def _asked(options: argparse.Namespace, name: str, keep: bool) -> Iterator[Request]:
    """Yields the request for a sweep, which `--vary` makes; its file is written after the block if it is to `keep`."""
    if not options.vary:
        if options.grid:
            raise RequestError("--grid needs --vary")
        if confirmation := confirming(options, name):
            seeds = seeds_of(confirmation.folder, confirmation.manifest) or confirmation.seeds
            command = confirmation.command(*at_seeds(seeds))
            raise RequestError(f"{name} confirms the winner of a search, which runs it, too: {command}")
        yield request_of(options, name)
        return
    path, text = varied_sweep(name, options.vary, options.grid, options.set)
    is_new = not path.exists()
    request = request_of(options, str(path), text=text if is_new else "")
    lost = [arm for arm in parse_yaml(text, str(path)).get("arms", {}) if arm not in request.sweep.arms]
    if lost:
        raise RequestError(
            f"{path}: has no arm {lost[0]!r}, so the file, or {name}, was changed since it was written; "
            "run it by its name, or delete it"
        )
    yield request
    if keep:
        if is_new:
            write_text(path, text)
        settings = "".join(f" --set {quote(setting)}" for setting in options.set)
        print(f"{path}: this sweep, to keep, to change and to run again by its name{settings and f' with{settings}'}")
    elif is_new and not options.json:
        print(f"{path}: `run` with these options writes this sweep")


def _what_deciding_takes(request: Request) -> str:
    """Core-minutes until 3 points are decided by the measures that a sweep claims, by its results here or published."""
    published = here_or_shipped(PUBLISHED) / request.scale_name / request.variant
    folders = [folder for folder in (request.folder, published) if (folder / "measures.csv").exists()]
    if not folders:
        return ""  # without importing pandas
    from analysis.measures import measures_text

    claimed = [contrast.measure for contrast in request.sweep.contrasts]
    return next(filter(None, (measures_text(folder, claimed) for folder in folders)), "")
