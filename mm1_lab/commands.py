"""What each command of `mm1-lab` does. Knows every other module; whatever is heavy is imported by the command that
needs it. A command's docstring is its help."""

from __future__ import annotations

import argparse
import hashlib
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mm1_lab import options as opt
from mm1_lab.config import RequestError, nearest
from mm1_lab.files import SHIPPED, Busy
from mm1_lab.formatting import counted
from mm1_lab.options import PARTS, RESULTS, STUDY, command, option, repeated, switch
from mm1_lab.results import Ledger, TrialRow, variant_name
from mm1_lab.results.manifest import read_manifest, read_trials
from mm1_lab.results.parts import Parts
from mm1_lab.results.reading import list_variants

if TYPE_CHECKING:
    from mm1_lab.orchestrate.request import Request

DONE, FAILED = 0, 1
"""Exit codes: all done; a trial, or a gate, failed."""


@command(
    "data_mix encoder connector --seeds 3",
    option(
        "sweeps", "a YAML file, or the name of one in sweeps/; what several share is shown once", "SWEEP", nargs="+"
    ),
    opt.ONLY,
    *opt.REQUEST,
    *opt.UNTIL_DECIDED,
    opt.NO_PARTS,
)
def plan(options: argparse.Namespace) -> int:
    """What would run, and what it costs."""
    from mm1_lab.orchestrate.lr_search import with_grid
    from mm1_lab.orchestrate.report import plan_text

    requests = [with_grid(_request(options, sweep)) for sweep in options.sweeps]
    print(plan_text(requests))
    if looks := _looks(options, requests[0]):
        from analysis.looks import looks_text

        print(looks_text(looks))
    return DONE


@command(
    "sweeps/data_mix.yaml --set train.steps=200",
    *opt.ARMS,
    *opt.EXECUTOR,
    *opt.UNTIL_DECIDED,
    option("--budget", "with --until-decided: begin no look that would not end in it", "6h"),
    switch("--anew", "make again what was made with other code of a connector or metric than it has now"),
    opt.NO_PARTS,
)
def run(options: argparse.Namespace) -> int:
    """Run what is missing of a sweep."""
    from analysis import draw_sweep, sweep_in_short
    from mm1_lab.orchestrate.code_changes import forget_changed
    from mm1_lab.orchestrate.executor import make_executor
    from mm1_lab.orchestrate.growing import parse_budget, run_until_decided
    from mm1_lab.orchestrate.lr_search import load_search, run_search
    from mm1_lab.orchestrate.sweeping import run_sweep

    request = _request(options, options.sweep)
    request.ledger.check_writable()
    looks, budget = _looks(options, request), parse_budget(options.budget)
    if options.anew:
        forget_changed(request.trials, request.ledger)
    with make_executor(options.inline, options.address) as executor:
        if request.sweep.search:
            sizes = options.only or list(request.sweep.arms)
            return run_search(load_search(request, sizes), "grid", executor, draw_sweep)
        if looks:
            from analysis.looks import open_arms

            request = replace(request, looks=looks)
            return run_until_decided(request, budget, executor, draw_sweep, open_arms, sweep_in_short)
        return run_sweep(request, executor, draw_sweep, sweep_in_short)


@command("data_mix --only base --seeds 5", *opt.ARMS)
def ship_parts(options: argparse.Namespace) -> int:
    """Copy the encoders and decoders of a sweep from the store to results/parts."""
    from mm1_lab.orchestrate import shipping

    parts = Parts(PARTS)
    try:
        for line in shipping.ship_parts(_request(options, options.sweep), parts):
            print(line)
    except OSError as error:
        raise RequestError(f"{PARTS}: cannot be written to ({error.strerror})") from None
    print(f"{PARTS}: {parts.size() / 1e6:.1f} MB in all")
    return DONE


FORMS = ("mm1", "llava", "encoder", "decoder")
AS = "mm1 (default); llava, where that is exact; encoder or decoder, a part by itself"


