"""Rows of an evaluation's results: written by `evaluate`, stored and read by `results`."""

from dataclasses import dataclass
from typing import Literal

Family = Literal["captioning", "vqa", "novel", "text", "chat", "solutions", "further"]
"""Only captioning, vqa and text enter the means over all benchmarks. The others are: novel combinations, which the
miniature's models do not produce (results/LOG.md); a fine-tuned model's answers in conversations, and its worked
solutions; and further metrics of the same answers."""
OF_OWN_DATA = ("captioning", "vqa", "text")
"""The families that users' benchmarks may be of."""
OF_TUNED = ("chat", "solutions")
"""The families that only fine-tuned models are asked."""
OTHERWISE = "-otherwise"
"""Ends the key of a question whose answer is expected in second words, which only demonstrations can show."""


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """A model's answer to one question at one number of shots."""

    benchmark: str
    family: str
    """A `Family`."""
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
