"""The world's training data: sample i of a source is a pure function of (seed, source, split, i)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

from mm1_lab.data.types import Document, Part, Picture
from mm1_lab.data.world.drawing import ScenePicture
from mm1_lab.data.world.language import alt_text, dense_caption, page_voice
from mm1_lab.data.world.scenes import Scene, Split, Theme, sample_scene, sample_theme
from mm1_lab.data.world.text import pretraining_document, text_document
from mm1_lab.data.world.words import PLACES

_ROW = 64
"""Numbers set apart for the documents of one row; more than fit into any."""
_STREAMS = ("captions", "synthetic", "interleaved", "text", "pretraining-text", "pairs")
_MISMATCHED = 0.08
"""Share of alt-texts that belong to another picture."""
_PAGE_BUDGET = 236
"""Tokens of a page at most, an image counted as nine, so that it fits a row of 256."""


def random_for(seed: int, stream: str, split: Split, index: int) -> Random:
    """The random numbers of one sample."""
    number = (seed * len(_STREAMS) + _STREAMS.index(stream)) * 2 + (split == "test")
    return Random((number << 64) + index)


def captioned(random: Random, split: Split) -> tuple[Part, ...]:
    scene = sample_scene(random, split)
    described = sample_scene(random, split) if random.random() < _MISMATCHED else scene
    return ScenePicture(scene), alt_text(random, described)


def densely_captioned(random: Random, split: Split) -> tuple[Part, ...]:
    scene = sample_scene(random, split)
    return ScenePicture(scene), dense_caption(random, scene)


def page(random: Random, split: Split) -> tuple[Part, ...]:
    """A page about a theme: two to nine pictures in the flow of a text that speaks of each in one voice."""
    theme, voice = sample_theme(random), page_voice(random)
    parts: list[Part] = [f"a page about {_name(theme)} ."] if random.random() < 0.7 else []
    wanted, before = random.randint(2, 9), random.random() < 0.1
    used, seen, matching = 12, 0, 0
    last: Scene | None = None
    while seen < wanted:
        scene = sample_scene(random, split, counts=(0.5, 0.4, 0.1), like=theme if random.random() < 0.7 else None)
        text = voice(random, scene)
        if last is not None and random.random() < 0.1:
            text += " " + _comparison(last, scene)
        used += 9 + len(text.split())
        if used > _PAGE_BUDGET:
            break
        parts += [text, ScenePicture(scene)] if before else [ScenePicture(scene), text]
        seen, last = seen + 1, scene
        matching += any(getattr(thing, theme.attribute) == theme.value for thing in scene.things)
    if random.random() < 0.5:
        parts.append(f"we have seen {seen} pictures and {matching} of these show {_name(theme)} .")
    return tuple(parts)


def _name(theme: Theme) -> str:
    if theme.attribute == "name":
        return f"the {theme.value}"
    if theme.attribute == "place":
        return f"things at the {PLACES[int(theme.value)]}"
    return f"{theme.value} things"


def _comparison(last: Scene, scene: Scene) -> str:
    if len(scene.things) != len(last.things):
        return f"here are {'more' if len(scene.things) > len(last.things) else 'not so many'} things ."
    return "so many things like the last one ."


_MAKERS: dict[str, Callable[[Random, Split], tuple[Part, ...]]] = {
    "captions": captioned,
    "synthetic": densely_captioned,
    "interleaved": page,
    "text": lambda random, split: text_document(random),
}


@dataclass(frozen=True, slots=True)
class WorldSource:
    """One of the four kinds of training data, without end."""

    name: str
    seed: int
    split: Split = "train"

    def document(self, index: int) -> Document:
        parts = _MAKERS[self.name](random_for(self.seed, self.name, self.split, index), self.split)
        return Document(f"{self.name}/{index}", parts)

    def documents(self, row: int) -> Iterator[Document]:
        return (self.document(row * _ROW + number) for number in range(_ROW))

    def epochs(self, rows: int) -> float:
        return 0.0


@dataclass(frozen=True, slots=True)
class WorldCurriculum:
    """Text of the decoder's pre-training, from bare pairs to everything."""

    seed: int

    def documents(self, row: int, progress: float, longest: int) -> Iterator[Document]:
        for index in range(row * _ROW, (row + 1) * _ROW):
            random = random_for(self.seed, "pretraining-text", "train", index)
            parts = pretraining_document(random, progress)
            if sum(len(str(part).split()) for part in parts) + 2 <= longest:
                yield Document(f"pretraining-text/{index}", parts)


@dataclass(frozen=True, slots=True)
class WorldPairs:
    """Image-caption pairs for the encoder, apart from the mixture's."""

    seed: int

    def pair(self, index: int, dense: bool) -> tuple[Picture, str]:
        parts = (densely_captioned if dense else captioned)(random_for(self.seed, "pairs", "train", index), "train")
        picture, caption = parts
        assert isinstance(picture, ScenePicture) and isinstance(caption, str)
        return picture, caption
