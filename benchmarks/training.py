"""The base trial, and its training compared with a bare loop, LLaVA on padded batches, and data generation alone.

Everything runs in one process with one thread. The time per step is the difference between a run of W + N steps and one
of W steps, which excludes loading and the first, slower steps.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import torch
from torch import nn

from benchmarks.llava import build_llava, padded_loss, shuffled, unpack
from benchmarks.measure import Budget, Row, Seconds, alternate, compare, seconds
from benchmarks.setting import (
    FULL,
    Amounts,
    base_evaluation,
    mixture_batches,
    model_to_evaluate,
    multimodal_stage,
    real_tokens,
    untrained_inputs,
)
from mm1_lab.config import DecoderStage, EncoderStage, EvaluationStage, MultimodalStage, Optimiser
from mm1_lab.data.types import Data
from mm1_lab.data.world import World
from mm1_lab.evaluate.run import evaluate
from mm1_lab.model import build_mm1, read_by_document
from mm1_lab.train.module import language_loss
from mm1_lab.train.optimiser import build_optimiser
from mm1_lab.train.stages import run_stage

Trained = TypeVar("Trained", EncoderStage, DecoderStage, MultimodalStage)
DOCUMENTS_PER_BATCH = (2, 4, 8, 16)
"""Padded batch sizes tried with LLaVA; the fastest is the reference."""
PROBE = replace(FULL, warmup_steps=1, steps=4)
"""For choosing that batch size."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Times of training or data generation: the start, and each later step."""

    start: Seconds
    step: Seconds


def measure(amounts: Amounts) -> list[Row]:
    """Rows for the base trial, its training and its data."""
    torch.set_num_threads(1)
    data = World()
    evaluation = base_evaluation(amounts, data)
    stage = multimodal_stage(evaluation)
    with TemporaryDirectory() as folder:
        inputs = untrained_inputs(stage, data, Path(folder))
        documents = min(DOCUMENTS_PER_BATCH, key=partial(_padded_step, stage, data))
        sides = {
            "ours": lambda _: stage_timing(stage, inputs, data, amounts),
            "bare": lambda _: bare(stage, data, amounts),
            "padded": lambda _: _padded(stage, data, amounts, documents),
            "world": lambda _: _world(stage, data, amounts),
        }
        times = alternate(sides, amounts.rounds)
        rows = _rows(stage, data, amounts, times, documents)
        return [_trial(evaluation, data, times["ours"], Path(folder)), *rows]


def _trial(evaluation: EvaluationStage, data: Data, trainings: Iterable[Timing], folder: Path) -> Row:
    model, remark = model_to_evaluate(multimodal_stage(evaluation), data, folder)
    evaluating = seconds(lambda: evaluate(evaluation, model, data, lambda progress: None))
    steps = evaluation.model.training.steps
    training = [Seconds(t.start.core + steps * t.step.core, t.start.wall + steps * t.step.wall) for t in trainings]
    core = [t.core + evaluating.core for t in training]
    wall = [t.wall + evaluating.wall for t in training]
    note = (
        f"training {median(t.core for t in training):.1f} s (its {steps} steps extrapolated), evaluation "
        f"{evaluating.core:.1f} s, {remark}"
    )
    return compare("base trial", "core-s", core, wall, "the same in wall time", Budget(100), note)


def _rows(
    stage: MultimodalStage,
    data: Data,
    amounts: Amounts,
    times: Mapping[str, list[Timing]],
    documents: int,
) -> list[Row]:
    """Rows for a step."""
    batches = [mixture_batches(stage, data)(step) for step in _steps(amounts)]
    tokens = sum(real_tokens(batch) for batch in batches) / amounts.steps
    samples = sum(int(batch.documents.amax(dim=1).sum()) for batch in batches) / amounts.steps
    positions = batches[0].tokens.numel()
    core = {name: [timing.step.core for timing in timings] for name, timings in times.items()}
    speed = {name: [tokens / second for second in values] for name, values in core.items()}
    return [
        compare(
            "training step",
            "core-ms",
            [1000 * second for second in core["ours"]],
            [1000 * second for second in core["bare"]],
            "a bare PyTorch loop over prepared batches",
        ),
        compare(
            "training step",
            "real tokens",
            [tokens],
            [positions],
            "positions, padding included",
            Budget(ratio_at_least=0.97),
        ),
        compare(
            "training",
            "real tokens / s",
            speed["ours"],
            speed["padded"],
            "transformers' LLaVA of the same sizes on padded batches, patches pooled to as many tokens",
            Budget(ratio_at_least=2.5),
            f"{documents} documents per padded batch, the fastest of {', '.join(map(str, DOCUMENTS_PER_BATCH))}; "
            "data generation is timed on both sides",
        ),
        compare(
            "miniature world, drawn and packed",
            "samples / s",
            [samples / second for second in core["world"]],
            [samples / second for second in core["ours"]],
            "what training consumes",
            Budget(ratio_at_least=10),
        ),
    ]


