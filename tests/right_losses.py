"""Right implementations of the TC-decomposition in four frameworks, as their users write them.

`RIGHT[framework, form, estimator]` is a function `(z, mu, log_var, dataset_size)` -> dict of mi, tc, dwkl, log_qz (M,)
and log_qz_marginals (M, D). The forms differ in floating point, not in mathematics:

    direct        (z - mu)^2 exp(-log_var), the library's log-sum-exp over log-densities plus log-weights
    standardised  ((z - mu) / std)^2, weights multiplied in after the largest log-density is taken out
    looped        samples one by one, or posteriors a few at a time; the constants of the joint added once

`VARIANTS` are right too, for another signature, parameterisation, free choice or way to compute the same.
"""

import math
from typing import Any, NamedTuple

import autograd.numpy as anp
import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from autograd.scipy.special import logsumexp as autograd_logsumexp
from autograd.tracer import getval
from optional import torch

ESTIMATORS = ("mws", "mss", "symmetric-mss", "minibatch", "exact")
FORMS = ("direct", "standardised", "looped")
FRAMEWORKS = ("numpy", "autograd", "torch", "jax")
LOG_2PI = math.log(2 * math.pi)

# --- NumPy -----------------------------------------------------------------------------------------------------------


def numpy_weights(estimator, M, N):
    if estimator == "mws":
        return np.full((M, M), 1 / (N * M))
    if estimator in ("minibatch", "exact"):
        return np.full((M, M), 1 / M)
    m = M - 1
    if estimator == "mss":
        W = np.full((M, M), 1 / m)
        W[np.arange(M), np.arange(1, M + 1) % M] = (N - m) / (N * m)
    else:
        W = np.full((M, M), (N - 1) / (N * m))
    np.fill_diagonal(W, 1 / N)
    return W


def numpy_terms(log_qzx, log_qz, log_qz_marginals, log_pz):
    log_qz_product = log_qz_marginals.sum(axis=1)
    return {
        "mi": np.mean(log_qzx - log_qz),
        "tc": np.mean(log_qz - log_qz_product),
        "dwkl": np.mean(log_qz_product - log_pz),
        "log_qz": log_qz,
        "log_qz_marginals": log_qz_marginals,
    }


def numpy_direct(estimator):
    def log_normal(x, mu, log_var):
        return -0.5 * ((x - mu) ** 2 * np.exp(-log_var) + log_var + LOG_2PI)

    def loss(z, mu, log_var, dataset_size):
        log_w = np.log(numpy_weights(estimator, len(z), dataset_size)).astype(z.dtype)
        pairs = log_normal(z[:, None, :], mu[None, :, :], log_var[None, :, :])
        log_qz = scipy.special.logsumexp(pairs.sum(axis=2) + log_w, axis=1)
        log_qz_marginals = scipy.special.logsumexp(pairs + log_w[:, :, None], axis=1)
        log_pz = log_normal(z, np.zeros_like(z), np.zeros_like(z)).sum(axis=1)
        return numpy_terms(log_normal(z, mu, log_var).sum(axis=1), log_qz, log_qz_marginals, log_pz)

    return loss


def numpy_standardised(estimator):
    def log_weighted_sum(w, log_p):
        top = log_p.max(axis=1, keepdims=True)
        return np.log(np.sum(w * np.exp(log_p - top), axis=1)) + top[:, 0]

    def loss(z, mu, log_var, dataset_size):
        number = z.dtype.type  # NumPy takes bfloat16 times a Python float to float32
        half, half_log_2pi = number(0.5), number(0.5 * LOG_2PI)
        W = numpy_weights(estimator, len(z), dataset_size).astype(z.dtype)
        std = np.exp(half * log_var)

        def log_normal(x, mu, std):
            return -half * np.square((x - mu) / std) - np.log(std) - half_log_2pi

        pairs = log_normal(z[:, None], mu, std)
        log_qz = log_weighted_sum(W, pairs.sum(axis=2))
        log_qz_marginals = log_weighted_sum(W[:, :, None], pairs)
        log_pz = np.sum(-half * np.square(z) - half_log_2pi, axis=1)
        return numpy_terms(log_normal(z, mu, std).sum(axis=1), log_qz, log_qz_marginals, log_pz)

    return loss


