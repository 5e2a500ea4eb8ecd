"""Whether prompts, with their demonstrations and answers, fit the rows on which models are trained."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mm1_lab.config import EvaluationSettings, EvaluationStage, ModelStage, PretrainedDecoder, RequestError
from mm1_lab.data.types import Tokenizer
from mm1_lab.evaluate.benchmarks import first_captions
from mm1_lab.evaluate.generation import cut_answer
from mm1_lab.evaluate.metrics import METRICS, score
from mm1_lab.evaluate.named import build_benchmark
from mm1_lab.evaluate.prompts import PromptWriter
from mm1_lab.evaluate.questions import Benchmark

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
        remedy = f"set `new_tokens: {tokens}` or more"
        if tokens <= benchmark.new_tokens:
            remedy = f"set another `stop` than {' or '.join(map(repr, benchmark.stop))}"
        raise RequestError(
            f"benchmark {benchmark.name!r}: question {question.key}: its answer {answer[:80]!r} ({tokens} tokens) "
            f"could not be given, as at most {said[:80]!r} is read; {remedy} in the benchmark's entry"
        )


def check_lengths(stages: Sequence[EvaluationStage], tokenizer: Tokenizer, cache: Path | None) -> None:
    """Raises RequestError if a prompt of a named benchmark exceeds the context length of a model, or if no answer to a
    question could be right.

    Each benchmark is measured once for each context length and form of prompts.
    """
    measured = set()
    for stage in stages:
        most = context_length(stage.model)
        writer = PromptWriter.of(stage, tokenizer)
        form = (most, writer)
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
    return (
        f"benchmark {benchmark.name!r}: a question after {shots} demonstrations takes {length} tokens, "
        f"with {stage.model.picture_tokens} per picture and {benchmark.new_tokens} for the answer, but the "
        f"decoder reads at most {most}; use {fewer}fewer `new_tokens` of the benchmark, or a larger "
        f"{'sft.' if stage.model.tuned else ''}sequence_length"
    )


def long_captions(stages: Iterable[EvaluationStage], settings: EvaluationSettings, data: Shards) -> list[str]:
    """What is to be told of users' held-out captions if prompts of them exceed the context length of a model: nobody
    asked for this benchmark, so that nothing is refused for it. By the first captions; no picture is decoded."""
    benchmark = first_captions(data, settings)
    if benchmark is None:
        return []
    longest: dict[int, list[int]] = defaultdict(list)
    forms = ((context_length(stage.model), PromptWriter.of(stage, data.tokenizer)) for stage in stages)
    for most, writer in dict.fromkeys(forms):
        lengths = [longest_prompt(writer, benchmark, shots) for shots in settings.shots]
        longest[most] = max(longest[most], lengths)
    notes = []
    for most, lengths in longest.items():
        exceeding = [(shots, length) for shots, length in zip(settings.shots, lengths, strict=True) if length > most]
        if exceeding:
            shots, tokens = (" and ".join(map(str, numbers)) for numbers in zip(*exceeding, strict=True))
            notes.append(
                f"{benchmark.name}: a question after {shots} demonstrations takes about {tokens} tokens, more than the "
                f"{most} that models read in training, so that its scores there say little; use fewer shots "
                "(--set evaluate.shots=[…]), or a larger sequence_length"
            )
    return notes
