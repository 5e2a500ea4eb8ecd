"""What each GPU of a stage computes and holds, and whether it fits; how many stages fit on this machine at a time."""

from __future__ import annotations

from dataclasses import dataclass

from mm1_lab.config import Cost, Hardware, RequestError, Scale, Stage
from mm1_lab.config.cost import LOGIT_BYTES, keeps_whole_gradients, shard_group
from mm1_lab.files import machine_cpus
from mm1_lab.formatting import counted, short

GPUS_OF_A_NODE = 8
USABLE = 0.9
"""Share of a GPU's memory that the estimate uses; the rest is for kernels, communication and fragmentation."""


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


def gpu_share(cost: Cost, gpus: int, scale: Scale, hardware: Hardware) -> GpuShare:
    """The share of each of `gpus` GPUs.

    With `resources.micro_batch: 0` it computes as many rows at a time as fit: all of its own, or these halved until
    they fit.
    """
    room = USABLE * hardware.memory_bytes
    own = rows = -(-cost.rows // gpus)
    divided = False
    if cost.divisible and scale.resources.micro_batch:
        rows = min(rows, scale.resources.micro_batch)
    elif cost.divisible:
        while rows > 1 and _held(cost, gpus, rows, rows < own, hardware.memory_bytes) > room:
            rows = -(-rows // 2)
        divided = rows < own
    held = _held(cost, gpus, rows, rows < own, hardware.memory_bytes)
    return GpuShare(gpus, rows, divided, held, held <= room)


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


def check_fits(stage: Stage, cost: Cost, share: GpuShare, scale: Scale, hardware: Hardware, label: str) -> None:
    """Raises RequestError, with what to do, if the stage does not fit its GPUs."""
    if share.gpus > hardware.count:
        raise RequestError(
            f"{label}: {share.gpus} `workers`, but hardware.count is {hardware.count}; name fewer in the scale, "
            f"or --set hardware.count={share.gpus}"
        )
    if share.fits:
        return
    holds, remedies = "weights", ["--set evaluate.batch_size to fewer"]
    if not cost.whole:
        holds = "weights, gradients and moments"
        [*_, size] = stage.size_names(scale) or ["SIZE"]
        remedies = [f"more workers (--set 'workers={{{size}: {2 * share.gpus}}}')"]
    if cost.divisible and share.rows > 1:
        remedies.append("fewer rows at a time (--set resources.micro_batch=0: as many as fit)")
    if cost.divisible and not scale.gradient_checkpointing:
        remedies.append("--set gradient_checkpointing=true")
    if not cost.divisible and not cost.whole:
        remedies.append(f"a smaller {stage.KIND}.batch_size")
    raise RequestError(
        f"{label}: {short(cost.state, 'B')} of {holds} and {share.rows} times {short(cost.activations, 'B')} of "
        f"activations take {short(share.held, 'B')} on each of {counted(share.gpus, 'GPU')}, which has "
        f"{short(hardware.memory_bytes, 'B')} (a tenth stays free); use {', '.join(remedies)}, or a smaller model"
    )


def machine_slots(scale: Scale) -> int:
    """The number of stages that fit on this machine's cores and GPUs at a time."""
    slots = machine_cpus() / scale.resources.cpus
    if scale.resources.gpus:
        import torch

        slots = min(slots, torch.cuda.device_count() / scale.resources.gpus)
    return max(1, int(slots))
