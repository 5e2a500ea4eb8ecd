"""What a plan reckons with, against what torch counts, and the plan of the paper's final models as a file."""

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from mm1_lab.config import (
    WORLD_DATA,
    Adapters,
    Cost,
    Hardware,
    MultimodalStage,
    Network,
    Recipe,
    RequestError,
    Scale,
    SftRecipe,
    load_scale,
    load_sweep,
    resolve,
)
from mm1_lab.data.batches import ConversationBatches, MixtureBatches, make_batch
from mm1_lab.data.packing import Packer, shares_left_out
from mm1_lab.data.types import Limits
from mm1_lab.data.world import World
from mm1_lab.model import add_adapters, build_decoder, build_mm1, connector_flops, count_parameters, read_rows
from mm1_lab.orchestrate.execution.ray_tune import RayTune
from mm1_lab.orchestrate.execution.worker import Worker
from mm1_lab.orchestrate.planning.cost import (
    GpuShare,
    estimate_stages,
    evaluation_share,
    fitted_resources,
    gpu_share,
    machine_slots,
    measured_slowness,
    memory_slots,
    stage_seconds,
    usual_seconds,
)
from mm1_lab.orchestrate.planning.feasible import check_feasible
from mm1_lab.orchestrate.planning.plan import make_plan
from mm1_lab.orchestrate.planning.plan_text import plan_values
from mm1_lab.results import Ledger
from mm1_lab.train.module import Training, language_loss
from tests.conftest import REPOSITORY, SCALES, calls_of, evaluation_of
from tests.small import rows_of

GOLDEN = REPOSITORY / "tests" / "golden" / "final_models-paper.txt"


def base(scale: Scale, **changes: object) -> MultimodalStage:
    recipe = load_sweep(REPOSITORY / "sweeps" / "data_mix.yaml").base.model_copy(update=changes)
    return resolve("base", recipe, scale, 0, WORLD_DATA).evaluation.model


def test_an_evaluation_of_a_model_that_cannot_be_built_is_refused(ask):
    """As with the connector of a file that the sweep no longer names, after the model was trained."""
    request = ask("base")
    (trial,) = request.trials
    model = trial.evaluation.model
    gone = model.model_copy(update={"connector": model.connector.model_copy(update={"kind": "mine@0123"})})
    task = SimpleNamespace(label="base / seed 0")
    plan = SimpleNamespace(missing=[(task, trial.evaluation.model_copy(update={"model": gone}))])
    with pytest.raises(RequestError, match=r"base / seed 0: connector 'mine' is from a file"):
        check_feasible(plan, request)


def test_training_in_fp32_takes_as_long_as_its_products(ask):
    seconds = []
    for precision in ("bf16-mixed", "32-true"):
        request = ask("base", scale="mini", settings=("hardware={gpu: h100}", f"precision={precision}"))
        estimates = estimate_stages(make_plan(request.trials, request.ledger), request)
        seconds.append(estimates[request.trials[0].evaluation.model.fingerprint].seconds)
    assert seconds[1] / seconds[0] == pytest.approx(989 / 67)


def test_pictures_count_in_a_plan_whose_scale_does_not_say_how_many_there_are():
    scale = load_scale("mini", SCALES)
    stage, network = base(scale), Network({"encoder": 0, "connector": 0, "decoder": 0, "embedding": 0}, 0.0, 100)
    untold = scale.model_copy(update={"images_per_row": {}})
    assert stage.cost(network, untold).flops > stage.cost(network, scale).flops
    assert stage.images_of_row("text", untold) == 0


def test_the_share_of_pages_that_fit_no_row_is_known(ask):
    """An MLP's 16 tokens per picture, in rows of 256; the base's 9 fit."""
    data, shares = World(), []
    for arm in ("c-abstractor 224 144", "mlp 224 256"):
        (trial,) = ask(arm, sweep="connector_beyond", scale="mini").trials
        shares.append(shares_left_out(trial.evaluation.model, data))
    pages = [page for row in range(4) for page in data.source("interleaved", 0).documents(row)]
    words = [len(data.tokenizer.encode(" ".join(p for p in page.parts if isinstance(p, str)))) for page in pages]
    too_long = [2 + count + 16 * len(page.pictures) > 256 for count, page in zip(words, pages, strict=True)]
    assert shares == [{}, {"interleaved": sum(too_long) / len(pages)}]


