"""What README and its pages show: findings that the results bear out; a benchmark, run; a reference that is current."""

import csv
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from analysis.judging.difference import Difference
from analysis.study import read_study
from analysis.table import as_text
from mm1_lab.cli import command_parsers, main, make_parser
from mm1_lab.config import Measure, Recipe
from tests.conftest import REPOSITORY, Place, Told, ask_without_demonstrations
from tests.data.conftest import Files
from tests.evaluate.published import draw, write_pope

PUBLISHED = REPOSITORY / "results" / "study" / "mini"


def shown(language: str, heading: str, file: str) -> str:
    """The first code block of the language under the heading."""
    section = (REPOSITORY / "docs" / file).read_text(encoding="utf-8").split(f"## {heading}\n", 1)[1].split("\n## ")[0]
    block = re.search(rf"```{language}\n(.*?)```", section, re.DOTALL)
    assert block
    return block.group(1)


def test_readme_is_short_links_lead_somewhere_and_the_site_has_every_page() -> None:
    for path in (REPOSITORY / "README.md", *(REPOSITORY / "docs").glob("*.md")):
        text = path.read_text(encoding="utf-8")
        assert path.name != "README.md" or text.count("\n") <= 150
        links = re.findall(r"\]\(([^)]+)\)", text)
        for link in (link for link in links if "://" not in link):
            file, _, anchor = link.partition("#")
            target = path.parent / file if file else path
            assert target.exists(), f"{path.name}: {link}"
            assert not anchor or anchor in anchors(target), f"{path.name}: {link}"
    navigation = yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    entries = [entry for section in navigation for entry in section.values()]
    lists = [[{"": entry}] if isinstance(entry, str) else entry for entry in entries]
    named = {page for pages in lists for one in pages for page in one.values()}
    docs = {path.name for path in (REPOSITORY / "docs").iterdir() if path.suffix in (".md", ".ipynb")}
    assert named == docs | {"index.md", "gallery.md", "api.md"}


