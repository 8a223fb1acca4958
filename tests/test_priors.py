"""Priors: densities that integrate to one, against SciPy and PyTorch, and what changes in eq. 2."""

import dataclasses

import mpmath
import numpy as np
import pytest
from autograd import grad
from autograd.test_util import check_grads
from optional import torch
from scipy import stats

from tcvae_ref import InputError, expected_log_qz_mss, kl_terms, log_standard_normal
from tcvae_ref.data import grid, render
from tcvae_ref.metrics import decomposition_exact
from tcvae_ref.objectives import elbo_terms
from tcvae_ref.priors import FLOW, STEPS, initial_flow, log_flow, log_laplace
from tcvae_ref.training import PRESETS, Settings, initial_state, train, trained_model
from tcvae_ref.training.loop import loss_and_record

TINY = Settings(encoder=(16,), decoder=(16,), latent=3, batch=16, epochs=2)


@pytest.fixture(scope="module")
def data():
    return render(grid((1, 2, 1, 6, 6)))


def wild_flow(D, seed=0, steps=STEPS):
    """A flow far from the identity."""
    rng = np.random.default_rng(seed)
    return [width * rng.standard_normal((steps, D)) for width in (2.0, 0.5, 2.0)]


def release_log_flow(z, u, w, b):
    """The flow of the code released with the paper: u = s / w free, |f'| + 1e-8 under the logarithm."""
    y, log_slopes = z, 0.0
    for k in range(len(u)):
        t = np.tanh(w[k] * y + b[k])
        y = y + u[k] * t
        log_slopes = log_slopes + np.log(np.abs(1.0 + u[k] * w[k] * (1.0 - t**2)) + 1e-8)
    return log_standard_normal(y) + log_slopes.sum(axis=1)


def exact_log_flow(z, a, c, b):
    """One step in one dimension, in mpmath's precision, as the docstring's first form of f' has it."""
    z, a, c, b = (mpmath.mpf(float(value)) for value in (z, a, c, b))
    w, s = mpmath.exp(c), mpmath.log1p(mpmath.exp(a) * (mpmath.e - 1)) - 1
    t = mpmath.tanh(w * z + b)
    return mpmath.log(mpmath.npdf(z + s / w * t)) + mpmath.log(1 + s * (1 - t**2))


def mass(log_density, reach=60.0):
    """Integral of a one-dimensional density."""
    z = np.linspace(-reach, reach, 400_001)
    return np.trapezoid(np.exp(log_density(z[:, None])), z)


class TestLaplace:
    def test_against_scipy(self):
        z = np.random.default_rng(0).standard_normal((7, 3)) * 4
        np.testing.assert_allclose(log_laplace(z), stats.laplace.logpdf(z).sum(axis=1), rtol=1e-13)

    def test_gradient_and_dtype(self):
        z = np.random.default_rng(0).standard_normal((5, 2))
        check_grads(log_laplace, modes=["rev"], order=1)(z)
        assert grad(lambda z: log_laplace(z).sum())(z.astype(np.float32)).dtype == np.float32

    def test_refusal(self):
        with pytest.raises(InputError, match="log_laplace"):
            log_laplace(np.array([[np.nan]]))


