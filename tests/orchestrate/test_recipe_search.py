"""A search over recipes: its rounds on scores that come from a formula, and once whole, by the real command."""

import errno
import math
import os
import re
import shlex
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import optuna
import pytest
import yaml
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from analysis import sweep_in_short
from mm1_lab.cli import main
from mm1_lab.config import RequestError, Trial
from mm1_lab.orchestrate import lr_search, recipe_search
from mm1_lab.orchestrate.execution.executor import Inline
from mm1_lab.orchestrate.execution.worker import StageReport, Worker
from mm1_lab.orchestrate.planning.doubts import doubtful_claims
from mm1_lab.orchestrate.planning.loading import load_request
from mm1_lab.orchestrate.planning.plan import Task
from mm1_lab.orchestrate.planning.plan_text import arm_lines, plan_values
from mm1_lab.orchestrate.planning.request import Request
from mm1_lab.orchestrate.recipe_search import rounds_of, run_recipe_search
from mm1_lab.orchestrate.sweeping import Round
from mm1_lab.orchestrate.tracking.mlflow_logger import connect
from mm1_lab.results.manifest import read_trials
from tests.conftest import ask_without_demonstrations, change
from tests.orchestrate import conftest

OVER = {"data_mix.text": {"low": 0.25, "high": 4, "log": True}, "image_tokens": [64, 144]}


def write(folder: Path, **search: Any) -> Path:
    values = {"over": OVER, "measure": "4-shot", "trials": 6, "at_a_time": 2, "confirm": 2} | search
    path = folder / "sweeps" / "mix.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump({"title": "Mix", "recipe": "base", "search": values}), encoding="utf-8")
    return path


class Laboratory(conftest.Laboratory):
    """Best at text 2 and 144 image tokens; more text than a limit diverges; seed 0 adds luck but to the base, which is
    at text 1 and 144 image tokens, and costs all two points."""

    left = math.inf
    stops: tuple[str, int] = ("", 0)
    limit = 3.5
    longest = math.inf
    luck = 7

    def complete(self, *given: Any) -> Round:
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        return super().complete(*given)

    def run(self, request: Request, trial: Trial) -> None:
        if (trial.arm, trial.seed) == self.stops:
            raise KeyboardInterrupt
        recipe = trial.recipe
        text = recipe.data_mix.weights["text"]
        if text > self.limit:
            self.diverge(request, trial)
            return
        luck = self.luck * math.sin(1000 * text) * (trial.arm != "base") - 2 if trial.seed == 0 else 0.0
        score = 60 - 20 * math.log(text / 2) ** 2 - (recipe.image_tokens == 64) - 2e5 / recipe.steps + luck
        left_out = {"text": 5} if text > self.longest else {}
        self.write(request, trial, score, {"text": 3 / text}, (4,), held_out_left_out=left_out)


@pytest.fixture
def laboratory(monkeypatch) -> Laboratory:
    made = Laboratory()
    for module in (lr_search, recipe_search):
        monkeypatch.setattr(module, "complete", made.complete)
    return made


def ask(folder: Path, place: Path) -> Request:
    return load_request(place / "sweeps" / "mix.yaml", "smoke", results=folder / "results", store=folder / "store")


def search(request: Request) -> int:
    return run_recipe_search(request, Inline(), lambda folder: [], lambda folder: "claims")


def optuna_log(request: Request) -> list[optuna.trial.FrozenTrial]:
    journal = JournalStorage(JournalFileBackend(str(request.folder / "optuna.log")))
    return optuna.load_study(study_name=request.sweep.name, storage=journal).trials


