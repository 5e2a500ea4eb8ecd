"""The metrics of all benchmarks: points per question, and whether a prediction has the form of an answer."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, pairwise
from string import ascii_uppercase

from mm1_lab.evaluate.cider import cider
from mm1_lab.evaluate.content import content, followed
from mm1_lab.evaluate.documents import anls, relaxed_accuracy
from mm1_lab.evaluate.letters import usual
from mm1_lab.evaluate.questions import LONGEST_ANSWER, LONGEST_CAPTION, LONGEST_SOLUTION, Benchmark, Question
from mm1_lab.evaluate.vqa import exact_match, normalise, signed, textvqa_accuracy, vqa_accuracy

Points = Callable[[str, Question, Benchmark], float]
"""Points of a prediction."""

ANSWER_IS = re.compile("the answer is:?", re.IGNORECASE)
"""In a worked solution, the text after this phrase is the answer; MathVista uses a model to extract it instead."""
LETTERED = re.compile(r"[\[({\"]?([A-Za-z])(?:(?:[\])}.:;,!\"]+|\s[-–—]\s)(.*))?", re.DOTALL)
"""A choice's letter (`B`, `(b)`, `[B]`, `"B".`), and what follows it (`B. red`, `B - red`)."""
LETTER_LAST = re.compile(r"(.+?)\(([A-Za-z])\)\W*", re.DOTALL)
"""A choice's words, and its letter in brackets (`red (B)`)."""
BEFORE_LETTERS = re.compile(
    r"^(.*?\b(answer|option|choice|it|say|either)\b('s| is| would be| should be)?:?|"
    r"[^:]*:(?!\d|(.*?\b[a-z][).:,;]){2}))\s*",
    re.I | re.DOTALL,
)
"""What chat models say before a letter (`Answer:`, `So the best answer is`, `I think it is`; `Antwort:`, but not before
a list of letters, nor in `12:30`) …"""
AFTER_LETTERS = re.compile(r"\s(is (the )?(correct|right|best)|because|since)\b.*", re.I | re.DOTALL)
"""… and after it; left out where prompts show letters."""
OR = re.compile(r"\bor\b", re.I)
LETTER = re.compile(r"\b[B-Z]\b|\bA\b(?! [a-z]{3})|(?<=\()[a-z](?=\))")
"""A choice's letter amid words, but not the article of `A cat or dog is shown: B`."""
LATIN = re.compile("(?<!不是)(?<!除了)[0-9A-Za-zÀ-ɏ]+")
"""The only one in a sentence of another script (`答案是B`; not `不是B`, `除了B`, `B2层`) is a choice's letter, unless
it is a word of the choices."""
PHRASES = 8
"""Maximum number of such phrases that are left out, one after another; a model that repeats itself says more."""
MARKUP = re.compile(r"\*|__|[`$]|\\boxed")
"""The marks of bold text, code and formulas."""
YES_OR_NO = re.compile(r"\b(yes|no|not)\b", re.IGNORECASE)
CONSTANT_ANSWERS = 20
"""Number of most common answers of a kind tried as the best constant answer; of descriptions all are."""


def choice_accuracy(said: str, question: Question, benchmark: Benchmark) -> float:
    """100 points if the answer is the letter of a right choice (`B`, `(b)`, `B. red`, `I think it is **B**.`) or its
    words, else 0."""
    chosen = _chosen(said, question.choices, benchmark.official)
    return 100.0 if chosen in [usual(right) for right in question.references] else 0.0


