"""The table of a benchmark run: on the screen, as `results.json` and as `RESULTS.md`."""

import importlib.metadata
import json
import platform
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.measure import Budget, Row
from mm1_lab.machine import machine_cpus
from mm1_lab.team import processor

PACKAGES = ("torch", "transformers", "lightning", "ray", "mlflow", "numpy")
KEPT = {None: "", True: "yes", False: "NO"}
COLUMNS = ("what", "unit", "ours", "reference", "ratio (rounds)", "budget", "kept", "the reference is")


def machine() -> dict[str, Any]:
    """Date, hardware and versions of the measurement."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "processor": processor(),
        "cores": machine_cpus(),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
    }


def text_table(rows: Sequence[Row]) -> str:
    """The rows as aligned text, without the last column."""
    cells = [COLUMNS[:-1], *(_cells(row)[:-1] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(COLUMNS) - 1)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in cells)


def markdown(rows: Sequence[Row], where: dict[str, Any]) -> str:
    """The page: conditions, the table, and notes on rows."""
    versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
    lines = [
        "# Speed, side by side",
        "",
        f"Measured on {where['date']} by `make bench` on {where['cores']} cores of {where['processor']}, with Python "
        f"{where['python']}, {versions}. Medians over rounds in which the sides take turns; in parentheses the lowest "
        "and the highest ratio of a round.",
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|" + "---|" * len(COLUMNS),
        *("| " + " | ".join(_cells(row)) + " |" for row in rows),
        "",
        *(f"- {row.what}: {row.note}." for row in rows if row.note),
    ]
    return "\n".join(lines) + "\n"


def write(rows: Sequence[Row], where: dict[str, Any], folder: Path) -> list[Path]:
    """Writes `results.json`, with every round, and `RESULTS.md` into `folder`."""
    values = where | {"rows": [asdict(row) | {"ratio": row.ratio, "kept": row.kept} for row in rows]}
    numbers, page = folder / "results.json", folder / "RESULTS.md"
    numbers.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    page.write_text(markdown(rows, where), encoding="utf-8")
    return [numbers, page]


def _cells(row: Row) -> list[str]:
    return [row.what, row.unit, *_measured(row), _budget(row.budget), KEPT[row.kept], row.reference_is]


def _measured(row: Row) -> list[str]:
    """Ours, the reference's, and their ratio with its lowest and highest round."""
    if row.ours is None or row.reference is None:
        return ["not measured", "", ""]
    ratios = [ours / reference for ours, reference in row.rounds]
    spread = f"{_number(row.ours / row.reference)} ({_number(min(ratios))} to {_number(max(ratios))})"
    return [_number(row.ours), _number(row.reference), spread]


def _budget(budget: Budget | None) -> str:
    if budget is None:
        return ""
    if budget.ours_at_most is not None:
        return f"ours ≤ {budget.ours_at_most:g}"
    return f"ratio ≥ {budget.ratio_at_least:g}"


def _number(value: float) -> str:
    """Three significant digits."""
    if abs(value) >= 1000:
        return f"{float(f'{value:.3g}'):,.0f}"
    return f"{value:.3g}"