@command(
    "data_mix --only base model",
    *opt.ARMS,
    option("folder", "a new folder", "FOLDER", type=Path),
    option("--as", AS, dest="form", choices=FORMS, default="mm1"),
)
def export(options: argparse.Namespace) -> int:
    """A trained arm as a Hugging Face folder."""
    from analysis.model_card import model_card
    from mm1_lab.orchestrate.exporting import export_trial, only_trial
    from mm1_lab.results.reading import read_table
    from mm1_lab.results.schema import SCORE_COLUMNS, SCORES

    request = _request(options, options.sweep)
    trial = only_trial(request)
    folder = request.ledger.trial_folder(trial.fingerprint)
    done = request.ledger.has_scores(trial.fingerprint)
    card = model_card(
        f"{request.variant} at {request.scale_name}: {trial.name}",
        options.form,
        request.ledger.record(trial.fingerprint) if done else None,
        read_table(folder / SCORES, SCORE_COLUMNS) if done else None,
        trial.evaluation.model.picture_tokens,
    )
    export_trial(request, trial, options.form, options.folder, card)
    print(options.folder)
    return DONE


@command(
    "data_mix --only base lmms-logs",
    *opt.ARMS,
    option("folder", "where lmms-eval's --output_path was, with --log_samples", "FOLDER", type=Path),
)
def import_scores(options: argparse.Namespace) -> int:
    """Add to a trained arm the scores that lmms-eval gave its exported model."""
    from mm1_lab.orchestrate.exporting import only_trial
    from mm1_lab.orchestrate.importing import import_scores

    request = _request(options, options.sweep)
    for line in import_scores(request, only_trial(request), options.folder):
        print(line)
    return DONE


@command(
    "sft_resolution --only 336 --image photo.jpg",
    *opt.ARMS,
    repeated("--image", "of the first turn; may be repeated", "FILE", type=Path),
)
def chat(options: argparse.Namespace) -> int:
    """Talk to a trained arm."""
    from mm1_lab.orchestrate.conversation import Chat, open_image
    from mm1_lab.orchestrate.exporting import only_trial, weights_of

    request = _request(options, options.sweep)
    trial = only_trial(request)
    waiting = [open_image(path) for path in options.image]
    talk = Chat.load(trial.evaluation.model, weights_of(request, trial), request.open_data())
    print("Words are a turn; `/image FILE` adds a picture to the next one, `/new` starts anew, an empty line ends.")
    while said := _typed("You: "):
        typed, _, rest = said.partition(" ")
        try:
            if typed == "/image":
                waiting.append(open_image(Path(rest.strip()).expanduser()))
                continue
            if typed == "/new":
                talk.forget()
            else:
                print(f"{trial.arm}: {talk.say(said, waiting)}", flush=True)
            waiting = []
        except RequestError as error:
            print(error)
    return DONE


def _typed(prompt: str) -> str:
    """A line of the user's; empty at the end of the input."""
    try:
        return input(prompt).strip()
    except EOFError:
        return ""


SAMPLES = "training samples that are searched for leaks; default: %(default)s"


@command(
    "mini --only probe",
    option("scale", "smoke, mini, …", "SCALE"),
    repeated("--only", "words, probe, lower (resolution), leaks, prompts or validity; may be repeated", "GATE"),
    option("--samples", SAMPLES, type=int, default=1_000_000),
    *opt.SETTINGS,
    opt.INLINE,
    opt.NO_PARTS,
)
def check_scale(options: argparse.Namespace) -> int:
    """Whether results at a scale can be trusted."""
    from analysis.study import read_study
    from analysis.table import to_plain
    from analysis.validity import validity_rows, validity_table
    from mm1_lab.orchestrate.check_scale import GATES, gates_text, measure_gates
    from mm1_lab.orchestrate.executor import make_executor

    request = _request(options, "validity", only=("base",))
    known = (*GATES, "validity")
    for gate in options.only:
        if gate not in known:
            raise RequestError(f"--only: there is no gate {gate!r}{nearest(gate, known)}")
    gates = [gate for gate in known if gate in (options.only or known)]
    verdicts: list[str] = []
    if measured := [gate for gate in gates if gate != "validity"]:
        request.ledger.check_writable()
        rows = measure_gates(request, measured, options.samples, make_executor(options.inline, None))
        print(f"\n{gates_text(rows)}")
        verdicts += [row.verdict for row in rows]
    if "validity" in gates:
        for sweep in ("validity", "data_mix"):  # where base and blind control may be, the sweep made for it first
            folder = request.folder.with_name(variant_name(sweep, request.overrides, request.data_name))
            study = read_study(folder) if (folder / "sweep.json").exists() else None
            if study and (rules := validity_rows(study)):
                print(f"\n{to_plain(validity_table(study, rules))}")
                verdicts += [rule.verdict for rule in rules]
                break
        else:
            print("\nNo finished trials of base and blind at the same seed; run: mm1-lab run validity --seeds 5")
    return FAILED if "fail" in verdicts else DONE


