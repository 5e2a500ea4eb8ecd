"""kill -9 at seeded moments, again and again: the same command ends as if undisturbed; other signals end in a line."""

import contextlib
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.processes import descendants, named, raylet, workers

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes and groups in /proc")
COMMAND = ("run", "data_mix", "--scale", "smoke", "--only", "base", "--only", "captions")
MOST = 40
"""A sweep writes some 130 files and folders; it is killed at the latest when it has written so many more."""


def kill_at(process: Any, folder: Path, written: int, find: Callable[[int], list[int]]) -> bool:
    """Kills what `find` finds below the command, or all of its group where that is nothing, once `folder` holds so many
    files and folders.

    Tells whether the sweep is unfinished: it may end before, and where one worker dies, the command may do without.
    """
    while count(folder) < written:
        if process.poll() is not None:
            output, _ = process.communicate()
            assert process.returncode == 0, output
            return False
        time.sleep(0.01)
    victims = find(process.pid)
    with contextlib.suppress(ProcessLookupError):
        if victims:
            os.kill(victims[-1], signal.SIGKILL)
        else:
            os.killpg(process.pid, signal.SIGKILL)  # Ray's processes end themselves without it
    output, _ = process.communicate()
    assert "Traceback" not in output, output
    return bool(process.returncode)


def count(folder: Path) -> int:
    """Files and folders below a folder, those that are being written included."""
    return sum(len(folders) + len(files) for _, folders, files in os.walk(folder))


def nothing(ancestor: int) -> list[int]:
    return []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("moments", "inline"),
    [
        (1, True),
        pytest.param(100, False, marks=[pytest.mark.soak, pytest.mark.timeout(7200)]),
    ],
)
def test_killed_at_seeded_moments_it_ends_as_if_undisturbed(
    place: Any, finished: Any, moments: int, inline: bool
) -> None:
    """Of everything, of one worker, of Ray's raylet; a sweep that ended before begins again in an empty folder."""
    from mlflow import MlflowClient

    chance = random.Random(19)
    command = (*COMMAND, "--inline") if inline else COMMAND
    seen: dict[str, int] = {}
    interrupted = 0
    for _ in range(moments):
        written = count(place.results) + chance.randint(1, MOST)
        process = place.start(*command)
        find = nothing if inline else chance.choice((nothing, nothing, workers, raylet))
        if kill_at(process, place.results, written, find):
            interrupted += 1
            assert seen.items() <= place.done().items(), "something finished ran again"
            seen = place.done()
        else:
            assert place.tables() == finished.tables()
            shutil.rmtree(place.results)
            seen = {}
    assert interrupted > moments / 3, "too few kills ended the command to test anything"
    place.run(*command)
    assert seen.items() <= place.done().items(), "something finished ran again"
    assert place.tables() == finished.tables()
    left = [*place.results.glob("store/*.partial"), *place.results.glob("trials/*.partial")]
    assert not left, left
    client = MlflowClient(tracking_uri=f"sqlite:///{place.results / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("data_mix").experiment_id])
    named_runs = sorted((run.info.run_name, run.info.status) for run in runs)
    assert named_runs == [(f"{arm} / seed 0 at smoke", "FINISHED") for arm in ("base", "captions")]


@pytest.mark.soak
def test_a_machine_that_sleeps_for_a_minute_goes_on(place: Any, finished: Any) -> None:
    process = place.start(*COMMAND)
    assert process.stdout is not None
    assert any(line.startswith("starts  ") for line in process.stdout)
    all_of_them = (process.pid, *descendants(process.pid))
    for number, seconds in ((signal.SIGSTOP, 60), (signal.SIGCONT, 0)):
        for one in all_of_them:
            os.kill(one, number)
        time.sleep(seconds)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert place.tables() == finished.tables()


@pytest.mark.soak
def test_asked_to_end_it_ends_in_one_line(place: Any) -> None:
    process = place.start(*COMMAND)
    assert process.stdout is not None
    assert any(line.startswith("starts  ") for line in process.stdout)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate()
    assert process.returncode == 130
    assert output.strip().splitlines()[-1] == "mm1-lab: stopped; run the same command to continue"
    assert "Traceback" not in output and "PC: @" not in output


@pytest.mark.soak
@pytest.mark.parametrize("name", ["raylet", "gcs_server"])
def test_the_death_of_rays_own_process_ends_in_a_line_of_ours(place: Any, name: str) -> None:
    process = place.start(*COMMAND, "--set", "reuse_processes=false")  # so that waiting processes import nothing
    assert process.stdout is not None
    assert any(line.startswith("starts  ") for line in process.stdout)
    os.kill(named(process.pid, name)[0], signal.SIGKILL)
    output, _ = process.communicate()
    assert process.returncode == 1
    text = f"mm1-lab: Ray's {name} was killed or ran out of memory; run the same command to continue"
    assert output.strip().splitlines()[-1] == text
    assert "Traceback" not in output
