"""Seeded damage to files that users write, and to command lines: they are read or refused in a short line."""

import contextlib
import io
import os
import random
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mm1_lab.cli import command_parsers, main, make_parser
from mm1_lab.config import RequestError, load_scale, load_sweep

ROOT = Path(__file__).parents[2]
SEED = int(os.environ["FUZZ_SEED"])
"""Drawn anew for each `make soak`, unless it is set, and printed; see conftest."""
LONG = int(os.environ.get("FUZZ_TIMES", "10"))
"""`make soak` takes this times the numbers below."""
PIECES = ("-1", "0", "1e999", ".nan", "[]", "{}", "null", "''", "true", "9" * 400, "&a", "*a", "!!int x", "2001-13-45")
PIECES += ("\t", "\x00", "\ufeff", "\U0001f642", "- ", ": ", "[" * 60, "#", '"', "<<: ", "é" * 3000, "1_0", "0x_", "? ")
parametrize = pytest.mark.parametrize("count", [16, pytest.param(40 * LONG, marks=pytest.mark.soak)])
pytestmark = pytest.mark.usefixtures("within_a_gigabyte")


def mutant(text: str, chance: random.Random) -> str:
    """One to four changes: a piece put in or in place of a word, a line lost, doubled or moved, a letter changed."""
    for _ in range(chance.randint(1, 4)):
        lines = text.splitlines(keepends=True) or ["\n"]
        row = chance.randrange(len(lines))
        place = chance.randrange(len(lines[row]) + 1)
        what = chance.randrange(5)
        if what == 0:
            lines[row] = lines[row][:place] + chance.choice(PIECES) + lines[row][place:]
        elif what == 1:
            words = lines[row].split(" ")
            words[chance.randrange(len(words))] = chance.choice(PIECES)
            lines[row] = " ".join(words)
        elif what == 2:
            del lines[row]
        elif what == 3:
            lines.insert(chance.randrange(len(lines)), lines[row])
        else:
            lines[row] = lines[row][:place] + chr(chance.randrange(1, 0x250)) + lines[row][place + 1 :]
        text = "".join(lines)
    return text


def refused_or_read(read: Callable[[], object], content: str) -> bool:
    """Whether it was refused; anything else that is raised fails the test, with what was read."""
    try:
        read()
    except RequestError as error:
        assert len(str(error).encode()) <= 2048 and str(error).count("\n") <= 1, error
        return True
    except Exception as error:
        raise AssertionError(f"{error!r} for\n{content[:2000]}") from error
    return False


@pytest.mark.parametrize("count", [60, pytest.param(300 * LONG, marks=pytest.mark.soak)])
def test_mutated_yaml(tmp_path: Path, count: int) -> None:
    chance = random.Random(f"{SEED} 15")
    shutil.copytree(ROOT / "sweeps", tmp_path / "sweeps")
    sweeps = [tmp_path / "sweeps" / name for name in ("data_mix.yaml", "encoder.yaml", "lr_law.yaml")]
    recipe, scale = tmp_path / "sweeps" / "recipes" / "base.yaml", tmp_path / "sweeps" / "scales" / "smoke.yaml"
    refused = 0
    for number in range(count):
        path = [*sweeps, recipe, scale][number % 5]
        whole = path.read_text(encoding="utf-8")
        content = mutant(whole, chance)
        path.write_text(content, encoding="utf-8")
        sweep = path if path in sweeps else sweeps[0]
        refused += refused_or_read(lambda sweep=sweep: (load_sweep(sweep), load_scale("smoke", scale.parent)), content)
        path.write_text(whole, encoding="utf-8")
    assert 0 < refused < count


READ = ("*/*/sweep.json", "*/*/.drawn.json", "*/*/trials.csv", "trials/*/*.*", "trials/*/DONE", "store/*/*.json")
READ += ("store/*/DONE",)


def read_all(results: Path) -> list[str]:
    """What the reading interface makes of a results folder with one sweep."""
    from mm1_lab.results import reading

    variant = reading.read_variant(results / "smoke" / "data_mix")
    tables = [table(variant) for table in (reading.read_scores, reading.read_held_out)]
    curves = reading.curves(variant.folder)
    summaries = [variant.ledger.summary(path.parent.name) for path in sorted(results.glob("store/*/DONE"))]
    frames = [frame.to_csv() for frame in (variant.trials, *tables, curves)]
    return [*frames, str(reading.read_records(variant)), str(summaries)]


