import pandas as pd
import pytest

from mm1_lab.results.summary import benchmark_scores, measures
from mm1_lab.results.trained import in_the_papers_words, what_ran


def test_means_are_plain_means_over_benchmarks_not_over_questions() -> None:
    rows = [
        ("base", 0, "captions", "captioning", 0, 90.0),
        ("base", 0, "captions", "captioning", 0, 70.0),
        ("base", 0, "captions", "captioning", 0, 50.0),
        ("base", 0, "vqa", "vqa", 0, 10.0),
        ("base", 0, "relation-vqa", "vqa", 0, 40.0),
        ("base", 0, "vqa", "vqa", 4, 30.0),
        ("base", 0, "text-core", "text", 0, 100.0),
        ("base", 0, "text-core", "text", 4, 50.0),
        ("blind", 0, "vqa", "vqa", 0, 1.0),
    ]
    scores = pd.DataFrame(rows, columns=["arm", "seed", "benchmark", "family", "shots", "score"])
    table = {(row.arm, str(row.measure)): row.value for row in measures(scores).itertuples()}
    assert table == pytest.approx(
        {
            ("base", "0-shot"): (70 + 10 + 40) / 3,
            ("base", "4-shot"): 30,
            ("base", "captioning 0-shot"): 70,
            ("base", "vqa 0-shot"): 25,
            ("base", "vqa 4-shot"): 30,
            ("base", "average"): (70 + 10 + 40 + 30) / 4,
            ("base", "text-core"): 75,
            ("blind", "0-shot"): 1,
            ("blind", "vqa 0-shot"): 1,
            ("blind", "average"): 1,
        }
    )
    assert len(benchmark_scores(scores, ["arm", "seed"])) == 7


def test_families_apart_have_means_of_their_own_and_of_each_benchmark() -> None:
    rows = [
        ("captions", "captioning", 50.0),
        ("pope", "chat", 40.0),
        ("choice", "chat", 20.0),
        ("pope f1", "further", 10.0),
    ]
    scores = pd.DataFrame(rows, columns=["benchmark", "family", "score"]).assign(arm="a", seed=0, shots=0)
    values = {str(row.measure): row.value for row in measures(scores).itertuples()}
    assert values["0-shot"] == values["average"] == 50.0
    assert values["chat 0-shot"] == 30.0
    assert (values["pope 0-shot"], values["pope f1 0-shot"]) == (40.0, 10.0)


def test_what_ran_names_both_of_two_towers() -> None:
    size = {"layers": 2, "width": 8}
    second = {"name": "dino", "family": "dinov2", "size": size, "beside": None}
    first = {"name": "clip", "family": "clip", "size": size, "beside": second}
    training = {"steps": 3, "learning_rate": 0.1}
    model = {"encoder": first, "decoder": {}, "connector": {"kind": "mlp", "image_tokens": 4}, "image_size": 24}
    config = {"model": {**model, "training": training, "shares": {"captions": 1.0}}}
    shape = "2 layers of width 8"
    assert what_ran(config)["encoder"] == f"clip (pre-trained clip, {shape}) beside dino (pre-trained dinov2, {shape})"
    recipe = {"encoder": {"size": "a/clip", "beside": "a/dino", "loss": "contrastive"}}
    assert in_the_papers_words(recipe, config) == {"encoder": {"size": "a/clip", "beside": "a/dino"}}
