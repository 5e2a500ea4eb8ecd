"""Checks whether the base of a sweep can be trusted, by rules that were fixed before any comparison.

The base must see (compared with its blind control and the majority answer), not be at a ceiling, and give similar
results at every seed. Intervals are t intervals over seeds or, with one seed, intervals over blocks of
questions, conditional on the models at hand.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.judging.demonstrations import demonstration_checks, mean_by_seed
from analysis.judging.evidence import ABOVE
from analysis.runs import spent
from analysis.seeds import earlier_world
from analysis.statistics import Interval, one_sample, over_blocks
from analysis.study import CIDER, Study, read_study
from mm1_lab.config import Check, CheckVerdict, Recipe, read_checks
from mm1_lab.formatting import counted
from mm1_lab.results.manifest import gates_file
from mm1_lab.results.summary import PLAIN

CEILING = 95.0
"""Most points that leave room for a better arm."""
SEED_SPREAD = {"0 shots": 3.0, "few shots": 5.0}
"""Largest standard deviation of the base's average over seeds, in points."""
ORDER_SPREAD = {"content": 2.0, "CIDEr": 3.0}
"""Largest standard deviation that the order of the data alone gives the base's average, captions scored by either."""
ORDERS = 4
"""Seeds that it takes to tell."""
MOST_UNPARSED = 5.0
"""Largest percentage of answers that cannot be parsed."""
SHOTS = (0, 4)
"""Numbers of shots at which the base must see."""


def validity_checks(study: Study) -> list[Check]:
    """The checks of a sweep's base; empty if no seed has scores of both the base and its blind control."""
    recipe = study.sweep.base
    base, blind = arm_of(study, recipe), arm_of(study, recipe.model_copy(update={"images": "blind"}))
    scores = study.scores[study.scores["arm"] == base]
    unseen = study.scores[study.scores["arm"] == blind]
    if base == blind or set(scores["seed"]).isdisjoint(unseen["seed"]):
        return []
    keys = ["seed", "benchmark", "shots", "block", "question"]
    scores = scores.merge(unseen[[*keys, "score"]].rename(columns={"score": "blind"}), on=keys, how="left")
    records = [record for arm, _, record in study.finished if arm == base]
    by_seed = [pd.DataFrame(record.get("majority_by_kind", {})) for record in records]
    majorities: Any = pd.concat(by_seed).groupby(level=0).mean().unstack()
    scores = scores.join(majorities.rename("majority"), on=["benchmark", "kind"])
    captions_and_text = scores["family"].isin(["captioning", "text"])
    checks = [
        *_seeing(scores),
        *_room_above(scores[captions_and_text & (scores["metric"] != "cider")]),  # CIDEr has no maximum
        *demonstration_checks(scores),
        *_steadiness(scores),
    ]
    seconds, _ = spent(records, "seconds")
    if not np.isnan(seconds):  # without a bound, as machines differ
        what = "seconds of the base's trial, without encoder and decoder"
        checks.append(Check.within("cost", what, seconds))
    return checks


def order_checks(study: Study) -> list[Check]:
    """What the order of the data alone changes, by an arm that differs from the base in nothing else; empty if the
    sweep has none, or no seed has both. A seed's two orders are two draws: their difference has twice the variance."""
    recipe = study.sweep.base
    base, other = arm_of(study, recipe), ""
    for arm, changed in study.sweep.arms.items():
        if changed != recipe and changed.model_copy(update={"data_order": recipe.data_order}) == recipe:
            other = arm
    scores = study.scores
    images = scores[scores["family"].isin(PLAIN)]
    captions = images[images["family"] == "captioning"]
    if (captions["metric"] == "cider").any():  # one's own, which have no other metric
        averaged = {"CIDEr": images}
    else:
        in_cider = scores["benchmark"].isin([f"{name}{CIDER}" for name in captions["benchmark"].unique()])
        averaged = {"content": images, "CIDEr": scores[(scores["family"] == "vqa") | in_cider]}
    checks = []
    for metric, asked in averaged.items():
        ours, theirs = (mean_by_seed(asked[asked["arm"] == arm]) for arm in (base, other))
        apart = (theirs - ours).dropna()
        if apart.empty:
            continue
        spread = np.sqrt((apart**2).mean() / 2)
        seeds = counted(len(apart), "seed")
        what = f"standard deviation that it gives the base's average, {seeds}, captions by {metric}"
        check = Check.within("order of the data", what, spread, most=ORDER_SPREAD[metric])
        checks.append(check if len(apart) >= ORDERS else replace(check, verdict="needs more seeds"))
    return checks


def read_judged(folder: Path | str, seeds: Sequence[int] | None = None) -> tuple[Study, list[Check]]:
    """Reads a sweep's results (at `seeds` alone, if given) with their `failed_gates`, and the checks of its base."""
    study = read_study(folder, seeds)
    checks = [*validity_checks(study), *order_checks(study)]
    return replace(study, failed_gates=failed_gates(study, checks)), checks


