"""Image-caption pairs of an encoder stage, by step: captioned images, or images of pages with the adjacent text.

The latter stand for the data of OpenAI's CLIP in Table 1, a smaller and different set than DFN: text found next to an
image rather than written for it. A small number of distinct pairs is repeated many times.
"""

import math
from functools import lru_cache
from itertools import count

import numpy as np

from mm1_lab import team
from mm1_lab.config import EncoderStage, RequestError
from mm1_lab.data.pixels import Decoded, TooManyBrokenPictures, decode
from mm1_lab.data.types import Data, Document, Pairs, Picture, Pixels, Tokens

OTHER_PAGES = 1_000_003
"""Added to the seed, so that with an endless source the pages differ from those of the mixture."""
FRUITLESS_ROWS = 1000
"""Number of consecutive rows without a pair after which the search ends."""


def is_dense(index: int, share: float) -> bool:
    """Whether pair number `index` has a dense caption; among the first n pairs exactly ⌊n · share⌋ do."""
    return math.floor((index + 1) * share) > math.floor(index * share)


class StepPairs:
    """Pairs t · batch … (t + 1) · batch − 1 for step t, without broken images; in a team, this process's part."""

    def __init__(self, stage: EncoderStage, data: Data) -> None:
        self._stage = stage
        self._pairs: Pairs = (
            data.pairs(stage.seed)
            if stage.distinct_pairs is None
            else PagePairs(data, stage.seed, stage.distinct_pairs)
        )

    def __call__(self, step: int) -> tuple[list[Pixels], list[str], list[int], Decoded]:
        """Images (side, side, 3), their captions, their places within the step, and the account of broken images."""
        count = self._stage.training.batch_size
        share = self._stage.synthetic_share
        places = range(count)[team.own(count)]
        indices = [step * count + place for place in places]
        pairs = [self._pairs.pair(index, is_dense(index, share)) for index in indices]
        images, decoded = decode([picture for picture, _ in pairs], self._stage.image_size)
        sound = [
            (image[0], caption, place)
            for image, (_, caption), place in zip(images, pairs, places, strict=True)
            if image is not None
        ]
        if not sound:
            raise TooManyBrokenPictures(f"none of {len(pairs)} images can be decoded: {'; '.join(decoded.broken[:10])}")
        return [one[0] for one in sound], [one[1] for one in sound], [one[2] for one in sound], decoded


class PagePairs:
    """Implements `Pairs` with the first `different` pairs of the interleaved documents, permuted in each epoch."""

    def __init__(self, data: Data, seed: int, different: int) -> None:
        """Reads the pages at once and keeps their text; pictures are drawn or decoded on demand."""
        self._pairs = pairs = _collect(data, seed, different)
        self._order = lru_cache(maxsize=2)(lambda epoch: np.random.default_rng([seed, epoch]).permutation(len(pairs)))

    def pair(self, index: int, dense: bool) -> tuple[Picture, str]:
        """Pair number `index`; there are no dense captions."""
        epoch, place = divmod(index, len(self._pairs))
        return self._pairs[int(self._order(epoch)[place])]


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
        raise RequestError("interleaved: no image has adjacent text, which the encoder's data `imagetext` requires")
    return pairs[:different]


def page_pairs(document: Document) -> list[tuple[Picture, str]]:
    """Each image with the text right after it; an image at the end of the page gets the text before it."""
    pairs = []
    parts = document.parts
    for place, part in enumerate(parts):
        if isinstance(part, str | Tokens):
            continue
        adjacent = parts[place + 1 :][:1] or parts[:place][-1:]
        if adjacent and isinstance(adjacent[0], str | Tokens) and (text := str(adjacent[0]).strip()):
            pairs.append((part, text))
    return pairs