@pytest.mark.parametrize(
    ("frozen", "adapted"),
    [((), ()), (("connector", "encoder"), ()), (("decoder",), ()), (("encoder",), ("decoder",)), ((), ("encoder",))],
)
def test_flops_of_a_model_are_those_that_torch_counts(frozen, adapted):
    """One row of captions, forward and backward, part by part; the vocabulary by the positions that count."""
    scale, data = load_scale("mini", SCALES), World()
    # not the C-Abstractor: torch counts the gradients of its grouped convolutions as if they were dense
    lora = Adapters.model_validate(dict.fromkeys(adapted, 16))
    stage = base(scale, frozen=frozen, lora=lora, connector="average-pooling")
    model = build_mm1(stage, data.tokenizer)
    counts = count_parameters(model)
    adapters = add_adapters(model, stage)
    for part in frozen:
        getattr(model, part).requires_grad_(False)
    row = Packer.of(stage, data.tokenizer).pack(data.source("captions", 0).documents(0))
    batch = make_batch([row], ["captions"], stage.image_size, blind=False)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        language_loss(model.decoder, model(batch), batch, ["captions"]).main.backward()

    one_row = stage.training.model_copy(update={"steps": 1, "batch_size": 1})
    alone = stage.model_copy(update={"training": one_row, "shares": {"captions": 1.0}})
    scale = scale.model_copy(update={"images_per_row": {"captions": len(row.pictures)}})
    with torch.device("meta"):
        connector = connector_flops(build_mm1(stage, data.tokenizer))
    cost = alone.cost(Network(counts, connector, data.tokenizer.size, adapters=adapters), scale)
    assert cost.flops == pytest.approx(counter.get_total_flops(), rel=0.03)
    trained = sum(each.numel() for each in model.parameters() if each.requires_grad)
    whole = sum(each.numel() for each in model.parameters())
    assert (cost.gradients, cost.state) == (4 * trained, 12 * trained + 4 * whole)
    assert cost.checkpoint == 8 * trained + 4 * whole
    assert cost.weights == 4 * sum(counts.values()), "adapters are merged"


@pytest.mark.parametrize("name", ["302M", "302M-MoE"])
def test_flops_of_a_decoder_are_those_that_torch_counts(name):
    """Of the true size, at a thousand positions, on the meta device; experts at a size that can be computed."""
    mini = name.endswith("MoE")
    scale = load_scale("mini" if mini else "paper", SCALES)
    length, vocabulary = (256, 512) if mini else (1024, 48_000)
    phase = scale.decoder.phases[0].model_copy(update={"share": 1, "sequence_length": length, "batch_size": 1})
    training = scale.decoder.model_copy(update={"steps": 1, "phases": (phase,)})
    stage = base(scale, decoder=name).decoder
    stage = stage.model_copy(update={"training": training})
    batch = rows_of(torch.ones(1, length, dtype=torch.long))
    batch = batch if mini else batch.to("meta")
    with torch.device("cpu" if mini else "meta"), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as count:
        decoder = build_decoder(stage.size, vocabulary, length)
        if mini:
            decoder.set_experts_implementation("eager")  # a loop, of which torch sees each product
        embedded = torch.randn(1, length, stage.size.width, requires_grad=True)
        hidden = read_rows(decoder, embedded, batch).hidden
        decoder.lm_head(hidden).sum().backward()
    cost = stage.cost(Network(count_parameters(decoder), 0, vocabulary), scale)
    assert cost.flops == pytest.approx(count.get_total_flops(), rel=0.03)


def test_images_in_a_row_are_as_many_as_the_scale_says():
    scale, world = load_scale("mini", SCALES), World()
    stage = base(scale)
    packer = Packer.of(stage, world.tokenizer)
    for name in stage.shares:
        rows = [packer.pack(world.source(name, 0).documents(number)) for number in range(48)]
        mean = fmean(len(row.pictures) for row in rows)
        assert stage.images_of_row(name, scale) == pytest.approx(mean, rel=0.1, abs=0.01), name


