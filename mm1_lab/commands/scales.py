"""Commands about a scale: check-scale, and fit-lr-law for its learning rates."""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mm1_lab.commands import common as opt
from mm1_lab.commands.common import DONE, FAILED, command, executor_of, option, repeated, request_of, switch
from mm1_lab.config import GATES, Check, RequestError, nearest, parse_count, scale_of
from mm1_lab.files import PUBLISHED, PUBLISHED_CONTROLS, expanded, here_or_shipped
from mm1_lab.results import Ledger

if TYPE_CHECKING:
    from analysis.study import Study
    from mm1_lab.orchestrate.planning.request import Request


@command(
    "mini --only probe",
    option("scale", "smoke, mini, …", "SCALE"),
    repeated("--only", "reader, words, probe, leaks, prompts or validity; may be repeated", "GATE"),
    option("--samples", "training samples to search for leaks; default: %(default)s", type=int, default=1_000_000),
    option("--seeds", "how many or which, as for run; default: 1, and for validity all that have results"),
    opt.SET,
    opt.IN_RESULTS,
    opt.STORE,
    opt.INLINE,
)
def check_scale(options: argparse.Namespace) -> int:
    """Check whether results at a scale can be trusted."""
    if options.samples < 1:
        raise RequestError("--samples must be at least 1")
    request = request_of(options, "validity", only=("base",))
    from analysis.judging.validity import order_checks, validity_checks
    from analysis.pages.checks import gates_table, write_gates
    from analysis.table import to_plain
    from mm1_lab.orchestrate.check_scale import measure_gates
    from mm1_lab.orchestrate.execution.executor import make_executor

    known = (*GATES, "validity")
    only = [gate.strip() for text in options.only for gate in text.split(",")]
    for gate in only:
        if gate not in known:
            raise RequestError(f"--only: there is no gate {gate!r}{nearest(gate, known)}")
    gates = [gate for gate in known if gate in (only or known)]
    verdicts: list[str] = []
    if measured := [gate for gate in gates if gate != "validity"]:
        request.ledger.check_writable()
        write = partial(write_gates, request.scale_name, request.seeds)
        executor = make_executor(request, options.inline)
        rows = measure_gates(request, measured, options.samples, executor, write)
        print(f"\n{to_plain(gates_table(request.scale_name, request.seeds, rows))}")
        verdicts += [row.verdict for row in rows]
    if "validity" in gates:
        seeds = None if options.seeds is None else request.seeds
        # both may have the base and the blind control
        rules = _judge(request, ("validity", "data_mix"), PUBLISHED, seeds, validity_checks)
        verdicts += [rule.verdict for rule in rules]
        order = _judge(request, ("controls",), PUBLISHED_CONTROLS, seeds, order_checks)
        if rules:  # without them nothing says that the base can be trusted
            verdicts += [rule.verdict for rule in order]
        else:
            command = request.command("--only", "base,blind", "--seeds", options.seeds or "5")
            print(f"\nNo seed has finished trials of both base and blind; run: {command}")
    return FAILED if "fail" in verdicts or not verdicts else DONE


def _judge(
    request: Request,
    sweeps: Sequence[str],
    published: Path,
    seeds: Sequence[int] | None,
    checks_of: Callable[[Study], list[Check]],
) -> list[Check]:
    """Prints and returns the checks of the first of the sweeps that has any, of one's own results or else of the
    published ones."""
    from analysis.pages.checks import validity_table
    from analysis.study import read_study
    from analysis.table import to_plain

    own = request.folder.parent.resolve()
    for parent in (own, here_or_shipped(published).resolve() / request.scale_name):
        for sweep in sweeps:
            folder = parent / request.manifest.variant_of(sweep)
            if not (folder / "sweep.json").exists():
                continue
            study = read_study(folder, seeds)
            if checks := checks_of(study):
                if parent != own:
                    print(f"{own}: has nothing to judge; judging {folder} instead", file=sys.stderr)
                print(f"\n{to_plain(validity_table(study, checks))}")
                return checks
    return []


