"""Stages from their first step to their files: what they write, how they resume, how they fail."""

import errno
import gc
import json
import math
import os
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from mm1_lab import team
from mm1_lab.config import MultimodalStage, Resources, load_scale
from mm1_lab.data.batches import Batch, MixtureBatches
from mm1_lab.orchestrate.execution.worker import Worker
from mm1_lab.results import Ledger
from mm1_lab.train import checkpoints, recorder, sharding
from mm1_lab.train.module import Training
from mm1_lab.train.progress import Diverged, Progress
from mm1_lab.train.recorder import Recorder
from tests.conftest import SCALES, calls_of
from tests.train.conftest import Killed, assert_alike, assert_same, last_points, points, shortened, train, weights_of


def kill_at(step: int) -> Callable[[Progress], None]:
    def report(progress: Progress) -> None:
        if progress.step == step:
            raise Killed

    return report


@pytest.mark.parametrize(
    ("kind", "workers"),
    [
        ("encoder", 2),
        ("reconstructive", 0),
        ("experts", 0),
        ("tied", 0),
        pytest.param("aligned", 0, marks=pytest.mark.soak),
        ("sft", 0),
        ("lora", 0),
    ],
)
def test_a_twice_killed_stage_ends_as_if_undisturbed(stage, workers, finished, tmp_path, request):
    straight, killed, resources = finished(stage), tmp_path / "killed", Resources(workers=workers)
    request.getfixturevalue("each_step")
    for step in (2, 5):
        with pytest.raises(Killed):
            train(stage, killed, finished, resources, kill_at(step))
        assert (killed / "last.ckpt").exists()
    train(stage, killed, finished, resources)
    assert not (killed / "last.ckpt").exists()
    if team.device().type == "cuda":  # whose sums have no fixed order
        assert_alike(straight, killed)
        return
    assert_same(straight, killed)
    curves = [(folder / "training.csv").read_bytes() for folder in (straight, killed)]
    assert curves[0] == curves[1] and b"\r" not in curves[0]
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (straight, killed)]
    for summary in summaries:
        assert summary.pop("seconds") > 0
    assert summaries[0] == summaries[1]


@pytest.mark.usefixtures("each_step")
@pytest.mark.parametrize("is_old", [False, True])
def test_random_numbers_and_curves_go_on_where_a_killed_stage_left_them(
    is_old, decoder_stage, finished, tmp_path, monkeypatch
):
    """As the dropout of a connector of one's own draws them; of a curve the point that the kill divides. Checkpoints up
    to 0.5.0 had gradient norms alone."""
    monkeypatch.setattr(recorder, "POINTS", 3)  # of two steps each
    forward, state_dict = Training.forward, Recorder.state_dict

    def at_random(self: Training, batch: Batch, share: float = 1.0) -> torch.Tensor:
        return forward(self, batch, share) * (0.5 + torch.rand(()))

    def as_before(self: Recorder) -> dict[str, Any]:
        state = state_dict(self)
        return state | {"norms": state.pop("noted").get("gradient_norm", [])}

    monkeypatch.setattr(Training, "forward", at_random)
    if is_old:
        monkeypatch.setattr(Recorder, "state_dict", as_before)
    straight, killed = train(decoder_stage, tmp_path / "straight", finished), tmp_path / "killed"
    with pytest.raises(Killed):
        train(decoder_stage, killed, finished, report=kill_at(4))
    assert_same(straight, train(decoder_stage, killed, finished))
    curves = [
        sorted(point for point in points(folder) if not is_old or point[1] in ("loss", "gradient_norm"))
        for folder in (straight, killed)
    ]
    assert curves[0] == curves[1] and {step for step, *_ in curves[1]} == {2, 4, 6}
    monkeypatch.setattr(recorder, "POINTS", 6)
    every = points(train(decoder_stage, tmp_path / "every", finished))
    norm = {step: value for step, name, value in every if name == "gradient_norm"}
    told = {step: value for step, name, value in curves[0] if name == "gradient_norm"}
    assert told == pytest.approx({step: (norm[step - 1] + norm[step]) / 2 for step in told}, rel=1e-5)


