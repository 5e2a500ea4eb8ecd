"""Leases on stages, held by this process, by one that was killed, and by another machine's."""

import errno
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from filelock import SoftFileLease

from mm1_lab import files
from mm1_lab.results import leases
from mm1_lab.results.leases import Lease, LeaseLost, Leases
from tests.conftest import REPOSITORY


@pytest.fixture(params=["local", "network"])
def disk(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Network file systems do not exchange two names, by which filelock takes what is abandoned."""
    if request.param == "network":
        # wherever a version of filelock has it
        having = [m for name, m in sys.modules.items() if name.startswith("filelock") and hasattr(m, "exchange_names")]
        exchange = having[0].exchange_names

        def refused(source: str, target: str) -> bool:
            return not source.startswith(str(tmp_path)) and exchange(source, target)

        for module in having:
            monkeypatch.setattr(module, "exchange_names", refused)
    monkeypatch.setattr(files, "RENEW_SECONDS", 0.05)


@pytest.fixture
def quick(disk: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lease is renewed every 50 ms, and stale after 300."""
    monkeypatch.setattr(files, "LEASE_SECONDS", 0.3)


def lease_elsewhere(folder: Path, key: str, name: str = "another-") -> Path:
    """A lease of a process on another machine, whose name and boot id differ from ours by `name` and 1."""
    folder.mkdir(exist_ok=True)
    held = Leases(folder).take([key])
    assert held
    written = (folder / key).read_text()
    held.release()
    start = re.sub(r"(?<=start=)\d+", lambda digits: str(int(digits[0]) + (1 << 64)), written)
    (folder / key).write_text(start.replace("host=", f"host={name}"))
    return folder / key


def test_a_process_that_was_killed_before_it_wrote_its_name_blocks_nobody(
    tmp_path: Path, disk: None, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "results.lease"):
        (tmp_path / name).touch()
    mine = Leases(tmp_path)
    assert mine.take(["a"]) is None, "it may be about to write"
    lease = wait_for(mine, "a", 60.0)
    assert lease
    lease.release()
    with files.locked(tmp_path / "results.lock"):
        assert (tmp_path / "results.lease").stat().st_size
    assert capsys.readouterr().err == f"{tmp_path / 'results.lease'}: {files.HELD}\n"
    assert not list(tmp_path.iterdir())


def test_of_two_that_wait_one_gets_the_lease(tmp_path: Path, disk: None, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").touch()
    os.utime(tmp_path / "a", (0, 0))
    slower, now_in = Leases(tmp_path), files.now_in
    taken: list[Any] = []

    def while_another_is_quicker(folder: Path) -> float:
        if not taken:
            (tmp_path / "a").unlink()
            taken.append(Leases(tmp_path).take(["a"]))
        return now_in(folder)

    monkeypatch.setattr(files, "now_in", while_another_is_quicker)
    while not taken:
        assert slower.take(["a"]) is None
    assert slower.take(["a"]) is None
    taken[0].release()


def test_a_clock_that_is_ahead_of_the_file_server_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ahead = time.time() + 600
    for module in (files, leases):
        monkeypatch.setattr(module, "time", SimpleNamespace(time=lambda: ahead, monotonic=time.monotonic))
    (tmp_path / "a").touch()  # by a process that is about to write its name
    mine = Leases(tmp_path)
    assert mine.take(["a"]) is None
    assert mine.recent() == {"a"}


def test_a_full_disk_that_takes_no_lease_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SoftFileLease, "acquire", Mock(side_effect=OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(OSError, match="No space left") as full:
        Leases(tmp_path).take(["a"])
    assert full.value.filename == str(tmp_path / "a")


def test_all_stages_or_none_until_they_are_released(tmp_path: Path) -> None:
    first, second = Leases(tmp_path / ".claims"), Leases(tmp_path / ".claims")
    lease = first.take(["b"])
    assert lease
    assert second.take(["a", "b"]) is None and not second.is_renewed("b")
    other = first.take(["a"])
    assert other, "what was leased together with b is free"
    lease.release()
    with second.take(["b"]) or pytest.fail("not released"):
        assert first.take(["b"]) is None
    assert [path.name for path in (tmp_path / ".claims").iterdir()] == ["a"]


def wait_for(mine: Leases, key: str, seconds: float, every: float = 0.02) -> Lease | None:
    """Tries again and again to take it."""
    lease, end = None, time.monotonic() + seconds
    while lease is None and time.monotonic() < end:
        time.sleep(every)
        lease = mine.take([key])
    return lease


def test_a_killed_process_of_this_machine_blocks_nobody(tmp_path: Path, disk: None) -> None:
    text = "import os; from pathlib import Path; from mm1_lab.results.leases import Leases"
    text += "; lease = Leases(Path()).take(['a']); os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", text], cwd=tmp_path)
    assert (tmp_path / "a").exists() and not Leases(tmp_path).recent()
    lease = wait_for(Leases(tmp_path), "a", 60.0)
    assert lease
    lease.release()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["another-", ""])
