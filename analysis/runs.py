"""How a sweep's trials were run, by their records: which looks are finished, how long they took, on which machines."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import chain
from math import comb

import numpy as np

from analysis.study import Record, Study
from mm1_lab.config import DecoderStage, EncoderStage, EvaluationStage, MultimodalStage, SftStage
from mm1_lab.formatting import duration, some


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
    """The `seconds` or `flops` of a trial, without encoder and decoder, and those of its evaluation: means over the
    trials whose training is recorded, NaN if there are none. What several of the trials share counts once."""
    trained: dict[str, float] = {}
    evaluations = []
    for record in records:
        stages = _trained(record, what)
        if stages:
            trained |= stages
            evaluations.append(record["timings"][EvaluationStage.KIND][what])
    if not evaluations:
        return np.nan, np.nan
    evaluation = float(np.mean(evaluations))
    return sum(trained.values()) / len(evaluations) + evaluation, evaluation


def _trained(record: Record, what: str) -> dict[str, float]:
    """The `seconds` or `flops` of each stage that trained a trial's model, by fingerprint. Earlier records have the
    FLOPs of the last stage alone, and not if it was resumed."""
    parts = (EncoderStage.KIND, DecoderStage.KIND)
    found = {
        record["fingerprints"][name]: summary[what]
        for name, summary in record.get("summaries", {}).items()
        if name not in parts and what in summary
    }
    timings = record.get("timings", {})
    last = timings.get(SftStage.KIND) or timings.get(MultimodalStage.KIND)
    if last and not found:
        *_, model, _ = record["fingerprints"].values()
        found[model] = last[what]
    return found


def minutes_of(study: Study) -> tuple[float, float]:
    """Core-minutes of a trial and of its evaluation, where two arms get one more seed: what both need counts once, half
    for each. Means over all pairs; NaN if there are none."""
    pairs, training, asking = 0, 0.0, 0.0
    for _, fingerprints in study.done.groupby("seed")["fingerprint"]:
        trained: dict[str, float] = {}
        users: Counter[str] = Counter()  # how many trials need each stage
        evaluations = []
        for fingerprint in fingerprints.unique():
            record = study.records.get(fingerprint, {})
            if stages := _trained(record, "seconds"):
                trained |= stages
                users.update(stages.keys())
                evaluations.append(record["timings"][EvaluationStage.KIND]["seconds"])
        arms = len(evaluations)
        pairs += comb(arms, 2)
        for stage, seconds in trained.items():
            training += seconds * (comb(arms, 2) - comb(arms - users[stage], 2))  # pairs of which an arm needs it
        asking += sum(evaluations) * (arms - 1) / 2
    if not pairs:
        return np.nan, np.nan
    return (training / 2 + asking) / pairs / 60, asking / pairs / 60


def made_with(study: Study) -> str:
    """Where the study's trials were scored, with what, and how long all of their stages took; for a paper's statement
    on reproducibility."""
    found = defaultdict[str, Counter[str]](Counter)
    seconds: dict[str, float] = {}
    for record in study.records.values():
        environment = record.get("environment", {})
        found[""][environment.get("processor") or "an unknown processor"] += 1
        for library, version in environment.get("versions", {}).items():
            found[f"{library} "][version] += 1
        found["mm1-lab "][environment.get("mm1_lab", "")] += 1
        found["commit "][str(environment.get("commit") or "")[:8]] += 1
        for kind, key in record["fingerprints"].items():
            seconds[key] = record["summaries"].get(kind, {}).get("seconds", 0.0)
        *_, evaluation = record["fingerprints"].values()
        seconds[evaluation] = record.get("timings", {}).get(EvaluationStage.KIND, {}).get("seconds", 0.0)
    told = []
    for name, values in found.items():
        values.pop("", None)
        if values:
            told.append(name + " or ".join(value for value, _ in values.most_common()))
    return f"Scored on {', '.join(told)}; all stages took {duration(sum(seconds.values()))} by their clocks."


def mixes_machines(study: Study, arms: Iterable[str]) -> bool:
    """Whether at some seed the arms' scores, or models or parts of one kind that they rest on, come from different
    processors, or the scores from different library versions. Stages that do not say where they ran do not count."""
    compared = set(arms)
    machines: dict[tuple[int, str], set[str]] = defaultdict(set)
    for arm, seed, record in study.finished:
        if arm not in compared:
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


def edited_note(study: Study, arms: Iterable[str]) -> list[str]:
    """Which trials ran with uncommitted changes of the lab's code, unless all ran with those of one commit: no
    fingerprint knows of an edit, so trials before and after it stand in one table."""
    compared = set(arms)
    trials = defaultdict[str, list[str]](list)
    for arm, seed, record in study.finished:
        if arm in compared:
            trials[record.get("environment", {}).get("commit") or ""].append(f"{arm} / seed {seed}")
    edited = [one for commit, names in trials.items() if commit.endswith("-dirty") for one in names]
    if not edited or len(trials) == 1:
        return []
    return [f"Not all ran the same code; with uncommitted changes of the lab's ran {some(edited)}."]