PREDICT = "sizes to predict, 30B,7B; with tokens as 30B:600B; default: the scale's larger ones"
FROM = "fit these measurements instead: columns params, learning_rate, score[, seed, tokens, batch_size]"


@command(
    "--sizes 9M,85M,302M,1.2B --scale smoke",
    option("--sizes", "sizes of the scale's decoders; default: those of sweeps/lr_law.yaml", "LIST"),
    option("--search", "who chooses the rates to try (default: grid)", choices=("grid", "optuna"), default="grid"),
    option("--predict", PREDICT, "LIST"),
    switch("--keep-unbracketed", "fit sizes too whose optimum is not bracketed"),
    option("--from", FROM, "CSV", dest="file", type=Path),
    switch("--lower-is-better", "--from: the score is a loss"),
    repeated("--profile", "--from: keep the best over this column", "COLUMN"),
    *opt.REQUEST,
    *opt.EXECUTOR,
    opt.NO_PARTS,
)
def fit_lr_law(options: argparse.Namespace) -> int:
    """Search each size's best learning rate and fit its law."""
    if options.file:
        return _fit_file(options)
    from mm1_lab.orchestrate.executor import make_executor
    from mm1_lab.orchestrate.lr_search import choose_sizes, load_search, predicted_sizes, run_search

    for name, given in (("--lower-is-better", options.lower_is_better), ("--profile", options.profile)):
        if given:
            raise RequestError(f"{name} is about measurements from a file; give it with --from")
    request = _request(options, "lr_law")
    sizes = choose_sizes(options.sizes or ",".join(request.sweep.arms), request.scale)
    predicted = predicted_sizes(options.predict, sizes, request.scale)
    request = load_search(request, sizes)
    request.ledger.check_writable()

    def draw(folder: Path) -> list[Path]:
        from analysis.lr_law import Target
        from analysis.lr_results import draw_search

        return draw_search(folder, [Target(*size) for size in predicted.items()], options.keep_unbracketed)

    with make_executor(options.inline, options.address) as executor:
        return run_search(request, options.search, executor, draw)


def _fit_file(options: argparse.Namespace) -> int:
    from analysis.lr_law import fit_all
    from analysis.lr_points import read_points
    from analysis.lr_report import parse_targets, write_fits

    for name, given in (("--sizes", options.sizes), ("--data", options.data), ("--set", options.set)):
        if given:
            raise RequestError(f"{name} is about trials, and --from runs none; leave one of them out")
    measurements = read_points(options.file, options.lower_is_better, options.profile)
    targets = parse_targets(options.predict, measurements)
    _ledger(options).check_writable()
    # files of one name in different folders have folders of their own
    digest = hashlib.sha256(str(options.file.resolve()).encode()).hexdigest()[:6]
    folder = options.results / "lr_law" / f"{options.file.stem}-{digest}"
    written = write_fits(folder, measurements, fit_all(measurements, targets, options.keep_unbracketed))
    print(written[-1].read_text(encoding="utf-8"))
    for path in written:
        print(path)
    return DONE


@command(
    "data_mix --scale smoke",
    option("sweep", "a sweep; without it, all that were run", "SWEEP", nargs="?"),
    *opt.REQUEST,
)
def status(options: argparse.Namespace) -> int:
    """What is done, missing, or failed and why."""
    from mm1_lab.orchestrate.lr_search import with_grid
    from mm1_lab.orchestrate.report import status_text

    if options.sweep:
        request = with_grid(_request(options, options.sweep))
        asked = [TrialRow(trial.arm, trial.seed, trial.fingerprint) for trial in request.trials]
        sweeps = [(f"{request.variant} at {request.scale_name}", asked)]
    else:
        manifests = [(read_manifest(folder), read_trials(folder)) for folder in list_variants(options.results)]
        sweeps = [(f"{manifest.variant} at {manifest.scale}", rows) for manifest, rows in manifests]
    print(status_text(sweeps, _ledger(options)))
    return DONE


@command("data_mix base captions", opt.SWEEP, option("arms", None, "ARM", nargs="*"), *opt.REQUEST)
def show(options: argparse.Namespace) -> int:
    """The arms of a sweep, an arm resolved, or what differs between two."""
    from mm1_lab.orchestrate.show import show_text

    if len(options.arms) > 2:
        raise RequestError(f"show: {len(options.arms)} arms were given; give one, or two to see what differs")
    print(show_text(_request(options, options.sweep), options.arms))
    return DONE


