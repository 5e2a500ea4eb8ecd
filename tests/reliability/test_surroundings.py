"""A terminal, a machine or a file system that lacks something: commands do without it, or say in a line what to do."""

import fcntl
import io
import resource
import sys
from pathlib import Path

import pytest

from mm1_lab.cli import main
from mm1_lab.config import RequestError
from mm1_lab.orchestrate.execution.executor import check_memory
from mm1_lab.orchestrate.execution.ray_tune import LEAST_FOR_RAY
from mm1_lab.results import Ledger

RUN = ("run", "data_mix", "--scale", "smoke", "--only", "base", "--only", "captions")


def test_a_terminal_that_lacks_characters_gets_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert main(["show", "data_mix", "--scale", "smoke"]) == 0
    sys.stdout.seek(0)
    assert "data_mix.synthetic_share 0.07 ? 0.0" in sys.stdout.read()


def test_memory_that_is_too_little_for_ray_is_told_before_ray_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (2 * 10**9, 0))
    with pytest.raises(RequestError, match=r"memory is limited to 2.0 GB.*or run without Ray \(--inline\)$"):
        check_memory(LEAST_FOR_RAY)


def test_a_gigabyte_is_too_little_to_train(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (10**9, 0))
    assert main([*RUN, "--inline"]) == 2
    assert capsys.readouterr().err == (
        "mm1-lab: memory is limited to 1.0 GB, and the libraries alone need 1.5 GB; raise the limit (ulimit -v)\n"
    )


def test_locks_that_do_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Ledger(tmp_path).check_writable()
    assert not capsys.readouterr().err
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    Ledger(tmp_path).check_writable()
    assert f"{tmp_path}: locks do nothing on its file system; run one command at a time" in capsys.readouterr().err