def test_files_of_a_multimodal_stage(multimodal_stage, finished):
    folder = finished(multimodal_stage)
    names = {"config.json", "model.safetensors", "stage.json", "summary.json", "training.csv"}
    assert {path.name for path in folder.iterdir()} == names
    described = json.loads((folder / "stage.json").read_text())
    assert described["fingerprint"] == multimodal_stage.fingerprint
    assert MultimodalStage.model_validate(described["stage"]) == multimodal_stage
    assert {name for _, name, _ in points(folder)} == {"loss", "loss/captions", "loss/text", "gradient_norm"}
    assert {step for step, _, _ in points(folder)} == set(range(1, 7))
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["rows"] == {"captions": 12, "text": 12}
    assert summary["epochs"] == {"captions": 12 / 50, "text": 12 / 50}
    # a caption is begin, 4 image tokens, 4 words, end: four of them, a row's images, leave 24 positions empty
    assert summary["tokens"]["captions"] == 12 * 4 * 10
    # a text is begin, 5 + 3 words, end: six fill 60 of 64
    assert summary["tokens"]["text"] == 12 * 6 * 10
    assert summary["parameters"].keys() == {"encoder", "connector", "decoder", "embedding"}


def test_the_curve_has_the_gradient_s_norm_before_clipping(decoder_stage, finished, tmp_path, monkeypatch):
    monkeypatch.setattr(recorder, "POINTS", 10)
    training = decoder_stage.training.model_copy(update={"max_grad_norm": 0.01, "steps": 20})
    stage = decoder_stage.model_copy(update={"training": training})
    norms = []
    clip = Training.configure_gradient_clipping

    def noted(self: Training, *rest: Any, **settings: Any) -> None:
        gradients = torch.cat([one.grad.flatten() for one in self.parameters() if one.grad is not None])
        norms.append(gradients.norm().item())
        clip(self, *rest, **settings)

    monkeypatch.setattr(Training, "configure_gradient_clipping", noted)
    folder = train(stage, tmp_path, finished)
    found = {step: value for step, name, value in points(folder) if name == "gradient_norm"}
    means = {step: fmean(norms[step - 2 : step]) for step in range(2, 21, 2)}
    assert min(norms) > 0.01 and found == pytest.approx(means, rel=1e-5)


def test_on_a_gpu_nothing_of_a_stage_is_left_when_the_next_begins(decoder_stage, finished, tmp_path, monkeypatch):
    """Its weights, gradients and moments would lie beside the model that is evaluated."""
    weights = []

    def begin(module: Training) -> None:
        weights.extend(map(weakref.ref, module.parameters()))

    for name in ("allow_gpu", "check_gpu"):
        monkeypatch.setattr(team, name, lambda *_: None)
    monkeypatch.setattr(Training, "on_fit_start", begin, raising=False)
    scale = load_scale("smoke", SCALES).model_copy(update={"resources": Resources(gpus=1)})
    gc.disable()  # which would come sooner or later by itself
    try:
        train(decoder_stage, tmp_path / "stage", finished)
        Worker(Ledger(tmp_path / "results", tmp_path / "store"), None, scale)._reset_process(0)
        assert {one() is None for one in weights} == {True}
    finally:
        gc.enable()


def test_mixed_precision_trains_alike(multimodal_stage, finished):
    mixed = multimodal_stage.model_copy(update={"precision": "bf16-mixed"})
    full, half = (last_points(finished(stage))["loss"] for stage in (multimodal_stage, mixed))
    assert full != half
    assert half == pytest.approx(full, rel=0.02)


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_a_frozen_part_stays_bit_identical(part, multimodal_stage, finished, tmp_path):
    """And learns the same from rows one at a time, of which some have no image."""
    frozen = multimodal_stage.model_copy(update={"frozen": (part,)})
    trained = weights_of(finished(frozen))
    for name, stage in frozen.inputs.items():
        before = weights_of(finished(stage))
        assert all(torch.equal(value, trained[f"{name}.{key}"]) for key, value in before.items()) == (name == part)
    assert_alike(finished(frozen), train(frozen, tmp_path, finished, Resources(micro_batch=1)))