@pytest.mark.usefixtures("unrendered")
def test_stopped_after_any_round_or_in_the_last_it_ends_as_if_undisturbed(laboratory, tmp_path):
    write(tmp_path, trials=4)
    assert search(ask(tmp_path / "whole", tmp_path)) == 0
    assert [len(names) for names in laboratory.rounds] == [3, 2, 4], "the base; then the winner and it, two seeds"
    for _ in range(3):
        laboratory.left = 1
        with pytest.raises(KeyboardInterrupt):
            search(ask(tmp_path / "cut", tmp_path))
    page = (tmp_path / "cut" / "results" / "smoke" / "mix" / "search.md").read_text(encoding="utf-8")
    assert page.endswith("It is not confirmed yet.\n") and "it is not finished" not in page
    laboratory.left = math.inf
    laboratory.stops = ("winner", 1000)  # when the base has a score of the confirmation
    with pytest.raises(KeyboardInterrupt):
        search(ask(tmp_path / "cut", tmp_path))
    del laboratory.stops
    assert search(ask(tmp_path / "cut", tmp_path)) == 0
    for name in ("mix/trials.csv", "mix_confirmed/trials.csv", "mix/search.md"):
        cut, undisturbed = ((tmp_path / one / "results" / "smoke" / name).read_text() for one in ("cut", "whole"))
        assert cut.replace(str(tmp_path / "cut"), str(tmp_path / "whole")) == undisturbed


@pytest.mark.usefixtures("unrendered")
@pytest.mark.parametrize("sampler", ["tpe", pytest.param("gp", marks=pytest.mark.soak)])
def test_the_best_is_found_and_the_luck_of_its_score_is_told(sampler, laboratory, tmp_path, monkeypatch):
    write(tmp_path, sampler=sampler, trials=8, at_a_time=4)
    request = ask(tmp_path, tmp_path)
    asked = []
    ask_study = optuna.Study.ask
    monkeypatch.setattr(optuna.Study, "ask", lambda study, spaces: asked.append(study) or ask_study(study, spaces))
    assert search(request) == 0
    assert len(asked) == 1 + 8, "once for each arm, the base, too"
    table = (request.folder / "search.md").read_text(encoding="utf-8")
    ((text, tokens),) = re.findall(r"The winner: data_mix.text (\S+), image_tokens (\d+)", table)
    text, tokens = float(text), int(tokens)
    assert 1 < text < 4
    luck = 7 * math.sin(1000 * text)
    base = 60 - 20 * math.log(2) ** 2 - 1
    lead = 60 - 20 * math.log(text / 2) ** 2 - (tokens == 64) - 1 - base
    assert luck > 0 and f"| winner − base | {lead + luck:.2f} | {lead:.2f} | {luck:.2f} |" in table
    assert f"| base | {base - 2:.2f} | {base:.2f} |  |" in table
    assert "| found (seeds 0) | confirmed (seeds 1000, 1001) |" in table
    assert "    claims\n" in table
    (compare,) = re.findall("`mm1-lab (compare .*?)`", table)
    assert main(shlex.split(compare)) == 0, "it names the folder of results"
    again = ask(tmp_path, tmp_path)
    assert "seed 0: base; data_mix.text " in arm_lines(plan_values(rounds_of(again))["trials"])[0]
    assert len(rounds_of(again, to_the_end=True)[0].trials) == len(rounds_of(again)[0].trials), "all are known"


