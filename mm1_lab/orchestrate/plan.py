"""The plan: which trials and stages are done, which are missing, and the units of work that would finish them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from mm1_lab.config import EvaluationStage, Stage, Trial
from mm1_lab.orchestrate.cost import Speeds, flops
from mm1_lab.results import Ledger

State = Literal["done", "run", "wait", "not needed"]


@dataclass(frozen=True)
class PlannedStage:
    """A stage and what becomes of it."""

    stage: Stage
    fingerprint: str
    state: State
    why: str


@dataclass(frozen=True)
class Unit:
    """A piece of work for one process: an encoder, a decoder, or a trial's multimodal stage with its evaluation."""

    key: str
    """Fingerprint of its last stage."""
    stages: tuple[Stage, ...]
    """In order; those that are already done are left out."""
    needs: tuple[str, ...]
    """Keys of the units that must be done before."""
    names: tuple[str, ...]
    """Trials that it works for."""

    @property
    def kind(self) -> str:
        return "trial" if isinstance(self.stages[-1], EvaluationStage) else self.stages[-1].KIND

    @property
    def label(self) -> str:
        """For people: `base / seed 0`, or `encoder for base / seed 0 and 11 more`."""
        name = self.names[0] if self.kind == "trial" else f"{self.kind} for {self.names[0]}"
        return name if len(self.names) == 1 else f"{name} and {len(self.names) - 1} more"


@dataclass
class Plan:
    """Trials, stages and the work that is missing."""

    trials: tuple[Trial, ...]
    stages: dict[str, PlannedStage]
    units: dict[str, Unit] = field(default_factory=dict)

    def trial_state(self, fingerprint: str) -> State:
        return self.stages[fingerprint].state


def make_plan(trials: Iterable[Trial], ledger: Ledger) -> Plan:
    """Looks into the ledger; opens no file and imports nothing heavy, so ten thousand trials take seconds."""
    plan = Plan(tuple(trials), {})
    owners: dict[str, list[str]] = {}
    wanted: list[tuple[EvaluationStage, str]] = []
    for trial in plan.trials:
        fingerprint = trial.fingerprint
        if fingerprint not in owners:
            wanted.append((trial.evaluation, fingerprint))
        owners.setdefault(fingerprint, []).append(trial.name)
    for evaluation, fingerprint in wanted:
        _plan_trial(plan, ledger, evaluation, fingerprint, owners[fingerprint])
    return plan


def _plan_trial(plan: Plan, ledger: Ledger, evaluation: EvaluationStage, fingerprint: str, names: list[str]) -> None:
    """Adds a trial's stages, and the units that are missing for its scores."""
    model = evaluation.model
    model_print = model.fingerprint
    if ledger.has_scores(fingerprint):
        plan.stages[fingerprint] = PlannedStage(evaluation, fingerprint, "done", "scores are in the results folder")
        _leave_alone(plan, ledger, model)
        return
    needs: list[Stage] = []
    stages: tuple[Stage, ...] = (evaluation,)
    if ledger.has_weights(model_print):
        plan.stages[model_print] = PlannedStage(model, model_print, "done", _where(ledger, model_print))
    else:
        stages = (model, evaluation)
        needs = [part for part in model.inputs().values() if _plan_part(plan, ledger, part, names)]
        plan.stages[model_print] = _planned(ledger, model, needs)
    plan.units[fingerprint] = Unit(fingerprint, stages, tuple(part.fingerprint for part in needs), tuple(names))
    plan.stages[fingerprint] = _planned(ledger, evaluation, [model] if len(stages) > 1 else [])


def _plan_part(plan: Plan, ledger: Ledger, stage: Stage, names: list[str]) -> bool:
    """Adds an encoder or a decoder, and what it starts from; returns whether it is missing."""
    fingerprint = stage.fingerprint
    if ledger.has_weights(fingerprint):
        plan.stages[fingerprint] = PlannedStage(stage, fingerprint, "done", _where(ledger, fingerprint))
        return False
    needs = [part for part in stage.inputs().values() if _plan_part(plan, ledger, part, names)]
    unit = plan.units.get(fingerprint)
    earlier = unit.names if unit else ()
    needed = tuple(part.fingerprint for part in needs)
    plan.units[fingerprint] = Unit(fingerprint, (stage,), needed, (*earlier, *names))
    plan.stages[fingerprint] = _planned(ledger, stage, needs)
    return True


def _leave_alone(plan: Plan, ledger: Ledger, stage: Stage) -> None:
    """Adds a stage that no missing trial has asked for so far, and what is behind it."""
    fingerprint = stage.fingerprint
    if fingerprint not in plan.stages:
        done = ledger.has_weights(fingerprint)
        why = _where(ledger, fingerprint) if done else "no missing trial needs it"
        plan.stages[fingerprint] = PlannedStage(stage, fingerprint, "done" if done else "not needed", why)
    for part in stage.inputs().values():
        _leave_alone(plan, ledger, part)


def _planned(ledger: Ledger, stage: Stage, needs: Iterable[Stage]) -> PlannedStage:
    """A stage that is missing, and runs as soon as `needs` are done."""
    fingerprint = stage.fingerprint
    waiting = " and ".join(f"{part.KIND} {part.fingerprint}" for part in needs)
    if waiting:
        return PlannedStage(stage, fingerprint, "wait", f"waits for {waiting}")
    return PlannedStage(stage, fingerprint, "run", _why(ledger, fingerprint))


def _where(ledger: Ledger, fingerprint: str) -> str:
    return "shipped with the repository" if ledger.is_shipped(fingerprint) else "weights are in the store"


def _why(ledger: Ledger, fingerprint: str) -> str:
    if ledger.failure_file(fingerprint).exists():
        return "failed before"
    return "was interrupted, goes on" if ledger.partial_folder(fingerprint).exists() else "new"


def path_lengths(units: dict[str, Unit], speeds: Speeds) -> dict[str, float]:
    """For each unit the seconds (or, where nothing was measured yet, FLOPs) until all that needs it is done."""
    own = {key: unit_cost(unit, speeds) for key, unit in units.items()}
    longest = dict(own)
    for key, unit in reversed(units.items()):  # a unit stands behind those that it needs
        for need in unit.needs:
            longest[need] = max(longest[need], own[need] + longest[key])
    return longest


def unit_cost(unit: Unit, speeds: Speeds) -> float:
    """Seconds of a unit; in FLOPs at a nominal 10 billion a second where its kind was never measured."""
    costs = (speeds.seconds(stage) for stage in unit.stages)
    return sum(
        cost if cost is not None else flops(stage) / 1e10 for cost, stage in zip(costs, unit.stages, strict=True)
    )
