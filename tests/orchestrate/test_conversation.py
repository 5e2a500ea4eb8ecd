"""Talking to a model: what it reads is all that was said, in the form that it was tuned on."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from jinja2 import Template, TemplateError
from PIL import Image
from tokenizers.normalizers import Prepend

from mm1_lab.config import Recipe, RequestError, SftRecipe
from mm1_lab.data.packing import Packer
from mm1_lab.data.pixels import ImageDecoder
from mm1_lab.data.shards.readers import chat_prompt, read_conversation
from mm1_lab.data.tokenizers import SPECIAL, BackendTokenizer, bpe_tokenizer
from mm1_lab.data.types import Answer, Document, Limits
from mm1_lab.data.world import World
from mm1_lab.evaluate.run import load_to_answer
from mm1_lab.model import MM1Processor, build_mm1, library_tokenizer, save_weights
from mm1_lab.orchestrate.conversation import NEW_WORLD_TOKENS, Chat, open_image
from mm1_lab.orchestrate.exporting import USER_CHAT, WORLD_CHAT
from tests.conftest import evaluation_of


@pytest.fixture
def talk() -> Chat:
    recipe = Recipe(sft=SftRecipe(resolution=1344, views=5))
    stage = evaluation_of(recipe=recipe).model
    world = World()
    return Chat(stage, build_mm1(stage, world.tokenizer).eval(), world)


def test_turns_and_pictures_add_up(talk, tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (30, 20), (200, 30, 30)).save(path)
    first = talk.say("The color of the circle", [open_image(path, ImageDecoder())])
    second = talk.say("the size of the circle", [open_image(path, ImageDecoder())])
    tokenizer, places = talk.data.tokenizer, talk.stage.picture_tokens
    assert talk.so_far.tokens.count(tokenizer.image) == 2 * places and len(talk.so_far.pictures) == 2
    said = tokenizer.decode(talk.so_far.tokens)
    expected = f"tell : the color of the circle . say : {first} tell : the size of the circle . say : {second}"
    assert " ".join(said.split()) == " ".join(expected.split())
    talk.forget()
    assert talk.so_far.tokens == (tokenizer.begin,)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(RequestError, match=r"a\.png: cannot be read as an image \("):
        open_image(path, ImageDecoder())


def test_a_model_that_was_not_tuned_goes_on_with_what_is_typed():
    world, stage = World(), evaluation_of().model
    chat = Chat(stage, build_mm1(stage, world.tokenizer).eval(), world)
    chat.say("The color of the circle")
    typed = (world.tokenizer.begin, *world.tokenizer.encode("the color of the circle"))
    assert chat.so_far.tokens[: len(typed)] == typed


def test_turns_of_users_models_are_tokenised_as_in_training_and_answers_may_be_long(tmp_path):
    """With a tokenizer that, like Llama 2's, begins each text that it is given with a space of its own."""
    backend = bpe_tokenizer(["User: why?\nAssistant: so it is.\n"], 300, tmp_path).backend
    backend.normalizer = Prepend("_")
    words = BackendTokenizer(backend, *map(backend.token_to_id, SPECIAL.values()))
    stage = evaluation_of("sft.sequence_length=1200", recipe=Recipe(sft=SftRecipe())).model
    data = SimpleNamespace(tokenizer=words, identity=SimpleNamespace(kind="shards"))
    torch.manual_seed(1)
    chat = Chat(stage, build_mm1(stage, words).eval(), data)
    first, second = chat.say("why?"), chat.say("how?")
    turns = [(chat_prompt("why?"), f" {first}"), (f"\n{chat_prompt('how?')}", f" {second}")]
    ids = [[*words.encode(asked), *words.encode(said), words.end] for asked, said in turns]
    assert chat.so_far.tokens == (words.begin, *ids[0], *ids[1])
    exported = MM1Processor(library_tokenizer(words), chat_template=USER_CHAT)
    said = zip(("user", "assistant") * 2, ("why?", first, "how?", second), strict=True)
    text = exported.apply_chat_template([{"role": role, "content": content} for role, content in said])
    assert exported(text=text)["input_ids"].tolist() == [list(chat.so_far.tokens)]
    assert max(len(words.encode(first)), len(words.encode(second))) > 64
    chat.forget()
    assert chat.say("d\udce9j\xe0 vu"), "what a terminal of another encoding sends"


def test_an_end_token_that_a_message_spells_is_text_as_in_training(tmp_path):
    """In a text without a chat it is the token."""
    words = bpe_tokenizer(["User: why?\nAssistant: so it is.\n"], 300, tmp_path)
    exported = MM1Processor(library_tokenizer(words), chat_template=USER_CHAT)
    turns = [
        {"role": "user", "content": "why <end>?"},
        {"role": "assistant", "content": [{"type": "text", "text": "so <end> is."}]},
        {"role": "user", "content": "<end>"},
    ]
    first = [*words.encode(chat_prompt("why <end>?")), *words.encode(" so <end> is."), words.end]
    ids = [[words.begin, *first, *words.encode(f"\n{chat_prompt('<end>')}")]]
    assert exported(text=exported.apply_chat_template(turns))["input_ids"].tolist() == ids
    assert exported.apply_chat_template([turns], tokenize=True).tolist() == ids
    assert exported(text="so<end>")["input_ids"].tolist() == [[words.begin, *words.encode("so"), words.end]]


def test_a_conversation_ends_where_the_model_reads_no_further(talk):
    context = talk.stage.sequence_length
    with pytest.raises(RequestError, match=f"the model reads at most {context}; /new starts over"):
        for _ in range(context):
            before = talk.so_far
            talk.say("the color of the circle")
            assert len(talk.so_far.tokens) <= context + 1  # the last answer is not read before the next turn
    assert talk.so_far == before
    talk.forget()
    talk.say("the color of the circle")


