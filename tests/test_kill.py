"""What ends a command, or halts it, beside the kills of tests/reliability/test_kills.py."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.processes import descendants, named

COMMAND = ("run", "data_mix", "--scale", "smoke", "--only", "base", "--only", "captions")


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
