"""`mm1-lab check-scale`: the gates of a scale, measured on the base's encoder and decoder (trained if missing)."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from mm1_lab.config import GATES, Check, PretrainedModel, RequestError, Stage, digest, read_checks, scale_of
from mm1_lab.files import locked
from mm1_lab.formatting import counted, duration
from mm1_lab.orchestrate.execution.executor import Executor
from mm1_lab.orchestrate.planning.plan import Plan, make_tasks
from mm1_lab.orchestrate.planning.request import Request
from mm1_lab.orchestrate.sweeping import check_runnable, work_through
from mm1_lab.results.manifest import gates_file

OTHERS = "the gates need parts trained from scratch, but this scale's base has pre-trained weights: check smoke or mini"
AnyStage = TypeVar("AnyStage", bound=Stage)


def measure_gates(
    request: Request,
    gates: Sequence[str],
    samples: int,
    executor: Executor,
    write: Callable[[Path, Sequence[Check], str], None],
) -> list[Check]:
    """Measures the gates and prints progress; returns what was measured.

    `write` gets it for `check_scale/gates.csv` and `.md`, gate by gate, with what earlier checks measured of the same
    setup: base, data, and the scale's resolutions and numbers of image tokens. `request` holds the base arm only.
    Raises RequestError if an encoder or decoder cannot be trained, or for a damaged file of an earlier check.
    """
    trials = [trial.evaluation for trial in request.trials]
    resolution = request.sweep.base.resolution
    if resolution == "native":
        raise RequestError(OTHERS)
    base, scale = request.resolve("base", request.sweep.base, 0), scale_of(request.sweep.base, request.scale)
    setup = f"{base.fingerprint}-{digest([scale.resolutions, scale.image_tokens], 6)}"
    table = gates_file(request.folder, request.manifest)
    read_checks(table, setup)  # a damaged file is reported before anything is measured
    encoders = [_from_scratch(trial.model.architecture.encoder) for trial in trials if "probe" in gates]
    decoders = [(trial, _from_scratch(trial.model.architecture.decoder)) for trial in trials if "words" in gates]
    data = request.open_data()

    from mm1_lab import team  # torch is slow
    from mm1_lab.evaluate import gates as measures

    team.allow_gpu(scale.resources.gpus > 0)
    if decoders:
        measures.check_words_fit(trials[0], data.tokenizer)
    _train([*encoders, *(decoder for _, decoder in decoders)], request, executor)
    checks: list[Check] = []

    def measure(name: str, measured: Iterable[Check]) -> None:
        """`measured` is a generator: iterating over it does the work."""
        started = time.monotonic()
        print(f"{name} …", end=" ", flush=True)
        checks.extend(measured)
        print(duration(time.monotonic() - started), flush=True)
        with locked(request.ledger.results / ".lock"):  # other gates may have been measured at the same time
            if known := merge(read_checks(table, setup), checks):
                write(table.parent, known, setup)

    weights = request.ledger.weights
    if "prompts" in gates:
        measure("length of prompts", measures.prompts_fit(trials, data))
    if "reader" in gates:
        measure("names read from pixels", measures.read_from_pixels(scale.resolutions))
    for encoder in encoders:
        probes = measures.probes(encoder, weights(encoder.fingerprint), resolution, scale.image_tokens.values())
        measure(f"linear probe, seed {encoder.seed}", probes)
    for trial, decoder in decoders:
        words = measures.text_gate(trial, weights(decoder.fingerprint), data)
        measure(f"told in words, seed {trial.seed}", words)
    if "leaks" in gates:
        longest = max(phase.sequence_length for phase in scale.decoder.phases)
        leaks = measures.no_leaks(scale.evaluate, [trial.seed for trial in trials], samples, longest)
        measure(f"leaks in {samples:,} samples", leaks)
    if not checks:
        raise RequestError(f"--only: {' and '.join(gates)} measure nothing at the resolutions of {request.scale_name}")
    return checks


def _from_scratch(part: AnyStage | PretrainedModel) -> AnyStage:
    """The part itself. Raises RequestError for one with pre-trained weights."""
    if isinstance(part, PretrainedModel):
        raise RequestError(OTHERS)
    return part


def _train(stages: Sequence[Stage], request: Request, executor: Executor) -> None:
    """Trains the stages that neither the store nor the shipped parts have, and what they start from."""
    seeds = {trial.seed: trial for trial in request.trials}
    ledger = request.ledger
    lacking = [stage for stage in stages if not ledger.has_intact_weights(stage.fingerprint)]
    plan = Plan((), tasks=make_tasks(((stage, seeds[stage.seed]) for stage in lacking), ledger))
    if not plan.tasks:
        return
    kinds = Counter(stage.KIND for task in plan.tasks.values() for stage in task.stages)
    print(f"trained first: {', '.join(counted(count, kind) for kind, count in kinds.items())}", flush=True)
    with executor:
        check_runnable(plan, request, executor)
        result = work_through(plan, request, executor)
    for key, outcome in result.failed.items():
        log = ledger.failure_file(key, "log")
        raise RequestError(f"{plan.tasks[key].label} {outcome.kind}: {outcome.reason} ({log})")


def merge(former: Iterable[Check], new: Sequence[Check]) -> list[Check]:
    """The checks of all gates, in the order of files: what was measured again takes the place of the former."""
    order = list(GATES.values())
    measured = {(check.check, check.seed) for check in new}
    # earlier versions had further gates
    kept = [check for check in former if check.check in order and (check.check, check.seed) not in measured]
    return sorted([*new, *kept], key=lambda check: (order.index(check.check), check.seed or 0))