@command(
    "--sizes 9M,85M,302M,1.2B --scale smoke",
    opt.SIZES,
    option("--predict", "sizes to predict (30B,7B); default: the scale's larger sizes; with --from, 30B", "LIST"),
    option(
        "--from", "fit a table instead: columns params, learning_rate, score[, seed]", "CSV", dest="file", type=expanded
    ),
    option("--score", "with --from: the column of scores; default: score", "COLUMN"),
    switch("--lower-is-better", "with --from: the score is a loss"),
    *opt.REQUEST,
    *opt.EXECUTOR,
)
def fit_lr_law(options: argparse.Namespace) -> int:
    """Search each size's best learning rate and fit its law."""
    started = time.monotonic()
    if options.file:
        return _fit_file(options)
    from analysis import draw_sweep
    from mm1_lab.orchestrate.execution.executor import Leaving
    from mm1_lab.orchestrate.lr_search import decoder_sizes, of_sizes, run_search

    for given, flag in ((options.lower_is_better, "--lower-is-better"), (options.score, "--score")):
        if given:
            raise RequestError(f"{flag} needs --from, as it applies to measurements from a file")
    request, sizes = of_sizes(request_of(options, "lr_law"), options.sizes)
    scale = scale_of(request.sweep.base, request.scale)
    if options.predict is None:
        known = decoder_sizes("--predict", ",".join(scale.decoders), scale)
        predicted = {name: params for name, params in known.items() if params > max(sizes.values())}
    else:
        predicted = decoder_sizes("--predict", options.predict, scale)
    executor = executor_of(options, request, started, rounds=True)
    request.ledger.check_writable()

    with executor:
        try:
            return run_search(request, executor, partial(draw_sweep, predicted=predicted))
        except Leaving as leaving:
            print(leaving)
            return FAILED if leaving.failed else DONE


def _fit_file(options: argparse.Namespace) -> int:
    if not options.file.is_file():
        raise RequestError(f"--from {options.file}: there is no such file")
    for unused in ("sizes", "data", "set", "seeds", "inline", "address", "share", "minutes", "scale", "store"):
        # `make lr-law` names the usual seeds and scale
        if getattr(options, unused) not in (None, [], False, "1", opt.DEFAULT_SCALE, opt.DEFAULT_STORE):
            raise RequestError(f"--{unused} is for a search; with --from a table is fitted, and nothing is trained")
    from analysis.law.fit import fit_objective, fit_runs, is_vague
    from analysis.law.report import write_fits
    from analysis.law.runs import read_runs
    from analysis.output import Output

    targets = {}
    for part in ("30B" if options.predict is None else options.predict).split(","):
        try:
            targets[part.strip()] = parse_count(part)
        except ValueError as error:
            raise RequestError(f"--predict: {error}") from None
    runs = read_runs(options.file, options.lower_is_better, options.score or "score")
    Ledger(options.results, options.store).check_writable()
    # the hash keeps files of the same name from different folders apart
    digest = hashlib.sha256(str(options.file.resolve()).encode()).hexdigest()[:6]
    folder = options.results / "lr_law" / f"{options.file.stem}-{digest}"
    fits = fit_runs(runs)
    (objective,) = runs.objectives
    turned = fit_objective(runs.points, replace(objective, lower_is_better=not options.lower_is_better)).law
    # of scores that are all alike, both directions bracket some sizes, and either's law predicts nothing
    none_bracketed = all(optimum.needs for optimum in fits[0].optima)
    if not fits[0].law and turned and (none_bracketed or not is_vague(turned.predict(max(targets.values())))):
        given = "leave out --lower-is-better" if options.lower_is_better else "add --lower-is-better"
        best = "highest" if options.lower_is_better else "lowest, as of a loss"
        raise RequestError(f"--from {options.file}: there is a law only if the best score is the {best}; {given}")
    output = Output(folder)
    write_fits(output, runs, fits, targets)
    print(output.files[-1].read_text(encoding="utf-8"))
    for path in output.files:
        print(path)
    return DONE
