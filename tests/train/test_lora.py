"""LoRA: adapters against a decoder whose weights are W + alpha / rank · B A, what they leave alone, and their cost."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from mm1_lab.config import Lora, MultimodalTraining, Pretrained, Recipe, RequestError, Resources, Size
from mm1_lab.config.size import PairSize, TowerSize
from mm1_lab.model import MM1, add_adapters, build_mm1, merge_adapters
from mm1_lab.train.optimiser import build_optimiser
from mm1_lab.weights.pretrained import read_decoder, read_encoder
from tests import pretrained as saved
from tests.conftest import evaluation_of
from tests.small import small_mm1
from tests.train.conftest import assert_alike, train, weights_of

SIZE = Size(layers=2, width=16, heads=4, kv_heads=2)
MATRICES = (
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
)  # fmt: skip


def adapted(rank: int = 3, alpha: float = 12, seed: int = 5) -> tuple[MM1, dict[str, torch.Tensor]]:
    """A model whose decoder has adapters, and the decoder's weights before."""
    torch.manual_seed(seed)
    model = small_mm1(SIZE, SIZE, "average-pooling", 10, 16, 3)
    before = {name: value.clone() for name, value in model.decoder.state_dict().items()}
    stage = SimpleNamespace(lora={"decoder": Lora(rank=rank, alpha=alpha)})
    state = torch.get_rng_state()
    add_adapters(model, stage)
    assert torch.equal(state, torch.get_rng_state()), "in a team it is another"
    return model, before


def test_adapters_begin_without_effect_and_compute_what_the_paper_says():
    model, before = adapted()
    plain = small_mm1(SIZE, SIZE, "average-pooling", 10, 16, 3).decoder
    tokens = torch.arange(10)[None]
    with torch.no_grad():
        expected = torch.func.functional_call(plain, before, (tokens,)).logits
        assert torch.equal(model.decoder(tokens).logits, expected)
    trained = {name: one for name, one in model.decoder.named_parameters() if one.requires_grad}
    linear = [f"model.layers.{layer}.{matrix}" for layer in range(2) for matrix in MATRICES]
    assert trained.keys() == {f"{name}.lora_{which}" for name in linear for which in "ab"}
    assert all(one.requires_grad for one in (*model.encoder.parameters(), *model.connector.parameters()))
    for name in linear:
        a, b = trained[f"{name}.lora_a"], trained[f"{name}.lora_b"]
        assert (a.shape[0], b.shape[1]) == (3, 3) and not b.any()
        bound = 1 / math.sqrt(a.shape[1])
        assert 0.8 * bound < a.abs().max() <= bound and a.std().item() == pytest.approx(bound / 3**0.5, rel=0.3)
    again, other = (dict(adapted(seed=seed)[0].decoder.named_parameters()) for seed in (5, 6))
    first = f"{linear[0]}.lora_a"
    assert torch.equal(trained[first], again[first]) and not torch.equal(trained[first], other[first])

    for name in linear:
        nn.init.normal_(trained[f"{name}.lora_b"], std=0.1)
    free = {name: one.detach().clone().requires_grad_() for name, one in trained.items()}
    low = {f"{name}.weight": 12 / 3 * free[f"{name}.lora_b"] @ free[f"{name}.lora_a"] for name in linear}
    weights = {name: value + low.get(name, 0) for name, value in before.items()}
    expected = torch.func.functional_call(plain, weights, (tokens,)).logits
    found = model.decoder(tokens).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    expected.square().sum().backward()
    found.square().sum().backward()
    for name, one in trained.items():
        torch.testing.assert_close(one.grad, free[name].grad, rtol=1e-3, atol=1e-4)
    assert all(one.grad is None for name, one in model.decoder.named_parameters() if name not in trained)

    merge_adapters(model)
    assert model.decoder.state_dict().keys() == before.keys()
    with torch.no_grad():
        torch.testing.assert_close(model.decoder(tokens).logits, found.detach(), rtol=1e-4, atol=1e-5)


def test_adapters_have_the_rate_of_their_part_and_decay():
    model, _ = adapted()
    own = {"decoder": 2.0, "encoder": 0.1}
    config = MultimodalTraining(learning_rate=0.5, steps=10, batch_size=1, weight_decay=0.1, lr_multipliers=own)
    optimiser, _ = build_optimiser(model, config)
    rates = {id(each): group["initial_lr"] for group in optimiser.param_groups for each in group["params"]}
    for part, rate in ((model.encoder, 0.05), (model.connector, 0.5), (model.decoder, 1.0)):
        assert {rates[id(each)] for each in part.parameters() if each.requires_grad} == {rate}
    of_decoder = {id(parameter) for parameter in model.decoder.parameters()}
    (group,) = (one for one in optimiser.param_groups if of_decoder & {id(each) for each in one["params"]})
    assert (group["initial_lr"], group["weight_decay"], len(group["params"])) == (1.0, 0.1, 2 * 2 * len(MATRICES))


