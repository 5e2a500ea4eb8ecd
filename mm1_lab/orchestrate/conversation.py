"""A conversation with a trained model: the turns so far, and the next answer."""

from collections.abc import Sequence
from pathlib import Path

from mm1_lab.config import ModelStage, RequestError
from mm1_lab.data.pixels import ImageDecoder, StoredPicture, grid_of, read_file
from mm1_lab.data.shards.readers import chat_prompt
from mm1_lab.data.types import BrokenPicture, Data, Limits, Picture
from mm1_lab.data.world.instructions import prompt_of
from mm1_lab.evaluate.embedder import PromptEmbedder
from mm1_lab.evaluate.fitting import context_length
from mm1_lab.evaluate.generation import PromptGroup, cut_answer, generate
from mm1_lab.evaluate.prompts import Segment
from mm1_lab.evaluate.run import casting
from mm1_lab.formatting import sound
from mm1_lab.model import MM1

NEW_TOKENS, NEW_WORLD_TOKENS = 512, 64
"""The longest answer; a detailed description has about 200, the world's longest 40."""


def open_image(path: Path, decoder: ImageDecoder) -> Picture:
    """The image at `path`. Raises RequestError if it cannot be read."""
    try:
        content = read_file(path)
        picture = StoredPicture(str(path), lambda: content, decoder, key=content)
        picture.pixels(1)
    except (OSError, BrokenPicture) as error:
        raise RequestError(f"{path}: cannot be read as an image ({error})") from None
    return picture


class Chat:
    """The turns so far as model input, in the format of the data that the model was tuned on; a model that was not
    tuned reads them as they are."""

    def __init__(self, stage: ModelStage, model: MM1, data: Data) -> None:
        self.stage = stage
        self.data = data
        self.is_world = data.identity.kind == "world"
        with casting(stage):
            self.embedder = PromptEmbedder(model, stage.architecture.blind, batch=8)
        self.is_cut = False
        """Whether the last answer is as long as may be."""
        self.forget()

    def forget(self) -> None:
        """Starts a new conversation."""
        self.so_far = Segment((self.data.tokenizer.begin,))

    def say(self, request: str, pictures: Sequence[Picture] = ()) -> str:
        """The model's answer to a user turn; the images are placed before the words.

        Raises RequestError, and leaves the conversation as it was, for a word that the miniature world does not have,
        and where the model has no positions left.
        """
        tokenizer = self.data.tokenizer
        continues = len(self.so_far.tokens) > 1 and not self.is_world
        prompt = request.lower() if self.is_world else sound(request)
        if self.stage.tuned:
            prompt = prompt_of(prompt) if self.is_world else chat_prompt(prompt)
        limits = Limits.of(self.stage)
        seen = tuple((picture, grid_of(picture, limits.rule)) for picture in pictures)
        view = [tokenizer.image] * limits.image_tokens
        image = [token for _, grid in seen for token in limits.rule.laid_out(grid, view, tokenizer.encode)]
        newline = "\n" if continues else ""
        # without pictures in one piece, of which a tokenizer may join the ends
        before, after = (newline, prompt) if pictures else ("", newline + prompt)
        try:
            turn = Segment((*tokenizer.encode(before), *image, *tokenizer.encode(after)), seen)
        except KeyError as error:
            text = f"this model knows only the world's words, and {error} is none of them; try: the color of the circle"
            raise RequestError(text) from None
        used = len(self.so_far.tokens) + len(turn.tokens)
        context = context_length(self.stage)
        if used >= context:
            text = f"with this turn the conversation has {used} tokens, of which the model reads at most {context}"
            raise RequestError(f"{text}; /new starts over")
        longest = min(NEW_WORLD_TOKENS if self.is_world else NEW_TOKENS, context - used)
        group = PromptGroup(self.so_far, (turn,))
        with casting(self.stage):
            ((ids,),) = generate(self.embedder, [group], tokenizer, (), longest)
        self.is_cut = len(ids) == longest
        answer = cut_answer(tokenizer.decode(ids), (), lines=not self.is_world)
        self.so_far += turn + Segment((*tokenizer.encode(f" {answer}"), tokenizer.end))
        return answer
