"""The plan: which trials and stages are done, which are missing, and the tasks that would finish them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

from mm1_lab.config import Stage, Trial
from mm1_lab.orchestrate.planning.cost import Speeds
from mm1_lab.results import Ledger

State = Literal["done", "run", "wait", "not needed", "diverged"]


@dataclass(frozen=True, slots=True)
class PlannedStage:
    """A stage with its state in the plan."""

    stage: Stage
    fingerprint: str
    state: State
    why: str


@dataclass(frozen=True)
class Task:
    """A unit of work for one process: a stage, or an evaluation together with the stage that only it needs."""

    key: str
    """Fingerprint of its last stage."""
    stages: tuple[Stage, ...]
    """Its stages in order, without those that are done."""
    needs: tuple[str, ...]
    """Keys of the tasks that must be done first."""
    trials: tuple[Trial, ...]
    """The trials that need it; those of an evaluation have the same recipe."""

    @property
    def kind(self) -> str:
        return self.stages[-1].KIND if self.stages[-1].TRAINS else "trial"

    @property
    def names(self) -> list[tuple[str, int]]:
        """Arms and seeds of its trials."""
        return [(trial.arm, trial.seed) for trial in self.trials]

    @property
    def label(self) -> str:
        """Its name in output: `base / seed 0`, or `encoder for base / seed 0 and 11 more`."""
        name = self.trials[0].name if self.kind == "trial" else f"{self.kind} for {self.trials[0].name}"
        return name if len(self.trials) == 1 else f"{name} and {len(self.trials) - 1} more"


@dataclass
class Plan:
    """Trials, their stages, and the tasks for the missing ones."""

    trials: tuple[Trial, ...]
    stages: dict[str, PlannedStage]
    tasks: dict[str, Task] = field(default_factory=dict)

    def is_done(self, fingerprint: str) -> bool:
        return self.stages[fingerprint].state == "done"


def make_plan(trials: Iterable[Trial], ledger: Ledger, weights: bool = False) -> Plan:
    """Makes the plan for the trials from the ledger. Imports nothing heavy, so ten thousand trials take seconds.

    A stage is missing if it has no results and a missing trial needs it; with `weights`, so is the model of a finished
    trial whose weights have been deleted. Each missing stage becomes a task of its own, except that a stage needed by a
    single evaluation only is joined with it, which saves loading the weights. A stage that diverged, and whatever needs
    it, never runs again: the same training would diverge again. Finished weights are checked for damage only if a
    missing stage will load them, or with `weights`.
    """
    plan = Plan(tuple(trials), {})
    diverged = ledger.diverged()
    owners: dict[str, dict[str, Trial]] = {}
    missing: dict[str, Stage] = {}
    needed_by: dict[str, list[str]] = {}
    for trial in plan.trials:
        fingerprint = trial.fingerprint
        if fingerprint not in owners and not _is_done(plan, ledger, trial.evaluation):
            cause = next((needed for needed in trial.evaluation.chain() if needed.fingerprint in diverged), None)
            if cause:
                why = f"{cause.KIND} {cause.fingerprint} diverged: {diverged[cause.fingerprint]}"
                plan.stages[fingerprint] = PlannedStage(trial.evaluation, fingerprint, "diverged", why)
            else:
                _add_missing(plan, ledger, trial.evaluation, missing, needed_by)
        owners.setdefault(fingerprint, {})[trial.name] = trial
        model = trial.evaluation.model
        if weights and ledger.has_scores(fingerprint) and not ledger.has_intact_weights(model.fingerprint):
            _add_missing(plan, ledger, model, missing, needed_by)
            owners.setdefault(model.fingerprint, {})[trial.name] = trial

    order = {trial.name: place for place, trial in enumerate(plan.trials)}
    for fingerprint, stage in reversed(missing.items()):  # consumers first, so that their trials reach every input
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
        _add_unneeded(plan, ledger, trial.evaluation.model)
    return plan


def _is_done(plan: Plan, ledger: Ledger, stage: Stage) -> bool:
    """Whether the stage has results; if so, adds it to the plan."""
    fingerprint = stage.fingerprint
    if stage.TRAINS:
        done = ledger.has_weights(fingerprint)
        why = "shipped with the repository" if done and ledger.is_shipped(fingerprint) else "weights are in the store"
    else:
        done, why = ledger.has_scores(fingerprint), "scores are in the results folder"
    if done:
        plan.stages[fingerprint] = PlannedStage(stage, fingerprint, "done", why)
    return done


def _add_missing(
    plan: Plan, ledger: Ledger, stage: Stage, missing: dict[str, Stage], needed_by: dict[str, list[str]]
) -> None:
    """Adds a missing stage to `missing`, after those of its inputs that are missing too."""
    fingerprint = stage.fingerprint
    if fingerprint in missing:
        return
    for needed in stage.inputs.values():
        if not (_is_done(plan, ledger, needed) and ledger.has_intact_weights(needed.fingerprint)):
            _add_missing(plan, ledger, needed, missing, needed_by)
            users = needed_by.setdefault(needed.fingerprint, [])
            if fingerprint not in users:
                users.append(fingerprint)
    missing[fingerprint] = stage


def _add_unneeded(plan: Plan, ledger: Ledger, stage: Stage) -> None:
    """Adds a stage that no missing stage needs to the plan, and its inputs."""
    fingerprint = stage.fingerprint
    if fingerprint in plan.stages:
        return
    if not _is_done(plan, ledger, stage):
        plan.stages[fingerprint] = PlannedStage(stage, fingerprint, "not needed", "no missing trial needs it")
    for needed in stage.inputs.values():
        _add_unneeded(plan, ledger, needed)


def _why(ledger: Ledger, fingerprint: str) -> str:
    if ledger.failure_file(fingerprint).exists():
        return "failed before"
    return "was interrupted, resumes" if ledger.partial_folder(fingerprint).exists() else "new"


def path_lengths(tasks: dict[str, Task], seconds: Callable[[Stage], float]) -> dict[str, float]:
    """The length of each task's critical path: seconds until everything that depends on it is done."""
    own = {key: sum(map(seconds, task.stages)) for key, task in tasks.items()}
    longest = dict(own)
    for key, task in reversed(tasks.items()):  # tasks come after those that they need
        for need in task.needs:
            longest[need] = max(longest[need], own[need] + longest[key])
    return longest


def wall_seconds(tasks: dict[str, Task], seconds: Callable[[Stage], float], slots: int) -> float:
    """Seconds until all tasks are done, `slots` at a time: the work divided evenly, or the longest chain of tasks."""
    work = sum(seconds(stage) for task in tasks.values() for stage in task.stages)
    return max(work / slots, *path_lengths(tasks, seconds).values(), 0.0)


def stage_seconds(stage: Stage, speeds: Speeds) -> float:
    """Expected seconds; assumes 10 billion FLOPs per second if stages of this kind were never measured."""
    seconds = speeds.seconds(stage)
    return stage.flops() / 1e10 if seconds is None else seconds
