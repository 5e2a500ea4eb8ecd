"""How a sweep's trials were run, by their records: when, on which machines, in how much time."""

from collections.abc import Iterable

import pandas as pd

from analysis.study import Study
from analysis.table import MISSING


def runs_of(study: Study) -> pd.DataFrame:
    """How each trial was run: arm, seed, fingerprint, seconds, parameters, commit, date, processor, versions."""
    rows = []
    for trial in study.variant.done.to_dict("records"):
        record = study.records[trial["fingerprint"]]
        machine, summaries = record.get("environment", {}), record.get("summaries", {})
        trained = summaries.get("multimodal") or summaries.get("sft", {})  # for an exported model, only the tuning
        rows.append(
            {
                **{name: trial[name] for name in ("arm", "seed", "fingerprint")},
                "seconds": sum(timing["seconds"] for timing in record.get("timings", {}).values()),
                "parameters": sum(trained.get("parameters", {}).values()),
                "commit": str(machine.get("commit") or MISSING)[:12],
                "date": str(machine.get("date", MISSING))[:10],
                "processor": str(machine.get("processor", MISSING)),
                "versions": ", ".join(f"{name} {version}" for name, version in machine.get("versions", {}).items()),
            }
        )
    return pd.DataFrame(rows)


def finished_looks(study: Study) -> tuple[int, ...]:
    """The looks of a growing study (numbers of seeds) that can be judged: so many seeds have scores, and no trial at
    the last look's new seeds is still to come, as it is while the study runs on, or after it was interrupted.

    A trial that failed does not come, nor may one that waits for a stage that failed.
    """
    reached = [look for look in study.manifest.looks if look <= len(study.seeds)]
    if reached:
        first = reached[-2] if len(reached) > 1 else 0
        trials = study.variant.trials
        new = trials["seed"].isin(study.seeds[first : reached[-1]])
        if missing := set(trials["fingerprint"][new & ~trials["done"]]):
            failed = study.variant.ledger.failures().keys()
            waits = failed - set(trials["fingerprint"])  # which stages a trial waits for, the results do not say
            reached = reached[:-1] if missing - failed and not waits else reached
    return tuple(reached)


def stage_seconds(study: Study) -> dict[str, float]:
    """Seconds by kind of stage of a sweep's trials, each stage counted once: training, also of stages that were trained
    for other sweeps, then evaluation."""
    trained: dict[str, dict[str, float]] = {}
    for record in study.records.values():
        for kind, summary in record.get("summaries", {}).items():
            if "fingerprint" in summary:
                trained.setdefault(kind, {})[summary["fingerprint"]] = summary.get("seconds", 0.0)
    timings = [record.get("timings", {}).get("evaluation", {}) for record in study.records.values()]
    evaluation = sum(timing.get("seconds", 0.0) for timing in timings)
    return {kind: sum(seconds.values()) for kind, seconds in sorted(trained.items())} | {"evaluation": evaluation}


def mixes_machines(study: Study, arms: Iterable[str]) -> bool:
    """Whether at some seed the arms' scores, or models or parts of one kind that they rest on, come from different
    processors, or the scores from different library versions. Stages that do not say where they ran do not count."""
    trials = study.variant.trials
    own = trials[trials["arm"].isin(list(arms)) & trials["fingerprint"].isin(list(study.records))]
    found: dict[tuple[int, str], set[str]] = {}
    for seed, fingerprint in zip(own["seed"], own["fingerprint"], strict=True):
        record = study.records[fingerprint]
        machine = [record.get("environment", {}).get(key) for key in ("processor", "threads", "versions")]
        found.setdefault((seed, "evaluation"), set()).add(str(machine))
        for kind, summary in record.get("summaries", {}).items():
            if "processor" in summary:
                found.setdefault((seed, kind), set()).add(summary["processor"])
    return any(len(machines) > 1 for machines in found.values())
