"""Recipes, scales, sweeps, trials and fingerprints."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

from mm1_lab.config import (
    PAPER_LAW,
    WORLD_DATA,
    ConnectorConfig,
    DataIdentity,
    DataMix,
    EncoderRecipe,
    MultimodalStage,
    Pretrained,
    PretrainedDecoder,
    PretrainedEncoder,
    PretrainedMM1,
    PretrainedSize,
    Recipe,
    RequestError,
    Scale,
    SftStage,
    Size,
    TowerSize,
    Trial,
    is_of_recipe,
    load_scale,
    load_sweep,
    parse_count,
    resolve,
    steps_here,
)
from mm1_lab.config.base import override
from mm1_lab.formatting import short_count
from mm1_lab.orchestrate.planning.doubts import unlike_start
from mm1_lab.orchestrate.planning.loading import load_request
from tests.conftest import Refused, Told, change

SWEEPS = Path(__file__).parents[2] / "sweeps"
WORLD = WORLD_DATA
BASE = load_sweep(SWEEPS / "data_mix.yaml").base


def mini_with(*settings: str) -> Scale:
    return load_scale("mini", SWEEPS / "scales", settings=settings)


MINI = mini_with()


def write_sweep(folder: Path, text: str) -> Path:
    shutil.copytree(SWEEPS / "recipes", folder / "recipes", dirs_exist_ok=True)
    path = folder / "question.yaml"
    path.write_text("title: T\nreproduces: Fig. 5\naxis: data_mix\nrecipe: base\n" + text)
    return path


def test_a_mix_names_any_source_that_the_data_have(tmp_path: Path) -> None:
    mix = DataMix.model_validate({"charts": 1, "captions": 3, "synthetic": 1})
    assert mix.shares() == {"captions": 0.6, "synthetic": 0.2, "charts": 0.2}
    same = [DataMix.model_validate(dict.fromkeys(names, 1)).shares() for names in (("a", "b"), ("b", "a"))]
    assert list(same[0]) == list(same[1]), "the order decides which row is of which source, under one fingerprint"
    path = write_sweep(tmp_path, "arms:\n  more: {data_mix: {charts: 1}}\n")
    recipe = load_sweep(path).arms["more"]
    own = WORLD.model_copy(update={"digest": "own", "sources": (*WORLD.sources, "charts")})
    shares = resolve("more", recipe, MINI, 0, own).evaluation.model.shares
    assert shares["charts"] == shares["text"] == pytest.approx(1 / 12)

    without_interleaved = WORLD.model_copy(update={"sources": ("captions", "text")})
    for weights in ({"captions": 1, "interleaved": 0}, {"captions": 1, "synthetic": 0}):
        recipe = Recipe.model_validate({"data_mix": weights})
        assert resolve("a", recipe, MINI, 0, without_interleaved).evaluation.model.shares == {"captions": 1}
    # an encoder from scratch needs no captions
    data = WORLD.model_copy(update={"sources": ("interleaved", "text")})
    change = {"data_mix": {"interleaved": 5, "text": 1}}
    with pytest.raises(RequestError, match="pre-trained on captioned images, which the data do not contain"):
        resolve("a", Recipe.model_validate(change), MINI, 0, data)
    resolve("a", Recipe.model_validate(change | {"encoder": {"loss": "none"}}), MINI, 0, data)


TWICE_FROZEN = {"frozen": ["encoder", "decoder"], "sft": {"frozen": ["encoder", "decoder"]}}
ONE, UNTRAINED = {"lr_multipliers": {"encoder": 1}}, {"steps": 0, "sft": {}}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({}, {"lr_multipliers": MINI.train.lr_multipliers | {"connector": 1}}),
        ({"frozen": ["encoder"]}, {"frozen": ["encoder"]} | ONE),
        ({"sft": {}}, {"sft": ONE | {"after_steps": 200_000}}),
        (TWICE_FROZEN, {"frozen": ["decoder", "encoder", "decoder"], "sft": {"frozen": ["decoder", "encoder"]}}),
        (UNTRAINED, UNTRAINED | {"frozen": ["decoder"], "learning_rate": 1, "images": "shuffled", "data_order": 2}),
        (UNTRAINED, UNTRAINED | ONE | {"data_mix": {"text": 3}}),
    ],
)
def test_fields_that_change_nothing_make_no_trial_of_their_own(one: dict[str, Any], other: dict[str, Any]) -> None:
    scales = (MINI, mini_with("train.batch_size=9") if one is UNTRAINED else MINI)
    recipes = map(Recipe.model_validate, (one, other))
    trials = [resolve("a", recipe, scale, 0, WORLD) for recipe, scale in zip(recipes, scales, strict=True)]
    assert trials[0].fingerprint == trials[1].fingerprint


def test_what_moves_the_numbers_alone_changes_the_fingerprint() -> None:
    def fingerprint(*settings: str) -> str:
        return resolve("base", BASE, mini_with(*settings), 0, WORLD).fingerprint

    for setting in ("train.steps=7", "precision=bf16-mixed", "attention=varlen", "evaluate.batch_size=7"):
        assert fingerprint(setting) != fingerprint(), setting
    computing = ("resources.cpus=2", "retries=5", "reuse_processes=false", "workers={85M: 2, ViT-L: 2}")
    assert fingerprint(*computing, "hardware={gpu: h200, count: 8, mfu: 0.3}") == fingerprint()


def test_a_recipe_s_own_settings_of_the_scale_are_those_of_set() -> None:
    def fingerprint(recipe: dict[str, Any], *settings: str) -> str:
        values = Recipe.model_validate(recipe)
        return resolve("a", values, mini_with(*settings), 0, WORLD, ModelsFromOutside()).fingerprint

    exported = {"sft": {"start": "a/mm1", "resolution": "native"}}
    assert fingerprint(exported | {"scale": {"sft.batch_size": 9}}) == fingerprint(exported, "sft.batch_size=9")
    assert fingerprint(exported, "attention=varlen") != fingerprint(exported)
    views = {"sft": {"views": 5, "resolution": 672}}
    assert fingerprint({"sft": {"views": 9, "tiling": "ratio", "resolution": 756}}), "as many pixels as with five"
    assert fingerprint(views, "sft.max_images=5", "sft.sequence_length=47") != fingerprint(views), "just fits"
    sparse = {"layers": 3, "width": 80, "heads": 4, "experts": 2}
    dense = {"layers": 3, "width": 80, "heads": 4}
    changes: list[dict[str, Any]] = [
        {"train.weight_decay": 0.01},
        {"sft.batch_size": 8},
        {"decoder.phases": [{"share": 1, "sequence_length": 64, "batch_size": 8}]},
        {"encoder.synthetic_share": 0.25},
        {"encoders.ViT-L.layers": 2},
        {"connector_width": 32},
        {"decoders.302M-MoE.experts": 2},
        {"decoders.E2": sparse},
        {"decoders.E2": sparse, "decoders.E1": dense, "upcycled.E2": "E1"},
    ]
    found = {fingerprint({"sft": {}, "decoder": "302M-MoE"})}
    for scale in changes:
        recipe = {"sft": {}, "decoder": "E2" if "decoders.E2" in scale else "302M-MoE"}
        own = fingerprint(recipe | {"scale": scale})
        assert own == fingerprint(recipe, *(f"{path}={json.dumps(value)}" for path, value in scale.items())), scale
        found.add(own)
    assert len(found) == len(changes) + 1
    shorter = Recipe.model_validate({"scale": {"train.steps": 7, "decoders.1.2B.layers": 2}, "sft": {"steps": 5000}})
    steps = steps_here(shorter, mini_with("workers={1.2B: 1}", "sft.steps=30"))
    assert steps["steps", 200_000] == (7, 7) and steps["sft.steps", 5000] == (15, 15)


def test_a_decoder_with_experts_starts_as_the_dense_one_and_has_its_version(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    experts = "decoders.302M={layers: 4, width: 80, heads: 4, experts: 4}"
    dense = "decoders.85M={layers: 4, width: 80, heads: 4}"
    scratch = mini_with("base_decoder=302M", experts, dense)
    upcycled = mini_with("base_decoder=302M", experts, dense, "upcycled={302M: 85M}")
    trials = [resolve("base", BASE, scale, 0, WORLD) for scale in (scratch, upcycled)]
    first, second = (trial.evaluation.model.decoder for trial in trials)
    assert first.upcycled_from is None and first.fingerprint != second.fingerprint
    assert second.upcycled_from == first.model_copy(update={"size": upcycled.decoders["85M"]})
    assert [stage.KIND for stage in second.chain()] == ["decoder", "decoder"]

    # with one expert per token its router learns from the task, which at first it did not; no other fingerprint tells
    def fingerprint(size: str) -> str:
        scale = mini_with("base_decoder=302M", f"decoders.302M={{layers: 4, width: 80, heads: 4, {size}}}")
        return resolve("base", BASE, scale, 0, WORLD).evaluation.model.decoder.fingerprint

    sizes = ("experts: 4, experts_per_token: 1", "experts: 4", "experts_per_token: 1")
    before = [fingerprint(size) for size in sizes]
    monkeypatch.setattr("mm1_lab.config.DecoderStage.SINGLE_VERSION", 3)
    assert [fingerprint(size) == known for size, known in zip(sizes, before, strict=True)] == [False, True, True]


BOMB = "axis: &n0 [lol]\n" + "".join(f"n{n + 1}: &n{n + 1} [{f'*n{n},' * 10}]\n" for n in range(9))
"""Ten lines that stand for a billion values."""


def claims(*rest: str) -> str:
    """Claims about arm `a` by one name."""
    return "arms: {a: {}, b: {}}\ncontrasts:\n" + "".join(f"- {{claim: c, first: a, {one}}}\n" for one in rest)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("arms:\n  a: {data_mx: {captions: 1}}\n", "unknown key 'data_mx'; did you mean 'data_mix'?"),
        ("arms:\n  a: {data_mix: {captions: 0, interleaved: 0, text: 0}}\n", "the weights are all zero"),
        ("arms:\n  a: {}\n  a: {}\n", "line 7: is no plain YAML (the key 'a' appears twice; merge them into one)"),
        ("arms: {a: {<<: {image_tokens: 64}}}\n", "line 5: is no plain YAML"),
        (BOMB + "grid: {steps: [*n9]}\narms: {a: {}}\n", "is no plain YAML (its aliases stand for too much, or for"),
        ("grid: {steps: &a [*a]}\n", "is no plain YAML (its aliases stand for too much, or for themselves; write the"),
        ('arms: {a: {}}\npanels: {"a\\e[2J": {title: t, arms: {a: a}}}\n', "panels.a [2J: has a character that contro"),
        ("arms: {a: {}}\npanels: {x: {title: a\u202eb, arms: {a: a}}}\n", "panels.x.title: has a character that"),
        ('grid: {connector: [mlp, "a\\e[2J"]}\n', "arms.a [2J: has a character that controls a terminal"),
        ("axis: a: b\n", "line 5: is no plain YAML (mapping values are not allowed here); see to its"),
        ("arms: {a: {learning_rate: fast}}\n", "should be a valid number or 'scale' or 'paper' (it is 'fast')"),
        ("arms: {a: {learning_rate: yes}}\n", "learning_rate: must be a number or 'scale' or 'paper' (it is True)"),
        ("arms: {a: {sft: {views: yes, mixture: {charts: 1}}}}\n", "sft.views: must be a number (it is True)"),
        ("arms: {a: {sft: {mixture: {charts: yes}}}}\n", "sft.mixture.charts: must be a number (it is True)"),
        ("arms: {a: {resolution: yes}}\n", "arm 'a': resolution: must be a number or 'native' (it is True)"),
        ("arms: {a: {sft: {tiling: ratio}}}\n", "'a': sft: tiling: ratio requires several views, the most t"),
        ("arms: {a: {sft: {tile_marks: text}}}\n", "sft: tile_marks: text requires several views; set views: 5"),
        ("arms: {a: {sft: {views: 13}}}\n", "13 views require tiling: ratio; without it, views are 1, 5, 10 or 17"),
        ('arms: {a: {}}\npanels: {x: {title: "\\ud800", arms: {a: a}}}\n', "is no plain YAML ('utf-8' codec can't"),
        ("arms: {a: {sft: {frozen: [decoder], lr_multipliers: {decoder: 0}}}}\n", "sft: lr_multipliers.decoder is 0"),
        ("arms: {a: {frozen: [encoder], lr_multipliers: {encoder: 2}}}\n", "lr_multipliers.encoder is 2, but encoder"),
        ("arms: {a: {scale: {evaluate.shots: [0]}}}\n", "scale: 'evaluate' is the same for all arms (--set)"),
        (
            "arms: {a: {scale: {decoders.9M.layers: 2, decoders.9M: {layers: 1, width: 16, heads: 2}}}}\n",
            "arm 'a': scale: decoders.9M.layers is inside decoders.9M; write it there",
        ),
        ("arms: {a: {scale: {train: {steps: 2}}}}\n", "scale: write each setting with its path, as in train.steps: …"),
        ("arms: {a: {scale: {train: }}}\n", "scale: write each setting with its path, as in train.NAME"),
        ("arms: {a: {sft: {batch_size: 8}}}\n", "no 'sft.batch_size'; it is a setting of the scale: write scale.sft."),
        ("arms: {a: {connector: mlp, sft: {start: x}, scale: {train.steps: 2}}}\n", "remove connector, scale, or if"),
        ("arms: {a: {connector: mlp, connector.x: 2}}\n", "connector has no keys; set connector itself"),
        ("arms: {a: {sft.lora: 8}}\n", "arm 'a': sft.lora: write ranks by part, such as {decoder: 64} (it is 8)"),
        ("arms: {a: {encoder: [a/a, b/b, c/c]}}\n", "encoder: two encoders may stand side by side, [A, B], no more;"),
        ("arms: {a: {sft: {steps: 0}}}\n", "sft: steps: 0 evaluates an exported model; name it (start)"),
        ("arms: {a: {encoder: {beside: ''}}}\n", "encoder.beside: String should have at least 1 character"),
        ("arms: {a: {}}\nsearch: {rates: 400, factor: 100}\n", "rates: Input should be less than or equal to 50"),
        ("arms: {a: {}}\nsearch: {factor: 1}\n", "search.factor: Input should be greater than 1"),
        ("search: {over: {steps: [1, 2]}, measure: average, trials: 2001}\n", "less than or equal to 2000"),
        (f"arms: {{a: {{}}}}\nsearch: {{extensions: {10**400}}}\n", "search.extensions: Input should be less than or"),
        ("arms: {a: }\n", "arms.a: must hold keys and values, or {} for none (it is empty)"),
        ("arms: {a: {}}\ncontrasts:\n", "contrasts: must be a list (it is empty)"),
        ("arms: {}\n", "has no arms"),
        ('arms: {"a\\nb": {}}\n', r"the arm 'a\nb' needs a name"),
        ('arms: {"": {}}\n', "the arm '' needs a name without blanks"),
        ("arms: {--only: {}}\n", "the arm '--only' needs a name without blanks at its ends or a hyphen in front"),
        (f"grid: {{steps: {[*range(150)]}, image_tokens: {[*range(150)]}}}\n", "the grid has 22,500 cells; at most 10"),
        ("arms: {a: {}}\npanels: {x: {title: T, arms: {label: b}}}\n", "unknown arm 'b'"),
        ("arms: {336 64: {}}\ngrid: {resolution: [336], image_tokens: [64]}\n", "two arms are called '336 64'"),
        (claims("second: a, measure: 0-shot, expect: greater"), "contrast 'c' compares an arm with itself"),
        (claims("second: a, measure: 4-shot - 0-shot, expect: less"), "name another arm, or none, without `second`, f"),
        (claims("measure: 0-shot, expect: greater"), "contrast 'c' needs `second`, another arm, as '0-shot' is no"),
        (claims("second: [b, b], measure: 0-shot, expect: less"), "contrasts.0.second: names an arm twice"),
        (claims("second: b, measure: 0-shot, expect: equivalent"), "give `equivalent` a margin"),
        (claims("second: b, measure: textcore, expect: less"), "contrasts.0.measure: is not a measure; use text-core"),
        (claims(*(f"second: b, measure: {k}-shot, expect: less" for k in (0, 4))), "two contrasts have the claim 'c'"),
    ],
)
def test_a_bad_sweep_is_refused_in_one_line(text: str, message: str, tmp_path: Path) -> None:
    path = write_sweep(tmp_path, text)
    with pytest.raises(RequestError) as error:
        load_sweep(path)
    assert message in str(error.value)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_an_encoder_s_name_stands_for_it_alone_pre_trained_as_the_base_s(tmp_path: Path) -> None:
    path = write_sweep(tmp_path, "arms: {a: {encoder: ViT-H}, two: {encoder: [A, B]}, b: {encoder.size: ViT-H}}\n")
    arms = load_sweep(path, settings=["encoder={schedule: short, beside: B}"]).arms
    assert arms["a"].encoder == EncoderRecipe(size="ViT-H", schedule="short")
    assert arms["two"].encoder == EncoderRecipe(size="A", beside="B")
    assert arms["b"].encoder == EncoderRecipe(size="ViT-H", schedule="short", beside="B")
    settings = ["encoder={schedule: short, beside: B}", "encoder=ViT-H"]
    assert load_sweep(path, settings=settings).base.encoder == arms["a"].encoder, "as --set, too"
    assert Recipe.parse({"encoder": "ViT-H"}, "x").encoder == EncoderRecipe(size="ViT-H")
    # an arm's dotted field does not change another arm's table
    path = write_sweep(tmp_path, "arms:\n  a: {sft: &tuned {steps: 1000}, sft.views: 5}\n  b: {sft: *tuned}\n")
    tuned = [recipe.sft for recipe in load_sweep(path).arms.values()]
    assert [(sft.steps, sft.views) for sft in tuned if sft] == [(1000, 5), (1000, 1)]


def test_where_a_sweep_lies_and_what_its_file_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recipe is found one folder up, too; a name that is no text is refused."""
    path = write_sweep(tmp_path, "arms: {a: {}}\n")
    (tmp_path / "mine").mkdir()
    path = path.rename(tmp_path / "mine" / "question.yaml")
    monkeypatch.chdir(tmp_path / "mine")
    assert list(load_sweep(Path("question.yaml")).arms) == ["a"]
    with pytest.raises(RequestError, match="rename it to one in UTF-8"):
        load_sweep(path.rename("caf\udce9.yaml"))


