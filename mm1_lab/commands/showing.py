"""Commands that show results: status, show, compare, figures, report, dashboard, sync-mlflow, judge."""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mm1_lab.commands import common as opt
from mm1_lab.commands.common import (
    DONE,
    as_run,
    command,
    confirmation_of,
    folder_with_results,
    has_changed,
    known_arms,
    option,
    parse_looks,
    print_json,
    request_about,
    request_of,
    switch,
)
from mm1_lab.config import Measure, RequestError
from mm1_lab.files import NOT_OURS, PARTS, PUBLISHED, RESULTS, expanded, here_or_shipped
from mm1_lab.formatting import counted
from mm1_lab.results import Ledger, Manifest, TrialRow
from mm1_lab.results.manifest import read_manifest, read_trials
from mm1_lab.results.reading import list_variants, read_variant

if TYPE_CHECKING:
    from mm1_lab.orchestrate.planning.request import Request


@command(
    "data_mix --scale smoke",
    option("sweep", "a sweep; default: all sweeps with results", "SWEEP", nargs="?"),
    opt.ONLY,
    option("--scale", "default: mini; without SWEEP, all scales with results"),
    *opt.STATE,
)
def status(options: argparse.Namespace) -> int:
    """Show which trials are done, running, missing, or failed and why."""
    from mm1_lab.orchestrate.status import status_text, status_values, unused_trials

    chains = None
    if options.sweep:
        request = _request_told_of(options)
        sweeps = [(request.manifest, request.rows)]
        chains = {trial.fingerprint: list(trial.evaluation.chain()) for trial in request.trials}
    else:
        sweeps = _sweeps_with_results(options)
    told = status_values(sweeps, Ledger(options.results, options.store), chains)
    if not options.sweep and not options.scale:
        told["unused"] = unused_trials(sweeps, options.results)
    if options.json:
        print_json(told)
    else:
        print(status_text(told))
    return DONE


def _request_told_of(options: argparse.Namespace) -> Request:
    """The request for the one sweep whose status is asked for, as it was run."""
    options.scale = options.scale or opt.DEFAULT_SCALE
    request = confirmation_of(options) or request_of(options, options.sweep)
    if options.results != RESULTS and not options.results.is_dir():  # misspelt, or a run has only begun
        print(f"{options.results}: there is no such folder yet", file=sys.stderr)
    return as_run(request, request.folder, options.seeds)


def _sweeps_with_results(options: argparse.Namespace) -> list[tuple[Manifest, list[TrialRow]]]:
    """All sweeps of the results folder, at the scale or at all. Raises RequestError if there are none."""
    if options.only or options.data or options.set or options.seeds:
        raise RequestError("status: --only, --data, --set and --seeds are of one sweep; give its name")
    opt.check_there(options.results, RESULTS)
    sweeps = []
    for folder in list_variants(options.results):
        manifest = read_manifest(folder)
        if options.scale in (None, manifest.scale):
            sweeps.append((manifest, read_trials(folder)))
    if not sweeps:
        raise RequestError(f"{options.results}: has no results at {options.scale}")
    return sweeps


@command(
    "data_mix base captions",
    opt.SWEEP,
    option("arms", "none, one or two arms", "ARM", nargs="*", default=[]),
    opt.SCALE,
    *opt.STATE,
)
def show(options: argparse.Namespace) -> int:
    """Show the arms of a sweep, one resolved arm, or the differences between two."""
    from mm1_lab.orchestrate.status import show_text, show_values

    if len(options.arms) > 2:
        raise RequestError(f"show: {len(options.arms)} arms were given; give one, or two to compare them")
    request = request_about(options, options.arms)
    are_in_file = options.arms and set(options.arms) <= set(request.sweep.arms)
    if not (are_in_file and request.sweep.search):  # which makes further ones, by its seeds
        request = as_run(request, request.folder, options.seeds)
    if options.json:
        print_json(show_values(request, options.arms))
    else:
        print(show_text(request, options.arms))
    return DONE