@pytest.mark.usefixtures("unrendered")
def test_values_that_make_no_model_are_pruned_before_any_training(laboratory, tmp_path, monkeypatch):
    """`mlp` makes a token of each patch, which `resolve` does not know. Here on a disk without links."""
    link = os.symlink

    def refused(source, target):
        if Path(target).is_relative_to(tmp_path):
            raise PermissionError(errno.EPERM, "Operation not permitted")
        link(source, target)

    write(tmp_path, over={"image_tokens": [64, "patches"], "connector": ["c-abstractor", "mlp"]})
    request = ask(tmp_path, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "symlink", refused)
        assert search(request) == 0
        full = Mock(side_effect=OSError(errno.ENOSPC, "No space left on device"))
        patch.setattr(JournalFileBackend, "append_logs", full)
        with pytest.raises(OSError, match=f"No space left on device: '{request.folder}/optuna.log'"):
            search(ask(tmp_path, tmp_path))
    assert laboratory.rounds and "64, connector mlp" not in str(laboratory.rounds)
    done, winner = rounds_of(ask(tmp_path, tmp_path), to_the_end=True)
    assert all(winner.ledger.has_scores(trial.fingerprint) for trial in winner.trials), "the one that was confirmed"
    trials = optuna_log(request)
    refused = [trial.user_attrs["why"] for trial in trials if trial.value is None]
    arms = [sorted(trial.params.values()) for trial in trials if trial.value is not None]
    assert refused and all("connector mlp" in why and "image_tokens 64" in why for why in refused)
    assert done.refused == f"{len(refused)} of 6 proposals refused, the last: {refused[-1][9:]}"
    told = f"6 trials by tpe, {len(arms)} with scores of {len(set(map(str, arms)))} distinct arms; {done.refused}. The"
    assert told in (request.folder / "search.md").read_text(encoding="utf-8")
    assert f"mix: {done.refused}" in plan_values([done])["notes"]
    assert (request.folder / "search.csv").read_text(encoding="utf-8").count('"refused: ') == len(refused)


def test_a_value_that_runs_beside_others_of_the_search_alone_is_no_mistake(tmp_path):
    """The end of a range, or two others at once: five views, which sharp demonstrations need, have no 336 pixels."""
    path = write(tmp_path)
    steps = {"low": 200_000, "high": 400_000}
    views = {"sft.sharp_demonstrations": [1, 2], "sft.views": [1, 5], "sft.resolution": [336, 672]}

    def arms(over: dict[str, Any]) -> int:
        values = {"title": "Mix", "recipe": "sft", "search": {"over": over, "measure": "4-shot", "trials": 6}}
        path.write_text(yaml.safe_dump(values), encoding="utf-8")
        return len(rounds_of(ask(tmp_path, tmp_path))[0].sweep.arms)

    assert arms({"sft.after_steps": [100_000, 250_000], "steps": steps}) > 1 < arms(views)
    with pytest.raises(
        RequestError, match=r"^mix.yaml: search.over.sft.after_steps: .*is after pre-training's last step"
    ):
        arms({"sft.after_steps": [100_000, 900_000], "steps": steps})


