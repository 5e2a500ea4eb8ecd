"""Puts scenes into words: alt-text, dense captions, plain descriptions, and voices composed at random.

Whoever writes a page, tells several scenes or annotates captions has a *voice* (opening, order of attributes, wording
of places, what is left out) and a *convention* (for each attribute, which of its two words). Both come in thousands, so
that a model has to take them from the context (Chan et al. 2022; Raventós et al. 2023). A thing's attributes stay
within four words of its name, which these small models need.
"""

from collections.abc import Callable, Sequence
from random import Random

from mm1_lab.data.world.scenes import Scene, Thing
from mm1_lab.data.world.words import COMPOUNDS, PLACES, SECOND

Voice = Callable[[Random, Scene], str]
Convention = frozenset[str]
"""The attributes, of the keys of `SECOND`, that are said in their second words."""
FIRST: Convention = frozenset()
"""The convention of questions, dense captions and short answers that nothing shows otherwise."""


def draw_convention(random: Random) -> Convention:
    """Each attribute is in its second words with probability 1/2."""
    return frozenset(attribute for attribute in SECOND if random.random() < 0.5)


def opposite(convention: Convention) -> Convention:
    return frozenset(SECOND) - convention


def spoken(text: str, convention: Convention) -> str:
    """The text, given in first words, in this convention."""
    if not convention:
        return text
    words = text.split()
    return " ".join(_SPOKEN[word] if _ATTRIBUTE_OF.get(word) in convention else word for word in words)


def in_first_words(word: str) -> str:
    """The first word of the same meaning as a second word; any other word as it is."""
    return _FIRST_OF.get(word, word)


_ATTRIBUTE_OF = {first: attribute for attribute, words in SECOND.items() for first in words}
_SPOKEN = {first: second for words in SECOND.values() for first, second in words.items()}
_FIRST_OF = {second: first for first, second in _SPOKEN.items()}


def in_convention(voice: Voice, convention: Convention) -> Voice:
    return lambda random, scene: spoken(voice(random, scene), convention)


def _filled(form: str, thing: Thing) -> str:
    return form.format(size=thing.size, colour=thing.colour, name=thing.name, place=PLACES[thing.place])


def alt_text(random: Random, scene: Scene, complete: bool = False, convention: Convention | None = None) -> str:
    """A short caption with occasional junk words; unless `complete`, attributes and things may be missing.

    `convention`: drawn anew for each caption if not given.
    """
    form = "{colour} {name}"
    if complete or random.random() < 0.7:
        form = "{size} " + form
    if complete or random.random() < 0.8:
        form += " {place}"
    things = [thing for thing in scene.things if complete or random.random() < 0.9]
    if not things:
        things = [random.choice(scene.things)]
    lead = random.choice(("", "", "", "photo : ", "picture of ", "stock image ", "img - "))
    phrases = [_filled(form, thing) for thing in things]
    if convention is None:
        convention = draw_convention(random)
    return spoken(f"{lead}{' , '.join(phrases)} .", convention)


def dense_caption(random: Random, scene: Scene) -> str:
    sentences = [_filled("a {size} {colour} {name} is at {place} .", thing) for thing in scene.things]
    count = len(sentences)
    sentences.append("there is 1 thing ." if count == 1 else f"there are {count} things .")
    return " ".join(sentences)


def _phrases(text: str) -> list[str]:
    return text.split("|")


_OPENINGS = _phrases(
    "here we see|this one has|look :|we found|it shows||see|now|this shows|this picture contains|next :|here comes|then"
    "|again|it has|another picture :|this image has|first seen here :|we see here|and now"
)
"""How a page begins what it says about each picture."""
_TEMPLATES = (
    "{a}|{size}|{colour}|{name}|{place}",
    "{a}|{colour}|{name}|{place}|, {size}",
    "{a}|{colour}|{name}|, {size}|, {place}",
    "{place}|{a}|{size}|{colour}|{name}",
    "{place} is|{a}|{size}|{colour}|{name}",
    "{a}|{size}|{name}|, {colour}|, {place}",
    "{a}|{size}|{colour}|{name}|that is {place}",
    "{a}|{size}|{colour}|{name}|stands {place}",
    "{a}|{size}|{colour}|{name}|sits {place}",
    "{place} sits|{a}|{size}|{colour}|{name}",
    "{a}|{name}|, {size}|, {colour}|, {place}",
    "{a}|{name}|{place}|, {size}|, {colour}",
)
"""How a thing is said; a piece (between bars) that tells what a voice leaves out is dropped."""
_PREPOSITIONS = _phrases("at|in|on|near|at the|in the|on the|near the|from|to the|of the|by")
_CORNERED = 0.2
"""Probability that a voice says `corner` after a place."""
_DETERMINERS = _phrases("a|the|one|this|some|")
_JOINTS = _phrases("and|with|,|next to|beside|;|and also|then|and then")
_IN_CAPTIONS = (
    [form for form in _TEMPLATES if form.startswith("{a}") and form.index("{colour}") < form.index("{name}")],
    [joint for joint in _JOINTS if joint != ";"],
)
"""Templates and joints of the benchmarks' captions. With colours after names the base loses twice as much content by
demonstrations (results/LOG.md); a semicolon ends a sentence, and a reference caption is a single one."""
_LEFT_OUT = {"size": 0.3, "place": 0.2, "colour": 0.1}
"""Probability that a voice never says an attribute."""


