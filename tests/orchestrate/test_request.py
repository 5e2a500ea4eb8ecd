"""Requests about data of one's own: whose results, and whose law, are whose."""

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

from mm1_lab.cli import main, make_parser
from mm1_lab.config import RequestError
from mm1_lab.config.recipe import INSTRUCTIONS
from mm1_lab.evaluate.benchmarks import held_out_captions
from mm1_lab.evaluate.gates import prompts_fit
from mm1_lab.orchestrate.planning.doubts import doubtful_data, doubts
from mm1_lab.orchestrate.planning.loading import load_request
from mm1_lab.orchestrate.planning.plan import make_plan
from mm1_lab.results.manifest import read_manifest
from tests.conftest import REPOSITORY, make_place
from tests.data.conftest import Files
from tests.orchestrate.conftest import mark_done
from tests.pretrained import save_decoder, save_encoder


def data_file(folder: Path, first: int, **more: object) -> Path:
    """A `data.yaml` in a folder of its own, of pictures from `first` on."""
    folder.mkdir()
    files = Files(folder)
    files.captions("captions.tar", range(first, first + 40))
    files.jsonl("text.jsonl", [f"Line {n} says: {files.prose(30, n)}" for n in range(first, first + 40)])
    return files.yaml(captions="captions.tar", text="text.jsonl", **more)


def add_benchmark(data: Path, question: str) -> None:
    (data.parent / "asked.jsonl").write_text(json.dumps({"question": question, "answers": ["yes"]}), encoding="utf-8")
    with data.open("a", encoding="utf-8") as text:
        text.write("\nbenchmarks: {asked: {questions: asked.jsonl, metric: exact, shots: [0]}}\n")


def test_two_data_files_of_one_name_have_results_of_their_own(ask, tmp_path):
    files = [data_file(tmp_path / "a", 0), data_file(tmp_path / "b", 50), data_file(tmp_path / "c", 0)]
    requests = [ask("captions+text", data=file) for file in files]
    for request in requests:
        request.write_manifest()
    a, b, c = (request.folder for request in requests)
    assert a != b and read_manifest(a).data != read_manifest(b).data
    assert {read_manifest(folder).variant for folder in (a, b)} == {a.name, b.name}, "MLflow's parent goes by it"
    assert a.name.startswith("data_mix,data=data-") and c == a, "data are known by what they are, not by their place"
    add_benchmark(files[2], "Red?")
    (before,), (after,) = requests[2].trials, (more := ask("captions+text", data=files[2])).trials
    assert more.folder == c and after.evaluation.model == before.evaluation.model, "a benchmark is no other data"
    assert after.fingerprint != before.fingerprint


def test_a_source_that_no_arm_reads_trains_nothing_anew_and_leaves_the_results_where_they_were(ask, tmp_path):
    file = data_file(tmp_path / "a", 0)
    before = ask("captions+text", data=file)
    before.write_manifest()
    for stage in before.trials[0].evaluation.chain():
        mark_done(before.ledger, stage.fingerprint, is_trial=not stage.TRAINS)
    with file.open("a", encoding="utf-8") as text:
        text.write("\nsources: {charts: {reader: text, files: text.jsonl}}\ninstructions: {chat: chat.jsonl}\n")
    asked = [{"role": role, "content": "Red"} for role in ("user", "assistant")]
    (file.parent / "chat.jsonl").write_text(json.dumps({"messages": asked}), encoding="utf-8")
    after = ask("captions+text", data=file)
    states = {one.stage.name: one.state for one in make_plan(after.trials, after.ledger).stages.values()}
    assert states == {"encoder": "reused", "decoder": "reused", "multimodal": "reused", "evaluation": "to run"}
    assert after.folder == before.folder and not make_plan(before.trials, before.ledger).tasks
    # what an earlier version wrote there
    path = before.folder / "sweep.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    values["data"]["instructions_digest"] = values["data"].pop("parts")["text"]
    del values["digest"]
    path.write_text(json.dumps(values), encoding="utf-8")
    assert read_manifest(before.folder).data.parts == {}
    assert [row.fingerprint for row in after.write_manifest()] == [trial.fingerprint for trial in after.trials]


