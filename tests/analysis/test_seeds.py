"""What is said of results for the world and the seeds that they are of."""

import pytest

from analysis.seeds import caution
from mm1_lab.config import WORLD_DATA, DataIdentity
from mm1_lab.results import Manifest


@pytest.mark.parametrize(
    ("seeds", "digest", "said"),
    [
        ([0], WORLD_DATA.digest, ["One seed (0)", "The development seed 0, on which"]),
        ([100], WORLD_DATA.digest, ["One seed (100)"]),
        ([0, 1, 2], WORLD_DATA.digest, ["development seeds 0–2"]),
        ([0, 1, 2], "world-1", ["development seeds 0–2", "earlier miniature world (world-1"]),
        ([100, 101], "world-1", ["earlier miniature world (world-1"]),
        ([100, 101], WORLD_DATA.digest, []),
    ],
)
def test_results_of_an_earlier_world_and_of_few_seeds_say_so(seeds: list[int], digest: str, said: list[str]) -> None:
    manifest = Manifest.model_construct(scale="mini", data=DataIdentity(digest=digest))
    text = caution(manifest, seeds)
    assert all(one in text for one in said)
    assert text.count(".") == len(said), text