@command(
    "data_mix captions interleaved",
    opt.SWEEP,
    option("first", None, "ARM"),
    option("second", None, "ARM"),
    *opt.REQUEST,
)
def compare(options: argparse.Namespace) -> int:
    """Two arms: scores, difference and its interval."""
    from analysis.study import read_study
    from analysis.table import to_plain
    from analysis.tables import compare_table

    request = _request(options, options.sweep)
    folder = request.folder
    published = _here_or_shipped(STUDY) / request.scale_name / request.variant
    if not (folder / "sweep.json").exists() and (published / "sweep.json").exists():
        print(f"{folder}: holds no results; these are of {published}", file=sys.stderr)
        folder = published
    print(to_plain(compare_table(read_study(folder), options.first, options.second)))
    return DONE


@command("--results results/study", opt.ALL_RESULTS)
def figures(options: argparse.Namespace) -> int:
    """Draw tables and figures of all results."""
    from analysis.redraw import draw

    paths = draw(_drawn_folder(options))
    for folder, count in Counter(path.parent for path in paths).items():
        print(f"{folder}: {counted(count, 'file')}")
    print(f"All of it in short: {paths[-1]}")
    return DONE


@command(
    "--results results/study",
    opt.ALL_RESULTS,
    switch("--masked", "shuffle the arms within each seed, in a copy: to look for bugs before anything is known"),
)
def report(options: argparse.Namespace) -> int:
    """Redraw, and write one HTML file."""
    from analysis.redraw import draw_report
    from mm1_lab.results.masking import masked_copy

    folder = _drawn_folder(options)
    print(draw_report(masked_copy(folder) if options.masked else folder)[-1])
    return DONE


def _drawn_folder(options: argparse.Namespace) -> Path:
    """The folder that is asked for; else this machine's, or where it holds no sweep, a copy of the committed study.

    So nothing that is committed changes unless its folder is named.
    """
    copy = RESULTS / STUDY.name
    if options.results or any(RESULTS.glob("*/*/sweep.json")) or not STUDY.exists():
        return options.results or RESULTS
    shutil.rmtree(copy, ignore_errors=True)
    return Path(shutil.copytree(STUDY, copy))


@command("--port 5001", option("--port", type=int, default=5000), opt.ALL_RESULTS, opt.STORE)
def dashboard(options: argparse.Namespace) -> int:
    """Browse the runs in MLflow on 127.0.0.1."""
    from mm1_lab.orchestrate.dashboard import show_dashboard

    sync_mlflow(options)
    show_dashboard(options.port)
    return DONE


@command(
    "--data data.yaml --scale lab",
    option("--data", "your own data, a data.yaml", "YAML", type=Path, required=True),
    option("--processes", "default: as many as there are cores", "COUNT", type=int),
    opt.SCALE,
    opt.SET,
    opt.STORE,
)
def index(options: argparse.Namespace) -> int:
    """Read all of your own data ahead, in parallel; a run of large data then starts at once."""
    from mm1_lab.data.shards.indexing import index_data
    from mm1_lab.orchestrate.request import data_cache, find_scale, machine_cpus

    if options.processes is not None and options.processes < 1:
        raise RequestError("--processes must be at least 1")
    ledger = Ledger(RESULTS, options.store)
    ledger.check_writable()
    scale = find_scale(options.scale, tuple(options.set))
    for line in index_data(options.data, data_cache(ledger), scale, options.processes or machine_cpus()):
        print(line, flush=True)
    return DONE


@command(
    "--data data.yaml",
    option("--out", f"where to; default: in {RESULTS}", "PNG", type=Path),
    option("--data", "your own data, a data.yaml", "FILE", type=Path),
    option("--scale", "for its tokenizer and rows; default: %(default)s", default="mini"),
    opt.STORE,
)
def show_data(options: argparse.Namespace) -> int:
    """A contact sheet of the miniature world, or of your own data with counts and warnings."""
    from mm1_lab.orchestrate.contact_sheet import data_sections, draw_contact_sheet, world_sections

    out = options.out or RESULTS / f"{options.data.stem if options.data else 'world'}.png"
    if options.data:
        from mm1_lab.data.shards import Shards
        from mm1_lab.data.shards.summary import summary_lines
        from mm1_lab.orchestrate.request import data_cache, find_scale

        ledger = Ledger(RESULTS, options.store)
        ledger.check_writable()
        data = Shards.open(options.data, data_cache(ledger), find_scale(options.scale))
        for line in summary_lines(data):
            print(line)
        sections = data_sections(data)
    else:
        sections = world_sections()
    try:
        draw_contact_sheet(out, sections)
    except (OSError, ValueError) as error:
        raise RequestError(f"--out {out}: cannot be written ({error})") from None
    print(out)
    return DONE


