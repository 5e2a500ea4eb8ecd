"""A wheel, installed into a folder of its own, works from anywhere."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.conftest import REPOSITORY, run_python
from tests.test_own_connectors import write as write_connectors

FOLDERS = ("mm1_lab", "analysis", "sweeps", "results/parts", "results/study", "tests/analysis")
FILES = ("pyproject.toml", "README.md", "LICENSE")

PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
TORCH = ("torch", "triton", "nvidia", "cuda")
GENERATE = """
import torch
from transformers import AutoModelForImageTextToText
model = AutoModelForImageTextToText.from_pretrained("model", trust_remote_code=True)
image = model.config.image_token_id
answer = model.generate(torch.tensor([[1, 5]]), max_new_tokens=3, prefix_allowed_tokens_fn=lambda *_: [image])
assert answer.tolist() == [[1, 5, image, image, image]], answer
"""
"""An exported model goes on after image tokens that it said itself."""
PLANS = """
import mm1_lab
from mm1_lab.cli import main
print(mm1_lab.__file__)
assert main(["plan", "data_mix", "--only", "base"]) == main(["plan", "sweeps/own.yaml", "--scale", "smoke"]) == 0
"""


def run(*command: str, folder: Path, path: Path | None = None) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"PYTHONPATH": str(path)} if path else {}
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def built(folder: Path) -> Path:
    """The package's wheel, made in the folder."""
    source = folder / "source"
    source.mkdir()
    for name in FOLDERS:  # a copy, for building leaves things behind
        shutil.copytree(REPOSITORY / name, source / name)
    for name in FILES:
        shutil.copy(REPOSITORY / name, source / name)
    run(*PIP, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(folder), ".", folder=source)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.mark.slow
def test_a_wheel_works_anywhere(tmp_path: Path) -> None:
    """With its own sweeps, scales, parts and study; a local `sweeps/` goes before them."""
    installed, empty = tmp_path / "installed", tmp_path / "empty"
    empty.mkdir()
    wheel = built(tmp_path)
    shutil.unpack_archive(wheel, installed, "zip")
    write_connectors(empty)
    plans = run(sys.executable, "-c", PLANS, folder=empty, path=installed)
    assert plans.startswith(str(installed)) and "shipped" in plans
    assert "own at smoke: 2 trials, 6 stages to run" in plans
    assert not (installed / "tests").exists()
    study = installed / "mm1_lab" / "shipped" / "results" / "study"
    assert (study / "mini" / "data_mix" / "scores.parquet").exists() and not (study / "trials").exists()

    shutil.copytree(REPOSITORY / "sweeps", empty / "sweeps", dirs_exist_ok=True)
    local = empty / "sweeps" / "data_mix.yaml"
    local.write_text(local.read_text(encoding="utf-8").replace("title: Pre-training data", "title: Mine", 1))
    show = ("show", "data_mix", "--scale", "smoke")
    assert run(sys.executable, "-m", "mm1_lab", *show, folder=empty, path=installed).startswith("Mine")


def test_scores_are_judged_without_what_trains(tmp_path: Path) -> None:
    """With the dependencies alone, without those of the extra `lab`."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lab = {re.split(r"[\[><=]", one)[0] for one in project["optional-dependencies"]["lab"]}
    assert {"torch", "ray", "mlflow"} <= lab
    (tmp_path / "scores.csv").write_text("arm,seed,score\na,0,1\na,1,2\nb,0,4\nb,1,5.1\n")
    plan = ["plan", "data_mix", "--results", str(REPOSITORY / "results" / "study"), "--only", "base", "--seeds", "3,"]
    code = f"import sys; sys.modules |= dict.fromkeys({sorted(lab)}); from mm1_lab.cli import main\n"
    code += f"assert main(['judge', 'scores.csv']) == 0; sys.exit(main({plan}))"
    found = run_python(code, folder=tmp_path)
    told = "is not installed; what trains needs pip install '.[lab]'"
    assert found.returncode == 1 and told in found.stderr and "AssertionError" not in found.stderr, found.stderr


def test_the_version_is_the_source_s() -> None:
    """Not that of the last installation: after a `git pull`, scores would record an old one."""
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    assert run_python("from mm1_lab.cli import main; main(['--version'])").stdout == f"mm1-lab {citation['version']}\n"


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not shutil.which("uv"), reason="needs uv, and a package index")
@pytest.mark.parametrize("versions", ["lowest-direct", "highest"])
def test_a_sweep_runs_with_the_lowest_and_the_newest_versions_that_are_allowed(tmp_path: Path, versions: str) -> None:
    """Of all direct dependencies; torch is the one of this environment, for other builds of it take gigabytes."""
    import torch

    (tmp_path / "torch.txt").write_text(f"torch=={torch.__version__.partition('+')[0]}\n")
    allowed = ("--resolution", versions, "--extra", "lab", "--override", "torch.txt")
    command = ("uv", "pip", "compile", "--quiet", "--python", sys.executable, *allowed)
    found = run(*command, str(REPOSITORY / "pyproject.toml"), folder=tmp_path)
    lines = [line for line in found.splitlines() if not line.startswith((" ", "#", *TORCH)) or "torchmetrics" in line]
    (tmp_path / "found.txt").write_text("\n".join(lines) + "\n")
    run(sys.executable, "-m", "venv", "--without-pip", "found", folder=tmp_path)
    python = str(tmp_path / "found" / "bin" / "python")
    install = ("uv", "pip", "install", "--quiet", "--no-deps", "--python", python)
    run(*install, "-r", "found.txt", str(built(tmp_path)), folder=tmp_path)
    (packages,) = (tmp_path / "found").glob("lib/*/site-packages")
    for path in Path(torch.__file__).parents[1].glob("*"):
        if path.name in ("torch", "torchgen", "functorch") or path.match("torch-*.dist-info"):
            (packages / path.name).symlink_to(path)
    smoke = ("data_mix", "--scale", "smoke")
    for command in (
        ("run", *smoke, "--only", "base", "--only", "captions"),
        ("compare", *smoke, "base", "captions"),
        ("report",),
        ("export", *smoke, "--only", "base", "model"),
        ("fit-lr-law", "--scale", "smoke", "--sizes", "9M,85M,302M", "--inline"),
        ("sync-mlflow",),
        ("verify",),
    ):
        run(python, "-m", "mm1_lab", *command, folder=tmp_path)
    run(python, "-W", "error::FutureWarning", "-c", GENERATE, folder=tmp_path)