def numpy_looped(estimator):
    def loss(z, mu, log_var, dataset_size):
        M, D = z.shape
        number = z.dtype.type
        half = number(0.5)
        log_w = np.log(numpy_weights(estimator, M, dataset_size)).astype(z.dtype)
        log_qzx, log_qz, log_qz_marginals = [], [], []
        for i in range(M):  # one sample against all posteriors
            log_q = -half * (np.square(z[i] - mu) / np.exp(log_var) + log_var)
            log_qzx.append(log_q[i].sum() - number(0.5 * D * LOG_2PI))
            log_qz.append(np.logaddexp.reduce(log_q.sum(axis=1) + log_w[i]) - number(0.5 * D * LOG_2PI))
            log_qz_marginals.append(np.logaddexp.reduce(log_q + log_w[i][:, None], axis=0) - number(0.5 * LOG_2PI))
        log_pz = -half * np.sum(z * z, axis=1) - number(0.5 * D * LOG_2PI)
        return numpy_terms(np.array(log_qzx), np.array(log_qz), np.array(log_qz_marginals), log_pz)

    return loss


# --- autograd --------------------------------------------------------------------------------------------------------


def autograd_weights(estimator, z, N):
    return numpy_weights(estimator, len(z), N).astype(z.dtype)


def autograd_terms(log_qzx, log_qz, log_qz_marginals, log_pz):
    M = len(log_qz)  # np.mean would make float32 gradients float64
    log_qz_product = anp.sum(log_qz_marginals, axis=1)
    return {
        "mi": anp.sum(log_qzx - log_qz) / M,
        "tc": anp.sum(log_qz - log_qz_product) / M,
        "dwkl": anp.sum(log_qz_product - log_pz) / M,
        "log_qz": log_qz,
        "log_qz_marginals": log_qz_marginals,
    }


def autograd_direct(estimator):
    def log_normal(x, mu, log_var):
        return -0.5 * ((x - mu) ** 2 * anp.exp(-log_var) + log_var + LOG_2PI)

    def loss(z, mu, log_var, dataset_size):
        log_w = anp.log(autograd_weights(estimator, z, dataset_size))
        pairs = log_normal(anp.expand_dims(z, 1), anp.expand_dims(mu, 0), anp.expand_dims(log_var, 0))
        log_qz = autograd_logsumexp(anp.sum(pairs, axis=2) + log_w, axis=1)
        log_qz_marginals = autograd_logsumexp(pairs + log_w[:, :, None], axis=1)
        log_pz = anp.sum(-0.5 * (z**2 + LOG_2PI), axis=1)
        return autograd_terms(anp.sum(log_normal(z, mu, log_var), axis=1), log_qz, log_qz_marginals, log_pz)

    return loss


def autograd_standardised(estimator):
    def log_normal(x, mu, std):
        return -0.5 * ((x - mu) / std) ** 2 - anp.log(std) - 0.5 * LOG_2PI

    def log_weighted_sum(w, log_p):
        top = np.max(getval(log_p), axis=1, keepdims=True)  # a constant: its gradients cancel
        return anp.log(anp.sum(w * anp.exp(log_p - top), axis=1)) + top[:, 0]

    def loss(z, mu, log_var, dataset_size):
        W = autograd_weights(estimator, z, dataset_size)
        std = anp.exp(0.5 * log_var)
        pairs = log_normal(z[:, None, :], mu[None, :, :], std[None, :, :])
        log_qz = log_weighted_sum(W, anp.sum(pairs, axis=2))
        log_qz_marginals = log_weighted_sum(W[:, :, None], pairs)
        log_pz = anp.sum(-0.5 * z**2 - 0.5 * LOG_2PI, axis=1)
        return autograd_terms(anp.sum(log_normal(z, mu, std), axis=1), log_qz, log_qz_marginals, log_pz)

    return loss


