"""Whether prompts, with their demonstrations and answers, fit the rows on which models are trained."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from mm1_lab.config import EvaluationSettings, EvaluationStage, ModelStage, PretrainedDecoder, RequestError
from mm1_lab.data.types import Tokenizer
from mm1_lab.evaluate.named import build_benchmark
from mm1_lab.evaluate.prompts import PromptWriter
from mm1_lab.evaluate.questions import Benchmark
from mm1_lab.evaluate.world import world_benchmarks
from mm1_lab.evaluate.world_chat import chat_benchmarks

QUESTIONS, BLOCKS = 192, 24
"""Questions and blocks per benchmark of the world that are measured at most."""


@dataclass(frozen=True, slots=True)
class TooLong:
    """A benchmark whose prompts exceed the context length of a model."""

    benchmark: Benchmark
    shots: int
    length: int
    """Tokens of the longest prompt at this number of shots."""
    longest: int
    """The context length, in tokens."""
    picture_tokens: int
    most: int | None
    """The most demonstrations that fit; None if not even a question alone does."""
    settings: EvaluationSettings

    def __str__(self) -> str:
        if self.most is None:
            remedy = "not even a question without demonstrations fits: --set a larger sequence_length"
        elif self.benchmark.shots is not None:
            remedy = f"at most {self.most} fit: give it fewer `shots`, or --set a larger sequence_length"
        else:
            fewer = [count for count in self.settings.shots if count < self.most]
            shots = ",".join(map(str, [*sorted(fewer), self.most]))
            remedy = f"at most {self.most} fit: --set evaluate.shots=[{shots}], or --set a larger sequence_length"
        return (
            f"benchmark {self.benchmark.name!r}: a question after {self.shots} demonstrations takes {self.length} "
            f"tokens, with {self.picture_tokens} per picture, but the decoder reads at most {self.longest}; {remedy}"
        )

    @property
    def in_short(self) -> str:
        fits = "not even 0 fit" if self.most is None else f"{self.most} fit"
        return (
            f"{self.benchmark.name} at {self.shots} shots, {self.picture_tokens} tokens per picture: {self.length} of "
            f"{self.longest} tokens ({fits})"
        )


def context_length(model: ModelStage) -> int:
    """The most positions that the model reads: what its decoder was pre-trained on, or else its own rows."""
    decoder = model.architecture.decoder
    return decoder.longest if isinstance(decoder, PretrainedDecoder) else model.sequence_length


def longest_prompt(writer: PromptWriter, benchmark: Benchmark, shots: int) -> int:
    """Tokens of the benchmark's longest prompt, the answer included."""
    longest = 0
    for block, questions in enumerate(benchmark.blocks):
        prefix = len(writer.prefix(benchmark, block, shots).tokens)
        for question in questions:
            longest = max(longest, prefix + len(writer.question(question).tokens))
    return longest + benchmark.new_tokens


def too_long(
    stages: Iterable[EvaluationStage],
    benchmarks_of: Callable[[EvaluationStage], list[Benchmark]],
    tokenizer: Tokenizer,
) -> Iterator[TooLong]:
    """For each context length and form of prompts among the stages, the first benchmark whose prompts are too long."""
    different: dict[tuple[int, bool, PromptWriter], EvaluationStage] = {}
    for stage in stages:
        key = (context_length(stage.model), stage.model.tuned, PromptWriter.of(stage, tokenizer))
        different.setdefault(key, stage)
    for (longest, _, writer), stage in different.items():
        benchmarks = benchmarks_of(stage)
        for benchmark in benchmarks:
            shots = max(benchmark.shots_at(stage.settings))
            length = longest_prompt(writer, benchmark, shots)
            if length > longest:
                # the remedy changes the shots of all benchmarks that have none of their own
                changed = [benchmark]
                if benchmark.shots is None:
                    changed = [other for other in benchmarks if other.shots is None]
                most = shots - 1
                while most >= 0 and any(longest_prompt(writer, other, most) > longest for other in changed):
                    most -= 1
                fitting = most if most >= 0 else None
                yield TooLong(benchmark, shots, length, longest, writer.image_tokens, fitting, stage.settings)
                break


def check_lengths(stages: Sequence[EvaluationStage], tokenizer: Tokenizer, cache: Path | None = None) -> None:
    """Raises RequestError if a prompt of a named benchmark exceeds the context length of a model."""

    def named(stage: EvaluationStage) -> list[Benchmark]:
        return [build_benchmark(config, stage.settings, tokenizer, cache) for config in stage.benchmarks]

    for found in too_long(stages, named, tokenizer):
        raise RequestError(str(found))


@lru_cache(maxsize=2)
def of_the_world(settings: EvaluationSettings, tuned: bool) -> list[Benchmark]:
    """The miniature world's benchmarks at one seed, without many of their questions: others are as long."""
    few = {"questions": min(settings.questions, QUESTIONS), "blocks": min(settings.blocks, BLOCKS)}
    settings = settings.model_copy(update=few)
    benchmarks = world_benchmarks(settings)
    return benchmarks + chat_benchmarks(settings) if tuned else benchmarks
