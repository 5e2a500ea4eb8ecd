"""Whether the base of a sweep can be trusted: rules that were fixed before any comparison, beside the numbers.

The base must see (against its blind control and the majority answer), not be at a ceiling, still be learning, and
come out alike at every seed. Intervals are t intervals over seeds; with one seed, over blocks of questions, and then
conditional on the models at hand.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from analysis.document import Document, Section, to_markdown
from mm1_lab.config import Recipe
from mm1_lab.results import variant_name
from mm1_lab.results.files import write_csv, write_text
from mm1_lab.results.reading import Variant, read_records, read_scores, read_variant

if TYPE_CHECKING:
    import pandas as pd

Verdict = Literal["pass", "floor", "fail", "unknown"]
"""`floor`: a kind of question that is no result; `unknown`: more seeds are needed to tell."""

TALLY: dict[Verdict, str] = {
    "pass": "pass",
    "fail": "fail",
    "floor": "name a kind of question floor",
    "unknown": "need more seeds to tell",
}

ABOVE = 5.0
"""Points above majority answer and blind control, of the lower bound."""
CEILING = 95.0
CIDER = (40.0, 150.0)
SEED_SPREAD = 1.5
"""Points: the largest standard deviation of the base's average over seeds."""
UNPARSED = 5.0
"""Percent."""
SHOTS = (0, 4)
"""Where the base must see."""


@dataclass(frozen=True, slots=True)
class Row:
    """One rule for one thing."""

    rule: str
    what: str
    value: float
    low: float
    """Of the 95 % interval; not a number where there is none."""
    high: float
    needed: str
    verdict: Verdict


def validity_rows(folder: Path) -> list[Row]:
    """The rules for a sweep's folder; none where no seed has both a finished base and a finished blind control."""
    variant = read_variant(folder)
    sweep = variant.manifest.sweep
    base = _arm(variant, sweep.base)
    blind = _arm(variant, sweep.base.model_copy(update={"images": "blind"}))
    done = variant.trials[variant.trials["done"]]
    seeds = [set(done["seed"][done["arm"] == arm]) for arm in (base, blind)]
    shared = sorted(set.intersection(*seeds))
    if base is None or blind is None or not shared:
        return []
    scores = read_scores(variant)
    scores = scores[scores["seed"].isin(shared)]
    fingerprint = done["fingerprint"][(done["arm"] == base) & (done["seed"] == shared[0])].iloc[0]
    facts = _Facts(scores, base, blind, read_records(variant)[fingerprint], _floor(variant))
    longer = {
        what: _arm(variant, sweep.base.model_copy(update={"steps": round(sweep.base.steps * factor)}))
        for what, factor in (("half", 0.5), ("double", 2))
    }
    return [*facts.seeing(), *facts.captions(), *facts.steps(longer["half"], longer["double"]), *facts.steadiness()]


def write_validity(folder: Path) -> tuple[list[Path], Document | None]:
    """Writes `validity.csv` and `.md`; returns them with their document. Nothing where there are no rules to apply."""
    rows = validity_rows(folder)
    if not rows:
        return [], None
    document = _document(folder, rows)
    table, text = folder / "validity.csv", folder / "validity.md"
    cells = ([f"{cell:.6g}" if isinstance(cell, float) else cell for cell in astuple(row)] for row in rows)
    write_csv(table, [field.name for field in fields(Row)], cells)
    write_text(text, to_markdown(document))
    return [table, text], document


def validity_text(folder: Path, rows: Sequence[Row]) -> str:
    """A folder's rules for a terminal."""
    document = _document(folder, rows)
    (section,) = document.sections
    lines = [section.head, *section.rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(section.head))]
    padded = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([document.title, "", *padded, "", *document.remarks])