def test_settings_reach_keys_with_dots_and_new_keys_of_tables_and_may_have_exponents() -> None:
    settings = (
        "decoders.1.2B.layers=3", "decoders.1.7B={layers: 2, width: 8, heads: 2}", "decoders.1.7B.layers=4",
        "train.lr_multipliers.connector=2", "resolutions.700=72",
        "workers.1.2B=2", "train.steps=1e2", "train.learning_rate=1e-3", "retries=1e8", "resources.workers=1e1",
    )  # fmt: skip
    changed = mini_with(*settings)
    assert changed.decoders["1.2B"] == MINI.decoders["1.2B"].model_copy(update={"layers": 3})
    assert changed.decoders["1.7B"] == Size(layers=4, width=8, heads=2)
    assert changed.train.lr_multipliers == MINI.train.lr_multipliers | {"connector": 2}
    assert changed.workers == {"1.2B": 2}
    assert changed.resolutions == MINI.resolutions | {700: 72}
    assert (changed.train.steps, changed.train.learning_rate) == (100, 0.001)
    assert (changed.retries, changed.resources.workers) == (10**8, 10)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("train.steps", "write PATH=VALUE"),
        ("TRAIN.steps=3", "there is no 'TRAIN'; did you mean 'train'?"),
        ("decoders.302m.layers=3", "there is no 'decoders.302m'; did you mean 'decoders.302M'?"),
        ("train.lr_multipliers.conector=1", "train.lr_multipliers.conector: Input should be 'encoder'"),
        ("train.steps.most=3", "train.steps has no keys; set train.steps itself"),
        ("resources.gpus=true", "resources.gpus: must be a number (it is True)"),
        ("train.min_lr_ratio=yes", "train.min_lr_ratio: must be a number (it is True)"),
        ("short_encoder=yes", "short_encoder: must be a number (it is True)"),
        ("train.steps=15e-1", "valid integer, got a number with a fractional part"),
        ("decoders.1.2B.heads=7", "1.2B: 7 heads need a width divisible by 14 (it is "),
        ("encoders.ViT-L.feed_forward=64", "ViT-L: an encoder has only `layers`, `width` and `heads`"),
        ("upcycled={302M-MOE: 302M}", "upcycled: there is no decoder '302M-MOE'; did you mean '302M-MoE'?"),
    ],
)
def test_a_bad_setting_is_refused(setting: str, message: str) -> None:
    with pytest.raises(RequestError) as error:
        mini_with("workers={1.2B: 2}", setting)
    assert message in str(error.value)


