"""Stages from their first step to their files: what they write, how they resume, how they fail."""

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import lightning.pytorch as pl
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from mm1_lab import team
from mm1_lab.config import DecoderStage, MultimodalStage, RequestError, Resources, Stage
from mm1_lab.data.batches import Batch, MixtureBatches
from mm1_lab.data.types import Data
from mm1_lab.train import checkpoints, recorder, sharding
from mm1_lab.train.module import Training
from mm1_lab.train.progress import Diverged, Progress
from mm1_lab.train.stages import run_stage
from tests.train.conftest import assert_alike

Finished = Callable[[Stage], Path]


class Killed(Exception):
    pass


def kill_at(step: int) -> Callable[[Progress], None]:
    def report(progress: Progress) -> None:
        if progress.step == step:
            raise Killed

    return report


def run_killed(
    stage: Stage, folder: Path, inputs: dict[str, Path], data: Data, steps: list[int], resources: Resources
) -> None:
    """Runs `stage`, killed after each of `steps`, to its end."""
    folder.mkdir()
    for step in steps:
        with pytest.raises(Killed):
            run_stage(stage, folder, inputs, data, kill_at(step), resources)
        assert (folder / "last.ckpt").exists()
    run_stage(stage, folder, inputs, data, lambda progress: None, resources)
    assert not (folder / "last.ckpt").exists()


KINDS = ["encoder", "reconstructive", "decoder", "experts", "multimodal", "tied", "sft"]


@pytest.mark.parametrize(("kind", "workers"), [*((kind, 0) for kind in KINDS), ("encoder", 2), ("multimodal", 2)])
def test_a_twice_killed_stage_ends_as_if_undisturbed(
    kind: str,
    workers: int,
    request: pytest.FixtureRequest,
    finished: Finished,
    squares: Data,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage: Stage = request.getfixturevalue(f"{kind}_stage")
    straight = finished(stage)
    inputs = {name: finished(needed) for name, needed in stage.inputs.items()}
    monkeypatch.setattr(recorder, "REPORT_SECONDS", 0.0)
    monkeypatch.setattr(recorder, "CHECKPOINT_SECONDS", 0.0)
    run_killed(stage, tmp_path / "killed", inputs, squares, [2, 5], Resources(workers=workers))
    if team.device().type == "cuda":  # whose sums have no fixed order
        assert_alike(straight, tmp_path / "killed")
        return
    expected, actual = (load_file(folder / "model.safetensors") for folder in (straight, tmp_path / "killed"))
    assert expected.keys() == actual.keys()
    for name, weights in expected.items():
        assert torch.equal(weights, actual[name]), name
    assert (straight / "training.csv").read_text() == (tmp_path / "killed" / "training.csv").read_text()
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (straight, tmp_path / "killed")]
    for summary in summaries:
        assert summary.pop("seconds") > 0
    assert summaries[0] == summaries[1]


def test_a_checkpoint_of_another_stage_is_refused(
    decoder_stage: DecoderStage, squares: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "REPORT_SECONDS", 0.0)
    monkeypatch.setattr(recorder, "CHECKPOINT_SECONDS", 0.0)
    with pytest.raises(Killed):
        run_stage(decoder_stage, tmp_path, {}, squares, kill_at(4))
    other = decoder_stage.model_copy(update={"seed": 2})
    with pytest.raises(RequestError, match=f"belongs to stage {decoder_stage.fingerprint}"):
        run_stage(other, tmp_path, {}, squares, lambda progress: None)


def test_files_of_a_multimodal_stage(multimodal_stage: MultimodalStage, finished: Finished) -> None:
    folder = finished(multimodal_stage)
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "model.safetensors",
        "stage.json",
        "summary.json",
        "training.csv",
    ]
    described = json.loads((folder / "stage.json").read_text())
    assert described["fingerprint"] == multimodal_stage.fingerprint
    assert MultimodalStage.model_validate(described["stage"]) == multimodal_stage

    with (folder / "training.csv").open() as file:
        points = [(int(row["step"]), row["name"], float(row["value"])) for row in csv.DictReader(file)]
    assert {name for _, name, _ in points} == {"loss", "loss/captions", "loss/text"}
    assert {step for step, _, _ in points} == set(range(1, 7))

    summary = json.loads((folder / "summary.json").read_text())
    assert summary["rows"] == {"captions": 12, "text": 12}
    assert summary["epochs"] == {"captions": 12 / 50, "text": 12 / 50}
    # a caption is begin, 4 image tokens, 4 words, end: four of them, a row's images, leave 24 positions empty
    assert summary["tokens"]["captions"] == 12 * 4 * 10
    # a text is begin, 5 + 3 words, end: six fill 60 of 64
    assert summary["tokens"]["text"] == 12 * 6 * 10
    assert summary["parameters"].keys() == {"encoder", "connector", "decoder", "embedding"}


