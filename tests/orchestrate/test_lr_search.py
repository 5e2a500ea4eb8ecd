"""The search's rounds, on scores that come from a formula instead of training."""

import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from analysis.law.runs import search_runs
from analysis.redraw import draw_sweep
from analysis.study import read_study
from mm1_lab import lab
from mm1_lab.cli import main
from mm1_lab.config import EvaluationStage, Recipe, RequestError, Trial
from mm1_lab.orchestrate import lr_search
from mm1_lab.orchestrate.execution.executor import Inline
from mm1_lab.orchestrate.lr_search import run_search, with_sizes
from mm1_lab.orchestrate.planning.request import Request
from mm1_lab.orchestrate.sweeping import Round
from mm1_lab.results.manifest import read_trials
from tests.orchestrate import conftest

SIZES = ("9M", "302M", "1.2B")


def best_rate(evaluation: EvaluationStage, factor: float = 1.0) -> float:
    """The truth: flatter than Eq. 1."""
    parameters = evaluation.model.decoder.size.parameters().dense
    return factor * math.exp(-0.3 * math.log(parameters) - 1.5)


class Laboratory(conftest.Laboratory):
    """A trial above `cliff` times the best rate diverges."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = 1.0
        self.cliff = 4.0
        self.luck = {}
        """A seed's factor beside it."""
        self.family = "vqa"
        self.sources = ("captions", "text")
        self.shots = (0, 8)

    def run(self, request: Request, trial: Trial) -> None:
        factor = self.factor * self.luck.get(trial.seed, 1.0)
        distance = math.log(trial.evaluation.model.training.learning_rate / best_rate(trial.evaluation, factor))
        if distance > math.log(self.cliff):
            self.diverge(request, trial)
        else:
            losses = dict.fromkeys(self.sources, 1 + 0.05 * distance**2)
            self.write(request, trial, 60 - 5 * distance**2 + trial.seed, losses, self.shots, self.family)


@pytest.fixture
def law(ask) -> Callable[..., Request]:
    """Gives the request for the search of the law, with these seeds."""
    return lambda seeds=1: with_sizes(ask(sweep="lr_law", seeds=seeds), SIZES)


@pytest.fixture
def laboratory(monkeypatch) -> Laboratory:
    made = Laboratory()
    monkeypatch.setattr(lr_search, "complete", made.complete)
    monkeypatch.setattr(Round, "show", lambda done: None)
    return made


def no_drawing(folder: Path) -> None:
    pass


def assert_nothing_is_left_to_run(request: Request, laboratory: Laboratory) -> None:
    """Not even what diverged."""
    before = len(laboratory.rounds)
    assert run_search(request, Inline(), no_drawing) == 0
    assert not any(laboratory.rounds[before:])


def rates(request: Request, size: str) -> list[float]:
    recipes = json.loads((request.folder / "sweep.json").read_text(encoding="utf-8"))["sweep"]["arms"].values()
    found = [Recipe.model_validate(recipe) for recipe in recipes]
    return [float(r.learning_rate) for r in found if r.decoder == size]


def test_a_grid_grows_at_its_edge_until_the_best_rate_is_inside(law, laboratory):
    request = law()
    laboratory.factor = 9.0
    assert run_search(request, Inline(), no_drawing) == 0
    first, *more = laboratory.rounds
    assert len(first) == 15 and all(len(names) <= 3 for names in more)
    for size, trial in zip(SIZES, request.trials, strict=True):
        tried, best = rates(request, size), best_rate(trial.evaluation, 9.0)
        assert len(tried) - 5 == (3 if size == "1.2B" else 2)
        assert tried[-1] > best > tried[-3]
        assert tried[0] == pytest.approx(trial.evaluation.model.training.learning_rate / 4, rel=0.01)


