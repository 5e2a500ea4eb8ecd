"""Judges claims about a sweep's arms: one frame with a row per claim, from claim to verdict.

Columns:
- `sweep`, `claim`, `detail` (the weighted sum in words), `measure`, `expect`, `margin`, `expectation` (in words),
  `size` (the paper's effect size, if it is a second bound);
- `estimate`, `error`, `df`, `low`, `high` (95 %) and `interval`, the unit of these: `seeds`, or with one seed
  `questions`, conditional on the models at hand, like `low_questions` and `high_questions`;
- `p_supported`, `p_contradicted`, `p_smaller`, the p values of the possible statements, and `p`, the smallest. In a
  growing sweep these are over its looks, and `now_supported`, … are those of its present look alone;
- `smallest_difference` that such a sweep finds with 80 % power, `seeds_needed` to decide a claim that is not decided;
- `seeds`, `seed_list`, `seeds_are` (`development`: used to tune world and recipe; `confirmatory`; `mixed`);
- `without_floor`, `without_floor_low`, `without_floor_high`: the same difference without kinds of question on the
  floor, if any are asked; no verdict rests on it;
- `content` and `content_…`, only of contrasts: the same columns by the content of captions instead of CIDEr, where the
  measure has captions with such a score; the columns above are by CIDEr (wording);
- `mixes_machines`; `paper`, `paper_bound`, `paper_source`; `verdict`, and `reason` if there is none. A contrast's
  verdict is by both scores, as a lesson's is, but uncorrected for multiple testing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from analysis.judging.difference import Difference, Weights
from analysis.judging.gates import unsolved
from analysis.judging.sequential import over_looks
from analysis.judging.statements import STATEMENTS, Evidence, Verdict, p_columns, p_values, say
from analysis.paper import PaperNumber, combine_numbers
from analysis.runs import finished_looks, mixes_machines
from analysis.seeds import seed_columns, seeds_needed, smallest_difference
from analysis.statistics import UNKNOWN, Interval
from analysis.study import Study
from mm1_lab.config import Contrast, Expectation
from mm1_lab.results.summary import CONTENT

BY_CONTENT = (
    *("error", "df", "low", "high", "p_supported", "p_contradicted"),
    *("without_floor", "without_floor_low", "without_floor_high"),
)
"""The columns of a contrast that stand in its row by content too, as `content_…`."""


@dataclass(frozen=True)
class Claim:
    """A weighted sum of scores, and the range in which it is claimed to lie."""

    text: str
    detail: str
    """The sum in words: `captions − interleaved, 0-shot`."""
    weights: Weights
    measure: str
    expect: Expectation
    margin: float = 0.0
    size: float | None = None
    """The difference that the paper found: an interval entirely below it refutes the size."""

    @property
    def expectation(self) -> str:
        """`> 0`, `< −2`, `within ± 2`, `≥ −2`."""
        minus = f"−{self.margin:g}" if self.margin else "0"
        words = {"greater": f"> {self.margin:g}", "less": f"< {minus}", "keeps": f"≥ {minus}"}
        return words.get(self.expect, f"within ± {self.margin:g}")


def claim_of(contrast: Contrast) -> Claim:
    weights = {(contrast.first, contrast.measure): 1.0, (contrast.second, contrast.measure): -1.0}
    detail = f"{contrast.first} − {contrast.second}, {contrast.measure}"
    return Claim(contrast.claim, detail, weights, contrast.measure, contrast.expect, contrast.margin)


def judge_claims(study: Study, failed: Sequence[str] = (), kept: Study | None = None) -> pd.DataFrame:
    """Judges the contrasts of the sweep's file, each by itself at 5 %, uncorrected for multiple testing.

    `failed` names the gates that the base fails; `kept` is the study without kinds of question on the floor.
    """
    reason = grounds(study, failed)
    return pd.DataFrame([_contrast_row(study, claim_of(contrast), reason, kept) for contrast in study.sweep.contrasts])


def _contrast_row(study: Study, claim: Claim, reason: str, kept: Study | None) -> dict[str, Any]:
    """The row of a contrast with its verdict by wording and, if there is such a score, by content."""
    rows = [
        claim_row(study, one, reason) | columns_without_floor(kept, one)
        for one in by_both_scores(study, claim).values()
    ]
    row, content = rows[0], rows[1] if len(rows) > 1 else {}
    p, now = (Evidence(p_columns(row, prefix), p_columns(content, prefix)) for prefix in ("p", "now"))
    if lacking := next((one["reason"] for one in rows if one["says"] == "not judged"), ""):
        verdict: Verdict = "not judged"
        row["reason"] = lacking
    else:
        verdict = p.or_by_one(say(p.both))
    row |= {"verdict": verdict, "seeds_needed": np.nan}
    if verdict in ("undecided", "by wording only", "by content only"):
        against = {one["p_contradicted"] > one["p_supported"] for one in rows}
        # no number of seeds gives a verdict by both scores if one points for the claim and the other against it
        row["seeds_needed"] = max(map(needed, rows)) if len(against) == 1 else np.inf
    row["content"] = content.get("estimate", np.nan)
    row |= {f"content_{name}": content.get(name, np.nan) for name in BY_CONTENT}
    row |= {f"now_{name}": value for name, value in now.both.items()}
    del row["says"]
    return row


def by_both_scores(study: Study, claim: Claim) -> dict[str, Claim]:
    """The claim by the captions' metric, which judges wording, and by their content if there is such a score."""
    twin = {(arm, f"{CONTENT} {measure}"): weight for (arm, measure), weight in claim.weights.items()}
    if not all(study.trial_values(measure) for _, measure in twin):
        return {"wording": claim}
    content = replace(claim, weights=twin, measure=f"{CONTENT} {claim.measure}", detail=f"{claim.detail}, {CONTENT}")
    return {"wording": claim, "content": content}


