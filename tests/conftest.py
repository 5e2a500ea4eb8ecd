"""Shared by all tests: data small enough to know by heart, and places in which the real command runs."""

import contextlib
import gc
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from filelock import FileLock

from mm1_lab.cli import main
from mm1_lab.config import ALLOWED, WORLD_DATA, DataIdentity, EvaluationStage, Recipe, load_scale, resolve
from mm1_lab.data.types import Answer, BrokenPicture, Document, Picture, Pixels
from mm1_lab.orchestrate.tracking.mlflow_logger import DATABASE, connect
from tests.warm import STARTER, Command, without_ink

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a job in the background: commands would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Ray's processes are niced, so that beside other tests they would stand still for minutes
RAY_AS_OTHERS = {"RAY_worker_niceness": "0"}
os.environ.update(RAY_AS_OTHERS)

REPOSITORY = Path(__file__).parents[1]
SCALES = REPOSITORY / "sweeps" / "scales"
COLOURS = {"red": (200, 40, 40), "green": (40, 200, 40), "blue": (40, 40, 200), "grey": (128, 128, 128)}
WORDS = ("a", "square", "is", "the", "?", ".", *COLOURS)


@dataclass(frozen=True)
class Square:
    """A picture of one colour with a dark corner."""

    colour: str

    def pixels(self, side: int) -> Pixels:
        image = np.full((side, side, 3), COLOURS[self.colour], np.uint8)
        image[: side // 2, : side // 2] //= 4
        return image


@dataclass(frozen=True, eq=False)
class Flat:
    """A picture of one value, or one that breaks."""

    value: int | None = 0

    def pixels(self, side: int) -> Pixels:
        if self.value is None:
            raise BrokenPicture("torn.jpg")
        return np.full((side, side, 3), self.value, np.uint8)


class Words:
    """A tokenizer of one id a word."""

    pad, begin, end, image = range(4)

    def __init__(self, words: Sequence[str] = WORDS) -> None:
        self.words = words
        self.size = len(words) + 4

    def encode(self, text: str) -> list[int]:
        return [self.words.index(word) + 4 for word in text.split()]

    def decode(self, ids: Iterable[int]) -> str:
        return " ".join(self.words[number - 4] for number in ids if number >= 4)


class Squares:
    """The data, and every kind of source at once: document `index` is a formula of seed and index."""

    identity = DataIdentity(digest="squares")
    tokenizer = Words()
    together = 1

    def __init__(self, name: str = "captions", seed: int = 0) -> None:
        self.name = name
        self.seed = seed

    def source(self, name: str, seed: int, limits: object = None) -> "Squares":
        return Squares(name, seed)

    def instructions(self, name: str, seed: int, limits: object = None) -> "Squares":
        return Squares("instructions", seed)

    def pretraining_text(self, seed: int, longest: int) -> "Curriculum":
        return Curriculum(seed)

    def pairs(self, seed: int) -> "Squares":
        return Squares("pairs", seed)

    def held_out(self, name: str, count: int) -> list[Document]:
        return [Squares(name, 99).document(index) for index in range(count)]

    def colour(self, index: int) -> str:
        return list(COLOURS)[(index * 7 + self.seed * 3 + index // 5) % 4]

    def document(self, index: int) -> Document:
        colour = self.colour(index)
        key = f"{self.name} {index}"
        if self.name == "text":
            return Document(key, (f"the square is {colour} .", Answer(f"a {colour} square")))
        if self.name == "instructions":
            return Document(key, (Square(colour), "the square is ?", Answer(f"{colour} .")))
        return Document(key, (Square(colour), f"a {colour} square ."))

    def documents(self, row: int) -> Iterator[Document]:
        return (self.document(row * 100 + index) for index in range(100))

    def epochs(self, rows: int) -> float:
        return rows / 50

    def pair(self, index: int, dense: bool) -> tuple[Picture, str]:
        colour = self.colour(index)
        return Square(colour), f"the square is a {colour} square ." if dense else f"a {colour} square"


class Curriculum:
    """Text of statements and answers."""

    def __init__(self, seed: int) -> None:
        self.text = Squares("text", seed)

    def documents(self, row: int, progress: float) -> Iterator[Document]:
        return self.text.documents(row)


@pytest.fixture
def squares() -> Squares:
    return Squares()


def evaluation_of(*settings: str, recipe: Recipe | None = None, scale: str = "smoke") -> EvaluationStage:
    """An arm's evaluation on the world at seed 0."""
    return resolve("arm", recipe or Recipe(), load_scale(scale, SCALES, settings=settings), 0, WORLD_DATA).evaluation


@dataclass(frozen=True)
class Place:
    """A working directory in which the command is run, with sweeps of its own."""

    folder: Path

    @property
    def results(self) -> Path:
        return self.folder / "results" / "local"

    def start(self, *arguments: str, fresh: bool = False) -> Command | subprocess.Popen[str]:
        """The command in a process of its own.

        `fresh`: as a user starts it, and not forked from a process that has imported what it needs and that renders no
        figures.
        """
        own = ("RAY_", "MLFLOW_TRACKING_URI")  # of tests that started Ray or MLflow in this process
        environment = {name: value for name, value in os.environ.items() if not name.startswith(own)}
        environment |= {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"} | RAY_AS_OTHERS
        if sys.platform == "linux" and not fresh:
            return STARTER.start(arguments, self.folder, environment)
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "mm1_lab.cli", *arguments],  # like the command, without the working folder
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str, code: int = 0, fresh: bool = False) -> str:
        """What the command prints; it must end with `code`."""
        process = self.start(*arguments, fresh=fresh)
        output, _ = process.communicate()
        assert process.returncode == code, output
        return output

    def done(self) -> dict[str, int]:
        """When each finished stage and trial was finished, by folder."""
        marks = [*self.results.glob("store/*/DONE"), *self.results.glob("trials/*/DONE")]
        folders = [path for path in marks if not path.parent.name.endswith(".partial")]  # killed before the rename
        return {str(path.parent.relative_to(self.results)): path.stat().st_mtime_ns for path in folders}

    def tables(self) -> dict[str, bytes]:
        """Everything that must not depend on how a sweep was interrupted."""
        names = ("scores.parquet", "held_out.csv", "training.csv")
        trials = [path for name in names for path in self.results.glob(f"trials/*/{name}")]
        drawn = [path for path in self.results.glob("smoke/*/[!.]*") if path.suffix in (".md", ".csv", ".json")]
        return {str(path.relative_to(self.results)): path.read_bytes() for path in [*trials, *drawn]}


def change(path: Path, old: str, new: str) -> None:
    """Replaces a part of a file that must have it."""
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def ask_without_demonstrations(folder: Path) -> None:
    """At smoke in this place: evaluating with four and eight takes longer than to train."""
    change(folder / "sweeps" / "scales" / "smoke.yaml", "shots: [0, 4, 8]", "shots: [0]")


def make_place(folder: Path) -> Place:
    """With the repository's sweeps, their first panel and contrast alone, as to draw all takes as long as to train; at
    smoke half the questions are asked."""
    shutil.copytree(REPOSITORY / "sweeps", folder / "sweeps")
    change(folder / "sweeps" / "scales" / "smoke.yaml", "questions: 16", "questions: 8")
    for path in folder.glob("sweeps/*.yaml"):
        sweep = yaml.safe_load(path.read_text(encoding="utf-8"))
        sweep["panels"] = dict(list(sweep.get("panels", {}).items())[:1])
        sweep["contrasts"] = sweep.get("contrasts", [])[:1]
        path.write_text(yaml.safe_dump(sweep, sort_keys=False), encoding="utf-8")
    return Place(folder)


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that `make` fills, in whichever of the processes that pytest runs in comes first."""
    root = factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    folder, made = root / name, root / f"{name}.made"
    with FileLock(root / f"{name}.lock"):
        if not made.exists():
            folder.mkdir()
            make(folder)
            made.touch()
    return folder


def calls_of(monkeypatch: pytest.MonkeyPatch, owner: object, name: str) -> list[tuple[Any, ...]]:
    """What a function is called with from now on, call by call."""
    calls: list[tuple[Any, ...]] = []
    function = getattr(owner, name)

    def noted(*given: Any, **more: Any) -> Any:
        calls.append(given)
        return function(*given, **more)

    monkeypatch.setattr(owner, name, noted)
    return calls


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's, without runs: to make its tables takes as long as to train."""

    def make(folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            patch.delenv("MLFLOW_TRACKING_URI", raising=False)
            connect()

    return made_once(tmp_path_factory, "database", make) / DATABASE


@pytest.fixture
def place(tmp_path: Path, database: Path) -> Place:
    made = make_place(tmp_path)
    made.results.mkdir(parents=True)
    shutil.copy(database, made.results)
    return made


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, which is empty."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def few_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer are held out for what this process evaluates."""
    monkeypatch.setattr("mm1_lab.evaluate.run.DOCUMENTS", 8)


@pytest.fixture
def unrendered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are written without ink, and all of them by this process."""
    monkeypatch.setattr("matplotlib.figure.Figure.draw", without_ink)
    monkeypatch.setattr("analysis.redraw.machine_cpus", lambda: 1)


@pytest.fixture
def forgotten() -> Iterator[None]:
    """Connectors of a user's own, which this process would know from then on."""
    yield
    ALLOWED.clear()


Refused = Callable[..., str]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """Gives the one line with which a command refuses."""

    def ask(*words: str) -> str:
        capsys.readouterr()
        try:
            code: object = main(list(words))
        except SystemExit as ended:  # argparse's
            code = ended.code
        error = capsys.readouterr().err
        assert code == 2 and error.startswith(("mm1-lab: ", f"mm1-lab {words[0]}: ")) and error.count("\n") == 1, error
        return error

    return ask


Told = Callable[..., str]


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Told:
    """Gives what a command prints that is run in this process."""

    def ask(*words: str, code: int = 0) -> str:
        capsys.readouterr()
        assert main(list(words)) == code
        return "".join(capsys.readouterr())

    return ask


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> Told:
    """Like `told`, without what goes to stderr."""

    def ask(*words: str, code: int = 0) -> str:
        capsys.readouterr()
        assert main(list(words)) == code
        return capsys.readouterr().out

    return ask


def run_python(
    code: str, *arguments: str, folder: Path = REPOSITORY, **changes: str
) -> subprocess.CompletedProcess[str]:
    """Runs code in a process of its own, with this repository's package and changes to the environment."""
    command, environment = [sys.executable, "-c", code, *arguments], os.environ | {"PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(command, cwd=folder, env=environment | changes, capture_output=True, text=True)


@pytest.fixture
def within_a_gigabyte() -> Iterator[None]:
    """Fails a test during which this process grew by more."""
    unit = 1 if sys.platform == "darwin" else 1024
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # forgets the peaks of earlier tests, which would hide this one's
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit <= 1 << 30


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, database: Path) -> Place:
    """Where two arms of the data-mix sweep were run at smoke scale, inline and in a plain locale; not to be changed."""

    def make(folder: Path) -> None:
        arms = ("--only", "base", "--only", "captions")
        with pytest.MonkeyPatch.context() as patch:  # whose files other tests compare with those in other locales
            for name, value in {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}.items():
                patch.setenv(name, value)
            place = make_place(folder)
            place.results.mkdir(parents=True)
            shutil.copy(database, place.results)
            place.run("run", "data_mix", "--scale", "smoke", *arms, "--inline", fresh=True)

    return Place(made_once(tmp_path_factory, "finished", make))


@pytest.fixture
def again(tmp_path: Path, finished: Place, database: Path) -> Place:
    """A copy of `finished`, which may be changed, with nothing in MLflow."""
    shutil.copytree(finished.folder, tmp_path, ignore=shutil.ignore_patterns("mlflow*"), dirs_exist_ok=True)
    shutil.copy(database, tmp_path / DATABASE)
    return Place(tmp_path)


def pytest_configure(config: pytest.Config) -> None:
    """Modules are given out in the order below, not those with most tests first."""
    config.option.loadscopereorder = False
    anew = config.option.markexpr == "soak"  # the usual run repeats its cases, so that only a change can break it
    seed = random.randrange(1_000_000) if anew else 0
    os.environ.setdefault("FUZZ_SEED", str(seed))  # which the processes of xdist inherit
    if sys.platform == "linux" and config.getoption("numprocesses", None):
        STARTER.open()


def pytest_report_header() -> str:
    return f"cases of fuzz tests are drawn from FUZZ_SEED={os.environ['FUZZ_SEED']}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Modules with long tests come first, so that no process ends with one alone."""
    long = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in long)


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()  # or each collection would look through all that the tests import


def pytest_sessionfinish() -> None:
    STARTER.close()
