"""The schedule, and what decays."""

import math
from itertools import pairwise

import pytest

from mm1_lab.config import MultimodalTraining, Optimiser, Size
from mm1_lab.train.optimiser import build_optimiser, rate_factor
from tests.small import small_mm1


def test_warm_up_then_cosine() -> None:
    config = Optimiser(learning_rate=1.0, steps=101, warmup_fraction=0.1, min_lr_ratio=0.1)
    factors = [rate_factor(step, config) for step in range(101)]
    assert factors[:10] == pytest.approx([0.1 * step for step in range(1, 11)])
    assert max(factors) == pytest.approx(1.0)
    assert factors[55] == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi * 45 / 90)) / 2)
    assert factors[100] == pytest.approx(0.1)
    assert all(later <= earlier for earlier, later in pairwise(factors[10:]))


def test_only_matrices_decay() -> None:
    size = Size(layers=1, width=16, heads=2)
    for kind in ("c-abstractor", "attention-pooling"):
        model = small_mm1(size, size, kind, 10, 16, 3)
        optimiser, _ = build_optimiser(model, Optimiser(learning_rate=1.0, steps=10, weight_decay=0.05))
        decay = {id(p): group["weight_decay"] for group in optimiser.param_groups for p in group["params"]}
        assert len(decay) == len(list(model.parameters()))
        for name, parameter in model.named_parameters():
            is_free = parameter.ndim < 2 or "embed_tokens" in name or "position" in name or "queries" in name
            assert decay[id(parameter)] == (0.0 if is_free else 0.05), name


def test_a_part_may_have_a_rate_of_its_own() -> None:
    size = Size(layers=1, width=16, heads=2)
    model = small_mm1(size, size, "average-pooling", 10, 16, 3)
    config = MultimodalTraining(
        learning_rate=0.5, steps=10, batch_size=1, lr_multipliers={"encoder": 0.1, "decoder": 2}
    )
    optimiser, _ = build_optimiser(model, config)
    for parameters, rate in ((model.encoder, 0.05), (model.connector, 0.5), (model.decoder, 1.0)):
        wanted = {id(parameter) for parameter in parameters.parameters()}
        groups = [group for group in optimiser.param_groups if wanted & {id(p) for p in group["params"]}]
        assert {group["initial_lr"] for group in groups} == {rate}
        assert wanted == {id(p) for group in groups for p in group["params"]}
