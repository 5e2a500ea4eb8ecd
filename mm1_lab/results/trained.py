"""What a trial trained, in the units of this machine. Its recipe has the paper's names, which at other scales and with
pre-trained parts are only names."""

from collections import defaultdict
from collections.abc import Mapping
from itertools import count
from typing import Any

from mm1_lab.config import Recipe
from mm1_lab.config.units import stand_for_themselves
from mm1_lab.formatting import counted

Stored = Mapping[str, Any]
"""Plain values of a trial's record: the record, its recipe, its config, or a stage or part in there."""


def what_ran(config: Stored) -> dict[str, str]:
    """Parts, pixels, image tokens, steps, learning rate and shares of data. `config` is that of a trial's record."""
    model = config["model"]
    started = model.get("model", model)  # of a tuned model, what was tuned
    views = model.get("views", 1)
    at_most = "up to " if model.get("tiling") == "ratio" else ""
    connector = started["connector"]
    size = f"{model['image_size']} px" + (f", {at_most}{views} views" if views > 1 else "")
    size += " with marks" if model.get("tile_marks") == "text" else ""
    values = {
        "encoder": _part(started["encoder"]),
        "decoder": _part(started["decoder"]),
        "connector": connector["kind"],
        "image_size": size,
        "image_tokens": f"{at_most}{views * connector['image_tokens']}",
        "steps": str(_steps(model)),
        "learning_rate": f"{model['training']['learning_rate']:g}" if _steps(model) else "none",
        "trained_on": _shares(model["shares"]),
    }
    if replay := model.get("replay"):
        rows = " and ".join(f"{number:.2g} of {name}" for name, number in replay.items())
        values["trained_on"] += f"; rows of pre-training in each step: {rows}"
    alignment = started.get("start")
    if model.get("aligns"):  # nothing followed it
        alignment = model
        values |= {"steps": "0", "learning_rate": "none", "trained_on": "nothing"}
    if alignment:
        frozen = ", ".join(alignment["frozen"]) or "nothing"
        rates, shares = learning_rates(alignment), _shares(alignment["shares"])
        values["alignment"] = f"{counted(_steps(alignment), 'step')} at {rates} on {shares}; frozen: {frozen}"
    if model is started:
        return values
    if not _steps(model):
        return values | {"as_exported": f"{started['name']} ({'tuned' if started['tuned'] else 'pre-trained'})"}
    if "training" in started and not _steps(started):
        tuned = "encoder and decoder joined by an untrained connector (0 steps of multimodal pre-training)"
    elif "training" in started:
        what = "alignment" if started.get("aligns") else "multimodal pre-training"
        rates = learning_rates(started)
        tuned = f"{what} of {counted(_steps(started), 'step')} at {rates} on {_shares(started['shares'])}"
    else:
        tuned = f"{started['name']} (pre-trained)"
    return values | {"tuned_from": tuned}


def frozen_parts(config: Stored) -> dict[str, str]:
    """The parts that the training, and that before a tuning, left as they were or trained by adapters alone; not of
    stages without steps."""
    model = config["model"]
    found = {}
    for when, stage in (("", model), (" before tuning", model.get("model", {}))):
        if "frozen" in stage and _steps(stage) and not model.get("aligns"):
            found[f"frozen{when}"] = ", ".join(stage["frozen"]) or "nothing"
            lora = stage.get("lora", {}).items()  # which earlier records lack
            if lora:
                adapted = [f"{part} (rank {own['rank']}, alpha {own['alpha']:g})" for part, own in lora]
                found[f"trained by LoRA{when}"] = ", ".join(adapted)
    return found


def learning_rates(stage: Stored) -> str:
    """`0.001 (encoder × 0.1, decoder × 0.1), Adafactor`: the peak, parts with another, an optimiser but AdamW."""
    if not _steps(stage):
        return "none"
    training = stage["training"]
    text = f"{training['learning_rate']:g}"
    rates, frozen = training.get("lr_multipliers", {}), stage.get("frozen", ())
    if others := [f"{part} × {rate:g}" for part, rate in rates.items() if rate != 1 and part not in frozen]:
        text += f" ({', '.join(others)})"
    optimiser = training.get("optimiser", "adamw")
    return text if optimiser == "adamw" else f"{text}, {optimiser.capitalize()}"


def summary_of_model(record: Stored) -> Stored:
    """What the stage of the model that was evaluated recorded; its parts come before it, the evaluation after it."""
    kinds = list(record["fingerprints"])
    return record["summaries"].get(kinds[-2], {})


def in_the_papers_words(recipe: Stored, config: Stored) -> dict[str, Any]:
    """The recipe without what was not done: the pre-training of parts that came pre-trained, alignment and tuning of no
    steps."""
    tuning = recipe.get("sft") or {}
    if tuning.get("start"):
        return {"sft": tuning if tuning.get("steps", 1) else {"start": tuning["start"], "steps": 0}}
    recipe = dict(recipe)
    if not recipe.get("align", {}).get("steps"):
        recipe.pop("align", None)
    model = config["model"]
    if "family" not in model.get("model", model)["encoder"]:
        return recipe
    encoder = recipe["encoder"]
    return {**recipe, "encoder": {key: encoder[key] for key in ("size", "beside") if encoder.get(key)}}


