"""The losses against plain computations; the schedule, and what decays."""

import math
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from typing import get_args

import pytest
import torch
from torch import nn

from mm1_lab.config import DecoderTraining, Optimiser, Phase, Recipe, SftRecipe, Size, load_scale
from mm1_lab.config.cost import Network, logit_bytes
from mm1_lab.data.batches import Batch, make_batch, micro_batches
from mm1_lab.data.packing import Packer
from mm1_lab.data.types import Data, Limits
from mm1_lab.model import build_decoder, build_encoder, read_rows
from mm1_lab.model.decoder import sparse_layers
from mm1_lab.train.encoder_stage import Contrastive, contrastive_loss, pair_batch
from mm1_lab.train.module import Losses, Training, language_loss
from mm1_lab.train.optimiser import build_optimiser, rate_factor
from tests.conftest import SCALES, evaluation_of
from tests.small import rows_of, small_mm1


def make_text_batch(squares: Data) -> Batch:
    packer = Packer(squares.tokenizer, Limits(32, 1, 1), prompt_loss_weight=0.25)
    names = ["text", "captions", "text"]
    rows = [packer.pack(squares.source("text", seed).documents(seed)) for seed in range(3)]
    return make_batch(rows, names, side=1, blind=True)


def test_language_loss_is_the_weighted_mean_over_text_and_zero_without_any(squares):
    torch.manual_seed(0)
    decoder = build_decoder(Size(layers=1, width=16, heads=2), squares.tokenizer.size, 32)
    batch = make_text_batch(squares)
    embedded = decoder.get_input_embeddings()(batch.tokens)
    states = read_rows(decoder, embedded, batch)
    losses = language_loss(decoder, states, batch, ["captions", "text", "interleaved"])
    loss, tally = losses.main, losses.tally

    chances = decoder.lm_head(states.hidden).log_softmax(dim=2)
    sums = {"captions": [0.0, 0.0], "text": [0.0, 0.0]}
    for row in range(3):
        for place in range(1, 32):
            weight = batch.weights[row, place].item()
            sums[batch.sources[row]][0] -= weight * chances[row, place - 1, batch.tokens[row, place]].item()
            sums[batch.sources[row]][1] += weight
    assert sums["text"][1] == pytest.approx(2 * 3 * (6 * 0.25 + 4 * 1 - 0.25))
    total = [sum(values) for values in zip(*sums.values(), strict=True)]
    assert loss.item() == pytest.approx(total[0] / total[1], rel=1e-5)
    assert tally[0].tolist() == pytest.approx([*sums["captions"], 30, 1], rel=1e-5)
    assert tally[1].tolist() == pytest.approx([*sums["text"], 60, 2], rel=1e-5)
    assert tally[2].tolist() == [0, 0, 0, 0]
    empty = replace(batch, weights=0 * batch.weights, predicting=batch.predicting[:0])
    loss = language_loss(decoder, states, empty, ["text", "captions"]).main
    loss.backward()
    assert loss.item() == 0.0


def test_auxiliary_losses_of_micro_batches_add_up(squares, monkeypatch):
    """Rows with few positions or none, as tuning has, count as much as they hold. (A balance loss is no mean.)"""
    monkeypatch.setattr("mm1_lab.model.packed.BALANCE_WEIGHT", 0.0)
    torch.manual_seed(0)
    decoder = build_decoder(Size(layers=1, width=16, heads=2, experts=4, experts_every=1), 20, 8)
    inputs = torch.randn(3, 8, 16)
    batch = rows_of(torch.tensor([[1] * 8, [1] * 2 + [0] * 6, [0] * 8]))
    batch = replace(batch, tokens=torch.arange(24).view(3, 8))  # places in `inputs`

    def objective(part: Batch) -> Losses:
        states = read_rows(decoder, inputs.flatten(0, 1)[part.tokens], part)
        return language_loss(decoder, states, part, ["text"])

    config = DecoderTraining(learning_rate=1, steps=1, phases=(Phase(share=1, sequence_length=8, batch_size=3),))
    training = Training(decoder, objective, config, "32-true")
    optimiser = torch.optim.SGD(decoder.parameters())
    monkeypatch.setattr(Training, "trainer", SimpleNamespace(optimizers=[optimiser]))
    gradients = []
    for parts in ([batch], micro_batches(batch, 1)):
        optimiser.zero_grad()
        training.training_step(parts, 0).backward()
        gradients.append(sparse_layers(decoder)[0].mlp.gate.weight.grad)
    assert gradients[0].any()
    torch.testing.assert_close(gradients[1], gradients[0])


