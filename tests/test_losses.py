"""The right losses agree with the reference, the wrong ones do not: the test subjects are what their tables say."""

import itertools
from functools import cache, partial

import autograd.numpy as anp
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import right_losses
from autograd import jacobian
from optional import torch
from problems import expected_log_qz, log_qz
from right_losses import PRESERVED, RIGHT, VARIANTS
from wrong_losses import GRADIENT_ONLY, INPUTS, MISTAKES, NUMERICS, PAIRS, VALUE, WRONG, batch, build, independent

from tcvae_ref import kl_terms
from tcvae_ref.estimators import log_qz_rows
from tcvae_ref.gaussian import kl_to_standard_normal

jax.config.update("jax_enable_x64", True)

WEIGHTS = {"alpha": 0.5, "beta": 6.0, "gamma": 2.0}
CASES = tuple(
    batch(*sizes, **scales)
    for sizes, scales in (
        ((10, 5, 3, 40), {}),
        ((11, 5, 3, 1000), {"spread": 5.0}),
        ((12, 5, 3, 6), {"widths": (-4.0, 2.0), "sigmas": 2.0}),
    )
)
# Not for JAX, which compiles every operation for every shape.
SMALLEST = batch(13, 2, 1, 2)
SINGLE = batch(14, 1, 2, 7)
IDS = (
    *("missing-constant", "only-log-m", "only-log-n", "wrong-dataset-size", "marginal-constant-once"),
    *("constant-offset", "missing-two-pi", "mss-weights-in-columns", "weight-before-sum", "weights-on-joint-only"),
    *("weights-and-constant", "transposed-pairs", "own-pairs-only", "conditional-as-aggregate", "missing-logsumexp"),
    *("logsumexp-sum-swapped", "prior-as-marginals", "dwkl-without-prior", "leave-one-out", "log-var-as-log-std"),
    *("log-std-as-log-var", "variance-epsilon", "density-clamp", "kernel-density", "mean-as-sample"),
    *("wrong-quadratic", "detached-posterior", "no-gradient", "exp-sum-log", "expanded-square", "term-clamp"),
    *("log-epsilon", "sum-not-mean", "divided-by-d", "sign-flipped", "constant-factor"),
    *("beta-for-beta-minus-one", "kl-counted-twice"),
)

# --- a loss and the reference, as NumPy ------------------------------------------------------------------------------


def torch_results(loss, arrays, *constants):
    inputs = [torch.tensor(a, requires_grad=True) for a in arrays]
    values = as_mapping(loss(*inputs, *constants))
    gradients = {}
    for name, value in values.items():
        if value.ndim == 0 and value.requires_grad:
            rows = torch.autograd.grad(value, inputs, retain_graph=True, allow_unused=True)
            gradients[name] = [np.zeros_like(a) if g is None else g.numpy() for a, g in zip(arrays, rows, strict=True)]
        elif value.ndim == 0:
            gradients[name] = [np.zeros_like(a) for a in arrays]
    return {name: value.detach().numpy() for name, value in values.items()}, gradients


def jax_results(loss, arrays, *constants):
    def scalars_and_values(*inputs):
        values = as_mapping(loss(*inputs, *constants))
        return {name: value for name, value in values.items() if value.ndim == 0}, values

    scalars, pull, values = jax.vjp(scalars_and_values, *map(jnp.asarray, arrays), has_aux=True)
    gradients = {}
    for name in scalars:
        cotangents = {other: jnp.asarray(float(other == name), value.dtype) for other, value in scalars.items()}
        gradients[name] = [np.asarray(g) for g in pull(cotangents)]
    return {name: np.asarray(value) for name, value in values.items()}, gradients


def autograd_results(loss, arrays, *constants):
    values = as_mapping(loss(*arrays, *constants))

    def scalars(*inputs):
        result = as_mapping(loss(*inputs, *constants))
        return anp.array([result[name] for name in values if np.ndim(values[name]) == 0])

    rows = [jacobian(scalars, k)(*arrays) for k in range(len(arrays))]
    names = [name for name in values if np.ndim(values[name]) == 0]
    return values, {name: [row[k] for row in rows] for k, name in enumerate(names)}


