"""Analyses results: tables, figures, verdicts and a report, from results/ alone and in seconds. Nothing is trained.

A run is given these two functions when it starts; their imports are deferred to its end.
"""

import logging
from collections.abc import Mapping
from pathlib import Path

logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it warns of a home in which it cannot write, and goes on


def draw_sweep(folder: Path, predicted: Mapping[str, float] | None = None) -> list[Path]:
    """Redraws one sweep's folder (`analysis.redraw.draw_sweep`)."""
    from analysis import redraw

    return redraw.draw_sweep(folder, predicted)


def sweep_in_short(folder: Path) -> str:
    """A summary of a sweep's folder for a terminal: a row per arm, a row per claim with its verdict."""
    from analysis import redraw

    return redraw.sweep_in_short(folder)
