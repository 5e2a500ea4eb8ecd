"""What macOS does otherwise, imitated: nothing here has run on it."""

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from mm1_lab import team
from mm1_lab.config import RequestError, Resources, find_yaml
from mm1_lab.results import Ledger
from mm1_lab.train.fit import DataModule


@pytest.fixture
def on_macos(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")


def test_names_that_differ_by_case_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def is_file(path: Path) -> bool:
        return path.name.lower() in map(str.lower, os.listdir(path.parent))

    (tmp_path / "mix.yaml").touch()
    monkeypatch.setattr(Path, "is_file", is_file)
    assert find_yaml("there is no sweep", "mix", [tmp_path]) == tmp_path / "mix.yaml"
    with pytest.raises(RequestError, match="there is no sweep 'Mix'; did you mean 'mix'"):
        find_yaml("there is no sweep", "Mix", [tmp_path])


def test_what_the_finder_leaves_damages_no_stage(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "results", tmp_path / "store")
    partial = ledger.begin_stage("f")
    assert partial is not None
    for name in ("model.safetensors", ".DS_Store"):
        (partial / name).write_text("before")
    ledger.finish_stage("f")
    (ledger.stage_folder("f") / ".DS_Store").write_text("after")
    assert Ledger(ledger.results, ledger.store).has_intact_weights("f")


@pytest.mark.usefixtures("on_macos")
def test_no_process_is_forked_to_load_data() -> None:
    loader = DataModule(lambda step: step, 3, Resources(workers=2)).train_dataloader()  # type: ignore[arg-type, return-value]
    assert loader.num_workers == 0


@pytest.mark.usefixtures("on_macos")
def test_processors_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(team.subprocess, "run", lambda *command, **how: SimpleNamespace(stdout="Apple M4\n"))
    team._cpu.cache_clear()
    assert team.processor() == "Apple M4"
    team._cpu.cache_clear()
