"""Seeded damage to files that users write: whatever they hold, they are read or refused in a short line."""

import contextlib
import io
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mm1_lab.cli import main
from mm1_lab.config import RequestError, load_scale, load_sweep

ROOT = Path(__file__).parents[2]
SHORT, LONG = 1, 10
"""`make test` takes the numbers below, `make soak` ten times as many."""
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
    chance = random.Random(15)
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
    from analysis.law.lr_points import read_points

    chance = random.Random(16)
    rows = [
        f"{size},{rate},{-((rate * 1000 - 3) ** 2) / size}\n" for size in (9, 85, 302) for rate in (0.001, 0.002, 0.004)
    ]
    whole = "params,learning_rate,score\n" + "".join(rows)
    path = tmp_path / "points.csv"
    refused = 0
    for _ in range(150 * times):
        content = mutant(whole, chance)
        path.write_text(content, encoding="utf-8")
        refused += refused_or_read(lambda: read_points(path, False), content)
    assert 0 < refused < 150 * times


@parametrize
def test_damaged_results(finished: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """Any bytes of any file of a results folder: `status` and the reading of all tables go on, or say in a line why."""
    from mm1_lab.results.reading import read_held_out, read_records, read_scores, read_variant

    chance = random.Random(17)
    source = finished.results  # type: ignore[attr-defined]
    monkeypatch.chdir(tmp_path)
    for _ in range(60 * times):
        results = tmp_path / "results" / "local"
        shutil.rmtree(results, ignore_errors=True)
        for part in ("trials", "smoke"):
            shutil.copytree(source / part, results / part)
        names = ("*/*/sweep.json", "*/*/trials.csv", "trials/*/*.json", "trials/*/*.csv*", "trials/*/DONE")
        path = chance.choice(sorted(file for name in names for file in results.glob(name)))
        data = bytearray(path.read_bytes())
        for _ in range(chance.choice([1, 8, 64])):
            data[chance.randrange(len(data))] = chance.randrange(256)
        path.write_bytes(data[: chance.choice([len(data), len(data), chance.randrange(len(data)), 0])])

        def read(folder: Path = results / "smoke" / "data_mix") -> None:
            variant = read_variant(folder)
            for table in (read_scores, read_held_out, read_records):
                table(variant)

        with contextlib.redirect_stderr(io.StringIO()) as told, contextlib.redirect_stdout(io.StringIO()):
            refused_or_read(read, str(path))
            assert main(["status"]) in (0, 2), path
        assert all(len(line.encode()) <= 2048 for line in told.getvalue().splitlines())
