"""How a sweep's trials were run, by their records: which looks are finished, how long they took, on which machines."""

from collections import defaultdict
from collections.abc import Iterable
from itertools import chain

import numpy as np

from analysis.study import Record, Study
from mm1_lab.config import EvaluationStage, MultimodalStage, SftStage


def finished_looks(study: Study) -> tuple[int, ...]:
    """The looks of a growing study (numbers of seeds) that can be judged: so many seeds have scores, and no trial at
    the last look's new seeds is still to come, as it is while the study runs on, or after it was interrupted.

    A trial that failed does not come, nor does one that waits for a stage that failed.
    """
    reached = tuple(look for look in study.manifest.looks if look <= len(study.seeds))
    if not reached:
        return ()
    before, last = (0, *reached)[-2:]
    new_seeds = study.seeds[before:last]
    trials = study.trials
    to_come = trials[trials["seed"].isin(new_seeds) & ~trials["done"]]
    missing = set(to_come["fingerprint"])
    if not missing:
        return reached
    failures = study.ledger.failures()
    waiting = chain.from_iterable(failure.get("blocks", ()) for failure in failures.values())
    return reached if missing <= {*failures, *waiting} else reached[:-1]


def spent(records: Iterable[Record], what: str) -> tuple[float, float]:
    """The `seconds` or `flops` of a trial, without parts that trials share, and those of its evaluation: means over the
    trials whose training was timed, as none is that was interrupted and resumed; NaN if there are none."""
    total, evaluation = [], []
    for record in records:
        values = {kind: timing[what] for kind, timing in record.get("timings", {}).items()}
        if values.keys() & {MultimodalStage.KIND, SftStage.KIND}:
            total.append(sum(values.values()))
            evaluation.append(values.get(EvaluationStage.KIND, 0.0))
    return float(np.mean(total or [np.nan])), float(np.mean(evaluation or [np.nan]))


def minutes_of(records: Iterable[Record]) -> tuple[float, float]:
    """Core-minutes of a trial and of its evaluation, as `spent`."""
    total, evaluation = spent(records, "seconds")
    return total / 60, evaluation / 60


def mixes_machines(study: Study, arms: Iterable[str]) -> bool:
    """Whether at some seed the arms' scores, or models or parts of one kind that they rest on, come from different
    processors, or the scores from different library versions. Stages that do not say where they ran do not count."""
    compared = set(arms)
    machines: dict[tuple[int, str], set[str]] = defaultdict(set)
    done = study.done
    done = done[done["arm"].isin(compared)]
    for seed, fingerprint in zip(done["seed"], done["fingerprint"], strict=True):
        record = study.records.get(fingerprint)
        if record is None:
            continue
        environment = record.get("environment", {})
        scored_on = [environment.get(key) for key in ("processor", "threads", "versions")]
        machines[seed, "scores"].add(str(scored_on))
        for kind, summary in record.get("summaries", {}).items():
            if "processor" in summary:
                # of one arm an alignment may be the model, or part of it
                compared_as = MultimodalStage.KIND if kind == "alignment" else kind
                machines[seed, compared_as].add(summary["processor"])
    return any(len(different) > 1 for different in machines.values())
