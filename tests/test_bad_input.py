"""Wrong requests: one clear line, exit code 2, nothing lost, nothing trained."""

import json
import shutil
from pathlib import Path

import pytest

from mm1_lab.cli import main
from tests.conftest import SCALES, Refused, Told
from tests.data.conftest import Files


@pytest.fixture
def refused(here: Path, refused: Refused) -> Refused:
    """Gives the one line with which `mm1-lab run` refuses; nothing is written."""

    def run(*options: str, sweep: str = "data_mix") -> str:
        error = refused("run", sweep, "--scale", "smoke", *options)
        assert not list(here.glob("results/**/sweep.json"))
        return error

    return run


WRONG = [
    (["--set", "conector=c-abstractor"], ["there is no 'conector'; did you mean 'connector'?"]),
    (["--set", "shots=[0]"], ["unknown key 'shots'; did you mean evaluate.shots?"]),
    (["--seeds", "0-4294967295"], ["at most 10,000"]),
    (["--seeds", "0-9999,10000-19999"], ["12 arms at 20,000 seeds are 240,000 trials", "takes at most 200,000; name"]),
    (["--set", "evaluate.shots=4"], ["evaluate.shots: must be a list, such as [4] (it is 4)"]),
    (["--set", "evaluate.shots=[4,4]"], ["evaluate.shots: holds a number twice"]),
    (["--set=--"], ["'--set=--' is not a value"]),
    (["--set", "sft.start=there", "--set", "sft.after_steps=5"], ["after_steps refers to pre-training, which"]),
    (["--set", "data_mix.text=-1"], ["--set", "text"]),
    (["--set", "learning_rate=-1"], ["learning_rate: Input should be greater than or equal to 0.000000001"]),
    (["--data", "none.yaml"], ["none.yaml", "no such file"]),
]


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        ("{connector: pixel-shuffle, resolution: 224}", "4 × 4 patches cannot give 9 tokens"),
        ("{connector: mlp}", "write `image_tokens: patches`"),
        ("{connector: pixel-shuffle, sft: {resolution: 672}}", "than for the 36 of pre-training; write `resolution: "),
        ("{connector: mlp, image_tokens: patches, sft: {resolution: 672}}", "and for tuning `resolution: native`"),
        ("{image_tokens: patches, resolution: 672}", "no interleaved document fits 256 positions with 144 per picture"),
        ("{sft: {resolution: 1344, views: 5, mixture: {charts: 1}, replay: {interleaved: 1}}, "
         "scale: {sft.sequence_length: 72}}",
         "no interleaved document fits 72 positions with 45 per picture, and 20 images with 5; raise sft.sequence_"),
        ("{image_tokens: patches, resolution: 378, sft: {resolution: native, views: 5}}",
         "no charts conversation fits 256 positions with 245 per picture, and 20 images with 5; raise sft.sequence_"),
        ("{sft: {resolution: 672, views: 5, replay: {interleaved: 1}}, scale: {sft.max_images: 5}}",
         "per picture, and 5 images with 5; raise sft.sequence_length or sft.max_images, or "),
    ],
)  # fmt: skip
def test_an_arm_that_cannot_be_trained(here: Path, refused: Refused, arm: str, message: str) -> None:
    (here / "own.yaml").write_text(f"title: T\nrecipe: base\narms: {{own: {arm}}}\n")
    error = refused(sweep="own.yaml")
    assert "own / seed 0: " in error and message in error


def test_a_sweep_s_file_and_a_scale_give_results_a_folder_of_their_own(here: Path, refused: Refused) -> None:
    (here / "...yaml").write_text("title: T\nrecipe: base\narms: {own: {}}\n")
    if Path("...yaml").stem == "..":  # not from Python 3.14 on
        assert "...yaml: name: must be a name, not a path, as a folder of" in refused(sweep="./...yaml")
    scales = here / "sweeps" / "scales"
    scales.mkdir(parents=True)
    for name, message in (("../own", "must be a name, not a path"), ("trials", "is the name of another folder")):
        shutil.copyfile(SCALES / "smoke.yaml", scales / f"{name}.yaml")
        assert f"the scale {name!r} {message}" in refused("--scale", name)


def test_a_wrong_option(refused: Refused) -> None:
    for options, fragments in WRONG:
        error = refused(*options)
        assert all(fragment in error for fragment in fragments), error


def test_an_address_at_which_there_is_no_cluster(told: Told) -> None:
    words = ("run", "data_mix", "--scale", "smoke", "--address", "127.0.0.1:1", "--results", "here")
    lines = told(*words, code=2).splitlines()
    assert len(lines) == 3 and lines[2].startswith("mm1-lab: --address 127.0.0.1:1: there is no Ray cluster (")
    assert lines[2].endswith("Connection refused)"), "asked before Ray is, which tries for long and writes of it"


def test_a_results_folder_that_cannot_be_written(refused: Refused) -> None:
    Path("file").write_text("precious")
    assert "file/results: cannot be written to" in refused("--results", "file/results")
    assert "file/store: cannot be written to" in refused("--store", "file/store")
    assert Path("file").read_text(encoding="utf-8") == "precious"


def test_an_arm_that_the_data_do_not_allow_stops_no_other(refused: Refused, capsys: pytest.CaptureFixture[str]) -> None:
    Files(Path()).captions("good.tar", range(16))
    Path("text.jsonl").write_text(json.dumps({"text": "some words. " * 200}) + "\n", encoding="utf-8")
    Path("data.yaml").write_text("text: [gone.jsonl]\n")  # told before files are read
    assert "add `captions: [FILES]`" in refused("--data", "data.yaml")
    Path("data.yaml").write_text("text: [text.jsonl]\ncaptions: [good.tar]\n")
    told = refused("--data", "data.yaml")
    assert "lists interleaved, which the data do not contain; they contain captions, text. Give --set" in told
    assert "--set data_mix.interleaved=0, or run arms that set what they mix without it" in told
    assert main(["plan", "data_mix", "--scale", "smoke", "--data", "data.yaml", "--only", "captions+text"]) == 0
    captured = capsys.readouterr()
    assert "1 trial, 4 stages to run" in captured.out and "no synthetic captions" in captured.err


def test_benchmarks_that_cannot_be_asked(refused: Refused) -> None:
    Path("own.jsonl").write_text('{"question": "two and two", "answer": "4"}\n')
    named = "benchmarks=[{name: sums, questions: own.jsonl, metric: exact}]"
    assert "the world has a vocabulary of its own" in refused("--set", named)
    for key, message in (
        ("{metrc: exact}", "unknown key 'benchmarks.sums.metrc'; did you mean 'benchmarks.sums.metric'"),
        ("{questions: gone.jsonl, metric: exact}", "gone.jsonl: cannot be read"),
    ):
        text = f"captions: a.tar\ninterleaved: a.parquet\ntext: a.jsonl\nbenchmarks: {{sums: {key}}}\n"
        Path("data.yaml").write_text(text, encoding="utf-8")
        assert message in refused("--data", "data.yaml")
