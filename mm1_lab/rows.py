"""Rows of an evaluation's results: written by `evaluate`, stored and read by `results`."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """A model's answer to one question at one number of shots."""

    benchmark: str
    family: str
    """captioning, vqa, novel, text, chat, solutions or further."""
    metric: str
    """cider, content, vqa, exact, …"""
    shots: int
    block: int
    question: str
    """Unique within the benchmark."""
    kind: str
    score: float
    """Points: accuracy, F1 or CIDEr × 100."""
    prediction: str
    parsed: bool
    """Whether the answer has the required form."""


@dataclass(frozen=True, slots=True)
class HeldOutRow:
    """The mean loss per text token on held-out documents of a source, in nats."""

    source: str
    loss: float