def _steps(amounts: Amounts) -> range:
    """The timed steps, after the warm-up steps."""
    return range(amounts.warmup_steps, amounts.warmup_steps + amounts.steps)


def stage_timing(stage: Trained, inputs: Mapping[str, Path], data: Data, amounts: Amounts) -> Timing:
    """Training as in a sweep."""

    def run(steps: int) -> Seconds:
        short = with_training(stage, steps=steps)
        with TemporaryDirectory() as folder:
            return seconds(lambda: run_stage(short, Path(folder), inputs, data, lambda progress: None))

    warmup = amounts.warmup_steps
    first, both = run(warmup), run(warmup + amounts.steps)
    step = Seconds((both.core - first.core) / amounts.steps, (both.wall - first.wall) / amounts.steps)
    return Timing(Seconds(first.core - warmup * step.core, first.wall - warmup * step.wall), step)


def with_training(stage: Trained, **changes: Any) -> Trained:
    """The stage with another length, or other phases, of its training."""
    return stage.model_copy(update={"training": stage.training.model_copy(update=changes)})


def bare(stage: MultimodalStage, data: Data, amounts: Amounts) -> Timing:
    """The same model, loss and optimiser without Lightning, on prepared batches."""
    model = build_mm1(stage, data.tokenizer).train()
    read_by_document(model.decoder)
    update = Update(model, stage.training)
    make = mixture_batches(stage, data)
    batches = [make(step) for step in range(_steps(amounts).stop)]
    names = list(stage.shares)

    def train(steps: range) -> None:
        for step in steps:
            language_loss(model.decoder, model(batches[step]), batches[step], names).main.backward()
            update()

    return _time(train, amounts)


def _padded(stage: MultimodalStage, data: Data, amounts: Amounts, documents: int) -> Timing:
    """LLaVA: a step processes the documents of ours in padded batches and accumulates gradients."""
    model = build_llava(stage, data.tokenizer)
    update = Update(model, stage.training.model_copy(update={"lr_multipliers": {}}))  # its parts have different names
    make = mixture_batches(stage, data)

    def train(steps: range) -> None:
        for step in steps:
            batch = make(step)
            found = unpack(batch, data.tokenizer.image, stage.connector.image_tokens)
            counted = int((batch.weights > 0).sum())
            queue = shuffled(found, step)
            for first in range(0, len(queue), documents):
                loss, count = padded_loss(model, queue[first : first + documents], data.tokenizer.pad)
                (loss * (count / counted)).backward()
            update()

    return _time(train, amounts)


def _padded_step(stage: MultimodalStage, data: Data, documents: int) -> float:
    """Approximate core seconds per step of LLaVA on padded batches."""
    return _padded(stage, data, PROBE, documents).step.core


def _world(stage: MultimodalStage, data: Data, amounts: Amounts) -> Timing:
    """Only the generation of batches, with pixels."""
    make = mixture_batches(stage, data)

    def read(steps: range) -> None:
        for step in steps:
            make(step)

    return _time(read, amounts)


def _time(work: Callable[[range], None], amounts: Amounts) -> Timing:
    start = seconds(lambda: work(range(amounts.warmup_steps)))
    total = seconds(lambda: work(_steps(amounts)))
    return Timing(start, Seconds(total.core / amounts.steps, total.wall / amounts.steps))


class Update:
    """Clips gradients, updates weights and clears gradients, as in training."""

    def __init__(self, model: nn.Module, config: Optimiser) -> None:
        self._model = model
        self._clip = config.max_grad_norm
        self._optimiser, self._schedule = build_optimiser(model, config)

    def __call__(self) -> None:
        nn.utils.clip_grad_norm_(self._model.parameters(), self._clip)
        self._optimiser.step()
        self._schedule.step()
        self._optimiser.zero_grad()
