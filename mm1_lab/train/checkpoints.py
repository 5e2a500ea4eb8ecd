"""Checkpoints of a running stage, which a single process or a team of any size can resume.

Each process writes its shards of weights and moments (as safetensors: torch unpickles the metadata of its own format),
the first one the rest. What is on a GPU is copied first, and a thread writes the copy while training goes on.
"""

import io
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor, nn
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from mm1_lab import team
from mm1_lab.files import (
    UNREADABLE,
    file_digest,
    is_there,
    load_json,
    make_folder,
    put_aside,
    replace,
    share,
    write_json,
)

CHECKPOINT = "last.ckpt"
BEFORE = CHECKPOINT + ".before"
"""The previous checkpoint, used if the last one is damaged; it is deleted before another is begun."""
UNFINISHED = CHECKPOINT + ".part"
DIVERGED = CHECKPOINT + ".diverged"
"""A mark: training on a GPU has diverged once since it began."""
REST = "rest.ckpt"
"""In a checkpoint: everything except weights and moments."""
DIGESTS = "digests.json"
"""In a checkpoint: a digest of each other file."""
WRITTEN_BESIDE_TRAINING = ("cuda",)
"""Devices whose state is copied, and written while training goes on; a processor would only have to share its cores."""


def save(trainer: pl.Trainer, folder: Path) -> None:
    """Begins to write the state of training to `folder`; all processes of a team call this."""
    assert isinstance(trainer.strategy, ProcessStrategy)
    trainer.strategy.finish_writing()
    if team.is_first():
        remove(folder / UNFINISHED)  # an interrupted one, perhaps with the shards of a larger team
        if (folder / CHECKPOINT).exists():
            remove(folder / BEFORE)
    team.wait()
    trainer.save_checkpoint(folder / UNFINISHED)


def newest(folder: Path, tell: Callable[[str], None]) -> Path | None:
    """The newest intact checkpoint in `folder`, or None. Damaged ones are put aside and reported. All processes of a
    team call this and check files."""
    damaged = []
    path = None
    for name in (CHECKPOINT, BEFORE):
        if not team.broadcast(is_there(folder / name)):
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
    return path


def remove(checkpoint: Path) -> None:
    """Deletes a checkpoint, or the file that damage has put in its place, if it exists."""
    if checkpoint.is_dir():
        shutil.rmtree(checkpoint)
    else:
        checkpoint.unlink(missing_ok=True)


def remove_all(folder: Path) -> None:
    for checkpoint in folder.glob(CHECKPOINT + "*"):
        remove(checkpoint)


