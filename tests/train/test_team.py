"""Two processes train as one does: the same losses and weights, resumed bit for bit, and finished by one alone."""

import errno
import json
import math
import multiprocessing
import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from concurrent.futures import wait
from multiprocessing import connection
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import distributed, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from mm1_lab import team
from mm1_lab.config import MultimodalStage, Pretrained, Resources, Size, Stage
from mm1_lab.model import CONNECTORS, build_decoder, build_mm1, load_decoder, upcycle
from mm1_lab.model.decoder import load_in_team
from mm1_lab.train import checkpoints, recorder, sharding
from mm1_lab.train.module import Training
from mm1_lab.train.progress import Diverged
from mm1_lab.train.recorder import Recorder
from mm1_lab.train.sharding import ShardedNetwork
from mm1_lab.weights.pretrained import read_decoder, text_config
from tests import pretrained as saved
from tests.conftest import REPOSITORY, Squares
from tests.small import small_mm1
from tests.train.conftest import Finished, Killed, assert_alike, assert_same, curve, shortened, train

CHILD = multiprocessing.get_context("fork")  # what is imported need not be imported again


def in_team(size: int, folder: Path, work: Callable[[], None]) -> None:
    """Does `work` in `size` processes that know each other; fails as one of them does."""
    if sys.platform == "darwin":
        pytest.skip("Apple's libraries do not survive a fork")
    if torch.cuda.is_initialized():
        pytest.skip("a process forked after CUDA has started cannot call it, as torch and Lightning do")

    def process(rank: int) -> None:
        torch.set_num_threads(1)
        meeting = f"file://{folder}/meeting.{os.getppid()}"
        try:
            distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=size)
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)

    processes = [CHILD.Process(target=process, args=[rank]) for rank in range(size)]
    for each in processes:
        each.start()
    try:
        running = {each.sentinel for each in processes}
        while running and not any(each.exitcode for each in processes):  # the others may wait for it
            running.difference_update(connection.wait(running))
    finally:  # also of a test that takes too long
        for each in processes:
            each.kill()
            each.join()
    assert [each.exitcode for each in processes] == [0] * size
    for left in folder.glob("meeting.*"):
        left.unlink()


def train_killed(stage: Stage, folder: Path, finished: Finished, after: int) -> None:
    """Trains a stage until all its processes are killed at once, after step `after` and its checkpoint."""
    keep = Recorder.on_train_batch_end

    def kill(self: Recorder, trainer: object, *rest: object) -> None:
        keep(self, trainer, *rest)
        if trainer.global_step == after:
            raise Killed

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(recorder, "CHECKPOINT_SECONDS", 0.0)
        patch.setattr(Recorder, "on_train_batch_end", kill)
        train(stage, folder, finished)


def assert_experts_are_divided(network: nn.Module, parts: int) -> list[Any]:
    """Each process has as much of them as the others."""
    experts = [parameter for name, parameter in network.named_parameters() if ".experts." in name]
    assert all(parts * one.to_local().numel() == one.numel() for one in experts)
    return experts


def only_the_first_makes_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others' networks are on the meta device until they get their shards, each the same part of all experts."""
    shard = ShardedNetwork.__init__

    def check(self: ShardedNetwork, module: nn.Module, network: nn.Module, *rest: Any) -> None:
        made = {not value.is_meta for value in (*network.parameters(), *network.buffers())}
        assert made == {team.is_first()}
        shard(self, module, network, *rest)
        assert not any(value.is_meta for value in (*network.parameters(), *network.buffers()))
        assert_experts_are_divided(network, team.size())

    monkeypatch.setattr(ShardedNetwork, "__init__", check)


@pytest.fixture
def sparse_stage(multimodal_stage, experts_stage) -> MultimodalStage:
    """With three experts in its decoder."""
    return multimodal_stage.model_copy(update={"decoder": experts_stage})


def pooled(stage: MultimodalStage) -> MultimodalStage:
    """With the connector of the fewest weights: what a process first does with each weight is most of these tests."""
    return stage.model_copy(update={"connector": stage.connector.model_copy(update={"kind": "average-pooling"})})


