"""`--vary` and dotted fields: sweeps from the command line and grids over parts of a field."""

import json
import shutil
from pathlib import Path

import pytest

from analysis.effects import levels_of
from analysis.pages.scores import OTHER_DOCUMENTS
from mm1_lab.cli import main
from mm1_lab.commands.varying import varied_sweep
from mm1_lab.config import Adapters, Lora, Recipe, SftRecipe, load_sweep
from mm1_lab.files import write_text
from tests.conftest import REPOSITORY, Refused, Told

SMOKE = ("--scale", "smoke")


def written(recipe: str, *varied: str, grid: bool = False) -> Path:
    """The file of the sweep, as `run` writes it."""
    path, text = varied_sweep(recipe, varied, grid)
    write_text(path, text)
    return path


def arms_of(path: Path) -> dict[str, Recipe]:
    return load_sweep(path, REPOSITORY / "sweeps").arms


@pytest.mark.usefixtures("here")
def test_one_field_at_a_time(printed: Told) -> None:
    parts = arms_of(written("base", "lr_multipliers.encoder=0.1,1"))
    assert [recipe.lr_multipliers for recipe in parts.values()] == [{}, {"encoder": 0.1}, {"encoder": 1.0}]
    shutil.rmtree("sweeps")
    varied = ("image_tokens=64,144", "data_mix.text=0.5,2")
    command = ["plan", "base", "--vary", varied[0], "--vary", varied[1], *SMOKE]
    Path("sweeps").touch()  # as in a folder that may only be read
    planned = printed(*command)
    assert Path("sweeps").is_file(), "a plan changes nothing"
    Path("sweeps").unlink()
    path = written("base", *varied)
    assert f"{path}: `run` with these options writes this sweep" in planned
    arms = arms_of(path)
    assert list(arms) == ["base", "image_tokens 64", "data_mix.text 0.5", "data_mix.text 2"], "144 is the base's"
    kept = written("sft", "encoder=ViT-L,ViT-H", "sft.lora={decoder: 8},{}")
    assert list(arms_of(kept)) == ["sft", "encoder ViT-H", "sft.lora decoder 8"]
    mixes = {name: recipe.data_mix.model_dump() for name, recipe in arms.items()}
    assert mixes["data_mix.text 2"] == mixes["base"] | {"text": 2}
    content = path.read_text(encoding="utf-8")
    path.write_text(content + "contrasts: []\n", encoding="utf-8")
    assert main(command) == 0 and path.read_text(encoding="utf-8").endswith("contrasts: []\n")
    assert main(["plan", path.stem, *SMOKE]) == 0, "it is a sweep like others"


