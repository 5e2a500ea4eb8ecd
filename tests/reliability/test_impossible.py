"""What no scale can mean, YAML made to break its reader, what a terminal or a machine lacks: told in a short line."""

import io
import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from mm1_lab.cli import main
from mm1_lab.config import RequestError, load_scale, load_sweep, read_yaml
from mm1_lab.files import write_text
from mm1_lab.orchestrate.execution import worker
from mm1_lab.orchestrate.execution.ray_tune import RayTune
from mm1_lab.orchestrate.execution.worker import repository_commit
from mm1_lab.orchestrate.planning.finding import parse_seeds
from tests.conftest import SCALES, Refused

SWEEP = "title: T\naxis: data_mix\nrecipe: base\n"


@pytest.mark.parametrize(
    "setting",
    [
        "evaluate.shots=[]",
        "evaluate.shots=[0, -4]",
        "evaluate.questions=1e300",
        "resolutions={336: 0}",
        "resolutions={}",
        "image_tokens={144: 0}",
        "train.lr_multipliers.encoder=-1",
        "train.betas=[5, 0.9]",
        "train.learning_rate=1e30",
        "train.learning_rate=.nan",
        "train.steps=10000000000000",
        "vocabulary=1",
        "decoders={1.2B: {layers: 1000000000, width: 64, heads: 2}}",
        "resources.cpus=1e-9",
        "retries=-1",
    ],
)
def test_numbers_that_no_scale_can_mean(setting: str) -> None:
    with pytest.raises(RequestError, match=r"^--set") as refused:
        load_scale("smoke", SCALES, settings=(setting,))
    assert setting.partition("=")[0].split(".")[0] in str(refused.value) and len(str(refused.value)) < 300


def test_seeds_that_numpy_does_not_take_and_one_that_could_be_taken_for_their_number() -> None:
    for seeds in ("9" * 6000, "5,4294967296", "5-", "-3", "1-2-3", "305-300"):
        with pytest.raises(RequestError, match=r"give a count .* below 2\^32"):
            parse_seeds(seeds)
    for seeds in ("100", "1000000000"):
        with pytest.raises(RequestError, match=f"for seed {seeds} alone add a comma: --seeds {seeds},"):
            parse_seeds(seeds)


def test_seeds_as_ranges() -> None:
    assert parse_seeds("300-302") == (300, 301, 302) and parse_seeds("7-7") == (7,)
    assert parse_seeds("5, 300 - 301, 300") == (5, 300, 301)


MERGES = "a: &a {x: 1}\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} {{<<: [{', '.join([f'*{chr(97 + n)}'] * 9)}]}}\n" for n in range(9)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("title: " + "[" * 3000, "no plain YAML .*recursion"),
        (MERGES, "no plain YAML"),
        ("title: " + "9" * 6000, "no plain YAML"),
        ("title: 2001-13-45", "month must be in 1..12"),
        ("title: !!bool abc", "no plain YAML"),
        ('title: "\\UFFFFFFFF"', "no plain YAML"),
        ("title: !!python/object/apply:os.system [ls]", "no plain YAML"),
        ("\x00", "no plain YAML"),
    ],
)
def test_yaml_made_to_break_its_reader(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(RequestError, match=message) as refused:
        read_yaml(path)
    assert str(refused.value).startswith(str(path)) and len(str(refused.value)) - len(str(path)) < 400


def test_no_file_is_read_that_has_no_end(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.yaml")
    for path in (tmp_path / "fifo.yaml", Path("/dev/zero"), tmp_path):
        with pytest.raises(RequestError, match="is not a file"):
            read_yaml(path)
    with pytest.raises(RequestError, match="cannot be read as text"):
        read_yaml(tmp_path / ("x" * 300))


@pytest.mark.parametrize("key", ["title", "x" * 20_000])
def test_a_message_does_not_repeat_what_a_file_holds(key: str, here: Path, refused: Refused) -> None:
    words = ", ".join(["aaaaaaaaaa"] * 20_000)
    (here / "long.yaml").write_text(SWEEP.replace("title: T\n", "") + f"? {key}\n: [{words}]\n")
    error = refused("plan", "long.yaml", "--scale", "smoke")
    assert error.startswith("mm1-lab: long.yaml: ") and len(error.encode()) <= 2048
    assert not (here / "results").exists()


def test_a_terminal_that_lacks_characters_gets_their_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert main(["show", "data_mix", "--scale", "smoke"]) == 0
    sys.stdout.seek(0)
    assert "data_mix.synthetic_share 0.07 \\u2192 0.0" in sys.stdout.read()


def test_json_in_a_terminal_that_lacks_characters_is_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python would write `é` as `\\xe9`, which JSON does not know."""
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    (tmp_path / "scores.csv").write_text("arm,score\né,1\n🙂,2\n", encoding="utf-8")
    assert main(["judge", str(tmp_path / "scores.csv"), "--json"]) == 3
    sys.stdout.seek(0)
    (claim,) = json.loads(sys.stdout.read())["claims"]
    assert (claim["first"], claim["second"]) == ("🙂", "é")


def test_a_sweep_whose_name_results_cannot_record_is_refused(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/mix\xff.yaml"))
    try:
        path.write_text("{title: t, recipe: base, arms: {base: {}}}", encoding="utf-8")
    except OSError:  # as on a Mac
        pytest.skip("this file system has names in UTF-8 alone")
    with pytest.raises(RequestError, match="results cannot record this name; rename it"):
        load_sweep(path)


def test_memory_that_is_too_little_for_ray_is_told_before_ray_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (2 * 10**9, 0))
    with pytest.raises(RequestError, match=r"memory is limited to 2.0 GB.*or run without Ray \(--inline\)$"):
        RayTune().open(load_scale("smoke", SCALES))


def test_a_clone_has_its_commit_unless_changed_since_but_none_on_a_machine_without_git(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = tmp_path / "mm1_lab" / "code.py"
    for path in (code, tmp_path / "table.md"):
        write_text(path, "1")
    git = ("git", "-C", str(tmp_path), "-c", "user.name=me", "-c", "user.email=me@here")
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"], ["tag", "-a", "v1", "-m", "v1"]):
        subprocess.run([*git, *words], check=True)
    monkeypatch.setattr(worker, "PACKAGE", tmp_path / "mm1_lab")
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # as a container's root sees a clone of its host
    commit = repository_commit() or ""
    assert re.fullmatch("[0-9a-f]{40}", commit)
    write_text(tmp_path / "table.md", "2")  # drawn anew, which is no change of the code
    assert repository_commit() == commit
    write_text(code, "2")
    assert repository_commit() == f"{commit}-dirty"
    monkeypatch.setenv("PATH", "")
    assert repository_commit() is None
