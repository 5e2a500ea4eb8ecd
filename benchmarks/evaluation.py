"""Few-shot evaluation compared with `transformers`' generate on one question at a time, same model and prompts."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory

import numpy as np
import torch

from benchmarks.measure import Budget, Row, Seconds, alternate, compare, seconds
from benchmarks.setting import Amounts, base_evaluation, model_to_evaluate
from mm1_lab.config import EvaluationStage
from mm1_lab.data.types import Data
from mm1_lab.data.world import World
from mm1_lab.evaluate.benchmarks import benchmarks_for
from mm1_lab.evaluate.generation import cut_answer
from mm1_lab.evaluate.prompts import PromptWriter
from mm1_lab.evaluate.questions import Benchmark, Question
from mm1_lab.evaluate.run import Answering
from mm1_lab.model import MM1, build_mm1, load_weights

Answers = dict[tuple[str, int, str], str]
"""Predictions by benchmark, shots and question key."""


@dataclass(frozen=True, slots=True)
class Answered:
    """The answers of one side and the time they took."""

    answers: Answers
    seconds: Seconds

    @property
    def speed(self) -> float:
        """Questions per core-second."""
        return len(self.answers) / self.seconds.core


def measure(amounts: Amounts) -> list[Row]:
    """The row for few-shot evaluation. In each round the reference answers another question of each block."""
    torch.set_num_threads(1)
    data = World()
    stage = base_evaluation(amounts, data)
    with TemporaryDirectory() as folder:
        path, remark = model_to_evaluate(stage.model, data, Path(folder))
        model = build_mm1(stage.model, data.tokenizer).eval()
        load_weights(model, path)
    sides = {
        "ours": lambda number: _ours(stage, model, data),
        "one by one": lambda number: _one_by_one(stage, model, data, number),
    }
    sides["one by one"](0)
    results = alternate(sides, amounts.rounds)
    ours, single = results["ours"], results["one by one"]
    agreement = [ours[0].answers[key] == side.answers[key] for side in single for key in side.answers]
    note = (
        f"{remark}; {len(ours[0].answers)} questions against {len(single[0].answers)} of them; "
        f"{mean(agreement):.1%} of the answers are identical"
    )
    return [
        compare(
            "few-shot evaluation",
            "questions / core-s",
            [side.speed for side in ours],
            [side.speed for side in single],
            "transformers' generate, one question at a time",
            Budget(ratio_at_least=5),
            note,
        )
    ]


def _ours(stage: EvaluationStage, model: MM1, data: Data) -> Answered:
    """Answers every question of every benchmark at every number of shots, as the evaluation stage does."""
    answers: Answers = {}
    benchmarks = benchmarks_for(data, stage.settings)

    def run() -> None:
        for benchmark in benchmarks:
            answering = Answering(stage, model, data)
            for shots in stage.settings.shots:
                for question, said in zip(benchmark.questions, answering.predict(benchmark, shots), strict=True):
                    answers[benchmark.name, shots, question.key] = said

    return Answered(answers, seconds(run))


def _one_by_one(stage: EvaluationStage, model: MM1, data: Data, number: int) -> Answered:
    """Answers question `number` of each block, processing the whole prompt each time."""
    answers: Answers = {}
    writer = PromptWriter.of(stage, data.tokenizer)
    side = stage.model.image_size

    @torch.inference_mode()
    def answer(benchmark: Benchmark, block: int, shots: int, question: Question) -> str:
        prompt = writer.prefix(benchmark, block, shots) + writer.question(question)
        pixels = np.zeros((len(prompt.pictures), side, side, 3), np.uint8)
        for index, picture in enumerate(prompt.pictures):
            pixels[index] = picture.pixels(side)
        embedded = model.embed(torch.tensor([prompt.tokens]), torch.from_numpy(pixels).permute(0, 3, 1, 2))
        ids = model.decoder.generate(
            inputs_embeds=embedded,
            attention_mask=torch.ones(embedded.shape[:2], dtype=torch.long),
            max_new_tokens=benchmark.new_tokens,
            do_sample=False,
            eos_token_id=[data.tokenizer.end, *_stops(benchmark, data)],
            pad_token_id=data.tokenizer.pad,
        )
        return cut_answer(data.tokenizer.decode(ids[0].tolist()), benchmark.stop)

    def run() -> None:
        for benchmark, block, question in questions:
            for shots in stage.settings.shots:
                answers[benchmark.name, shots, question.key] = answer(benchmark, block, shots, question)

    questions = list(_chosen(benchmarks_for(data, stage.settings), number))
    return Answered(answers, seconds(run))


def _chosen(benchmarks: list[Benchmark], number: int) -> Iterator[tuple[Benchmark, int, Question]]:
    """(benchmark, block, question `number` of the block)"""
    for benchmark in benchmarks:
        for block, questions in enumerate(benchmark.blocks):
            yield benchmark, block, questions[number % len(questions)]


def _stops(benchmark: Benchmark, data: Data) -> list[int]:
    """Token ids of the stop words; each is a single entry of the world's vocabulary."""
    ids = [data.tokenizer.encode(word) for word in benchmark.stop]
    if any(len(word) != 1 for word in ids):
        raise ValueError(f"{benchmark.name}: a stop word is not one token: {benchmark.stop}")
    return [word[0] for word in ids]