def test_two_processes_train_as_one_does(request, finished, tmp_path, monkeypatch):
    """Each kind of stage; the decoder's rows, and those read with adapters, come one at a time."""
    only_the_first_makes_weights(monkeypatch)
    most_rows = {"encoder": 0, "reconstructive": 0, "aligned": 0, "decoder": 1, "lora": 1}
    stages = {kind: shortened(request.getfixturevalue(f"{kind}_stage"), 3) for kind in most_rows}
    aligned = stages["aligned"]
    stages["aligned"] = pooled(aligned).model_copy(update={"start": pooled(aligned.start)})
    alone = {kind: finished(stage) for kind, stage in stages.items()}

    def work() -> None:
        for kind, stage in stages.items():
            train(stage, tmp_path / kind, finished, Resources(micro_batch=most_rows[kind]))

    in_team(2, tmp_path, work)
    for kind, folder in alone.items():
        assert_alike(folder, tmp_path / kind)


def test_three_processes_train_as_one_does_at_once_and_in_parts(sparse_stage, finished, tmp_path, monkeypatch):
    """Of four rows: shares differ in size, and in some there is no image. Each has one of the experts, and in parts a
    connector of few weights.

    In parts of a row, two of three have one of the rows, and beside it one of padding. (A balance loss is that of each
    part.) What they tell each other in a step are their counts, once, and in each part its experts' loads."""
    only_the_first_makes_weights(monkeypatch)
    stage = shortened(sparse_stage, 3)
    varlen = pooled(stage).model_copy(update={"attention": "varlen"})
    no_step = shortened(stage, 0).model_copy(update={"shares": {}})
    alone, untrained = {"at once": finished(stage)}, finished(no_step)

    def in_parts(then: Callable[[Stage, str], None]) -> None:
        monkeypatch.setattr("mm1_lab.model.packed.BALANCE_WEIGHT", 0.0)
        then(pooled(stage), "in parts")
        monkeypatch.setattr(recorder, "STEPS_BETWEEN_READS", {"cpu": 20})
        monkeypatch.setattr(recorder, "READ_SECONDS", 1e9)
        monkeypatch.setattr(recorder, "POINTS", 1)
        then(varlen, "seldom read")

    rows = []
    exchanges = []
    before_step = []
    forward, all_reduce, training_step = Training.forward, distributed.all_reduce, Training.training_step

    def counted(self: Training, batch: Any, share: float) -> torch.Tensor:
        rows.append(len(batch.tokens))
        return forward(self, batch, share)

    def told(values: torch.Tensor, **settings: Any) -> None:
        exchanges.append(values.numel())
        all_reduce(values, **settings)

    def noted(self: Training, parts: list[Any], index: int) -> torch.Tensor:
        before_step.append(len(exchanges))
        return training_step(self, parts, index)

    def train_in_parts(stage: Stage, name: str) -> None:
        rows.clear()
        before_step.clear()
        train(stage, tmp_path / name, finished, Resources(micro_batch=1))
        assert rows == [1, 1] * 3

    def work() -> None:
        train(stage, tmp_path / "at once", finished)
        train(no_step, tmp_path / "no step", finished)
        monkeypatch.setattr(Training, "forward", counted)
        monkeypatch.setattr(distributed, "all_reduce", told)
        monkeypatch.setattr(Training, "training_step", noted)
        in_parts(train_in_parts)
        assert before_step[2] - before_step[1] == 1 + 2, "after the first step there is a reading"

    in_team(3, tmp_path, work)
    in_parts(lambda stage, name: alone.update({name: train(stage, tmp_path / f"{name} alone", finished)}))
    for name, folder in alone.items():
        assert_alike(folder, tmp_path / name)
    assert_same(untrained, tmp_path / "no step")


def test_what_a_team_began_it_or_one_alone_ends_and_the_other_way_round(experts_stage, finished, tmp_path):
    """Resumed by the same team bit for bit. Two processes divide the rows of the three experts."""
    stage = shortened(experts_stage, 4)
    alone = finished(stage)
    straight, resumed, handed_over, taken_over = (tmp_path / name for name in ("one", "two", "three", "four"))
    train_killed(stage, taken_over, finished, after=2)

    def work() -> None:
        train(stage, straight, finished)
        train_killed(stage, handed_over, finished, after=2)
        distributed.barrier()
        train_killed(stage, resumed, finished, after=2)
        train(stage, resumed, finished)
        train(stage, taken_over, finished)

    in_team(2, tmp_path, work)
    assert_same(straight, resumed)
    assert curve(resumed) == curve(straight)
    assert torch.load(handed_over / "last.ckpt" / "rest.ckpt", weights_only=True)["global_step"] == 2
    train(stage, handed_over, finished)
    for folder in (straight, handed_over, taken_over):
        assert_alike(alone, folder)


