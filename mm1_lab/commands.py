"""What each command of `mm1-lab` does. Knows every other module; whatever is heavy is imported by the command that
needs it."""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import socket
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from mm1_lab.config import RequestError, nearest
from mm1_lab.files import SHIPPED

if TYPE_CHECKING:
    from mm1_lab.orchestrate.request import Request

DONE, FAILED = 0, 1
"""Exit codes: all done; a trial, or a gate, failed."""

RESULTS = Path("results/local")
STUDY = Path("results/study")
PARTS = Path("results/parts")


def plan(options: argparse.Namespace) -> int:
    from mm1_lab.data import open_data
    from mm1_lab.orchestrate.feasible import check_feasible
    from mm1_lab.orchestrate.plan import make_plan
    from mm1_lab.orchestrate.report import plan_text
    from mm1_lab.orchestrate.request import data_cache, machine_slots

    requests = [_with_grid(_request(options, sweep)) for sweep in options.sweeps]
    first = requests[0]
    plan = make_plan((trial for request in requests for trial in request.trials), first.ledger)
    check_feasible(plan)
    cache = data_cache(first.ledger)
    tokenizer = open_data(options.data, cache, first.scale, first.tokenizer).tokenizer if plan.tasks else None
    print(plan_text(plan, requests, tokenizer, machine_slots(first.scale)))
    return DONE


def run(options: argparse.Namespace) -> int:
    from mm1_lab.orchestrate.code_changes import forget_changed
    from mm1_lab.orchestrate.executor import make_executor
    from mm1_lab.orchestrate.lr_search import load_search, run_search
    from mm1_lab.orchestrate.sweeping import run_sweep

    request = _request(options, options.sweep)
    request.ledger.check_writable()
    if options.anew:
        forget_changed(request.trials, request.ledger)
    if request.sweep.search:
        sizes = options.only or list(request.sweep.arms)
        with make_executor(options.inline, options.address) as executor:
            return run_search(load_search(request, sizes), "grid", executor, _draw_sweep)
    with make_executor(options.inline, options.address) as executor:
        return run_sweep(request, executor, _draw_sweep, _sweep_in_short)


def export(options: argparse.Namespace) -> int:
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
    export_trial(request, options.form, options.folder, card)
    print(options.folder)
    return DONE


def chat(options: argparse.Namespace) -> int:
    from mm1_lab.data import open_data
    from mm1_lab.evaluate.conversation import Chat, open_image
    from mm1_lab.orchestrate.exporting import only_trial, weights_of
    from mm1_lab.orchestrate.request import data_cache

    request = _request(options, options.sweep)
    trial = only_trial(request)
    waiting = [open_image(path) for path in options.image]
    folder = weights_of(request, trial)
    data = open_data(request.data_path, data_cache(request.ledger), request.scale, request.tokenizer)
    talk = Chat.load(trial.evaluation.model, folder, data)
    print("Words are a turn; `/image FILE` adds a picture to the next one, `/new` starts anew, an empty line ends.")
    while said := _typed("You: "):
        command, _, rest = said.partition(" ")
        try:
            if command == "/image":
                waiting.append(open_image(Path(rest.strip()).expanduser()))
            elif command == "/new":
                talk.forget()
                waiting = []
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


def ship_parts(options: argparse.Namespace) -> int:
    from mm1_lab.orchestrate import shipping
    from mm1_lab.results.parts import Parts

    parts = Parts(PARTS)
    try:
        for line in shipping.ship_parts(_request(options, options.sweep), parts):
            print(line)
    except OSError as error:
        raise RequestError(f"{PARTS}: cannot be written to ({error.strerror})") from None
    print(f"{PARTS}: {parts.size() / 1e6:.1f} MB in all")
    return DONE


