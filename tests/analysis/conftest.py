import pytest

from mm1_lab.config import Sweep, load_sweep
from tests.analysis.results_folder import ROOT


@pytest.fixture(scope="session")
def data_mix() -> Sweep:
    return load_sweep(ROOT / "sweeps" / "data_mix.yaml")