def test_a_pre_trained_decoder_is_read_by_all(tmp_path, monkeypatch):
    """Each process its shards; the first alone reads the embedding, which grows, and is tied to the output's. The rows
    added are as exact as in one process, though the weights are in half precision."""
    file = saved.save_decoder("qwen2", tmp_path / "model") / "model.safetensors"
    save_file({name: value.bfloat16() for name, value in load_file(file).items()}, file, {"format": "pt"})
    facts = read_decoder(Pretrained(weights=str(file.parent)))

    def made() -> PreTrainedModel:
        decoder = AutoModelForCausalLM.from_config(text_config(facts, saved.ROWS + 5))
        load_decoder(decoder, facts)
        return decoder

    def work() -> None:
        if not team.is_first():  # which would read what it does not use
            monkeypatch.setattr("mm1_lab.model.decoder.safe_open", None)
        with team.only_in_first():
            decoder = made()
        assert len(decoder.unread) == len(list(decoder.parameters())) - 1
        whole = ShardedNetwork(nn.Sequential(decoder), decoder, "32-true").whole()
        if team.is_first():
            torch.testing.assert_close(whole.state_dict(), expected, rtol=0, atol=0)

    expected = made().state_dict()
    in_team(2, tmp_path, work)


@pytest.mark.parametrize("team_size", [pytest.param(2, marks=pytest.mark.soak), 4])
def test_large_decoders_are_drawn_and_upcycled_shard_by_shard(team_size, tmp_path, monkeypatch):
    """As in one process, whether the rows of the three experts are divided or the columns of a matrix; of matrices
    with several blocks, and of fewer rows than processes."""
    monkeypatch.setattr("mm1_lab.model.decoder.LARGE", 0)
    monkeypatch.setattr("mm1_lab.model.filling.BLOCK", 100)
    dense = Size(layers=2, width=12, heads=2)
    sparse = dense.model_copy(update={"experts": 3, "experts_every": 1})

    def made(size: Size, upcycled: bool = False) -> PreTrainedModel:
        torch.manual_seed(5)
        with team.only_in_first():
            decoder = build_decoder(size, 3, 12)
        if upcycled:
            upcycle(decoder, tmp_path)
        return decoder

    made(dense).save_pretrained(tmp_path)
    cases = [(dense, False), (sparse, False), (sparse, True)]

    def work() -> None:
        monkeypatch.setattr(nn.init, "normal_", None)  # which would draw whole matrices
        for (size, upcycled), values in zip(cases, expected, strict=True):
            decoder = made(size, upcycled)
            whole = ShardedNetwork(nn.Sequential(decoder), decoder, "32-true").whole()
            if team.is_first():
                torch.testing.assert_close(whole.state_dict(), values, rtol=0, atol=0)

    expected = [made(*case).state_dict() for case in cases]
    assert not any(
        torch.equal(one, other)
        for one, other in zip(expected[1].values(), expected[2].values(), strict=True)
        if one.ndim == 3
    )
    in_team(team_size, tmp_path, work)


