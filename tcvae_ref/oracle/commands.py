"""The oracle on the command line: check, check-step, replay, probe, ghostwrite, list-checks, ...

What takes long to import, or may not be installed, is imported by the command that needs it.
"""

import argparse
import contextlib
import importlib.util
import sys
from collections.abc import Sequence
from typing import Any

from tcvae_ref import checks
from tcvae_ref.arguments import path_argument, words_argument
from tcvae_ref.checks import InputError
from tcvae_ref.files import atomic_write, check_writable
from tcvae_ref.oracle import estimators, process, records
from tcvae_ref.oracle.explain_commands import EXPLAIN_EPILOG, WEIGHTS_EPILOG, add_explain, add_weights, probed
from tcvae_ref.oracle.places import CASES_HELP, PACKED_HELP, STANDARD_OUTPUT, check_places, put_json, put_page
from tcvae_ref.oracle.step_commands import STEP_EPILOG, add_check_step
from tcvae_ref.oracle.types import DTYPES, FAILURES, PARAMETERISATIONS, CheckResult, Report, Verdict
from tcvae_ref.oracle.vector_commands import add_vectors
from tcvae_ref.progress import Progress

CHECK_EPILOG = (
    "exit status: 0 all that was judged passed; 1 a counterexample; 2 wrong usage, or the target cannot be imported; "
    "3 nothing was certified"
)
REPLAY_EPILOG = "exit status: 0 fixed; 1 failed, or in error; 2 wrong usage; 3 nothing was certified"
PROBE_EPILOG = "exit status: 0 accurate; 1 an exp or log that spoils the results; 2 wrong usage"
EPILOG = "exit status: 0 done; 1 not done; 2 wrong usage"
SILENCE = 60.0
"""Seconds without progress after which --isolate gives up."""

# --- parsers -----------------------------------------------------------------------------------------------


def add_commands(commands: "argparse._SubParsersAction[Any]") -> None:
    """Mount the oracle's commands on a command line."""
    _add_check(commands.add_parser("check", help="judge a loss of yours, in your framework", epilog=CHECK_EPILOG))
    step = commands.add_parser("check-step", help="judge a sampler, a whole loss, a warm-up", epilog=STEP_EPILOG)
    add_check_step(step)
    _add_replay(commands.add_parser("replay", help="run a saved failing case again", epilog=REPLAY_EPILOG))
    _add_probe(commands.add_parser("probe", help="accuracy of a framework's exp and log", epilog=PROBE_EPILOG))
    _add_ghostwrite(commands.add_parser("ghostwrite", help="write a test file for a loss of yours", epilog=EPILOG))
    listing = commands.add_parser("list-checks", help="what `check` checks", epilog=EPILOG)
    listing.set_defaults(run=_list_checks)
    add_vectors(commands.add_parser("vectors", help="certified test vectors for any language"))
    add_explain(commands.add_parser("explain", help="what a mistake is, does, and its fix", epilog=EXPLAIN_EPILOG))
    weights = commands.add_parser("weights", help="the weights in a loss of yours, as a matrix", epilog=WEIGHTS_EPILOG)
    add_weights(weights, _add_target, _target_options)


def _add_target(parser: argparse.ArgumentParser) -> None:
    """The target and how it is called: what `check` and `ghostwrite` share."""
    parser.add_argument("target", metavar="TARGET", help="package.module:function or path/file.py:function")
    parser.add_argument(
        "--estimator",
        default="auto",
        metavar="E",
        help=f"what it claims to be: {', '.join(estimators.names())} (auto: found)",
    )
    parser.add_argument("--framework", metavar="F", help="whose tensors it takes (found by what it imports)")
    group = parser.add_argument_group("how the target is called, where its names do not say")
    group.add_argument("--args", metavar="NAME=THEIRS,...", help="its parameters: z=latent,mu=mean, or by place mu=1")
    group.add_argument("--width", metavar="W", help="what holds the posteriors' width: log-var, log-std, std or var")
    group.add_argument("--packed", metavar="NAME:mu,W", help=PACKED_HELP)
    group.add_argument("--returns", metavar="Q,...", help="what it returns, such as mi,tc,dwkl or tc=total,mi=info")
    group.add_argument("--weights", metavar="NAME=X,...", help="of the penalty it returns: alpha=1,beta=6,gamma=1")
    bound = "a parameter that is always the same; dataset_size=60000 of one that has N inside"
    group.add_argument("--bind", metavar="NAME=LITERAL", action="append", help=bound)
    group.add_argument("--factory", metavar="MAKE", help="package.module:make, which makes the instance of a class")
    group.add_argument("--init", metavar="NAME=LITERAL", action="append", help="an argument of the class, or of MAKE")