def test_a_setting_may_go_on_from_a_short_form_and_is_of_the_recipe_or_the_scale() -> None:
    """`decoder: 8` is the rank alone, and `--set` is applied one by one."""
    changed = override(Recipe(), ("lora.decoder=8", "lora.decoder.alpha=3", "encoder=ViT-H", "encoder.loss=none"))
    assert changed == Recipe.model_validate(
        {"lora": {"decoder": {"rank": 8, "alpha": 3}}, "encoder": {"size": "ViT-H", "loss": "none"}}
    )
    for setting in ("sft={views: 5}", "encoder={size: ViT-H}", "decoder=302M", "sft.views=5"):
        assert is_of_recipe(setting), setting
    in_both = ("sft={steps: 3}", "sft.steps=3", "sft={}")
    for setting in (*in_both, "sft={steps: 3, batch_size: 2}", "image_tokens={64: 4}", "encoder={stesp: 3}"):
        assert not is_of_recipe(setting), setting


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        ({"resolution": 337}, (), "this scale has no resolution 337; known: 224, 336, 378"),
        ({"decoder": "E2"}, (), "(--set 'decoders.E2={layers: …, width: …, heads: …}' adds it, or a scale of your"),
        ({"resolution": 400}, (), "--set resolutions.400=N adds it, where N is this scale's number for it (for 224 it"),
        ({"image_tokens": 16}, (), "known: 64, 144; --set image_tokens.16=N adds it, where N is this scale's number f"),
        ({}, ("patch=7",), "36 pixels (resolution 336) are not divisible by the patch of 7"),
        ({}, ("base_decoder=302M", "upcycled={302M: 9M}"), "the decoder '302M' is upcycled from '9M', so they may"),
        ({"encoder": {"size": "ViT-X"}}, (), "no encoder 'ViT-X'; did you mean 'ViT-"),
        ({"decoder": "9N"}, (), "no decoder '9N'; did you mean '9M'?"),
        ({"encoder": {"first_resolution": 336}}, (), "first_resolution 336 must be below the resolution, 336"),
        ({}, ("sequence_length=10",), "9 image tokens do not fit into a sequence of 10"),
        ({}, ("sequence_length=11",), "take up to 256 positions and 9 images; raise sequence_length (11)"),
        ({}, ("image_tokens.144=15",), "15 image tokens are not a square number"),
        ({"decoder": "larger"}, ("larger_decoder=''",), "no decoder 'larger'; known: 9M, "),
        ({"sft": {"resolution": 336, "views": 5}}, (), "sft.views: 5 needs an sft.resolution of 448, 672, 756"),
        ({"sft": {"resolution": 672, "views": 10}}, ("resolutions={336: 36}",), "10 needs an sft.resolution of 1008 ("),
        ({"sft": {"resolution": 1344}}, (), "1344 is of five views: add sft.views: 5, or take 224, 336, 378"),
        (
            {"sft": {"mixture": {"chart": 1}}},
            (),
            "sft.mixture: there is no instruction set 'chart'; did you mean 'charts",
        ),
        ({"sft": {}}, ("sft=null",), "the scale has no `sft` section; see the one in sweeps/scales/mini.yaml"),
        (
            {"sft": {"views": 5, "resolution": 672}},
            ("sft.max_images=4",),
            "takes 45 positions; increase sft.sequence_len",
        ),
        ({"sft": {}}, ("sft.sequence_length=10",), "takes 9 positions; increase sft.sequence_length (10) or sft.max_"),
        ({"scale": {"train.weight_decai": 0.1}}, (), "unknown key 'train.weight_decai'; did you mean 'train.we"),
        ({"scale": {"decoders.302M-MOE.experts": 2}}, (), "no 'decoders.302M-MOE'; did you mean 'decoders.302M-MoE'"),
        ({"scale": {"decoders.1.2B.layers": 2}}, ("workers={1.2B: 2}",), "scale: 1.2B is trained by 2 workers, which"),
        (
            {"scale": {"encoders.ViT-L.layers": 2}},
            ("workers={ViT-L: 2}",),
            "scale: ViT-L is trained by 2 workers, which",
        ),
        ({"data_mix": {"captions": 1, "texts": 0}}, (), "arm 'base': data_mix lists texts, which the data do not"),
    ],
)
def test_what_cannot_be_resolved_is_refused(change: dict[str, object], settings: tuple[str, ...], message: str) -> None:
    recipe = Recipe.model_validate({**BASE.model_dump(), **change})
    with pytest.raises(RequestError) as error:
        resolve("base", recipe, mini_with(*settings), 0, WORLD)
    assert message in str(error.value)


