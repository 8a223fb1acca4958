"""The command line: the only place that puts data, training, evaluation and figures together."""

import argparse
import dataclasses
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from tcvae_ref import __version__, checks, evaluation, figures
from tcvae_ref.checks import InputError
from tcvae_ref.data import GRIDS, FactorDataset, fidelity, grid, read_npz, render, write_npz
from tcvae_ref.data.sprite_files import FIDELITY
from tcvae_ref.files import write_json
from tcvae_ref.networks import Networks
from tcvae_ref.objectives import ElboTerms
from tcvae_ref.progress import Progress
from tcvae_ref.training import PRESETS, Run, Settings, TrainingDiverged, train
from tcvae_ref.training.loop import networks
from tcvae_ref.training.run import DataSource, Saver
from tcvae_ref.training.settings import ESTIMATORS, OBJECTIVES
from tcvae_ref.types import Array

EPILOG = "exit status: 0 done; 1 not done (interrupted, diverged, disk full, below the required share); 2 wrong usage"
PRESET_GRIDS = {"hearts": "hearts", "paper": "full"}


# --- arguments ---------------------------------------------------------------------------------------------


def _grid(text: str) -> str | tuple[int, ...]:
    if text in GRIDS:
        return text
    try:
        return tuple(int(part) for part in text.replace("x", ",").split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither one of {', '.join(GRIDS)} nor five sizes such as 3x6x10x16x16"
        ) from None


