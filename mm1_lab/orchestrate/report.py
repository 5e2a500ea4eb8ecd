"""Plans and states as text: what `mm1-lab plan` and `mm1-lab status` print."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from mm1_lab.config import Stage
from mm1_lab.data.types import Tokenizer
from mm1_lab.orchestrate.cost import disk_bytes, measured_speeds, memory_bytes
from mm1_lab.orchestrate.display import duration
from mm1_lab.orchestrate.feasible import same_network
from mm1_lab.orchestrate.plan import Plan, PlannedStage
from mm1_lab.orchestrate.request import Request
from mm1_lab.results import Ledger, TrialRow
from mm1_lab.results.summary import encoder_quality

STATES = {"done": "reused", "run": "to run", "wait": "waits", "not needed": "not needed"}


def plan_text(plan: Plan, requests: Sequence[Request], tokenizer: Tokenizer | None, slots: int) -> str:
    """Trials and stages, what runs and why, and what it costs; several requests share scale, data and folders.

    A stage that they share stands there once. With a tokenizer, parameters are counted exactly.
    """
    first = requests[0]
    speeds = measured_speeds(first.ledger)
    trials = [
        (request.variant, trial.arm, trial.seed, trial.fingerprint, _trial_state(plan, trial.fingerprint))
        for request in requests
        for trial in request.trials
    ]
    missing = [planned for planned in plan.stages.values() if planned.state in ("run", "wait")]
    known = list(_known_stages(first.ledger)) if missing else []
    counts = _counts([planned.stage for planned in missing], tokenizer)
    rows, seconds = [], 0.0
    for planned in sorted(plan.stages.values(), key=lambda planned: planned.stage.KIND):
        stage = planned.stage
        row: list[object] = [stage.KIND, planned.fingerprint, stage.seed, STATES[planned.state]]
        if planned.state in ("run", "wait"):
            expected = speeds.seconds(stage)
            seconds = seconds + expected if expected is not None else float("nan")
            count = counts.get(planned.fingerprint, stage.parameters().total)
            row += [_why(planned, known), _short(count), _short(stage.positions()), _short(stage.flops())]
            row += [_bytes(memory_bytes(stage)), duration(expected) if expected is not None else "unknown"]
        else:
            row += [_with_quality(planned, first.ledger), "", "", "", "", ""]
        rows.append(row)
    heading = ("stage", "fingerprint", "seed", "state", "why", "parameters", "tokens", "FLOPs", "memory", "time")
    title = ", ".join(request.variant for request in requests)
    lines = [f"{title} at {first.scale_name}: {len(trials)} trials, {len(missing)} stages to run", ""]
    columns = ("sweep", "arm", "seed", "fingerprint", "state")
    start = 0 if len(requests) > 1 else 1
    lines += [*table(columns[start:], (row[start:] for row in trials)), "", *table(heading, rows), ""]
    if missing:
        total = sum(planned.stage.flops() for planned in missing)
        disk = sum(disk_bytes(planned.stage) for planned in missing)
        time = "time unknown (some kind of stage was never measured here)"
        if not math.isnan(seconds):
            time = f"about {duration(seconds / slots)} with {slots} at a time"
        lines += [
            f"In all {_short(total)} FLOPs, {_bytes(disk)} of weights, {time}.",
            "FLOPs are 6 (evaluation: 2) · parameters without embeddings · tokens, roughly; tokens of an encoder are",
            "image patches; memory is weights, gradients and Adam's moments, without activations.",
        ]
    else:
        lines.append("Nothing to run.")
    return "\n".join(lines)


def _trial_state(plan: Plan, fingerprint: str) -> str:
    return "done" if plan.trial_state(fingerprint) == "done" else "to run"


def _with_quality(planned: PlannedStage, ledger: Ledger) -> str:
    """Why a stage does not run; of a finished encoder also how good it is by itself."""
    if not ledger.has_weights(planned.fingerprint):
        return planned.why
    quality = encoder_quality(ledger.summary(planned.fingerprint))
    return ", ".join([planned.why, *(f"{name} {value:.2f}" for name, value in quality.items())])


def status_text(rows: Iterable[TrialRow], title: str, ledger: Ledger) -> str:
    """A line a trial: done, missing, or failed and why; and what failed upstream of them."""
    lines, counts = [], {"done": 0, "missing": 0, "failed": 0}
    for row in rows:
        failure = ledger.failure(row.fingerprint)
        state = "done" if ledger.has_scores(row.fingerprint) else "failed" if failure else "missing"
        counts[state] += 1
        why = f"{failure['reason']} ({failure['attempts']} attempts; {failure['log'] or 'no log'})" if failure else ""
        lines.append((row.arm, row.seed, row.fingerprint, state, why if state == "failed" else ""))
    summary = ", ".join(f"{count} {state}" for state, count in counts.items())
    return "\n".join([f"{title}: {summary}", *table(("arm", "seed", "fingerprint", "state", "why"), lines)])


def upstream_failures(ledger: Ledger, trials: Iterable[TrialRow]) -> list[str]:
    """Failures of shared stages, on which trials wait."""
    own = {row.fingerprint for row in trials}
    texts = []
    for path in sorted((ledger.results / "failures").glob("*.json")):
        failure = ledger.failure(path.stem)
        if path.stem not in own and failure:
            texts.append(f"failed: {failure['stage']}: {failure['reason']} ({failure['log'] or 'no log'})")
    return texts


def table(heading: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Lines of a table with columns as wide as they need."""
    cells = [[str(cell) for cell in row] for row in (heading, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(heading))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]


