"""kill -9 at seeded moments, again and again: the same command ends as if undisturbed."""

import os
import random
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

COMMAND = ("run", "data_mix", "--scale", "smoke", "--only", "base", "--only", "captions")


def kill_after(process: Any, seconds: float) -> bool:
    """Kills the command's process group, if it still runs then; Ray's processes end themselves without it."""
    try:
        output, _ = process.communicate(timeout=seconds)
        assert process.returncode == 0, output
        return False
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return True


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs process groups as Linux has them")
@pytest.mark.parametrize(
    ("kills", "inline"),
    [
        (6, True),
        pytest.param(100, False, marks=[pytest.mark.soak, pytest.mark.timeout(7200)]),
    ],
)
def test_killed_at_seeded_moments_it_ends_as_if_undisturbed(
    place: Any, finished: Any, kills: int, inline: bool
) -> None:
    """A sweep that ended before all kills were done begins again in an empty folder."""
    import shutil

    chance = random.Random(19)
    command = (*COMMAND, "--inline") if inline else COMMAND
    seen: dict[str, int] = {}
    while kills:
        if kill_after(place.start(*command), chance.uniform(0.3, 6) if inline else chance.uniform(1, 25)):
            kills -= 1
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
