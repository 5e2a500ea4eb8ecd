"""What a GPU would meet does not grow: waits, bytes held and exchanged, counted without one."""

from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks import counts
from mm1_lab.config import Network, Recipe, SftRecipe, Size, load_scale
from mm1_lab.data.types import Data
from mm1_lab.model import build_decoder, build_encoder, read_by_document, read_rows
from mm1_lab.model.decoder import sparse_layers
from mm1_lab.train import sharding
from mm1_lab.train.encoder_stage import Contrastive, pair_batch
from mm1_lab.train.sharding import compile_parts
from tests.conftest import SCALES, Words, evaluation_of
from tests.small import rows_of, small_mm1


def with_layers(monkeypatch: pytest.MonkeyPatch, count: int, tower: str, decoder: str) -> None:
    """Gives encoder and decoder as many layers of their true size."""
    for known, name in ((counts.TOWERS, tower), (counts.DECODERS, decoder)):
        values = known[name].to_dict() | {"num_hidden_layers": count}
        values.pop("layer_types", None)
        monkeypatch.setitem(known, name, type(known[name]).from_dict(values))


CLIP, QWEN = "CLIP ViT-L/336", "Qwen2.5-0.5B"
WITHOUT_ENCODER = {"frozen": ("encoder",)}
CONNECTOR_ALONE = {"frozen": ("decoder", "encoder")}
LARGER = {**WITHOUT_ENCODER, "image_size": 896}
soaked = partial(pytest.param, marks=pytest.mark.soak)


@pytest.mark.parametrize(
    ("layers", "tower", "decoder", "checkpointing", "rows", "parts", "changes"),
    [
        (2, "AIMv2-L/336", QWEN, False, 2, 1, {}),
        (2, CLIP, QWEN, True, 4, 1, LARGER),
        (2, CLIP, QWEN, True, 4, 2, WITHOUT_ENCODER),
        (2, CLIP, QWEN, True, 8, 1, CONNECTOR_ALONE),
        soaked(None, CLIP, QWEN, True, 4, 2, {}),
        soaked(None, "SigLIP so400m/384", QWEN, True, 2, 1, {}),
        soaked(None, CLIP, "Qwen2.5-1.5B", True, 4, 1, {}),
    ],
)
def test_the_plan_s_memory_is_the_peak_of_what_lives(
    layers: int | None,
    tower: str,
    decoder: str,
    checkpointing: bool,
    rows: int,
    parts: int,
    changes: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a step, also in two micro-batches, the second of which finds the first one's gradients."""
    if layers:
        with_layers(monkeypatch, layers, tower, decoder)
    case = counts.real_case(tower, decoder, checkpointing, rows, tmp_path, **changes)
    peak, planned = counts.peak_beside_plan(case, parts)
    assert planned == pytest.approx(peak, rel=0.1)


def test_an_evaluation_s_plan_has_room_for_a_row_s_logits_and_counts_views_without_marks() -> None:
    words, positions = 152_000, 2048
    evaluation = evaluation_of(scale="mini").model_copy(update={"precision": "bf16-mixed"})
    long = evaluation.model.model_copy(update={"sequence_length": positions})
    cost = evaluation.model_copy(update={"model": long}).cost(Network({}, 0.0, words), load_scale("mini", SCALES))
    with FakeTensorMode(), torch.no_grad(), counts.Live() as live:
        for _ in range(2):  # the second while the first's logits still have a name
            logits = torch.empty(positions - 1, words, dtype=torch.bfloat16).float()
            torch.nn.functional.cross_entropy(logits, torch.empty(positions - 1, dtype=torch.long), reduction="none")
    assert cost.activations == pytest.approx(live.most, rel=0.01)
    sft = SftRecipe(views=5, resolution=672, tile_marks="text")
    evaluation, scale = evaluation_of(recipe=Recipe(image_tokens=64, sft=sft)), load_scale("smoke", SCALES)
    free, dear = (evaluation.cost(Network({}, flops, 500), scale).flops for flops in (0.0, 1e12))
    assert (dear - free) / 1e12 == pytest.approx(5 * evaluation.image_prompts(), rel=1e-3)


def test_no_step_waits_for_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, squares: Data) -> None:
    with_layers(monkeypatch, 2, CLIP, QWEN)
    assert counts.waits_of_a_step(counts.real_case(CLIP, QWEN, True, 2, tmp_path)) == []
    with FakeTensorMode(), counts.Waits() as waits:
        values = torch.ones(8)
        values[values > 0].sum().item()
        (values > 0).nonzero()
    assert waits.seen == ["index by a mask", "_local_scalar_dense", "nonzero"]
    size = Size(layers=1, width=16, heads=2)
    network = Contrastive(build_encoder(size, 6, 12), size, squares.tokenizer.size)
    images = [squares.held_out("captions", 1)[0].parts[0].pixels(12)] * 6  # type: ignore[union-attr]
    batch = pair_batch(images, ["a square is red", "a", "a square " * 9, "is", "red red red", "a square"], Words())
    with counts.Waits() as waits:
        network.loss(batch).main.backward()
    assert waits.seen == []


