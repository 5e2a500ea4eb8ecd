"""Batches: packed rows and their images as tensors.

A batch is a pure function of its step, so a run that is interrupted and resumed reads the same data as any other.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from typing import Any, Generic, Self, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from mm1_lab import team
from mm1_lab.config import ModelStage, SftStage
from mm1_lab.data.mixture import Mixture
from mm1_lab.data.packing import PackedRow, Packer
from mm1_lab.data.pixels import NONE_ASKED, Decoded
from mm1_lab.data.pixels import views as picture_views
from mm1_lab.data.preprocessing import MEAN_COLOUR
from mm1_lab.data.types import BrokenPicture, Conversations, Source, Tokenizer


@dataclass(frozen=True)
class TensorBatch:
    """A batch that the data module serves."""

    decoded: Decoded = field(default=NONE_ASKED, kw_only=True)

    def to(self, device: torch.device | str) -> Self:
        """The batch with its tensors on `device`; what is pinned is copied while the GPU is still busy."""
        return self._with(lambda one: one.to(device, non_blocking=one.is_pinned()))

    def pin_memory(self) -> Self:
        """The batch with its tensors in memory from which a GPU copies by itself; the data loader calls it."""
        return self._with(Tensor.pin_memory)

    def share_memory(self) -> Self:
        """The batch with its tensors in memory that processes share. Raises RuntimeError if that is full."""
        return self._with(Tensor.share_memory_)

    def _with(self, change: Callable[[Tensor], Tensor]) -> Self:
        changed: dict[str, Any] = {name: change(one) for name, one in vars(self).items() if isinstance(one, Tensor)}
        return replace(self, **changed)


@dataclass(frozen=True)
class Batch(TensorBatch):
    """Packed rows as tensors, of shape (rows, sequence) unless stated otherwise."""

    tokens: Tensor
    """int64"""
    weights: Tensor
    """float32: loss weight for predicting `tokens[:, t]` from the tokens before it."""
    documents: Tensor
    """int64: the document that each position belongs to, numbered from 1 within the row; 0 is padding."""
    positions: Tensor
    """int64"""
    images: Tensor
    """uint8 (n, 3, side, side), in the order in which they occur in the rows; the views of a picture are adjacent."""
    sources: tuple[str, ...]
    """Name of each row's source; if `by_document`, of each document's, row by row."""
    image_counts: tuple[int, ...]
    """Number of each row's `images`."""
    predicting: Tensor
    """int64 (n,): places, in the concatenated rows, whose next token has a weight. These three are found before the
    batch is on a GPU, which would have to be waited for."""
    real: Tensor
    """int64 (m,): places that are not padding."""
    bounds: Tensor
    """int32 (documents + 1,): where documents begin in the concatenated rows, and where the last one ends."""
    step_weight: Tensor | None = None
    """If these are only some rows of a step: the sum of the loss weights of all of them; in a team, the mean over its
    processes."""
    step_rows: int = 0
    """Rows of the whole step, those of other processes included. The next two are known of a part of a step."""
    team_real: int = 0
    """Number of `real` places, with those that other processes compute meanwhile."""
    most_images: int = 0
    """The largest number of `images` that a process encodes meanwhile."""
    by_document: bool = False
    """Whether rows mix documents of several sources."""

    @property
    def owners(self) -> Tensor:
        """(rows, sequence): the number in `sources` of each position; of padding that of any."""
        if not self.by_document:
            return torch.arange(len(self.tokens), device=self.tokens.device)[:, None].expand_as(self.tokens)
        counts = self.documents.amax(dim=1, keepdim=True)
        return (counts.cumsum(dim=0) - counts + self.documents - 1).clamp_min(0)

    def split(self, parts: int) -> list["Batch"]:
        """Some of the rows each; where there are fewer rows than parts, a part without any is a row of padding."""
        ends = [len(self.tokens) * number // parts for number in range(parts + 1)]
        named = self.documents.amax(dim=1).tolist() if self.by_document else [1] * len(self.tokens)
        first_source = [0, *accumulate(named)]
        first_image = [0, *accumulate(self.image_counts)]
        total = self.weights[:, 1:].sum()
        batches = []
        for start, end in pairwise(ends):
            sources = self.sources[first_source[start] : first_source[end]]
            weights = self.weights[start:end]
            documents = self.documents[start:end]
            if start == end:  # a copy of a row, pictures included, in which nothing counts
                end = start + 1
                weights = torch.zeros_like(self.weights[start:end])
                documents = torch.zeros_like(self.documents[start:end])
            part = replace(
                self,
                tokens=self.tokens[start:end],
                weights=weights,
                documents=documents,
                positions=self.positions[start:end],
                images=self.images[first_image[start] : first_image[end]],
                sources=sources,
                image_counts=self.image_counts[start:end],
                step_weight=total,
                decoded=NONE_ASKED,
                **find_places(weights, documents),
            )
            batches.append(part)
        return batches


def find_places(weights: Tensor, documents: Tensor) -> dict[str, Any]:
    """`predicting`, `real` and `bounds` of a batch; padding of a row counts as a document."""
    length = documents.shape[1]
    row, place = (weights[:, 1:] > 0).nonzero(as_tuple=True)
    begins = documents.diff(dim=1, prepend=torch.full_like(documents[:, :1], -1)) != 0
    bounds = begins.flatten().nonzero()[:, 0]
    return {
        "predicting": row * length + place,
        "real": documents.flatten().nonzero()[:, 0],
        "bounds": nn.functional.pad(bounds, (0, 1), value=documents.numel()).int(),
    }


def make_batch(
    rows: Sequence[PackedRow],
    names: Sequence[str],
    side: int,
    blind: bool,
    by_document: bool = False,
    step_rows: int = 0,
) -> Batch:
    """Collates `rows` into a batch with images of `side` pixels, the views of its pictures; `names` are its `sources`.

    If `blind`, all images are the mean colour and none is drawn or decoded. A picture that cannot be decoded becomes
    the mean colour too, its document is excluded from the loss, and `decoded` names it.
    """
    weights = np.stack([row.weights for row in rows])
    counts = [sum(grid.views for _, grid in row.pictures) for row in rows]
    images = np.full((sum(counts), 3, side, side), MEAN_COLOUR, np.uint8)
    decoded = NONE_ASKED
    if not blind:
        broken: list[str] = []
        asked = start = 0
        for row, row_weights in zip(rows, weights, strict=True):
            # one picture at a time, so that its memory is used again
            for (picture, grid), owner in zip(row.pictures, row.owners, strict=True):
                own = images[start : start + grid.views]
                asked += 1
                start += grid.views
                try:
                    for view, pixels in zip(own, picture_views(picture, side, grid), strict=True):
                        view[:] = pixels.transpose(2, 0, 1)
                except BrokenPicture as error:
                    own[:] = MEAN_COLOUR
                    row_weights[row.documents == owner] = 0
                    broken.append(str(error))
        decoded = Decoded(asked, tuple(broken))
    columns: dict[str, Any] = {}
    for column in ("tokens", "documents", "positions"):
        columns[column] = torch.from_numpy(np.stack([getattr(row, column) for row in rows])).long()
    return Batch(
        **columns,
        weights=torch.from_numpy(weights),
        images=torch.from_numpy(images),
        sources=tuple(names),
        image_counts=tuple(counts),
        **find_places(torch.from_numpy(weights), columns["documents"]),
        decoded=decoded,
        by_document=by_document,
        step_rows=step_rows,
    )


Stream = TypeVar("Stream", Source, Conversations)


def replayed_name(source: str) -> str:
    """What curves call a source that is replayed: an instruction set may have its name."""
    return f"replay.{source}"


@dataclass(frozen=True)
class StageBatches(Generic[Stream]):
    sources: Mapping[str, Stream]
    mixture: Mixture
    packer: Packer
    count: int
    """Rows of a step, or conversations."""
    side: int
    blind: bool

    @classmethod
    def of(cls, stage: ModelStage, sources: Mapping[str, Stream], tokenizer: Tokenizer) -> Self:
        return cls(
            sources,
            Mixture(stage.shares, stage.seed),
            Packer.of(stage, tokenizer),
            count=stage.training.batch_size,
            side=stage.image_size,
            blind=stage.architecture.blind,
        )


class MixtureBatches(StageBatches[Source]):
    """Maps a step of a multimodal stage to its batch of packed rows, each from the source that the mixture chooses."""

    @classmethod
    def of_replay(cls, stage: SftStage, sources: Mapping[str, Source], tokenizer: Tokenizer) -> Self:
        """The rows that an instruction tuning replays, packed as in pre-training."""
        batches = cls.of(stage, sources, tokenizer)
        packer = replace(batches.packer, prompt_loss_weight=1.0, ends_answers=False)
        return replace(batches, mixture=Mixture(stage.replay, stage.seed), packer=packer, count=stage.replayed_rows)

    def __call__(self, step: int) -> Batch:
        """Returns the batch of `step`; in a worker group, only this worker's rows of it."""
        names = self.chosen(step)[team.own(self.count)]
        rows = [self.row(name, number) for name, number in names]
        return make_batch(rows, [name for name, _ in names], self.side, self.blind, step_rows=self.count)

    def chosen(self, step: int) -> list[tuple[str, int]]:
        """The source of each of the step's rows, and the row's number within that source."""
        return self.mixture.rows(step * self.count, self.count)

    def row(self, source: str, number: int) -> PackedRow:
        return self.packer.pack(self.sources[source].documents(number))


@dataclass(frozen=True)
class ConversationBatches(StageBatches[Conversations]):
    """Maps a step of instruction tuning to its batch: conversations in as many packed rows as they need, then replayed
    rows.

    Which ones depends on the seed alone: all arms read the same, except those that fit no row, which are left out.
    """

    replay: MixtureBatches | None = None
    """Reads the replayed rows; None if there are none."""

    def __call__(self, step: int) -> Batch:
        """Returns the batch of `step`; in a worker group, only this worker's rows of it."""
        numbers = self.mixture.rows(step * self.count, self.count)
        documents = (self.sources[name].document(number) for name, number in numbers)
        rows, places = self.packer.pack_all(documents, at_least=team.size())
        replayed = self.replay.chosen(step) if self.replay else []
        count = len(rows) + len(replayed)
        own_rows = []
        names = []  # of each document
        for place in range(count)[team.own(count)]:
            if self.replay and place >= len(rows):
                name, number = replayed[place - len(rows)]
                row = self.replay.row(name, number)
                names += [replayed_name(name)] * int(row.documents.max())
            else:
                row = rows[place]
                names += [numbers[conversation][0] for conversation in places[place]]
            own_rows.append(row)
        return make_batch(own_rows, names, self.side, self.blind, True, count)


def micro_batches(batch: TensorBatch, most: int) -> Sequence[TensorBatch]:
    """The parts in which a step's `batch` is computed (gradient accumulation), of at most `most` rows (0: all); equally
    many in each process of a team, though some may have a row less than others.

    Pairs and images of an encoder's pre-training stay together: a contrastive loss compares all of them.
    """
    if not isinstance(batch, Batch):
        return [batch]
    largest_share = max(len(batch.tokens), math.ceil(batch.step_rows / team.size()))
    parts = batch.split(math.ceil(largest_share / most)) if most else [batch]
    return _with_team_counts(parts)


def _with_team_counts(parts: Sequence[Batch]) -> list[Batch]:
    """The parts of a step with what must be known of the other processes, which is exchanged here, once a step."""
    counts = [float(part.weights[:, 1:].sum()) for part in parts]
    counts += [len(part.real) for part in parts]
    counts += [len(part.images) for part in parts]
    weights, real, images = torch.tensor(team.vectors(counts), dtype=torch.float64).chunk(3, dim=1)
    told = []
    for number, part in enumerate(parts):
        step_weight = part.step_weight
        if team.size() > 1:
            step_weight = (weights.sum() / team.size()).float()
        team_real, most_images = int(real[:, number].sum()), int(images[:, number].max())
        told.append(replace(part, step_weight=step_weight, team_real=team_real, most_images=most_images))
    return told
