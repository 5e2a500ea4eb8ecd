"""A stage, the unit of computation that trials share, and its identity; the kinds of stages are in `kinds.py`.

What makes two stages the same? Their *resolved* configuration, their inputs, and the VERSION of their kind: never the
code, so that a refactoring keeps every result. A stage holds its input stages; in its canonical form each stands as its
fingerprint, so a changed detail anywhere upstream makes a new stage. When a kind's behaviour changes on purpose, raise
its VERSION in the same commit; the golden micro-run (tests/test_golden.py) fails if behaviour changes without that.
Paths, worker counts, retries and resources are not part of a stage; precision, compilation and evaluation batches are,
because they move the numbers. A field that has a default, of a stage or of any configuration inside it, is left out of
the canonical form while it has that value, so that a new option leaves the fingerprints of what was done before it
standing. The price: a default whose value is changed would change results under their old fingerprints. The golden
resolved configurations (tests/config/test_resolved.py) show every value, so that such a change is seen in review.
"""

import hashlib
from abc import abstractmethod
from collections.abc import Iterator
from functools import cached_property
from typing import Any, ClassVar, Literal

from pydantic import Field

from mm1_lab.config.base import Config, canonical_json
from mm1_lab.config.recipe import INSTRUCTIONS, SOURCES
from mm1_lab.config.size import Parameters

WORLD_VERSION = 3
"""Raised when the miniature world's scenes, words, sources, splits or benchmarks change."""


class DataIdentity(Config):
    """Which data, by content."""

    kind: Literal["world", "shards"] = "world"
    digest: str
    """`world-N`, or for shards a hash of their index, so that moving the files changes nothing. Without a default, for
    it must be in every fingerprint."""
    tokenizer: str = "world"
    """`world`, `bpe-N` (trained on the data's text, N entries), or the digest of a Hugging Face tokenizer."""
    sources: tuple[str, ...] = SOURCES
    """The kinds of training data there are."""
    instructions: dict[str, float] = dict.fromkeys(INSTRUCTIONS, 1.0)
    """The instruction sets there are, and their weights where a recipe gives none. They identify the `sft` stage alone,
    for pre-training does not read them."""
    instructions_digest: str = ""
    """For users' sets, a hash of their files."""

    PLACES: ClassVar[frozenset[str]] = frozenset({"instructions", "instructions_digest"})


WORLD_DATA = DataIdentity(digest=f"world-{WORLD_VERSION}")
"""The miniature world of this version."""


class Stage(Config):
    """A unit of computation. What a kind is in numbers stands here, how it runs in `mm1_lab/train/stages.py`."""

    KIND: ClassVar[str]
    VERSION: ClassVar[int]
    TRAINS: ClassVar[bool] = True
    """Whether it leaves weights; an evaluation leaves scores."""

    seed: int = Field(ge=0)
    data: DataIdentity
    precision: str
    compile: bool

    @cached_property
    def inputs(self) -> dict[str, "Stage"]:
        """The stages whose results this one reads, by field name."""
        return {name: value for name, value in self.__dict__.items() if isinstance(value, Stage)}

    def chain(self) -> Iterator["Stage"]:
        """The stage and all that it stands on: itself, its inputs, theirs, …; nearest first."""
        level: list[Stage] = [self]
        while level:
            yield from level
            level = [needed for stage in level for needed in stage.inputs.values()]

    @abstractmethod
    def parameters(self) -> Parameters:
        """Of the transformers, without embeddings and connector."""

    @abstractmethod
    def positions(self) -> int:
        """Positions that the work is done on, padding included; image patches where only images are seen."""

    def flops(self) -> float:
        """6 · active parameters · positions, 2 in evaluation (Kaplan et al. 2020): good to a factor of two.

        What measured speeds go by; a plan counts by part (mm1_lab/orchestrate/cost.py).
        """
        return (6.0 if self.TRAINS else 2.0) * self.parameters().active * self.positions()

    def canonical(self) -> dict[str, Any]:
        """Plain values that identify the stage: what differs from its default, with inputs as fingerprints."""
        return {"kind": self.KIND, "version": self.VERSION, **self.identity}

    @cached_property
    def fingerprint(self) -> str:
        """The first 16 hexadecimal digits of the SHA-256 over the canonical form."""
        return hashlib.sha256(canonical_json(self.canonical()).encode()).hexdigest()[:16]

    def reference(self) -> str:
        """A stage stands in others as its fingerprint."""
        return self.fingerprint
