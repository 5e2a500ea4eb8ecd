from pathlib import Path

import pytest
import torch

from mm1_lab.data.world.scenes import Scene
from mm1_lab.data.world.words import CORNERS
from mm1_lab.evaluate import attribute_probe as attributes
from mm1_lab.model import build_encoder, save_weights
from tests.conftest import evaluation_of


def told(scenes: list[Scene], hide: str = "") -> torch.Tensor:
    """Features that hold everything about each place, but for the attribute `hide`, and noise beside it."""
    rows = []
    for scene in scenes:
        row = []
        for place in CORNERS:
            thing = scene.at(place)
            for attribute, options in attributes._CLASSES.items():
                value = getattr(thing, attribute) if thing and attribute != hide else "empty"
                row += [float(value == option) for option in options]
        rows.append(row)
    features = torch.tensor(rows, dtype=torch.float64)
    noise = torch.randn(len(rows), 20, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return torch.cat([features, noise], dim=1)


def test_what_the_features_hold_is_found_and_what_they_hide_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of as many cases as the scenes have; a real encoder gives as many."""
    stage = evaluation_of().model.encoder
    save_weights(build_encoder(stage.size, stage.patch, stage.image_size), tmp_path, stage)
    monkeypatch.setattr(attributes, "TRAINING_SCENES", 200)
    monkeypatch.setattr(attributes, "TEST_SCENES", 100)
    cases = {name: count for name, (_, count) in attributes.attribute_probe(stage, tmp_path).items()}
    scenes = attributes._scenes("test", 100)
    assert {scene.split for scene in scenes} == {"test"}
    things = [thing for scene in scenes for thing in scene.things]
    letters = sum(thing.is_letter for thing in things)
    assert cases["colour"] == cases["size"] == len(things) and cases["place"] == 400
    assert (cases["letter"], cases["shape"]) == (letters, len(things) - letters)

    monkeypatch.setattr(attributes, "TRAINING_SCENES", 3000)
    monkeypatch.setattr(attributes, "_scene_features", lambda encoder, scenes, side, tokens: told(scenes))
    assert all(right == count for right, count in attributes.attribute_probe(stage, tmp_path).values())
    hidden = lambda encoder, scenes, side, tokens: told(scenes, hide="colour")  # noqa: E731
    monkeypatch.setattr(attributes, "_scene_features", hidden)
    found = {name: right / count for name, (right, count) in attributes.attribute_probe(stage, tmp_path).items()}
    assert found.pop("colour") < 0.4
    assert all(share == 1 for share in found.values())
