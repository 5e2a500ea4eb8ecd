"""docs/first-hour.md, followed block by block in one folder, and docs/notebook.ipynb, cell by cell."""

import json
import re
import runpy
import shlex
from pathlib import Path
from typing import Any

import pytest

from mm1_lab.cli import main
from tests.conftest import REPOSITORY, make_place


def blocks() -> list[tuple[str, str]]:
    """Language and text of every block of code, in order."""
    text = (REPOSITORY / "docs" / "first-hour.md").read_text(encoding="utf-8")
    return re.findall(r"```(\w+)\n(.*?)```", text, re.DOTALL)


@pytest.mark.slow
def test_every_command_of_the_first_hour_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(make_place(tmp_path).folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    ran = []
    for language, text in blocks():
        if language == "python":
            (tmp_path / "block.py").write_text(text, encoding="utf-8")
            runpy.run_path(str(tmp_path / "block.py"))
            continue
        for line in text.splitlines():
            program, *arguments = shlex.split(line)
            if program == "cd":
                monkeypatch.chdir(Path.cwd() / arguments[0])
                continue
            assert program == "mm1-lab" and main(arguments) == 0, f"{line}\n{capsys.readouterr().err}"
            ran.append(arguments[0])
    assert {"plan", "run", "status", "compare", "show", "report", "init", "show-data", "fit-lr-law"} == set(ran)
    assert (tmp_path / "results" / "local" / "report.html").exists()
    assert "-0.3" in capsys.readouterr().out.replace("−", "-"), "the law's slope"


@pytest.mark.soak
def test_the_notebook_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    monkeypatch.chdir(REPOSITORY / "docs")
    notebook = json.loads((REPOSITORY / "docs" / "notebook.ipynb").read_text(encoding="utf-8"))
    names: dict[str, Any] = {}
    for cell in notebook["cells"]:
        assert not cell.get("outputs"), "outputs are not committed"
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
    assert isinstance(names["figure"], Figure) and names["figure"].axes[0].get_lines()
    assert len(names["judged"]) and set(names["means"].columns) == {0, 4, 8}
