"""What the missing stages of a plan cost: bytes and FLOPs of networks on torch's meta device (without memory), whether
a GPU holds its share, the seconds that stages of their kind took before, and the disk."""

import math
import shutil
import sys
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

from mm1_lab.config import (
    Cost,
    Hardware,
    ModelStage,
    Network,
    RequestError,
    Scale,
    Stage,
    Trial,
    canonical_json,
)
from mm1_lab.config.cost import LOGIT_BYTES, keeps_whole_gradients, shard_group
from mm1_lab.files import load_json
from mm1_lab.formatting import command_line, counted, short
from mm1_lab.machine import free_memory, machine_cpus
from mm1_lab.orchestrate.planning.plan import Fitted, Plan
from mm1_lab.orchestrate.planning.request import Request
from mm1_lab.results import Ledger

if TYPE_CHECKING:
    from mm1_lab.data.types import Tokenizer

GPUS_OF_A_NODE = 8
USABLE = 0.9
"""Share of a GPU's memory that the estimate uses; the rest is for kernels, communication and fragmentation."""
RECOMPUTED = 4 / 3
"""Operations of a training that computes its forward pass twice, if all parts are trained."""
SPEEDS = {
    "encoder": (1e-5, 3.5e10),
    "decoder": (4e-5, 4e10),
    "multimodal": (8e-5, 4e10),
    "alignment": (7e-5, 4.7e10),
    "sft": (8e-5, 4e10),
    "evaluation": (1e-5, 2e11),
}
"""Seconds per position (data, embeddings, logits) and FLOPs per second at `mini` on one core of a server, fitted to
trials and decoders from 9M to 2.9B and to one encoder, for tuning those of pre-training; FLOPs alone are ten times
wrong for the smallest decoders."""
NEWEST = 30
"""Measurements read per folder: enough for a median, and quick to read."""
SHORTEST = 10.0
"""Seconds that a stage takes, and at `SPEEDS` would take, at least; less, as at `smoke`, is mostly overhead."""
STARTING_SECONDS = 3.0
"""Seconds that any stage takes to start, load and write, however small."""
STAGE_BYTES, RAY_BYTES = 1.1e9, 0.5e9
"""Memory of a process that runs stages at `mini`, whose libraries take most of it, and of Ray's own processes."""


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
    recomputes: bool = False
    """Whether it computes activations again in the backward pass."""
    shards: int = 1
    """GPUs that divide a model in an evaluation, and answer the same questions."""


@dataclass(frozen=True)
class Estimate:
    """What a stage costs."""

    cost: Cost
    seconds: float
    """On the scale's hardware, or if it names none, on this machine."""
    share: GpuShare | None = None
    """What each of its GPUs computes and holds; None if the scale names no hardware."""
    refused: str = ""
    """Why `run` refuses the stage."""


NETWORKS: dict[tuple[str, int, bool], Network] = {}
"""What this process has built, by `network_key`, vocabulary and whether it was asked what connectors save."""


class Networks:
    """What stages train, built on the meta device; each network once."""

    def __init__(self, request: Request) -> None:
        self.scale = request.scale
        self.tokenizer = request.open_data().tokenizer
        if request.data.tokenizer == "world" and request.scale.hardware:
            # without user data, a plan for GPUs assumes the vocabulary size that the user's tokenizer would have;
            # nothing else of a tokenizer shapes a network
            self.tokenizer = cast(
                "Tokenizer", SimpleNamespace(size=request.scale.vocabulary, image=self.tokenizer.image)
            )

    def of(self, stage: Stage) -> Network:
        import torch

        from mm1_lab.model import add_adapters, connector_activations, connector_flops, count_parameters
        from mm1_lab.train.stages import KINDS

        trained = trained_stage(stage)
        key = network_key(trained), self.tokenizer.size, bool(self.scale.hardware)
        if key not in NETWORKS:
            with torch.device("meta"):
                model = KINDS[type(trained)].build(trained, self.tokenizer)
            saved = connector_activations(model, trained.precision) if self.scale.hardware else 0.0
            counts, flops = count_parameters(model), connector_flops(model)
            adapters = add_adapters(model, trained) if isinstance(trained, ModelStage) else {}
            NETWORKS[key] = Network(counts, flops, self.tokenizer.size, saved, adapters)
        return NETWORKS[key]