@pytest.mark.usefixtures("unrendered")
@pytest.mark.parametrize(("sampler", "trials"), [("tpe", 16), ("gp", 8)])  # with 8, tpe proposes the same if pruned
@pytest.mark.parametrize("limit", [1.5, pytest.param(4, marks=pytest.mark.soak)])
def test_arms_are_what_optuna_proposes_if_divergence_is_worse_than_the_worst(
    limit, sampler, trials, laboratory, tmp_path
) -> None:
    """At a limit of 4 nothing diverges, and the study is Optuna's alone."""
    laboratory.limit = limit
    field = "data_mix.text"
    write(tmp_path, over={field: OVER[field]}, sampler=sampler, trials=trials)
    request = ask(tmp_path, tmp_path)
    search(request)
    scores = {trial.params[field]: trial.value for trial in optuna_log(request)}
    assert (None in scores.values()) == (limit < 4)
    made = optuna.samplers.GPSampler(seed=0, n_startup_trials=trials // 2 + 1)
    if sampler == "tpe":
        many = trials // 2 + 1
        made = optuna.samplers.TPESampler(seed=0, n_startup_trials=many, multivariate=True, constant_liar=True)
    study = optuna.create_study(direction="maximize", sampler=made)
    study.enqueue_trial({field: 1.0})  # the base
    known = []
    for count in (3, *[2] * (trials // 2 - 1)):
        asked = [study.ask({field: optuna.distributions.FloatDistribution(0.25, 4, log=True)}) for _ in range(count)]
        found = [scores[float(f"{trial.params[field]:.3g}")] for trial in asked]
        known += [score for score in found if score is not None]
        for trial, score in zip(asked, found, strict=True):
            study.tell(trial, min(known) - (max(known) - min(known) or 1) if score is None else score)


def test_optuna_s_log_tells_what_ran(laboratory, tmp_path):
    write(tmp_path, over={"data_mix.text": {"low": 2, "high": 5}})
    request = ask(tmp_path, tmp_path)
    search(request)
    trials = optuna_log(request)
    whys = [trial.user_attrs.get("why") for trial in trials]
    told = f"{whys.count(None)} with scores, {whys.count('diverged')} diverged. The winner"
    assert 0 < whys.count(None) < 6 and told in (request.folder / "search.md").read_text(encoding="utf-8")
    for trial in trials:
        assert trial.user_attrs["arm"] == f"data_mix.text {trial.params['data_mix.text']}"
        diverged = trial.user_attrs.get("why")
        assert (trial.value is None) == (trial.state == TrialState.PRUNED) == bool(diverged)


def test_where_all_that_is_proposed_diverges_the_search_failed(laboratory, tmp_path, capsys):
    write(tmp_path, over={"data_mix.text": [4, 5]})
    assert search(ask(tmp_path, tmp_path)) == 1
    assert "mix: no arm of the search has scores: all diverged" in capsys.readouterr().out
    results = str(ask(tmp_path, tmp_path).ledger.results)
    assert main(["status", f"{tmp_path}/sweeps/mix_confirmed", "--scale", "smoke", "--results", results]) == 2
    error = capsys.readouterr().err
    assert "mix_confirmed: holds no results; " in error and "search.md says why; if it is not finished, go" in error
    assert f"sweeps/mix --scale smoke --results {results}\n" in error
    write(tmp_path, over={"data_mix.text": [2, 4]}, trials=2)
    assert search(ask(tmp_path, tmp_path)) == 0
    assert "The winner: data_mix.text 2.\n" in capsys.readouterr().out, "not what was asked first, and diverged"
    write(tmp_path, over={"data_mix.text": {"low": 2, "high": 5}})
    request = ask(tmp_path / "other", tmp_path).at_seeds([5])
    assert search(request) == 0
    wild = max(rounds_of(request)[0].sweep.arms.items(), key=lambda one: one[1].data_mix.weights["text"])[0]
    folders = ["--results", str(request.ledger.results), "--store", str(request.ledger.store)]
    given = ["--scale", "smoke", *folders]
    for command in (["answers", "", wild], ["compare", "", wild, "base"]):
        command[1] = str(tmp_path / "sweeps" / "mix.yaml")
        assert main([*command, *given]) == 2 and " diverged (" in (error := capsys.readouterr().err)
        assert "mm1-lab run" not in error, "it would do nothing, and with --anew train the whole search again"


@pytest.mark.usefixtures("unrendered")
@pytest.mark.parametrize(
    ("over", "told"),
    [
        ({"image_tokens": [64, 144]}, "The winner is the base itself: "),
        ({"data_mix.text": [0.3, 0.31]}, "The base leads the search: "),
    ],
)
def test_where_the_base_leads_there_is_nothing_to_confirm(over, told, laboratory, tmp_path):
    """Whether it is among the proposals or not."""
    write(tmp_path, over=over)
    request = ask(tmp_path, tmp_path)
    laboratory.luck = 0
    assert search(request) == 0 and not (request.folder.parent / "mix_confirmed").exists()
    assert f"{told}there is nothing to confirm" in (request.folder / "search.md").read_text(encoding="utf-8")
    assert len(rounds_of(ask(tmp_path, tmp_path), to_the_end=True)) == 1


@pytest.mark.usefixtures("unrendered")
def test_another_winner_is_confirmed_at_other_seeds(laboratory, tmp_path):
    folder = tmp_path / "results" / "smoke"
    pages = []
    for text in (2, 2.2, 2):
        write(tmp_path, over={"data_mix.text": [1, text]})
        assert search(ask(tmp_path, tmp_path)) == 0
        pages.append((folder / "mix" / "search.md").read_text(encoding="utf-8"))
    seeds = []
    for name in ("mix_confirmed", "mix_confirmed_2"):
        rows = (folder / name / "trials.csv").read_text(encoding="utf-8").splitlines()[1:]
        seeds.append({row.split(",")[1] for row in rows})
    assert seeds == [{"1000", "1001"}, {"1002", "1003"}] and not (folder / "mix_confirmed_3").exists()
    assert "before it" not in pages[0] and "Winners before it, each at seeds of its own" in pages[1]
    assert [page.count("    claims\n") for page in pages] == [2, 3, 3], "the search's own among them"
    for confirm, told in ((3, (1000, 1001, 1004)), (1, (1000, 1001))):
        write(tmp_path, over={"data_mix.text": [1, 2]}, confirm=confirm)
        assert rounds_of(ask(tmp_path, tmp_path))[1].seeds == told, "not another winner's, and all that it has"

    write(tmp_path, over={"data_mix.text": [1, 3]})
    laboratory.left = 0
    with pytest.raises(KeyboardInterrupt):
        search(ask(tmp_path, tmp_path))
    page = (folder / "mix" / "search.md").read_text(encoding="utf-8")
    assert "0 with scores; it is not finished. No arm has a score." in page, "nothing of what was before"


@pytest.mark.parametrize("field", ["steps", "scale.train.batch_size"])
def test_a_field_of_whole_numbers_is_searched_in_whole_numbers(field, tmp_path):
    write(tmp_path, over={field: {"low": 100, "high": 10_000_000, "log": True}})
    request = ask(tmp_path, tmp_path)
    arms = [trial.arm for trial in rounds_of(request, to_the_end=True)[0].trials]
    assert len(arms) > 3 and all(re.fullmatch(rf"{field} \d+", arm) for arm in arms[1:])
    whole = optuna.distributions.IntDistribution(100, 10_000_000, log=True)
    assert recipe_search.RecipeSearch(request).spaces == {field: whole}


def test_fields_are_searched_in_their_own_kinds_of_numbers_within_their_bounds(tmp_path):
    alpha = {"low": 1.5, "high": 30, "log": True}
    write(tmp_path, over={"lora.decoder.alpha": alpha, "lora.decoder.rank": {"low": 1, "high": 16}})
    arms = rounds_of(ask(tmp_path, tmp_path), to_the_end=True)[0].sweep.arms
    found = [recipe.lora.by_part["decoder"] for name, recipe in arms.items() if name != "base"]
    assert len({lora.rank for lora in found}) > 2 and any(lora.alpha % 1 for lora in found if lora.alpha)
    # rounding crosses no bound
    write(tmp_path, over={"learning_rate": {"low": 0.0012344, "high": 0.0012346}}, trials=3)
    arms = rounds_of(ask(tmp_path, tmp_path), to_the_end=True)[0].sweep.arms
    assert {recipe.learning_rate for name, recipe in arms.items() if name != "base"} == {0.0012344}


@pytest.mark.usefixtures("unrendered")
def test_two_spellings_of_an_arm_are_one(laboratory, tmp_path):
    """At smoke, so many steps are three."""
    write(tmp_path, over={"steps": {"low": 100_000, "high": 100_500}})
    request = ask(tmp_path, tmp_path)
    laboratory.luck = 0
    search(request)
    assert "6 with scores of 1 distinct arm." in (request.folder / "search.md").read_text(encoding="utf-8")
    assert [len(names) for names in laboratory.rounds] == [2], "with the base"


def test_a_search_is_the_same_in_whatever_order_its_seeds_are_named(tmp_path):
    """Its results, by which `status` and others find its arms, know only which seeds they are."""
    path = write(tmp_path, over={"data_mix.text": [2, 3, 4], "steps": [100_000, 300_000]})
    first, second = (
        load_request(path, "smoke", seeds, results=tmp_path / "results", store=tmp_path / "store")
        for seeds in ("0,1", "1,0")
    )
    rounds = [rounds_of(request, to_the_end=True) for request in (first, second)]
    arms = [[*made.sweep.arms] for made, _ in rounds]
    assert len(arms[0]) > 3 and arms[0] == arms[1]
    assert not doubtful_claims(rounds[0][1]), "a winner may differ from the base in all that is searched"


def test_at_other_seeds_it_is_another_search(laboratory, tmp_path, capsys):
    """`status` and others take the seeds in its folder for those of one search."""
    path = write(tmp_path, over={"data_mix.text": [1, 2]})
    for seeds in ("0,", "1,"):
        request = load_request(path, "smoke", seeds, results=tmp_path / "results", store=tmp_path / "store")
        assert search(request) == 0
    assert {row.seed for row in read_trials(request.folder)} == {1}
    assert "left the tables (base, data_mix.text 2), as they are no longer asked for" in capsys.readouterr().out


def test_optuna_is_told_first_of_the_base_with_the_scale_s_rates_and_short_forms(here):
    (here / "recipes").mkdir()
    (here / "recipes" / "whole.yaml").write_text("{align: {steps: 100000}, sft: {}}", encoding="utf-8")
    rates = {"align.learning_rate": 0.002, "learning_rate": 0.002, "sft.learning_rate": 0.001}
    over = {field: {"low": 0.001, "high": 0.01} for field in rates}
    path = write(here, over=over | {"encoder": ["ViT-H", "ViT-L"], "lora.decoder": [8, 0]}, trials=1)
    change(path, "recipe: base", "recipe: whole")
    search = recipe_search.RecipeSearch(ask(here, here))
    search.advance(to_the_end=True)
    assert search.study.trials[0].params == rates | {"encoder": "ViT-L", "lora.decoder": "0"}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"over": {"image_token": [64, 144]}}, "mix.yaml: search.over.image_token: unknown key 'image_token'; did you"),
        ({"over": {"train.weight_decay": [0, 0.1]}}, "over.train.weight_decay: recipes have no 'train.weight_decay'"),
        ({"over": {"data_mix.txt": {"low": 1, "high": 2}}}, "data_mix lists txt, which the data do not contain"),
        ({"over": {"image_tokens": [64, 100]}}, "this scale has no number of image tokens 100; known: 64, 144"),
        ({"over": {"image_tokens": {"low": 64, "high": 144}}}, "arm 'image_tokens 89': this scale has no number"),
        ({"over": {"connector": ["mlp", "average-pooling"]}}, "mix.yaml: search.over.connector: connector 'mlp' makes"),
        ({"over": {"data_mix.text": {"low": 4, "high": 1}}}, "data_mix.text: low (4) must be below high (1)"),
        ({"over": {"learning_rate": {"low": -1, "high": 1}}}, "learning_rate: Input should be greater than or equal"),
        ({"measure": "vqaa 4-shot"}, "search.measure: 'vqaa 4-shot': trials have no 'vqaa'; did you mean 'vqa'"),
        ({"measure": "chat 0-shot"}, "search.measure: 'chat 0-shot': only tuned models have it; give `sft` to base"),
        ({"over": {"image_tokens": [64, 64.0]}}, "search.over.image_tokens: has 64 twice"),
        ({"over": {"sft.learning_rate": [1e-3, 1e-4]}}, "sft.learning_rate: the base is not tuned; name a recipe with"),
        ({"sampler": "nsga2"}, "search.sampler: Input should be 'tpe' or 'gp'"),
    ],
)
def test_wrong_searches(changes, told, here, refused):
    write(here, **changes)
    error = refused("plan", "mix", "--scale", "smoke")
    assert told in error, error