def anchors(page: Path) -> set[str]:
    """Those that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.+)", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_a_list_begins_after_a_blank_line_and_no_command_line_ends_with_a_comment() -> None:
    """GitHub does without, but the site would run it into the paragraph; the shell of macOS takes a comment for
    arguments when the line is pasted."""
    names = ("*.md", "docs/*.md", "contrib/*/*.md", "results/LOG.md")
    for path in [path for name in names for path in REPOSITORY.glob(name)]:
        blocks = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
        text = path.read_text(encoding="utf-8")
        found = re.search(r"^(?![-#\s>|]).*\n- .*", blocks.sub("", text), re.MULTILINE)
        assert not found, (path.name, found[0])
        for language, block in blocks.findall(text):
            if language in ("", "sh", "bash") and not block.startswith("#!"):  # a script, which bash runs
                assert not re.search(r"\s# ", block), (path.name, block)


def test_every_command_that_is_shown_has_its_options_and_every_target_is_made() -> None:
    """In the pages and in the heads of sweeps; and the commands of targets take the variables that `make` lists."""
    parsers = command_parsers(make_parser())
    (phony,) = re.findall(r"^\.PHONY: (.+)", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    targets = {*phony.split(), *(f"sweep-{path.stem.replace('_', '-')}" for path in REPOSITORY.glob("sweeps/*.yaml"))}
    names = ("README.md", "docs/*.md", "contrib/*/*.md", "sweeps/**/*.yaml")
    commands = 0
    for page in (path for name in names for path in REPOSITORY.glob(name)):
        text = page.read_text(encoding="utf-8")
        for command, rest in re.findall(r"(?<![\w-])mm1-lab +([a-z-]+)([^`#\n]*)", text):
            assert command in parsers, f"{page.name}: mm1-lab {command}"
            options = set(re.findall(r"(?<!\S)--[a-z-]+", rest))
            assert options <= set(parsers[command]._option_string_actions), f"{page.name}: mm1-lab {command}{rest}"
            commands += 1
        for target in re.findall(r"(?:^|`)make ([a-z][a-z-]*)", text, re.MULTILINE):
            assert target in targets or target == "sweep", f"{page.name}: make {target}"
    assert commands > 100
    variables = ("SCALE=smoke", "SEEDS=3", "RESULTS=my own", "ARGS=--debug")
    ran = subprocess.run(
        ["make", "-n", "sweep-data-mix", "check-scale", "lr-law", "figures", "report", "dashboard", *variables],
        cwd=REPOSITORY, capture_output=True, text=True, check=True,
    )  # fmt: skip
    lines = [line for line in ran.stdout.splitlines() if "bin/mm1-lab " in line]
    given = [make_parser().parse_args(shlex.split(line)[1:]) for line in lines]
    assert len(given) == 6 and all(one.debug and str(one.results) == "my own" for one in given)
    assert all((one.scale, one.seeds) == ("smoke", "3") for one in given[:3])
    assert given[0].sweep == "sweeps/data_mix.yaml"


def test_a_link_to_another_worktrees_environment_is_left_as_it_is(tmp_path: Path) -> None:
    """In a checkout that is newer than the installation."""
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / ".stamp").touch()
    second = tmp_path / "second"
    second.mkdir()
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copyfile(REPOSITORY / name, second / name)

    def dry_run() -> str:
        return subprocess.run(["make", "-n", "check"], cwd=second, capture_output=True, text=True, check=True).stdout

    assert "Installing" in dry_run()
    (second / ".venv").symlink_to(tmp_path / "first")
    os.utime(tmp_path / "first" / ".stamp", (0, 0))
    assert "Installing" in dry_run(), "a checkout of its own, whose environment is on another disk"
    (second / ".git").write_text("gitdir: elsewhere\n")
    assert "Installing" not in dry_run() and "ruff check" in dry_run()
    shutil.rmtree(tmp_path / "first")
    ran = subprocess.run(["make", "check"], cwd=second, capture_output=True, text=True)
    assert ran.returncode and "delete .venv, perhaps a link to nothing" in ran.stderr


@pytest.mark.parametrize("version", ["3, 10", "3, 15"])
def test_a_python_that_has_not_all_pinned_packages_is_refused(version: str, tmp_path: Path) -> None:
    python = tmp_path / "python"
    as_if = f"import sys; sys.version_info = ({version}); exec(sys.argv[1])"
    python.write_text(f"#!/bin/sh\nexec {sys.executable} -c '{as_if}' \"$2\"\n")
    python.chmod(0o755)
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copyfile(REPOSITORY / name, tmp_path / name)
    ran = subprocess.run(["make", "install", f"PYTHON={python}"], cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode and "Python 3.11 to 3.14 is needed" in ran.stderr and not (tmp_path / ".venv").exists()


@pytest.mark.parametrize("page", ["README.md", "docs/study.md"])
def test_the_findings_are_those_of_committed_results(page: str) -> None:
    """A comment after each names a sweep and its claim, or the difference in a row of `lesson_parts.csv`, or two arms
    of the data mix and a measure."""
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    number = r"(−?[\d.]+)"
    findings = re.findall(rf"{number} (?:points )?\[{number}, {number}\][^\n<]*<!-- ([^>]+) -->", text)
    assert len(findings) == text.count("<!-- ") and (findings or page != "README.md")
    names = ["estimate", "low", "high"]
    parts = pd.read_csv(PUBLISHED / "lesson_parts.csv").drop_duplicates("detail").set_index("detail")
    known = dict(parts[names].iterrows())
    for path in PUBLISHED.glob("*/contrasts.csv"):
        contrasts = pd.read_csv(path).set_index("claim")
        known |= {f"{path.parent.name}: {claim}": row for claim, row in contrasts[names].iterrows()}
    for *numbers, finding in findings:
        if finding in known:
            values = list(known[finding])
        else:
            arms, _, measure = finding.partition(", ")
            first, second = ((arm, Measure.parse(measure)) for arm in arms.split(" − "))
            found = Difference(read_study(PUBLISHED / "data_mix"), {first: 1.0, second: -1.0}).over_seeds
            assert found
            values = [found.estimate, found.low, found.high]
        form = ".2f" if finding.startswith("slope") else ".1f"
        assert [as_text(value, form) for value in values] == numbers, finding


def test_readme_says_how_many_lessons_would_be_decided_by_themselves() -> None:
    parts = pd.read_csv(PUBLISHED / "lesson_parts.csv")
    parts = parts[parts["decides"]]
    supported = parts["says"].eq("supported").groupby(parts["lesson"]).all()
    contradicted = pd.read_csv(PUBLISHED / "lessons.csv").set_index("lesson")["p"].lt(0.05) & ~supported
    told = f"{supported.sum()} would be supported and {contradicted.sum()} contradicted"
    assert told in (REPOSITORY / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", ["results.md", "study.md"])
def test_pages_name_every_seed_with_a_weak_kind_of_question(page: str) -> None:
    gates = pd.read_csv(PUBLISHED / "check_scale" / "gates.csv")
    assert "fail" not in set(gates["verdict"])
    weak = gates[gates["verdict"] == "weak"]
    text = (REPOSITORY / "docs" / page).read_text(encoding="utf-8")
    (paragraph,) = [one for one in text.split("\n\n") if "check_scale/gates.md" in one and "305" in one]
    assert {int(seed) for seed in weak["seed"]} == {int(seed) for seed in re.findall(r"\b30\d\b", paragraph)}
    assert {kind.split(",")[0] for kind in weak["what"]} == {"relation", "owner"}
    of_last = weak[(weak["seed"] == 305) & weak["what"].str.startswith("relation")]["value"]
    assert f"{of_last.min():.0f} to {of_last.max():.0f} %" in paragraph


def test_the_table_that_readme_shows_is_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    block = next(block for block in re.findall(r"```\n(.*?)```", text, re.DOTALL) if block.startswith("measure "))
    assert main(["compare", "data_mix", "captions-50", "captions", "--results", str(PUBLISHED.parent)]) == 0
    printed = capsys.readouterr().out
    assert block in printed and block.count("\n") == 5
    assert "over six training seeds" in text and "seeds 300–305" in printed


def test_intervals_and_verdicts_are_recomputed_as_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    page: dict[str, Any] = {}
    snippet = shown("python", "Recompute an interval", "study.md").rpartition("print(")[0]
    for sweep, claims in (("data_mix", 5), ("moe", 3)):
        exec(snippet.replace("data_mix", sweep), page)
        found = 0
        for row in pd.read_csv(PUBLISHED / sweep / "contrasts.csv").to_dict("records"):
            arms, _, measure = row["detail"].rpartition(", ")
            if shots := re.fullmatch(r"(\d)-shot", measure):
                values = page["difference"](*arms.split(" − "), int(shots[1]))
                assert values == pytest.approx((row["estimate"], row["low"], row["high"]), abs=0.001), row["claim"]
                found += 1
        assert found >= claims
    exec(shown("python", "Recompute the verdicts", "study.md"), page)
    lessons = pd.read_csv(PUBLISHED / "lessons.csv").set_index("lesson")
    assert page["verdicts"].to_dict() == lessons["verdict"].to_dict()
    assert page["corrected"].clip(upper=1).to_dict() == pytest.approx(lessons["p_holm"].to_dict(), abs=1e-5)
    for path in PUBLISHED.glob("*/contrasts.csv"):
        claims = pd.read_csv(path).dropna(subset="of_lesson")
        assert claims["lesson_verdict"].tolist() == lessons["verdict"][claims["of_lesson"]].tolist(), path


@pytest.mark.usefixtures("few_documents", "unrendered")
def test_a_benchmark_of_one_s_own_beside_a_published_one(
    tmp_path: Path, place: Place, told: Told, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On trials that are trained already; a file that does not fit is refused before anything runs."""
    section = ("A benchmark of your own", "../README.md")
    line, entry = shown("json", *section), yaml.safe_load(shown("yaml", *section))
    page = yaml.safe_load(shown("yaml", "Your own benchmark", "your-own-data.md"))
    assert page["benchmarks"]["signs"] == entry["benchmarks"]["signs"]
    monkeypatch.chdir(tmp_path)
    ask_without_demonstrations(tmp_path)
    files = Files(tmp_path)
    files.captions("captions.tar", range(80))
    files.jsonl("text.jsonl", [f"Line {n} says: {files.prose(30, n)}" for n in range(40)])
    data = {"captions": "captions.tar", "text": "text.jsonl"}
    arguments = ("data_mix", "--scale", "smoke", "--only", "captions+text", "--data", str(files.yaml(**data)))
    assert "1 of 1 trial" in told("run", *arguments, "--inline")
    trained = set(place.results.glob("store/*/DONE"))

    for name, start, count in (("signs", 0, 10), ("signs-train", 50, 8)):
        lines = []
        for number in range(start, start + count):
            draw(tmp_path / "pictures" / f"{number}.png", number)
            lines.append(json.dumps(json.loads(line) | {"image": f"{number}.png"}))
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    benchmarks = {"signs": entry["benchmarks"]["signs"], "pope": write_pope(tmp_path)}
    few = (*arguments, "--set", "evaluate.shots=[0, 2]", "--set", "evaluate.questions=10")
    files.yaml(**data, benchmarks=benchmarks)

    (tmp_path / "pictures" / "3.png").rename(tmp_path / "gone.png")
    for command in ("plan", "run"):
        assert main([command, *few]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") <= 2 and "pictures: has no image '3.png' of question 4" in error
    (tmp_path / "gone.png").rename(tmp_path / "pictures" / "3.png")

    assert "1 of 1 trial" in told("run", *few, "--inline")
    assert set(place.results.glob("store/*/DONE")) == trained, "only the evaluation ran"
    (table,) = (path for path in place.results.glob("smoke/*/scores.csv") if "evaluate" in path.parent.name)
    with table.open(encoding="utf-8", newline="") as file:
        rows = {(row["benchmark"], row["shots"]) for row in csv.DictReader(file)}
    scored = {"held-out-captions", "signs", "pope", "pope f1"}
    assert rows == {(name, shots) for name in scored for shots in ("0", "2")}
    (record,) = (path for path in place.results.glob("trials/*/record.json") if "signs" in path.read_text("utf-8"))
    notes = json.loads(record.read_text(encoding="utf-8"))["benchmarks"]
    assert "10 of 10 questions of signs.jsonl; demonstrations from signs-train.jsonl; prompt" in notes["signs"]
    assert f"signs: {notes['signs']}." in table.with_name("table.md").read_text(encoding="utf-8")

    asking = ["answers", few[0], "captions+text", *few[1:3], *few[5:], "--measure"]
    assert main([*asking, "signs 2-shot", "--limit", "2"]) == 0
    pictures = re.findall(r"\n  picture   (.+)\n  asked     <image>Question: What colour is", capsys.readouterr().out)
    assert len(pictures) == 2 and {Path(name).parent for name in pictures} == {tmp_path / "pictures"}
    with (tmp_path / "signs.jsonl").open("a", encoding="utf-8") as file:
        file.write(f"\n{lines[0]}")
    assert main([*asking, "signs 2-shot", "--limit", "2"]) == 0
    changed = capsys.readouterr()
    assert changed.out.count("(the benchmark or its data are others now)") == 2
    assert "captions+text is as it was run; " in changed.err
    files.yaml(**data, benchmarks={"later": entry["benchmarks"]["signs"]})
    assert main([*asking, "later"]) == 2 and "was added since; run it again" in capsys.readouterr().err


def test_the_reference_is_current_and_names_every_environment_variable_that_is_read() -> None:
    path = REPOSITORY / "docs" / "make_reference.py"
    spec = importlib.util.spec_from_file_location("make_reference", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = path.with_name("reference.md").read_text(encoding="utf-8")
    assert module.reference() == text, "run: python docs/make_reference.py"
    assert all(f"| `{name}` |" in text for name in Recipe.model_fields)
    read = set()
    for path in (REPOSITORY / "mm1_lab").rglob("*.py"):
        read |= set(re.findall(r"environ\.get\(\"(\w+)\"", path.read_text(encoding="utf-8")))
    assert read and all(f"`{name}`" in text for name in read)


@pytest.mark.usefixtures("here")
def test_json_has_the_keys_that_the_reference_names(capsys: pytest.CaptureFixture[str]) -> None:
    text = (REPOSITORY / "docs" / "reference.md").read_text(encoding="utf-8")
    told = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", text.split("## JSON")[1].split("\n## ")[0], re.MULTILINE))
    commands = command_parsers(make_parser())
    assert told.keys() == {name for name, parser in commands.items() if "--json" in parser.format_usage()}
    smoke = ("--scale", "smoke", "--json")
    for words in (
        ("plan", "data_mix", "--only", "base", *smoke),
        ("status", "data_mix", "--only", "base", *smoke),
        ("show", "data_mix", "base", *smoke),
        ("compare", "data_mix", "captions", "base", "--json"),
        ("answers", "data_mix", "base", "--measure", "vqa 0-shot", "--json"),
    ):
        assert main(list(words)) == 0
        printed = json.loads(capsys.readouterr().out)
        if words[0] == "show":
            printed = printed["base"]
        for key, value in printed.items():
            assert f"`{key}`" in told[words[0]]
            inner = value[0] if value and isinstance(value, list) and isinstance(value[0], dict) else {}
            assert all(f"`{name}`" in told[words[0]] for name in inner)
