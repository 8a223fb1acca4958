"""The weight probe: the matrix that it finds is the one that is in the loss."""

import jax
import numpy as np
import pytest
from right_losses import RIGHT, VARIANTS, numpy_weights
from wrong_losses import PAIRS, WRONG, build, estimator_of

from tcvae_ref import cli
from tcvae_ref.checks import InputError
from tcvae_ref.oracle import adapters
from tcvae_ref.oracle.subject import Subject
from tcvae_ref.oracle.target import load
from tcvae_ref.oracle.types import Primitives
from tcvae_ref.oracle.weight_probe import DIMENSIONS, PATTERNS, probe_weights, weights_figure, weights_text

jax.config.update("jax_enable_x64", True)

EVERYTHING = ("mi", "tc", "dwkl", "log_qz", "log_qz_marginals")
TERMS = EVERYTHING[:3]
SUBSETS = (EVERYTHING, TERMS, ("tc",), ("mi", "dwkl"), ("log_qz", "log_qz_marginals"))
PATTERN_OF = {"exact": "minibatch"}
VALID = ("mws", "mss", "mss-other-column", "symmetric-mss", "minibatch")


def subject(function, framework="torch", estimator="mws", variant=None, **options):
    target, adapter = load(function, **options), adapters.by_name(framework)
    return Subject.of(target, adapter, variant or adapter.variants[0], "float64", estimator, Primitives(2.0, 2.0))


def wrong(name, quantities=EVERYTHING, M=5, N=None):
    one = WRONG[name]
    asked = quantities if one.returns == "terms" else (one.returns,)
    return probe_weights(subject(one.torch, estimator=one.estimator), asked, M, N)


def scaled(W):
    return W / W[0].sum()


def assert_matrix(found, W, absolute):
    np.testing.assert_allclose(found, W if absolute else scaled(W), rtol=1e-9)


# --- right losses ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("framework", ["numpy", "autograd", "torch", "jax"])
@pytest.mark.parametrize("quantities", SUBSETS, ids="+".join)
def test_right_losses_have_the_weights_of_their_estimator(framework, quantities):
    for (name, form, estimator), loss in RIGHT.items():
        if name != framework or (name == "jax" and form != "direct"):
            continue
        M, N = (5, 5) if estimator == "exact" else (5, 100)
        probe = probe_weights(subject(loss, framework, estimator), quantities)
        assert probe.pattern == PATTERN_OF.get(estimator, estimator), (form, estimator, probe.said)
        assert probe.absolute == (quantities != ("tc",))
        W = numpy_weights(estimator, M, N)
        assert_matrix(probe.joint, W, probe.absolute)
        assert_matrix(probe.marginals, W, probe.absolute)
        assert_matrix(probe.claimed, W, True)
        known = estimator in ("mss", "symmetric-mss") or (estimator == "mws" and probe.absolute)
        assert (N if known else None) == probe.N


@pytest.mark.parametrize(("M", "N"), [(4, 4), (4, 5), (6, 17), (8, 1000), (5, 737280)])
@pytest.mark.parametrize("estimator", ["mws", "mss", "symmetric-mss", "minibatch"])
@pytest.mark.parametrize("quantities", [EVERYTHING, ("tc",)], ids="+".join)
def test_batch_and_data_set_of_other_sizes(M, N, estimator, quantities):
    probe = probe_weights(subject(RIGHT["torch", "direct", estimator], "torch", estimator), quantities, M, N)
    if estimator == "symmetric-mss" and M == N:
        assert probe.pattern in ("minibatch", "mws"), "the weights are 1/M"
    else:
        assert probe.pattern == estimator
    assert_matrix(probe.joint, numpy_weights(estimator, M, N), probe.absolute)
    assert_matrix(probe.marginals, numpy_weights(estimator, M, N), probe.absolute)


