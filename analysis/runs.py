"""How a sweep's trials were run, by their records: when, on which machines, in how much time."""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from analysis.study import Study
from analysis.table import MISSING


def runs_of(study: Study) -> pd.DataFrame:
    """How each trial was run: arm, seed, fingerprint, seconds, parameters, commit, date, processor, versions."""
    rows = []
    for trial in study.variant.done.to_dict("records"):
        record = study.records[trial["fingerprint"]]
        machine = record.get("environment", {})
        summaries = record.get("summaries", {})
        trained = summaries.get("multimodal") or summaries.get("sft", {})  # for an exported model, only the tuning
        timings = record.get("timings", {}).values()
        versions = machine.get("versions", {}).items()
        rows.append(
            {
                "arm": trial["arm"],
                "seed": trial["seed"],
                "fingerprint": trial["fingerprint"],
                "seconds": sum(timing["seconds"] for timing in timings),
                "parameters": sum(trained.get("parameters", {}).values()),
                "commit": (machine.get("commit") or MISSING)[:12],
                "date": machine.get("date", MISSING)[:10],
                "processor": machine.get("processor", MISSING),
                "versions": ", ".join(f"{name} {version}" for name, version in versions),
            }
        )
    return pd.DataFrame(rows)


def finished_looks(study: Study) -> tuple[int, ...]:
    """The looks of a growing study (numbers of seeds) that can be judged: so many seeds have scores, and no trial at
    the last look's new seeds is still to come, as it is while the study runs on, or after it was interrupted.

    A trial that failed does not come, nor may one that waits for a stage that failed.
    """
    reached = tuple(look for look in study.manifest.looks if look <= len(study.seeds))
    if not reached:
        return ()
    before = reached[-2] if len(reached) > 1 else 0
    new_seeds = study.seeds[before : reached[-1]]
    trials = study.variant.trials
    to_come = trials[trials["seed"].isin(new_seeds) & ~trials["done"]]
    missing = set(to_come["fingerprint"])
    if not missing:
        return reached
    failed = set(study.variant.ledger.failures())
    failed_stages = failed - set(trials["fingerprint"])  # which trials wait for them, the results do not say
    return reached if failed_stages or missing <= failed else reached[:-1]


def stage_seconds(study: Study) -> dict[str, float]:
    """Seconds by kind of stage of a sweep's trials, each stage counted once: training, also of stages that were trained
    for other sweeps, then evaluation."""
    seconds: dict[str, dict[str, float]] = {}
    evaluation = 0.0
    for record in study.records.values():
        timing = record.get("timings", {}).get("evaluation", {})
        evaluation += timing.get("seconds", 0.0)
        for kind, summary in record.get("summaries", {}).items():
            if "fingerprint" in summary:
                by_stage = seconds.setdefault(kind, {})
                by_stage[summary["fingerprint"]] = summary.get("seconds", 0.0)
    total = {kind: sum(seconds[kind].values()) for kind in sorted(seconds)}
    return total | {"evaluation": evaluation}


def minutes_of(study: Study) -> tuple[float, float]:
    """Core-minutes of a trial, without parts that trials share, and those of its evaluation; means over trials."""
    total, evaluation = [], []
    for record in study.records.values():
        seconds = {kind: timing["seconds"] for kind, timing in record.get("timings", {}).items()}
        total.append(sum(seconds.values()) / 60)
        evaluation.append(seconds.get("evaluation", 0.0) / 60)
    return float(np.mean(total)), float(np.mean(evaluation))


def mixes_machines(study: Study, arms: Iterable[str]) -> bool:
    """Whether at some seed the arms' scores, or models or parts of one kind that they rest on, come from different
    processors, or the scores from different library versions. Stages that do not say where they ran do not count."""
    trials = study.variant.trials
    trials = trials[trials["arm"].isin(list(arms))]
    machines: dict[tuple[int, str], str] = {}
    for trial in trials.to_dict("records"):
        record = study.records.get(trial["fingerprint"])
        if record is None:
            continue
        environment = record.get("environment", {})
        ran_on = {"evaluation": str([environment.get(key) for key in ("processor", "threads", "versions")])}
        for kind, summary in record.get("summaries", {}).items():
            if "processor" in summary:
                ran_on[kind] = summary["processor"]
        for kind, machine in ran_on.items():
            if machines.setdefault((trial["seed"], kind), machine) != machine:
                return True
    return False