def grounds(study: Study, failed: Sequence[str]) -> str:
    """Why a sweep's results do not allow any verdict; empty if they do."""
    if study.manifest.scale == "smoke":
        return "smoke scale: nothing is learnt"
    if len(study.seeds) < 2:
        return "one seed"
    return f"the base fails its gates: {', '.join(failed)}" if failed else ""


def claim_row(study: Study, claim: Claim, reason: str = "") -> dict[str, Any]:
    """The row of a claim, without `seeds_needed`; `says` is its verdict, `not judged` if there is a `reason`."""
    difference = Difference(study, claim.weights)
    claim = replace(claim, detail=f"{claim.detail}, {difference.over}") if difference.over else claim
    common, over_seeds, over_questions = difference.study, difference.over_seeds, difference.over_questions
    reason = reason or unsolved(common, claim.weights)
    p = p_values(claim.expect, claim.margin, over_seeds, claim.size) if over_seeds else {}
    now = {}
    if common.manifest.looks and over_seeds:
        now = {f"now_{name}": one for name, one in p.items()}
        p = _over_looks(difference, claim)
        reason = reason or ("" if p else "before the first look")
    row = row_of(
        claim,
        sweep=common.sweep.name,
        found=difference.found,
        interval=difference.unit,
        seeds=seed_columns(difference.seeds, common.manifest.in_world),
        paper=paper_difference(common, claim.weights),
        p=p,
        reason=reason or difference.lacking,
    )
    if over_questions:
        row |= {"low_questions": over_questions.low, "high_questions": over_questions.high}
    if over_seeds:
        row["smallest_difference"] = smallest_difference(over_seeds)
    return row | now | {"mixes_machines": mixes_machines(common, (arm for arm, _ in claim.weights))}


