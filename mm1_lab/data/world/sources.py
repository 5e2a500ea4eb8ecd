"""The world's training data: sample i of a source is a pure function of (seed, source, split, i)."""

from collections.abc import Callable, Iterator
from random import Random
from typing import NamedTuple

from mm1_lab.data.types import Document, Part, Picture
from mm1_lab.data.world.drawing import ScenePicture
from mm1_lab.data.world.language import alt_text, dense_caption, draw_convention, in_convention, page_voice, spoken
from mm1_lab.data.world.scenes import Scene, Split, Theme, renamed, sample_scene, sample_theme
from mm1_lab.data.world.text import Parts, paragraph, pretraining_document, text_document, words_of
from mm1_lab.data.world.words import PLACES

ROW = 64
"""Document numbers reserved per row; no row holds as many documents."""
_STREAMS = ("captions", "synthetic", "interleaved", "text", "pretraining-text", "pairs")
"""Their number is part of a sample's seed: one more stream changes all samples of seeds but 0, and needs a new version
of the world."""
_MISMATCHED = 0.08
"""Share of alt-texts that describe another picture: some, because web captions do; chosen, not measured."""
_ALIKE = 8
"""Consecutive pairs whose pictures share colours and places, so that the contrastive loss must use names and sizes.
With independent pictures, colours and places would suffice, and a probe recovers shapes less well (results/LOG.md)."""
_APART = 1 << 40
"""Offset of the sample numbers from which the scenes shared by alike pairs are drawn."""
_SHORT = 128
"""Longest row, in positions, that is too short for many-shot documents."""
_PARAGRAPHS = 0.25
"""Probability that a paragraph of general text follows a page's text about a picture."""
_PAGE_BUDGET = 256
"""Maximum tokens of a page, counting nine per image, so that it fits a row."""
_CLOSING = 14
"""Maximum words of a page's closing line."""


def random_for(seed: int, stream: str, split: Split, index: int) -> Random:
    """The random number generator of one sample."""
    number = (seed * len(_STREAMS) + _STREAMS.index(stream)) * 2 + (split == "test")
    return Random((number << 64) + index)


def captioned(random: Random, split: Split, scene: Scene | None = None) -> tuple[Picture, str]:
    """A picture of `scene` (drawn if not given) with its alt-text, or sometimes with that of another scene."""
    scene = scene or sample_scene(random, split)
    described = sample_scene(random, split) if random.random() < _MISMATCHED else scene
    return ScenePicture(scene), alt_text(random, described)


def densely_captioned(random: Random, split: Split, scene: Scene | None = None) -> tuple[Picture, str]:
    scene = scene or sample_scene(random, split)
    return ScenePicture(scene), dense_caption(random, scene)


def page(random: Random, split: Split) -> Parts:
    """A page about a theme: two to nine pictures, each followed by text about it, all in one voice and convention.

    Half of the pages have as many pictures as fit, so that what follows eight demonstrations has been practised.

    Text must follow its picture directly. When it came before the picture, pictures were also followed by the end or
    the closing line of the page, and up to a quarter of few-shot captions were empty or such lines.
    """
    theme = sample_theme(random)
    convention = draw_convention(random)
    voice = in_convention(page_voice(random), convention)
    name = spoken(_name(theme), convention)
    parts: list[Part] = [f"a page about {name} ."] if random.random() < 0.7 else []
    wanted = random.choice((9, random.randint(2, 9)))
    is_closed = random.random() < 0.5
    used = 2 + words_of(parts) + _CLOSING * is_closed
    scenes: list[Scene] = []
    while len(scenes) < wanted:
        like = theme if random.random() < 0.7 else None
        scene = sample_scene(random, split, counts=(0.5, 0.4, 0.1), like=like)
        text = voice(random, scene)
        if scenes and random.random() < 0.1:
            text += " " + _comparison(scenes[-1], scene)
        if random.random() < _PARAGRAPHS:
            text += " " + paragraph(random)
        used += 9 + len(text.split())
        if used > _PAGE_BUDGET:
            break
        parts += [ScenePicture(scene), text]
        scenes.append(scene)
    if is_closed:
        matching = sum(theme.fits(scene.things) for scene in scenes)
        parts.append(f"we have seen {len(scenes)} pictures and {matching} of these show {name} .")
    return tuple(parts)


def _name(theme: Theme) -> str:
    if theme.attribute == "name":
        return f"the {theme.value}"
    if theme.attribute == "place":
        return f"things at {PLACES[int(theme.value)]}"
    return f"{theme.value} things"


def _comparison(last: Scene, scene: Scene) -> str:
    more = len(scene.things) - len(last.things)
    if more:
        return f"here are {'more' if more > 0 else 'not so many'} things ."
    return "so many things like the last one ."


_MAKERS: dict[str, Callable[[Random, Split], Parts]] = {
    "captions": captioned,
    "synthetic": densely_captioned,
    "interleaved": page,
    "text": lambda random, split: text_document(random),
}


def numbers_of(row: int) -> range:
    """The document numbers of a row."""
    return range(row * ROW, (row + 1) * ROW)


class WorldSource(NamedTuple):
    """An infinite source of one of the four kinds of training data."""

    name: str
    seed: int
    split: Split = "train"

    def document(self, index: int) -> Document:
        random = random_for(self.seed, self.name, self.split, index)
        return Document(f"{self.name}/{index}", _MAKERS[self.name](random, self.split))

    def documents(self, row: int) -> Iterator[Document]:
        return (self.document(index) for index in numbers_of(row))

    def epochs(self, rows: int) -> float:
        return 0.0


class WorldCurriculum(NamedTuple):
    """Text for the decoder's pre-training: a curriculum that starts with bare key-value pairs."""

    seed: int
    longest: int

    def documents(self, row: int, progress: float) -> Iterator[Document]:
        for index in numbers_of(row):
            random = random_for(self.seed, "pretraining-text", "train", index)
            parts = pretraining_document(random, progress, self.longest > _SHORT)
            if words_of(parts) + 2 <= self.longest:
                yield Document(f"pretraining-text/{index}", parts)


class WorldPairs(NamedTuple):
    """Image-caption pairs for the encoder, distinct from the mixture's; every `_ALIKE` consecutive pairs are alike."""

    seed: int
    together: int = _ALIKE

    def pair(self, index: int, dense: bool) -> tuple[Picture, str]:
        random = random_for(self.seed, "pairs", "train", index)
        shared = random_for(self.seed, "pairs", "train", _APART + index // _ALIKE)
        alike = sample_scene(shared, "train")
        draw = densely_captioned if dense else captioned
        return draw(random, "train", renamed(random, alike))
