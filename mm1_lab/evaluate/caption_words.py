"""Splits captions into words as the COCO caption evaluation does: Penn Treebank tokenisation, minus punctuation.

The original is Stanford CoreNLP 3.4.1 (`PTBTokenizer -preserveLines -lowerCase`) with a list of tokens to drop. That
list spells brackets in upper case while the tokens are in lower case, so brackets are kept, as `-lrb-`; so are runs
such as `!!!`, which are not in the list. Known remaining differences: docs/architecture.md.
"""

import re
import unicodedata

from mm1_lab.evaluate.letters import lower, usual
from mm1_lab.formatting import JOINERS

_DROPPED = frozenset("'`\"?!,:;")
_SPELLED = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_PLAIN = str.maketrans(
    {
        "—": "--",
        "–": "--",
        "…": "...",
        "½": "1/2",
        "¼": "1/4",
        "¾": "3/4",
        "£": "#",
        "€": "$",
        "¢": " cents ",
    }
)

_WITH_POINT = """
    jan feb mar apr jun jul aug sep sept oct nov dec mon tue tues wed thu thurs fri ala ariz calif colo conn fla ga ind
    kan kans ky md mich minn mo mont neb nev okla penn tenn va vt wis wisc wyo mr mrs ms dr drs prof gen gov sen rep lt
    col maj capt sgt adm cmdr rev hon pres sr jr esq bros inc co corp ltd plc cos assn assoc dept univ ave blvd st rd ft
    mt sq ste p vs etc cf al est intl natl mfg tel ext messrs mme mlle supt cpl brig ct bancorp bhd cie jos wm alex rt
    bldg pvt
"""
"""Abbreviations that keep their period."""
_BEFORE_NUMBER = "fig figs no nos pp ca op art"
"""Abbreviations that keep it only before a number."""


def _any(words: str) -> str:
    return "(?:" + "|".join(sorted(words.split(), key=len, reverse=True)) + ")"


_UNSPACED = (
    r"\u0e01-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao; Burmese; Khmer
    r"\u3005-\u3007\u3041-\u30fa\u30fc-\u30ff\u3400-\u9fff\uf900-\ufaff\uff66-\uff9f"  # kana and Han
)
"""Letters of scripts without spaces between words."""
_MARKS = JOINERS + "".join(
    letter for letter in map(chr, range(0x300, 0xFF00)) if unicodedata.category(letter)[0] == "M"
)
"""Parts of letters, such as the vowels of Hindi, which are no letters to regular expressions."""
_WORD = rf"(?:(?![{_UNSPACED}])[\w{_MARKS}])+"
_TOKEN = re.compile(
    rf"""
      (?:https?://|www\.)\S*[\w/]                                    # addresses
    | [\w.+-]+@[\w.-]*\w
    | </?[a-z]\w*>                                                   # a tag
    | (?-i:[A-Z]+(?:&[A-Z]+)+)                                       # AT&T
    | (?<!\w)c\+\+
    | (?<!\w)[a-z](?:\.[a-z])*\.(?!\w)|(?<!\w)[a-z](?:\.[a-z])+(?!\w)  # u.s. a.m. e.g. and an initial
    | (?<!\w)(?:ph\.d|{_any(_WITH_POINT)})\.(?!\w)
    | (?<!\w)[a-z]+\.(?=[,;:])
    | (?<!\w){_any(_BEFORE_NUMBER)}\.(?=\s*\d)
    | (?:(?<!\w)-|\+)?(?:\d+(?:[.,:]\d+)+|\.\d+)|-\d+(?::\d+)+       # 3.5 1,000 6:30 -4.5
    | (?:(?<![\w-])-|\+)\d+(?!\w)
    | '\d\d(?:s(?!\w)|(?!\S))                                                # '60s
    | (?<!\w)(?:o'clock|ma'am|c'mon|ne'er|e'er|o'er|ol'|'em|'til|'cause)(?!\w)
    | 'n'|'n(?!\w)                                                   # rock 'n' roll
    | (?<!\w)(?:[dlo]'(?=[a-z]{{3}})[a-z]+|d'(?:you|ye))             # o'neill l'oreal
    | (?<!\w)y'(?=\w)|(?<!\w)'t(?=is\b|was\b)
    | (?<!\w)(?:can(?=not\b)|(?:gon|wan)(?=na\b)|(?:gim|lem)(?=me\b)|got(?=ta\b))
    | [^\W\d]+?(?=n't(?!\w))|n't(?!\w)                               # ca n't
    | '(?:s|m|d|re|ve|ll)(?!\w)                                      # it 's
    | [\#@][a-z_]\w*                                                 # hashtags, names
    | [{_UNSPACED}][{_MARKS}]*
    | {_WORD}(?:[-/]{_WORD}|\.(?!\d){_WORD})*                       # words, joined by hyphens too
    | [!?]+|\*+|-+|\.+|[^\w\s]
    """,
    re.VERBOSE | re.IGNORECASE,
)


def caption_words(caption: str) -> list[str]:
    """The lower-case words of a caption, as compared by captioning metrics; of Chinese and other text without spaces
    each letter, as in sacreBLEU's `zh`."""
    text = "".join(letter for letter in usual(caption).translate(_PLAIN) if letter <= "\uffff")
    words = []
    for token in _TOKEN.findall(text):
        word = lower(token)
        if word not in _DROPPED and word.strip("-."):
            words.append(_SPELLED.get(word, word))
    return words