class TestFlow:
    def test_begins_as_the_standard_normal(self):
        z = np.random.default_rng(0).standard_normal((50, 4))
        flow = initial_flow(4, np.random.default_rng(1), "float64")
        assert np.abs(log_flow(z, flow) - log_standard_normal(z)).max() < 0.5
        flow[0] *= 0
        np.testing.assert_allclose(log_flow(z, flow), log_standard_normal(z), rtol=1e-14)

    @pytest.mark.parametrize("seed", range(6))
    def test_is_a_density_whatever_its_parameters(self, seed):
        flow = wild_flow(1, seed)
        assert mass(lambda z: log_flow(z, flow)) == pytest.approx(1.0, abs=1e-4)

    def test_the_released_parameterisation_is_none_once_a_step_folds(self):
        u, w, b = np.array([[-3.0]]), np.array([[1.0]]), np.array([[0.0]])
        assert mass(lambda z: release_log_flow(z, u, w, b)) > 1.5

    def test_equals_the_released_formula_where_that_is_invertible(self):
        z = np.random.default_rng(0).standard_normal((20, 3))
        a, c, b = wild_flow(3)
        s = np.logaddexp(0.0, a + np.log(np.e - 1.0)) - 1.0
        u, w = s / np.exp(c), np.exp(c)
        np.testing.assert_allclose(log_flow(z, [a, c, b]), release_log_flow(z, u, w, b), rtol=1e-6, atol=1e-5)

    def test_against_torch_with_the_slope_by_its_own_differentiation(self):
        z = np.random.default_rng(0).standard_normal((6, 2))
        a, c, b = (torch.tensor(p) for p in wild_flow(2, 3))
        x = torch.tensor(z, requires_grad=True)
        y = x
        for k in range(STEPS):
            w = torch.exp(c[k])
            y = y + (torch.nn.functional.softplus(a[k] + np.log(np.e - 1)) - 1) / w * torch.tanh(w * y + b[k])
        (slope,) = torch.autograd.grad(y.sum(), x)
        expected = (torch.distributions.Normal(0.0, 1.0).log_prob(y) + torch.log(slope)).sum(dim=1)
        np.testing.assert_allclose(log_flow(z, wild_flow(2, 3)), expected.detach().numpy(), rtol=1e-9)

    def test_factorises(self):
        z = np.random.default_rng(0).standard_normal((5, 3))
        flow = wild_flow(3)
        alone = sum(log_flow(z[:, d : d + 1], [p[:, d : d + 1] for p in flow]) for d in range(3))
        np.testing.assert_allclose(log_flow(z, flow), alone, rtol=1e-12)

    def test_the_spread_of_what_is_drawn(self):
        """a and c from N(0, 0.02^2), b from N(0, 1): 32 steps of 1,000 dimensions settle each width to a percent."""
        for array, width in zip(
            initial_flow(1000, np.random.default_rng(0), "float64"), (0.02, 0.02, 1.0), strict=True
        ):
            assert array.shape == (32, 1000)
            assert array.std() == pytest.approx(width, rel=0.02)
            assert abs(array.mean()) < 0.03 * width

    def test_gradients_and_dtype(self):
        z, flow = np.random.default_rng(0).standard_normal((4, 2)), wild_flow(2, steps=3)
        check_grads(log_flow, (0, 1), modes=["rev"], order=1)(z, flow)
        flow = initial_flow(2, np.random.default_rng(0))
        assert len(flow) == len(FLOW)
        gradient = grad(lambda flow: log_flow(z.astype(np.float32), flow).sum())(flow)
        assert {g.dtype for g in gradient} == {np.dtype(np.float32)}

    @pytest.mark.parametrize(("dtype", "digits"), [("float32", 1e-6), ("float64", 1e-14)])
    @pytest.mark.parametrize("a", [-5.0, -18.0, -40.0, -80.0])
    def test_steps_that_are_nearly_flat(self, a, dtype, digits):
        """At z = 0 = b the slope is u = softplus(a'), however small; elsewhere against 50 digits."""
        z = np.array([[0.0], [1e-6], [0.3], [-2.0]], dtype)
        flow = [np.full((1, 1), value, dtype) for value in (a, 0.2, 0.0)]
        ours = log_flow(z, flow)
        assert ours.dtype == dtype
        with mpmath.workdps(50):
            wanted = [float(exact_log_flow(x, *(p[0, 0] for p in flow))) for x in z[:, 0]]
        np.testing.assert_allclose(ours, wanted, atol=4 * digits * max(1, abs(a)))
        slope = a + np.log(np.e - 1)  # log softplus(x) = x - exp(x) / 2 + ...
        assert wanted[0] == pytest.approx(slope - np.exp(slope) / 2 - np.log(2 * np.pi) / 2, abs=1e-4)
        assert np.isfinite(grad(lambda flow: log_flow(z, flow).sum())(flow)).all()

    def test_refusals(self):
        flow = wild_flow(3)
        for wrong in (flow[:2], [*flow, flow[0]], []):
            with pytest.raises(InputError, match=f"has {len(wrong)} arrays; 3 are needed, a, c, b"):
                log_flow(np.zeros((4, 3)), wrong)
        for z in (np.zeros((4, 2)), np.zeros((4, 3), np.float32)):
            with pytest.raises(InputError, match="share D and dtype"):
                log_flow(z, flow)
        with pytest.raises(InputError, match="at least 1"):
            initial_flow(0, np.random.default_rng(0))


