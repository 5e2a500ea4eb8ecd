"""The plan: which trials and stages are done, which are missing, and the tasks that would finish them."""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from mm1_lab.config import EvaluationStage, Stage, Trial
from mm1_lab.formatting import counted
from mm1_lab.results import Ledger
from mm1_lab.results.earlier import Earlier, earlier_evaluations

State = Literal["reused", "to run", "waits", "not needed", "diverged"]
Fitted = Mapping[str, Mapping[str, Any]]
"""Fields of the resources of stages, by fingerprint, which the scale's hardware decides."""


@dataclass(frozen=True, slots=True)
class PlannedStage:
    """A stage with its state in the plan."""

    stage: Stage
    state: State
    why: str

    @property
    def fingerprint(self) -> str:
        return self.stage.fingerprint


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
        return self.stages[-1].name if self.stages[-1].TRAINS else "trial"

    @property
    def label(self) -> str:
        """Its name in output: `base / seed 0`, or `encoder for base / seed 0 (and 11 more trials)`."""
        name = self.trials[0].name if self.kind == "trial" else f"{self.kind} for {self.trials[0].name}"
        return name if len(self.trials) == 1 else f"{name} (and {counted(len(self.trials) - 1, 'more trial')})"


@dataclass
class Plan:
    """Trials, their stages, and the tasks for the missing ones."""

    trials: tuple[Trial, ...]
    stages: dict[str, PlannedStage] = field(default_factory=dict)
    tasks: dict[str, Task] = field(default_factory=dict)
    fitted: Fitted = field(default_factory=dict)
    """Set once the plan is found to fit the scale's hardware."""
    earlier: Mapping[str, Earlier] = field(default_factory=dict)
    """Evaluations from which missing ones, by fingerprint, take over answers."""

    def add(self, stage: Stage, state: State, why: str) -> None:
        self.stages[stage.fingerprint] = PlannedStage(stage, state, why)

    def share(self, stage: Stage) -> float:
        """How much of a missing stage has to be computed."""
        earlier = self.earlier.get(stage.fingerprint)
        return earlier.share if earlier else 1.0

    @property
    def done(self) -> list[str]:
        """The fingerprints of the trials that have scores."""
        return [trial.fingerprint for trial in self.trials if self.stages[trial.fingerprint].state == "reused"]

    @property
    def missing(self) -> Iterator[tuple[Task, Stage]]:
        """The stages that have to run, each with its task."""
        for task in self.tasks.values():
            for stage in task.stages:
                yield task, stage


def make_plan(trials: Iterable[Trial], ledger: Ledger) -> Plan:
    """Makes the plan for the trials from the ledger. Imports nothing heavy, so ten thousand trials take seconds.

    A stage is missing if it has no results and a missing trial needs it. A stage that diverged, and whatever needs it,
    never runs again: the same training would diverge again. Finished weights are checked for damage only if a missing
    stage will load them.
    """
    plan, diverged = Plan(tuple(trials)), ledger.diverged()
    wanted: list[tuple[Stage, Trial]] = []
    for trial in plan.trials:
        evaluation = trial.evaluation
        if ledger.has_whole_scores(evaluation.fingerprint):
            plan.add(evaluation, "reused", "scores are in the results folder")
        elif causes := [needed for needed in evaluation.chain() if needed.fingerprint in diverged]:
            cause = causes[-1]  # the first that did, which a failure of the trial repeats
            why = f"{cause.name} {cause.fingerprint} diverged: {diverged[cause.fingerprint]}"
            plan.add(evaluation, "diverged", why)
        else:
            wanted.append((evaluation, trial))
    plan.tasks = make_tasks(wanted, ledger)
    missing = {stage.fingerprint for _, stage in plan.missing}
    evaluations = [stage for _, stage in plan.missing if isinstance(stage, EvaluationStage)]
    plan.earlier = earlier_evaluations((one for one in evaluations if one.model.fingerprint not in missing), ledger)
    leased = ledger.leases.recent()
    for _, stage in plan.missing:
        if waits := [needed.name for needed in stage.inputs.values() if needed.fingerprint in missing]:
            plan.add(stage, "waits", f"waits for {' and '.join(waits)}")
        elif stage.fingerprint in leased:
            plan.add(stage, "to run", "a process works on it")
        elif ledger.failure_file(stage.fingerprint).exists():
            plan.add(stage, "to run", "failed before")
        elif earlier := plan.earlier.get(stage.fingerprint):
            plan.add(stage, "to run", f"asks only {', '.join(earlier.asked)}" if earlier.asked else "asks nothing anew")
        else:
            plan.add(stage, "to run", ledger.interruption(stage.fingerprint) or "new")
    for trial in plan.trials:
        for stage in trial.evaluation.chain():
            if stage.fingerprint in plan.stages:
                continue
            if ledger.is_shipped(stage.fingerprint):
                plan.add(stage, "reused", "shipped with the repository")
            elif ledger.has_weights(stage.fingerprint):
                plan.add(stage, "reused", "weights are in the store")
            else:
                plan.add(stage, "not needed", "no missing trial needs it")
    return plan


def make_tasks(
    wanted: Iterable[tuple[Stage, Trial]], ledger: Ledger, forgotten: Collection[str] = ()
) -> dict[str, Task]:
    """The tasks for the wanted stages, each with a trial that wants it, and for all that they need and the ledger does
    not have intact, or that is to be `forgotten` (fingerprints). A task comes after those that it needs.

    A stage is a task, but one that only a single evaluation needs is joined with it, which saves loading the weights.
    """
    stages: dict[str, Stage] = {}
    trials: dict[str, dict[str, Trial]] = defaultdict(dict)

    def add(stage: Stage, trial: Trial) -> None:
        for needed in stage.inputs.values():
            known = needed.fingerprint
            if known in stages or known in forgotten or not ledger.has_intact_weights(known):
                add(needed, trial)
        stages.setdefault(stage.fingerprint, stage)
        trials[stage.fingerprint][trial.name] = trial

    for stage, trial in wanted:
        add(stage, trial)
    tasks: dict[str, Task] = {}
    users = Counter(needed.fingerprint for stage in stages.values() for needed in stage.inputs.values())
    for key, stage in stages.items():
        needs = tuple(needed.fingerprint for needed in stage.inputs.values() if needed.fingerprint in stages)
        tasks[key] = Task(key, (stage,), needs, tuple(trials[key].values()))
        if not stage.TRAINS and len(needs) == 1 and users[needs[0]] == 1:
            before = tasks.pop(needs[0])
            tasks[key] = replace(tasks[key], stages=(*before.stages, stage), needs=before.needs)
    return tasks


def path_lengths(tasks: dict[str, Task], seconds: Callable[[Stage], float]) -> dict[str, float]:
    """The length of each task's critical path: seconds until everything that depends on it is done."""
    own = {key: sum(map(seconds, task.stages)) for key, task in tasks.items()}
    longest = dict(own)
    for key, task in reversed(tasks.items()):  # tasks come after those that they need
        for need in task.needs:
            longest[need] = max(longest[need], own[need] + longest[key])
    return longest
