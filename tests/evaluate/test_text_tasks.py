"""Tasks of lm-eval on the decoder inside MM1; what needs the library itself is skipped where it is not installed."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from mm1_lab.config import WORLD_DATA, EvaluationStage, Recipe, RequestError, load_scale, resolve
from mm1_lab.data.world import World
from mm1_lab.evaluate import generation, text_tasks
from mm1_lab.evaluate.text_tasks import ask_text_tasks, open_task
from mm1_lab.model import MM1, build_mm1
from mm1_lab.orchestrate.planning.request import with_benchmarks

SCALES = Path(__file__).parents[2] / "sweeps" / "scales"
COLOURS = ("red", "blue", "green", "yellow", "white")
ROWS = [
    {
        "asks": f"question : what color is the {shape} ? answer :",
        "offers": [*COLOURS[n:], *COLOURS[:n]][:3],
        "right": n % 3,
    }
    for n in range(5)
    for shape in ("circle", "square")
]
CHOICE = {
    "task": "colours",
    "output_type": "multiple_choice",
    "doc_to_text": "{{asks}}",
    "doc_to_choice": "{{offers}}",
    "doc_to_target": "{{right}}",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}
WRITTEN = {key: value for key, value in CHOICE.items() if key != "doc_to_choice"} | {
    "task": "said",
    "output_type": "generate_until",
    "doc_to_target": "{{offers[right]}}",
    "generation_kwargs": {"until": ["."], "max_gen_toks": 4},
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
}


def write(folder: Path, values: dict[str, Any]) -> Path:
    """A task's file with ten questions beside it."""
    source = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": "asked.jsonl"}}, "test_split": "test"}
    (folder / "asked.jsonl").write_text("\n".join(map(json.dumps, ROWS)), encoding="utf-8")
    path = folder / f"{values['task']}.yaml"
    path.write_text(yaml.safe_dump(source | values), encoding="utf-8")
    return path


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the library were there, for what is checked without it."""
    monkeypatch.setattr(text_tasks, "find_spec", lambda name: name)


def test_without_the_library_one_sentence_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_tasks, "find_spec", lambda _: None)
    with pytest.raises(RequestError, match=r"colours\.yaml: text tasks need .* pip install 'lm-eval>=0\.4\.9'"):
        open_task(write(tmp_path, CHOICE))


@pytest.mark.usefixtures("installed")
def test_a_data_file_names_tasks_beside_itself(tmp_path: Path) -> None:
    (tmp_path / "tasks").mkdir()
    task = open_task(write(tmp_path / "tasks", CHOICE))
    data = tmp_path / "data.yaml"
    data.write_text("text: [t.jsonl]\ntext_tasks: [tasks/colours.yaml]\n", encoding="utf-8")
    scale = with_benchmarks(load_scale("smoke", SCALES), data, None)
    stage = resolve("a", Recipe(), scale, 0, WORLD_DATA).evaluation
    assert stage.text_tasks == (task,) and stage.canonical()["text_tasks"] == [
        {"digest": task.digest, "name": "colours"}
    ]
    assert "text_tasks" not in resolve("a", Recipe(), load_scale("smoke", SCALES), 0, WORLD_DATA).evaluation.canonical()


@pytest.mark.usefixtures("installed")
def test_changed_questions_are_another_task_and_moved_ones_the_same(tmp_path: Path) -> None:
    task = open_task(write(tmp_path, CHOICE))
    (tmp_path / "moved").mkdir()
    assert open_task(write(tmp_path / "moved", CHOICE)).identity == task.identity
    (tmp_path / "asked.jsonl").write_text(json.dumps(ROWS[0]), encoding="utf-8")
    assert open_task(tmp_path / "colours.yaml").digest != task.digest


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"output_type": "loglikelihood_rolling"}, "output_type: 'loglikelihood_rolling' is not one of multiple"),
        ({"metric_list": [{"metric": "word_perplexity"}]}, "metric_list: 'word_perplexity' is not one of acc"),
        ({"metric_list": None}, "metric_list: None is not one of"),
        ({"metric_list": "acc"}, r"metric_list: must be a list of mappings, such as \[\{metric: acc\}\]"),
        ({"metric_list": ["acc"]}, "metric_list: must be a list of mappings"),
        ({"metric_list": {"metric": "acc"}}, "metric_list: must be a list of mappings"),
        ({"metric_list": [{"metric": "exact_match"}]}, "metric_list: 'exact_match' is not one of acc, acc_norm"),
        ({"dataset_kwargs": {}}, "needs `dataset_kwargs: {data_files: {test: FILE}}`"),
        ({"dataset_kwargs": {"data_files": {"test": "gone.jsonl"}}}, r"gone.jsonl: cannot be read"),
    ],
)
def test_tasks_that_cannot_be_asked_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        open_task(write(tmp_path, CHOICE | change))


def small(*tasks: Path) -> tuple[EvaluationStage, MM1]:
    stage = resolve("a", Recipe(), load_scale("smoke", SCALES), 0, WORLD_DATA).evaluation
    stage = stage.model_copy(update={"text_tasks": tuple(map(open_task, tasks))})
    torch.manual_seed(3)
    model = build_mm1(stage.model, World().tokenizer).eval()
    with torch.no_grad():
        model.decoder.lm_head.weight.mul_(40)
    return stage, model


class Stub:
    """What the library gives `ask_text_tasks`: a task of two filters, asked by `simple_evaluate`."""

    LM = object

    def __init__(self, samples: list[dict[str, Any]] | None = None, config: dict[str, Any] | None = None) -> None:
        self.samples = samples or []
        self.config = SimpleNamespace(metric_list=(config or WRITTEN)["metric_list"])
        self.asked: list[tuple[str, dict[str, Any]]] = [("question :", {"until": "is it", "max_gen_toks": 8})]
        self.said: list[str] = []
        self.offered: list[tuple[str, str]] = []
        self.likely: list[tuple[float, bool]] = []

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("lm_eval", "lm_eval.api", "lm_eval.api.model"):
            monkeypatch.setitem(sys.modules, name, self)  # type: ignore[arg-type]
        task = SimpleNamespace(ConfigurableTask=lambda config: self)
        monkeypatch.setitem(sys.modules, "lm_eval.api.task", task)  # type: ignore[arg-type]

    def doc_to_choice(self, doc: list[str]) -> list[str]:
        return doc

    def simple_evaluate(self, decoder: Any, tasks: list[Any], **_: Any) -> dict[str, Any]:
        self.said = decoder.generate_until([SimpleNamespace(args=args) for args in self.asked])
        self.likely = decoder.loglikelihood([SimpleNamespace(args=args) for args in self.offered])
        return {"samples": {"said": self.samples}, "n-shot": {"said": 0}}


@pytest.mark.usefixtures("installed")
def test_rows_are_those_of_the_first_filter_and_of_the_choice_that_was_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stop word given as a text is one word, not its letters; an answer keeps its lines, which filters may read."""
    written = {"doc": [], "doc_id": 0, "exact_match": 1.0, "acc_norm": 1.0}
    likely = [(-3.0, False), (-4.0, False)]  # per letter, the second is more likely
    cases = [
        (WRITTEN, [written | {"filter": name, "filtered_resps": [name]} for name in ("strict", "flexible")], "strict"),
        (
            CHOICE | {"task": "said", "metric_list": [{"metric": "acc_norm"}]},
            [written | {"doc": ["cat", "elephant"], "filter": "none", "filtered_resps": likely}],
            "elephant",
        ),
    ]
    stops: list[tuple[str, ...]] = []

    def generate(*arguments: Any) -> Any:
        stops.append(arguments[3])
        return [[" So:\n#### red is it blue"]], [[None]]

    monkeypatch.setattr(generation, "generate", generate)
    for values, samples, prediction in cases:
        stub = Stub(samples, values)
        stub.install(monkeypatch)
        stage, model = small(write(tmp_path, values))
        (row,) = ask_text_tasks(stage, model, World().tokenizer)
        assert (row.prediction, row.score, stub.said) == (prediction, 100.0, ["So:\n#### red"])
    assert stops == [("is it",)] * 2


