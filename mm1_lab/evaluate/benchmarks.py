"""Which benchmarks a run is scored on: the registry.

A new benchmark is one module of this folder with a function `(data, settings) -> list[Benchmark]`, and its line in
BUILDERS. A builder returns nothing where the data have nothing for it. What it makes must depend on data and settings
alone: every arm and seed answers the same questions after the same demonstrations.
"""

from collections.abc import Callable

from mm1_lab.config import EvaluationSettings, RequestError
from mm1_lab.data.types import Data
from mm1_lab.evaluate.benchmark import Benchmark
from mm1_lab.evaluate.shards import held_out_captions

Builder = Callable[[Data, EvaluationSettings], list[Benchmark]]


def _world(data: Data, settings: EvaluationSettings) -> list[Benchmark]:
    from mm1_lab.evaluate.world import world_benchmarks

    return world_benchmarks(settings)


BUILDERS: dict[str, tuple[Builder, ...]] = {
    "world": (_world,),
    "shards": (held_out_captions,),
}
"""By kind of data."""


def benchmarks_for(data: Data, settings: EvaluationSettings) -> list[Benchmark]:
    """All benchmarks of `data`. Raises RequestError if there is none to evaluate on."""
    benchmarks = [benchmark for build in BUILDERS[data.identity.kind] for benchmark in build(data, settings)]
    if not benchmarks:
        raise RequestError(
            "the data hold nothing to evaluate on: no captioned image is held out of training; add captioned images"
        )
    return benchmarks
