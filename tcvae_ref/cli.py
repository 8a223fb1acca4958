"""The command line: the only place that puts data, training, evaluation and figures together."""

import argparse
import dataclasses
import errno
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Any

import numpy as np

from tcvae_ref import __version__, checks, figures
from tcvae_ref.arguments import Parser, path_argument
from tcvae_ref.checks import InputError
from tcvae_ref.command_parts import (
    EPILOG,
    SOURCES,
    add_images,
    add_kernels,
    given_images,
    grid_argument,
    load,
    machinery,
    source_of,
)
from tcvae_ref.data import GRIDS, FactorDataset, fidelity, write_npz
from tcvae_ref.data.sprite_files import FIDELITY
from tcvae_ref.evaluate_commands import add_evaluate, add_figures, draw_run
from tcvae_ref.files import check_folder, check_writable, locked
from tcvae_ref.objectives import ElboTerms
from tcvae_ref.oracle.commands import add_commands
from tcvae_ref.progress import Progress
from tcvae_ref.selftest.commands import add_selftest
from tcvae_ref.studies_commands import add_sweep, draw_study, is_study
from tcvae_ref.training import (
    NUMPY,
    PRESETS,
    DataSource,
    Run,
    Settings,
    TrainingDiverged,
    TrainingState,
    initial_state,
    train,
)
from tcvae_ref.training.batches import batches
from tcvae_ref.training.loop import DTYPE, recorded
from tcvae_ref.training.run import FILES, Saver
from tcvae_ref.training.settings import NETWORKS, OBJECTIVES, PRIORS, estimators

PRESET_GRIDS = {"hearts": "hearts", "paper": "full"}
_WRONG_PLACE = (
    *(errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.EROFS),
    *(errno.ENAMETOOLONG, errno.ELOOP),
)


# --- arguments ---------------------------------------------------------------------------------------------


