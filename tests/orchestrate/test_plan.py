import json
import re
from collections import Counter

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from mm1_lab.config import RequestError
from mm1_lab.files import write_text
from mm1_lab.formatting import short
from mm1_lab.orchestrate.execution.executor import Inline
from mm1_lab.orchestrate.execution.ray_tune import RayTune
from mm1_lab.orchestrate.execution.worklist import Outcome, WorkList
from mm1_lab.orchestrate.planning.plan import make_plan
from mm1_lab.orchestrate.planning.plan_text import plan_text, plan_values, time_text
from mm1_lab.orchestrate.sweeping import complete, forget_trials
from mm1_lab.results import TrialRow
from mm1_lab.results.manifest import row_check
from mm1_lab.results.trained import own_rows_note
from tests.conftest import SCALES
from tests.orchestrate.conftest import mark_done

pytestmark = pytest.mark.usefixtures("here")


def test_tasks_that_wait_for_each_other_are_not_done_side_by_side(told):
    """One arm is a chain, which ten at a time finish no sooner than one: the plan names the time of its longest."""
    settings = ("--set", "resources.cpus=0.1", "--set", "decoder.learning_rate=0.001")
    plan = told("plan", "data_mix", "--only", "base", *settings)
    chain = [int(re.findall(rf"^{kind}.* (\d+) min", plan, re.M)[0]) for kind in ("decoder", "multimodal")]
    assert int(re.findall(r"About (\d+) min with \d\d+ at a time", plan)[0]) >= sum(chain)


def test_memory_is_named_only_where_it_is_the_limit(told, monkeypatch):
    """Free memory holds three stages; on three cores as many run anyway."""
    monkeypatch.setattr("mm1_lab.orchestrate.planning.cost.free_memory", lambda: 4e9)
    for cores, end in ((8, "3 at a time, as free memory holds no more."), (3, "3 at a time.")):
        monkeypatch.setattr("mm1_lab.orchestrate.planning.cost.machine_cpus", lambda count=cores: count)
        assert f" with {end}" in told("plan", "data_mix", "--scale", "smoke", "--only", "base", "--seeds", "300,")


def test_sweeps_planned_together_share_stages(told):
    plan = json.loads(told("plan", "data_mix", "connector", "--json", "--scale", "smoke"))
    assert len(plan["trials"]) == 24
    # one decoder; the base's encoder, and one at 224 px; the base stands in both sweeps
    kinds = Counter(stage["kind"] for stage in plan["stages"])
    assert kinds == {"decoder": 1, "encoder": 2, "multimodal": 23, "evaluation": 23}
    bases = {trial["fingerprint"] for trial in plan["trials"] if trial["arm"] in ("base", "c-abstractor 336 144")}
    assert len(bases) == 1
    (decoder,) = (stage for stage in plan["stages"] if stage["kind"] == "decoder")
    assert set(decoder["arms"]) == {trial["arm"] for trial in plan["trials"]}


def test_the_compute_of_arms_can_be_compared(told):
    """All that an arm trains, once: what arms share counts for each, and so does what is done."""
    few = "AIM-600M,CLIP DFN+VeCap ViT-L 336,CLIP DFN ViT-H 378"
    asked = ("plan", "encoder", "--scale", "smoke", "--seeds", "2", "--only", few)
    plan = json.loads(told(*asked, "--json"))
    totals = {one["arm"]: one["training_flops"] for one in plan["arms"]}
    for arm, total in totals.items():
        own = [one for one in plan["stages"] if arm in one["arms"] and one["seed"] == 0 and one["kind"] != "evaluation"]
        assert total == pytest.approx(sum(one["flops"] for one in own))
    ends = [f"{short(totals[arm])} ({arm})" for arm in (min(totals, key=totals.get), max(totals, key=totals.get))]
    assert f"Training FLOPs of an arm at one seed, with what is reused: {' to '.join(ends)}." in told(*asked)
    alike = told("plan", "data_mix", "--scale", "smoke", "--only", "base,no-vecap")
    assert "Training FLOPs" not in alike


def test_an_encoder_that_is_not_pre_trained_takes_no_steps_and_holds_its_weights_alone(told):
    stages = json.loads(told("plan", "encoder_scratch", "--scale", "smoke", "--only", "scratch", "--json"))["stages"]
    (encoder,) = (stage for stage in stages if stage["kind"] == "encoder")
    assert (encoder["steps"], encoder["flops"]) == (0, 0)
    assert encoder["memory_bytes"] == encoder["checkpoint_bytes"] == 4 * encoder["parameters"]


