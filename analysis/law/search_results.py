"""Runs over learning rates from a search's results folder."""

import math

import pandas as pd

from analysis.law.fit import Objective, Runs
from analysis.seeds import caution
from analysis.statistics import Interval, mean_of
from mm1_lab.config import Size
from mm1_lab.results.reading import Variant, read_held_out, read_records, read_scores
from mm1_lab.results.summary import held_out_loss, measures, shot_means

HELD_OUT = "held-out loss"


def search_runs(variant: Variant) -> Runs:
    """The runs of a search, with the average at the largest number of shots and the held-out loss as objectives.

    The average stands first, as in the paper, if it is above the blind control's at every size; otherwise it says
    nothing about how models use their images, and the loss does.
    """
    frame, average = _trials(variant)
    objectives = [Objective(average, False, "points"), Objective(HELD_OUT, True, "nats per text token")]
    leads, weak = [], []
    for name, rows in frame.groupby("name", sort=False):
        lead = _lead_over_blind(rows, average)
        least = math.nan
        if lead:
            interval = "" if math.isnan(lead.low) else f" [{lead.low:+.1f}, {lead.high:+.1f}]"
            leads.append(f"{name} {lead.estimate:+.1f}{interval}".replace("-", "−"))
            least = lead.estimate if math.isnan(lead.low) else lead.low
        if not least > 0 and rows[average].notna().any():  # a size that diverged at every rate says nothing
            weak.append(str(name))
    note = f"The {average} at the best rate − blind control, points: {', '.join(leads) or 'not known yet'}."
    if weak:
        objectives.reverse()
        note += f" At {', '.join(weak)} it is not shown to be above the control's, so the {HELD_OUT} stands in front."

    manifest = variant.manifest
    record = next(iter(read_records(variant).values()), {})
    training = record.get("config", {}).get("model", {}).get("training", {})
    share = training.get("lr_multipliers", {}).get("decoder", 1)
    own = "" if share == 1 else f"the decoder learns at {share:g} × this rate, and "
    levels = f"Compare slopes with MM1's, not levels: {own}batch and length differ from the paper's."
    seeds = caution(manifest, sorted(set(variant.done["seed"])))
    return Runs(
        title=", ".join([f"scale {manifest.scale}", f"data {manifest.data_name}", *manifest.overrides]),
        points=frame[frame["images"] == "shown"].drop(columns="images").reset_index(drop=True),
        objectives=tuple(objectives),
        notes=(note,),
        cautions=(levels, seeds) if seeds else (levels,),
    )


def _trials(variant: Variant) -> tuple[pd.DataFrame, str]:
    """A row per finished or diverged trial, blind controls too, and the name of the column of the average."""
    scores = measures(read_scores(variant))
    most_shots = shot_means(scores["measure"])[-1]
    average = f"{most_shots} average"
    averages = scores[scores["measure"] == most_shots].set_index(["arm", "seed"])["value"].to_dict()
    losses: dict[tuple[object, object], dict[str, float]] = {}
    for loss in read_held_out(variant).itertuples():
        losses.setdefault((loss.arm, loss.seed), {})[str(loss.source)] = float(str(loss.loss))
    diverged = variant.ledger.diverged()
    params = {}
    for record in read_records(variant).values():
        size = Size.model_validate(record["config"]["model"]["decoder"]["size"])
        params[record["recipe"]["decoder"]] = float(size.parameters().dense)
    rows = []
    for trial in variant.trials.itertuples():
        recipe = variant.manifest.sweep.arms[str(trial.arm)]
        if recipe.decoder not in params or not (trial.done or trial.fingerprint in diverged):
            continue
        name = str(trial.arm).removesuffix(" blind").rpartition(" ")[0]  # `9M 0.001 blind` is of 9M
        row = {"name": name, "params": params[recipe.decoder], "learning_rate": float(recipe.learning_rate)}
        row |= {"seed": trial.seed, "arm": trial.arm, "images": recipe.images, average: math.nan, HELD_OUT: math.nan}
        if trial.done:
            row[average] = averages[trial.arm, trial.seed]
            row[HELD_OUT] = held_out_loss(losses[trial.arm, trial.seed], recipe.data_mix.shares())
        rows.append(row)
    return pd.DataFrame(rows), average


def _lead_over_blind(runs: pd.DataFrame, average: str) -> Interval | None:
    """Average at the best rate of a size minus that of its blind control, in points, over seeds; None without one."""
    shown, blind = runs[runs["images"] == "shown"], runs[runs["images"] == "blind"]
    averages = shown.groupby("learning_rate")[average].mean().dropna()
    if averages.empty or blind.empty:
        return None
    best = shown[shown["learning_rate"] == averages.idxmax()].set_index("seed")[average]
    return mean_of((best - blind.set_index("seed")[average]).dropna().tolist())
