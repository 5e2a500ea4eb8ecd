"""The GPUs that a stage of a given cost takes: the smallest group that holds it, and what each GPU then holds."""

from dataclasses import replace

from mm1_lab.config import Cost, Hardware, RequestError, Scale
from mm1_lab.files import machine_cpus
from mm1_lab.formatting import counted, short

USABLE = 0.9
"""Share of a GPU's memory that the estimate uses; the rest is for kernels, communication and fragmentation."""


def group_of(cost: Cost, hardware: Hardware) -> int | None:
    """The smallest number of GPUs (a power of two) that can hold the stage if the state is sharded over them and
    the batch is split over all GPUs; None if the activations alone do not fit."""
    room = USABLE * hardware.memory - cost.activations * cost.rows_at_once(hardware.count)
    if cost.state <= room:
        return 1
    if cost.whole:
        return None
    room -= cost.copies + 2 * cost.layer  # the current layer and the next, which is being gathered
    group = 2
    while room > 0 and (cost.state - cost.copies) / group > room:
        group *= 2
    return group if room > 0 else None


def bytes_per_gpu(cost: Cost, hardware: Hardware) -> float | None:
    """Bytes on each GPU of the smallest group, with the batch split over all GPUs; None if there is no group."""
    group = group_of(cost, hardware)
    if group is None:
        return None
    own = cost.state if group == 1 else (cost.state - cost.copies) / group + cost.copies + 2 * cost.layer
    return own + cost.activations * cost.rows_at_once(hardware.count)


def workers_needed(cost: Cost, hardware: Hardware) -> int | None:
    """The fewest workers (a power of two) that hold the stage by themselves, each its rows and its share of the
    state; None if no number does."""
    count = 1
    while (group := group_of(cost, hardware.model_copy(update={"count": count}))) is None or group > count:
        if count >= cost.rows:
            return None
        count *= 2
    return count


def check_group(cost: Cost, hardware: Hardware, label: str, workers: int = 1) -> int:
    """The smallest number of GPUs that holds the training stage, or `workers` if the scale assigns it several.

    Raises RequestError, naming a sufficient number, if the hardware cannot hold the stage.
    """
    if workers > hardware.count:
        raise RequestError(f"{label}: {workers} workers but {hardware.count} GPUs; use fewer, or raise hardware.count")
    if workers > 1:
        hardware = hardware.model_copy(update={"count": workers})
    group = group_of(cost, hardware)
    if group is not None and group <= hardware.count:
        if workers == 1 and workers_needed(cost, hardware) is None:
            raise RequestError(
                f"{label}: takes a group of {group} GPUs, more than a batch has rows ({cost.rows}); raise batch_size"
            )
        return workers if workers > 1 else group
    count = max(group or 2, hardware.count)
    while (needed := group_of(cost, hardware.model_copy(update={"count": count}))) is None or needed > count:
        if count > cost.rows and needed is None:
            raise RequestError(
                f"{label}: the activations of one row ({short(cost.activations, 'B')}) do not fit a GPU of "
                f"{short(hardware.memory, 'B')}; shorten sequence_length, or set gradient_checkpointing=true (--set)"
            )
        count *= 2
    rows = cost.rows_at_once(hardware.count)
    fewer = ""
    if micro_batch := _sufficient_micro_batch(cost, hardware):
        fewer = f", or compute fewer rows at a time (--set resources.micro_batch={micro_batch})"
    how = f"the scale's `workers`: {count}" if workers > 1 else f"--set hardware.count={count}"
    raise RequestError(
        f"{label}: {short(cost.state, 'B')} of weights, gradients and moments, plus {rows} rows per GPU of "
        f"{short(cost.activations, 'B')} each, do not fit {counted(hardware.count, 'GPU')} of "
        f"{short(hardware.memory, 'B')}; use {count} GPUs ({how}){fewer}"
    )


def _sufficient_micro_batch(cost: Cost, hardware: Hardware) -> int:
    """The largest number of rows, halved repeatedly, that the hardware can compute at a time; 0 if there is none."""
    rows = 0 if cost.micro_batch is None else cost.rows_at_once(hardware.count) // 2
    while rows and (group_of(replace(cost, micro_batch=rows), hardware) or hardware.count + 1) > hardware.count:
        rows //= 2
    return rows


def machine_slots(scale: Scale) -> int:
    """The number of stages that fit on this machine's cores and GPUs at a time."""
    slots = machine_cpus() / scale.resources.cpus
    if scale.resources.gpus:
        import torch

        slots = min(slots, torch.cuda.device_count() / scale.resources.gpus)
    return max(1, int(slots))