def test_a_processor_reads_documents_apart_and_a_gpu_with_varlen_alone(multimodal_stage, monkeypatch):
    read_apart = []
    monkeypatch.setattr(sharding, "read_by_document", read_apart.append)
    varlen = multimodal_stage.model_copy(update={"attention": "varlen"})
    assert varlen.fingerprint != multimodal_stage.fingerprint
    found = []
    for device in ("cpu", "cuda"):
        monkeypatch.setattr(team, "device", lambda device=device: torch.device(device))
        for stage in (multimodal_stage, varlen):
            sharding.prepare(stage, Resources(), nn.Module())
            found.append(len(read_apart))
    assert found == [1, 2, 2, 3]


def test_experts_start_as_a_dense_decoder_and_tell_how_they_are_used(
    decoder_stage, experts_stage, multimodal_stage, finished
):
    still = decoder_stage.training.model_copy(update={"learning_rate": 1e-12})
    sparse = experts_stage.model_copy(update={"training": still})
    assert sparse.inputs == {"upcycled_from": decoder_stage}
    folder, dense = finished(sparse), weights_of(finished(decoder_stage))
    for expert in weights_of(folder)["model.layers.0.mlp.experts.down_proj"]:
        torch.testing.assert_close(expert, dense["model.layers.0.mlp.down_proj.weight"], rtol=0, atol=1e-6)
    used = last_points(folder)
    assert used.keys() == {"loss", "gradient_norm"} | {
        f"{name}/layer_1" for name in ("busiest_expert", "dead_experts", "router_entropy")
    }
    assert 1 / 3 <= used["busiest_expert/layer_1"] <= 1 / 2 and used["dead_experts/layer_1"] == 0
    assert 0.9 * math.log(3) < used["router_entropy/layer_1"] <= math.log(3)
    assert "busiest_expert/layer_1" in last_points(finished(multimodal_stage.model_copy(update={"decoder": sparse})))


@pytest.fixture
def as_on_a_gpu(monkeypatch) -> None:
    """What stands on the device is read after the first step and then after every fourth, and a thread writes
    checkpoints, which asks no device."""
    there = {"is_available": lambda: True, "_is_in_bad_fork": lambda: True}
    monkeypatch.setattr(torch, "privateuseone", SimpleNamespace(**there, manual_seed_all=None), raising=False)
    monkeypatch.setattr(recorder, "STEPS_BETWEEN_READS", {"cpu": 4, "cuda": 4})
    monkeypatch.setattr(recorder, "READ_SECONDS", 1e9)
    monkeypatch.setattr(recorder, "POINTS", 1)
    monkeypatch.setattr(recorder, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(checkpoints, "WRITTEN_BESIDE_TRAINING", ("cpu", "cuda"))


@pytest.mark.usefixtures("as_on_a_gpu")
def test_read_now_and_then_and_written_beside_training_a_stage_is_the_same(
    multimodal_stage, finished, tmp_path
) -> None:
    with pytest.raises(Killed):
        train(multimodal_stage, tmp_path, finished, report=kill_at(6))
    assert checkpoint_step(tmp_path) in (1, 5), "the second one if the first was written by then"
    train(multimodal_stage, tmp_path, finished)
    assert_same(finished(multimodal_stage), tmp_path)
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (finished(multimodal_stage), tmp_path)]
    assert summaries[0]["tokens"] == summaries[1]["tokens"] and summaries[0]["rows"] == summaries[1]["rows"]