def test_a_sweep_outside_of_sweeps_is_run_again_by_its_file(ask, tmp_path, monkeypatch):
    path = tmp_path / "mine" / "text.yaml"
    path.parent.mkdir()
    path.write_text("title: Text?\nrecipe: base\narms: {base: {}, more: {data_mix: {text: 2}}}\n", encoding="utf-8")
    assert [row.arm for row in ask(sweep=path, seeds=np.int64(1)).write_manifest()] == ["base", "more"]
    folder = tmp_path / "results" / "smoke" / "text"
    assert read_manifest(folder).command() == f"mm1-lab run {path} --scale smoke", "which no bare name finds"
    path = tmp_path / "sweeps" / "text.yaml"
    shutil.copytree(tmp_path / "mine", path.parent)
    ask(sweep=path).write_manifest()
    assert read_manifest(folder).command() == f"mm1-lab run {path} --scale smoke", "another folder's sweeps"
    monkeypatch.chdir(tmp_path)
    ask(sweep="sweeps/text.yaml").write_manifest()
    assert read_manifest(folder).command() == "mm1-lab run text --scale smoke"


def test_a_benchmark_that_no_row_holds_is_refused_where_it_would_be_asked(here, told):
    """Commands that ask nothing, such as `export`, go on."""
    file = data_file(here / "a", 0)
    add_benchmark(file, "Red?" * 500)
    common = ("--scale", "smoke", "--data", str(file), "--only", "captions+text")
    for command in ("plan", "run"):
        printed = told(command, "data_mix", *common, code=2)
        assert "benchmark 'asked': a question after 0 demonstrations takes" in printed
        assert "reads at most 256; use fewer `new_tokens` of the benchmark, or a larger" in printed
        assert "Starting Ray" not in printed
    untrained = told("export", "data_mix", "model", *common, code=2)
    assert "results/local/store; run it first: mm1-lab run data_mix " in untrained


def test_held_out_captions_that_no_row_holds_are_told(ask, here, told, monkeypatch):
    """By a few of them and without decoding a picture: nobody asked for them, and what trained before still does."""
    file, settings = data_file(here / "a", 0), ("sequence_length=96",)
    request = ask("captions+text", data=file, settings=settings)
    data = request.open_data()
    (benchmark,) = held_out_captions(data, request.scale.evaluate)
    demonstrations = [
        [len(data.tokenizer.encode(f"{one.shown}\n")) for one in block] for block in benchmark.demonstrations
    ]
    longest = 1 + 9 * 9 + max(map(sum, demonstrations)) + benchmark.new_tokens
    monkeypatch.setattr("mm1_lab.data.pixels.decode", None)
    common = ("data_mix", "--scale", "smoke", "--data", str(file), "--only", "captions+text")
    printed = told("plan", *common, "--set", *settings)
    found = re.search(
        r"held-out-captions: a question after 8 demonstrations takes up to about (\d+) tokens, more than the 96",
        printed,
    )
    assert found and int(found[1]) == pytest.approx(longest, rel=0.05)
    assert "held-out-captions" not in told("plan", *common)
    add_benchmark(file, "Red?" * 500)  # so that nothing runs
    assert found[0] in told("run", *common, "--set", *settings, code=2)


def test_more_demonstrations_than_rows_of_the_world_hold_are_told(ask, told):
    """Where any trial is missing; the gate of `check-scale` measures all questions."""
    settings = ("evaluate.shots=[0,8,9,16]",)
    request = ask("base", settings=settings)
    checks = list(prompts_fit([trial.evaluation for trial in request.trials], request.open_data()))
    (line,) = doubtful_data(request)
    found = re.match(r"the world's .*: a question after 9 and 16 demonstrations takes .* about \d+ and (\d+) ", line)
    assert found and int(found[1]) == pytest.approx(max(check.value for check in checks), rel=0.05)
    assert f"{line}\n" in told("plan", "data_mix", "--scale", "smoke", "--only", "base", "--set", *settings)
    assert not doubtful_data(ask("base")), "eight fit"
    longer = ask("base", settings=(*settings, "sequence_length=512"))
    assert not doubtful_data(longer)
    for arms, told_of in (
        (ask("base", settings=("image_tokens=patches",)), ""),
        (ask("1344", sweep="sft_resolution"), "sft."),
    ):
        (line,) = doubtful_data(arms)
        assert "a question after 4 and 8 demonstrations" in line, "their pictures take more positions"
        assert line.endswith(f"or a larger {told_of}sequence_length")


