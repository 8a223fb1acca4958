"""The catalogue of mistakes and the weight probe on the command line: explain, weights."""

import argparse
import contextlib
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tcvae_ref.arguments import path_argument
from tcvae_ref.checks import InputError
from tcvae_ref.files import atomic_write, check_writable
from tcvae_ref.oracle import catalogue, process
from tcvae_ref.oracle.estimators import OWN
from tcvae_ref.oracle.types import QUANTITIES

if TYPE_CHECKING:
    from tcvae_ref.oracle.subject import Subject
    from tcvae_ref.oracle.weight_probe import WeightProbe

EXPLAIN_EPILOG = "exit status: 0 shown; 2 wrong usage"
WEIGHTS_EPILOG = "exit status: 0 shown; 1 none were found; 2 wrong usage, or the target cannot be imported"


def add_explain(parser: argparse.ArgumentParser) -> None:
    """Mount explain."""
    parser.set_defaults(run=_explain)
    parser.add_argument("id", nargs="?", metavar="ID", help="of the mistake, as a report names it (a list of them all)")
    parser.add_argument("--all", action="store_true", help="the whole catalogue")


def _explain(arguments: argparse.Namespace) -> int:
    if arguments.id is not None and arguments.all:
        raise InputError(f"explain: {arguments.id} and --all are both given; give one of them")
    if arguments.id is not None:
        print(catalogue.text(catalogue.find(arguments.id)))
    else:
        print(catalogue.everything() if arguments.all else catalogue.listing())
    return 0


def add_weights(
    parser: argparse.ArgumentParser,
    add_target: Callable[[argparse.ArgumentParser], None],
    target_options: Callable[[str, argparse.Namespace], dict[str, Any]],
) -> None:
    """Mount weights, with the options of a target that `add_target` adds and `target_options` reads."""
    add_target(parser)
    parser.set_defaults(run=lambda arguments: _weights(arguments, target_options("weights", arguments)))
    parser.add_argument("-M", type=int, default=5, help="batch size, 4 to 64 (5)")
    parser.add_argument("-N", type=int, help="data set size that the target is told (100)")
    parser.add_argument("--out", type=path_argument, metavar="FILE", help="a picture of the matrices, as PNG")


def _weights(arguments: argparse.Namespace, options: dict[str, Any]) -> int:
    from tcvae_ref.oracle.weight_probe import weights_figure, weights_text

    process.prepare()
    if arguments.out is not None:
        check_writable(arguments.out)
    with contextlib.redirect_stdout(sys.stderr):  # what the target prints is not our output
        probe = probed(arguments.target, options, arguments.M, arguments.N)
    if probe is None:
        print(f"{arguments.target}: fails, or returns nothing that depends on weights; tcvae-ref check says more")
        return 1
    print(weights_text(probe))
    if arguments.out is not None:
        figure = weights_figure(probe)
        with atomic_write(arguments.out) as file:
            figure.savefig(file, format="png", dpi=150)
        print(f"\nfigure: {arguments.out}")
    return 1 if probe.joint is None and probe.marginals is None else 0


def probed(target: str, options: dict[str, Any], M: int = 5, N: int | None = None) -> "WeightProbe | None":
    """Ask the target, as what it claims to be; as what its weights are where it claims nothing."""
    from tcvae_ref.oracle.weight_probe import probe_weights

    claimed = options.get("estimator")
    subject = _subject(target, claimed or "mss", {name: one for name, one in options.items() if name != "estimator"})
    probe = probe_weights(subject, QUANTITIES, M, N)
    if claimed is None and probe is not None and probe.pattern in OWN:
        return probe_weights(replace(subject, estimator=probe.pattern), QUANTITIES, M, N)
    return probe


def _subject(target: str, estimator: str, options: dict[str, Any]) -> "Subject":
    """The target in float64, or what its framework has."""
    from tcvae_ref.oracle import adapters
    from tcvae_ref.oracle.subject import Subject
    from tcvae_ref.oracle.target import load
    from tcvae_ref.oracle.types import Primitives

    framework = options.get("framework")
    loaded = load(target, **{name: value for name, value in options.items() if name != "framework"})
    adapter = adapters.chosen(target, [loaded.callable], framework)
    adapter.warm_up()
    dtype = "float64" if "float64" in adapter.dtypes else adapter.dtypes[0]
    exact = Primitives(2.0, 2.0)  # no bound is computed from them here
    return Subject.of(loaded, adapter, adapter.variants[0], dtype, estimator, exact)