def autograd_looped(estimator):
    def loss(z, mu, log_var, dataset_size):
        M, D = z.shape
        log_w = anp.log(autograd_weights(estimator, z, dataset_size))
        inv_var = anp.exp(-log_var)
        log_qz = log_qz_marginals = None
        for j in range(M):  # all samples against one posterior
            log_q = -0.5 * ((z - mu[j]) ** 2 * inv_var[j] + log_var[j])
            joint, marginals = anp.sum(log_q, axis=1) + log_w[:, j], log_q + log_w[:, j][:, None]
            log_qz = joint if log_qz is None else anp.logaddexp(log_qz, joint)
            log_qz_marginals = marginals if log_qz_marginals is None else anp.logaddexp(log_qz_marginals, marginals)
        constant = 0.5 * D * LOG_2PI
        log_qzx = -0.5 * anp.sum((z - mu) ** 2 * inv_var + log_var, axis=1) - constant
        log_pz = -0.5 * anp.sum(z**2, axis=1) - constant
        return autograd_terms(log_qzx, log_qz - constant, log_qz_marginals - 0.5 * LOG_2PI, log_pz)

    return loss


# --- PyTorch ---------------------------------------------------------------------------------------------------------


def torch_weights(estimator, z, N):
    M = len(z)
    if estimator == "mws":
        return torch.full((M, M), 1 / (N * M), dtype=z.dtype, device=z.device)
    if estimator in ("minibatch", "exact"):
        return torch.full((M, M), 1 / M, dtype=z.dtype, device=z.device)
    m = M - 1
    if estimator == "mss":
        W = torch.full((M, M), 1 / m, dtype=z.dtype, device=z.device)
        W.view(-1)[1 :: M + 1] = (N - m) / (N * m)
        W[M - 1, 0] = (N - m) / (N * m)
    else:
        W = torch.full((M, M), (N - 1) / (N * m), dtype=z.dtype, device=z.device)
    W.view(-1)[:: M + 1] = 1 / N
    return W


def torch_terms(log_qzx, log_qz, log_qz_marginals, log_pz):
    log_qz_product = log_qz_marginals.sum(1)
    return {
        "mi": (log_qzx - log_qz).mean(),
        "tc": (log_qz - log_qz_product).mean(),
        "dwkl": (log_qz_product - log_pz).mean(),
        "log_qz": log_qz,
        "log_qz_marginals": log_qz_marginals,
    }


def torch_log_normal(x, mu, log_var):
    return -0.5 * ((x - mu) ** 2 * torch.exp(-log_var) + log_var + LOG_2PI)


def torch_log_prior(z):
    return (-0.5 * (z**2 + LOG_2PI)).sum(1)


def torch_direct(estimator):
    def loss(z, mu, log_var, dataset_size):
        log_w = torch_weights(estimator, z, dataset_size).log()
        pairs = torch_log_normal(z[:, None, :], mu[None, :, :], log_var[None, :, :])
        log_qz = torch.logsumexp(pairs.sum(2) + log_w, dim=1)
        log_qz_marginals = torch.logsumexp(pairs + log_w[:, :, None], dim=1)
        log_qzx = torch_log_normal(z, mu, log_var).sum(1)
        return torch_terms(log_qzx, log_qz, log_qz_marginals, torch_log_prior(z))

    return loss


def torch_standardised(estimator):
    def log_weighted_sum(w, log_p):
        top = log_p.detach().amax(dim=1, keepdim=True)
        return ((log_p - top).exp() * w).sum(1).log() + top.squeeze(1)

    def loss(z, mu, log_var, dataset_size):
        W = torch_weights(estimator, z, dataset_size)
        posterior = torch.distributions.Normal(mu, (0.5 * log_var).exp())
        prior = torch.distributions.Normal(torch.zeros_like(z), torch.ones_like(z))
        pairs = posterior.log_prob(z.unsqueeze(1))
        log_qz = log_weighted_sum(W, pairs.sum(2))
        log_qz_marginals = log_weighted_sum(W.unsqueeze(2), pairs)
        return torch_terms(posterior.log_prob(z).sum(1), log_qz, log_qz_marginals, prior.log_prob(z).sum(1))

    return loss