@parametrize
def test_damaged_results(finished: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Any bytes of any file of a results folder: what is read is what was written, or a line says why not.

    The list of trials has a digest a row: rows that are lost whole are not noticed.
    """
    chance = random.Random(f"{SEED} 17")
    source = finished.results  # type: ignore[attr-defined]
    monkeypatch.chdir(tmp_path)
    results, whole = tmp_path / "results" / "local", read_all(source)
    for _ in range(count):
        shutil.rmtree(results, ignore_errors=True)
        shutil.copytree(source, results, ignore=shutil.ignore_patterns("mlflow*", "*.safetensors", "*.png.*"))
        path = chance.choice(sorted(results.glob(chance.choice(READ))))
        data = bytearray(path.read_bytes())
        for _ in range(chance.choice([1, 8, 64])):
            data[chance.randrange(len(data))] = chance.randrange(256)
        path.write_bytes(data[: chance.choice([len(data), len(data), chance.randrange(len(data)), 0])])
        found: list[list[str]] = []
        with contextlib.redirect_stderr(io.StringIO()) as told, contextlib.redirect_stdout(io.StringIO()):
            refused = refused_or_read(lambda found=found: found.append(read_all(results)), str(path))
            silent = not (refused or told.getvalue())
            assert main(["status"]) in (0, 2), path
        if silent and path.name != "trials.csv":
            assert found == [whole], f"{path} was read as if it were whole"
        assert all(len(line.encode()) <= 2048 for line in told.getvalue().splitlines())


NAMES = ("folder", "fifo", "loop", "null", "zero", "closed", "binary", "missing/x", "folder/new", "null/x", "zero/x")
WORDS = ("", " ", "9" * 400, "-" + "9" * 5000, "a\nb", "\x1b[31m", "\udcff", "\U0001f642", "é" * 300, "x" * 5000)
WORDS += ("-1", "0", "1", "2.5", "nan", "-inf", "1e999", "true", "null", "[]", "{}", "-", "=", "=1", "%s", "{x}")
WORDS += ("0,", ",", "1,1", "3,2,1", "1..3", "99", "4294967295,", "4294967296", "1e3", "0x10", "1_0", "*", "[", "a=b=c")
WORDS += tuple(f"{name}{end}" for name in NAMES for end in ("", ".yaml", ".png", ".csv"))
USUAL = {
    "sweep": ("data_mix", "sweeps/encoder.yaml", "lr_law"), "sweeps": ("data_mix", "connector"),
    "arms": ("base", "captions"), "only": ("base", "captions"), "first": ("base",), "second": ("captions",),
    "scale": ("smoke", "smoke", "mini", "paper"), "seeds": ("2", "0,", "3,4"), "looks": ("4,6",),
    "results": ("results/local", "folder"), "store": ("results/local/store", "folder"), "folder": ("new", "folder"),
    "scores": ("points.csv",), "data": ("data.yaml",), "file": ("points.csv",),
    "out": ("new.png",), "image": ("new.png",), "steps": ("5",),
    "set": ("train.steps=5", "evaluate.shots=[0]"), "sizes": ("9M,85M,302M,1.2B",), "predict": ("30B",),
}  # fmt: skip
"""Values that a command takes, by the name of its option; the others have only wrong ones."""
MOST_SECONDS = 300
"""Of a command that trains nothing: after them it hangs."""


class Hang(BaseException):
    """Nobody may catch it."""


def hang(*_: object) -> None:
    raise Hang


def fields(values: dict[str, object], before: str = "") -> Iterator[str]:
    for name, value in values.items():
        yield f"{before}{name}"
        if isinstance(value, dict):
            yield from fields(value, f"{before}{name}.")


def command_line(chance: random.Random, settings: list[str]) -> list[str]:
    """A command with its arguments and up to five options, of others in a tenth; of some lines little is wrong, so that
    the command comes far."""
    commands = command_parsers(make_parser())
    name = chance.choice(sorted(commands))
    every = [action for command in commands.values() for action in command._actions]
    own = commands[name]._actions
    wrong = chance.choice((0.1, 0.4))

    def value(dest: str) -> str:
        if dest == "set" and chance.random() < 0.7:
            return f"{chance.choice(settings)}={chance.choice(WORDS)}"
        return chance.choice(USUAL[dest] if dest in USUAL and chance.random() > wrong else WORDS)

    given = [[value(action.dest)] for action in own if not action.option_strings]
    for _ in range(chance.randrange(6)):
        options = every if chance.random() < 0.1 else own
        known = [one for one in options if one.option_strings and one.dest not in ("help", "debug")]
        if not known:  # of init
            continue
        action = chance.choice(known)
        flag = action.option_strings[-1]
        flag = flag[: chance.randrange(2, len(flag) + 1)] if chance.random() < 0.05 else flag
        if action.nargs == 0 or chance.random() < 0.05:  # a switch, or a value that is missing
            given.append([flag])
        else:
            words = [flag, value(action.dest)]
            given.append(words if chance.random() < 0.7 else ["=".join(words)])
    if chance.random() < 0.1:
        given.append([chance.choice(WORDS)])
    chance.shuffle(given)
    return [name, *(word for words in given for word in words)]


def make_odd_files(folder: Path) -> None:
    (folder / "points.csv").write_text("params,learning_rate,score\n9,0.1,1\n", encoding="utf-8")
    (folder / "data.yaml").write_text("captions: [missing/*.tar]\n", encoding="utf-8")
    for end in ("", ".yaml", ".png", ".csv"):
        (folder / f"folder{end}").mkdir()
        os.mkfifo(folder / f"fifo{end}")
        (folder / f"loop{end}").symlink_to(f"loop{end}")
        (folder / f"null{end}").symlink_to("/dev/null")
        (folder / f"zero{end}").symlink_to("/dev/zero")
        (folder / f"closed{end}").touch(0)
        (folder / f"binary{end}").write_bytes(bytes(range(256)))


def told(words: list[str]) -> tuple[int, str, str]:
    """How the command ended, and what it printed; in streams that, as a terminal's, take no unpaired surrogates."""
    streams = [io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2)]
    before = signal.signal(signal.SIGALRM, hang)
    left = signal.alarm(MOST_SECONDS)  # of the test's own limit
    try:
        with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
            code = main(words)
    except SystemExit as ended:  # as argparse ends
        code = ended.code  # type: ignore[assignment]
    finally:
        signal.signal(signal.SIGALRM, before)
        signal.alarm(left)
    output, errors = (stream.buffer.getvalue().decode() for stream in streams)  # type: ignore[attr-defined]
    return code, output, errors


