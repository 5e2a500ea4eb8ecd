"""Writes the files of a learning-rate fit: points.csv, optima.csv, law.json, table.md and the figure."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.law.figure import draw_law, sized
from analysis.law.fit import VERDICT_SEEDS, Fit, Runs, fit_all
from analysis.law.search_results import search_runs
from analysis.statistics import UNKNOWN, Interval
from analysis.table import Table, to_markdown, write_csv
from mm1_lab.config import PAPER_LAW, RequestError
from mm1_lab.files import write_json, write_text
from mm1_lab.results.reading import read_variant

INTERVALS = (
    "Intervals are 95 %: of an optimum, by a bootstrap of its runs; of the law, Student's t with two degrees of "
    "freedom fewer than optima; of a prediction, for the optimum that a search at that size would find. "
    "docs/learning-rate-law.md explains them."
)


def draw_search(
    folder: Path, targets: dict[str, float] | None = None, keep_unbracketed: bool = False, out: Path | None = None
) -> list[Path]:
    """Fits and draws a search's folder (`RESULTS/SCALE/lr_law`) into it, or into `out`; returns the files written.

    `targets` are sizes to predict, with their parameters; by default those of the last fit. Raises RequestError if
    there are no results.
    """
    runs = search_runs(read_variant(folder))
    if targets is None:
        targets = _last_targets(folder / "law.json")
    return write_fits(out or folder, runs, fit_all(runs, keep_unbracketed), targets)


def _last_targets(path: Path) -> dict[str, float]:
    if not path.exists():
        return {}
    try:
        fits = json.loads(path.read_text(encoding="utf-8"))["fits"]
        return {row["size"]: float(row["params"]) for fit in fits for row in fit["predictions"]}
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise RequestError(f"{path}: cannot be read ({error}); delete it and give this command again") from None


def write_fits(folder: Path, runs: Runs, fits: Sequence[Fit], targets: dict[str, float]) -> list[Path]:
    """Writes all files; `table.md` last and atomically. The first fit that has a law is the main one."""
    fits = sorted(fits, key=lambda fit: fit.law is None)
    folder.mkdir(parents=True, exist_ok=True)
    points, optima, law, table = (folder / name for name in ("points.csv", "optima.csv", "law.json", "table.md"))
    named = runs.points.rename(columns={"name": "size"})
    write_text(points, named.to_csv(index=False, float_format="%.9g", lineterminator="\n"))
    frames = [_optima(fit) for fit in fits]
    write_csv(pd.concat(frames), optima)
    values = [_fit_values(fit, targets) for fit in fits]
    main = {key: values[0][key] for key in ("objective", "n", "coefficients", "intervals", "why")}
    write_json(law, {"source": runs.title, **main, "fits": values})
    drawn = draw_law(runs, fits, targets, folder / "figure")
    parts = [f"# Learning-rate law: {runs.title}", *runs.notes, *runs.cautions]
    for fit, frame in zip(fits, frames, strict=True):
        parts += [f"## By {fit.objective.column}", *_law_text(fit, targets), _optima_table(frame)]
    write_text(table, "\n\n".join([*parts, INTERVALS]) + "\n")
    return [points, optima, law, *drawn, table]


def _fit_values(fit: Fit, targets: dict[str, float]) -> dict[str, Any]:
    """What law.json says about a fit."""
    law = fit.law
    estimates = {"ln N": law.slope, "constant": law.constant} if law else {}
    predicted = {name: law.predict(params) for name, params in targets.items()} if law else {}
    return {
        "objective": fit.objective.column,
        "lower_is_better": fit.objective.lower_is_better,
        "n": len(law.cells) if law else 0,
        "seeds": fit.seeds,
        "coefficients": {name: _number(e.estimate) for name, e in estimates.items()} or None,
        "intervals": {name: [_number(e.low), _number(e.high)] for name, e in estimates.items()} or None,
        "why": fit.why or None,
        "degrees_of_freedom": law and law.slope.degrees_of_freedom,
        "scatter": law and _number(law.scatter),
        "predictions": [
            {"size": name, "params": targets[name], **_rates(e), "mm1": PAPER_LAW.rate(targets[name])}
            for name, e in predicted.items()
        ],
    }


def _number(value: float) -> float | None:
    return float(f"{value:.10g}") if math.isfinite(value) else None


def _exp(log_rate: float) -> float:
    """exp, or NaN if the result is not a number or does not fit a float."""
    return math.exp(log_rate) if abs(log_rate) < 700 else math.nan


def _rates(log: Interval) -> dict[str, float | None]:
    return {"value": _number(_exp(log.estimate)), "low": _number(_exp(log.low)), "high": _number(_exp(log.high))}


def _optima(fit: Fit) -> pd.DataFrame:
    """The rows of optima.csv, one per cell."""
    rows = []
    for optimum in fit.optima:
        cell, without = optimum.cell, fit.left_out.get(optimum.cell.name, UNKNOWN)
        rows.append(
            {
                "objective": fit.objective.column,
                "size": cell.name,
                "params": cell.params,
                "optimum": _exp(optimum.log_rate),
                "low": _exp(optimum.low),
                "high": _exp(optimum.high),
                "grid_best": _exp(optimum.grid_best),
                "resolved": int(optimum.resolved),
                "in_law": int(fit.law is not None and cell.name in fit.law.cells),
                "left_out_prediction": _exp(without.estimate),
                "left_out_low": _exp(without.low),
                "left_out_high": _exp(without.high),
                "runs": len(cell.scores),
                "failed": sum(not math.isfinite(score) for score in cell.scores),
                "needs": optimum.needs,
            }
        )
    return pd.DataFrame(rows)


def _optima_table(optima: pd.DataFrame) -> str:
    rows = []
    for row in optima.to_dict("records"):
        remarks = [f"not bracketed: needs {row['needs']}"] if row["needs"] else []
        remarks += [f"{row['failed']} failed"] if row["failed"] else []
        rows.append(
            {
                "size": sized(row["size"], row["params"]),
                "best η": _with_range(row["optimum"], row["low"], row["high"]),
                "best tried": f"{row['grid_best']:.3g}",
                "predicted without it": _with_range(*(row[f"left_out_{key}"] for key in ("prediction", "low", "high"))),
                "runs": row["runs"],
                "remarks": ", ".join(remarks),
            }
        )
    return to_markdown(Table("", pd.DataFrame(rows))).rstrip()


def _with_range(value: float, low: float, high: float) -> str:
    if math.isnan(value):
        return ""
    return f"{value:.3g}" if math.isnan(low) or math.isnan(high) else f"{value:.3g} [{low:.3g}, {high:.3g}]"


def _law_text(fit: Fit, targets: dict[str, float]) -> list[str]:
    """The law or why there is none, what it says about Eq. 1, and its predictions."""
    if fit.law is None:
        return [f"**No law**: {fit.why}."]
    slope, constant = fit.law.slope, fit.law.constant
    formula = f"{slope.estimate:.4f} ln N {'+' if constant.estimate >= 0 else '-'} {abs(constant.estimate):.4f}"
    intervals = f"ln N [{slope.low:.3f}, {slope.high:.3f}], constant [{constant.low:.3f}, {constant.high:.3f}]"
    head = f"**η = exp({formula})**; 95 %: {intervals}. MM1: -0.4214 ln N - 0.5535."
    if fit.seeds < VERDICT_SEEDS:
        has = "1 or does not say" if fit.seeds < 2 else fit.seeds
        says = f"No verdict: it takes {VERDICT_SEEDS} seeds per rate, and here a size has {has}"
    else:
        falls = "falls" if slope.high < 0 else "rises" if slope.low > 0 else "may fall or rise"
        within = "within" if slope.low <= PAPER_LAW.slope <= slope.high else "outside"
        says = f"The optimum {falls} with size; MM1's slope lies {within} the interval"
    resolved = sum(optimum.resolved for optimum in fit.optima)
    says += f". The optima scatter around the law by a factor of {_exp(fit.law.scatter):.2f}; {resolved} of "
    says += f"{len(fit.optima)} have an interval within the rates that were tried."
    predicted = []
    for name, params in targets.items():
        log = fit.law.predict(params)
        rates = _with_range(_exp(log.estimate), _exp(log.low), _exp(log.high))
        predicted.append(f"- {sized(name, params)}: η = {rates}; by MM1's Eq. 1 {PAPER_LAW.rate(params):.3g}")
    return [head.replace("-", "−"), says, *(["\n".join(["Predicted:", "", *predicted])] if predicted else [])]
