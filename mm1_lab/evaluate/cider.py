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

from mm1_lab.evaluate.caption_words import caption_words

ORDERS = (1, 2, 3, 4)
SIGMA = 6.0
"""Standard deviation, in words, of the Gaussian length penalty."""
POINTS = 1000.0
"""The customary factors 10 and 100."""

NGram = tuple[str, ...]
Vector = dict[NGram, float]
"""Count × inverse document frequency of each n-gram of a caption."""


def cider(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """Returns the score of each prediction against its references, in points; the corpus score is their mean. The
    questions form the corpus; with a single one, every n-gram has a weight of 0."""
    words = [[caption_words(text) for text in texts] for texts in references]
    questions: Counter[NGram] = Counter()  # in the references of how many questions an n-gram occurs
    for texts in words:
        questions.update({ngram for text in texts for ngram in _ngrams(text)})

    def vector(text: list[str]) -> Vector:
        counts = _ngrams(text).items()
        return {ngram: count * math.log(len(references) / max(1, questions[ngram])) for ngram, count in counts}

    scores = []
    for prediction, texts in zip(predictions, words, strict=True):
        said = caption_words(prediction)
        candidate = vector(said)
        agreements = [_agreement(candidate, vector(text), len(said) - len(text)) for text in texts]
        scores.append(POINTS * sum(agreements) / len(agreements))
    return scores


def _ngrams(words: list[str]) -> Counter[NGram]:
    ngrams: Counter[NGram] = Counter()
    for n in ORDERS:
        following = [words[start:] for start in range(n)]
        ngrams.update(zip(*following, strict=False))
    return ngrams


def _agreement(candidate: Vector, reference: Vector, longer: int) -> float:
    """Cosine similarity with clipped counts, averaged over the orders, times the length penalty; 0 to 1."""
    products = dict.fromkeys(ORDERS, 0.0)
    for ngram, weight in candidate.items():
        expected = reference.get(ngram, 0.0)
        products[len(ngram)] += min(weight, expected) * expected
    of_candidate, of_reference = _norms(candidate), _norms(reference)
    total = 0.0
    for n in ORDERS:
        norms = of_candidate[n] * of_reference[n]
        if norms:
            total += products[n] / norms
    penalty = math.exp(-(longer**2) / (2 * SIGMA**2))
    return penalty * total / len(ORDERS)


def _norms(vector: Vector) -> dict[int, float]:
    """The Euclidean norm for each order."""
    squares = dict.fromkeys(ORDERS, 0.0)
    for ngram, weight in vector.items():
        squares[len(ngram)] += weight**2
    return {n: math.sqrt(square) for n, square in squares.items()}
