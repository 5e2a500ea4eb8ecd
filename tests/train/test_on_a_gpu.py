"""What only a GPU shows. Where there is one, tests/train and tests/evaluate run on it, too."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from transformers import Qwen2ForCausalLM

from mm1_lab import team
from mm1_lab.config import EncoderStage, MultimodalStage, Resources, SftStage, Size
from mm1_lab.data.batches import Batch
from mm1_lab.model import build_decoder, read_by_document, read_rows
from mm1_lab.model.decoder import decoder_config, initialise, sparse_layers
from mm1_lab.train import recorder
from mm1_lab.train.recorder import Recorder
from tests.small import rows_of
from tests.train.conftest import shortened, train, weights_of

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU on this machine")
GPU = torch.device("cuda", 0)
GROUPED = Size(layers=2, width=256, heads=8, kv_heads=2, feed_forward=512)


@pytest.fixture(autouse=True)
def allowed() -> None:
    """Whatever scale an earlier test ran."""
    team.allow_gpu(True)


class Loss(nn.Module):
    """Of a decoder of width 256 and 64 words, whose parameters FSDP gathers for `forward`."""

    def __init__(self, decoder: Any) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, batch: Batch) -> torch.Tensor:
        embedded = torch.randn(*batch.tokens.shape, 256, generator=torch.Generator().manual_seed(1)).to(GPU)
        hidden = read_rows(self.decoder, embedded, batch).hidden[batch.documents > 0]
        logits = self.decoder.lm_head(hidden).float()
        return nn.functional.cross_entropy(logits, torch.arange(len(logits), device=GPU) % 64)


def loss_and_gradients(model: Loss, batch: Batch, half: bool) -> tuple[torch.Tensor, list[Any]]:
    model.zero_grad()
    with torch.autocast("cuda", torch.bfloat16, enabled=half):
        loss = model(batch)
    loss.backward()
    return loss.detach(), [one.grad for one in model.parameters() if one.grad is not None]


def norm_of_difference(found: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    """Relative, of all of them as one vector."""
    apart = sum((a - b).square().sum().item() for a, b in zip(found, expected, strict=True))
    return (apart / sum(b.square().sum().item() for b in expected)) ** 0.5


@pytest.mark.parametrize("window", [None, 40])
def test_flash_kernels_and_a_mask_give_the_same_loss(window):
    torch.manual_seed(0)
    config = decoder_config(GROUPED, 64, 256)
    if window:
        config.sliding_window, config.layer_types = window, ["sliding_attention"] * GROUPED.layers
    decoder = Qwen2ForCausalLM(config).to(GPU)
    initialise(decoder)
    model = Loss(decoder)
    documents = torch.tensor([[1] * 100 + [2] * 130 + [0] * 26, [1] * 256])
    batch = rows_of(documents).to(GPU)
    exact = loss_and_gradients(model, batch, half=False)
    masked = loss_and_gradients(model, batch, half=True)
    read_by_document(decoder)
    found = loss_and_gradients(model, batch, half=True)
    torch.testing.assert_close(found[0], masked[0], rtol=1e-3, atol=0)
    rounding = norm_of_difference(masked[1], exact[1])
    assert norm_of_difference(found[1], exact[1]) < 1.5 * rounding < 0.05


def test_experts_as_a_grouped_product_are_the_library_s_loop():
    results = []
    for implementation in ("eager", "sorted"):
        torch.manual_seed(1)
        size = Size(layers=1, width=256, heads=4, experts=8, experts_every=1)
        decoder = build_decoder(size, 20, 12).to(GPU)
        decoder.set_experts_implementation(implementation)
        mlp = sparse_layers(decoder)[0].mlp
        inputs = torch.randn(4, 64, 256, generator=torch.Generator().manual_seed(2)).to(GPU).requires_grad_()
        with torch.autocast("cuda", torch.bfloat16):
            out = mlp(inputs)
        out.square().sum().backward()
        results.append([out.detach(), inputs.grad, mlp.experts.gate_up_proj.grad, mlp.experts.down_proj.grad])
    for theirs, ours in zip(*results, strict=True):
        assert norm_of_difference([ours], [theirs]) < 0.01


def assert_close(expected: Path, actual: Path, most: float) -> None:
    """The weights as one vector, but for those whose gradients are rounding errors."""
    right, found = weights_of(expected), weights_of(actual)
    moved = [name for name in right if not name.endswith("k_proj.bias")]
    assert norm_of_difference([found[name] for name in moved], [right[name] for name in moved]) < most


def half(stage: MultimodalStage, **changes: object) -> MultimodalStage:
    return stage.model_copy(update={"precision": "bf16-mixed", "attention": "varlen"} | changes)


@pytest.mark.parametrize("kind", ["encoder", "reconstructive", "decoder", "experts", "multimodal", "sft"])
def test_a_stage_learns_what_it_learns_on_a_processor(stage, finished, tmp_path, monkeypatch):
    """In single precision: the same weights."""
    for device in (GPU, torch.device("cpu")):
        monkeypatch.setattr(team, "device", lambda device=device: device)
        train(stage, tmp_path / device.type, finished)
    assert_close(tmp_path / "cpu", tmp_path / "cuda", 1e-3)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("compiled", [False, True])
def test_half_precision_trains_alike(compiled, checkpointing, multimodal_stage, finished, tmp_path):
    stage, resources = half(multimodal_stage, compile=compiled), Resources(gradient_checkpointing=checkpointing)
    assert_close(finished(multimodal_stage), train(stage, tmp_path, finished, resources), 0.05)


@pytest.mark.parametrize("kind", ["encoder", "reconstructive", "decoder", "multimodal", "sft"])
def test_no_step_waits_for_the_gpu(stage, finished, tmp_path, monkeypatch):
    """Steps 3 to 18 of 20, between the first's preparations and the last's readings; torch raises at a wait."""
    stage = shortened(stage, 20)
    stage = stage if isinstance(stage, SftStage | EncoderStage) else half(stage)
    monkeypatch.setattr(recorder, "POINTS", 1)
    after, steps = Recorder.on_train_batch_end, []

    def noted(self: Recorder, trainer: Any, *rest: Any) -> None:
        after(self, trainer, *rest)
        steps.append(trainer.global_step)
        torch.cuda.set_sync_debug_mode("error" if 2 <= trainer.global_step < 18 else "default")

    for needed in stage.inputs.values():
        finished(needed)
    monkeypatch.setattr(Recorder, "on_train_batch_end", noted)
    try:
        train(stage, tmp_path, finished)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert steps == list(range(1, 21))


def test_shards_in_half_precision_give_the_whole_s_loss(tmp_path):
    """A team of one GPU: what FSDP casts and gathers, without an exchange."""
    torch.manual_seed(0)
    decoder = build_decoder(GROUPED, 64, 256).to(GPU)
    read_by_document(decoder)
    model = Loss(decoder)
    batch = rows_of(torch.tensor([[1] * 100 + [2] * 156])).to(GPU)
    whole, gradients = loss_and_gradients(model, batch, half=True)
    torch.distributed.init_process_group(
        "nccl", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1, device_id=torch.device("cuda", 0)
    )
    try:
        policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
        for layer in decoder.model.layers:
            fully_shard(layer, mp_policy=policy)
        fully_shard(model)
        found, sharded = loss_and_gradients(model, batch, half=True)
        torch.testing.assert_close(found, whole, rtol=1e-3, atol=0)
        gathered = [one.full_tensor() for one in sharded]
        assert norm_of_difference(gathered, gradients) < 0.02
    finally:
        torch.distributed.destroy_process_group()
