"""The Lightning module of every stage: a network, an objective, an optimiser."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import lightning.pytorch as pl
import torch
from torch import nn

from mm1_lab.config import Optimiser
from mm1_lab.train.optimiser import build_optimiser
from mm1_lab.train.progress import Diverged

Tally = torch.Tensor
"""float64 (sources, 4): sum of weighted losses, sum of weights, real tokens, rows (or pairs) of each source."""


@dataclass(frozen=True, slots=True)
class Losses:
    """What an objective makes of a batch."""

    main: torch.Tensor
    tally: Tally
    """What `main` is made of."""
    auxiliary: dict[str, torch.Tensor] = field(default_factory=dict)
    """To be added to `main`."""
    routing: torch.Tensor | None = None
    """As in `States`, where there are experts."""


Objective = Callable[[Any], Losses]


class Training(pl.LightningModule):
    """Minimises `objective` over the parameters of `network`. `losses` are those of the newest batch."""

    losses: Losses

    def __init__(self, network: nn.Module, objective: Objective, optimiser: Optimiser, fingerprint: str) -> None:
        super().__init__()
        self.network = network
        self._objective = objective
        self._optimiser = optimiser
        self._fingerprint = fingerprint

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        self.losses = self._objective(batch)
        loss: torch.Tensor = sum(self.losses.auxiliary.values(), start=self.losses.main)
        if not torch.isfinite(loss):
            rate = self._optimiser.learning_rate
            raise Diverged(
                f"the loss of step {self.global_step + 1} is {loss.item()}; lower learning_rate (it is {rate:g}) or "
                "lengthen warmup_fraction"
            )
        return loss

    def configure_optimizers(self) -> Any:
        optimiser, schedule = build_optimiser(self.network, self._optimiser)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips the norm. Lightning's own refuses a fused optimiser in bf16, though nothing is scaled there."""
        assert gradient_clip_val is not None
        nn.utils.clip_grad_norm_(self.network.parameters(), gradient_clip_val)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["fingerprint"] = self._fingerprint
        checkpoint["random"] = {"cpu": torch.get_rng_state()}
        if torch.cuda.is_available():
            checkpoint["random"]["cuda"] = torch.cuda.get_rng_state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        torch.set_rng_state(checkpoint["random"]["cpu"].cpu())
        if torch.cuda.is_available() and "cuda" in checkpoint["random"]:
            torch.cuda.set_rng_state(checkpoint["random"]["cuda"].cpu())
