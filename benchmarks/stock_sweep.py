"""The reference for orchestration: the same trials with Ray Tune, Lightning and MLflow in their default settings.

Tune runs each trial in a new process; a Trainer has its default logger, checkpoints and progress bar; Ray's MLflow
callback writes to SQLite. Each trial reports once, its final scores. Model, data, loss, optimiser and evaluation are
ours.

    python -m benchmarks.stock_sweep PARTS RATES     a sweep over the learning rates (a JSON list)
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mm1_lab.config import EvaluationStage, Resources, load_scale, load_sweep, resolve

if TYPE_CHECKING:
    from mm1_lab.evaluate.run import Evaluation

STARTED, STEPPED, ENDED = "started", "stepped", "ended"
"""Suffixes of the files that trials create in the sweep's folder: once everything is imported, after their first
training step, and before they report (Tune's own files are copied there at the end of the sweep)."""


def trial_stage(rate: float) -> EvaluationStage:
    """The last stage of the base trial at smoke scale, with another learning rate."""
    from benchmarks.setting import SWEEP
    from mm1_lab.data.world import World

    scale = load_scale("smoke", SWEEP.parent / "scales")
    recipe = load_sweep(SWEEP).base.model_copy(update={"learning_rate": rate})
    return resolve("rate", recipe, scale, 0, World().identity).evaluation


def tune_rates(parts: str, rates: list[float]) -> None:
    """A Tune run in the current folder, with one trial per learning rate.

    `parts` is the folder with the trained encoder and decoder, by fingerprint.
    """
    import ray
    from ray import tune
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    from mm1_lab.machine import machine_cpus

    here = Path.cwd()
    ray.init(address="local", num_cpus=machine_cpus(), include_dashboard=False)
    callback = MLflowLoggerCallback(tracking_uri=f"sqlite:///{here / 'mlflow.db'}", experiment_name="rates")
    results = tune.Tuner(
        tune.with_resources(stock_trial, {"cpu": 1}),
        param_space={"learning_rate": tune.grid_search(rates), "parts": parts, "here": str(here)},
        run_config=tune.RunConfig(name="rates", storage_path=str(here), callbacks=[callback]),
    ).fit()
    ray.shutdown()
    if results.num_errors:
        raise SystemExit(f"{results.num_errors} trials failed")


def stock_trial(config: dict[str, Any]) -> None:
    """Run by Tune: trains with a default Trainer, evaluates, and reports the mean score of each benchmark."""
    from ray import tune

    started = Path(config["here"]) / f"{config['learning_rate']}.{STARTED}"
    evaluation = train_and_evaluate(trial_stage(config["learning_rate"]), Path(config["parts"]), started)
    started.with_suffix(f".{ENDED}").touch()
    scores: dict[str, list[float]] = {}
    for row in evaluation.scores:
        scores.setdefault(f"{row.benchmark}-{row.shots}-shot", []).append(row.score)
    losses = {f"held-out-{name}": loss for name, loss in evaluation.held_out_loss.items()}
    tune.report({name: sum(values) / len(values) for name, values in scores.items()} | losses)


def train_and_evaluate(stage: EvaluationStage, parts: Path, started: Path | None = None) -> Evaluation:
    """Trains our model, batches, loss and optimiser in a Trainer that sets only length and gradient clipping."""
    import lightning.pytorch as pl

    from benchmarks.setting import mixture_batches, multimodal_stage, trained_parts
    from mm1_lab.data.batches import Batch
    from mm1_lab.data.world import World
    from mm1_lab.evaluate.run import evaluate
    from mm1_lab.model import build_mm1, load_weights, save_weights
    from mm1_lab.train.fit import DataModule
    from mm1_lab.train.module import Losses, Training, language_loss
    from mm1_lab.train.stages import seed_everything

    if started:
        started.touch()
    data, trained = World(), multimodal_stage(stage)
    encoder, decoder = trained_parts(trained)
    seed_everything(trained)
    model = build_mm1(trained, data.tokenizer)
    load_weights(model.encoder, parts / encoder.fingerprint)
    load_weights(model.decoder, parts / decoder.fingerprint)

    def objective(batch: Batch) -> Losses:
        return language_loss(model.decoder, model(batch), batch, list(trained.shares))

    class Step(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            if started and trainer.global_step == 1:
                started.with_suffix(f".{STEPPED}").touch()

    steps, clip = trained.training.steps, trained.training.max_grad_norm
    trainer = pl.Trainer(max_steps=steps, max_epochs=-1, gradient_clip_val=clip, callbacks=[Step()])
    module = Training(model, objective, trained.training, trained.precision)
    trainer.fit(module, datamodule=DataModule(mixture_batches(trained, data), steps, Resources()))
    folder = Path.cwd() / "model"
    folder.mkdir()
    save_weights(model, folder, trained)
    return evaluate(stage, folder, data, lambda progress: None)


if __name__ == "__main__":
    from benchmarks import stock_sweep  # so that Tune's processes can import the trial by module name

    stock_sweep.tune_rates(sys.argv[1], json.loads(sys.argv[2]))