def last_losses(folder: Path) -> dict[str, float]:
    """The last point of each curve."""
    with (folder / "training.csv").open() as file:
        return {row["name"]: float(row["value"]) for row in csv.DictReader(file)}


def test_mixed_precision_trains_alike(multimodal_stage: MultimodalStage, finished: Finished) -> None:
    def last_loss(stage: Stage) -> float:
        return last_losses(finished(stage))["loss"]

    mixed = multimodal_stage.model_copy(
        update={"precision": "bf16-mixed"}
        | {name: s.model_copy(update={"precision": "bf16-mixed"}) for name, s in multimodal_stage.inputs.items()}
    )
    full, half = last_loss(multimodal_stage), last_loss(mixed)
    assert full != half
    assert half == pytest.approx(full, rel=0.02)


def test_gradients_are_clipped(decoder_stage: DecoderStage, finished: Finished) -> None:
    """Adam is blind to a gradient's scale down to its epsilon; a norm of 1e-9 is below that, so little moves."""
    clipped = decoder_stage.training.model_copy(update={"max_grad_norm": 1e-9})
    weights = [
        load_file(finished(decoder_stage.model_copy(update={"training": training})) / "model.safetensors")
        for training in (decoder_stage.training, clipped)
    ]
    moved = [(weights[0][name] - value).abs().max().item() for name, value in weights[1].items()]
    assert max(moved) > 1e-3


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_a_frozen_part_stays_bit_identical(part: str, multimodal_stage: MultimodalStage, finished: Finished) -> None:
    frozen = multimodal_stage.model_copy(update={"frozen": (part,)})
    trained = load_file(finished(frozen) / "model.safetensors")
    for name, stage in frozen.inputs.items():
        before = load_file(finished(stage) / "model.safetensors")
        assert all(torch.equal(value, trained[f"{name}.{key}"]) for key, value in before.items()) == (name == part)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU reads by a mask")
