"""Training of the base's encoder and decoder, extrapolated from some steps of each, compared with what it once took.

Everything runs in one process with one thread, as in `training.py`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch

from benchmarks.measure import Budget, Row, alternate, compare
from benchmarks.setting import Amounts, base_evaluation, multimodal_stage, trained_parts
from benchmarks.training import Timing, stage_timing, with_training
from mm1_lab.config import DecoderStage
from mm1_lab.data.world import World

FORMER = {"encoder": 11, "decoder": 16}
"""Minutes that they took when the lab was first measured, side by side on two cores (results/LOG.md, 20 November)."""
SHARE = 4
"""A quarter of the steps that are timed of the base trial: three kinds of steps are timed here, all of them longer."""


def measure(amounts: Amounts) -> list[Row]:
    """The rows for encoder and decoder."""
    torch.set_num_threads(1)
    data = World()
    stage = multimodal_stage(base_evaluation(amounts, data))
    few = replace(amounts, warmup_steps=max(1, amounts.warmup_steps // 2), steps=max(1, amounts.steps // SHARE))
    encoder, decoder = trained_parts(stage)
    phases = [one_phase(decoder, number) for number in range(len(decoder.training.phases))]
    times = alternate(
        {
            "encoder": lambda _: [stage_timing(encoder, {}, data, few)],
            "decoder": lambda _: [stage_timing(phase, {}, data, few) for phase in phases],
        },
        amounts.rounds,
    )
    return [
        _row("encoder", times["encoder"], [encoder.training.steps]),
        _row("decoder", times["decoder"], decoder.training.phase_steps()),
    ]


def one_phase(stage: DecoderStage, number: int) -> DecoderStage:
    """The stage with only one of its phases."""
    return with_training(stage, phases=(stage.training.phases[number].model_copy(update={"share": 1.0}),))


def _row(what: str, rounds: Iterable[Sequence[Timing]], steps: Sequence[int]) -> Row:
    """Core minutes of `steps` of each kind, whose timings are those of each round; the first one's start counts."""
    minutes = [
        (kinds[0].start.core + sum(n * kind.step.core for n, kind in zip(steps, kinds, strict=True))) / 60
        for kinds in rounds
    ]
    each = " and ".join(f"{count:,}" for count in steps)
    return compare(
        f"training of the base's {what}",
        "core-min",
        minutes,
        [FORMER[what]] * len(minutes),
        "what it took when the lab was first measured, by the clock and on another machine",
        Budget(FORMER[what] / 2),
        f"its {each} steps extrapolated",
    )
