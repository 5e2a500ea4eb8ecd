"""A new option with a default, wherever it stands, leaves the fingerprints of what was done before it alone."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pydantic import create_model

from mm1_lab.config import (
    WORLD_DATA,
    AlignRecipe,
    Config,
    DataIdentity,
    EncoderRecipe,
    EvaluationStage,
    Recipe,
    SftRecipe,
    Stage,
    Sweep,
    load_scale,
    load_sweep,
    resolve,
)
from mm1_lab.results.manifest import claim_keys
from tests.conftest import REPOSITORY, SCALES, evaluation_of

MINI = evaluation_of(scale="mini")


def configurations(config: Config, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of every configuration inside `config`, itself included; of a tuple of them, the first."""
    yield path
    for name in type(config).model_fields:
        value = getattr(config, name)
        if isinstance(value, tuple) and value and isinstance(value[0], Config):
            yield from configurations(value[0], (*path, name, "0"))
        elif isinstance(value, Config):
            yield from configurations(value, (*path, name))


def with_option(config: Config, path: tuple[str, ...], value: str | None) -> Config:
    """`config` with a field `new_option` (default `old way`) at `path`."""
    if not path:
        larger = create_model(type(config).__name__, __base__=type(config), new_option=(str, "old way"))
        fields = {name: getattr(config, name) for name in type(config).model_fields}
        fields |= config.model_extra or {}  # sources of a mix
        return larger.model_construct(**fields, **({} if value is None else {"new_option": value}))
    inner = getattr(config, path[0])
    if isinstance(inner, tuple):
        changed: object = (with_option(inner[0], path[2:], value), *inner[1:])
    else:
        changed = with_option(inner, path[1:], value)
    return config.model_copy(update={path[0]: changed})


@pytest.mark.parametrize("path", list(configurations(MINI)), ids=".".join)
def test_a_new_option_changes_a_fingerprint_only_where_it_is_used(path: tuple[str, ...]) -> None:
    unused, used = with_option(MINI, path, None), with_option(MINI, path, "new way")
    assert isinstance(unused, Stage) and isinstance(used, Stage)
    assert unused.fingerprint == MINI.fingerprint
    assert used.fingerprint != MINI.fingerprint


OTHER = {
    "encoder": {"size": "ViT-H"},
    "resolution": 224,
    "connector": "average-pooling",
    "image_tokens": 64,
    "decoder": "302M",
    "data_mix": {"captions": 1},
    "align": {"steps": 2000},
    "steps": 100_000,
    "learning_rate": 1e-4,
    "lr_multipliers": {"encoder": 0.5},
    "frozen": ["encoder"],
    "lora": {"decoder": 8},
    "sft": {},
    "images": "blind",
    "data_order": 1,
    "scale": {"train.weight_decay": 0.5},
    "pictures": "pad",
}
"""A value other than the default of every field of a recipe."""


def on_own_data(**fields: Any) -> EvaluationStage:
    """Of a recipe with these fields: in the world, `pictures` is refused."""
    data = WORLD_DATA.model_copy(update={"kind": "shards"})
    return resolve("arm", Recipe.model_validate(fields), load_scale("mini", SCALES), 0, data).evaluation


def test_every_field_of_a_recipe_makes_another_arm_and_a_decoder_s_pictures_none() -> None:
    """One that `resolve` forgets would compare the base with itself."""
    assert OTHER.keys() == Recipe.model_fields.keys(), "a new field: another value of it in OTHER"
    found = {name: on_own_data(**{name: value}).fingerprint for name, value in OTHER.items()}
    assert len({on_own_data().fingerprint, *found.values()}) == len(found) + 1, found
    # a decoder reads text alone; an arm with the data file's own way is that without one
    usual, padded = on_own_data(), on_own_data(pictures="pad")
    assert padded.model.decoder == usual.model.decoder and padded.model.encoder != usual.model.encoder
    assert on_own_data(pictures="squeeze") == usual


