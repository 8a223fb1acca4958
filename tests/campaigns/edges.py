"""Every public function of the package and of the kernels at the edges of floating point and of NumPy's arrays.

    python tests/campaigns/edges.py [--seed 0] [--only log_qz] [--all]

Each function is called, and differentiated where it can be, with each of its array arguments replaced in turn:

    values    nan, inf, +-1e150, 1e154, 1e300, subnormal, log_var of +-700, +-745, +-1400, 1e308, all entries or one
    layouts   Fortran-ordered, strided, reversed, read-only, big-endian, a subclass; 0-d, 1-d, 3-d, empty, lists,
              integers, booleans, objects, complex, float16, extended, mixed dtypes, other shapes
    numbers   whole numbers 0, N < M, N = M, 2^40 ... 10^400, floats, nan, NumPy's integers, strings, None

A call may return what is true (values against ball arithmetic where the result fits the dtype, layouts against a plain
copy), or complain in one line that names the function, or one that it calls. Everything else is counted as wrong:
another exception, a warning, nan, an infinity whose true value fits. Where squares overflow (`in_range`) the result is
-inf, as documented, or nan where one such is taken from another, and NumPy may warn of either.

Some minutes; the kernels are compiled first. Exit status 1 where anything was wrong.
"""

import argparse
import collections
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tcvae_kernels
from autograd import make_vjp
from autograd import numpy as anp
from tcvae_kernels import elementwise, mixture

import tcvae_ref
from tcvae_ref import InputError, metrics, priors
from tcvae_ref.oracle.types import ESTIMATORS
from tcvae_ref.selftest import densities, draws, estimators
from tcvae_ref.selftest.types import Case, Result

M, D = 4, 2


class Subject(NamedTuple):
    """A function, arguments that it takes, and by which of them it is differentiable."""

    name: str
    call: Callable[..., Any]
    arguments: dict[str, Any]
    differentiable: tuple[str, ...] = ()


