"""CIDEr-D (Vedantam et al., CVPR 2015): how well a caption agrees with several human ones.

A caption is a vector of its n-grams' counts, each weighed by how rare the n-gram is over the questions of the corpus.
The score is the cosine with each reference, for n = 1 to 4, where a count above the reference's earns nothing and a
difference in length is punished; the mean over references and over n, × 10. As the reference implementation does,
counts are raw, and document frequencies come from the references that are scored against. Papers report it × 100,
and so do we: people agree with each other at about 100, a copy of the only reference scores 1000.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from mm1_lab.evaluate.caption_words import caption_words

ORDERS = (1, 2, 3, 4)
SIGMA = 6.0
"""Of the gaussian over the difference in length, in words."""
POINTS = 1000.0
"""The customary × 10 and × 100."""

NGram = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Caption:
    """A caption as weighed n-grams."""

    words: int
    weights: dict[NGram, float]
    """Count × rarity of each n-gram."""
    norms: tuple[float, ...]
    """Length of the vector of each order."""


def cider(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """The score of each prediction against its own references, in points; the corpus score is their mean.

    The questions together are the corpus: with one alone every n-gram is in all of it and weighs nothing.
    Raises ValueError where the lengths differ or a prediction has no reference.
    """
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions for {len(references)} sets of references")
    if not all(references):
        raise ValueError("every prediction needs at least one reference")
    words = [[caption_words(text) for text in texts] for texts in references]
    frequency = Counter(ngram for texts in words for ngram in {g for text in texts for g in _ngrams(text)})
    corpus = len(references)
    rarity = {ngram: math.log(corpus / count) for ngram, count in frequency.items()}
    scores = []
    for prediction, texts in zip(predictions, words, strict=True):
        candidate = _weigh(caption_words(prediction), rarity, math.log(corpus))
        agreements = [_agreement(candidate, _weigh(text, rarity, math.log(corpus))) for text in texts]
        scores.append(POINTS * sum(agreements) / len(agreements))
    return scores


def _ngrams(words: list[str]) -> Counter[NGram]:
    """Counts of the n-grams of every order."""
    return Counter(tuple(words[at : at + n]) for n in ORDERS for at in range(len(words) - n + 1))


def _weigh(words: list[str], rarity: dict[NGram, float], rarest: float) -> _Caption:
    """`rarest` is the weight of an n-gram that no reference has."""
    weights = {ngram: count * rarity.get(ngram, rarest) for ngram, count in _ngrams(words).items()}
    squares = dict.fromkeys(ORDERS, 0.0)
    for ngram, weight in weights.items():
        squares[len(ngram)] += weight**2
    return _Caption(len(words), weights, tuple(math.sqrt(squares[n]) for n in ORDERS))


def _agreement(candidate: _Caption, reference: _Caption) -> float:
    """The mean over the orders of the cosine with clipped counts, punished for a difference in length; 0 to 1."""
    products = dict.fromkeys(ORDERS, 0.0)
    for ngram, weight in candidate.weights.items():
        expected = reference.weights.get(ngram, 0.0)
        products[len(ngram)] += min(weight, expected) * expected
    norms = zip(ORDERS, candidate.norms, reference.norms, strict=True)
    cosines = [products[n] / (ours * theirs) if ours and theirs else 0.0 for n, ours, theirs in norms]
    penalty = math.exp(-((candidate.words - reference.words) ** 2) / (2 * SIGMA**2))
    return penalty * sum(cosines) / len(ORDERS)
