"""The properties: right losses have them, and each has a mistake that it alone is here to find."""

import functools
import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from tcvae_ref.oracle import cases, difference_quotients
from tcvae_ref.oracle.adapters import by_name
from tcvae_ref.oracle.against_truth import counterexample
from tcvae_ref.oracle.properties import PROPERTIES
from tcvae_ref.oracle.reshaped import shortened, with_each
from tcvae_ref.oracle.search import search
from tcvae_ref.oracle.subject import Subject
from tcvae_ref.oracle.truth import truth
from tcvae_ref.oracle.types import ARRAYS, ESTIMATORS, QUANTITIES, TERMS, Case, Primitives, Verdict

torch = pytest.importorskip("torch")

LOG_2PI = math.log(2 * math.pi)


# --- right losses --------------------------------------------------------------------------------------------


def weights(estimator, M, N):
    """w_ij as floats."""
    if estimator in ("minibatch", "exact"):
        return np.full((M, M), 1 / M)
    if estimator == "mws":
        return np.full((M, M), 1 / (N * M))
    m = M - 1
    w = np.full((M, M), 1 / m if estimator == "mss" else (N - 1) / (N * m))
    if estimator == "mss":
        w[np.arange(M), (np.arange(M) + 1) % M] = (N - m) / (N * m)
    w[np.arange(M), np.arange(M)] = 1 / N
    return w


def log_var_of(tensors, log):
    width = next(name for name in tensors if name not in ("z", "mu"))
    s = tensors[width]
    return {"log_var": lambda: s, "log_std": lambda: 2 * s, "std": lambda: 2 * log(s), "var": lambda: log(s)}[width]()


def assembled(z, joint, marginals, given_x, constants):
    """Every quantity, from log q(z), log q(z_d) and log q(z|x)."""
    prior = -0.5 * (z * z + LOG_2PI).sum(1)
    product = marginals.sum(1)
    mi, tc, dwkl = (given_x - joint).mean(), (joint - product).mean(), (product - prior).mean()
    penalty = constants["alpha"] * mi + constants["beta"] * tc + constants["gamma"] * dwkl
    return {"log_qz": joint, "log_qz_marginals": marginals, "mi": mi, "tc": tc, "dwkl": dwkl, "penalty": penalty}


def log_densities(tensors):
    z, mu, log_var = tensors["z"], tensors["mu"], log_var_of(tensors, torch.log)
    difference = z[:, None] - mu[None]
    return -0.5 * (difference * difference * torch.exp(-log_var) + log_var + LOG_2PI)


def torch_loss(tensors, constants, *, estimator, w=None):
    z = tensors["z"]
    M, N = len(z), constants["dataset_size"]
    log_w = torch.tensor(np.log(weights(estimator, M, N) if w is None else w), dtype=z.dtype)
    L = log_densities(tensors)
    S = L.sum(2)
    joint, marginals = torch.logsumexp(S + log_w, 1), torch.logsumexp(L + log_w[..., None], 1)
    return assembled(z, joint, marginals, S.diagonal(), constants)


def numpy_loss(tensors, constants, *, estimator):
    z, mu, log_var = tensors["z"], tensors["mu"], log_var_of(tensors, np.log)
    M, N = len(z), constants["dataset_size"]
    log_w = np.log(weights(estimator, M, N)).astype(z.dtype)
    L = -0.5 * ((z[:, None] - mu) ** 2 * np.exp(-log_var) + log_var + z.dtype.type(LOG_2PI))
    S = L.sum(2)

    def log_sum_exp(T):
        top = T.max(1, keepdims=True)
        return (top + np.log(np.exp(T - top).sum(1, keepdims=True)))[:, 0]

    joint, marginals = log_sum_exp(S + log_w), log_sum_exp(L + log_w[..., None])
    return assembled(z, joint, marginals, S.diagonal(), constants)


def subject(function, framework="torch", dtype="float64", estimator="mws", parameterisation="log_var"):
    return Subject(function, by_name(framework), "eager", dtype, estimator, parameterisation, Primitives(2, 2))