def paper_difference(study: Study, weights: Weights) -> PaperNumber | None:
    """The weighted sum of the paper's numbers; for two arms of one panel the difference that it states, if any."""
    if sorted(weights.values()) == [-1, 1]:
        (first, measure), (second, other) = sorted(weights, key=lambda term: -weights[term])
        for key, panel in study.panels.items() if measure == other else ():
            labels = {arm: label for label, arm in panel.arms.items()}
            known = {first, second} <= set(labels)
            if known and (number := study.paper.difference(key, labels[first], labels[second], measure)):
                return number
    return combine_numbers([(weight, study.paper_value(*term)) for term, weight in weights.items()])


def columns_without_floor(kept: Study | None, claim: Claim) -> dict[str, float]:
    """The columns of a claim's difference in `kept`, the study without kinds of question on the floor."""
    found = (Difference(kept, claim.weights).found if kept else None) or UNKNOWN
    return {"without_floor": found.estimate, "without_floor_low": found.low, "without_floor_high": found.high}


def _over_looks(difference: Difference, claim: Claim) -> dict[str, float]:
    """The p of each possible statement over the looks that the study has finished; empty before the first.

    A look at which the claim has no more seeds than at the last, as an arm got none or failed, is not tested again.
    """
    study = difference.study
    looks, tests, before = study.manifest.looks, list[dict[str, float]](), 1
    for look in finished_looks(study):
        count = sum(seed in study.seeds[:look] for seed in difference.seeds)  # both are sorted
        new = difference.over_first(count) if count > before else None
        tests.append(p_values(claim.expect, claim.margin, new, claim.size) if new else {})
        before = max(before, count)
    names = dict.fromkeys(name for test in tests for name in test)
    return {name: over_looks([test.get(name, 1.0) for test in tests], looks) for name in names}


def row_of(
    claim: Claim, *, sweep: str, found: Interval | None, interval: str, seeds: Mapping[str, object],
    paper: PaperNumber | None, p: Mapping[str, float], reason: str,
) -> dict[str, Any]:  # fmt: skip
    """The row of a claim with its interval `found` and the p of its statements. With a `reason` it has no p and no
    verdict. `seeds` are its columns about seeds."""
    p = {} if reason else p
    known, number = found or UNKNOWN, paper or PaperNumber(np.nan, "equal", "")
    row: dict[str, Any] = {"sweep": sweep, "claim": claim.text, "detail": claim.detail, "measure": claim.measure}
    row |= {"expect": claim.expect, "margin": claim.margin, "expectation": claim.expectation}
    row |= {"size": np.nan if claim.size is None else claim.size, "estimate": known.estimate, "error": known.error}
    row |= {"df": known.degrees_of_freedom, "low": known.low, "high": known.high, "interval": interval}
    row |= {"low_questions": np.nan, "high_questions": np.nan}
    row |= {f"p_{name}": p.get(name, np.nan) for name in STATEMENTS}
    row |= {"p": min(p.values(), default=np.nan), "smallest_difference": np.nan}
    row |= {**seeds, "mixes_machines": np.nan, "paper": number.value, "paper_bound": number.bound if paper else ""}
    return row | {"paper_source": number.source, "reason": reason, "says": say(p) if p else "not judged"}


def needed(row: Mapping[Any, Any], family: int = 1) -> float:
    """Seeds that would decide a row's claim, but for the paper's size, with 80 % power if the true difference is the
    estimate."""
    seeds = row["seeds"]
    found = Interval(row["estimate"], row["error"] * np.sqrt(seeds), row["df"])
    prior = row["df"] - (seeds - 1)  # degrees of freedom from the pool of other arms
    return seeds_needed(row["expect"], row["margin"], found, prior, family)


def needed_to_refute(row: Mapping[Any, Any], family: int = 1) -> float:
    """The same for showing that the difference is smaller than the paper's size; infinite if the estimate is not."""
    found = -row["estimate"] if row["expect"] == "less" else row["estimate"]
    smaller = {**row, "estimate": found, "expect": "less", "margin": -row["size"]}
    return needed(smaller, family) if found < row["size"] else np.inf