@pytest.mark.parametrize("replay", [{}, {"captions": 0.1, "interleaved": 0.02, "text": 0.05}], ids=["alone", "replays"])
@pytest.mark.parametrize("views", [{}, {"resolution": 1344, "views": 5}], ids=["one view", "five views"])
def test_a_step_of_instruction_tuning_takes_about_as_many_rows_and_images_as_reckoned(views, replay):
    scale, world = load_scale("mini", SCALES), World()
    recipe = Recipe(sft=SftRecipe.model_validate({**views, "replay": replay}))
    stage = resolve("a", recipe, scale, 0, WORLD_DATA).evaluation.model
    sources = {name: world.instructions(name, 0, Limits.of(stage)) for name in stage.shares}
    read = ConversationBatches.of(stage, sources, world.tokenizer)
    if replay:
        replayed = {name: world.source(name, 0, Limits.of(stage)) for name in stage.replay}
        read = replace(read, replay=MixtureBatches.of_replay(stage, replayed, world.tokenizer))
    batches = [read(step) for step in range(6)]
    rows, images = fmean(len(batch.tokens) for batch in batches), fmean(len(batch.images) for batch in batches)
    assert stage.rows_per_step == pytest.approx(rows, rel=0.1)
    mean, most = stage.images_per_row(scale)
    assert stage.rows_per_step * mean == pytest.approx(images, rel=0.1)
    assert most == pytest.approx(max(max(batch.image_counts) for batch in batches), rel=0.35)


def test_each_gpu_holds_its_share():
    """State, copies and gathered layers; activations of the rows at a time; logits up to their bound."""
    scale = load_scale("smoke", SCALES)
    one_row = load_scale("smoke", SCALES, settings=("resources.micro_batch=1",))
    none = {"flops": 0.0, "parameters": 0, "active": 0, "weights": 0, "checkpoint": 0}
    how = {"gradients": 120e9, "copies": 10e9, "activations": 3e9, "late": 1.5e9}
    how |= {"logits": 0.5e9, "gathered": 4e9}
    cost = Cost(**none, **how, state=620e9, rows=512, divisible=True)
    h100 = Hardware(gpu="h100", count=512)
    # of 72 GB, 500 / 16 + 4 leave 36.75, and of these the logits take up to 2: 8 rows of 3 fit, 16 do not
    assert gpu_share(cost, 16, scale, h100) == GpuShare(16, 8, True, 31.25e9 + 4e9 + 24e9 + 2e9, True)
    assert gpu_share(cost, 16, one_row, h100) == GpuShare(16, 1, False, 31.25e9 + 4e9 + 7.5e9 + 1.5e9, True)
    assert gpu_share(cost, 512, scale, h100).rows == 1 and not gpu_share(cost, 512, scale, h100).divided
    assert not gpu_share(cost, 8, scale, h100).fits, "500 / 8 + 4 + 15 + 1.5"
    assert gpu_share(cost, 8, scale, Hardware(gpu="h200", count=8)).fits
    half = load_scale("smoke", SCALES, settings=("resources.gpus=0.5",))
    large = Hardware(gpu="h100", count=512, memory=160)
    assert gpu_share(cost, 16, half, large) == gpu_share(cost, 16, scale, h100), "two stages share a GPU"
    alone = gpu_share(cost, 1, scale, Hardware(gpu="h100", memory=1000))
    assert alone.rows == 64 and alone.held == 500e9 + 120e9 + 10e9 + 64 * 3e9 + 0.7 * 2e9, "in the second forward pass"
    images = replace(cost, divisible=False)
    assert gpu_share(images, 16, scale, h100).rows == 32, "a contrastive loss compares all pairs"
    nodes = gpu_share(replace(cost, state=300e9, gradients=60e9), 16, scale, h100)
    assert nodes.held == 240e9 / 8 + 4e9 + 8 * 3e9 + 2e9, "each node holds the model"