def _add_check(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_check)
    _add_target(parser)
    group = parser.add_argument_group("what is checked")
    dtypes = f"{', '.join(DTYPES)}, with commas or repeated (float64,float32 where there)"
    group.add_argument("--dtype", type=words_argument, action="extend", metavar="T", help=dtypes)
    group.add_argument(
        "--variant",
        type=words_argument,
        action="extend",
        metavar="V",
        help="such as eager, compiled (the first: eager)",
    )
    group.add_argument(
        "--checks", type=words_argument, action="extend", metavar="NAME,...", help="see list-checks (all)"
    )
    group.add_argument("--max-examples", type=int, default=200, metavar="K", help="cases for each check (200)")
    group.add_argument("--seed", type=int, default=0, help="of the cases (0)")
    group.add_argument("--no-gradients", action="store_true", help="values only")
    group.add_argument("--allow-unstable", action="store_true", help="unstable arithmetic is no failure")
    group.add_argument("--isolate", action="store_true", help="in a process of its own, for what hangs or crashes")
    group.add_argument(
        "--time-limit",
        type=float,
        metavar="SECONDS",
        help=f"without a case done, after which --isolate gives up ({SILENCE:g})",
    )
    group = parser.add_argument_group("where it goes")
    group.add_argument(
        "--json", type=path_argument, metavar="FILE", help="the report for programs ('-': standard output)"
    )
    group.add_argument("--html", type=path_argument, metavar="FILE", help="the report and the weights, as a page")
    group.add_argument("--junit", type=path_argument, metavar="FILE", help="the report as JUnit XML")
    group.add_argument("--cases", type=path_argument, default=records.FOLDER, metavar="FOLDER", help=CASES_HELP)
    group.add_argument("--no-save", action="store_true", help="keep no failing cases")
    group.add_argument("--quiet", action="store_true", help="the verdict and the counts only")


def _add_replay(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_replay)
    parser.add_argument("id", metavar="ID", nargs="?", help="of the case, or how it begins (none: lists the cases)")
    parser.add_argument("--target", metavar="TARGET", help="the loss, or what failed of a step, where it has moved")
    parser.add_argument("--cases", type=path_argument, default=records.FOLDER, metavar="FOLDER", help=CASES_HELP)


def _add_probe(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_probe)
    parser.add_argument("--framework", required=True, metavar="F", help="numpy, torch, jax, ...")
    dtypes = f"{', '.join(DTYPES)}, with commas or repeated (what the framework computes in)"
    parser.add_argument("--dtype", type=words_argument, action="extend", metavar="T", help=dtypes)


def _add_ghostwrite(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_ghostwrite)
    _add_target(parser)
    parser.add_argument("--out", type=path_argument, metavar="FILE", help="a new file (standard output)")


# --- arguments ---------------------------------------------------------------------------------------------