def test_another_machine_s_lease_is_stale_when_its_date_stands_still(name: str, tmp_path: Path, quick: None) -> None:
    """However old the date is: clocks of two machines differ."""
    path = lease_elsewhere(tmp_path, "a", name)
    mine = Leases(tmp_path)
    assert mine.recent() == {"a"}, "whether its process lives is not known"
    os.utime(path, (0, 0))
    assert wait_for(mine, "a", 0.2) is None and not mine.is_renewed("a"), "watched for a shorter time"
    os.utime(path, (5, 5))
    assert wait_for(mine, "a", 0.2) is None and mine.is_renewed("a")
    lease = wait_for(mine, "a", 5.0)
    assert lease
    lease.release()
    assert not list(tmp_path.iterdir())


def test_a_long_time_in_which_nobody_looked_does_not_count(tmp_path: Path, quick: None) -> None:
    """Nor is who was seen alive before it taken for alive; a machine may sleep, or a file server be away."""
    path = lease_elsewhere(tmp_path, "a")
    mine = Leases(tmp_path)
    assert mine.take(["a"]) is None and not mine.is_renewed("a")
    os.utime(path, (5, 5))
    assert mine.is_renewed("a")
    time.sleep(0.2)  # trains meanwhile, and the other one dies
    assert mine.take(["a"]) is None and not mine.is_renewed("a")
    lease_elsewhere(tmp_path, "b")
    assert wait_for(Leases(tmp_path), "b", 2.0, every=0.5) is None


def test_the_leases_of_a_dead_process_lapse_together(tmp_path: Path, quick: None) -> None:
    first, second = lease_elsewhere(tmp_path, "a"), lease_elsewhere(tmp_path, "b")
    mine, end = Leases(tmp_path), time.monotonic() + 5.0
    while second.exists() and time.monotonic() < end:
        os.utime(first)  # this one is alive, and yet the other is watched
        assert mine.take(["a", "b"]) is None
        time.sleep(0.02)
    assert not second.exists()
    assert mine.take(["a", "c"]) is None and not (tmp_path / "c").exists(), "what is free is left alone"


def test_of_many_that_find_it_abandoned_one_takes_it(tmp_path: Path, quick: None) -> None:
    lease_elsewhere(tmp_path, "a")
    taken: list[Lease] = []

    def take() -> None:
        mine, end = Leases(tmp_path), time.monotonic() + 0.8
        while time.monotonic() < end:
            if lease := mine.take(["a"]):
                taken.append(lease)

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 1
    taken[0].check()
    taken[0].release()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("how", ["superseded", "deleted"])
def test_who_was_silent_for_too_long_learns_that_another_took_over(how: str, tmp_path: Path, quick: None) -> None:
    lease: Any = Leases(tmp_path).take(["a"])
    lease.check()
    (tmp_path / "a").unlink()
    if how == "superseded":
        lease_elsewhere(tmp_path, "a")
    with pytest.raises(LeaseLost, match=r"a: another process has taken over"):
        for _ in range(1000):
            lease.check()
            time.sleep(0.01)
    lease.release()
    assert (tmp_path / "a").exists() == (how == "superseded"), "another's lease stays"


def test_a_command_that_is_stopped_while_it_imports_leaves_no_lease(tmp_path: Path) -> None:
    """It ends at once then, as some libraries swallow what is raised there."""
    (tmp_path / "slow.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(60)\n")
    text = "import signal; from pathlib import Path; from mm1_lab import cli; from mm1_lab.results.leases import Leases"
    text += "; signal.signal(signal.SIGTERM, cli._stop); lease = Leases(Path('claims')).take(['a']); import slow"
    process = subprocess.Popen([sys.executable, "-c", text], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert process.stdout and process.stdout.readline() and (tmp_path / "claims" / "a").exists()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 130 and not (tmp_path / "claims" / "a").exists()


def test_a_command_that_is_stopped_while_it_imports_ray_leaves_no_copy_of_the_package(tmp_path: Path) -> None:
    text = "import time\nprint('importing', flush=True)\ntime.sleep(2)\ndef shutdown(): pass\n"
    (tmp_path / "ray.py").write_text(text)
    (tmp_path / "tmp").mkdir()
    paths = os.pathsep.join(map(str, (tmp_path, REPOSITORY)))
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "mm1_lab.cli", "run", "data_mix", "--scale", "smoke", "--only", "base"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": paths, "TMPDIR": str(tmp_path / "tmp")},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout and "importing\n" in iter(process.stdout.readline, "")
    assert list((tmp_path / "tmp").glob("mm1-lab-*"))
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 130 and not list((tmp_path / "tmp").glob("mm1-lab-*"))
