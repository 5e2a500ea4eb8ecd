import pytest

from analysis.study import Study
from mm1_lab.config import Sweep, load_sweep
from tests.analysis.results_folder import ROOT, study_of


@pytest.fixture(scope="session")
def data_mix() -> Sweep:
    return load_sweep(ROOT / "sweeps" / "data_mix.yaml")


@pytest.fixture(scope="session")
def small_mix(data_mix: Sweep) -> Sweep:
    """A part of its arms, panels and contrasts, which is drawn faster."""
    names = ("base", "captions", "captions-50", "interleaved", "no-vecap", "blind")
    arms = {name: data_mix.arms[name] for name in names}
    of_a = {"100/0": "captions", "50/50": "captions-50", "0/100": "interleaved"}
    panels = {"a": data_mix.panels["a"].model_copy(update={"arms": of_a}), "d": data_mix.panels["d"]}
    contrasts = tuple(one for one in data_mix.contrasts if {one.first, one.second} <= set(arms))
    return data_mix.model_copy(update={"arms": arms, "panels": panels, "contrasts": contrasts})


@pytest.fixture(scope="session")
def mix_study(data_mix: Sweep) -> Study:
    """All its arms at three seeds; not to be changed."""
    return study_of(data_mix, range(3))
