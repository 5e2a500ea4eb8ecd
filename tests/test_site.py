"""The site of `make docs` has every page of docs/."""

from pathlib import Path

import yaml

from tests.conftest import REPOSITORY


def test_every_page_is_in_the_navigation() -> None:
    navigation = yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    named = {page for section in navigation for entry in section.values() for page in _pages(entry)}
    made = {"index.md", "gallery.md", "api.md"}
    docs = {path.name for path in Path(REPOSITORY / "docs").iterdir() if path.suffix in (".md", ".ipynb")}
    assert named == docs | made


def _pages(entry: str | list[dict[str, str]]) -> list[str]:
    return [entry] if isinstance(entry, str) else [page for one in entry for page in one.values()]
