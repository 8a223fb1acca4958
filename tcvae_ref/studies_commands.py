"""The command `sweep`, and `figures` of a study: the paper's experiments, run and drawn."""

import argparse
import importlib.util
import os
import shlex
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from tcvae_ref import evaluate_commands, evaluation, figures, representations
from tcvae_ref.arguments import path_argument
from tcvae_ref.checks import InputError, whole_number
from tcvae_ref.command_parts import EPILOG, KERNELS, Machinery, machinery
from tcvae_ref.data import FactorDataset
from tcvae_ref.evaluation import DECOMPOSITION
from tcvae_ref.files import (
    SUMS,
    atomic_write,
    check_folder,
    check_sums,
    locked,
    read_text_file,
    real_path,
    write_sums,
)
from tcvae_ref.progress import Progress
from tcvae_ref.studies import bias, column_weights, page, results, runner, scoring, sensitivity, study, table
from tcvae_ref.studies import figures as study_figures
from tcvae_ref.studies.runner import Job
from tcvae_ref.studies.study import BIAS, SENSITIVITY, RunSpec, Study
from tcvae_ref.training import Model, Operations, trained_model
from tcvae_ref.training.loop import DTYPE, recorded
from tcvae_ref.types import Array, ProgressHook

STORE = Path("studies")
STUDY, MEASURED, PAGE, COMMAND = "study.toml", "measured.csv", "page.html", "command.txt"
RUNS = runner.RUNS
TRAVERSALS = Path("figures") / "traversals.png"
"""In a run's folder."""
_MEASURED = "measured"
_NUMBERS = (STUDY, table.RESULTS, table.SECONDS, MEASURED, COMMAND)
"""What `figures` reads, and its checksums are kept of."""
_FILES = (*_NUMBERS, PAGE, SUMS)


def add_sweep(parser: argparse.ArgumentParser) -> None:
    """Set up `sweep`."""
    parser.set_defaults(run=_sweep)
    parser.epilog = EPILOG
    parser.add_argument("study", nargs="?", metavar="STUDY", help="a study's name (--list) or its TOML file")
    parser.add_argument("--list", action="store_true", help="name the studies that come with the package")
    parser.add_argument(
        "--out",
        type=path_argument,
        default=STORE,
        metavar="FOLDER",
        help=f"runs go to FOLDER/runs, where studies share them, numbers and figures to FOLDER/STUDY ({STORE})",
    )
    parser.add_argument("--jobs", type=int, metavar="J", help="processes, each on one thread (all processors)")
    parser.add_argument("--on", metavar="dask://HOST:PORT", help="a Dask cluster in place of processes here")
    parser.add_argument("--kernels", choices=KERNELS, default="auto", help="compiled kernels or NumPy (auto)")
    parser.add_argument("--retry-failed", action="store_true", help="try failed runs again")
    parser.add_argument("--dry-run", action="store_true", help="say what would be run, and stop")


# --- sweep -------------------------------------------------------------------------------------------------


def _sweep(arguments: argparse.Namespace) -> int:
    if arguments.list:
        print("\n".join(_listed()))
        return 0
    if arguments.study is None:
        raise InputError(f"sweep: no study is named; choose one of {', '.join(study.shipped())}, or give a TOML file")
    jobs = os.cpu_count() or 1 if arguments.jobs is None else arguments.jobs
    workers = whole_number("sweep", "--jobs", jobs, 1, 10_000)
    of = study.read(study.find(arguments.study))
    if of.name in (RUNS, runner.PHOTOGRAPHS, ".", ".."):
        raise InputError(f"sweep: a study named {of.name!r} has no folder of its own in the store; rename its file")
    store = arguments.out.absolute()
    check_folder(store)
    kernels, said = _kernels(arguments.kernels)
    pieces = _jobs(of, kernels)
    done = sum(runner.result_of(store, job) is not None for job in pieces)
    print(f"{of.name}: {len(pieces)} {_unit(of)}, {done} of them done; {said}", flush=True)
    if arguments.dry_run:
        for run in of.runs:
            print(f"{run.key}  {study.described(run.source)}  {_differing(of, run)}")
        return 0
    folder = store / of.name
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder, _FILES):
        _make_ready(kernels)
        with Progress("sweep, in % of a run") as progress:
            found = runner.sweep(
                *(pieces, store, _work, said, workers, arguments.on, progress), retry=arguments.retry_failed
            )
        command = _command(arguments)
        _write(of, found, folder, command)
        _say_failed(found, folder)
        _draw(of, folder, command, folder)
    return 0


