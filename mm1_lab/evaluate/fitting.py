"""Whether prompts, with their demonstrations and answers, fit the rows on which models are trained."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from mm1_lab.config import EvaluationSettings, EvaluationStage, ModelStage, PretrainedDecoder, RequestError
from mm1_lab.data.types import Data, Tokenizer
from mm1_lab.evaluate.benchmarks import FEW, first_captions
from mm1_lab.evaluate.generation import cut_answer
from mm1_lab.evaluate.metrics import METRICS, score
from mm1_lab.evaluate.named import build_benchmark
from mm1_lab.evaluate.prompts import PromptWriter
from mm1_lab.evaluate.questions import Benchmark
from mm1_lab.evaluate.world import world_benchmarks

if TYPE_CHECKING:
    from mm1_lab.data.shards import Shards


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


def check_answers(benchmark: Benchmark, tokenizer: Tokenizer) -> None:
    """Raises RequestError for a question of a user's own that no answer can get right: each of its right answers is
    longer than what is generated, or is cut at a stop word. Of choices a letter is enough, of captions any text."""
    metric = METRICS[benchmark.metric]
    if benchmark.mirrors != "own" or metric.lettered or metric.free:
        return
    for question in benchmark.questions:
        tried = []
        for answer in question.references:
            ids = tokenizer.encode(answer)
            said = answer if len(ids) <= benchmark.new_tokens else tokenizer.decode(ids[: benchmark.new_tokens])
            tried.append((len(ids), answer, cut_answer(said, benchmark.stop)))
        alone = replace(benchmark, blocks=((question,),))
        if any(score(alone, [said]) != [0.0] for _, _, said in tried):
            continue
        tokens, answer, said = min(tried)
        raise RequestError(
            f"benchmark {benchmark.name!r}: question {question.key}: its answer {answer[:80]!r} ({tokens} tokens) "
            f"could not be given, as at most {said[:80]!r} is read; set `new_tokens` to {tokens} or more, or another "
            "`stop`, in the benchmark's entry"
        )


def check_lengths(stages: Sequence[EvaluationStage], tokenizer: Tokenizer, cache: Path | None) -> None:
    """Raises RequestError if a prompt of a named benchmark exceeds the context length of a model, or if no answer to a
    question could be right.

    Each benchmark is measured once for each context length and form of prompts.
    """
    measured = set()
    for stage in stages:
        writer = PromptWriter.of(stage, tokenizer)
        form = (context_length(stage.model), writer)
        if form in measured:
            continue
        measured.add(form)
        for config in stage.benchmarks:
            benchmark = build_benchmark(config, stage.settings, tokenizer, cache)
            check_answers(benchmark, tokenizer)
            if lack := too_long(benchmark, stage, writer):
                raise RequestError(lack)


def too_long(benchmark: Benchmark, stage: EvaluationStage, writer: PromptWriter) -> str:
    """Why the stage's model cannot read the benchmark's longest prompt, and what to do; empty if it can."""
    most = context_length(stage.model)
    shots = max(benchmark.shots_at(stage.settings))
    length = longest_prompt(writer, benchmark, shots)
    if length <= most:
        return ""
    fewer = "fewer shots (the benchmark's own `shots`, or --set evaluate.shots=[…]), " if shots else ""
    at_most = "up to " if stage.model.tiling == "ratio" else ""
    return (
        f"benchmark {benchmark.name!r}: a question after {shots} demonstrations takes {length} tokens, "
        f"with {at_most}{stage.model.picture_tokens} per picture and {benchmark.new_tokens} for the answer, but the "
        f"decoder reads at most {most}; use {fewer}fewer `new_tokens` of the benchmark, or {_to_read_more(stage.model)}"
    )


def _to_read_more(model: ModelStage) -> str:
    if isinstance(model.architecture.decoder, PretrainedDecoder):  # whose rows may be no longer
        return "a decoder that reads more"
    return f"a larger {'sft.' if model.tuned else ''}sequence_length"


def long_prompts(stages: Sequence[EvaluationStage], settings: EvaluationSettings, data: Data) -> list[str]:
    """What is to be told of prompts that nobody listed, of users' held-out captions or the world's benchmarks, if they
    exceed the context length of a model: nothing is refused for them. By a few questions; no picture is decoded."""
    if data.identity.kind == "world":
        few = settings.model_copy(update={"questions": FEW.questions, "blocks": FEW.blocks})
        benchmarks = world_benchmarks(few)
    else:
        captions = first_captions(cast("Shards", data), settings)
        benchmarks = [captions] if captions else []
    if not benchmarks:
        return []
    where = benchmarks[0].name if len(benchmarks) == 1 else "the world's benchmarks"
    longest: dict[tuple[int, str], list[int]] = {}
    reads = ((context_length(stage.model), _to_read_more(stage.model)) for stage in stages)
    writers = (PromptWriter.of(stage, data.tokenizer) for stage in stages)
    for read, writer in dict.fromkeys(zip(reads, writers, strict=True)):
        lengths = []
        for count in settings.shots:
            lengths.append(max(longest_prompt(writer, benchmark, count) for benchmark in benchmarks))
        longest[read] = max(lengths, longest.get(read, []))
    notes = []
    for (most, remedy), lengths in longest.items():
        exceeding = [pair for pair in zip(settings.shots, lengths, strict=True) if pair[1] > most]
        if exceeding:
            shots, tokens = (" and ".join(map(str, numbers)) for numbers in zip(*exceeding, strict=True))
            notes.append(
                f"{where}: a question after {shots} demonstrations takes up to about {tokens} tokens, more than the "
                f"{most} that models read in training, so that scores there say little; use fewer shots (--set "
                f"evaluate.shots=[…]), or {remedy}"
            )
    return notes