def test_a_run_says_at_first_that_most_of_it_is_pre_training_and_which_seeds_need_none(ask):
    pre_trains = r", most of it pre-training, which later runs reuse: encoder \d+ min, decoder .+ \("
    for seeds, slots, settings, told in (
        (2, 3, (), r"About \d+ min with 3 at a time{}seed 1; for seeds 0 and 300 it is shipped\)\."),
        (2, 1, ("encoder.synthetic_share=0.1", "decoder.learning_rate=0.001"), r".*{}seeds 0 and 1\)\."),
        ("300,", 1, (), r"About \d+ s with 1 at a time\."),
    ):
        settings = ("train.steps=20", "evaluate.questions=16", *settings)
        request = ask("base", scale="mini", seeds=seeds, settings=settings)
        text = time_text(make_plan(request.trials, request.ledger), request, slots)
        assert re.fullmatch(told.format(pre_trains), text), text


def test_a_stage_that_several_missing_ones_need_is_a_unit_of_its_own(ask):
    """Two evaluations of one model: the model is trained once, by itself, and both wait for it."""
    trials = [ask("base", settings=(f"evaluate.questions={count}",)).trials[0] for count in (8, 16)]
    plan = make_plan(trials, ask("base").ledger)
    assert sorted(task.kind for task in plan.tasks.values()) == ["decoder", "encoder", "multimodal", "trial", "trial"]
    model = trials[0].evaluation.model.fingerprint
    assert [plan.tasks[trial.fingerprint].needs for trial in trials] == [(model,)] * 2


def test_models_of_arms_that_are_not_asked_for_are_left_alone(ask, tmp_path, monkeypatch):
    """They are neither fetched nor missed, and the trials of these arms stay in the sweep."""

    def download(name: str, local_files_only: bool = False, **_: object) -> str:
        assert local_files_only, f"{name} is fetched"
        raise LocalEntryNotFoundError(name)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    path, arms = tmp_path / "two.yaml", ("{encoder: {size: owner/name}}", "{encoder: {size: /nowhere/tower}}")
    path.write_text(f"title: t\naxis: encoder\nrecipe: base\narms:\n  a: {{}}\n  b: {arms[0]}\n  c: {arms[1]}\n")
    request = ask("a", sweep=path)
    request.write_manifest()
    rows = [TrialRow("a", 0, request.trials[0].fingerprint), TrialRow("b", 0, "0123"), TrialRow("c", 0, "4567")]
    lines = [f"{row.arm},0,{row.fingerprint},{row_check(row)}\n" for row in rows]
    (request.folder / "trials.csv").write_text("arm,seed,fingerprint,check\n" + "".join(lines))
    assert [row.arm for row in request.write_manifest()] == ["a", "b", "c"]
    with pytest.raises(RequestError, match=r"^arm 'c': /nowhere/tower: there is no such folder"):
        ask("a", "c", sweep=path)


def test_nothing_is_deleted_if_what_it_took_cannot_be_trained_again(ask):
    """A GPU that is too small for training, though not for the evaluation."""
    asked = ask("base", settings=("hardware.gpu=h100", "hardware.memory=0.004"))
    (trial,), ledger = asked.trials, asked.ledger
    mark_done(ledger, trial.evaluation.model.fingerprint)
    mark_done(ledger, trial.fingerprint, is_trial=True)
    with pytest.raises(RequestError, match=r"multimodal"):
        forget_trials(asked.trials, asked, Inline())
    assert ledger.has_scores(trial.fingerprint) and ledger.has_weights(trial.evaluation.model.fingerprint)


def test_what_diverged_runs_again_only_anew_and_from_its_beginning(ask):
    request = ask("base", "captions", "interleaved")
    trials, ledger = request.trials, request.ledger
    joined, alone, other = (trial.evaluation for trial in trials)
    for stage in (joined, alone.model, other):
        ledger.record_failure(stage.fingerprint, "a stage", 1, "diverged", "loss is nan")
    partial = [ledger.partial_folder(stage.fingerprint) for stage in (joined.model, alone.model, other.model)]
    for folder in partial:
        folder.mkdir(parents=True)
    mark_done(ledger, joined.model.encoder.fingerprint)
    plan = make_plan(trials, ledger)
    assert not plan.tasks
    assert {plan.stages[trial.fingerprint].state for trial in trials} == {"diverged"}
    with pytest.raises(RequestError, match="there is no Ray cluster"):  # before anything is deleted
        forget_trials(trials[:2], request, RayTune("127.0.0.1:1"))
    assert not make_plan(trials, ledger).tasks
    forget_trials(trials[:2], request, Inline())
    plan = make_plan(trials, ledger)
    states = [plan.stages[trial.fingerprint].state for trial in trials]
    assert states == ["waits", "waits", "diverged"]
    assert [folder.exists() for folder in partial] == [False, False, True]
    assert ledger.has_weights(joined.model.encoder.fingerprint), "what it started from stays"