def test_an_arm_that_the_measure_is_not_of_is_refused_before_the_search_trains(here, refused):
    """It ended the search, also when it was run again."""
    path = write(here, over={"sft": [None, {"steps": 5000}]}, measure="chat 0-shot")
    change(path, "recipe: base", "recipe: tuned")
    (here / "recipes").mkdir()
    (here / "recipes" / "tuned.yaml").write_text("sft: {}\n", encoding="utf-8")
    told = "search.over.sft: 'chat 0-shot': only tuned models have it; give `sft` to sft None"
    for command in ("plan", "run"):
        assert told in refused(command, str(path), "--scale", "smoke")


def test_a_sweep_of_the_confirmation_s_name_is_not_overwritten(here, refused):
    path = write(here)
    path.with_name("mix_confirmed_2.yaml").write_text("title: t\nrecipe: base\narms: {base: {}}\n", encoding="utf-8")
    error = refused("run", "mix", "--scale", "smoke")
    assert "mix_confirmed_2.yaml: the search's confirmation has this name; rename one" in error


@pytest.mark.slow
@pytest.mark.usefixtures("few_documents", "unrendered")
def test_interrupted_and_run_again_it_ends_with_a_verdict(place, told, monkeypatch):
    monkeypatch.chdir(place.folder)
    scale = place.folder / "sweeps" / "scales" / "smoke.yaml"
    ask_without_demonstrations(place.folder)
    for steps in ("encoder: {steps: 4", "  steps: 8", "train: {steps: 6"):
        change(scale, steps, f"{steps[:-1]}2")
    write(place.folder, trials=2, confirm=1, measure="0-shot")
    command = ("mix", "--scale", "smoke", "--seeds", "5,")
    plan = told("plan", *command)
    assert "mix, mix_confirmed at smoke: 5 trials" in plan and "A search proposes arms by the scores" in plan
    run = Worker.run

    def interrupted(self: Worker, task: Task, report: StageReport) -> None:
        if len(list(place.results.glob("trials/*/DONE"))) == 2:
            raise KeyboardInterrupt
        run(self, task, report)

    with monkeypatch.context() as patch:
        patch.setattr(Worker, "run", interrupted)
        told("run", *command, "--inline", code=130)
    before = place.done()
    asked = told("status", *command)
    output = told("run", *command, "--inline")
    assert "2 of 3 trials done before" in output and before.items() <= place.done().items()
    assert "mix_confirmed at smoke" in output and "the winner beats the base: 0-shot" in output
    assert "curse: what luck added" in output and "smoke scale: nothing is learnt" in output
    trials = (place.results / "smoke" / "mix" / "trials.csv").read_text(encoding="utf-8")
    assert all(arm in trials for arm in re.findall(r"data_mix.text \S+ image_tokens \d+", asked))
    folder = place.results / "smoke" / "mix"
    assert {"history.png", "search.md", "table.md"} <= {path.name for path in folder.iterdir()}
    journal = JournalStorage(JournalFileBackend(str(folder / "optuna.log")))
    study = optuna.load_study(study_name="mix", storage=journal)
    study_arms = {trial.user_attrs["arm"] for trial in study.trials}
    assert len(study.trials) == 1 + 2 and study.best_trial.params["image_tokens"] in ("64", "144")
    assert "seeds 1000" not in told("compare", "mix_confirmed", "winner", "base", "--scale", "smoke")
    assert all(arm in told("show", "mix", "--scale", "smoke") for arm in study_arms), "at the search's own seeds"
    seeds = {row.split(",")[1] for row in (folder.parent / "mix_confirmed" / "trials.csv").read_text().splitlines()[1:]}
    assert seeds == {"1000"}
    confirmed = ("mix_confirmed", "--scale", "smoke")
    assert "mix_confirmed at smoke: 2 done, 0 missing" in told("status", *confirmed)
    assert "mix_confirmed at smoke: winner / seed 1000" in told("answers", "mix_confirmed", "winner", *confirmed[1:])
    other = told("answers", "mix_confirmed", "winner", "--seed", "3", *confirmed[1:], code=2)
    assert other.endswith("winner is not finished at seed 3; it is at 1000\n")
    assert "--only: " in told("export", *confirmed, "--only", "winer", "model", code=2)
    asked = told("export", *confirmed, "--only", "winner", "--seeds", "1", "m", code=2)
    assert "--seeds 1: " in asked and "has no seed 0; it has 1000" in asked
    assert "this command needs one trial, not 2" in told("chat", *confirmed, code=2)
    told("export", *confirmed, "--only", "winner", "model")
    assert Path("model/config.json").exists() and "image_tokens" in told("show", confirmed[0], "winner", *confirmed[1:])
    told("report")
    client = connect()
    runs = client.search_runs([one.experiment_id for one in client.search_experiments()])
    assert {run.data.tags["mlflow.source.name"] for run in runs} == {"mm1-lab run mix --scale smoke --seeds 5,"}
    page = (folder / "search.md").read_text(encoding="utf-8")
    assert "The search: its best of 3 arms" in page and page.count("The best score is partly luck") == 1
    summary = (place.results / "summary.md").read_text(encoding="utf-8")
    assert summary.count("`mm1-lab run mix --scale smoke --seeds 5,`") == 2, "the search, and its confirmation"
    for name in ("summary.md", "report.html"):
        shown = (place.results / name).read_text(encoding="utf-8")
        assert "The best score is partly luck" in shown and all(arm in shown for arm in study_arms)
    page = (folder / "search.md").read_text(encoding="utf-8")
    shutil.rmtree(folder.parent / "mix_confirmed")  # its trials stay
    told("run", *command, "--inline")
    assert "1 seen before the claim" in (folder / "search.md").read_text(encoding="utf-8") and "confirmatory" in page
    told("gc", "--yes")
    lacking = told("export", *confirmed, "--only", "winner", "model", code=2)
    assert "--seeds 5, --anew (all arms of the search are trained again)" in lacking