def _document(folder: Path, rows: Sequence[Row]) -> Document:
    variant = read_variant(folder)
    seeds = sorted(set(variant.trials["seed"][variant.trials["done"]]))
    about = f"over {len(seeds)} seeds" if len(seeds) > 1 else "over questions, one seed"
    title = f"Can the base of {variant.manifest.variant} at {variant.manifest.scale} be trusted?"
    counts = Counter(row.verdict for row in rows)
    tally = ", ".join(f"{counts[verdict]} {words}" for verdict, words in TALLY.items() if counts[verdict])
    head = ["rule", "what", "value", "95 % interval", "needed", "verdict"]
    lines = []
    for row in rows:
        interval = "" if np.isnan(row.low) else f"{row.low:.1f} to {row.high:.1f}"
        value = "–" if np.isnan(row.value) else f"{row.value:.1f}"
        lines.append([row.rule, row.what, value, interval, row.needed, row.verdict])
    section = Section("", head, lines, ["what", "needed", "verdict"])
    return Document(title, [f"Of {len(rows)} rules {tally}; 95 % intervals {about}."], [section])


def _arm(variant: Variant, recipe: Recipe) -> str | None:
    return next((arm for arm, other in variant.manifest.sweep.arms.items() if other == recipe), None)


def _floor(variant: Variant) -> set[str]:
    """The kinds of question that the scale's last check named floor."""
    manifest = variant.manifest
    name = variant_name("check_scale", manifest.overrides, manifest.data_name)
    path = variant.folder.with_name(name) / "gates.csv"
    if not path.exists():
        return set()
    with path.open(encoding="utf-8", newline="") as file:
        return {row["what"].partition(",")[0] for row in csv.DictReader(file) if row["verdict"] == "floor"}


@dataclass(frozen=True)
class _Facts:
    """Scores of the seeds that base and blind share."""

    scores: pd.DataFrame
    base: str
    blind: str
    record: Mapping[str, Any]
    """Of a trial of the base."""
    floor: set[str]

    def seeing(self) -> Iterator[Row]:
        """Every visual benchmark, and every kind of question where a benchmark has several."""
        vqa = self.scores[self.scores["family"] == "vqa"]
        for benchmark, table in vqa.groupby("benchmark", sort=False, observed=True):
            kinds = list(dict.fromkeys(table["kind"]))
            kept = [kind for kind in kinds if kind not in self.floor]
            for shots in [k for k in SHOTS if k in set(table["shots"])]:
                asked = table[table["shots"] == shots]
                left_out = f" without {', '.join(sorted(set(kinds) - set(kept)))}" if kept != kinds else ""
                if kept:
                    yield from self._sees(f"{benchmark}{left_out}, {shots} shots", asked, benchmark, kept, "fail")
                for kind in kinds if len(kinds) > 1 or not kept else ():
                    yield from self._sees(f"{benchmark}: {kind}, {shots} shots", asked, benchmark, [kind], "floor")
            for count, asked in table[table["arm"] == self.base].groupby("shots"):
                value, low, high = _mean(asked)
                verdict: Verdict = "pass" if value <= CEILING else "fail"
                yield Row("no ceiling", f"{benchmark}, {count} shots", value, low, high, f"≤ {CEILING:g}", verdict)

    def _sees(
        self, what: str, asked: pd.DataFrame, benchmark: object, kinds: list[str], otherwise: Verdict
    ) -> Iterator[Row]:
        """Above the majority answer, and above the blind control."""
        asked = asked[asked["kind"].isin(kinds)]
        always_floor = self.floor.issuperset(kinds)
        base = asked[asked["arm"] == self.base]
        majority = self._majority(str(benchmark), base)
        if majority is not None:
            value, low, high = _mean(base)
            yield Row(
                "above majority", what, value, low, high, f"low ≥ {majority:.1f} + {ABOVE:g}",
                "floor" if always_floor else _verdict(low, high, majority + ABOVE, otherwise),
            )  # fmt: skip
        value, low, high = _mean(_minus(base, asked[asked["arm"] == self.blind]))
        yield Row(
            "above blind", what, value, low, high, f"low ≥ {ABOVE:g}",
            "floor" if always_floor else _verdict(low, high, ABOVE, otherwise),
        )  # fmt: skip

    def _majority(self, benchmark: str, questions: pd.DataFrame) -> float | None:
        """Of the best constant answer for each kind; None where results of an older version do not say it."""
        by_kind = self.record.get("majority_by_kind", {}).get(benchmark)
        if by_kind is not None:
            return float(questions["kind"].map(by_kind).mean())
        whole = self.scores[(self.scores["benchmark"] == benchmark) & (self.scores["arm"] == self.base)]
        same = set(whole["kind"]) == set(questions["kind"])
        return float(self.record["majority"][benchmark]) if same else None

    def captions(self) -> Iterator[Row]:
        table = self.scores[(self.scores["family"] == "captioning") & (self.scores["arm"] == self.base)]
        for (benchmark, shots), asked in table.groupby(["benchmark", "shots"], sort=False, observed=True):
            value, low, high = _mean(asked)
            verdict: Verdict = "pass" if CIDER[0] <= value <= CIDER[1] else "fail"
            yield Row("CIDEr in range", f"{benchmark}, {shots} shots", value, low, high, "40 to 150", verdict)

    def steps(self, half: str | None, double: str | None) -> Iterator[Row]:
        """Longer training is better, as far as the arms are there, on the average over benchmarks and shots."""
        table = self.scores[self.scores["family"] != "text"]
        pairs = {"standard − half steps": (self.base, half), "double − standard steps": (double, self.base)}
        for what, (more, less) in pairs.items():
            first, second = table[table["arm"] == more], table[table["arm"] == less]
            if len(first) and len(second):
                value, low, high = _mean(_minus(first, second))
                yield Row("steps in order", what, value, low, high, "low > 0", _verdict(low, high, 0.0, "fail"))

    def steadiness(self) -> Iterator[Row]:
        table = self.scores[self.scores["arm"] == self.base]
        averages = _by_seed(table[table["family"] != "text"])
        spread = float(np.std(averages, ddof=1)) if len(averages) > 1 else np.nan
        verdict: Verdict = "unknown" if np.isnan(spread) else "pass" if spread <= SEED_SPREAD else "fail"
        what = f"standard deviation of the base's average over {len(averages)} seeds"
        yield Row("steady over seeds", what, spread, np.nan, np.nan, f"≤ {SEED_SPREAD:g}", verdict)
        for shots, asked in table[table["family"] == "vqa"].groupby("shots"):
            share = 100 * float((~asked["parsed"]).mean())
            verdict = "pass" if share <= UNPARSED else "fail"
            what = f"VQA answers of the base, {shots} shots, percent"
            yield Row("answers parsed", what, share, np.nan, np.nan, f"≤ {UNPARSED:g}", verdict)


