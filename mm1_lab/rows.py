"""What an evaluation finds out, row by row: written by `evaluate`, kept and read by `results`."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """One answer of a model to one question at one number of shots."""

    benchmark: str
    family: str
    """captioning, vqa, novel, text, chat, solutions, likelihood, further or imported."""
    metric: str
    """cider, vqa, exact, …"""
    shots: int
    block: int
    question: str
    """Unique within the benchmark."""
    kind: str
    score: float
    """Points: accuracy × 100, CIDEr × 100."""
    prediction: str
    parsed: bool
    """Whether the answer has the form of an answer."""
    content: float | None = None
    """Of a caption of the world: points for what is said, whatever the wording."""
    reference_probability: float | None = None
    """Of the answer that a demonstration would show, with its end: the geometric mean over its tokens, 0 to 1."""


@dataclass(frozen=True, slots=True)
class HeldOutRow:
    """The mean loss per text token on held-out documents of a source, in nats."""

    source: str
    loss: float


@dataclass(frozen=True, slots=True)
class SampleRow:
    """A question with its answer, kept to be looked at."""

    benchmark: str
    shots: int
    question: str
    kind: str
    prompt: str
    references: tuple[str, ...]
    prediction: str
    score: float
    picture: bytes | None
    """PNG; stored once, under its hash."""