@command("", opt.ALL_RESULTS, opt.STORE)
def sync_mlflow(options: argparse.Namespace) -> int:
    """Enter into MLflow what it lacks of the results."""
    from mm1_lab.orchestrate.mlflow_runs import shown_uri
    from mm1_lab.orchestrate.recorder import sync

    both = [folder for folder in (RESULTS, STUDY) if any(folder.glob("*/*/sweep.json"))] or [RESULTS]
    for results in [options.results] if options.results else both:
        for folder in list_variants(results):
            try:
                manifest = sync(folder, Ledger(results, options.store, _here_or_shipped(PARTS)))
            except Busy:
                print(f"{folder}: is running now, and is entered as it goes")
                continue
            print(f"{manifest.variant} at {manifest.scale}: entered into {shown_uri()}")
    return DONE


@command("--results results/local", opt.IN_RESULTS, opt.STORE)
def verify(options: argparse.Namespace) -> int:
    """Read every file of the results and weights, and put aside what is damaged."""
    from mm1_lab.results import upkeep

    count, damaged = upkeep.verify(_ledger(options))
    parts = Parts(PARTS).damaged()
    for folder, reason in parts.items():
        print(f"mm1-lab: {folder}: damaged ({reason}); restore or delete it", file=sys.stderr)
    print(f"{count} finished trials and stages: every file was read, {damaged + len(parts)} damaged")
    return FAILED if damaged or parts else DONE


KEEP = "the weights behind each sweep's best trial, none, or all (only what was damaged goes); default: %(default)s"


@command(
    "--keep best",
    option("--keep", KEEP, choices=["best", "none", "all"], default="best"),
    opt.IN_RESULTS,
    opt.STORE,
)
def gc(options: argparse.Namespace) -> int:
    """Free weights, never results; not while a sweep runs."""
    from mm1_lab.results.upkeep import free_weights

    freed = list(free_weights(_ledger(options), options.keep))
    print(f"freed {sum(size for _, size in freed) / 1e6:.1f} MB: {len(freed)} stages; results are as they were")
    return DONE


@command("my-lab", option("folder", None, "FOLDER", type=Path))
def init(options: argparse.Namespace) -> int:
    """Make a small project: a sweep, a data file, a Makefile."""
    from mm1_lab.init import init

    for path in init(options.folder):
        print(path)
    print(f"Next: cd {options.folder} && mm1-lab run my_question --scale smoke")
    return DONE


@command("> ~/.mm1-lab.sh")
def completion(options: argparse.Namespace) -> int:
    """Print a script for bash or zsh that completes commands, options and names."""
    from mm1_lab.completion import completion_script

    print(completion_script(options.parsers))
    return DONE


def _ledger(options: argparse.Namespace) -> Ledger:
    return Ledger(options.results, options.store)


def _here_or_shipped(folder: Path) -> Path:
    """Of the working directory, or else of the package."""
    return folder if folder.is_dir() else SHIPPED / folder


def _looks(options: argparse.Namespace, request: Request) -> tuple[int, ...]:
    """Those of a study that grows until it is decided; none of another."""
    from mm1_lab.orchestrate.growing import parse_looks

    if not options.until_decided:
        if options.looks or vars(options).get("budget"):
            raise RequestError("--looks and --budget go with --until-decided")
        return ()
    if request.sweep.search:
        raise RequestError(f"--until-decided: {request.sweep.name} is a search; it has a fixed number of seeds")
    return parse_looks(options.looks or "", len({trial.seed for trial in request.trials}))


def _request(options: argparse.Namespace, sweep: str, only: Sequence[str] | None = None) -> Request:
    """`only`: arms, where they are not an option."""
    from mm1_lab.orchestrate.request import load_request

    given = vars(options)
    request = load_request(
        sweep,
        options.scale,
        options.seeds,
        given.get("only", ()) if only is None else only,
        options.set,
        given.get("data"),
        options.results,
        options.store,
        None if given.get("no_parts") else _here_or_shipped(PARTS),
    )
    for folder, reason in (request.ledger.parts.damaged() if request.ledger.parts else {}).items():
        print(f"{folder}: this shipped part is not used ({reason}); restore or delete it", file=sys.stderr)
    if "synthetic" not in request.data.sources:
        print(f"{options.data}: no synthetic captions; the other captions take their rows", file=sys.stderr)
    return request