def test_rates_between_the_last_good_one_and_one_that_diverged_are_tried(law, laboratory):
    """Where scores rise up to the rate from which on runs diverge."""
    request = law()
    laboratory.cliff = 0.7
    assert run_search(request, Inline(), no_drawing) == 0
    for size, trial in zip(SIZES, request.trials, strict=True):
        tried, cliff = rates(request, size), 0.7 * best_rate(trial.evaluation)
        assert len(tried) == 8, "five and three more"
        last, after = max(rate for rate in tried if rate < cliff), min(rate for rate in tried if rate > cliff)
        assert after / last == pytest.approx(2 ** (1 / 8), rel=0.01), "halved three times in ln η"
    assert_nothing_is_left_to_run(law(), laboratory)


def test_a_grid_of_which_every_rate_diverged_grows_downwards(law, laboratory):
    laboratory.factor = 0.03
    request = law()
    assert run_search(request, Inline(), no_drawing) == 0
    for size, trial in zip(SIZES, request.trials, strict=True):
        guess = trial.evaluation.model.training.learning_rate
        assert rates(request, size)[0] == pytest.approx(guess / 32, rel=0.01), "three rates below the first five"
    assert_nothing_is_left_to_run(law(), laboratory)


def test_what_more_seeds_searched_stays_in_the_table_of_fewer(law, laboratory):
    laboratory.luck = {1: 30.0, 2: 30.0}
    request = law(seeds=3)
    assert run_search(request, Inline(), no_drawing) == 0
    before = (request.folder / "trials.csv").read_bytes()
    whole = {size: rates(request, size) for size in SIZES}
    assert max(map(len, whole.values())) > 5
    assert_nothing_is_left_to_run(law(), laboratory)
    assert {size: rates(request, size) for size in SIZES} == whole
    assert (request.folder / "trials.csv").read_bytes() == before


