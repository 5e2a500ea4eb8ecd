"""What is said of results for the world and the seeds that they are of."""

import re

from analysis.seeds import caution
from mm1_lab.config import WORLD_DATA, DataIdentity
from mm1_lab.results import Manifest


def test_results_of_an_earlier_world_and_of_few_seeds_say_so() -> None:
    now, before = WORLD_DATA.digest, "world-1"
    assert said_of([100, 101], now) == ""
    assert re.fullmatch(r"One seed \(100\)[^.]+\.", said_of([100], now))
    assert re.fullmatch(r"One seed \(0\)[^.]+\. The development seed 0, on which [^.]+\.", said_of([0], now))
    assert "development seeds 0–2" in said_of([0, 1, 2], now)
    assert re.search(r"development seeds 0–2, .*earlier miniature world \(world-1", said_of([0, 1, 2], before))
    assert "earlier miniature world (world-1" in said_of([100, 101], before)


def said_of(seeds: list[int], digest: str) -> str:
    manifest = Manifest.model_construct(scale="mini", data=DataIdentity(digest=digest))
    return caution(manifest, seeds)
