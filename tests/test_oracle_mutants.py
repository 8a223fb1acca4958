"""The oracle has teeth: every loss of wrong_losses.py is caught in float64, and for what it is; right ones pass."""

import false_alarms
import jax
import pytest
from right_losses import VARIANTS
from wrong_losses import GRADIENT_ONLY, NUMERICS, WRONG

from tcvae_ref.oracle import Verdict, check

jax.config.update("jax_enable_x64", True)

IN_VALUES = {Verdict.WRONG, Verdict.NONFINITE}
IN_GRADIENTS = {Verdict.WRONG_GRADIENT, Verdict.NONFINITE}


def verdicts(report):
    return {result.check: result.verdict for result in report.results}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_loss_is_caught_in_float64(name):
    """Within 200 drawn cases and the purpose-built ones."""
    wrong = WRONG[name]
    report = check(
        wrong.torch, framework="torch", estimator=wrong.estimator, dtypes=("float64",), checks=("values", "gradients")
    )
    found = verdicts(report)
    assert report.exit_status == 1
    if name in GRADIENT_ONLY:
        assert found == {"values": Verdict.PASS, "gradients": Verdict.WRONG_GRADIENT}
    elif name == "expanded-square":
        assert found == {"values": Verdict.UNSTABLE, "gradients": Verdict.UNSTABLE}
    elif name in NUMERICS:
        assert found["values"] in {Verdict.NONFINITE, Verdict.WRONG}
    else:
        assert found["values"] in IN_VALUES
    for result in report.results:
        if result.counterexample is not None:
            M, D = result.counterexample.case.z.shape
            assert M * D <= 24 or name == "exp-sum-log", "a counterexample is made small"


CONSTANTS_ONLY = {
    *("missing-constant", "only-log-m", "only-log-n", "wrong-dataset-size", "marginal-constant-once"),
    *("constant-offset", "missing-two-pi", "truncated-two-pi", "weights-and-constant"),
}


@pytest.mark.parametrize("name", sorted(CONSTANTS_ONLY))
def test_a_wrong_constant_leaves_the_gradients_right(name):
    wrong = WRONG[name]
    options = {"estimator": wrong.estimator, "dtypes": ("float64",), "max_examples": 30}
    assert verdicts(check(wrong.torch, framework="torch", checks=("gradients",), **options)) == {
        "gradients": Verdict.PASS
    }


@pytest.mark.parametrize("name", [name for name, wrong in WRONG.items() if wrong.jax is not None][::6])
def test_a_wrong_loss_is_caught_in_jax(name):
    """Compiled, in the few shapes that a compiling variant is given."""
    wrong = WRONG[name]
    options = {"estimator": wrong.estimator, "dtypes": ("float64",), "variants": ("jit",)}
    assert (
        check(wrong.jax, framework="jax", checks=("values", "gradients"), max_examples=20, **options).exit_status == 1
    )


def test_what_is_only_unstable_can_be_allowed():
    wrong = WRONG["expanded-square"].torch
    report = check(
        wrong, framework="torch", dtypes=("float64",), checks=("values",), max_examples=20, allow_unstable=True
    )
    assert report.verdict is Verdict.WARN
    assert report.exit_status == 0


STRICT = [v for v in VARIANTS if v.estimator in ("mws", "mss", "symmetric-mss", "minibatch")]


@pytest.mark.parametrize("variant", STRICT, ids=lambda v: f"{v.name} {v.framework}")
def test_a_right_variant_is_not_accused(variant):
    packed = {"packed": "params:mu,log_var"} if variant.spread == "packed" else {}
    variants = ("jit",) if variant.framework == "jax" else ("eager",)
    options = {"framework": variant.framework, "variants": variants, "max_examples": 16, **packed}
    report = check(variant.function, checks=("values", "gradients"), **options)
    if variant.name == "matrix products":
        assert report.verdict is Verdict.UNSTABLE
    else:
        assert report.exit_status == 0, report
    assert report.estimator == variant.estimator


@pytest.mark.parametrize("way", [w for w in false_alarms.WAYS if w[1] != "compiled"], ids="/".join)
def test_no_false_alarm(way, capsys):
    """A few cases of the campaign that `python tests/false_alarms.py` runs with thousands."""
    few, dtypes = ("1", ["float64"]) if way[0] == "jax" else ("4", list(false_alarms.DTYPES))
    status = false_alarms.main(["--cases", few, "--ways", "/".join(way), "--dtypes", *dtypes])
    assert status == 0, capsys.readouterr().out
