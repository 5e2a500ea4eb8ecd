"""Users' instruction data in the three public forms, whole and broken."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, models, pre_tokenizers
from tokenizers import Tokenizer as Backend
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from mm1_lab.cli import main
from mm1_lab.config import DataMix, Recipe, RequestError, resolve
from mm1_lab.data.packing import Packer
from mm1_lab.data.shards import Shards
from mm1_lab.data.shards.readers import chat_prompt
from mm1_lab.data.types import Answer, Limits
from mm1_lab.evaluate.prompts import PromptWriter
from mm1_lab.evaluate.questions import Question
from mm1_lab.orchestrate.data_samples import conversations_as_read, data_samples

LIMITS = Limits(128, 4, 4)
ASKED = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]


def llava(files: Any, rows: list[dict[str, Any]] | None = None) -> str:
    samples = rows if rows is not None else [
        {"id": "a", "image": "1.png", "conversations": [
            {"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A square."},
            {"from": "human", "value": "Its colour?"}, {"from": "gpt", "value": "Green."}]},
        {"id": "b", "image": ["1.png", "2.png"], "conversations": [
            {"from": "human", "value": "Compare <image> with <image> now"}, {"from": "gpt", "value": "They differ."}]},
        asked("2 + 2?", "4"),
    ]  # fmt: skip
    (files.folder / "llava.json").write_text(json.dumps(samples, indent=1), encoding="utf-8")
    return "llava.json"


def asked(question: str, answer: str, **more: Any) -> dict[str, Any]:
    """A row in LLaVA's form."""
    return {"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}], **more}


def cauldron(files: Any) -> str:
    def turn(user: str, assistant: str) -> dict[str, str]:
        return {"user": user, "assistant": assistant, "source": "any"}

    images = [[{"bytes": files.png(1), "path": None}], [{"bytes": files.png(n), "path": None} for n in (1, 2)], []]
    texts = [[turn("What is it?", "A square."), turn("Its colour?", "Green.")], [turn("Compare.", "They differ.")],
             [turn("2 + 2?", "4")]]  # fmt: skip
    files.parquet("cauldron.parquet", {"images": images, "texts": texts})
    return "cauldron.parquet"


def messages(files: Any) -> str:
    rows = [
        {"messages": [
            {"role": "system", "content": "Be short."},
            {"role": "user", "content": [{"type": "image", "image": "1.png"}, {"type": "text", "text": "What is it?"}]},
            {"role": "assistant", "content": "A square."},
            {"role": "user", "content": [
                {"type": "text", "text": "And"}, {"type": "image_url", "image_url": {"url": "2.png"}},
                {"type": "text", "text": "this?"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "Another."}]}]},
        {"messages": [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": "Green."}],
         "images": ["1.png"]},
        {"messages": ASKED},
    ]  # fmt: skip
    return str(files.rows("chat.jsonl", rows).name)


def opened(files: Any, **sets: Any) -> Shards:
    files.pictures(3)
    return files.open(instructions=sets)


def told(data: Shards, name: str, sample: int) -> list[str]:
    """A conversation's parts in plain words: P1 and P2 are the pictures, answers stand in brackets."""
    parts = []
    for part in data.conversations[name].conversation(sample).parts:
        if isinstance(part, Answer):
            parts.append(f"[{part}]")
        elif isinstance(part, str):
            parts.append(part)
        else:
            parts.append(f"P{part.pixels(2)[0, 0, 0] // 4}")
    return parts


FIRST = ["P1", "User: What is it?\nAssistant:", "[ A square.]"]
SECOND = ["\nUser: Its colour?\nAssistant:", "[ Green.]"]
TEXT = ["User: 2 + 2?\nAssistant:", "[ 4]"]


@pytest.mark.parametrize(
    ("write", "expected"),
    [
        (llava, [
            FIRST + SECOND, ["User: Compare ", "P1", " with ", "P2", " now\nAssistant:", "[ They differ.]"], TEXT]),
        (cauldron, [FIRST + SECOND, ["P1", "P2", "User: Compare.\nAssistant:", "[ They differ.]"], TEXT]),
        (messages, [
            ["Be short.\n", *FIRST, "\nUser: And", "P2", "this?\nAssistant:", "[ Another.]"],
            ["P1", "User: What?\nAssistant:", "[ Green.]"], TEXT]),
    ],
)  # fmt: skip
def test_three_public_forms(files, write, expected):
    data = opened(files, mine={"files": write(files), "weight": 3})
    assert data.identity.instructions == {"mine": 3}
    assert [told(data, "mine", sample) for sample in range(3)] == expected


def test_a_question_is_trained_in_the_tokens_in_which_it_is_asked(files):
    """Qwen's and Llama 3's way of splitting words joins punctuation and the line break after it: `?\\n`."""
    words = Backend(models.BPE())
    split = pre_tokenizers.Split(Regex(r" ?\p{L}+| ?[^\s\p{L}]+[\r\n]*|\s+"), "isolated")
    words.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    words.train_from_iterator(["Why?\n"] * 9, BpeTrainer(initial_alphabet=alphabet, show_progress=False))
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>").save_pretrained(files.folder / "words")
    files.pictures(3)
    data = files.open(instructions={"mine": {"files": llava(files)}}, tokenizer="words")
    question, _ = data.conversations["mine"].conversation(2).parts
    assert data.tokenizer.encode(str(question)) == data.tokenizer.encode(chat_prompt("2 + 2?"))
    assert words.token_to_id("?Ċ") in data.tokenizer.encode(str(question))
    ids = data.conversations["mine"].tokens(data.tokenizer)[2].as_py()
    assert ids == data.tokenizer.encode(chat_prompt("2 + 2?")) + data.tokenizer.encode(" 4"), "rows are planned so too"


def test_a_benchmark_with_the_prompt_of_conversations_reads_as_training_did(files):
    """As docs/your-own-model.md says: a demonstration is a turn, after which come the end token and a line break."""
    data = opened(files, mine={"files": llava(files)})
    prompt = "User: {question}\nAssistant:".replace("{question}", "What is it?")
    document = data.conversations["mine"].conversation(0)
    shown = Question("a", "question", document.pictures, prompt, ("A square.",), "A square.")
    turn = PromptWriter(data.tokenizer, LIMITS.image_tokens, ends_answers=True).demonstration(shown, "\n").tokens
    row = Packer(data.tokenizer, LIMITS, 0.0, ends_answers=True).pack([document])
    assert row.tokens[: len(turn) + 1].tolist() == [data.tokenizer.begin, *turn]


def test_every_conversation_comes_once_per_epoch_whatever_fits_a_row(files):
    rows = [asked(f"{files.prose(n % 9 + 1, n)}?", str(n), id=str(n)) for n in range(40)]
    data = opened(files, mine={"files": llava(files, rows)})
    train = data.conversations["mine"].train
    assert data.identity.instructions == {"mine": len(train)}, "sets count by their size"
    source, short = (data.instructions("mine", 0, Limits(length, 4, 4)) for length in (LIMITS.sequence, 32))
    seen = [source.document(index).key for index in range(2 * len(train))]
    assert sorted(seen[: len(train)]) == sorted(data.conversations["mine"].key(sample) for sample in train.tolist())
    assert sorted(seen[: len(train)]) == sorted(seen[len(train) :]) and seen[: len(train)] != seen[len(train) :]
    assert source.epochs(len(train)) == 1
    assert [short.document(index).key for index in range(len(train))] == seen[: len(train)]
    # what counts are the answers, each with its end token
    documents = [source.document(index) for index in range(len(train))]
    (packed, *more), places = Packer(data.tokenizer, LIMITS, 0.0, ends_answers=True).pack_all(documents, at_least=1)
    answers = [part for document in documents for part in document.parts if isinstance(part, Answer)]
    counted = sum(len(data.tokenizer.encode(answer)) + 1 for answer in answers)
    assert sum(row.weights.sum() for row in (packed, *more)) == counted
    assert sorted(place for row in places for place in row) == list(range(len(train)))


def turns(*said: tuple[str, str], **more: Any) -> list[dict[str, Any]]:
    broken = {"conversations": [{"from": who, "value": what} for who, what in said], **more}
    return [asked("a?", "b"), broken, asked("a?", "b")]


BROKEN = [
    (turns(("human", "<image>\nwhat?"), ("gpt", "x"), image="lost.png"), "there is no image 'lost.png' in /"),
    (turns(("human", "what?"), ("gpt", " ")), "turn 1: the assistant's turn has no text"),
    (turns(("human", "<image>"), ("gpt", "x"), image="1.png"), "turn 0: the user's turn has no text"),
    (turns(("human", "a?"), ("gpt", "b"), ("gpt", "c")), "turn 2: is the assistant's, but should be the user's"),
    (turns(("human", "what?"), ("gpt", "<image> this"), image="1.png"), "turn 1: the assistant's turn has an image"),
    (turns(("human", "what?")), "ends without an answer"),
    (turns(("human", "<image><image>what?"), ("gpt", "x"), image="1.png"), "turn 0: marks a place for an image that"),
    (turns(("human", "<image>what?"), ("gpt", "x"), image=["1.png"] * 3), "marks places for 1 of its 3 images"),
    (turns(("bot", "what?")), "turn 0: has the role 'bot'"),
    (turns(), "has no turns"),
]  # fmt: skip


@pytest.mark.parametrize(("rows", "error"), BROKEN, ids=[error for _, error in BROKEN])
def test_a_broken_conversation_is_told_with_its_place(files, rows, error):
    files.pictures(3)
    place = r"llava\.json: " if "lost" in error else r"llava\.json, entry 1: "
    files.refused(place + re.escape(error), instructions={"mine": {"files": llava(files, rows)}})


def test_conversations_are_read_as_llava_reads_them(files):
    """A first turn of the model is skipped, and a picture without a name is none."""
    greeted = asked("2 + 2?", "4")
    greeted["conversations"].insert(0, {"from": "gpt", "value": "Hello."})
    data = opened(files, mine={"files": llava(files, [greeted, asked("2 + 2?", "4", image="")])})
    assert [told(data, "mine", sample) for sample in range(2)] == [TEXT, TEXT]


def test_an_answer_of_weight_0_is_read_and_has_no_loss(files):
    """As in OpenAI's format; other weights make another set, and one without an answer to learn is left out."""

    def written(*weights: Any) -> str:
        said = [{**turn, "weight": weights[at // 2]} for at, turn in enumerate(ASKED * len(weights))]
        files.rows("mine.jsonl", [{"messages": said}, {"messages": ASKED}])
        return "mine.jsonl"

    one, none = (opened(files, mine={"files": written(*weights)}) for weights in ((0, 1.0, None), (0, 0, 0)))
    document = one.conversations["mine"].conversation(0)
    row = Packer(one.tokenizer, LIMITS, 0.0, ends_answers=True).pack([document])
    answer = len(one.tokenizer.encode(" 4")) + 1
    assert row.weights.sum() == 2 * answer
    assert (row.tokens == one.tokenizer.end).sum() == 3 and row.weights[row.tokens == one.tokenizer.end].sum() == 2
    assert told(one, "mine", 0)[:2] == TEXT and one.identity != opened(files, mine={"files": written(1, 1, 1)}).identity
    assert none.conversations["mine"].left_out() == {"with weight 0 for all answers": 1}
    files.refused("turn 1: has the weight 0.5; an answer's is 0", instructions={"mine": {"files": written(0.5)}})


def test_conversations_are_shown_as_models_read_them(files):
    said = [{**turn, "weight": at > 1} for at, turn in enumerate([*ASKED, *ASKED])]
    files.rows("mine.jsonl", [{"messages": said, "images": ["1.png"]}, {"messages": ASKED}])
    shown = list(conversations_as_read(opened(files, mine={"files": "mine.jsonl"}), 1))
    assert shown == [
        "instructions.mine, conversation 1, with a loss in ⟦ ⟧:\n"
        "  <begin><image>User: 2 + 2?\n  Assistant: 4<end>\n  User: 2 + 2?\n  Assistant:⟦ 4<end>⟧"
    ]


def test_no_picture_of_a_conversation_is_lost_or_shown_twice(files):
    """Wherever it is marked: with the system's words, or by its place in the content and in `images` too."""
    inline = {"type": "image", "image": "1.png"}
    rows = [
        (("system", "Look: <image>"), ("user", "what?"), ["1.png"]),
        (("system", "Look:"), ("user", [inline, {"type": "text", "text": "what?"}]), ["1.png"]),
        (("assistant", "<image>"), ("user", "<image> what?"), ["1.png", "2.png"]),
        (("system", [inline]), ("user", "what?"), None),
    ]
    written = []
    for *said, images in rows:
        turns = [{"role": who, "content": what} for who, what in (*said, ("assistant", "red"))]
        written.append({"messages": turns, "images": images})
    files.rows("mine.jsonl", written)
    data = opened(files, mine={"files": "mine.jsonl"})
    assert [len(data.conversations["mine"].pictures(sample)) for sample in range(4)] == [1, 1, 2, 1]


def test_sets_are_listed_with_their_pictures_elsewhere_and_weigh_as_much_as_they_hold(files):
    (files.folder / "sets").mkdir()
    (files.folder / llava(files)).rename(files.folder / "sets" / "llava.json")
    messages(files)
    files.pictures(3, "coco")
    sets = [{"file": "sets/llava.json", "images": "coco"}, {"file": "chat.jsonl", "images": "coco"}]
    data = files.open(instructions=sets)
    assert data.identity.instructions == {"llava": 3, "chat": 3} and told(data, "llava", 0) == FIRST + SECOND
    assert files.open(instructions=sets[0]).identity.instructions == {"llava": 3}, "one set needs no list"
    weighing = {"llava": sets[0], "chat": {"files": sets[1], "weight": 2}}
    assert files.open(instructions=weighing).identity.instructions == {"llava": 1, "chat": 2}
    for place in ("file", "files"):  # an entry's keys beside those of the set
        beside = {place: "sets/llava.json", "images": "coco", "weight": 3}
        assert files.open(instructions=weighing | {"llava": beside}).identity.instructions == {"llava": 3, "chat": 2}
    assert files.open(instructions=[beside]).identity.instructions == {"llava": 3}
    data_set = {"dataset": "sets", "split": "train"}
    assert files.open(instructions=data_set | {"images": "coco"}).identity.instructions == {"sets": 3}
    message = r"a set of a list is named as its file; name this one: `\{NAME: \{files"
    files.refused(message, instructions=[{"files": ["sums.jsonl", "more.jsonl"]}])
    files.refused("two sets have the same name", instructions=[sets[0], dict(sets[0])])
    for one in (["sets/llava.json"], {"file": "sets/llava.json"}):
        files.refused(r"llava\.json: there is no image '1\.png' in /.+/sets; 3 of 3", instructions=one)


def test_a_row_without_turns_is_one_broken_conversation_also_in_json_lines(files):
    files.rows("mine.jsonl", [{"id": 7}] + [{"messages": ASKED}] * 99)
    data = opened(files, mine={"files": "mine.jsonl"})
    assert len(data.conversations["mine"]) == 99 and data.conversations["mine"].left_out() == {"broken": 1}
    files.rows("mine.jsonl", [{"id": 7}] * 9)
    message = r"mine\.jsonl, line 1: has no column 'messages' \(it has id\)"
    files.refused(message, instructions={"mine": {"files": "mine.jsonl"}})


def test_a_column_of_pictures_is_found_or_refused(files):
    """Texts need not mark their places, so that a missing column would go unseen."""
    files.rows("metadata.jsonl", [{"file_name": "1.png", "messages": ASKED}])
    for where in ({"folder": "."}, {"file": "metadata.jsonl", "images": "."}):
        assert told(opened(files, mine={"files": where}), "mine", 0) == ["P1", *TEXT]
    files.rows("metadata.jsonl", [{"picture": "1.png", "messages": ASKED}])
    wrong = {"file": "metadata.jsonl", "image": "pics"}
    message = r"mine: no row has a picture in a column 'pics'; which one has\?"
    files.refused(message, instructions={"mine": {"files": wrong}})
    files.rows("more.jsonl", [{"picture": None, "messages": ASKED}])
    both = [{"file": name, "image": "picture"} for name in ("metadata.jsonl", "more.jsonl")]
    data = opened(files, mine={"files": both})
    assert [told(data, "mine", sample) for sample in range(2)] == [["P1", *TEXT], TEXT], "a file may have none"


def test_a_tar_holds_conversations_with_and_without_pictures(files):
    row = json.dumps(asked("2 + 2?", "4")).encode()
    files.tar("chat.tar", {"a.json": row, "b.json": row, "b.png": files.png(1)})
    data = opened(files, mine={"files": "chat.tar"})
    assert [told(data, "mine", sample) for sample in range(2)] == [TEXT, ["P1", *TEXT]]


def test_what_is_no_set_of_conversations_is_told_as_what_it_is(files):
    configs = ""
    for name in ("a", "b"):
        (files.folder / "layout" / name).mkdir(parents=True)
        files.parquet(f"layout/{name}/train.parquet", {"messages": [json.dumps(ASKED)]})
        configs += f"- config_name: {name}\n  data_files: {name}/*.parquet\n"
    (files.folder / "layout" / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    (files.folder / "numbers.json").write_text("[1]")
    (files.folder / "cut.json").write_text('[{"messages": 1}, {')
    for given, message in (
        ({"files": "numbers.json"}, "entry 0: must be a JSON object"),
        ({"files": "cut.json"}, r"cut\.json.* is cut off, damaged or no \.json after entry 0 \(Expecting"),
        ({"files": "layout/a/*"}, "has no turns; store them as a list of objects"),
        ({"files": "pairs.tar", "reader": "pairs"}, "mine: pairs are no conversations; list them as a source"),
        ({"files": {"dataset": "layout"}}, r"'a', 'b'.*, name one: `\{dataset: …, config: NAME\}`"),
    ):
        files.refused(message, instructions={"mine": given})


def test_conversations_that_fit_no_row_are_told_and_held_out_ones_are_read(files):
    said = [(files.prose(40 if number % 2 else 4, number), str(number)) for number in range(80)]
    data = opened(files, mine={"files": llava(files, [asked(*one, image="1.png") for one in said])})
    (note,) = [line for line in data.summary() if "do not fit" in line]
    length = files.scale().sft.sequence_length
    assert f"of 80 conversations tried do not fit {length} positions and" in note
    held_out = data.held_out("instructions.mine", 99)
    train = {data.conversations["mine"].key(sample) for sample in data.conversations["mine"].train.tolist()}
    assert len(held_out) == 8 and not train & {document.key for document in held_out}
    shown = [sample for sample in data_samples(data) if sample.source == "instructions.mine"]
    assert len(shown) == 5 and all(one.pixels is not None for one in shown)
    assert any("Assistant:" in one.text for one in shown)


@pytest.mark.usefixtures("unrendered", "few_documents")
def test_tuning_on_conversations_of_which_some_fit_no_row(files, here, database, capsys):
    """What is drawn counts as epochs, held-out ones have a loss, and a set of which none fits trains nothing."""
    llava(files, [asked(files.prose(4 + 96 * (number % 2), number), "yes") for number in range(60)])
    files.captions("pairs.tar", range(40))
    files.jsonl("text.jsonl", [files.prose(40, number) for number in range(40)])
    files.rows("asked.jsonl", [{"question": f"Is {n} even?", "answer": ("yes", "no")[n % 2]} for n in range(8)])
    even = {"questions": "asked.jsonl", "metric": "yes-no", "shots": [0]}
    content = {"captions": "pairs.tar", "text": "text.jsonl", "instructions": "llava.json"}
    files.yaml(**content)
    arms = "{base: {}, long: {sft: {steps: 20000}}}"
    (files.folder / "tune.yaml").write_text(f"title: t\nrecipe: sft\narms: {arms}\n", encoding="utf-8")
    Path("results/local").mkdir(parents=True)
    shutil.copy(database, "results/local")
    settings = ("--set", "data_mix.interleaved=0", "--set", "evaluate.shots=[0]", "--set", "sft.sequence_length=")
    command = ["run", "tune.yaml", "--data", "data.yaml", "--scale", "smoke", "--inline", "--store", "store", *settings]
    command[-1] += "12"
    assert main(command) == 2
    told = capsys.readouterr()
    assert "instructions.llava: no conversation fits a row of 12 tokens" in told.err and "starts" not in told.out
    files.yaml(**content, benchmarks={"even": even})
    command[-1] = "sft.sequence_length=256"
    assert main(command) == 0
    told = capsys.readouterr().out
    left_out, tried = map(int, re.findall(r"note .*: (\d+) of (\d+) conversations do not fit 256 positions", told)[0])
    files_of = Path("results/local/trials").glob("*/record.json")
    records = {path: json.loads(path.read_text(encoding="utf-8")) for path in files_of}
    record, long = sorted(records, key=lambda path: records[path]["recipe"]["sft"]["steps"])
    summary, of_long = (records[path]["summaries"]["sft"] for path in (record, long))
    assert summary["left_out"] == left_out > 0
    assert summary["epochs"]["llava"] == pytest.approx(tried / 52), "60 but for the eight held out"
    losses = dict(line.split(",") for line in record.with_name("held_out.csv").read_text().splitlines())
    assert set(losses) == {"source", "captions", "text", "instructions.llava"}
    assert "Tuned on different conversations; epochs of instruction sets: base (llava 1.2); long (llava 2.5)." in told
    assert "data.yaml: tuned models are asked even with `Question: … Short answer:`; with `prompt: chat` as in" in told
    done = f"base (llava 1.2; {left_out} conversations did not fit); long (llava 2.5; {of_long['left_out']} conv"
    (table,) = Path("results/local/smoke").glob("*/table.md")
    said = table.read_text(encoding="utf-8")
    assert f"Tuned on different conversations; epochs of instruction sets: {done}" in said
    assert "even: answers that say neither yes nor no count as yes: 100 % of base, long." in said
    command[command.index("run") : command.index("--inline") + 1] = ["answers", "tune.yaml", "base", *command[2:6]]
    assert main([*command, "--limit", "1"]) == 0
    assert "even: answers that say neither yes nor no count as yes: 100 % of base.\n" in capsys.readouterr().out


def test_a_set_of_conversations_alone_is_enough_for_a_model_that_is_there(files):
    files.pictures(3)
    data = Shards(files.yaml(instructions=llava(files)), files.folder / "cache", files.scale())
    assert data.identity.sources == () and data.identity.held_out == ("instructions.llava",)
    assert next(line.partition(":")[0] for line in data.summary()) == "instructions.llava"
    pictures = data.identity.model_copy(update={"sources": ("captions",)})
    with pytest.raises(RequestError, match="the data name no text, on which alone a decoder is pre-trained"):
        resolve("base", Recipe(data_mix=DataMix(captions=1)), files.scale(), 0, pictures)