def written(model: MM1, context: str, most: int) -> str:
    """The greedy answer of the decoder alone, to its first period."""
    tokenizer = World().tokenizer
    prompt = torch.tensor([[tokenizer.begin, *tokenizer.encode(context)]])
    new = model.decoder.generate(
        prompt, max_new_tokens=most, do_sample=False, eos_token_id=tokenizer.end, pad_token_id=0
    )
    return str(tokenizer.decode(new[0, prompt.shape[1] :].tolist()).split(".")[0].strip())


def log_probability(model: MM1, context: str, end: str) -> float:
    """Of the `end` after the `context`, by one pass of the decoder alone."""
    tokenizer = World().tokenizer
    prompt, ids = [tokenizer.begin, *tokenizer.encode(context)], tokenizer.encode(end)
    logs = model.decoder(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 :].log_softmax(-1)
    return sum(float(logs[at, token]) for at, token in enumerate(ids))


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of prompts of each call of `generate`."""
    counts: list[int] = []
    true = generation.generate

    def generate(embedder: Any, groups: Any, *rest: Any) -> Any:
        counts.append(len(groups))
        return true(embedder, groups, *rest)

    for module in (generation, text_tasks):
        monkeypatch.setattr(module, "generate", generate)
    return counts


@torch.inference_mode()
@pytest.mark.usefixtures("installed")
def test_requests_with_the_same_limits_are_answered_together_and_as_each_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: list[int]
) -> None:
    stage, model = small(write(tmp_path, WRITTEN))
    stub = Stub()
    stub.asked = [
        (f"{'question : ' * (number + 1)}{asked['asks']}", {"until": ["."], "max_gen_toks": (3, 5)[number % 2]})
        for number, asked in enumerate(ROWS[:6])
    ]
    stub.install(monkeypatch)
    assert list(ask_text_tasks(stage, model, World().tokenizer)) == [] and at_once == [3, 3, 0]
    assert stub.said == [written(model, context, limits["max_gen_toks"]) for context, limits in stub.asked]
    assert len(set(stub.said)) > 1


@torch.inference_mode()
@pytest.mark.usefixtures("installed")
def test_a_question_is_read_once_for_its_choices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: list[int]
) -> None:
    stage, model = small(write(tmp_path, CHOICE | {"task": "said"}))
    stub = Stub()
    stub.asked = []
    stub.offered = [
        ("question : " * number + asked["asks"], f" {offer}" * (1 + number % 3))  # choices of one to three tokens
        for number, asked in enumerate(ROWS[:4])
        for offer in asked["offers"]
    ]
    stub.install(monkeypatch)
    assert list(ask_text_tasks(stage, model, World().tokenizer)) == [] and at_once == [4]
    likely = [log_probability(model, context, end) for context, end in stub.offered]
    assert [log for log, _ in stub.likely] == pytest.approx(likely, abs=1e-3)


@torch.inference_mode()
@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    "offered",
    [[("", " red circle"), ("", " blue")], [("question :", " red"), ("", " blue")], [("question :", "")] * 2],
)
def test_prompts_and_choices_may_be_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offered: list[tuple[str, str]]
) -> None:
    stage, model = small(write(tmp_path, WRITTEN))
    stub = Stub()
    stub.offered, stub.asked = offered, [(context, {"until": ["."], "max_gen_toks": 4}) for context, _ in offered]
    stub.install(monkeypatch)
    assert list(ask_text_tasks(stage, model, World().tokenizer)) == []
    likely = [log_probability(model, context, end) for context, end in offered]
    assert [log for log, _ in stub.likely] == pytest.approx(likely, abs=1e-3)
    assert stub.said == [written(model, context, 4) for context, _ in offered]


@torch.inference_mode()
def test_ten_questions_are_answered_as_the_decoder_answers_them(tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    tokenizer = World().tokenizer
    stage, model = small(write(tmp_path, CHOICE), write(tmp_path, WRITTEN))
    rows = list(ask_text_tasks(stage, model, tokenizer))
    chosen, answered = rows[:10], rows[10:]
    assert [row.benchmark for row in rows] == ["colours"] * 10 + ["said"] * 10
    assert {row.family for row in rows} == {"text"} and {row.shots for row in rows} == {0}
    assert len({row.block for row in chosen}) == min(stage.settings.blocks, 10)
    for row, asked in zip(chosen, ROWS, strict=True):
        likely = {offer: log_probability(model, asked["asks"], f" {offer}") for offer in asked["offers"]}
        assert row.prediction == max(likely, key=likely.__getitem__)
        assert row.score == 100.0 * (row.prediction == asked["offers"][asked["right"]])
    for row, asked in zip(answered, ROWS, strict=True):
        said = written(model, asked["asks"], 4)
        assert row.prediction == said and row.score == 100.0 * (said == asked["offers"][asked["right"]])
    (tmp_path / "asked.jsonl").write_text(json.dumps(ROWS[0]), encoding="utf-8")
    with pytest.raises(RequestError, match="the task changed while"):
        next(ask_text_tasks(stage, model, tokenizer))