@pytest.mark.parametrize(("system", "read"), [("Be short. ", "Be short.\n"), (" ", "")])
def test_the_template_of_users_models_writes_what_their_training_reads(system, read, tmp_path):
    """A system message, which is none if it is blank, and pictures amid and behind the words of a turn."""
    for name in "ab":
        (tmp_path / f"{name}.png").touch()
    first, second = ({"type": "image", "image": f"{name}.png"} for name in "ab")
    red = {"type": "text", "text": "red?"}
    turns = [
        {"role": "system", "content": system},
        {"role": "user", "content": [first, {"type": "text", "text": "\nIs "}, second, red]},
        {"role": "assistant", "content": "Yes.\n"},
        {"role": "user", "content": [{"type": "text", "text": "And this? "}, first]},
        {"role": "assistant", "content": [{"type": "text", "text": "It "}, {"type": "text", "text": "is."}]},
        {"role": "user", "content": [second, {"type": "text", "text": "This?"}]},
        {"role": "assistant", "content": "No."},
    ]
    sample = read_conversation({"text": turns, "image": None})
    texts = [f"{part}</s>" if isinstance(part, Answer) else part for part in sample.parts]
    expected = "".join(text if isinstance(text, str) else "<image>" for text in texts)
    assert expected.startswith(f"{read}<image>User: Is <image>red?\nAssistant: Yes.</s>\nUser: And")
    assert Template(USER_CHAT).render(messages=turns, eos_token="</s>") == expected
    asked = Template(USER_CHAT).render(messages=turns[:-1], eos_token="</s>", add_generation_prompt=True)
    assert asked == expected.removesuffix(" No.</s>")


@pytest.mark.parametrize("template", [USER_CHAT, WORLD_CHAT])
def test_turns_as_no_training_has_them_are_refused(template, tmp_path):
    exported = MM1Processor(library_tokenizer(bpe_tokenizer(["a"], 300, tmp_path)), chat_template=template)

    def write(*roles: str) -> Any:
        return exported.apply_chat_template([{"role": role, "content": "a"} for role in roles])

    for roles in (("user", "user"), ("user", "assistant", "assistant"), ("user", "system", "user")):
        with pytest.raises(TemplateError, match="are not separated by one of the other"):
            write(*roles)
    with pytest.raises(TemplateError, match="tuned without the role tool"):
        write("user", "assistant", "tool")
    for roles in (
        ("system", "user", "assistant", "user"),
        ("assistant", "user"),
        ("user", "assistant", "system", "user"),
    ):
        assert write(*roles)


def test_llava_s_own_turns_become_the_ids_of_training(tmp_path):
    """Markers that lead a text, stand amid it, end it, come in later turns, and in a system message."""
    rows = [
        ("system", "Be <image> short."),
        ("human", "<image>\nWhat <image> colour?\n"),
        ("gpt", "Red."),
        ("human", "Which is it?\n<image>"),
        ("gpt", "This."),
        ("human", " <image> <image>\n\nAnd <end>?"),
        ("gpt", "So."),
    ]
    row = {"text": [{"from": role, "value": value} for role, value in rows], "image": list("abcdef")}
    words = bpe_tokenizer([value for _, value in rows], 300, tmp_path)
    parts = read_conversation(row).parts
    packed = Packer(words, Limits(200, 2, 9), ends_answers=True).pack([Document("", tuple(parts))])
    expected = packed.tokens[packed.documents > 0].tolist()
    assert expected.count(words.image) == 2 * 6
    exported = MM1Processor(library_tokenizer(words), image_tokens=2, side=8, chat_template=USER_CHAT)
    known = {"human": "user", "gpt": "assistant", "system": "system"}
    for content in (str, lambda value: [{"type": "text", "text": value}]):
        turns = [{"role": known[role], "content": content(value)} for role, value in rows]
        text = exported.apply_chat_template(turns)
        images = [Image.new("RGB", (8, 8))] * 6
        assert exported(images=images, text=text)["input_ids"].tolist() == [expected]


def test_a_word_that_the_world_has_not_is_refused_and_the_conversation_goes_on(talk):
    talk.say("the color of the circle")
    before = talk.so_far
    with pytest.raises(RequestError, match="only the world's words, and 'describe' is none of them") as refused:
        talk.say("describe the circle")
    with pytest.raises(RequestError, match="'<image>' is none of them"):
        talk.say("the color of the <image>")
    assert talk.so_far == before
    assert talk.say(str(refused.value).partition("try: ")[2]), "what it suggests works"


@pytest.mark.parametrize("images", ["shown", "blind"])
def test_the_precision_is_that_of_evaluation_and_a_cut_answer_is_told(tmp_path, images):
    """Weights of a large model in fp32 would not fit a GPU on which it was evaluated."""
    recipe = Recipe(sft=SftRecipe(), images=images)
    stage, world = evaluation_of("precision=bf16-mixed", recipe=recipe).model, World()
    torch.manual_seed(1)
    model = build_mm1(stage, world.tokenizer)
    save_weights(model, tmp_path, stage)
    chat = Chat(stage, load_to_answer(stage, tmp_path, world), world)
    head = chat.embedder.decoder.lm_head
    assert head.weight.dtype == torch.bfloat16
    assert len(chat.say("the color of the circle").split()) == NEW_WORLD_TOKENS and chat.is_cut
    only_end = torch.eye(world.tokenizer.size)[world.tokenizer.end]
    head.register_forward_hook(lambda _, given, logits: only_end.expand_as(logits))
    assert chat.say("the size of the circle") == "" and not chat.is_cut
