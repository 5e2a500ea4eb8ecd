"""Stages of a few steps on the squares."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mm1_lab.config import (
    ConnectorConfig,
    DataIdentity,
    DecoderStage,
    DecoderTraining,
    EncoderStage,
    EncoderTraining,
    Lora,
    MultimodalStage,
    MultimodalTraining,
    Phase,
    Pretrained,
    Resources,
    SftStage,
    SftTraining,
    Size,
    Stage,
)
from mm1_lab.train import recorder
from mm1_lab.train.progress import Progress, Report
from mm1_lab.train.stages import ALONE, run_stage
from mm1_lab.weights.pretrained import read_decoder, read_encoder
from tests import pretrained as saved
from tests.conftest import Squares

torch.set_num_threads(1)  # as a stage of `smoke` sets it for all that follow in its process: with more, bits differ
TINY = Size(layers=1, width=16, heads=2)


Finished = Callable[[Stage], Path]


class Killed(Exception):
    pass


@pytest.fixture
def encoder_stage() -> EncoderStage:
    training = EncoderTraining(learning_rate=3e-3, steps=6, batch_size=8, text=TINY)
    return EncoderStage(**_SHARED, size=TINY, patch=6, image_size=24, synthetic_share=0.5, training=training)


@pytest.fixture
def reconstructive_stage(encoder_stage) -> EncoderStage:
    return encoder_stage.model_copy(update={"objective": "reconstructive"})


@pytest.fixture
def decoder_stage() -> DecoderStage:
    phases = (Phase(share=0.5, sequence_length=24, batch_size=4), Phase(share=0.5, sequence_length=64, batch_size=2))
    training = DecoderTraining(learning_rate=3e-3, steps=6, phases=phases, prompt_loss_weight=0.5)
    return DecoderStage(**_SHARED, size=TINY, training=training)


@pytest.fixture
def experts_stage(decoder_stage) -> DecoderStage:
    """Three experts that start as the dense decoder."""
    size = TINY.model_copy(update={"experts": 3, "experts_every": 1})
    return decoder_stage.model_copy(update={"size": size, "upcycled_from": decoder_stage})


@pytest.fixture
def multimodal_stage(encoder_stage, decoder_stage) -> MultimodalStage:
    return MultimodalStage(
        **_SHARED,
        encoder=encoder_stage,
        decoder=decoder_stage,
        image_size=24,
        connector=ConnectorConfig(kind="c-abstractor", image_tokens=4, width=16),
        shares={"captions": 0.5, "text": 0.5},
        sequence_length=64,
        max_images=4,
        frozen=(),
        blind=False,
        training=MultimodalTraining(learning_rate=3e-3, steps=6, batch_size=4),
    )


@pytest.fixture
def aligned_stage(multimodal_stage) -> MultimodalStage:
    """After an alignment of the connector."""
    alone = {"frozen": ("decoder", "encoder"), "shares": {"captions": 1.0}}
    return multimodal_stage.model_copy(update={"start": multimodal_stage.model_copy(update=alone)})


@pytest.fixture
def lora_stage(multimodal_stage) -> MultimodalStage:
    """Trained by adapters: the encoder's have a single row, which one process of two has."""
    lora = {"decoder": Lora(rank=2, alpha=8), "encoder": Lora(rank=1, alpha=4)}
    return multimodal_stage.model_copy(update={"lora": lora})


@pytest.fixture
def tied_stage(multimodal_stage, tmp_path) -> MultimodalStage:
    """With a pre-trained decoder whose embedding is also its vocabulary's projection, and a pre-trained encoder whose
    positions, (1, n, width), are interpolated."""
    decoder = read_decoder(Pretrained(weights=str(saved.save_decoder("qwen2", tmp_path / "qwen2"))))
    encoder = read_encoder(Pretrained(weights=str(saved.save_encoder("dinov2", tmp_path / "dinov2"))))
    return multimodal_stage.model_copy(update={"decoder": decoder, "encoder": encoder, "image_size": 6 * saved.PATCH})


@pytest.fixture
def sft_stage(multimodal_stage) -> SftStage:
    """Five views at twice the resolution of pre-training."""
    training = SftTraining(learning_rate=1e-3, steps=6, batch_size=6, sequence_length=96, max_images=20)
    return SftStage(
        **_SHARED, model=multimodal_stage, shares={"colours": 1.0}, image_size=48, views=5, frozen=(), training=training
    )


@pytest.fixture
def stage(kind, request) -> Any:
    """The one above of the `kind` that a test is parametrized by."""
    return request.getfixturevalue(f"{kind}_stage")


_SHARED = {"seed": 1, "data": DataIdentity(digest="squares"), "precision": "32-true", "compile": False}


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Finished:
    """Gives the folder of a stage, which is run once for all tests, after its inputs; not to be changed."""
    folders = {}

    def run(stage: Stage) -> Path:
        if stage.fingerprint not in folders:
            folders[stage.fingerprint] = train(stage, tmp_path_factory.mktemp(stage.KIND), run)
        return folders[stage.fingerprint]

    return run


@pytest.fixture
def each_step(monkeypatch) -> None:
    """Reports and checkpoints come at each step."""
    monkeypatch.setattr(recorder, "REPORT_SECONDS", 0.0)
    monkeypatch.setattr(recorder, "CHECKPOINT_SECONDS", 0.0)


def no_report(progress: Progress) -> None:
    pass


def train(
    stage: Stage, folder: Path, finished: Finished, resources: Resources = ALONE, report: Report = no_report
) -> Path:
    """Runs a stage on the squares and its finished inputs, in a folder that may have what an earlier run left."""
    folder.mkdir(exist_ok=True)
    inputs = {name: finished(needed) for name, needed in stage.inputs.items()}
    run_stage(stage, folder, inputs, Squares(), report, resources)
    return folder


def shortened(stage: Any, steps: int) -> Any:
    return stage.model_copy(update={"training": stage.training.model_copy(update={"steps": steps})})


def points(folder: Path) -> list[tuple[int, str, float]]:
    """Step, name and value of every point of the curves."""
    with (folder / "training.csv").open() as file:
        return [(int(row["step"]), row["name"], float(row["value"])) for row in csv.DictReader(file)]


def curve(folder: Path) -> list[float]:
    return [value for _, _, value in points(folder)]


def last_points(folder: Path) -> dict[str, float]:
    """The last point of each curve."""
    return {name: value for _, name, value in points(folder)}


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def assert_same(expected: Path, actual: Path) -> None:
    """Bit by bit."""
    right, found = weights_of(expected), weights_of(actual)
    assert right.keys() == found.keys()
    assert not [name for name, value in right.items() if not torch.equal(value, found[name])]


def assert_alike(expected: Path, actual: Path) -> None:
    right, found = points(expected), points(actual)
    assert [point[:2] for point in found] == [point[:2] for point in right]
    for (_, name, value), (*_, other) in zip(right, found, strict=True):
        # gradients of what is learnt are small, so that rounding shows
        assert other == pytest.approx(value, rel=1e-3 if name == "gradient_norm" else 1e-5, abs=1e-6)
    for name in ("model.safetensors", "text.safetensors"):
        if (expected / name).exists():
            right, found = load_file(expected / name), load_file(actual / name)
            assert right.keys() == found.keys()
            for key, value in right.items():
                if key.endswith("k_proj.bias"):
                    continue  # without effect on attention: its gradients are rounding errors, which Adam makes large
                assert ((found[key] - value).abs() < 2e-4).all(), key
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (expected, actual)]
    for key in ("tokens", "rows", "conversations", "parameters"):
        assert summaries[0].get(key) == summaries[1].get(key)
