"""What cannot be judged: gates that the last check of a scale found failed (`mm1-lab check-scale`), and the floor."""

from analysis.judging.difference import Weights
from analysis.seeds import earlier_world
from analysis.statistics import one_sample
from analysis.study import Study
from mm1_lab.config import Check, Measure, read_checks
from mm1_lab.results import variant_name

ABOVE = 5.0
"""Points by which the interval's lower end must exceed the majority answer (and, of a base, the blind control)."""
SOLUTIONS = "solutions"
"""The family of benchmarks asked after worked solutions."""


def read_gates(study: Study) -> list[Check]:
    """What the last check of the study's scale measured; empty without one, or for results of an earlier world."""
    manifest = study.manifest
    if earlier_world(manifest):
        return []
    name = variant_name("check_scale", manifest.overrides, manifest.data_name)
    return read_checks(study.variant.folder.with_name(name) / "gates.csv")


def unsolved(study: Study, weights: Weights) -> str:
    """Why a claim about worked solutions is floor: the first of its arms that does not beat the majority answer without
    any, so that there is nothing for demonstrations to raise or lower. Empty if all do, or at a single seed."""
    alone = Measure(SOLUTIONS, 0)
    majority = study.majority(alone)
    for arm in dict.fromkeys(arm for arm, measure in weights if measure.of == SOLUTIONS):
        found = one_sample(study.seed_values(arm, alone))
        if found and majority is not None and found.low < majority + ABOVE:
            score = f"{found.estimate:.1f} [{found.low:.1f}, {found.high:.1f}]"
            return f"floor: {arm} scores {score} without solutions, needed: low ≥ {majority:.1f} + {ABOVE:g}"
    return ""