def test_scores_elsewhere_are_told_where_there_are_some(ask, tmp_path, told):
    plain, changed = ask("base"), ask("base", settings=("train.steps=7",))
    mini = ask("base", scale="mini")
    changed.write_manifest()
    ask("base", scale="mini", settings=("train.steps=7",)).write_manifest()
    assert plain.elsewhere == changed.elsewhere == mini.elsewhere == "", "these have only begun"
    mark_done(changed.ledger, changed.trials[0].fingerprint, is_trial=True)
    found = "; there are results in smoke/{}: give the --scale, --set and --data of that run"
    hint = found.format("data_mix,train.steps=7")
    assert plain.elsewhere == hint and changed.elsewhere == mini.elsewhere == ""
    where = ("data_mix", "base", "--scale", "smoke", "--results", str(tmp_path / "results"))
    for command in (("answers", *where), ("compare", *where[:2], "captions", *where[2:])):
        assert f"smoke/data_mix: holds no results{hint}\n" in told(*command, code=2)
    plain.write_manifest()
    assert hint in told("answers", *where, code=2)
    mark_done(plain.ledger, plain.trials[0].fingerprint, is_trial=True)
    assert mini.elsewhere == found.format("data_mix")


def test_a_setting_of_the_recipe_changes_what_the_arms_start_from(ask, here, capsys):
    """Not what an arm sets itself."""
    settings = ("connector=average-pooling", "data_mix.text=3", "train.steps=7")
    request = ask("base", "captions", settings=settings)
    base, captions = (trial.recipe for trial in request.trials)
    assert (base.connector, base.data_mix.text) == ("average-pooling", 3)
    assert (captions.connector, captions.data_mix.text) == ("average-pooling", 0)
    assert request.scale.train.steps == 7
    assert request.variant == "data_mix,connector=average-pooling,data_mix.text=3,train.steps=7"
    options = [word for setting in settings for word in ("--set", setting)]
    assert main(["plan", "data_mix", "--only", "base", "--scale", "smoke", *options]) == 0
    assert capsys.readouterr().err == ""
    assert main(["plan", "lr_law", "--scale", "smoke", "--set", "learning_rate=1e-3"]) == 0
    assert capsys.readouterr().err == "--set: learning_rate=1e-3 changes nothing, as every arm sets this itself\n"
    for sweep, told in (("lr_law", 1), ("data_mix", 0)):
        assert main(["plan", sweep, "--scale", "smoke", "--set", "train.learning_rate=1e-3"]) == 0
        assert capsys.readouterr().err.count("--set: train.learning_rate changes nothing") == told


def test_a_command_that_is_told_can_be_typed_as_it_stands(ask, here):
    """It names the sweep as it was named, and folders that are not the usual."""
    settings = ("evaluate.shots=[0, 4]", "train.steps=6")
    request = ask("average-pooling 224 64", sweep="connector", settings=settings)
    typed = shlex.split(request.command("--only", "average-pooling 224 64"))
    options = make_parser().parse_args(typed[1:])
    assert typed[0] == "mm1-lab" and (options.sweep, options.scale) == ("connector", "smoke")
    assert options.only == ["average-pooling 224 64"] and tuple(options.set) == settings
    make_place(here)
    assert load_request("sweeps/data_mix.yaml", "smoke").command() == "mm1-lab run sweeps/data_mix.yaml --scale smoke"
    request = load_request("data_mix", "smoke", results=Path("mine"), store=here.parent / "weights")
    request.write_manifest()
    assert read_manifest(request.folder).command() == "mm1-lab run data_mix --scale smoke"
    folders = f"--results mine --store {here.parent}/weights"
    assert request.command("--seeds", "3") == f"mm1-lab run data_mix --scale smoke --seeds 3 {folders}"


def test_a_folder_or_a_project_s_scales_hide_neither_sweep_nor_scale(here):
    (here / "data_mix").mkdir()
    scales = here / "sweeps" / "scales"
    scales.mkdir(parents=True)
    shutil.copy(REPOSITORY / "sweeps" / "scales" / "smoke.yaml", scales / "mine.yaml")
    shutil.copy(REPOSITORY / "sweeps" / "data_mix.yaml", "sweeps/mine.yaml")
    requests = [load_request("data_mix", "smoke"), *(load_request("mine", scale) for scale in ("smoke", "mine"))]
    (here / "experiments").mkdir()
    shutil.copy(REPOSITORY / "sweeps" / "data_mix.yaml", "experiments/q.yaml")
    requests.append(load_request("experiments/q.yaml", "mine"))  # finds the scale where it finds recipes
    assert requests[0].trials == requests[1].trials == requests[2].trials == requests[3].trials
    with pytest.raises(RequestError, match="there is no scale 'smok'; did you mean 'smoke'"):
        load_request("data_mix", "smok")