def page_voice(random: Random, complete: bool = False) -> Voice:
    """The voice of a page or of a text of several scenes; unless `complete`, it may leave out attributes."""
    omissible = () if complete else ("size", "place", "colour")
    voice = _composed(random, _TEMPLATES, _JOINTS, omissible)
    return lambda random, scene: f"{voice(random, scene)} ."


def annotator(random: Random) -> Voice:
    """The voice of one of the benchmarks' annotators, who may leave out sizes, and is brief."""
    while True:
        voice = _composed(random, *_IN_CAPTIONS, ("size",))
        if len(voice(random, _TWO_THINGS).split()) <= LONGEST_OF_TWO:
            return voice


LONGEST_OF_TWO = 16
"""Maximum words of an annotator's caption of two things, so that eight demonstrations fit a row of 256."""
_TWO_THINGS = Scene((Thing("circle", "red", "large", 0), Thing("square", "blue", "small", 2)))


def _composed(random: Random, templates: Sequence[str], joints: Sequence[str], omissible: Sequence[str]) -> Voice:
    """One of some millions of voices: things in reading order or backwards, each by the same template."""
    opening = random.choice(_OPENINGS)
    joint = random.choice(joints)
    preposition = random.choice(_PREPOSITIONS)
    determiner = random.choice(_DETERMINERS)
    place = "{place} corner" if random.random() < _CORNERED else "{place}"
    left_out = [f"{{{attribute}}}" for attribute in omissible if random.random() < _LEFT_OUT[attribute]]
    pieces = random.choice(templates).split("|")
    kept = [piece for piece in pieces if not any(slot in piece for slot in left_out)]
    form = " ".join(kept).replace("{a}", determiner).replace("{place}", f"{preposition} {place}")
    backwards = random.random() < 0.5

    def say(random: Random, scene: Scene) -> str:
        said = [_filled(form, thing) for thing in scene.things]
        if backwards:
            said.reverse()
        words = f"{opening} {f' {joint} '.join(said)}".split()
        return " ".join(words)

    return say


def telling(random: Random, scene: Scene) -> str:
    """Describes a scene in plain words, unlike any caption style."""
    form = random.choice(_PLAIN)
    things = random.sample(scene.things, len(scene.things))
    return " ".join(_filled(form, thing) for thing in things)


_PLAIN = (
    "{name} {colour} {size} {place} .",
    "the {name} is {colour} {size} {place} .",
    "the {size} {colour} {name} {place} .",
)


def inventory(random: Random, scene: Scene) -> str:
    """Lists all things in random order, each with its words in random order."""
    items = []
    for thing in scene.things:
        words = _filled("{name} {colour} {size} {place}", thing).split()
        random.shuffle(words)
        items.append(" ".join(words))
    random.shuffle(items)
    return " ; ".join(items) + " ."


def in_compounds(random: Random, scene: Scene) -> str:
    """Lists all things, using compound words (see `words.COMPOUNDS`) where they exist."""
    form = "{size}-{colour}-{name} {place}" if random.random() < 0.5 else "{name}-{place} {colour} {size}"
    joint = random.choice((" , ", " ; ", " "))
    is_turned = random.random() < 0.5
    items = []
    for thing in scene.things:
        words = _filled(form, thing).split()
        if words[0] not in _COMPOUNDS:
            words = _filled("{name} {colour} {size} {place}", thing).split()
        if is_turned:
            words.reverse()
        items.append(" ".join(words))
    random.shuffle(items)
    return joint.join(items) + " ."


_COMPOUNDS = frozenset(COMPOUNDS)