def test_with_other_benchmarks_a_model_that_diverged_is_not_trained_again(ask):
    """It and its evaluation are one task, but the training alone decides."""
    trials, ledger = ask("base").trials, ask("base").ledger
    for stage in trials[0].evaluation.model.inputs.values():
        mark_done(ledger, stage.fingerprint)
    work_list = WorkList(make_plan(trials, ledger).tasks, lambda stage: 0.0, 0, ledger)
    (task,) = work_list.ready()
    work_list.take(task)
    work_list.settle(task, Outcome("diverged", "loss is nan"))
    request = ask("base", settings=("evaluate.shots=[0]",))
    (trial,) = request.trials
    assert trial.fingerprint != trials[0].fingerprint
    done = complete(request, Inline(), lambda folder: [])
    assert done.work_list is None and done.plan.stages[trial.fingerprint].state == "diverged"
    assert {trial.fingerprint, trials[0].fingerprint, trial.evaluation.model.fingerprint} == set(ledger.diverged())
    mark_done(ledger, trial.evaluation.model.fingerprint)
    assert trial.evaluation.model.fingerprint not in ledger.diverged(), "another command has trained it"
    ledger.forget(trial.evaluation.model.fingerprint)
    forget_trials(request.trials, request, Inline())
    assert not ledger.diverged() and make_plan(request.trials, ledger).tasks


def test_sweeps_that_reckon_with_different_gpus_are_planned_one_at_a_time(here, refused):
    """The costs of all were those of the first one's scale."""
    scale = (SCALES / "smoke.yaml").read_text(encoding="utf-8")
    for name, more in (("a", ""), ("b", "hardware: {gpu: h200}\n")):
        write_text(here / name / "scales" / "smoke.yaml", scale + more)
        write_text(here / name / f"{name}.yaml", "title: T\nrecipe: base\narms: {base: {}}\n")
    error = refused("plan", "a/a.yaml", "b/b.yaml", "--scale", "smoke")
    assert "b/b.yaml and a/a.yaml have different scales or tokenizers; plan them one at a time" in error


def test_arms_that_read_rows_of_their_own_are_named_where_others_do_not(here, told):
    """An arm of no steps reads no rows, as LLaVA's sweep of one stage against two has it."""
    arms = "{base: {}, fine: {image_tokens: patches}, joined: {steps: 0}}"
    write_text(here / "fine.yaml", f"title: T\nrecipe: base\narms: {arms}\n")
    asked = ("plan", "fine.yaml", "--scale", "smoke", "--set", "sequence_length=512")
    assert "fine (36 image tokens), more than the scale's largest.\n" in told(*asked)
    (note,) = own_rows_note({"base": 0, "fine": 36}, {144: 9, 576: 16})  # of the user's data
    assert note.endswith("largest, 16; with --set image_tokens.577=36 all arms read the same rows.")
    (note,) = own_rows_note({"base": 0, "fine": 256}, {64: 64, 144: 144})
    assert note.endswith("with --set image_tokens.256=256 all arms read the same rows."), "it stands for itself"
    for same in (("--set", "image_tokens.576=36"), ("--only", "fine"), ("--only", "fine,joined")):
        assert "Rows of their own" not in told(*asked, *same)


def test_parameters_of_experts_stand_beside_the_active_ones(told):
    """Of a decoder by itself with its embeddings, of an arm without."""
    experts = told("plan", "moe", "--scale", "mini", "--only", "experts")
    assert re.search(r"^decoder .* 712K \(508K active\) ", experts, re.M), experts
    assert " active)" not in told("plan", "moe", "--scale", "mini", "--only", "dense")
    shown = told("show", "moe", "experts", "--scale", "mini")
    assert "parameters without embeddings: 762496\nof these active per token: 557696\n" in shown


def test_arms_with_different_connectors_have_different_parameters(here, told):
    arms = "{c-abstractor: {connector: c-abstractor}, average: {connector: average-pooling}}"
    write_text(here / "two.yaml", f"title: T\nrecipe: base\narms: {arms}\n")
    asked = ("show", "two.yaml", "c-abstractor", "average", "--scale", "mini")
    stages = json.loads(told("plan", "two.yaml", "--scale", "mini", "--json"))["stages"]
    planned = sorted(stage["parameters"] for stage in stages if stage["kind"] == "multimodal")
    values = json.loads(told(*asked, "--json"))
    assert sorted(sum(arm["parameters of parts"].values()) for arm in values.values()) == planned
    assert values["average"]["parameters of parts"]["connector"] == (64 + 1) * 128, "a linear projection"
    rows = [line.split() for line in told(*asked).splitlines()]
    (row,) = [row for row in rows if row[:3] == ["parameters", "of", "parts.connector"]]
    assert list(map(int, row[3:])) == [arm["parameters of parts"]["connector"] for arm in values.values()]
    assert not any("parts.encoder" in word for row in rows for word in row), "which is the same"
    heading = "# more than those above: with connector, embeddings, norms and biases\nparameters of parts:\n  encoder: "
    assert heading in told(*asked[:3], "--scale", "mini")


def test_an_evaluation_alone_keeps_no_checkpoints(ask):
    request = ask("base")
    for stage in request.trials[0].evaluation.chain():
        if stage.TRAINS:
            mark_done(request.ledger, stage.fingerprint)
    told = plan_text([request], plan_values([request]))
    assert re.search(r"^In total [\d.]+\w FLOPs\.$", told, re.M), told
