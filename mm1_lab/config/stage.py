"""A stage, the unit of computation that trials share, and its identity. The kinds of stages are in `kinds/`.

Two stages are the same if their *resolved* configuration, their inputs and the VERSION of their kind are the same. Code
is not compared, so that a refactoring keeps every result. A stage contains its input stages; in its canonical form each
input is replaced by its fingerprint, so that any change upstream makes a new stage. Whoever changes a kind's behaviour
on purpose raises its VERSION in the same commit; the golden micro-run (tests/test_golden.py) fails if behaviour changes
without that.

Paths, worker counts, retries and resources are not part of the identity; precision, compilation and the evaluation
batch size are, because they affect the numbers. A field with its default value, of a stage or of any configuration
inside it, is left out of the canonical form, so that a new option does not change existing fingerprints. The price:
changing a default would change results under their old fingerprints. The golden resolved configurations
(tests/config/test_resolved.py) contain every value, which makes such a change visible in review.
"""

from abc import abstractmethod
from collections.abc import Iterator
from functools import cached_property
from typing import Any, ClassVar, Literal

from pydantic import Field

from mm1_lab.config.base import Config, digest
from mm1_lab.config.cost import Cost, Network, bytes_per_value, training_cost
from mm1_lab.config.errors import RequestError
from mm1_lab.config.recipe import INSTRUCTIONS, SOURCES
from mm1_lab.config.scale import Scale
from mm1_lab.config.size import Parameters

WORLD_VERSION = 4
"""Raised when the miniature world's scenes, words, sources, splits or benchmarks change."""


class DataIdentity(Config):
    """Identifies the data by content."""

    kind: Literal["world", "shards"] = "world"
    digest: str
    """`world-N`, or for shards a hash of their index, which does not depend on where the files are. It has no default
    because it must be in every fingerprint."""
    tokenizer: str = "world"
    """`world`, `bpe-N` (trained on the data's text, N entries), or the digest of a Hugging Face tokenizer."""
    sources: tuple[str, ...] = SOURCES
    """Kinds of training data that exist."""
    instructions: dict[str, float] = dict.fromkeys(INSTRUCTIONS, 1.0)
    """Instruction sets and their weights when the recipe gives none. They are part of the `sft` stage's identity only,
    since pre-training does not read them."""
    instructions_digest: str = ""
    """Hash of the files of the user's instruction sets."""

    NOT_IN_IDENTITY: ClassVar[frozenset[str]] = frozenset({"instructions", "instructions_digest"})


WORLD_DATA = DataIdentity(digest=f"world-{WORLD_VERSION}")
"""The present version of the miniature world."""


class Stage(Config):
    """A unit of computation: its configuration and size. How each kind runs is defined in `mm1_lab/train/stages.py`.

    Plans, workers and records ask a stage only through these methods. A kind of one's own must define `parameters` and
    `positions`; the other methods have defaults for a stage that trains in one process.
    """

    KIND: ClassVar[str]
    VERSION: ClassVar[int]
    TRAINS: ClassVar[bool] = True
    """Whether the stage produces weights; an evaluation produces scores."""

    seed: int = Field(ge=0)
    data: DataIdentity
    precision: str
    compile: bool

    @cached_property
    def inputs(self) -> dict[str, "Stage"]:
        """The stages whose results this one reads, by field name."""
        return {name: value for name, value in self.__dict__.items() if isinstance(value, Stage)}

    def chain(self) -> Iterator["Stage"]:
        """The stage and everything it depends on: itself, its inputs, their inputs, …; nearest first."""
        level: list[Stage] = [self]
        while level:
            yield from level
            level = [needed for stage in level for needed in stage.inputs.values()]

    @abstractmethod
    def parameters(self) -> Parameters:
        """Parameters of the transformers, without embeddings and connector."""

    @abstractmethod
    def positions(self) -> int:
        """Positions processed, padding included; for stages that see only images, image patches."""

    def flops(self) -> float:
        """6 · active parameters · positions, or 2 · … for an evaluation (Kaplan et al. 2020); accurate to a factor of
        two.

        Used with measured speeds (mm1_lab/orchestrate/planning/cost.py); a plan counts each part separately (`cost`).
        """
        return (6.0 if self.TRAINS else 2.0) * self.parameters().active * self.positions()

    def cost(self, network: Network, scale: Scale) -> Cost:
        """What the stage requires; `network` is what it trains, for an evaluation the network of its model.

        By default `flops`, all parameters trained with Adam, and no bytes for activations.
        """
        own = self.parameters()
        return training_cost(
            self.flops(),
            network,
            trained=network.total,
            active=network.total - own.total + own.active,
            itemsize=bytes_per_value(self.precision),
            rows=self.rows(),
        )

    def rows(self) -> int:
        """Rows of its smallest batch, which at most as many workers can share."""
        return 1

    def size_names(self, scale: Scale) -> list[str]:
        """The sizes by which the scale's `workers` may mean the stage; without any it runs in one process."""
        return []

    def workers(self, scale: Scale) -> int:
        """The number of processes that share the stage. Raises RequestError if it cannot be split over this many."""
        names = self.size_names(scale)
        workers, rows = max((scale.workers.get(name, 1) for name in names), default=1), self.rows()
        if workers > rows:
            name = next(name for name in names if scale.workers.get(name) == workers)
            raise RequestError(
                f"workers: {self.KIND} has {rows} rows per batch, too few for the {workers} workers of {name}"
            )
        return workers

    def canonical(self) -> dict[str, Any]:
        """Plain values that identify the stage: fields that differ from their defaults, with inputs as fingerprints."""
        return {"kind": self.KIND, "version": self.VERSION, **self.identity}

    @cached_property
    def fingerprint(self) -> str:
        """The `digest` of the canonical form."""
        return digest(self.canonical())

    def reference(self) -> str:
        """Inside other objects a stage appears as its fingerprint."""
        return self.fingerprint
