"""Connectors from a file of the user's own, as docs/extending.md has it."""

import ast
import re
from pathlib import Path

import pytest
import torch

from mm1_lab.config import ALLOWED, Size
from mm1_lab.config.own_connectors import read_connectors
from mm1_lab.model import MM1ForConditionalGeneration, write_code
from tests.conftest import REPOSITORY, Place, Refused, run_python
from tests.small import small_mm1

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
    """By Ray's processes, then inline; the base was trained before."""
    write(tmp_path)
    options = ("own", "--scale", "smoke")
    assert "own at smoke: 1 task, 1 of 2 trials done before" in again.run("run", *options)
    assert "2 trials, 0 stages to run" in again.run("plan", *options)
    one = (*options, "--only", "mine")
    again.run("export", *one, "exported")
    with pytest.raises(ValueError, match="connector 'max-pooling' is from a file of its author's own"):
        MM1ForConditionalGeneration.from_pretrained(tmp_path / "exported")
    assert "class MaxPooling" in (tmp_path / "exported" / "own_connectors.py").read_text(encoding="utf-8")

    before = again.done()
    write(tmp_path, CODE.replace("AdaptiveMaxPool2d", "AdaptiveAvgPool2d"))
    assert "1 task, 1 of 2 trials done before" in again.run("run", *options, "--inline")
    assert len(again.done()) == len(before) + 2, "its training and its scores"
    write(tmp_path)
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


OWN = """
@connector("own")
class Encoder(nn.Module):
    def __init__(self, config, encoder_width, decoder_width, patches):
        super().__init__()
        self.register_buffer("places", torch.arange(patches) % 7.0, persistent=False)
        self.project = nn.Linear(encoder_width, decoder_width)

    def forward(self, features):
        return self.project(features + self.places[:, None])[:, :4]
"""
ELSEWHERE = """
import sys, torch
sys.modules["mm1_lab"] = None
from transformers import AutoModelForImageTextToText
model = AutoModelForImageTextToText.from_pretrained("model", trust_remote_code=True)
with torch.no_grad():
    torch.save(model.get_image_features(torch.full((1, 3, 24, 24), 9, dtype=torch.uint8)), "found.pt")
"""


def test_an_exported_connector_may_have_the_name_of_a_class_and_buffers_that_are_in_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text(CODE + OWN)
    own = read_connectors(tmp_path / "mine.py")
    monkeypatch.setitem(ALLOWED, own.digest, own)
    size = Size(layers=1, width=16, heads=2)
    trained = small_mm1(size, size, f"own@{own.digest}", 50, 64, 3)
    model = MM1ForConditionalGeneration(trained.config)
    model.load_state_dict(trained.state_dict())
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "processor_config.json").write_text("{}")
    write_code(tmp_path / "model", own)
    changes = {"HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
    ran = run_python(ELSEWHERE, folder=tmp_path, **changes)
    assert ran.returncode == 0, ran.stderr
    with torch.no_grad():
        expected = model.get_image_features(torch.full((1, 3, 24, 24), 9, dtype=torch.uint8))
    torch.testing.assert_close(torch.load(tmp_path / "found.pt"), expected)


WRONG = [
    ((CODE, "x = 1\n"), "sweeps/mine.py: has no connectors; mark each class with"),
    (('"max-pooling"', '"max-poolin"'), "there is no connector 'max-pooling'; did you mean 'max-poolin'?"),
    (('"max-pooling"', "math.pi"), 'sweeps/mine.py: has no connectors; mark each class with @connector("NAME")'),
    (("class MaxPooling(", "class MaxPooling(("), "sweeps/mine.py: SyntaxError: invalid syntax (mine.py, line 10)"),
    (("import math\n", "import nothing\n"), "sweeps/mine.py, line 1: ModuleNotFoundError: No module named 'nothing'"),
    (("AdaptiveMaxPool2d", "Pool"), "sweeps/mine.py, line 15: AttributeError: module 'torch.nn' has no attribute"),
    (("grid = features", "grid = side"), "sweeps/mine.py, line 21: AttributeError: 'int' object has no attribute"),
    (("nn.Linear(encoder_width, ", "nn.LazyLinear("), "connector 'max-pooling' has lazy layers, which get their"),
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