def check_scale(options: argparse.Namespace) -> int:
    from analysis.study import read_study
    from analysis.table import to_plain
    from analysis.validity import validity_rows, validity_table
    from mm1_lab.orchestrate.check_scale import GATES, gates_text, measure_gates
    from mm1_lab.orchestrate.executor import make_executor

    request = _request(options, "validity", only=("base",))
    gates = _chosen_gates(options.only, (*GATES, "validity"))
    verdicts: list[str] = []
    if measured := [gate for gate in gates if gate != "validity"]:
        request.ledger.check_writable()
        rows = measure_gates(request, measured, options.samples, make_executor(options.inline, None))
        print(f"\n{gates_text(rows)}")
        verdicts += [row.verdict for row in rows]
    if "validity" in gates:
        for folder in _sweeps_with_controls(request):
            study = read_study(folder)
            if rules := validity_rows(study):
                print(f"\n{to_plain(validity_table(study, rules))}")
                verdicts += [rule.verdict for rule in rules]
                break
        else:
            print("\nNo finished trials of base and blind at the same seed; run: mm1-lab run validity --seeds 5")
    return FAILED if "fail" in verdicts else DONE


def _chosen_gates(chosen: Sequence[str], known: Sequence[str]) -> list[str]:
    for gate in chosen:
        if gate not in known:
            raise RequestError(f"--only: there is no gate {gate!r}{nearest(gate, known)}")
    return [gate for gate in known if not chosen or gate in chosen]


def _sweeps_with_controls(request: Request) -> list[Path]:
    """Where finished trials of the base and its blind control may be, the sweep made for it first."""
    from mm1_lab.results import variant_name

    names = (variant_name(sweep, request.overrides, request.data_name) for sweep in ("validity", "data_mix"))
    folders = (request.ledger.results / request.scale_name / name for name in names)
    return [folder for folder in folders if (folder / "sweep.json").exists()]


def fit_lr_law(options: argparse.Namespace) -> int:
    if options.file:
        return _fit_file(options)
    from mm1_lab.orchestrate.executor import make_executor
    from mm1_lab.orchestrate.lr_search import choose_sizes, load_search, parameters, run_search, size_name

    for name, given in (("--lower-is-better", options.lower_is_better), ("--profile", options.profile)):
        if given:
            raise RequestError(f"{name} is about measurements from a file; give it with --from")
    request = _request(options, "lr_law")
    scale = request.scale
    sizes = choose_sizes(options.sizes or ",".join(request.sweep.arms), scale)
    if options.predict:
        names = [size_name(part, scale, "--predict") for part in options.predict.split(",")]
    else:
        largest = parameters(sizes[-1], scale)
        names = [name for name in scale.decoders if parameters(name, scale) > largest]
    request = load_search(request, sizes)
    request.ledger.check_writable()

    def draw(folder: Path) -> list[Path]:
        from analysis.lr_fit import Target
        from analysis.lr_results import draw_search

        return draw_search(folder, [Target(name, parameters(name, scale)) for name in names], options.keep_unbracketed)

    with make_executor(options.inline, options.address) as executor:
        return run_search(request, options.search, executor, draw)


def _fit_file(options: argparse.Namespace) -> int:
    from analysis.lr_fit import fit_all
    from analysis.lr_points import read_points
    from analysis.lr_report import parse_targets, write_fits
    from mm1_lab.results import Ledger

    for name, given in (("--sizes", options.sizes), ("--data", options.data), ("--set", options.set)):
        if given:
            raise RequestError(f"{name} is about trials, and --from runs none; leave one of them out")
    measurements = read_points(options.file, options.lower_is_better, options.profile)
    targets = parse_targets(options.predict, measurements)
    Ledger(options.results, options.store).check_writable()
    # files of one name in different folders have folders of their own
    digest = hashlib.sha256(str(options.file.resolve()).encode()).hexdigest()[:6]
    folder = options.results / "lr_law" / f"{options.file.stem}-{digest}"
    written = write_fits(folder, measurements, fit_all(measurements, targets, options.keep_unbracketed))
    print(written[-1].read_text(encoding="utf-8"))
    for path in written:
        print(path)
    return DONE


