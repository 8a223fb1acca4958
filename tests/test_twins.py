"""PyTorch and JAX twins, written the way their users write them, against the reference: values and gradients, float64.

The twins' own rounding is allowed for by the scale of tests/truth.py; nothing else is.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from autograd import grad
from hypothesis import given, settings
from optional import torch
from problems import BATCH, batches, case, expected_log_qz, log_qz
from truth import truth

from tcvae_ref import beta_tcvae, elbo_terms

jax.config.update("jax_enable_x64", True)
TOLERANCE = 1e-14


def torch_weights(estimator, M, N):
    m = M - 1
    if estimator in ("mws", "minibatch"):
        return torch.full((M, M), 1 / (N * M) if estimator == "mws" else 1 / M, dtype=torch.float64)
    if estimator == "symmetric_mss":
        w = torch.full((M, M), (N - 1) / (N * m), dtype=torch.float64)
    else:
        w = torch.full((M, M), 1 / m, dtype=torch.float64)
        w.view(-1)[1 :: M + 1] = (N - m) / (N * m)  # stride M + 1 over rows of M: along the diagonal
        w[M - 1, 0] = (N - m) / (N * m)
    w.view(-1)[:: M + 1] = 1 / N
    return w


def torch_log_qz(estimator, z, mu, log_var, N):
    normal = torch.distributions.Normal(mu[None], torch.exp(0.5 * log_var)[None])
    pairs = normal.log_prob(z[:, None])
    log_w = torch.log(torch_weights(estimator, len(mu), N))
    return torch.logsumexp(pairs.sum(2) + log_w, 1), torch.logsumexp(pairs + log_w[:, :, None], 1)


@partial(jax.jit, static_argnums=0)
def jax_log_qz(estimator, z, mu, log_var, N):
    M = len(mu)
    m = M - 1
    eye, right = jnp.eye(M, dtype=bool), jnp.roll(jnp.eye(M, dtype=bool), 1, axis=1)
    w = {
        "mws": jnp.full((M, M), 1 / (N * M)),
        "minibatch": jnp.full((M, M), 1 / M),
        "mss": jnp.where(eye, 1 / N, jnp.where(right, (N - m) / (N * m), 1 / m)),
        "symmetric_mss": jnp.where(eye, 1 / N, (N - 1) / (N * m)),
    }[estimator]
    pairs = jax.scipy.stats.norm.logpdf(z[:, None], mu[None], jnp.exp(0.5 * log_var)[None])
    joint = jax.scipy.special.logsumexp(pairs.sum(2), b=w, axis=1)
    return joint, jax.scipy.special.logsumexp(pairs, b=w[:, :, None], axis=1)


def torch_values_and_gradients(estimator, z, mu, log_var, N):
    inputs = [torch.tensor(a, requires_grad=True) for a in (z, mu, log_var)]
    joint, marginals = torch_log_qz(estimator, *inputs, N)
    (joint.mean() + marginals.sum(1).mean()).backward()
    return joint.detach().numpy(), marginals.detach().numpy(), [a.grad.numpy() for a in inputs]


@partial(jax.jit, static_argnums=0)
def jax_gradients(estimator, z, mu, log_var, N):
    def means(z, mu, log_var):
        joint, marginals = jax_log_qz(estimator, z, mu, log_var, N)
        return joint.mean() + marginals.sum(1).mean()

    return jax.grad(means, (0, 1, 2))(z, mu, log_var)


def jax_values_and_gradients(estimator, z, mu, log_var, N):
    N = float(N)  # traced, so that one compilation serves every data set size
    joint, marginals = jax_log_qz(estimator, z, mu, log_var, N)
    gradients = jax_gradients(estimator, z, mu, log_var, N)
    return np.asarray(joint), np.asarray(marginals), [np.asarray(g) for g in gradients]


TWINS = {"torch": torch_values_and_gradients, "jax": jax_values_and_gradients}


def compare(twin, estimator, z, mu, log_var, N):
    """Raise unless twin and reference agree to the rounding of both."""
    exact = truth(estimator, z, mu, log_var, N)  # for its scales only
    joint, marginals, gradients = twin(estimator, z, mu, log_var, N)
    ours = log_qz(estimator)(z, mu, log_var, N)
    own = grad(lambda *a: sum(expected_log_qz(estimator)(*a, N)), (0, 1, 2))(z, mu, log_var)
    rows = [
        ("joint", joint, ours.joint, exact.joint_scale),
        ("marginals", marginals, ours.marginals, exact.marginals_scale),
    ]
    for name, theirs, reference in zip(("z", "mu", "log_var"), gradients, own, strict=True):
        rows.append((f"d/d {name}", theirs, reference, exact.gradient_scales[name]))
    for name, theirs, reference, scale in rows:
        error = np.max(np.abs(theirs - reference) / np.maximum(scale, 1e-290))
        assert error < 2 * TOLERANCE, f"{estimator} {name}: {error} of the scale"


@pytest.mark.parametrize("estimator", BATCH)
@given(case=batches(largest=8))
@settings(max_examples=50)
def test_torch(estimator, case):
    compare(torch_values_and_gradients, estimator, *case)


@pytest.mark.parametrize("estimator", BATCH)
@given(case=batches(largest=4, widest=2))  # few shapes: each is compiled once
@settings(max_examples=50)
def test_jax(estimator, case):
    compare(jax_values_and_gradients, estimator, *case)


@pytest.mark.parametrize("twin", TWINS)
def test_a_wrong_twin_is_noticed(twin):
    """MSS weights against symmetric MSS, and N off by one: the comparison has teeth."""
    batch = case(np.random.default_rng(0), "mss")
    for wrong in (
        lambda e, z, mu, log_var, N: TWINS[twin]("symmetric_mss", z, mu, log_var, N),
        lambda e, z, mu, log_var, N: TWINS[twin](e, z, mu, log_var, N + 1),
        lambda e, z, mu, log_var, N: TWINS[twin](e, z, mu, log_var + 1e-12, N),
    ):
        with pytest.raises(AssertionError, match="of the scale"):
            compare(wrong, "mss", *batch)


def test_a_whole_objective_against_torch():
    """beta-TCVAE with alpha, beta, gamma, from (z, mu, log_var, log p(x|z)) to the gradient."""
    rng = np.random.default_rng(1)
    z, mu, log_var, N = case(rng, "mss")
    log_px = -rng.random(len(z))

    def ours(z, mu, log_var):
        terms = elbo_terms(log_px, z, mu, log_var, N, expected_log_qz("mss"))
        return beta_tcvae(terms, beta=6.0, alpha=0.5, gamma=2.0)

    inputs = [torch.tensor(a, requires_grad=True) for a in (z, mu, log_var)]
    tz, tmu, tlv = inputs
    joint, marginals = torch_log_qz("mss", *inputs, N)
    log_2pi = math.log(2 * math.pi)
    own = (-0.5 * ((tz - tmu) ** 2 * torch.exp(-tlv) + tlv + log_2pi)).sum(1)
    prior = (-0.5 * (tz**2 + log_2pi)).sum(1)
    mi, tc, dwkl = own - joint, joint - marginals.sum(1), marginals.sum(1) - prior
    objective = (torch.tensor(log_px) - 0.5 * mi - 6.0 * tc - 2.0 * dwkl).mean()
    objective.backward()
    np.testing.assert_allclose(ours(z, mu, log_var), objective.item(), rtol=1e-11)
    for a, b in zip(grad(ours, (0, 1, 2))(z, mu, log_var), inputs, strict=True):
        np.testing.assert_allclose(a, b.grad.numpy(), rtol=1e-9, atol=1e-11)
