"""`mm1-lab check-scale`: the gates of a scale, measured on the base's encoder and decoder (trained if missing)."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import astuple, fields
from typing import TYPE_CHECKING, TypeVar

from mm1_lab.config import PretrainedModel, RequestError, Stage
from mm1_lab.files import write_csv, write_text
from mm1_lab.formatting import duration, text_table
from mm1_lab.orchestrate.execution.executor import Executor
from mm1_lab.orchestrate.planning.plan import Plan, Task
from mm1_lab.orchestrate.planning.request import Request
from mm1_lab.orchestrate.sweeping import work_through
from mm1_lab.results import variant_name

if TYPE_CHECKING:
    from mm1_lab.evaluate.gates import GateRow

GATES = ("words", "probe", "lower", "leaks", "prompts")
"""The decoder on scenes in words, linear probes of the encoder, also at a lower resolution, leaks, prompt lengths."""
OTHERS = "the gates need parts trained from scratch, but this scale's base has pre-trained weights: check smoke or mini"
HEADING = ("gate", "seed", "what", "value", "95 % interval", "needed", "verdict")
Part = TypeVar("Part", bound=Stage)


def measure_gates(request: Request, gates: Sequence[str], samples: int, executor: Executor) -> list[GateRow]:
    """Measures the gates and prints progress; writes `check_scale/gates.csv` and `.md` if all gates are requested.

    `request` holds the base arm only. Raises RequestError if an encoder or decoder cannot be trained.
    """
    scale, ledger = request.scale, request.ledger
    trials = [trial.evaluation for trial in request.trials]
    base, lowest = request.sweep.base.resolution, min(scale.resolutions)
    if base == "native":
        raise RequestError(OTHERS)
    encoders = [(_own(trial.model.encoder), base) for trial in trials if "probe" in gates]
    if "lower" in gates and lowest < base:
        recipe = request.sweep.base.model_copy(update={"resolution": lowest})
        lower = [request.resolve("base", recipe, trial.seed).evaluation for trial in request.trials]
        encoders += [(_own(trial.model.encoder), lowest) for trial in lower]
    decoders = [(trial, _own(trial.model.decoder)) for trial in trials if "words" in gates]
    _compute([*(encoder for encoder, _ in encoders), *(decoder for _, decoder in decoders)], request, executor)

    from mm1_lab.evaluate import gates as measures

    rows: list[GateRow] = []

    def measure(name: str, measured: Iterable[GateRow]) -> None:
        """`measured` is a generator: iterating over it does the work."""
        started = time.monotonic()
        print(f"{name} …", end=" ", flush=True)
        rows.extend(measured)
        print(duration(time.monotonic() - started), flush=True)

    data = request.open_data()
    if "prompts" in gates:
        measure("length of prompts", measures.prompts_fit(trials[0], data))
    for encoder, resolution in encoders:
        probes = measures.probes(encoder, ledger.weights(encoder.fingerprint), resolution, gate=resolution == base)
        measure(f"linear probe at {resolution}, seed {encoder.seed}", probes)
    for trial, decoder in decoders:
        told = measures.text_gate(trial, ledger.weights(decoder.fingerprint), data)
        measure(f"told in words, seed {trial.seed}", told)
    if "leaks" in gates:
        longest = max(phase.sequence_length for phase in scale.decoder.phases)
        leaks = measures.no_leaks(scale.evaluate, [trial.seed for trial in trials], samples, longest)
        measure(f"leaks in {samples:,} samples", leaks)
    if set(gates) == set(GATES):
        _write(request, rows)
    return rows


def _own(part: Part | PretrainedModel) -> Part:
    """The part itself. Raises RequestError for one with pre-trained weights."""
    if isinstance(part, PretrainedModel):
        raise RequestError(OTHERS)
    return part


def _compute(stages: Sequence[Stage], request: Request, executor: Executor) -> None:
    """Trains the stages that neither the store nor the shipped parts have."""
    ledger = request.ledger
    missing = {s.fingerprint: s for s in stages if not ledger.has_intact_weights(s.fingerprint)}
    if not missing:
        return
    seeds = {trial.seed: trial for trial in request.trials}
    plan = Plan((), {}, {key: Task(key, (stage,), (), (seeds[stage.seed],)) for key, stage in missing.items()})
    print(f"{len(plan.tasks)} encoders and decoders are trained first", flush=True)
    with executor:
        result = work_through(plan, request, executor)
    for key, outcome in result.failed.items():
        log = ledger.failure_file(key, "log")
        raise RequestError(f"{plan.tasks[key].label} {outcome.kind}: {outcome.reason} ({log})")


def _write(request: Request, rows: Sequence[GateRow]) -> None:
    """Writes the gates to a folder next to those of the scale's sweeps."""
    from mm1_lab.evaluate.gates import GateRow, floor_kinds

    folder = request.folder.with_name(variant_name("check_scale", request.overrides, request.data_name))
    columns = [field.name for field in fields(GateRow)]
    write_csv(folder / "gates.csv", columns, (map(_plain, astuple(row)) for row in rows))
    table = [HEADING, ["---"] * len(HEADING), *map(_cells, rows)]
    markdown = "\n".join("| " + " | ".join(line) + " |" for line in table)
    title = f"# Gates of {request.scale_name}, seeds {', '.join(str(trial.seed) for trial in request.trials)}"
    kinds = floor_kinds(list(rows))
    floor = f"Floor, no result at this scale: {', '.join(kinds)}." if kinds else "No kind of question is floor."
    write_text(folder / "gates.md", "\n\n".join([title, markdown, floor]) + "\n")


def gates_text(rows: Sequence[GateRow]) -> str:
    return "\n".join(text_table(HEADING, map(_cells, rows)))


def _cells(row: GateRow) -> list[str]:
    interval = "" if row.low is None or row.high is None else f"{row.low:.1f}–{row.high:.1f}"
    value = f"{row.value:.0f}" if row.low is None else f"{row.value:.1f}"
    return [row.gate, "" if row.seed is None else str(row.seed), row.what, value, interval, row.needed, row.verdict]


def _plain(value: object) -> object:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else value