def test_as_few_gpus_as_hold_it_divide_an_evaluated_model():
    scale, h100 = load_scale("smoke", SCALES), Hardware(gpu="h100")
    cost = Cost(
        flops=0.0, parameters=0, active=0, weights=0, checkpoint=0, rows=1,
        state=132e9, layers=120e9, activations=10e9, gathered=4e9,
    )  # fmt: skip
    assert evaluation_share(cost, 20, scale, h100) == GpuShare(20, 1, False, 12e9 + 30e9 + 4e9 + 10e9, True, shards=4)
    small = replace(cost, state=40e9, layers=30e9)
    assert evaluation_share(small, 20, scale, h100) == GpuShare(20, 1, False, 50e9, True)
    assert not evaluation_share(cost, 1, scale, h100).fits
    five = replace(cost, state=212e9, layers=200e9)
    assert evaluation_share(five, 40, scale, h100).shards == 8, "groups of five would lie on two nodes of eight"
    larger = replace(cost, state=312e9, layers=300e9)  # which seven or more hold
    assert evaluation_share(larger, 10, scale, h100).shards == 10, "no number within a node does"
    assert [evaluation_share(larger, gpus, scale, h100).shards for gpus in (7, 12, 24)] == [7, 12, 8]
    asked = load_scale("smoke", SCALES, settings=("resources.evaluation_shards=2",))
    assert evaluation_share(cost, 20, asked, h100) == GpuShare(20, 1, False, 12e9 + 60e9 + 14e9, False, shards=2)
    assert evaluation_share(small, 1, asked, h100).shards == 1, "a team of one"


@pytest.mark.usefixtures("few_documents", "unrendered")
def test_plan_and_run_refuse_what_does_not_fit_and_compute_the_rows_that_do(place, monkeypatch, told):
    monkeypatch.chdir(place.folder)
    monkeypatch.setattr(RayTune, "open", lambda executor, scale: setattr(executor, "slots", 2))

    def asked(command: str, memory: float, *settings: str, code: int = 0) -> str:
        words = [*command.split(), "data_mix", "--only", "captions", "--scale", "smoke"]
        for setting in (f"hardware={{gpu: h100, memory: {memory}}}", *settings):
            words += ["--set", setting]
        return told(*words, code=code)

    stored = "resources.gradient_checkpointing=false"
    too_small = asked("plan", 0.003, stored, code=2)
    assert asked("run --inline", 0.003, stored, code=2).endswith(too_small) and too_small.count("\n") == 1
    text = "on each of 1 h100, of which it may use 2.7 MB; use more `workers`{}, or a smaller model"
    remedy = ", --set resources.gradient_checkpointing=auto"
    assert text.format(remedy) in too_small, "not a smaller batch than one row"
    assert text.format("") in asked("plan", 0.003, code=2)
    moved = asked("plan", 1, "gradient_checkpointing=true", code=2)
    assert "unknown key 'gradient_checkpointing'; did you mean resources.gradient_checkpointing?" in moved
    several = ("resources.gradient_checkpointing=true", "resources.micro_batch=2")
    assert text.format(", a smaller resources.micro_batch") in asked("plan", 0.003, *several, code=2)
    assert "2 `workers`, but hardware.count is 1" in asked("plan", 1, "workers={85M: 2}")
    assert "2 `workers`, but hardware.count is 1" in asked("run", 1, "workers={85M: 2}", code=2)
    of_scale = ("data_mix", "--only", "base", "--scale", "smoke", "--set", "resources.gpus=1")
    assert "Without `hardware` in the scale nothing says what a GPU holds" in told("plan", *of_scale)
    assert "Without `hardware`" not in asked("plan", 1, "resources.gpus=1")
    large = "evaluate.batch_size=4096"
    assert "`run` refuses evaluation: 177 KB of state and " in asked("plan", 0.01, large)
    assert "use a smaller evaluate.batch_size (--set)" in asked("run --inline", 0.01, large, code=2)

    plan = asked("plan", 0.012)
    assert re.search(r"decoder +to run .* 1 +2 +5.71 MB", plan), "all"
    assert re.search(r"multimodal +waits .* 1 +2 +9.45 MB", plan), "two of four rows"
    steps = calls_of(monkeypatch, Training, "forward")
    again = calls_of(monkeypatch, PreTrainedModel, "activation_checkpointing_enable")
    short = [f"{name}.steps=2" for name in ("encoder", "decoder", "train")]
    short += ["evaluate.questions=8", "evaluate.shots=[0]"]
    asked("run --inline", 0.012, *short)
    rows = [len(getattr(batch, "tokens", ())) for _, batch, *_ in steps]
    assert rows[-4:] == [2] * 4 and 8 in rows, "the decoder's first phase is not divided"
    assert not again, "half of the rows fit"
    assert re.search(r"multimodal +waits .* 1 +1 +5.08 MB", asked("plan", 0.008)), "a second pass would gain no row"
    assert re.search(r"multimodal +waits .* 1 +2, recomputed +7.47 MB", asked("plan", 0.01))
    asked("run --inline --anew", 0.01, *short)
    assert [len(batch.tokens) for _, batch, *_ in steps[-4:]] == [2] * 4 and len(again) == 2, "encoder and decoder"