def estimate_stages(plan: Plan, request: Request, networks: Networks | None = None) -> dict[str, Estimate]:
    """The estimates of the missing stages, by fingerprint."""
    scale = request.scale
    networks = networks or Networks(request)
    slowness = measured_slowness(request.ledger)
    estimates = {}
    for _, stage in plan.missing:
        network = networks.of(stage)
        if scale.hardware:
            whole = _estimate_on(scale.hardware, stage, network, scale)
        else:
            whole = Estimate(stage.cost(network, scale), stage_seconds(stage, slowness))
        cost = replace(whole.cost, flops=whole.cost.flops * plan.share(stage))
        estimates[stage.fingerprint] = replace(whole, cost=cost, seconds=whole.seconds * plan.share(stage))
    return estimates


def training_flops(trials: Iterable[Trial], networks: Networks) -> dict[str, float]:
    """FLOPs of all that each arm trains at its first seed, stages that are done included, by arm."""
    first: dict[str, Trial] = {}
    for trial in trials:
        first.setdefault(trial.arm, trial)
    known: dict[str, float] = {}
    totals = {}
    for arm, trial in first.items():
        stages = {stage.fingerprint: stage for stage in trial.evaluation.chain() if stage.TRAINS}
        for name, stage in stages.items():
            if name not in known:
                known[name] = stage.cost(networks.of(stage), networks.scale).flops
        totals[arm] = sum(known[name] for name in stages)
    return totals


def trained_stage(stage: Stage) -> Stage:
    """The stage itself, or of an evaluation the one that trains its model."""
    return next(needed for needed in stage.chain() if needed.TRAINS)


def network_key(stage: Stage) -> str:
    """A key that is equal for stages that train the same network, whatever the data, seed and schedule."""
    values = stage.model_dump(mode="json", exclude={"seed", "data", "training", "shares", "replay", *stage.inputs})
    for name, needed in stage.inputs.items():
        values[name] = network_key(needed)
    return canonical_json({"kind": stage.KIND, **values})


def _estimate_on(hardware: Hardware, stage: Stage, network: Network, scale: Scale) -> Estimate:
    workers = stage.workers(scale)
    cost, share = _checkpointed(hardware, stage, network, scale)
    flops = cost.flops * (RECOMPUTED if share.recomputes else 1)
    times = share.shards if share.fits else 1  # a batch that does fit may need no shards
    seconds = flops * times / (hardware.peak(stage.precision) * hardware.mfu) / workers
    refused = ""
    if workers > hardware.count:
        refused = (
            f"{workers} `workers`, but hardware.count is {hardware.count}; name fewer in the scale, "
            f"or --set hardware.count={workers}"
        )
    elif not share.fits:
        usable = USABLE * _memory(scale, hardware)
        remedies = "more `workers`"
        if not stage.TRAINS:
            batch = "a smaller evaluate.batch_size (--set)"
            helps = cost.state - cost.layers + cost.activations < usable  # to divide the layers further
            remedies = f"{remedies}, {batch}" if helps else batch
        if share.rows > 1 and cost.divisible:
            remedies += ", a smaller resources.micro_batch"
        if cost.divisible and not share.recomputes:
            remedies += ", --set resources.gradient_checkpointing=auto"
        divided = f" ({share.shards} divide its layers)" if share.shards > 1 else ""
        refused = (
            f"{short(cost.state, 'B')} of state and {share.rows} times {short(cost.activations, 'B')} of activations "
            f"take {short(share.held, 'B')} on each of {counted(workers, hardware.gpu)}{divided}, of which it may use "
            f"{short(usable, 'B')}; use {remedies}, or a smaller model"
        )
    return Estimate(cost, seconds, share, refused)


