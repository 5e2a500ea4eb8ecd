"""A terminal, a machine or a file system that lacks something: commands do without it, or say in a line what to do."""

import io
import resource
import sys

import pytest

from mm1_lab.cli import main
from mm1_lab.config import RequestError, load_scale
from mm1_lab.orchestrate.execution.ray_tune import RayTune
from mm1_lab.orchestrate.execution.worker import repository_commit
from tests.conftest import REPOSITORY


def test_a_terminal_that_lacks_characters_gets_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert main(["show", "data_mix", "--scale", "smoke"]) == 0
    sys.stdout.seek(0)
    assert "data_mix.synthetic_share 0.07 ? 0.0" in sys.stdout.read()


def test_memory_that_is_too_little_for_ray_is_told_before_ray_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (2 * 10**9, 0))
    with pytest.raises(RequestError, match=r"memory is limited to 2.0 GB.*or run without Ray \(--inline\)$"):
        RayTune().open(load_scale("smoke", REPOSITORY / "sweeps" / "scales"))


def test_a_clone_on_a_machine_without_git_has_no_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    assert repository_commit()
    monkeypatch.setenv("PATH", "")
    assert repository_commit() is None