def _counts(stages: Iterable[Stage], tokenizer: Tokenizer | None) -> dict[str, int]:
    """Parameters by fingerprint, embeddings included, counted on the meta device: no memory, whatever the size.

    Of an evaluation those of its model.
    """
    if tokenizer is None:
        return {}
    import torch

    from mm1_lab.train.stages import KINDS

    counts: dict[str, int] = {}
    by_fingerprint: dict[str, int] = {}
    for stage in stages:
        network = next(needed for needed in stage.chain() if needed.TRAINS)
        same = same_network(network)
        if same not in counts:
            with torch.device("meta"):
                model = KINDS[type(network)].build(network, tokenizer)
            counts[same] = sum(parameter.numel() for parameter in model.parameters())
        by_fingerprint[stage.fingerprint] = counts[same]
    return by_fingerprint


def _known_stages(ledger: Ledger) -> Iterator[dict[str, Any]]:
    """Flat configurations of the stages that are in the store."""
    for path in ledger.store.glob("*/stage.json"):
        if ledger.has_weights(path.parent.name):
            try:
                values = json.loads(path.read_text(encoding="utf-8"))
                yield {"kind": values["kind"], "version": values["version"]} | dict(_flat(values["stage"]))
            except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
                continue  # it is told when the stage is loaded; here only a remark goes without it


def _why(planned: PlannedStage, known: Sequence[dict[str, Any]]) -> str:
    """`new`, with what changed where a finished stage differs in one or two settings only."""
    if planned.why != "new":
        return planned.why
    stage = planned.stage
    own = {"kind": stage.KIND, "version": stage.VERSION} | dict(_flat(stage.model_dump(mode="json")))
    for other in known:
        if other["kind"] != stage.KIND or other["seed"] != stage.seed:
            continue
        changed = sorted(name for name in own.keys() | other.keys() if own.get(name) != other.get(name))
        if 1 <= len(changed) <= 2:
            return "new: " + ", ".join(f"{name} {other.get(name)} → {own.get(name)}" for name in changed)
    return planned.why


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _short(value: float) -> str:
    """`1.2M`."""
    for unit, size in (("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("K", 1e3)):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def _bytes(value: float) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f} B"
