"""How a sweep's trials were run, by their records: which looks are finished, how long they took, on which machines."""

from collections import defaultdict
from collections.abc import Collection, Iterable

import numpy as np

from analysis.study import Record, Study
from mm1_lab.config import EvaluationStage, MultimodalStage, SftStage
from mm1_lab.results.manifest import read_trials


def finished_looks(study: Study) -> tuple[int, ...]:
    """The looks of a growing study (numbers of seeds) that can be judged: so many seeds have scores, and no trial at
    the last look's new seeds is still to come, as it is while the study runs on, or after it was interrupted.

    A trial that failed does not come, nor may one that waits for a stage that failed.
    """
    reached = tuple(look for look in study.manifest.looks if look <= len(study.seeds))
    before, last = (0, 0, *reached)[-2:]
    new_seeds = study.seeds[before:last]
    lacking = study.trials[~study.trials["done"]]
    to_come = lacking[lacking["seed"].isin(new_seeds)]
    missing = set(to_come["fingerprint"])
    if not missing:
        return reached
    failed = set(study.ledger.failures())
    failed_stages = set(failed)
    for path in study.ledger.results.glob("*/*/sweep.json"):
        for row in read_trials(path.parent):
            failed_stages.discard(row.fingerprint)
    if failed_stages:  # which trials wait for them, the results do not say
        return reached
    return reached if missing <= failed else reached[:-1]


def spent(records: Iterable[Record], what: str) -> tuple[float, float]:
    """The `seconds` or `flops` of a trial, without parts that trials share, and those of its evaluation: means over the
    trials whose training was timed, as none is that was interrupted and resumed; NaN if there are none."""
    total, evaluation = [], []
    for record in records:
        timings = record.get("timings", {})
        values = {kind: timing[what] for kind, timing in timings.items()}
        if MultimodalStage.KIND in values or SftStage.KIND in values:
            total.append(sum(values.values()))
            evaluation.append(values.get(EvaluationStage.KIND, 0.0))
    if not total:
        return np.nan, np.nan
    return float(np.mean(total)), float(np.mean(evaluation))


def minutes_of(records: Iterable[Record]) -> tuple[float, float]:
    """Core-minutes of a trial and of its evaluation, as `spent`."""
    total, evaluation = spent(records, "seconds")
    return total / 60, evaluation / 60


def mixes_machines(study: Study, arms: Collection[str]) -> bool:
    """Whether at some seed the arms' scores, or models or parts of one kind that they rest on, come from different
    processors, or the scores from different library versions. Stages that do not say where they ran do not count."""
    machines = defaultdict[tuple[int, str], set[str]](set)
    trials = study.done[study.done["arm"].isin(arms)]
    for seed, fingerprint in zip(trials["seed"], trials["fingerprint"], strict=True):
        record = study.records.get(fingerprint, {})
        environment = record.get("environment", {})
        scored_on = [environment.get(key) for key in ("processor", "threads", "versions")]
        machines[seed, "scores"].add(str(scored_on))
        for kind, summary in record.get("summaries", {}).items():
            if "processor" in summary:
                machines[seed, kind].add(summary["processor"])
    return any(len(different) > 1 for different in machines.values())