class ModelsFromOutside:
    """All of one shape; the patches of SigLIP do not cover its pictures."""

    def encoder(self, requested: Pretrained) -> PretrainedEncoder:
        size = Size(layers=27, width=1152, heads=16)
        shape = TowerSize(**size.model_dump() | {"feed_forward": 4304})
        return PretrainedEncoder(
            name=requested.weights, folder="", digest=requested.weights, family="siglip_vision_model", size=size,
            shape=shape, patch=14, image_size=518 if requested.weights == "a/dino" else 384, layer=requested.layer,
            mean=(0.5,) * 3, std=(0.5,) * 3,
        )  # fmt: skip

    def decoder(self, requested: Pretrained) -> PretrainedDecoder:
        size = Size(layers=24, width=896, heads=14)
        shape = PretrainedSize(**size.model_dump() | {"kv_heads": 2, "feed_forward": 4864}, head_width=64)
        return PretrainedDecoder(
            name=requested.weights, folder="", digest=requested.weights, family="qwen2", size=size, shape=shape,
            vocabulary=151936, longest=32768,
        )  # fmt: skip

    def whole(self, folder: str) -> PretrainedMM1:
        encoder, decoder = self.encoder(Pretrained(weights=folder)), self.decoder(Pretrained(weights=folder))
        connector = ConnectorConfig(kind="mlp", image_tokens=9, width=64)
        views: Literal[1, 5] = 1 if folder == "a/mm1" else 5
        tiling: Literal["square", "ratio"] = "ratio" if folder == "a/tiled" else "square"
        tile_marks: Literal["none", "text"] = "text" if folder == "a/tiled" else "none"
        return PretrainedMM1(
            **encoder.model_dump(include={"name", "folder", "digest", "size"}), family="mm1", encoder=encoder,
            decoder=decoder, connector=connector, tuned=views == 5, views=views, tiling=tiling, tile_marks=tile_marks,
        )  # fmt: skip


