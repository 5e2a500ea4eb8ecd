"""Pages of sampled predictions beside their pictures: does a model look at what it is asked about?

The samples are the first question of the first blocks of every benchmark, as the evaluation stored them, so nobody
chose them. The page holds its pictures and can be sent as one file; the sheet is a figure of the base beside the blind
control.
"""

from __future__ import annotations

import base64
import html
import json
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.study import Study
from analysis.style import WIDTH, save_png, styled
from mm1_lab.config import RequestError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RIGHT, WRONG = "#0B6E4F", "#B3400A"
RIGHT_FROM = 50
"""Points from which a prediction is shown as right."""


@dataclass(frozen=True)
class Sampled:
    """A question with the predictions of several arms."""

    question: dict[str, Any]
    """As samples.json holds it: benchmark, shots, question, prompt, references, picture."""
    picture: Path | None
    answers: dict[str, tuple[str, float]]
    """By arm: prediction and points."""


def shown_arms(study: Study) -> list[str]:
    """The base, the two ends of the first panel and the blind control, as far as they have scores."""
    first = list(next(iter(study.panels.values())).arms.values())
    base = [arm for arm, recipe in study.sweep.arms.items() if recipe == study.sweep.base]
    control = [study.blind] if study.blind else []
    return [arm for arm in dict.fromkeys([*base, first[0], first[-1], *control]) if arm in study.scored]


def read_samples(study: Study, arms: list[str]) -> list[Sampled]:
    """The questions that all of `arms` were sampled on, at the first seed that all of them have.

    Those whose picture is no longer there are left out.
    """
    trials = study.variant.trials[study.variant.trials["done"]]
    of_seed: dict[int, dict[str, str]] = {}
    for arm, seed, fingerprint in zip(*(trials[name].tolist() for name in ("arm", "seed", "fingerprint")), strict=True):
        of_seed.setdefault(seed, {})[arm] = fingerprint
    complete = [known for _, known in sorted(of_seed.items()) if set(arms) <= set(known)]
    if not complete:
        return []
    found: dict[tuple[str, int, str], Sampled] = {}
    for arm in arms:
        path = study.variant.results / "trials" / complete[0][arm] / "samples.json"
        for sample in _samples(path):
            key = (sample["benchmark"], sample["shots"], sample["question"])
            picture = study.variant.results / "pictures" / sample["picture"] if sample["picture"] else None
            if picture and not picture.exists():
                continue
            entry = found.setdefault(key, Sampled(sample, picture, {}))
            entry.answers[arm] = (sample["prediction"], sample["score"])
    return [entry for entry in found.values() if set(entry.answers) == set(arms)]


def _samples(path: Path) -> list[dict[str, Any]]:
    try:
        samples = json.loads(path.read_text(encoding="utf-8"))
        needed = {"benchmark", "shots", "question", "prompt", "references", "prediction", "score", "picture"}
        lacking = sorted({key for sample in samples for key in needed - set(sample)})
    except (OSError, ValueError, TypeError) as error:
        raise RequestError(f"{path}: cannot be read ({error}); delete its folder and run the sweep again") from None
    if lacking:
        raise RequestError(f"{path}: a sample lacks {lacking[0]!r}; delete its folder and run the sweep again")
    return list(samples)


def write_page(study: Study, samples: Sequence[Sampled], path: Path) -> list[Path]:
    """Writes the page; nothing where no trials have samples in common."""
    if not samples:
        return []
    title = html.escape(f"{study.sweep.title}: sampled predictions at scale {study.variant.manifest.scale}")
    path.write_text(PAGE.format(title=title, table=samples_table(samples)), encoding="utf-8")
    return [path]


def samples_table(samples: Sequence[Sampled]) -> str:
    """The samples as HTML, a row a question, a column an arm; the pictures are in it."""
    arms = list(samples[0].answers)
    heads = "".join(f"<th>{html.escape(arm)}</th>" for arm in arms)
    rows, last = [], None
    for sample in samples:
        benchmark = str(sample.question["benchmark"])
        if benchmark != last:
            rows.append(f'<tr><th class="name" colspan="{3 + len(arms)}">{html.escape(benchmark)}</th></tr>')
            last = benchmark
        rows.append(_row(sample, arms))
    head = f"<tr><th>picture</th><th>shots</th><th>asked; expected</th>{heads}</tr>"
    body = "\n".join(rows)
    label = 'tabindex="0" role="region" aria-label="table: sampled predictions"'
    return f'<div class="scroll" {label}><table>{head}\n{body}</table></div>'


PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font: 14px/1.4 system-ui, sans-serif; margin: 2em; color: #222 }}
table {{ border-collapse: collapse }}
td, th {{ padding: .35em .7em; vertical-align: top; text-align: left; border-bottom: 1px solid #ddd; max-width: 22em }}
th.name {{ padding-top: 1.2em; font-size: 115% }}
img {{ width: 96px; image-rendering: pixelated; display: block }}
small {{ color: #666 }}
.right {{ color: #0B6E4F }} .wrong {{ color: #B3400A }}
</style>
<h1>{title}</h1>
<p>The first question of the first blocks of every benchmark; nobody chose them. Points stand in brackets. Pictures are
shown at the model's resolution; the blind control is trained and asked with a flat colour in place of each.</p>
{table}
</html>
"""


def _row(sample: Sampled, arms: list[str]) -> str:
    picture = ""
    if sample.picture:
        data = base64.b64encode(sample.picture.read_bytes()).decode()
        picture = f'<img class="shown" alt="" src="data:image/png;base64,{data}">'
    references = "<br>".join(html.escape(text) for text in dict.fromkeys(sample.question["references"]))
    cells = "".join(
        f'<td class="{"right" if points >= RIGHT_FROM else "wrong"}">{html.escape(text) or "(nothing)"} '
        f"<small>({points:.0f})</small></td>"
        for text, points in (sample.answers[arm] for arm in arms)
    )
    asked = html.escape(sample.question["prompt"])
    return (
        f"<tr><td>{picture}</td><td>{sample.question['shots']}</td>"
        f"<td>{asked}<br><small>{references}</small></td>{cells}</tr>"
    )


def draw_sheet(study: Study, path: Path) -> list[Path]:
    """A figure: for each benchmark with pictures, its first sample and the next with other shots.

    The base beside the blind control, or where a sweep has none, beside the last arm.
    """
    shown = shown_arms(study)
    arms = list(dict.fromkeys([*shown[:1], *shown[-1:]]))
    chosen: dict[str, list[Sampled]] = {}
    for sample in read_samples(study, arms):
        entries = chosen.setdefault(str(sample.question["benchmark"]), [])
        fresh = all(sample.question[key] != entry.question[key] for entry in entries for key in ("question", "shots"))
        if sample.picture and fresh and len(entries) < 2:
            entries.append(sample)
    cards = [sample for entries in chosen.values() for sample in entries]
    return _draw_cards(study, cards, path) if cards else []


def _draw_cards(study: Study, cards: list[Sampled], path: Path) -> list[Path]:
    from matplotlib.figure import Figure

    rows = (len(cards) + 1) // 2
    height = 0.5 + 1.02 * rows
    with styled():
        figure = Figure(figsize=(WIDTH, height))
        head = f"{study.sweep.title}: sampled predictions at scale {study.variant.manifest.scale} (points in brackets)"
        figure.text(0.01, 1 - 0.2 / height, head, fontsize=9)
        for place, card in enumerate(cards):
            left, bottom = (place % 2) / 2 + 0.01, 1 - (0.35 + 1.02 * (place // 2 + 1)) / height
            axis = figure.add_axes((left, bottom + 0.06 / height, 0.9 / WIDTH, 0.9 / height))
            _card(axis, card)
        return save_png(figure, path)


def _card(axis: Axes, card: Sampled) -> None:
    from matplotlib.image import imread

    if card.picture:
        axis.imshow(imread(card.picture), interpolation="nearest")
    axis.set_axis_off()
    asked = str(card.question["prompt"]) or "describe the picture"
    expected = str(next(iter(card.question["references"]), ""))
    lines = [(f"{card.question['benchmark']}, {card.question['shots']}-shot", "#000000", True)]
    texts = [(asked, "#444444"), (f"expected: {expected}", "#444444")]
    for arm, (text, points) in card.answers.items():
        texts.append((f"{arm} ({points:.0f}): {text or '(nothing)'}", RIGHT if points >= RIGHT_FROM else WRONG))
    for text, colour in texts:
        wrapped = textwrap.wrap(text, 50, max_lines=2, placeholder=" …")
        lines += [(line, colour, False) for line in wrapped]
    for number, (line, colour, bold) in enumerate(lines):
        axis.annotate(
            line, (1.07, 0.98 - 0.122 * number), xycoords="axes fraction", va="top", fontsize=6.3, color=colour,
            fontweight="bold" if bold else "normal", annotation_clip=False, parse_math=False,
        )  # fmt: skip
