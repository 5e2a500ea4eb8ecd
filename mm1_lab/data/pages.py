"""Images of pages with the text beside them as image-caption pairs: few different ones, seen again and again.

This stands for the data of OpenAI's CLIP in Table 1, a smaller set than DFN and of another kind: text that was found
next to an image, not written for it alone.
"""

from functools import lru_cache
from itertools import count

import numpy as np
from numpy.typing import NDArray

from mm1_lab.config import RequestError
from mm1_lab.data.types import Data, Document, Picture, Tokens

OTHER_PAGES = 1_000_003
"""Added to the seed, so that in an endless source the pages are not those of the mixture."""
FRUITLESS_ROWS = 1000
"""Rows without a pair after which there is no hope of one."""


class PagePairs:
    """Fulfils `Pairs` with the first `different` pairs of the interleaved documents; each epoch is permuted anew."""

    def __init__(self, data: Data, seed: int, different: int) -> None:
        """Reads the pages at once and keeps their text; pictures are drawn or decoded when they are asked for."""
        self._seed = seed
        self._pairs = _collect(data, seed, different)
        self._order = lru_cache(maxsize=2)(self._permute)

    def pair(self, index: int, dense: bool) -> tuple[Picture, str]:
        """Pair number `index`; there are no dense captions here."""
        epoch, place = divmod(index, len(self._pairs))
        return self._pairs[int(self._order(epoch)[place])]

    def _permute(self, epoch: int) -> NDArray[np.int64]:
        return np.random.default_rng([self._seed, epoch]).permutation(len(self._pairs))


def _collect(data: Data, seed: int, different: int) -> list[tuple[Picture, str]]:
    source = data.source("interleaved", seed + OTHER_PAGES)
    pairs: list[tuple[Picture, str]] = []
    seen: set[str] = set()
    fruitless = 0
    for row in count():
        before = len(pairs)
        for document in source.documents(row):
            if document.key not in seen:
                seen.add(document.key)
                pairs += page_pairs(document)
        fruitless = 0 if len(pairs) > before else fruitless + 1
        if len(pairs) >= different or source.epochs(row + 1) >= 1 or fruitless == FRUITLESS_ROWS:
            break
    if not pairs:
        raise RequestError("interleaved: no image has text beside it; the encoder's data `imagetext` needs such pages")
    return pairs[:different]


def page_pairs(document: Document) -> list[tuple[Picture, str]]:
    """Each image with the text that follows it at once; one that ends the page, with the text before it."""
    pairs = []
    parts = document.parts
    for place, part in enumerate(parts):
        if isinstance(part, str | Tokens):
            continue
        beside = parts[place + 1 :][:1] or parts[:place][-1:]
        if beside and isinstance(beside[0], str | Tokens) and (text := str(beside[0]).strip()):
            pairs.append((part, text))
    return pairs