READY = {"encoder": {"size": "a/siglip"}, "decoder": "a/qwen", "resolution": "native"}


def resolve_ready(change: dict[str, object], settings: tuple[str, ...] = ()) -> SftStage | MultimodalStage:
    recipe, scale = Recipe.model_validate(READY | change), load_scale("lab", SWEEPS / "scales", settings=settings)
    return resolve("ready", recipe, scale, 0, WORLD, ModelsFromOutside()).evaluation.model


def test_the_paper_s_rate_counts_a_decoder_s_own_heads_and_feed_forward() -> None:
    """Qwen 2.5 0.5B has 358 million parameters without embeddings; 12 · layers · width² would be 231 million. SigLIP's
    feed-forward is 4304 wide, not 4608."""
    model = resolve_ready({"learning_rate": "paper"})
    assert model.parameters().total == pytest.approx(357_800_000 + 27 * (4 * 1152**2 + 2 * 1152 * 4304), rel=1e-4)
    assert model.training.learning_rate == PAPER_LAW.rate(357_826_560)
    assert "shape" not in model.decoder.identity


def test_tuning_at_a_tower_s_own_resolution_and_two_towers_at_that_of_either() -> None:
    assert resolve_ready({"sft": {"resolution": 384}}).image_size == 384
    for views in (1, 5):  # whether the scale has such a resolution or not
        tuned = resolve_ready({"sft": {"resolution": "native", "views": views}}, ("resolutions={336: 336}",))
        assert isinstance(tuned, SftStage) and (tuned.image_size, tuned.views) == (384, views)
    with pytest.raises(RequestError, match=r"400 pixels \(sft\.resolution 336\) are not divisible by the patch of 14"):
        resolve_ready({"sft": {}}, ("resolutions.336=400",))
    # 384 px are 27 patches of 14 and a rest, which SigLIP cuts off in either place
    for pair in (["a/dino", "a/siglip"], ["a/siglip", "a/dino"]):
        assert resolve_ready({"encoder": pair, "resolution": 384}).image_size == 384
    with pytest.raises(RequestError, match=r"384 pixels .* are not divisible by the patch of 14"):
        resolve_ready({"encoder": "a/dino", "resolution": 384})


