"""A terminal, a machine or a file system that lacks something: commands do without it, or say in a line what to do."""

import fcntl
import io
import sys
from pathlib import Path

import pytest

from mm1_lab.cli import main
from mm1_lab.results import Ledger


def test_a_terminal_that_lacks_characters_gets_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert main(["show", "data_mix", "--scale", "smoke"]) == 0
    sys.stdout.seek(0)
    assert "data_mix.synthetic_share 0.07 ? 0.0" in sys.stdout.read()


def test_locks_that_do_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Ledger(tmp_path).check_writable()
    assert not capsys.readouterr().err
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    Ledger(tmp_path).check_writable()
    assert f"{tmp_path}: locks do nothing on its file system; run one command at a time" in capsys.readouterr().err
