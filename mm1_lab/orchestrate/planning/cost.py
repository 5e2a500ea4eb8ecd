"""What the missing stages of a plan cost: bytes and FLOPs of networks that are built on torch's meta device (without
memory), whether a GPU holds its share, the seconds that stages of their kind took before, and the disk."""

from __future__ import annotations

import json
import math
import shutil
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from mm1_lab.config import Cost, Hardware, Network, RequestError, Scale, Stage, canonical_json
from mm1_lab.config.cost import LOGIT_BYTES, keeps_whole_gradients, shard_group
from mm1_lab.files import SHIPPED, machine_cpus
from mm1_lab.formatting import counted, short
from mm1_lab.orchestrate.planning.plan import Plan
from mm1_lab.orchestrate.planning.request import Request
from mm1_lab.results import Ledger
from mm1_lab.results.packed import packed_records

if TYPE_CHECKING:
    from mm1_lab.data.types import Tokenizer

GPUS_OF_A_NODE = 8
USABLE = 0.9
"""Share of a GPU's memory that the estimate uses; the rest is for kernels, communication and fragmentation."""
NEWEST = 30
"""Measurements read per folder: enough for a median, and quick to read."""
ALIKE = 4.0
"""Stages are comparable if their FLOPs differ by at most this factor; a stage of `smoke`, which is mostly overhead,
says nothing about one of `mini`, which is thousands of times as large."""
FAR = 1e5
"""No estimate for a stage with more than this many times the FLOPs of any measured one: it needs other machines."""
LEAST = 3.0
"""Seconds that any stage takes to start, load and write, however small."""

Measured = dict[str, list[tuple[float, float]]]
"""FLOPs and seconds of finished stages, by kind of stage."""


@dataclass(frozen=True)
class GpuShare:
    """What one of a stage's GPUs computes and holds."""

    gpus: int
    """GPUs that train or evaluate the stage together: the scale's `workers`."""
    rows: int
    """Rows of the batch (for an encoder: images) that each computes at a time."""
    divided: bool
    """Whether these are fewer than its own, because more do not fit."""
    held: float
    """Bytes."""
    fits: bool


@dataclass(frozen=True)
class Estimate:
    """What a stage costs."""

    cost: Cost
    share: GpuShare | None = None
    """What each of its GPUs computes and holds; None if the scale names no hardware."""
    gpu_hours: float = 0.0
    refused: str = ""
    """Why `run` refuses the stage."""


def estimate_stages(plan: Plan, request: Request) -> dict[str, Estimate]:
    """The estimates of the missing stages, by fingerprint."""
    import torch

    from mm1_lab.model import connector_flops, count_parameters
    from mm1_lab.train.stages import KINDS

    scale, data, words = request.scale, request.data, request.open_data().tokenizer
    if data.kind == "world" and data.tokenizer == "world" and scale.hardware is not None:
        # without user data, a plan for GPUs assumes the vocabulary size that the user's tokenizer would have
        words = cast("Tokenizer", SimpleNamespace(size=scale.vocabulary, image=words.image))
    estimates: dict[str, Estimate] = {}
    networks: dict[str, Network] = {}
    for task in plan.tasks.values():
        for stage in task.stages:
            trained = next(needed for needed in stage.chain() if needed.TRAINS)
            same = same_network(trained)
            if same not in networks:
                with torch.device("meta"):
                    model = KINDS[type(trained)].build(trained, words)
                networks[same] = Network(count_parameters(model), connector_flops(model), words.size)
            estimates[stage.fingerprint] = _estimate(stage, stage.cost(networks[same], scale), scale)
    return estimates


def same_network(stage: Stage) -> str:
    """A key that is equal for stages that train the same network, whatever the data, seed and schedule."""
    left_out = dict.fromkeys(("seed", "data", "training", "shares"), True) | dict.fromkeys(stage.inputs, True)
    own = {"kind": stage.KIND, **stage.model_dump(mode="json", exclude=left_out)}
    return canonical_json(own | {name: same_network(needed) for name, needed in stage.inputs.items()})


