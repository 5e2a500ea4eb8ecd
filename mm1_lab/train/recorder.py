"""Records losses and gradient norms of a running stage: for `training.csv`, for reports, and across interruptions."""

import signal
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import lightning.pytorch as pl
import torch

from mm1_lab import team
from mm1_lab.files import write_csv
from mm1_lab.train.checkpoints import ProcessStrategy, save
from mm1_lab.train.module import LOSS, ROWS, TOKENS, WEIGHT, Training
from mm1_lab.train.progress import Progress, Report, TimeUp

CURVE = "training.csv"
POINTS = 100
"""Approximate number of points of a loss curve."""
REPORT_SECONDS = 0.35
STEPS_BETWEEN_READS = {"cpu": 1, "cuda": 20}
"""Steps between readings of what stands on the device, at most: each waits for a GPU, and for the other processes."""
READ_SECONDS = 5.0
"""Seconds between readings, about, however few steps that are: reports, checkpoints and the end of a process's time
wait for a reading."""
CHECKPOINT_SECONDS = 60.0
WRITING_SECONDS = 3.0
"""If writing a checkpoint takes k times as long (a billion parameters are 12 GB), checkpoints are k times as far apart:
training that goes on meanwhile is slowed, as both want the disk and the interpreter's lock."""


class Recorder(pl.Callback):
    """Sums tallies, reports a few times per second, saves checkpoints, and writes about a hundred points of each curve:
    means over the tokens since the previous point, of the gradient's norm over the steps.

    A loss that is not finite is found at the next reading, before any checkpoint has its weights. In a team each
    process sums its own share, and readings sum those of all; the first process reports and writes.
    """

    def __init__(self, folder: Path, names: Sequence[str], steps: int, report: Report) -> None:
        self._folder = folder
        self.names = list(names)
        self._steps = steps
        self._every = max(1, steps // POINTS)
        self._report = report if team.is_first() else lambda progress: None
        self.seconds = 0.0
        self.points: list[tuple[int, str, float]] = []
        self.total = torch.zeros(len(names), 4, dtype=torch.float64)
        self._since_point = self.total.clone()
        self._since_report = torch.zeros(4, dtype=torch.float64)
        self._routing: torch.Tensor | None = None
        """Routing counts of the experts since the last point; see `States`."""
        self._at_sigterm = signal.getsignal(signal.SIGTERM)
        self._noted: dict[str, list[float]] = defaultdict(list)
        """What `Training` noted of the steps since the last point."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._unread = torch.zeros_like(self.total, device=pl_module.device)
        self._most_steps = STEPS_BETWEEN_READS[pl_module.device.type]
        self._read_step = trainer.global_step
        self._read_at = self._read_step + 1
        self._clock = self._reported = self._saved = self._read = time.monotonic()
        if callable(self._at_sigterm) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._at_sigterm)  # Lightning's would end training without a checkpoint

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        assert isinstance(pl_module, Training)
        step = trainer.global_step
        self._unread += pl_module.tally
        routing = pl_module.routing
        if routing is not None and self._routing is not None:
            routing = self._routing.to(routing.device) + routing
        self._routing = routing
        is_last = step == self._steps
        is_point = step % self._every == 0
        if not (is_last or is_point or step >= self._read_at):
            return
        pl_module.check_finite()
        for name, numbers in pl_module.read_noted().items():
            self._noted[name] += numbers
        read = team.total(self._unread).cpu()
        self._since_point += read
        self._since_report += read.sum(dim=0)
        self._unread.zero_()
        if is_point or is_last:
            self._write_point(step)
        now = time.monotonic()
        self._plan_reading(step, now)
        if is_last or now - self._reported >= REPORT_SECONDS:
            try:
                self._send_report(step, now)
            except TimeUp:
                self._save(trainer, now)  # Lightning's teardown waits until it is written
                raise
        if not is_last and all(team.numbers(self._is_due(trainer, now))):
            self._save(trainer, now)

    def _plan_reading(self, step: int, now: float) -> None:
        """Sets the step of the next reading, the same one in all processes."""
        speed = (step - self._read_step) / max(now - self._read, 1e-9)
        self._read_step, self._read = step, now
        steps = self._most_steps
        if steps > 1:
            steps = team.broadcast(max(1, min(steps, int(speed * READ_SECONDS))))
        self._read_at = step + steps

    def _is_due(self, trainer: pl.Trainer, now: float) -> bool:
        """Whether a checkpoint is due; one that is still being written would be waited for, by all. If the last one
        could not be written, the next tells it."""
        strategy = trainer.strategy
        assert isinstance(strategy, ProcessStrategy)
        pause = CHECKPOINT_SECONDS * max(1.0, strategy.writing_took / WRITING_SECONDS)
        return strategy.has_failed or (now - self._saved >= pause and not strategy.is_writing)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._count_seconds(time.monotonic())

    def counts(self) -> dict[str, int]:
        """The number of rows, pairs or conversations of each source."""
        return dict(zip(self.names, self.total[:, ROWS].long().tolist(), strict=True))

    def _write_point(self, step: int) -> None:
        sums = {"loss": self._since_point.sum(dim=0)}
        if len(self.names) > 1:
            sums |= {f"loss/{name}": row for name, row in zip(self.names, self._since_point, strict=True)}
        # some may have had no text
        values = {name: (row[LOSS] / row[WEIGHT]).item() for name, row in sums.items() if row[WEIGHT] > 0}
        values |= {name: fmean(numbers) for name, numbers in self._noted.items()}
        self._noted.clear()
        if self._routing is not None:
            values |= routing_metrics(self._routing)
            self._routing = None
        self.points += [(step, name, value) for name, value in values.items()]
        self.total += self._since_point
        self._since_point.zero_()
        self.write_curve()

    def write_curve(self) -> None:
        if not team.is_first():
            return
        rows = ((step, name, f"{value:.7g}") for step, name, value in self.points)  # the digits of a float32
        write_csv(self._folder / CURVE, ("step", "name", "value"), rows)

    def _send_report(self, step: int, now: float) -> None:
        sums = self._since_report.tolist()
        speed = sums[TOKENS] / max(now - self._reported, 1e-9)
        loss = sums[LOSS] / sums[WEIGHT] if sums[WEIGHT] > 0 else None
        self._since_report.zero_()
        self._reported = now
        self._report(Progress(step, self._steps, loss, speed))

    def _save(self, trainer: pl.Trainer, now: float) -> None:
        self._count_seconds(now)
        save(trainer, self._folder)
        self._saved = time.monotonic()

    def _count_seconds(self, now: float) -> None:
        self.seconds += now - self._clock
        self._clock = now

    def state_dict(self) -> dict[str, Any]:
        noted = {name: list(numbers) for name, numbers in self._noted.items()}
        state: dict[str, Any] = {"seconds": self.seconds, "points": list(self.points), "noted": noted}
        tensors = {"total": self.total, "since_point": self._since_point, "routing": self._routing}
        for name, value in tensors.items():
            if value is not None:
                state[name] = value.to("cpu", copy=True)  # a thread may write it while training goes on
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seconds = state_dict["seconds"]
        self.points = state_dict["points"]
        self.total = state_dict["total"]
        self._since_point = state_dict["since_point"]
        self._routing = state_dict.get("routing")
        # up to 0.5.0 checkpoints had the norms alone
        self._noted.update(state_dict["noted"] if "noted" in state_dict else {"gradient_norm": state_dict["norms"]})


def routing_metrics(routing: torch.Tensor) -> dict[str, float]:
    """How each layer uses its experts, from `routing` as in `States`; layers with experts are numbered from 1.

    Busiest expert's share of all choices, number of experts never chosen, and mean entropy of the router in nats
    (log(experts): uniform; 0: certain).
    """
    metrics = {}
    for number, layer in enumerate(routing.tolist(), start=1):
        *load, entropy, positions = layer
        metrics[f"busiest_expert/layer_{number}"] = max(load) / max(1, sum(load))
        metrics[f"dead_experts/layer_{number}"] = float(load.count(0))
        metrics[f"router_entropy/layer_{number}"] = entropy / max(1, positions)
    return metrics