def _chosen(said: str, choices: Sequence[str], lettered: bool) -> str | None:
    """The choice that an answer means, if any, in `usual` letters.

    `lettered`: the prompt shows letters, so that a letter, alone or before words, is the choice's letter, even if
    another choice consists of that letter; words that name another letter (`B, C`) mean none, and nor do two letters
    as alternatives (`B, or it is C`).
    """
    said, choices = usual(said).strip(), list(map(usual, choices))
    if not lettered:
        return _meant(said, choices, lettered)
    for rest in (said, MARKUP.sub("", said)):  # with its marks first, as a choice may be `$5`
        for _ in range(PHRASES):
            if chosen := _meant(rest, choices, lettered):
                return None if _is_an_alternative(chosen, said, choices) else chosen
            rest = BEFORE_LETTERS.sub("", AFTER_LETTERS.sub("", rest)).strip(" \"'")
    words = set(LATIN.findall(said))
    if not said.isascii() and len(words) == 1 and words.isdisjoint(LATIN.findall(" ".join(choices))):
        return _of_letter(words.pop(), choices)[0]
    return None


def _is_an_alternative(chosen: str, said: str, choices: Sequence[str]) -> bool:
    """Whether an answer has the letters of this choice and of another beside an `or`, which is not the choice's own."""
    if OR.search(chosen):
        return False
    choice_of = dict(zip(ascii_uppercase, choices, strict=False))
    for before, after in pairwise(OR.split(said)):
        letters = LETTER.findall(before)[-1:] + LETTER.findall(after)[:1]
        named = {choice_of.get(letter.upper()) for letter in letters}
        if len(named) == 2 and chosen in named and None not in named:
            return True
    return False


def _meant(said: str, choices: Sequence[str], lettered: bool) -> str | None:
    """The choice that an answer is, without words around it."""
    named, words = _of_letter(said, choices) if lettered else (None, "")
    if named and not words:
        return named
    if said in choices:
        return said
    if named:
        other, _ = _of_letter(words, choices)
        return named if other in (named, None) or signed(words) == signed(named) else None
    if lettered and (last := LETTER_LAST.fullmatch(said)):
        of_last, _ = _of_letter(last[2], choices)
        if of_last and signed(last[1]) == signed(of_last):
            return of_last
    read = signed(said)
    alike = {choice for choice in choices if read and signed(choice) == read}
    return alike.pop() if len(alike) == 1 else None


def _of_letter(said: str, choices: Sequence[str]) -> tuple[str | None, str]:
    """The choice whose letter an answer is or begins with, if any, and what follows the letter."""
    match = LETTERED.fullmatch(said)
    letter, words = match.groups("") if match else said.partition(" ")[::2]
    named = dict(zip(ascii_uppercase, choices, strict=False)).get(letter.upper())
    if named and not match and signed(words) != signed(named):
        return None, words  # `A dog` is no letter, unless A. is `dog`
    return named, words.strip()


def circular_accuracy(said: str, question: Question, benchmark: Benchmark) -> float:
    """100 points if each order of the choices is answered rightly, else 0 (Liu et al., ECCV 2024). `said` has one line
    per order; a single line is taken as the answer for all orders."""
    lines = said.split("\n")
    for line, order in zip(cycle(lines), (question, *question.rotated), strict=False):
        if not choice_accuracy(line, order, benchmark):
            return 0.0
    return 100.0


def says_yes(answer: str) -> bool:
    """Reads an answer as POPE's program does: no if `no` or `not` is a word of the first sentence, otherwise yes."""
    sentence = answer.partition(".")[0].replace(",", "")
    return {"No", "no", "not"}.isdisjoint(sentence.split(" "))


def yes_no_accuracy(prediction: str, references: Sequence[str]) -> float:
    """100 points if the answer says yes where its reference does, and no where that does; else 0."""
    return 100.0 if says_yes(prediction) == says_yes(references[0]) else 0.0


def solution_accuracy(said: str, question: Question, benchmark: Benchmark) -> float:
    """`exact_match` of what follows the last `the answer is`, or of everything if it does not occur; where the prompt
    shows choices, `choice_accuracy`."""
    answer = ANSWER_IS.split(said)[-1]
    if benchmark.official and question.choices:
        return choice_accuracy(answer, question, benchmark)
    return exact_match(answer, question.references)