SECTIONS = {
    "encoder": (EncoderRecipe, {}),
    "align": (AlignRecipe, {"steps": 4000}),
    "sft": (SftRecipe, {"views": 5, "resolution": 1344}),
}
"""The parts of a recipe, and what an arm has of them before it is changed."""
OTHER_OF = {
    "encoder": {"size": "ViT-H", "loss": "none", "data": "dfn", "schedule": "short", "first_resolution": 224},
    "align": {
        "steps": 8000,
        "learning_rate": 1e-4,
        "lr_multipliers": {"connector": 0.5},
        "frozen": [],
        "data_mix": {"text": 1},
    },
    "sft": {
        "mixture": {"charts": 1},
        "replay": {"text": 0.1},
        "resolution": 672,
        "views": 10,
        "tiling": "ratio",
        "tile_marks": "text",
        "steps": 5000,
        "learning_rate": 1e-4,
        "lr_multipliers": {"encoder": 0.5},
        "frozen": ["encoder"],
        "lora": {"decoder": 8},
        "after_steps": 100_000,
        "sharp_demonstrations": 1,
    },
}
OF_READY_MODELS = {"beside", "start"}
"""Fields that name a pre-trained model."""


@pytest.mark.parametrize("section", SECTIONS)
def test_every_field_of_a_section_makes_another_arm(section: str) -> None:
    kind, usual = SECTIONS[section]
    assert OTHER_OF[section].keys() == kind.model_fields.keys() - OF_READY_MODELS, "a new field: see OTHER_OF"
    found = {name: on_own_data(**{section: usual | {name: value}}) for name, value in OTHER_OF[section].items()}
    fingerprints = {on_own_data(**{section: usual}).fingerprint, *(one.fingerprint for one in found.values())}
    assert len(fingerprints) == len(found) + 1, {name: one.fingerprint for name, one in found.items()}


@pytest.mark.parametrize("path", ["lora.decoder", "sft.lora.decoder"])
def test_a_new_option_of_adapters_makes_another_arm(path: str) -> None:
    adapted = {"lora": {"decoder": 8}}
    recipe = Recipe.model_validate({**adapted, "sft": adapted})
    fingerprints = []
    for value in (None, "new way"):
        arm = with_option(recipe, tuple(path.split(".")), value)
        assert isinstance(arm, Recipe)
        fingerprints.append(resolve("arm", arm, load_scale("mini", SCALES), 0, WORLD_DATA).fingerprint)
    assert len(set(fingerprints)) == 2


def test_stages_before_pre_training_and_without_steps_ignore_what_they_do_not_read() -> None:
    """An alignment has fields of its own for how it trains, and a model of 0 steps depends on none of these."""
    parts = {"encoder", "resolution", "connector", "image_tokens", "decoder", "images", "pictures"}

    def changed_by(recipe: dict[str, Any], stage_of: Callable[[Any], Stage]) -> set[str]:
        """The fields of OTHER that change the fingerprint of a stage of the recipe's trial."""

        def fingerprint(values: dict[str, Any]) -> str:
            return stage_of(on_own_data(**(recipe | values))).fingerprint

        return {field for field, value in OTHER.items() if fingerprint({field: value}) != fingerprint({})}

    aligned = changed_by({"align": {"steps": 4000}, "sft": {}}, lambda evaluation: evaluation.model.model.start)
    assert aligned == parts | {"align", "scale"}, (
        "a new field that the alignment does not read: see `_alignment` in pretraining.py"
    )
    untrained = changed_by({"steps": 0, "sft": {}}, lambda evaluation: evaluation.model.model)
    told = "a new field that only steps depend on: see `WholeModelStage.canonical` in stages/model.py"
    assert untrained == parts | {"align", "steps"}, told


