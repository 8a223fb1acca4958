"""The estimators, the decomposition and the objectives, of the reference and of the kernels, values and gradients.

Truth and bounds are the oracle's: `tcvae_ref.oracle.truth`, `tcvae_ref.oracle.standardised`.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from autograd import make_vjp
from autograd import numpy as anp

import tcvae_ref
from tcvae_ref.oracle.standardised import NO_CUT, allowances
from tcvae_ref.oracle.truth import truth
from tcvae_ref.oracle.types import Allowances, Enclosure, Truth
from tcvae_ref.oracle.types import Case as Posed
from tcvae_ref.selftest.draws import Batch
from tcvae_ref.selftest.types import CUTS, PRIMITIVES, Comparison, gamma
from tcvae_ref.types import Array

ARGUMENTS = ("z", "mu", "log_var")
ALPHA, BETA, GAMMA = 0.5, 6.0, 1.5
TERMS = ("log_qz", "log_qz_marginals", "mi", "tc", "dwkl", "penalty", "kl_penalty")


def judge(
    batch: Batch, subjects: Sequence[ModuleType], rng: np.random.Generator
) -> Iterator[tuple[str, Callable[[], list[Comparison]]]]:
    """The functions of one estimator, each with a call that compares it.

    Parameters
    ----------
    batch : Batch
    subjects : sequence of module
        `tcvae_ref`, `tcvae_kernels`.
    rng : numpy.random.Generator
        Draws which of the terms is differentiated.
    """
    z, mu, log_var = (a.astype(np.float64) for a in (batch.z, batch.mu, batch.log_var))
    case = Posed(z, mu, log_var, batch.dataset_size, ALPHA, BETA, GAMMA)
    exact, term = truth(case, batch.estimator), str(rng.choice(TERMS[2:]))
    stem = batch.estimator.replace("-", "_")
    for module in subjects:
        cut = NO_CUT if module is tcvae_ref else CUTS[batch.dtype]
        bounds = allowances(case, batch.estimator, batch.dtype, PRIMITIVES[batch.dtype], cut)
        subject = _Subject(module, stem, batch, exact, bounds)
        yield subject.name("log_qz"), subject.samples
        yield subject.name("expected_log_qz"), subject.means
        yield f"tcvae_ref.kl_terms of {subject.name('expected_log_qz')}", partial(subject.terms, term)


class _Subject(NamedTuple):
    """One estimator of one module on one batch, and what is true of it."""

    module: ModuleType
    stem: str
    batch: Batch
    exact: Truth
    bounds: Allowances

    def name(self, function: str) -> str:
        return f"{self.module.__name__}.{function}_{self.stem}"

    def function(self, name: str) -> Callable[..., Any]:
        function: Callable[..., Any] = getattr(self.module, f"{name}_{self.stem}")
        return lambda *a: function(*a, self.batch.dataset_size)

    @property
    def arrays(self) -> tuple[Array, Array, Array]:
        return self.batch.z, self.batch.mu, self.batch.log_var

    def samples(self) -> list[Comparison]:
        """Values at each sample, and the gradient of their means."""
        where, log_qz, M = self.name("log_qz"), self.function("log_qz"), len(self.batch.z)
        values = [self._value(where, name, got) for name, got in zip(TERMS[:2], log_qz(*self.arrays), strict=True)]
        slopes = [self._slope(where, n, lambda *a, k=k: anp.sum(log_qz(*a)[k]) / M)[1] for k, n in enumerate(TERMS[:2])]
        return [*values, *itertools.chain(*slopes)]

    def means(self) -> list[Comparison]:
        """Batch means, alone and with their gradient, which the kernels compute in another pass."""
        where, expected = self.name("expected_log_qz"), self.function("expected_log_qz")
        comparisons = []
        for k, name in enumerate(TERMS[:2]):
            value, slopes = self._slope(where, name, lambda *a, k=k: expected(*a)[k])
            comparisons += [self._mean(where, name, got) for got in (expected(*self.arrays)[k], value)] + slopes
        return comparisons

    def terms(self, differentiated: str) -> list[Comparison]:
        """The three terms and the penalties made of them; the gradient of one."""
        where, expected = f"tcvae_ref.kl_terms of {self.name('expected_log_qz')}", self.function("expected_log_qz")
        log_px = np.zeros(len(self.batch.z), self.batch.dtype)

        def scalars(z: Array, mu: Array, log_var: Array) -> dict[str, Any]:
            N = self.batch.dataset_size
            terms = tcvae_ref.elbo_terms(log_px, z, mu, log_var, N, lambda z, mu, log_var, N: expected(z, mu, log_var))
            penalty = -tcvae_ref.beta_tcvae(terms, BETA, ALPHA, GAMMA)
            kl_penalty = -tcvae_ref.factor_vae(terms, terms.total_correlation, BETA - 1)
            return dict(zip(TERMS[2:], (*terms[2:], penalty, kl_penalty), strict=True))

        values = [self._value(where, name, got) for name, got in scalars(*self.arrays).items()]
        return values + self._slope(where, differentiated, lambda *a: scalars(*a)[differentiated])[1]

    def _slope(self, where: str, name: str, scalar: Callable[..., Any]) -> tuple[Any, list[Comparison]]:
        """The value of a scalar, and its gradient compared."""
        vjp, value = make_vjp(scalar, (0, 1, 2))(*self.arrays)
        return value, [
            Comparison(
                where, f"gradient of {name}", argument, got, self.exact.gradients[name][argument],
                self.bounds.gradients[name][argument], self.bounds.gradient_scales[name][argument],
            )
            for argument, got in zip(ARGUMENTS, vjp(value.dtype.type(1)), strict=True)
        ]  # fmt: skip

    def _value(self, where: str, name: str, got: Any) -> Comparison:
        true = self.exact.values[name]
        allowed, scale = (
            np.broadcast_to(a[name], np.shape(true.middle)) for a in (self.bounds.values, self.bounds.value_scales)
        )
        return Comparison(where, name, "", np.asarray(got), true, allowed, scale)

    def _mean(self, where: str, name: str, got: Any) -> Comparison:
        """A batch mean; of the marginals, of their sum over dimensions. Allowed: the mean of theirs, and adding up."""
        true, M = self.exact.values[name], len(self.batch.z)
        total = sum((Fraction(x) for a in (true.middle, true.rest) for x in a.ravel().tolist()), Fraction(0)) / M
        middle = float(total)
        enclosure = Enclosure(np.array(middle), np.array(float(total - Fraction(middle))), np.sum(true.radius) / M)
        allowed, scale = (
            np.sum(np.broadcast_to(a[name], true.middle.shape)) / M
            for a in (self.bounds.values, self.bounds.value_scales)
        )
        adding = gamma(true.middle.size + 6, self.batch.dtype) * scale
        return Comparison(where, f"mean of {name}", "", np.asarray(got), enclosure, np.asarray(allowed + adding), scale)