@pytest.mark.parametrize(("seconds", "found"), [(1e9, 9), (0.0, 6)])
@pytest.mark.usefixtures("as_on_a_gpu")
def test_a_loss_that_is_not_finite_is_found_before_a_checkpoint_has_it(
    seconds, found, decoder_stage, finished, tmp_path, monkeypatch
) -> None:
    """In step 6; the losses of steps 6 to 9 are read together, or where steps take long each by itself."""
    monkeypatch.setattr(recorder, "READ_SECONDS", seconds)
    forward, calls = Training.forward, []

    def breaking(self: Training, batch: Batch, share: float = 1.0) -> torch.Tensor:
        calls.append(batch)
        return forward(self, batch, share) * (math.nan if len(calls) == 6 else 1)

    monkeypatch.setattr(Training, "forward", breaking)
    with pytest.raises(Diverged, match=r"the loss of step 6 is nan"):
        train(shortened(decoder_stage, 9), tmp_path, finished)
    assert len(calls) == found and checkpoint_step(tmp_path) <= 5


def checkpoint_step(folder: Path) -> int:
    return torch.load(folder / "last.ckpt" / "rest.ckpt", weights_only=True)["global_step"]


def test_what_takes_long_to_write_is_written_less_often(decoder_stage, finished, tmp_path, monkeypatch):
    """As if the first had taken for ever."""
    saved = []

    def save(trainer: pl.Trainer, folder: Path) -> None:
        saved.append(trainer.global_step)
        checkpoints.save(trainer, folder)
        trainer.strategy.finish_writing()
        assert trainer.strategy.writing_took > 0
        trainer.strategy.writing_took = 1e30

    monkeypatch.setattr(recorder, "CHECKPOINT_SECONDS", 1e-9)
    monkeypatch.setattr(recorder, "save", save)
    train(decoder_stage, tmp_path, finished)
    assert saved == [1]


@pytest.mark.parametrize("damaged", [("last.ckpt",), ("last.ckpt", "last.ckpt.before")])
@pytest.mark.usefixtures("each_step")
def test_from_a_damaged_checkpoint_it_goes_on_from_the_one_before_or_the_beginning(
    decoder_stage, finished, tmp_path, damaged
) -> None:
    """Some bits of the last one have changed, the one before is cut."""
    with pytest.raises(Killed):
        train(decoder_stage, tmp_path, finished, report=kill_at(5))
    for name in damaged:
        shards = tmp_path / name / "shard-00001-model-00001-of-00001.safetensors"
        data = shards.read_bytes()
        middle = len(data) // 2
        flipped = data[:middle] + bytes(byte ^ 1 for byte in data[middle : middle + 64]) + data[middle + 64 :]
        shards.write_bytes(flipped if name == "last.ckpt" else data[:middle])
    seen = []
    train(decoder_stage, tmp_path, finished, report=seen.append)
    note, first = seen[0].note, seen[1].step
    assert first == (4 if damaged == ("last.ckpt",) else 1)
    start = "resumes from last.ckpt.before" if first == 4 else "starts from the beginning"
    assert note == f"{tmp_path}: damaged and put aside: {', '.join(damaged)}; training {start}"
    assert_same(finished(decoder_stage), tmp_path)
    assert not list(tmp_path.glob("last.ckpt*"))


