import pandas as pd
import pytest

from mm1_lab.config import Measure, Recipe, SftRecipe
from mm1_lab.results.summary import measures, over_benchmarks
from mm1_lab.results.trained import frozen_parts, in_the_papers_words, what_ran
from tests.conftest import evaluation_of


def test_means_are_plain_means_over_benchmarks_and_some_families_have_their_own() -> None:
    rows = [("base", "captions", "captioning", 0, score) for score in (90.0, 70.0, 50.0)]
    rows += [("base", "vqa", "vqa", 0, 10.0), ("base", "relation-vqa", "vqa", 0, 40.0), ("base", "vqa", "vqa", 4, 30.0)]
    rows += [("base", "text-core", "text", 0, 100.0), ("base", "text-core", "text", 4, 50.0)]
    rows += [("base", "pope", "chat", 0, 40.0), ("base", "choice", "chat", 0, 20.0), ("blind", "vqa", "vqa", 0, 1.0)]
    rows += [("base", "pope f1", "further", 0, 9.0)]
    scores = pd.DataFrame(rows, columns=["arm", "benchmark", "family", "shots", "score"]).assign(seed=0)
    table = {(row.arm, row.measure): row.value for row in measures(scores).itertuples()}
    base = {"0-shot": (70 + 10 + 40) / 3, "4-shot": 30, "average": (70 + 10 + 40 + 30) / 4, "text-core": 75}
    base |= {"captioning 0-shot": 70, "vqa 0-shot": 25, "vqa 4-shot": 30, "chat 0-shot": 30}
    blind = {("blind", measure): 1 for measure in ("0-shot", "vqa 0-shot", "average")}
    assert table == pytest.approx({("base", measure): value for measure, value in base.items()} | blind)
    assert over_benchmarks(scores, Measure(shots=0), ["arm"])["base"] == pytest.approx(base["0-shot"])


def test_what_ran_names_both_of_two_towers() -> None:
    size = {"layers": 2, "width": 8}
    second = {"name": "dino", "family": "dinov2", "size": size, "beside": None}
    first = {"name": "clip", "family": "clip", "size": size, "layer": -2, "beside": second}
    training = {"steps": 3, "learning_rate": 0.1}
    model = {"encoder": first, "decoder": {}, "connector": {"kind": "mlp", "image_tokens": 4}, "image_size": 24}
    config = {"model": {**model, "training": training, "shares": {"captions": 1.0}}}
    shape = "2 layers of width 8"
    clip, dino = f"clip (pre-trained clip, {shape}, output of layer -2)", f"dino (pre-trained dinov2, {shape})"
    assert what_ran(config)["encoder"] == f"{clip} beside {dino}"
    recipe = {"encoder": {"size": "a/clip", "beside": "a/dino", "loss": "contrastive"}}
    assert in_the_papers_words(recipe, config) == {"encoder": {"size": "a/clip", "beside": "a/dino"}}


def test_what_ran_counts_the_training_before_a_part_s_last() -> None:
    recipe = Recipe.model_validate({"encoder": {"first_resolution": 224}, "decoder": "302M-MoE"})
    evaluation = evaluation_of("upcycled={302M-MoE: 302M}", recipe=recipe)
    told = what_ran(evaluation.model_dump(mode="json"))
    assert told["encoder"].endswith("trained here for 1 step (contrastive) after 4 at 24 px")
    assert told["decoder"].endswith("4 experts, trained here for 8 steps (text) after 8 without experts")


def test_the_frozen_parts_of_both_stages_and_rows_that_were_replayed_are_named() -> None:
    recipe = Recipe(frozen=("encoder", "decoder"), sft=SftRecipe())
    config = evaluation_of(recipe=recipe).model_dump(mode="json")
    assert frozen_parts(config) == {"frozen": "nothing", "frozen before tuning": "decoder, encoder"}
    config["model"]["lora"] = {"decoder": {"rank": 8, "alpha": 16.0}}
    assert frozen_parts(config)["trained by LoRA"] == "decoder (rank 8, alpha 16)"
    config["model"]["model"]["lora"] = {"encoder": {"rank": 2, "alpha": 1.5}}
    assert frozen_parts(config)["trained by LoRA before tuning"] == "encoder (rank 2, alpha 1.5)"
    config["model"]["model"]["lora"] = {}
    config["model"]["training"]["steps"] = 0
    assert frozen_parts(config) == {"frozen before tuning": "decoder, encoder"}
    sft = SftRecipe(mixture={"charts": 1}, replay={"captions": 0.1, "text": 0.1})
    told = what_ran(evaluation_of(recipe=Recipe(sft=sft)).model_dump(mode="json"))["trained_on"]
    assert told == "charts 100 %; rows of pre-training in each step: 1.5 of captions and 1.5 of text"
