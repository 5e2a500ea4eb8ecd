"""What is to be told of a request before it is planned or run, and does not keep it from running."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from mm1_lab.config import PretrainedDecoder, PretrainedMM1, Recipe, RequestError, SftStage, load_sweep, steps_here
from mm1_lab.config.pretraining import WORLD_IMAGE_TOKENS
from mm1_lab.orchestrate.planning.finding import SWEEPS, split_settings
from mm1_lab.orchestrate.planning.measurable import why_no_value, why_untuned
from mm1_lab.orchestrate.planning.request import Request
from mm1_lab.results.manifest import read_trials
from mm1_lab.results.trained import epochs_note, epochs_text, one_start_note, own_rows_note
from mm1_lab.weights.pretrained import chat_template

SHOTS_OF_WORLD = 8
"""The world's benchmarks are made so that as many demonstrations, with `WORLD_IMAGE_TOKENS` for a picture, fit its rows
by its own tokenizer, which `check-scale` measures; longer prompts are measured before a run, unless a scale with GPUs
in the world is only planned."""


def doubts(request: Request) -> list[str]:
    """All that is to be told before a run, which does not keep it from running."""
    of_arms = (same_trials, rounded_steps, unlike_rows, unlike_before, partial_mixtures, unlike_start)
    each = (replaced, *of_arms, one_start, doubtful_claims, doubtful_data)
    return [line for doubt in each for line in doubt(request)]


def ignored(request: Request) -> list[str]:
    """What of the request, or of what it would use, has no effect."""
    damaged = request.ledger.damaged_parts().items()
    told = [f"{part}: this shipped part is not used ({reason}); restore or delete it" for part, reason in damaged]
    of_recipe, of_scale = split_settings(request.overrides)
    recipes = [*request.sweep.arms.values()] or [request.sweep.base]
    has_scale_s_rate = any(recipe.learning_rate == "scale" or recipe.align.steps for recipe in recipes)
    if any(setting.startswith("train.learning_rate=") for setting in of_scale) and not has_scale_s_rate:
        told.append("--set: train.learning_rate changes nothing, as every arm sets learning_rate itself")
    if of_recipe and _changes_no_arm(request):
        told.append(f"--set: {', '.join(of_recipe)} changes nothing, as every arm sets this itself")
    if "captions" in request.data.sources and "synthetic" not in request.data.sources:
        told.append(f"{request.data_path}: no synthetic captions; other captions fill their share of rows")
    return told


def _changes_no_arm(request: Request) -> bool:
    """Whether the settings of the recipe change it, but no arm."""
    try:
        plain = load_sweep(request.file, *SWEEPS)
    except RequestError:  # it needs the settings
        return False
    return plain.base != request.sweep.base and plain.arms == request.sweep.arms


def replaced(request: Request) -> list[str]:
    """What is to be told of arms that had other trials with scores in this sweep's tables."""
    now = {(trial.arm, trial.seed): trial.fingerprint for trial in request.trials}
    arms = []
    for row in read_trials(request.folder):
        is_other = now.get((row.arm, row.seed), row.fingerprint) != row.fingerprint
        if is_other and request.ledger.has_scores(row.fingerprint):
            arms.append(row.arm)
    if not arms:
        return []
    others = f"other trials than before: {', '.join(dict.fromkeys(arms))}"
    why = "as the sweep, its data, settings or the version changed"
    return [f"{request.folder}: {others}, {why}; the scores before leave the tables, and stay"]


def same_trials(request: Request) -> list[str]:
    """What is to be told of arms that do not differ, as where their steps are rounded alike at this scale."""
    trials = defaultdict(list)
    for trial in request.trials:
        trials[trial.arm].append(trial.fingerprint)
    alike = defaultdict(list)
    for arm, fingerprints in trials.items():
        alike[tuple(fingerprints)].append(arm)
    return [f"{' = '.join(arms)} are the same trials" for arms in alike.values() if len(arms) > 1]