def test_other_views_than_before_are_told_of_a_model_that_is_tuned_again(tmp_path: Path) -> None:
    request, scale = load_request("data_mix", "smoke", results=tmp_path), load_scale("lab", SWEEPS / "scales")
    for start, views, told in (("a/tuned", 1, True), ("a/tuned", 5, False), ("a/mm1", 5, False)):
        recipe = Recipe.model_validate({"sft": {"start": start, "resolution": "native", "views": views}})
        trial = resolve("a", recipe, scale, 0, WORLD, ModelsFromOutside())
        line = "a/tuned was tuned with sft.views 5, and is tuned with 1"
        assert unlike_start(replace(request, trials=(trial,))) == [line] * told
    recipe = Recipe.model_validate({"sft": {"start": "a/tiled", "resolution": "native", "views": 5}})
    trial = resolve("a", recipe, scale, 0, WORLD, ModelsFromOutside())
    tiling, marks = unlike_start(replace(request, trials=(trial,)))
    assert tiling == "a/tiled was tuned with sft.tiling ratio, and is tuned with square"
    assert marks == "a/tiled was tuned with sft.tile_marks text, and is tuned with none"


def test_a_tuned_export_is_evaluated_anew_if_held_out_documents_are_cut_otherwise() -> None:
    """By rows of pre-training, of which its tuning has none."""
    recipe = Recipe.model_validate({"sft": {"start": "a/mm1", "resolution": "native"}})
    own = WORLD.model_copy(update={"kind": "shards"})
    for data, is_cut in ((own, True), (WORLD, False)):
        for setting in ("sequence_length=200", "max_images=5"):
            scales = mini_with("resolutions.384=384"), mini_with("resolutions.384=384", setting)
            one, other = (resolve("a", recipe, scale, 0, data, ModelsFromOutside()) for scale in scales)
            assert one.evaluation.model.fingerprint == other.evaluation.model.fingerprint
            assert (one.fingerprint != other.fingerprint) == is_cut


