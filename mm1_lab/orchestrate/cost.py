"""What a stage costs, before it runs: tokens, floating-point operations, bytes, seconds.

FLOPs are 6 · parameters · tokens for training (Kaplan et al. 2020), 2 · parameters · tokens for evaluation; they order
the work and scale seconds measured before, and are good to a factor of two.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from mm1_lab.config import (
    DecoderStage,
    EncoderStage,
    EvaluationStage,
    MultimodalStage,
    Stage,
    non_embedding_parameters,
)
from mm1_lab.results import Ledger

BENCHMARKS = 9
ANSWER_TOKENS = 24
"""Of an image-free question with its answer, roughly."""


def parameters(stage: Stage) -> int:
    """Parameters that do the work, 12 · layers · width² for each transformer; embeddings and connector left out."""
    if isinstance(stage, EncoderStage):
        text = non_embedding_parameters(stage.training.text) if stage.objective == "contrastive" else 0
        return non_embedding_parameters(stage.size) + text
    if isinstance(stage, DecoderStage):
        return non_embedding_parameters(stage.size)
    if isinstance(stage, MultimodalStage):
        return non_embedding_parameters(stage.encoder.features) + non_embedding_parameters(stage.decoder.size)
    assert isinstance(stage, EvaluationStage)
    return parameters(stage.model)


def training_tokens(stage: Stage) -> int:
    """Positions (padding included) that training sees; for an encoder, image patches; for an evaluation, about."""
    if isinstance(stage, EncoderStage):
        if stage.objective == "none":
            return 0
        return stage.training.steps * stage.training.batch_size * (stage.image_size // stage.patch) ** 2
    if isinstance(stage, DecoderStage):
        training = stage.training
        return sum(
            steps * phase.batch_size * phase.sequence_length
            for steps, phase in zip(training.phase_steps(), training.phases, strict=True)
        )
    if isinstance(stage, MultimodalStage):
        return stage.training.steps * stage.training.batch_size * stage.sequence_length
    assert isinstance(stage, EvaluationStage)
    question = ANSWER_TOKENS + stage.model.connector.image_tokens
    return BENCHMARKS * stage.settings.questions * sum(question * (shots + 1) for shots in stage.settings.shots)


def flops(stage: Stage) -> float:
    """Floating-point operations, roughly."""
    return (2.0 if isinstance(stage, EvaluationStage) else 6.0) * parameters(stage) * training_tokens(stage)


def disk_bytes(stage: Stage) -> int:
    """What a finished stage leaves: its weights at four bytes a parameter."""
    return 0 if isinstance(stage, EvaluationStage) else 4 * parameters(stage)


def memory_bytes(stage: Stage) -> int:
    """Weights, gradients and Adam's two moments at four bytes each; activations left out."""
    return (4 if isinstance(stage, EvaluationStage) else 16) * parameters(stage)


@dataclass(frozen=True)
class Speeds:
    """Seconds a FLOP, by kind of stage, as measured before."""

    seconds_per_flop: dict[str, float]

    def seconds(self, stage: Stage) -> float | None:
        """Expected seconds, or None if no stage of the kind was ever measured here."""
        rate = self.seconds_per_flop.get(stage.KIND)
        return None if rate is None else rate * flops(stage)


def measured_speeds(ledger: Ledger, newest: int = 30) -> Speeds:
    """From what the newest finished stages in the store and trials in the results took."""
    rates: dict[str, list[float]] = {}
    stages = _newest(ledger.store.glob("*/timings.json"), newest)
    trials = _newest(ledger.results.glob("trials/*/record.json"), newest)
    measured = [_read(path) for path in stages] + [_read(path).get("timings", {}) for path in trials]
    for timings in measured:
        for kind, timing in timings.items():
            rates.setdefault(kind, []).append(timing["seconds"] / timing["flops"])
    return Speeds({kind: median(values) for kind, values in rates.items()})


def _newest(paths: Iterable[Path], count: int) -> list[Path]:
    return sorted(paths, key=lambda path: path.stat().st_mtime)[-count:]


def _read(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return values
