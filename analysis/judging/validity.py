"""Checks whether the base of a sweep can be trusted, by rules that were fixed before any comparison.

The base must see (compared with its blind control and the majority answer), not be at a ceiling, still be learning, and
give similar results at every seed. Intervals are t intervals over seeds or, with one seed, intervals over blocks of
questions, conditional on the models at hand.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.judging.demonstrations import demonstration_checks
from analysis.judging.gates import ABOVE, read_gates
from analysis.seeds import caution
from analysis.statistics import Interval, one_sample, over_blocks
from analysis.study import Study, read_study
from analysis.table import Table, as_text
from mm1_lab.config import Check, CheckVerdict, kinds_on_floor
from mm1_lab.formatting import counted
from mm1_lab.results.summary import CONTENT, PLAIN, benchmark_scores, by_content

TALLY: dict[CheckVerdict, str] = {
    "pass": "pass",
    "fail": "fail",
    "floor": "name a kind of question floor",
    "needs more seeds": "need more seeds to tell",
}
CEILING = 95.0
"""Most points that leave room for a better arm: VQA, captions by content, text-core. Captions by CIDEr have a range."""
CIDER = (40.0, 150.0)
SEED_SPREAD = {"0 shots": 3.0, "few shots, captions by content": 5.0}
"""Largest standard deviation of the base's average over seeds, in points."""
UNPARSED = 5.0
"""Largest percentage of answers that cannot be parsed."""
SHOTS = (0, 4)
"""Numbers of shots at which the base must see."""


def validity_checks(study: Study) -> list[Check]:
    """The checks of a sweep's base; empty if no seed has both a finished base and a finished blind control."""
    base = _base_of(study)
    if not base:
        return []
    of_demonstrations = demonstration_checks(base.scores())
    return [*_seeing(base), *_captions_and_text(base), *of_demonstrations, *_steps(base), *_steadiness(base)]


def read_judged(folder: Path) -> tuple[Study, list[Check], tuple[str, ...]]:
    """Reads a sweep's folder: its results, the checks of its base, and `failed_gates`."""
    study = read_study(folder)
    checks = validity_checks(study)
    return study, checks, failed_gates(study, checks)


def failed_gates(study: Study, checks: Sequence[Check]) -> tuple[str, ...]:
    """What rules out a verdict on a sweep: benchmarks on which its base does not see, and gates that its encoders or
    decoders failed in the scale's last check."""
    failed = [one.what for one in checks if one.check.startswith("above ") and one.verdict == "fail"]
    for gate in read_gates(study):
        if gate.verdict == "fail" and gate.seed is None:
            failed.append(f"{gate.check}: {gate.what}")
        elif gate.verdict == "fail" and gate.seed in study.seeds:
            failed.append(f"{gate.check}: {gate.what}, seed {gate.seed}")
    return tuple(dict.fromkeys(failed))


def validity_table(study: Study, checks: Sequence[Check]) -> Table:
    """The checks as a table for people."""
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

    def scores(self, arm: str | None = None) -> pd.DataFrame:
        """The scores of the base, or of another arm, at `seeds`."""
        scores = self.study.scores
        return scores[(scores["arm"] == (arm or self.arm)) & scores["seed"].isin(self.seeds)]

    def majorities(self) -> dict[str, dict[str, float]]:
        """The score of the best constant answer by benchmark and kind of question, mean over seeds."""
        trials = self.study.variant.done
        levels: dict[str, dict[str, list[float]]] = {}
        for fingerprint in trials["fingerprint"][trials["arm"] == self.arm]:
            for benchmark, kinds in self.study.records[fingerprint].get("majority_by_kind", {}).items():
                for kind, level in kinds.items():
                    levels.setdefault(benchmark, {}).setdefault(kind, []).append(level)
        return {name: {kind: float(np.mean(own)) for kind, own in kinds.items()} for name, kinds in levels.items()}


def _base_of(study: Study) -> _Base | None:
    arm, blind = _arm_with(study), _arm_with(study, images="blind")
    if arm is None or blind is None or blind == arm:
        return None
    done = study.variant.done
    seeds, blind_seeds = (set(done["seed"][done["arm"] == name]) for name in (arm, blind))
    return _Base(study, arm, blind, sorted(seeds), sorted(seeds & blind_seeds)) if seeds & blind_seeds else None


def _arm_with(study: Study, **changes: object) -> str | None:
    """The arm that equals the base except for `changes`."""
    recipe = study.sweep.base.model_copy(update=changes)
    return next((arm for arm, other in study.sweep.arms.items() if other == recipe), None)