def test_rows_too_short_for_the_world_are_refused_and_serve_for_other_data(ask, tmp_path):
    short = ("sequence_length=192",)
    with pytest.raises(RequestError, match=r"take up to 256 positions and 9 images; raise sequence_length \(192\)"):
        ask(settings=short)
    large, small = "image_tokens={64: 4, 144: 16}", "image_tokens={64: 4, 144: 4}"
    for settings, told in (
        ((large,), r"319 positions .* sequence_length \(256\)"),
        ((small, "sequence_length=220"), r"256 positions .* sequence_length \(220\)"),  # texts, without images
        (("max_images=8",), r"9 images; .* max_images \(8\)"),
    ):
        with pytest.raises(RequestError, match=f"take up to .*{told}"):
            ask("base", settings=settings)
    ask(settings=("max_images=9",))
    ask("captions+text", settings=(large,))
    own = data_file(tmp_path / "own", 0, pictures="pad")
    request = ask("captions+text", settings=short, data=own)
    assert {trial.evaluation.data.shape for trial in request.trials} == {"pad"}, "chat reads pictures in the same way"


def test_documents_of_the_world_that_no_row_holds_by_a_decoder_s_tokenizer_are_refused(here, told, refused):
    shutil.copytree(REPOSITORY / "sweeps" / "recipes", here / "recipes")
    decoder = save_decoder("llama", here / "llama")
    arms = f"{{base: {{}}, llama: {{decoder: {decoder}}}}}"
    (here / "mixed.yaml").write_text(f"title: t\nrecipe: base\narms: {arms}\n", encoding="utf-8")
    plan = ("plan", "mixed.yaml", "--scale", "smoke")
    assert "'pretraining-text/0' takes 87 of a row's 64 positions" in refused(*plan)
    assert "'interleaved/0' takes 529 of a row's 256 positions" in refused(*plan, "--only", "llama")
    phases = "decoder.phases=[{share: 1, sequence_length: 2048, batch_size: 2}]"
    assert "2 trials" in told(*plan, "--set", "sequence_length=2048", "--set", phases)


def test_data_without_anything_to_evaluate_on_are_refused(ask, tmp_path):
    """Before anything is trained: only `captions` and `synthetic` are held out to be captioned."""
    data = data_file(tmp_path / "a", 0, sources={"charts": {"reader": "pairs", "files": "captions.tar"}})
    data.write_text(data.read_text().replace("captions: captions.tar\n", ""))
    sweep = tmp_path / "own.yaml"
    encoder = f"encoder: {{size: {save_encoder('clip', tmp_path / 'clip')}}}, resolution: native"
    mix = "data_mix: {captions: 0, interleaved: 0, charts: 1}"
    sweep.write_text(f"title: t\nrecipe: base\narms: {{x: {{{encoder}, {mix}}}}}\n")
    with pytest.raises(RequestError, match=r"data\.yaml: there is nothing to evaluate on; name captioned images"):
        ask(sweep=sweep, data=data)


def test_a_mixture_says_which_instruction_sets_it_leaves_out(ask, tmp_path):
    """Those of weight 0, and those without a weight beside others that have one, of which a plan tells."""
    none = dict.fromkeys(INSTRUCTIONS, 0)
    text = {"mixture": {"text": 1}}
    arms = {"all": {}, "one": {"sft": text}, "two": {"sft": text, "data_mix": {"text": 2}}}
    arms["less"] = {"sft": {"mixture": dict(list(none.items())[1:])}}
    (tmp_path / "t.yaml").write_text(json.dumps({"title": "t", "recipe": "sft", "arms": arms}))
    request = ask(sweep=tmp_path / "t.yaml")
    shares = [trial.evaluation.model.shares for trial in request.trials]
    assert shares[0] == dict.fromkeys(sorted(INSTRUCTIONS), 0.125) and shares[1] == {"text": 1}
    assert shares[3] == {INSTRUCTIONS[0]: 1}, "the rest stays as it is"
    told = [line for line in doubts(request) if "sft.mixture" in line]
    assert told == [f"one, two: sft.mixture does not name {', '.join(INSTRUCTIONS[:-1])}, so left out"]
    with pytest.raises(RequestError, match="leaves out all instruction sets; give one a weight"):
        ask(sweep=tmp_path / "t.yaml", settings=[f"sft.mixture={json.dumps(none)}"])
