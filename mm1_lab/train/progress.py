"""Progress reports of a running stage."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """A stage's position, reported at most a few times per second."""

    step: int
    steps: int
    loss: float | None = None
    """The mean since the last report."""
    tokens_per_second: float = 0.0
    """Real text and image tokens per second, without padding."""
    note: str = ""
    """A one-line message for the user."""


Report = Callable[[Progress], None]


class Diverged(Exception):
    """A loss is not finite; the message names the step."""


class TimeUp(Exception):
    """Raised by a report to end a stage: its training writes a checkpoint first."""
