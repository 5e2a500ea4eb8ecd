"""Checks before anything runs: that the missing stages' networks can be built, on torch's meta device (no memory), and
that prompts of named benchmarks fit."""

from __future__ import annotations

from mm1_lab.config import EvaluationStage, RequestError
from mm1_lab.orchestrate.planning.cost import same_network
from mm1_lab.orchestrate.planning.plan import Plan
from mm1_lab.orchestrate.planning.request import Request


def check_feasible(plan: Plan) -> None:
    """Raises RequestError, naming the trial, for a stage whose network cannot be built."""
    missing = {same_network(stage): (task.label, stage) for task in plan.tasks.values() for stage in task.stages}
    if not missing:
        return
    import torch

    from mm1_lab.train.stages import KINDS

    with torch.device("meta"):
        for label, stage in missing.values():
            try:
                if type(stage) in KINDS:
                    KINDS[type(stage)].check(stage)
            except RequestError as error:
                raise RequestError(f"{label}: {error}") from None


def check_named_prompts(plan: Plan, request: Request) -> None:
    """Raises RequestError if a prompt of a missing evaluation's named benchmark is longer than its model reads."""
    stages = [stage for task in plan.tasks.values() for stage in task.stages if isinstance(stage, EvaluationStage)]
    if stages and request.scale.benchmarks:
        from mm1_lab.evaluate.fitting import check_lengths

        check_lengths(stages, request.open_data().tokenizer, request.ledger.data_cache)