def _widths(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",") if part)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of widths such as 256,256") from None


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="tcvae-ref",
        description="Judge a beta-TCVAE loss; train one on a CPU, decompose its ELBO exactly, score its latents.",
        epilog=EPILOG,
    )
    parser.add_argument("--version", action="version", version=f"tcvae-ref {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    training = commands.add_parser("train", help="train a model, or continue a run", epilog=EPILOG)
    training.set_defaults(run=_train)
    where = training.add_mutually_exclusive_group(required=True)
    where.add_argument("--out", type=path_argument, metavar="RUN", help="folder of the new run")
    where.add_argument("--resume", type=path_argument, metavar="RUN", help="run to continue; --epochs may extend it")
    training.add_argument("--preset", choices=PRESETS, help="settings to start from (default: hearts)")
    training.add_argument(
        "--save-every", type=float, default=5.0, metavar="S", help="least seconds between checkpoints (5)"
    )
    add_kernels(training)
    add_images(training)
    group = training.add_argument_group("settings, each in place of the preset's (shown: hearts)")
    default = PRESETS["hearts"]
    group.add_argument("--objective", choices=OBJECTIVES, help=f"what is maximised ({default.objective})")
    group.add_argument("--estimator", choices=estimators(), help=f"of log q(z) from a batch ({default.estimator})")
    group.add_argument("--prior", choices=PRIORS, help=f"p(z) ({default.prior})")
    group.add_argument(
        "--network", choices=NETWORKS, help=f"fully connected, or the paper's for faces ({default.network})"
    )
    numbers: list[tuple[str, Callable[[str], Any], str]] = [
        ("alpha", float, "weight of the index-code mutual information"),
        ("beta", float, "weight of the total correlation (beta-tcvae) or of the whole KL (beta-vae)"),
        ("gamma", float, "weight of the dimension-wise KL"),
        ("tc-weight", float, "factor-vae: weight of the discriminator's TC, on top of the ELBO; Kim & Mnih's gamma"),
        ("alpha-warm-up", int, "steps over which alpha rises from 0"),
        ("beta-warm-up", int, "steps over which beta rises from 0"),
        ("gamma-warm-up", int, "steps over which gamma rises from 0"),
        ("tc-weight-warm-up", int, "steps over which tc-weight rises from 0"),
        ("latent", int, "latent dimensions D"),
        ("encoder", _widths, "hidden widths, such as 1200,1200"),
        ("decoder", _widths, "hidden widths"),
        ("batch", int, "inputs per step M"),
        ("epochs", int, "passes through the data"),
        ("learning-rate", float, "of Adam"),
        ("discriminator", _widths, "factor-vae: hidden widths of the discriminator"),
        ("discriminator-rate", float, "factor-vae: learning rate of its Adam"),
        ("seed", int, "of every random number"),
    ]
    for name, kind, text in numbers:
        value = getattr(default, name.replace("-", "_"))
        shown = ",".join(map(str, value)) if isinstance(value, tuple) else f"{value:g}"
        group.add_argument(f"--{name}", type=kind, metavar="X", help=f"{text} ({shown})")

    add_evaluate(commands.add_parser("evaluate", help="exact decomposition, scores and pictures of a model"))
    drawing = commands.add_parser("figures", help="pictures of a run, or of a study")
    drawing.set_defaults(run=_figures)
    add_figures(drawing)
    add_sweep(commands.add_parser("sweep", help="run a study: many models, one table, its figures"))

    timing = commands.add_parser("bench", help="time the estimators side by side with other libraries", add_help=False)
    timing.set_defaults(run=_bench)  # its arguments are its own: tcvae-ref bench --help

    data = commands.add_parser("data", help="render, read, verify and show images", epilog=EPILOG)
    actions = data.add_subparsers(dest="action", required=True, metavar="ACTION")
    rendering = actions.add_parser("render", help="render a grid into an npz of the official form")
    rendering.set_defaults(run=_data_render)
    rendering.add_argument(
        "--grid", type=grid_argument, default="hearts", help=f"{', '.join(GRIDS)}, or five sizes (hearts)"
    )
    rendering.add_argument("--out", type=path_argument, required=True, metavar="FILE", help="the npz that is written")
    verifying = actions.add_parser("verify", help="how many images of a real file the re-rendering reproduces")
    verifying.set_defaults(run=_data_verify)
    verifying.add_argument("file", type=path_argument, metavar="FILE", help="an npz of the official form")
    showing = actions.add_parser("show", help="draw some of the images")
    showing.set_defaults(run=_data_show)
    add_images(showing)
    showing.add_argument("--out", type=path_argument, required=True, metavar="PNG", help="the picture that is written")

    add_commands(commands)
    add_selftest(commands.add_parser("selftest", help="certify the reference and the kernels on this machine"))
    return parser


# --- train -------------------------------------------------------------------------------------------------

_OVERRIDES = [field.name for field in dataclasses.fields(Settings)]


def _given(arguments: argparse.Namespace) -> dict[str, Any]:
    """The settings named on the command line."""
    return {name: getattr(arguments, name) for name in _OVERRIDES if getattr(arguments, name) is not None}


def _new_run(arguments: argparse.Namespace, stack: ExitStack) -> tuple[Run, FactorDataset, TrainingState]:
    preset = arguments.preset or "hearts"
    given = _given(arguments)
    settings = dataclasses.replace(PRESETS[preset], **given)
    for name in given:
        if (part := settings.idle(name)) is not None:
            hint = (
                "; its weight is --tc-weight"
                if settings.objective == "factor-vae" and name in ("beta", "gamma")
                else ""
            )
            raise InputError(
                f"--{name.replace('_', '-')} {getattr(arguments, name)} has no part in {part}{hint}; "
                f"leave it out, or choose another --{part.split()[1]}"
            )
    source = source_of(arguments, PRESET_GRIDS[preset])
    NUMPY.having(settings.estimator)  # nor one that cannot be had, which is found out before data are read
    check_folder(arguments.out)
    data = load(source, arguments.cache)
    settings.steps(len(data))
    batches(settings, data)  # an estimator that does not fit the data fails before there is a folder
    state = initial_state(settings, data.images.pixels)  # networks that do not fit into memory fail here
    arguments.out.mkdir(parents=True, exist_ok=True)
    stack.enter_context(locked(arguments.out, FILES))
    return Run.create(arguments.out, settings, source, data), data, state


def _continued_run(arguments: argparse.Namespace, stack: ExitStack) -> tuple[Run, FactorDataset, TrainingState]:
    Run.open(arguments.resume)  # a folder without a run is not written to, not even a lock
    stack.enter_context(locked(arguments.resume, FILES))
    run = Run.open(arguments.resume)
    given = _given(arguments)
    epochs = given.pop("epochs", run.settings.epochs)
    images = given_images(arguments)
    given |= {name: images[field] for name, field in SOURCES.items() if field in images}
    has: dict[str, Any] = {name: getattr(run.source, field) for name, field in SOURCES.items()} | run.settings.to_json()
    different = [name for name, value in given.items() if value != has[name]]
    if different or arguments.preset is not None or epochs < run.settings.epochs:
        name = different[0] if different else "preset" if arguments.preset is not None else "epochs"
        raise InputError(
            f"{run.folder}: --{name.replace('_', '-')} {getattr(arguments, name)} does not fit this run"
            + (f", which has {has[name]}" if name in has else "")
            + "; a run is continued as it is (only --epochs can be raised): start a new one with --out"
        )
    data = load(run.source, arguments.cache)
    run.check_data(data)
    state = run.load(data.images.pixels, len(data))  # before anything is changed
    return (run.extend(epochs) if epochs > run.settings.epochs else run), data, state


class _StopAtSignal:
    """Turns the first Ctrl-C, SIGTERM or SIGHUP into a request; a second one interrupts at once."""

    def __init__(self) -> None:
        self._asked = False

    def __enter__(self) -> "_StopAtSignal":
        self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, *_endings())}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True

    def __call__(self) -> bool:
        return self._asked


