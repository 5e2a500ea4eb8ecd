"""A sweep or a scale that is edited after its run, another sweep of its name, and arms that are the same trials."""

import re
import shutil
from pathlib import Path

import pytest
import yaml

from tests.conftest import Place, Told, ask_without_demonstrations, change

CLAIM = {"claim": "fewer tokens are better", "first": "few", "second": "base", "measure": "0-shot", "expect": "greater"}


pytestmark = pytest.mark.usefixtures("few_documents", "unrendered")


@pytest.fixture(autouse=True)
def inside(again: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(again.folder)


def test_what_a_folder_shows_after_a_change_of_its_sweep_is_told(again: Place, told: Told) -> None:
    ask_without_demonstrations(again.folder)
    path = again.folder / "q.yaml"
    sweep = {"title": "Q", "recipe": "base", "arms": {"base": {}, "few": {"image_tokens": 64}}, "contrasts": [CLAIM]}
    write(path, sweep)
    smoke, folder = ("--scale", "smoke"), again.results / "smoke" / "q"
    told("run", "q.yaml", *smoke, "--inline")
    assert "as it was run" not in told("compare", "q.yaml", "few", "base", *smoke)
    note = folder / ".drawn.json"
    noted = note.read_bytes()
    note.unlink()
    assert (folder / "contrasts.md").exists() and told("figures")
    assert note.read_bytes() == noted, "`figures` notes what it drew as `run` does, which need not draw it again"

    write(path, sweep | {"arms": {"base": {}, "few": {"connector": "average-pooling"}}})
    assert told("status", "q.yaml", *smoke).count("other settings than in the tables") == 1
    write(path, sweep | {"arms": {"base": {}, "few": {"connector": "c-abstractor"}}, "contrasts": []})
    output = told("compare", "q.yaml", "few", "base", *smoke)
    assert "few is as it was run; the sweep, its data, settings or the version are others now; run it" in output
    asked = ("q.yaml", *smoke)
    assert "that no table here uses" not in told("status")
    replaced = f"{folder}: other trials than before: few, as the sweep, its data, settings or the version changed; the"
    assert replaced in told("plan", *asked) and replaced in told("run", *asked, "--inline")
    assert replaced not in told("plan", *asked)
    drawn = told("run", "q.yaml", *smoke, "--only", "base", "--inline")
    assert "contrasts" not in drawn and not list(folder.glob("contrasts.*")), "of claims that it no longer makes"
    assert told("status").endswith("1 finished trial in trials/ that no table here uses\n")


def test_no_tables_of_the_scale_before_its_edit_stay_where_every_trial_fails(again: Place, told: Told) -> None:
    scale, folder = again.folder / "sweeps" / "scales" / "smoke.yaml", again.results / "smoke" / "data_mix"
    change(scale, "batch_size: 4, learning_rate: 2.0e-3", "batch_size: 4, learning_rate: 2.0e+5")
    asked = ("run", "data_mix", "--scale", "smoke", "--only", "base", "--inline")
    output = told(*asked, code=1)
    assert "\ndiverged: base / seed 0: the loss of step " in output and "--anew retries (" in output
    assert {path.name for path in folder.glob("[!.]*")} == {"sweep.json", "trials.csv"}
    assert "table.md" not in told(*asked, code=1)
    change(scale, "2.0e+5", "2.0e-3")
    told(*asked)
    assert "\nfailed: base / seed 0 of data_mix at smoke: the loss of step " in told("status")


def test_arms_that_do_not_differ_at_the_scale_are_named(again: Place, told: Told) -> None:
    steps = {"base": 200_000, "few": 205_000, "none": 205_001}
    arms = {name: {"image_tokens": 64, "steps": number} for name, number in steps.items()}
    write(again.folder / "q.yaml", {"title": "Q", "recipe": "base", "arms": arms, "contrasts": [CLAIM]})
    alike = "base = few = none are the same trials"
    assert alike in told("plan", "q.yaml", "--scale", "smoke", "--seeds", "2")
    assert alike not in told("plan", "q.yaml", "--scale", "mini")
    output = told("run", "q.yaml", "--scale", "smoke", "--only", "base,few", "--inline")
    first, last = "base = few are the same trials\n", "base = few are the same trials.\n"
    assert output.startswith(first) and last in output.split("Drawing")[1]
    assert last in (again.results / "smoke" / "q" / "table.md").read_text()
    assert re.search(r"\nfewer tokens are better +not judged: the same trials", output)


def test_a_claim_that_was_changed_after_its_scores_is_marked(again: Place, told: Told) -> None:
    """And another name of an arm is no change."""
    ask_without_demonstrations(again.folder)
    path = again.folder / "q.yaml"
    sweep = {"title": "Q", "recipe": "base", "arms": {"base": {}, "few": {"image_tokens": 64}}, "contrasts": [CLAIM]}
    write(path, sweep)
    run = ("run", "q.yaml", "--scale", "smoke", "--inline", "--seeds")
    told(*run, "2")
    page = again.results / "smoke" / "q" / "contrasts.md"
    assert "seen before" not in page.read_text()
    manifest = page.with_name("sweep.json")
    before = manifest.read_bytes()

    path.write_text(re.sub(r"\bfew\b", "thin", path.read_text()))
    output = told(*run, "1")
    assert "0 tasks, 1 of 1 trials done before" in output or "nothing ran" in output
    assert "left the tables" not in output and "after scores" not in output
    rows = (page.parent / "trials.csv").read_text().split("\n")[1:5]
    assert [row.split(",")[:2] for row in rows] == [[arm, seed] for seed in "01" for arm in ("base", "thin")]
    now = manifest.read_bytes()
    manifest.write_bytes(before)  # as if that run had been killed after it wrote trials.csv
    told("answers", "q.yaml", "thin", "--scale", "smoke")
    manifest.write_bytes(now)

    path.write_text(path.read_text().replace("greater", "less"))
    assert "after scores were there, as tables say from now on: 'fewer tokens are better'" in told(*run, "1")
    assert "| 2, development, 2 seen before the claim |" in page.read_text()
    output = told(*run, "1")
    assert "after scores" not in output and "2 seen before the claim |" in page.read_text()
    assert "Drawing" not in output, "nothing has changed since"

    path.write_text(path.read_text().replace("less", "greater"))
    told(*run, "1")
    assert "seen before" not in page.read_text(), "the one that was made in time"
    swapped = {"base": {"image_tokens": 64}, "thin": {}}
    write(path, sweep | {"arms": swapped, "contrasts": [CLAIM | {"first": "thin"}]})
    told(*run, "1")
    assert "2 seen before the claim |" in page.read_text(), "by names that are exchanged it is the one that was late"
    more = CLAIM | {"claim": "averaged is better", "first": "averaged", "second": "thin"}
    write(path, sweep | {"arms": {**swapped, "averaged": {"connector": "average-pooling"}}, "contrasts": [more]})
    assert "as tables say" not in told(*run, "1") and "seen before" not in page.read_text(), "of an arm without scores"

    write(path, sweep)
    told(*run, "1")
    shutil.rmtree(page.parent)
    assert "as tables say from now on: 'fewer tokens are better'" in told(*run, "2"), "a new folder forgets nothing"
    (again.folder / "copy.yaml").write_text(path.read_text())
    told("run", "copy.yaml", *run[2:], "2")
    for folder in (page.parent, page.parents[1] / "copy"):
        assert "2 seen before the claim |" in (folder / page.name).read_text()
    (again.folder / "later.yaml").write_text(path.read_text())
    damaged = again.results / "trials" / "0" / "record.json"
    damaged.parent.mkdir()
    damaged.write_text("{}")
    told("run", "later.yaml", *run[2:], "1", "--only", "base")
    told("run", "later.yaml", *run[2:], "2")
    later = (page.parents[1] / "later" / page.name).read_text()
    assert "2 seen before the claim |" in later, "also at seeds and of arms that the first run did not ask for"


def write(path: Path, sweep: dict[str, object]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump(sweep))
