"""Checks whether the base of a sweep can be trusted, by rules that were fixed before any comparison.

The base must see (compared with its blind control and the majority answer), not be at a ceiling, still be learning, and
give similar results at every seed. Intervals are t intervals over seeds or, with one seed, intervals over blocks of
questions, conditional on the models at hand.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from analysis.judging.gates import ABOVE, gate_rows, kinds_on_floor
from analysis.seeds import caution
from analysis.statistics import Interval, one_sample, over_blocks
from analysis.study import Study, read_study
from analysis.table import Table, as_text
from mm1_lab.formatting import counted
from mm1_lab.results.summary import CONTENT, PLAIN, benchmark_scores, by_content

RuleVerdict = Literal["pass", "floor", "fail", "needs more seeds"]
"""`floor`: a kind of question that does not count as a result."""

TALLY: dict[RuleVerdict, str] = {
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


@dataclass(frozen=True, slots=True)
class Row:
    """A rule applied to one benchmark, kind of question or contrast."""

    rule: str
    what: str
    value: float
    low: float
    """Lower end of the 95 % interval; NaN if there is none."""
    high: float
    needed: str
    verdict: RuleVerdict


def validity_rows(study: Study) -> list[Row]:
    """The rules for a sweep; empty if no seed has both a finished base and a finished blind control."""
    facts = _Facts(study)
    if not facts.seeds:
        return []
    return [*facts.seeing(), *facts.captions(), *facts.text(), *facts.steps(), *facts.steadiness()]


def read_judged(folder: Path) -> tuple[Study, list[Row], tuple[str, ...]]:
    """Reads a sweep's folder: its results, the rules for its base, and `failed_gates`."""
    study = read_study(folder)
    rules = validity_rows(study)
    return study, rules, failed_gates(study, rules)


def failed_gates(study: Study, rows: Sequence[Row]) -> tuple[str, ...]:
    """What rules out a verdict on a sweep: benchmarks on which its base does not see by these rules, and gates that its
    encoders or decoders failed in the scale's last check."""
    blind = [row.what for row in rows if row.rule in ("above majority", "above blind") and row.verdict == "fail"]
    gates = [
        f"{row['gate'].replace('told in words', 'text only')} {row['what']}, seed {row['seed']}"
        for row in gate_rows(study)
        if row["verdict"] == "fail" and (not row["seed"] or int(row["seed"]) in study.seeds)
    ]
    return tuple(dict.fromkeys([*blind, *gates]))


def validity_table(study: Study, rows: Sequence[Row]) -> Table:
    """The rules as a table for people."""
    manifest, facts = study.manifest, _Facts(study)
    seeds = len(facts.seeds)
    about = f"over {seeds} seeds" if seeds > 1 else "over questions, one seed"
    counts = Counter(row.verdict for row in rows)
    tally = ", ".join(f"{counts[verdict]} {words}" for verdict, words in TALLY.items() if counts[verdict])
    lines = [
        {"rule": row.rule, "what": row.what, "value": row.value}
        | {"95 % interval": "" if np.isnan(row.low) else f"{as_text(row.low)} to {as_text(row.high)}"}
        | {"needed": row.needed, "verdict": row.verdict}
        for row in rows
    ]
    if facts.blind_seeds != facts.seeds:
        about += f", of differences from the blind control over {counted(len(facts.blind_seeds), 'seed')}"
    title = f"Validity of the base: {manifest.variant}, scale {manifest.scale}"
    notes = [f"Of {len(rows)} rules {tally}; 95 % intervals {about}.", caution(manifest, facts.seeds)]
    return Table(title, pd.DataFrame(lines), [note for note in notes if note])


