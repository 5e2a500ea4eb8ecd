"""Checks whether the base of a sweep can be trusted, by rules that were fixed before any comparison.

The base must see (compared with its blind control and the majority answer), not be at a ceiling, and give similar
results at every seed. Intervals are t intervals over seeds or, with one seed, intervals over blocks of
questions, conditional on the models at hand.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.judging.evidence import ABOVE
from analysis.seeds import caution, earlier_world
from analysis.statistics import UNKNOWN, Interval, mean_of, one_sample, over_questions
from analysis.study import Study, read_study
from analysis.table import Table, as_text
from mm1_lab.config import Check, CheckVerdict, Recipe, read_checks
from mm1_lab.formatting import counted
from mm1_lab.results import variant_name
from mm1_lab.results.summary import PLAIN, benchmark_scores

TALLY: dict[CheckVerdict, str] = {
    "pass": "pass",
    "fail": "fail",
    "weak": "name a weak kind of question",
    "needs more seeds": "need more seeds to tell",
}
CEILING = 95.0
"""Most points that leave room for a better arm."""
SEED_SPREAD = {"0 shots": 3.0, "few shots": 5.0}
"""Largest standard deviation of the base's average over seeds, in points."""
UNPARSED = 5.0
"""Largest percentage of answers that cannot be parsed."""
SHOTS = (0, 4)
"""Numbers of shots at which the base must see."""

# of the miniature world, half of whose questions expect words that only demonstrations show (mm1_lab/evaluate/world.py)
OTHERWISE = "-otherwise"
"""Ends the key of a question that expects second words."""
FOLLOWED = " followed"
"""Ends the name of the benchmark for how far captions follow the convention shown."""
TOLD = 85.0
"""Least percentage, of what the known words reach, that second words reach after four demonstrations."""
GAIN, LOSS = 5.0, 3.0
"""Points that the mean must gain by most demonstrations, and that a family of benchmarks may lose."""
ABOVE_BLIND, ABOVE_MAJORITY = 20.0, 10.0
"""Points by which the base must exceed its blind control and the best constant answers, in each visual benchmark."""
KEPT = 80.0
"""Least percentage of a caption's words in the convention shown."""
FEW = 4
Majorities = Mapping[str, Mapping[Any, float]]
"""The best constant answer's score by benchmark and kind of question."""


def validity_checks(study: Study) -> list[Check]:
    """The checks of a sweep's base; empty if no seed has both a finished base and a finished blind control."""
    base = _base_of(study)
    if not base:
        return []
    scores = base.scores(base.arm)
    compared = scores, base.scores(base.blind), base.majorities()
    return [*_seeing(*compared), *_captions_and_text(scores), *demonstration_checks(*compared), *_steadiness(scores)]


def read_judged(folder: Path, seeds: Sequence[int] | None = None) -> tuple[Study, list[Check]]:
    """Reads a sweep's results (at `seeds` alone, if given) with their `failed_gates`, and the checks of its base."""
    study = read_study(folder)
    if seeds is not None:
        study = study.at_seeds(seeds)
    checks = validity_checks(study)
    return replace(study, failed_gates=failed_gates(study, checks)), checks


def failed_gates(study: Study, checks: Sequence[Check]) -> tuple[str, ...]:
    """What rules out a verdict on a sweep: benchmarks on which its base does not see, and gates that its encoders or
    decoders failed in the scale's last check, unless the results are of an earlier world."""
    failed = [one.what for one in checks if one.check.startswith("above ") and one.verdict == "fail"]
    manifest = study.manifest
    name = variant_name("check_scale", manifest.overrides, manifest.data_name)
    gates = [] if earlier_world(manifest) else read_checks(study.variant.folder.with_name(name) / "gates.csv")
    for gate in gates:
        if gate.verdict == "fail" and gate.seed is None:
            failed.append(f"{gate.check}: {gate.what}")
        elif gate.verdict == "fail" and gate.seed in study.seeds:
            failed.append(f"{gate.check}: {gate.what}, seed {gate.seed}")
    return tuple(dict.fromkeys(failed))


def validity_table(study: Study, checks: Sequence[Check]) -> Table:
    base = _base_of(study)
    assert base, "there are checks"
    about = f"over {len(base.seeds)} seeds" if len(base.seeds) > 1 else "over questions, one seed"
    if base.blind_seeds != base.seeds:
        about += f", of differences from the blind control over {counted(len(base.blind_seeds), 'seed')}"
    counts = Counter(one.verdict for one in checks)
    tally = ", ".join(f"{counts[verdict]} {words}" for verdict, words in TALLY.items() if counts[verdict])
    lines = []
    for one in checks:
        interval = "" if np.isnan(one.low) else f"{as_text(one.low)} to {as_text(one.high)}"
        line = {"check": one.check, "what": one.what, "value": one.value, "95 % interval": interval}
        lines.append(line | {"needed": one.needed, "verdict": one.verdict})
    title = f"Validity of the base: {study.manifest.variant}, scale {study.manifest.scale}"
    notes = [f"Of {len(checks)} checks {tally}; 95 % intervals {about}.", caution(study.manifest, base.seeds)]
    return Table(title, pd.DataFrame(lines), [note for note in notes if note])


