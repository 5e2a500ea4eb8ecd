"""Checkpoints of a running stage, which a single process or a team of any size can resume.

A checkpoint is a folder with one file and its digest. In a team the first process gathers weights and moments, and
writes; all processes read the file, each its own shards. The previous checkpoint is kept until the new one is complete.
"""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from mm1_lab import team
from mm1_lab.config import RequestError, Stage
from mm1_lab.files import file_digest, put_aside, replace

CHECKPOINT = "last.ckpt"
BEFORE = CHECKPOINT + ".before"
"""The previous checkpoint, used if the last one is damaged."""
UNFINISHED = CHECKPOINT + ".part"
STATE, DIGEST = "state.pt", "digest"
"""In a checkpoint: everything, and the file's digest."""


def save(trainer: pl.Trainer, folder: Path) -> None:
    """Writes the state of training to `folder`; all processes of a team call this."""
    unfinished, last, before = (folder / name for name in (UNFINISHED, CHECKPOINT, BEFORE))
    if team.is_first():
        remove(unfinished)  # an interrupted one
        unfinished.mkdir()
    trainer.save_checkpoint(unfinished / STATE)
    if team.is_first():
        (unfinished / DIGEST).write_text(file_digest(unfinished / STATE), encoding="utf-8")
        if last.exists():
            remove(before)
            last.replace(before)
        replace(unfinished, last)


def newest(folder: Path, stage: Stage, tell: Callable[[str], None]) -> Path | None:
    """The file of the newest intact checkpoint in `folder`, or None. Damaged ones are put aside and reported.

    Raises RequestError if it belongs to another stage. All processes of a team call this.
    """
    damaged = []
    path = None
    for name in (CHECKPOINT, BEFORE):
        if not team.broadcast((folder / name).exists()):
            continue
        if team.broadcast(_is_whole(folder / name) if team.is_first() else None):
            path = folder / name
            break
        if team.is_first():
            put_aside(folder / name)
        damaged.append(name)
    if damaged and team.is_first():
        start = f"resumes from {path.name}" if path else "starts from the beginning"
        tell(f"{folder}: damaged and put aside: {', '.join(damaged)}; training {start}")
    if path and (owner := _read(path / STATE)["fingerprint"]) != stage.fingerprint:
        raise RequestError(f"{path}: belongs to stage {owner}, not to {stage.fingerprint}; delete it to start afresh")
    return path and path / STATE


def remove(checkpoint: Path) -> None:
    """Deletes a checkpoint, or the file that damage has put in its place, if it exists."""
    if checkpoint.is_dir():
        shutil.rmtree(checkpoint)
    else:
        checkpoint.unlink(missing_ok=True)


class ProcessStrategy(SingleDeviceStrategy):
    """Lets Lightning train in each process as if alone, with the team's weights and moments in each checkpoint."""

    def lightning_module_state_dict(self) -> dict[str, Any]:
        return get_model_state_dict(self._module, options=_options())

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        """The optimiser's state by the names of parameters, which do not depend on the number of processes."""
        return get_optimizer_state_dict(self._module, optimizer, options=_options())

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        if team.is_first():
            super().save_checkpoint(checkpoint, filepath, storage_options)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        return _read(checkpoint_path)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        set_model_state_dict(self._module, checkpoint["state_dict"], options=_options())

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        [optimiser], [saved] = self.optimizers, checkpoint["optimizer_states"]
        set_optimizer_state_dict(self._module, optimiser, saved, options=_options())
        for name, parameter in self._module.named_parameters():
            if name not in saved["state"]:  # it has had no gradient yet, but is given moments by the library
                optimiser.state.pop(parameter, None)

    @property
    def _module(self) -> pl.LightningModule:
        assert self.lightning_module is not None
        return self.lightning_module

    def teardown(self) -> None:
        """In a team keeps the shards where they are; Lightning would move them to the CPU."""
        if team.size() == 1:
            super().teardown()
            return
        self.precision_plugin.teardown()
        assert self.accelerator is not None
        self.accelerator.teardown()


def _options() -> StateDictOptions:
    """In a team: whole tensors, in the first process's memory (12 bytes per parameter)."""
    several = team.size() > 1
    return StateDictOptions(full_state_dict=several, cpu_offload=several, strict=False)


def _read(path: Path) -> dict[str, Any]:
    """A checkpoint, whose tensors are read from the file where they are used."""
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return state


def _is_whole(checkpoint: Path) -> bool:
    """Whether no byte has changed since it was written."""
    try:
        return file_digest(checkpoint / STATE) == (checkpoint / DIGEST).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return False
