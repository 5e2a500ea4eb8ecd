"""Pages of the site that are not in docs/: README as its home, a gallery of the study's figures, the Python interface,
and every file of the repository that a page links to. MkDocs calls the functions by their names."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from posixpath import dirname, normpath
from typing import Any

from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

REPOSITORY = Path(__file__).parents[1]
LINK = re.compile(r"(\]\(<?)([^)#:\s<>]+)((?:#[^)\s]*)?>?\))")
"""A Markdown link to a file, in three parts."""
API = """# Python

For a first look see the [notebook](notebook.ipynb).

::: mm1_lab.lab

`from mm1_lab import judge`:

::: analysis.external.judge.judge

::: mm1_lab.results.reading
"""


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages, and what they and the pages of docs/ link to."""
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    files.append(File.generated(config, "index.md", content=_moved(readme, "index.md", "README.md")))
    files.append(File.generated(config, "gallery.md", content=_gallery()))
    files.append(File.generated(config, "api.md", content=API))
    waiting = [("README.md", readme), *((f"docs/{path.name}", _text(path)) for path in _own_pages())]
    waiting += [(str(path.relative_to(REPOSITORY)), "") for path in _figures()]
    added = set[str]()
    while waiting:
        name, text = waiting.pop()
        if not name.startswith("docs/") and name not in added and name != "README.md":
            added.add(name)
            files.append(_file(name, text, config))
        for target in _targets(text, name):
            if target not in added and not target.startswith("docs/"):
                path = REPOSITORY / target
                waiting.append((target, _text(path) if path.suffix == ".md" else ""))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Links of pages in docs/ to files elsewhere in the repository."""
    source = page.file.src_uri
    own = (REPOSITORY / "docs" / source).exists()
    return _moved(markdown, source, f"docs/{source}") if own and source.endswith(".md") else markdown


def _own_pages() -> list[Path]:
    return sorted((REPOSITORY / "docs").glob("*.md"))


def _figures() -> list[Path]:
    return sorted((REPOSITORY / "results" / "study").glob("*/*/figure.png"))


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _file(name: str, text: str, config: Any) -> File:
    """A file of the repository at `repository/NAME` of the site."""
    place = f"repository/{name}"
    if name.endswith(".md"):
        return File.generated(config, place, content=_moved(text, place, name))
    return File.generated(config, place, abs_src_path=str(REPOSITORY / name))


def _targets(text: str, name: str) -> Iterator[str]:
    """The files of the repository that a page links to, which lies at `name`."""
    for _, link, _ in LINK.findall(text):
        target = normpath(f"{dirname(name)}/{link}") if dirname(name) else normpath(link)
        if (REPOSITORY / target).is_file():
            yield target


def _moved(text: str, place: str, name: str) -> str:
    """The text of the repository's file `name` with links for its `place` in the site; folders are not linked."""

    def link(found: re.Match[str]) -> str:
        before, target, after = found.groups()
        target = normpath(f"{dirname(name)}/{target}") if dirname(name) else normpath(target)
        if not (REPOSITORY / target).is_file():
            return found.group()
        if target.startswith("docs/"):
            target = target.removeprefix("docs/")
        elif target == "README.md":
            target = "index.md"
        else:
            target = f"repository/{target}"
        return f"{before}{os.path.relpath(target, dirname(place) or '.')}{after}"

    return LINK.sub(link, text)


def _gallery() -> str:
    """The figure of every sweep of the study, with a link to its tables."""
    parts = ["# Figures of the committed results\n\nDrawn by `mm1-lab figures --results results/study`.\n"]
    for path in _figures():
        folder = path.parent.relative_to(REPOSITORY)
        parts.append(f"## {path.parent.name}\n\n![{path.parent.name}](repository/{folder}/figure.png)\n")
    return "\n".join(parts)
