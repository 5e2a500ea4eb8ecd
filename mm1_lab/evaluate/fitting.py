"""Whether prompts, with their demonstrations and answers, fit the rows on which models are trained."""

from collections.abc import Sequence
from pathlib import Path

from mm1_lab.config import EvaluationSettings, EvaluationStage, ModelStage, PretrainedDecoder, RequestError
from mm1_lab.data.types import Tokenizer
from mm1_lab.evaluate.named import build_benchmark
from mm1_lab.evaluate.prompts import PromptWriter
from mm1_lab.evaluate.questions import Benchmark


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


def check_lengths(stages: Sequence[EvaluationStage], tokenizer: Tokenizer, cache: Path | None = None) -> None:
    """Raises RequestError if a prompt of a named benchmark exceeds the context length of a model.

    Each benchmark is measured once for each context length and form of prompts.
    """
    measured = set()
    for stage in stages:
        most, writer = context_length(stage.model), PromptWriter.of(stage, tokenizer)
        form = (most, stage.model.tuned, writer)
        if form in measured:
            continue
        measured.add(form)
        benchmarks = [build_benchmark(config, stage.settings, tokenizer, cache) for config in stage.benchmarks]
        for benchmark in benchmarks:
            shots = max(benchmark.shots_at(stage.settings))
            length = longest_prompt(writer, benchmark, shots)
            if length > most:
                raise RequestError(
                    f"benchmark {benchmark.name!r}: a question after {shots} demonstrations takes {length} tokens, "
                    f"with {writer.image_tokens} per picture, but the decoder reads at most {most}; "
                    + _remedy(benchmark, benchmarks, shots, most, writer, stage.settings)
                )


def _remedy(
    benchmark: Benchmark,
    benchmarks: Sequence[Benchmark],
    shots: int,
    most: int,
    writer: PromptWriter,
    settings: EvaluationSettings,
) -> str:
    """How many demonstrations fit `most` tokens, where `shots` do not, and what to set."""
    changed = [benchmark]
    if benchmark.shots is None:  # the remedy changes the shots of all benchmarks that have none of their own
        changed = [other for other in benchmarks if other.shots is None]
    fitting = shots - 1
    while fitting >= 0 and any(longest_prompt(writer, other, fitting) > most for other in changed):
        fitting -= 1
    if fitting < 0:
        return "not even a question without demonstrations fits: --set a larger sequence_length"
    if benchmark.shots is not None:
        return f"at most {fitting} fit: give it fewer `shots`, or --set a larger sequence_length"
    fewer = sorted(count for count in settings.shots if count < fitting)
    listed = ",".join(map(str, [*fewer, fitting]))
    return f"at most {fitting} fit: --set evaluate.shots=[{listed}], or --set a larger sequence_length"
