"""Every YAML of the repository loads, resolves and says what it is."""

from pathlib import Path

import pytest

from analysis.study import FAMILIES_APART
from mm1_lab.config import (
    WORLD_DATA,
    RateSearch,
    Recipe,
    RequestError,
    load_scale,
    load_sweep,
    read_yaml,
    resolve_sweep,
)
from mm1_lab.orchestrate.planning.finding import find_scale
from tests.config.test_config import ModelsFromOutside

FOLDER = Path(__file__).parents[1] / "sweeps"
SWEEPS = sorted(FOLDER.glob("*.yaml"))
LAB_SWEEPS = sorted((FOLDER / "lab").glob("*.yaml"))
"""Of models that exist, so they resolve at lab alone."""
SCALES = sorted((FOLDER / "scales").glob("*.yaml"))
FAMILIES = ("", "captioning", "vqa", *FAMILIES_APART)


def test_every_yaml_is_a_sweep_a_recipe_or_a_scale() -> None:
    recipes = sorted((FOLDER / "recipes").glob("*.yaml"))
    assert sorted(FOLDER.rglob("*.y*ml")) == sorted([*SWEEPS, *LAB_SWEEPS, *SCALES, *recipes])
    for path in recipes:
        Recipe.parse(read_yaml(path), str(path))


NEED_WEIGHTS = ("encoder", "encoder_scratch", "final_chat", "final_models")
"""They ask how an encoder is pre-trained, so where encoders come ready-made each arm must name its own."""


@pytest.mark.parametrize("path", [*SWEEPS, *LAB_SWEEPS], ids=lambda path: path.stem)
def test_a_sweep_resolves_at_lab(path: Path) -> None:
    """At the other scales: tests/config/test_resolved.py."""
    sweep, numbers = load_sweep(path), find_scale("lab", sweeps=path.parent)
    if path.stem in NEED_WEIGHTS:
        with pytest.raises(RequestError, match=r"already pre-trained .* give this arm other|no encoder 'AIM-600M'"):
            resolve_sweep(sweep, numbers, (0, 1), WORLD_DATA, ModelsFromOutside())
        return
    trials = resolve_sweep(sweep, numbers, (0, 1), WORLD_DATA, ModelsFromOutside())
    assert [(trial.arm, trial.seed) for trial in trials] == [(arm, seed) for seed in (0, 1) for arm in sweep.arms]
    recipes = {str(recipe) for recipe in sweep.arms.values()}
    assert path not in LAB_SWEEPS or len(recipes) == len(sweep.arms)
    assert len({trial.fingerprint for trial in trials}) == 2 * len(recipes)


@pytest.mark.parametrize("path", [*SWEEPS, *LAB_SWEEPS], ids=lambda path: path.stem)
def test_a_sweep_s_header_gives_its_command_and_its_contrasts_use_measures_that_exist(path: Path) -> None:
    sweep, text = load_sweep(path), path.read_text(encoding="utf-8")
    header = text[: text.index("title:")]
    name = path.stem.replace("_", "-")
    command = f"make {name}" if isinstance(sweep.search, RateSearch) else f"make sweep-{name}"
    if path in LAB_SWEEPS:
        command = f"mm1-lab run sweeps/lab/{path.name} --scale lab"
        assert "Needs --data" in header
    assert command in header and "paper found" in header
    for scale in ["lab"] if path in LAB_SWEEPS else [scale.stem for scale in SCALES]:
        shots = load_scale(scale, FOLDER / "scales").evaluate.shots
        known = {f"{family} {k}-shot".strip() for family in FAMILIES for k in shots}
        assert {str(contrast.measure) for contrast in sweep.contrasts} <= {"text-core", *known}
