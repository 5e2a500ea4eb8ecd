"""Checks before anything runs that the missing stages' networks can be built, on torch's meta device (no memory)."""

from __future__ import annotations

from mm1_lab.config import RequestError, Stage, canonical_json
from mm1_lab.orchestrate.planning.plan import Plan


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


def same_network(stage: Stage) -> str:
    """A key that is equal for stages that train the same network, whatever the data, seed and schedule."""
    left_out = dict.fromkeys(("seed", "data", "training", "shares"), True) | dict.fromkeys(stage.inputs, True)
    own = {"kind": stage.KIND, **stage.model_dump(mode="json", exclude=left_out)}
    return canonical_json(own | {name: same_network(needed) for name, needed in stage.inputs.items()})
