"""The stages, units of computation that trials share, and their identity.

Two stages are the same if their *resolved* configuration, their inputs (as fingerprints) and the VERSION of their kind
are: see "Identity is configuration, not code" in docs/architecture.md. A field with its default value, of a stage or of
any configuration inside it, is left out, so that a new option changes no fingerprint. The price: changing a default
would change results under their old fingerprints, which tests/config/test_resolved.py makes visible.
"""

from abc import abstractmethod
from collections.abc import Collection, Iterator
from functools import cached_property
from typing import Any, ClassVar, Literal

from pydantic import Field

from mm1_lab.config.base import Config, RequestError, digest
from mm1_lab.config.benchmark import Shape
from mm1_lab.config.cost import Cost, Network, training_cost
from mm1_lab.config.recipe import INSTRUCTIONS, SOURCES
from mm1_lab.config.scale import Scale
from mm1_lab.config.size import Parameters

PAIRS_VERSION, REST_VERSION = 5, 1
"""Raised when the miniature world changes: the first one (the second is 0 then) with the image-caption pairs (scenes,
drawing, words, captions), which are all that an encoder reads; the second one with texts, pages or benchmarks alone."""


def set_key(name: str) -> str:
    """The name of an instruction set among all sources."""
    return f"instructions.{name}"


class DataIdentity(Config):
    """Identifies the data by content."""

    NOT_IN_IDENTITY = frozenset({"sources", "instructions", "file_pictures", "parts"})

    kind: Literal["world", "shards"] = "world"
    digest: str
    """`world-N`, or of shards a hash of the built-in sources (of all if there are none of these), on which a tokenizer
    is trained; folders of results are named by it."""
    tokenizer: str = "world"
    """`world`, `bpe-N` (trained on the data's text, N entries), or the digest of a Hugging Face tokenizer."""
    sources: tuple[str, ...] = SOURCES
    """Kinds of training data that exist."""
    parts: dict[str, str] = Field(default_factory=dict)
    """Of shards a hash of each source, and of each instruction set by its `set_key`."""
    instructions: dict[str, float] = dict.fromkeys(INSTRUCTIONS, 1.0)
    """Instruction sets and their weights when the recipe gives none."""
    file_pictures: Shape = "squeeze"
    """How the data file has images made square, which is in each of `parts`."""
    pictures: Shape | None = None
    """The same for one recipe, if it is another."""

    @property
    def shape(self) -> Shape:
        """How images are made square."""
        return self.pictures or self.file_pictures

    def shaped(self, pictures: Shape | None) -> "DataIdentity":
        """The data with images made square as a recipe says. Raises RequestError for the miniature world."""
        if pictures and self.kind == "world":
            raise RequestError("pictures: those of the miniature world are square; give data of your own (--data)")
        return self.model_copy(update={"pictures": None if pictures == self.file_pictures else pictures})

    @property
    def held_out(self) -> tuple[str, ...]:
        """What has held-out documents: the sources, and of users' data the instruction sets, for tuned models."""
        sets = self.instructions if self.kind == "shards" else ()
        return (*self.sources, *map(set_key, sets))

    def of(self, names: Collection[str]) -> dict[str, Any]:
        """Identifies what a stage reads of the data: of users' these sources and sets alone, and what a tokenizer was
        trained on. No source changes what another holds out: a document is held out by a hash of its own key."""
        if self.kind == "world":
            return self.identity
        trained_on = self.digest if self.tokenizer.startswith("bpe-") else ""
        parts = {name: part for name, part in self.parts.items() if name in names}
        return self.identity | {"digest": trained_on, "parts": parts}

    def of_pairs(self) -> "DataIdentity":
        """Identifies what an encoder reads of the data; of the present world the version of its pairs alone."""
        is_world = self.digest == WORLD_DATA.digest
        return self.model_copy(update={"digest": f"world-{PAIRS_VERSION}"}) if is_world else self


WORLD_DATA = DataIdentity(digest=f"world-{PAIRS_VERSION}.{REST_VERSION}")
"""The present version of the miniature world."""


class Stage(Config):
    """A unit of computation: its configuration and size. How each kind runs is defined in `mm1_lab/train/stages.py`.

    A kind of one's own must define `parameters` and `positions`; the other methods suit one that trains in one process.
    """

    KIND: ClassVar[str]
    VERSION: ClassVar[int]
    TRAINS: ClassVar[bool] = True
    """Whether the stage produces weights; an evaluation produces scores."""

    seed: int = Field(ge=0)
    data: DataIdentity
    precision: str
    compile: bool

    @property
    def name(self) -> str:
        """What plans, progress and records call it: its kind, unless a trial may have two of it."""
        return self.KIND

    @cached_property
    def inputs(self) -> dict[str, "Stage"]:
        """The stages whose results this one reads, by field name."""
        return {name: value for name, value in self.__dict__.items() if isinstance(value, Stage)}

    def chain(self) -> Iterator["Stage"]:
        """The stage, its inputs, their inputs, …"""
        level: list[Stage] = [self]
        while level:
            yield from level
            level = [needed for stage in level for needed in stage.inputs.values()]

    @property
    def reads(self) -> Collection[str]:
        """Which sources and instruction sets (of `data.held_out`) it reads; no others are in its identity."""
        return self.data.held_out

    @abstractmethod
    def parameters(self) -> Parameters:
        """Parameters of the transformers, without embeddings and connector."""

    @abstractmethod
    def positions(self) -> int:
        """Positions processed, padding included; for stages that see only images, image patches."""

    def flops(self) -> float:
        """6 · active parameters · positions, or 2 · … for an evaluation (Kaplan et al. 2020), right to a factor of two.
        Used with measured speeds; `cost` counts each part separately."""
        return (6.0 if self.TRAINS else 2.0) * self.parameters().active * self.positions()

    def cost(self, network: Network, scale: Scale) -> Cost:
        """What the stage requires; `network` is what it trains, for an evaluation the network of its model."""
        return training_cost(self.flops(), network, None, self.precision, self.rows())

    def rows(self) -> int:
        """Rows of its smallest batch, which at most as many workers can share."""
        return 1

    def size_names(self, scale: Scale) -> list[str]:
        """The sizes by which the scale's `workers` may mean the stage; without any it runs in one process."""
        return []

    def workers(self, scale: Scale) -> int:
        """The number of processes that share the stage. Raises RequestError if it cannot be split over this many."""
        asked = ((scale.workers.get(name, 1), name) for name in self.size_names(scale))
        workers, name = max(asked, default=(1, ""))
        rows = self.rows()
        if workers > rows:
            raise RequestError(
                f"workers: {self.KIND} has {rows} rows per batch, too few for the {workers} workers of {name}"
            )
        part = scale.resources.gpus
        if workers > 1 and 0 < part < 1:  # NCCL refuses two of them on one GPU
            raise RequestError(
                f"workers: each of the {workers} workers of {name} needs a GPU of its own, but resources.gpus is "
                f"{part:g}; --set resources.gpus=1, or leave {name} out of the scale's `workers`"
            )
        return workers

    def canonical(self) -> dict[str, Any]:
        """Plain values that identify the stage."""
        return {"kind": self.KIND, "version": self.VERSION, **self.not_default(), "data": self.data.of(self.reads)}

    @cached_property
    def fingerprint(self) -> str:
        """The digest of the canonical form."""
        return digest(self.canonical())

    def reference(self) -> str:
        """Inside other objects a stage appears as its fingerprint."""
        return self.fingerprint