def rounded_steps(request: Request) -> list[str]:
    """What is to be told of numbers of steps that rounding to this scale's makes equal, or changes by more than a
    tenth."""
    steps: dict[tuple[str, int], tuple[float, int]] = {}
    for recipe in request.recipes.values():
        steps |= steps_here(recipe, request.scale)
    made = Counter((field, rounded) for (field, _), (_, rounded) in steps.items())
    told = []
    for (field, asked), (exact, rounded) in steps.items():
        if abs(rounded - exact) > 0.1 * exact or made[field, rounded] > 1:
            told.append(f"{field} {asked} ({exact:.4g} → {rounded})")
    return [f"Rounded to steps of {request.scale_name}: {', '.join(told)}"] if told else []


def unlike_rows(request: Request) -> list[str]:
    """What is to be told of arms with more image tokens than the scale's largest number."""
    tokens: dict[str, int] = {}
    for trial in request.trials:  # alike at every seed
        read = trial.evaluation.model.architecture
        if not isinstance(read, PretrainedMM1) and read.steps():
            tokens[trial.arm] = read.picture_tokens if read.drop_overlong else 0
    in_world = request.data.kind == "world"  # whose documents would need longer rows, too
    return own_rows_note(tokens, None if in_world else request.scale.image_tokens)


def partial_mixtures(request: Request) -> list[str]:
    """What is to be told of arms whose `sft.mixture` has weights for some instruction sets only."""
    arms = defaultdict(list)
    for arm, recipe in request.recipes.items():
        mixture = recipe.sft.mixture if recipe.sft and recipe.sft.steps else {}
        lacking = [name for name in request.data.instructions if name not in mixture]
        if lacking and any(mixture.values()):
            arms[", ".join(lacking)].append(arm)
    return [f"{', '.join(names)}: sft.mixture does not name {sets}, so left out" for sets, names in arms.items()]


def unlike_start(request: Request) -> list[str]:
    """What is to be told of tuned models that are tuned further with other views."""
    lines = []
    for trial in request.trials:
        stage = trial.evaluation.model
        start = stage.architecture
        if not isinstance(start, PretrainedMM1) or not start.tuned:
            continue
        for field in ("views", "tiling", "tile_marks"):
            before, now = getattr(start, field), getattr(stage, field)
            if before != now:
                lines.append(f"{start.name} was tuned with sft.{field} {before}, and is tuned with {now}")
    return list(dict.fromkeys(lines))


def one_start(request: Request) -> list[str]:
    """What is to be told of arms that start from one exported model each."""
    return one_start_note(request.recipes)


def unlike_before(request: Request) -> list[str]:
    """What is to be told of models on users' data that were trained on another form: pictures of an exported one
    that were made square in another way, the chat template of a decoder to be tuned, its own end of texts."""
    if not request.data_file:
        return []
    from mm1_lab.data.tokenizers import folder_tokenizer

    @cache
    def ends(folder: str) -> tuple[int, int]:
        tokenizer = folder_tokenizer(Path(folder))
        return tokenizer.begin, tokenizer.end

    named = request.data_file.tokenizer_folder(request.data_path) if request.data_path else None
    lines = []
    for trial in request.trials:
        stage = trial.evaluation.model
        model, now = stage.architecture, stage.data.shape
        if isinstance(model, PretrainedMM1):
            if model.pictures not in (None, now):
                before = f"was trained with `pictures: {model.pictures}`"
                which = f"the arm {trial.arm!r}" if stage.data.pictures else "the data file"
                lines.append(f"{model.name} {before}, and {which} has `{now}`")
        elif isinstance(model.decoder, PretrainedDecoder):
            name = model.decoder.name
            if named and ends(model.decoder.folder) != ends(str(named)):
                lines.append(f"{name}: its texts begin and end as those of the data file's tokenizer")
            if stage.tuned and chat_template(model.decoder):
                form = "conversations are `User: …` and `Assistant: …` (docs/your-own-data.md)"
                lines.append(f"{name}: its chat template is not used; {form}")
    return list(dict.fromkeys(lines))


