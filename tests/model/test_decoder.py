"""The decoder's heads look back; test_golden.py has its first losses."""

import pytest
import torch

from mm1_lab.config import Size
from mm1_lab.model import build_decoder


@pytest.mark.parametrize(("width", "heads", "large"), [(80, 4, 1e9), (96, 3, 1e9), (96, 3, 0)])
def test_heads_look_back(width, heads, large, monkeypatch):
    """With query and key weights of zero, a head looks mostly at the position `distance` before."""
    monkeypatch.setattr("mm1_lab.model.decoder.LARGE", large)
    torch.manual_seed(0)
    decoder = build_decoder(Size(layers=3, width=width, heads=heads), 50, 24)
    decoder.config._attn_implementation = "eager"
    with torch.no_grad():
        for layer in decoder.model.layers:
            layer.self_attn.q_proj.weight.zero_()
            layer.self_attn.k_proj.weight.zero_()
    tokens = torch.randint(50, (1, 24))
    weights = torch.stack(decoder.model(tokens, output_attentions=True).attentions)[:, 0]
    distances = (1, 1, 2, 3)
    for head in range(heads):
        assert _looks_back(weights[0, head]) == {distances[head % 4]}
    for layer in (1, 2):
        assert _looks_back(weights[layer, 0]) == {1}
        # the other heads of later layers look everywhere alike
        torch.testing.assert_close(weights[layer, 1, 20, :21], torch.full((21,), 1 / 21))


def _looks_back(weights: torch.Tensor) -> set[int]:
    """How far from each position (the first few left out) its most attended one is; that one has the most by far."""
    for position in range(4, len(weights)):
        first, second = weights[position].topk(2).values.tolist()
        assert first > 1.3 * second
    return {position - int(weights[position].argmax()) for position in range(4, len(weights))}


def test_large_decoders_are_drawn_as_wide_as_others(monkeypatch):
    """Each row with other numbers, and other ones for another seed."""
    size = Size(layers=2, width=128, heads=2, experts=3, experts_every=2)
    monkeypatch.setattr("mm1_lab.model.filling.BLOCK", 1000)
    made = {}
    for name, large, seed in (("usual", 1e9, 0), ("large", 0, 0), ("again", 0, 0), ("other", 0, 1)):
        monkeypatch.setattr("mm1_lab.model.decoder.LARGE", large)
        torch.manual_seed(seed)
        made[name] = build_decoder(size, 50, 24).state_dict()
    for name, usual in made["usual"].items():
        large = made["large"][name]
        assert torch.equal(large, made["again"][name])
        if usual.ndim == 1 or not usual.numel():
            torch.testing.assert_close(large, usual)
        elif "shared" not in name:
            assert large.mean().abs() < 0.1 * usual.std() and 0.9 < large.std() / usual.std() < 1.1
            assert not torch.equal(large, made["other"][name])
            assert len(large.flatten(0, -2).unique(dim=0)) == large.flatten(0, -2).shape[0]
