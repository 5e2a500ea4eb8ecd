"""Runs over learning rates from a search's results folder."""

import math

import pandas as pd

from analysis.law.fit import Objective, Runs
from analysis.seeds import caution
from mm1_lab.config import Size
from mm1_lab.results.reading import Variant, read_held_out, read_records, read_scores
from mm1_lab.results.summary import held_out_loss, measures, shot_means

HELD_OUT = "held-out loss"
LEVELS = "Compare slopes with MM1's, not levels: batch and length differ from the paper's"


def search_runs(variant: Variant) -> Runs:
    """The finished and diverged runs of a search, with two objectives: the held-out loss, which says something at every
    size, and the average at the largest number of shots, as in the paper."""
    scores = measures(read_scores(variant))
    most_shots = shot_means(scores["measure"])[-1]
    average = f"{most_shots} average"
    averages = scores[scores["measure"] == most_shots].set_index(["arm", "seed"])["value"].to_dict()
    losses: dict[tuple[object, object], dict[str, float]] = {}
    for loss in read_held_out(variant).itertuples():
        losses.setdefault((loss.arm, loss.seed), {})[str(loss.source)] = float(str(loss.loss))
    diverged = variant.ledger.diverged()
    params, share = {}, 1.0
    for record in read_records(variant).values():
        model = record["config"]["model"]
        params[record["recipe"]["decoder"]] = float(Size.model_validate(model["decoder"]["size"]).parameters().dense)
        share = model.get("training", {}).get("lr_multipliers", {}).get("decoder", 1.0)
    rows = []
    for trial in variant.trials.itertuples():
        recipe = variant.manifest.sweep.arms[str(trial.arm)]
        is_known = recipe.decoder in params and (trial.done or trial.fingerprint in diverged)
        if not is_known or recipe.images != "shown":
            continue
        name = str(trial.arm).rpartition(" ")[0]  # `9M 0.001` is of 9M
        row = {"name": name, "params": params[recipe.decoder], "learning_rate": float(recipe.learning_rate)}
        row |= {"seed": trial.seed, "arm": trial.arm, average: math.nan, HELD_OUT: math.nan}
        if trial.done:
            row[average] = averages[trial.arm, trial.seed]
            row[HELD_OUT] = held_out_loss(losses[trial.arm, trial.seed], recipe.data_mix.shares())
        rows.append(row)
    manifest = variant.manifest
    own = "." if share == 1 else f", and the decoder learns at {share:g} × this rate."
    seeds = caution(manifest, sorted(set(variant.done["seed"])))
    return Runs(
        title=", ".join([f"scale {manifest.scale}", f"data {manifest.data_name}", *manifest.overrides]),
        points=pd.DataFrame(rows),
        objectives=(Objective(HELD_OUT, True, "nats per text token"), Objective(average, False, "points")),
        cautions=(LEVELS + own, seeds) if seeds else (LEVELS + own,),
    )