@pytest.mark.usefixtures("unrendered")
def test_losses_are_told_in_nats_and_an_order_of_those_on_different_documents_tells_nothing(
    laboratory, tmp_path
) -> None:
    write(tmp_path, over={"data_mix.text": [1, 2.2]}, measure="loss text", confirm=1)
    for longest, told in ((math.inf, False), (2, True)):
        laboratory.longest = longest
        request = ask(tmp_path / str(longest), tmp_path)
        run_recipe_search(request, Inline(), lambda folder: [], sweep_in_short)
        page = (request.folder / "search.md").read_text(encoding="utf-8")
        assert "| loss text (nats) | found" in page and "| winner | 1.3636 | 1.3636 |" in page
        assert re.search(r"winner − base \| −\d\.\d{4} ", page), "a minus, no hyphen"
        assert "One seed decides nothing: set `confirm` to 3" in page
        assert ("The order tells nothing, as the arms' losses are of different held-out documents" in page) == told


def test_from_twenty_trials_on_it_is_told_which_fields_matter(laboratory, tmp_path, monkeypatch):
    """And the figure has the base's score as a line."""
    labels = []
    monkeypatch.setattr(
        "matplotlib.figure.Figure.savefig",
        lambda figure, *_, **__: labels.extend(text.get_text() for text in figure.axes[0].get_legend().get_texts()),
    )
    for trials, told in ((4, False), (20, True)):
        write(
            tmp_path, over=OVER | {"data_mix.text": {"low": 0.25, "high": 3, "log": True}}, trials=trials, at_a_time=20
        )
        request = ask(tmp_path, tmp_path)
        search(request)
        page = (request.folder / "search.md").read_text(encoding="utf-8")
        shares = re.findall(r"f-ANOVA of 21 trials, noise included\): data_mix.text (\d+) %, image_tokens \d+ %", page)
        assert [int(share) > 80 for share in shares] == [True] * told
    assert labels[-3:] == ["4-shot", "Best Value", "Base"]