def torch_looped(estimator):
    def loss(z, mu, log_var, dataset_size):
        (M, D), chunk = z.shape, 3
        log_w = torch_weights(estimator, z, dataset_size).log()
        std = torch.exp(0.5 * log_var)
        log_qz = log_qz_marginals = None
        for start in range(0, M, chunk):
            some = slice(start, start + chunk)
            log_q = -0.5 * (((z[:, None] - mu[some]) / std[some]) ** 2 + log_var[some])
            joint = torch.logsumexp(log_q.sum(-1) + log_w[:, some], dim=1)
            marginals = torch.logsumexp(log_q + log_w[:, some, None], dim=1)
            log_qz = joint if log_qz is None else torch.logaddexp(log_qz, joint)
            log_qz_marginals = marginals if log_qz_marginals is None else torch.logaddexp(log_qz_marginals, marginals)
        constant = 0.5 * D * LOG_2PI
        log_qzx = -0.5 * (((z - mu) / std) ** 2 + log_var).sum(1) - constant
        log_pz = -0.5 * (z * z).sum(1) - constant
        return torch_terms(log_qzx, log_qz - constant, log_qz_marginals - 0.5 * LOG_2PI, log_pz)

    return loss


# --- JAX -------------------------------------------------------------------------------------------------------------


def jax_weights(estimator, z, N):
    M = len(z)
    m = M - 1
    eye = jnp.eye(M, dtype=bool)
    if estimator == "mws":
        W = jnp.full((M, M), 1 / (N * M))
    elif estimator in ("minibatch", "exact"):
        W = jnp.full((M, M), 1 / M)
    elif estimator == "mss":
        W = jnp.where(eye, 1 / N, jnp.where(jnp.roll(eye, 1, axis=1), (N - m) / (N * m), 1 / m))
    else:
        W = jnp.where(eye, 1 / N, (N - 1) / (N * m))
    return W.astype(z.dtype)


def jax_terms(log_qzx, log_qz, log_qz_marginals, log_pz):
    log_qz_product = log_qz_marginals.sum(axis=1)
    return {
        "mi": jnp.mean(log_qzx - log_qz),
        "tc": jnp.mean(log_qz - log_qz_product),
        "dwkl": jnp.mean(log_qz_product - log_pz),
        "log_qz": log_qz,
        "log_qz_marginals": log_qz_marginals,
    }


def jax_log_normal(x, mu, log_var):
    return -0.5 * ((x - mu) ** 2 * jnp.exp(-log_var) + log_var + LOG_2PI)


def jax_log_prior(z):
    return jnp.sum(-0.5 * (z**2 + LOG_2PI), axis=1)


def jax_direct(estimator):
    def loss(z, mu, log_var, dataset_size):
        log_w = jnp.log(jax_weights(estimator, z, dataset_size))
        pairs = jax_log_normal(z[:, None, :], mu[None, :, :], log_var[None, :, :])
        log_qz = jax.scipy.special.logsumexp(pairs.sum(axis=2) + log_w, axis=1)
        log_qz_marginals = jax.scipy.special.logsumexp(pairs + log_w[:, :, None], axis=1)
        log_qzx = jax_log_normal(z, mu, log_var).sum(axis=1)
        return jax_terms(log_qzx, log_qz, log_qz_marginals, jax_log_prior(z))

    return loss


def jax_standardised(estimator):
    def loss(z, mu, log_var, dataset_size):
        W = jax_weights(estimator, z, dataset_size)
        std = jnp.exp(0.5 * log_var)
        pairs = jax.scipy.stats.norm.logpdf(z[:, None], mu, std)
        log_qz = jax.scipy.special.logsumexp(pairs.sum(axis=2), b=W, axis=1)
        log_qz_marginals = jax.scipy.special.logsumexp(pairs, b=W[:, :, None], axis=1)
        log_qzx = jax.scipy.stats.norm.logpdf(z, mu, std).sum(axis=1)
        return jax_terms(log_qzx, log_qz, log_qz_marginals, jax.scipy.stats.norm.logpdf(z).sum(axis=1))

    return loss


def jax_looped(estimator):
    def loss(z, mu, log_var, dataset_size):
        constant = 0.5 * z.shape[1] * LOG_2PI
        inv_std = jnp.exp(-0.5 * log_var)

        def one_sample(x, log_w):
            log_q = -0.5 * (jnp.square((x - mu) * inv_std) + log_var)
            joint = jax.nn.logsumexp(log_q.sum(axis=1) + log_w) - constant
            return joint, jax.nn.logsumexp(log_q + log_w[:, None], axis=0) - 0.5 * LOG_2PI

        log_qz, log_qz_marginals = jax.vmap(one_sample)(z, jnp.log(jax_weights(estimator, z, dataset_size)))
        log_qzx = -0.5 * jnp.sum(jnp.square((z - mu) * inv_std) + log_var, axis=1) - constant
        return jax_terms(log_qzx, log_qz, log_qz_marginals, -0.5 * jnp.sum(z * z, axis=1) - constant)

    return loss


