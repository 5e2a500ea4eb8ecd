"""docs/reference.md says what the code says."""

import importlib.util
import re

from mm1_lab.config import Recipe
from tests.conftest import REPOSITORY


def test_the_reference_is_current() -> None:
    path = REPOSITORY / "docs" / "make_reference.py"
    spec = importlib.util.spec_from_file_location("make_reference", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = path.with_name("reference.md").read_text(encoding="utf-8")
    assert module.reference() == text, "run: python docs/make_reference.py"
    assert all(f"| `{name}` |" in text for name in Recipe.model_fields)


def test_it_names_every_environment_variable_that_is_read() -> None:
    text = (REPOSITORY / "docs" / "reference.md").read_text(encoding="utf-8")
    read = set()
    for path in (REPOSITORY / "mm1_lab").rglob("*.py"):
        read |= set(re.findall(r"environ\.get\(\"(\w+)\"", path.read_text(encoding="utf-8")))
    assert read and all(f"`{name}`" in text for name in read)
