"""The command line `mm1-lab`: its options, and what becomes of errors. What the commands do is in `commands.py`."""

from __future__ import annotations

import argparse
import errno
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from mm1_lab import commands
from mm1_lab.commands import DONE, FAILED, PARTS, RESULTS, STUDY
from mm1_lab.config import RequestError, nearest

Command = Callable[[argparse.Namespace], int]
Add = Callable[[str, Command, str, str], argparse.ArgumentParser]
"""Makes the parser of a command from its name, what it does, a line of help and an example."""

WRONG, INTERRUPTED = 2, 130
"""Further exit codes: the request was wrong; stopped by Ctrl-C."""
LONGEST = 1800
"""Letters of a message: what users' files hold may be of any length."""
FULL, FORBIDDEN = (errno.ENOSPC, errno.EDQUOT), (errno.EROFS, errno.EACCES, errno.EPERM)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    parser = make_parser()
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given:
        parser.print_help()
        return WRONG
    if not given[0].startswith("-") and given[0] not in command_parsers(parser):
        print(f"mm1-lab: there is no command {given[0]!r}{nearest(given[0], command_parsers(parser))}", file=sys.stderr)
        return WRONG
    options = parser.parse_args(given)
    command: Command = options.command
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        if before[number] != signal.SIG_IGN:  # as under nohup
            signal.signal(number, _stop)
    try:
        code = command(options)
        for number, handler in before.items():
            signal.signal(number, handler)
        return code
    except RequestError as error:
        if options.debug:
            raise
        text = str(error)
        shown = text if len(text) <= LONGEST else f"{text[: LONGEST - 500]} … {text[-400:]}"
        print(f"mm1-lab: {shown}", file=sys.stderr)
        return WRONG
    except KeyboardInterrupt:
        if options.debug:
            raise
        print("\nmm1-lab: stopped; the same command goes on from here", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except OSError as error:
        if options.debug or error.errno not in (*FULL, *FORBIDDEN):
            raise
        what = f"{error.filename}: " if error.filename else ""
        print(f"mm1-lab: {what}{error.strerror}; with that mended, the same command goes on from here", file=sys.stderr)
        return FAILED if error.errno in FULL else WRONG


def _stop(number: int, frame: object) -> None:
    """The first Ctrl-C (or SIGTERM) ends the command; further ones wait until it has put its things away."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


class _Version(argparse.Action):
    """Looks the version up only where it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        print(f"mm1-lab {version('mm1-lab')}")
        parser.exit()


def command_parsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parser of each command, by its name."""
    (action,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return dict(action.choices)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mm1-lab",
        description="Ablations of multimodal language models, one YAML file a question.",
        epilog="example: mm1-lab run sweeps/data_mix.yaml --scale smoke",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Command, text: str, example: str) -> argparse.ArgumentParser:
        added = subparsers.add_parser(
            name, help=text, description=text[0].upper() + text[1:] + ".", epilog=f"example: mm1-lab {example}"
        )
        added.add_argument("--debug", action="store_true", help="show the traceback of an error")
        added.set_defaults(command=command)
        return added

    _add_sweeps(add)
    _add_check_scale(add)
    _add_fit_lr_law(add)
    _add_readers(add)
    start = add("init", commands.init, "make a small project: a sweep, a data file, a Makefile", "init my-lab")
    start.add_argument("folder", metavar="FOLDER", type=Path)
    words = "print a script for bash or zsh that completes commands, options and names"
    add("completion", commands.completion, words, "completion > ~/.mm1-lab.sh").set_defaults(
        commands=command_parsers(parser)
    )
    return parser


def _add_sweeps(add: Add) -> None:
    plan = add("plan", commands.plan, "what would run, and what it costs", "plan data_mix encoder connector --seeds 3")
    run = add("run", commands.run, "run what is missing of a sweep", "run sweeps/data_mix.yaml --set train.steps=200")
    shipping = f"copy the encoders and decoders of a sweep from the store to {PARTS}"
    ship = add("ship-parts", commands.ship_parts, shipping, "ship-parts data_mix --only base --seeds 5")
    names = "a YAML file, or the name of one in sweeps/"
    plan.add_argument("sweeps", metavar="SWEEP", nargs="+", help=f"{names}; what several share is shown once")
    run.add_argument("sweep", metavar="SWEEP", help=names)
    ship.add_argument("sweep", metavar="SWEEP", help=names)
    export = add(
        "export", commands.export, "a trained arm as a Hugging Face folder", "export data_mix --only base model"
    )
    export.add_argument("sweep", metavar="SWEEP", help=names)
    export.add_argument("folder", metavar="FOLDER", type=Path, help="a new folder")
    forms = "mm1 (default); llava, where that is exact; encoder or decoder, a part by itself"
    export.add_argument("--as", dest="form", choices=("mm1", "llava", "encoder", "decoder"), default="mm1", help=forms)
    chat = add("chat", commands.chat, "talk to a trained arm", "chat sft_resolution --only 336 --image photo.jpg")
    chat.add_argument("sweep", metavar="SWEEP", help=names)
    chat.add_argument(
        "--image", metavar="FILE", type=Path, action="append", default=[], help="of the first turn; may be repeated"
    )
    for parser in (plan, run, ship, export, chat):
        parser.add_argument(
            "--only", metavar="ARM", action="append", default=[], help="this arm alone; may be repeated"
        )
        _add_sweep_options(parser)
    _add_executor(run)
    anew = "make again what was made with other code of a connector or metric than it has now"
    run.add_argument("--anew", action="store_true", help=anew)
    for parser in (plan, run):
        _add_no_parts(parser)


def _add_check_scale(add: Add) -> None:
    text = "whether results at a scale can be trusted"
    check = add("check-scale", commands.check_scale, text, "check-scale mini --only probe")
    check.add_argument("scale", metavar="SCALE", help="smoke, mini, …")
    check.add_argument(
        "--only",
        metavar="GATE",
        action="append",
        default=[],
        help="words, probe, lower (resolution), leaks, prompts or validity; may be repeated",
    )
    check.add_argument(
        "--samples",
        type=int,
        default=1_000_000,
        help="training samples that are searched for leaks; default: %(default)s",
    )
    _add_settings(check)
    _add_inline(check)
    _add_no_parts(check)
    check.set_defaults(data=None)


def _add_fit_lr_law(add: Add) -> None:
    text = "search each size's best learning rate and fit its law"
    law = add("fit-lr-law", commands.fit_lr_law, text, "fit-lr-law --sizes 9M,85M,302M,1.2B --scale smoke")
    law.add_argument(
        "--sizes", metavar="LIST", help="sizes of the scale's decoders; default: those of sweeps/lr_law.yaml"
    )
    law.add_argument(
        "--search", choices=("grid", "optuna"), default="grid", help="who chooses the rates to try (default: grid)"
    )
    law.add_argument(
        "--predict",
        metavar="LIST",
        help="sizes to predict, 30B,7B; with tokens as 30B:600B; default: the scale's larger ones",
    )
    law.add_argument("--keep-unbracketed", action="store_true", help="fit sizes too whose optimum is not bracketed")
    law.add_argument(
        "--from", dest="file", metavar="CSV", type=Path,
        help="fit these measurements instead: columns params, learning_rate, score[, seed, tokens, batch_size]",
    )  # fmt: skip
    law.add_argument("--lower-is-better", action="store_true", help="--from: the score is a loss")
    law.add_argument(
        "--profile", metavar="COLUMN", action="append", default=[], help="--from: keep the best over this column"
    )
    _add_sweep_options(law)
    _add_executor(law)
    _add_no_parts(law)


def _add_readers(add: Add) -> None:
    status = add("status", commands.status, "what is done, missing, or failed and why", "status data_mix --scale smoke")
    status.add_argument("sweep", metavar="SWEEP", nargs="?", help="a sweep; without it, all that were run")
    _add_sweep_options(status)
    text = "the arms of a sweep, an arm resolved, or what differs between two"
    shown = add("show", commands.show, text, "show data_mix base captions")
    shown.add_argument("sweep", metavar="SWEEP")
    shown.add_argument("arms", metavar="ARM", nargs="*")
    text = "two arms: scores, difference and its interval"
    compare = add("compare", commands.compare, text, "compare data_mix captions interleaved")
    for name, metavar in (("sweep", "SWEEP"), ("first", "ARM"), ("second", "ARM")):
        compare.add_argument(name, metavar=metavar)
    for parser in (shown, compare):
        _add_sweep_options(parser)
    figures = add(
        "figures", commands.figures, "draw tables and figures of all results", "figures --results results/study"
    )
    report = add("report", commands.report, "redraw, and write one HTML file", "report --results results/study")
    dashboard = add("dashboard", commands.dashboard, "browse the runs in MLflow on 127.0.0.1", "dashboard --port 5001")
    dashboard.add_argument("--port", type=int, default=5000)
    text = "a contact sheet of the miniature world, or of your own data with counts and warnings"
    show = add("show-data", commands.show_data, text, "show-data --data data.yaml")
    show.add_argument("--out", metavar="PNG", type=Path, help=f"where to; default: in {RESULTS}")
    show.add_argument("--data", metavar="FILE", type=Path, help="your own data, a data.yaml")
    show.add_argument("--scale", default="mini", help="for its tokenizer and rows; default: %(default)s")
    _add_store(show)
    sync = add("sync-mlflow", commands.sync_mlflow, "enter into MLflow what it lacks of the results", "sync-mlflow")
    text = "read every file of the results and weights, and put aside what is damaged"
    verify = add("verify", commands.verify, text, "verify --results results/local")
    gc = add("gc", commands.gc, "free weights, never results; not while a sweep runs", "gc --keep best")
    text = "the weights behind each sweep's best trial, none, or all (only what was damaged goes); default: %(default)s"
    gc.add_argument("--keep", choices=["best", "none", "all"], default="best", help=text)
    for parser in (verify, gc):
        parser.add_argument("--results", metavar="DIR", type=Path, default=RESULTS, help=f"default: {RESULTS}")
        _add_store(parser)
    for parser in (figures, report, dashboard, sync):
        parser.add_argument(
            "--results",
            metavar="DIR",
            type=Path,
            help=f"default: {RESULTS}, and {STUDY} (figures, report: a copy of it, and only where the first has none)",
        )
    for parser in (dashboard, sync):
        _add_store(parser)


def _add_sweep_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--scale", default="mini", help="smoke, mini, lab (default: mini)")
    parser.add_argument("--data", metavar="YAML", type=Path, help="your own data instead of the miniature world")
    _add_settings(parser)


def _add_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seeds", default="1", help="a count (3: seeds 0, 1, 2) or a list (5,6,7); default: 1")
    parser.add_argument(
        "--set", metavar="PATH=VALUE", action="append", default=[], help="a setting of the scale, e.g. train.steps=200"
    )
    parser.add_argument("--results", metavar="DIR", type=Path, default=RESULTS, help=f"default: {RESULTS}")
    _add_store(parser)


def _add_store(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--store", metavar="DIR", type=Path, default=RESULTS / "store", help="where weights are kept")


def _add_executor(parser: argparse.ArgumentParser) -> None:
    _add_inline(parser)
    parser.add_argument("--address", metavar="ADDRESS", help="a running Ray cluster (auto: the one on this machine)")


def _add_inline(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--inline", action="store_true", help="one stage after another in this process, without Ray")


def _add_no_parts(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--no-parts", action="store_true", help=f"compute anew what is shipped in {PARTS}")


if __name__ == "__main__":
    sys.exit(main())