def test_logits_in_chunks_give_the_same_loss_and_gradients(squares, monkeypatch):
    torch.manual_seed(0)
    decoder = build_decoder(Size(layers=1, width=16, heads=2), squares.tokenizer.size, 32)
    batch = make_text_batch(squares)
    places = []
    decoder.lm_head.register_forward_hook(lambda head, given, logits: places.append(len(logits)))
    found = []
    for most in (10**9, 7):
        monkeypatch.setattr("mm1_lab.train.module.LOGIT_BYTES", most * logit_bytes(squares.tokenizer.size, 4))
        decoder.zero_grad()
        states = read_rows(decoder, decoder.get_input_embeddings()(batch.tokens), batch)
        losses = language_loss(decoder, states, batch, ["text", "captions"])
        losses.main.backward()
        gradients = torch.cat([parameter.grad.flatten() for parameter in decoder.parameters()])
        found.append((losses.main.detach(), losses.tally, gradients))
    total = int((batch.weights[:, 1:] > 0).sum())
    in_chunks = [7] * (total // 7) + [total % 7]
    assert places[:1] == [total] and places[1 : 1 + len(in_chunks)] == in_chunks
    assert sorted(places[1:]) == sorted(2 * in_chunks), "once for the loss and once for the gradient"
    for whole, divided in zip(*found, strict=True):
        torch.testing.assert_close(divided, whole, rtol=1e-6, atol=1e-7)


def test_contrastive_losses_by_hand_and_of_a_team_s_parts():
    """Six pairs, two of them with the same caption, in parts of two: the mean, and its gradients."""
    random = torch.Generator().manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.randn(2, 6, 5, generator=random), dim=-1)
    groups = torch.tensor([0, 1, 2, 1, 3, 4])
    found = []
    for parts in ([slice(None)], [slice(0, 2), slice(2, 4), slice(4, 6)]):
        both = vectors.clone().requires_grad_()
        scale = torch.tensor(9.0, requires_grad=True)
        losses = [contrastive_loss(*both, scale, groups, own) for own in parts]
        loss = torch.stack(losses).mean()
        found.append([loss, *torch.autograd.grad(loss, (both, scale))])
    for whole, divided in zip(*found, strict=True):
        torch.testing.assert_close(divided, whole)
    # by hand, two orthogonal pairs at scale s: −log(e^s / (e^s + 1)), in both directions
    pairs = torch.eye(2)
    three = torch.tensor(3.0)
    alike = contrastive_loss(pairs, pairs, three, torch.tensor([0, 1]))
    assert alike.item() == pytest.approx(math.log(1 + math.exp(-3)), rel=1e-5)
    swapped = contrastive_loss(pairs, pairs.flip(0), three, torch.tensor([0, 1]))
    assert swapped.item() == pytest.approx(math.log(1 + math.exp(3)), rel=1e-5)


def test_pair_batch_cuts_long_captions_and_keeps_the_end(squares):
    tokenizer = squares.tokenizer
    images = [squares.held_out("captions", 1)[0].parts[0].pixels(12)] * 3
    batch = pair_batch(images, ["a square", "is " * 100, "a square"], tokenizer)
    assert batch.tokens.shape == (3, 77)
    assert batch.tokens[1, -1] == tokenizer.end
    assert batch.ends.tolist() == [3, 76, 3]
    assert batch.groups[0] == batch.groups[2] != batch.groups[1]
    assert batch.images.shape == (3, 3, 12, 12)