def numpy_results(loss, arrays, *constants):
    return loss(*arrays, *constants), {}


RESULTS = {"numpy": numpy_results, "autograd": autograd_results, "torch": torch_results, "jax": jax_results}


def as_mapping(result):
    return result if isinstance(result, dict) else {"scalar": result}


def columns(name, M):
    """The free column of MSS for each row."""
    return np.asarray(
        {"mss-subdiagonal": right_losses.subdiagonal, "mss-random-columns": right_losses.random_columns}[name](M)
    )


def reference_loss(estimator, returns="terms"):
    """The reference under the subjects' signature, in float64."""

    def mss_with_free_column(z, mu, log_var, N):
        M, m, i = len(z), len(z) - 1, np.arange(len(z))
        w = np.full((M, M), 1 / m)
        w[i, columns(estimator, M)] = (N - m) / (N * m)
        w[i, i] = 1 / N
        return log_qz_rows(z, mu, log_var, np.log(w))

    other = estimator.startswith("mss-")
    rows = mss_with_free_column if other else log_qz(estimator.replace("-", "_"))

    def means(*args):
        joint, marginals = rows(*args)
        return anp.sum(joint) / len(joint), anp.sum(marginals) / len(joint)

    expected = means if other else expected_log_qz(estimator.replace("-", "_"))

    def terms(z, mu, log_var, dataset_size):
        mi, tc, dwkl = kl_terms(z, mu, log_var, dataset_size, expected)
        joint, marginals = rows(z, mu, log_var, dataset_size)
        return {"mi": mi, "tc": tc, "dwkl": dwkl, "log_qz": joint, "log_qz_marginals": marginals}

    def penalty(z, mu, log_var, dataset_size, alpha, beta, gamma):
        mi, tc, dwkl = kl_terms(z, mu, log_var, dataset_size, expected)
        return alpha * mi + beta * tc + gamma * dwkl

    def kl_penalty(z, mu, log_var, dataset_size, beta):
        _, tc, _ = kl_terms(z, mu, log_var, dataset_size, expected)
        return {"kl_penalty": anp.sum(kl_to_standard_normal(mu, log_var)) / len(mu) + (beta - 1) * tc}

    def tc(*args):
        return terms(*args)["tc"]

    return {"terms": terms, "penalty": penalty, "kl_penalty": kl_penalty, "tc": tc}[returns]


def constants(returns, N):
    return {"penalty": (N, *WEIGHTS.values()), "kl_penalty": (N, WEIGHTS["beta"])}.get(returns, (N,))


@cache
def reference_on(estimator, returns, name):
    *arrays, N = INPUTS[name]
    exact = [a.astype("float64") for a in arrays]
    return autograd_results(reference_loss(estimator, returns), exact, *constants(returns, N))


def distance(ours, theirs):
    """The largest difference of two results, relative to the larger of 1 and the reference; inf where not finite."""
    assert theirs.keys() <= ours.keys()
    worst = 0.0
    for name, value in theirs.items():
        pairs = zip(ours[name], value, strict=True) if isinstance(value, list) else [(ours[name], value)]
        for a, b in pairs:
            if not np.all(np.isfinite(a)):
                return np.inf
            worst = max(worst, np.max(np.abs(np.asarray(a, dtype="float64") - b)) / max(1.0, np.max(np.abs(b))))
    return worst


# --- right -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("framework", "form", "estimator"), RIGHT)
def test_right(framework, form, estimator):
    small = () if framework == "jax" else (SMALLEST,) if "mss" in estimator else (SMALLEST, SINGLE)
    for *arrays, N in (*CASES, *small):
        size = len(arrays[0]) if estimator == "exact" else N
        values, gradients = RESULTS[framework](RIGHT[framework, form, estimator], arrays, size)
        right_values, right_gradients = autograd_results(reference_loss(estimator), arrays, size)
        assert distance(values, right_values) < 1e-12
        if framework != "numpy":
            assert distance(gradients, right_gradients) < 1e-12


