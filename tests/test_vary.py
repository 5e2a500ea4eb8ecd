"""`--vary` and dotted fields: sweeps from the command line and grids over parts of a field."""

from pathlib import Path

import pytest

from mm1_lab.cli import main
from mm1_lab.config import load_sweep
from tests.conftest import REPOSITORY, Refused

SMOKE = ("--scale", "smoke")


def written(folder: Path) -> Path:
    (path,) = (folder / "sweeps").glob("*.yaml")
    return path


def test_one_field_at_a_time(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["plan", "base", "--vary", "image_tokens=64,144", "--vary", "data_mix.text=0.5,2", *SMOKE]
    assert main(command) == 0
    path = written(here)
    assert f"{path.relative_to(here)}: this sweep" in capsys.readouterr().out
    sweep = load_sweep(path, REPOSITORY / "sweeps")
    assert list(sweep.arms) == ["base", "image_tokens 64", "data_mix.text 0.5", "data_mix.text 2"], "144 is the base's"
    mixes = {name: recipe.data_mix.model_dump() for name, recipe in sweep.arms.items()}
    assert mixes["data_mix.text 2"] == mixes["base"] | {"text": 2}
    content = path.read_text(encoding="utf-8")
    path.write_text(content + "contrasts: []\n", encoding="utf-8")
    assert main(command) == 0 and written(here).read_text(encoding="utf-8").endswith("contrasts: []\n")
    assert main(["plan", path.stem, *SMOKE]) == 0, "it is a sweep like others"


def test_all_combinations(here: Path) -> None:
    varied = ("--vary", "image_tokens=64,144", "--vary", "data_mix.text=1,2", "--grid")
    assert main(["plan", "base", *varied, *SMOKE]) == 0
    arms = load_sweep(written(here), REPOSITORY / "sweeps").arms
    assert list(arms) == ["64 1", "64 2", "144 1", "144 2"]
    assert (arms["64 2"].image_tokens, arms["64 2"].data_mix.model_dump()["text"]) == (64, 2)


def test_other_values_are_another_sweep(here: Path) -> None:
    """Also where their letters are the same, or too many for a file's name; a default is the base's own."""
    for varied in ("frozen=[encoder],[decoder]", "frozen=[encoder, decoder]"):
        assert main(["plan", "base", "--vary", varied, *SMOKE]) == 0
    arms = [list(load_sweep(path, REPOSITORY / "sweeps").arms) for path in sorted(here.glob("sweeps/*.yaml"))]
    assert sorted(arms) == [["base", "frozen encoder", "frozen decoder"], ["base", "frozen encoder, decoder"]]
    assert main(["plan", "base", "--vary", f"steps={','.join(map(str, range(1, 80)))}", *SMOKE]) == 0
    assert main(["plan", "base", "--vary", "images=shown,blind", *SMOKE]) == 0
    (path,) = here.glob("sweeps/*images*.yaml")
    assert list(load_sweep(path, REPOSITORY / "sweeps").arms) == ["base", "images blind"]


WRONG = {
    ("x=1",): "recipes have no 'x'; known: encoder,",
    ("image_tokens",): "give FIELD=VALUE,VALUE, such as image_tokens=64,144",
    ("image_tokens=65",): "known: 64, 144",
    ("steps=1", "steps=2"): "steps is given twice",
    ("image_tokens.a=3",): "image_tokens",
    ("data_mix.text=x",): "data_mix.text: Input should be a valid number",
    ("steps=[",): "is no plain YAML",
}


@pytest.mark.parametrize("varied", WRONG)
def test_what_cannot_be_varied_leaves_no_file(varied: tuple[str, ...], here: Path, refused: Refused) -> None:
    words = [word for one in varied for word in ("--vary", one)]
    assert WRONG[varied] in refused("plan", "base", *words, *SMOKE)
    assert not list(here.glob("sweeps/*.yaml"))


@pytest.mark.usefixtures("here")
def test_a_recipe_is_named(refused: Refused) -> None:
    error = refused("plan", "data_mix", "--vary", "steps=1", *SMOKE)
    assert "there is no recipe 'data_mix'; known: base," in error
    assert refused("plan", "base", "encoder", "--vary", "steps=1", *SMOKE)
    assert refused("plan", "data_mix", "--grid", *SMOKE).endswith("--grid needs --vary\n")
