"""Recipes with an alignment before multimodal pre-training: what it trains, who shares it, what a user sees of it."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from analysis.effects import groups, levels_of, varying
from analysis.runs import spent
from mm1_lab import results
from mm1_lab.config import WORLD_DATA, MultimodalStage, Recipe, RequestError, load_scale, load_sweep, resolve
from mm1_lab.files import RESULTS
from mm1_lab.orchestrate.execution.display import Display
from mm1_lab.orchestrate.planning.loading import load_request
from mm1_lab.orchestrate.planning.plan import Task
from mm1_lab.orchestrate.tracking.contents import metrics
from mm1_lab.results import Ledger
from mm1_lab.results.trained import what_ran
from mm1_lab.train import recorder
from mm1_lab.train.module import Training
from mm1_lab.train.progress import Progress
from tests.conftest import REPOSITORY, SCALES, Place, Refused, Told, ask_without_demonstrations, evaluation_of

SMOKE = ("--scale", "smoke")
LONG = {"steps": 100_000}
"""3 steps at smoke."""
ARMS: dict[str, Any] = {
    "base": {},
    "aligned": {"align": LONG},
    "kept": {"align": LONG, "frozen": ["connector"]},
    "alone": {"align": LONG, "steps": 0},
    "off": {"align": {"steps": 0, "learning_rate": 1}},
}


def write(folder: Path, **more: Any) -> None:
    values = {"title": "Does an alignment help?", "recipe": "base", "arms": ARMS | more}
    (folder / "sweeps").mkdir(exist_ok=True)
    (folder / "sweeps" / "alignment.yaml").write_text(yaml.safe_dump(values, sort_keys=False))


def model_of(**recipe: Any) -> MultimodalStage:
    model = evaluation_of(recipe=Recipe.model_validate(recipe)).model
    assert isinstance(model, MultimodalStage)
    return model


def alignment_of(**recipe: Any) -> MultimodalStage:
    start = model_of(**recipe).start
    assert start
    return start


def part(weights: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    return {key: value for key, value in weights.items() if key.startswith(f"{name}.")}


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    assert first and first.keys() == second.keys()
    return all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.slow
@pytest.mark.usefixtures("few_documents")
def test_the_connector_alone_learns_through_a_kill_and_pre_training_goes_on_from_it(
    place: Place, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place.folder)
    ask_without_demonstrations(place.folder)
    write(place.folder)
    command = ("run", "alignment", *SMOKE, "--inline", "--only", "kept", "--only", "alone")
    display = Display.progress
    seen: list[int] = []
    """Steps of the alignment of which a line may tell."""

    def interrupt(self: Display, task: Task, kind: str, progress: Progress) -> None:
        display(self, task, kind, progress)
        if kind == "alignment" and progress.step:
            seen.append(progress.step)
            if seen == [1, 2]:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(recorder, "REPORT_SECONDS", 0.0)
        patch.setattr(recorder, "CHECKPOINT_SECONDS", 0.0)
        patch.setattr(Display, "progress", interrupt)
        output = told(*command, code=130)  # where Lightning would end the process, as if the training had failed
        assert "starts    alignment for kept / seed 0 (and 1 more trial)\n" in output
        assert output.endswith("mm1-lab: stopped; run the same command to continue\n")
        (begun,) = place.results.glob("store/*.partial")
        assert (begun / "last.ckpt").exists()
        planned = told("plan", "alignment", *SMOKE, "--only", "kept", "--only", "alone")
        assert re.search("^alignment +to run .*was interrupted, resumes$", planned, re.M)
        seen.clear()
        output = told(*command)
    assert seen == [2, 3], "the first step was done before"
    assert "starts    alignment for kept / seed 0 (and 1 more trial)\n" in output
    assert "starts    kept / seed 0\n" in output

    trials = {trial.arm: trial for trial in load_request("alignment", "smoke").trials}
    kept, alone = trials["kept"].evaluation.model, trials["alone"].evaluation.model
    assert isinstance(kept, MultimodalStage) and kept.start and kept.start.fingerprint == alone.fingerprint

    def weights(stage: Any) -> dict[str, torch.Tensor]:
        return load_file(place.results / "store" / stage.fingerprint / "model.safetensors")

    aligned, trained = weights(alone), weights(kept)
    for name in ("encoder", "decoder"):
        before = {f"{name}.{key}": value for key, value in weights(getattr(kept, name)).items()}
        assert equal(part(aligned, name), before) and not equal(part(trained, name), before)
    assert equal(part(trained, "connector"), part(aligned, "connector")), "it was frozen after the alignment"

    resumed = (place.results / "store" / alone.fingerprint / "model.safetensors").read_bytes()
    told("run", "alignment", *SMOKE, "--inline", "--only", "alone", "--anew")  # undisturbed
    assert (place.results / "store" / alone.fingerprint / "model.safetensors").read_bytes() == resumed

    record = json.loads((place.results / "trials" / trials["kept"].fingerprint / "record.json").read_text())
    assert list(record["fingerprints"])[-3:] == ["alignment", "multimodal", "evaluation"]
    epochs = {name: summary.get("epochs", {}).keys() for name, summary in record["summaries"].items()}
    assert epochs["alignment"] == {"captions", "synthetic"} < epochs["multimodal"]
    took = [record["summaries"][name]["seconds"] for name in ("alignment", "multimodal")]
    asking = record["timings"]["evaluation"]["seconds"]
    assert spent([record], "seconds") == pytest.approx((sum(took) + asking, asking)), "the alignment, not the parts"
    flops = [stage.flops() for stage in (trials["kept"].evaluation, kept, alone)]
    assert spent([record], "flops") == pytest.approx((sum(flops), flops[0]))
    for arm, steps in (("kept", 6), ("alone", 0)):
        told("export", "alignment", *SMOKE, "--only", arm, arm)
        card = Path(arm, "README.md").read_text(encoding="utf-8")
        assert "| alignment | 3 steps at 0.002 on captions 93 %, synthetic 7 %; frozen: decoder, encoder |" in card
        assert f"| steps | {steps} |" in card and (arm == "kept") == ("| frozen | connector |" in card)
        assert (arm == "alone") == ("| learning rate | none |" in card) and "frozen before tuning" not in card

    ledger = Ledger(place.results)
    of_kept, of_alone = (trials[arm].fingerprint for arm in ("kept", "alone"))
    assert record["timings"].keys() == {"multimodal", "evaluation"}, "the alignment was resumed, and so not timed"
    curve, mark = ledger.trial_folder(of_alone) / "alignment.csv", ledger.mark(of_alone)
    text = curve.read_bytes()
    curve.unlink()
    assert ledger.mark(of_alone) != mark, "tables, `status` and `run` take it for damaged"
    curve.write_bytes(text)
    assert not (ledger.trial_folder(of_alone) / "training.csv").exists(), "which would be of pre-training"
    curves = results.curves(place.results / "smoke" / "alignment")
    steps = curves[curves["name"].isin(("loss", "align/loss"))].groupby(["arm", "name"])["step"].max()
    assert steps.to_dict() == {("kept", "loss"): 6, ("kept", "align/loss"): 3, ("alone", "align/loss"): 3}
    names = {name for name, _, _ in metrics(ledger, of_kept, record)}
    assert {"train/loss", "align/loss", "train/tokens per second", "align/tokens per second"} <= names
    names = {name for name, _, _ in metrics(ledger, of_alone, ledger.record(of_alone))}
    assert {"align/loss", "align/tokens per second"} <= names and not any(name.startswith("train/") for name in names)

    shutil.rmtree(ledger.stage_folder(alone.fingerprint))  # as gc does
    plan = ("plan", "alignment", *SMOKE, "--only", "kept", "--set", "evaluate.shots=[4]", "--json")
    stages = json.loads(told(*plan))["stages"]
    assert [one["kind"] for one in stages if one["state"] in ("to run", "waits")] == ["evaluation"]


def test_a_plan_tells_the_two_apart_and_counts_a_shared_alignment_once(here: Path, told: Told) -> None:
    write(here)
    output = told("plan", "alignment", *SMOKE)
    assert "base = off are the same trials" in output
    assert "waits for encoder and decoder and alignment" in output
    values = json.loads(told("plan", "alignment", *SMOKE, "--json"))
    found = {values["kind"]: values["arms"] for values in values["stages"] if values["kind"] != "evaluation"}
    assert found["alignment"] == ["aligned", "kept", "alone"]
    kinds = [values["kind"] for values in values["stages"]]
    assert (kinds.count("alignment"), kinds.count("multimodal")) == (1, 3)
    flops = {values["arm"]: values["training_flops"] for values in values["arms"]}
    assert flops["base"] == flops["off"] < flops["aligned"] and flops["alone"] < flops["kept"]
    assert re.search("^alignment +waits +1 +3 ", output, re.M), "its steps"
    changes = told("show", "alignment", *SMOKE)
    assert "aligned  align.steps 0 → 100000\n" in changes
    compared = told("show", "alignment", "base", "aligned", *SMOKE)
    assert "resolved.model.start.training.steps" in compared and "start.encoder" not in compared


@pytest.mark.usefixtures("here")
def test_its_length_is_varied_and_its_other_fields_are_not_without_one(told: Told, refused: Refused) -> None:
    values = json.loads(told("plan", "base", "--vary", "align.steps=0,70000,140000", *SMOKE, "--json"))
    arms = [trial["arm"] for trial in values["trials"]]
    assert arms == ["base", "align.steps 70000", "align.steps 140000"], "0 is the base's"
    output = told("plan", "base", "--vary", "align.steps=50,20000", *SMOKE)
    assert "align.steps 50 = align.steps 20000 are the same trials\n" in output
    assert "Rounded to steps of smoke: align.steps 50 (0.0015 → 1), align.steps 20000 (0.6 → 1)" in output
    output = told("plan", "base", "--vary", "steps=190000,210000", *SMOKE)
    assert "Rounded to steps of smoke: steps 200000 (6 → 6), steps 190000 (5.7 → 6), steps 210000 (6.3 → 6)" in output
    rates = ("plan", "base", "--vary", "align.learning_rate=1e-3,1e-4", *SMOKE)
    assert "the base has no alignment; give it one (--set align.steps=20000)" in refused(*rates)
    assert " same trials" not in told(*rates, "--set", "align.steps=100000")
    assert "1e-4" in told(*rates, "--vary", "align.steps=0,100000", "--grid")


def test_arms_differ_in_its_length_alone(here: Path) -> None:
    write(here)
    levels = varying(load_sweep(here / "sweeps" / "alignment.yaml", REPOSITORY / "sweeps"), ["base", "aligned"])
    two = [Recipe.model_validate({"align": {**LONG, "data_mix": mix}}) for mix in ({"captions": 1}, {"interleaved": 3})]
    assert [levels_of(recipe)["align data mix"] for recipe in two] == ["100:0:0", "0:100:0"]
    assert groups(levels, "align steps") == [{"0": "base", "100000": "aligned"}] and len(levels.columns) == 1


def test_it_shares_the_model_s_controls_and_has_rates_parts_and_data_of_its_own() -> None:
    own = {"learning_rate": 1e-4, "frozen": ["decoder"], "lr_multipliers": {"encoder": 0.5}}
    own["data_mix"] = {"interleaved": 1}
    aligned = alignment_of(align={**LONG, **own}, images="shuffled", data_order=3, learning_rate=1e-2)
    assert aligned.shuffled and aligned.data_order == 0
    assert (aligned.frozen, aligned.shares) == (("decoder",), {"interleaved": 1})
    assert (aligned.training.learning_rate, aligned.training.steps) == (1e-4, 3)
    assert aligned.training.lr_multipliers["encoder"] == 0.5
    assert alignment_of(align=LONG, images="blind").blind
    alone = model_of(align=LONG, steps=0)
    as_pre_training = model_of(frozen=["encoder", "decoder"], data_mix={"captions": 1}, **LONG)
    assert alone.fingerprint == as_pre_training.fingerprint == alignment_of(align=LONG, learning_rate=1).fingerprint
    assert alone.name == alignment_of(align=LONG).name == "alignment" and as_pre_training.name == "multimodal"
    tuned = evaluation_of(recipe=Recipe.model_validate({"align": LONG, "steps": 0, "sft": {}}))
    assert what_ran(tuned.model_dump(mode="json"))["tuned_from"].startswith("alignment of 3 steps at 0.002 on captions")


@pytest.mark.usefixtures("few_documents")
def test_experts_of_a_frozen_decoder_teach_nothing(again: Place, told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(again.folder)
    ask_without_demonstrations(again.folder)
    experts = {"decoder": "302M-MoE", "steps": 0, "image_tokens": 64}
    write(again.folder, moe={**experts, "align": LONG})
    seen: dict[str, set[str]] = {}
    """The auxiliary losses of each stage, by the section of its settings."""
    forward = Training.forward

    def watched(self: Training, *arguments: Any) -> torch.Tensor:
        loss = forward(self, *arguments)
        seen.setdefault(self.section, set()).update(self._losses.auxiliary)
        return loss

    monkeypatch.setattr(Training, "forward", watched)
    told("run", "alignment", *SMOKE, "--only", "moe", "--inline")
    aligned = model_of(**experts, align=LONG)
    assert seen == {"align.": set(), "": {"balance", "router_z"}}  # the alignment and the decoder before it
    as_pre_training = model_of(**experts | LONG, frozen=["encoder", "decoder"], data_mix={"captions": 1})
    assert aligned.fingerprint != as_pre_training.fingerprint and not as_pre_training.ignores_routers
    assert not model_of(**experts, align={**LONG, "frozen": ["encoder"]}).ignores_routers


def test_every_seed_has_its_own_and_an_arm_s_mix_is_merged_into_its_mix(here: Path) -> None:
    """As `data_mix: {text: 2}` keeps the other sources."""
    alone = {"frozen": ["encoder", "decoder"], "data_mix": {"interleaved": 0, "text": 0}, **LONG}
    write(here, alone=alone, mixed={"align": {**LONG, "data_mix": {"text": 2}}})
    trials = load_request("alignment", "smoke", 2).trials
    names = {}
    for trial in trials:
        stages = list(trial.evaluation.chain())
        assert {stage.seed for stage in stages} == {trial.seed}
        names[trial.arm, trial.seed] = [stage.name for stage in stages]
    assert names["alone", 1][1] == "multimodal" and "alignment" in names["aligned", 1]
    assert trials[-1].arm == "mixed" and trials[-1].recipe.align.data_mix.weights == {"captions": 1, "text": 2}


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        ({"align": {**LONG, "data_mix": {"captions": 0, "text": 1}}}, "align.steps would train nothing: every part is"),
        ({"align": {**LONG, "lr_multipliers": {"connector": 0}}}, "align.steps would train nothing: every part is fro"),
        ({"sft": {"frozen": ["decoder"], "mixture": {"text": 1}}}, "sft.steps would train nothing: every part"),
        ({"align": {**LONG, "data_mix": {"books": 1}}}, "align.data_mix lists books, which the data do not contain"),
        ({"align": LONG, "steps": 0, "sft": {"after_steps": 5}}, "after_steps: 5 is after pre-training's last step, 0"),
        ({"align": LONG, "sft": {"start": "there"}}, "there is already pre-trained; remove align"),
        ({"align": {"frozen": ["encoder", "connector", "decoder"]}}, "align.frozen: lists every part; leave at least"),
        ({"align": {**LONG, "lr_multipliers": {"encoder": 0.1}}}, "lr_multipliers.encoder is 0.1, but encoder is froz"),
        ({"align": {"learning_rate": "paper"}}, "align.learning_rate: "),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(here: Path, refused: Refused, arm: Any, message: str) -> None:
    values = {"title": "T", "recipe": "base", "arms": {"own": arm}}
    (here / "own.yaml").write_text(yaml.safe_dump(values))
    error = refused("plan", "own.yaml", *SMOKE)
    assert message in error and "own" in error


def test_what_trained_nothing_in_an_earlier_version_can_still_be_read(here: Path, told: Told, refused: Refused) -> None:
    """A sweep's other arms, too: only running the arm is refused."""
    write(here, nothing={"lr_multipliers": {"encoder": 0, "connector": 0, "decoder": 0}})
    assert "lr_multipliers" in told("show", "alignment", *SMOKE)
    assert "nothing " in told("status", "alignment", *SMOKE, "--seeds", "1")
    assert "nothing / seed 0: steps would train nothing" in refused("run", "alignment", *SMOKE)
    assert "nothing" not in told("plan", "alignment", *SMOKE, "--only", "base")
    write(here, replays={"sft": {"frozen": ["decoder"], "mixture": {"text": 1}, "replay": {"captions": 1}}})
    assert "replays" in told("plan", "alignment", *SMOKE), "as only what is replayed has pictures"
    off = {"steps": 0, "learning_rate": 1e-4}  # an arm cannot remove the other fields of its base's alignment
    assert Recipe.model_validate({"align": off, "sft": {"start": "there"}}).sft


