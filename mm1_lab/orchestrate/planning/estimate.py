"""The costs of a plan's missing stages, reckoned from networks that are built on torch's meta device (no memory)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

from mm1_lab.config import Cost, Network
from mm1_lab.orchestrate.planning.capacity import check_group
from mm1_lab.orchestrate.planning.feasible import same_network
from mm1_lab.orchestrate.planning.plan import Plan
from mm1_lab.orchestrate.planning.request import Request

if TYPE_CHECKING:
    from mm1_lab.data.types import Tokenizer


def plan_costs(plan: Plan, request: Request) -> dict[str, Cost]:
    """Costs of the missing stages, by fingerprint.

    Raises RequestError, naming a trial, for a stage that the scale's hardware cannot hold.
    """
    import torch

    from mm1_lab.model import connector_flops, count_parameters
    from mm1_lab.train.stages import KINDS

    scale, data, words = request.scale, request.data, request.open_data().tokenizer
    if data.kind == "world" and data.tokenizer == "world" and scale.hardware is not None:
        # without user data, a plan for GPUs assumes the vocabulary size that the user's tokenizer would have
        words = cast("Tokenizer", SimpleNamespace(size=scale.vocabulary, image=words.image))
    costs: dict[str, Cost] = {}
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
            if scale.hardware and not cost.whole:  # the report says which models cannot be evaluated
                check_group(cost, scale.hardware, f"{task.label}: {stage.KIND}", stage.workers(scale))
            costs[stage.fingerprint] = cost
    return costs