def _against_references(points: Callable[[str, Sequence[str]], float]) -> Points:
    return lambda said, question, benchmark: points(said, question.references)


def _vqa(said: str, question: Question, benchmark: Benchmark) -> float:
    """With the official program's quirks where published scores come from it."""
    is_published = benchmark.official and benchmark.mirrors in ("VQAv2", "OK-VQA")
    return vqa_accuracy(said, question.references, is_published)


def f1_points(said: Sequence[bool], true: Sequence[bool]) -> list[float]:
    """Points per question, given whether `yes` is predicted and true, the positive class (POPE: Li et al., EMNLP 2023);
    their mean and spread are those of F1.

    F1 is a ratio of two sums, and the points are its linearisation: a question deviates from it as far as its part of
    the numerator deviates from F1 times its part of the denominator. With denominator 0, F1 is 0.
    """
    pairs = list(zip(said, true, strict=True))
    denominator = sum(said) + sum(true) or 1
    f1 = 2 * pairs.count((True, True)) / denominator
    points = []
    for one, other in pairs:
        deviation = 2 * (one and other) - f1 * (one + other)
        points.append(100.0 * (f1 + deviation * len(said) / denominator))
    return points


def _f1(predictions: Sequence[str], questions: Sequence[Question]) -> list[float]:
    true = [says_yes(question.references[0]) for question in questions]
    return f1_points(list(map(says_yes, predictions)), true)


def _cider(predictions: Sequence[str], questions: Sequence[Question]) -> list[float]:
    return cider(predictions, [question.references for question in questions])


@dataclass(frozen=True)
class Metric:
    """How answers are scored, and what that means for their questions."""

    points: Points | None
    """None if they depend on all answers."""
    of_all: Callable[[Sequence[str], Sequence[Question]], list[float]] | None = None
    """Points of all predictions, whose mean is the score."""
    lettered: bool = False
    """Whether the letter of a choice counts as its answer."""
    free: bool = False
    """Whether any text is an answer, as of captions and descriptions."""
    people: bool = False
    """Whether it needs the answers of ten people, some of whom may have said nothing."""
    longest: int = LONGEST_ANSWER
    """Maximum tokens generated on users' data."""
    sentences: bool = False
    """Whether models answer in sentences where demonstrations do not, so that these say nothing about the length."""
    further: tuple[str, ...] = ()
    """Further metrics of the same answers."""
    named: bool = True
    """Whether a user's benchmark may name it; not if it knows only the world's words or is a further metric."""
    scored_anew: str = ""
    """Changed where it scores otherwise than before: users' benchmarks are then other ones, and evaluated again."""


METRICS: dict[str, Metric] = {
    "vqa": Metric(_vqa, people=True, scored_anew="all scripts"),
    "textvqa": Metric(_against_references(textvqa_accuracy), people=True),
    "exact": Metric(_against_references(exact_match), scored_anew="all scripts"),
    "choice": Metric(choice_accuracy, lettered=True, scored_anew="all scripts"),
    "circular": Metric(circular_accuracy, lettered=True, scored_anew="all scripts"),
    "yes-no": Metric(_against_references(yes_no_accuracy), sentences=True, further=("f1",)),
    "content": Metric(_against_references(content), free=True, further=("cider", "followed"), named=False),
    "followed": Metric(_against_references(followed), free=True, named=False),
    "answer": Metric(solution_accuracy, longest=LONGEST_SOLUTION, sentences=True, scored_anew="all scripts"),
    "anls": Metric(_against_references(anls), scored_anew="NFC"),
    "relaxed": Metric(_against_references(relaxed_accuracy), scored_anew="all scripts"),
    "cider": Metric(None, _cider, free=True, longest=LONGEST_CAPTION, scored_anew="all scripts"),
    "f1": Metric(None, _f1, named=False),
}
"""Points are from 0 to 100 in the mean, of `cider` to 1000."""


