"""A wheel, installed into a folder of its own, works from anywhere."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

FOLDERS = ("mm1_lab", "analysis", "sweeps", "results/parts", "results/study")
FILES = ("pyproject.toml", "setup.py", "README.md", "LICENSE")


def run(*command: str, folder: Path, path: Path | None = None) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"PYTHONPATH": str(path)} if path else {}
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.mark.slow
def test_a_wheel_works_anywhere(tmp_path: Path) -> None:
    """With its own sweeps, scales, parts and study; a local `sweeps/` goes before them."""
    source, installed, empty = (tmp_path / name for name in ("source", "installed", "empty"))
    for folder in (source, empty):
        folder.mkdir()
    for name in FOLDERS:  # a copy, for building leaves things behind
        shutil.copytree(REPOSITORY / name, source / name)
    for name in FILES:
        shutil.copy(REPOSITORY / name, source / name)
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(tmp_path), ".", folder=source)
    (wheel,) = tmp_path.glob("*.whl")
    target = ("--target", str(installed))
    run(*pip, "install", "--no-compile", "--no-deps", "--no-index", *target, str(wheel), folder=empty)

    def command(*arguments: str) -> str:
        return run(sys.executable, "-m", "mm1_lab", *arguments, folder=empty, path=installed)

    where = run(sys.executable, "-c", "import mm1_lab; print(mm1_lab.__file__)", folder=empty, path=installed)
    assert where.startswith(str(installed))
    assert "data_mix at smoke: 12 trials" in command("plan", "data_mix", "--scale", "smoke")
    assert "shipped" in command("plan", "data_mix", "--only", "base")
    follows = "title: T\nrecipe: base\narms: {a: {learning_rate: law}}\n"
    (empty / "follows.yaml").write_text(follows, encoding="utf-8")
    assert "follows at mini: 1 trial," in command("plan", "follows.yaml")
    assert "17.7" in command("compare", "data_mix", "captions-50", "captions")

    shutil.copytree(REPOSITORY / "sweeps", empty / "sweeps")
    local = empty / "sweeps" / "data_mix.yaml"
    local.write_text(local.read_text(encoding="utf-8").replace("title: Pre-training data", "title: Mine", 1))
    assert command("show", "data_mix", "--scale", "smoke").startswith("Mine")
