"""What surrounds the penalty in a training step, judged on the command line: check-step."""

import argparse
import contextlib
import sys

from tcvae_ref.arguments import path_argument
from tcvae_ref.checks import InputError
from tcvae_ref.oracle import process, records
from tcvae_ref.oracle.places import CASES_HELP, PACKED_HELP, STANDARD_OUTPUT, check_places, put_json, put_page
from tcvae_ref.oracle.types import ESTIMATORS
from tcvae_ref.progress import Progress

STEP_EPILOG = "exit status: 0 all that was handed over passed; 1 a mistake, or a fault; 2 wrong usage"


def add_check_step(parser: argparse.ArgumentParser) -> None:
    """Mount check-step."""
    parser.set_defaults(run=_check_step)
    group = parser.add_argument_group("what is judged, each as package.module:function or path/file.py:function")
    group.add_argument("--sampler", metavar="F", help="of mu and a width (and eps, or a key); returns z")
    group.add_argument(
        "--loss",
        metavar="F",
        help="what is minimised, of the reconstruction (nll, log_px, or x and logits), z, mu, ...",
    )
    group.add_argument("--weights", metavar="F", help="of the step; returns alpha, beta, gamma, or beta")
    group = parser.add_argument_group("what is meant")
    group.add_argument("--alpha", type=float, default=1.0, help="at the end of training (1)")
    group.add_argument("--beta", type=float, help="at the end of training (6 where the loss takes it, else any)")
    group.add_argument("--gamma", type=float, default=1.0, help="at the end of training (1)")
    group.add_argument("--warm-up", type=_terms, metavar="TERM,...", help="whose weight grows (all, or TC alone)")
    group.add_argument(
        "--steps", type=_numbers, metavar="S,...", help="of training, the last its end (0,1,10,...,100000)"
    )
    group.add_argument(
        "--estimator", default="auto", metavar="E", help=f"of the loss: {', '.join(ESTIMATORS)} (auto: found)"
    )
    group.add_argument("--framework", metavar="F", help="whose tensors they take (found by what they import)")
    group.add_argument(
        "--bind", metavar="NAME=LITERAL", action="append", help="a parameter of the loss, always the same"
    )
    group.add_argument("--args", metavar="NAME=THEIRS,...", help="parameters of the loss: z=code,x=img, by place x=1")
    group.add_argument("--width", metavar="W", help="what holds the posteriors' width: log-var, log-std, std or var")
    group.add_argument("--packed", metavar="NAME:mu,W", help=PACKED_HELP)
    group.add_argument("--returns", metavar="loss=PART", help="which part it returns is minimised: loss=1, loss=elbo")
    group.add_argument("--image-shape", type=_sizes, metavar="C,H,W", help="of one image that the loss takes (flat: 6)")
    group.add_argument("--factory", metavar="MAKE", help="package.module:make, which makes the loss's instance")
    group.add_argument("--init", metavar="NAME=LITERAL", action="append", help="an argument of the class, or of MAKE")
    group.add_argument("--dataset-size", type=int, metavar="N", help="inside a loss that does not take it")
    group.add_argument("--seed", type=int, default=0, help="of what is drawn (0)")
    group = parser.add_argument_group("where it goes")
    group.add_argument(
        "--json", type=path_argument, metavar="FILE", help="the report for programs ('-': standard output)"
    )
    group.add_argument("--html", type=path_argument, metavar="FILE", help="the report as a page")
    group.add_argument("--cases", type=path_argument, default=records.FOLDER, metavar="FOLDER", help=CASES_HELP)
    group.add_argument("--no-save", action="store_true", help="keep no failing cases")
    group.add_argument("--quiet", action="store_true", help="the verdict only")


def _terms(text: str) -> tuple[str, ...]:
    from tcvae_ref.oracle.warm_up import TERMS

    found = tuple(word.strip().upper() for word in text.split(","))
    if not set(found) <= set(TERMS):
        raise argparse.ArgumentTypeError(f"{text!r}; some of {', '.join(TERMS)}")
    return found


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(word) for word in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} are not numbers; write 0,100,1000") from None


def _sizes(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} are not whole numbers; write 1,28,28") from None


def _check_step(arguments: argparse.Namespace) -> int:
    from tcvae_ref.oracle import html_report, machine_report, report
    from tcvae_ref.oracle.mapping import parse_bind, parse_pairs
    from tcvae_ref.oracle.training_step import check_step
    from tcvae_ref.oracle.warm_up import STEPS

    process.prepare()
    check_places("check-step", arguments)
    if not (arguments.sampler or arguments.loss or arguments.weights):
        raise InputError("check-step: nothing is handed over; give --sampler, --loss or --weights")
    with Progress("checking") as progress, contextlib.redirect_stdout(sys.stderr):
        found = check_step(
            *(arguments.sampler, arguments.loss, arguments.weights),
            **{name: getattr(arguments, name) for name in ("alpha", "beta", "gamma", "estimator", "framework", "seed")},
            steps=arguments.steps or STEPS,
            warm_up=arguments.warm_up,
            dataset_size=arguments.dataset_size,
            bind=parse_bind(arguments.bind) if arguments.bind else None,
            arguments=parse_pairs("--args", arguments.args) if arguments.args else None,
            parameterisation=arguments.width and arguments.width.replace("-", "_"),
            packed=arguments.packed,
            returns=arguments.returns,
            image_shape=arguments.image_shape,
            factory=arguments.factory,
            init=parse_bind(arguments.init, "init") if arguments.init else None,
            progress=progress,
        )
    saved = {} if arguments.no_save else records.save(found, arguments.cases)
    text = report.step_text(found, saved, arguments.cases)
    if arguments.html is not None:
        put_page(arguments.html, html_report.page(found, text))
    put_json(arguments.json, machine_report.to_json(found))
    if arguments.json != STANDARD_OUTPUT:
        print(f"{found.verdict}  {found.target}" if arguments.quiet else text)
    return found.exit_status
