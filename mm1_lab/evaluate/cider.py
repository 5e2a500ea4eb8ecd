"""CIDEr-D (Vedantam et al., CVPR 2015): agreement of a caption with several human captions.

A caption is a vector of n-gram counts, weighted by inverse document frequency over the questions of the corpus. For
n = 1 to 4, the score is the cosine similarity with each reference, where counts are clipped to those of the reference
and differences in length are penalised; it is averaged over references and n, and multiplied by 10. As in the reference
implementation, term counts are not normalised, and document frequencies are those of the references. Like papers, we
report it × 100: human captions score about 100, a copy of the only reference 1000.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from mm1_lab.evaluate.caption_words import caption_words

ORDERS = (1, 2, 3, 4)
SIGMA = 6.0
"""Standard deviation, in words, of the Gaussian length penalty."""
POINTS = 1000.0
"""The customary factors 10 and 100."""

NGram = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Caption:
    """A caption as a TF-IDF vector per n-gram order."""

    words: int
    weights: dict[NGram, float]
    """Count × inverse document frequency of each n-gram."""
    norms: dict[int, float]
    """Euclidean norm for each order."""


def cider(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """Returns the score of each prediction against its references, in points; the corpus score is their mean. The
    questions form the corpus; with a single one, every n-gram has a weight of 0."""
    words = [[caption_words(text) for text in texts] for texts in references]
    questions: Counter[NGram] = Counter()  # in the references of how many questions an n-gram occurs
    for texts in words:
        ngrams: set[NGram] = set()
        for text in texts:
            ngrams.update(_ngrams(text))
        questions.update(ngrams)
    rarest = math.log(max(1, len(references)))
    rarity = {}
    for ngram, count in questions.items():
        rarity[ngram] = math.log(len(references) / count)
    scores = []
    for prediction, texts in zip(predictions, words, strict=True):
        candidate = _weigh(caption_words(prediction), rarity, rarest)
        agreements = [_agreement(candidate, _weigh(text, rarity, rarest)) for text in texts]
        scores.append(POINTS * sum(agreements) / len(agreements))
    return scores


def _ngrams(words: list[str]) -> Counter[NGram]:
    ngrams: Counter[NGram] = Counter()
    for n in ORDERS:
        following = [words[start:] for start in range(n)]
        ngrams.update(zip(*following, strict=False))
    return ngrams


def _weigh(words: list[str], rarity: dict[NGram, float], rarest: float) -> _Caption:
    """The caption's weighted vector; `rarest` is the weight of an n-gram that occurs in no reference."""
    weights = {}
    squares = dict.fromkeys(ORDERS, 0.0)
    for ngram, count in _ngrams(words).items():
        weight = count * rarity.get(ngram, rarest)
        weights[ngram] = weight
        squares[len(ngram)] += weight**2
    norms = {n: math.sqrt(square) for n, square in squares.items()}
    return _Caption(len(words), weights, norms)


def _agreement(candidate: _Caption, reference: _Caption) -> float:
    """Cosine similarity with clipped counts, averaged over the orders, times the length penalty; 0 to 1."""
    products = dict.fromkeys(ORDERS, 0.0)
    for ngram, weight in candidate.weights.items():
        expected = reference.weights.get(ngram, 0.0)
        products[len(ngram)] += min(weight, expected) * expected
    total = 0.0
    for n in ORDERS:
        norms = candidate.norms[n] * reference.norms[n]
        if norms:
            total += products[n] / norms
    longer = candidate.words - reference.words
    penalty = math.exp(-(longer**2) / (2 * SIGMA**2))
    return penalty * total / len(ORDERS)
