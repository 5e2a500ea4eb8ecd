"""`mm1-lab check-scale`: the gates of a scale, on the base's encoder and decoder, which are computed if need be."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mm1_lab.config import DecoderStage, EncoderStage, EvaluationStage, RequestError, Stage
from mm1_lab.files import write_csv, write_text
from mm1_lab.orchestrate.display import duration
from mm1_lab.orchestrate.executor import Executor
from mm1_lab.orchestrate.plan import Plan, Task
from mm1_lab.orchestrate.report import table
from mm1_lab.orchestrate.request import Request
from mm1_lab.orchestrate.sweeping import work_through
from mm1_lab.results import variant_name

if TYPE_CHECKING:
    from mm1_lab.evaluate.gates import GateRow

GATES = ("words", "probe", "lower", "leaks", "prompts")
"""Told in words, linear probe, the same at a lower resolution, leaks, length of prompts."""
SAMPLES = 100_000
"""Searched for leaks; `make soak` searches a million, and parses texts too."""
OTHERS = "the gates are for parts that are trained here; this scale's base has others' weights: check smoke or mini"
COLUMNS = ("gate", "seed", "what", "value", "low", "high", "needed", "verdict")


@dataclass(frozen=True)
class Scale:
    """What the gates look at: for each seed, a trial of the base and its encoder at a lower resolution."""

    request: Request
    gates: Collection[str]

    @property
    def trials(self) -> list[EvaluationStage]:
        return [trial.evaluation for trial in self.request.trials]

    @property
    def base(self) -> int:
        """The base's resolution, in the paper's pixels."""
        resolution = self.request.sweep.base.resolution
        if resolution == "native":
            raise RequestError(OTHERS)
        return resolution

    @property
    def lower(self) -> int | None:
        """The scale's lowest resolution, in the paper's pixels, if the base's is higher."""
        lowest = min(self.request.scale.resolutions)
        return lowest if lowest < self.base else None

    def lower_encoders(self) -> list[EncoderStage]:
        if self.lower is None or "lower" not in self.gates:
            return []
        request = self.request
        recipe = request.sweep.base.model_copy(update={"resolution": self.lower})
        trials = (request.resolve("base", recipe, trial.seed) for trial in request.trials)
        return [_encoder(trial.evaluation) for trial in trials]

    def parts(self) -> list[Stage]:
        """The encoders and decoders that the gates need."""
        parts: list[Stage] = list(self.lower_encoders())
        for trial in self.trials:
            parts += [_encoder(trial)] * ("probe" in self.gates) + [_decoder(trial)] * ("words" in self.gates)
        return parts


def _encoder(trial: EvaluationStage) -> EncoderStage:
    if not isinstance(trial.model.encoder, EncoderStage):
        raise RequestError(OTHERS)
    return trial.model.encoder


def _decoder(trial: EvaluationStage) -> DecoderStage:
    if not isinstance(trial.model.decoder, DecoderStage):
        raise RequestError(OTHERS)
    return trial.model.decoder


def measure_gates(request: Request, gates: Sequence[str], samples: int, executor: Executor) -> list[GateRow]:
    """Measures; writes `check_scale/gates.csv` and `.md` if all gates were asked for. Prints as it goes.

    `request` is for the base alone. Raises RequestError if an encoder or decoder cannot be computed.
    """
    scale = Scale(request, gates)
    _compute(scale.parts(), request, executor)
    rows: list[GateRow] = []
    for name, measured in _measures(scale, samples):
        started = time.monotonic()
        print(f"{name} …", end=" ", flush=True)
        rows += measured
        print(duration(time.monotonic() - started), flush=True)
    if set(gates) == set(GATES):
        write_gates(request, rows)
    return rows