def _listed() -> list[str]:
    """A line for each study that comes with the package."""
    studies = [study.read(path) for path in study.shipped().values()]
    width = max(len(of.name) for of in studies)
    return [f"{of.name:<{width}}  {len(_jobs(of, '')):>3} {_unit(of):<5}  {of.title}" for of in studies]


def _unit(of: Study) -> str:
    return "cells" if of.figure == BIAS else "runs"


def _command(arguments: argparse.Namespace) -> str:
    out = [] if arguments.out == STORE else ["--out", str(arguments.out)]
    kernels = [] if arguments.kernels == "auto" else ["--kernels", arguments.kernels]
    return shlex.join(["tcvae-ref", "sweep", arguments.study, *out, *kernels]).encode(errors="replace").decode()


def _differing(of: Study, run: RunSpec) -> str:
    """What tells a run from the study's others."""
    names = [name for name in study.subset([*run.settings.to_json()], of.runs) if run.settings.idle(name) is None]
    return ", ".join(f"{name} {study.described(getattr(run.settings, name))}" for name in names)


def _say_failed(found: Mapping[str, Mapping[str, Any]], folder: Path) -> None:
    failed = {key: result["reason"] for key, result in found.items() if result["status"] == "failed"}
    for key, reason in failed.items():
        print(f"failed: {key}: {reason}")
    print(f"{len(found) - len(failed)} done, {len(failed)} failed; numbers: {folder / table.RESULTS}")


def _kernels(choice: str) -> tuple[str, str]:
    """Which kernels the workers take, and a word for the record."""
    if choice == "auto":
        choice = "numba" if importlib.util.find_spec("numba") is not None else "numpy"
    return choice, _machinery(choice).said


def _make_ready(kernels: str) -> None:
    """Compile once, here, what every worker then finds on the disk."""
    chosen = _machinery(kernels)
    chosen.make_ready("TRAINING", DTYPE)
    chosen.make_ready("EVALUATION", "float64")


def _machinery(kernels: str) -> Machinery:
    return machinery(kernels, 1 if kernels == "numba" else None)


# --- what a worker does ------------------------------------------------------------------------------------


def _jobs(of: Study, kernels: str) -> list[Job]:
    if of.figure == BIAS:
        return [Job(cell.key, (_MEASURED,), (cell, kernels)) for cell in bias.cells(of.numbers)]
    wanted = [*dict.fromkeys(("training", DECOMPOSITION, "mig", *of.metrics))]
    if of.figure == SENSITIVITY:
        sensitivity.settings(of.numbers)
        wanted.append(_measured(of))
    return [Job(run.key, tuple(wanted), (run, of.numbers, kernels)) for run in of.runs]


def _measured(of: Study) -> str:
    """Name of the part of a result that holds what the study measures, beside what every run has."""
    return _MEASURED if of.figure == BIAS else f"{_MEASURED}-{study.key({SENSITIVITY: of.numbers})}"


def _work(job: Job, folder: Path, progress: ProgressHook, stop: Callable[[], bool]) -> dict[str, Any]:
    what, *_, kernels = job.payload
    chosen = _machinery(kernels)
    if isinstance(what, bias.Cell):
        return {_MEASURED: _measure_cell(what, chosen, progress)}
    return _train_and_score(job, folder, chosen, progress, stop)


def _measure_cell(cell: bias.Cell, chosen: Machinery, progress: ProgressHook) -> list[dict[str, Any]]:
    estimators = {name: of for name, of in _operations(chosen).estimators.items() if name != "minibatch"}
    return bias.measure(cell, estimators, chosen.functions.log_qz_exact, progress)


def _operations(chosen: Machinery) -> Operations:
    """With the estimator that only studies train with."""
    of_studies = {column_weights.NAME: column_weights.in_blocks}
    return chosen.operations._replace(estimators={**chosen.operations.estimators, **of_studies})


def _train_and_score(
    job: Job, folder: Path, chosen: Machinery, progress: ProgressHook, stop: Callable[[], bool]
) -> dict[str, Any]:
    run, numbers, _ = job.payload
    data, state = runner.train_run(run, folder, _operations(chosen), progress, stop)
    made = trained_model(run.settings, state.parameters, state.statistics)
    try:
        mu, log_var = evaluation.posteriors(made.encode, data)
        of = representations.of_data(data, mu, log_var)
        result = evaluation.evaluate(
            of,
            [name for name in job.wanted if name in evaluation.all_metrics()],
            reconstruct=evaluation.reconstruction(made.decode, data, mu, log_var),
            functions=chosen.functions,
            log_prior=made.log_prior,
        )
        parts: dict[str, Any] = scoring.cells(result)
        for name in job.wanted:
            if name.startswith(_MEASURED):
                scored = of.of(of.columns(evaluation.usual_factors(of)))
                parts[name] = sensitivity.measure(scored, numbers, progress, chosen.functions.log_density)
    except InputError as error:
        raise runner.Failed(str(error)) from None
    if not (folder / TRAVERSALS).exists():
        _draw_traversals(made, data, mu, log_var, folder / TRAVERSALS)
    return {"training": scoring.last_epoch(state.history, recorded(run.settings), state.step), **parts}