def _train(arguments: argparse.Namespace) -> int:
    seconds = checks.real_number("train", "save_every", arguments.save_every, 0.0)
    chosen = machinery(arguments.kernels, arguments.threads)
    with ExitStack() as stack:
        run, data, state = (_new_run if arguments.resume is None else _continued_run)(arguments, stack)
        settings, steps = run.settings, run.settings.steps(len(data))
        print(
            f"{data.name}: {len(data):,} images; {settings.objective} ({settings.estimator}){_described(settings)}, "
            f"D {settings.latent}, batch {settings.batch}, {settings.epochs} epochs = {steps:,} steps, "
            f"seed {settings.seed}"
            + (f"; continuing at step {state.step:,}" if state.step else "")
            + f"; {chosen.said}",
            flush=True,
        )
        chosen.make_ready("TRAINING", DTYPE)
        save = Saver(run, seconds)
        stop = stack.enter_context(_StopAtSignal())
        progress = stack.enter_context(Progress("training"))
        state = train(
            *(settings, data, state, save, lambda done, total, terms: progress(done, total, _live(terms)), stop),
            chosen.operations,
        )
        save.now(state)
    if state.step < steps:
        print(f"interrupted at step {state.step:,} of {steps:,}; saved in {run.folder}")
        print(f"continue: tcvae-ref train --resume {run.folder}")
        return 1
    last = dict(zip(recorded(settings), state.history[-1], strict=True))
    terms = ElboTerms(*(last.pop(name) for name in ElboTerms._fields))
    print(f"epoch {settings.epochs}: {_live(terms)}  ({_estimates(settings)})")
    if last:
        print("  ".join(f"{name.replace('_', ' ')} {value:.2f}" for name, value in last.items()))
    print(f"saved in {run.folder}. Next: tcvae-ref evaluate {run.folder}")
    return 0


def _estimates(settings: Settings) -> str:
    """What the printed terms are: those of MWS hold multiples of log N, which move no gradient."""
    if settings.estimator != "mws":
        return f"{settings.estimator} estimates"
    return "mws estimates: MI and TC too high, DWKL too low, by constants of log N; evaluate gives the values"


