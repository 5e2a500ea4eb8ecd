"""The Lightning module of all stages (a network, an objective, an optimiser), and the language-modelling loss."""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from mm1_lab import team
from mm1_lab.config import Optimiser
from mm1_lab.config.cost import LOGIT_BYTES, logit_bytes
from mm1_lab.data.batches import Batch
from mm1_lab.model import States
from mm1_lab.train.optimiser import build_optimiser
from mm1_lab.train.progress import Diverged
from mm1_lab.train.sharding import ShardedNetwork

Tally = Tensor
"""float64 (sources, 4), with the columns `LOSS`, …"""
LOSS, WEIGHT, TOKENS, ROWS = range(4)
"""Sum of weighted losses, sum of weights, real tokens; rows, pairs or conversations."""


@dataclass(frozen=True)
class Losses:
    """An objective's result for a batch, or for this process's share of it."""

    main: Tensor
    """For a share: its sum divided by the team's mean count, so that the mean over the team is the batch's loss."""
    tally: Tally
    """The sums from which `main` is computed."""
    auxiliary: dict[str, Tensor] = field(default_factory=dict)
    """Losses added to `main`."""
    routing: Tensor | None = None
    """As in `States`, for a mixture of experts."""


Objective = Callable[[Any], Losses]


class Training(pl.LightningModule):
    """Minimises `objective` over the parameters of `network`, which are sharded in a team; `whole` gathers them."""

    section = ""
    """The section of the recipe that has its learning rate."""
    _losses: Losses
    tally: Tally
    """The tally of this process's share of the most recent step."""
    routing: Tensor | None
    """As in `States`."""

    def __init__(self, network: nn.Module, objective: Objective, optimiser: Optimiser, precision: str) -> None:
        super().__init__()
        self.network = network
        self._objective = objective
        self._optimiser = optimiser
        self._random: dict[str, Tensor] = {}
        self._accumulates = False
        self._unread: list[Tensor] = []
        """Losses of the last steps, on the device, of which nobody knows yet whether they are finite."""
        self.noted: dict[str, list[Tensor]] = defaultdict(list)
        """Numbers of each step by their curve, unread like `_unread`; the recorder writes their means."""
        self._shards = None
        if team.size() > 1:
            self._shards = ShardedNetwork(self, network, precision, optimiser.bytes_per_trained)

    def whole(self) -> Any:
        """The trained network with all its weights, in a team only in the first process; all processes call this."""
        return self._shards.whole() if self._shards else self.network

    def forward(self, batch: Any, share: float = 1.0) -> Tensor:
        """Runs the objective inside `forward`, so that FSDP gathers the parameters. `batch` is this share of a step."""
        self._losses = self._objective(batch)
        loss = self._losses.main
        for auxiliary in self._losses.auxiliary.values():
            loss = loss + share * auxiliary
        return loss if loss.requires_grad else loss.requires_grad_()  # text alone, before a frozen decoder

    def training_step(self, parts: list[Any], index: int) -> Tensor:
        """The loss of the step's last micro-batch, after the backward passes of those before it."""
        self._accumulates = len(parts) > 1
        if self._accumulates:
            self.trainer.optimizers[0].zero_grad()
        losses, tallies, routings = [], [], []
        # auxiliary losses are means over these positions, of which some rows have few
        real = [part.team_real for part in parts] if self._accumulates else [1]
        for number, (part, positions) in enumerate(zip(parts, real, strict=True), start=1):
            if self._shards and self._accumulates:
                self._shards.exchange_gradients(self, parts, is_last=number == len(parts))
            loss: Tensor = self(part, positions / max(1, sum(real)))
            losses.append(loss.detach())
            tallies.append(self._losses.tally)
            if self._losses.routing is not None:
                routings.append(self._losses.routing)
            if number < len(parts):
                with torch.autocast(self.device.type, enabled=False):
                    loss.backward()
        self._unread.append(torch.stack(losses).sum())
        self.tally = torch.stack(tallies).sum(dim=0)
        self.routing = torch.stack(routings).sum(dim=0) if routings else None
        return loss

    def check_finite(self) -> None:
        """Raises Diverged if a loss since the last call was not finite. Waits for the device."""
        losses = team.mean(torch.stack(self._unread)).tolist()
        self._unread = []
        for step, loss in enumerate(losses, start=self.global_step + 1 - len(losses)):
            if not math.isfinite(loss):
                rate = f"{self.section}learning_rate (it is {self._optimiser.learning_rate:g})"
                lower = f"lower {rate} or raise warmup_fraction"
                remedy = lower if step > 1 else "look for the cause in the connector, the data or pre-trained weights"
                raise Diverged(f"the loss of step {step} is {loss}; {remedy}")

    def read_noted(self) -> dict[str, list[float]]:
        """What was noted since the last call. Waits for the device."""
        noted = {name: torch.stack(numbers).tolist() for name, numbers in self.noted.items()}
        self.noted.clear()
        return noted

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: torch.optim.Optimizer) -> None:
        """Called between the training step and its last backward pass: keeps the gradients of earlier micro-batches."""
        if not self._accumulates:
            super().optimizer_zero_grad(epoch, batch_idx, optimizer)

    def configure_optimizers(self) -> Any:
        optimiser, schedule = build_optimiser(self.network, self._optimiser)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips the gradient norm. Lightning's version rejects fused optimisers in bf16, though no loss is scaled."""
        assert gradient_clip_val is not None
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), gradient_clip_val)
        # clipping has summed it over the team
        self.noted["gradient_norm"].append(norm.full_tensor() if isinstance(norm, DTensor) else norm)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["random"] = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            checkpoint["random"]["cuda"] = torch.cuda.get_rng_state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._random = checkpoint["random"]

    def on_train_batch_start(self, batch: Any, index: int) -> None:
        """Restores the checkpoint's random state; only now, because creating the data loader draws random numbers.
        Calls the network's `before_step` if it has one, while its parameters are sharded."""
        if self._random:
            torch.set_rng_state(self._random["cpu"].cpu())
            if self.device.type == "cuda" and "cuda" in self._random:
                torch.cuda.set_rng_state(self._random["cuda"].cpu())
            self._random = {}
        if before_step := getattr(self.network, "before_step", None):
            before_step()


