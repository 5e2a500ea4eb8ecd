"""docs/reference.md says what the code says."""

import importlib.util
import json
import re

import pytest

from mm1_lab.cli import command_parsers, main, make_parser
from mm1_lab.config import Recipe
from tests.conftest import REPOSITORY


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
