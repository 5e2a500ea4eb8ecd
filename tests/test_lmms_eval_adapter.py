"""The adapter for lmms-eval gives an exported model's own answers and losses; its base here is a stand-in."""

import importlib
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

from mm1_lab.config import Recipe, SftRecipe
from mm1_lab.data.preprocessing import GridRule
from mm1_lab.data.world import World
from mm1_lab.evaluate.embedder import PromptEmbedder
from mm1_lab.evaluate.prompts import PromptWriter, Segment
from mm1_lab.evaluate.questions import Question
from mm1_lab.evaluate.run import Answering
from mm1_lab.evaluate.world_chat import chat_benchmarks
from mm1_lab.model import MM1Processor, build_mm1, library_tokenizer, save_weights
from mm1_lab.orchestrate.exporting import USER_CHAT, WORLD_CHAT
from tests.conftest import REPOSITORY, evaluation_of
from tests.test_export import pictures

ADAPTER = REPOSITORY / "contrib" / "lmms_eval_mm1"


@dataclass(frozen=True)
class GenerationResult:
    """What its evaluator takes as it is, where a bare pair would become text."""

    text: Any


class Base:
    """What lmms-eval's class `lmms` gives its subclasses, as far as models use it."""

    is_simple = True

    def __init__(self) -> None:
        self.task_dict: dict[str, Any] = {}


@pytest.fixture
def adapter(monkeypatch: pytest.MonkeyPatch) -> type[Any]:
    """The class that the entry point leads to."""
    modules: dict[str, dict[str, Any]] = {name: {} for name in ("lmms_eval", "lmms_eval.api", "lmms_eval.models")}
    modules["lmms_eval.api.model"] = {"lmms": Base}
    modules["lmms_eval.models.registry_v2"] = {"ModelManifest": SimpleNamespace}
    modules["lmms_eval.api.instance"] = {"GenerationResult": GenerationResult}
    for name, content in modules.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.syspath_prepend(str(ADAPTER))
    for name in ("lmms_eval_mm1", "lmms_eval_mm1.model"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    project = tomllib.loads((ADAPTER / "pyproject.toml").read_text())["project"]
    module_name, _, function = project["entry-points"]["lmms_eval.models"]["mm1"].partition(":")
    manifest = getattr(importlib.import_module(module_name), function)()
    assert vars(manifest).keys() == {"model_id", "simple_class_path"} and manifest.model_id == "mm1"
    path, _, name = manifest.simple_class_path.rpartition(".")
    return getattr(importlib.import_module(path), name)


def test_pictures_that_a_task_places_itself_stand_as_in_training(adapter: type[Any]) -> None:
    """In a model tuned on users' conversations, pictures at the start of a turn precede its `User:`."""
    words = library_tokenizer(World().tokenizer)
    model = adapter.__new__(adapter)
    model._processor, model.task_dict = MM1Processor(words, chat_template=USER_CHAT), {"task": {"test": ["a"]}}
    for context, expected in (
        ("Which?", "<image>User: Which?\nAssistant:"),
        ("<image>\nWhich?", "<image>User: Which?\nAssistant:"),
        ("Is <image> red?", "User: Is <image> red?\nAssistant:"),
    ):
        assert model._prompt(context, lambda document: ["a picture"], 0, "task", "test") == (expected, ["a picture"])


def request_for(value: Any, number: int, see: Callable[[Any], Any], context: str) -> Any:
    return SimpleNamespace(args=(context, value, see, number, "task", "test"))


def test_answers_and_losses_are_the_evaluations(tmp_path: Path, adapter: type[Any]) -> None:
    stage = evaluation_of(recipe=Recipe(sft=SftRecipe()))
    torch.manual_seed(0)
    world, own = World(), build_mm1(stage.model, World().tokenizer).eval()
    with torch.no_grad():
        own.decoder.lm_head.weight.mul_(40)
        own.connector.project[-1].weight.mul_(40)
    save_weights(own, tmp_path / "weights", stage.model)
    AutoModelForImageTextToText.from_pretrained(tmp_path / "weights").save_pretrained(tmp_path / "exported")
    side, places = stage.model.image_size, stage.model.architecture.connector.image_tokens
    shape: dict[str, Any] = {"side": side, "image_tokens": places, "views": stage.model.views}
    processor = MM1Processor(library_tokenizer(world.tokenizer), chat_template=WORLD_CHAT, **shape)
    processor.save_pretrained(tmp_path / "exported")
    model = adapter(str(tmp_path / "exported"), device="cpu", batch_size=3)
    assert model.device == torch.device("cpu"), "which lmms-eval asks for, too, with several processes"
    (choice,) = [one for one in chat_benchmarks(stage.settings) if one.name == "chat-knowledge"]
    questions = choice.questions
    model.task_dict["task"] = {"test": questions}

    def see(question: Question) -> list[Image.Image]:
        return pictures(question, side)

    contexts = [question.prompt.removeprefix("tell : ").removesuffix(" . say :") for question in questions]
    asked = [
        request_for({"until": ["."], "max_new_tokens": choice.new_tokens, "temperature": 0}, number, see, context)
        for number, context in enumerate(contexts)
    ]
    answers = model.generate_until(asked)
    assert answers == Answering(stage, own, world).predict(choice, 0) and len(set(answers)) > 2

    embedder = PromptEmbedder(own, False, 4)
    writer = PromptWriter(world.tokenizer, places, GridRule(stage.model.views))
    offered = [(number, one) for number, question in enumerate(questions) for one in question.choices]
    logs = []
    for number, one in offered:
        ids = torch.tensor(world.tokenizer.encode(f" {one}"))
        prompt = writer.prefix(choice, 0, 0) + writer.question(questions[number]) + Segment(tuple(ids.tolist()))
        with torch.inference_mode():
            embedder.see(prompt.pictures)
            logits = own.decoder(inputs_embeds=embedder.embed(prompt)[None]).logits[0, -len(ids) - 1 : -1]
            logs.append(float(logits.log_softmax(dim=-1).gather(1, ids[:, None]).mean()))
    targets = [(number, one if number % 2 else lambda _, one=one: one) for number, one in offered]
    found = model.loglikelihood([request_for(target, number, see, contexts[number]) for number, target in targets])
    assert all(isinstance(one, GenerationResult) for one in found)
    assert [one.text[0] for one in found] == pytest.approx([-log for log in logs], rel=1e-3)
    greedy = [answer.split()[0] == one for (number, one) in offered for answer in [answers[number] or "-"]]
    assert [one.text[1] for one in found] == greedy
    with pytest.warns(UserWarning, match="mm1: a prompt of [0-9]+ tokens, where training had [0-9]+ at most"):
        model.generate_until([request_for({"max_new_tokens": 1}, 0, see, "red " * stage.model.sequence_length)])
    with pytest.raises(NotImplementedError, match="several rounds"):
        model.generate_until_multi_round([])