def test_another_team_resumes_from_the_checkpoint_before_a_damaged_one(experts_stage, finished, tmp_path, monkeypatch):
    """Four processes after two. What the two leave are shards of like size, and an unfinished folder of five.

    Two divide the rows of the three experts, four the columns of one of their matrices."""
    phases = tuple(phase.model_copy(update={"batch_size": 4}) for phase in experts_stage.training.phases)
    stage = experts_stage.model_copy(update={"training": experts_stage.training.model_copy(update={"phases": phases})})
    alone = finished(stage)  # before the team starts, which would be killed while it trains what this starts from
    folder = tmp_path / "team"
    unfinished = folder / "last.ckpt.part"
    unfinished.mkdir(parents=True)
    (unfinished / "shard-00005-model-00001-of-00001.safetensors").write_bytes(b"of a larger team")
    in_team(2, tmp_path, lambda: train_killed(stage, folder, finished, after=2))
    shards = sorted((folder / "last.ckpt").glob("*.safetensors"))
    assert len(shards) == 2 and shards[1].stat().st_size > 0.8 * shards[0].stat().st_size
    digests = json.loads((folder / "last.ckpt" / "digests.json").read_text())
    assert digests.keys() == {path.name for path in (folder / "last.ckpt").iterdir()} - {"digests.json"}
    changed = bytearray(shards[1].read_bytes())
    changed[-1] ^= 1
    shards[1].write_bytes(changed)
    notes = tmp_path / "notes"

    def work() -> None:
        told = []
        train(stage, folder, finished, report=told.append)
        if team.is_first():
            notes.write_text(repr([progress.note for progress in told if progress.note]))
            assert next(progress.step for progress in told if not progress.note) > 1

    only_the_first_makes_weights(monkeypatch)
    in_team(4, tmp_path, work)
    assert "damaged and put aside: last.ckpt; training resumes from last.ckpt.before" in notes.read_text()
    assert_alike(alone, folder)
    assert not list(folder.glob("last.ckpt*"))


def test_a_team_s_checkpoints_are_written_beside_training(tied_stage, finished, tmp_path, monkeypatch):
    """As on GPUs: of copies of the shards, and of what is tied once."""
    monkeypatch.setattr(checkpoints, "WRITTEN_BESIDE_TRAINING", ("cpu",))
    stage, folder = shortened(pooled(tied_stage), 2), tmp_path / "team"
    alone = finished(stage)

    def work() -> None:
        train_killed(stage, folder, finished, after=1)
        if team.is_first():  # which gives it its name
            assert (folder / "last.ckpt" / "digests.json").exists()
        train(stage, folder, finished)

    in_team(2, tmp_path, work)
    assert_alike(alone, folder)


def test_a_checkpoint_that_one_cannot_write_stops_all_at_the_next_step(decoder_stage, finished, tmp_path, monkeypatch):
    """Otherwise the others would wait for it at the next one, perhaps an hour later. Writing is waited for here."""
    due, steps = Recorder._is_due, []

    def once_written(self: Recorder, trainer: Any, now: float) -> bool:
        steps.append(trainer.global_step)
        if trainer.strategy._writing:
            wait([trainer.strategy._writing])
        return due(self, trainer, now)

    monkeypatch.setattr(Recorder, "_is_due", once_written)
    monkeypatch.setattr(checkpoints, "WRITTEN_BESIDE_TRAINING", ("cpu",))
    monkeypatch.setattr(recorder, "CHECKPOINT_SECONDS", 0.0)

    def share(path: Path, _: Path) -> None:
        if path.name == checkpoints.REST:  # in this process alone
            recorder.CHECKPOINT_SECONDS = 1e9
            raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(checkpoints, "share", share)

    def work() -> None:
        with pytest.raises(OSError, match="no space left"):
            train(shortened(decoder_stage, 9), tmp_path / "team", finished)
        assert steps == [1, 2]

    in_team(2, tmp_path, work)
    assert not (tmp_path / "team" / "model.safetensors").exists()


def test_a_number_among_a_connector_s_weights_is_read_by_all(tmp_path, monkeypatch):
    """In a team it has a dimension, which its file does not have."""

    class Gated(CONNECTORS["average-pooling"]):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            self.gate = nn.Parameter(torch.tensor(0.5))

        def forward(self, patches: torch.Tensor) -> torch.Tensor:
            return super().forward(patches) * self.gate

    monkeypatch.setitem(CONNECTORS, "gated", Gated)
    sizes = Size(layers=2, width=32, heads=2), Size(layers=2, width=32, heads=2)
    model = small_mm1(*sizes, "gated", 300, 64, 299)
    model.save_pretrained(tmp_path)

    def work() -> None:
        with team.only_in_first():
            other = small_mm1(*sizes, "gated", 300, 64, 299)
        load_in_team(other, tmp_path)
        whole = ShardedNetwork(nn.Sequential(other), other, "32-true").whole()
        if team.is_first():
            torch.testing.assert_close(whole.state_dict(), model.state_dict(), rtol=0, atol=0)

    in_team(2, tmp_path, work)