@parametrize
@pytest.mark.skipif(sys.platform != "linux", reason="makes devices' links and FIFOs")
def test_wrong_command_lines(finished: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Each ends soon with an exit code that means something, says in a few lines what was wrong, and leaves nothing
    outside of its folder. What would train, draw, serve or connect refuses to begin."""

    def refuse(*_: object, **named: object) -> None:
        raise RequestError("begins")

    for slow in (
        "mm1_lab.orchestrate.execution.executor.make_executor",
        "mm1_lab.orchestrate.tracking.dashboard.show_dashboard",
        "mm1_lab.orchestrate.tracking.mlflow_logger.sync_all",
        "mm1_lab.orchestrate.data_samples.world_samples",
        "analysis.redraw.draw",
    ):
        monkeypatch.setattr(slow, refuse)
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    chance = random.Random(f"{SEED} 18")
    settings = [*fields(load_scale("smoke", ROOT / "sweeps" / "scales").model_dump(mode="json")), *WORDS]
    codes = set()
    lines = [["status"], *(command_line(chance, settings) for _ in range(count))]
    for number, words in enumerate(lines):
        folder = tmp_path / str(number) / "here"
        shutil.copytree(ROOT / "sweeps", folder / "sweeps")
        kept = shutil.ignore_patterns("mlflow*", "*.safetensors")
        shutil.copytree(finished.results, folder / "results" / "local", ignore=kept)  # type: ignore[attr-defined]
        make_odd_files(folder)
        monkeypatch.chdir(folder)
        try:
            code, output, errors = told(words)
        except BaseException as error:
            raise AssertionError(f"{error!r} for {words}") from error
        codes.add(code)
        assert code in (0, 1, 2, 3), words
        assert "Traceback" not in output + errors, words
        if code:
            assert len(errors.encode()) <= 2100 and errors.count("\n") <= 4, (words, errors)
        assert [path.name for path in folder.parent.iterdir()] == ["here"], words
        shutil.rmtree(folder.parent)
    assert {0, 2} <= codes