@pytest.mark.parametrize(
    ("framework", "form", "dtype"), [(*key, dtype) for key, dtypes in PRESERVED.items() for dtype in dtypes]
)
def test_right_keeps_the_dtype(framework, form, dtype):
    *arrays, N = CASES[0]
    loss = partial(RIGHT[framework, form, "mss"], dataset_size=N)
    if framework == "jax":
        inputs = [jax.ShapeDtypeStruct(a.shape, dtype) for a in arrays]
        loss = partial(jax.eval_shape, loss)
    elif framework == "torch":
        inputs = [torch.tensor(a).to(getattr(torch, dtype)) for a in arrays]
    else:
        inputs = [a.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype) for a in arrays]
    for name, value in loss(*inputs).items():
        assert value.dtype == inputs[0].dtype, name


@pytest.mark.parametrize("framework", ["autograd", "torch"])
def test_right_keeps_the_dtype_of_gradients(framework):
    *arrays, N = CASES[0]
    singles = [a.astype("float32") for a in arrays]
    for form in right_losses.FORMS:
        _, gradients = RESULTS[framework](RIGHT[framework, form, "mss"], singles, N)
        assert {g.dtype for row in gradients.values() for g in row} == {np.dtype("float32")}


def from_log_var(spread, mu, log_var):
    """The arguments after z in another parameterisation."""
    if spread == "packed":
        return (np.stack([mu, log_var], axis=-1),)
    return mu, {"log_std": 0.5 * log_var, "std": np.exp(0.5 * log_var)}.get(spread, log_var)


def to_log_var(spread, *params):
    if spread == "packed":
        return params[0][..., 0], params[0][..., 1]
    mu, width = params
    return mu, {"log_std": lambda: 2 * width, "std": lambda: 2 * anp.log(width)}.get(spread, lambda: width)()


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: f"{v.name} ({v.framework})")
def test_variants(variant):
    right = reference_loss(variant.estimator, variant.returns)

    def reparameterised(z, *params_and_constants):
        params, rest = params_and_constants[:count], params_and_constants[count:]
        return right(z, *to_log_var(variant.spread, *params), *rest)

    for z, mu, log_var, N in CASES[:1] if variant.framework == "jax" else CASES:
        params = from_log_var(variant.spread, mu, log_var)
        count = len(params)
        rest = constants(variant.returns, N)
        values, gradients = RESULTS[variant.framework](variant.function, (z, *params), *rest)
        right_values, right_gradients = autograd_results(reparameterised, (z, *params), *rest)
        assert distance(values, right_values) < 1e-11
        assert distance(gradients, right_gradients) < 1e-11


def test_float64_inside_returns_what_came_in():
    *arrays, N = CASES[0]
    terms = right_losses.torch_float64_inside(*(torch.tensor(a, dtype=torch.float32) for a in arrays), N)
    assert {value.dtype for value in terms.values()} == {torch.float32}


# --- wrong -----------------------------------------------------------------------------------------------------------


def results(name, framework, on):
    entry = WRONG[name]
    *arrays, N = INPUTS[on]
    return RESULTS[framework](getattr(entry, framework), arrays, *constants(entry.returns, N))


def values_alone(name, framework, on):
    entry = WRONG[name]
    *arrays, N = INPUTS[on]
    inputs = [{"torch": torch.tensor, "jax": jnp.asarray}[framework](a) for a in arrays]
    result = as_mapping(getattr(entry, framework)(*inputs, *constants(entry.returns, N)))
    return {key: np.asarray(value) for key, value in result.items()}


def threshold(on):
    """What no rounding explains: float32 at D = 64 is good for 1e-4."""
    return 1e-9 if INPUTS[on][0].dtype == "float64" else 1e-3


