"""The commands `evaluate` and `figures`: numbers and pictures of a run, numbers of any model's representation."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tcvae_ref import __version__, checks, evaluation, figures, representations
from tcvae_ref.arguments import path_argument, words_argument
from tcvae_ref.checks import InputError
from tcvae_ref.command_parts import EPILOG, add_cache, add_kernels, load, machinery
from tcvae_ref.data import FactorDataset
from tcvae_ref.evaluation import DECOMPOSITION, METRICS, NOT_SCORED, USUAL, Evaluation, all_metrics
from tcvae_ref.files import check_folder, check_writable, real_path, write_json
from tcvae_ref.objectives import ElboTerms
from tcvae_ref.progress import Progress, Stages
from tcvae_ref.representations import Representation
from tcvae_ref.scores import RECIPES, score_names
from tcvae_ref.training import Model, Run, trained_model
from tcvae_ref.training.run import FILES

ALL = "all"
EXPORT = """\
from PyTorch, where encoder(x) returns mu and log_var and each batch brings its factors' classes:

  with torch.no_grad():
      rows = [(*encoder(x), factors) for x, factors in loader]
  mu, log_var, factors = (torch.cat(column).cpu().numpy() for column in zip(*rows))
  numpy.savez("model.npz", mu=mu, log_var=log_var, factors=factors, factor_names=["scale", "posX"])