@dataclass(frozen=True)
class _Facts:
    """A study's base and blind control."""

    study: Study

    @cached_property
    def base(self) -> str | None:
        return self._arm()

    @cached_property
    def blind(self) -> str | None:
        return self._arm(images="blind") if self.study.sweep.base.images != "blind" else None

    def _arm(self, **changes: object) -> str | None:
        """The arm that equals the base except for `changes`."""
        recipe = self.study.sweep.base.model_copy(update=changes)
        return next((arm for arm, other in self.study.sweep.arms.items() if other == recipe), None)

    def _seeds_of(self, arm: str | None) -> set[int]:
        trials = self.study.variant.trials
        return set(trials["seed"][trials["done"] & (trials["arm"] == arm)])

    @cached_property
    def blind_seeds(self) -> list[int]:
        """The seeds that base and blind control share; a growing study may stop giving the control seeds."""
        return sorted(self._seeds_of(self.base) & self._seeds_of(self.blind))

    @cached_property
    def seeds(self) -> list[int]:
        """All seeds of the base; none if it shares none with the blind control."""
        return sorted(self._seeds_of(self.base)) if self.blind_seeds else []

    @cached_property
    def scores(self) -> pd.DataFrame:
        return self.study.scores[self.study.scores["seed"].isin(self.seeds)]

    @cached_property
    def of_base(self) -> pd.DataFrame:
        return self.scores[self.scores["arm"] == self.base]

    def seeing(self) -> Iterator[Row]:
        """Rules for every visual benchmark, and for every kind of question of a benchmark with several."""
        floor = kinds_on_floor(self.study)
        vqa = self.scores[self.scores["family"] == "vqa"]
        for benchmark, table in vqa.groupby("benchmark", sort=False, observed=True):
            kinds = list(dict.fromkeys(table["kind"]))
            kept = [kind for kind in kinds if kind not in floor]
            for shots in [k for k in SHOTS if k in set(table["shots"])]:
                asked = table[table["shots"] == shots]
                left_out = f" without {', '.join(sorted(set(kinds) - set(kept)))}" if kept != kinds else ""
                if kept:
                    yield from self._sees(f"{benchmark}{left_out}, {shots} shots", asked, benchmark, kept, "fail")
                for kind in kinds if len(kinds) > 1 or not kept else ():
                    name = f"{benchmark}: {kind}, {shots} shots"
                    yield from self._sees(name, asked, benchmark, [kind], "floor", kind in floor)
            for count, asked in table[table["arm"] == self.base].groupby("shots"):
                yield _ceiling(f"{benchmark}, {count} shots", asked)

    def _sees(
        self, what: str, asked: pd.DataFrame, benchmark: object, kinds: list[str], otherwise: RuleVerdict,
        always_floor: bool = False,
    ) -> Iterator[Row]:  # fmt: skip
        """Above the majority answer, and above the blind control."""
        asked = asked[asked["kind"].isin(kinds)]
        base = asked[asked["arm"] == self.base]
        rules = [("blind", _mean(_minus(base, asked[asked["arm"] == self.blind])), ABOVE, f"{ABOVE:g}")]
        if by_kind := self._majorities.get(str(benchmark)):
            majority = float(base["kind"].map(by_kind).mean())
            rules.insert(0, ("majority", _mean(base), majority + ABOVE, f"{majority:.1f} + {ABOVE:g}"))
        for name, found, needed, words in rules:
            verdict = "floor" if always_floor else _verdict(found.low, found.high, needed, otherwise)
            yield _row(f"above {name}", what, found, f"low ≥ {words}", verdict)

    @cached_property
    def _majorities(self) -> dict[str, dict[str, float]]:
        """The score of the best constant answer by benchmark and kind of question, mean over seeds."""
        trials = self.study.variant.trials
        own = trials[(trials["arm"] == self.base) & trials["seed"].isin(self.seeds)]
        levels = [self.study.records[fingerprint].get("majority_by_kind", {}) for fingerprint in own["fingerprint"]]
        return {
            benchmark: {kind: float(np.mean([one[benchmark][kind] for one in levels])) for kind in kinds}
            for benchmark, kinds in levels[0].items()
        }

    def captions(self) -> Iterator[Row]:
        table = self.of_base[self.of_base["family"] == "captioning"]
        for (benchmark, shots), asked in table.groupby(["benchmark", "shots"], sort=False, observed=True):
            yield _within("CIDEr in range", f"{benchmark}, {shots} shots", asked, *CIDER, "40 to 150")
            if CONTENT in asked and asked[CONTENT].notna().any():
                yield _ceiling(f"{benchmark} by content, {shots} shots", by_content(asked))

    def text(self) -> Iterator[Row]:
        table = self.of_base[self.of_base["family"] == "text"]
        for (benchmark, shots), asked in table.groupby(["benchmark", "shots"], sort=False, observed=True):
            yield _ceiling(f"{benchmark}, {shots} shots", asked)

    def steps(self) -> Iterator[Row]:
        """Rules that longer training is better on the average over benchmarks and shots, for the arms that exist."""
        half, double = (self._arm(steps=round(self.study.sweep.base.steps * factor)) for factor in (0.5, 2))
        table = self.scores[self.scores["family"].isin(PLAIN)]
        pairs = {"standard − half steps": (self.base, half), "double − standard steps": (double, self.base)}
        for what, (more, less) in pairs.items():
            first, second = table[table["arm"] == more], table[table["arm"] == less]
            if len(first) and len(second):
                found = _mean(_minus(first, second))
                yield _row("steps in order", what, found, "low > 0", _verdict(found.low, found.high, 0.0, "fail"))

    def steadiness(self) -> Iterator[Row]:
        table = self.of_base
        images = table[table["family"].isin(PLAIN)]
        few = by_content(images[images["shots"] > 0])
        for name, asked in (("0 shots", images[images["shots"] == 0]), ("few shots, captions by content", few)):
            if asked.empty:
                continue
            averages = _by_seed(asked)
            spread = float(averages.std()) if len(averages) > 1 else np.nan
            verdict: RuleVerdict = (
                "needs more seeds" if np.isnan(spread) else "pass" if spread <= SEED_SPREAD[name] else "fail"
            )
            what = f"standard deviation of the base's average over {counted(len(averages), 'seed')}, {name}"
            yield Row("steady over seeds", what, spread, np.nan, np.nan, f"≤ {SEED_SPREAD[name]:g}", verdict)
        for shots, asked in table[table["family"] == "vqa"].groupby("shots"):
            share = 100 * float((~asked["parsed"]).mean())
            verdict = "pass" if share <= UNPARSED else "fail"
            what = f"VQA answers of the base, {shots} shots, percent"
            yield Row("answers parsed", what, share, np.nan, np.nan, f"≤ {UNPARSED:g}", verdict)


def _ceiling(what: str, asked: pd.DataFrame) -> Row:
    return _within("no ceiling", what, asked, -np.inf, CEILING, f"≤ {CEILING:g}")


def _within(rule: str, what: str, asked: pd.DataFrame, least: float, most: float, needed: str) -> Row:
    found = _mean(asked)
    return _row(rule, what, found, needed, "pass" if least <= found.estimate <= most else "fail")


def _row(rule: str, what: str, found: Interval, needed: str, verdict: RuleVerdict) -> Row:
    return Row(rule, what, found.estimate, found.low, found.high, needed, verdict)


def _verdict(low: float, high: float, needed: float, otherwise: RuleVerdict) -> RuleVerdict:
    """The verdict for an interval whose lower end must reach `needed`; an interval with it inside needs more seeds."""
    if low >= needed:
        return "pass"
    return otherwise if high < needed else "needs more seeds"


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