def right(framework, dtype, estimator, parameterisation="log_var"):
    loss = {"torch": torch_loss, "numpy": numpy_loss}[framework]
    return subject(functools.partial(loss, estimator=estimator), framework, dtype, estimator, parameterisation)


def searched(name, s, max_examples):
    judge = functools.partial(PROPERTIES[name].judge, s)
    built = cases.purpose_built(s.estimator, s.dtype).values() if s.estimator in ("mws", "symmetric-mss") else ()
    strategy = cases.cases(s.estimator, s.dtype)
    return search(strategy, built, judge, s.estimator, max_examples, 1, shrink_seconds=0.0)


def applicable(name, dtype, quantities=QUANTITIES):
    return [e for e in ESTIMATORS if not PROPERTIES[name].applies(quantities, e, dtype)]


@pytest.mark.parametrize(("framework", "dtype"), [("torch", "float64"), ("torch", "float32"), ("numpy", "float64")])
@pytest.mark.parametrize("name", PROPERTIES)
def test_right_losses_have_it(name, framework, dtype):
    estimators = applicable(name, dtype)
    if not estimators:
        assert (name, dtype) == ("dtype-stability", "float64")
        return
    for estimator in estimators:
        tally = searched(name, right(framework, dtype, estimator), 40 // len(estimators) + 1)
        assert tally.failure is None, (estimator, tally.failure)
        if (name, framework) == ("central-differences", "numpy"):
            assert tally.inconclusive == tally.cases
        else:
            assert tally.certified > 0.6 * tally.cases, (estimator, tally)
            assert tally.worst <= 1


# --- planted mistakes ----------------------------------------------------------------------------------------


def columns(M, N):
    """The MSS weights of the code released with the paper: down the first two columns, and one entry more."""
    m = M - 1
    w = np.full((M, M), 1 / m)
    w[:, 0], w[:, 1] = 1 / N, (N - m) / (N * m)
    w[m - 1, 0] = (N - m) / (N * m)
    return w


def stochastic_columns(tensors, constants):
    """As released, without the one entry: rows sum to 1, and the first is right."""
    M, N = len(tensors["z"]), constants["dataset_size"]
    w = columns(M, N)
    w[:, 0] = 1 / N
    return torch_loss(tensors, constants, estimator="mss", w=w)


def column_weights(tensors, constants):
    w = columns(len(tensors["z"]), constants["dataset_size"])
    return torch_loss(tensors, constants, estimator="mss", w=w)


def weights_by_position(tensors, constants):
    M = len(tensors["z"])
    w = np.broadcast_to(np.arange(1.0, M + 1), (M, M)) / (M * (M + 1) / 2)
    return torch_loss(tensors, constants, estimator="minibatch", w=w / constants["dataset_size"])


def flat_weights(tensors, constants):
    M = len(tensors["z"])
    return torch_loss(tensors, constants, estimator="mss", w=np.full((M, M), 1 / M))


def only_log_m(tensors, constants):
    return torch_loss(tensors, constants, estimator="minibatch")


def weights_on_joint_only(tensors, constants):
    out = torch_loss(tensors, constants, estimator="mws")
    marginals = out["log_qz_marginals"] + math.log(len(tensors["z"]) * constants["dataset_size"])
    L = log_densities(tensors)
    return assembled(tensors["z"], out["log_qz"], marginals, L.sum(2).diagonal(), constants)


def sign_slip(tensors, constants):
    out = torch_loss(tensors, constants, estimator="mws")
    prior = -0.5 * (tensors["z"] ** 2 + LOG_2PI).sum(1)
    return out | {"dwkl": (out["log_qz_marginals"].sum(1) + prior).mean()}


def detached_mu(tensors, constants):
    return torch_loss(tensors | {"mu": tensors["mu"].detach()}, constants, estimator="mws")


def clamped_density(tensors, constants):
    z, L = tensors["z"], log_densities(tensors).clamp(min=-1.0)
    log_w = -math.log(len(z) * constants["dataset_size"])
    joint, marginals = torch.logsumexp(L.sum(2), 1) + log_w, torch.logsumexp(L, 1) + log_w
    return assembled(z, joint, marginals, L.sum(2).diagonal(), constants)


def prior_as_marginals(tensors, constants):
    out = torch_loss(tensors, constants, estimator="mws")
    marginals = -0.5 * (tensors["z"] ** 2 + LOG_2PI)
    return assembled(tensors["z"], out["log_qz"], marginals, log_densities(tensors).sum(2).diagonal(), constants)


def expanded_square(tensors, constants):
    z, mu, log_var = tensors["z"], tensors["mu"], tensors["log_var"]
    square = z[:, None] ** 2 - 2 * z[:, None] * mu + mu**2
    L = -0.5 * (square * torch.exp(-log_var) + log_var + LOG_2PI)
    log_w = -math.log(len(z) * constants["dataset_size"])
    joint, marginals = torch.logsumexp(L.sum(2), 1) + log_w, torch.logsumexp(L, 1) + log_w
    return assembled(z, joint, marginals, L.sum(2).diagonal(), constants)


def returned_in_bfloat16(tensors, constants):
    return {q: value.bfloat16() for q, value in torch_loss(tensors, constants, estimator="mws").items()}


def bfloat16_inside(tensors, constants):
    if tensors["z"].dtype == torch.float64:
        return torch_loss(tensors, constants, estimator="mws")
    halves = {name: t.bfloat16() for name, t in tensors.items()}
    return {q: value.float() for q, value in torch_loss(halves, constants, estimator="mws").items()}


def promoted(tensors, constants):
    wide = {name: t.double() for name, t in tensors.items()}
    return torch_loss(wide, constants, estimator="mws")


def exp_sum_log(tensors, constants):
    L = log_densities(tensors)
    w = 1 / (len(tensors["z"]) * constants["dataset_size"])
    joint, marginals = torch.log((w * L.sum(2).exp()).sum(1)), torch.log((w * L.exp()).sum(1))
    return assembled(tensors["z"], joint, marginals, L.sum(2).diagonal(), constants)


MISTAKES = [
    ("cyclic-shift", column_weights, "mss", "float64", {Verdict.WRONG}),
    ("cyclic-shift", column_weights, "mss", "float32", {Verdict.WRONG}),
    ("permutation", weights_by_position, "mws", "float64", {Verdict.WRONG}),
    ("permutation", column_weights, "symmetric-mss", "float64", {Verdict.WRONG}),
    ("identical-posteriors", column_weights, "mss", "float64", {Verdict.WRONG}),
    ("identical-posteriors", column_weights, "symmetric-mss", "float32", {Verdict.WRONG}),
    ("identical-posteriors", only_log_m, "mws", "float64", {Verdict.WRONG}),
    ("one-dimension", weights_on_joint_only, "mws", "float64", {Verdict.WRONG}),
    ("unbiased", column_weights, "mss", "float64", {Verdict.WRONG}),
    ("unbiased", stochastic_columns, "mss", "float64", {Verdict.WRONG}),
    ("cyclic-shift", stochastic_columns, "mss", "float64", {Verdict.WRONG}),
    ("unbiased", flat_weights, "mss", "float64", {Verdict.WRONG}),
    ("unbiased", flat_weights, "symmetric-mss", "float32", {Verdict.WRONG}),
    ("telescoping", sign_slip, "mws", "float64", {Verdict.WRONG}),
    ("central-differences", detached_mu, "mws", "float64", {Verdict.WRONG_GRADIENT}),
    ("central-differences", detached_mu, "mws", "float32", {Verdict.WRONG_GRADIENT}),
    ("central-differences", clamped_density, "mws", "float64", {Verdict.WRONG_GRADIENT}),
    ("translation", prior_as_marginals, "mws", "float64", {Verdict.WRONG}),
    ("translation", expanded_square, "mws", "float64", {Verdict.UNSTABLE}),
    ("translation", expanded_square, "mws", "float32", {Verdict.UNSTABLE}),
    ("dtype-stability", returned_in_bfloat16, "mws", "float32", {Verdict.UNSTABLE}),
    ("dtype-stability", bfloat16_inside, "mws", "float32", {Verdict.UNSTABLE}),
    ("large-D", exp_sum_log, "mws", "float32", {Verdict.NONFINITE, Verdict.UNSTABLE}),
]


@pytest.mark.parametrize(("name", "function", "estimator", "dtype", "verdicts"), MISTAKES)
def test_a_planted_mistake_is_found(name, function, estimator, dtype, verdicts):
    s = subject(function, dtype=dtype, estimator=estimator)
    tally = searched(name, s, 30)
    assert tally.failure is not None
    assert tally.failure.verdict in verdicts, tally.failure
    assert tally.failure.worst > 1
    assert tally.failure.message
    for element in tally.failure.elements:
        assert not element.ratio <= 1
        assert element.upper - element.lower <= 4 * np.spacing(abs(element.lower)) or np.isnan(element.lower)
    assert counterexample(s, tally.failure).elements == tally.failure.elements


def test_every_property_has_a_mistake():
    assert {name for name, *_ in MISTAKES} == set(PROPERTIES)


@pytest.mark.parametrize("name", PROPERTIES)
def test_what_was_received_is_judged_the_same_again(name):
    estimator = applicable(name, "float32")[0]
    for case in list(cases.purpose_built(estimator, "float32").values())[::2]:
        first = PROPERTIES[name].judge(right("torch", "float32", estimator), case)
        again = PROPERTIES[name].judge(right("torch", "float32", estimator), first.received)
        assert again.verdict is first.verdict
        assert again.worst == first.worst
        for a, b in zip(first.received, again.received, strict=True):
            assert np.array_equal(a, b)


def built(estimator="mws"):
    return cases.purpose_built(estimator, "float64")["two samples"]


@pytest.mark.parametrize("mistake", [column_weights, weights_by_position, flat_weights, only_log_m])
def test_telescoping_is_blind_to_the_estimator(mistake):
    assert PROPERTIES["telescoping"].blind
    assert searched("telescoping", subject(mistake, estimator="mss"), 10).failure is None
    assert sum(p.blind for p in PROPERTIES.values()) == 1


@pytest.mark.parametrize("parameterisation", ["log_std", "std", "var"])
@pytest.mark.parametrize("estimator", ["mws", "mss"])
def test_central_differences_in_other_widths(parameterisation, estimator):
    s = right("torch", "float64", estimator, parameterisation)
    tally = searched("central-differences", s, 5)
    assert tally.failure is None
    assert tally.certified > 0.8 * tally.cases


def test_a_gradient_that_forgets_the_chain_rule_is_wrong():
    class HalfGradient(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return 2 * x

        @staticmethod
        def backward(ctx, g):
            return g

    def function(tensors, constants):
        log_var = HalfGradient.apply(tensors["log_std"])
        return torch_loss({"z": tensors["z"], "mu": tensors["mu"], "log_var": log_var}, constants, estimator="mws")

    finding = PROPERTIES["central-differences"].judge(subject(function, parameterisation="log_std"), built())
    assert finding.verdict is Verdict.WRONG_GRADIENT
    assert {e.argument for e in finding.elements} == {"log_std"}
    assert finding.stage == "gradient"


def test_promotion_is_warned_of():
    finding = PROPERTIES["dtype-stability"].judge(subject(promoted, dtype="float32"), built())
    assert finding.verdict is Verdict.WARN
    assert finding.worst <= 1
    assert "comes back in float64 for float32 arguments" in finding.message


@pytest.mark.parametrize("name", PROPERTIES)
def test_what_the_target_raises_is_its_fault(name):
    def function(tensors, constants):
        raise RuntimeError("out of cheese")

    estimator = "mss" if name == "unbiased" else "mws"
    finding = PROPERTIES[name].judge(subject(function, dtype="float32", estimator=estimator), built())
    assert finding.verdict is Verdict.ERROR
    assert "out of cheese" in finding.message
    assert finding.worst > 1


@pytest.mark.parametrize("name", PROPERTIES)
@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_nan_and_infinity_are_nonfinite(name, number):
    estimator = "mss" if name == "unbiased" else "mws"

    def function(tensors, constants):
        values = torch_loss(tensors, constants, estimator=estimator)
        return {q: value * number if q not in TERMS[:1] else value * -number for q, value in values.items()}

    finding = PROPERTIES[name].judge(subject(function, dtype="float32", estimator=estimator), built(estimator))
    assert finding.verdict is Verdict.NONFINITE
    assert finding.worst == math.inf


def test_difference_quotients_are_the_gradients():
    """Within the uncertainty that they are given with, and that is small."""
    rng = np.random.default_rng(5)
    for parameterisation, shift in itertools.product(["log_var", "log_std", "std", "var"], [0.0, 2.0**20]):
        case = Case(rng.normal(size=(3, 2)) + shift, rng.normal(size=(3, 2)) + shift, rng.normal(size=(3, 2)), 20)
        received = with_each(right("torch", "float64", "mss", parameterisation).receive(case), shortened)
        true = truth(received, "mss").gradients
        for argument, i, d in itertools.product(received.arrays, range(3), range(2)):
            slopes = difference_quotients._slopes(received, "mss", argument, (i, d), list(true))
            for quantity, (slope, uncertainty) in slopes.items():
                enclosure = true[quantity][argument]
                assert abs(slope - enclosure.middle[i, d]) <= uncertainty + enclosure.radius[i, d]
                # far from 0 the prior's terms are 2^40 large, and their last digits with them
                assert shift or uncertainty <= 1e-15 * max(1.0, np.abs(enclosure.middle).max())


def test_one_sample_says_nothing_about_order():
    single = Case(np.zeros((1, 2)), np.zeros((1, 2)), np.zeros((1, 2)), 10)
    for name in ("cyclic-shift", "permutation"):
        finding = PROPERTIES[name].judge(right("torch", "float64", "mws"), single)
        assert finding.verdict is Verdict.INCONCLUSIVE
        assert "one sample" in finding.message


def test_a_vacuous_allowance_is_inconclusive():
    coarse = right("torch", "bfloat16", "mws")
    finding = PROPERTIES["large-D"].judge(coarse, built())
    assert finding.verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize("quantity", QUANTITIES)
@pytest.mark.parametrize("name", PROPERTIES)
def test_one_quantity_alone(name, quantity):
    """Where a property applies to a target that returns one quantity, a right one passes."""
    for estimator in ESTIMATORS:
        if quantity == "kl_penalty" or PROPERTIES[name].applies([quantity], estimator, "float32"):
            continue
        s = right("torch", "float32", estimator)
        whole = s.function
        alone = replace(s, function=lambda t, c, whole=whole: {quantity: whole(t, c)[quantity]})
        assert PROPERTIES[name].judge(alone, built(estimator)).verdict is Verdict.PASS


def test_reasons():
    def reason(name, quantities=QUANTITIES, estimator="mws", dtype="float32"):
        return PROPERTIES[name].applies(quantities, estimator, dtype)

    assert reason("permutation", estimator="mss") == "mss depends on the order of the batch"
    assert "mws" in reason("unbiased")
    assert reason("unbiased", TERMS, "mss") == "needs log_qz"
    assert reason("telescoping", ["mi", "tc"]) == "needs dwkl"
    assert reason("one-dimension", ["mi"]) == "needs tc, or log_qz and log_qz_marginals"
    assert reason("one-dimension", ARRAYS) == ""
    assert reason("translation", ["dwkl"]) == "needs log_qz, log_qz_marginals, mi or tc"
    assert reason("identical-posteriors", ["kl_penalty"]).startswith("needs log_qz")
    assert reason("dtype-stability", dtype="float64") == "compares a lower precision with float64"