# --- the table -------------------------------------------------------------------------------------------------------


def named(loss, *words):
    loss.__name__ = loss.__qualname__ = "_".join(words).replace("-", "_")
    return loss


RIGHT = {
    (framework, form, estimator): named(globals()[f"{framework}_{form}"](estimator), framework, form, estimator)
    for framework in FRAMEWORKS
    for form in FORMS
    for estimator in ESTIMATORS
}

PRESERVED = {
    (framework, form): ("float64", "float32", "bfloat16")
    if framework in ("torch", "jax") or (framework == "numpy" and form != "direct")
    else ("float64", "float32")
    for framework in FRAMEWORKS
    for form in FORMS
}
"""The dtypes that come out as they went in. SciPy's log-sum-exp and autograd know no bfloat16."""

# --- variants --------------------------------------------------------------------------------------------------------


def torch_symmetric_mss(z, mu, log_var, dataset_size):
    """The diagonal apart from the rest, as two log-sum-exps."""
    M = len(z)
    pairs = torch_log_normal(z[:, None], mu, log_var)
    own = torch_log_normal(z, mu, log_var)
    eye = torch.eye(M, dtype=torch.bool, device=z.device)
    log_1, log_rest = math.log(dataset_size), math.log((dataset_size - 1) / (dataset_size * (M - 1)))
    others = torch.logsumexp(pairs.sum(2).masked_fill(eye, -math.inf), 1) + log_rest
    others_d = torch.logsumexp(pairs.masked_fill(eye[:, :, None], -math.inf), 1) + log_rest
    log_qz, log_qz_marginals = torch.logaddexp(own.sum(1) - log_1, others), torch.logaddexp(own - log_1, others_d)
    return torch_terms(own.sum(1), log_qz, log_qz_marginals, torch_log_prior(z))


def torch_mss_with_free_column(column):
    """MSS where `column(M)` names, for each row, the posterior that stands for the data left out."""

    def loss(z, mu, log_var, dataset_size):
        M, N, m = len(z), dataset_size, len(z) - 1
        W = torch.full((M, M), 1 / m, dtype=z.dtype, device=z.device)
        rows = torch.arange(M)
        W[rows, column(M)] = (N - m) / (N * m)
        W[rows, rows] = 1 / N
        pairs = torch_log_normal(z[:, None], mu, log_var)
        log_qz = torch.logsumexp(W.log() + pairs.sum(2), 1)
        log_qz_marginals = torch.logsumexp(W.log()[..., None] + pairs, 1)
        return torch_terms(torch_log_normal(z, mu, log_var).sum(1), log_qz, log_qz_marginals, torch_log_prior(z))

    return loss


def subdiagonal(M):
    return (torch.arange(M) - 1) % M


def random_columns(M):
    """A column other than the diagonal for each row, the same at every call."""
    steps = torch.randint(1, M, (M,), generator=torch.Generator().manual_seed(0))
    return (torch.arange(M) + steps) % M


def torch_kl_penalty(z, mu, log_var, dataset_size, beta):
    """Closed-form KL plus (beta - 1) TC."""
    kl = 0.5 * (mu**2 + log_var.exp() - 1 - log_var).sum(1).mean()
    return {"kl_penalty": kl + (beta - 1) * torch_direct("mws")(z, mu, log_var, dataset_size)["tc"]}


def jax_log_std(z, mu, log_std, dataset_size):
    M = len(z)
    log_w = -jnp.log(jnp.asarray(M * dataset_size, dtype=z.dtype))

    def log_normal(x, mu, log_std):
        return -0.5 * ((x - mu) * jnp.exp(-log_std)) ** 2 - log_std - 0.5 * LOG_2PI

    pairs = log_normal(z[:, None], mu, log_std)
    log_qz, log_qz_marginals = jax.nn.logsumexp(pairs.sum(-1), 1) + log_w, jax.nn.logsumexp(pairs, 1) + log_w
    return jax_terms(log_normal(z, mu, log_std).sum(-1), log_qz, log_qz_marginals, jax_log_prior(z))


