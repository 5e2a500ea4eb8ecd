"""`mm1-lab check-scale`: the gates of a scale, measured on the base's encoder and decoder (trained if missing)."""

from __future__ import annotations

import csv
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mm1_lab.config import PretrainedModel, RequestError, Stage
from mm1_lab.files import locked, write_csv, write_text
from mm1_lab.formatting import counted, duration, text_table
from mm1_lab.orchestrate.execution.executor import Executor
from mm1_lab.orchestrate.planning.estimate import rows_at_a_time
from mm1_lab.orchestrate.planning.plan import Plan, find_missing, make_tasks
from mm1_lab.orchestrate.planning.request import Request
from mm1_lab.orchestrate.sweeping import work_through
from mm1_lab.results import variant_name

if TYPE_CHECKING:
    from mm1_lab.evaluate.gates import GateRow

GATES = ("words", "probe", "lower", "leaks", "prompts")
"""The decoder on scenes in words, linear probes of the encoder, also at a lower resolution, leaks, prompt lengths."""
OTHERS = "the gates need parts trained from scratch, but this scale's base has pre-trained weights: check smoke or mini"
OF_SEEDS = ("probe", "lower", "words")
"""The gates that are measured at each seed; the others are about the data."""
ORDER = ("prompts", *OF_SEEDS, "leaks")
"""The gates as they stand in files."""
SETUP = "setup"
"""The column of `gates.csv` with what a row was measured of: the fingerprint of the base at seed 0."""
HEADING = ("gate", "seed", "what", "value", "95 % interval", "needed", "verdict")
Part = TypeVar("Part", bound=Stage)


def measure_gates(
    request: Request,
    gates: Sequence[str],
    samples: int,
    executor: Executor,
    caution: Callable[[Sequence[int]], str] = lambda seeds: "",
) -> list[GateRow]:
    """Measures the gates and prints progress; returns what was measured.

    Writes it to `check_scale/gates.csv` and `.md`, with what earlier checks measured of the same scale and data.
    `request` holds the base arm only; `caution` is a note on seeds. Raises RequestError if an encoder or decoder cannot
    be trained, or for a damaged file of an earlier check.
    """
    scale, ledger = request.scale, request.ledger
    trials = [trial.evaluation for trial in request.trials]
    base, lowest = request.sweep.base.resolution, min(scale.resolutions)
    if base == "native":
        raise RequestError(OTHERS)
    setup = request.resolve("base", request.sweep.base, 0).fingerprint
    table = _folder(request) / "gates.csv"
    _read(table, setup)  # a damaged file is reported before anything is measured
    encoders = [(_own(trial.model.encoder), base) for trial in trials if "probe" in gates]
    if "lower" in gates and lowest < base:
        recipe = request.sweep.base.model_copy(update={"resolution": lowest})
        lower = [request.resolve("base", recipe, trial.seed).evaluation for trial in request.trials]
        encoders += [(_own(trial.model.encoder), lowest) for trial in lower]
    decoders = [(trial, _own(trial.model.decoder)) for trial in trials if "words" in gates]
    data = request.open_data()
    if decoders:
        from mm1_lab.evaluate.gates import check_told

        check_told(trials[0], data.tokenizer)
    _compute([*(encoder for encoder, _ in encoders), *(decoder for _, decoder in decoders)], request, executor)

    from mm1_lab.evaluate import gates as measures

    rows: list[GateRow] = []

    def measure(name: str, measured: Iterable[GateRow]) -> None:
        """`measured` is a generator: iterating over it does the work."""
        started = time.monotonic()
        print(f"{name} …", end=" ", flush=True)
        rows.extend(measured)
        print(duration(time.monotonic() - started), flush=True)

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
    with locked(ledger.results / ".lock"):  # other gates may have been measured at the same time
        _write(request, merge(_read(table, setup), rows), setup, caution)
    return rows


def _own(part: Part | PretrainedModel) -> Part:
    """The part itself. Raises RequestError for one with pre-trained weights."""
    if isinstance(part, PretrainedModel):
        raise RequestError(OTHERS)
    return part


def _compute(stages: Sequence[Stage], request: Request, executor: Executor) -> None:
    """Trains the stages that neither the store nor the shipped parts have, and what they start from."""
    seeds, ledger = {trial.seed: trial for trial in request.trials}, request.ledger
    lacking = (stage for stage in stages if not ledger.has_intact_weights(stage.fingerprint))
    plan = Plan((), tasks=make_tasks(find_missing(((stage, seeds[stage.seed]) for stage in lacking), ledger)))
    if not plan.tasks:
        return
    kinds = Counter(stage.KIND for task in plan.tasks.values() for stage in task.stages)
    print(f"trained first: {', '.join(counted(count, kind) for kind, count in kinds.items())}", flush=True)
    with executor:
        result = work_through(plan, request, executor, rows_at_a_time(plan, request))
    for key, outcome in result.failed.items():
        log = ledger.failure_file(key, "log")
        raise RequestError(f"{plan.tasks[key].label} {outcome.kind}: {outcome.reason} ({log})")


