"""Are right losses ever accused? Every loss of right_losses.py on thousands of cases, values and gradients.

    python tests/false_alarms.py --cases 2000

prints, for each way to run a framework, how many judgements there were, which verdicts, and the worst and median error
over allowance. A compiling variant keeps to the few shapes that `tcvae-ref check` gives it.
"""

import argparse
import functools
import sys
import time
from collections import Counter
from typing import NamedTuple

import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings

from tcvae_ref.oracle import adapters, cases
from tcvae_ref.oracle.against_truth import verdict_on_gradients, verdict_on_values
from tcvae_ref.oracle.primitives import probe
from tcvae_ref.oracle.subject import Subject
from tcvae_ref.oracle.types import ESTIMATORS, FAILURES, Verdict

FORMS = ("direct", "standardised", "looped")
WAYS = (
    ("numpy", "eager"),
    ("autograd", "eager"),
    ("torch", "eager"),
    ("torch", "compiled"),
    ("jax", "eager"),
    ("jax", "jit"),
)
DTYPES = ("float64", "float32", "bfloat16")


class Way(NamedTuple):
    """A loss as one framework runs it."""

    framework: str
    variant: str
    form: str


class Tally:
    """Verdicts, and errors over allowances of what was certified."""

    def __init__(self):
        self.verdicts, self.ratios, self.failures = Counter(), [], []

    def count(self, finding):
        self.verdicts[finding.verdict] += 1
        if finding.verdict is Verdict.PASS:
            self.ratios.append(finding.worst)
        if finding.verdict in FAILURES:
            self.failures.append(finding)


@functools.cache
def subject(way, estimator, dtype):
    """A right loss in a dtype; None where the framework or the loss knows no such dtype."""
    import right_losses

    adapter = adapters.by_name(way.framework)
    preserved = right_losses.PRESERVED[way.framework, way.form]
    if dtype not in adapter.dtypes or dtype not in preserved:
        return None
    loss = right_losses.RIGHT[way.framework, way.form, estimator]

    def function(tensors, constants):
        return loss(tensors["z"], tensors["mu"], tensors["log_var"], constants["dataset_size"])

    return Subject(function, adapter, way.variant, dtype, estimator, "log_var", probe(adapter, dtype))


def judge(one, received, allowed, tally, quantities):
    """Values, and gradients of some quantities, in one call."""
    observed = one.observe(received, quantities if one.adapter.differentiable else ())
    tally.count(verdict_on_values(one, received, observed, allowed))
    if observed.gradients:
        tally.count(verdict_on_gradients(one, received, observed, allowed))


def campaign(ways, estimator, dtype, count, tallies):
    """Judge `count` cases of one estimator and dtype, the same for all ways (those that compile share theirs)."""
    for compiles in (False, True):
        here = [w for w in ways if adapters.by_name(w.framework).compiles(w.variant) == compiles]
        subjects = [(w, s) for w in here if (s := subject(w, estimator, dtype)) is not None]
        if not subjects:
            continue
        shapes = cases.shapes(estimator) if compiles else None
        one_case = functools.partial(_on_all, subjects, dtype, tallies, Counter())
        run = settings(
            max_examples=count,
            deadline=None,
            database=None,
            phases=(Phase.generate,),
            suppress_health_check=list(HealthCheck),
        )(seed(2018)(given(cases.cases(estimator, dtype, shapes))(lambda case: one_case(case))))  # noqa: B023
        run()
        for case in cases.purpose_built(estimator, dtype, shapes).values():
            one_case(case)


def _on_all(subjects, dtype, tallies, counter, case):
    """One case for every way; the gradients of TC, and of each term on every tenth case."""
    counter["cases"] += 1
    quantities = ("tc",) if counter["cases"] % 10 else ("mi", "tc", "dwkl")
    same = {}  # the forms of a framework receive the same numbers and have the same allowances
    for way, one in subjects:
        if way.framework not in same:
            received = one.receive(case)
            same[way.framework] = received, one.allowances(received)
        judge(one, *same[way.framework], tallies[way, dtype], quantities)


def table(tallies):
    """One line for each way to run a framework, form and dtype, and a sum."""
    lines, total, every = [], Counter(), []
    for (way, dtype), tally in tallies.items():
        if not tally.verdicts:
            lines.append(f"{way.framework:9} {way.variant:9} {way.form:13} {dtype:9} not run: no such dtype")
            continue
        total += tally.verdicts
        every += tally.ratios
        said = ", ".join(f"{n:,} {verdict}" for verdict, n in tally.verdicts.items())
        ratios = np.array(tally.ratios or [np.nan])
        lines.append(
            f"{way.framework:9} {way.variant:9} {way.form:13} {dtype:9} "
            f"worst {ratios.max():.3f}  median {np.median(ratios):.4f}  {said}"
        )
    said = ", ".join(f"{n:,} {verdict}" for verdict, n in total.items())
    lines.append(f"in all: {said}; worst error/allowed {max(every, default=np.nan):.3f}, median {np.median(every):.4f}")
    return "\n".join(lines)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=2000, help="drawn for each estimator and dtype (2000)")
    parser.add_argument("--ways", nargs="*", default=["/".join(w) for w in WAYS], help="such as torch/compiled")
    parser.add_argument("--dtypes", nargs="*", default=DTYPES)
    arguments = parser.parse_args(argv)
    ways = [Way(*way.split("/"), form) for way in arguments.ways for form in FORMS]
    if any(way.framework == "jax" for way in ways):
        import jax

        jax.config.update("jax_enable_x64", True)
    for framework in {way.framework for way in ways}:
        adapters.by_name(framework).warm_up()
    tallies = {(way, dtype): Tally() for way in ways for dtype in arguments.dtypes}
    started = time.monotonic()
    for estimator in ESTIMATORS:
        for dtype in arguments.dtypes:
            campaign(ways, estimator, dtype, arguments.cases, tallies)
            print(f"{time.monotonic() - started:6.0f} s  {estimator} {dtype} done", file=sys.stderr, flush=True)
    print(table(tallies))
    accused = [finding for tally in tallies.values() for finding in tally.failures]
    for finding in accused[:5]:
        print(finding)
    return 1 if accused else 0


if __name__ == "__main__":
    sys.exit(main())
