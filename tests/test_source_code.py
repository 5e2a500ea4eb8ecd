"""A part of one's own that is edited: its scores are kept, and everybody is told; a running sweep does not notice."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from mm1_lab import source_code
from mm1_lab.source_code import changed_parts, changed_text, code_hash
from tests.conftest import REPOSITORY, Place, make_place

FILE = '''
"""Doc."""
SIZE = 3
CONNECTORS = {}

def connector(name):
    return lambda kind: kind

def helper(x):
    return x * SIZE

def other(x):
    return x

@connector("mine")
class Mine:
    """What it does."""
    def forward(self, x):
        return helper(x)  # a comment
'''


def hash_of(text: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str | None:
    (folder / "connectors.py").write_text(text, encoding="utf-8")
    monkeypatch.setitem(source_code.PLACES, "connector", ((str(folder / "connectors.py"),), "CONNECTORS"))
    code_hash.cache_clear()
    try:
        return code_hash("connector", "mine")
    finally:
        code_hash.cache_clear()


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("What it does", "What it does now", True),
        ("  # a comment", "", True),
        ("def other(x):\n    return x", "def other(x):\n    return -x", True),
        ("return helper(x)", "return helper(-x)", False),
        ("x * SIZE", "x + SIZE", False),
        ("SIZE = 3", "SIZE = 4", False),
    ],
)
def test_the_hash_is_of_the_code_that_a_part_uses(
    old: str, new: str, same: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = hash_of(FILE, tmp_path, monkeypatch)
    assert before is not None
    assert (hash_of(FILE.replace(old, new), tmp_path, monkeypatch) == before) is same
    assert hash_of(FILE.replace('"mine"', '"yours"'), tmp_path, monkeypatch) is None


def test_every_part_that_is_registered_is_found() -> None:
    from mm1_lab.data.shards.readers import READERS
    from mm1_lab.evaluate.metrics import METRICS
    from mm1_lab.model import CONNECTORS

    tables: dict[str, Any] = {"connector": CONNECTORS, "metric": METRICS, "reader": READERS}
    for kind, table in tables.items():
        hashes = [code_hash(kind, name) for name in table]
        assert None not in hashes and len(set(hashes)) == len(hashes)
    known = {f"connector {name}": str(code_hash("connector", name)) for name in CONNECTORS}
    assert changed_parts(known) == []
    assert changed_parts(known | {"connector c-abstractor": "0"}) == ["connector c-abstractor"]
    assert "connector a (2 trials), metric b (1 trial)" in changed_text(["connector a", "metric b", "connector a"])


def package(folder: Path) -> tuple[Path, Path]:
    """A copy of the package, and the file of its connectors."""
    copy = folder / "copy"
    for name in ("mm1_lab", "analysis"):
        shutil.copytree(REPOSITORY / name, copy / name)
    return copy, copy / "mm1_lab" / "model" / "connectors.py"


def edit(connectors: Path) -> None:
    """The body of average pooling."""
    text = connectors.read_text(encoding="utf-8")
    old = "self.project(self.pool(_grid(features))"
    assert old in text
    connectors.write_text(text.replace(old, "self.project(2.0 * self.pool(_grid(features))", 1), encoding="utf-8")


@pytest.mark.slow
def test_an_edited_connector_is_told_of_and_trained_anew_when_asked(tmp_path: Path) -> None:
    place, (copy, connectors) = make_place(tmp_path), package(tmp_path)
    arguments = ("connector", "--scale", "smoke", "--only", "average-pooling 224 64", "--only", "c-abstractor 224 64")
    place.run("run", *arguments, "--inline", package=copy)
    edit(connectors)
    before = place.done()
    said = "The code of connector average-pooling (1 trial) changed since they were made"
    assert said in place.run("plan", *arguments, package=copy)
    assert said in place.run("run", *arguments, "--inline", package=copy)
    assert place.done() == before, "nothing is thrown away unasked"
    place.run("figures", package=copy)
    assert said in (place.results / "smoke" / "connector" / "table.md").read_text(encoding="utf-8")

    assert said not in place.run("run", *arguments, "--inline", "--anew", package=copy)
    after = place.done()
    assert set(after) == set(before) and sum(after[name] != before[name] for name in before) == 2, "model and scores"
    assert "changed since" not in place.run("plan", *arguments, package=copy)


@pytest.mark.slow
def test_a_running_sweep_works_with_the_code_it_started_with(tmp_path: Path) -> None:
    """Though each task has a process of its own, and the package is in the working directory."""
    place, (copy, connectors) = Place(tmp_path / "copy"), package(tmp_path)
    shutil.copytree(REPOSITORY / "sweeps", copy / "sweeps")
    arguments = ("connector", "--scale", "smoke", "--only", "c-abstractor 224 64", "--set", "reuse_processes=false")
    process = place.start("run", *arguments, package=copy)
    assert process.stdout
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("starts    "):
            break
    connectors.write_text("this is half-written (", encoding="utf-8")
    output, _ = process.communicate()
    assert process.returncode == 0, "".join([*lines, output])
    assert "1 of 1 trial" in output