def test_run_writes_the_sweep_before_anything_is_trained(
    here: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    twice = ("--vary", "steps=1e5", "--vary", "steps=3e5")  # of one field
    assert "one seed decides nothing" in refused("run", "base", *twice, "--until-decided", *SMOKE)
    assert not list(here.iterdir())
    written_by_then: list[Path] = []

    def run_request(*_: object) -> int:
        written_by_then.extend(Path("sweeps").glob("*.yaml"))
        return 0

    monkeypatch.setattr("mm1_lab.orchestrate.recipe_search.run_request", run_request)
    settings = ("decoders.2B={layers: 2, width: 24, heads: 2}", "connector=c-abstractor")
    options = [word for setting in settings for word in ("--set", setting)]
    assert main(["run", "base", *twice, *SMOKE, "--inline", *options]) == 0
    (path,) = written_by_then
    assert [recipe.steps for recipe in arms_of(path).values()] == [200_000, 100_000, 300_000]
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[1:5] == ["#   --vary steps=1e5", "#   --vary steps=3e5", *(f"#   --set {one}" for one in settings)]
    said = f"run again by its name with --set '{settings[0]}' --set {settings[1]}\n"
    assert said in capsys.readouterr().out


@pytest.mark.usefixtures("here")
def test_a_run_of_ten_views_tells_which_held_out_documents_its_losses_lack() -> None:
    """Of pages with several pictures some do not fit its rows, so that these losses are no other arm's."""
    assert main(["run", "sft", "--vary", "sft.views=10", "--set", "sft.resolution=native", *SMOKE, "--inline"]) == 0
    records = [json.loads(path.read_text()) for path in Path("results/local/trials").glob("*/record.json")]
    left_out = {one["config"]["model"]["views"]: one["held_out_left_out"] for one in records}
    assert left_out[10].pop("interleaved") > 0 and left_out[10].get("text") == left_out[1].get("text")
    assert "interleaved" not in left_out[1]
    (table,) = Path("results/local/smoke").glob("sft_by_sft.views_10,*/table.md")
    assert OTHER_DOCUMENTS.format(cause="more tokens") in table.read_text(encoding="utf-8")


@pytest.mark.usefixtures("here")
def test_a_sweep_that_was_written_for_another_recipe_is_not_run_in_its_place(refused: Refused) -> None:
    """The recipe's own value has no arm: the file lacks one as soon as the recipe has another value."""
    recipe = Path("sweeps/recipes/mine.yaml")
    write_text(recipe, "image_tokens: 64\n")
    command = ("plan", "mine", "--vary", "image_tokens=64,144", *SMOKE)
    path = written("mine", command[3])
    assert main([*command]) == 0
    write_text(recipe, "image_tokens: 144\n")
    told = refused(*command)
    assert f"{path}: has no arm 'image_tokens 64'" in told and "run it by its name, or delete it" in told
    path.unlink()
    assert main([*command]) == 0


@pytest.mark.usefixtures("here")
def test_all_combinations_and_the_base_to_compare_them_with() -> None:
    """The base of a project's own recipe, too."""
    arms = arms_of(written("base", "image_tokens=64,144", "data_mix.text=1,2", grid=True))
    assert list(arms) == ["64 1", "64 2", "144 1", "144 2"], "144 1 is the base"
    assert (arms["64 2"].image_tokens, arms["64 2"].data_mix.model_dump()["text"]) == (64, 2)
    arms = arms_of(written("base", "image_tokens=64,144", "data_mix.text=2,4", grid=True))
    assert list(arms) == ["base", "64 2", "64 4", "144 2", "144 4"]
    write_text(Path("recipes/base.yaml"), "image_tokens: 64\n")
    assert list(arms_of(written("base", "image_tokens=64,144"))) == ["base", "image_tokens 144"]


@pytest.mark.usefixtures("here")
def test_other_values_are_another_sweep() -> None:
    """Also where their letters are the same, or too many for a file's name; a default is the base's own."""
    lists = ("[encoder],[decoder]", "[encoder, decoder]", "[[encoder],[decoder,connector]]")
    arms = [list(arms_of(written("base", f"frozen={varied}"))) for varied in lists]
    assert [arm[1:] for arm in arms[:2]] == [["frozen encoder", "frozen decoder"], ["frozen encoder, decoder"]]
    assert arms[2][1:] == ["frozen encoder", "frozen decoder, connector"], "a list of lists is the lists"
    written("base", f"steps={','.join(map(str, range(1, 80)))}")
    alike = ("data_mix.books=1,2", "data_mix.books_1=2", "decoder=a,b", "decoder=a_b")
    names = [varied_sweep("base", [varied], False)[0].name for varied in alike]
    assert len(set(names)) == 4 and names[0] == "base_by_data_mix.books_1_2.yaml"
    assert varied_sweep("base", ["data_mix.synthetic_share=0"], False)[0].stem == "base_by_data_mix.synthetic_share_0"
    assert list(arms_of(written("base", "images=shown,blind"))) == ["base", "images blind"]


WRONG = {
    "x=1": "recipes have no 'x'; known: encoder,",
    "train.steps=1,2": "recipes have no 'train.steps', which is the scale's, but 'steps', in the",
    "train.weight_decay=0,1": "no 'train.weight_decay'; it is a setting of the scale: write scale.train.weight_decay",
    "decoder.weight_decay=0,1": "training of decoders is the scale's; vary scale.decoder.weight_decay",
    "decoder.experts=2,4": "vary decoder=NAME,NAME, or scale.decoders.NAME.experts of the one that the base has",
    "evaluate.blocks=8,16": "no 'evaluate.blocks'; it is a setting of the scale: run the sweep once for each",
    "train.lr_multipliers.encoder=1,2": "which is the scale's, but 'lr_multipliers.encoder', in the paper's units",
    "pictures=crop,pad": "pictures: those of the miniature world are square; give data of your own (--data)",
    "image_tokens": "give FIELD=VALUE,VALUE, such as image_tokens=64,144",
    "image_tokens=65": "known: 64, 144",
    "image_tokens.a=3": "image_tokens",
    "data_mix.text=x": "data_mix.text: Input should be a valid number",
    "steps=[": "is no plain YAML",
}


def test_what_plan_refuses_leaves_nothing_when_it_is_run(here: Path, refused: Refused) -> None:
    command = ("base", "--vary", "connector=mlp", *SMOKE, "--results", "mine")
    error = refused("plan", *command)
    assert "connector 'mlp' makes a token of each of the 36 patches" in error
    assert refused("run", *command, "--inline") == error and refused("run", *command) == error
    assert "--share with --results needs --store" in refused("run", *command, "--share")
    (here / "mine.yaml").write_text("title: T\nrecipe: base\narms: {a: {connector: mlp}}\n")
    assert "connector 'mlp'" in refused("run", "mine.yaml", *SMOKE, "--inline")
    assert [path.name for path in here.iterdir()] == ["mine.yaml"]


@pytest.mark.usefixtures("here")
def test_settings_of_the_scale_vary_by_arm_and_arms_need_those_that_are_set(told: Told) -> None:
    command = ("base", "--set", "decoder=302M-MoE", "--vary", "scale.decoders.302M-MoE.experts=2,4", *SMOKE)
    shown = told("plan", *command)
    assert "base = scale.decoders.302M-MoE.experts 4 are the same trials" in shown
    arms = arms_of(written("base", command[4]))
    assert [recipe.scale.get("decoders.302M-MoE.experts") for recipe in arms.values()] == [None, 2, 4]
    levels = [levels_of(recipe).get("scale.decoders.302M-MoE.experts") for recipe in arms.values()]
    assert levels == [None, "2", "4"]
    needed = ("--set", "sft.views=5", "--set", "sft.resolution=672")
    path, text = varied_sweep("sft", ["sft.tile_marks=none,text"], False, needed[1::2])
    write_text(path, text)
    assert "tile_marks: text" in told("show", path.stem, "sft.tile_marks text", *needed, *SMOKE)


@pytest.mark.usefixtures("here")
def test_a_lora_is_a_field_like_others_and_has_parts_where_the_base_has_none(told: Told, refused: Refused) -> None:
    varied = ("sft.frozen=[decoder]", "sft.lora.decoder=0,2,8")
    shown = told("plan", "sft", "--vary", varied[0], "--vary", varied[1], *SMOKE)
    assert "sft = sft.lora.decoder 0 are the same trials" in shown
    arms = arms_of(written("sft", *varied))
    known = ["none", "none", "decoder rank 0", "decoder rank 2", "decoder rank 8"]
    assert [levels_of(recipe)["sft lora"] for recipe in arms.values()] == known
    stages = json.loads(told("plan", "sft", "--vary", varied[1], *SMOKE, "--json"))["stages"]
    tuned = [stage for stage in stages if stage["kind"] == "sft"]
    assert tuned[0]["memory_bytes"] > tuned[2]["memory_bytes"] > tuned[1]["memory_bytes"]
    assert len({(stage["parameters"], stage["disk_bytes"]) for stage in tuned}) == 1, "adapters are merged"
    arms = arms_of(written("base", "lora.decoder.rank=2,8", "lora.decoder.alpha=3", grid=True))
    known = [None, Lora(rank=2, alpha=3), Lora(rank=8, alpha=3)]
    assert [recipe.lora.decoder for recipe in arms.values()] == known
    tuned = arms_of(written("base", "sft.lora.decoder.rank=4", "sft.mixture.charts=1"))
    told_sft = [None, SftRecipe(lora=Adapters(decoder=Lora(rank=4))), SftRecipe(mixture={"charts": 1})]
    assert [recipe.sft for recipe in tuned.values()] == told_sft
    settings = [part for field in ("rank=4", "alpha=3") for part in ("--set", f"lora.decoder.{field}")]
    assert "rank: 4\n      alpha: 3.0" in told("show", "data_mix", "captions", *settings, *SMOKE)
    assert "did you mean 'lora.decoder.rank'" in refused("plan", "base", "--vary", "lora.decoder.rnak=4", *SMOKE)
    both = ("--vary", "lora.decoder.alpha=3", "--vary", "lora.decoder=2,8")  # which would have lost alpha
    assert "which is 2; set its parts: lora.decoder.rank" in refused("plan", "base", *both, "--grid", *SMOKE)


@pytest.mark.parametrize("varied", WRONG)
def test_what_cannot_be_varied_leaves_no_file(varied: str, here: Path, refused: Refused) -> None:
    assert WRONG[varied] in refused("plan", "base", "--vary", varied, *SMOKE)
    assert not (here / "sweeps").exists()
    (here / "sweeps").mkdir()
    refused("plan", "base", "--vary", varied, *SMOKE)
    assert not any((here / "sweeps").iterdir()), "the folder is the user's"


@pytest.mark.usefixtures("here")
def test_a_value_is_not_left_out_as_the_base_s_if_the_base_gets_another(refused: Refused) -> None:
    vary = ("--vary", "image_tokens=64,144")
    error = refused("plan", "base", *vary, "--set", "image_tokens=64", *SMOKE)
    assert "--vary image_tokens: --set changes it, too; give all of its values to --vary" in error
    for varied, changed in (("data_mix.text=1,2", "data_mix={captions: 1}"), ("sft={}", "sft.views=5")):
        assert "--set changes it, too" in refused("plan", "base", "--vary", varied, "--set", changed, *SMOKE)
    assert not Path("sweeps").exists()
    for setting in ("steps=100", "data_mix.text=2", "image_tokens.144=4"):  # the last is of the scale
        varied_sweep("base", ["image_tokens=64,144"], False, [setting])
    # and a recipe is named
    error = refused("plan", "data_mix", "--vary", "steps=1", *SMOKE)
    assert "there is no recipe 'data_mix'; known: base," in error
    assert refused("plan", "base", "encoder", "--vary", "steps=1", *SMOKE)
    assert refused("plan", "data_mix", "--grid", *SMOKE).endswith("--grid needs --vary\n")
