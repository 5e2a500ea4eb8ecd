"""The costs of a plan's missing stages, reckoned from networks that are built on torch's meta device (no memory)."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

from mm1_lab.config import Cost, Network
from mm1_lab.orchestrate.planning.capacity import GpuShare, check_fits, gpu_share
from mm1_lab.orchestrate.planning.feasible import same_network
from mm1_lab.orchestrate.planning.plan import Plan
from mm1_lab.orchestrate.planning.request import Request

if TYPE_CHECKING:
    from mm1_lab.data.types import Tokenizer


@dataclass(frozen=True)
class Estimate:
    """What a stage costs."""

    cost: Cost
    share: GpuShare | None
    """What each of its GPUs computes and holds; None if the scale names no hardware."""


def estimate_stages(plan: Plan, request: Request, to_run: bool = False) -> dict[str, Estimate]:
    """The estimates of the missing stages, by fingerprint.

    Raises RequestError, naming a trial, for training that does not fit its GPUs, and if it is `to_run`, for an
    evaluation that does not (a plan names it and goes on).
    """
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
            cost = stage.cost(networks[same], scale)
            share = None
            if scale.hardware:
                share = gpu_share(cost, stage.workers(scale), scale, scale.hardware)
                if stage.TRAINS or to_run:
                    check_fits(stage, cost, share, scale, scale.hardware, f"{task.label}: {stage.KIND}")
            estimates[stage.fingerprint] = Estimate(cost, share)
    return estimates


def rows_at_a_time(plan: Plan, request: Request) -> dict[str, int]:
    """The rows that a GPU computes at a time, by fingerprint, of missing trainings whose batches it would not hold.

    Raises RequestError for stages that do not fit their GPUs.
    """
    if not request.scale.hardware:
        return {}
    estimates = estimate_stages(plan, request, to_run=True)
    return {key: one.share.rows for key, one in estimates.items() if one.share and one.share.divided}