def _widths(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",") if part)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of widths such as 256,256") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tcvae-ref",
        description="Train a beta-TCVAE on a CPU, decompose its ELBO exactly, score its latents.",
        epilog=EPILOG,
    )
    parser.add_argument("--version", action="version", version=f"tcvae-ref {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    training = commands.add_parser("train", help="train a model, or continue a run", epilog=EPILOG)
    training.set_defaults(run=_train)
    where = training.add_mutually_exclusive_group(required=True)
    where.add_argument("--out", type=Path, metavar="RUN", help="folder of the new run")
    where.add_argument("--resume", type=Path, metavar="RUN", help="run to continue; --epochs may extend it")
    images = training.add_mutually_exclusive_group()
    images.add_argument("--grid", type=_grid, help=f"dSprites to render: {', '.join(GRIDS)}, or five sizes")
    images.add_argument("--data", metavar="FILE", help="an npz of the dSprites form, in place of a grid")
    training.add_argument("--preset", choices=PRESETS, help="settings to start from (default: hearts)")
    training.add_argument(
        "--save-every", type=float, default=5.0, metavar="S", help="least seconds between checkpoints (5)"
    )
    group = training.add_argument_group("settings, each in place of the preset's (shown: hearts)")
    default = PRESETS["hearts"]
    group.add_argument("--objective", choices=OBJECTIVES, help=f"what is maximised ({default.objective})")
    group.add_argument("--estimator", choices=ESTIMATORS, help=f"of log q(z) from a batch ({default.estimator})")
    numbers: list[tuple[str, Callable[[str], Any], str]] = [
        ("alpha", float, "weight of the index-code mutual information"),
        ("beta", float, "weight of the total correlation (beta-tcvae) or of the whole KL (beta-vae)"),
        ("gamma", float, "weight of the dimension-wise KL"),
        ("beta-warm-up", int, "steps over which beta rises from 0"),
        ("latent", int, "latent dimensions D"),
        ("encoder", _widths, "hidden widths, such as 1200,1200"),
        ("decoder", _widths, "hidden widths"),
        ("batch", int, "inputs per step M"),
        ("epochs", int, "passes through the data"),
        ("learning-rate", float, "of Adam"),
        ("seed", int, "of every random number"),
    ]
    for name, kind, text in numbers:
        value = getattr(default, name.replace("-", "_"))
        shown = ",".join(map(str, value)) if isinstance(value, tuple) else f"{value:g}"
        group.add_argument(f"--{name}", type=kind, metavar="X", help=f"{text} ({shown})")

    evaluating = commands.add_parser("evaluate", help="exact decomposition, MIG and pictures of a run", epilog=EPILOG)
    evaluating.set_defaults(run=_evaluate)
    evaluating.add_argument("folder", type=Path, metavar="RUN")
    evaluating.add_argument("--json", type=Path, metavar="FILE", help="where the numbers go (RUN/evaluation.json)")
    evaluating.add_argument("--samples", type=int, default=10_000, help="of z, for the Monte-Carlo terms (10000)")
    evaluating.add_argument("--seed", type=int, default=0, help="of the samples (0)")
    evaluating.add_argument("--factors", help="to score, such as scale,posX (all that vary, without shape)")
    evaluating.add_argument("--no-figures", action="store_true", help="numbers only")

    drawing = commands.add_parser("figures", help="pictures of a run", epilog=EPILOG)
    drawing.set_defaults(run=_figures)
    drawing.add_argument("folder", type=Path, metavar="RUN")
    drawing.add_argument("--out", type=Path, metavar="FOLDER", help="where they go (RUN/figures)")
    drawing.add_argument("--image", type=int, default=None, help="the image whose code is traversed (the middle one)")

    data = commands.add_parser("data", help="render, read and verify dSprites", epilog=EPILOG)
    actions = data.add_subparsers(dest="action", required=True, metavar="ACTION")
    rendering = actions.add_parser("render", help="render a grid into an npz of the official form")
    rendering.set_defaults(run=_data_render)
    rendering.add_argument("--grid", type=_grid, default="hearts", help=f"{', '.join(GRIDS)}, or five sizes (hearts)")
    rendering.add_argument("--out", type=Path, required=True, metavar="FILE")
    verifying = actions.add_parser("verify", help="how many images of a real file the re-rendering reproduces")
    verifying.set_defaults(run=_data_verify)
    verifying.add_argument("file", type=Path, metavar="FILE")
    showing = actions.add_parser("show", help="draw some images of a grid or a file")
    showing.set_defaults(run=_data_show)
    images = showing.add_mutually_exclusive_group()
    images.add_argument("--grid", type=_grid, default=None)
    images.add_argument("--data", metavar="FILE")
    showing.add_argument("--out", type=Path, required=True, metavar="PNG")
    return parser


# --- train -------------------------------------------------------------------------------------------------

_OVERRIDES = [field.name for field in dataclasses.fields(Settings)]


def _load(source: DataSource) -> FactorDataset:
    """The data set a run was asked to use."""
    if source.file is not None:
        with Progress("reading") as progress:
            return read_npz(Path(source.file), progress)
    assert source.grid is not None
    with Progress("rendering") as progress:
        return render(grid(source.grid), progress=progress)


def _new_run(arguments: argparse.Namespace) -> tuple[Run, FactorDataset]:
    preset = arguments.preset or "hearts"
    given = {name: getattr(arguments, name) for name in _OVERRIDES if getattr(arguments, name) is not None}
    settings = dataclasses.replace(PRESETS[preset], **given)
    file = None if arguments.data is None else str(Path(arguments.data).resolve())
    source = DataSource(None if file else arguments.grid or PRESET_GRIDS[preset], file)
    data = _load(source)
    return Run.create(arguments.out, settings, source, data), data


def _continued_run(arguments: argparse.Namespace) -> tuple[Run, FactorDataset]:
    run = Run.open(arguments.resume)
    for name in ("preset", "grid", "data", *_OVERRIDES):
        value = getattr(arguments, name)
        if value is None or (name == "epochs" and value >= run.settings.epochs):
            continue
        have = getattr(run.settings, name, "its own")
        raise InputError(
            f"{run.folder}: --{name.replace('_', '-')} {value} does not fit this run, which has {have}; "
            "a run is continued as it is (only --epochs can be raised): start a new one with --out"
        )
    data = _load(run.source)
    run.check_data(data)
    if arguments.epochs is not None:
        run = run.extend(arguments.epochs)
    return run, data


class _StopAtSignal:
    """Turns the first Ctrl-C or SIGTERM into a request; a second one interrupts at once."""

    def __init__(self) -> None:
        self._asked = False

    def __enter__(self) -> "_StopAtSignal":
        self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
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
    run, data = _new_run(arguments) if arguments.resume is None else _continued_run(arguments)
    settings = run.settings
    state = run.load(data.images.pixels)
    steps = len(data) // settings.batch * settings.epochs
    print(
        f"{data.name}: {len(data):,} images; {settings.objective} ({settings.estimator}), alpha {settings.alpha:g}, "
        f"beta {settings.beta:g}, gamma {settings.gamma:g}, D {settings.latent}, batch {settings.batch}, "
        f"{settings.epochs} epochs = {steps:,} steps, seed {settings.seed}"
        + (f"; continuing at step {state.step:,}" if state.step else "")
    )
    save = Saver(run, checks.real_number("train", "save_every", arguments.save_every, 0.0))
    with ExitStack() as stack:
        stop = stack.enter_context(_StopAtSignal())
        progress = stack.enter_context(Progress("training"))
        state = train(settings, data, state, save, lambda done, total, terms: progress(done, total, _live(terms)), stop)
        save.now(state)
    if state.step < steps:
        print(
            f"interrupted at step {state.step:,} of {steps:,}; saved. Continue: tcvae-ref train --resume {run.folder}"
        )
        return 1
    print(f"epoch {settings.epochs}: {_live(ElboTerms(*state.history[-1]))}  ({settings.estimator} estimates)")
    print(f"saved in {run.folder}. Next: tcvae-ref evaluate {run.folder}")
    return 0


def _live(terms: ElboTerms) -> str:
    """Render the ELBO's terms in one line."""
    names = ("log p(x|z)", "KL", "MI", "TC", "DWKL")
    return "  ".join(f"{name} {value:.2f}" for name, value in zip(names, terms, strict=True))


# --- evaluate and figures ----------------------------------------------------------------------------------


def _trained(folder: Path) -> tuple[Run, FactorDataset, Networks, Array, Array]:
    """Open a run: its data, its networks, and all its posteriors."""
    run = Run.open(folder)
    data = _load(run.source)
    run.check_data(data)
    state = run.load(data.images.pixels)
    if state.step == 0:
        raise InputError(f"{folder}: nothing is trained yet; tcvae-ref train --resume {folder}")
    steps = len(data) // run.settings.batch * run.settings.epochs
    if state.step < steps:
        print(f"note: the run stands at step {state.step:,} of {steps:,}", file=sys.stderr)
    trained = networks(run.settings, state.parameters)
    with Progress("encoding") as progress:
        mu, log_var = evaluation.posteriors(trained, data, progress)
    return run, data, trained, mu, log_var


def _evaluate(arguments: argparse.Namespace) -> int:
    run, data, trained, mu, log_var = _trained(arguments.folder)
    wanted = None if arguments.factors is None else arguments.factors.split(",")
    with ExitStack() as stack:
        result = evaluation.evaluate(
            trained,
            data,
            mu,
            log_var,
            arguments.samples,
            arguments.seed,
            wanted,
            lambda stage: stack.enter_context(Progress(stage)),
        )
    path = arguments.json or run.folder / "evaluation.json"
    content = {"tcvae_ref": __version__, "run": run.settings.to_json(), **evaluation.to_json(result)}
    write_json(path, content)
    print(evaluation.to_table(result))
    print(f"\nnumbers: {path}")
    if not arguments.no_figures:
        try:
            folder = _draw(run, data, trained, mu, result, run.folder / "figures", None)
        except figures.NotInstalled as error:
            print(f"pictures: left out; {error}")
        else:
            print(f"pictures: {folder}")
    return 0


def _figures(arguments: argparse.Namespace) -> int:
    run, data, trained, mu, log_var = _trained(arguments.folder)
    with ExitStack() as stack:
        result = evaluation.evaluate(
            trained, data, mu, log_var, progress=lambda stage: stack.enter_context(Progress(stage))
        )
    folder = arguments.out or run.folder / "figures"
    print(f"pictures: {_draw(run, data, trained, mu, result, folder, arguments.image)}")
    return 0


def _draw(
    run: Run,
    data: FactorDataset,
    trained: Networks,
    mu: Array,
    result: evaluation.Evaluation,
    folder: Path,
    image: int | None,
) -> Path:
    """Write every picture of a run into a folder."""
    middle = len(data) // 2 + data.sizes[-1] // 2 if image is None else image
    if not 0 <= middle < len(data):
        raise InputError(f"figures: image {middle} does not exist; the data set has images 0 to {len(data) - 1}")
    spread = np.random.default_rng(0).choice(len(data), size=min(10, len(data)), replace=False)
    labels = [f"z_{d}  {kl:.2f} nats" for d, kl in enumerate(result.dimension_kl)]
    pictures = {
        "reconstructions": figures.reconstructions(trained, data, mu, sorted(spread.tolist())),
        "traversals": figures.traversals(trained, data.images.shape, mu[middle], result.dimension_kl, labels),
        "training": figures.training_curves(run.load(data.images.pixels).history, run.settings.estimator),
        "latents": figures.latents_against_factors(mu, data, result.dimension_kl),
        "information": figures.information_matrix(result.mig, result.factors),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in pictures.items():
        figures.save(figure, folder / f"{name}.png")
    return folder


# --- data --------------------------------------------------------------------------------------------------


def _data_render(arguments: argparse.Namespace) -> int:
    data = _load(DataSource(arguments.grid, None))
    with Progress("writing") as progress:
        write_npz(arguments.out, data, progress)
    sizes = " x ".join(f"{factor.size} {factor.name}" for factor in data.factors)
    print(f"{arguments.out}: {len(data):,} images ({sizes})")
    return 0


def _data_verify(arguments: argparse.Namespace) -> int:
    data = _load(DataSource(None, arguments.file))
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
    data = _load(DataSource(None, arguments.data) if arguments.data else DataSource(arguments.grid or "hearts", None))
    index = np.random.default_rng(0).choice(len(data), size=min(64, len(data)), replace=False)
    figures.save(figures.mosaic(data, sorted(index.tolist())), arguments.out)
    print(f"picture: {arguments.out}")
    return 0


# --- main --------------------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except TrainingDiverged as error:
        print(f"tcvae-ref: {error}", file=sys.stderr)
        return 1
    except (
        FileNotFoundError,
        PermissionError,
        IsADirectoryError,
        NotADirectoryError,
        FileExistsError,
    ) as error:
        print(f"tcvae-ref: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    except OSError as error:
        where = "" if error.filename is None else f"{error.filename}: "
        print(f"tcvae-ref: {where}{error.strerror or error}; what was saved before is intact", file=sys.stderr)
        return 1
    except MemoryError as error:
        print(f"tcvae-ref: not enough memory ({error}); choose a smaller grid or batch", file=sys.stderr)
        return 1
    except (InputError, TypeError) as error:
        print(f"tcvae-ref: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("tcvae-ref: interrupted", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
