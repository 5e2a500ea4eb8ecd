"""What a learning-rate fit leaves in its folder: points.csv, optima.csv, law.json, table.md and the figure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from analysis.lr_fit import Fit, Target, agreement, fit_all
from analysis.lr_law import Estimate
from analysis.lr_law_figure import draw_law
from analysis.lr_points import Measurements
from analysis.optimum import Optimum
from mm1_lab.config import PAPER_LAW, RequestError, parse_count
from mm1_lab.results.files import write_csv, write_json, write_text

HOLE = "–"
MOST_ROWS = 40
"""Cells that the Markdown table lists; optima.csv has all of them."""

OPTIMA_COLUMNS = (
    "objective", "size", "params", "tokens", "optimum", "low", "high", "interval", "grid_best", "bracketed", "resolved",
    "in_law", "residual", "left_out_prediction", "left_out_low", "left_out_high", "rates", "runs", "failed", "needs",
)  # fmt: skip


def fit_points(
    measurements: Measurements, folder: Path, targets: Sequence[Target], keep_unbracketed: bool
) -> list[Path]:
    """Fits measurements and writes everything into `folder`. Raises RequestError."""
    return write_fits(folder, measurements, fit_all(measurements, targets, keep_unbracketed))


def parse_targets(text: str | None, measurements: Measurements) -> list[Target]:
    """`30B,7B` or, with training tokens, `30B:600B`; by default MM1's 30B where tokens play no part.

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


def write_fits(folder: Path, measurements: Measurements, fits: Sequence[Fit]) -> list[Path]:
    """Writes everything; `table.md` last, in one step."""
    folder.mkdir(parents=True, exist_ok=True)
    points = folder / "points.csv"
    named = measurements.points.rename(columns={"name": "size"})
    named.to_csv(points, index=False, float_format="%.9g", lineterminator="\n")
    optima = folder / "optima.csv"
    write_csv(optima, OPTIMA_COLUMNS, (row for fit in fits for row in _optimum_rows(fit)))
    law = folder / "law.json"
    write_json(law, law_values(measurements, fits))
    drawn = draw_law(measurements, fits, folder / "figure")
    table = folder / "table.md"
    write_text(table, law_markdown(measurements, fits))
    return [points, optima, law, *drawn, table]


def law_values(measurements: Measurements, fits: Sequence[Fit]) -> dict[str, Any]:
    """What `law.json` holds: the law of the objective in front, and every fit."""
    front = _fit_values(fits[0])
    shown = ("objective", "n", "coefficients", "intervals", "why")
    values = {"source": measurements.title, **{key: front[key] for key in shown}}
    values["fits"] = [_fit_values(fit) for fit in fits]
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
        "n": len(law.optima) if law else 0,
        "coefficients": {name: _number(e.value) for name, e in estimates.items()} if law else None,
        "intervals": {name: [_number(e.low), _number(e.high)] for name, e in estimates.items()} if law else None,
        "why": fit.why or None,
        "degrees_of_freedom": law.freedom if law else None,
        "r_squared": _number(law.r_squared) if law else None,
        "scatter": _number(law.scatter) if law else None,
        "resolved": len(fit.resolved),
        "cells": len(fit.optima),
        "left_out": {optimum.cell.name: optimum.needs for optimum in fit.left_out},
        "predictions": [
            {"size": target.name, "params": target.params, "tokens": target.tokens, **_rate(e),
             "mm1": _number(math.exp(PAPER_LAW.slope * math.log(target.params) + PAPER_LAW.constant))}
            for target, e in fit.predictions
        ],
    }  # fmt: skip


def _rate(log: Estimate) -> dict[str, float | None]:
    return {"value": _number(math.exp(log.value)), "low": _exp(log.low), "high": _exp(log.high)}


def _exp(value: float) -> float | None:
    """None for what is no number, or none that a float can hold."""
    return _number(math.exp(value)) if abs(value) < 700 else None  # also where it is NaN


def _number(value: float) -> float | None:
    return float(f"{value:.10g}") if math.isfinite(value) else None


