"""Resolves recipe × scale × seed to a trial: a chain of stages in concrete units, checked to be feasible."""

from mm1_lab.config.base import Config, RequestError
from mm1_lab.config.benchmark import BenchmarkConfig
from mm1_lab.config.components import Given
from mm1_lab.config.pretraining import multimodal_stage
from mm1_lab.config.recipe import Recipe
from mm1_lab.config.scale import Scale
from mm1_lab.config.size import PretrainedMM1, PretrainedModels
from mm1_lab.config.stages import DataIdentity, EvaluationStage, Stage
from mm1_lab.config.sweep import Sweep
from mm1_lab.config.tuning import sft_stage
from mm1_lab.config.units import scale_of


class Trial(Config):
    """Arm × seed at a scale: the unit of a result."""

    arm: str
    seed: int
    recipe: Recipe
    evaluation: EvaluationStage
    """The last stage of the chain; it contains the others."""

    @property
    def name(self) -> str:
        return f"{self.arm} / seed {self.seed}"

    @property
    def fingerprint(self) -> str:
        """The identity of the trial's result."""
        return self.evaluation.fingerprint


def resolve_sweep(
    sweep: Sweep, scale: Scale, seeds: tuple[int, ...], data: DataIdentity, models: PretrainedModels | None = None
) -> list[Trial]:
    """Every arm at every seed, seeds outermost. Arms with equal recipes give trials with equal fingerprints. Each arm
    is resolved once, and its further trials are copies with another seed, unless they start from other models."""
    resolved = [resolve(arm, recipe, scale, seeds[0], data, models) for arm, recipe in sweep.arms.items()]
    reseeded: dict[tuple[str, str, int], Stage] = {}
    trials = []
    for seed in seeds:
        for trial in resolved:
            if trial.recipe.sft and trial.recipe.sft.starts_by_seed:
                trials.append(resolve(trial.arm, trial.recipe, scale, seed, data, models))
            else:
                evaluation = _with_seed(trial.evaluation, seed, reseeded)
                trials.append(trial.model_copy(update={"seed": seed, "evaluation": evaluation}))
    return trials


def _with_seed(stage: Stage, seed: int, made: dict[tuple[str, str, int], Stage]) -> Stage:
    """The stage and everything it depends on, with another seed. `made` caches stages, so that trials share them."""
    if stage.seed == seed:
        return stage
    key = (stage.fingerprint, stage.name, seed)
    if key not in made:
        inputs = {name: _with_seed(needed, seed, made) for name, needed in stage.inputs.items()}
        made[key] = stage.model_copy(update={"seed": seed, **inputs})
    return made[key]


def resolve(
    arm: str, recipe: Recipe, scale: Scale, seed: int, data: DataIdentity, models: PretrainedModels | None = None
) -> Trial:
    """The trial of `recipe` at `scale`. Raises RequestError for a combination that cannot be built. `models` is
    required if the recipe or the scale names pre-trained ones."""
    try:
        given = Given(recipe, scale_of(recipe, scale), seed, data.shaped(recipe.pictures), models)
        evaluation = _evaluation_stage(given)
    except RequestError as error:
        raise type(error)(f"arm {arm!r}: {error}") from None
    return Trial(arm=arm, seed=seed, recipe=recipe, evaluation=evaluation)


def _evaluation_stage(given: Given) -> EvaluationStage:
    sft = given.recipe.sft
    model = sft_stage(given, sft) if sft else multimodal_stage(given)
    scale = given.scale
    is_of_rows = given.data.kind == "shards" and isinstance(model.architecture, PretrainedMM1)
    return EvaluationStage(
        **given.shared,
        model=model,
        held_out_rows=(scale.sequence_length, scale.max_images) if is_of_rows else None,
        settings=scale.evaluate,
        benchmarks=_benchmarks(given),
        sharp_demonstrations=sft.sharp_demonstrations if sft else None,
    )


def _benchmarks(given: Given) -> tuple[BenchmarkConfig, ...]:
    """The scale's, with pictures made square as the data's, unless they are in a way of their own."""
    data = given.data
    if not data.pictures:
        return given.scale.benchmarks
    shaped = []
    for one in given.scale.benchmarks:
        is_usual = one.pictures == data.file_pictures
        shaped.append(one.model_copy(update={"pictures": data.shape}) if is_usual else one)
    return tuple(shaped)