def torch_std(z, mu, std, dataset_size):
    posterior = torch.distributions.Normal(mu, std)
    prior = torch.distributions.Normal(torch.zeros_like(z), torch.ones_like(z))
    pairs = posterior.log_prob(z[:, None])
    log_nm = math.log(dataset_size * len(z))
    log_qz, log_qz_marginals = torch.logsumexp(pairs.sum(2), 1) - log_nm, torch.logsumexp(pairs, 1) - log_nm
    return torch_terms(posterior.log_prob(z).sum(1), log_qz, log_qz_marginals, prior.log_prob(z).sum(1))


def torch_matmul(z, mu, log_var, dataset_size):
    """The joint's squares expanded and summed over d by matrix products: right, but it cancels."""
    D = z.shape[1]
    inv_var = torch.exp(-log_var)
    squares = z**2 @ inv_var.T - 2 * z @ (mu * inv_var).T + (mu**2 * inv_var).sum(1)
    joint = -0.5 * (squares + log_var.sum(1) + D * LOG_2PI)
    log_nm = math.log(dataset_size * len(z))
    log_qz = torch.logsumexp(joint, 1) - log_nm
    log_qz_marginals = torch.logsumexp(torch_log_normal(z[:, None], mu, log_var), 1) - log_nm
    return torch_terms(torch_log_normal(z, mu, log_var).sum(1), log_qz, log_qz_marginals, torch_log_prior(z))


def torch_sample_chunks(z, mu, log_var, dataset_size):
    """Four samples at a time against all posteriors."""
    log_nm = math.log(dataset_size * len(z))
    joints, marginals = [], []
    for some in z.split(4):
        pairs = torch_log_normal(some[:, None], mu, log_var)
        joints.append(torch.logsumexp(pairs.sum(2), 1) - log_nm)
        marginals.append(torch.logsumexp(pairs, 1) - log_nm)
    log_qzx = torch_log_normal(z, mu, log_var).sum(1)
    return torch_terms(log_qzx, torch.cat(joints), torch.cat(marginals), torch_log_prior(z))


def jax_vmapped(z, mu, log_var, dataset_size):
    """A density of scalars, mapped over dimensions, posteriors and samples."""
    per_dimension = jax.vmap(jax_log_normal)
    per_posterior = jax.vmap(per_dimension, in_axes=(None, 0, 0))
    pairs = jax.vmap(per_posterior, in_axes=(0, None, None))(z, mu, log_var)
    log_w = jnp.log(jax_weights("symmetric-mss", z, dataset_size))
    log_qz = jax.nn.logsumexp(pairs.sum(2) + log_w, axis=1)
    log_qz_marginals = jax.nn.logsumexp(pairs + log_w[..., None], axis=1)
    return jax_terms(jax.vmap(per_dimension)(z, mu, log_var).sum(1), log_qz, log_qz_marginals, jax_log_prior(z))


def jax_scanned(z, mu, log_var, dataset_size):
    """Posteriors one after another through lax.scan."""

    def step(sums, posterior):
        pairs = jax_log_normal(z, *posterior)
        return (jnp.logaddexp(sums[0], pairs.sum(1)), jnp.logaddexp(sums[1], pairs)), None

    first = jax_log_normal(z, mu[0], log_var[0])
    (joint, marginals), _ = jax.lax.scan(step, (first.sum(1), first), (mu[1:], log_var[1:]))
    log_nm = jnp.log(jnp.asarray(dataset_size * len(z), dtype=z.dtype))
    return jax_terms(jax_log_normal(z, mu, log_var).sum(1), joint - log_nm, marginals - log_nm, jax_log_prior(z))


def jax_jitted(z, mu, log_var, dataset_size):
    return jax.jit(jax_direct("mss"), static_argnums=3)(z, mu, log_var, dataset_size)


def torch_float64_inside(z, mu, log_var, dataset_size):
    """Computed in float64, returned in the dtype of z."""
    terms = torch_direct("mss")(z.double(), mu.double(), log_var.double(), dataset_size)
    return {name: value.to(z.dtype) for name, value in terms.items()}


def torch_packed(z, params, dataset_size):
    """The posteriors as one (M, D, 2) array of means and log-variances."""
    return torch_direct("mws")(z, params.select(-1, 0), params.select(-1, 1), dataset_size)


