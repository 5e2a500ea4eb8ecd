"""Which benchmarks a run is scored on: those of its data, and those that a data file or a scale names.

They depend on data and settings alone: every arm answers the same questions after the same demonstrations. The world
draws them from the seed, so that the spread over seeds covers them.
"""

from collections.abc import Sequence

from mm1_lab.config import BenchmarkConfig, EvaluationSettings, RequestError
from mm1_lab.data.types import Data
from mm1_lab.evaluate.held_out_captions import held_out_captions
from mm1_lab.evaluate.named import build_benchmark
from mm1_lab.evaluate.questions import Benchmark
from mm1_lab.evaluate.world import world_benchmarks
from mm1_lab.evaluate.world_chat import chat_benchmarks


def benchmarks_for(
    data: Data,
    settings: EvaluationSettings,
    seed: int = 0,
    named: Sequence[BenchmarkConfig] = (),
    tuned: bool = False,
) -> list[Benchmark]:
    """All benchmarks of `data`, those for tuned models among them if it is `tuned`, then the named ones.

    Raises RequestError if there is none to evaluate on.
    """
    if data.identity.kind == "world":
        benchmarks = [*world_benchmarks(settings, seed), *(chat_benchmarks(settings, seed) if tuned else ())]
    else:
        benchmarks = held_out_captions(data, settings)
    benchmarks += [build_benchmark(config, settings, data.tokenizer) for config in named]
    if not benchmarks:
        raise RequestError(
            "the data hold nothing to evaluate on: no captioned image is held out of training; add captioned images, "
            "or name `benchmarks`"
        )
    return benchmarks
