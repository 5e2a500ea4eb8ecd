"""Checks before anything runs: that the missing stages' networks can be built, on torch's meta device (no memory), and
that their prompts fit."""

from __future__ import annotations

from contextlib import suppress

from mm1_lab.config import EvaluationStage, NotHere, RequestError
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
    stages = _evaluations(plan)
    if stages and request.scale.benchmarks:
        from mm1_lab.evaluate.fitting import check_lengths

        check_lengths(stages, request.open_data().tokenizer, request.ledger.data_cache)


def check_world_prompts(plan: Plan, request: Request) -> str:
    """Raises RequestError if no arm of the sweep reads the world's prompts at the requested numbers of shots whole.

    Returns a note on missing evaluations whose models do not, as other arms may have more tokens per picture, or be
    asked more; empty if there are none.
    """
    stages = _evaluations(plan)
    if not stages or request.data_path:
        return ""
    from mm1_lab.evaluate.fitting import of_the_world, too_long

    tokenizer = request.open_data().tokenizer
    arms = []
    for arm, recipe in request.sweep.arms.items():
        with suppress(NotHere):  # not asked for
            arms.append(request.resolve(arm, recipe, stages[0].seed).evaluation)
    least = min(arms, key=lambda stage: stage.model.picture_tokens)
    for found in too_long([least], lambda stage: of_the_world(stage.settings, tuned=False), tokenizer):
        raise RequestError(str(found))
    others = too_long(stages, lambda stage: of_the_world(stage.settings, stage.model.tuned), tokenizer)
    told = "; ".join(one.in_short for one in others)
    return f"note: some prompts are longer than any row of training: {told}" if told else ""


def _evaluations(plan: Plan) -> list[EvaluationStage]:
    return [stage for task in plan.tasks.values() for stage in task.stages if isinstance(stage, EvaluationStage)]
