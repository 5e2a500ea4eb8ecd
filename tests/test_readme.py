"""What README shows, run: its lines for a connector, in a copy of the package, by the command."""

import re
import shutil
from pathlib import Path

from tests.conftest import REPOSITORY, make_place


def shown(language: str, heading: str) -> str:
    """The first code block of the language under the heading."""
    section = (REPOSITORY / "README.md").read_text(encoding="utf-8").split(f"## {heading}\n", 1)[1].split("\n## ")[0]
    block = re.search(rf"```{language}\n(.*?)```", section, re.DOTALL)
    assert block
    return block.group(1)


def test_a_connector_of_one_s_own(tmp_path: Path) -> None:
    code, arm = shown("python", "Your own connector"), shown("yaml", "Your own connector")
    assert len([line for line in (code + arm).splitlines() if line.strip()]) <= 20
    shutil.copytree(REPOSITORY / "mm1_lab", tmp_path / "copy" / "mm1_lab", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(REPOSITORY / "analysis", tmp_path / "copy" / "analysis")
    connectors = tmp_path / "copy" / "mm1_lab" / "model" / "connectors.py"
    connectors.write_text(connectors.read_text(encoding="utf-8") + "\n\n" + code, encoding="utf-8")
    place = make_place(tmp_path)
    sweep = place.folder / "sweeps" / "connector_beyond.yaml"
    sweep.write_text(sweep.read_text(encoding="utf-8").replace("arms:\n", arm, 1), encoding="utf-8")
    name = re.search(r"^  ([\w-]+):", arm, re.MULTILINE)
    assert name
    arguments = ("connector_beyond", "--scale", "smoke", "--only", name.group(1))
    output = place.run("run", *arguments, package=tmp_path / "copy")
    assert "1 of 1 trials" in output
    assert f"there is no connector '{name.group(1)}'" in place.run("run", *arguments, "--seeds", "7,", code=2)
