"""The command `mm1-lab`. The only module that knows every other one; whatever is heavy is imported by the command
that needs it."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mm1_lab.config import RequestError

if TYPE_CHECKING:
    from mm1_lab.orchestrate.request import Request

DONE, FAILED, WRONG, INTERRUPTED = 0, 1, 2, 130
"""Exit codes: all done; a trial failed; the request was wrong; stopped by Ctrl-C."""

RESULTS = Path("results/local")
STUDY = Path("results/study")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except RequestError as error:
        if options.debug:
            raise
        print(f"mm1-lab: {error}", file=sys.stderr)
        return WRONG
    except KeyboardInterrupt:
        if options.debug:
            raise
        print("\nmm1-lab: stopped; the same command goes on from here", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mm1-lab",
        description="Ablations of multimodal language models, one YAML file a question.",
        epilog="example: mm1-lab run sweeps/data_mix.yaml --scale smoke",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(
        name: str, command: Callable[[argparse.Namespace], int], text: str, example: str
    ) -> argparse.ArgumentParser:
        added = commands.add_parser(
            name, help=text, description=text[0].upper() + text[1:] + ".", epilog=f"example: {example}"
        )
        added.add_argument("--debug", action="store_true", help="show the traceback of an error")
        added.set_defaults(command=command)
        return added

    plan = add(
        "plan", plan_command, "what would run, and what it costs", "mm1-lab plan data_mix --scale mini --seeds 3"
    )
    run = add(
        "run", run_command, "run what is missing of a sweep", "mm1-lab run sweeps/data_mix.yaml --set train.steps=200"
    )
    for sweeping in (plan, run):
        sweeping.add_argument("sweep", metavar="SWEEP", help="a YAML file, or the name of one in sweeps/")
        sweeping.add_argument(
            "--only", metavar="ARM", action="append", default=[], help="this arm alone; may be repeated"
        )
        _add_sweep_options(sweeping)
    run.add_argument("--address", metavar="ADDRESS", help="a running Ray cluster (auto: the one on this machine)")
    status = add(
        "status", status_command, "what is done, missing, or failed and why", "mm1-lab status data_mix --scale smoke"
    )
    status.add_argument("sweep", metavar="SWEEP", nargs="?", help="a sweep; without it, all that were run")
    _add_sweep_options(status)
    figures = add(
        "figures", figures_command, "draw tables and figures of all results", "mm1-lab figures --results results/study"
    )
    report = add(
        "report", report_command, "redraw, and write one HTML file of it all", "mm1-lab report --results results/study"
    )
    dashboard = add(
        "dashboard", dashboard_command, "browse the runs in MLflow on 127.0.0.1", "mm1-lab dashboard --port 5001"
    )
    dashboard.add_argument("--port", type=int, default=5000)
    show = add("show-data", show_data_command, "a contact sheet of the miniature world", "mm1-lab show-data")
    show.add_argument(
        "--out", metavar="PNG", type=Path, default=RESULTS / "world.png", help="where to; default: %(default)s"
    )
    sync = add("sync-mlflow", sync_command, "enter into MLflow what it lacks of the results", "mm1-lab sync-mlflow")
    for reading in (figures, report, dashboard, sync):
        reading.add_argument(
            "--results", metavar="DIR", type=Path, help=f"default: {RESULTS} and {STUDY}, those that hold any"
        )
    for browsing in (dashboard, sync):
        _add_store(browsing)
    return parser


def _add_sweep_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--scale", default="mini", help="smoke, mini, … (default: mini)")
    parser.add_argument("--seeds", default="1", help="a count (3: seeds 0, 1, 2) or a list (5,6,7); default: 1")
    parser.add_argument(
        "--set", metavar="PATH=VALUE", action="append", default=[], help="a setting of the scale, e.g. train.steps=200"
    )
    parser.add_argument("--data", metavar="YAML", type=Path, help="your own data instead of the miniature world")
    parser.add_argument("--results", metavar="DIR", type=Path, default=RESULTS, help=f"default: {RESULTS}")
    _add_store(parser)


def _add_store(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--store", metavar="DIR", type=Path, default=RESULTS / "store", help="where weights are kept")


def plan_command(options: argparse.Namespace) -> int:
    from mm1_lab.data import open_data
    from mm1_lab.orchestrate.plan import make_plan
    from mm1_lab.orchestrate.report import plan_text
    from mm1_lab.orchestrate.request import data_cache, machine_slots

    request = _request(options)
    plan = make_plan(request.trials, request.ledger)
    tokenizer = open_data(options.data, data_cache(request.ledger), request.scale).tokenizer if plan.units else None
    print(plan_text(plan, request, tokenizer, machine_slots(request.scale)))
    return DONE


def run_command(options: argparse.Namespace) -> int:
    from mm1_lab.orchestrate.sweeping import run_sweep

    request = _request(options)
    request.ledger.check_writable()
    return run_sweep(request, options.address, _draw_sweep)


def status_command(options: argparse.Namespace) -> int:
    from mm1_lab.orchestrate.report import status_text, upstream_failures
    from mm1_lab.results import Ledger, TrialRow
    from mm1_lab.results.manifest import read_manifest, read_trials
    from mm1_lab.results.reading import list_variants

    ledger = Ledger(options.results, options.store)
    if options.sweep:
        request = _request(options)
        asked = [TrialRow(trial.arm, trial.seed, trial.fingerprint) for trial in request.trials]
        sweeps = [(f"{request.variant} at {request.scale_name}", asked)]
    else:
        manifests = [(read_manifest(folder), read_trials(folder)) for folder in list_variants(options.results)]
        sweeps = [(f"{manifest.variant} at {manifest.scale}", rows) for manifest, rows in manifests]
    print("\n\n".join(status_text(rows, title, ledger) for title, rows in sweeps))
    for text in upstream_failures(ledger, [row for _, rows in sweeps for row in rows]):
        print(text)
    return DONE


def figures_command(options: argparse.Namespace) -> int:
    from analysis import draw

    for folder in _results_folders(options):
        for path in draw(folder):
            print(path)
    return DONE


def report_command(options: argparse.Namespace) -> int:
    from analysis import draw_report

    for folder in _results_folders(options):
        print(draw_report(folder)[-1])
    return DONE


def _results_folders(options: argparse.Namespace) -> list[Path]:
    """The folder that is asked for; else this machine's and the study, those that hold a sweep."""
    if options.results:
        return [options.results]
    return [folder for folder in (RESULTS, STUDY) if any(folder.glob("*/*/sweep.json"))] or [RESULTS]


