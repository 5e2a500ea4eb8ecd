"""What cannot be judged: gates that the last check of a scale found failed (`mm1-lab check-scale`), and the floor."""

from collections.abc import Hashable
from dataclasses import replace

import pandas as pd

from analysis.judging.difference import Weights
from analysis.seeds import earlier_world
from analysis.statistics import one_sample
from analysis.study import Study
from mm1_lab.results import variant_name
from mm1_lab.results.summary import PLAIN

ABOVE = 5.0
"""Points by which the interval's lower end must exceed the majority answer (and, of a base, the blind control)."""
SOLUTIONS = "solutions"
"""The family of benchmarks asked after worked solutions."""


def gate_rows(study: Study) -> list[dict[Hashable, str]]:
    """The rows of `gates.csv`; none if there was no check, or for results of an earlier world."""
    manifest = study.manifest
    name = variant_name("check_scale", manifest.overrides, manifest.data_name)
    path = study.variant.folder.with_name(name) / "gates.csv"
    if earlier_world(manifest) or not path.exists():
        return []
    return pd.read_csv(path, dtype=str, keep_default_na=False).to_dict("records")


def kinds_on_floor(study: Study) -> set[str]:
    return {row["what"].partition(",")[0] for row in gate_rows(study) if row["verdict"] == "floor"}


def without_floor(study: Study) -> tuple[list[str], Study | None]:
    """The kinds of question about images that are on the floor, and the study without them; None if it asks none."""
    scores = study.scores
    on_floor = scores["family"].isin(PLAIN) & scores["kind"].isin(kinds_on_floor(study))
    kinds = sorted(scores["kind"][on_floor].unique())
    return kinds, replace(study, scores=scores[~on_floor]) if kinds else None


def unsolved(study: Study, weights: Weights) -> str:
    """Why a claim about worked solutions is floor: the first of its arms that does not beat the majority answer without
    any, so that there is nothing for demonstrations to raise or lower. Empty if all do, or at a single seed."""
    alone = f"{SOLUTIONS} 0-shot"
    majority = study.majority(alone)
    for arm in {arm: None for arm, measure in weights if measure.startswith(f"{SOLUTIONS} ")}:
        found = one_sample(study.seed_values(arm, alone))
        if found and majority is not None and found.low < majority + ABOVE:
            score = f"{found.estimate:.1f} [{found.low:.1f}, {found.high:.1f}]"
            return f"floor: {arm} scores {score} without solutions, needed: low ≥ {majority:.1f} + {ABOVE:g}"
    return ""
