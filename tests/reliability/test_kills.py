"""kill -9 at seeded moments, again and again: the same command ends as if undisturbed."""

import contextlib
import os
import random
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.processes import raylet, workers

COMMAND = ("run", "data_mix", "--scale", "smoke", "--only", "base", "--only", "captions")


def kill_after(process: Any, seconds: float, find: Callable[[int], list[int]]) -> bool:
    """Kills what `find` finds below the command, or all of its group where that is nothing, if it still runs then.

    Tells whether it was killed and lacks something: where one worker dies, the command may do without.
    """
    try:
        output, _ = process.communicate(timeout=seconds)
        assert process.returncode == 0, output
        return False
    except subprocess.TimeoutExpired:
        if victims := find(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(victims[-1], signal.SIGKILL)
        else:
            os.killpg(process.pid, signal.SIGKILL)  # Ray's processes end themselves without it
        output, _ = process.communicate()
        assert "Traceback" not in output, output
        return bool(process.returncode)


def nothing(ancestor: int) -> list[int]:
    return []


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs process groups as Linux has them")
@pytest.mark.parametrize(
    ("moments", "inline"),
    [
        (6, True),
        pytest.param(100, False, marks=[pytest.mark.soak, pytest.mark.timeout(7200)]),
    ],
)
def test_killed_at_seeded_moments_it_ends_as_if_undisturbed(
    place: Any, finished: Any, moments: int, inline: bool
) -> None:
    """Of everything, of one worker, of Ray's raylet; a sweep that ended before begins again in an empty folder."""
    import shutil

    chance = random.Random(19)
    command = (*COMMAND, "--inline") if inline else COMMAND
    seen: dict[str, int] = {}
    for _ in range(moments):
        process = place.start(*command)
        seconds, find = (6, nothing) if inline else (25, chance.choice((nothing, nothing, workers, raylet)))
        if kill_after(process, chance.uniform(seconds / 20, seconds), find):
            assert seen.items() <= place.done().items(), "something finished ran again"
            seen = place.done()
        else:
            assert place.tables() == finished.tables()
            shutil.rmtree(place.results)
            seen = {}
    place.run(*command)
    assert seen.items() <= place.done().items(), "something finished ran again"
    assert place.tables() == finished.tables()
    left = [*place.results.glob("store/*.partial"), *place.results.glob("trials/*.partial")]
    assert not left, left
