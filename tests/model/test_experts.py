"""Mixture of experts: counts, losses by hand, upcycling; and documents read without a mask over all pairs."""

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForCausalLM, PreTrainedModel

from mm1_lab.config import Size, load_scale
from mm1_lab.data.batches import Batch
from mm1_lab.model import build_decoder, count_parameters, read_by_document, read_rows, upcycle
from mm1_lab.model.decoder import Router, sparse_layers
from tests.small import rows_of

DENSE = Size(layers=4, width=24, heads=4)
EXPERTS = DENSE.model_copy(update={"experts": 4})
PAPER = load_scale("paper", Path(__file__).parents[2] / "sweeps" / "scales").decoders
SHARED_KEYS = Size(layers=2, width=24, heads=4, kv_heads=2, feed_forward=40)


def packed(width: int) -> tuple[torch.Tensor, Batch]:
    """Embeddings and documents of two rows of 12: of 5 and 4 with padding, and of 12."""
    torch.manual_seed(3)
    documents = torch.tensor([[1] * 5 + [2] * 4 + [0] * 3, [1] * 12])
    return torch.randn(2, 12, width), rows_of(documents)


@pytest.mark.parametrize(
    ("size", "total", "active"),
    [
        # the paper names 64B and 47B; the geometry is derived
        (PAPER["3B-MoE"], 64e9, 3.93e9),
        (PAPER["7B-MoE"], 47e9, 7.75e9),
        (Size(layers=4, width=64, heads=4, experts=4), 393.7e3, 262.7e3),
        (SHARED_KEYS, 2 * (3 * 24**2 + 3 * 24 * 40), 2 * (3 * 24**2 + 3 * 24 * 40)),
    ],
)
def test_the_formula_counts_what_is_built(size, total, active):
    parameters = size.parameters()
    with torch.device("meta"):
        counted = count_parameters(build_decoder(size, 100, 128))
    assert counted["decoder"] == pytest.approx(parameters.total, rel=0.04 if size.width < 100 else 0.001)
    assert parameters.total == pytest.approx(total, rel=0.02)
    assert parameters.active == pytest.approx(active, rel=0.02)
    assert size.model_copy(update={"experts": 0}).parameters().total == parameters.dense


def test_sizes_that_cannot_be():
    for change, message in (
        ({"experts": 1}, "experts must be at least experts_per_token"),
        ({"experts": 4, "experts_every": 5}, "layers at least experts_every"),
        ({"kv_heads": 3}, "4 heads cannot share 3 heads of keys and values evenly"),
    ):
        with pytest.raises(ValidationError, match=message):
            Size.model_validate(DENSE.model_dump() | change)


@torch.no_grad()
def test_auxiliary_losses_and_counts_by_hand():
    """Layer by layer, position by position; padding does not count."""
    torch.manual_seed(0)
    decoder = build_decoder(EXPERTS, 20, 12)
    for layer in sparse_layers(decoder):
        layer.mlp.gate.weight.mul_(30)
    embedded, batch = packed(24)
    inputs = []
    for layer in sparse_layers(decoder):
        layer.mlp.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    states = read_rows(decoder, embedded, batch)
    assert len(inputs) == 2 and states.routing.shape == (2, 6)
    balance = z = 0.0
    for layer, given, counted in zip(sparse_layers(decoder), inputs, states.routing.tolist(), strict=True):
        logits = (given @ layer.mlp.gate.weight.T)[batch.documents > 0].tolist()
        assert len(logits) == 21
        load, chances, entropy = [0] * 4, [0.0] * 4, 0.0
        for row in logits:
            total = sum(math.exp(value) for value in row)
            probabilities = [math.exp(value) / total for value in row]
            for expert in sorted(range(4), key=lambda expert: -row[expert])[:2]:
                load[expert] += 1
            chances = [a + b / 21 for a, b in zip(chances, probabilities, strict=True)]
            entropy -= sum(p * math.log(p) for p in probabilities)
            z += 0.001 * math.log(total) ** 2 / 21
        balance += 0.01 * 4 * sum(n / 42 * p for n, p in zip(load, chances, strict=True))
        assert counted == pytest.approx([*load, entropy, 21], rel=1e-4)
    assert states.auxiliary["balance"].item() == pytest.approx(balance, rel=1e-4)
    assert states.auxiliary["router_z"].item() == pytest.approx(z, rel=1e-4)


@pytest.mark.parametrize("read", [lambda decoder: None, read_by_document], ids=("by a mask", "by document"))
def test_rows_of_padding_alone_add_no_losses(read):
    """As a process of a team has where a step's conversations fill fewer rows than there are processes."""
    decoder = build_decoder(EXPERTS, 20, 12)
    read(decoder)
    states = read_rows(decoder, torch.randn(1, 12, 24), rows_of(torch.zeros(1, 12, dtype=torch.long)))
    assert not states.routing.any()
    assert all(loss.item() == 0 for loss in states.auxiliary.values())