def _require(command: str, *modules: str) -> None:
    """Require what the oracle is built on."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        names = {"hypothesis": "hypothesis", "flint": "python-flint"}
        raise InputError(f"{command}: {names[missing[0]]} is not installed; pip install 'tcvae-ref[oracle]'")


def _dtypes(command: str, words: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(checks.option(command, "--dtype", word, DTYPES) for word in words))


def _weights(text: str) -> dict[str, float]:
    """Weights out of `alpha=1,beta=6`."""
    from tcvae_ref.oracle.mapping import parse_pairs

    weights = {}
    for name, value in parse_pairs("--weights", text).items():
        checks.option("--weights", "weight", name, ("alpha", "beta", "gamma"))
        try:
            number = float(value)
        except ValueError:
            raise InputError(f"--weights: {name}={value!r} is not a number; write {name}=6") from None
        weights[name] = checks.real_number("--weights", name, number)
    return weights


def _target_options(command: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """How the target is called, as keyword arguments: those that were given."""
    from tcvae_ref.oracle.mapping import parse_bind, parse_pairs

    options: dict[str, Any] = {
        "estimator": checks.option(command, "--estimator", arguments.estimator, ("auto", *estimators.names())),
        "framework": arguments.framework,
        "arguments": arguments.args and parse_pairs("--args", arguments.args),
        "parameterisation": arguments.width and _width(command, arguments.width),
        "packed": arguments.packed,
        "returns": arguments.returns,
        "weights": arguments.weights and _weights(arguments.weights),
        "bind": arguments.bind and parse_bind(arguments.bind),
        "init": arguments.init and parse_bind(arguments.init, "init"),
        "factory": arguments.factory,
    }
    return {name: value for name, value in options.items() if value not in (None, "auto")}


def _width(command: str, word: str) -> str:
    words = [name.replace("_", "-") for name in PARAMETERISATIONS]
    return checks.option(command, "--width", word.replace("_", "-"), words).replace("-", "_")


def _check_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The keyword arguments of `checking.check`."""
    from tcvae_ref.oracle import checking

    names = arguments.checks and [checks.option("check", "--checks", n, checking.CHECKS) for n in arguments.checks]
    seconds = arguments.time_limit
    if seconds is not None and not arguments.isolate:
        raise InputError(f"check: --time-limit {seconds:g} needs a process that can be ended; add --isolate")
    if seconds is not None:
        checks.real_number("check", "--time-limit", seconds, 0.0, above=True)
    options = {
        **_target_options("check", arguments),
        "dtypes": _dtypes("check", arguments.dtype) if arguments.dtype else None,
        "variants": tuple(dict.fromkeys(arguments.variant)) if arguments.variant else None,
        "max_examples": checks.whole_number("check", "--max-examples", arguments.max_examples, 1),
        "seed": checks.whole_number("check", "--seed", arguments.seed, 0),
        "checks": tuple(dict.fromkeys(names)) if names else None,
        "gradients": not arguments.no_gradients,
        "allow_unstable": arguments.allow_unstable,
    }
    return {name: value for name, value in options.items() if value is not None}


# --- check -------------------------------------------------------------------------------------------------


def _check(arguments: argparse.Namespace) -> int:
    _require("check", "hypothesis", "flint")
    from tcvae_ref.oracle import report

    process.prepare()
    options = _check_options(arguments)
    check_places("check", arguments)
    with Progress("checking") as progress:
        checked = _run(arguments, options, progress)
    saved = {} if arguments.no_save else records.save(checked, arguments.cases)
    _write(arguments, checked, saved)
    if arguments.html is not None:
        _write_page(arguments, checked, saved)
    if arguments.json != STANDARD_OUTPUT:
        short = f"{checked.verdict}  {checked.target}: {report.summary(checked)}"
        print(short if arguments.quiet else report.text(checked, saved, arguments.cases))
    return checked.exit_status


def _run(arguments: argparse.Namespace, options: dict[str, Any], progress: Progress) -> Report:
    from tcvae_ref.oracle import checking, isolation

    if arguments.isolate:
        seconds = SILENCE if arguments.time_limit is None else arguments.time_limit
        return isolation.run_isolated(arguments.target, options, seconds, progress)
    with contextlib.redirect_stdout(sys.stderr):  # what the target prints is not our output
        return checking.check(arguments.target, **options, progress=progress)


def _write(arguments: argparse.Namespace, checked: Report, saved: dict[int, str]) -> None:
    from tcvae_ref.oracle import machine_report

    put_json(arguments.json, machine_report.to_json(checked))
    if arguments.junit is not None:
        with atomic_write(arguments.junit) as file:
            file.write(machine_report.to_junit(checked, saved, arguments.cases))


def _write_page(arguments: argparse.Namespace, checked: Report, saved: dict[int, str]) -> None:
    """The report as HTML, with the weights that the target uses where they can be recovered in this process."""
    from tcvae_ref.oracle import html_report, report

    weights = None
    if not arguments.isolate and any(r.check == "values" and r.verdict is not Verdict.ERROR for r in checked.results):
        with contextlib.redirect_stdout(sys.stderr):
            weights = probed(arguments.target, _target_options("check", arguments))
    put_page(arguments.html, html_report.page(checked, report.text(checked, saved, arguments.cases), weights))


# --- replay ------------------------------------------------------------------------------------------------