def language_loss(decoder: PreTrainedModel, states: States, batch: Batch, names: Sequence[str]) -> Losses:
    """The weighted mean cross-entropy over all text tokens of `batch`, and a tally with a row for each of `names`.

    Of some of a step's rows (in a team, or a micro-batch), the loss is their part of that mean (see `Losses`).

    Only positions whose next token has a weight pass the vocabulary projection, which skips images and padding.
    """
    places, following = batch.predicting, batch.predicting + 1
    predicting = states.hidden.flatten(0, 1).index_select(0, places)
    loss_weights = batch.weights.flatten()[following]
    losses = _cross_entropies(decoder, predicting, batch.tokens.flatten()[following])
    weighted = losses * loss_weights
    step_weight = loss_weights.sum() if batch.step_weight is None else batch.step_weight
    loss = weighted.sum() / step_weight.clamp_min(1e-8)

    device = loss.device
    owners = batch.owners.flatten()
    sums = torch.zeros(len(batch.sources), 4, dtype=torch.float64, device=device)
    both = torch.stack([weighted.detach(), loss_weights], dim=1).double()
    sums.index_add_(0, owners[places], nn.functional.pad(both, (0, 2)))
    real_owners = owners[batch.real]
    sums[:, TOKENS].index_add_(0, real_owners, torch.ones_like(real_owners, dtype=torch.float64))
    sums[:, ROWS] = 1
    source = torch.tensor([names.index(name) for name in batch.sources], dtype=torch.long)
    source = source.to(device, non_blocking=True)
    tally = torch.zeros(len(names), 4, dtype=torch.float64, device=device).index_add_(0, source, sums)
    return Losses(loss, tally, states.auxiliary, states.routing)


def _cross_entropies(decoder: PreTrainedModel, hidden: Tensor, targets: Tensor) -> Tensor:
    """(n,): the cross-entropy of each of `targets` (n,) after the hidden states (n, width).

    Logits take far more memory than any layer (8 rows of 2,048 tokens and 152,000 words: 35 GB). They are computed in
    chunks of at most `LOGIT_BYTES`, once for the loss and once more for its gradient.
    """

    def of_chunk(hidden: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(decoder.lm_head(hidden).float(), targets, reduction="none")

    most = max(1, int(LOGIT_BYTES / logit_bytes(decoder.config.vocab_size, itemsize=4)))
    if len(targets) <= most:
        return of_chunk(hidden, targets)
    chunks = zip(hidden.split(most), targets.split(most), strict=True)
    losses = [checkpoint(of_chunk, *chunk, use_reentrant=False, preserve_rng_state=False) for chunk in chunks]
    return torch.cat(losses)
