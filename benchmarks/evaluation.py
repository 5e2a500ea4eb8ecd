"""Few-shot evaluation compared with `transformers`' generate on one question at a time, same model and prompts."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory

import numpy as np
import torch

from benchmarks.measure import Budget, Row, alternate, compare
from benchmarks.setting import Amounts, base_evaluation, model_to_evaluate, multimodal_stage
from mm1_lab.config import EvaluationStage
from mm1_lab.data.types import Data
from mm1_lab.data.world import World
from mm1_lab.evaluate.benchmarks import benchmarks_for
from mm1_lab.evaluate.generation import cut_answer
from mm1_lab.evaluate.prompts import PromptWriter
from mm1_lab.evaluate.questions import Benchmark, Question
from mm1_lab.evaluate.run import Answering
from mm1_lab.model import MM1, build_mm1, cast_matrices, load_weights

Answers = dict[tuple[str, int, str], str]
"""Predictions by benchmark, shots and question key."""
Clock = Callable[[], float]
"""Seconds since some time."""


@dataclass(frozen=True, slots=True)
class Answered:
    """The answers of one side and the time they took."""

    answers: Answers
    seconds: Mapping[int, float]
    """By number of shots."""

    def speed(self, *shots: int) -> float:
        """Questions per second at these numbers of shots."""
        answered = sum(asked in shots for _, asked, _ in self.answers)
        return answered / sum(self.seconds[number] for number in shots)


def measure(amounts: Amounts) -> list[Row]:
    """The rows for few-shot evaluation on one core."""
    torch.set_num_threads(1)
    data = World()
    stage = base_evaluation(amounts, data)
    with TemporaryDirectory() as folder:
        path, remark = model_to_evaluate(multimodal_stage(stage), data, Path(folder))
        return compare_answering(stage, path, data, amounts.rounds, "", remark)


def compare_answering(
    stage: EvaluationStage, path: Path, data: Data, rounds: int, where: str, remark: str, device: str = "cpu"
) -> list[Row]:
    """The rows for few-shot evaluation of the model in `path`: at all shots, and at the most.

    In each round the reference answers another question of each block, on a GPU of two blocks: an untrained model's
    answers are long, some half a second each. A CPU's time is that of its core, a GPU's the clock's.
    """
    model = build_mm1(stage.model, data.tokenizer).eval()
    load_weights(model, path)
    if half := stage.precision == "bf16-mixed":
        cast_matrices(model.encoder, model.decoder)
    model.to(device)
    clock, unit = (time.process_time, "questions / core-s") if device == "cpu" else (_gpu_clock, "questions / s")
    sides = {
        "ours": lambda number: _ours(stage, model, data, clock),
        "one by one": lambda number: _one_by_one(stage, model, data, number, None if device == "cpu" else 2, clock),
    }
    with torch.autocast(device, torch.bfloat16, enabled=half):
        sides["one by one"](0)
        results = alternate(sides, rounds)
    ours, single = results["ours"], results["one by one"]
    agreement = [ours[0].answers[key] == side.answers[key] for side in single for key in side.answers]
    note = (
        f"{remark}; {len(ours[0].answers)} questions against {len(single[0].answers)} of them; "
        f"{mean(agreement):.1%} of the answers are identical"
    )
    all_shots, most = stage.settings.shots, max(stage.settings.shots)
    reference = "transformers' generate, one question at a time"
    name = f"evaluation {where}".strip()
    return [
        compare(
            what,
            unit,
            [side.speed(*shots) for side in ours],
            [side.speed(*shots) for side in single],
            reference,
            Budget(ratio_at_least=12),
            remarks,
        )
        for what, shots, remarks in (
            (f"{name} at {', '.join(map(str, all_shots))} shots", all_shots, note),
            (f"{name} at {most} shots", (most,), "with its pictures, which other shots then reuse"),
        )
    ]


def _gpu_clock() -> float:
    """Seconds by the clock, when the GPU has finished."""
    torch.cuda.synchronize()
    return time.perf_counter()


def _ours(stage: EvaluationStage, model: MM1, data: Data, clock: Clock) -> Answered:
    """Answers every question of every benchmark at every number of shots, as the evaluation stage does.

    The most shots come first, so that their time includes all pictures.
    """
    answers: Answers = {}
    taken = dict.fromkeys(stage.settings.shots, 0.0)
    for benchmark in benchmarks_for(data, stage.settings):
        answering = Answering(stage, model, data)
        for shots in sorted(taken, reverse=True):
            with torch.inference_mode(), _timed(taken, shots, clock):
                said = answering.predict(benchmark, shots)
            answers |= {
                (benchmark.name, shots, one.key): text for one, text in zip(benchmark.questions, said, strict=True)
            }
    return Answered(answers, taken)


@contextmanager
def _timed(taken: dict[int, float], shots: int, clock: Clock) -> Iterator[None]:
    """Adds the seconds of the block."""
    started = clock()
    yield
    taken[shots] += clock() - started


def _one_by_one(
    stage: EvaluationStage, model: MM1, data: Data, number: int, blocks: int | None, clock: Clock
) -> Answered:
    """Answers question `number` of each block, or of the first `blocks`, processing the whole prompt each time."""
    answers: Answers = {}
    taken = dict.fromkeys(stage.settings.shots, 0.0)
    writer = PromptWriter.of(stage, data.tokenizer)
    side, device = stage.model.image_size, model.decoder.device

    @torch.inference_mode()
    def answer(benchmark: Benchmark, block: int, shots: int, question: Question) -> str:
        prompt = writer.prefix(benchmark, block, shots) + writer.question(question)
        pixels = np.zeros((len(prompt.pictures), side, side, 3), np.uint8)
        for index, (picture, _) in enumerate(prompt.pictures):
            pixels[index] = picture.pixels(side)
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(device)
        embedded = model.embed(torch.tensor([prompt.tokens], device=device), images)
        ids = model.decoder.generate(
            inputs_embeds=embedded,
            attention_mask=torch.ones(embedded.shape[:2], dtype=torch.long, device=device),
            max_new_tokens=benchmark.new_tokens,
            do_sample=False,
            eos_token_id=[data.tokenizer.end, *_stops(benchmark, data)],
            pad_token_id=data.tokenizer.pad,
        )
        return cut_answer(data.tokenizer.decode(ids[0].tolist()), benchmark.stop)

    for benchmark, block, question in _chosen(benchmarks_for(data, stage.settings), number, blocks):
        for shots in taken:
            with _timed(taken, shots, clock):
                answers[benchmark.name, shots, question.key] = answer(benchmark, block, shots, question)
    return Answered(answers, taken)


def _chosen(benchmarks: list[Benchmark], number: int, most: int | None) -> Iterator[tuple[Benchmark, int, Question]]:
    """(benchmark, block, question `number` of the block), of at most so many blocks"""
    for benchmark in benchmarks:
        for block, questions in enumerate(benchmark.blocks[:most]):
            yield benchmark, block, questions[number % len(questions)]


def _stops(benchmark: Benchmark, data: Data) -> list[int]:
    """Token ids of the stop words; each is a single entry of the world's vocabulary."""
    ids = [data.tokenizer.encode(word) for word in benchmark.stop]
    if any(len(word) != 1 for word in ids):
        raise ValueError(f"{benchmark.name}: a stop word is not one token: {benchmark.stop}")
    return [word[0] for word in ids]