def _described(settings: Settings) -> str:
    """What is special to a run's objective, prior and network."""
    special: dict[str, Any] = {name: getattr(settings, name) for name in OBJECTIVES[settings.objective]}
    special = {name: value for name, value in special.items() if value or not name.endswith("warm_up")}
    shown = {
        name: "-".join(map(str, value)) if isinstance(value, tuple) else f"{value:g}" for name, value in special.items()
    }
    if settings.prior != "normal":
        shown["prior"] = settings.prior
    if settings.network != "mlp":
        shown["network"] = settings.network
    return "".join(f", {name.replace('_', ' ')} {text}" for name, text in shown.items())


def _live(terms: ElboTerms) -> str:
    """Render the ELBO's terms in one line."""
    names = ("log p(x|z)", "KL", "MI", "TC", "DWKL")
    return "  ".join(f"{name} {value:.2f}" for name, value in zip(names, terms, strict=True))


def _figures(arguments: argparse.Namespace) -> int:
    return (draw_study if is_study(arguments.folder) else draw_run)(arguments)


# --- data --------------------------------------------------------------------------------------------------


def _data_render(arguments: argparse.Namespace) -> int:
    check_writable(arguments.out)
    data = load(DataSource(grid=arguments.grid))
    with Progress("writing") as progress:
        write_npz(arguments.out, data, progress)
    sizes = " x ".join(f"{factor.size} {factor.name}" for factor in data.factors)
    print(f"{arguments.out}: {len(data):,} images ({sizes})")
    return 0


def _data_verify(arguments: argparse.Namespace) -> int:
    data = load(DataSource(file=str(arguments.file)))
    with Progress("comparing") as progress:
        result = fidelity(data, progress)
    print(f"{data.name}: {result.identical:,} of {result.images:,} images identical ({100 * result.share:.3f} %)")
    for shape, share in result.by_shape.items():
        print(f"  {shape:<8}{100 * share:.3f} %")
    for pixels, images in result.differing_pixels.items():
        print(f"  {images} images differ in {pixels} of 4096 pixels")
    if result.share < FIDELITY:
        print(f"below the required {100 * FIDELITY:g} %")
        return 1
    return 0


def _data_show(arguments: argparse.Namespace) -> int:
    data = load(source_of(arguments, "hearts"), arguments.cache)
    index = np.random.default_rng(0).choice(len(data), size=min(64, len(data)), replace=False)
    figures.save(figures.mosaic(data, sorted(index.tolist())), arguments.out)
    print(f"picture: {arguments.out}")
    return 0


# --- bench -------------------------------------------------------------------------------------------------


def _bench(arguments: argparse.Namespace) -> int:
    from tcvae_kernels import bench

    return int(bench.run(bench.arguments_parser().parse_args(arguments.rest)))


# --- main --------------------------------------------------------------------------------------------------


def _endings() -> tuple[signal.Signals, ...]:
    """Signals that ask a process to end; SIGHUP, of a terminal that is closed, unless nohup shields from it."""
    return (signal.SIGTERM,) if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else (signal.SIGTERM, signal.SIGHUP)


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM and SIGHUP do what Ctrl-C does: no file or process is left behind. Only the main thread may."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in _endings()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    if arguments.command == "bench":
        arguments.rest = rest
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        with _terminable():
            status = int(arguments.run(arguments))
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader of our output has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except TrainingDiverged as error:
        return _complain(str(error), 1)
    except OSError as error:
        where, said = ("" if error.filename is None else f"{error.filename}: "), error.strerror or error
        if error.errno == errno.ENOENT and error.filename is None:  # which is gone
            where = "the current folder: "
        if error.errno in _WRONG_PLACE and where:
            return _complain(f"{where}{said}", 2)
        return _complain(f"{where}{said}; what was saved before is intact", 1)
    except MemoryError as error:
        return _complain(f"not enough memory{f' ({error})' if str(error) else ''}; choose a smaller grid or batch", 1)
    except InputError as error:
        return _complain(str(error), 2)
    except KeyboardInterrupt:
        return _complain("interrupted", 1)


def _complain(text: str, status: int) -> int:
    """Say why it was not done; return the exit status."""
    print(f"tcvae-ref: {checks.one_line(text)}", file=sys.stderr)
    return status
