"""Checks before anything runs that the missing stages' networks can be built, on torch's meta device (no memory), that
their prompts fit, and that claims have scores to come."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from pathlib import Path

from mm1_lab.config import UNPARSED, EvaluationStage, Measure, NotHere, Recipe, RequestError, Stage, canonical_json
from mm1_lab.formatting import counted
from mm1_lab.orchestrate.planning.plan import Plan
from mm1_lab.orchestrate.planning.request import Request
from mm1_lab.results.summary import measures_with


def check_feasible(plan: Plan) -> None:
    """Raises RequestError, naming the trial, for a stage whose network cannot be built."""
    missing = {same_network(stage): (task.label, stage) for task in plan.tasks.values() for stage in task.stages}
    if not missing:
        return
    import torch

    from mm1_lab.train.stages import KINDS

    with torch.device("meta"):
        for label, stage in missing.values():
            try:
                if type(stage) in KINDS:
                    KINDS[type(stage)].check(stage)
            except RequestError as error:
                raise RequestError(f"{label}: {error}") from None


def check_named_prompts(plan: Plan, request: Request) -> None:
    """Raises RequestError if a missing evaluation asks a model more of a named benchmark than it reads."""
    if (stages := _evaluations(plan)) and request.scale.benchmarks:
        from mm1_lab.evaluate.fitting import check_lengths

        check_lengths(stages, request.open_data().tokenizer, request.ledger.data_cache)


def check_world_prompts(plan: Plan, request: Request) -> str:
    """Raises RequestError if no arm of the sweep reads the world's prompts at the requested numbers of shots whole.

    Returns a note on missing evaluations whose models do not, as other arms may have more tokens per picture, or be
    asked more; empty if there are none.
    """
    stages = _evaluations(plan)
    if not stages or request.data_path:
        return ""
    from mm1_lab.evaluate.fitting import of_the_world, too_long

    tokenizer = request.open_data().tokenizer
    arms = []
    for arm, recipe in request.sweep.arms.items():
        with suppress(NotHere):  # not asked for
            arms.append(request.resolve(arm, recipe, stages[0].seed).evaluation)
    least = min(arms, key=lambda stage: stage.model.picture_tokens)
    for found in too_long([least], lambda stage: of_the_world(stage.settings, tuned=False), tokenizer):
        raise RequestError(str(found))
    others = too_long(stages, lambda stage: of_the_world(stage.settings, stage.model.tuned), tokenizer)
    told = "; ".join(one.in_short for one in others)
    return f"note: some prompts are longer than any row of training: {told}" if told else ""


def check_claims(plan: Plan, request: Request) -> str:
    """Notes on claims of the sweep: on measures that no benchmark of an arm asked for gives, and on arms that differ in
    several choices. Empty if there are none, or if no evaluation is missing."""
    if not (request.sweep.contrasts and _evaluations(plan)):
        return ""
    return "\n".join(filter(None, (_without_scores(request), _of_several_choices(request))))


def _of_several_choices(request: Request) -> str:
    sweep, several = request.sweep, list[str]()
    for one in sweep.contrasts:
        arms = [sweep.arms[arm] for side in one.sides for arm in side]
        choices = [
            name for name in Recipe.model_fields if any(getattr(arms[0], name) != getattr(arm, name) for arm in arms)
        ]
        if len(choices) > 1 and len(arms) == 2:  # a group is stated to differ in more
            several.append(f"{one.claim!r} ({', '.join(choices)})")
    if not several:
        return ""
    return f"note: arms differ in more than one choice, so these claims are about all of it: {'; '.join(several)}"


def _without_scores(request: Request) -> str:
    stages = {trial.arm: trial.evaluation for trial in request.trials}
    kinds = {stage.model.tuned: stage for stage in stages.values()}
    given = {tuned: _measures(stage, request.ledger.data_cache) for tuned, stage in kinds.items()}
    lacking = Counter[Measure]()
    for contrast in request.sweep.contrasts:
        measure = contrast.measure
        if measure.about != "benchmarks":
            continue
        asked = [stages[arm] for side in contrast.sides for arm in side if arm in stages]
        if any(measure.wording not in given[stage.model.tuned] for stage in asked):
            lacking[measure] += 1
    told = ", ".join(f"{measure} ({counted(count, 'claim')})" for measure, count in lacking.items())
    if not told:
        return ""
    shots = ", ".join(map(str, request.scale.evaluate.shots))
    return f"note: no benchmark here gives {told}; no verdict on these (shots here: {shots})"


def _measures(stage: EvaluationStage, cache: Path) -> set[Measure]:
    """The measures that an evaluation gives, if the questions of its benchmarks have choices."""
    from mm1_lab.evaluate.benchmarks import CAPTIONED, HELD_OUT
    from mm1_lab.evaluate.metrics import names_of
    from mm1_lab.evaluate.named import family_of
    from mm1_lab.evaluate.world import world_benchmarks
    from mm1_lab.evaluate.world_chat import chat_benchmarks

    settings, found = stage.settings, list[tuple[str, str, str | None, tuple[int, ...]]]()
    if stage.data.kind == "world":
        few = settings.model_copy(update={"questions": 1, "blocks": 1})
        own = [*world_benchmarks(few), *(chat_benchmarks(few) if stage.model.tuned else ())]
        found += [(one.name, one.metric, one.family, one.shots_at(settings)) for one in own]
    elif {*CAPTIONED} & {*stage.data.sources}:
        found.append((HELD_OUT, "cider", "captioning", settings.shots))
    for named in stage.benchmarks:
        family = family_of(named, settings, cache)
        found.append((named.name, named.metric, family, named.shots or settings.shots))
    every = {
        measure
        for name, metric, family, shots in found
        if family
        for one in names_of(name, metric)
        for kind in (family, "likelihood", "further")
        for count in shots
        for measure in (*measures_with(one, kind, count), Measure(kind, count), Measure(one, count))
    }
    return every | {UNPARSED}


def _evaluations(plan: Plan) -> list[EvaluationStage]:
    return [stage for task in plan.tasks.values() for stage in task.stages if isinstance(stage, EvaluationStage)]


def same_network(stage: Stage) -> str:
    """A key that is equal for stages that train the same network, whatever the data, seed and schedule."""
    left_out = dict.fromkeys(("seed", "data", "training", "shares"), True) | dict.fromkeys(stage.inputs, True)
    own = {"kind": stage.KIND, **stage.model_dump(mode="json", exclude=left_out)}
    return canonical_json(own | {name: same_network(needed) for name, needed in stage.inputs.items()})