def _draw_traversals(made: Model, data: FactorDataset, mu: Array, log_var: Array, path: Path) -> None:
    """Draw what each latent does; without matplotlib, nothing."""
    use = 0.5 * np.mean(mu**2 + np.exp(log_var) - 1.0 - log_var, axis=0)  # E_n[KL(q(z_d|n) || N(0, 1))] : (D,)
    try:
        figure = figures.traversals(made.decode, data, mu, evaluate_commands._middle(data), use)
    except figures.NotInstalled:
        return
    path.parent.mkdir(exist_ok=True)
    figures.save(figure, path)


# --- numbers and figures -----------------------------------------------------------------------------------


def _write(of: Study, found: Mapping[str, Mapping[str, Any]], folder: Path, command: str) -> None:
    """Write the study's file, its tables, how long things took, and the command."""
    for name, text in ((STUDY, of.text), (COMMAND, f"{command}\n")):
        with atomic_write(folder / name) as file:
            file.write(text.encode())
    measured = [{"key": key, **row} for key, result in found.items() for row in result["parts"].get(_measured(of), ())]
    if of.figure == BIAS:
        about = ("key", "status", "reason")
        failed = [{name: result[name] for name in about} for result in found.values() if result["status"] == "failed"]
        table.write(measured + failed, folder / table.RESULTS)
    else:
        table.write([table.numbers(of, run, found[run.key]) for run in of.runs], folder / table.RESULTS)
        if measured:
            table.write(measured, folder / MEASURED)
    table.write([{"key": key, "seconds": result["seconds"]} for key, result in found.items()], folder / table.SECONDS)
    write_sums(folder, _NUMBERS)


def is_study(what: Path) -> bool:
    """Whether `figures` is asked for a study: the folder of its numbers, or the name of one that was swept."""
    return (_folder(what) / STUDY).is_file()


def _folder(what: Path) -> Path:
    return STORE / what if str(what) in study.shipped() and not what.is_dir() else what


def draw_study(arguments: argparse.Namespace) -> int:
    """Do `figures STUDY`: draw a study's figures and write its page again, from its tables."""
    folder = _folder(arguments.folder)
    out = arguments.out or folder
    check_folder(out)
    command = folder / COMMAND
    with locked(folder, _FILES) if os.access(folder, os.W_OK) else nullcontext():  # a read-only one may be drawn too
        check_sums(folder, "run tcvae-ref sweep again")
        of = study.read(folder / STUDY)._replace(name=real_path(folder).name)
        said = read_text_file(command).decode(errors="replace").strip() if command.exists() else ""
        try:
            _draw(of, folder, said, out)
        except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"{folder}: its tables are not those of its {STUDY} ({type(error).__name__}: {error}); write them "
                "again with tcvae-ref sweep"
            ) from None
    return 0


def _draw(of: Study, folder: Path, command: str, out: Path) -> None:
    """Write every figure and the page; without matplotlib, the page without figures."""
    rows = table.read(folder / table.RESULTS)
    shown = [row for row in rows if row.get("status") != "failed"]
    if of.figure == SENSITIVITY:
        shown = table.read(folder / MEASURED) if (folder / MEASURED).is_file() else []
    lines = results.lines_of(of, shown if of.figure in (BIAS, SENSITIVITY) else rows) if shown else ["nothing was done"]
    print("\n".join(lines))
    pictures = []
    try:
        pictures = study_figures.pictures(of, shown, rows, command) if shown else []
    except figures.NotInstalled as error:
        print(f"figures: left out; {error}")
    out.mkdir(parents=True, exist_ok=True)
    drawn = {picture: page.png(picture) for picture in pictures}
    for picture, content in drawn.items():
        with atomic_write(out / f"{picture.name}.png") as file:
            file.write(content)
        print(f"figure: {out / picture.name}.png")
    models = [] if of.figure == BIAS else rows
    runs = [(f"{row['key']}: {results.told_apart(rows, row)}", folder.parent / RUNS / row["key"]) for row in models]
    traversals = [(said, path / TRAVERSALS) for said, path in runs if (path / TRAVERSALS).is_file()]
    with atomic_write(out / PAGE) as file:
        file.write(page.page(of, lines, drawn, rows, traversals, command).encode(errors="xmlcharrefreplace"))
    print(f"page: {out / PAGE}")