def _checkpointed(hardware: Hardware, stage: Stage, network: Network, scale: Scale) -> tuple[Cost, GpuShare]:
    """The stage with or without activation checkpointing, as the scale says; of `auto`, with it if less than half of a
    GPU's rows fit without, and more with it: two micro-batches cost 4 to 7 % (benchmarks/GPU.md), a second forward pass
    a third."""

    def computed(recomputes: bool) -> tuple[Cost, GpuShare]:
        resources = scale.resources.model_copy(update={"gradient_checkpointing": recomputes})
        cost = stage.cost(network, scale.model_copy(update={"resources": resources}))
        share = gpu_share if stage.TRAINS else evaluation_share
        return cost, replace(share(cost, stage.workers(scale), scale, hardware), recomputes=recomputes)

    asked = scale.resources.gradient_checkpointing
    cost, stored = computed(False)
    if asked is False or not cost.divisible:
        return cost, stored
    if asked is True:
        return computed(True)
    if stored.fits and (not stored.divided or 2 * stored.rows * stored.gpus >= cost.rows):
        return cost, stored
    again = computed(True)
    return (cost, stored) if stored.fits and stored.rows >= again[1].rows else again


def gpu_share(cost: Cost, gpus: int, scale: Scale, hardware: Hardware) -> GpuShare:
    """The share of each of `gpus` GPUs. With `resources.micro_batch: 0` it computes as many rows at a time as fit: all
    of its own, or these halved until they fit."""
    memory = _memory(scale, hardware)
    own = rows = math.ceil(cost.rows / gpus)

    def held(rows: int) -> float:
        """Bytes on each GPU, which adds up the gradients of several times if `rows` are fewer than its own.

        Most are held at the end of the forward pass, with all activations and some logits (and, of several, with the
        gradients so far), or late in the backward pass, with all gradients and the activations of the first part.
        """
        lasting = cost.state - cost.gradients
        gradients = cost.gradients
        copies = cost.copies
        if gpus > 1:
            shards = shard_group(gpus, GPUS_OF_A_NODE, cost.state, memory)
            lasting = lasting / shards + cost.gathered
            gradients /= shards
            copies = 0.0
        added_up = gradients if rows < own else 0.0
        if gpus > 1 and rows < own and keeps_whole_gradients(cost.parameters, memory):
            lasting += 4.0 * cost.parameters
            added_up = 0.0  # shards of them come with the last part's backward pass
        activations = rows * cost.activations
        logits = min(rows * cost.logits, LOGIT_BYTES)
        # seven tenths of them before their gradients, for which the copies are gone
        forward = added_up + activations + max(copies + 0.7 * logits, logits)
        return lasting + max(forward, gradients + rows * cost.late)

    if cost.divisible and scale.resources.micro_batch:
        rows = min(rows, scale.resources.micro_batch)
    elif cost.divisible:
        while rows > 1 and held(rows) > USABLE * memory:
            rows = math.ceil(rows / 2)
    divided = rows < own and not scale.resources.micro_batch
    return GpuShare(gpus, rows, divided, held(rows), held(rows) <= USABLE * memory)


def evaluation_share(cost: Cost, gpus: int, scale: Scale, hardware: Hardware) -> GpuShare:
    """The share of each of `gpus` GPUs that evaluate a model: all of it, or with its layers divided by as few GPUs of a
    node, or whole nodes, as hold it, unless `resources.evaluation_shards` says by how many."""
    usable = USABLE * _memory(scale, hardware)

    def held(shards: int) -> float:
        whole = cost.state + cost.activations
        return whole if shards == 1 else whole + cost.gathered + cost.layers / shards - cost.layers

    def spans_nodes(shards: int) -> bool:
        """Whether some groups of so many lie on parts of two nodes, between which layers are gathered slowly."""
        return gpus > GPUS_OF_A_NODE and bool(GPUS_OF_A_NODE % shards and shards % GPUS_OF_A_NODE)

    asked = scale.resources.evaluation_shards
    divisors = sorted((number for number in range(1, gpus + 1) if gpus % number == 0), key=spans_nodes)
    numbers = [asked] if asked and gpus > 1 else divisors
    shards = next((number for number in numbers if held(number) <= usable), max(numbers))
    return GpuShare(gpus, 1, False, held(shards), held(shards) <= usable, shards=shards)


def _memory(scale: Scale, hardware: Hardware) -> float:
    """Bytes of a GPU that a stage may use: several stages share it if `resources.gpus` is below 1."""
    return hardware.memory_bytes * (scale.resources.gpus or 1.0)


