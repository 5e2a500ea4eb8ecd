"""Can the missing models be built? Asked before anything runs, of models without memory (torch's meta device)."""

from __future__ import annotations

from mm1_lab.config import MultimodalStage, RequestError
from mm1_lab.orchestrate.plan import Plan


def check_feasible(plan: Plan) -> None:
    """Raises RequestError, naming the trial, for a connector that is not there or cannot give the tokens asked for."""
    missing = [(unit.label, stage) for unit in plan.units.values() for stage in unit.stages]
    asked = {
        (stage.connector, stage.encoder.size.width, stage.decoder.size.width, _patches(stage)): label
        for label, stage in missing
        if isinstance(stage, MultimodalStage)
    }
    if not asked:
        return
    import torch

    from mm1_lab.model import build_connector

    with torch.device("meta"):
        for arguments, label in asked.items():
            try:
                build_connector(*arguments)
            except RequestError as error:
                raise RequestError(f"{label}: {error}") from None


def _patches(stage: MultimodalStage) -> int:
    return (stage.image_size // stage.encoder.patch) ** 2