def test_what_one_seed_searched_is_completed_at_more_seeds_and_sizes(law, laboratory, capsys):
    laboratory.luck = {0: 9.0}
    alone = with_sizes(law(), SIZES[:2])
    assert run_search(alone, Inline(), no_drawing) == 0
    searched = {size: rates(alone, size) for size in SIZES[:2]}
    assert max(map(len, searched.values())) > 5
    assert run_search(law(seeds=2), Inline(), no_drawing) == 0
    rows = read_trials(alone.folder)
    for size, tried in searched.items():
        assert set(tried) <= set(rates(alone, size))
    assert Counter(row.seed for row in rows) == dict.fromkeys((0, 1), len(rows) // 2)
    assert "left the tables" not in capsys.readouterr().out
    assert run_search(with_sizes(law(seeds=2), SIZES[:2]), Inline(), no_drawing) == 0
    assert "), as they are no longer asked for, or " in capsys.readouterr().out


def test_a_search_in_which_all_diverged_has_failed_and_draws_nothing(law, laboratory):
    laboratory.factor = 1e-6
    assert run_search(law(), Inline(), draw_sweep) == 1


def test_scores_that_say_nothing_about_a_rate_end_a_search(law, laboratory):
    laboratory.sources = ()
    with pytest.raises(RequestError, match="lacks held-out documents of its sources"):
        run_search(law(), Inline(), no_drawing)
    laboratory.family = "text"
    with pytest.raises(RequestError, match="lacks a benchmark with images"):
        run_search(law(seeds="2,"), Inline(), no_drawing)


OWN = """\
title: t
axis: learning_rate
recipe: lr_law
arms:
  small: {decoder: 9M, learning_rate: 0.001}
  coarse: {decoder: 9M, learning_rate: 0.001, resolution: 224}
  large: {decoder: 85M, learning_rate: 0.001}
search: {rates: 3, factor: 2, extensions: 0}
"""


@pytest.fixture
def own(tmp_path) -> Callable[..., Request]:
    """A search of one's own, with a change of its file."""

    def load(old: str = "", new: str = "") -> Request:
        path = tmp_path / "own.yaml"
        path.write_text(OWN.replace(old, new, 1) if old else OWN, encoding="utf-8")
        return lab.load_sweep(path, "smoke", results=tmp_path / "results", store=tmp_path / "store")

    return load


def test_a_search_of_one_s_own_may_name_its_arms_as_it_likes(laboratory, own, monkeypatch):
    """Run from Python; two of its arms have a size in common, and its benchmarks fewer shots than the scale."""
    monkeypatch.setattr("analysis.draw_sweep", no_drawing)
    laboratory.shots = (0,)
    wide = lab.plan(own("rates: 3", "rates: 50"))
    assert len(wide.query("kind == 'evaluation'")) == 3 * (19 + 1 + 25), "none below 1e-9"
    request = own()
    assert len(lab.plan(request).query("kind == 'evaluation'")) == 9
    lab.run(request, inline=True)
    arms = json.loads((request.folder / "sweep.json").read_text(encoding="utf-8"))["sweep"]["arms"]
    assert len(arms) == 9 and arms["coarse 0.001"]["resolution"] == 224
    runs = search_runs(read_study(request.folder))
    assert runs.objectives[1].column == "0-shot average" and runs.points["0-shot average"].notna().all()


def test_sizes_that_differ_in_settings_of_the_scale_have_their_own_parameters(laboratory, own):
    change = "decoder: 9M, scale: {decoders.9M.layers: 5}, learning_rate: 1000"  # `large` diverges at every rate
    request = own("decoder: 85M, learning_rate: 0.001", change)
    assert run_search(request, Inline(), no_drawing) == 0
    runs = search_runs(read_study(request.folder))
    assert set(runs.points["size"]) == {"small", "coarse"} and "every run diverged: 9M;" in " ".join(runs.cautions)
    request = own("decoder: 85M", "decoder: 9M, scale: {decoders.9M.layers: 5}")
    assert run_search(request, Inline(), no_drawing) == 0
    found = search_runs(read_study(request.folder)).points.groupby("size")["params"].first()
    sizes = {trial.arm: trial.evaluation.model.decoder.size.parameters().dense for trial in request.trials}
    assert found.to_dict() == sizes and sizes["small"] == sizes["coarse"] < sizes["large"]


def test_tuned_arms_are_refused_before_anything_runs(own, here, refused):
    for change, message in (("sft: {}", "is tuned (sft)"), ("steps: 0", "takes no step at any learning rate")):
        own("learning_rate: 0.001}", f"learning_rate: 0.001, {change}}}")
        for command in ("plan", "run", "status"):
            assert f"arm 'small' {message}" in refused(command, "own.yaml", "--scale", "smoke")


def test_a_size_of_which_every_run_diverged_is_named(laboratory, own, tmp_path):
    request = own("85M, learning_rate: 0.001", "85M, learning_rate: 100")
    assert run_search(request, Inline(), no_drawing) == 0
    assert main(["figures", "--latex", "--results", str(tmp_path / "results")]) == 0
    assert "every run diverged: 85M; try lower rates" in (request.folder / "table.md").read_text(encoding="utf-8")
    assert (request.folder / "figure.pdf").exists() and "By held-out loss" in (request.folder / "table.tex").read_text()


def test_experts_among_dense_decoders_are_named(laboratory, own):
    for decoder in ("302M-MoE", "302M"):
        request = own("85M", decoder)
        assert run_search(request, Inline(), no_drawing) == 0
        cautions = " ".join(search_runs(read_study(request.folder)).cautions)
        assert ("302M-MoE: experts among dense decoders, at the N of their" in cautions) == (decoder == "302M-MoE")


def test_a_search_is_run_whole_and_anew_with_all_its_rates(laboratory, here, monkeypatch, refused):
    monkeypatch.setattr("analysis.draw_sweep", no_drawing)
    command = ["run", "lr_law", "--scale", "smoke", "--inline"]
    for one in (command, ["plan", *command[1:-1]]):
        assert "--only: lr_law is a search and fits all its sizes" in refused(*one, "--only", "9M")
    assert not list(here.rglob("sweep.json"))
    assert main(command) == 0
    before, count = len(laboratory.rounds), len({name for names in laboratory.rounds for name in names})
    assert main([*command, "--anew"]) == 0
    assert len({name for names in laboratory.rounds[before:] for name in names}) == count