def _replay(arguments: argparse.Namespace) -> int:
    if arguments.id is None:
        return _list_cases(arguments)
    record = records.load_any(arguments.id, arguments.cases)
    _require("replay", "hypothesis", "flint")
    process.prepare()
    with contextlib.redirect_stdout(sys.stderr):
        result = _again(record, arguments.target)
    word = _outcome(result)
    where = f"{record.check} ({record.dtype}, {record.variant}) of {arguments.target or record.target}"
    print(f"{word}  {record.id}: {where}, {record.verdict} when it was saved")
    if word != "FIXED":
        _show(result)
    return {"FIXED": 0, "FAILED": 1, "ERROR": 1}.get(word, 3)


def _again(record: records.Record | records.StepRecord, target: str | None) -> CheckResult:
    if isinstance(record, records.StepRecord):
        from tcvae_ref.oracle import training_step

        return training_step.replay_step(record, target)
    from tcvae_ref.oracle import checking

    return checking.replay_case(record, target)


def _list_cases(arguments: argparse.Namespace) -> int:
    from tcvae_ref.oracle import report

    if arguments.target is not None:
        raise InputError("replay: --target is given and no case; name its ID, from `tcvae-ref replay`")
    rows = records.listing(arguments.cases)
    print("\n".join(report.table([["id", "check", "dtype", "target", "saved"], *rows])))
    return 0


def _outcome(result: CheckResult) -> str:
    if result.verdict is Verdict.ERROR:
        return "ERROR"
    if result.verdict in FAILURES:
        return "FAILED"
    return "INCONCLUSIVE" if result.verdict is Verdict.INCONCLUSIVE else "FIXED"


def _show(result: CheckResult) -> None:
    from tcvae_ref.oracle import report

    print(f"{result.verdict}: {result.message or report.MEANING[result.verdict]}")
    if result.counterexample is not None and result.counterexample.elements:
        print("\n".join(["", *report.element_table(result.counterexample.elements, result.dtype)]))


# --- probe -------------------------------------------------------------------------------------------------


def _probe(arguments: argparse.Namespace) -> int:
    from tcvae_ref.oracle import adapters, primitives, report

    process.prepare()
    dtypes = _dtypes("probe", arguments.dtype or ())
    adapter = adapters.by_name(arguments.framework)
    for dtype in dtypes:
        checks.option("probe", f"--framework {adapter.name} --dtype", dtype, adapter.dtypes)
    rows, status = [["dtype", "exp", "log", "verdict"]], 0
    for dtype in dtypes or adapter.dtypes:
        errors = primitives.probe(adapter, dtype)
        accurate = max(errors) <= primitives.INACCURATE
        status = status if accurate else 1
        verdict = Verdict.PASS if accurate else Verdict.PRIMITIVE
        rows.append([dtype, report.short(errors.exp), report.short(errors.log), verdict])
    print(f"{adapter.name} {adapter.version()}: largest error in units of the roundoff u of the dtype")
    print("\n".join(report.table(rows, right=(1, 2))))
    if status:
        print(f"PRIMITIVE: more than {primitives.INACCURATE:g} u; results in this dtype are spoilt before any loss")
    return status


# --- ghostwrite, list-checks -------------------------------------------------------------------------------


def _ghostwrite(arguments: argparse.Namespace) -> int:
    from tcvae_ref.oracle.ghostwrite import ghostwrite

    process.prepare()
    options = _target_options("ghostwrite", arguments)
    if "estimator" not in options:  # it is found by calling the target
        _require("ghostwrite", "hypothesis", "flint")
    if arguments.out is not None:
        check_writable(arguments.out)
        if arguments.out.exists():
            raise InputError(f"{arguments.out}: is there already; give a new name, or remove it")
    folder = None if arguments.out is None else arguments.out.parent
    with contextlib.redirect_stdout(sys.stderr):  # what the target prints is not our output
        text = ghostwrite(arguments.target, folder=folder, **options)
    if arguments.out is None:
        print(text, end="" if text.endswith("\n") else "\n")
        return 0
    with atomic_write(arguments.out) as file:
        file.write(text.encode())
    print(f"test: {arguments.out}")
    return 0


def _list_checks(arguments: argparse.Namespace) -> int:
    _require("list-checks", "hypothesis", "flint")
    from tcvae_ref.oracle import checking, report

    print("\n".join(report.table([[name, text] for name, text in checking.CHECKS.items()])))
    return 0