@pytest.mark.parametrize("framework", ["torch", "jax"])
@pytest.mark.parametrize("estimator", right_losses.ESTIMATORS)
def test_without_a_mistake_all_is_right(framework, estimator):
    for on in ("ordinary",) if framework == "jax" else INPUTS:
        *arrays, N = INPUTS[on]
        size = len(arrays[0]) if estimator == "exact" else N
        values, gradients = RESULTS[framework](build(framework, estimator=estimator), arrays, size)
        exact = [a.astype("float64") for a in arrays]
        right_values, right_gradients = autograd_results(reference_loss(estimator), exact, size)
        assert distance(values, right_values) < threshold(on) / 10
        assert distance(gradients, right_gradients) < threshold(on) / 10


def test_every_id_has_a_loss():
    assert set(IDS) <= set(WRONG)
    assert {entry.diagnosis for entry in WRONG.values()} == {*IDS, "unknown"}
    assert all(WRONG[name].diagnosis == name for name in IDS)


@pytest.mark.parametrize(
    ("framework", "name"), [(f, name) for f in ("torch", "jax") for name, entry in WRONG.items() if getattr(entry, f)]
)
def test_wrong(framework, name):
    entry = WRONG[name]
    right_values, right_gradients = reference_on(entry.estimator, entry.returns, entry.shows)
    if name in GRADIENT_ONLY:
        off_by = distance(results(name, framework, entry.shows)[1], right_gradients)
    else:
        off_by = distance(values_alone(name, framework, entry.shows), right_values)
    assert off_by > threshold(entry.shows)


@pytest.mark.parametrize("name", GRADIENT_ONLY)
def test_right_values_wrong_gradients(name):
    entry = WRONG[name]
    values = values_alone(name, "torch", "ordinary")
    assert distance(values, reference_on(entry.estimator, entry.returns, "ordinary")[0]) < 1e-13


@pytest.mark.parametrize("name", ["exp-sum-log", "expanded-square"])
def test_right_where_numbers_are_tame(name):
    entry = WRONG[name]
    values, gradients = results(name, "torch", "ordinary")
    right_values, right_gradients = reference_on(entry.estimator, entry.returns, "ordinary")
    assert distance(values, right_values) < 1e-12
    assert distance(gradients, right_gradients) < 1e-12


@pytest.mark.parametrize("name", ["variance-epsilon", "small-variance-epsilon", "density-clamp", "term-clamp"])
def test_some_mistakes_need_their_input(name):
    """They change an ordinary batch by no more than an epsilon, or not at all."""
    entry = WRONG[name]
    values = values_alone(name, "torch", "ordinary")
    assert distance(values, reference_on(entry.estimator, entry.returns, "ordinary")[0]) < 1e-4


def test_kinds():
    assert len(VALUE) + len(GRADIENT_ONLY) + len(NUMERICS) == len(WRONG)
    assert len(GRADIENT_ONLY) >= 6


# --- two mistakes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("framework", ["torch", "jax"])
@pytest.mark.parametrize("pair", PAIRS, ids="+".join)
def test_pairs_differ_from_either_mistake(framework, pair):
    *arrays, N = INPUTS["ordinary"]
    both = build(framework, *pair)
    estimator = max((WRONG[name].estimator for name in pair), key=lambda e: e != "mws")
    returns = max((WRONG[name].returns for name in pair), key=lambda r: r != "terms")
    values, gradients = RESULTS[framework](both, arrays, *constants(returns, N))
    for name in pair:
        alone = build(framework, name, estimator=estimator)
        alone_values, alone_gradients = RESULTS[framework](alone, arrays, *constants(WRONG[name].returns, N))
        if WRONG[name].returns == returns:
            assert max(distance(values, alone_values), distance(gradients, alone_gradients)) > 1e-9


def test_dependent_mistakes_are_refused():
    assert not independent("missing-constant", "mss-weights-in-columns")
    for pair in (("only-log-m", "only-log-n"), ("variance-epsilon", "wrong-quadratic"), ("term-clamp", "only-log-m")):
        with pytest.raises(ValueError, match="the same step"):
            build("torch", *pair)
    assert sum(independent(*pair) for pair in itertools.combinations(MISTAKES, 2)) > 1000
