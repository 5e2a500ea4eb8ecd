"""The plan: which trials and stages are done, which are missing, and the tasks that would finish them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from mm1_lab.config import Stage, Trial
from mm1_lab.orchestrate.cost import Speeds
from mm1_lab.results import Ledger

State = Literal["done", "run", "wait", "not needed", "diverged"]


@dataclass(frozen=True, slots=True)
class PlannedStage:
    """A stage and what becomes of it."""

    stage: Stage
    fingerprint: str
    state: State
    why: str


@dataclass(frozen=True)
class Task:
    """A piece of work for one process: a stage, or an evaluation with the stage that only it needs."""

    key: str
    """Fingerprint of its last stage."""
    stages: tuple[Stage, ...]
    """In order; those that are already done are left out."""
    needs: tuple[str, ...]
    """Keys of the tasks that must be done before."""
    trials: tuple[Trial, ...]
    """Those that it works for; an evaluation's have one recipe in common."""

    @property
    def kind(self) -> str:
        return self.stages[-1].KIND if self.stages[-1].TRAINS else "trial"

    @property
    def names(self) -> list[tuple[str, int]]:
        """Arms and seeds of its trials."""
        return [(trial.arm, trial.seed) for trial in self.trials]

    @property
    def label(self) -> str:
        """For people: `base / seed 0`, or `encoder for base / seed 0 and 11 more`."""
        name = self.trials[0].name if self.kind == "trial" else f"{self.kind} for {self.trials[0].name}"
        return name if len(self.trials) == 1 else f"{name} and {len(self.trials) - 1} more"


@dataclass
class Plan:
    """Trials, stages and the work that is missing."""

    trials: tuple[Trial, ...]
    stages: dict[str, PlannedStage]
    tasks: dict[str, Task] = field(default_factory=dict)

    def is_done(self, fingerprint: str) -> bool:
        return self.stages[fingerprint].state == "done"


def make_plan(trials: Iterable[Trial], ledger: Ledger) -> Plan:
    """Looks into the ledger; imports nothing heavy, so ten thousand trials take seconds.

    Of what is finished, only weights that a missing stage will load are looked at for damage.
    A stage is missing if its results are, and something that is missing needs it. Each missing one is a task of its
    own, but for one that nothing needs besides a single evaluation: the two are one task, which saves a load. What
    diverged, and what needs it, is never missing: the same training would diverge again.
    """
    plan = Plan(tuple(trials), {})
    diverged = ledger.diverged()
    owners: dict[str, dict[str, Trial]] = {}
    missing: dict[str, Stage] = {}
    needed_by: dict[str, list[str]] = {}
    for trial in plan.trials:
        fingerprint = trial.fingerprint
        if fingerprint not in owners and not _is_done(plan, ledger, trial.evaluation):
            hopeless = next((needed for needed in trial.evaluation.chain() if needed.fingerprint in diverged), None)
            if hopeless:
                why = f"{hopeless.KIND} {hopeless.fingerprint} diverged: {diverged[hopeless.fingerprint]}"
                plan.stages[fingerprint] = PlannedStage(trial.evaluation, fingerprint, "diverged", why)
            else:
                _want(plan, ledger, trial.evaluation, missing, needed_by)
        owners.setdefault(fingerprint, {})[trial.name] = trial

    order = {trial.name: place for place, trial in enumerate(plan.trials)}
    for fingerprint, stage in reversed(missing.items()):  # from the scores down, so that each knows who needs it
        for needed in stage.inputs.values():
            if needed.fingerprint in missing:
                owners.setdefault(needed.fingerprint, {}).update(owners[fingerprint])

    joined: dict[str, str] = {}
    for fingerprint, users in needed_by.items():
        if len(users) == 1 and not missing[users[0]].TRAINS:
            joined[users[0]] = fingerprint
    alone = set(joined.values())
    for fingerprint, stage in missing.items():
        waits = [needed for needed in stage.inputs.values() if needed.fingerprint in missing]
        waiting = " and ".join(f"{needed.KIND} {needed.fingerprint}" for needed in waits)
        if waiting:
            plan.stages[fingerprint] = PlannedStage(stage, fingerprint, "wait", f"waits for {waiting}")
        else:
            plan.stages[fingerprint] = PlannedStage(stage, fingerprint, "run", _why(ledger, fingerprint))
        if fingerprint in alone:
            continue
        stages: tuple[Stage, ...] = (stage,)
        if fingerprint in joined:
            first = missing[joined[fingerprint]]
            stages = (first, stage)
            waits = [needed for needed in first.inputs.values() if needed.fingerprint in missing]
        needs = tuple(dict.fromkeys(needed.fingerprint for needed in waits))
        own = sorted(owners[fingerprint].values(), key=lambda trial: order[trial.name])
        plan.tasks[fingerprint] = Task(fingerprint, stages, needs, tuple(own))
    for trial in plan.trials:
        _leave_alone(plan, ledger, trial.evaluation.model)
    return plan


def _is_done(plan: Plan, ledger: Ledger, stage: Stage) -> bool:
    """Whether the stage's results are there; enters it into the plan if so."""
    fingerprint = stage.fingerprint
    if stage.TRAINS:
        done = ledger.has_weights(fingerprint)
        why = "shipped with the repository" if done and ledger.is_shipped(fingerprint) else "weights are in the store"
    else:
        done, why = ledger.has_scores(fingerprint), "scores are in the results folder"
    if done:
        plan.stages[fingerprint] = PlannedStage(stage, fingerprint, "done", why)
    return done


def _want(plan: Plan, ledger: Ledger, stage: Stage, missing: dict[str, Stage], needed_by: dict[str, list[str]]) -> None:
    """Enters a missing stage into `missing`, behind all of its inputs that are missing."""
    fingerprint = stage.fingerprint
    if fingerprint in missing:
        return
    for needed in stage.inputs.values():
        if not (_is_done(plan, ledger, needed) and ledger.has_intact_weights(needed.fingerprint)):
            _want(plan, ledger, needed, missing, needed_by)
            users = needed_by.setdefault(needed.fingerprint, [])
            if fingerprint not in users:
                users.append(fingerprint)
    missing[fingerprint] = stage


def _leave_alone(plan: Plan, ledger: Ledger, stage: Stage) -> None:
    """Enters a stage that nothing missing has asked for, and what is behind it."""
    fingerprint = stage.fingerprint
    if fingerprint in plan.stages:
        return
    if not _is_done(plan, ledger, stage):
        plan.stages[fingerprint] = PlannedStage(stage, fingerprint, "not needed", "no missing trial needs it")
    for needed in stage.inputs.values():
        _leave_alone(plan, ledger, needed)


def _why(ledger: Ledger, fingerprint: str) -> str:
    if ledger.failure_file(fingerprint).exists():
        return "failed before"
    return "was interrupted, goes on" if ledger.partial_folder(fingerprint).exists() else "new"


def path_lengths(tasks: dict[str, Task], speeds: Speeds) -> dict[str, float]:
    """For each task the seconds until all that needs it is done."""
    own = {key: sum(stage_seconds(stage, speeds) for stage in task.stages) for key, task in tasks.items()}
    longest = dict(own)
    for key, task in reversed(tasks.items()):  # a task stands behind those that it needs
        for need in task.needs:
            longest[need] = max(longest[need], own[need] + longest[key])
    return longest


def stage_seconds(stage: Stage, speeds: Speeds) -> float:
    """Expected seconds; at a nominal 10 billion FLOPs a second where the stage's kind was never measured."""
    seconds = speeds.seconds(stage)
    return stage.flops() / 1e10 if seconds is None else seconds