def test_attention_builds_no_plan_for_a_new_shape() -> None:
    """As cuDNN's does, for a second or two; importing the model takes it out of torch's choice."""
    assert not torch.backends.cuda.cudnn_sdp_enabled()
    assert torch.backends.cuda.flash_sdp_enabled() and torch.backends.cuda.mem_efficient_sdp_enabled()


def test_weights_are_gathered_in_half_precision_and_gradients_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes a parameter: twice 2 for each micro-batch; 4 within a node; twice 4 / 8 between nodes. The norms, the
    embedding and the vocabulary's projection are gathered and exchanged in single precision."""
    for micro_batches in (1, 3):
        found, parameters = counts.bytes_exchanged(micro_batches)
        assert [count / parameters for count in found.values()] == pytest.approx([4 * micro_batches, 4, 1], rel=0.06)
    # where whole gradients do not fit, those of each micro-batch are scattered within a node: 4 bytes three times
    monkeypatch.setattr(sharding, "_memory", lambda: 45e6)  # an eighth of it holds 1.4M parameters of 3.3M
    found, parameters = counts.bytes_exchanged(3)
    assert [count / parameters for count in found.values()] == pytest.approx([4 * 3, 4 * 3, 1], rel=0.06)


def test_what_is_compiled_is_one_graph() -> None:
    """Encoder, connector and decoder, with masks and by document: `fullgraph` raises where a graph would break."""
    size = Size(layers=1, width=16, heads=2)
    model = small_mm1(size, size, "c-abstractor", 50, 40, 3)
    batch = rows_of(torch.tensor([[1] * 20 + [2] * 12 + [0] * 8, [1] * 40]))
    images = torch.randint(256, (2, 3, 24, 24), dtype=torch.uint8)
    for part in (model.encoder, model.connector, model.decoder.model):
        part.compile(backend="eager", fullgraph=True)
    model.connector(model.encoder(images))
    for _ in range(2):
        read_rows(model.decoder, model.decoder.get_input_embeddings()(batch.tokens), batch)
        read_by_document(model.decoder)


@pytest.mark.parametrize(
    ("backend", "checkpointing"), [("eager", True), soaked("aot_eager", False), soaked("aot_eager", True)]
)
def test_layers_with_experts_are_compiled_as_one_graph_each(backend: str, checkpointing: bool) -> None:
    """And give the same losses and gradients as those that are not compiled."""
    batch = rows_of(torch.tensor([[1] * 20 + [2] * 12 + [0] * 8, [1] * 40]))
    found = []
    for compiled in (False, True):
        torch.manual_seed(0)
        decoder = build_decoder(Size(layers=2, width=16, heads=2, experts=4, experts_every=2), 50, 40).train()
        if checkpointing:
            decoder.activation_checkpointing_enable({"use_reentrant": False})
        if compiled:
            with patch.object(torch, "compile", partial(torch.compile, backend=backend, fullgraph=True)):
                compile_parts(decoder.model)
        states = read_rows(decoder, torch.ones(2, 40, 16).cumsum(1).cos(), batch)
        (states.hidden[batch.documents > 0].square().mean() + sum(states.auxiliary.values())).backward()
        assert all(layer.mlp.gate.logits is None for layer in sparse_layers(decoder)), "they would keep a layer alive"
        gradients = [parameter.grad for parameter in decoder.parameters() if parameter.grad is not None]
        found.append([states.routing, *states.auxiliary.values(), *gradients])
    torch.testing.assert_close(found[1], found[0])


def test_layers_that_are_alike_are_compiled_once() -> None:
    """Once more when the number of pictures or documents first changes, whatever it is from then on."""
    size = Size(layers=4, width=16, heads=2)
    model = small_mm1(size, size, "c-abstractor", 50, 40, 3)
    compiled = CompileCounterWithBackend("eager")
    with patch.object(torch, "compile", partial(torch.compile, backend=compiled)):
        compile_parts(model.encoder, model.connector, model.decoder.model)
    for documents, images in (([1] * 40, 2), ([1] * 20 + [2] * 20, 3), ([1] * 9 + [2] * 9 + [3] * 22, 5)):
        model.connector(model.encoder(torch.zeros(images, 3, 24, 24, dtype=torch.uint8)))
        batch = rows_of(torch.tensor([documents, [1] * 40]))
        read_rows(model.decoder, model.decoder.get_input_embeddings()(batch.tokens), batch)
    assert compiled.frame_count == 3, "an encoder's layer for two pictures and for any number, a decoder's"