def _estimate(stage: Stage, cost: Cost, scale: Scale) -> Estimate:
    hardware = scale.hardware
    if not hardware:
        return Estimate(cost)
    workers = stage.workers(scale)
    share = gpu_share(cost, workers, scale, hardware)
    hours = cost.flops / (hardware.peak * hardware.mfu) / 3600
    refused = ""
    if workers > hardware.count:
        refused = (
            f"{workers} `workers`, but hardware.count is {hardware.count}; name fewer in the scale, "
            f"or --set hardware.count={workers}"
        )
    elif not share.fits:
        remedies = "a smaller evaluate.batch_size (--set)"
        if stage.TRAINS:
            remedies = "more `workers`, a smaller batch, --set gradient_checkpointing=true"
        refused = (
            f"{short(cost.state, 'B')} of state and {share.rows} times {short(cost.activations, 'B')} of activations "
            f"take {short(share.held, 'B')} on each of {counted(workers, hardware.gpu)}, which has "
            f"{short(hardware.memory_bytes, 'B')} (a tenth stays free); use {remedies}, or a smaller model"
        )
    return Estimate(cost, share, hours, refused)


def gpu_share(cost: Cost, gpus: int, scale: Scale, hardware: Hardware) -> GpuShare:
    """The share of each of `gpus` GPUs.

    With `resources.micro_batch: 0` it computes as many rows at a time as fit: all of its own, or these halved until
    they fit.
    """
    memory = hardware.memory_bytes
    own = rows = math.ceil(cost.rows / gpus)
    if cost.divisible and scale.resources.micro_batch:
        rows = min(rows, scale.resources.micro_batch)
    elif cost.divisible:
        while rows > 1 and _held(cost, gpus, rows, rows < own, memory) > USABLE * memory:
            rows = math.ceil(rows / 2)
    divided = rows < own and not scale.resources.micro_batch
    held = _held(cost, gpus, rows, rows < own, memory)
    return GpuShare(gpus, rows, divided, held, held <= USABLE * memory)


def _held(cost: Cost, gpus: int, rows: int, adds_up: bool, memory: float) -> float:
    """Bytes on each GPU, which computes `rows` rows at a time; it `adds_up` the gradients of several times.

    Most are held at the end of the forward pass, with all activations and some logits, or near that of the backward
    pass, with all gradients and the activations of the first part, about half.
    """
    lasting, gradients, copies = cost.state - cost.gradients, cost.gradients, cost.copies
    if gpus > 1 and not cost.whole:
        shards = shard_group(gpus, GPUS_OF_A_NODE, cost.state, memory)
        lasting, gradients, copies = lasting / shards + cost.gathered, gradients / shards, 0.0
        if adds_up and keeps_whole_gradients(cost.parameters, memory):
            lasting += 4.0 * cost.parameters
    activations = rows * cost.activations
    forward = copies + activations + min(rows * cost.logits, LOGIT_BYTES)
    return lasting + max(forward, gradients + activations / 2)


def rows_at_a_time(plan: Plan, request: Request) -> dict[str, int]:
    """The rows that a GPU computes at a time, by fingerprint, of missing trainings whose batches it would not hold.

    Raises RequestError for stages that do not fit their GPUs.
    """
    if not request.scale.hardware:
        return {}
    rows = {}
    estimates = estimate_stages(plan, request)
    for task in plan.tasks.values():
        for stage in task.stages:
            estimate = estimates[stage.fingerprint]
            if estimate.refused:
                raise RequestError(f"{task.label}: {stage.KIND}: {estimate.refused}")
            if estimate.share and estimate.share.divided:
                rows[stage.fingerprint] = estimate.share.rows
    return rows


def machine_slots(scale: Scale) -> int:
    """The number of stages that fit on this machine's cores and GPUs at a time."""
    slots = machine_cpus() / scale.resources.cpus
    if scale.resources.gpus:
        import torch

        slots = min(slots, torch.cuda.device_count() / scale.resources.gpus)
    return max(1, int(slots))