@pytest.mark.parametrize(
    ("quantities", "known", "unknown"),
    [(("mi",), "joint", "marginals"), (("log_qz",), "joint", "marginals"), (("dwkl",), "marginals", "joint")],
)
def test_one_quantity_tells_of_its_own_weights_alone(quantities, known, unknown):
    probe = probe_weights(subject(RIGHT["torch", "direct", "mss"], "torch", "mss"), quantities)
    assert probe.pattern == "mss"
    assert_matrix(getattr(probe, known), numpy_weights("mss", 5, 100), True)
    assert getattr(probe, unknown) is None
    assert f"{unknown}: not seen" in weights_text(probe)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: f"{v.name} {v.framework}")
def test_variants_are_valid(variant):
    quantities = EVERYTHING if variant.returns == "terms" else (variant.returns,)
    estimator = "mss" if variant.estimator.startswith("mss") else variant.estimator
    options = {"packed": "params:mu,log_var"} if variant.spread == "packed" else {}
    probe = probe_weights(subject(variant.function, variant.framework, estimator, **options), quantities)
    other = {"mss-subdiagonal": "mss-other-column", "mss-random-columns": "mss-other-column"}
    assert probe.pattern == other.get(variant.estimator, variant.estimator)
    if estimator == "mss":
        assert probe.N == 100
        np.testing.assert_allclose(probe.joint.sum(axis=1), 1, rtol=1e-9)
        np.testing.assert_allclose(probe.joint, probe.marginals, rtol=1e-9)
        np.testing.assert_allclose(np.diag(probe.joint), 1 / 100, rtol=1e-9)


def test_a_penalty_with_its_weights_inside():
    """alpha MI + beta TC + gamma DWKL with fixed weights is one equation for each move of z."""
    loss = WRONG["mss-weights-in-columns"].torch

    def penalty(z, mu, log_var, dataset_size):
        terms = loss(z, mu, log_var, dataset_size)
        return terms["mi"] + 6 * terms["tc"] + terms["dwkl"]

    probe = probe_weights(subject(penalty, estimator="mss", weights={"beta": 6.0}), ("penalty",))
    assert (probe.pattern, probe.N) == ("columns", 100)
    tc_in_it = probe_weights(subject(penalty, estimator="mss", weights={"beta": 1.0}), ("penalty",))
    assert tc_in_it is None or tc_in_it.pattern == "unrecognised", "the weights that were named are not those inside"


def test_compiled_and_in_float32():
    jitted = subject(RIGHT["jax", "direct", "mss"], "jax", "mss", "jit")
    assert probe_weights(jitted, TERMS).pattern == "mss"
    assert wrong("float32-inside").pattern == "mws"
    assert "not computed in float64" in wrong("float32-inside").said


# --- wrong losses ----------------------------------------------------------------------------------------------------


def column_matrix(M, N):
    m = M - 1
    W = np.full((M, M), 1 / m)
    W[:, 0], W[:, 1] = 1 / N, (N - m) / (N * m)
    W[M - 2, 0] = (N - m) / (N * m)
    return W


@pytest.mark.parametrize("quantities", [EVERYTHING, TERMS, ("tc",), ("mi",)], ids="+".join)
@pytest.mark.parametrize(("M", "N"), [(5, 100), (8, 1000), (4, 9)])
def test_weights_in_columns(quantities, M, N):
    probe = wrong("mss-weights-in-columns", quantities, M, N)
    assert (probe.pattern, probe.N) == ("columns", N)
    assert_matrix(probe.joint, column_matrix(M, N), probe.absolute)
    if "mi" not in quantities or len(quantities) > 1:
        assert_matrix(probe.marginals, column_matrix(M, N), probe.absolute)


@pytest.mark.parametrize("quantities", [EVERYTHING, TERMS, ("tc",), ("mi",)], ids="+".join)
def test_weight_before_the_sum(quantities):
    probe = wrong("weight-before-sum", quantities)
    assert (probe.pattern, probe.N) == ("weight-to-the-power-D", 100)
    assert_matrix(probe.joint, numpy_weights("mss", 5, 100) ** DIMENSIONS, probe.absolute)


