"""Samplers, whole losses and warm-ups with one planted mistake each, and right ones, in PyTorch and JAX.

Written apart from the oracle, in the style of public training code. `STEPS[name]` says what part it is of, what it is
called, and how it is made: `make(framework)` gives the keyword arguments of `check_step`.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from optional import torch
from wrong_losses import build

BETA, STEPS_OF_WARM_UP = 6.0, 1000


class Step(NamedTuple):
    diagnosis: str
    """"" where it is right."""
    make: Callable[[str], dict]


def sampler(torch_body, jax_body):
    def make(framework):
        if framework == "torch":
            return {"sampler": lambda mu, log_var: torch_body(mu, log_var), "framework": "torch"}
        return {"sampler": lambda key, mu, log_var: jax_body(key, mu, log_var), "framework": "jax"}

    return make


def normal(key, mu):
    return jax.random.normal(key, mu.shape, mu.dtype)


SAMPLERS = {
    "right": ("", sampler(
        lambda mu, lv: mu + torch.exp(0.5 * lv) * torch.randn_like(mu),
        lambda key, mu, lv: mu + jnp.exp(0.5 * lv) * normal(key, mu))),
    "right, of a distribution": ("", sampler(
        lambda mu, lv: torch.distributions.Normal(mu, lv.exp().sqrt()).rsample(),
        lambda key, mu, lv: mu + jnp.sqrt(jnp.exp(lv)) * normal(key, mu))),
    "unit-noise": ("unit-noise", sampler(
        lambda mu, lv: mu + torch.randn_like(mu),
        lambda key, mu, lv: mu + normal(key, mu))),
    "std = exp(log_var)": ("log-var-as-log-std", sampler(
        lambda mu, lv: mu + torch.exp(lv) * torch.randn_like(mu),
        lambda key, mu, lv: mu + jnp.exp(lv) * normal(key, mu))),
    "std = exp(log_var / 4)": ("log-std-as-log-var", sampler(
        lambda mu, lv: mu + torch.exp(0.25 * lv) * torch.randn_like(mu),
        lambda key, mu, lv: mu + jnp.exp(0.25 * lv) * normal(key, mu))),
    "no noise": ("mean-as-sample", sampler(lambda mu, lv: mu + 0 * lv, lambda key, mu, lv: mu + 0 * lv)),
    "uniform": ("wrong-noise", sampler(
        lambda mu, lv: mu + torch.exp(0.5 * lv) * torch.rand_like(mu),
        lambda key, mu, lv: mu + jnp.exp(0.5 * lv) * jax.random.uniform(key, mu.shape, mu.dtype))),
    "uniform of variance 1": ("wrong-noise", sampler(
        lambda mu, lv: mu + torch.exp(0.5 * lv) * _centred(torch.rand_like(mu)),
        lambda key, mu, lv: mu + jnp.exp(0.5 * lv) * _centred(jax.random.uniform(key, mu.shape, mu.dtype)))),
    "eps of 1.1": ("wrong-noise", sampler(
        lambda mu, lv: mu + 1.1 * torch.exp(0.5 * lv) * torch.randn_like(mu),
        lambda key, mu, lv: mu + 1.1 * jnp.exp(0.5 * lv) * normal(key, mu))),
    "one row for all": ("shared-noise", sampler(
        lambda mu, lv: mu + torch.exp(0.5 * lv) * torch.randn_like(mu[:1]),
        lambda key, mu, lv: mu + jnp.exp(0.5 * lv) * normal(key, mu[:1]))),
    "one column for all": ("shared-noise", sampler(
        lambda mu, lv: mu + torch.exp(0.5 * lv) * torch.randn_like(mu[:, :1]),
        lambda key, mu, lv: mu + jnp.exp(0.5 * lv) * normal(key, mu[:, :1]))),
    "a fixed seed": ("shared-noise", sampler(
        lambda mu, lv: mu + torch.exp(0.5 * lv) * _seeded(mu),
        lambda key, mu, lv: mu + jnp.exp(0.5 * lv) * normal(jax.random.key(1), mu))),
    "half of the noise of the row before": ("shared-noise", sampler(
        lambda mu, lv: mu + torch.exp(0.5 * lv) * _mixed(torch.randn_like(mu), torch.roll),
        lambda key, mu, lv: mu + jnp.exp(0.5 * lv) * _mixed(normal(key, mu), jnp.roll))),
    "sample for rsample": ("detached-sample", sampler(
        lambda mu, lv: torch.distributions.Normal(mu, torch.exp(0.5 * lv)).sample(),
        lambda key, mu, lv: jax.lax.stop_gradient(mu + jnp.exp(0.5 * lv) * normal(key, mu)))),
    "detached width": ("detached-sample", sampler(
        lambda mu, lv: mu + torch.exp(0.5 * lv).detach() * torch.randn_like(mu),
        lambda key, mu, lv: mu + jax.lax.stop_gradient(jnp.exp(0.5 * lv)) * normal(key, mu))),
}  # fmt: skip


def _centred(u):
    return math.sqrt(12) * (u - 0.5)


def _seeded(mu):
    return torch.randn(mu.shape, dtype=mu.dtype, generator=torch.Generator().manual_seed(1))


def _mixed(eps, roll):
    return math.sqrt(0.75) * eps + 0.5 * roll(eps, 1, 0)


# --- whole losses ----------------------------------------------------------------------------------------------------


def loss(combine, mistake="", estimator="mws", closed_form=False):
    """combine(nll (M,), t: terms by name, M, beta): of right terms or such with a mistake of wrong_losses."""

    def make(framework):
        terms = build(framework, mistake, estimator=estimator) if mistake else build(framework, estimator=estimator)
        exp = torch.exp if framework == "torch" else jnp.exp

        def whole(nll, z, mu, log_var, dataset_size, beta):
            t = dict(terms(z, mu, log_var, dataset_size))
            t["kl"] = (0.5 * (mu**2 + exp(log_var) - 1 - log_var)).sum(1).mean()
            return combine(nll, t, mu.shape[0], beta)

        return {"loss": whole, "framework": framework}

    return make


def penalty(t, beta):
    return t["mi"] + beta * t["tc"] + t["dwkl"]


def fixed(combine):
    """combine(nll (M,), t): the weights are inside."""

    def make(framework):
        terms = build(framework, estimator="mws")
        return {
            "loss": lambda nll, z, mu, log_var, dataset_size: combine(nll, terms(z, mu, log_var, dataset_size)),
            "framework": framework,
        }

    return make


def annealed(combine):
    """combine(nll, t, beta, c): c grows from 0 to 1."""

    def make(framework):
        terms = build(framework, estimator="mws")

        def whole(nll, z, mu, log_var, dataset_size, beta, step):
            return combine(nll, terms(z, mu, log_var, dataset_size), beta, min(1.0, step / STEPS_OF_WARM_UP))

        return {"loss": whole, "framework": framework}

    return make


def pixels(reduction):
    """A loss of images and logits."""

    def make(framework):
        terms = build(framework, estimator="mws")
        plus = torch.nn.functional.softplus if framework == "torch" else jax.nn.softplus

        def whole(x, logits, z, mu, log_var, dataset_size, beta):
            bce = plus(logits) - x * logits
            return reduction(bce) + penalty(terms(z, mu, log_var, dataset_size), beta)

        return {"loss": whole, "framework": framework}

    return make


LOSSES = {
    "right": ("", loss(lambda nll, t, M, beta: nll.mean() + penalty(t, beta))),
    "right MSS": ("", loss(lambda nll, t, M, beta: nll.mean() + penalty(t, beta), estimator="mss")),
    "right, closed-form KL": ("", loss(lambda nll, t, M, beta: nll.mean() + t["kl"] + (beta - 1) * t["tc"])),
    "right, of pixels": ("", pixels(lambda bce: bce.sum(1).mean())),
    "KL + beta TC": ("beta-for-beta-minus-one", loss(lambda nll, t, M, beta: nll.mean() + t["kl"] + beta * t["tc"])),
    "KL twice": ("kl-counted-twice", loss(lambda nll, t, M, beta: nll.mean() + t["kl"] + penalty(t, beta))),
    "beta-VAE": ("beta-on-every-term", loss(lambda nll, t, M, beta: nll.mean() + beta * penalty(t, 1))),
    "TC subtracted": ("sign-flipped", loss(lambda nll, t, M, beta: nll.mean() + penalty(t, -beta))),
    "penalty subtracted": ("sign-flipped", loss(lambda nll, t, M, beta: nll.mean() - penalty(t, beta))),
    "the objective": ("sign-flipped", loss(lambda nll, t, M, beta: -nll.mean() - penalty(t, beta))),
    "summed over the batch": ("sum-not-mean", loss(lambda nll, t, M, beta: M * (nll.mean() + penalty(t, beta)))),
    "penalty times M": ("sum-not-mean", loss(lambda nll, t, M, beta: nll.mean() + M * penalty(t, beta))),
    "reconstruction summed": ("reconstruction-scaled", loss(lambda nll, t, M, beta: nll.sum() + penalty(t, beta))),
    "mean over pixels": ("reconstruction-scaled", pixels(lambda bce: bce.mean())),
    "a half": ("constant-factor", loss(lambda nll, t, M, beta: 0.5 * (nll.mean() + penalty(t, beta)))),
    "no gamma": ("unknown", loss(lambda nll, t, M, beta: nll.mean() + t["mi"] + beta * t["tc"])),
    "beta of 4": ("other-weights", fixed(lambda nll, t: nll.mean() + penalty(t, 4.0))),
    "columns": ("mss-weights-in-columns", loss(
        lambda nll, t, M, beta: nll.mean() + penalty(t, beta), "mss-weights-in-columns", "mss")),
    "no constant": ("missing-constant", loss(
        lambda nll, t, M, beta: nll.mean() + penalty(t, beta), "missing-constant")),
    "detached": ("detached-posterior", loss(
        lambda nll, t, M, beta: nll.mean() + penalty(t, beta), "detached-posterior")),
}  # fmt: skip

WARM_UPS = {
    "all": ("", annealed(lambda nll, t, beta, c: nll.mean() + c * penalty(t, beta))),
    "TC": ("", annealed(lambda nll, t, beta, c: nll.mean() + penalty(t, c * beta))),
    "DWKL alone": ("annealing-on-one-term", annealed(
        lambda nll, t, beta, c: nll.mean() + t["mi"] + beta * t["tc"] + c * t["dwkl"])),
    "MI alone": ("annealing-on-one-term", annealed(
        lambda nll, t, beta, c: nll.mean() + c * t["mi"] + beta * t["tc"] + t["dwkl"])),
    "all but TC": ("annealing-on-one-term", annealed(
        lambda nll, t, beta, c: nll.mean() + c * (t["mi"] + t["dwkl"]) + beta * t["tc"])),
}  # fmt: skip

STEPS = {
    f"{part}: {name}": Step(*one)
    for part, found in (("sampler", SAMPLERS), ("loss", LOSSES), ("warm-up", WARM_UPS))
    for name, one in found.items()
}
