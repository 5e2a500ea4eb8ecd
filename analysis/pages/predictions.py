"""Sampled predictions of a sweep: those of several arms for the report, and a sheet of the base and its control."""

from collections import Counter

from matplotlib.figure import Figure
from matplotlib.image import imread

from analysis.pages.cards import Card, draw_cards
from analysis.study import Study
from analysis.style import DARK
from mm1_lab.results.samples import RIGHT_FROM, Sampled, read_samples

RIGHT, WRONG = "#0B6E4F", "#B3400A"
EACH = 2
"""Samples of a benchmark on the sheet."""


def shown_arms(study: Study) -> list[str]:
    """Those of the base, the first and last arm of the first panel, and the blind control that have scores."""
    panel = next(iter(study.panels.values()))
    of_panel = list(panel.arms.values())
    arms: list[str | None] = [arm for arm, recipe in study.sweep.arms.items() if recipe == study.sweep.base]
    arms += [of_panel[0], of_panel[-1], study.blind]
    return [arm for arm in dict.fromkeys(arms) if arm in study.scored]


def shared_samples(study: Study, arms: list[str]) -> list[Sampled]:
    """The questions sampled for all of `arms`, at the first seed that they share, without further measures of the same
    answers (such as precision and recall of yes-no questions), whose points are not those of an answer."""
    trials = study.variant.done
    is_further = study.scores["family"] == "further"
    further = set(study.scores["benchmark"][is_further].unique())
    for _, rows in trials[trials["arm"].isin(arms)].groupby("seed"):
        fingerprints = rows.set_index("arm")["fingerprint"]
        if len(fingerprints) < len(arms):
            continue
        samples = read_samples(study.variant.ledger, {arm: fingerprints[arm] for arm in arms})
        return [sample for sample in samples if sample.question["benchmark"] not in further]
    return []


def draw_predictions(study: Study) -> Figure | None:
    """Draws two samples with different questions and numbers of shots for each benchmark with images; None without any.

    Shows the answers of the base and the blind control, or of the last arm if there is no control.
    """
    arms = shown_arms(study)
    both = list(dict.fromkeys(arms[:1] + arms[-1:]))
    chosen: dict[str, list[Sampled]] = {}
    for sample in shared_samples(study, both):
        of_benchmark = chosen.setdefault(sample.question["benchmark"], [])
        if sample.picture and len(of_benchmark) < EACH and _is_new(sample, of_benchmark):
            of_benchmark.append(sample)
    cards = []
    for of_benchmark in chosen.values():
        cards += [_card(sample) for sample in of_benchmark]
    if not cards:
        return None
    title = f"{study.sweep.title}: sampled predictions at scale {study.manifest.scale} (points in brackets)"
    return draw_cards(title, cards)


def _is_new(sample: Sampled, others: list[Sampled]) -> bool:
    """Whether none of the others asks the same question or has the same number of shots."""
    keys = ("question", "shots")
    return all(sample.question[key] != other.question[key] for other in others for key in keys)


def _card(sample: Sampled) -> Card:
    question = sample.question
    prompt = question["prompt"] or "describe the picture"
    texts = [(prompt, DARK), (f"expected: {_expected(question['references'])}", DARK)]
    for arm, (answer, points) in sample.answers.items():
        colour = RIGHT if points >= RIGHT_FROM else WRONG
        texts.append((f"{arm} ({points:.0f}): {answer or '(nothing)'}", colour))
    pixels = imread(sample.picture) if sample.picture else None
    return Card(pixels, f"{question['benchmark']}, {question['shots']}-shot", texts)


def _expected(references: list[str]) -> str:
    """The first reference; of annotators who agree, all: `yellow (7 of 10), green (2 of 10), purple (1 of 10)`."""
    counts = Counter(references)
    if len(counts) == len(references):
        return references[0] if references else ""
    return ", ".join(f"{text} ({count} of {len(references)})" for text, count in counts.most_common())