def test_documents_apart_without_a_mask_learn_the_same(
    multimodal_stage: MultimodalStage,
    finished: Finished,
    squares: Data,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A processor reads so whatever the stage says; a GPU does with `varlen` alone."""
    read_apart: list[nn.Module] = []
    monkeypatch.setattr(sharding, "read_by_document", read_apart.append)
    inputs = {name: finished(stage) for name, stage in multimodal_stage.inputs.items()}
    run_stage(multimodal_stage, tmp_path, inputs, squares, lambda progress: None)
    assert len(read_apart) == 1, "and here by a mask, as nothing was done"
    monkeypatch.undo()
    varlen = multimodal_stage.model_copy(update={"attention": "varlen"})
    assert varlen.fingerprint != multimodal_stage.fingerprint
    losses = [last_losses(folder) for folder in (tmp_path, finished(varlen))]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    monkeypatch.setattr(sharding, "read_by_document", read_apart.append)
    monkeypatch.setattr(team, "device", lambda: torch.device("cuda"))
    for stage in (multimodal_stage, varlen):
        sharding.prepare(stage, nn.Module())  # type: ignore[arg-type]
    assert len(read_apart) == 2


def test_experts_start_as_a_dense_decoder_and_tell_how_they_are_used(
    decoder_stage: DecoderStage, experts_stage: DecoderStage, multimodal_stage: MultimodalStage, finished: Finished
) -> None:
    still = decoder_stage.training.model_copy(update={"learning_rate": 1e-12})
    sparse = experts_stage.model_copy(update={"training": still})
    assert sparse.inputs == {"upcycled_from": decoder_stage}
    folder, dense = finished(sparse), load_file(finished(decoder_stage) / "model.safetensors")
    experts = load_file(folder / "model.safetensors")["model.layers.0.mlp.experts.down_proj"]
    for expert in experts:
        torch.testing.assert_close(expert, dense["model.layers.0.mlp.down_proj.weight"], rtol=0, atol=1e-6)
    used = last_losses(folder)
    assert used.keys() == {"loss"} | {
        f"{name}/layer_1" for name in ("busiest_expert", "dead_experts", "router_entropy")
    }
    assert 1 / 3 <= used["busiest_expert/layer_1"] <= 1 / 2 and used["dead_experts/layer_1"] == 0
    assert 0.9 * math.log(3) < used["router_entropy/layer_1"] <= math.log(3)
    trained = finished(multimodal_stage.model_copy(update={"decoder": sparse}))
    with (trained / "training.csv").open() as file:
        assert "busiest_expert/layer_1" in {row["name"] for row in csv.DictReader(file)}


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands on the device is read every four steps, and a thread writes checkpoints, which asks no device."""
    there: dict[str, object] = {"is_available": lambda: True, "_is_in_bad_fork": lambda: True}
    monkeypatch.setattr(torch, "privateuseone", SimpleNamespace(**there, manual_seed_all=None), raising=False)
    monkeypatch.setattr(recorder, "STEPS_BETWEEN_READS", {"cpu": 4, "cuda": 4})
    monkeypatch.setattr(recorder, "POINTS", 1)
    monkeypatch.setattr(recorder, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(checkpoints, "WRITTEN_BESIDE_TRAINING", ("cpu", "cuda"))


def test_read_now_and_then_and_written_beside_training_a_stage_is_the_same(
    multimodal_stage: MultimodalStage, finished: Finished, squares: Data, tmp_path: Path, as_on_a_gpu: None
) -> None:
    inputs = {name: finished(needed) for name, needed in multimodal_stage.inputs.items()}
    with pytest.raises(Killed):
        run_stage(multimodal_stage, tmp_path, inputs, squares, kill_at(6))
    assert checkpoint_step(tmp_path) == 4
    run_stage(multimodal_stage, tmp_path, inputs, squares, lambda progress: None)
    expected, actual = (load_file(folder / "model.safetensors") for folder in (finished(multimodal_stage), tmp_path))
    assert all(torch.equal(weights, actual[name]) for name, weights in expected.items())
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (finished(multimodal_stage), tmp_path)]
    assert summaries[0]["tokens"] == summaries[1]["tokens"] and summaries[0]["rows"] == summaries[1]["rows"]


def test_a_loss_that_is_not_finite_is_found_before_a_checkpoint_has_it(
    decoder_stage: DecoderStage, squares: Data, tmp_path: Path, as_on_a_gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In step 6; the losses of steps 5 to 8 are read together."""
    stage = decoder_stage.model_copy(update={"training": decoder_stage.training.model_copy(update={"steps": 9})})
    forward, calls = Training.forward, []

    def breaking(self: Training, batch: Batch, share: float = 1.0) -> torch.Tensor:
        calls.append(batch)
        return forward(self, batch, share) * (math.nan if len(calls) == 6 else 1)

    monkeypatch.setattr(Training, "forward", breaking)
    with pytest.raises(Diverged, match=r"the loss of step 6 is nan"):
        run_stage(stage, tmp_path, {}, squares, lambda progress: None)
    assert len(calls) == 8 and checkpoint_step(tmp_path) == 4


def checkpoint_step(folder: Path) -> int:
    return torch.load(folder / "last.ckpt" / "rest.ckpt", weights_only=True)["global_step"]


def test_two_checkpoints_are_on_disk(
    decoder_stage: DecoderStage, squares: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while one is being written."""
    monkeypatch.setattr(recorder, "CHECKPOINT_SECONDS", 0.0)
    digest, seen = checkpoints.file_digest, []

    def counted(path: Path) -> str:
        seen.append(len([*tmp_path.glob("last.ckpt*")]))
        return digest(path)

    monkeypatch.setattr(checkpoints, "file_digest", counted)
    run_stage(decoder_stage, tmp_path, {}, squares, lambda progress: None)
    assert seen[0] == 1 and max(seen) == 2


@pytest.mark.parametrize(("seconds", "written"), [(0.0, 5), (1e30, 1)])
def test_what_takes_long_to_write_is_written_less_often(
    decoder_stage: DecoderStage,
    squares: Data,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    seconds: float,
    written: int,
) -> None:
    saved = []

    def save(trainer: pl.Trainer, folder: Path) -> None:
        saved.append(trainer.global_step)
        checkpoints.save(trainer, folder)
        assert isinstance(trainer.strategy, checkpoints.ProcessStrategy)
        trainer.strategy.finish_writing()
        assert trainer.strategy.writing_took > 0
        trainer.strategy.writing_took = seconds

    monkeypatch.setattr(recorder, "CHECKPOINT_SECONDS", 1e-9)
    monkeypatch.setattr(recorder, "save", save)
    run_stage(decoder_stage, tmp_path, {}, squares, lambda progress: None)
    assert saved == list(range(1, written + 1))


@pytest.mark.parametrize("damaged", [("last.ckpt",), ("last.ckpt", "last.ckpt.before")])
@pytest.mark.parametrize("how", ["cut", "bits"])
def test_from_a_damaged_checkpoint_it_goes_on_from_the_one_before_or_the_beginning(
    decoder_stage: DecoderStage,
    finished: Finished,
    squares: Data,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    damaged: tuple[str, ...],
    how: str,
) -> None:
    monkeypatch.setattr(recorder, "REPORT_SECONDS", 0.0)
    monkeypatch.setattr(recorder, "CHECKPOINT_SECONDS", 0.0)
    with pytest.raises(Killed):
        run_stage(decoder_stage, tmp_path, {}, squares, kill_at(5))
    for name in damaged:
        shards = tmp_path / name / "shard-00001-model-00001-of-00001.safetensors"
        data = shards.read_bytes()
        weights = len(data) // 2
        flipped = data[:weights] + bytes(byte ^ 1 for byte in data[weights : weights + 64]) + data[weights + 64 :]
        changed = {"cut": data[:weights], "bits": flipped}
        shards.write_bytes(changed[how])
    seen: list[Progress] = []
    run_stage(decoder_stage, tmp_path, {}, squares, seen.append)
    note, first = seen[0].note, seen[1].step
    assert first == (4 if damaged == ("last.ckpt",) else 1)
    start = "resumes from last.ckpt.before" if first == 4 else "starts from the beginning"
    assert note == f"{tmp_path}: damaged and put aside: {', '.join(damaged)}; training {start}"
    expected, actual = (load_file(folder / "model.safetensors") for folder in (finished(decoder_stage), tmp_path))
    assert all(torch.equal(weights, actual[name]) for name, weights in expected.items())
    assert not list(tmp_path.glob("last.ckpt*"))


@pytest.mark.parametrize(
    ("kind", "most", "parts"),
    [("decoder", 3, [2] * 9), ("experts", 3, [2] * 9), ("multimodal", 3, [2] * 12), ("sft", 1, [1] * 12)],
)
def test_micro_batches_add_up_to_a_step(
    kind: str,
    most: int,
    parts: list[int],
    request: pytest.FixtureRequest,
    finished: Finished,
    squares: Data,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The decoder's six steps have four rows, then two, MM1's four, and tuning's two."""
    stage = request.getfixturevalue(f"{kind}_stage")
    rows: list[int] = []
    forward = Training.forward

    def counted(self: Training, batch: Batch, share: float = 1.0) -> torch.Tensor:
        rows.append(len(batch.tokens))
        return forward(self, batch, share)

    whole, inputs = finished(stage), {name: finished(needed) for name, needed in stage.inputs.items()}
    folder = tmp_path / "parts"
    folder.mkdir()
    monkeypatch.setattr(Training, "forward", counted)
    run_stage(stage, folder, inputs, squares, lambda progress: None, Resources(micro_batch=most))
    assert rows == parts
    if kind == "experts":  # the balance loss is of fewer rows, so that only the first step is the same
        first = [first_points(one) for one in (whole, folder)]
        assert "busiest_expert/layer_1" in first[0] and first[1] == pytest.approx(first[0], rel=1e-5)
    else:
        assert_alike(whole, folder)


def test_a_frozen_decoder_reads_rows_without_images(
    multimodal_stage: MultimodalStage, finished: Finished, squares: Data, tmp_path: Path
) -> None:
    stage = multimodal_stage.model_copy(update={"frozen": ("decoder",)})
    inputs = {name: finished(needed) for name, needed in stage.inputs.items()}
    run_stage(stage, tmp_path, inputs, squares, lambda progress: None, Resources(micro_batch=1))
    assert_alike(finished(stage), tmp_path)


def first_points(folder: Path) -> dict[str, float]:
    with (folder / "training.csv").open() as file:
        return {row["name"]: float(row["value"]) for row in csv.DictReader(file) if row["step"] == "1"}


def test_another_order_of_the_data_reads_each_batch_once(
    multimodal_stage: MultimodalStage,
    squares: Data,
    finished: Finished,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read: list[int] = []
    batch = MixtureBatches.__call__

    def spy(self: MixtureBatches, step: int) -> Batch:
        read.append(step)
        return batch(self, step)

    inputs = {name: finished(needed) for name, needed in multimodal_stage.inputs.items()}
    monkeypatch.setattr(MixtureBatches, "__call__", spy)
    orders = []
    for order in (0, 1, 2):
        read.clear()
        folder = tmp_path / str(order)
        folder.mkdir()
        run_stage(multimodal_stage.model_copy(update={"data_order": order}), folder, inputs, squares, print)
        orders.append(list(read))
    steps = list(range(multimodal_stage.training.steps))
    assert orders[0] == steps == sorted(orders[1]) == sorted(orders[2])
    assert steps != orders[1] != orders[2] != steps
