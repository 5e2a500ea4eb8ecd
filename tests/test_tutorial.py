"""docs/first-hour.md, followed block by block in one folder, and docs/notebook.ipynb, cell by cell."""

import json
import re
import shlex
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.conftest import REPOSITORY, Place, Told, ask_without_demonstrations

EXTENDING = (REPOSITORY / "docs" / "extending.md").read_text(encoding="utf-8").split("## Your own connector\n")[1]


def sections() -> list[tuple[str, list[tuple[str, str]]]]:
    """Heading, and language and text of every block of code that has one, in order."""
    text = (REPOSITORY / "docs" / "first-hour.md").read_text(encoding="utf-8")
    return [
        (section.split("\n")[0], re.findall(r"^```(\w+)\n(.*?)```", section, re.DOTALL | re.MULTILINE))
        for section in text.split("\n## ")[1:]
    ]


def add_connector(clone: Path) -> None:
    """As docs/extending.md has it."""
    code, arms = (re.findall(rf"```{language}\n(.*?)```", EXTENDING, re.DOTALL)[0] for language in ("python", "yaml"))
    assert len([line for line in (code + arms).splitlines() if line.strip()]) <= 20
    (clone / "sweeps" / "mine.py").write_text(code, encoding="utf-8")
    sweep = clone / "sweeps" / "connector_beyond.yaml"
    sweep.write_text(sweep.read_text(encoding="utf-8").replace("arms:\n", arms, 1), encoding="utf-8")


@pytest.mark.slow
@pytest.mark.usefixtures("few_documents", "forgotten", "unrendered")
def test_every_command_of_the_first_hour_works(again: Place, told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the first sweep was run already, as other tests need it."""
    monkeypatch.chdir(again.folder)
    said: dict[str, str] = {}
    for heading, blocks in sections():
        if heading == "A connector of your own":
            add_connector(again.folder)
        for language, text in blocks:
            if language == "python":
                exec(text, {})
                continue
            for line in text.splitlines():
                program, *arguments = shlex.split(line)
                assert program == "mm1-lab", line
                if arguments == ["dashboard"]:  # tests/test_cli.py
                    continue
                said[f"{heading}: {arguments[0]}"] = told(*arguments)
    commands = {"plan", "run", "status", "compare", "show", "report", "init", "show-data", "fit-lr-law"}
    assert {command.split(": ")[-1] for command in said} == commands
    assert " 1 of 2 trials done before" in said["A question of your own: run"]
    assert "connector_beyond at smoke: 1 task, 1 of 2 trials done before" in said["A connector of your own: run"]
    assert (again.results / "report.html").exists()
    assert "data_mix" in said["Data and a benchmark of your own: run"]
    assert ": 1 task, " in said["Data and a benchmark of your own: run"], "its evaluation alone"
    (scores,) = (path for path in again.results.glob("smoke/*/scores.csv") if "shades" in path.read_text("utf-8"))
    assert ",data=data-" in scores.parent.name
    assert "-0.3" in said["A learning-rate law from a table: fit-lr-law"].replace("−", "-"), "the law's slope"


@pytest.mark.parametrize("seeds", [1, pytest.param(2, marks=pytest.mark.soak)])
@pytest.mark.usefixtures("few_documents", "unrendered")
def test_the_notebook_runs(seeds: int, again: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder of which the scale asks fewer questions, without examples."""
    import matplotlib.pyplot as plt

    ask_without_demonstrations(again.folder)
    monkeypatch.chdir(REPOSITORY / "docs")
    monkeypatch.setattr(tempfile, "mkdtemp", lambda: str(again.folder))
    notebook = json.loads((REPOSITORY / "docs" / "notebook.ipynb").read_text(encoding="utf-8"))
    names: dict[str, Any] = {}
    for cell in notebook["cells"]:
        assert not cell.get("outputs"), "outputs are not committed"
        if cell["cell_type"] == "code":
            source = "".join(cell["source"]).replace('"smoke", seeds=2', f'"smoke", seeds={seeds}')
            exec(compile(source, cell["id"], "exec"), names)
    assert names["figure"].number in plt.get_fignums(), "Jupyter shows no others"
    assert names["axes"].get_lines()
    plt.close(names["figure"])
    assert set(names["ran"]["arm"]) == {"base", "64 tokens", "averaged"}
    assert set(names["ran"]["seed"]) == set(range(seeds))
    assert [row["second"] for row in names["verdicts"].claims] == ["base", "base"]
    possible = {"supported", "contradicted", "undecided"} if seeds > 1 else {"not judged"}
    assert {row["verdict"] for row in names["verdicts"].claims} <= possible
    table = pd.read_csv(names["folder"] / "table.csv")
    base = table[table["arm"] == "base"].drop_duplicates("measure").set_index("measure")["value"]
    means = names["means"].loc["base"].mean()
    assert len(names["judged"]) and means.to_dict() == pytest.approx(base[["0-shot", "4-shot", "8-shot"]].to_dict())
