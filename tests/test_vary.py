"""`--vary` and dotted fields: sweeps from the command line and grids over parts of a field."""

from pathlib import Path

import pytest

from mm1_lab.cli import main
from mm1_lab.config import load_sweep
from tests.conftest import REPOSITORY

SMOKE = ("--scale", "smoke")


def written(folder: Path) -> Path:
    (path,) = (folder / "sweeps").glob("*.yaml")
    return path


def test_one_field_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["plan", "base", "--vary", "image_tokens=64,144", "--vary", "data_mix.text=0.5,2", *SMOKE]
    assert main(command) == 0
    path = written(tmp_path)
    assert f"{path.relative_to(tmp_path)}: this sweep" in capsys.readouterr().out
    sweep = load_sweep(path, REPOSITORY / "sweeps")
    assert list(sweep.arms) == ["base", "image_tokens 64", "data_mix.text 0.5", "data_mix.text 2"], "144 is the base's"
    mixes = {name: recipe.data_mix.model_dump() for name, recipe in sweep.arms.items()}
    assert mixes["data_mix.text 2"] == mixes["base"] | {"text": 2}
    content = path.read_text(encoding="utf-8")
    path.write_text(content + "contrasts: []\n", encoding="utf-8")
    assert main(command) == 0 and written(tmp_path).read_text(encoding="utf-8").endswith("contrasts: []\n")
    assert main(["plan", path.stem, *SMOKE]) == 0, "it is a sweep like others"


def test_all_combinations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    varied = ("--vary", "image_tokens=64,144", "--vary", "data_mix.text=1,2", "--grid")
    assert main(["plan", "base", *varied, *SMOKE]) == 0
    arms = load_sweep(written(tmp_path), REPOSITORY / "sweeps").arms
    assert list(arms) == ["64 1", "64 2", "144 1", "144 2"]
    assert (arms["64 2"].image_tokens, arms["64 2"].data_mix.model_dump()["text"]) == (64, 2)


def test_other_values_are_another_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where their letters are the same, or too many for a file's name; a default is the base's own."""
    monkeypatch.chdir(tmp_path)
    for varied in ("frozen=[encoder],[decoder]", "frozen=[encoder, decoder]"):
        assert main(["plan", "base", "--vary", varied, *SMOKE]) == 0
    arms = [list(load_sweep(path, REPOSITORY / "sweeps").arms) for path in sorted(tmp_path.glob("sweeps/*.yaml"))]
    assert sorted(arms) == [["base", "frozen encoder", "frozen decoder"], ["base", "frozen encoder, decoder"]]
    assert main(["plan", "base", "--vary", f"steps={','.join(map(str, range(1, 80)))}", *SMOKE]) == 0
    assert main(["plan", "base", "--vary", "images=shown,blind", *SMOKE]) == 0
    (path,) = tmp_path.glob("sweeps/*images*.yaml")
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
def test_what_cannot_be_varied_leaves_no_file(
    varied: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [word for one in varied for word in ("--vary", one)]
    assert main(["plan", "base", *words, *SMOKE]) == 2
    error = capsys.readouterr().err
    assert WRONG[varied] in error and error.count("\n") == 1
    assert not list(tmp_path.glob("sweeps/*.yaml"))


def test_a_recipe_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["plan", "data_mix", "--vary", "steps=1", *SMOKE]) == 2
    assert "there is no recipe 'data_mix'; known: base," in capsys.readouterr().err
    assert main(["plan", "base", "encoder", "--vary", "steps=1", *SMOKE]) == 2
    assert main(["plan", "data_mix", "--grid", *SMOKE]) == 2
    assert capsys.readouterr().err.endswith("--grid needs --vary\n")
