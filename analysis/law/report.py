"""Writes the files of a learning-rate fit: points.csv, optima.csv, law.json, table.md and the figure."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.law.figure import draw_law, sized, under_one_name
from analysis.law.fit import VERDICT_SEEDS, Fit, fit_runs, is_vague, orders_of_magnitude, to_rates
from analysis.law.runs import Runs, search_runs
from analysis.output import Output
from analysis.statistics import UNKNOWN, Interval
from analysis.study import Study
from analysis.style import styled
from analysis.table import Table, to_latex, to_markdown
from mm1_lab.config import PAPER_LAW
from mm1_lab.files import load_json
from mm1_lab.results.schema import cannot_read

INTERVALS = "Intervals are 95 %; docs/learning-rate-law.md explains them."


def draw_search(study: Study, output: Output, targets: Mapping[str, float] | None = None) -> list[Fit]:
    """Fits and draws a search; returns the fits. `targets` are sizes to predict, with their parameters; by default
    those of the last fit."""
    if targets is None:
        targets = _last_targets(study.folder / "law.json")
    runs = search_runs(study)
    fits = fit_runs(runs)
    write_fits(output, runs, fits, targets)
    return fits


def _last_targets(path: Path) -> dict[str, float]:
    if not path.exists():
        return {}
    try:
        fits = load_json(path)["fits"]
        return {row["size"]: float(row["params"]) for fit in fits for row in fit["predictions"]}
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise cannot_read(path, error, "delete it and give this command again") from None


def write_fits(output: Output, runs: Runs, fits: Sequence[Fit], targets: Mapping[str, float]) -> None:
    """Writes all files of the fits, of which the first is the main one; `table.md` last and atomically."""
    output.text("points", "csv", runs.points.to_csv(index=False, float_format="%.9g", lineterminator="\n"))
    frames = [_optima(fit) for fit in fits]
    output.csv("optima", pd.concat(frames))
    output.json("law", {"source": runs.title, "fits": [_law_values(fit, targets) for fit in fits]})
    with styled(formulas=True):
        output.figure("figure", draw_law(runs, fits, targets))
    parts = [f"# Learning-rate law: {runs.title}", *runs.cautions]
    tables = [_optima_table(fit, frame) for fit, frame in zip(fits, frames, strict=True)]
    for fit, table in zip(fits, tables, strict=True):
        parts += [f"## {table.title}", *_law_text(fit, targets), to_markdown(replace(table, title="")).rstrip()]
    if output.latex:
        output.text("table", "tex", to_latex(*tables))
    output.text("table", "md", "\n\n".join([*parts, INTERVALS]) + "\n")


def _law_values(fit: Fit, targets: Mapping[str, float]) -> dict[str, Any]:
    """What law.json says about a fit."""
    law = fit.law
    terms = {"ln N": law.slope, "constant": law.constant} if law else {}
    predictions = []
    if law:
        for name, params in targets.items():
            rate, low, high = map(_number, _rates(law.predict(params)))
            mm1 = PAPER_LAW.rate(params)
            predictions.append({"size": name, "params": params, "value": rate, "low": low, "high": high, "mm1": mm1})
    return {
        "objective": fit.objective.column,
        "lower_is_better": fit.objective.lower_is_better,
        "n": law.degrees_of_freedom + 2 if law else 0,
        "seeds": fit.seeds,
        "coefficients": {name: _number(term.estimate) for name, term in terms.items()} or None,
        "intervals": {name: [_number(term.low), _number(term.high)] for name, term in terms.items()} or None,
        "why": fit.why or None,
        "degrees_of_freedom": law.degrees_of_freedom if law else None,
        "scatter": _number(law.scatter) if law else None,
        "predictions": predictions,
    }


def _number(value: float) -> float:
    return float(f"{value:.10g}")


def _rates(log_rate: Interval) -> list[float]:
    """A rate and its interval."""
    return to_rates([log_rate.estimate, log_rate.low, log_rate.high]).tolist()


def _optima(fit: Fit) -> pd.DataFrame:
    """The rows of optima.csv, one per size."""
    rows = []
    for optimum in fit.optima:
        cell = optimum.cell
        other = fit.without.get(cell.params)
        left_out, left_out_low, left_out_high = _rates(other.predict(cell.params) if other else UNKNOWN)
        rows.append(
            {
                "objective": fit.objective.column,
                "size": cell.name,
                "params": cell.params,
                "optimum": to_rates(optimum.log_rate),
                "low": to_rates(optimum.low),
                "high": to_rates(optimum.high),
                "grid_best": to_rates(optimum.grid_best),
                "in_law": int(bool(fit.law) and not optimum.needs),
                "left_out_prediction": left_out,
                "left_out_low": left_out_low,
                "left_out_high": left_out_high,
                "runs": len(cell.scores),
                "failed": int(cell.failed.sum()),
                "needs": optimum.needs,
            }
        )
    return pd.DataFrame(rows)


def _optima_table(fit: Fit, optima: pd.DataFrame) -> Table:
    rows = []
    for optimum, row in zip(fit.optima, optima.to_dict("records"), strict=True):
        left_out = _rate_text(row["left_out_prediction"], row["left_out_low"], row["left_out_high"])
        rows.append(
            {
                "size": sized(row["size"], row["params"]),
                "best η": _rate_text(row["optimum"], math.nan if optimum.needs else row["low"], row["high"]),
                "predicted without it": left_out,
                "best tried": "" if math.isnan(row["grid_best"]) else row["grid_best"],
                "not bracketed: needs": row["needs"].replace("-", "−"),
                "at a cliff, to try": optimum.finer.replace("-", "−"),
                "runs": row["runs"],
                "failed": row["failed"],
            }
        )
    table = pd.DataFrame(rows)
    if not any(optimum.finer for optimum in fit.optima):
        table = table.drop(columns="at a cliff, to try")
    return Table(f"By {fit.objective.column}", table, formats={"best tried": ".3g"})


def _rate_text(rate: float, low: float = math.nan, high: float = math.nan) -> str:
    """`6.55e−05`, with its interval in brackets, if there is one; empty if NaN."""
    interval = "" if math.isnan(low) else f" [{low:.3g}, {high:.3g}]"
    return "" if math.isnan(rate) else f"{rate:.3g}{interval}".replace("-", "−")


def _law_text(fit: Fit, targets: Mapping[str, float]) -> list[str]:
    """The law or why there is none, what it says about Eq. 1, and its predictions."""
    if fit.law is None:
        return [f"**No law**: {fit.why}."]
    slope, constant, scatter = fit.law.slope, fit.law.constant, math.exp(fit.law.scatter)
    head = (
        f"**η = exp({slope.estimate:.4f} ln N {constant.estimate:+.4f})**; 95 %: ln N [{slope.low:.3f}, "
        f"{slope.high:.3f}], constant [{constant.low:.3f}, {constant.high:.3f}]. MM1: -0.4214 ln N -0.5535."
    )
    head = head.replace("-", "−").replace("N −", "N − ").replace("N +", "N + ")
    lines = [head, f"{_finding(fit, slope)}. The optima scatter around the law by a factor of {scatter:.2f}."]
    if fit.through:
        lines.append(f"The law is through {fit.through}.")
    if at_cliff := [optimum.cell.name for optimum in fit.optima if optimum.gap and not optimum.needs]:
        lines.append(
            f"At a cliff: {', '.join(at_cliff)}. Their best η is the last rate before it, so the law errs to lower "
            "rates; its intervals hold all laws through rates up to the cliffs."
        )
    lines.append(_slopes_without_one(fit))
    for name, params in under_one_name(targets).items():
        predicted = fit.law.predict(params)
        rate = _rate_text(*_rates(predicted))
        if is_vague(predicted):
            rate += f", which spans {orders_of_magnitude(predicted):.0f} orders of magnitude and **predicts nothing**"
        lines.append(f"- {sized(name, params)}: η = {rate}; by MM1's Eq. 1 {_rate_text(PAPER_LAW.rate(params))}")
    return lines


def _finding(fit: Fit, slope: Interval) -> str:
    """What the slope says about Eq. 1, if there are enough seeds for a verdict."""
    if fit.seeds < VERDICT_SEEDS:
        has = "1 or does not say" if fit.seeds < 2 else fit.seeds
        return f"No verdict: it takes {VERDICT_SEEDS} seeds per rate, and here a size has {has}"
    falls = "may fall or rise"
    if slope.high < 0:
        falls = "falls"
    elif slope.low > 0:
        falls = "rises"
    within = "within" if slope.low <= PAPER_LAW.slope <= slope.high else "outside"
    return f"The optimum {falls} with size; MM1's slope lies {within} the interval"


def _slopes_without_one(fit: Fit) -> str:
    """The least and the greatest slope of the laws that leave out a size."""
    used = [optimum.cell for optimum in fit.optima if not optimum.needs]
    used.sort(key=lambda cell: fit.without[cell.params].slope.estimate)
    told = []
    for cell in (used[0], used[-1]):
        slope = fit.without[cell.params].slope
        interval = f" [{slope.low:.3f}, {slope.high:.3f}]" if slope else ""
        told.append(f"{slope.estimate:.3f}{interval}".replace("-", "−") + f" without {sized(cell.name, cell.params)}")
    return f"Through all sizes but one, the slope is between {' and '.join(told)}."