def test_an_exported_model_without_steps_is_what_it_was() -> None:
    def as_it_is(start: str, *settings: str, data: DataIdentity = WORLD, **fields: object) -> Trial:
        recipe = Recipe.model_validate({"sft": {"start": start, "steps": 0} | fields})
        scale = mini_with("resolutions.384=384", "resolutions.672=192", *settings)
        return resolve("a", recipe, scale, 0, data, ModelsFromOutside())

    trials = [as_it_is("a/tuned"), as_it_is("a/tuned", "sft.batch_size=9", views=1, resolution=336)]
    trials += [as_it_is("a/tuned", views=5, resolution=768), as_it_is("a/tuned", frozen=["decoder"], learning_rate=1)]
    trials += [as_it_is("a/tuned", mixture={"text": 1}, lr_multipliers={"encoder": 0.1}, replay={"text": 1})]
    assert len({trial.fingerprint for trial in trials}) == 1
    assert (trials[1].evaluation.model.views, trials[1].evaluation.model.image_size) == (5, 384)
    with pytest.raises(RequestError, match="a/tuned is evaluated as it was exported, with 5 views of 384 px; set"):
        as_it_is("a/tuned", resolution=1344)
    with pytest.raises(RequestError, match="exported, with 1 view of 384 px; set"):
        as_it_is("a/mm1", views=5)
    plain, tuned = (as_it_is(start).evaluation.model for start in ("a/mm1", "a/tuned"))
    chats = [{"kind": "shards", "instructions": {"chat": 1}, "parts": {"instructions.chat": part}} for part in "12"]
    for start, is_asked in (("a/mm1", False), ("a/tuned", True)):
        one, other = (as_it_is(start, data=WORLD.model_copy(update=chat)) for chat in chats)
        assert one.evaluation.model.fingerprint == other.evaluation.model.fingerprint
        assert (one.fingerprint != other.fingerprint) == is_asked, "about conversations"
    assert MINI.sft and plain.max_images == MINI.max_images != MINI.sft.max_images == tuned.max_images
    tiled = as_it_is("a/tiled").evaluation.model
    assert (tiled.views, tiled.tiling, tiled.tile_marks) == (5, "ratio", "text")
    assert tiled.fingerprint != trials[0].evaluation.model.fingerprint
    for other in ({"tiling": "ratio"}, {"tile_marks": "text"}):
        with pytest.raises(RequestError, match=r"with 5 views of 384 px; set sft\.views: 1, sft\.tiling: square"):
            as_it_is("a/tuned", views=5, resolution=768, **other)
    sharp = (as_it_is("a/tuned", sharp_demonstrations=1), as_it_is("a/tuned", views=5, sharp_demonstrations=1))
    assert sharp[0].fingerprint == sharp[1].fingerprint != trials[0].fingerprint, "of its own views"
    marked = as_it_is("a/tiled", tile_marks="text", tiling="ratio").evaluation.model
    assert marked.fingerprint == tiled.fingerprint
    with pytest.raises(RequestError, match="requires several views, but a/mm1 has one"):
        as_it_is("a/mm1", sharp_demonstrations=1)
    for start, name in (("a/mm1", "sequence_length"), ("a/tuned", "sft.sequence_length")):
        with pytest.raises(RequestError, match=f"--set {name}=32768"):
            as_it_is(start, f"{name}=40000")