@dataclass(frozen=True)
class _Base:
    """A study's base and its blind control."""

    study: Study
    arm: str
    blind: str
    seeds: list[int]
    """All seeds of the base."""
    blind_seeds: list[int]
    """Those that base and blind control share; a growing study may stop giving the control seeds."""

    def scores(self, arm: str) -> pd.DataFrame:
        """The scores of an arm at `seeds`."""
        scores = self.study.scores
        return scores[(scores["arm"] == arm) & scores["seed"].isin(self.seeds)]

    def majorities(self) -> Majorities:
        """The means over seeds."""
        done = self.study.variant.done
        levels: dict[str, list[dict[str, float]]] = {}
        for fingerprint in done["fingerprint"][done["arm"] == self.arm]:
            for benchmark, kinds in self.study.records[fingerprint].get("majority_by_kind", {}).items():
                levels.setdefault(benchmark, []).append(kinds)
        return {benchmark: pd.DataFrame(found).mean().to_dict() for benchmark, found in levels.items()}


def _base_of(study: Study) -> _Base | None:
    recipe = study.sweep.base
    arm, blind = _arm_of(study, recipe), _arm_of(study, recipe.model_copy(update={"images": "blind"}))
    if arm is None or blind is None or blind == arm:
        return None
    done = study.variant.done
    seeds = set(done["seed"][done["arm"] == arm])
    shared = seeds & set(done["seed"][done["arm"] == blind])
    return _Base(study, arm, blind, sorted(seeds), sorted(shared)) if shared else None


def _arm_of(study: Study, recipe: Recipe) -> str | None:
    return next((arm for arm, other in study.sweep.arms.items() if other == recipe), None)


def _seeing(scores: pd.DataFrame, blind: pd.DataFrame, majorities: Majorities) -> Iterator[Check]:
    """Checks of every visual benchmark, and of every kind of question of a benchmark with several."""
    for benchmark, table in scores[scores["family"] == "vqa"].groupby("benchmark", sort=False, observed=True):
        kinds = list(dict.fromkeys(table["kind"]))
        asked = {str(benchmark): kinds}
        if len(kinds) > 1:
            asked |= {f"{benchmark}: {kind}": [kind] for kind in kinds}
        for shots in SHOTS:
            at_shots = table[table["shots"] == shots]
            for name, own_kinds in asked.items():
                own = at_shots[at_shots["kind"].isin(own_kinds)]
                if own.empty:
                    continue
                what = f"{name}, {shots} shots"
                otherwise: CheckVerdict = "fail" if own_kinds == kinds else "weak"
                if benchmark in majorities:
                    level = float(own["kind"].map(majorities[str(benchmark)]).mean())
                    needed = f"low ≥ {level:.1f} + {ABOVE:g}"
                    yield _reaching("above majority", what, own, level + ABOVE, needed, otherwise)
                yield _reaching("above blind", what, _minus(own, blind), ABOVE, f"low ≥ {ABOVE:g}", otherwise)
        for count, own in table.groupby("shots"):
            yield _within("no ceiling", f"{benchmark}, {count} shots", own, most=CEILING)


def _captions_and_text(scores: pd.DataFrame) -> Iterator[Check]:
    keys = ["family", "benchmark", "shots"]
    for (family, benchmark, shots), asked in scores.groupby(keys, sort=False, observed=True):
        if family in ("text", "captioning") and not asked["metric"].isin(["cider"]).any():  # which has no most
            yield _within("no ceiling", f"{benchmark}, {shots} shots", asked, most=CEILING)


def _steadiness(scores: pd.DataFrame) -> Iterator[Check]:
    images = scores[scores["family"].isin(PLAIN)]
    for name, asked in (("0 shots", images[images["shots"] == 0]), ("few shots", images[images["shots"] > 0])):
        averages = _by_seed(asked)
        if averages.empty:
            continue
        what = f"standard deviation of the base's average over {counted(len(averages), 'seed')}, {name}"
        found = Check.within("steady over seeds", what, float(averages.std()), most=SEED_SPREAD[name])
        yield found if len(averages) > 1 else replace(found, verdict="needs more seeds")
    for shots, asked in images[images["family"] == "vqa"].groupby("shots"):
        share = 100 * float((~asked["parsed"]).mean())
        what = f"VQA answers of the base, {shots} shots, percent"
        yield Check.within("answers parsed", what, share, most=UNPARSED)


def _within(check: str, what: str, asked: pd.DataFrame, most: float = math.inf) -> Check:
    found = _mean(asked)
    return Check.within(check, what, found.estimate, most=most, low=found.low, high=found.high)