@pytest.mark.parametrize("family", [*saved.ENCODERS, *saved.DECODERS])
def test_every_family_has_adapters_beside_all_matrices_of_its_layers(family, multimodal_stage, squares, tmp_path):
    part = "encoder" if family in saved.ENCODERS else "decoder"
    save, read = (saved.save_encoder, read_encoder) if part == "encoder" else (saved.save_decoder, read_decoder)
    ready = read(Pretrained(weights=str(save(family, tmp_path))))
    lora = {part: Lora(rank=1, alpha=1)}
    stage = multimodal_stage.model_copy(update={part: ready, "lora": lora, "image_size": 2 * saved.PATCH})
    model = build_mm1(stage, squares.tokenizer)
    inside = [one for name, one in getattr(model, part).named_parameters() if "layer" in name and one.ndim == 2]
    assert add_adapters(model, stage) == {part: sum(sum(one.shape) for one in inside)} and inside


def test_a_trained_part_differs_by_its_rank_and_in_nothing_else(lora_stage, multimodal_stage, finished, tmp_path):
    """What is left is an ordinary model. Rows one at a time, and activations computed again, change nothing."""
    trained = weights_of(finished(lora_stage))
    assert trained.keys() == weights_of(finished(multimodal_stage)).keys()
    for part, stage in lora_stage.inputs.items():
        changed = {}
        for name, value in weights_of(finished(stage)).items():
            change = trained[f"{part}.{name}"] - value
            if change.any():
                assert not name.endswith(("bias", "lm_head.weight")) and "embed" not in name and "norm" not in name
                changed[name] = int(torch.linalg.matrix_rank(change, rtol=1e-3))
        assert len(changed) == (6 if part == "encoder" else 7)
        assert set(changed.values()) == {lora_stage.lora[part].rank}
    assert_alike(finished(lora_stage), train(lora_stage, tmp_path / "parts", finished, Resources(micro_batch=1)))
    again = train(lora_stage, tmp_path / "again", finished, Resources(gradient_checkpointing=True))
    assert_alike(finished(lora_stage), again)


def test_experts_and_what_chooses_them_stay(lora_stage, experts_stage, finished, squares):
    stage = lora_stage.model_copy(update={"decoder": experts_stage})
    model = build_mm1(stage, squares.tokenizer)
    attention = [one for name, one in model.decoder.named_parameters() if ".self_attn." in name and one.ndim == 2]
    assert add_adapters(model, stage)["decoder"] == 2 * sum(sum(one.shape) for one in attention)
    trained, before = weights_of(finished(stage)), weights_of(finished(experts_stage))
    changed = {name for name, value in before.items() if not torch.equal(value, trained[f"decoder.{name}"])}
    assert changed == {f"model.layers.0.{matrix}.weight" for matrix in MATRICES[:4]}


def test_an_alignment_has_none_and_rank_0_is_none():
    def stage(**recipe: Any) -> Any:
        return evaluation_of(recipe=Recipe.model_validate(recipe)).model

    both = stage(align={"steps": 9000}, lora={"decoder": 4, "encoder": {"rank": 2, "alpha": 6}})
    assert both.lora == {"decoder": Lora(rank=4, alpha=8), "encoder": Lora(rank=2, alpha=6)} and not both.start.lora
    plain, none, short = (stage(lora=lora).fingerprint for lora in ({}, {"decoder": 0}, {"decoder": 4}))
    assert plain == none != short == stage(lora={"decoder": {"rank": 4, "alpha": 8}}).fingerprint
    assert stage(lora={"decoder": 0}, frozen=["decoder"]).frozen == ("decoder",)
    assert stage(lora={"decoder": 24, "encoder": 16}).lora.keys() == {"decoder", "encoder"}, "as large as can be"


def test_the_narrowest_matrix_may_be_that_of_shared_keys_or_of_the_second_tower():
    assert Size(layers=1, width=16, heads=4, kv_heads=1).narrowest == 4
    first, second = (TowerSize(layers=1, width=width, heads=1, feed_forward=64) for width in (16, 12))
    assert PairSize(layers=1, width=28, heads=1, feed_forward=64, towers=(first, second)).narrowest == 12


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"lora": {"connector": 4}}, r"unknown key 'lora\.connector'; known: encoder, decoder"),
        ({"lora": {"decoder": -1}}, r"lora\.decoder\.rank: Input should be greater than or equal to 0 \(it is -1\)"),
        ({"lora": {"decoder": {"rank": 4, "alpha": 0}}}, r"lora\.decoder\.alpha: .*greater than 0"),
        ({"lora": {"decoder": {"alpha": 4}}}, r"the key '.*lora\.decoder\.rank' is missing"),
        ({"lora": {"decoder": 4}, "frozen": ["decoder"]}, r"lora\.decoder: `frozen` names the decoder, too; leave it"),
        ({"lora": {"encoder": 17}}, r"lora\.encoder: its layers have matrices with 16 rows .*no larger \(it is 17\)"),
        ({"lora": {"decoder": 25}}, r"lora\.decoder: its layers have matrices with 24 rows .*no larger \(it is 25\)"),
    ],
)
def test_a_lora_that_cannot_be_is_told_in_a_line(fields, told):
    for values, section in ((fields, ""), ({"sft": fields}, r"sft(\.|: )")):
        with pytest.raises(RequestError, match=told.replace("lora", f"{section}lora", 1)):
            evaluation_of(recipe=Recipe.parse(values, "here"))