@pytest.mark.soak
@pytest.mark.parametrize("sweep", sorted(path.stem for path in (REPOSITORY / "sweeps").glob("*.yaml")))
def test_what_the_paper_asks_fits_its_gpus(sweep, ask):
    plan_values([ask(sweep=sweep, scale="paper")])


@pytest.mark.usefixtures("here", "within_a_gigabyte")
def test_the_papers_final_models_are_planned_without_weights_or_memory(told):
    """`UPDATE_GOLDEN=1` rewrites the file."""
    options = ("--scale", "paper", "--results", "results", "--store", "store")
    assert "refuses" not in told("plan", "final_chat", *options)
    plan = told("plan", "final_models", *options)
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text(plan, encoding="utf-8")
    assert plan == GOLDEN.read_text(encoding="utf-8")


def test_processes_divide_the_papers_largest_models_as_planned(ask, monkeypatch):
    """Of 20 for each model, which one GPU, two and four hold."""
    request = ask("3B", "30B", "3B-MoE", sweep="final_models", scale="paper")
    fitted = fitted_resources(make_plan(request.trials, request.ledger), request)
    told = []
    monkeypatch.setattr("mm1_lab.evaluate.run.evaluate", lambda *given: told.append(given[5]))
    monkeypatch.setattr("mm1_lab.team.size", lambda: 20)
    monkeypatch.setattr(Worker, "_reset_process", lambda *_: None)
    monkeypatch.setattr(Worker, "_data", lambda *_: None)
    monkeypatch.setattr(Ledger, "weights", lambda *_: None)
    for trial in request.trials:
        with pytest.raises(AttributeError, match="held_out_loss"):
            Worker(request.ledger, None, request.scale, fitted=fitted)._score([trial], lambda progress: None)
    assert told == [1, 2, 4]


def test_an_evaluation_that_no_shards_make_fit_costs_what_whole_models_would(ask):
    """As a smaller batch fits fewer GPUs."""
    settings = ("evaluate.batch_size=4096", "hardware.memory=1")
    request = ask("base", scale="mini", settings=("hardware={gpu: h100, count: 2}", "workers={1.2B: 2}", *settings))
    evaluation = request.trials[0].evaluation
    estimate = estimate_stages(make_plan(request.trials, request.ledger), request)[evaluation.fingerprint]
    assert estimate.share and estimate.share.shards == 2 and not estimate.share.fits
    assert "on each of 2 h100s (2 divide its layers), of which" in estimate.refused
    hardware = request.scale.hardware
    assert hardware
    operations = hardware.peak(evaluation.precision) * hardware.mfu * 2
    assert estimate.seconds == pytest.approx(estimate.cost.flops / operations)
    assert "; use a smaller evaluate.batch_size (--set), or" in estimate.refused
    alone = ask("base", scale="mini", settings=("hardware={gpu: h100, memory: 0.016}", "evaluate.batch_size=1"))
    refused = estimate_stages(make_plan(alone.trials, alone.ledger), alone)[alone.trials[0].fingerprint].refused
    assert "; use more `workers`, a smaller evaluate.batch_size (--set), or" in refused, "its layers take most"


def enter(folder: Path, stage: MultimodalStage, seconds: float) -> None:
    folder.mkdir(parents=True)
    timings = {stage.name: {"seconds": seconds, "flops": stage.flops(), "positions": stage.positions()}}
    (folder / "timings.json").write_text(json.dumps(timings), encoding="utf-8")