def _reaching(check: str, what: str, asked: pd.DataFrame, least: float, needed: str, otherwise: CheckVerdict) -> Check:
    """The check that the interval's lower end reaches `least`; with `least` inside it takes more seeds to tell."""
    found = _within(check, what, asked)
    verdict: CheckVerdict = "needs more seeds" if found.high >= least else otherwise
    if found.low >= least:
        verdict = "pass"
    return replace(found, needed=needed, verdict=verdict)


def _minus(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """The score differences `first` − `second` per question, for the seeds that both have."""
    keys = ["seed", "benchmark", "shots", "block", "question"]
    both = first.merge(second[[*keys, "score"]], on=keys, suffixes=("", "_second"))
    return both.assign(score=both["score"] - both["score_second"])


def _by_seed(table: pd.DataFrame) -> pd.Series[float]:
    """The plain mean over benchmarks and shots for each seed."""
    return benchmark_scores(table, ["seed"]).groupby("seed")["score"].mean()


def _mean(table: pd.DataFrame) -> Interval:
    """The mean over benchmarks, with an interval over seeds, or with one seed over blocks of questions."""
    if found := one_sample(_by_seed(table).tolist()):
        return found
    blocks = table.groupby(["benchmark", "block"], observed=True)["score"].agg(["mean", "count"])
    shots = table.groupby("benchmark", observed=True)["shots"].nunique()
    return over_questions(blocks["mean"], blocks["count"], shots)


def demonstration_checks(scores: pd.DataFrame, blind: pd.DataFrame, majorities: Majorities) -> Iterator[Check]:
    """The checks of the base's scores by question; none where no question expects second words."""
    asked = scores[scores["family"] == "vqa"]
    vqa, alone = asked[asked["shots"] == FEW], asked[asked["shots"] == 0]
    second = vqa["question"].astype(str).str.endswith(OTHERWISE)
    if not second.any():
        return
    kinds = vqa["benchmark"].astype(str) + " " + vqa["kind"].astype(str)
    has_second = kinds.isin(set(kinds[second]))
    known = _plain_mean(vqa[has_second & ~second])
    share = 100 * _plain_mean(vqa[second]) / known if known else 0.0  # at smoke nothing is known
    yield Check.within("told by demonstrations", f"second words, {FEW} shots, percent of first words", share, TOLD)
    captions = scores[scores["benchmark"].astype(str).str.endswith(FOLLOWED)]
    for shots, rows in captions[captions["shots"] > 0].groupby("shots"):
        what = f"captions' words in the convention shown, {shots} shots, percent"
        yield Check.within("told by demonstrations", what, _plain_mean(rows), KEPT)

    yield from _seen(vqa, "", blind, majorities)
    first = ~alone["question"].astype(str).str.endswith(OTHERWISE)
    yield from _seen(alone[first], ", first words", blind, majorities)
    most = int(scores["shots"].max())
    images = scores[scores["family"].isin(PLAIN)]
    if (images["shots"] == 0).any():
        yield _gain("all", images, most, GAIN)
        for family in PLAIN:
            yield _gain(family, images[images["family"] == family], most, -LOSS)


def _seen(scores: pd.DataFrame, words: str, blind: pd.DataFrame, majorities: Majorities) -> Iterator[Check]:
    """Each visual benchmark at one number of shots, against the blind control at the seeds that it has, and against the
    majority answer."""
    for (benchmark, shots), own in scores.groupby(["benchmark", "shots"], sort=False, observed=True):
        what = f"{benchmark}, {shots} shots{words}"
        same = blind[(blind["benchmark"] == benchmark) & (blind["shots"] == shots)]
        unseen = same["score"][same["question"].isin(own["question"])].mean()
        seen = own["score"][own["seed"].isin(same["seed"])].mean()
        yield Check.within("sees", f"{what}, − blind", float(seen - unseen), ABOVE_BLIND)
        level = own["kind"].map(majorities[str(benchmark)]).mean()
        yield Check.within("sees", f"{what}, − majority", float(own["score"].mean() - level), ABOVE_MAJORITY)


def _plain_mean(rows: pd.DataFrame) -> float:
    """The plain mean over benchmarks and seeds."""
    return float(benchmark_scores(rows, ["seed"])["score"].mean())


def _gain(family: str, rows: pd.DataFrame, most: int, least: float) -> Check:
    """The points that a family gains from none to the most demonstrations, with an interval over seeds if there are
    several."""
    each = benchmark_scores(rows, ["seed"])
    means = each.groupby(["seed", "shots"])["score"].mean().unstack("shots")
    gained = mean_of((means[most] - means[0]).tolist()) or UNKNOWN
    what = f"{family}, {most} shots − 0 shots"
    return Check.within("demonstrations help", what, gained.estimate, least, low=gained.low, high=gained.high)