def subjects(rng: np.random.Generator, dtype: str) -> list[Subject]:
    """All of them, in one dtype."""

    def normal(*shape: int) -> Any:
        return rng.standard_normal(shape).astype(dtype)

    three = {"z": normal(M, D), "mu": normal(M, D), "log_var": normal(M, D)}
    found = []
    for module in (tcvae_ref, tcvae_kernels):
        for stem in (e.replace("-", "_") for e in ESTIMATORS):
            N = M if stem == "exact" else 50
            for name in (f"log_qz_{stem}", f"expected_log_qz_{stem}"):
                found.append(
                    Subject(f"{module.__name__}.{name}", getattr(module, name), {**three, "N": N}, tuple(three))
                )
    for name in ("log_density", "log_density_matrix"):
        found.append(Subject(f"tcvae_ref.{name}", getattr(tcvae_ref, name), three, tuple(three)))
    for name in ("log_standard_normal", "log_laplace"):
        found.append(Subject(f"tcvae_ref.{name}", getattr(tcvae_ref, name), {"z": three["z"]}, ("z",)))
    gaussian = {"x": three["z"], "mean": three["mu"], "log_var": three["log_var"]}
    noise = {"mu": three["mu"], "log_var": three["log_var"], "eps": three["z"]}
    pixels = {"x": rng.random((M, D)).astype(dtype), "logits": three["mu"]}
    found += [
        Subject("tcvae_ref.gaussian_log_likelihood", tcvae_ref.gaussian_log_likelihood, gaussian, tuple(gaussian)),
        Subject("tcvae_ref.reparameterise", tcvae_ref.reparameterise, noise, tuple(noise)),
        Subject(
            "tcvae_ref.kl_to_standard_normal",
            tcvae_ref.kl_to_standard_normal,
            dict(list(noise.items())[:2]),
            ("mu", "log_var"),
        ),
        Subject("tcvae_ref.bernoulli_log_likelihood", tcvae_ref.bernoulli_log_likelihood, pixels, tuple(pixels)),
        Subject(
            "tcvae_kernels.elementwise.bernoulli_log_likelihood",
            elementwise.bernoulli_log_likelihood,
            pixels,
            ("logits",),
        ),
    ]
    flow = dict(zip(("a", "c", "b"), priors.initial_flow(D, rng, dtype), strict=True))
    found.append(
        Subject(
            "tcvae_ref.log_flow",
            lambda z, a, c, b: tcvae_ref.log_flow(z, [a, c, b]),
            {"z": three["z"], **flow},
            ("z", *flow),
        )
    )
    mss = tcvae_ref.expected_log_qz_mss
    found.append(
        Subject(
            "tcvae_ref.kl_terms",
            lambda z, mu, v, N: tcvae_ref.kl_terms(z, mu, v, N, mss),
            {**three, "N": 50},
            tuple(three),
        )
    )
    found.append(
        Subject(
            "tcvae_ref.elbo_terms",
            lambda p, z, mu, v, N: tcvae_ref.elbo_terms(p, z, mu, v, N, mss),
            {"log_px": normal(M), **three, "N": 50},
            ("log_px", *three),
        )
    )
    for name in ("mws", "mss", "symmetric_mss"):
        found.append(
            Subject(f"tcvae_ref.log_weights_{name}", getattr(tcvae_ref, f"log_weights_{name}"), {"M": M, "N": 50})
        )
    ones = {"points": normal(5), "mu": normal(M), "log_var": normal(M), "log_weights": normal(M)}
    found.append(Subject("tcvae_kernels.mixture.log_density", mixture.log_density, ones))
    found.append(Subject("tcvae_kernels.mixture.log_joint", mixture.log_joint, three))
    labels = np.array([[0], [1], [0], [1]])
    found += [
        Subject(
            "tcvae_ref.metrics.mixture_entropies",
            lambda mu, v, labels, w: metrics.mixture_entropies(mu, v, labels, w)[:2],
            {"mu": normal(M), "log_var": normal(M), "labels": labels, "weights": rng.random(M).astype(dtype)},
        ),
        Subject(
            "tcvae_ref.metrics.mig_quadrature",
            lambda mu, v, c, w: metrics.mig_quadrature(mu, v, c, weights=w)[:4],
            {"mu": normal(M, D), "log_var": normal(M, D), "classes": labels, "weights": rng.random(M).astype(dtype)},
        ),
        Subject(
            "tcvae_ref.metrics.mig_monte_carlo",
            lambda mu, v, c, w: metrics.mig_monte_carlo(mu, v, c, weights=w, rng=0, samples=20, batches=2)[:4],
            {"mu": normal(M, D), "log_var": normal(M, D), "classes": labels, "weights": rng.random(M).astype(dtype)},
        ),
        Subject(
            "tcvae_ref.metrics.mig_binned",
            lambda mu, v, c, w: metrics.mig_binned(mu, v, c, weights=w, rng=0)[:4],
            {"mu": normal(M, D), "log_var": normal(M, D), "classes": labels, "weights": rng.random(M).astype(dtype)},
        ),
        Subject(
            "tcvae_ref.metrics.sap_r_squared",
            lambda mu, c, w: metrics.sap_r_squared(mu, c, weights=w)[0],
            {"codes": normal(M, D), "classes": labels, "weights": rng.random(M).astype(dtype)},
        ),
        Subject(
            "tcvae_ref.metrics.decomposition_exact",
            lambda mu, v, i, e: [x[0] for x in metrics.decomposition_exact(mu, v, i, e)[:3]],
            {"mu": normal(M, D), "log_var": normal(M, D), "index": np.arange(M), "eps": normal(M, D)},
        ),
        Subject(
            "tcvae_ref.metrics.dimension_wise_kl_exact",
            metrics.dimension_wise_kl_exact,
            {"mu": normal(M, D), "log_var": normal(M, D), "entropies": normal(D)},
        ),
        Subject("tcvae_ref.metrics.estimate", metrics.estimate, {"values": normal(M)}),
    ]
    return found


# --- edges -----------------------------------------------------------------------------------------------------