def names_of(name: str, metric: str) -> list[str]:
    """The names under which a benchmark has scores."""
    return [name, *(f"{name} {one}" for one in METRICS[metric].further)]


def further(benchmark: Benchmark) -> list[Benchmark]:
    """Further metrics of the same answers, reported as benchmarks of their own, such as `pope-random f1`."""
    metric = METRICS[benchmark.metric]
    if metric.free and benchmark.family == "chat":  # descriptions, not captions
        return []
    return [replace(benchmark, name=f"{benchmark.name} {one}", metric=one, family="further") for one in metric.further]


def score(benchmark: Benchmark, predictions: Sequence[str]) -> list[float]:
    """Points of each prediction: 0 to 100, captions 0 to 1000; their mean is the benchmark's score. Predictions are in
    the order of the questions, block after block. Raises ValueError if their numbers differ."""
    questions, metric = benchmark.questions, METRICS[benchmark.metric]
    if metric.of_all:
        return metric.of_all(predictions, questions)
    assert metric.points
    return [metric.points(said, question, benchmark) for said, question in zip(predictions, questions, strict=True)]


def parsed(benchmark: Benchmark, predictions: Sequence[str]) -> list[bool]:
    """Whether each line of a prediction is a possible answer to its kind of question, right or wrong.

    This tells a model that does not see from one that does not know the answer format. Possible are the references of
    all questions of the kind; of a worked solution, what follows `the answer is` counts. Published questions of which
    letters count need a choice, those to be answered by yes or no one of these words, though the score takes anything
    else for a yes; other answers, and captions, need only be non-empty.
    """
    questions, metric = benchmark.questions, METRICS[benchmark.metric]
    possible: dict[str, set[str]] = defaultdict(set)
    for question in questions:
        possible[question.kind].update(map(normalise, question.references))
    found = []
    for prediction, question in zip(predictions, questions, strict=True):
        said = ANSWER_IS.split(prediction)[-1] if benchmark.metric == "answer" else prediction  # as it is scored
        lines = said.split("\n")
        answers = map(normalise, lines)
        if metric.free:
            found.append(all(answers))
        elif benchmark.official and metric.lettered:
            found.append(all(_chosen(line, question.choices, lettered=True) for line in lines))
        elif benchmark.official and benchmark.metric in ("yes-no", "f1"):
            found.append(all(map(YES_OR_NO.search, lines)))
        elif benchmark.official:  # of signs such as `+`, which may be right, normalisation leaves nothing
            found.append(all(map(str.strip, lines)))
        else:
            found.append(possible[question.kind].issuperset(answers))
    return found


def majority_by_kind(benchmark: Benchmark) -> dict[str, float]:
    """For each kind of question, the score of the best constant answer on these questions. This bounds what a model can
    reach without seeing, merely by knowing which answers are common. Empty for captions."""
    if METRICS[benchmark.metric].free and benchmark.family != "chat":
        return {}
    kinds = defaultdict(list)
    for question in benchmark.questions:
        kinds[question.kind].append(question)
    majority = {}
    for kind, questions in kinds.items():
        counts: Counter[str] = Counter()
        letters = 0
        for question in questions:
            counts.update(set(question.references))
            letters = max(letters, len(question.choices))
        # hardly two descriptions are alike: the best of 20 earned 9.6 points where the best of all 176 earned 13.0
        tried = None if METRICS[benchmark.metric].free else CONSTANT_ANSWERS
        constants = [answer for answer, _ in counts.most_common(tried)]
        if benchmark.official:  # whose prompts show letters
            constants += ascii_uppercase[:letters]
        alike = replace(benchmark, blocks=(tuple(questions),))
        best = 0.0
        for constant in constants:
            best = max(best, sum(score(alike, [constant] * len(questions))))
        majority[kind] = best / len(questions)
    return majority


def majority_score(benchmark: Benchmark, by_kind: Mapping[str, float]) -> float:
    questions = benchmark.questions
    return sum(by_kind[question.kind] for question in questions) / len(questions)
