"""Checkpoints of a running stage, which a single process or a team of any size can resume.

A single process writes one file. A team writes a folder of safetensors files: each process its shards of weights and
moments, and the first one the rest. The previous checkpoint is kept until the new one is complete.
"""

import json
import shutil
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import nn
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.tensor import DTensor

from mm1_lab import team
from mm1_lab.config import RequestError, Stage
from mm1_lab.files import file_digest, put_aside, replace, write_json

CHECKPOINT = "last.ckpt"
BEFORE = CHECKPOINT + ".before"
"""The previous checkpoint, used if the last one is damaged."""
UNFINISHED = CHECKPOINT + ".part"
REST = "rest.ckpt"
"""In a folder: everything that is not sharded."""
DIGESTS = "digests.json"
"""In a folder: a digest of each other file."""
SHARDS = "shards"
"""Key of a loaded checkpoint whose shards are still in the folder that it names."""


def save(trainer: pl.Trainer, folder: Path) -> None:
    """Writes the state of training to `folder`; all processes of a team call this."""
    unfinished, last, before = (folder / name for name in (UNFINISHED, CHECKPOINT, BEFORE))
    if team.is_first():
        remove(unfinished)  # an interrupted one, perhaps with the shards of a larger team
    team.wait()
    trainer.save_checkpoint(unfinished)
    if team.is_first():
        if last.exists():
            remove(before)
            last.replace(before)
        replace(unfinished, last)


def newest(folder: Path, stage: Stage, tell: Callable[[str], None]) -> Path | None:
    """The newest intact checkpoint in `folder`, or None. Damaged ones are put aside and reported.

    Raises RequestError if it belongs to another stage. All processes of a team call this and check files.
    """
    damaged = []
    path = None
    for name in (CHECKPOINT, BEFORE):
        if not team.broadcast((folder / name).exists()):
            continue
        if _is_whole(folder / name):
            path = folder / name
            break
        if team.is_first():
            put_aside(folder / name)
        damaged.append(name)
    if damaged and team.is_first():
        start = f"resumes from {path.name}" if path else "starts from the beginning"
        tell(f"{folder}: damaged and put aside: {', '.join(damaged)}; training {start}")
    if path and (owner := _load(path)["fingerprint"]) != stage.fingerprint:
        raise RequestError(f"{path}: belongs to stage {owner}, not to {stage.fingerprint}; delete it to start afresh")
    return path


def remove(checkpoint: Path) -> None:
    """Deletes a checkpoint of either kind, if it exists."""
    if checkpoint.is_dir():
        shutil.rmtree(checkpoint)
    else:
        checkpoint.unlink(missing_ok=True)


def read_shards(checkpoint: dict[str, Any], weights: Mapping[str, Any], order: Sequence[nn.Parameter]) -> None:
    """Adds to `checkpoint`, loaded from a folder, the weights and moments in that folder's shards.

    They get the shapes of the module's `weights` and of the optimiser's parameters (`order`). In a team each process
    reads its own shards.
    """
    reader = HuggingFaceStorageReader(checkpoint.pop(SHARDS))
    values, places = {}, {}
    for key, found in reader.read_metadata().state_dict_metadata.items():
        assert isinstance(found, TensorStorageMetadata)
        state, name, at = _place(checkpoint, key)
        like = weights[name] if at is None else order[at]
        dtype = found.properties.dtype
        is_sharded = isinstance(like, DTensor)
        values[key] = torch.empty_like(like, dtype=dtype) if is_sharded else torch.empty(found.size, dtype=dtype)
        places[key] = state, name, like.shape
    state_dict_loader.load(values, storage_reader=reader, no_dist=team.size() == 1)
    for key, (state, name, shape) in places.items():
        state[name] = values[key] if isinstance(values[key], DTensor) else values[key].reshape(shape)


def _place(checkpoint: dict[str, Any], key: str) -> tuple[dict[str, Any], str, int | None]:
    """Where a tensor belongs in a checkpoint, from its key in the shards: NAME of a weight, NUMBER/NAME of a moment.

    Returns the dictionary, the name in it, and the number of the parameter for a moment.
    """
    *number, name = key.split("/")
    if not number:
        return checkpoint["state_dict"], name, None
    at = int(number[0])
    return checkpoint["optimizer_states"][0]["state"].setdefault(at, {}), name, at


def _take_shards(checkpoint: dict[str, Any]) -> dict[str, DTensor]:
    """Takes the sharded tensors out of a checkpoint; their keys are those of `_place`."""
    [optimiser] = checkpoint["optimizer_states"]
    optimiser["state"] = {at: dict(state) for at, state in optimiser["state"].items()}  # those were the optimiser's own
    states = {"": checkpoint["state_dict"]} | {f"{at}/": state for at, state in optimiser["state"].items()}
    return {
        prefix + name: state.pop(name)
        for prefix, state in states.items()
        for name in list(state)
        if isinstance(state[name], DTensor)
    }


class OneOfTeam(SingleDeviceStrategy):
    """Lets Lightning train in each process as if alone, and reads and writes checkpoints that are folders."""

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        if team.size() == 1:
            super().save_checkpoint(checkpoint, filepath, storage_options)
            return
        folder = Path(filepath)
        folder.mkdir(exist_ok=True)
        writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
        state_dict_saver.save(_take_shards(checkpoint), storage_writer=writer)
        own = list(folder.glob(f"shard-{team.rank() + 1:05}-*"))  # named by the library; none if all shards are empty
        digests = [pair for pairs in team.collect([(path.name, file_digest(path)) for path in own]) for pair in pairs]
        if team.is_first():
            super().save_checkpoint(checkpoint, folder / REST, storage_options)
            write_json(folder / DIGESTS, dict(digests) | {REST: file_digest(folder / REST)})

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        return _load(Path(checkpoint_path))

    def teardown(self) -> None:
        """Keeps the shards where they are; Lightning would move them to the CPU."""
        self.precision_plugin.teardown()
        assert self.accelerator is not None
        self.accelerator.teardown()


def _load(path: Path) -> dict[str, Any]:
    """A checkpoint, memory-mapped; that of a folder lacks its shards (see `read_shards`)."""
    rest = {SHARDS: str(path)} if path.is_dir() else {}
    return torch.load(path / REST if rest else path, map_location="cpu", mmap=True, weights_only=True) | rest


def _is_whole(checkpoint: Path) -> bool:
    """Whether no byte has changed since it was written; in a team each process checks some of a folder's files."""
    if not checkpoint.is_dir():
        return team.broadcast(team.is_first() and _is_sound_archive(checkpoint))
    try:
        digests = json.loads((checkpoint / DIGESTS).read_text(encoding="utf-8"))
        mine = list(digests.items())[team.rank() :: team.size()]
        whole = REST in digests and all(file_digest(checkpoint / name) == expected for name, expected in mine)
    except (OSError, ValueError, AttributeError, TypeError, RecursionError):
        whole = False
    return all(team.collect(whole))


def _is_sound_archive(file: Path) -> bool:
    """Whether the checksums match that torch wrote into the archive."""
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.testzip() is None
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError, EOFError, RuntimeError, zlib.error):
        return False
