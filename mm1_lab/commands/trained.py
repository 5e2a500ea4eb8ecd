"""Commands for trained arms: export, chat."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from mm1_lab.commands import common as opt
from mm1_lab.commands.common import DONE, command, confirmation_of, option, repeated, request_of
from mm1_lab.config import RequestError
from mm1_lab.files import expanded
from mm1_lab.formatting import counted
from mm1_lab.results.score_file import read_score_table

if TYPE_CHECKING:
    from mm1_lab.orchestrate.planning.request import Request


@command(
    "data_mix --only base model",
    *opt.ARMS,
    option("folder", "a folder to create; of several trials FOLDER/ARM/seed-N", "FOLDER", type=expanded),
    option("--as", "mm1 (default), or its decoder alone", dest="form", choices=("mm1", "decoder"), default="mm1"),
)
def export(options: argparse.Namespace) -> int:
    """Export a trained arm as a Hugging Face model folder; several trials to FOLDER/ARM/seed-N."""
    request = _trained(options)
    new = {options.folder: request.trials[0]}
    if len(request.trials) > 1:
        new = {options.folder / trial.arm / f"seed-{trial.seed}": trial for trial in request.trials}
    for folder, trial in new.items():
        if len(new) > 1 and ("/" in trial.arm or not trial.arm.strip(".")):
            raise RequestError(f"arm {trial.arm!r}: no folder has such a name; export it alone, at one seed a time")
        if folder.exists() and (not folder.name or not folder.is_dir() or any(folder.iterdir())):
            raise RequestError(f"{folder}: already exists; give a new folder")
    from analysis.pages.model_card import model_card
    from mm1_lab.orchestrate.exporting import export_trial

    for folder, trial in new.items():
        done = request.ledger.has_intact_scores(trial.fingerprint)
        card = model_card(
            f"{request.variant} at {request.scale_name}: {trial.name}",
            options.form,
            request.ledger.record(trial.fingerprint) if done else None,
            read_score_table(request.ledger.trial_folder(trial.fingerprint)) if done else None,
            trial.evaluation.model,
        )
        export_trial(request, trial, options.form, folder, card)
        print(folder, flush=True)
    return DONE


@command(
    "sft_resolution --only 336 --image photo.jpg",
    *opt.ARMS,
    repeated("--image", "an image for the first turn; may be repeated", "FILE", type=expanded),
)
def chat(options: argparse.Namespace) -> int:
    """Chat with a trained arm."""
    request = _trained(options, is_one=True)
    (trial,) = request.trials
    from mm1_lab import team
    from mm1_lab.data.pixels import ImageDecoder
    from mm1_lab.evaluate.run import load_to_answer
    from mm1_lab.orchestrate.conversation import Chat, open_image

    stage = trial.evaluation.model
    decoder = ImageDecoder(stage.data.shape)
    waiting = [open_image(path, decoder) for path in options.image]
    data = request.open_data()
    team.allow_gpu(request.scale.resources.gpus > 0)
    talk = Chat(stage, load_to_answer(stage, request.weights_of(trial), data), data)
    if not stage.tuned:
        print(f"{trial.arm} is not tuned on instructions: it goes on with what you type.")
    print("Type a message. `/image FILE` adds an image to the next one, `/new` starts over, an empty line quits.")
    while said := _typed():
        typed, _, rest = said.partition(" ")
        try:
            if typed == "/image":
                waiting.append(open_image(expanded(rest.strip()), decoder))
                print(f"{counted(len(waiting), 'image')} for the next message")
                continue
            if typed == "/new":
                talk.forget()
            else:
                answer = talk.say(said, waiting)
                print(f"{trial.arm}: {answer}{' […]' if talk.is_cut else ''}", flush=True)
            waiting = []
        except RequestError as error:
            print(error)
    return DONE


def _trained(options: argparse.Namespace, is_one: bool = False) -> Request:
    """The request for trained trials; imports nothing heavy. Raises RequestError if one is not trained, or if it is to
    be one trial (also of a search, whose arms are others than its file's) and is not."""
    request = confirmation_of(options) or request_of(options, options.sweep)
    if len(request.trials) != 1 and (is_one or request.sweep.search):
        arm = "its arm in a sweep of its own" if request.sweep.search else "--only ARM"  # which searches refuse
        raise RequestError(f"this command needs one trial, not {len(request.trials)}; give {arm} and one seed")
    for trial in request.trials:
        request.weights_of(trial)
    return request


def _typed() -> str:
    """A line of user input; empty at the end of the input."""
    try:
        return input("You: ").strip()
    except EOFError:
        return ""