def _verdict(low: float, high: float, needed: float, otherwise: Verdict) -> Verdict:
    """Of an interval and what its lower end must reach: one that holds the bound is not yet narrow enough to tell."""
    if low >= needed:
        return "pass"
    return otherwise if high < needed else "unknown"


def _minus(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """`first` with the scores of `second` taken off, question by question; seeds that only one has fall away."""
    keys = ["seed", "benchmark", "shots", "block", "question"]
    both = first.merge(second[[*keys, "score"]], on=keys, suffixes=("", "_second"))
    return both.assign(score=both["score"] - both["score_second"])


def _by_seed(table: pd.DataFrame) -> list[float]:
    """For each seed the plain mean over benchmarks and shots."""
    means = table.groupby(["seed", "benchmark", "shots"], observed=True)["score"].mean()
    return [float(value) for value in means.groupby("seed").mean()]


def _mean(table: pd.DataFrame) -> tuple[float, float, float]:
    """The mean over benchmarks with its interval: over seeds, or with one seed over blocks of questions."""
    from scipy.stats import t

    seeds = _by_seed(table)
    mean = float(np.mean(seeds))
    if len(seeds) > 1:
        error, freedom = float(np.std(seeds, ddof=1)) / len(seeds) ** 0.5, len(seeds) - 1
    else:
        blocks = table.groupby(["benchmark", "block"], observed=True)["score"].mean().groupby("benchmark")
        counts = blocks.count()
        error = float(np.sqrt((blocks.var() / counts).sum())) / len(counts)
        freedom = int((counts - 1).sum())
    half = float(t.ppf(0.975, freedom)) * error if freedom > 0 else np.nan
    return mean, mean - half, mean + half