def _optimum_rows(fit: Fit) -> Iterable[tuple[object, ...]]:
    residuals = dict(zip(map(id, fit.law.optima), fit.law.residuals, strict=True)) if fit.law else {}
    for o in fit.optima:
        left_out = fit.leave_one_out.get(o.cell.params) if id(o) in residuals else None
        rates = [_exp(value) if math.isfinite(value) else None for value in (o.log_rate, o.low, o.high)]
        yield (
            fit.name, o.cell.name, f"{o.cell.params:.9g}", "" if o.cell.tokens is None else f"{o.cell.tokens:.9g}",
            *map(_csv, rates), o.basis, _csv(_exp(o.grid_best) if math.isfinite(o.grid_best) else None),
            int(o.bracketed), int(o.resolved), int(id(o) in residuals), _csv(residuals.get(id(o))),
            *(_csv(_exp(value)) for value in _ends(left_out)),
            len(set(o.cell.log_rates)), len(o.cell.scores), o.cell.failed, o.needs,
        )  # fmt: skip


def _ends(estimate: Estimate | None) -> tuple[float, ...]:
    return (estimate.value, estimate.low, estimate.high) if estimate else (math.nan,) * 3


def _csv(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def law_markdown(measurements: Measurements, fits: Sequence[Fit]) -> str:
    """For people: the law or why there is none, how well it is determined, optima, predictions."""
    parts = [f"# Learning-rate law: {measurements.title}", *measurements.notes]
    if len(fits) > 1:
        parts.append(_comparison(fits[0], fits[1]))
    for fit in fits:
        heading = f"## By {fit.name}" if len(fits) > 1 else ""
        parts += [part for part in (heading, *_fit_parts(fit)) if part]
    parts.append(
        "Intervals are 95 %: of an optimum, the rates at which the slope of the curve through its runs does not differ "
        "from 0 (Fieller), and other questions where there are several seeds; of the law, t with as many degrees of "
        "freedom as there are optima beyond coefficients; of a prediction, for the true optimum of that size."
    )
    return "\n\n".join(parts) + "\n"


def _fit_parts(fit: Fit) -> list[str]:
    parts = [_law_sentence(fit)]
    if fit.predictions:
        parts.append(_table(["size", "N", "η", "95 % prediction", "MM1, Eq. 1"], map(_prediction_row, fit.predictions)))
    if fit.law:
        parts.append(_determination(fit))
    residuals = dict(zip(map(id, fit.law.optima), fit.law.residuals, strict=True)) if fit.law else {}
    rows = [_optimum_row(fit, optimum, residuals.get(id(optimum))) for optimum in fit.optima[:MOST_ROWS]]
    parts.append(_table(["size", "best η", "95 %", "best tried", "× law", "predicted without it", "runs", ""], rows))
    if len(fit.optima) > MOST_ROWS:
        parts.append(f"{len(fit.optima) - MOST_ROWS} more cells are in optima.csv.")
    unused = [f"{o.cell.name} (needs {o.needs})" if o.needs else o.cell.name for o in fit.left_out]
    if fit.law and unused:
        shown = "; ".join(unused[:MOST_ROWS]) + ("; …" if len(unused) > MOST_ROWS else "")
        parts.append(f"Left out of the law, {len(unused)} unbracketed: {shown}.")
    return parts


def _law_sentence(fit: Fit) -> str:
    if fit.law is None:
        return f"**No law**: {fit.why}."
    terms = " ".join(
        f"{'+' if e.value >= 0 else '−'} {abs(e.value):.4f}{'' if name == 'constant' else f' {name}'}"
        for name, e in fit.law.estimates().items()
    )
    intervals = ", ".join(f"{name} {_interval(e)}" for name, e in fit.law.estimates().items())
    law = f"**η = exp({terms.removeprefix('+ ')})**".replace("exp(− ", "exp(−")
    return f"{law}; 95 %: {intervals}. MM1: −0.4214 ln N − 0.5535."


def _interval(estimate: Estimate) -> str:
    return f"[{estimate.low:.3f}, {estimate.high:.3f}]".replace("-", "−") if math.isfinite(estimate.low) else "unknown"


def _determination(fit: Fit) -> str:
    law = fit.law
    assert law is not None
    slope = law.estimates()["ln N"]
    says = "The optimum falls with size" if slope.high < 0 else "The optimum rises with size" if slope.low > 0 else (
        "Whether the optimum falls or rises with size is not determined"
    )  # fmt: skip
    if not math.isfinite(slope.low):
        says = "How sure this is cannot be told: no residual is left"
    same = slope.low <= PAPER_LAW.slope <= slope.high
    beside = "; MM1's slope lies within the interval" if same else "; MM1's slope lies outside the interval"
    scatter = f"; optima scatter around the law by a factor of {math.exp(law.scatter):.2f}" if law.scatter else ""
    return (
        f"{says}{beside if math.isfinite(slope.low) else ''}. {len(law.optima)} optima, {law.freedom} degrees of "
        f"freedom, R² {law.r_squared:.3f}{scatter}. {len(fit.resolved)} of {len(fit.optima)} optima have an interval "
        "within the rates that were tried."
    )


def _prediction_row(prediction: tuple[Target, Estimate]) -> list[str]:
    target, e = prediction
    size = target.name
    return [
        size,
        f"{target.params:.3g}",
        f"{math.exp(e.value):.3g}",
        _range(e.low, e.high),
        f"{PAPER_LAW.rate(target.params):.3g}",
    ]


def _range(low: float, high: float) -> str:
    low_rate, high_rate = _exp(low) if math.isfinite(low) else None, _exp(high) if math.isfinite(high) else None
    return HOLE if low_rate is None or high_rate is None else f"{low_rate:.3g} – {high_rate:.3g}"


def _optimum_row(fit: Fit, o: Optimum, residual: float | None) -> list[str]:
    left_out = fit.leave_one_out.get(o.cell.params) if residual is not None else None
    found = math.isfinite(o.log_rate)
    remarks = [] if o.bracketed else [f"not bracketed: needs {o.needs}"]
    remarks += [f"{o.cell.failed} failed"] if o.cell.failed else []
    remarks += ["interval: the rates beside the best"] if o.basis == "bracket" and o.bracketed else []
    without = f"{math.exp(left_out.value):.3g} ({_range(left_out.low, left_out.high)})" if left_out else ""
    return [
        o.cell.name,
        f"{math.exp(o.log_rate):.3g}" if found and o.bracketed else HOLE,
        _range(o.low, o.high) if found and o.bracketed else HOLE,
        f"{math.exp(o.grid_best):.3g}" if found else HOLE,
        "" if residual is None else f"{math.exp(residual):.2f}",
        without.replace(f" ({HOLE})", ""),
        str(len(o.cell.scores)),
        ", ".join(remarks),
    ]


def _comparison(first: Fit, second: Fit) -> str:
    """Which objective resolves the optimum, and how well the two agree."""

    def resolving(fit: Fit) -> str:
        factors = sorted(math.exp(o.high - o.low) for o in fit.resolved)
        width = (
            f", the intervals' ends apart by a factor of {factors[len(factors) // 2]:.2g} (median)" if factors else ""
        )
        return f"{fit.name} resolves {len(fit.resolved)} of {len(fit.optima)} optima{width}"

    ranked = sorted((first, second), key=_vagueness)
    better = (
        "neither objective resolves an optimum" if not ranked[0].resolved else f"{ranked[0].name} resolves it better"
    )
    gap = agreement(first, second)
    if gap is None:
        agree = "No size is bracketed by both, so their agreement cannot be told"
    else:
        interval = _range(gap.low, gap.high)
        agree = f"The optimum by {first.name} is {math.exp(gap.value):.2f} × that by {second.name}" + (
            f" (95 %: {interval}), over the sizes that both bracket"
            if interval != HOLE
            else ", at the one size that both bracket"
        )
    return f"{resolving(first)}; {resolving(second)}: {better}. {agree}."


def _vagueness(fit: Fit) -> tuple[int, float]:
    widths = [o.high - o.low for o in fit.resolved]
    return -len(widths), sum(widths) / max(len(widths), 1)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