def test_stages_know_of_users_data_what_they_read_alone() -> None:
    """A tokenizer that the lab trains depends on all built-in sources, whose hash is `digest`."""
    names = ("captions", "synthetic", "interleaved", "text", "charts", "web", "instructions.chat", "instructions.llava")
    files = {
        "kind": "shards",
        "sources": names[:6],
        "instructions": {"chat": 1.0, "llava": 1.0},
        "tokenizer": "a folder's",
        "parts": dict.fromkeys(names, "before"),
    }
    data = WORLD_DATA.model_copy(update=files)
    scale = load_scale("mini", SCALES)

    def stages(data: DataIdentity, **fields: Any) -> dict[str, str]:
        evaluation = resolve("arm", Recipe.model_validate(fields), scale, 0, data).evaluation
        return {stage.name: stage.fingerprint for stage in evaluation.chain()}

    def changing(stage: str, data: DataIdentity = data, **fields: Any) -> set[str]:
        """Another file in which sources and sets changes the stage."""
        found = set()
        for name in data.parts:
            other = data.model_copy(update={"parts": data.parts | {name: "after"}})
            if stages(other, **fields)[stage] != stages(data, **fields)[stage]:
                found.add(name)
        return found

    charts = {"data_mix": {"captions": 0, "interleaved": 0, "text": 0, "charts": 1}}
    aligned = {"align": {"steps": 2000, "data_mix": {"web": 1}}}
    tuned = {"sft": {"mixture": {"llava": 1}, "replay": {"web": 0.5}}}
    assert changing("decoder") == {"text"}
    assert changing("encoder") == {"captions", "synthetic"}
    assert changing("encoder", encoder={"data": "dfn"}) == {"captions"}
    assert changing("encoder", encoder={"loss": "none"}) == set()
    dense = data.model_copy(update={"sources": names[1:6]})
    assert changing("encoder", dense, **charts) == {"synthetic"}, "which takes the place of captions"
    of_charts = {"captions", "synthetic", "text", "charts"}  # with those of encoder and decoder
    assert changing("multimodal", **charts) == of_charts
    assert changing("alignment", **charts, **aligned) == of_charts - {"charts"} | {"web"}
    assert changing("multimodal", **charts, steps=0) == of_charts - {"charts"}
    assert changing("sft", **charts, **tuned) == of_charts | {"web", "instructions.llava"}
    assert changing("evaluation", **charts) == {*names[:6]}
    assert changing("evaluation", **charts, **tuned) == {*names}
    more = {"sources": (*names[:6], "new"), "parts": data.parts | {"new": "before", "instructions.new": "before"}}
    grown = data.model_copy(update=more | {"digest": "other", "instructions": data.instructions | {"new": 9.0}})
    before, after = (stages(one, **charts, **tuned) for one in (data, grown))
    assert {name for name in before if before[name] != after[name]} == {"evaluation"}
    before, after = (stages(one, **charts, sft={}) for one in (data, grown))
    assert {name for name in before if before[name] != after[name]} == {"sft", "evaluation"}, "sets count by their size"
    for identity, retrained in (("bpe-512", True), ("a folder's", False)):
        pair = [
            one.model_copy(update={"tokenizer": identity}) for one in (data, data.model_copy(update={"digest": "2"}))
        ]
        before, after = (stages(one, **charts) for one in pair)
        assert all((before[name] != after[name]) == retrained for name in ("encoder", "decoder", "multimodal"))


FIRST_KEYS = ["09dbd30879510c22", "6a35ae2ba55afb06"]
"""Of the claims of sft_frozen, as results of the first versions hold them."""
RENAMES = (
    "a new field of recipes renames the claims that results hold, so that a late claim would count as in time: "
    "`_recipes` of mm1_lab/results/manifest.py has to leave it out at its default, and not have it in FIRST_FIELDS"
)


def keys_of(sweep: Sweep, recipe: Config) -> list[str]:
    """Of the sweep's claims, if one of its arms had this recipe."""
    return sorted(claim_keys(sweep.model_copy(update={"arms": sweep.arms | {"frozen 336": recipe}})).values())


def test_a_new_field_of_a_recipe_renames_no_claim() -> None:
    sweep = load_sweep(REPOSITORY / "sweeps" / "sft_frozen.yaml")
    assert sorted(claim_keys(sweep).values()) == FIRST_KEYS, RENAMES
    more = [Recipe.model_validate(values) for values in ({}, {"align": {"steps": 2000}}, {"lora": {"decoder": 8}})]
    assert keys_of(sweep, more[-1]) == ["0f4491662529a2d6", FIRST_KEYS[1]], RENAMES
    for recipe in (sweep.arms["frozen 336"], *more):
        usual = keys_of(sweep, recipe)
        for path in configurations(recipe):
            if "lora" in path and not recipe.lora.by_part:
                continue  # left out at its default, which equals no object of a class with another option
            assert keys_of(sweep, with_option(recipe, path, None)) == usual, (path, RENAMES)
            is_nothing = path[:1] == ("align",) and not recipe.align.steps
            assert (keys_of(sweep, with_option(recipe, path, "new way")) == usual) == is_nothing, path
    claims = [keys_of(sweep, Recipe.model_validate({name: value})) for name, value in OTHER.items()]
    assert len(set(map(tuple, claims))) == len(OTHER), "every field makes it another claim"