def test_the_router_is_in_single_precision_and_learns():
    decoder = build_decoder(EXPERTS, 20, 12)
    embedded, batch = packed(24)
    gate = sparse_layers(decoder)[0].mlp.gate
    seen = []
    gate.register_forward_hook(lambda _, given, out: seen.append(out[0].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        states = read_rows(decoder, embedded, batch)
    assert seen == [torch.float32]
    sum(states.auxiliary.values()).backward()
    assert (gate.weight.grad != 0).any()


@pytest.mark.parametrize("chosen", [1, 2, 3])
def test_the_task_teaches_the_router(chosen):
    """Of one expert per token the weight is its probability, not a constant 1; the library computes the same."""
    torch.manual_seed(0)
    decoder = build_decoder(EXPERTS.model_copy(update={"experts_per_token": chosen}), 20, 12)
    ids = torch.randint(0, 20, (2, 12))
    logits = decoder(input_ids=ids).logits
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids.flatten()).backward()
    assert all(layer.mlp.gate.weight.grad.abs().max() > 1e-5 for layer in sparse_layers(decoder))
    library = AutoModelForCausalLM.from_config(decoder.config, experts_implementation="eager")
    library.load_state_dict(decoder.state_dict())
    assert not isinstance(sparse_layers(library)[0].mlp.gate, Router)
    torch.testing.assert_close(library(input_ids=ids).logits, logits, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("most", ["50GB", "20KB"], ids=("one file", "several files"))
def test_experts_that_are_copies_give_the_dense_decoder_s_logits(most, tmp_path):
    torch.manual_seed(1)
    dense, sparse = build_decoder(DENSE, 20, 12), build_decoder(EXPERTS, 20, 12)
    dense.save_pretrained(tmp_path, max_shard_size=most)
    embedded, batch = packed(24)
    before = read_rows(sparse, embedded, batch).hidden
    upcycle(sparse, tmp_path)
    expected = dense.lm_head(read_rows(dense, embedded, batch).hidden)
    found = sparse.lm_head(read_rows(sparse, embedded, batch).hidden)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(before, read_rows(sparse, embedded, batch).hidden)


@pytest.mark.parametrize("size", [DENSE, EXPERTS, SHARED_KEYS], ids=("dense", "experts", "shared keys"))
def test_documents_read_one_by_one_are_documents_read_by_a_mask(size):
    """States and gradients, also for the layers' inputs; and what padding holds does not matter."""

    def read(decoder: PreTrainedModel) -> tuple[torch.Tensor, list[torch.Tensor]]:
        embedded, batch = packed(24)
        embedded.requires_grad_()
        hidden = read_rows(decoder, embedded, batch).hidden[batch.documents > 0]
        weights = [p for p in decoder.model.parameters() if p.requires_grad and p.numel()]
        gradients = torch.autograd.grad(hidden.sin().sum(), [embedded, *weights], allow_unused=True)
        return hidden, [gradient for gradient in gradients if gradient is not None]

    torch.manual_seed(0)
    decoder = build_decoder(size, 20, 12)
    masked, masked_gradients = read(decoder)
    read_by_document(decoder)
    torch.testing.assert_close(read(decoder), (masked, masked_gradients), rtol=1e-4, atol=1e-5)


def test_flash_kernels_and_a_mask_give_the_same_loss_in_half_precision(monkeypatch):
    """A plain loop over documents stands for the kernel."""

    def kernel(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *ends: Any, **how: Any) -> torch.Tensor:
        starts, same, longest, _ = ends
        assert starts is same and longest == 12 and query.dtype == key.dtype == value.dtype == torch.bfloat16
        assert how["window_size"] == (-1, 0), "causal"
        assert query.shape[-1] == key.shape[-1] == value.shape[-1] == 8, "heads of 6, filled up"
        parts = []
        for start, end in pairwise(starts.tolist()):
            q, k, v = (one[start:end].transpose(0, 1).float() for one in (query, key, value))
            k, v = (one.repeat_interleave(len(q) // len(one), dim=0) for one in (k, v))
            scores = (how["scale"] * q @ k.mT).masked_fill(torch.ones(end - start, end - start).triu(1) > 0, -math.inf)
            parts.append((scores.softmax(dim=-1) @ v).transpose(0, 1).to(query.dtype))
        return torch.cat(parts)

    torch.manual_seed(0)
    decoder = build_decoder(SHARED_KEYS, 20, 12)
    embedded, batch = packed(24)
    losses = []
    for flash in (False, True):
        if flash:
            read_by_document(decoder)
            monkeypatch.setattr("mm1_lab.model.packed._has_flash_kernels", lambda embedded: True)
            monkeypatch.setattr("mm1_lab.model.packed.varlen_attn", kernel)
        with torch.autocast("cpu", torch.bfloat16):
            logits = decoder.lm_head(read_rows(decoder, embedded, batch).hidden[batch.documents > 0]).float()
        losses.append(torch.nn.functional.cross_entropy(logits, torch.arange(21) % 20))
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-3, atol=0)


@pytest.mark.parametrize("half", [False, True])
def test_experts_equal_the_library_s_loop(half):
    results = []
    for implementation in ("eager", "sorted"):
        torch.manual_seed(1)
        decoder = build_decoder(DENSE.model_copy(update={"experts": 8}), 20, 12)
        decoder.set_experts_implementation(implementation)
        mlp = sparse_layers(decoder)[0].mlp
        inputs = torch.randn(2, 12, 24, generator=torch.Generator().manual_seed(2)).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            out = mlp(inputs)
        out.square().sum().backward()
        results.append((out, inputs.grad, mlp.experts.gate_up_proj.grad, mlp.experts.down_proj.grad))
    for theirs, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0.02 if half else 1e-5, atol=0.02 if half else 1e-5)