def doubtful_claims(request: Request) -> list[str]:
    """What is to be told before a run of claims about its arms that it cannot decide, or that are about more than one
    change."""
    arms = request.recipes
    pixels = {trial.arm: trial.evaluation.model.architecture.image_size for trial in request.trials}
    claims = defaultdict(list)
    for contrast in request.sweep.contrasts:
        first, second = contrast.sides
        compared = [arms[arm] for arm in (*first, *second) if arm in arms]
        if not compared:
            continue
        changed = []
        if len(compared) == len(first) + len(second) == 2 and not request.manifest.confirms:
            changed = [name for name in Recipe.model_fields if getattr(compared[0], name) != getattr(compared[1], name)]
            if "resolution" in changed and len({pixels[arm] for arm in (*first, *second)}) == 1:  # one is `native`
                changed.remove("resolution")
        if len(changed) > 1:
            what = f"will not tell {', '.join(changed)} apart, as the arms differ in all of them"
            claims[what].append(repr(contrast.claim))
        for measure in contrast.measure.parts:
            if reason := why_no_value(request, measure) or why_untuned(request, measure, (*first, *second)):
                claims[f"will not be judged by {reason}"].append(repr(contrast.claim))
            elif measure.about == "benchmarks" and not measure.of and _means_cider(request, measure.shots):
                shots = request.scale.evaluate.shots[0] if measure.shots is None else measure.shots
                by = f"compared by `{measure}`, a mean of CIDEr (not bounded by 100) and percentages"
                claims[f"will be {by}; of percentages alone is `vqa {shots}-shot`"].append(repr(contrast.claim))
    lines = []
    for what, names in claims.items():
        which = "claim" if len(names) == 1 else "claims"
        lines.append(f"The {which} {', '.join(names)} {what}.")
    return lines


def doubtful_data(request: Request) -> list[str]:
    """What is to be told of users' data if trials are missing, and of prompts of their held-out captions, or of the
    world's benchmarks, that do not fit what the models of these trials read."""
    missing = [trial.evaluation for trial in request.trials if not request.ledger.has_scores(trial.fingerprint)]
    if request.data.tokenizer == "world" and max(request.scale.evaluate.shots) <= SHOTS_OF_WORLD:
        missing = [evaluation for evaluation in missing if evaluation.model.picture_tokens > WORLD_IMAGE_TOKENS]
    if not missing or (request.data.kind == "world" and request.scale.hardware):
        return []
    from mm1_lab.data.shards import Shards
    from mm1_lab.evaluate.fitting import long_prompts

    data = request.open_data()
    told = []
    if isinstance(data, Shards):
        told = [f"{request.data_path}: {line}" for line in [*data.doubts(), *data.broken()]]
        sizes = {name: len(one.train) for name, one in data.conversations.items()}
        told += epochs_note(_epochs(request, sizes))
        plain = [one.name for one in request.scale.benchmarks if one.prompt is None and one.metric != "cider"]
        if plain and any(evaluation.model.tuned for evaluation in missing):
            form = "with `Question: … Short answer:`; with `prompt: chat` as in their conversations"
            told.append(f"{request.data_path}: tuned models are asked {', '.join(plain)} {form}")
    return [*told, *long_prompts(missing, request.scale.evaluate, data)]


def _epochs(request: Request, sizes: Mapping[str, int]) -> dict[str, str]:
    """The `epochs_text` of each arm to be tuned, given the sizes of the instruction sets."""
    found = {}
    for trial in request.trials:
        stage = trial.evaluation.model
        if isinstance(stage, SftStage) and stage.training.steps:
            asked = stage.training.steps * stage.training.batch_size
            found[trial.arm] = epochs_text({name: asked * part / sizes[name] for name, part in stage.shares.items()})
    return found


def _means_cider(request: Request, shots: int | None) -> bool:
    """Whether the mean over benchmarks with images, at so many shots or all, is of CIDEr and other metrics."""
    usual = request.scale.evaluate.shots
    asked = [one for one in request.scale.benchmarks if shots is None or shots in (one.shots or usual)]
    metrics = {one.metric for one in asked if one.images_digest}
    if request.data_path and {"captions", "synthetic"} & set(request.data.held_out):
        metrics.add("cider")
    return "cider" in metrics and len(metrics) > 1
