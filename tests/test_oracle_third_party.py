"""The oracle on the losses of published packages: what it says is true, as their code shows once it is put right."""

import json
import math
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import third_party
from optional import torch
from third_party import NOTHING, default_dtype

from tcvae_ref.oracle import check
from tcvae_ref.oracle.types import FAILURES, Verdict

PACKAGES = Path(third_party.__file__)
judge = partial(check, framework="torch", max_examples=40)


def needs(package):
    reason = f"{package} is not installed: {third_party.INSTALL[package]}"
    return pytest.mark.skipif(not third_party.installed(package), reason=reason)


def verdicts(report, dtype="float64"):
    return {result.check: result.verdict for result in report.results if result.dtype == dtype}


def counterexample(report, check="values", dtype="float64"):
    (found,) = [r.counterexample for r in report.results if (r.check, r.dtype) == (check, dtype)]
    return found


def assert_passes(report, estimator):
    assert (report.verdict, report.estimator) == (Verdict.PASS, estimator)
    assert report.counts["certified"] > 100


def command(*arguments):
    """The public command, in a process of its own, in the folder of the wrappers."""
    words = [sys.executable, "-c", "import sys; from tcvae_ref.cli import main; sys.exit(main())", *arguments]
    return subprocess.run(words, capture_output=True, text=True, cwd=PACKAGES.parent, check=False)


# --- pythae: the weights of MSS go down columns ----------------------------------------------------------------------


def pythae_weights(M, N):
    """Its matrix, which takes nothing from the model."""
    with default_dtype(torch.float64):
        return third_party.BetaTCVAE._log_importance_weight_matrix(None, M, N).exp().numpy()


@needs("pythae")
def test_pythae_weights_by_hand():
    M, N, m = 4, 10, 3
    weights = pythae_weights(M, N)
    stratified = (N - m) / (N * m)
    expected = np.full((M, M), 1 / m)
    expected[:, 0], expected[:, 1] = 1 / N, stratified
    expected[m - 1, 0] = stratified
    np.testing.assert_allclose(weights, expected, rtol=1e-14)
    sums = np.ones(M)
    sums[m - 1] += stratified - 1 / N
    np.testing.assert_allclose(weights.sum(1), sums, rtol=1e-14)


@needs("pythae")
@pytest.mark.parametrize("name", ["pythae_mss", "pythae_mss_in_its_dtype"])
def test_pythae_mss_is_named(name):
    """As it is, with constants in float32 inside, and with these taken out."""
    report = judge(getattr(third_party, name), estimator="mss", diagnose=True, checks=["values", "gradients"])
    assert [one.id for one in report.diagnosis] == ["mss-weights-in-columns"]
    assert ("part of it seems to be computed in float32" in report.notes) == (name == "pythae_mss")


@needs("pythae")
def test_pythae_mss_is_wrong():
    report = judge(third_party.pythae_mss_in_its_dtype, estimator="mss")
    assert (report.verdict, report.exit_status) == (Verdict.WRONG, 1)
    found = verdicts(report)
    wrong = {name for name, verdict in found.items() if verdict in FAILURES}
    assert {"values", "gradients", "identical-posteriors", "cyclic-shift"} <= wrong
    assert found["values"] is Verdict.WRONG
    assert found["gradients"] is Verdict.WRONG_GRADIENT
    assert found["one-dimension"] is found["telescoping"] is Verdict.PASS  # what such mistakes are not seen by
    assert verdicts(report, "float32")["values"] is Verdict.WRONG
    assert counterexample(report).stage == "log q(z) and log q(z_d)"


@needs("pythae")
def test_pythae_counterexample_is_explained_by_the_sums_of_the_weights():
    report = judge(third_party.pythae_mss_in_its_dtype, estimator="mss", checks=["identical-posteriors"])
    shown = counterexample(report, "identical-posteriors")
    M, D = shown.case.z.shape
    assert np.all(shown.case.mu == shown.case.mu[0])
    off = np.log(pythae_weights(M, shown.case.dataset_size).sum(1)).mean()
    expected = {"mi": -off, "tc": (1 - D) * off, "dwkl": D * off}
    assert shown.elements
    for element in shown.elements:
        assert element.got - element.lower == pytest.approx(expected[element.quantity], rel=1e-9)


@needs("pythae")
def test_pythae_is_right_but_for_these_weights():
    assert_passes(judge(third_party.pythae_mss_with_right_weights_in_its_dtype), "mss")


@needs("pythae")
def test_pythae_mws_is_right():
    assert_passes(judge(third_party.pythae_mws_in_its_dtype), "mws")


@needs("pythae")
def test_pythae_constants_are_in_single_precision_by_default():
    """log N M and log 2 pi are tensors of the default dtype: in float64 the result is that of float32."""
    report = judge(third_party.pythae_mws)
    assert report.estimator == "mws"
    double, single = verdicts(report, "float64"), verdicts(report, "float32")
    assert double["values"] in FAILURES
    assert double["gradients"] is Verdict.PASS
    assert single["values"] is single["gradients"] is Verdict.PASS
    assert 1e-10 < max(element.error for element in counterexample(report).elements) < 1e-6