def test_sizes_are_read_and_written_as_people_do() -> None:
    sizes = {"9M": 9e6, "302m": 302e6, "1200000000": 1.2e9, "3e10": 3e10, " .5k ": 500, "2T": 2e12}
    assert [parse_count(text) for text in sizes] == pytest.approx(list(sizes.values()))
    found = [short_count(value) for value in (512, 9_437_184, 999_999, 1.2e9, 2e12)]
    assert found == ["512", "9.44M", "1M", "1.2B", "2T"]
    for text in ("", "9MB", "-9M", "0", "1e999"):
        with pytest.raises(ValueError, match="is not a size"):
            parse_count(text)


def test_a_scale_over_another_one(here: Path, printed: Told, refused: Refused) -> None:
    """Stages are the same as where the whole scale is written out, and a mistake is told with the file it is in."""
    shutil.copytree(SWEEPS, "sweeps")
    shutil.copy("sweeps/scales/smoke.yaml", "sweeps/scales/whole.yaml")
    change(Path("sweeps/scales/whole.yaml"), "  85M: {", "  tiny: {layers: 1, width: 8, heads: 2}\n  85M: {")
    change(Path("sweeps/scales/whole.yaml"), "shots: [0, 4, 8]", "shots: [0]")

    def write(name: str, text: str) -> None:
        Path(f"sweeps/scales/{name}.yaml").write_text(text)

    write("shots", "extends: smoke\nevaluate: {shots: [0]}\n")
    write("mine", "extends: shots\ndecoders: {tiny: {layers: 1, width: 8, heads: 2}}\n")
    whole, mine = (load_request("data_mix", name) for name in ("whole", "mine"))
    assert mine.scale == whole.scale and mine.scale.decoders.keys() > {"tiny", "85M"}
    assert mine.rows == whole.rows
    assert mine.folder == here / "results/local/mine/data_mix"
    assert load_request("data_mix", "shots", settings=["train.steps=7"]).scale.train.steps == 7
    assert '"layers": 1' in printed("show", "data_mix", "base", "--scale", "mine", "--set", "decoder=tiny", "--json")

    def told(text: str) -> str:
        write("mine", text)
        return refused("plan", "data_mix", "--scale", "mine")

    assert "sweeps/scales/mine.yaml: extends: there is no scale 'smokes'; did you mean" in told("extends: smokes\n")
    assert "mine.yaml: extends: mine → mine goes in a circle" in told("extends: mine\n")
    assert "the scale 'a/b' must be a name" in told("extends: a/b\n")
    assert "sweeps/scales/mine.yaml: unknown key 'train.stepz'" in told("extends: smoke\ntrain: {stepz: 3}\n")
    write("shots", "extends: mine\n")
    assert "shots.yaml: extends: mine → shots → mine goes in a circle" in told("extends: shots\n")
    write("shots", "extends: smoke\nevaluate: {shot: [0]}\n")
    assert "sweeps/scales/shots.yaml: unknown key 'evaluate.shot'" in told("extends: shots\n")