class TestTerms:
    def batch(self):
        rng = np.random.default_rng(0)
        mu, log_var, eps = rng.standard_normal((3, 8, 2))
        return mu + np.exp(log_var / 2) * eps, mu, log_var

    @pytest.mark.parametrize("log_prior", [log_laplace, lambda z: log_flow(z, wild_flow(2))])
    def test_only_the_dimension_wise_kl_changes(self, log_prior):
        z, mu, log_var = self.batch()
        normal = kl_terms(z, mu, log_var, 20, expected_log_qz_mss)
        other = kl_terms(z, mu, log_var, 20, expected_log_qz_mss, log_prior)
        assert other[:2] == normal[:2]
        moved = np.mean(log_standard_normal(z) - log_prior(z))
        assert other.dimension_wise_kl - normal.dimension_wise_kl == pytest.approx(moved, rel=1e-10)

    def test_kl_is_estimated_and_the_sum_of_the_three(self):
        z, mu, log_var = self.batch()
        terms = elbo_terms(np.zeros(8), z, mu, log_var, 20, expected_log_qz_mss, log_laplace)
        own = stats.norm.logpdf(z, mu, np.exp(log_var / 2)).sum(axis=1)
        assert terms.kl == pytest.approx(np.mean(own - stats.laplace.logpdf(z).sum(axis=1)), rel=1e-12)
        assert terms.kl == pytest.approx(sum(terms[2:]), rel=1e-12)

    def test_the_exact_decomposition(self):
        _, mu, log_var = self.batch()
        rng = np.random.default_rng(1)
        index, eps = rng.integers(8, size=40), rng.standard_normal((40, 2))
        normal, laplace = (
            decomposition_exact(mu, log_var, index, eps, log_prior=prior)
            for prior in (log_standard_normal, log_laplace)
        )
        assert laplace[:2] == normal[:2]
        assert normal.kl_analytic is not None
        assert laplace.kl_analytic is None
        z = mu[index] + np.exp(log_var[index] / 2) * eps
        moved = laplace.dimension_wise_kl.value - normal.dimension_wise_kl.value
        assert moved == pytest.approx(np.mean(log_standard_normal(z) - log_laplace(z)), rel=1e-10)


class TestRuns:
    @pytest.mark.parametrize("prior", ["normal", "laplace", "flow"])
    def test_gradient_of_every_parameter_by_finite_differences(self, prior):
        settings = dataclasses.replace(TINY, prior=prior, encoder=(4,), decoder=(4,), estimator="mss")
        rng = np.random.default_rng(2)
        parameters = [p.astype(np.float64) + 0.1 for p in initial_state(settings, 16).parameters]
        x, eps = rng.random((6, 16)), rng.standard_normal((6, 3))
        check_grads(lambda p: loss_and_record(settings, p, [], [], x, eps, 72, 0)[0], modes=["rev"], order=1)(
            parameters
        )

    def test_the_flow_is_learned_and_the_networks_begin_as_without(self, data):
        settings = dataclasses.replace(TINY, prior="flow")
        first, plain = initial_state(settings, 4096), initial_state(TINY, 4096)
        for ours, theirs in zip(first.parameters, plain.parameters, strict=False):
            np.testing.assert_array_equal(ours, theirs)
        before = [p.copy() for p in first.parameters[-3:]]
        state = train(settings, data, first, lambda s: None, lambda *seen: None, lambda: False)
        assert all((new != old).all() for new, old in zip(state.parameters[-3:], before, strict=True))

    def test_a_trained_model_has_its_prior(self, data):
        settings = dataclasses.replace(TINY, prior="flow", objective="vae")
        state = initial_state(settings, 4096)
        model = trained_model(settings, state.parameters, state.statistics)
        z = np.random.default_rng(0).standard_normal((5, 3))
        np.testing.assert_allclose(model.log_prior(z), log_flow(z, [p.astype(float) for p in state.parameters[-3:]]))
        x, eps = data.images.take(slice(0, 16)), np.zeros((16, 3), np.float32)
        mu, _ = model.encode(x)
        np.testing.assert_array_equal(
            mu, loss_and_record(settings, state.parameters, [], [], x, eps, 72, 0)[1].z
        )  # without noise a code is its mean
        plain = trained_model(PRESETS["hearts"], initial_state(PRESETS["hearts"], 64).parameters, [])
        assert plain.log_prior is log_standard_normal


@pytest.mark.parametrize(
    ("dtype", "c"), [("float64", 701.0), ("float64", -745.0), ("float32", 86.0), ("float32", -90.0)]
)
def test_a_flow_whose_steps_overflow_is_refused(dtype, c):
    a = np.zeros((1, 2), dtype)
    with pytest.raises(InputError, match=rf"log_flow: \|c\| reaches {abs(c):g}; in {dtype} it must be at most"):
        log_flow(a, [a, a + c, a])


@pytest.mark.parametrize(("dtype", "c"), [("float64", 700.0), ("float64", -700.0), ("float32", 85.0)])
def test_a_flow_may_reach_the_largest_step(dtype, c):
    a = np.zeros((1, 2), dtype)
    assert np.all(np.isfinite(log_flow(a, [a, a + np.dtype(dtype).type(c), a])))
