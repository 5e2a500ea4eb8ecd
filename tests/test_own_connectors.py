"""Connectors from a file of the user's own, as docs/extending.md has it."""

import ast
import re
from pathlib import Path

import pytest

from mm1_lab.config.own_connectors import read_connectors
from mm1_lab.model import MM1ForConditionalGeneration, write_code
from tests.conftest import REPOSITORY, Place, Refused

CODE = re.findall(r"```python\n(.*?)```", (REPOSITORY / "docs" / "extending.md").read_text(encoding="utf-8"), re.S)[0]
SWEEP = """\
title: Mine
recipe: base
connectors: mine.py
arms:
  base: {}
  mine: {connector: max-pooling}
"""


def write(folder: Path, code: str = CODE, sweep: str = SWEEP) -> None:
    (folder / "sweeps").mkdir(exist_ok=True)
    (folder / "sweeps" / "mine.py").write_text(code, encoding="utf-8")
    (folder / "sweeps" / "own.yaml").write_text(sweep, encoding="utf-8")


@pytest.mark.slow
def test_trained_evaluated_exported_and_trained_anew_only_after_an_edit(tmp_path: Path, again: Place) -> None:
    """By Ray's processes; the base was trained before. The file reads another, relative to the working folder."""
    code = f'{CODE}\nopen("profile.py").close()\n'
    write(tmp_path, code)
    options = ("own", "--scale", "smoke")
    told = "own at smoke: 1 task, 1 of 2 trials done before, 2 stages reused from "
    (again.folder / "profile.py").write_text("raise SystemExit('taken for the module of Python that torch imports')")
    assert f"{told}{again.results / 'store'}\n" in again.run("run", *options)
    again.run("export", *options, "--only", "mine", "exported")
    with pytest.raises(ValueError, match="connector 'max-pooling' is from a file of its author's own"):
        MM1ForConditionalGeneration.from_pretrained(tmp_path / "exported")
    assert "class MaxPooling" in (tmp_path / "exported" / "own_connectors.py").read_text(encoding="utf-8")

    write(tmp_path, code.replace("AdaptiveMaxPool2d", "AdaptiveAvgPool2d"))
    assert "2 trials, 2 stages to run" in again.run("plan", *options), "its training and its scores"
    write(tmp_path, code)
    assert "2 trials, 0 stages to run" in again.run("plan", *options)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "latin-1"])
def test_the_exported_copy_of_a_file_from_another_system(encoding: str, tmp_path: Path) -> None:
    code = CODE.replace("from mm1_lab.model.connectors import ConnectorSettings, connector", "")
    code = code.replace("import math\n", "from mm1_lab.model import connectors\nimport math\n")
    code = code.replace("@connector", "@connectors.connector").replace(": Conn", ": connectors.Conn")
    code = code.replace("√k × √k", "quadratic ä").replace("→", "to")
    if encoding == "latin-1":
        code = "# -*- coding: latin-1 -*-\n" + code
    (tmp_path / "mine.py").write_text(code, encoding=encoding, newline="\r\n")
    for name in ("config.json", "processor_config.json"):
        (tmp_path / name).write_text("{}")
    write_code(tmp_path, read_connectors(tmp_path / "mine.py"))
    copied = (tmp_path / "own_connectors.py").read_text(encoding="utf-8")
    ast.parse(copied)
    assert "\nfrom . import connectors\n" in "\n" + copied and "mm1_lab" not in copied


WRONG = [
    (('"max-pooling"', '"max-poolin"'), "there is no connector 'max-pooling'; did you mean 'max-poolin'?"),
    (('"max-pooling"', "math.pi"), 'sweeps/mine.py: has no connectors; mark each class with @connector("NAME")'),
    (
        ("import torch\n", "import mm1_lab.files\nimport torch\n"),
        "imports mm1_lab.files, which exported models lack",
    ),
    (
        ("import torch\n", "from mm1_lab.formatting import short\nimport torch\n"),
        "imports mm1_lab.formatting.short, which",
    ),
    (("self.project =", "exit(0); self.project ="), "SystemExit: 0"),
    (("class MaxPooling(", "class MaxPooling(("), "sweeps/mine.py: SyntaxError: invalid syntax (mine.py, line 10)"),
    (("AdaptiveMaxPool2d", "Pool"), "sweeps/mine.py, line 15: AttributeError: module 'torch.nn' has no attribute"),
    (("nn.Linear(encoder_width, ", "nn.LazyLinear("), "connector 'max-pooling' has lazy layers, which get their"),
    (
        ("self.project =", "self.norm = nn.BatchNorm1d(3); self.project ="),
        "norm is a batch norm, which makes an image's",
    ),
    (("self.project =", "self.same = self.project ="), "same.weight and project.weight are one parameter, which"),
    ((".transpose(1, 2))\n", ")\n"), "sweeps/mine.py, line 22: RuntimeError: a and b must have same reduction dim"),
    (("self.project(self.pool(grid).flatten(2).transpose(1, 2))", "grid"), "for one image instead of (1, image tokens"),
]


@pytest.mark.parametrize(("change", "told"), WRONG)
def test_wrong_files(change: tuple[str, str], told: str, here: Path, refused: Refused) -> None:
    write(here, CODE.replace(*change))
    error = refused("plan", "own", "--scale", "smoke")
    assert told in error, error


def test_names_that_are_taken_and_a_file_that_is_missing(here: Path, refused: Refused) -> None:
    plan = ("plan", "own", "--scale", "smoke")
    write(here, CODE.replace("max-pooling", "mlp"), SWEEP.replace("max-pooling", "mlp"))
    assert "mine.py: the connector 'mlp' is built in; give yours another name" in refused(*plan)
    (here / "sweeps" / "mine.py").unlink()
    assert "mine.py: cannot be read (No such file or directory); the path is relative" in refused(*plan)