def _folder(request: Request) -> Path:
    """The folder of the gates, next to those of the scale's sweeps."""
    return request.folder.with_name(variant_name("check_scale", request.overrides, request.data_name))


def _read(path: Path, setup: str) -> list[GateRow]:
    """What earlier checks measured of the same setup; rows of another one, or that do not name theirs, are left out."""
    from mm1_lab.evaluate.gates import GateRow

    if not path.exists():
        return []

    def bound(cell: str) -> float | None:
        return float(cell) if cell else None

    def row(cells: Mapping[str, str]) -> GateRow:
        seed = int(cells["seed"]) if cells["seed"] else None
        value, low, high = float(cells["value"]), bound(cells["low"]), bound(cells["high"])
        verdict: Any = cells["verdict"]
        return GateRow(cells["gate"], seed, cells["what"], value, low, high, cells["needed"], verdict)

    try:
        with path.open(encoding="utf-8", newline="") as file:
            return [row(cells) for cells in csv.DictReader(file) if cells.get(SETUP) == setup]
    except (OSError, ValueError, TypeError, KeyError, csv.Error) as error:
        raise RequestError(f"{path}: cannot be read ({error}); delete it and check again") from None


def merge(former: Iterable[GateRow], new: Sequence[GateRow]) -> list[GateRow]:
    """The rows of all checks, in the order of files. A new row takes the place of one of the same gate, seed and
    measurement; of a gate about the data, of all its rows."""
    done = {key for row in new for key in _keys(row)}
    rows = [*(row for row in former if not done & set(_keys(row))), *new]
    return sorted(rows, key=lambda row: (ORDER.index(_gate(row)), -1 if row.seed is None else row.seed))


def _keys(row: GateRow) -> tuple[object, ...]:
    return ((row.gate, row.seed, row.what),) if _gate(row) in OF_SEEDS else (row.gate,)


def _gate(row: GateRow) -> str:
    """The gate of `GATES` that a row is of."""
    names = {"told in words": "words", "no leaks": "leaks", "prompts fit": "prompts"}
    return names.get(row.gate) or ("lower" if row.verdict == "reported" else "probe")


def not_measured(rows: Iterable[GateRow], seeds: Iterable[int], gates: Sequence[str] = GATES) -> list[str]:
    """The `gates` without a row, and the seeds at which another one has none: `lower`, `words at seed 3`."""
    known, every = {(_gate(row), row.seed) for row in rows}, sorted(set(seeds))
    found = []
    for gate in gates:
        lacking = [seed for seed in every if (gate, seed) not in known] if gate in OF_SEEDS else []
        if gate not in {name for name, _ in known}:
            found.append(gate)
        elif lacking:
            found.append(f"{gate} at seed{'s' * (len(lacking) > 1)} {', '.join(map(str, lacking))}")
    return found


def _write(request: Request, rows: Sequence[GateRow], setup: str, caution: Callable[[Sequence[int]], str]) -> None:
    from mm1_lab.evaluate.gates import GateRow, floor_kinds

    folder = _folder(request)
    columns = [*(field.name for field in fields(GateRow)), SETUP]
    write_csv(folder / "gates.csv", columns, ([*map(_plain, astuple(row)), setup] for row in rows))
    table = [HEADING, ["---"] * len(HEADING), *map(_cells, rows)]
    markdown = "\n".join("| " + " | ".join(line) + " |" for line in table)
    seeds = sorted({row.seed for row in rows if row.seed is not None} | {trial.seed for trial in request.trials})
    title = f"# Gates of {request.scale_name}, seeds {', '.join(map(str, seeds))}"
    kinds = floor_kinds(list(rows))
    notes = [f"Floor, no result at this scale: {', '.join(kinds)}." if kinds else "No kind of question is floor."]
    lower = request.sweep.base.resolution != min(request.scale.resolutions)
    gates = [gate for gate in GATES if gate != "lower" or lower]
    if missing := not_measured(rows, seeds, gates):
        notes.append(f"Not measured, by the names of `check-scale --only`: {'; '.join(missing)}.")
    write_text(folder / "gates.md", "\n\n".join(filter(None, [title, markdown, *notes, caution(seeds)])) + "\n")


def gates_text(rows: Sequence[GateRow]) -> str:
    return "\n".join(text_table(HEADING, map(_cells, rows)))


def _cells(row: GateRow) -> list[str]:
    interval = "" if row.low is None or row.high is None else f"{row.low:.1f}–{row.high:.1f}"
    value = f"{row.value:.0f}" if row.low is None else f"{row.value:.1f}"
    return [row.gate, "" if row.seed is None else str(row.seed), row.what, value, interval, row.needed, row.verdict]


def _plain(value: object) -> object:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else value
