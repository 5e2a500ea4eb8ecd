"""Claims on stages, held by this process, by one that was killed, and by another machine's."""

import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mm1_lab.results import claims
from mm1_lab.results.claims import Claim, ClaimLost, Claims
from tests.conftest import REPOSITORY

KILLED = """
import os, pathlib
from mm1_lab.results.claims import Claims
assert Claims(pathlib.Path(".claims")).take(["a", "b"])
os._exit(9)
"""


class Clock(SimpleNamespace):
    """In place of the module `time`: every look at it takes ten seconds."""

    now = 0.0

    def monotonic(self) -> float:
        self.now += 10
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(claims, "time", clock)
    return clock


def claim_elsewhere(folder: Path, key: str) -> Path:
    """A claim of a process on another machine."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{key}.0"
    path.write_text("another-kernel/1 other-host 12\n", encoding="utf-8")
    return path


def test_all_stages_or_none_until_they_are_released(tmp_path: Path) -> None:
    first, second = Claims(tmp_path / ".claims"), Claims(tmp_path / ".claims")
    claim = first.take(["b"])
    assert claim
    assert second.take(["a", "b"]) is None and second.is_renewed("b")
    assert first.take(["a"]), "what was claimed together with b is free"
    claim.release()
    with second.take(["b"]) or pytest.fail("not released"):
        assert first.take(["b"]) is None
    assert [path.name for path in (tmp_path / ".claims").iterdir()] == ["a.0"]


def test_a_killed_process_on_this_machine_holds_nothing(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    for _ in range(2):
        assert (
            subprocess.run([sys.executable, "-c", KILLED], cwd=tmp_path, env=environment, check=False).returncode == 9
        )
    assert {path.name for path in (tmp_path / ".claims").iterdir()} == {"a.1", "b.1"}
    claim = Claims(tmp_path / ".claims").take(["a", "b"])
    assert claim
    claim.release()
    assert not list((tmp_path / ".claims").iterdir())


def test_another_machine_s_claim_is_stale_when_its_date_stands_still(tmp_path: Path, clock: Clock) -> None:
    """However old the date is: clocks of two machines differ."""
    path = claim_elsewhere(tmp_path, "a")
    os.utime(path, (0, 0))
    mine = Claims(tmp_path)
    assert not any(mine.take(["a"]) for _ in range(12)), "watched for less than two minutes"
    assert not mine.is_renewed("a")
    os.utime(path, (5, 5))
    assert mine.take(["a"]) is None and mine.is_renewed("a")
    assert not any(mine.take(["a"]) for _ in range(12))
    for _ in range(3):
        if claim := mine.take(["a"]):
            break
    assert claim and [path.name for path in tmp_path.iterdir()] == ["a.1"]


def test_time_in_which_nobody_looked_does_not_count(tmp_path: Path, clock: Clock) -> None:
    claim_elsewhere(tmp_path, "a")
    mine = Claims(tmp_path)
    assert mine.take(["a"]) is None
    clock.now += 1e6  # a machine that slept, or a file server that was away
    assert mine.take(["a"]) is None


def test_without_locks_dates_decide_on_one_machine_too(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims.fcntl, "flock", lambda *_: None)
    held = Claims(tmp_path).take(["a"])
    other = Claims(tmp_path)
    assert held and other.take(["a"]) is None, "a lock that anybody gets says nothing"


def test_of_many_that_find_it_abandoned_one_takes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    abandoned = Claims._is_abandoned
    monkeypatch.setattr(Claims, "_is_abandoned", lambda own, path: path.suffix == ".0" or abandoned(own, path))
    for _ in range(20):
        claim_elsewhere(tmp_path, "a")
        start = threading.Barrier(8)
        taken: list[Claim] = []

        def take(start: threading.Barrier = start, taken: list[Claim] = taken) -> None:
            mine = Claims(tmp_path)
            start.wait()
            if claim := mine.take(["a"]):
                taken.append(claim)

        threads = [threading.Thread(target=take) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(taken) == 1
        taken[0].release()
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("how", ["superseded", "deleted"])
def test_who_was_silent_for_too_long_learns_that_another_took_over(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "RENEW_SECONDS", 0.01)
    claim: Any = Claims(tmp_path).take(["a"])
    claim.check()
    if how == "superseded":
        (tmp_path / "a.1").touch()
    else:
        (tmp_path / "a.0").unlink()
    with pytest.raises(ClaimLost, match=r"a\.0: another process has taken over"):
        for _ in range(1000):
            claim.check()
            threading.Event().wait(0.01)
    claim.release()
