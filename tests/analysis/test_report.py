"""The report stands by itself and leads where its links say."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from mm1_lab.cli import main
from mm1_lab.config import Sweep
from tests.analysis.results_folder import write_results


class Page(HTMLParser):
    """What a page refers to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.references: list[str] = []
        self.tags: list[str] = []
        self.without_words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = {name: value or "" for name, value in attrs}
        self.tags.append(tag)
        self.ids += [known["id"]] if "id" in known else []
        self.references += [known[name] for name in ("href", "src") if name in known]
        if tag == "img" and "alt" not in known:
            self.without_words.append(tag)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, data_mix: Sweep) -> Path:
    results = tmp_path_factory.mktemp("report")
    missing = ("captions-33/0", "captions-33/1", "base/1")
    panels = {key: data_mix.panels[key] for key in ("a", "d")}
    sweep = data_mix.model_copy(update={"panels": panels, "contrasts": data_mix.contrasts[:3]})  # quicker to draw
    write_results(results, sweep, data_mix.arms, (0, 1), missing=missing, questions=16)
    assert main(["report", "--results", str(results)]) == 0
    return results


def test_it_needs_nothing_else_and_leads_only_to_itself(results: Path) -> None:
    text = (results / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert len(set(page.ids)) == len(page.ids)
    targets = {f"#{name}" for name in page.ids}
    assert all(reference in targets or reference.startswith("data:") for reference in page.references)
    assert len([reference for reference in page.references if reference.startswith("#")]) >= 4
    assert "script" not in page.tags and not page.without_words
    assert not re.search(r"url\(|@import|https?:", text)


def test_it_tells_lessons_holes_cost_and_how_to_run_it_again(results: Path) -> None:
    text = (results / "report.html").read_text(encoding="utf-8")
    assert "each a change to the base: encoder size ViT-L, " in text
    assert not re.search(r"each a change to the base:[^.]* (none|None|unset)", text)
    assert "captions lift zero-shot" in text and "not run: make" not in text, "no empty rows"
    assert "at scale mini, with development seeds 0 and 1, in a miniature world" in text
    assert text.index("drawn shapes") < text.index("No design choice can be said") < text.index(" lessons: ")
    assert text.index(" lessons: ") < text.index("The axes as a table") < text.index("<dt>points</dt>")
    assert '<p class="banner">The development seeds 0 and 1' in text
    assert text.count('loading="lazy"') == text.count("<img") and "<details open" not in text
    assert "Without scores:</strong> base (seed 1), captions-33 (seeds 0, 1)" in text
    assert "mm1-lab run data_mix --scale mini --seeds 0,1 --only base" in text
    assert "<strong>not judged</strong>: one seed" in text  # few-shot: base has one seed
    assert "prefers-color-scheme: dark" in text and 'name="viewport"' in text
