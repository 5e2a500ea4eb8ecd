"""Writes the files of a learning-rate fit: points.csv, optima.csv, law.json, table.md and the figure."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.law.lr_law import VERDICT_SEEDS, Fit, Law, Target, agreement, fit_all
from analysis.law.lr_law_figure import draw_law, sized
from analysis.law.lr_points import Measurements
from analysis.law.search_results import SearchResults
from analysis.statistics import UNKNOWN, Interval
from analysis.table import Table, to_markdown, write_csv
from mm1_lab.config import PAPER_LAW, RequestError, parse_count
from mm1_lab.files import write_json, write_text
from mm1_lab.results.reading import read_variant

MOST_ROWS = 40
"""Limit of cells in the Markdown table; optima.csv has all of them."""
LARGEST = 700.0
"""|ln η| beyond which exp would overflow or underflow a float."""


def parse_targets(text: str | None, measurements: Measurements) -> list[Target]:
    """Parses `--predict` (`30B,7B`, with training tokens `30B:600B`); by default MM1's 30B if tokens are not given.

    Raises RequestError.
    """
    if text is None:
        return [Target("30B", parse_count("30B"))] if measurements.points["tokens"].isna().all() else []
    targets = []
    for part in text.split(","):
        size, _, tokens = part.strip().partition(":")
        try:
            targets.append(Target(part.strip(), parse_count(size), parse_count(tokens) if tokens else None))
        except ValueError as error:
            raise RequestError(f"--predict {text}: {error}") from None
    return targets


def draw_search(
    folder: Path, targets: Sequence[Target] | None = None, keep_unbracketed: bool = False, out: Path | None = None
) -> list[Path]:
    """Fits and draws a search's folder (`RESULTS/SCALE/lr_law`) into it, or into `out`; returns the files written.

    `targets` defaults to those of the last fit. Raises RequestError if there are no results.
    """
    results = SearchResults(read_variant(folder))
    chosen = _last_targets(folder) if targets is None else targets
    average, loss = fit_all(results.measurements, chosen, keep_unbracketed)
    # the main fit is by the average, as in the paper, if models use their images at every size
    in_front = results.sees and (average.law or not loss.law)
    fits = [average, loss] if in_front else [loss, average]
    measurements = replace(results.measurements, notes=results.notes(fits[0].name), cautions=results.cautions)
    return write_fits(out or folder, measurements, fits)


def _last_targets(folder: Path) -> list[Target]:
    path = folder / "law.json"
    if not path.exists():
        return []
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        rows = [row for fit in values["fits"] for row in fit["predictions"]]
        return [Target(name, float(params)) for name, params in {row["size"]: row["params"] for row in rows}.items()]
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise RequestError(f"{path}: cannot be read ({error}); delete it and give this command again") from None


def write_fits(folder: Path, measurements: Measurements, fits: Sequence[Fit]) -> list[Path]:
    """Writes all files; `table.md` last and atomically."""
    folder.mkdir(parents=True, exist_ok=True)
    points, optima, law, table = (folder / name for name in ("points.csv", "optima.csv", "law.json", "table.md"))
    named = measurements.points.rename(columns={"name": "size"})
    write_text(points, named.to_csv(index=False, float_format="%.9g", lineterminator="\n"))
    write_csv(pd.concat([_optima(fit) for fit in fits]), optima)
    write_json(law, _law_values(measurements, fits))
    drawn = draw_law(measurements, fits, folder / "figure")
    write_text(table, _law_markdown(measurements, fits))
    return [points, optima, law, *drawn, table]


def _law_values(measurements: Measurements, fits: Sequence[Fit]) -> dict[str, Any]:
    """The contents of `law.json`: the law of the main objective, and every fit."""
    each = [_fit_values(fit) for fit in fits]
    shown = ("objective", "n", "coefficients", "intervals", "why")
    values = {"source": measurements.title, **{key: each[0][key] for key in shown}, "fits": each}
    if len(fits) > 1:
        gap = agreement(fits[0], fits[1])
        values["ratio_of_optima"] = gap and {"of": fits[0].name, "to": fits[1].name, **_rate(gap)}
    return values


def _fit_values(fit: Fit) -> dict[str, Any]:
    law = fit.law
    estimates = law.estimates() if law else {}
    return {
        "objective": fit.name,
        "lower_is_better": fit.objective.lower_is_better,
        "n": len(fit.used),
        "seeds": fit.seeds,
        "coefficients": {name: _number(e.estimate) for name, e in estimates.items()} or None,
        "intervals": {name: [_number(e.low), _number(e.high)] for name, e in estimates.items()} or None,
        "why": fit.why or None,
        "degrees_of_freedom": law and law.freedom,
        "r_squared": law and _number(law.r_squared),
        "scatter": law and _number(law.scatter),
        "resolved": fit.resolved,
        "cells": len(fit.optima),
        "left_out": {o.cell.name: o.needs for o in fit.optima if o.cell.name not in fit.used},
        "predictions": [
            {"size": target.name, "params": target.params, "tokens": target.tokens, **_rate(e),
             "mm1": PAPER_LAW.rate(target.params)}
            for target, e in fit.predictions
        ],
    }  # fmt: skip


def _rate(log: Interval) -> dict[str, float | None]:
    return {"value": _number(_exp(log.estimate)), "low": _number(_exp(log.low)), "high": _number(_exp(log.high))}


def _exp(log_rate: float) -> float:
    """exp, or NaN if the result is not a number or does not fit a float."""
    return math.exp(log_rate) if abs(log_rate) < LARGEST else math.nan


def _number(value: float) -> float | None:
    return float(f"{value:.10g}") if math.isfinite(value) else None


def _optima(fit: Fit) -> pd.DataFrame:
    """The rows of optima.csv, one per cell."""
    rows = []
    for o in fit.optima:
        without = fit.leave_one_out.get(o.cell.name, UNKNOWN)
        rows.append(
            {
                "objective": fit.name,
                "size": o.cell.name,
                "params": f"{o.cell.params:.9g}",
                "tokens": "" if o.cell.tokens is None else f"{o.cell.tokens:.9g}",
                "optimum": _exp(o.log_rate),
                "low": _exp(o.low),
                "high": _exp(o.high),
                "interval": o.basis,
                "grid_best": _exp(o.grid_best),
                "bracketed": int(o.bracketed),
                "resolved": int(o.resolved),
                "in_law": int(o.cell.name in fit.used),
                "residual": fit.used.get(o.cell.name, math.nan),
                "left_out_prediction": _exp(without.estimate),
                "left_out_low": _exp(without.low),
                "left_out_high": _exp(without.high),
                "rates": len(set(o.cell.log_rates)),
                "runs": len(o.cell.scores),
                "failed": o.cell.failed,
                "needs": o.needs,
            }
        )
    return pd.DataFrame(rows)


def _law_markdown(measurements: Measurements, fits: Sequence[Fit]) -> str:
    """The contents of table.md: the law or why there is none, how well it is determined, optima, predictions."""
    parts = [f"# Learning-rate law: {measurements.title}", *measurements.notes, *measurements.cautions]
    if len(fits) > 1:
        parts.append(_comparison(fits[0], fits[1]))
    for fit in fits:
        parts += [f"## By {fit.name}"] * (len(fits) > 1)
        if fit.law:
            predictions = [to_markdown(Table("", _prediction_rows(fit))).rstrip()] * bool(fit.predictions)
            parts += [_law_sentence(fit.law), *predictions, _determination(fit, fit.law)]
        else:
            parts.append(f"**No law**: {fit.why}.")
        parts.append(to_markdown(Table("", _optimum_rows(fit))).rstrip())
        if len(fit.optima) > MOST_ROWS:
            parts.append(f"{len(fit.optima) - MOST_ROWS} more cells are in optima.csv.")
        left_out = [o for o in fit.optima if fit.law and o.cell.name not in fit.used]
        if left_out:
            names = [f"{o.cell.name} (needs {o.needs})" if o.needs else o.cell.name for o in left_out]
            shown = "; ".join(names[:MOST_ROWS]) + ("; …" if len(names) > MOST_ROWS else "")
            parts.append(f"Left out of the law, {len(names)} unbracketed: {shown}.")
    parts.append(
        "Intervals are 95 %: of an optimum, the rates at which it is not sure whether the score still rises; of the "
        "law, t with as many degrees of freedom as there are optima beyond coefficients; both with what the choice of "
        "curve moves; of a prediction, for the optimum that a search at that size would find. "
        "docs/learning-rate-law.md explains them."
    )
    return "\n\n".join(parts) + "\n"


def _law_sentence(law: Law) -> str:
    estimates = law.estimates()
    terms = " ".join(
        f"{'+' if e.estimate >= 0 else '−'} {abs(e.estimate):.4f}{'' if name == 'constant' else f' {name}'}"
        for name, e in estimates.items()
    )
    formula = f"**η = exp({terms.removeprefix('+ ')})**".replace("exp(− ", "exp(−")
    intervals = ", ".join(
        f"{name} [{e.low:.3f}, {e.high:.3f}]".replace("-", "−") if law.freedom else f"{name} unknown"
        for name, e in estimates.items()
    )
    return f"{formula}; 95 %: {intervals}. MM1: −0.4214 ln N − 0.5535."


def _determination(fit: Fit, law: Law) -> str:
    slope = law.estimates()["ln N"]
    says = "The optimum falls with size" if slope.high < 0 else "The optimum rises with size" if slope.low > 0 else (
        "Whether the optimum falls or rises with size is not determined"
    )  # fmt: skip
    says += f"; MM1's slope lies {'within' if slope.low <= PAPER_LAW.slope <= slope.high else 'outside'} the interval"
    if not law.freedom:
        says = "How sure this is cannot be told: no residual is left"
    elif fit.seeds < VERDICT_SEEDS:
        has = "1 or does not say" if fit.seeds < 2 else fit.seeds
        says = f"No verdict: it takes {VERDICT_SEEDS} seeds per rate, and here a size has {has}"
    scatter = f", residuals of a factor of {math.exp(law.scatter):.2f}" if 0 < law.scatter < LARGEST else ""
    return (
        f"{says}. {len(law.optima)} optima, {law.freedom} degrees of freedom, R² {law.r_squared:.3f}{scatter}. "
        f"{fit.resolved} of {len(fit.optima)} optima have an interval within the rates that were tried."
    )


def _prediction_rows(fit: Fit) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "size": sized(target.name, target.params),
            "N": f"{target.params:.3g}",
            "η": f"{_exp(e.estimate):.3g}",
            "95 % prediction": _range(e.low, e.high),
            "MM1, Eq. 1": f"{PAPER_LAW.rate(target.params):.3g}",
        }
        for target, e in fit.predictions
    )


def _range(low: float, high: float) -> str | None:
    ends = _exp(low), _exp(high)
    return f"{ends[0]:.3g} – {ends[1]:.3g}" if all(map(math.isfinite, ends)) else None


def _optimum_rows(fit: Fit) -> pd.DataFrame:
    rows = []
    for o in fit.optima[:MOST_ROWS]:
        cell, prediction = o.cell, ""
        remarks = [] if o.bracketed else [f"not bracketed: needs {o.needs}"]
        remarks += [f"{cell.failed} failed"] if cell.failed else []
        remarks += ["interval: the rates beside the best"] if o.basis == "bracket" and o.bracketed else []
        if without := fit.leave_one_out.get(cell.name):
            interval = _range(without.low, without.high)
            prediction = f"{_exp(without.estimate):.3g}" + f" ({interval})" * bool(interval)
        rows.append(
            {
                "size": sized(cell.name, cell.params),
                "best η": f"{_exp(o.log_rate):.3g}" if o.bracketed else None,
                "95 %": _range(o.low, o.high) if o.bracketed else None,
                "best tried": f"{_exp(o.grid_best):.3g}" if math.isfinite(o.grid_best) else None,
                "× law": f"{_exp(fit.used[cell.name]):.2f}" if cell.name in fit.used else "",
                "predicted without it": prediction,
                "runs": len(cell.scores),
                "remarks": ", ".join(remarks),
            }
        )
    return pd.DataFrame(rows)


def _comparison(first: Fit, second: Fit) -> str:
    """A sentence on how many optima each objective resolves and how well the two agree."""
    resolved = "; ".join(f"{fit.name} resolves {fit.resolved} of {len(fit.optima)} optima" for fit in (first, second))
    gap = agreement(first, second)
    if gap is None:
        return f"{resolved}. No size is bracketed by both, so their agreement cannot be told."
    interval = _range(gap.low, gap.high)
    over = (
        f" (95 %: {interval}), over the sizes that both bracket" if interval else ", at the one size that both bracket"
    )
    return f"{resolved}. The optimum by {first.name} is {_exp(gap.estimate):.2f} × that by {second.name}{over}."