@needs("pythae")
@pytest.mark.parametrize("use_mss", [False, True])
def test_pythae_method_with_a_factory(use_mss):
    with default_dtype(torch.float64):
        report = judge(
            "pythae.models:BetaTCVAE.loss_function",
            factory=partial(third_party.pythae_model, beta=6.0, use_mss=use_mss),
            bind={"recon_x": NOTHING, "x": NOTHING},
            returns="-,-,penalty",
            weights={"beta": 6.0},
            estimator="mss" if use_mss else "mws",
            dtypes=["float64"],
        )
    assert report.verdict is (Verdict.WRONG if use_mss else Verdict.PASS)


@needs("pythae")
def test_pythae_on_the_command_line(tmp_path):
    target, cases, file = f"{PACKAGES.name}:pythae_mss", str(tmp_path), tmp_path / "report.json"
    options = ("--estimator", "mss", "--max-examples", "10", "--checks", "values,gradients", "--dtype", "float64")
    shown = command("check", target, *options, "--cases", cases, "--json", str(file))
    assert shown.returncode == 1, shown.stderr
    assert json.loads(file.read_text())["verdict"] == "WRONG"
    assert shown.stdout.startswith("WRONG  third_party.py:pythae_mss  (torch, estimator mss)")
    identity = shown.stdout.split("tcvae-ref replay ")[1].split()[0]
    assert command("replay", identity, "--cases", cases).stdout.startswith("FAILED")
    right = f"{PACKAGES.name}:pythae_mss_with_right_weights_in_its_dtype"
    replayed = command("replay", identity, "--cases", cases, "--target", right)
    assert (replayed.returncode, replayed.stdout[:5]) == (0, "FIXED"), replayed.stderr


# --- disent: TC without its constant, the KL beta times --------------------------------------------------------------


@needs("disent")
def test_disent_tc_lacks_a_constant():
    report = judge(third_party.disent_tc, estimator="minibatch")
    found = verdicts(report)
    assert (found["values"], found["gradients"]) == (Verdict.WRONG, Verdict.PASS)
    assert found["permutation"] is found["one-dimension"] is Verdict.PASS
    shown = counterexample(report)
    M, D = shown.case.z.shape
    (element,) = shown.elements
    assert element.got - element.lower == pytest.approx((1 - D) * math.log(M), rel=1e-9)


@needs("disent")
def test_disent_tc_is_right_but_for_the_constant():
    assert_passes(judge(third_party.disent_tc_with_constant), "minibatch")
    assert_passes(judge(third_party.disent_tc_with_constant_of_mws), "mws")


@needs("disent")
def test_disent_static_method_without_a_wrapper():
    report = judge("third_party:BetaTcVae._betatc_compute_total_correlation", checks=["values", "gradients"])
    assert "(z_sampled=z, z_mean=mu, z_logvar=log_var) -> tc" in report.mapping
    assert verdicts(report) == {"values": Verdict.WRONG, "gradients": Verdict.PASS}


@needs("disent")
@pytest.mark.parametrize(
    ("loss", "values", "gradients"),
    [
        ("disent_penalty", Verdict.WRONG, Verdict.WRONG_GRADIENT),
        ("disent_penalty_with_kl_once", Verdict.WRONG, Verdict.PASS),
        ("disent_penalty_put_right", Verdict.PASS, Verdict.PASS),
    ],
)
def test_disent_kl_counts_beta_times(loss, values, gradients):
    report = judge(getattr(third_party, loss), estimator="minibatch", returns="kl_penalty")
    found = verdicts(report)
    assert (found["values"], found["gradients"]) == (values, gradients)


@needs("disent")
def test_disent_kl_by_hand():
    """Without TC, at D = 1, what it adds is beta KL, where KL + (beta - 1) TC is KL."""
    report = judge(third_party.disent_penalty, estimator="minibatch", returns="kl_penalty", checks=["values"])
    shown = counterexample(report)
    assert shown.case.z.shape == (1, 1)
    (element,) = shown.elements
    assert element.got == pytest.approx(shown.case.beta * element.lower, rel=1e-9)


@needs("disent")
def test_disent_on_the_command_line():
    target = f"{PACKAGES.name}:BetaTcVae._betatc_compute_total_correlation"
    shown = command("check", target, "--max-examples", "10", "--no-save", "--checks", "values")
    assert shown.returncode == 1, shown.stderr
    assert "First wrong stage: TC" in shown.stdout
    gradients = command("check", target, "--max-examples", "10", "--no-save", "--checks", "gradients", "--quiet")
    assert (gradients.returncode, gradients.stdout[:4]) == (0, "PASS"), gradients.stderr
