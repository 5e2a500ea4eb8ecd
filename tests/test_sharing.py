"""Sweeps that name the same stages share them, and it does not matter which comes first."""

from typing import Any

import pytest


@pytest.mark.slow
def test_another_sweep_first_gives_the_same_scores(finished: Any, place: Any) -> None:
    """The base is computed for the connector sweep here, for the data-mix sweep there."""
    asked = ("--only", "c-abstractor 336 144", "--only", "average-pooling 224 64")
    place.run("run", "connector", "--scale", "smoke", "--inline", *asked)
    before = place.done()
    plan = place.run("plan", "data_mix", "connector", "--scale", "smoke")
    (encoders,) = (line.split() for line in plan.splitlines() if line.startswith("encoder "))
    assert encoders[1:3] == ["reused", "2"]

    output = place.run("run", "data_mix", "--scale", "smoke", "--only", "base", "--inline")
    assert "nothing ran" in output and place.done() == before
    name = next(
        path.parent.name
        for path in finished.results.glob("trials/*/record.json")
        if "base / seed 0" in path.read_text()
    )
    for file in ("scores.parquet", "held_out.csv", "training.csv", "samples.json.gz"):
        ours, theirs = (folder.results / "trials" / name / file for folder in (place, finished))
        assert ours.read_bytes() == theirs.read_bytes(), file
