"""Commands that plan and run sweeps: plan, run, ship-parts."""

from __future__ import annotations

import argparse
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mm1_lab.commands import options as opt
from mm1_lab.commands.common import DONE, FAILED, parse_looks, print_json, request_of
from mm1_lab.commands.options import command, option, switch
from mm1_lab.config import RequestError, Search, Stage
from mm1_lab.files import PARTS, STUDY, folder_size, here_or_shipped
from mm1_lab.results.parts import Parts

if TYPE_CHECKING:
    from mm1_lab.orchestrate.planning.request import Request


@command(
    "data_mix encoder connector --seeds 3",
    option("sweeps", "YAML files, or names of files in sweeps/; shared stages are counted once", "SWEEP", nargs="+"),
    opt.ONLY,
    *opt.REQUEST,
    *opt.UNTIL_DECIDED,
    *opt.VARY,
    opt.JSON,
)
def plan(options: argparse.Namespace) -> int:
    """Show what would run and what it would cost."""
    from mm1_lab.orchestrate.planning.plan_text import plan_text, plan_values
    from mm1_lab.orchestrate.recipe_search import whole

    if options.vary and len(options.sweeps) > 1:
        raise RequestError("--vary changes one recipe; give one")
    requests = [part for sweep in options.sweeps for part in whole(_request(options, sweep))]
    looks = [_looks(options, request) for request in requests]
    values = plan_values(requests)
    if options.json:
        print_json(values)
        return DONE
    print(plan_text(requests, values))
    if values["seconds"]:
        for text in dict.fromkeys(map(_what_deciding_takes, requests)):
            if text:
                print(textwrap.fill(text, 110))
    if looks[0]:
        from analysis.judging.looks import looks_text

        print(looks_text(looks[0]))
    return DONE


@command(
    "sweeps/data_mix.yaml --set train.steps=200",
    *opt.ARMS,
    *opt.EXECUTOR,
    *opt.SHARE,
    *opt.UNTIL_DECIDED,
    *opt.VARY,
    switch("--anew", "train and evaluate these trials again: after a change of code, gc, or if they diverged"),
    opt.TRACKER,
)
def run(options: argparse.Namespace) -> int:
    """Run the trials of a sweep that are missing."""
    from analysis import draw_sweep, sweep_in_short
    from mm1_lab.orchestrate.execution.executor import Leaving, make_executor
    from mm1_lab.orchestrate.growing import run_until_decided
    from mm1_lab.orchestrate.recipe_search import run_request, so_far
    from mm1_lab.orchestrate.sweeping import forget_trials
    from mm1_lab.orchestrate.tracking.trackers import import_tracker

    for name in options.tracker:
        import_tracker(name)
    request = replace(_request(options, options.sweep), trackers=tuple(options.tracker))
    if request.scale_name == "paper" and not request.data_path:
        raise RequestError(
            f"--scale paper is for planning: mm1-lab plan {options.sweep} --scale paper; to train at these sizes, give "
            "your own --data"
        )
    looks = _looks(options, request)
    if options.share and options.anew:
        raise RequestError("--anew deletes what other processes with --share have done; leave one of them out")
    rounds = bool(looks or request.sweep.search)
    executor = make_executor(options.inline, options.address, options.share, options.minutes, rounds)
    request.ledger.check_writable()
    if options.anew:
        forget_trials(so_far(request).trials, request.ledger)
    with executor:
        try:
            if looks:
                from analysis.judging.looks import open_arms

                request = replace(request, looks=looks)
                return run_until_decided(request, executor, draw_sweep, open_arms, sweep_in_short)
            return run_request(request, executor, draw_sweep, sweep_in_short)
        except Leaving as leaving:
            print(leaving)
            return FAILED if leaving.failed else DONE


@command("data_mix --only base --seeds 5", *opt.ARMS)
def ship_parts(options: argparse.Namespace) -> int:
    """Copy the encoders and decoders of a sweep from the store to results/parts."""
    request, parts = request_of(options, options.sweep), Parts(PARTS)
    ledger, stages = request.ledger, dict[str, Stage]()
    for trial in request.trials:
        for stage in trial.evaluation.model.inputs.values():
            stages[stage.fingerprint] = stage
    for fingerprint, stage in stages.items():
        if not ledger.is_shipped(fingerprint):
            parts.ship(fingerprint, ledger.weights(fingerprint))
        print(f"{stage.KIND} / seed {stage.seed}: {PARTS / fingerprint}")
    print(f"{PARTS}: {folder_size(PARTS) / 1e6:.1f} MB in all")
    return DONE


def _request(options: argparse.Namespace, name: str) -> Request:
    """The request for a sweep, which `--vary` writes; a file that cannot be read is not left behind."""
    if not options.vary:
        if options.grid:
            raise RequestError("--grid needs --vary")
        request = request_of(options, name)
        if options.only and isinstance(request.sweep.search, Search):
            raise RequestError(f"--only: {name} is a search, which makes its arms; name one in a sweep of its own")
        return request
    from mm1_lab.commands.varying import write_varied

    before = set(Path("sweeps").glob("*.yaml"))
    path = write_varied(name, options.vary, options.grid)
    try:
        request = request_of(options, str(path))
    except RequestError:
        if path not in before:
            path.unlink()
        raise
    if not vars(options).get("json"):
        print(f"{path}: this sweep, to keep, to change and to run again by its name")
    return request


def _what_deciding_takes(request: Request) -> str:
    """Core-minutes until 3 points are decided by the measures that a sweep claims, by its results here or published."""
    from analysis.measures import measures_text

    claimed = [contrast.measure for contrast in request.sweep.contrasts]
    published = here_or_shipped(STUDY) / request.scale_name / request.variant
    return measures_text(request.folder, claimed) or measures_text(published, claimed)


def _looks(options: argparse.Namespace, request: Request) -> tuple[int, ...]:
    """The numbers of seeds at which an `--until-decided` study is judged; empty without that option."""
    from mm1_lab.orchestrate.growing import looks_of

    if not options.until_decided:
        if options.looks is not None:
            raise RequestError("--looks needs --until-decided")
        return ()
    if request.sweep.search:
        raise RequestError(f"--until-decided: {request.sweep.name} is a search, and its number of seeds is fixed")
    return looks_of(parse_looks(options.looks), len({trial.seed for trial in request.trials}))
