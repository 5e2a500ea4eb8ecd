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
        machine = record.get("environment", {})
        summaries = record.get("summaries", {})
        trained = summaries.get("multimodal") or summaries.get("sft", {})  # for an exported model, only the tuning
        rows.append(
            {
                "arm": trial["arm"],
                "seed": trial["seed"],
                "fingerprint": trial["fingerprint"],
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
    reached = tuple(look for look in study.manifest.looks if look <= len(study.seeds))
    if not reached:
        return ()
    before = reached[-2] if len(reached) > 1 else 0
    trials = study.variant.trials
    is_new = trials["seed"].isin(study.seeds[before : reached[-1]])
    missing = set(trials["fingerprint"][is_new & ~trials["done"]])
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
        evaluation += record.get("timings", {}).get("evaluation", {}).get("seconds", 0.0)
        for kind, summary in record.get("summaries", {}).items():
            if "fingerprint" in summary:
                seconds.setdefault(kind, {})[summary["fingerprint"]] = summary.get("seconds", 0.0)
    total = {kind: sum(seconds[kind].values()) for kind in sorted(seconds)}
    return total | {"evaluation": evaluation}


def mixes_machines(study: Study, arms: Iterable[str]) -> bool:
    """Whether at some seed the arms' scores, or models or parts of one kind that they rest on, come from different
    processors, or the scores from different library versions. Stages that do not say where they ran do not count."""
    trials = study.variant.trials
    trials = trials[trials["arm"].isin(list(arms))]
    machines: dict[tuple[int, str], set[str]] = {}
    for seed, fingerprint in zip(trials["seed"], trials["fingerprint"], strict=True):
        record = study.records.get(fingerprint)
        if record is None:
            continue
        environment = record.get("environment", {})
        scored_on = [environment.get(key) for key in ("processor", "threads", "versions")]
        machines.setdefault((seed, "evaluation"), set()).add(str(scored_on))
        for kind, summary in record.get("summaries", {}).items():
            if "processor" in summary:
                machines.setdefault((seed, kind), set()).add(summary["processor"])
    return any(len(each) > 1 for each in machines.values())
