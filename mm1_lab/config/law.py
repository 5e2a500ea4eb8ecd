"""Learning-rate laws, η = exp(slope · ln N + constant), and how numbers of parameters are read."""

import math
import re

from mm1_lab.config.base import Config

UNITS = {"": 1.0, "K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}
FEWEST_SIZES = 3
"""Bracketed sizes that a law needs: with two there is no residual."""


class LearningRateLaw(Config):
    """The best peak learning rate as a function of N, the number of non-embedding parameters."""

    slope: float
    constant: float

    def rate(self, parameters: float) -> float:
        """The learning rate, rounded to three significant digits."""
        return float(f"{math.exp(self.slope * math.log(parameters) + self.constant):.3g}")


PAPER_LAW = LearningRateLaw(slope=-0.4214, constant=-0.5535)
"""Equation 1 of MM1."""


def parse_count(text: str) -> float:
    """Parses a positive number such as `9M`, `1.2B`, `302m`, `1200000000` or `3e10`. Raises ValueError."""
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)\s*([KMBTkmbt]?)\s*", text)
    value = 0.0
    if match:
        value = float(match[1]) * UNITS[match[2].upper()]
    if not 0 < value < math.inf:
        raise ValueError(f"{text!r} is not a size like 9M, 1.2B or 1200000000")
    return value
