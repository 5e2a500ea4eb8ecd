"""A results folder with scores whose means are known, written by the ledger itself."""

import zlib
from collections.abc import Container, Iterable, Mapping
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.judging.claims import Claim
from analysis.judging.evidence import gather
from analysis.study import Study
from mm1_lab.config import DataIdentity, Sweep
from mm1_lab.results import Ledger, Manifest, ScoreRow, TrialRow
from mm1_lab.results.manifest import merge_manifest, variant_name
from mm1_lab.results.score_file import SCORE_COLUMNS

ROOT = Path(__file__).parents[2]

BENCHMARKS = {
    "captions": ("captioning", "cider"),
    "text-captions": ("captioning", "cider"),
    "vqa": ("vqa", "vqa"),
    "text-vqa": ("vqa", "vqa"),
    "relation-vqa": ("vqa", "exact"),
    "text-core": ("text", "exact"),
    "novel-captions": ("novel", "cider"),
}
SHOTS = (0, 4, 8)

LIFT = {"captions": (12, -6, -9), "captions-66": (8, 0, 0), "captions-50": (5, 4, 5), "captions-33": (2, 6, 6)}
LIFT |= {"interleaved": (-9, 6, 7), "blind": (-15, -14, -13), "no-vecap": (0, -3, -4), "captions+text": (11, 0, -1)}
"""Points of an arm above 40, by number of shots."""

HELD_OUT = {"captions": 0.75, "text": 1.5}


Lifts = Mapping[str, tuple[float, ...]]


def score_rows(arm: str, seed: int, questions: int = 48, blocks: int = 8, lifts: Lifts = LIFT) -> list[ScoreRow]:
    """Scores of one trial: 40 points, the arm's lift, the seed's and the trial's luck, and noise a question."""
    luck = np.random.default_rng([seed, 1]).normal(0, 2)
    generator = np.random.default_rng([seed, *arm.encode()])
    luck += generator.normal(0, 0.8)
    rows = []
    for number, (benchmark, (family, metric)) in enumerate(BENCHMARKS.items()):
        difficulty = np.random.default_rng([number, 7]).normal(0, 25, questions)
        for shots, lift in zip(SHOTS, lifts.get(arm, (3, 5, 6)), strict=True):
            noise = generator.normal(0, 10, questions)
            values = 40 + lift + luck + difficulty + noise + (35 if metric == "cider" else 0)
            for question, value in enumerate(values):
                block, parsed = question * blocks // questions, question % 10 != 0
                row = (benchmark, family, metric, shots, block, f"{benchmark}-{question}", "colour", float(value))
                rows.append(ScoreRow(*row, "red" if question % 3 else "a blue square", parsed))
    return rows


def study_of(
    sweep: Sweep,
    seeds: Iterable[int],
    missing: Container[str] = (),
    lifts: Lifts = LIFT,
    questions: int = 16,
    arms: Iterable[str] | None = None,
) -> Study:
    """What `read_study` makes of such results, without writing them."""
    trials, rows, values = [], [], attrgetter(*SCORE_COLUMNS)
    for seed in seeds:
        for arm in sweep.arms if arms is None else arms:
            there = f"{arm}/{seed}" not in missing
            trials.append((arm, seed, f"{arm}/{seed}", there))
            for row in score_rows(arm, seed, questions, lifts=lifts) if there else ():
                rows.append((arm, seed, f"{arm}/{seed}", *values(row)))
    frame = pd.DataFrame(trials, columns=["arm", "seed", "fingerprint", "done"])
    manifest = Manifest(variant=sweep.name, sweep=sweep, scale="mini")
    scores = pd.DataFrame(rows, columns=["arm", "seed", "fingerprint", *SCORE_COLUMNS])
    held_out = pd.DataFrame(columns=["arm", "seed", "fingerprint", "source", "loss"])
    return Study(Path("mini") / sweep.name, manifest, frame, scores, held_out, {})


def of_arms(sweep: Sweep, arms: Mapping[str, Any] | Iterable[str], **changes: Any) -> Sweep:
    """The sweep with these arms alone, by name or with recipes of their own, without panels and contrasts."""
    own = dict(arms) if isinstance(arms, Mapping) else {name: sweep.arms[name] for name in arms}
    return sweep.model_copy(update={"arms": own, "panels": {}, "contrasts": (), **changes})


def with_manifest(study: Study, **changes: Any) -> Study:
    """The study with changes to its manifest."""
    return replace(study, manifest=study.manifest.model_copy(update=changes))


def of_own_data(study: Study, **changes: Any) -> Study:
    """The study as one of data of a user's own."""
    return with_manifest(study, data=DataIdentity(kind="shards", digest="1", sources=("captions", "text")), **changes)


def write_results(
    results: Path,
    sweep: Sweep,
    arms: Iterable[str],
    seeds: Iterable[int],
    scale: str = "mini",
    missing: Container[str] = (),
    lifts: Lifts = LIFT,
    questions: int = 48,
    overrides: tuple[str, ...] = (),
    flops: float = 1e12,
) -> Path:
    """Writes trials and manifest; trials named `ARM/SEED` in `missing` have no scores. Returns the variant's folder."""
    ledger, trials = Ledger(results, results / "store"), []
    seconds = flops / 2e10
    record = {
        "timings": {
            "multimodal": {"seconds": seconds, "flops": flops},
            "evaluation": {"seconds": 0.0, "flops": 0.0},
        },
        "majority": {name: 25.0 for name, (_, metric) in BENCHMARKS.items() if metric != "cider"},
        "summaries": {
            "multimodal": {
                "tokens": {"captions": 900},
                "epochs": {"captions": 0.5},
                "parameters": {"all": 550_000},
                "seconds": seconds,
            }
        },
    }
    name = variant_name(sweep.name, overrides, "world")
    for seed in seeds:
        for arm in arms:
            fingerprint = f"{zlib.crc32(f'{name}/{arm}/{seed}'.encode()):016x}"
            trials.append(TrialRow(arm, seed, fingerprint))
            if f"{arm}/{seed}" not in missing:
                rows = score_rows(arm, seed, questions, lifts=lifts)
                chain = {"multimodal": f"model of {fingerprint}", "evaluation": fingerprint}
                ledger.write_scores(fingerprint, rows, HELD_OUT, record | {"fingerprints": chain}, {})
    manifest = Manifest(variant=name, sweep=sweep, scale=scale, overrides=overrides)
    folder = results / scale / name
    merge_manifest(folder, manifest, trials, lambda _: True, lambda _: False)
    return folder


def claim_row(study: Study, claim: Claim) -> dict[str, Any]:
    """The evidence on a claim, as a row."""
    return gather(study, claim, claim.text).row()