@pytest.mark.parametrize("quantities", [EVERYTHING, TERMS, ("tc",)], ids="+".join)
def test_weights_on_the_joint_alone(quantities):
    probe = wrong("weights-on-joint-only", quantities)
    assert (probe.pattern, probe.N) == ("joint-only", 100)
    assert_matrix(probe.joint, numpy_weights("mss", 5, 100), probe.absolute)
    assert_matrix(probe.marginals, np.ones((5, 5)), probe.absolute)


@pytest.mark.parametrize("estimator", ["mws", "mss", "symmetric-mss"])
def test_the_data_set_size_that_is_in_the_weights(estimator):
    loss = build("torch", "wrong-dataset-size", estimator=estimator)
    probe = probe_weights(subject(loss, estimator=estimator), TERMS)
    assert (probe.pattern, probe.N) == (estimator, 737280)
    assert "737,280, where 100 was given" in probe.said


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("missing-constant", "all weights alike: 1,"),
        ("only-log-m", "1/M"),
        ("only-log-n", "1/N,"),
        ("constant-offset", "1/(N M) in the joint, 1/N in the marginals"),
        ("weights-and-constant", "times 1/(N M) in the joint; times 1/(N M) in the marginals"),
        ("missing-two-pi", "a constant is missing"),
        ("sum-not-mean", "mi comes out times 5"),
        ("sign-flipped", "tc comes out times -1"),
        ("no-stratum", "(1, 25, 25, 25, 25) times that on the diagonal; rows sum to 1.01"),
        ("stratum-off-by-one", "23.75"),
        ("own-pairs-only", "that posterior is not in it"),
        ("mean-as-sample", "does not fall"),
        ("logsumexp-sum-swapped", "as a joint density does"),
        ("transposed-pairs", "other samples"),
    ],
)
def test_what_is_said(name, said):
    assert said in wrong(name).said


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("quantities", [EVERYTHING, ("tc",)], ids="+".join)
def test_wrong_losses_with_right_weights_are_not_accused_and_others_are(name, quantities):
    """The pattern names weights, never what else is wrong."""
    weights = {
        "mss-weights-in-columns": "columns",
        "weight-before-sum": "weight-to-the-power-D",
        "weights-on-joint-only": "joint-only",
        "no-stratum": "unrecognised",
        "stratum-off-by-one": "unrecognised",
    }
    probe = wrong(name, quantities)
    assert probe.pattern in PATTERNS
    assert probe.pattern == weights.get(name, probe.pattern)
    if name not in weights:
        assert probe.pattern in (*VALID, "unrecognised")


@pytest.mark.parametrize("names", PAIRS, ids=lambda names: "+".join(names))
def test_two_mistakes_at_once(names):
    penalty = any(WRONG[name].returns != "terms" for name in names)
    loss = build("torch", *names)
    probe = probe_weights(subject(loss, estimator=estimator_of(*names)), ("penalty",) if penalty else EVERYTHING)
    expected = {
        "weights-on-joint-only": "joint-only",
        "weight-before-sum": "weight-to-the-power-D",
        "mss-weights-in-columns": "columns",
    }
    pattern = next((pattern for name, pattern in expected.items() if name in names), None)
    assert probe.pattern == (pattern or probe.pattern)
    if pattern:
        assert (737280 if "wrong-dataset-size" in names else 100) == probe.N


# --- the rest --------------------------------------------------------------------------------------------------------


def test_what_cannot_be_asked():
    def fails(z, mu, log_var, dataset_size):
        raise RuntimeError

    def constant(z, mu, log_var, dataset_size):
        return 0 * mu.sum()

    assert probe_weights(subject(fails), ("tc",)) is None
    assert probe_weights(subject(constant), ("tc",)).pattern == "unrecognised"
    with pytest.raises(InputError, match="M=3 is too small"):
        probe_weights(subject(constant), ("tc",), M=3)
    with pytest.raises(InputError, match="M=65 is too large"):
        probe_weights(subject(constant), ("tc",), M=65)
    with pytest.raises(InputError, match="N=4 is too small"):
        probe_weights(subject(constant), ("tc",), M=5, N=4)