def test_a_caption_in_a_batch_is_what_it_is_alone(squares):
    """Whatever lengths stand beside it, also with fewer captions than groups of lengths."""
    size = Size(layers=2, width=16, heads=2)
    network = Contrastive(build_encoder(size, 6, 12), size, squares.tokenizer.size).eval()
    images = [squares.held_out("captions", 1)[0].parts[0].pixels(12)] * 6
    captions = ["a square is red", "a", "a square " * 9, "is", "red red red", "a square"]
    _, alone = zip(
        *(network(pair_batch(images[:1], [caption], squares.tokenizer)) for caption in captions), strict=True
    )
    for count in (2, 6):
        batch = pair_batch(images[:count], captions[:count], squares.tokenizer)
        assert len(batch.lengths) == 4, "as many groups in each process, however many images are broken"
        _, together = network(batch)
        torch.testing.assert_close(together, torch.cat(alone[:count]))


def test_warm_up_then_cosine():
    config = Optimiser(learning_rate=1.0, steps=101, warmup_fraction=0.1, min_lr_ratio=0.1)
    factors = [rate_factor(step, config) for step in range(101)]
    assert factors[:10] == pytest.approx([0.1 * step for step in range(1, 11)])
    assert max(factors) == pytest.approx(1.0)
    assert factors[55] == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi * 45 / 90)) / 2)
    assert factors[100] == pytest.approx(0.1)
    assert all(later <= earlier for earlier, later in pairwise(factors[10:]))


def test_every_training_has_the_optimiser_that_the_scale_names():
    """Also encoder, decoder and pre-training; a plan knows what it keeps."""
    network = Network(counts={"decoder": 1000, "text": 0}, connector=0, vocabulary=10)
    scale = load_scale("smoke", SCALES)
    kept = {}
    size = Size(layers=1, width=16, heads=2)
    model = small_mm1(size, size, "average-pooling", 10, 16, 3)
    for name in get_args(Optimiser.model_fields["optimiser"].annotation):
        settings = (f"{part}.optimiser={name}" for part in ("encoder", "decoder", "train", "sft"))
        for stage in evaluation_of(*settings, recipe=Recipe(sft=SftRecipe())).chain():
            if stage.TRAINS:
                optimiser, _ = build_optimiser(model, stage.training)
                assert type(optimiser).__name__.lower().endswith(name), f"{stage.KIND}: see `build_optimiser`"
                kept.setdefault(stage.KIND, set()).add(stage.cost(network, scale).state)
    assert all(len(states) == 2 for states in kept.values()) and len(kept) == 4, kept


def test_only_matrices_decay():
    size = Size(layers=1, width=16, heads=2)
    for kind in ("c-abstractor", "attention-pooling"):
        model = small_mm1(size, size, kind, 10, 16, 3)
        optimiser, _ = build_optimiser(model, Optimiser(learning_rate=1.0, steps=10, weight_decay=0.05))
        decay = {id(p): group["weight_decay"] for group in optimiser.param_groups for p in group["params"]}
        assert len(decay) == len(list(model.parameters()))
        for name, parameter in model.named_parameters():
            is_free = parameter.ndim < 2 or "embed_tokens" in name or "position" in name or "queries" in name
            assert decay[id(parameter)] == (0.0 if is_free else 0.05), name
    own = nn.ModuleList([nn.Conv1d(4, 4, 3), nn.ConvTranspose2d(4, 4, 3), nn.Bilinear(4, 4, 4), nn.LayerNorm([2, 2])])
    optimiser, _ = build_optimiser(own, Optimiser(learning_rate=1.0, steps=10, weight_decay=0.05))
    (decayed,) = (group["params"] for group in optimiser.param_groups if group["weight_decay"])
    assert {id(p) for p in decayed} == {id(part.weight) for part in own[:3]}, "as of a connector of one's own"