def test_measurements_of_this_machine_go_before_the_usual_speeds(tmp_path):
    """The median, without those too short to tell, and without what waited at `smoke`; a stage twice as long takes
    twice the time."""
    ledger, stage = Ledger(tmp_path / "results", tmp_path / "store"), evaluation_of(scale="mini").model
    usual = stage_seconds(stage, measured_slowness(ledger))
    assert usual == pytest.approx(usual_seconds("multimodal", stage.positions(), stage.flops()))
    for number, seconds in enumerate((9.0, 90.0, 100.0, 500.0)):
        enter(ledger.store / str(number), stage, seconds)
    for number in range(5):
        enter(ledger.store / f"smoke {number}", evaluation_of(scale="smoke").model, 20.0)
    (ledger.store / "broken").mkdir()
    (ledger.store / "broken" / "timings.json").write_text("[]", encoding="utf-8")
    slowness = measured_slowness(ledger)
    assert stage_seconds(stage, slowness) == pytest.approx(100)
    training = stage.training.model_copy(update={"steps": 2 * stage.training.steps})
    assert stage_seconds(stage.model_copy(update={"training": training}), slowness) == pytest.approx(200)
    aligned = stage.model_copy(update={"aligns": True})
    assert 80 < stage_seconds(aligned, slowness) < 90, "parts that are frozen take less"
    enter(ledger.store / "aligned", aligned, 1000.0)
    slowness = measured_slowness(ledger)
    assert stage_seconds(aligned, slowness) == pytest.approx(1000) and stage_seconds(stage, slowness) == pytest.approx(
        100
    )


def test_stages_are_estimated_as_they_were_measured():
    """Seconds, at `mini` on a core with little beside it; a decoder of 2.9B has 320 times the FLOPs of one of 9M."""
    found = [(usual_seconds("decoder", 1.382e7, 7.64e11), 519), (usual_seconds("decoder", 1.382e7, 2.47e14), 6556)]
    mix = {"replay": {"captions": 0.05, "interleaved": 0.05, "text": 0.03}}
    tiled = {"resolution": 1344, "views": 5}
    for sft, steps, measured in (({}, 300, 139), ({"resolution": 672}, 300, 226), (tiled, 300, 818), (mix, 2400, 2225)):
        scale = load_scale("mini", SCALES, settings=(f"sft.steps={steps}",))
        stage = resolve("a", Recipe(sft=SftRecipe.model_validate(sft)), scale, 0, WORLD_DATA).evaluation.model
        found.append((stage_seconds(stage, {}), measured))
    for estimated, measured in found:
        assert measured / 1.5 < estimated < 1.5 * measured


def test_no_more_processes_start_than_memory_or_gpus_hold(monkeypatch, capsys):
    """Of eight cores with 4 GB free, unless somebody has named the cores."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")  # Ray reads it when it is loaded, and other tests start one
    monkeypatch.setattr("mm1_lab.orchestrate.planning.cost.free_memory", lambda: 4e9)
    monkeypatch.setattr("mm1_lab.orchestrate.planning.cost.machine_cpus", lambda: 8)
    monkeypatch.setattr("ray.nodes", lambda: [{"Alive": True, "Resources": {"CPU": 8}}])
    monkeypatch.setattr(RayTune, "_start", lambda executor, scale: None)
    monkeypatch.setattr(RayTune, "_join", lambda *_: None)
    for address, settings, slots in ((None, (), 3), (None, ("resources.cpus=1",), 8), ("10.0.0.1:1", (), 8)):
        executor = RayTune(address, settings)
        executor.open(scale := load_scale("mini", SCALES))
        told = (
            "3 at a time, not 8: each takes about 1.1 GB of memory, and no more is free; --set resources.cpus=1 takes 8"
        )
        assert executor.slots == slots and capsys.readouterr().out == (f"{told}\n" if slots == 3 else "")
        assert address or machine_slots(scale, settings) == slots
    gpus = load_scale("mini", SCALES, settings=("resources.gpus=0.1",))
    assert memory_slots(gpus) > memory_slots(load_scale("mini", SCALES, settings=("workers={85M: 5}",))) == 5
    # stages that take a GPU share this machine's
    on_gpus = load_scale("smoke", SCALES, settings=("resources.cpus=2", "resources.gpus=1"))
    monkeypatch.setattr("mm1_lab.orchestrate.planning.cost.machine_cpus", lambda: 64)
    for gpus, most in ((0, 1), (2, 2), (99, 32)):
        monkeypatch.setattr("torch.cuda.device_count", lambda count=gpus: count)
        assert machine_slots(on_gpus) == most
