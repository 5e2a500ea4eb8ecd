"""Sampled predictions of a sweep: those of several arms for the report, and a sheet of the base and its control."""

from collections import Counter

from matplotlib.figure import Figure
from matplotlib.image import imread

from analysis.pages.cards import Card, draw_cards
from analysis.study import Study
from analysis.style import DARK
from mm1_lab.results.samples import RIGHT_FROM, Sampled, read_samples

RIGHT, WRONG = "#0B6E4F", "#B3400A"


def shown_arms(study: Study) -> list[str]:
    """Those of the base, the first and last arm of the first panel, and the blind control that have scores."""
    first = list(next(iter(study.panels.values())).arms.values())
    arms = [arm for arm, recipe in study.sweep.arms.items() if recipe == study.sweep.base]
    arms += [first[0], first[-1]]
    if study.blind:
        arms.append(study.blind)
    return [arm for arm in dict.fromkeys(arms) if arm in study.scored]


def shared_samples(study: Study, arms: list[str]) -> list[Sampled]:
    """The questions sampled for all of `arms`, at the first seed that they share, without further measures of the same
    answers (such as precision and recall of yes-no questions), whose points are not those of an answer."""
    trials = study.variant.done
    further = set(study.scores["benchmark"][study.scores["family"] == "further"].unique())
    for _, rows in trials[trials["arm"].isin(arms)].groupby("seed"):
        fingerprints = dict(zip(rows["arm"], rows["fingerprint"], strict=True))
        if len(fingerprints) == len(arms):
            samples = read_samples(study.variant.ledger, {arm: fingerprints[arm] for arm in arms})
            return [sample for sample in samples if sample.question["benchmark"] not in further]
    return []


def draw_predictions(study: Study) -> Figure | None:
    """Draws two samples with different questions and numbers of shots for each benchmark with images; None without any.

    Shows the answers of the base and the blind control, or of the last arm if there is no control.
    """
    arms = shown_arms(study)
    chosen: dict[str, list[Sampled]] = {}
    for sample in shared_samples(study, list(dict.fromkeys(arms[:1] + arms[-1:]))):
        entries = chosen.setdefault(str(sample.question["benchmark"]), [])
        if sample.picture and len(entries) < 2 and all(_is_other(sample, entry) for entry in entries):
            entries.append(sample)
    cards = [_card(sample) for entries in chosen.values() for sample in entries]
    if not cards:
        return None
    title = f"{study.sweep.title}: sampled predictions at scale {study.manifest.scale} (points in brackets)"
    return draw_cards(title, cards)


def _is_other(sample: Sampled, entry: Sampled) -> bool:
    return all(sample.question[key] != entry.question[key] for key in ("question", "shots"))


def _card(sample: Sampled) -> Card:
    question = sample.question
    references = Counter(map(str, question["references"]))
    expected = next(iter(references), "")
    if len(references) < references.total():  # several annotators gave the same answer
        expected = ", ".join(f"{text} ({count} of {references.total()})" for text, count in references.most_common())
    texts = [(str(question["prompt"]) or "describe the picture", DARK), (f"expected: {expected}", DARK)]
    for arm, (text, points) in sample.answers.items():
        texts.append((f"{arm} ({points:.0f}): {text or '(nothing)'}", RIGHT if points >= RIGHT_FROM else WRONG))
    pixels = imread(sample.picture) if sample.picture else None
    return Card(pixels, f"{question['benchmark']}, {question['shots']}-shot", texts)
