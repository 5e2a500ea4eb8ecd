"""Every YAML of the repository loads, resolves and says what it is."""

from pathlib import Path

import pytest

from mm1_lab.config import DataIdentity, Recipe, load_scale, load_sweep, read_yaml, resolve_sweep

FOLDER = Path(__file__).parents[1] / "sweeps"
SWEEPS = sorted(FOLDER.glob("*.yaml"))
SCALES = sorted((FOLDER / "scales").glob("*.yaml"))
FAMILIES = ("", "captioning", "vqa")


def test_every_yaml_is_a_sweep_a_recipe_or_a_scale() -> None:
    recipes = sorted((FOLDER / "recipes").glob("*.yaml"))
    assert sorted(FOLDER.rglob("*.y*ml")) == sorted([*SWEEPS, *SCALES, *recipes])
    for path in recipes:
        Recipe.parse(read_yaml(path), str(path))


@pytest.mark.parametrize("scale", SCALES, ids=lambda path: path.stem)
@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_a_sweep_resolves_at_every_scale(path: Path, scale: Path) -> None:
    sweep = load_sweep(path)
    trials = resolve_sweep(sweep, load_scale(scale.stem, scale.parent), (0, 1), DataIdentity())
    assert [(trial.arm, trial.seed) for trial in trials] == [(arm, seed) for seed in (0, 1) for arm in sweep.arms]
    recipes = {str(recipe) for recipe in sweep.arms.values()}
    assert len({trial.fingerprint for trial in trials}) == 2 * len(recipes)


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_a_sweeps_header_gives_the_command_and_what_the_paper_found(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    header = text[: text.index("title:")]
    name = path.stem.replace("_", "-")
    assert (f"make {name}" if load_sweep(path).search else f"make sweep-{name}") in header
    assert "paper found" in header


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_contrasts_use_measures_that_exist(path: Path) -> None:
    for scale in SCALES:
        shots = load_scale(scale.stem, scale.parent).evaluate.shots
        known = {"text-core", *(f"{family} {k}-shot".strip() for family in FAMILIES for k in shots)}
        assert {contrast.measure for contrast in load_sweep(path).contrasts} <= known