def torch_penalty(z, mu, log_var, dataset_size, alpha, beta, gamma):
    terms = torch_direct("mws")(z, mu, log_var, dataset_size)
    return alpha * terms["mi"] + beta * terms["tc"] + gamma * terms["dwkl"]


def jax_penalty(z, mu, log_var, dataset_size, alpha, beta, gamma):
    terms = jax_direct("mss")(z, mu, log_var, dataset_size)
    return alpha * terms["mi"] + beta * terms["tc"] + gamma * terms["dwkl"]


def torch_tc(z, mu, log_var, dataset_size):
    return torch_direct("mws")(z, mu, log_var, dataset_size)["tc"]


def torch_constants_outside(z, mu, log_var, dataset_size):
    """1/(N M) subtracted after the log-sum-exp, from the joint and from every marginal."""
    pairs = torch_log_normal(z[:, None], mu, log_var)
    log_nm = math.log(dataset_size) + math.log(len(z))
    log_qz, log_qz_marginals = torch.logsumexp(pairs.sum(2), 1) - log_nm, torch.logsumexp(pairs, 1) - log_nm
    return torch_terms(torch_log_normal(z, mu, log_var).sum(1), log_qz, log_qz_marginals, torch_log_prior(z))


def torch_mixture(z, mu, log_var, dataset_size):
    """The batch as mixture distributions of torch.distributions."""
    posterior = torch.distributions.Normal(mu, torch.exp(0.5 * log_var))
    same_weight = torch.distributions.Categorical(logits=torch.zeros_like(mu[:, 0]))
    joint = torch.distributions.MixtureSameFamily(same_weight, torch.distributions.Independent(posterior, 1))
    by_dimension = torch.distributions.Normal(mu.T, torch.exp(0.5 * log_var).T)
    same_weights = torch.distributions.Categorical(logits=torch.zeros_like(mu.T))
    marginals = torch.distributions.MixtureSameFamily(same_weights, by_dimension)
    log_qzx = posterior.log_prob(z).sum(1)
    return torch_terms(log_qzx, joint.log_prob(z), marginals.log_prob(z), torch_log_prior(z))


class Variant(NamedTuple):
    """A right loss, and what it is right for."""

    name: str
    framework: str
    estimator: str
    """Which weights: one of ESTIMATORS, "mss-subdiagonal" or "mss-random-columns"."""
    function: Any
    returns: str = "terms"
    """ "terms" (the dict), "tc", "penalty" (alpha MI + beta TC + gamma DWKL) or "kl_penalty" (KL + (beta - 1) TC)."""
    spread: str = "log_var"
    """The width of a posterior: "log_var", "log_std", "std", or "packed" with the mean, (M, D, 2)."""


VARIANTS = (
    Variant("symmetric MSS in two parts", "torch", "symmetric-mss", torch_symmetric_mss),
    Variant("MSS, free column below", "torch", "mss-subdiagonal", torch_mss_with_free_column(subdiagonal)),
    Variant("MSS, free column at random", "torch", "mss-random-columns", torch_mss_with_free_column(random_columns)),
    Variant("closed-form KL + (beta - 1) TC", "torch", "mws", torch_kl_penalty, returns="kl_penalty"),
    Variant("log-std", "jax", "mws", jax_log_std, spread="log_std"),
    Variant("std", "torch", "mws", torch_std, spread="std"),
    Variant("matrix products", "torch", "mws", torch_matmul),
    Variant("chunks of samples", "torch", "mws", torch_sample_chunks),
    Variant("vmap of scalars", "jax", "symmetric-mss", jax_vmapped),
    Variant("scan over posteriors", "jax", "mws", jax_scanned),
    Variant("jit", "jax", "mss", jax_jitted),
    Variant("float64 inside", "torch", "mss", torch_float64_inside),
    Variant("packed parameters", "torch", "mws", torch_packed, spread="packed"),
    Variant("penalty", "torch", "mws", torch_penalty, returns="penalty"),
    Variant("penalty", "jax", "mss", jax_penalty, returns="penalty"),
    Variant("TC alone", "torch", "mws", torch_tc, returns="tc"),
    Variant("constants outside", "torch", "mws", torch_constants_outside),
    Variant("mixture distributions", "torch", "minibatch", torch_mixture),
)
