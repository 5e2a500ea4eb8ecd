"""Data whose text is cut into tokens by another tokenizer than their own."""

from mm1_lab.config import DataIdentity
from mm1_lab.data.tokenizers import BackendTokenizer
from mm1_lab.data.types import Data, Document, Pairs, Source, TextCurriculum


class Retokenized:
    """`data` with the tokenizer of a pre-trained decoder. Only for data that are not cut by tokens, as the world."""

    def __init__(self, data: Data, tokenizer: BackendTokenizer) -> None:
        self._data = data
        self.tokenizer = tokenizer

    @property
    def identity(self) -> DataIdentity:
        return self._data.identity.model_copy(update={"tokenizer": self.tokenizer.digest})

    def source(self, name: str, seed: int) -> Source:
        return self._data.source(name, seed)

    def instructions(self, name: str, seed: int) -> Source:
        return self._data.instructions(name, seed)

    def pretraining_text(self, seed: int) -> TextCurriculum:
        return self._data.pretraining_text(seed)

    def pairs(self, seed: int) -> Pairs:
        return self._data.pairs(seed)

    def held_out(self, name: str, count: int) -> list[Document]:
        return self._data.held_out(name, count)
