"""The Lightning module of every stage (a network, an objective, an optimiser), and the loss on text."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import lightning.pytorch as pl
import torch
from torch import nn
from transformers import PreTrainedModel

from mm1_lab import team
from mm1_lab.config import Optimiser
from mm1_lab.data.batches import Batch
from mm1_lab.model import States
from mm1_lab.train.optimiser import build_optimiser
from mm1_lab.train.progress import Diverged
from mm1_lab.train.sharding import Shards

Tally = torch.Tensor
"""float64 (sources, 4): sum of weighted losses, sum of weights, real tokens, rows (or pairs) of each source."""


@dataclass(frozen=True, slots=True)
class Losses:
    """What an objective makes of a batch, or of a team's share of it."""

    main: torch.Tensor
    """Of a share: its sum over the team's mean count, so that the mean over the team is that of the batch."""
    tally: Tally
    """What `main` is made of."""
    auxiliary: dict[str, torch.Tensor] = field(default_factory=dict)
    """To be added to `main`."""
    routing: torch.Tensor | None = None
    """As in `States`, where there are experts."""


Objective = Callable[[Any], Losses]


class Training(pl.LightningModule):
    """Minimises `objective` over the parameters of `network`. `losses` are those of the newest batch.

    In a team the parameters are sharded, and `whole` has the trained network in the end.
    """

    losses: Losses

    def __init__(
        self, network: nn.Module, objective: Objective, optimiser: Optimiser, fingerprint: str, precision: str
    ) -> None:
        super().__init__()
        self.network = network
        self._objective = objective
        self._optimiser = optimiser
        self._fingerprint = fingerprint
        self._random: dict[str, torch.Tensor] = {}
        self._shards = Shards(self, network, precision) if team.size() > 1 else None
        self._whole = [network]  # in a list, which keeps it from being a part of this module

    @property
    def whole(self) -> Any:
        """The network with all of its weights, at the end and in the first process of a team."""
        return self._whole[0]

    def forward(self, batch: Any) -> torch.Tensor:
        """All of the network's work, so that its shards are there."""
        self.losses = self._objective(batch)
        return sum(self.losses.auxiliary.values(), start=self.losses.main)

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        loss: torch.Tensor = self(batch)
        self.losses = replace(self.losses, tally=team.total(self.losses.tally))
        mean = team.mean(loss.detach())
        if not torch.isfinite(mean):
            rate = self._optimiser.learning_rate
            raise Diverged(
                f"the loss of step {self.global_step + 1} is {mean.item()}; lower learning_rate (it is {rate:g}) or "
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

    def on_train_end(self) -> None:
        if self._shards:
            self._whole = [self._shards.whole()]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self._shards:
            self._shards.gather(checkpoint, _order(self.trainer.optimizers[0]))
        checkpoint["fingerprint"] = self._fingerprint
        checkpoint["random"] = {"cpu": torch.get_rng_state()}
        if torch.cuda.is_available():
            checkpoint["random"]["cuda"] = torch.cuda.get_rng_state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self._shards:
            optimiser, _ = build_optimiser(self.network, self._optimiser)
            self._shards.scatter(checkpoint, self.state_dict(), _order(optimiser))
        self._random = checkpoint["random"]

    def on_train_batch_start(self, batch: Any, index: int) -> None:
        """Goes on with the generators of the checkpoint; before, the loader of batches has drawn from them."""
        if self._random:
            torch.set_rng_state(self._random["cpu"].cpu())
            if torch.cuda.is_available() and "cuda" in self._random:
                torch.cuda.set_rng_state(self._random["cuda"].cpu())
            self._random = {}


def _order(optimiser: torch.optim.Optimizer) -> list[nn.Parameter]:
    """Parameters as the state of `optimiser` counts them."""
    return [parameter for group in optimiser.param_groups for parameter in group["params"]]


def language_loss(decoder: PreTrainedModel, states: States, batch: Batch, names: Sequence[str]) -> Losses:
    """The weighted mean cross-entropy over all text tokens of `batch`, and a tally with a row for each of `names`.

    In a team `batch` is a process's share, and the loss its part of that mean (see `Losses`).

    Only positions whose next token counts go through the vocabulary projection, which saves it on images and padding.
    """
    rows, sequence = batch.tokens.shape
    weights = batch.weights[:, 1:]
    row, place = (weights > 0).nonzero(as_tuple=True)
    asked = states.hidden.flatten(0, 1).index_select(0, row * sequence + place)
    loss_weights = weights[row, place]
    losses = nn.functional.cross_entropy(
        decoder.lm_head(asked).float(), batch.tokens[row, place + 1].long(), reduction="none"
    )
    weighted = losses * loss_weights
    loss = weighted.sum() / team.mean(loss_weights.sum()).clamp_min(1e-8)

    device = loss.device
    by_row = torch.zeros(rows, 4, dtype=torch.float64, device=device)
    both = torch.stack([weighted.detach(), loss_weights], dim=1).double()
    by_row.index_add_(0, row, nn.functional.pad(both, (0, 2)))
    by_row[:, 2] = (batch.documents > 0).sum(dim=1)
    by_row[:, 3] = 1
    source = torch.tensor([names.index(name) for name in batch.sources], device=device)
    tally = torch.zeros(len(names), 4, dtype=torch.float64, device=device).index_add_(0, source, by_row)
    return Losses(loss, tally, states.auxiliary, states.routing)
