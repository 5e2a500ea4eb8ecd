"""What the results mean: tables, figures, verdicts, a report, from results/ alone, in seconds. Nothing trains.

These two are handed to a run before it starts; what they need is imported when it ends.
"""

from pathlib import Path


def draw_sweep(folder: Path) -> list[Path]:
    """Redraws one sweep's folder (`analysis.redraw.draw_sweep`)."""
    from analysis import redraw

    return redraw.draw_sweep(folder)


def sweep_in_short(folder: Path) -> str:
    """A sweep's folder for a terminal: a row per arm, a row per claim with its verdict."""
    from analysis import redraw

    return redraw.sweep_in_short(folder)
