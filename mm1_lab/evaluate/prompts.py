"""Few-shot prompts: demonstrations and a question as one document, in which pictures precede their text or are in it.

A prompt with k shots is

    begin, [image tokens, prompt, shown answer, separator] × k, image tokens, prompt

The separator is the benchmark's first stop word, so that demonstrations show where an answer ends. For a tuned model
every answer ends in the end token, as in the conversations that it was tuned on: before a separator that only begins a
line, after any other. The part before the question is the same for all questions of a block.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

from mm1_lab.config import EvaluationStage
from mm1_lab.data.pixels import grid_of
from mm1_lab.data.preprocessing import IMAGE, USUAL_RULE, WHOLE, Grid, GridRule
from mm1_lab.data.types import Limits, Seen, Tokenizer
from mm1_lab.evaluate.questions import Benchmark, Question


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a prompt: tokens, and the pictures whose image tokens are among them, in order."""

    tokens: tuple[int, ...]
    pictures: tuple[Seen, ...] = ()

    def __add__(self, other: "Segment") -> "Segment":
        return Segment(self.tokens + other.tokens, self.pictures + other.pictures)


@dataclass(frozen=True)
class PromptWriter:
    """Writes prompts for a model that reads `image_tokens` tokens for each view of a picture."""

    tokenizer: Tokenizer
    image_tokens: int
    rule: GridRule = USUAL_RULE
    """In which views a picture is seen."""
    sharp_demonstrations: int | None = None
    """How many demonstrations, counted back from the question, show all views of their pictures; earlier ones show only
    the overview (mixed resolution, section 5). None: all of them show all views."""
    ends_answers: bool = False
    """Whether the model is tuned on conversations, in which the end token follows every answer."""
    between: str = ""
    """What stands before a separator that is no line break, as in training: of the world, a space, which its own
    tokenizer ignores."""

    @classmethod
    def of(cls, stage: EvaluationStage, tokenizer: Tokenizer) -> "PromptWriter":
        model = stage.model
        return cls(
            tokenizer,
            image_tokens=model.architecture.connector.image_tokens,
            rule=Limits.of(model).rule,
            sharp_demonstrations=stage.sharp_demonstrations,
            ends_answers=model.tuned,
            between=" " if model.data.kind == "world" else "",
        )

    def question(self, question: Question, sharp: bool = True) -> Segment:
        """Pictures and prompt of a question, which the model continues; unless `sharp`, their overviews."""
        seen = [(picture, grid_of(picture, self.rule) if sharp else WHOLE) for picture in question.pictures]
        images = [self._laid_out(grid) for _, grid in seen]
        first, *others = question.prompt.split(IMAGE) if question.pictures else [question.prompt]
        before = len(images) - len(others)
        tokens = [*chain(*images[:before]), *self.tokenizer.encode(first)]
        for image, text in zip(images[before:], others, strict=True):
            tokens += image + self.tokenizer.encode(text)
        return Segment(tuple(tokens), tuple(seen))

    def _laid_out(self, grid: Grid) -> list[int]:
        return self.rule.laid_out(grid, [self.tokenizer.image] * self.image_tokens, self.tokenizer.encode)

    def demonstration(self, question: Question, separator: str, sharp: bool = True) -> Segment:
        """A question, the answer to show, and what ends it: the separator, and of a tuned model the end token. The
        answer is tokenised separately from the prompt, with a leading space if needed, as a model generates it."""
        space = " " if question.prompt and not question.prompt[-1].isspace() else ""
        answer = self.tokenizer.encode(space + question.shown)
        ending = self._separator(separator)
        if self.ends_answers:
            end = [self.tokenizer.end]
            ending = end + ending if separator.isspace() else ending + end
        return self.question(question, sharp) + Segment((*answer, *ending))

    def _separator(self, separator: str) -> list[int]:
        """The ids of a separator, without the space that SentencePiece tokenizers (Llama 2's) put before every text."""
        ids = self.tokenizer.encode(separator if separator.isspace() else self.between + separator)
        rest = ids[1:]
        if rest and self.tokenizer.decode(rest) == self.tokenizer.decode(ids):
            return rest
        return ids

    def prefix(self, benchmark: Benchmark, block: int, shots: int) -> Segment:
        """The part shared by all questions of a block: the begin token and the block's first `shots` demonstrations."""
        prefix = Segment((self.tokenizer.begin,))
        sharp = shots if self.sharp_demonstrations is None else self.sharp_demonstrations
        for number, demonstration in enumerate(benchmark.demonstrations[block][:shots]):
            prefix += self.demonstration(demonstration, benchmark.stop[0], sharp=number >= shots - sharp)
        return prefix

    def text(self, segment: Segment) -> str:
        """What a part says, as the processor of an exported model reads it: each picture as `<image>`, and the end
        token of a shown answer as the tokenizer spells it, without the begin token, which the processor adds."""
        tokens = segment.tokens
        if tokens[:1] == (self.tokenizer.begin,):
            tokens = tokens[1:]
        parts = []
        place = 0
        for _, grid in segment.pictures:
            start = tokens.index(self.tokenizer.image, place)
            parts += [*self._turns(tokens[place:start]), IMAGE]
            place = start + len(self._laid_out(grid))
        return self.between.join(filter(None, [*parts, *self._turns(tokens[place:])]))

    def _turns(self, tokens: tuple[int, ...]) -> Iterator[str]:
        """The texts of tokens that hold no picture, with the end tokens among them."""
        while (end := self.tokenizer.end) in tokens:
            place = tokens.index(end)
            yield from (self.tokenizer.decode(tokens[:place]), self.tokenizer.backend.id_to_token(end) or "")
            tokens = tokens[place + 1 :]
        yield self.tokenizer.decode(tokens)