def _measures(scale: Scale, samples: int) -> Iterator[tuple[str, Iterator[GateRow]]]:
    """What is measured, named for people; nothing is done before rows are asked for."""
    from mm1_lab.data import open_data
    from mm1_lab.evaluate import gates
    from mm1_lab.orchestrate.request import data_cache

    request, trials = scale.request, scale.trials
    ledger = request.ledger
    data = open_data(None, data_cache(ledger), request.scale)
    if "prompts" in scale.gates:
        yield "length of prompts", gates.prompts_fit(trials[0], data)
    probed = [(_encoder(trial), scale.base) for trial in trials if "probe" in scale.gates]
    probed += [(encoder, scale.lower) for encoder in scale.lower_encoders() if scale.lower]
    for encoder, resolution in probed:
        folder = ledger.weights(encoder.fingerprint)
        rows = gates.probes(encoder, folder, resolution, gate=resolution == scale.base)
        yield f"linear probe at {resolution}, seed {encoder.seed}", rows
    for trial in trials if "words" in scale.gates else ():
        folder = ledger.weights(_decoder(trial).fingerprint)
        yield f"told in words, seed {trial.seed}", gates.text_gate(trial, folder, data)
    if "leaks" in scale.gates:
        longest = max(phase.sequence_length for phase in request.scale.decoder.phases)
        seeds = [trial.seed for trial in trials]
        rows = gates.no_leaks(request.scale.evaluate, seeds, samples, longest)
        yield f"leaks in {samples:,} samples", rows


def _compute(stages: Sequence[Stage], request: Request, executor: Executor) -> None:
    """Trains what neither the store nor the shipped parts have."""
    ledger = request.ledger
    missing = {s.fingerprint: s for s in stages if not ledger.has_intact_weights(s.fingerprint)}
    if not missing:
        return
    seeds = {trial.seed: trial for trial in request.trials}
    plan = Plan((), {}, {key: Task(key, (stage,), (), (seeds[stage.seed],)) for key, stage in missing.items()})
    print(f"{len(plan.tasks)} encoders and decoders are computed first", flush=True)
    with executor:
        result = work_through(plan, request, executor)
    for key, outcome in result.failed.items():
        log = ledger.failure_file(key, "log")
        raise RequestError(f"{plan.tasks[key].label} {outcome.kind}: {outcome.reason} ({log})")


def write_gates(request: Request, rows: Sequence[GateRow]) -> Path:
    """Returns the folder, beside those of the scale's sweeps."""
    from mm1_lab.evaluate.gates import floor_kinds

    name = variant_name("check_scale", request.overrides, request.data_name)
    folder = request.ledger.results / request.scale_name / name
    cells = [[_plain(getattr(row, column)) for column in COLUMNS] for row in rows]
    write_csv(folder / "gates.csv", COLUMNS, cells)
    head, *lines = _cells(rows)
    body = [head, ["---"] * len(head), *lines]
    markdown = "\n".join("| " + " | ".join(line) + " |" for line in body)
    seeds = ", ".join(str(trial.seed) for trial in request.trials)
    title = f"# Gates of {request.scale_name}, seeds {seeds}"
    write_text(folder / "gates.md", "\n\n".join([title, markdown, floor_line(floor_kinds(list(rows)))]) + "\n")
    return folder


def gates_text(rows: Sequence[GateRow]) -> str:
    head, *lines = _cells(rows)
    return "\n".join(table(head, lines))


def floor_line(kinds: Sequence[str]) -> str:
    """What the rows come to."""
    return f"Floor, no result at this scale: {', '.join(kinds)}." if kinds else "No kind of question is floor."


def _cells(rows: Sequence[GateRow]) -> list[list[str]]:
    lines = [["gate", "seed", "what", "value", "95 % interval", "needed", "verdict"]]
    for row in rows:
        interval = "" if row.low is None or row.high is None else f"{row.low:.1f}–{row.high:.1f}"
        value = f"{row.value:.0f}" if row.low is None else f"{row.value:.1f}"
        seed = "" if row.seed is None else str(row.seed)
        lines.append([row.gate, seed, row.what, value, interval, row.needed, row.verdict])
    return lines


def _plain(value: object) -> object:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else value