def test_the_text_is_a_table():
    assert weights_text(wrong("weights-on-joint-only", ("tc",), 4, 9)) == TEXT


TEXT = """\
joint-only: weights in the joint alone, all marginals alike (MSS as in the paper); N = 9

joint, up to a factor
  i \\ j       0       1       2       3
  0      0.1111  0.2222  0.3333  0.3333
  1      0.3333  0.1111  0.2222  0.3333
  2      0.3333  0.3333  0.1111  0.2222
  3      0.2222  0.3333  0.3333  0.1111

marginals, up to a factor
  i \\ j     0     1     2     3
  0      0.25  0.25  0.25  0.25
  1      0.25  0.25  0.25  0.25
  2      0.25  0.25  0.25  0.25
  3      0.25  0.25  0.25  0.25

claimed (mss), up to a factor
  i \\ j       0       1       2       3
  0      0.1111  0.2222  0.3333  0.3333
  1      0.3333  0.1111  0.2222  0.3333
  2      0.3333  0.3333  0.1111  0.2222
  3      0.2222  0.3333  0.3333  0.1111"""


@pytest.mark.parametrize("name", ["mss-weights-in-columns", "missing-constant", "own-pairs-only"])
def test_the_figure_has_every_number_in_it(name):
    probe = wrong(name)
    figure = weights_figure(probe)
    shown = [m for m in (probe.joint, probe.marginals, probe.claimed) if m is not None]
    assert len(figure.axes) == len(shown)
    for axis, matrix in zip(figure.axes, shown, strict=True):
        assert [text.get_text() for text in axis.texts] == [f"{x:.3g}" for x in matrix.ravel()]


LOSS = """
import math, torch

def tc(z, mu, log_var, dataset_size):
    M = len(z)
    L = -0.5 * ((z[:, None] - mu) ** 2 * torch.exp(-log_var) + log_var + math.log(2 * math.pi))
    return (torch.logsumexp(L.sum(2), 1) - torch.logsumexp(L, 1).sum(1)).mean()

def columns(z, mu, log_var, dataset_size):
    print("noise")
    M, m = len(z), len(z) - 1
    W = torch.full((M, M), 1 / m)
    W[:, 0] = 1 / dataset_size
    W[:, 1] = (dataset_size - m) / (dataset_size * m)
    L = -0.5 * ((z[:, None] - mu) ** 2 * torch.exp(-log_var) + log_var + math.log(2 * math.pi))
    w = W.log()
    return (torch.logsumexp(L.sum(2) + w, 1) - torch.logsumexp(L + w[:, :, None], 1).sum(1)).mean()

def fails(z, mu, log_var, dataset_size):
    raise ValueError

def square(z, mu, log_var, dataset_size):
    return ((z - mu) ** 2).mean()
"""


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "losses.py").write_text(LOSS)
    assert cli.main(["weights", "losses.py:columns", "--estimator", "mss", "--out", "w.png"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("columns: ")
    assert "noise" not in out
    assert out.endswith("figure: w.png\n")
    assert (tmp_path / "w.png").read_bytes()[:4] == b"\x89PNG"
    assert cli.main(["weights", "losses.py:tc", "-M", "4", "-N", "50"]) == 0
    assert "claimed (mws)" in capsys.readouterr().out
    assert cli.main(["weights", "losses.py:fails"]) == 1
    assert "tcvae-ref check says more" in capsys.readouterr().out
    assert cli.main(["weights", "losses.py:square"]) == 1
    assert capsys.readouterr().out.startswith("unrecognised: no weights: tc: not a sum of log-densities")
    assert cli.main(["weights", "losses.py:tc", "-M", "2"]) == 2
    assert cli.main(["weights", "losses.py:tc", "--out", "no/such/w.png"]) == 2


@pytest.mark.parametrize("result", [np.inf, -np.inf, np.nan])
def test_a_loss_that_is_no_number_has_no_weights(result):
    probe = probe_weights(subject(lambda z, mu, log_var, dataset_size: result, "numpy", returns="tc"), ("tc",))
    assert (probe.pattern, probe.joint) == ("unrecognised", None)
