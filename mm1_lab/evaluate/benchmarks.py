"""Which benchmarks a run is scored on: those of its data, and those that a data file or a scale names.

What a builder makes must depend on data and settings alone: every arm and seed answers the same questions after the
same demonstrations. It returns nothing where the data have nothing for it.
"""

from collections.abc import Callable, Sequence

from mm1_lab.config import BenchmarkConfig, EvaluationSettings, RequestError
from mm1_lab.data.types import Data
from mm1_lab.evaluate.held_out_captions import held_out_captions
from mm1_lab.evaluate.named import build_benchmark
from mm1_lab.evaluate.questions import Benchmark

Builder = Callable[[Data, EvaluationSettings], list[Benchmark]]


def _world(data: Data, settings: EvaluationSettings) -> list[Benchmark]:
    from mm1_lab.evaluate.world import world_benchmarks

    return world_benchmarks(settings)


def _world_chat(data: Data, settings: EvaluationSettings) -> list[Benchmark]:
    from mm1_lab.evaluate.world_chat import chat_benchmarks

    return chat_benchmarks(settings)


BUILDERS: dict[str, tuple[Builder, ...]] = {
    "world": (_world,),
    "shards": (held_out_captions,),
}
"""By kind of data."""
TUNED_BUILDERS: dict[str, tuple[Builder, ...]] = {"world": (_world_chat,), "shards": ()}
"""Beside them, for models that were tuned on instructions."""


def benchmarks_for(
    data: Data, settings: EvaluationSettings, named: Sequence[BenchmarkConfig] = (), tuned: bool = False
) -> list[Benchmark]:
    """All benchmarks of `data`, then the named ones. Raises RequestError if there is none to evaluate on."""
    kind = data.identity.kind
    builders = (*BUILDERS[kind], *(TUNED_BUILDERS[kind] if tuned else ()))
    benchmarks = [benchmark for build in builders for benchmark in build(data, settings)]
    benchmarks += [build_benchmark(config, settings, data.tokenizer) for config in named]
    if not benchmarks:
        raise RequestError(
            "the data hold nothing to evaluate on: no captioned image is held out of training; add captioned images, "
            "or name `benchmarks`"
        )
    return benchmarks