Every input of the data set once; log_var is the logarithm of the variance, so 2 * log_std. In place of mu and log_var,
codes (N, D) alone; the scores which need log_var are then left out. weights (N,) may give p(n).
"""


def add_evaluate(parser: argparse.ArgumentParser) -> None:
    """Set up `evaluate`."""
    parser.set_defaults(run=_evaluate)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    says = {name: RECIPES[name].measures if name in RECIPES else "of another package" for name in score_names()}
    width = max(map(len, says))
    listed = "\n".join(f"  {name:<{width}}  {measures}" for name, measures in says.items())
    parser.epilog = (
        f"metrics:\n  {DECOMPOSITION:<{width}}  of the KL term, exact: MI + TC + DWKL\n{listed}\n\n{EXPORT}\n{EPILOG}"
    )
    parser.add_argument("what", type=path_argument, metavar="RUN|FILE", help="a run, or an npz of any model's codes")
    parser.add_argument(
        *("--metrics", "-m"),
        type=words_argument,
        action="extend",
        metavar="NAME,...",
        help=f"what to compute, or {ALL} ({', '.join(USUAL)}; without log_var, every score that needs none)",
    )
    parser.add_argument("--json", type=path_argument, metavar="FILE", help="where the numbers go (beside the model)")
    parser.add_argument("--samples", type=int, default=10_000, help="of z, for the Monte-Carlo terms (10000)")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn (0)")
    parser.add_argument(
        "--factors",
        type=words_argument,
        action="extend",
        help=f"to score, such as scale,posX (all that vary; of a run, without {', '.join(NOT_SCORED)})",
    )
    parser.add_argument(
        "--checkpoint", type=path_argument, metavar="FILE", help="keep a long decomposition here, and go on from it"
    )
    add_cache(parser)
    add_kernels(parser)
    parser.add_argument("--no-figures", action="store_true", help="numbers only")


def add_figures(parser: argparse.ArgumentParser) -> None:
    """Set up `figures`, of a run or of a study; what it does is up to whoever knows of both."""
    parser.epilog = EPILOG
    parser.add_argument(
        "folder", type=path_argument, metavar="RUN|STUDY", help="a run's folder, or a study's or its name"
    )
    parser.add_argument("--out", type=path_argument, metavar="FOLDER", help="where they go (RUN/figures; STUDY)")
    parser.add_argument(
        "--image", type=int, default=None, help="the image of a run whose code is traversed (the middle)"
    )
    add_cache(parser)


# --- a run -------------------------------------------------------------------------------------------------


class _Trained(NamedTuple):
    """A run that has been opened: everything the numbers and pictures are made from."""

    run: Run
    data: FactorDataset
    history: NDArray[np.float64]
    model: Model
    representation: Representation


def _open(folder: Path, cache: Path | None = None) -> _Trained:
    run = Run.open(folder)
    data = load(run.source, cache)
    run.check_data(data)
    state = run.load(data.images.pixels, len(data))
    if state.step == 0:
        raise InputError(f"{folder}: nothing is trained yet; tcvae-ref train --resume {folder}")
    steps = run.settings.steps(len(data))
    if state.step < steps:
        print(f"note: the run stands at step {state.step:,} of {steps:,}", file=sys.stderr)
    trained = trained_model(run.settings, state.parameters, state.statistics)
    with Progress("encoding") as progress:
        mu, log_var = evaluation.posteriors(trained.encode, data, progress)
    return _Trained(run, data, state.history, trained, representations.of_data(data, mu, log_var))


# --- evaluate ----------------------------------------------------------------------------------------------


def _evaluate(arguments: argparse.Namespace) -> int:
    known = (*all_metrics(), ALL)
    for name in arguments.metrics or ():
        checks.option("evaluate", "--metrics", name, known)
    return (_evaluate_file if arguments.what.is_file() else _evaluate_run)(arguments)


def _evaluate_run(arguments: argparse.Namespace) -> int:
    folder = arguments.what
    Run.open(folder)
    path = arguments.json or folder / "evaluation.json"
    _check_outputs(arguments, path, [folder / name for name in FILES])
    if not arguments.no_figures:
        check_folder(folder / "figures")
    chosen = machinery(arguments.kernels, arguments.threads)
    trained = _open(folder, arguments.cache)
    of = trained.representation
    metrics = arguments.metrics and (all_metrics() if ALL in arguments.metrics else arguments.metrics)
    chosen.make_ready("EVALUATION", "float64")
    assert of.log_var is not None
    decoder = evaluation.reconstruction(trained.model.decode, trained.data, of.mu, of.log_var)
    with Stages() as stages:
        result = evaluation.evaluate(
            *(of, metrics or USUAL, arguments.factors, arguments.samples, arguments.seed, decoder, stages.next),
            *(chosen.functions, arguments.checkpoint, trained.model.log_prior),
        )
    _report(result, path, {"run": trained.run.settings.to_json()}, chosen.said)
    if not arguments.no_figures:
        try:
            print(f"pictures: {_draw(trained, result, folder / 'figures', _middle(trained.data))}")
        except figures.NotInstalled as error:
            print(f"pictures: left out; {error}")
    return 0


def _evaluate_file(arguments: argparse.Namespace) -> int:
    file = arguments.what
    path = arguments.json or file.with_name(f"{file.stem}.evaluation.json")
    picture = path.with_name(f"{path.stem}.information.png")
    _check_outputs(arguments, path, [file])
    if not arguments.no_figures:
        taken = [file, path, *([arguments.checkpoint] if arguments.checkpoint is not None else [])]
        if check_writable(picture) in map(real_path, taken):
            raise InputError(f"{picture}: would be overwritten by the picture; choose another --json, or --no-figures")
    chosen = machinery(arguments.kernels, arguments.threads)
    of = representations.read(file)
    metrics = _metrics_of_file(of, arguments.metrics)
    factors = arguments.factors or of.varying()
    print(_described(of, factors, arguments.factors is None), flush=True)
    chosen.make_ready("EVALUATION", "float64")
    with Stages() as stages:
        result = evaluation.evaluate(
            *(of, metrics, factors or None, arguments.samples, arguments.seed, None, stages.next, chosen.functions),
            arguments.checkpoint,
        )
    if result.decomposition is None and not result.scores:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in result.left_out.items())
        raise InputError(f"{file}: nothing can be computed: {reasons}")
    _report(result, path, {"file": file.name}, chosen.said)
    if not arguments.no_figures and result.matrix is not None:
        try:
            figures.save(figures.information_matrix(result.matrix, result.factors), picture)
            print(f"picture: {picture}")
        except figures.NotInstalled as error:
            print(f"picture: left out; {error}")
    return 0


def _check_outputs(arguments: argparse.Namespace, path: Path, taken: Sequence[Path]) -> None:
    """Require names to write to that are no file of the model itself."""
    for output in (path, arguments.checkpoint):
        if output is not None and check_writable(output) in map(real_path, taken):
            raise InputError(
                f"{output}: belongs to the {'run' if len(taken) > 1 else 'model'} itself; choose another name"
            )
    if arguments.checkpoint is not None and check_writable(arguments.checkpoint) == check_writable(path):
        raise InputError(f"{path}: --json and --checkpoint are the same file; choose another name for one")


def _metrics_of_file(of: Representation, asked: Sequence[str] | None) -> Sequence[str]:
    """What to compute: with `all` whatever is refused is said; a name that cannot be computed is wrong usage."""
    if asked is None:
        return USUAL if of.log_var is not None else all_metrics()
    if ALL in asked:
        return all_metrics()
    for name, reason in evaluation.reasons_against(of, asked).items():
        against = evaluation.reasons_against(of, METRICS)
        possible = [other for other in METRICS if other not in against]
        raise InputError(f"{of.name}: --metrics {name}: {reason}; choose from {', '.join(possible)}")
    return asked


def _described(of: Representation, factors: Sequence[str], by_default: bool) -> str:
    kind = "posteriors" if of.log_var is not None else "codes"
    said = (
        f"{of.name}: {len(of):,} {kind} of {of.mu.shape[1]} dimensions; factors: {', '.join(factors) or 'none varies'}"
    )
    left_out_by_the_paper = [name for name in factors if name in NOT_SCORED]
    if by_default and left_out_by_the_paper and len(factors) > len(left_out_by_the_paper):
        rest = ",".join(name for name in factors if name not in NOT_SCORED)
        said += f"\nnote: the paper scores without {' and '.join(left_out_by_the_paper)}: --factors {rest}"
    if of.log_var is not None and of.log_var.min() >= 0:
        said += "\nnote: every log_var is at least 0, every posterior as wide as the prior: is it log sigma^2?"
    return said


def _report(result: Evaluation, path: Path, source: dict[str, object], computed_with: str) -> None:
    write_json(path, {"tcvae_ref": __version__, **source, **evaluation.to_json(result)})  # whoever reads may leave
    print(evaluation.to_table(result), flush=True)
    print(f"\ncomputed with {computed_with}")
    print(f"\nnumbers: {path}")


# --- figures -----------------------------------------------------------------------------------------------


def draw_run(arguments: argparse.Namespace) -> int:
    """Do `figures RUN`: draw every picture of a run."""
    Run.open(arguments.folder)
    folder = arguments.out or arguments.folder / "figures"
    check_folder(folder)
    trained = _open(arguments.folder, arguments.cache)
    image = _middle(trained.data) if arguments.image is None else arguments.image
    if not 0 <= image < len(trained.data):
        raise InputError(f"figures: image {image} does not exist; the data set has 0 to {len(trained.data) - 1}")
    with Stages() as stages:
        result = evaluation.evaluate(trained.representation, ["mig"], progress=stages.next)
    print(f"pictures: {_draw(trained, result, folder, image)}")
    return 0


def _middle(data: FactorDataset) -> int:
    """The image whose factors are nearest the middle of their values."""
    sizes = np.array(data.sizes)
    return int(np.argmin(np.abs(2 * data.classes.astype(np.int64) - sizes + 1) @ (1.0 / sizes)))


def _draw(trained: _Trained, result: Evaluation, folder: Path, image: int) -> Path:
    """Write every picture of a run into a folder; those there is nothing to draw for are left out, and it is said."""
    run, data, history, made, of = trained
    mu, log_var = of.mu, of.log_var
    assert log_var is not None
    spread = np.random.default_rng(0).choice(len(data), size=min(10, len(data)), replace=False)
    use = 0.5 * np.mean(mu**2 + np.exp(log_var) - 1.0 - log_var, axis=0)  # E_n[KL(q(z_d|n) || N(0, 1))] : (D,)
    pictures = {
        "reconstructions": figures.reconstructions(made.decode, data, mu, sorted(spread.tolist())),
        "traversals": figures.traversals(made.decode, data, mu, image, use),
    }
    if any(size > 1 for size in data.sizes):
        pictures["latents"] = figures.latents_against_factors(mu, data, use)
    else:
        print("latents.png: left out; no factor varies", file=sys.stderr)
    if len(history):
        pictures["training"] = figures.training_curves(history[:, : len(ElboTerms._fields)], run.settings.estimator)
    else:
        print("training.png: left out; the first epoch is not finished", file=sys.stderr)
    if result.matrix is not None:
        pictures["information"] = figures.information_matrix(result.matrix, result.factors)
    else:
        print(f"information.png: left out; {result.left_out.get('mig', 'mig was not asked for')}", file=sys.stderr)
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in pictures.items():
        figures.save(figure, folder / f"{name}.png")
    return folder
