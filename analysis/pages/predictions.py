"""Sampled predictions of a sweep: those of several arms for the report, and a figure of the base and its control."""

import textwrap
from collections import Counter

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imread

from analysis.study import Study
from analysis.style import WIDTH
from mm1_lab.results.samples import RIGHT_FROM, Sampled, read_samples

RIGHT, WRONG = "#0B6E4F", "#B3400A"


def shown_arms(study: Study) -> list[str]:
    """Those of the base, the first and last arm of the first panel, and the blind control that have scores."""
    first = list(next(iter(study.panels.values())).arms.values())
    base = [arm for arm, recipe in study.sweep.arms.items() if recipe == study.sweep.base]
    control = [study.blind] if study.blind else []
    return [arm for arm in dict.fromkeys([*base, first[0], first[-1], *control]) if arm in study.scored]


def shared_samples(study: Study, arms: list[str]) -> list[Sampled]:
    """The questions sampled for all of `arms`, at the first seed that they share, without further measures of the same
    answers (such as precision and recall of yes-no questions), whose points are not those of an answer."""
    trials = study.variant.done
    further = set(study.scores["benchmark"][study.scores["family"] == "further"].unique())
    for _, rows in trials[trials["arm"].isin(arms)].groupby("seed"):
        known = dict(zip(rows["arm"], rows["fingerprint"], strict=True))
        if len(known) == len(arms):
            samples = read_samples(study.variant.ledger, {arm: known[arm] for arm in arms})
            return [sample for sample in samples if sample.question["benchmark"] not in further]
    return []


def draw_sheet(study: Study) -> Figure | None:
    """Draws two samples with different numbers of shots for each benchmark with images; None without any.

    Shows the answers of the base and the blind control, or of the last arm if there is no control.
    """
    shown = shown_arms(study)
    arms = list(dict.fromkeys([*shown[:1], *shown[-1:]]))
    chosen: dict[str, list[Sampled]] = {}
    for sample in shared_samples(study, arms):
        entries = chosen.setdefault(str(sample.question["benchmark"]), [])
        fresh = all(sample.question[key] != entry.question[key] for entry in entries for key in ("question", "shots"))
        if sample.picture and fresh and len(entries) < 2:
            entries.append(sample)
    cards = [sample for entries in chosen.values() for sample in entries]
    return _draw_cards(study, cards) if cards else None


def _draw_cards(study: Study, cards: list[Sampled]) -> Figure:
    rows = (len(cards) + 1) // 2
    height = 0.5 + 1.02 * rows
    figure = Figure(figsize=(WIDTH, height))
    head = f"{study.sweep.title}: sampled predictions at scale {study.manifest.scale} (points in brackets)"
    figure.text(0.01, 1 - 0.2 / height, head, fontsize=9)
    for place, card in enumerate(cards):
        left, bottom = (place % 2) / 2 + 0.01, 1 - (0.35 + 1.02 * (place // 2 + 1)) / height
        axis = figure.add_axes((left, bottom + 0.06 / height, 0.9 / WIDTH, 0.9 / height))
        _card(axis, card)
    return figure


def _expected(card: Sampled) -> str:
    """The first reference; of answers that several annotators gave, all: `yellow (7 of 10), green (2), purple (1)`."""
    counts = Counter(map(str, card.question["references"]))
    (text, most), *others = counts.most_common() or [("", 0)]
    if most < 2 or not others:
        return text
    return ", ".join([f"{text} ({most} of {counts.total()})", *(f"{other} ({count})" for other, count in others)])


def _card(axis: Axes, card: Sampled) -> None:
    if card.picture:
        axis.imshow(imread(card.picture), interpolation="nearest")
    axis.set_axis_off()
    asked = str(card.question["prompt"]) or "describe the picture"
    lines = [(f"{card.question['benchmark']}, {card.question['shots']}-shot", "#000000", True)]
    texts = [(asked, "#444444"), (f"expected: {_expected(card)}", "#444444")]
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
