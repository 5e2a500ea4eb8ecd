"""The words of the miniature world, its vocabulary, and its tokenizer with one id per word."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _paired(first: Iterable[str], second: str) -> dict[str, str]:
    return dict(zip(first, _words(second), strict=True))


COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 180, 60),
    "blue": (50, 80, 230),
    "yellow": (235, 215, 50),
    "purple": (165, 60, 200),
    "white": (245, 245, 245),
}
"""Name → RGB."""
SHAPES = _words("circle square triangle cross ring diamond moon arch bow frame")
LETTERS = tuple("cefhkltuxz")
SIZES = _words("large small")
PLACES = _words("top-left top-right center bottom-left bottom-right")
"""In reading order. Each place is one word: a decoder copies the second word of a phrase by finding what followed the
first, which is impossible within an image token."""
CORNERS = (0, 1, 3, 4)
"""Indices of the places that occur in pictures; the center occurs only in text."""
NEIGHBOURS = {
    "left of": {1: 0, 4: 3},
    "right of": {0: 1, 3: 4},
    "above": {3: 0, 4: 1},
    "below": {0: 3, 1: 4},
}
"""For each relation, maps a thing's place to the neighbouring place; the center has no neighbours."""

SECOND = {
    "colour": _paired(COLOURS, "crimson emerald azure amber violet ivory"),
    "shape": _paired(SHAPES, "disc block wedge crux hoop gem crescent gate knot window"),
    "size": _paired(SIZES, "big little"),
    "place": _paired(PLACES, "upper-left upper-right middle lower-left lower-right"),
}
"""For each attribute, first word → second word of the same meaning. Whoever writes keeps to one of the two (a
*convention*), so that demonstrations tell what nothing else does. Letters have one name."""

ANIMALS = _words("fox owl bear crab deer wolf hen goat lion seal")
TOWNS = _words("oslo lima cairo paris tokyo delhi")
OWNERS = _paired(SHAPES, "owl crab fox wolf deer bear goat seal hen lion")
"""Facts that no picture shows: the animal that owns each shape."""
LIKED = _paired(COLOURS, "lima delhi oslo cairo tokyo paris")
"""Facts that no picture shows: the town that likes each colour."""

SPARE_NOUNS = _words("cup hat book lamp boat shoe key door ball coin leaf drum")
SPARE_COLOURS = _words("black pink brown gold")
"""Words that occur only in text, so that look-up by key is learnt for more words than pictures need."""

NUMBERS = tuple(map(str, range(19)))

_GRAMMAR = """
. , : ? ; - question answer what which where how is are was there the a an at of in on it its this that these one two
color shape size letter letters place many left right above below yes no shapes things thing written
photo picture pictures image stock img view shows show shown see seen with and next to here some first second then last
more another also both all same different like but not has have had corner scene contains sits
stands lies lone we look now page about collection gallery find found read reads says printed sign word
plus minus equals after comes before again say list owns likes animal town who does tell told story went came home saw
took gave friend day night far near liked because so only every always never other between total count counted
each begin end beside by from comes contains gallery an to
"""

COMPOUNDS = (
    *(f"{size}-{colour}-{noun}" for size in SIZES for colour in COLOURS for noun in SHAPES + LETTERS),
    *(f"{noun}-{place}" for noun in SHAPES + LETTERS for place in PLACES),
)
"""Words that carry several attributes at once, as `poodle` implies dog, small and curly. An image token packs a whole
thing into one position; a decoder that has only read one word per attribute cannot look anything up within one."""

SPECIAL = ("<pad>", "<begin>", "<end>", "<image>")
VOCABULARY = tuple(
    dict.fromkeys(
        [
            *SPECIAL,
            *_GRAMMAR.split(),
            *COLOURS,
            *SHAPES,
            *LETTERS,
            *SIZES,
            *PLACES,
            *(word for words in SECOND.values() for word in words.values()),
            *ANIMALS,
            *TOWNS,
            *SPARE_NOUNS,
            *SPARE_COLOURS,
            *NUMBERS,
            *COMPOUNDS,
        ]
    )
)
_IDS = {word: number for number, word in enumerate(VOCABULARY) if word not in SPECIAL}


class WorldTokenizer:
    """Splits at spaces and maps each word to its id. Raises KeyError for a word outside the vocabulary."""

    pad, begin, end, image = range(4)
    size = len(VOCABULARY)

    def encode(self, text: str) -> list[int]:
        return [_IDS[word] for word in text.split()]

    def decode(self, ids: Iterable[int]) -> str:
        return " ".join(VOCABULARY[number] for number in ids if number >= len(SPECIAL))

    @property
    def backend(self) -> "Backend":
        """An equivalent word-level tokenizer of the `tokenizers` library; unknown words are an error there too."""
        from tokenizers import Tokenizer, models, pre_tokenizers

        backend = Tokenizer(models.WordLevel({word: number for number, word in enumerate(VOCABULARY)}))
        backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        backend.add_special_tokens(list(SPECIAL))
        return backend
