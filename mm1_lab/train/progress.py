"""What a running stage tells whoever started it."""

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Progress:
    """A stage's position, sent a few times a second at most."""

    step: int
    steps: int
    losses: dict[str, float] = field(default_factory=dict)
    """`loss`, and `loss/SOURCE` where there are several; means since the last report."""
    tokens_per_second: float = 0.0
    """Real ones: text and image tokens, padding left out."""
    note: str = ""
    """What the user must hear, in a line."""


Report = Callable[[Progress], None]


class Diverged(Exception):
    """The loss of a step is not a finite number; the message names the step."""
