"""Connectors from a file of the user's own, as docs/extending.md has it."""

import ast
import re
from copy import deepcopy
from pathlib import Path

import pytest
import torch

from mm1_lab.config import ALLOWED, ModelStage, RequestError
from mm1_lab.config.own_connectors import read_connectors
from mm1_lab.data.world import World
from mm1_lab.model import (
    MM1ForConditionalGeneration,
    build_connector,
    build_mm1,
    connector_activations,
    connector_flops,
    write_code,
)
from mm1_lab.orchestrate.execution.executor import Inline
from mm1_lab.orchestrate.execution.worker import Worker
from mm1_lab.orchestrate.execution.worklist import WorkList
from mm1_lab.orchestrate.planning.loading import load_request
from mm1_lab.train.stages import check_connector
from tests.conftest import REPOSITORY, Place, Refused, Told

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


def ship(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks in this process are done by what a process of Ray's gets."""
    work = Inline.work

    def as_shipped(self: Inline, work_list: WorkList, worker: Worker) -> None:
        ALLOWED.clear()
        work(self, work_list, deepcopy(worker))

    monkeypatch.setattr(Inline, "work", as_shipped)


@pytest.mark.parametrize("inline", [True, pytest.param(False, marks=pytest.mark.soak)])
@pytest.mark.usefixtures("few_documents", "forgotten", "unrendered")
def test_trained_evaluated_exported_and_trained_anew_only_after_an_edit(
    inline: bool, again: Place, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The base was trained before. The file reads another, relative to the working folder."""
    monkeypatch.chdir(again.folder)
    code = f'{CODE}\nopen("profile.py").close()\n'
    write(again.folder, code)
    options = ("own", "--scale", "smoke")
    (again.folder / "profile.py").write_text("raise SystemExit('taken for the module of Python that torch imports')")
    if inline:
        ship(monkeypatch)
        output = told("run", *options, "--inline")
    else:
        output = again.run("run", *options)
    assert "own at smoke: 1 task, 1 of 2 trials done before\n" in output
    told("export", *options, "--only", "mine", "exported")
    ALLOWED.clear()
    with pytest.raises(ValueError, match="connector 'max-pooling' is from a file of its author's own"):
        MM1ForConditionalGeneration.from_pretrained("exported")
    assert "class MaxPooling" in Path("exported/own_connectors.py").read_text(encoding="utf-8")

    write(again.folder, code.replace("AdaptiveMaxPool2d", "AdaptiveAvgPool2d"))
    assert "2 trials, 2 stages to run" in told("plan", *options), "its training and its scores"
    write(again.folder, code)
    assert "2 trials, 0 stages to run" in told("plan", *options)


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
    (("import torch\n", "import mm1_lab.files\nimport torch\n"), "imports mm1_lab.files, which exported models lack"),
    (("import torch\n", "from mm1_lab.formatting import short\nimport torch\n"), "imports mm1_lab.formatting.short, w"),
    (("self.project =", "exit(0); self.project ="), "SystemExit: 0"),
    (("class MaxPooling(", "class MaxPooling(("), "sweeps/mine.py: SyntaxError: invalid syntax (mine.py, line 10)"),
    (("AdaptiveMaxPool2d", "Pool"), "sweeps/mine.py, line 15: AttributeError: module 'torch.nn' has no attribute"),
    (("nn.Linear(encoder_width, ", "nn.LazyLinear("), "connector 'max-pooling' has lazy layers, which get their"),
    (("self.project =", "self.norm = nn.BatchNorm1d(3); self.project ="), "norm is a batch norm, which makes an image"),
    (("self.project =", "self.same = self.project ="), "same.weight and project.weight are one parameter, which"),
    ((".transpose(1, 2))\n", ")\n"), "sweeps/mine.py, line 22: RuntimeError: mat1 and mat2 shapes cannot be"),
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


def try_forward(folder: Path, forward: str, code: str = CODE) -> ModelStage:
    """Checks the model of an arm whose connector projects the `x` that `forward` makes of `f`, as a plan does."""
    head, _, _ = code.partition("        side = math")
    write(folder, f"{head}        f = features\n        {forward}\n        return self.project(x)\n")
    stage = load_request(folder / "sweeps" / "own.yaml", "smoke", only=["mine"]).trials[0].evaluation.model
    with torch.device("meta"):
        check_connector(stage)
    return stage


LAYER = "nn.Linear(encoder_width, decoder_width)"
FROM_ZERO = CODE.replace(LAYER, f"{LAYER}\n        nn.init.zeros_(self.project.weight)")


@pytest.mark.parametrize(
    ("forward", "code"),
    [
        ("x = f[:, :9] - f[:, :9].mean(0, keepdim=True)", CODE),
        ("x = f[:, :9] - f[:, :9].mean(0, keepdim=True)", FROM_ZERO),
        ("x = f[:, :9].roll(1, 0)", CODE),
        ("x = f[:, :9] * (f > 0).sum().item()", CODE),
    ],
)
def test_one_that_mixes_the_images_of_a_batch_is_refused(forward: str, code: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="returns other tokens for an image beside another one than for it alone"):
        try_forward(tmp_path, forward, code)


def test_a_linear_layer_starts_as_built_in_ones_do_unless_at_zero(tmp_path: Path) -> None:
    for code, spread in ((CODE, 1 / 16), (FROM_ZERO, 0)):
        stage = try_forward(tmp_path, "x = f[:, :9]", code)
        connector = build_connector(stage.architecture.connector, 16**2, 64, 16)
        assert connector.project.weight.std().item() == pytest.approx(spread, rel=0.05)


MERGING = "x = torch.stack([one[one.sum(1) > one.sum(1).median()][:9] for one in f])"


@pytest.mark.parametrize(
    "forward",
    [
        MERGING,
        "x = torch.stack([one[:9] if (one > 0).any() else one[-9:] for one in f])",
        "x = torch.stack([one[:9] * one.mean().item() for one in f])",
    ],
)
def test_one_that_looks_at_numbers_passes_and_has_costs(forward: str, tmp_path: Path) -> None:
    """Which torch's meta device has not: its FLOPs and memory are those of all weights at every patch."""
    stage = try_forward(tmp_path, forward)
    with torch.device("meta"):
        model = build_mm1(stage, World().tokenizer)
    width, decoder = stage.architecture.encoder.features.width, stage.architecture.decoder.size.width
    assert connector_flops(model) == 2 * model.encoder.patches * (width + 1) * decoder
    assert connector_activations(model, "32-true") >= 4 * model.encoder.patches * (width + decoder)


def test_what_it_does_wrong_with_numbers_has_its_line(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"mine\.py, line 21: RuntimeError: .*size of tensor"):
        try_forward(tmp_path, f"{MERGING} + f[:, :7]")
    with pytest.raises(RequestError, match=r"returns \(1, 7, 24\) for one image instead of"):
        try_forward(tmp_path, f"{MERGING}[:, :7]")


def test_a_file_beside_it_is_not_imported(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "sweeps" / "helpers.py").touch()
    with pytest.raises(RequestError, match=r"mine\.py, line 1: ModuleNotFoundError: No module named 'helpers'$"):
        try_forward(tmp_path, "x = f[:, :9]", f"import helpers\n{CODE}")
