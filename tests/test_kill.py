"""kill -9 of everything, several times, in the middle of a sweep: the same command finishes it as if undisturbed."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.processes import descendants, named

COMMAND = ("run", "data_mix", "--scale", "smoke", "--only", "base", "--only", "captions")


def kill_all(process: Any) -> None:
    for victim in (*descendants(process.pid), process.pid):
        try:
            os.kill(victim, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()


def kill_once(place: Any, moment: Callable[[], bool]) -> None:
    """Starts the command and kills it, with every process below it, as soon as `moment` has come."""
    process = place.start(*COMMAND)
    while not moment():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
    kill_all(process)


@pytest.mark.soak  # in short, in one process: tests/reliability/test_kills.py
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds the processes to kill in /proc")
def test_killed_at_three_moments_it_ends_as_if_undisturbed(place: Any, finished: Any) -> None:
    import mlflow

    store, trials = place.results / "store", place.results / "trials"
    moments = [
        lambda: any(store.glob("*.partial")),
        lambda: any(store.glob("*/DONE")) and len(list(store.iterdir())) > 3,
        lambda: any(trials.glob("*/DONE")),
    ]
    seen: dict[str, int] = {}
    for moment in moments:
        kill_once(place, moment)
        now = place.done()
        assert seen.items() <= now.items(), "something finished ran again"
        seen = now
    assert len(seen) >= 3
    place.run(*COMMAND)
    assert seen.items() <= place.done().items(), "something finished ran again"
    assert place.done().keys() == finished.done().keys()
    assert place.tables() == finished.tables()
    assert not [*store.glob("*.partial"), *trials.glob("*.partial")]

    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{place.results / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("data_mix").experiment_id])
    assert {run.info.status for run in runs} == {"FINISHED"}
    names = [run.info.run_name for run in runs]
    assert sorted(names) == ["base / seed 0 at smoke", "captions / seed 0 at smoke"]


@pytest.mark.soak
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds the processes to stop in /proc")
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


@pytest.mark.slow
def test_asked_to_end_it_ends_in_one_line(place: Any) -> None:
    process = place.start(*COMMAND)
    assert process.stdout is not None
    assert any(line.startswith("starts  ") for line in process.stdout)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate()
    assert process.returncode == 130
    assert output.strip().splitlines()[-1] == "mm1-lab: stopped; run the same command to continue"
    assert "Traceback" not in output and "PC: @" not in output


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds the process to kill in /proc")
@pytest.mark.parametrize("name", ["raylet", pytest.param("gcs_server", marks=pytest.mark.soak)])
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
