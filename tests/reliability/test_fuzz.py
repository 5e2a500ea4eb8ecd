"""Seeded damage to files that users write: whatever they hold, they are read or refused in a short line."""

import contextlib
import io
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mm1_lab.cli import main
from mm1_lab.config import RequestError, load_scale, load_sweep

ROOT = Path(__file__).parents[2]
SEED = int(os.environ["FUZZ_SEED"])
"""Drawn anew for each run unless it is set, and printed; see conftest."""
SHORT, LONG = 1, int(os.environ.get("FUZZ_TIMES", "10"))
"""`make test` takes the numbers below, `make soak` FUZZ_TIMES as many."""
PIECES = ("-1", "0", "1e999", ".nan", "[]", "{}", "null", "''", "true", "9" * 400, "&a", "*a", "!!int x", "2001-13-45")
PIECES += ("\t", "\x00", "\ufeff", "\U0001f642", "- ", ": ", "[" * 60, "#", '"', "<<: ", "é" * 3000, "1_0", "0x_", "? ")
parametrize = pytest.mark.parametrize("times", [SHORT, pytest.param(LONG, marks=pytest.mark.soak)])
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


@parametrize
def test_mutated_yaml(tmp_path: Path, times: int) -> None:
    chance = random.Random(f"{SEED} 15")
    shutil.copytree(ROOT / "sweeps", tmp_path / "sweeps")
    sweeps = [tmp_path / "sweeps" / name for name in ("data_mix.yaml", "encoder.yaml", "lr_law.yaml")]
    recipe, scale = tmp_path / "sweeps" / "recipes" / "base.yaml", tmp_path / "sweeps" / "scales" / "smoke.yaml"
    refused = 0
    for number in range(300 * times):
        path = [*sweeps, recipe, scale][number % 5]
        whole = path.read_text(encoding="utf-8")
        content = mutant(whole, chance)
        path.write_text(content, encoding="utf-8")
        sweep = path if path in sweeps else sweeps[0]
        refused += refused_or_read(lambda sweep=sweep: (load_sweep(sweep), load_scale("smoke", scale.parent)), content)
        path.write_text(whole, encoding="utf-8")
    assert 0 < refused < 300 * times


@parametrize
def test_mutated_measurements_of_learning_rates(tmp_path: Path, times: int) -> None:
    from analysis.law.csv_file import read_runs

    chance = random.Random(f"{SEED} 16")
    rows = [
        f"{size},{rate},{-((rate * 1000 - 3) ** 2) / size}\n" for size in (9, 85, 302) for rate in (0.001, 0.002, 0.004)
    ]
    whole = "params,learning_rate,score\n" + "".join(rows)
    path = tmp_path / "points.csv"
    refused = 0
    for _ in range(150 * times):
        content = mutant(whole, chance)
        path.write_text(content, encoding="utf-8")
        refused += refused_or_read(lambda: read_runs(path, False), content)
    assert 0 < refused < 150 * times


READ = (
    "*/*/sweep.json",
    "*/*/trials.csv",
    "trials/*/*.*",
    "trials/*/DONE",
    "pictures/*",
    "store/*/*.json",
    "store/*/DONE",
)


def read_all(results: Path) -> list[str]:
    """What the reading interface makes of a results folder with one sweep."""
    from mm1_lab.results import reading
    from mm1_lab.results.samples import read_samples

    variant = reading.read_variant(results / "smoke" / "data_mix")
    tables = [table(variant) for table in (reading.read_scores, reading.read_held_out)]
    curves = reading.curves(variant.folder)
    trials = dict(zip(variant.done["arm"], variant.done["fingerprint"], strict=True))
    samples = [(one.question, one.answers, one.data) for one in read_samples(variant.ledger, trials)]
    summaries = [variant.ledger.summary(path.parent.name) for path in sorted(results.glob("store/*/DONE"))]
    frames = [frame.to_csv() for frame in (variant.trials, *tables, curves)]
    return [*frames, str(reading.read_records(variant)), str(samples), str(summaries)]


@parametrize
def test_damaged_results(finished: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """Any bytes of any file of a results folder: what is read is what was written, or a line says why not.

    The two files in the sweep's own folder have no digests: theirs only have to be read or refused.
    """
    chance = random.Random(f"{SEED} 17")
    source = finished.results  # type: ignore[attr-defined]
    monkeypatch.chdir(tmp_path)
    results, whole = tmp_path / "results" / "local", read_all(source)
    for _ in range(40 * times):
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
        if silent and path.name not in ("sweep.json", "trials.csv"):
            assert found == [whole], f"{path} was read as if it were whole"
        assert all(len(line.encode()) <= 2048 for line in told.getvalue().splitlines())