def check_disk(stages: Collection[Stage], slots: int, store: Path) -> None:
    """Raises RequestError if the store's disk has too little room for these stages.

    The estimate is a lower bound: the weights of all stages, without embeddings, and the checkpoints of the `slots`
    largest stages in training. Each keeps up to two checkpoints of weights and Adam's two moments.
    """
    weights = sorted(4 * stage.parameters().total for stage in stages if stage.TRAINS)
    needed = sum(weights) + 6 * sum(weights[-slots:])
    place = next(folder for folder in (store, *store.parents) if folder.exists())
    free = shutil.disk_usage(place).free
    if needed > free:
        raise RequestError(
            f"{store}: the sweep needs {short(needed, 'B')} there and {short(free, 'B')} are free; free some space "
            "(mm1-lab gc --keep best --yes) or give another --store"
        )


@dataclass(frozen=True)
class Speeds:
    """How long finished stages took: those of this results folder, or else those of the shipped study."""

    own: Measured = field(default_factory=dict)
    shipped: Path | None = None
    """The folder that holds the study and the shipped parts."""

    def seconds(self, stage: Stage) -> float | None:
        """Expected seconds, or None if no stage of this kind was measured, or only far smaller ones.

        Uses the median seconds per FLOP of stages of this kind with similar FLOPs: of this results folder, or else of
        the study, which took two cores of a server. Without similar stages, the nearest of either is used.
        """
        flops = stage.flops()
        if flops <= 0:
            return 0.0
        every: list[tuple[float, float]] = []
        for measured in (self.own, _of_study(self.shipped) if self.shipped else {}):
            of_kind = measured.get(stage.KIND, [])
            rates = [seconds / known for known, seconds in of_kind if 1 / ALIKE <= known / flops <= ALIKE]
            if rates:
                return max(LEAST, median(rates) * flops)
            every += of_kind
        if not every:
            return None
        known, seconds = min(every, key=lambda one: abs(math.log(one[0] / flops)))
        if flops > FAR * known:
            return None
        return max(LEAST, seconds / known * flops)


def stage_seconds(stage: Stage, speeds: Speeds) -> float:
    """Expected seconds; assumes 10 billion FLOPs per second if stages of this kind were never measured."""
    seconds = speeds.seconds(stage)
    return stage.flops() / 1e10 if seconds is None else seconds


def measured_speeds(ledger: Ledger) -> Speeds:
    """The speeds of the most recent stages in the store and trials in the results folder."""
    stages = _newest(ledger.store.glob("*/timings.json"))
    trials = _newest(ledger.trials.glob("*/record.json"))
    return Speeds(_measured(_read(stages), _read(trials)), SHIPPED / "results")


@cache
def _of_study(folder: Path) -> Measured:
    return _measured(_read(folder.glob("parts/*/timings.json")), packed_records(folder / "study"))


def _measured(stages: Iterable[Any], trials: Iterable[Any]) -> Measured:
    """From the contents of `timings.json` of stages and of `record.json` of trials."""
    measured: Measured = defaultdict(list)
    for timings in (*stages, *(record["timings"] for record in trials if "timings" in record)):
        with suppress(ValueError, TypeError, KeyError, AttributeError):  # one of another shape
            for kind, timing in timings.items():
                flops, seconds = float(timing["flops"]), float(timing["seconds"])
                if flops > 0:
                    measured[kind].append((flops, seconds))
    return measured


def _read(paths: Iterable[Path]) -> Iterator[Any]:
    for path in paths:
        # damaged files are reported when results are read; an estimate does without them
        with suppress(OSError, ValueError, RecursionError):
            yield json.loads(path.read_text(encoding="utf-8"))


def _newest(paths: Iterable[Path]) -> list[Path]:
    dated = []
    for path in paths:
        with suppress(OSError):  # another command has just renamed or deleted its folder
            dated.append((path.stat().st_mtime, path))
    return [path for _, path in sorted(dated)[-NEWEST:]]