@command(
    "data_mix captions interleaved",
    opt.SWEEP,
    option("first", "the difference is this arm …", "ARM"),
    option("second", "… minus this one", "ARM"),
    option("--measure", "only this measure (vqa 4-shot, kind letter 0-shot); default: those in tables", "MEASURE"),
    opt.SCALE,
    opt.DATA,
    option("--seeds", "seeds to compare: how many or which, as for run; default: all that both arms have"),
    opt.SET,
    opt.OWN_RESULTS,
    opt.STORE,
    opt.JSON,
)
def compare(options: argparse.Namespace) -> int:
    """Compare two arms: scores, differences and their intervals."""
    from analysis.pages.compare import compare_arms, compare_table
    from analysis.study import read_study
    from analysis.table import to_plain
    from mm1_lab.orchestrate.planning.measurable import why_no_value

    try:
        measure = None if options.measure is None else Measure.parse(options.measure)
    except ValueError as error:
        raise RequestError(f"--measure {options.measure}: {error}") from None
    request = request_about(options, [options.first, options.second])
    folder = folder_with_results(request)
    only = () if options.seeds is None else request.seeds
    arms = (options.first, options.second)
    asked = [arm for arm in arms if arm in request.sweep.arms]
    if asked and read_variant(folder).done.empty:
        seeds = only or sorted({row.seed for row in read_trials(folder)})
        raise RequestError(f"{folder}: no trial is finished; {request.to_score(asked, *seeds)}")
    study = read_study(folder)
    known = known_arms(request, study.sweep.arms)
    lacking = [arm for arm in arms if arm in known and study.representative(arm) not in study.scored]
    if lacking:
        remedy = as_run(request, folder).to_score(lacking, *(only or study.seeds))
        raise RequestError(f"{folder}: no scores of {' and '.join(lacking)}; {remedy}{request.elsewhere}")
    remarks = []
    for arm in arms:
        if has_changed(request, folder, arm):
            changed = "the sweep, its data, settings or the version are others now"
            remarks.append(f"{folder}: {arm} is as it was run; {changed}; run it to compare that")
    if measure and study.all_values(measure).reindex([options.first, options.second]).isna().all(axis=None):
        reason = why_no_value(request, measure) or f"{str(measure)!r}: neither arm has such scores"
        raise RequestError(f"--measure {reason}")
    if options.json:
        print_json(vars(compare_arms(study, options.first, options.second, only, measure)))
    else:
        print(to_plain(compare_table(study, options.first, options.second, only, measure)))
    for remark in remarks:
        print(remark, file=sys.stderr)
    return DONE


INTO = option("--into", "write to this folder instead of the results", "DIR", type=expanded)


@command(
    "--results results/study",
    opt.DRAWN_RESULTS,
    INTO,
    switch("--latex", "also write tables as LaTeX and figures as PDF"),
)
def figures(options: argparse.Namespace) -> int:
    """Write tables and figures of all results."""
    paths = _draw(options, latex=options.latex)
    for folder, count in Counter(path.parent for path in paths).items():
        print(f"{folder}: {counted(count, 'file')}")
    print(f"Overview: {paths[-1]}")
    return DONE


@command("--results results/study", opt.DRAWN_RESULTS, INTO)
def report(options: argparse.Namespace) -> int:
    """Redraw everything and write a report as one HTML file."""
    print(_draw(options, report=True)[-1])
    return DONE


def _draw(options: argparse.Namespace, **kinds: bool) -> list[Path]:
    """Draws results, with `latex` or a `report`, into `--into`; without it shipped ones, unless `--results` names them,
    among the local ones."""
    results = _results(options)
    from analysis.redraw import draw

    usual = results if options.results or results == RESULTS else RESULTS / PUBLISHED.name
    try:
        return draw(results, options.into or usual, **kinds)
    except OSError as error:
        if options.into or error.errno not in NOT_OURS:
            raise
        raise RequestError(f"{error.filename}: {error.strerror}; draw into a folder of your own: --into DIR") from None


