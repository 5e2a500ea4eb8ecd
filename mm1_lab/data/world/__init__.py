"""The miniature world: unlimited procedurally generated training data with known ground truth."""

from mm1_lab.config import WORLD_DATA
from mm1_lab.data.tokenizers import BackendTokenizer
from mm1_lab.data.types import Document, Limits, Tokenizer
from mm1_lab.data.world.instructions import InstructionSource
from mm1_lab.data.world.sources import WorldCurriculum, WorldPairs, WorldSource
from mm1_lab.data.world.words import WorldTokenizer

__all__ = ["World"]

_HELD_OUT_SEED = 0


class World:
    """Implements `mm1_lab.data.types.Data`. Pass `tokenizer` to use that of a pre-trained decoder.

    Names of sources and sets are those of `WORLD_DATA`, against which a recipe's are checked (`config/pretraining.py`).
    """

    def __init__(self, tokenizer: BackendTokenizer | None = None) -> None:
        self.identity = WORLD_DATA
        self.tokenizer: Tokenizer = tokenizer or WorldTokenizer()
        if tokenizer:
            # spaced: a document's texts are joined by spaces, which they were not at first
            self.identity = WORLD_DATA.model_copy(update={"tokenizer": f"{tokenizer.digest}-spaced"})

    def source(self, name: str, seed: int, limits: Limits | None = None) -> WorldSource:
        return WorldSource(name, seed)

    def instructions(self, name: str, seed: int, limits: Limits) -> InstructionSource:
        return InstructionSource(name, seed)

    def pretraining_text(self, seed: int, longest: int) -> WorldCurriculum:
        return WorldCurriculum(seed, longest)

    def pairs(self, seed: int) -> WorldPairs:
        return WorldPairs(seed)

    def held_out(self, name: str, count: int) -> list[Document]:
        source = WorldSource(name, _HELD_OUT_SEED, "test")
        return [source.document(index) for index in range(count)]