def test_a_loss_that_is_not_finite_stops_all(decoder_stage, finished, tmp_path, monkeypatch):
    training_step = Training.training_step

    def broken_in_one(self: Training, parts: list[Any], index: int) -> torch.Tensor:
        loss = training_step(self, parts, index)
        if index == 1 and not team.is_first():
            self._unread[-1] = torch.tensor(math.nan)
        return loss

    monkeypatch.setattr(Training, "training_step", broken_in_one)

    def work() -> None:
        with pytest.raises(Diverged, match=r"the loss of step 2 is nan"):
            train(decoder_stage, tmp_path, finished)

    in_team(2, tmp_path, work)


@pytest.mark.slow
def test_each_node_holds_the_model(sft_stage, sparse_stage, finished, tmp_path, monkeypatch):
    """Two nodes of two processes: the shards of one are those of the other, and only gradients pass between them.

    Of the three experts each process has half of the rows. A process alone takes the last step."""
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    stage = shortened(sft_stage.model_copy(update={"model": pooled(sparse_stage), "frozen": ("encoder",)}), 2)
    with torch.device("meta"):
        model = build_mm1(stage, Squares.tokenizer)
    frozen, parameters = (sum(one.numel() for one in part.parameters()) for part in (model.encoder, model))
    # a node holds Adafactor's state, not AdamW's
    monkeypatch.setattr(sharding, "_memory", lambda: 12.0 * (parameters - frozen) + 4.0 * frozen)
    alone, shard = finished(stage), sharding._shard

    def check(module: nn.Module, *rest: object) -> None:
        shard(module, *rest)
        sharded = {name: one for name, one in module.named_parameters() if one.numel()}
        assert {parameter.device_mesh.shape for parameter in sharded.values()} == {(2, 2)}
        assert assert_experts_are_divided(module, 2)

    monkeypatch.setattr(sharding, "_shard", check)
    in_team(4, tmp_path, lambda: train_killed(stage, tmp_path / "team", finished, after=1))
    train(stage, tmp_path / "team", finished)
    assert_alike(alone, tmp_path / "team")


@pytest.mark.slow
@pytest.mark.parametrize(
    "shares", [pytest.param({"captions": 1.0}, marks=pytest.mark.soak), {"captions": 0.5, "text": 0.5}]
)
def test_nodes_add_up_what_a_node_has_added_up(shares, multimodal_stage, finished, tmp_path, monkeypatch):
    """Shards of a step's two micro-batches. Where one has no pictures, it has no gradients of encoder and connector."""
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    training = multimodal_stage.training.model_copy(update={"batch_size": 8, "steps": 2})
    stage = pooled(multimodal_stage).model_copy(update={"training": training, "shares": shares})
    alone = finished(stage)
    monkeypatch.setattr(sharding, "shard_group", lambda *_: 2)
    monkeypatch.setattr(sharding, "keeps_whole_gradients", lambda *_: False)
    in_team(4, tmp_path, lambda: train(stage, tmp_path / "team", finished, Resources(micro_batch=1)))
    assert_alike(alone, tmp_path / "team")


@pytest.mark.soak
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("changes", [{"attention": "varlen"}, {"compile": True}])
def test_torchrun_starts_a_team(changes, checkpointing, multimodal_stage, finished, tmp_path):
    stage = multimodal_stage.model_copy(update=changes)
    inputs = {needed.fingerprint: str(finished(needed)) for needed in stage.inputs.values()}
    script, folder = tmp_path / "script.py", tmp_path / "team"
    script.write_text(f"""
import sys
from pathlib import Path
from torch import distributed
sys.path.insert(0, {str(REPOSITORY)!r})
from mm1_lab.config import MultimodalStage, Resources
from tests.train.conftest import train
distributed.init_process_group("gloo")
stage = MultimodalStage.model_validate_json({stage.model_dump_json()!r})
train(stage, Path({str(folder)!r}), lambda needed: Path({inputs!r}[needed.fingerprint]),
      Resources(gradient_checkpointing={checkpointing}))
""")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    result = subprocess.run(torchrun, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert_alike(finished(stage), folder)