def status(options: argparse.Namespace) -> int:
    from mm1_lab.orchestrate.report import status_text, upstream_failures
    from mm1_lab.results import Ledger, TrialRow
    from mm1_lab.results.manifest import read_manifest, read_trials
    from mm1_lab.results.reading import list_variants

    ledger = Ledger(options.results, options.store)
    if options.sweep:
        request = _with_grid(_request(options, options.sweep))
        asked = [TrialRow(trial.arm, trial.seed, trial.fingerprint) for trial in request.trials]
        sweeps = [(f"{request.variant} at {request.scale_name}", asked)]
    else:
        manifests = [(read_manifest(folder), read_trials(folder)) for folder in list_variants(options.results)]
        sweeps = [(f"{manifest.variant} at {manifest.scale}", rows) for manifest, rows in manifests]
    print("\n\n".join(status_text(rows, title, ledger) for title, rows in sweeps))
    for text in upstream_failures(ledger, [row for _, rows in sweeps for row in rows]):
        print(text)
    return DONE


def verify(options: argparse.Namespace) -> int:
    from mm1_lab.results import Ledger
    from mm1_lab.results.parts import Parts
    from mm1_lab.results.upkeep import verify

    count, damaged = verify(Ledger(options.results, options.store))
    parts = Parts(PARTS).damaged()
    for folder, reason in parts.items():
        print(f"mm1-lab: {folder}: damaged ({reason}); restore or delete it", file=sys.stderr)
    print(f"{count} finished trials and stages: every file was read, {damaged + len(parts)} damaged")
    return FAILED if damaged or parts else DONE


def gc(options: argparse.Namespace) -> int:
    from mm1_lab.results import Ledger
    from mm1_lab.results.upkeep import free_weights

    freed = list(free_weights(Ledger(options.results, options.store), options.keep))
    print(f"freed {sum(size for _, size in freed) / 1e6:.1f} MB: {len(freed)} stages; results are as they were")
    return DONE


def show(options: argparse.Namespace) -> int:
    from mm1_lab.orchestrate.show import show_text

    if len(options.arms) > 2:
        raise RequestError(f"show: {len(options.arms)} arms were given; give one, or two to see what differs")
    print(show_text(_request(options, options.sweep), options.arms))
    return DONE


def compare(options: argparse.Namespace) -> int:
    from analysis import compare_arms
    from analysis.table import to_plain

    request = _request(options, options.sweep)
    folder = request.folder
    published = _here_or_shipped(STUDY) / request.scale_name / request.variant
    if not (folder / "sweep.json").exists() and (published / "sweep.json").exists():
        print(f"{folder}: holds no results; these are of {published}", file=sys.stderr)
        folder = published
    print(to_plain(compare_arms(folder, options.first, options.second)))
    return DONE


def init(options: argparse.Namespace) -> int:
    from mm1_lab.init import init

    for path in init(options.folder):
        print(path)
    print(f"Next: cd {options.folder} && mm1-lab run my_question --scale smoke")
    return DONE


def completion(options: argparse.Namespace) -> int:
    from mm1_lab.completion import completion_script

    print(completion_script(options.commands))
    return DONE


def figures(options: argparse.Namespace) -> int:
    from analysis import draw

    paths = draw(_drawn_folder(options))
    for folder, count in Counter(path.parent for path in paths).items():
        print(f"{folder}: {count} file{'s' * (count > 1)}")
    print(f"All of it in short: {paths[-1]}")
    return DONE


def report(options: argparse.Namespace) -> int:
    from analysis import draw_report

    print(draw_report(_drawn_folder(options))[-1])
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


def _here_or_shipped(folder: Path) -> Path:
    """Of the working directory, or else of the package."""
    return folder if folder.is_dir() else SHIPPED / folder


def _results_folders(options: argparse.Namespace) -> list[Path]:
    """The folder that is asked for; else this machine's and the study, those that hold a sweep."""
    if options.results:
        return [options.results]
    return [folder for folder in (RESULTS, STUDY) if any(folder.glob("*/*/sweep.json"))] or [RESULTS]