def values(name: str, a: Any) -> dict[str, Any]:
    """Arrays of the same kind with extreme entries."""
    if a.dtype.kind != "f":
        return {"negative": a - 1, "huge": a + 2**40, "one value": np.zeros_like(a)}
    big = [1e150, -1e150, 1e154, 1e300, 1.7e308] if a.dtype == np.float64 else [1e18, -1e18, 1.8e19, 1e30, 3.4e38]
    numbers = [np.nan, np.inf, -np.inf, 0.0, -0.0, float(np.finfo(a.dtype).smallest_subnormal), *big]
    if name in ("log_var", "logits", "log_weights", "log_px", "c", "a", "b"):
        numbers += [
            700.0,
            -700.0,
            745.0,
            -745.0,
            1399.0,
            -1399.0,
            1401.0,
            -1401.0,
            80.0,
            -80.0,
            169.0,
            -169.0,
            171.0,
            -171.0,
        ]
    result = {}
    for x in numbers:
        one = a.copy()
        one.flat[a.size // 2] = x
        result[f"one {x:g}"], result[f"all {x:g}"] = one, np.full_like(a, x)
    return result


class _Subclass(np.ndarray):
    pass


def layouts(a: Any) -> dict[str, Any]:
    """The same numbers, laid out otherwise: the result must be that of a plain copy, or a complaint."""
    wide = np.zeros((*a.shape[:-1], 2 * a.shape[-1]), a.dtype)
    wide[..., ::2] = a
    locked = a.copy()
    locked.flags.writeable = False
    unaligned = np.frombuffer(b"\0" + a.tobytes(), np.uint8)[1:].view(a.dtype).reshape(a.shape)
    return {
        "Fortran": np.asfortranarray(a),
        "strided": wide[..., ::2],
        "reversed": a[::-1].copy()[::-1],
        "read-only": locked,
        "unaligned": unaligned,
        "big-endian": a.astype(a.dtype.newbyteorder(">")),
        "subclass": a.copy().view(_Subclass),
        "masked": np.ma.masked_array(a.copy(), mask=np.arange(a.size).reshape(a.shape) == 1),
        "list": a.tolist(),
        "object": a.astype(object),
    }


def shapes(a: Any) -> dict[str, Any]:
    """Other shapes and kinds: complaints, or the truth."""
    other = "float32" if a.dtype == np.float64 else "float64"
    result = {
        "0-d": a.reshape(-1)[0].reshape(()),
        "1-d": a.ravel(),
        "3-d": a[None],
        "no rows": a[:0],
        "one row": a[:1],
        "more rows": np.concatenate([a, a]),
        "scalar": a.dtype.type(1),
        "Python number": 1,
        "None": None,
        "string": "mu",
        **{dtype: a.astype(dtype) for dtype in ("int64", "bool", "complex128", "float16", "longdouble", other)},
    }
    if a.ndim > 1:
        result |= {"no columns": a[:, :0], "one column": a[:, :1], "columns first": a.T}
    return result


def whole_numbers(n: int) -> dict[str, Any]:
    """What may stand for M or N."""
    good = [
        1,
        2,
        3,
        4,
        5,
        2**24,
        2**31,
        2**40,
        2**53 + 1,
        2**62,
        2**63,
        2**64,
        2**80,
        2**127,
        2**200,
        2**1000,
        2**1023,
        2**1030,
        10**400,
    ]
    bad = [0, -1, 50.0, 50.5, float("nan"), float("inf"), True, "50", None, 1j, [50], np.array([50]), np.float64(50)]
    numpys = [np.int8(50), np.uint8(50), np.int64(50), np.uint64(50), np.uint64(2**64 - 1), np.array(50)]
    return {f"{x!r:.40}": x for x in (*good, *bad, *numpys) if not (n == M and isinstance(x, int) and x > 2**20)}


# --- judging ---------------------------------------------------------------------------------------------------


def flat(result: Any) -> list[Any]:
    """All numbers of a result."""
    if isinstance(result, tuple | list):
        return [x for part in result for x in flat(part)]
    return [np.asarray(result)]


AUTOGRADS = ("subclass", "masked", "list", "object", "None", "string", "bool", "int64", "Python number")
"""Arguments that autograd itself will not differentiate by, or differentiates in its own way."""


NUMPY_WARNS = ("warns overflow", "warns invalid value")


class Outcome(NamedTuple):
    """What came of a call: numbers, a complaint, or what is wrong."""

    numbers: tuple[Any, ...] = ()
    complaint: str = ""
    wrong: str = ""


def outcome(call: Callable[[], Any]) -> Outcome:
    """Call with warnings as errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            return Outcome(tuple(flat(call())))
        except InputError as error:
            lines = str(error).splitlines()
            if len(lines) != 1 or len(lines[0]) > 500:
                return Outcome(wrong=f"a complaint of {len(lines)} lines: {str(error)[:100]}")
            return Outcome(complaint=str(error))
        except Warning as warning:
            return Outcome(wrong=f"warns {warning}")
        except Exception as error:  # what a user must never see
            return Outcome(wrong=f"{type(error).__name__}: {str(error)[:100]}")


def value_of(subject: Subject, arguments: dict[str, Any]) -> Outcome:
    return outcome(lambda: subject.call(*arguments.values()))


def gradient_of(subject: Subject, arguments: dict[str, Any]) -> Outcome:
    """Of the sum of all results."""
    names = list(arguments)
    positions = tuple(names.index(name) for name in subject.differentiable)

    def total(*a: Any) -> Any:
        result = subject.call(*a)
        with np.errstate(over="ignore"):
            return sum(anp.sum(part) for part in (result if isinstance(result, tuple) else (result,)))

    def call() -> Any:
        vjp, value = make_vjp(total, positions)(*arguments.values())
        return vjp(np.asarray(value).dtype.type(1))

    return outcome(call)


def finite(numbers: tuple[Any, ...]) -> str:
    """What is not finite among them: "nan", "infinite", or ""."""
    if any(np.isnan(a).any() for a in numbers if a.dtype.kind in "fc"):
        return "nan"
    return "infinite" if any(np.isinf(a).any() for a in numbers if a.dtype.kind in "fc") else ""


def against_truth(subject: Subject, arguments: dict[str, Any]) -> str | None:
    """What differs from ball arithmetic; None where the truth of this function, or of these numbers, is not known."""
    name = subject.name.rpartition(".")[2]
    result = Result(0, 0)
    stem = name.partition("log_qz_")[2]
    if stem:
        z, mu, log_var, N = arguments.values()
        if z.shape != mu.shape:
            return None
        if (
            not draws.fits(*(a.astype(np.float64) for a in (z, mu, log_var)), str(z.dtype))
            or np.abs(log_var).max() > 705
        ):
            return None
        if (2**60 if z.dtype == np.float32 else 2**900) < N:
            return None
        batch = draws.Batch(z, mu, log_var, str(z.dtype), stem.replace("_", "-"), int(N), "")
        module = tcvae_kernels if subject.name.startswith("tcvae_kernels") else tcvae_ref
        for function, compare in estimators.judge(batch, [module], np.random.default_rng(0)):
            if function == subject.name:
                result.add(Case(0, "", {}), compare())
    elif name in densities.FORMULAS and subject.name.startswith(("tcvae_ref.", "tcvae_kernels.elementwise")):
        module = elementwise if "elementwise" in subject.name else tcvae_ref
        limit = 1e150 if next(iter(arguments.values())).dtype == np.float64 else 1e17
        if (
            any(np.abs(a).max() > limit for a in arguments.values())
            or np.abs(arguments.get("log_var", 0.0)).max() > 705
        ):
            return None
        try:
            result.add(Case(0, "", {}), densities.judge(name, arguments, module))
        except ArithmeticError:
            return None
    else:
        return None
    if not result.findings:
        return ""
    f = result.findings[0]
    return (
        f"{f.quantity} {f.argument} {f.index} is {f.got}, true {f.true}, error {f.error:.2g}, allowed {f.allowed:.2g}"
    )


class Counts:
    """Combinations, and what was wrong."""

    def __init__(self, everything: bool) -> None:
        self.kinds: collections.Counter[str] = collections.Counter()
        self.everything = everything
        self.seen: set[tuple[str, str]] = set()

    def note(self, where: str, edge: str, verdict: str, text: str = "") -> None:
        self.kinds[verdict] += 1
        if verdict != "wrong":
            return
        kind = (where, text.partition(":")[0][:40])
        if self.everything or kind not in self.seen:
            print(f"{where}  [{edge}]  {text}", flush=True)
        self.seen.add(kind)


def in_range(arguments: dict[str, Any]) -> bool:
    """Whether no square of any argument, over a variance, can overflow its dtype."""
    floats = [
        np.asarray(a, dtype=np.float64) for a in arguments.values() if getattr(a, "dtype", np.dtype(int)).kind == "f"
    ]
    single = any(getattr(a, "dtype", None) == np.float32 for a in arguments.values())
    most, widest = (1e17, 80.0) if single else (1e150, 700.0)
    deviations = ("log_var", 1.0), ("c", 2.0)  # a flow's c is the logarithm of what others have the square of
    log_var = max(k * np.abs(np.asarray(arguments.get(name, 0.0), dtype=np.float64)).max() for name, k in deviations)
    return (
        all(np.abs(a).max(initial=0.0) <= most for a in floats)
        and bool(log_var <= widest)
        and not (log_var > widest / 8 and any(np.abs(a).max(initial=0.0) > most**0.25 for a in floats))
    )


def judge(counts: Counts, subject: Subject, edge: str, arguments: dict[str, Any], plain: dict[str, Any] | None) -> None:
    """One combination: its value, and its gradient where there is one."""
    parts = [("", value_of)]
    if subject.differentiable and not edge.endswith(AUTOGRADS):
        parts.append(("gradient of ", gradient_of))
    for prefix, evaluate in parts:
        where, got = prefix + subject.name, evaluate(subject, arguments)
        if got.wrong.startswith(NUMPY_WARNS) and not in_range(arguments):
            counts.note(where, edge, "warned of")
        elif got.wrong:
            counts.note(where, edge, "wrong", got.wrong)
        elif got.complaint:
            named = subject.name.rpartition(".")[2].removeprefix("expected_")
            known = (
                named,
                "log_density_matrix",
                "reparameterise",
                "mixture_entropies",
                "batch",
                "log_density",
                "tcvae_kernels",
                "kl_terms",
                "log_qz_mss",
                "log_joint",
                "decomposition",
                "mig",
            )
            counts.note(
                where,
                edge,
                *(
                    ("complaint",)
                    if any(k in got.complaint for k in known)
                    else ("wrong", f"complaint does not say who: {got.complaint}")
                ),
            )
        elif plain is not None:
            right = evaluate(subject, plain).numbers
            same = len(right) == len(got.numbers) and all(
                a.dtype == b.dtype
                and a.shape == b.shape
                and np.allclose(
                    a, b, rtol=1e-13 if a.dtype == np.float64 else 1e-5, atol=0 if a.dtype == np.float64 else 1e-6
                )
                for a, b in zip(got.numbers, right, strict=True)
            )
            counts.note(
                where,
                edge,
                *(("right",) if same else ("wrong", f"another result than of a plain copy: {got.numbers[0].dtype}")),
            )
        elif kind := finite(got.numbers):
            fits = in_range(arguments)
            documented = (kind == "infinite" and not fits) or (prefix and not fits)
            counts.note(where, edge, *(("beyond",) if documented else ("wrong", f"{kind} result")))
        else:
            counts.note(where, edge, "finite")
    if plain is None:
        arrays = [a for a in arguments.values() if not isinstance(a, int)]
        if (
            all(isinstance(a, np.ndarray) and a.dtype.kind == "f" for a in arrays)
            and not value_of(subject, arguments).complaint
        ):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    difference = against_truth(subject, arguments)
                except InputError:
                    difference = None
            if difference is not None:
                counts.note(subject.name, edge, "wrong" if difference else "true", difference)


def main() -> int:
    """Go through all combinations."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", metavar="WORD", help="functions whose name holds it")
    parser.add_argument("--all", action="store_true", help="print everything that is wrong, not the first of a kind")
    parser.add_argument("--dtypes", default="float64,float32", help="with a comma between them")
    options = parser.parse_args()
    counts, start, said = Counts(options.all), time.monotonic(), time.monotonic()
    for dtype in options.dtypes.split(","):
        chosen = [s for s in subjects(np.random.default_rng(options.seed), dtype) if options.only in s.name]
        for done, subject in enumerate(chosen):
            for name, argument in subject.arguments.items():
                if isinstance(argument, np.ndarray):
                    for label, array in values(name, argument).items():
                        judge(counts, subject, f"{dtype} {name} {label}", {**subject.arguments, name: array}, None)
                    for label, array in layouts(argument).items():
                        judge(
                            counts,
                            subject,
                            f"{dtype} {name} {label}",
                            {**subject.arguments, name: array},
                            subject.arguments,
                        )
                    for label, array in shapes(argument).items():
                        judge(counts, subject, f"{dtype} {name} {label}", {**subject.arguments, name: array}, None)
                else:
                    for label, number in whole_numbers(argument).items():
                        judge(counts, subject, f"{dtype} {name} = {label}", {**subject.arguments, name: number}, None)
            if time.monotonic() - said > 2:
                said = time.monotonic()
                print(
                    f"{dtype}: {done + 1} of {len(chosen)} functions, {counts.kinds['wrong']} wrong",
                    file=sys.stderr,
                    flush=True,
                )
    kinds = ", ".join(f"{n:,} {kind}" for kind, n in sorted(counts.kinds.items()))
    print(
        f"edges: seed {options.seed}, {sum(counts.kinds.values()):,} judgements in "
        f"{time.monotonic() - start:.0f} s: {kinds}"
    )
    return 1 if counts.kinds["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
