from typing import Any, BinaryIO

import pytest
from matplotlib.figure import Figure
from PIL import Image

from mm1_lab.config import Sweep, load_sweep
from tests.analysis.results_folder import ROOT


@pytest.fixture(scope="session")
def data_mix() -> Sweep:
    return load_sweep(ROOT / "sweeps" / "data_mix.yaml")


@pytest.fixture
def unrendered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are written as a pixel: rendering takes most of the time, and other tests look at pictures."""

    def one_pixel(figure: Figure, file: BinaryIO, **_: Any) -> None:
        Image.new("RGB", (1, 1)).save(file, "png")

    monkeypatch.setattr(Figure, "savefig", one_pixel)