def own_rows(config: Stored) -> int | None:
    """The image tokens of a model that was pre-trained on rows of its own, as they are more than its scale's largest
    number; 0 if it was on the scale's rows, None if on none. `config` as for `what_ran`."""
    model = config.get("model", {})
    read = model.get("model", model)
    if "training" not in read or not _steps(read):
        return None
    return read["connector"]["image_tokens"] if read.get("drop_overlong") else 0


def own_rows_note(tokens: Mapping[str, int], known: Mapping[int, int] | None = None) -> list[str]:
    """What is to be told of arms, given the `own_rows` of each, unless all read the same rows; `known` are the scale's
    numbers of image tokens, if one more of them would let all arms read the same."""
    if len(set(tokens.values())) < 2:
        return []
    apart = ", ".join(f"{arm} ({number} image tokens)" for arm, number in tokens.items() if number)
    text = f"Rows of their own, and so other numbers of epochs in as many steps: {apart}, more than the scale's largest"
    if not known:
        return [f"{text}."]
    most = max(tokens.values())
    least = most if stand_for_themselves(known) else max(most, 576)  # the paper's patches at 336 px
    name = next(name for name in count(least) if name not in known)
    return [f"{text}, {max(known.values())}; with --set image_tokens.{name}={most} all arms read the same rows."]


def one_start_note(arms: Mapping[str, Recipe]) -> list[str]:
    """What is to be told of arms that start from an exported model which is the same at every seed, unless all start
    from that one."""
    starts: dict[str, str] = {}
    for arm, recipe in arms.items():
        if recipe.sft and recipe.sft.start and not recipe.sft.starts_by_seed:
            starts[arm] = recipe.sft.start
    if not starts or (len(starts) == len(arms) and len(set(starts.values())) == 1):
        return []
    told = ", ".join(f"{arm} ({start})" for arm, start in starts.items())
    return [
        f"One exported model at every seed: {told}. Intervals cover the luck of tuning alone, not of what was before; "
        "`{seed}` in `start` gives each seed a model of its own."
    ]


def epochs_text(epochs: Mapping[str, float], left_out: int = 0) -> str:
    """The epochs of a tuning, by set: `llava 1.2, charts 0.35; 12 conversations did not fit`."""
    text = ", ".join(f"{name} {number:{'.2g' if number < 10 else '.0f'}}" for name, number in epochs.items())
    return f"{text}; {counted(left_out, 'conversation')} did not fit" if left_out else text


def epochs_note(arms: Mapping[str, str]) -> list[str]:
    """What is to be told of the tuned arms of a sweep, given the `epochs_text` of each."""
    if len(set(arms.values())) < 2:
        return [f"Epochs of instruction sets: {text}." for text in set(arms.values())]
    return [f"Tuned on different conversations; epochs of instruction sets: {_by_text(arms)}."]


def repeats_note(arms: Mapping[str, Mapping[str, float]]) -> list[str]:
    """What is to be told of arms that read data more than once in pre-training, given the epochs of each one's sources:
    a better filter may lose by that alone."""
    told = {}
    for arm, epochs in arms.items():
        if repeated := {name: number for name, number in epochs.items() if number > 1}:
            told[arm] = epochs_text(repeated)
    return [f"Read more than once in pre-training (epochs): {_by_text(told)}."] if told else []


def _by_text(arms: Mapping[str, str]) -> str:
    """Each text once, after its arms."""
    alike = defaultdict(list)
    for arm, text in arms.items():
        alike[text].append(arm)
    return "; ".join(f"{', '.join(names)} ({text})" for text, names in alike.items())


def _steps(stage: Stored) -> int:
    return stage.get("stop_after") or stage["training"]["steps"]


def _part(part: Stored) -> str:
    """A pre-trained part's name, or the layers, width and training of one that was trained here."""
    if "size" not in part:
        return "made by a kind of stage of your own"
    size = part["size"]
    shape = f"{counted(size['layers'], 'layer')} of width {size['width']}"
    if size.get("experts"):
        shape += f", {size['experts']} experts"
    if "family" in part:
        if part.get("layer") is not None:
            shape += f", output of layer {part['layer']}"
        text = f"{part['name']} (pre-trained {part['family']}, {shape})"
        return f"{text} beside {_part(part['beside'])}" if part.get("beside") else text
    objective = part.get("objective", "text")
    if objective == "none":
        return f"{shape}, not pre-trained"
    told = f"{shape}, trained here for {counted(part['training']['steps'], 'step')} ({objective})"
    if first := part.get("start"):
        told += f" after {first['training']['steps']} at {first['image_size']} px"
    if dense := part.get("upcycled_from"):
        told += f" after {dense['training']['steps']} without experts"
    return told


def _shares(shares: Mapping[str, float]) -> str:
    """`captions 45 %, text 10 %`."""
    return ", ".join(f"{name} {100 * share:.3g} %" for name, share in shares.items()) or "nothing"