@pytest.mark.usefixtures("each_step")
def test_a_colleague_s_checkpoint_is_the_group_s_and_if_it_cannot_be_read_no_damage(
    decoder_stage, finished, tmp_path, monkeypatch
) -> None:
    """Its files are made where they stay, as a temporary folder would give them its own group."""
    tmp_path.chmod(0o775)
    before = os.umask(0o077)
    try:
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(tempfile, "tempdir", "/nowhere")
            train(decoder_stage, tmp_path, finished, report=kill_at(5))
    finally:
        os.umask(before)
    checkpoint = tmp_path / "last.ckpt"
    modes = {path.name: path.stat().st_mode & 0o070 for path in (checkpoint, *checkpoint.iterdir())}
    assert modes.pop("last.ckpt") == 0o070 and set(modes.values()) == {0o060} and len(modes) == 3
    with monkeypatch.context() as patch, pytest.raises(PermissionError):
        patch.setattr(checkpoints, "file_digest", Mock(side_effect=PermissionError(errno.EACCES, "not yours")))
        train(decoder_stage, tmp_path, finished)
    with monkeypatch.context() as patch, pytest.raises(OSError, match="full"):
        patch.setattr(
            "torch.distributed.checkpoint.filesystem.os.fsync", Mock(side_effect=OSError(errno.ENOSPC, "full"))
        )
        train(decoder_stage, tmp_path, finished)
    seen = []
    train(decoder_stage, tmp_path, finished, report=seen.append)
    assert not seen[0].note and seen[0].step == 5
    assert_same(finished(decoder_stage), tmp_path)


@pytest.mark.parametrize("name", ["last.ckpt", "last.ckpt.before", "last.ckpt.part"])
@pytest.mark.usefixtures("each_step")
def test_a_file_in_the_place_of_a_checkpoint_is_no_obstacle(decoder_stage, finished, tmp_path, name):
    (tmp_path / name).touch()
    train(decoder_stage, tmp_path, finished)
    assert_same(finished(decoder_stage), tmp_path)
    assert not list(tmp_path.glob("last.ckpt*"))


@pytest.mark.parametrize(
    ("kind", "most", "parts"),
    [("decoder", 3, [2] * 9), ("experts", 3, [2] * 9), ("multimodal", 3, [2] * 12), ("sft", 1, [1] * 12)],
)
def test_micro_batches_add_up_to_a_step(kind, most, parts, stage, finished, tmp_path, monkeypatch):
    """The decoder's six steps have four rows, then two, MM1's four, and tuning's two."""
    routed = []
    training_step = Training.training_step

    def noted(self: Training, parts: list[Batch], index: int) -> torch.Tensor:
        loss = training_step(self, parts, index)
        if self.routing is not None:
            routed.append(self.routing)
        return loss

    monkeypatch.setattr(Training, "training_step", noted)
    whole = train(stage, tmp_path / "whole", finished)
    of_whole = routed[:1]
    routed.clear()
    calls = calls_of(monkeypatch, Training, "forward")
    folder = train(stage, tmp_path / "parts", finished, Resources(micro_batch=most))
    assert [len(batch.tokens) for _, batch, *_ in calls] == parts
    if kind == "experts":  # the balance loss is of fewer rows, so that only the first step is the same
        torch.testing.assert_close(routed[:1], of_whole)
        first = [{name: value for step, name, value in points(one) if step == 1} for one in (whole, folder)]
        assert "busiest_expert/layer_1" in first[0] and first[1] == pytest.approx(first[0], rel=1e-5)
    else:
        assert_alike(whole, folder)


@pytest.mark.parametrize("kind", ["experts", "multimodal", "sft"])
def test_activations_that_are_computed_again_change_nothing(kind, stage, finished, tmp_path, monkeypatch):
    again = calls_of(monkeypatch, PreTrainedModel, "activation_checkpointing_enable")
    stored = finished(stage)
    assert not again
    assert_same(stored, train(stage, tmp_path, finished, Resources(gradient_checkpointing=True)))
    assert len(again) == (1 if kind == "experts" else 2), "decoder and encoder"


def test_another_order_of_the_data_reads_each_batch_once(multimodal_stage, finished, tmp_path, monkeypatch):
    read = calls_of(monkeypatch, MixtureBatches, "__call__")
    orders = []
    for order in (0, 1, 2):
        read.clear()
        train(multimodal_stage.model_copy(update={"data_order": order}), tmp_path / str(order), finished)
        orders.append([step for _, step in read])
    steps = list(range(multimodal_stage.training.steps))
    assert orders[0] == steps == sorted(orders[1]) == sorted(orders[2])
    assert steps != orders[1] != orders[2] != steps
