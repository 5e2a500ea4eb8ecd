"""Kinds of encoder pre-training: reconstructive, on few pairs, at a second resolution, none."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mm1_lab.config import EncoderStage, Network, Size, load_scale
from mm1_lab.model import build_encoder, count_parameters, load_weights
from mm1_lab.train.encoder_stage import Reconstructive, RepeatedPairs, normalised_patches, step_pairs
from tests.conftest import SCALES, Flat, Squares, Words
from tests.train.conftest import points, shortened, train, weights_of

DEEP = Size(layers=6, width=16, heads=2)


@pytest.fixture
def aim_stage(encoder_stage) -> EncoderStage:
    return encoder_stage.model_copy(update={"objective": "reconstructive", "size": DEEP, "synthetic_share": 0.0})


def test_pixels_are_normalised_within_their_patch_in_reading_order():
    images = torch.randint(0, 256, (2, 3, 12, 18), dtype=torch.uint8)
    patches = normalised_patches(images, 6)
    assert patches.shape == (2, 6, 108)
    own = images[1, :, 6:12, 0:6].double().numpy()  # row 1, column 0: number 3
    expected = (own - own.mean()) / np.sqrt(own.var() + 1)
    np.testing.assert_allclose(patches[1, 3].numpy(), expected.ravel(), rtol=1e-4, atol=1e-4)


def test_a_patch_is_predicted_from_what_stands_before_it_and_the_prefix():
    """A change in patch 9 (of 0 … 15) reaches predictions of patch 10 on; one in the prefix reaches all."""
    torch.manual_seed(0)
    network = Reconstructive(build_encoder(DEEP, 6, 24), 6).eval()
    images = torch.randint(0, 256, (1, 3, 24, 24), dtype=torch.uint8)
    prefix = torch.tensor([4])
    before = network(images, prefix)
    assert before.shape == (1, 16, 108)

    def reached(row: int, column: int) -> list[int]:
        changed = images.clone()
        changed[:, :, row * 6 : row * 6 + 6, column * 6 : column * 6 + 6] = 0
        difference = (network(changed, prefix) - before).abs().amax(dim=(0, 2))
        return [int(place) for place in (difference > 1e-6).nonzero()]

    assert reached(2, 1) == list(range(10, 16))
    assert reached(0, 3) == list(range(16))


def test_a_plan_reckons_with_weights_without_the_text_tower(encoder_stage, finished):
    """Which ends with the pre-training."""
    counts = count_parameters(build_encoder(encoder_stage.size, encoder_stage.patch, encoder_stage.image_size))
    cost = encoder_stage.cost(Network(counts, 0.0, Words().size), load_scale("smoke", SCALES))
    assert cost.weights == sum(values.nbytes for values in weights_of(finished(encoder_stage)).values())


def test_its_loss_falls_and_it_is_used_without_its_last_layers(aim_stage, finished):
    stage = shortened(aim_stage, 40)
    folder = finished(stage)
    losses = [value for _, name, value in points(folder) if name == "loss"]
    assert losses[-1] < 0.7 * losses[0]
    assert stage.features == DEEP.model_copy(update={"layers": 5})
    assert {int(name.split(".")[3]) for name in weights_of(folder) if ".layers." in name} == set(range(5))
    encoder = build_encoder(stage.features, 6, 24)
    load_weights(encoder, folder)
    assert encoder(torch.zeros(1, 3, 24, 24)).shape == (1, 16, 16)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["rows"] == {"images": 320} and "retrieval" not in summary


def test_a_second_resolution_goes_on_from_the_first(encoder_stage, finished):
    """With hardly a rate, the later stage is the first one with its position embeddings stretched."""
    still = encoder_stage.training.model_copy(update={"steps": 1, "learning_rate": 1e-12})
    later = encoder_stage.model_copy(update={"image_size": 36, "training": still, "start": encoder_stage})
    assert later.fingerprint != encoder_stage.model_copy(update={"image_size": 36, "training": still}).fingerprint
    folder, first = finished(later), finished(encoder_stage)
    stretched = build_encoder(encoder_stage.size, 6, 36)
    load_weights(stretched, first)
    for name, value in weights_of(folder).items():
        torch.testing.assert_close(value, stretched.state_dict()[name], rtol=0, atol=1e-6)
    before, after = load_file(first / "text.safetensors"), load_file(folder / "text.safetensors")
    assert before.keys() == after.keys() and "image_projection.weight" in before
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["reconstructive", "none"])
def test_a_trial_goes_on_from_any_encoder(kind, multimodal_stage, aim_stage, finished):
    encoder = aim_stage.model_copy(update={"objective": kind})
    trained = weights_of(finished(multimodal_stage.model_copy(update={"encoder": encoder, "frozen": ("encoder",)})))
    start = weights_of(finished(encoder))
    assert all(torch.equal(trained[f"encoder.{name}"], value) for name, value in start.items())


def test_few_different_pairs_come_again_in_another_order(encoder_stage, squares):
    pairs = RepeatedPairs(squares.pairs(1), 10, 1)
    captions = [[pairs.pair(epoch * 10 + n, False)[1] for n in range(10)] for epoch in range(3)]
    first = sorted(squares.pairs(1).pair(n, False)[1] for n in range(10))
    assert [sorted(epoch) for epoch in captions] == [first] * 3
    assert captions[0] != captions[1] != captions[2]
    stage = encoder_stage.model_copy(update={"distinct_pairs": 10, "seed": 1, "synthetic_share": 0.0})
    found = step_pairs(stage, squares)(1)
    assert found.places == list(range(8)) and len(found.images) == found.decoded.asked == 8
    assert found.captions == [pairs.pair(index, False)[1] for index in range(8, 16)]


def test_a_broken_picture_leaves_its_caption_and_its_place_in_the_step_out(encoder_stage, squares, monkeypatch):
    """In the second half of the step, as the second of two processes reads it."""
    monkeypatch.setattr(
        Squares, "pair", lambda self, index, dense: (Flat(None if index % 4 == 1 else index), f"{index}")
    )
    monkeypatch.setattr("mm1_lab.team.own", lambda count: slice(count // 2, count))
    found = step_pairs(encoder_stage, squares)(1)
    assert found.places == [4, 6, 7] and found.captions == ["12", "14", "15"]
    assert [int(image[0, 0, 0]) for image in found.images] == [12, 14, 15]
    assert found.decoded.asked == 4 and found.decoded.broken == ("torn.jpg",)


def test_a_temperature_at_its_limit_goes_on_learning_and_without_held_out_pairs_there_is_no_retrieval(
    encoder_stage, finished, tmp_path, monkeypatch
):
    """Of 14.3 at the start, it is limited to 10 from the first step on."""
    monkeypatch.setattr("mm1_lab.train.encoder_stage.LARGEST_SCALE", 10.0)
    monkeypatch.setattr(Squares, "held_out", lambda *_: [])
    train(encoder_stage, tmp_path, finished)
    scale = load_file(tmp_path / "text.safetensors")["log_scale"].exp().item()
    assert scale == pytest.approx(10, rel=0.02) and scale != pytest.approx(10, rel=1e-5)
    assert json.loads((tmp_path / "summary.json").read_text())["retrieval"] == {}, "trackers take it for no figure"
