"""What macOS does otherwise, imitated: nothing here has run on it."""

import sys

import pytest

from mm1_lab.config import Resources
from mm1_lab.train.fit import DataModule


def test_no_process_is_forked_to_load_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    loader = DataModule(lambda step: step, 3, Resources(workers=2)).train_dataloader()  # type: ignore[arg-type, return-value]
    assert loader.num_workers == 0
