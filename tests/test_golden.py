"""A golden micro-run: a few steps of each kind of stage give the stored losses.

A change of behaviour without a new VERSION would let old results pass for new ones. `UPDATE_GOLDEN=1 pytest
tests/test_golden.py` rewrites the stored numbers after a change that was meant.
"""

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mm1_lab.config import (
    ConnectorConfig,
    DataIdentity,
    DecoderStage,
    DecoderTraining,
    EncoderStage,
    EncoderTraining,
    MultimodalStage,
    MultimodalTraining,
    Phase,
    SftStage,
    SftTraining,
    Size,
    Stage,
)
from mm1_lab.data.types import Data
from mm1_lab.train.stages import run_stage

GOLDEN = Path(__file__).parent / "golden"
TOLERANCE = 1e-4
"""Relative: other processors and versions of torch stay within it, another formula does not."""

SIZE = Size(layers=2, width=16, heads=2)
SHARED = {"seed": 3, "data": DataIdentity(digest="squares"), "precision": "32-true", "compile": False}
RATE = {"learning_rate": 3e-3, "steps": 5, "warmup_fraction": 0.2}
ENCODER = EncoderStage(
    **SHARED,
    size=SIZE,
    patch=6,
    image_size=24,
    synthetic_share=0.5,
    training=EncoderTraining(**RATE, batch_size=6, text=Size(layers=1, width=16, heads=2)),
)
DECODER = DecoderStage(
    **SHARED,
    size=SIZE,
    training=DecoderTraining(
        **RATE,
        prompt_loss_weight=0.1,
        phases=(Phase(share=0.6, sequence_length=24, batch_size=3), Phase(share=0.4, sequence_length=48, batch_size=2)),
    ),
)
MULTIMODAL = MultimodalStage(
    **SHARED,
    encoder=ENCODER,
    decoder=DECODER,
    image_size=36,
    connector=ConnectorConfig(kind="c-abstractor", image_tokens=4, width=16),
    shares={"captions": 0.6, "text": 0.4},
    sequence_length=48,
    max_images=3,
    frozen=(),
    blind=False,
    training=MultimodalTraining(**RATE, batch_size=3),
)
SFT = SftStage(
    **SHARED,
    model=MULTIMODAL,
    shares={"colours": 0.6, "shapes": 0.4},
    image_size=36,
    views=5,
    frozen=(),
    training=SftTraining(**RATE, batch_size=5, sequence_length=96, max_images=20),
)


@pytest.fixture
def micro_run(squares: Data, tmp_path: Path) -> Callable[[Stage], Path]:
    """Runs a stage after its inputs and gives its folder."""

    def run(stage: Stage) -> Path:
        inputs = {name: run(needed) for name, needed in stage.inputs.items()}
        folder = tmp_path / stage.KIND
        folder.mkdir()
        run_stage(stage, folder, inputs, squares, lambda progress: None)
        return folder

    return run


@pytest.mark.parametrize("stage", [ENCODER, DECODER, MULTIMODAL, SFT], ids=lambda stage: stage.KIND)
def test_micro_run(stage: Stage, micro_run: Callable[[Stage], Path]) -> None:
    with (micro_run(stage) / "training.csv").open() as file:
        losses = {f"{row['step']} {row['name']}": float(row["value"]) for row in csv.DictReader(file)}

    path = GOLDEN / f"{stage.KIND}.json"
    if os.environ.get("UPDATE_GOLDEN") == "1":
        path.write_text(json.dumps({"version": stage.VERSION, "losses": losses}, indent=1) + "\n")
    golden = json.loads(path.read_text())
    assert golden["version"] == stage.VERSION, (
        f"{type(stage).__name__}.VERSION is {stage.VERSION}, the stored run is of {golden['version']}: "
        "store a new one with UPDATE_GOLDEN=1"
    )
    assert losses == pytest.approx(golden["losses"], rel=TOLERANCE), (
        f"a {stage.KIND} stage behaves otherwise than before; if that is meant, raise {type(stage).__name__}.VERSION "
        "in mm1_lab/config/stage.py and store the new numbers with UPDATE_GOLDEN=1"
    )