def _results(options: argparse.Namespace) -> Path:
    """The folder of `--results`; by default the local one, or if it has no results, the shipped one.

    Raises RequestError if there are no results, before the drawing libraries are imported.
    """
    folder = options.results or RESULTS
    published = here_or_shipped(PUBLISHED)
    if not options.results and published.exists() and not any(RESULTS.glob("*/*/sweep.json")):
        if any(RESULTS.glob("trials/*/DONE")):
            raise RequestError(
                f"{RESULTS}: has finished trials, but no sweep.json; run their sweeps again to find them"
            )
        print(f"{RESULTS}: no results here; showing the shipped results", flush=True)
        folder = published
    list_variants(folder)
    return folder


@command("--port 5001", option("--port", "default: %(default)s", type=int, default=5000), opt.ALL_RESULTS, opt.STORE)
def dashboard(options: argparse.Namespace) -> int:
    """Browse all trials in MLflow on 127.0.0.1."""
    from mm1_lab.orchestrate.tracking.dashboard import show_dashboard

    show_dashboard(options.port, _log_missing(options))
    return DONE


@command("", opt.ALL_RESULTS, opt.STORE)
def sync_mlflow(options: argparse.Namespace) -> int:
    """Log to MLflow the results that it lacks."""
    for line in _log_missing(options):
        print(line)
    return DONE


def _log_missing(options: argparse.Namespace) -> Iterator[str]:
    """Logs sweep after sweep, and says what has been done; raises RequestError at once if there are no results."""
    folder = _results(options)
    from mm1_lab.orchestrate.tracking.mlflow_logger import sync_all

    return sync_all(list_variants(folder), Ledger(folder, options.store, here_or_shipped(PARTS)))


OPEN = 3
"""Exit code: a claim is not decided."""


@command(
    "results.tsv --columns arm=commit,score=val_bpb --lower-is-better",
    option(
        "scores",
        "a table (.csv, .tsv, .json, .jsonl, .parquet) or a folder of evaluation logs",
        "SCORES",
        type=expanded,
    ),
    option("claims", "YAML with contrasts; default: every arm beats the first one", "CLAIMS", type=expanded, nargs="?"),
    option(
        "--columns",
        "the table's names for arm, seed, score, benchmark, shots, question, status; repeat score for a column per "
        "benchmark",
        "NAME=COLUMN,…",
    ),
    switch("--lower-is-better", "without CLAIMS, a better arm has a lower score"),
    option(
        "--looks", "to add runs until claims are decided: judge at these numbers of seeds, named beforehand", "4,6,8"
    ),
    option("--figure", "also draw the differences with their intervals", "FILE", type=expanded),
    opt.JSON,
)
def judge(options: argparse.Namespace) -> int:
    """Judge claims about any table of scores: exit code 0 if all are decided, 3 if not."""
    from analysis.external.judge import judge as judge_scores
    from analysis.external.shown import draw_judgement, judgement_text

    columns = _columns(options.columns) if options.columns is not None else None
    looks = parse_looks(options.looks)
    if options.figure and options.figure.suffix.lower() != ".png":
        raise RequestError(f"--figure {options.figure}: give a name that ends with .png")
    judgement = judge_scores(options.scores, options.claims, columns, options.lower_is_better, looks)
    if options.json:
        print_json(judgement.to_dict())
    else:
        print(judgement_text(judgement), flush=True)
    if options.figure:
        draw_judgement(judgement, options.figure)
    return DONE if judgement.decided else OPEN


def _columns(text: str) -> dict[str, str | list[str]]:
    columns: dict[str, str | list[str]] = {}
    scores = []
    for pair in re.split(r",(?=\s*[a-z]+\s*=)", text):  # the names of columns may have commas
        name, _, column = map(str.strip, pair.partition("="))
        if not name or not column:
            raise RequestError(f"--columns {text}: {pair!r} is not NAME=COLUMN, such as arm=commit")
        if name in columns and name != "score":
            raise RequestError(f"--columns: {name!r} is named twice")
        columns[name] = column
        if name == "score":
            scores.append(column)
    if len(scores) > 1:
        columns["score"] = scores
    return columns
