"""The command line `mm1-lab`: argument parsing and error handling. The commands themselves are in `commands/`."""

import argparse
import atexit
import io
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType
from typing import NoReturn

from mm1_lab.processes import collect_rarely

WRONG, INTERRUPTED = 2, 130
"""Further exit codes: the request was wrong; stopped by Ctrl-C."""
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What stops a command: Ctrl-C, batch systems, a terminal that is closed."""
STOPPED = "\nmm1-lab: stopped; run the same command to continue"


def console() -> NoReturn:
    """The command: `main`, and the end of the process, without taking apart all that was imported (2 seconds)."""
    code = 1  # of an error that is raised
    atexit.register(lambda: _leave(code))  # registered first, called last
    os.environ["PYTHONSAFEPATH"] = "1"  # or our processes would import a random.py of the working folder as Python's
    try:
        code = main()
        if code == INTERRUPTED:  # before packages' exit functions, as a Ray that was interrupted in its start crashes
            atexit.register(_leave, code)
    except SystemExit as ended:  # argparse's
        code = int(ended.code or 0)
    except KeyboardInterrupt:  # with --debug
        code = INTERRUPTED
        raise
    sys.exit(code)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code. Slow imports come after the signal handlers have been installed."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as Python's stderr, where the locale lacks `…` or `−`
    collect_rarely()
    given = list(sys.argv[1:] if arguments is None else arguments)
    before = {number: signal.getsignal(number) for number in STOPS}
    for number, handler in before.items():
        if handler != signal.SIG_IGN:  # nohup ignores some
            signal.signal(number, _stop)
    hook, sys.unraisablehook = sys.unraisablehook, _tell_ignored
    try:
        return _run(given)
    except KeyboardInterrupt:
        if "--debug" in given:
            raise
        before.clear()  # further signals stay ignored during cleanup
        with suppress(OSError):  # of a terminal that was closed
            print(STOPPED, file=sys.stderr)
        return INTERRUPTED
    finally:
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)


def _run(given: list[str]) -> int:
    from mm1_lab.commands import COMMANDS
    from mm1_lab.commands.common import FAILED
    from mm1_lab.config import RequestError, nearest
    from mm1_lab.files import FAILING, FULL

    parser = make_parser()
    if not given:
        parser.print_help()
        return WRONG
    first = given[0]
    if first not in (*COMMANDS, "-h", "--help", "--version"):
        if first.startswith("-"):
            return _refuse(f"mm1-lab: options come after the command: mm1-lab COMMAND {first}")
        return _refuse(f"mm1-lab: there is no command {first!r}{nearest(first, COMMANDS)}")
    for word, following in zip(given, [*given[1:], "-"], strict=True):
        name, equals, value = word.partition("=")
        if name in ("--results", "--store", "--data", "--into") and not (value if equals else following):
            return _refuse(f"mm1-lab: {name} is given an empty path, as of a shell variable that is not set")
        if word.startswith("-") and value == "--":  # of which argparse would make an empty list
            return _refuse(f"mm1-lab: {word!r} is not a value")
    options, unknown = parser.parse_known_args(given)
    if unknown:
        return _refuse(f"mm1-lab {first}: {_unrecognised(unknown[0], command_parsers(parser)[first])}")
    try:
        return int(options.function(options))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE  # as other programs end that nobody reads
    except (RequestError, ModuleNotFoundError, OSError, MemoryError) as error:
        if options.debug:
            raise
        if isinstance(error, RequestError):
            return _refuse(f"mm1-lab: {error}")
        if isinstance(error, MemoryError):
            return _refuse("mm1-lab: the memory does not suffice; free some, and run the same command again", FAILED)
        if isinstance(error, ModuleNotFoundError):
            if str(error.name).startswith(("mm1_lab", "analysis")):
                raise
            return _refuse(f"mm1-lab: {error.name} is not installed; what trains needs pip install '.[lab]'", FAILED)
        what = f"{error.filename}: " if error.filename else ""
        text = f"mm1-lab: {what}{error.strerror or error}; fix this and run the same command to continue"
        return _refuse(text, FAILED if error.errno in (*FULL, *FAILING) else WRONG)


def _refuse(text: str, code: int = WRONG) -> int:
    from mm1_lab.config import bounded

    print(bounded(text), file=sys.stderr)
    return code


def _stop(number: int, frame: FrameType | None) -> None:
    """The first of these signals stops the command; further ones are ignored while it cleans up."""
    for one in STOPS:
        signal.signal(one, signal.SIG_IGN)
    while frame:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":  # some libraries swallow what is raised here
            _stop_at_once()
        frame = frame.f_back
    raise KeyboardInterrupt


def _stop_at_once() -> NoReturn:
    with suppress(KeyError, AttributeError, OSError):  # before it was imported, there are none
        sys.modules["mm1_lab.files"].leave_nothing()
    with suppress(AttributeError, OSError):  # none, or that of a terminal that was closed
        os.write(sys.stderr.fileno(), f"{STOPPED}\n".encode())
    os._exit(INTERRUPTED)


def _tell_ignored(ignored: "sys.UnraisableHookArgs") -> None:
    """Python ignores what is raised while it forks a process or collects an object; the command would be deaf to all
    further signals."""
    if ignored.exc_type is KeyboardInterrupt:
        _stop_at_once()
    sys.__unraisablehook__(ignored)


def _leave(code: int) -> None:
    try:
        if sys.stdout:  # None where the caller has closed it
            sys.stdout.flush()
    except BrokenPipeError:
        pass
    except OSError as error:
        print(f"mm1-lab: the output cannot be written ({error.strerror})", file=sys.stderr)
        code = code or 1
    os._exit(code)


def _unrecognised(word: str, command: argparse.ArgumentParser) -> str:
    from mm1_lab.config import nearest

    flag = word.partition("=")[0]
    if flag.startswith("-"):
        # without dashes, which make all options alike
        known = [option[2:] for option in command._option_string_actions if option.startswith("--")]
        return f"there is no option {flag!r}{nearest(flag.lstrip('-'), known, before='--')}"
    text = "names come before the options"
    names = command._get_positional_actions()
    if len(names) == 1 and names[0].nargs is None:  # no command that takes several, such as `show`
        text = f"{command.prog.split()[-1]} takes one {names[0].dest}"
    text += ", and an option is repeated for each of its values"
    return f"unexpected argument {word!r}; {text}; {command.epilog}"


class _Parser(argparse.ArgumentParser):
    """Reports errors in one line, with the command's example instead of the list of options."""

    def error(self, message: str) -> NoReturn:
        from mm1_lab.config import bounded

        self.exit(WRONG, bounded(f"{self.prog}: {message.removeprefix('argument ')}; {self.epilog}") + "\n")


def command_parsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parsers of all commands by name."""
    (action,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return dict(action.choices)


def make_parser() -> argparse.ArgumentParser:
    from inspect import getdoc

    from mm1_lab.commands import COMMANDS
    from mm1_lab.version import __version__

    parser = _Parser(
        prog="mm1-lab",
        description="Ablations of multimodal language models, one YAML file per question.",
        epilog="example: mm1-lab run data_mix --scale smoke",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"mm1-lab {__version__}")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (function, example, options) in COMMANDS.items():
        text = getdoc(function) or ""
        added = subparsers.add_parser(
            name,
            help=text[:1].lower() + text[1:].removesuffix("."),
            description=text,
            epilog=f"example: mm1-lab {name} {example}".rstrip(),
            allow_abbrev=False,
        )
        added.add_argument("--debug", action="store_true", help="show the traceback of an error")
        for flag, settings in options:
            added.add_argument(flag, **settings)
        added.set_defaults(function=function)
    return parser


if __name__ == "__main__":
    console()