def _seeing(base: _Base) -> Iterator[Check]:
    """Checks of every visual benchmark, and of every kind of question of a benchmark with several."""
    on_floor = kinds_on_floor(read_gates(base.study))
    majorities = base.majorities()
    scores, blind = base.scores(), base.scores(base.blind)
    for name, table in scores[scores["family"] == "vqa"].groupby("benchmark", sort=False, observed=True):
        benchmark = str(name)
        kinds = list(dict.fromkeys(table["kind"]))
        left_out = sorted(set(kinds) & set(on_floor))
        asked: list[tuple[str, str, list[str]]] = []  # what it is about, a kind by itself, the kinds asked
        if len(left_out) < len(kinds):
            title = f"{benchmark} without {', '.join(left_out)}" if left_out else benchmark
            asked.append((title, "", [kind for kind in kinds if kind not in left_out]))
        if len(kinds) > 1 or left_out:
            asked += [(f"{benchmark}: {kind}", kind, [kind]) for kind in kinds]
        for shots in SHOTS:
            for what, kind, own_kinds in asked:
                own = table[(table["shots"] == shots) & table["kind"].isin(own_kinds)]
                if own.empty:
                    continue
                bounds = {"above blind": (_minus(own, blind), 0.0)}
                if benchmark in majorities:
                    level = float(own["kind"].map(majorities[benchmark]).mean())
                    bounds = {"above majority": (own, level), **bounds}
                for check, (rows, level) in bounds.items():
                    found = _mean(rows)
                    verdict = _verdict(found, level + ABOVE, "floor" if kind else "fail")
                    if kind in left_out:
                        verdict = "floor"
                    needed = f"low ≥ {ABOVE:g}" if check == "above blind" else f"low ≥ {level:.1f} + {ABOVE:g}"
                    yield _check(check, f"{what}, {shots} shots", found, needed, verdict, kind)
        for count, own in table.groupby("shots"):
            yield _ceiling(f"{benchmark}, {count} shots", own)


def _captions_and_text(base: _Base) -> Iterator[Check]:
    keys = ["family", "benchmark", "shots"]
    for (family, benchmark, shots), asked in base.scores().groupby(keys, sort=False, observed=True):
        if family == "text":
            yield _ceiling(f"{benchmark}, {shots} shots", asked)
        elif family == "captioning":
            found = _mean(asked)
            verdict: CheckVerdict = "pass" if CIDER[0] <= found.estimate <= CIDER[1] else "fail"
            yield _check("CIDEr in range", f"{benchmark}, {shots} shots", found, "40 to 150", verdict)
            if CONTENT in asked and asked[CONTENT].notna().any():
                yield _ceiling(f"{benchmark} by content, {shots} shots", by_content(asked))


def _steps(base: _Base) -> Iterator[Check]:
    """Longer training must be better on the average over benchmarks and shots, for the arms that exist."""
    steps = base.study.sweep.base.steps
    half, double = (_arm_with(base.study, steps=count) for count in (round(steps / 2), 2 * steps))
    pairs = {"standard − half steps": (base.arm, half), "double − standard steps": (double, base.arm)}
    for what, arms in pairs.items():
        if None not in arms:
            more, less = (scores[scores["family"].isin(PLAIN)] for scores in map(base.scores, arms))
            if len(more) and len(less):
                found = _mean(_minus(more, less))
                yield _check("steps in order", what, found, "low > 0", _verdict(found, 0.0, "fail"))


def _steadiness(base: _Base) -> Iterator[Check]:
    scores = base.scores()
    images = scores[scores["family"].isin(PLAIN)]
    few = by_content(images[images["shots"] > 0])
    for name, asked in (("0 shots", images[images["shots"] == 0]), ("few shots, captions by content", few)):
        averages = _by_seed(asked)
        if averages.empty:
            continue
        what = f"standard deviation of the base's average over {counted(len(averages), 'seed')}, {name}"
        found = Check.bound("steady over seeds", what, float(averages.std()), "≤", SEED_SPREAD[name])
        yield found if len(averages) > 1 else replace(found, verdict="needs more seeds")
    for shots, asked in images[images["family"] == "vqa"].groupby("shots"):
        share = 100 * float((~asked["parsed"]).mean())
        yield Check.bound("answers parsed", f"VQA answers of the base, {shots} shots, percent", share, "≤", UNPARSED)


def _ceiling(what: str, asked: pd.DataFrame) -> Check:
    found = _mean(asked)
    return Check.bound("no ceiling", what, found.estimate, "≤", CEILING, low=found.low, high=found.high)


def _check(check: str, what: str, found: Interval, needed: str, verdict: CheckVerdict, kind: str = "") -> Check:
    return Check(
        check=check,
        kind=kind,
        what=what,
        value=found.estimate,
        low=found.low,
        high=found.high,
        needed=needed,
        verdict=verdict,
    )


def _verdict(found: Interval, needed: float, otherwise: CheckVerdict) -> CheckVerdict:
    """The verdict for an interval whose lower end must reach `needed`; an interval with it inside needs more seeds."""
    if found.low >= needed:
        return "pass"
    return otherwise if found.high < needed else "needs more seeds"


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
    return over_blocks(blocks["mean"], blocks["count"], table.groupby("benchmark", observed=True)["shots"].nunique())
