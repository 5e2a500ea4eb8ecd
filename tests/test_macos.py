"""What macOS does otherwise, imitated: nothing here has run on it."""

import sys
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.accelerators import MPSAccelerator

from analysis import redraw
from mm1_lab import team
from mm1_lab.config import RequestError, Resources
from mm1_lab.results import Ledger
from mm1_lab.train.fit import DataModule, _quiet
from mm1_lab.weights.pretrained import tensor_names, weights_digest
from tests.pretrained import save_decoder


@pytest.fixture
def on_macos(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")


def test_what_the_finder_leaves_damages_no_stage(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "results", tmp_path / "store")
    partial = ledger.begin_stage("f")
    assert partial is not None
    left = (".DS_Store", "._model.safetensors")  # the latter on disks of other systems
    for name in ("model.safetensors", *left):
        (partial / name).write_text("before")
    ledger.finish_stage("f")
    for name in left:
        (ledger.stage_folder("f") / name).write_text("after")
    assert Ledger(ledger.results, ledger.store).has_intact_weights("f")


def test_a_pre_trained_model_on_a_disk_of_another_system(tmp_path: Path) -> None:
    folder = save_decoder("llama", tmp_path)
    digest, names = weights_digest(folder, "it"), tensor_names(folder)
    (folder / "._model.safetensors").write_bytes(b"\0\5\x16\7")  # macOS's notes on the file
    assert (weights_digest(folder, "it"), tensor_names(folder)) == (digest, names)


def test_the_processor_computes_and_nobody_is_told_to_set_what_is_no_setting_here(
    monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setattr(MPSAccelerator, "is_available", staticmethod(lambda: True))
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(team, "_gpu_allowed", True)  # whatever an earlier test asked for
    with _quiet():
        trainer = pl.Trainer(accelerator=team.device().type, logger=False, enable_checkpointing=False)
    assert trainer.strategy.root_device.type == "cpu" and not recwarn.list
    with pytest.raises(RequestError, match=r"finds no GPU .*resources\.gpus=0"):
        team.check_gpu()


@pytest.mark.usefixtures("on_macos")
def test_no_process_is_forked_to_load_data_or_to_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    loader = DataModule(lambda step: step, 3, Resources(workers=2)).train_dataloader()  # type: ignore[arg-type, return-value]
    assert loader.num_workers == 0
    methods: list[str] = []

    def note(method: str) -> None:
        methods.append(method)
        raise InterruptedError

    monkeypatch.setattr(redraw, "get_context", note)
    monkeypatch.setattr(redraw, "machine_cpus", lambda: 2)
    with pytest.raises(InterruptedError):
        redraw._draw_all([Path("a"), Path("b")], [Path("a"), Path("b")], latex=False)
    assert methods == ["spawn"]