class ProcessStrategy(SingleDeviceStrategy):
    """Lets Lightning train in each process as if alone, and writes and reads checkpoints together with the others."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self._writers = team.writers()  # made here, where all processes come at once
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._writing: Future[None] | None = None
        self.writing_took = 0.0
        """Seconds that the last checkpoint took."""
        # into memory from which a GPU copies by itself, the same one for every checkpoint
        self._stager = DefaultStager(StagingOptions(device.type == "cuda", False, False, False))

    @property
    def _trained(self) -> pl.LightningModule:
        assert self.lightning_module is not None
        return self.lightning_module

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        """The optimiser's state by the names of parameters, which do not depend on the number of processes."""
        return get_optimizer_state_dict(self._trained, optimizer)

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        [optimiser] = checkpoint["optimizer_states"]
        tensors = _weights(self._trained) | _moments(optimiser["state"])
        checkpoint["state_dict"] = {}
        for parameter, state in optimiser["state"].items():
            numbers = {name: value for name, value in state.items() if not isinstance(value, Tensor)}
            optimiser["state"][parameter] = numbers
        if self.root_device.type in WRITTEN_BESIDE_TRAINING:
            copies: Any = self._stager.stage(tensors)
            self._writing = self._thread.submit(self._write, copies, checkpoint, Path(filepath))
        else:
            self._write(tensors, checkpoint, Path(filepath))

    def _write(self, tensors: dict[str, Tensor], rest: dict[str, Any], folder: Path) -> None:
        """Writes a checkpoint, which replaces the last one when all processes have written theirs."""
        begun = time.monotonic()
        make_folder(folder)
        writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
        # all is copied already, and this thread has chosen no GPU: it would copy by the first one
        writer.per_thread_copy_ahead = 0
        alone = team.size() == 1
        with _raising_causes():
            state_dict_saver.save(tensors, storage_writer=writer, no_dist=alone, process_group=self._writers)
        own = list(folder.glob(f"shard-{team.rank() + 1:05}-*"))  # named by the library; none if all shards are empty
        digests: dict[str, str] = {}
        fault = None
        try:
            if team.is_first():
                buffer = io.BytesIO()
                torch.save(rest, buffer)
                # not by Lightning, which makes the file in TMPDIR, where it gets another group
                (folder / REST).write_bytes(buffer.getvalue())
                own.append(folder / REST)
            for path in own:
                share(path, path)
            digests = {path.name: file_digest(path) for path in own}
        except OSError as error:
            fault = error
        # one process that fails alone would leave the others at their next exchange
        written = team.collect((digests, fault), self._writers)
        if faults := [error for _, error in written if error]:
            raise faults[0]
        self.writing_took = time.monotonic() - begun
        if not team.is_first():
            return
        write_json(folder / DIGESTS, {name: digest for each, _ in written for name, digest in each.items()})
        last, before = folder.with_name(CHECKPOINT), folder.with_name(BEFORE)
        if last.exists():
            last.replace(before)
        replace(folder, last)

    @property
    def is_writing(self) -> bool:
        return self._writing is not None and not self._writing.done()

    @property
    def has_failed(self) -> bool:
        return self._writing is not None and not self.is_writing and self._writing.exception() is not None

    def finish_writing(self) -> None:
        """Returns when the last checkpoint is written. Raises what went wrong."""
        if self._writing:
            self._writing.result()
            self._writing = None

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        self._folder = Path(checkpoint_path)
        rest: dict[str, Any] = torch.load(self._folder / REST, map_location="cpu", weights_only=True)
        return rest

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        self._fill(_weights(self._trained))

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        [optimiser], [saved] = self.optimizers, checkpoint["optimizer_states"]
        initial = get_optimizer_state_dict(self._trained, optimiser)["state"]
        # a parameter that has had no gradient yet has no moments in the checkpoint, and must not get initial ones
        saved["state"] = {parameter: initial[parameter] | numbers for parameter, numbers in saved["state"].items()}
        self._fill(_moments(saved["state"]))
        set_optimizer_state_dict(self._trained, optimiser, saved, options=StateDictOptions(strict=False))

    def _fill(self, tensors: dict[str, Tensor]) -> None:
        """Reads the values of `tensors`, or of this process's shards of them, from the checkpoint."""
        reader = HuggingFaceStorageReader(str(self._folder))
        with _raising_causes():
            state_dict_loader.load(tensors, storage_reader=reader, no_dist=team.size() == 1)

    def teardown(self) -> None:
        """In a team keeps the shards where they are; Lightning would move them to the CPU."""
        self.finish_writing()
        if team.size() == 1:
            super().teardown()
            return
        self.precision_plugin.teardown()
        assert self.accelerator is not None
        self.accelerator.teardown()


@contextmanager
def _raising_causes() -> Iterator[None]:
    """Raises what went wrong, such as a full disk, in place of torch's CheckpointException, which is no Exception and
    would end the command."""
    try:
        yield
    except CheckpointException as error:
        cause, _ = next(iter(error.failures.values()))
        raise cause from None


def _weights(module: nn.Module) -> dict[str, Tensor]:
    """What is in the module's state dict; tied weights under one name, as safetensors refuses to save memory twice."""
    names = {name for name, _ in (*module.named_parameters(), *module.named_buffers())}
    return {name: _at_least_1d(value) for name, value in module.state_dict().items() if name in names and value.numel()}


def _moments(states: Mapping[str, Mapping[str, Any]]) -> dict[str, Tensor]:
    """The tensors of an optimiser's state, as PARAMETER/MOMENT."""
    return {
        f"{parameter}/{name}": _at_least_1d(value)
        for parameter, state in states.items()
        for name, value in state.items()
        if isinstance(value, Tensor)
    }


def _at_least_1d(value: Tensor) -> Tensor:
    """A view of `value`; scalars have a dimension in a team, so all checkpoints give them one."""
    return value.detach() if value.ndim else value.detach().view(1)


def _is_whole(checkpoint: Path) -> bool:
    """Whether no byte has changed since it was written; each process checks some files. Raises OSError in all of them
    if one cannot read its files now, as a colleague's."""
    fault = None
    try:
        digests = load_json(checkpoint / DIGESTS)
        mine = list(digests.items())[team.rank() :: team.size()]
        whole = REST in digests and all(file_digest(checkpoint / name) == expected for name, expected in mine)
    except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
        whole = False
        fault = error if isinstance(error, OSError) and error.errno in UNREADABLE else None
    checked = team.collect((whole, fault))
    if faults := [error for _, error in checked if error]:
        raise faults[0]
    return all(whole for whole, _ in checked)