def failed_gates(study: Study, checks: Sequence[Check]) -> tuple[str, ...]:
    """What rules out a verdict on a sweep: benchmarks on which its base does not see, and gates that its encoders or
    decoders failed in the scale's last check, unless the results are of an earlier world."""
    failed = [one.what for one in checks if one.check.startswith("above ") and one.verdict == "fail"]
    manifest = study.manifest
    gates = []
    if not earlier_world(manifest):
        gates = read_checks(gates_file(study.folder, manifest))
    for gate in gates:
        if gate.verdict == "fail" and gate.seed in (None, *study.seeds):
            seed = "" if gate.seed is None else f", seed {gate.seed}"
            failed.append(f"{gate.check}: {gate.what}{seed}")
    return tuple(dict.fromkeys(failed))


def unseen_conversations(study: Study, checks: Sequence[Check]) -> list[str]:
    """The conversations in which a tuned base is less than `ABOVE` points above its blind control. They fail no
    gate, although by the words of the protocol (docs/study.md) they rule out verdicts after tuning."""
    chats = study.scores["benchmark"][study.scores["family"] == "chat"].unique()
    too_low = [one.what.split(", ")[0] for one in checks if one.check == "above blind" and one.value < ABOVE]
    return [name for name in chats if name in too_low]


def arm_of(study: Study, recipe: Recipe) -> str:
    """Empty if there is none."""
    return next((arm for arm, other in study.sweep.arms.items() if other == recipe), "")


def _seeing(scores: pd.DataFrame) -> Iterator[Check]:
    """Checks of every visual benchmark, and of every kind of question of one with several. Of a tuned base's
    conversations, as of kinds, what it does not see is named, and rules nothing out."""
    visual = scores[scores["family"].isin(["vqa", "chat"])]
    for (family, benchmark), table in visual.groupby(["family", "benchmark"], sort=False, observed=True):
        otherwise: CheckVerdict = "weak" if family == "chat" else "fail"
        for shots in SHOTS:
            asked = table[table["shots"] == shots]
            if asked.empty:
                continue
            yield from _seen_by_rule(f"{benchmark}, {shots} shots", asked, otherwise)
            if table["kind"].nunique() > 1:
                for kind, own in asked.groupby("kind", sort=False, observed=True):
                    yield from _seen_by_rule(f"{benchmark}: {kind}, {shots} shots", own, "weak")
        if family == "vqa":
            yield from _room_above(table)


def _seen_by_rule(what: str, asked: pd.DataFrame, otherwise: CheckVerdict) -> Iterator[Check]:
    """Checks that the interval's lower end is far enough above; if only its upper end is, more seeds are to tell."""
    above_blind = asked.assign(score=asked["score"] - asked["blind"]).dropna(subset="score")
    majority = float(asked["majority"].mean())
    rules = [
        ("above majority", asked, majority + ABOVE, f"low ≥ {majority:.1f} + {ABOVE:g}"),
        ("above blind", above_blind, ABOVE, f"low ≥ {ABOVE:g}"),
    ]
    for check, scores, least, needed in rules:
        if np.isnan(least):
            continue
        found = _mean(scores)
        verdict = otherwise
        if found.low >= least:
            verdict = "pass"
        elif found.high >= least:
            verdict = "needs more seeds"
        value, low, high = found.estimate, found.low, found.high
        yield Check(check=check, what=what, value=value, low=low, high=high, needed=needed, verdict=verdict)


def _room_above(scores: pd.DataFrame) -> Iterator[Check]:
    """Checks that a better arm could show in each benchmark."""
    for (benchmark, shots), asked in scores.groupby(["benchmark", "shots"], sort=False, observed=True):
        found = _mean(asked)
        what = f"{benchmark}, {shots} shots"
        yield Check.within("no ceiling", what, found.estimate, most=CEILING, low=found.low, high=found.high)


def _steadiness(scores: pd.DataFrame) -> Iterator[Check]:
    images = scores[scores["family"].isin(PLAIN)]
    for has_shots, asked in images.groupby(images["shots"] > 0):
        name = "few shots" if has_shots else "0 shots"
        averages = mean_by_seed(asked)
        what = f"standard deviation of the base's average over {counted(len(averages), 'seed')}, {name}"
        found = Check.within("steady over seeds", what, averages.std(), most=SEED_SPREAD[name])
        yield found if len(averages) > 1 else replace(found, verdict="needs more seeds")
    for shots, asked in images[images["family"] == "vqa"].groupby("shots"):
        share = 100 * (~asked["parsed"]).mean()
        what = f"unparsed VQA answers of the base, {shots} shots, percent"
        yield Check.within("answers parsed", what, share, most=MOST_UNPARSED)


def _mean(table: pd.DataFrame) -> Interval:
    """The mean over benchmarks, with an interval over seeds, or with one seed over blocks of questions."""
    return one_sample(mean_by_seed(table).tolist()) or over_blocks(table)