def sync_mlflow(options: argparse.Namespace) -> int:
    from mm1_lab.files import Busy
    from mm1_lab.orchestrate.mlflow_runs import shown_uri
    from mm1_lab.orchestrate.recorder import sync
    from mm1_lab.results import Ledger
    from mm1_lab.results.reading import list_variants

    for results in _results_folders(options):
        for folder in list_variants(results):
            try:
                manifest = sync(folder, Ledger(results, options.store, _here_or_shipped(PARTS)))
            except Busy:
                print(f"{folder}: is running now, and is entered as it goes")
                continue
            print(f"{manifest.variant} at {manifest.scale}: entered into {shown_uri()}")
    return DONE


def show_data(options: argparse.Namespace) -> int:
    from mm1_lab.evaluate.contact_sheet import data_sections, draw_contact_sheet, world_sections

    out = options.out or RESULTS / f"{options.data.stem if options.data else 'world'}.png"
    if options.data:
        from mm1_lab.data.shards import Shards
        from mm1_lab.data.shards.summary import summary_lines
        from mm1_lab.orchestrate.request import data_cache, find_scale
        from mm1_lab.results import Ledger

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


def dashboard(options: argparse.Namespace) -> int:
    from mm1_lab.orchestrate.mlflow_runs import pages, tracking_uri, without_secrets

    sync_mlflow(options)
    uri = tracking_uri()
    remote = uri.startswith("http")
    address = uri if remote else f"http://127.0.0.1:{options.port}"
    told = [f"{sweep}: {address}{page}" for sweep, page in pages().items()]
    told.append(f"MLflow is at {without_secrets(address)}" + ("" if remote else "; end it with Ctrl-C"))
    if not remote:
        _serve(uri, options.port, told)
    print("\n".join(told))
    return DONE


def _serve(uri: str, port: int, told: Sequence[str]) -> NoReturn:
    """Becomes MLflow's server, so that whatever ends one ends the other; `told` is printed once it answers."""
    with socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            free.bind(("127.0.0.1", port))
        except OSError as error:
            raise RequestError(f"--port {port}: {error.strerror}; choose another") from None
    print("MLflow starts …", flush=True)
    if os.fork() == 0:
        _tell_when_it_answers(f"http://127.0.0.1:{port}/health", told)
        os._exit(0)
    os.environ["MLFLOW_BACKEND_STORE_URI"] = uri  # and not an argument, which everyone on the machine can read
    command = [sys.executable, "-m", "mlflow", "ui", "--host", "127.0.0.1", "--port", str(port)]
    os.execv(sys.executable, [*command, "--workers", "1", "--uvicorn-opts", "--log-level warning"])


def _tell_when_it_answers(address: str, lines: Sequence[str]) -> None:
    from urllib.request import urlopen

    for _ in range(600):  # minutes, on a busy machine
        try:
            with urlopen(address, timeout=5):
                print("\n".join(lines), flush=True)
                return
        except OSError:
            time.sleep(0.3)


def _request(options: argparse.Namespace, sweep: str, only: Sequence[str] | None = None) -> Request:
    """`only`: arms, where they are not an option."""
    from mm1_lab.orchestrate.request import load_request

    request = load_request(
        sweep,
        options.scale,
        options.seeds,
        tuple(getattr(options, "only", ()) if only is None else only),
        tuple(options.set),
        options.data,
        options.results,
        options.store,
        None if getattr(options, "no_parts", False) else _here_or_shipped(PARTS),
    )
    for folder, reason in (request.ledger.parts.damaged() if request.ledger.parts else {}).items():
        print(f"{folder}: this shipped part is not used ({reason}); restore or delete it", file=sys.stderr)
    if "synthetic" not in request.data.sources:
        print(f"{options.data}: no synthetic captions; the other captions take their rows", file=sys.stderr)
    return request


def _with_grid(request: Request) -> Request:
    """A learning-rate search with the trials that are known so far; any other request as it is."""
    if request.sweep.search is None:
        return request
    from mm1_lab.orchestrate.lr_search import with_grid

    return with_grid(request)


def _sweep_in_short(folder: Path) -> str:
    from analysis import sweep_in_short
    from analysis.table import to_plain

    return to_plain(sweep_in_short(folder))


def _draw_sweep(folder: Path) -> list[Path]:
    from analysis import draw_sweep

    return draw_sweep(folder)