def test_sources_that_the_data_lack_are_named() -> None:
    data = WORLD_DATA.model_copy(update={"sources": ("interleaved", "text")})
    recipe = {"encoder": {"loss": "none"}, "data_mix": {"captions": 0, "text": 1}, "align": LONG}
    told = r"^arm 'own': align.data_mix lists captions, .* interleaved, text. Name others: --set 'align.data_mix={"
    with pytest.raises(RequestError, match=told):
        resolve("own", Recipe.model_validate(recipe), load_scale("smoke", SCALES), 0, data)


def test_a_search_over_it_needs_steps(here: Path, told: Told, refused: Refused) -> None:
    over: dict[str, Any] = {"align.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}}

    def search() -> str:
        values = {"over": over, "measure": "loss captions", "trials": 4, "at_a_time": 2}
        path = here / "find.yaml"
        path.write_text(yaml.safe_dump({"title": "T", "recipe": "base", "search": values}))
        return path.name

    assert "the base has no alignment; search over align.steps, too" in refused("plan", search(), *SMOKE)
    over["align.steps"] = {"low": 0, "high": 200_000}
    output = told("plan", search(), *SMOKE)
    assert "alignment  " in output and "align.steps" in output


@pytest.mark.usefixtures("here")
def test_trials_that_wait_for_a_diverged_alignment(again: Place, told: Told) -> None:
    hot = {"align": {"steps": 200_000, "learning_rate": 1e6}, "image_tokens": 64}
    write(again.folder, hot=hot, hotter={**hot, "steps": 100_000})
    asked = ("alignment", *SMOKE, "--only", "hot", "--only", "hotter")
    output = told("run", *asked, "--inline", code=1)
    assert "lower align.learning_rate (it is 1e+06)" in output
    for _ in range(2):
        status = told("status", *asked)
        assert "0 done, 0 missing, 2 failed" in status and status.count("lower align.learning_rate") > 1
        assert "0 done, 0 missing, 2 failed" in told("status"), "without the sweep: by what the failure blocks"
        assert "diverged: hot / seed 0: alignment " in told("run", *asked, "--inline", code=1)


@pytest.mark.usefixtures("here")
def test_what_becomes_of_an_interrupted_alignment(again: Place, told: Told) -> None:
    write(again.folder)
    asked = ("alignment", *SMOKE, "--only", "alone")
    aligned = load_request("alignment", "smoke", only=["alone"]).trials[0].evaluation.model
    partial = Ledger(RESULTS).partial_folder(aligned.fingerprint)
    for file, how in (("training.csv", "starts again"), ("last.ckpt", "resumes")):
        partial.mkdir(parents=True, exist_ok=True)
        (partial / file).touch()
        assert f"was interrupted, {how}\n" in told("plan", *asked)
        assert f"alignment was interrupted, {how}" in told("status", *asked, "--seeds", "1")
    lease = Ledger(RESULTS).lease([aligned])
    assert lease is not None
    with lease:
        assert " a process works on it\n" in told("plan", *asked), "it is not interrupted"
