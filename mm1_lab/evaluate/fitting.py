"""Whether prompts, with their demonstrations and answers, fit the rows on which models are trained."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from mm1_lab.config import EvaluationSettings, EvaluationStage, ModelStage, PretrainedDecoder
from mm1_lab.data.types import Tokenizer
from mm1_lab.evaluate.prompts import PromptWriter
from mm1_lab.evaluate.questions import Benchmark
from mm1_lab.evaluate.world import world_benchmarks
from mm1_lab.evaluate.world_chat import chat_benchmarks

QUESTIONS, BLOCKS = 192, 24
"""Questions and blocks per benchmark of the world that are measured at most."""


@dataclass(frozen=True, slots=True)
class TooLong:
    """A benchmark whose prompts exceed the context length of a model."""

    benchmark: str
    shots: int
    length: int
    longest: int
    """The context length, in tokens."""
    picture: int
    """Tokens per picture."""
    most: int | None
    """The most demonstrations that fit; None if not even a question alone does."""
    settings: tuple[int, ...]
    """The numbers of shots asked for."""
    own: bool
    """Whether the benchmark has numbers of shots of its own."""

    def __str__(self) -> str:
        return (
            f"benchmark {self.benchmark!r}: a question after {self.shots} demonstrations takes {self.length} tokens, "
            f"with {self.picture} per picture, but the decoder reads at most {self.longest}; {self._remedy()}"
        )

    @property
    def in_short(self) -> str:
        fits = "not even 0 fit" if self.most is None else f"{self.most} fit"
        pictures = f"{self.picture} tokens per picture"
        return f"{self.benchmark} at {self.shots} shots, {pictures}: {self.length} of {self.longest} tokens ({fits})"

    def _remedy(self) -> str:
        if self.most is None:
            return "not even a question without demonstrations fits: --set a larger sequence_length"
        if self.own:
            return f"at most {self.most} fit: give it fewer `shots`, or --set a larger sequence_length"
        kept = sorted({*(count for count in self.settings if count < self.most), self.most})
        shots = ",".join(map(str, kept))
        return f"at most {self.most} fit: --set evaluate.shots=[{shots}], or --set a larger sequence_length"


def context_length(model: ModelStage) -> int:
    """The most positions that the model reads: what its decoder was pre-trained on, or else its own rows."""
    return model.decoder.longest if isinstance(model.decoder, PretrainedDecoder) else model.sequence_length


def longest_prompt(writer: PromptWriter, benchmark: Benchmark, shots: int) -> int:
    """Tokens of the benchmark's longest prompt, the answer included."""
    prompts = (
        len(writer.prefix(benchmark, block, shots).tokens) + max(len(writer.question(one).tokens) for one in questions)
        for block, questions in enumerate(benchmark.blocks)
    )
    return max(prompts) + benchmark.new_tokens


def too_long(
    stages: Iterable[EvaluationStage],
    benchmarks_of: Callable[[EvaluationStage], list[Benchmark]],
    tokenizer: Tokenizer,
) -> Iterator[TooLong]:
    """The first benchmark whose prompts are too long, for each way in which the stages' models read prompts.

    The largest number of demonstrations that fits is the same for all benchmarks that are asked at the same numbers.
    """
    limits: dict[tuple[int, bool, PromptWriter], EvaluationStage] = {}
    for stage in stages:
        limits.setdefault((context_length(stage.model), stage.model.tuned, PromptWriter.of(stage, tokenizer)), stage)
    for (longest, _, writer), stage in limits.items():
        benchmarks = benchmarks_of(stage)
        for one in benchmarks:
            shots = max(one.shots_at(stage.settings), default=0)
            if (length := longest_prompt(writer, one, shots)) > longest:
                asked = [one] if one.shots is not None else [other for other in benchmarks if other.shots is None]
                counts = range(shots - 1, -1, -1)
                most = next((n for n in counts if all(longest_prompt(writer, b, n) <= longest for b in asked)), None)
                sizes = (length, longest, writer.image_tokens)
                yield TooLong(one.name, shots, *sizes, most, stage.settings.shots, one.shots is not None)
                break


@lru_cache(maxsize=2)
def of_the_world(settings: EvaluationSettings, tuned: bool) -> list[Benchmark]:
    """The miniature world's benchmarks at one seed, without many of their questions: others are as long."""
    few = {"questions": min(settings.questions, QUESTIONS), "blocks": min(settings.blocks, BLOCKS)}
    settings = settings.model_copy(update=few)
    return [*world_benchmarks(settings), *(chat_benchmarks(settings) if tuned else ())]