def fitted_resources(plan: Plan, request: Request) -> Fitted:
    """Fields of the resources of missing stages, by fingerprint, with which these fit the scale's hardware: the rows
    that a GPU computes at a time, and whether it computes activations again; by how many a model is divided.

    Raises RequestError for stages that do not fit their GPUs.
    """
    if not request.scale.hardware:
        return {}
    fitted = {}
    estimates = estimate_stages(plan, request)
    for task, stage in plan.missing:
        estimate = estimates[stage.fingerprint]
        if estimate.refused:
            raise RequestError(f"{task.label}: {stage.name}: {estimate.refused}")
        share = estimate.share
        assert share
        if not stage.TRAINS:
            fitted[stage.fingerprint] = {"evaluation_shards": share.shards}
        else:
            fields = {"micro_batch": share.rows} if share.divided else {}
            fitted[stage.fingerprint] = {"gradient_checkpointing": share.recomputes, **fields}
    return fitted


def machine_slots(scale: Scale, settings: Collection[str] = ()) -> int:
    """The number of stages that run at a time on this machine: what fits its cores and GPUs, and its free memory."""
    return max(1, min(core_slots(scale), memory_slots(scale, settings)))


def core_slots(scale: Scale) -> int:
    """The number of stages that fit this machine's cores and GPUs."""
    slots = machine_cpus() / scale.resources.cpus
    if scale.resources.gpus:
        import torch

        slots = min(slots, torch.cuda.device_count() / scale.resources.gpus)
    return int(slots)


def memory_slots(scale: Scale, settings: Collection[str] = ()) -> int:
    """The number of stages that the free memory holds, by what they take at `mini`; at least what the scale's `workers`
    need. No limit for stages on GPUs, nor if one of the `settings` (`--set`) is of `resources.cpus`."""
    named = {setting.partition("=")[0].strip() for setting in settings}
    if scale.resources.gpus or not named.isdisjoint(("resources", "resources.cpus")):
        return sys.maxsize
    return max(1, *scale.workers.values(), int(min((free_memory() - RAY_BYTES) / STAGE_BYTES, 1e6)))


def check_disk(plan: Plan, store: Path) -> None:
    """Raises RequestError if the store's disk has too little room for the plan's missing stages.

    A lower bound: the weights of all, without embeddings, and of the largest the two checkpoints while it trains, of
    weights and Adam's two moments.
    """
    weights = [4 * stage.parameters().total for _, stage in plan.missing if stage.TRAINS]
    needed = sum(weights) + 6 * max(weights, default=0)
    place = next(folder for folder in (store, *store.parents) if folder.exists())
    free = shutil.disk_usage(place).free
    if needed > free:
        raise RequestError(
            f"{store}: the sweep needs {short(needed, 'B')} there and {short(free, 'B')} are free; free some space "
            f"({command_line('gc', '--yes', store=store)}) or give another --store"
        )


def usual_seconds(kind: str, positions: float, flops: float) -> float:
    """Seconds that this work takes at `SPEEDS`."""
    per_position, speed = SPEEDS.get(kind, (0.0, 1e10))
    return positions * per_position + flops / speed


def stage_seconds(stage: Stage, slowness: Mapping[str, float]) -> float:
    """Expected seconds on this machine's processors; `slowness` by kind of stage is 1 at `SPEEDS`."""
    flops = stage.flops()
    usual = usual_seconds(stage.name, stage.positions(), flops)
    usual *= slowness.get(stage.name, slowness.get(stage.KIND, 1.0))
    return max(STARTING_SECONDS, usual) if flops > 0 else 0.0


def measured_slowness(ledger: Ledger) -> dict[str, float]:
    """Seconds over those at `SPEEDS` by kind: the median of the newest stages and trials of the ledger."""
    found = defaultdict(list)
    for folder, name in ((ledger.store, "timings.json"), (ledger.trials, "record.json")):
        for path in sorted(folder.glob(f"*/{name}"), key=_date)[-NEWEST:]:
            # damaged files are reported when results are read; an estimate does without them
            with suppress(OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
                values = load_json(path)
                for kind, timing in (values["timings"] if name == "record.json" else values).items():
                    usual = usual_seconds(kind, timing["positions"], timing["flops"])
                    if min(timing["seconds"], usual) >= SHORTEST:
                        found[kind].append(timing["seconds"] / usual)
    return {kind: median(ratios) for kind, ratios in found.items()}


def _date(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # another command has just renamed or deleted its folder
        return 0.0
