"""VQA accuracy (Antol et al., ICCV 2015; Goyal et al., CVPR 2017), with the normalisation of its official evaluation.

An answer that n annotators gave scores min(n / 3, 1). Each of the ten annotators is left out in turn, so that a
prediction is compared to nine answers, as an annotator's answer would be. Predictions and answers are normalised alike.

The official program has two quirks, which `official` keeps for agreement with published scores: if all ten annotators
agree, nothing is normalised, so that `Yes` does not match ten times `yes`; and an answer that consists of an article
becomes empty. The miniature world omits them, as its annotators often agree and a printed letter `a` may be an answer.
TextVQA's evaluator (its answers come from EvalAI's processor) has the second quirk only.
"""

import re
from collections.abc import Sequence
from functools import lru_cache

from mm1_lab.evaluate.letters import lower, usual
from mm1_lab.formatting import printable

AGREEING = 3
"""Number of other annotators that make an answer fully right."""
ARTICLES = frozenset({"a", "an", "the"})
_NUMBER_WORDS = "zero one two three four five six seven eight nine ten"
NUMBERS = {word: str(value) for value, word in enumerate(_NUMBER_WORDS.split())}
NUMBERS["none"] = "0"
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'

_SHORTENED = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
    he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've
    o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
    someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've
    there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's
    what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've
    wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""
_DECIMAL_COMMA = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
_MINUS = re.compile(r"(?<!\w)[-−](?=[$.]?\d)")
"""The minus of a negative number, not one between two numbers or words."""


CONTRACTIONS = {
    word[:at] + word[at + 1 :]: word for word in _SHORTENED.split() for at, letter in enumerate(word) if letter == "'"
} | {"somebody'd": "somebodyd"}
"""The official table of spellings that lack one apostrophe (`dont` → `don't`), including its error `somebodyd`.
Spellings that are also other words (`well`, `shed`, `were`) are not in it."""


@lru_cache(maxsize=1 << 16)
def normalise(answer: str, official: bool = False) -> str:
    """Normalises an answer for comparison.

    In this order: letters, digits and signs become `usual` ones (not `official`); whitespace becomes spaces;
    punctuation is removed; letters become lower case; number words up to ten become digits; articles are removed,
    unless nothing else remains (`official`: always); contractions get their apostrophes.
    """
    spaced = re.sub(r"\s", " ", answer if official else usual(answer)).strip()
    bare = _without_punctuation(spaced)
    words = (bare.lower() if official else lower(bare)).split()
    numbered = [NUMBERS.get(word, word) for word in words]
    kept = [word for word in numbered if word not in ARTICLES]
    if not kept and not official:
        kept = numbered
    return " ".join(CONTRACTIONS.get(word, word) for word in kept)


def _without_punctuation(text: str) -> str:
    """Removes each punctuation mark that somewhere has a space before or after it, and replaces others by spaces.

    If the text contains a comma between digits (`1,000`), all marks are removed. A period is removed unless a digit
    follows it.
    """
    has_decimal_comma = _DECIMAL_COMMA.search(text)
    result = text
    for mark in PUNCTUATION:
        is_removed = has_decimal_comma or f"{mark} " in text or f" {mark}" in text
        result = result.replace(mark, "" if is_removed else " ")
    return _PERIOD.sub("", result)


def vqa_accuracy(prediction: str, answers: Sequence[str], official: bool = False) -> float:
    """Points, 0 to 100: the mean over the annotators of min(matches among the others / 3, 1)."""
    if official:
        different = {_stripped(answer) for answer in answers}
        if len(different) == 1:
            return 100.0 if _stripped(prediction) in different else 0.0
    normal = [normalise(answer, official) for answer in answers]
    return _leave_one_out(normalise(prediction, official), normal)


def _stripped(text: str) -> str:
    return re.sub(r"[\n\t]", " ", text).strip()


def textvqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """VQA accuracy as TextVQA's evaluator computes it: normalises always, and does not keep commas as spaces."""
    normal = [_textvqa_normalise(answer) for answer in answers]
    return _leave_one_out(_textvqa_normalise(prediction), normal)


@lru_cache(maxsize=1 << 16)
def _textvqa_normalise(answer: str) -> str:
    text = answer.lower().replace(",", "").replace("?", "")
    return normalise(text.replace("'s", " 's"), official=True)


def _leave_one_out(prediction: str, answers: Sequence[str]) -> float:
    """Points of a normalised prediction, with normalised answers."""
    matches = answers.count(prediction)
    shares = 0.0
    for answer in answers:
        others = matches - (answer == prediction)
        shares += min(others / AGREEING, 1.0)
    return 100.0 * shares / len(answers)


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """100 points if the normalised prediction equals one of the normalised answers, else 0 (as in GQA). Unlike in VQA
    accuracy, `-5` is not `5`, and answers of signs alone (`+`, `<`) are compared as they are."""
    return 100.0 if signed(prediction) in map(signed, answers) else 0.0


def signed(answer: str) -> str:
    """Normalises an answer, with the minus of a negative number as a word, and signs alone as they are."""
    printed = printable(usual(answer))  # as answers are cut
    return normalise(_MINUS.sub("minus ", printed)) or printed.strip()