def sync_command(options: argparse.Namespace) -> int:
    from mm1_lab.orchestrate.mlflow_runs import tracking_uri
    from mm1_lab.orchestrate.recorder import sync
    from mm1_lab.results import Ledger
    from mm1_lab.results.files import Busy
    from mm1_lab.results.reading import list_variants

    for results in _results_folders(options):
        for folder in list_variants(results):
            try:
                manifest = sync(folder, Ledger(results, options.store))
            except Busy:
                print(f"{folder}: is running now, and is entered as it goes")
                continue
            except OSError as error:
                raise RequestError(f"MLflow at {tracking_uri()} cannot be written ({error})") from None
            print(f"{manifest.variant} at {manifest.scale}: entered into {tracking_uri()}")
    return DONE


def show_data_command(options: argparse.Namespace) -> int:
    from mm1_lab.evaluate.contact_sheet import draw_contact_sheet

    try:
        draw_contact_sheet(options.out)
    except (OSError, ValueError) as error:
        raise RequestError(f"--out {options.out}: cannot be written ({error})") from None
    print(options.out)
    return DONE


def dashboard_command(options: argparse.Namespace) -> int:
    from mm1_lab.orchestrate.mlflow_runs import pages, tracking_uri

    sync_command(options)
    uri = tracking_uri()
    remote = uri.startswith("http")
    address = uri if remote else f"http://127.0.0.1:{options.port}"
    print("\n".join(f"{sweep}: {address}{page}" for sweep, page in pages().items()))
    print(f"MLflow is at {address}" + ("" if remote else "; end it with Ctrl-C"), flush=True)
    if remote:
        return DONE
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri, "--host", "127.0.0.1"]
    command += ["--port", str(options.port), "--workers", "1", "--uvicorn-opts", "--log-level warning"]
    return subprocess.run(command, check=False).returncode


def _request(options: argparse.Namespace) -> Request:
    from mm1_lab.orchestrate.request import load_request

    only = tuple(getattr(options, "only", ()))
    request = load_request(
        options.sweep,
        options.scale,
        options.seeds,
        only,
        tuple(options.set),
        options.data,
        options.results,
        options.store,
    )
    if "synthetic" not in request.data.sources:
        print(f"{options.data}: no synthetic captions; the other captions take their rows", file=sys.stderr)
    return request


def _draw_sweep(folder: Path) -> list[Path]:
    from analysis import draw_sweep

    return draw_sweep(folder)


if __name__ == "__main__":
    sys.exit(main())
