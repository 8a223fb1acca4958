"""The rest of the reference, against loops and identities."""

import math

import naive
import numpy as np
import pytest
import tcvae_kernels
from autograd import grad
from autograd import numpy as anp
from autograd.test_util import check_grads
from hypothesis import given
from problems import batches, expected_log_qz
from scipy import stats
from scipy.special import expit

import tcvae_ref
from tcvae_ref import (
    ElboTerms,
    InputError,
    bernoulli_log_likelihood,
    beta_tcvae,
    beta_vae,
    elbo_terms,
    gaussian_log_likelihood,
    kl_terms,
    kl_to_standard_normal,
    log_density,
    log_density_matrix,
    log_standard_normal,
    reparameterise,
    vae,
)
from tcvae_ref.likelihood import log_bernoulli
from tcvae_ref.networks import decode, encode, initial_layers, layer_sizes, relu


@given(batches(least=1))
def test_densities_against_scipy(case):
    z, mu, log_var, _ = case
    sigma = np.exp(0.5 * log_var)
    np.testing.assert_allclose(log_density(z, mu, log_var), stats.norm.logpdf(z, mu, sigma), rtol=1e-11, atol=1e-11)
    pairs = stats.norm.logpdf(z[:, None], mu[None], sigma[None])
    np.testing.assert_allclose(log_density_matrix(z, mu, log_var), pairs, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(log_standard_normal(z), stats.norm.logpdf(z).sum(axis=1), rtol=1e-12)


def test_axis_order_of_pairs_is_sample_posterior_dimension():
    z, mu = np.zeros((2, 4)), np.zeros((3, 4))
    mu[1, 2] = 5.0
    matrix = log_density_matrix(z, mu, np.zeros((3, 4)))
    assert matrix.shape == (2, 3, 4)
    np.testing.assert_allclose(np.argwhere(matrix < -2), [[0, 1, 2], [1, 1, 2]])


@given(batches(least=1))
def test_closed_form_kl(case):
    _, mu, log_var, _ = case
    expected = naive.kl_to_standard_normal(mu.tolist(), log_var.tolist())
    np.testing.assert_allclose(kl_to_standard_normal(mu, log_var), expected, rtol=1e-9, atol=1e-12)
    assert np.all(kl_to_standard_normal(mu, log_var) >= 0)
    np.testing.assert_array_equal(kl_to_standard_normal(0 * mu, 0 * mu), 0.0)


def test_closed_form_kl_near_zero_keeps_its_digits():
    """1/2 (e^v - 1 - v) ~ v^2/4 for small v: exp(v) - 1 would lose what is left."""
    v = np.array([[1e-7]])
    np.testing.assert_allclose(kl_to_standard_normal(0 * v, v), v[0] ** 2 / 4 * (1 + v[0] / 3), rtol=1e-6)


def test_monte_carlo_kl_agrees_with_closed_form():
    rng = np.random.default_rng(0)
    mu, log_var = np.tile(rng.standard_normal((1, 3)), (200_000, 1)), np.full((200_000, 3), -1.0)
    z = reparameterise(mu, log_var, rng.standard_normal(mu.shape))
    sampled = np.sum(log_density(z, mu, log_var), axis=1) - log_standard_normal(z)
    spread = sampled.std() / math.sqrt(len(sampled))
    assert abs(sampled.mean() - kl_to_standard_normal(mu[:1], log_var[:1])[0]) < 5 * spread


@given(batches())
def test_terms_telescope_for_any_estimator_and_so_prove_nothing(case):
    z, mu, log_var, N = case
    own = np.mean(np.sum(log_density(z, mu, log_var), axis=1) - log_standard_normal(z))
    for estimator in ("mws", "mss", "symmetric_mss", "minibatch"):
        terms = kl_terms(z, mu, log_var, N, expected_log_qz(estimator))
        np.testing.assert_allclose(sum(terms), own, rtol=1e-11, atol=1e-9)
        np.testing.assert_allclose(
            terms, naive.kl_terms(estimator, z.tolist(), mu.tolist(), log_var.tolist(), N), rtol=1e-9, atol=1e-9
        )
    nonsense = kl_terms(z, mu, log_var, N, lambda *_: (123.0, -456.0))
    np.testing.assert_allclose(sum(nonsense), own, rtol=1e-9, atol=1e-9)


class TestLikelihood:
    def test_bernoulli_against_the_definition(self):
        rng = np.random.default_rng(1)
        x, logits = rng.integers(0, 2, (5, 7)).astype(float), rng.standard_normal((5, 7)) * 5
        expected = naive.bernoulli_log_likelihood(x.tolist(), logits.tolist())
        np.testing.assert_allclose(bernoulli_log_likelihood(x, logits), expected, rtol=1e-12)

    def test_bernoulli_keeps_its_digits_at_extreme_logits(self):
        x, logits = np.array([[1.0, 0.0, 1.0, 0.0]]), np.array([[40.0, -40.0, -1000.0, 1000.0]])
        np.testing.assert_allclose(bernoulli_log_likelihood(x[:, :2], logits[:, :2]), -2 * math.exp(-40), rtol=1e-12)
        np.testing.assert_allclose(bernoulli_log_likelihood(x[:, 2:], logits[:, 2:]), -2000.0)

    def test_derivatives_everywhere(self):
        logits = np.array([0.0, -0.0, 1e-300, -3.0, 3.0, 50.0, -50.0, 800.0, -800.0])
        for x in (0.0, 1.0, 0.25):
            slope = grad(lambda a, x=x: anp.sum(log_bernoulli(x, a)))(logits)
            np.testing.assert_allclose(slope, x - expit(logits), rtol=1e-14, atol=1e-300)
        check_grads(log_bernoulli, (0, 1), modes=["rev"], order=2)(np.linspace(0, 1, 7), np.linspace(-3, 3, 7) + 0.1)
        far = np.array([-700.0, -40.0, 40.0, 700.0])
        curvature = grad(lambda a: anp.sum(grad(lambda b: anp.sum(log_bernoulli(0.5, b)))(a)))(far)
        np.testing.assert_allclose(curvature, -np.exp(-np.abs(far)), rtol=1e-14)

    def test_bernoulli_refuses_pixels_outside_the_unit_interval(self):
        with pytest.raises(InputError, match=r"x lies in \[0, 255\]"):
            bernoulli_log_likelihood(np.array([[0.0, 255.0]]), np.zeros((1, 2)))
        with pytest.raises(InputError, match="nan"):
            bernoulli_log_likelihood(np.array([[np.nan, 0.0]]), np.zeros((1, 2)))

    def test_gaussian_against_scipy(self):
        rng = np.random.default_rng(2)
        x, mean, log_var = (rng.standard_normal((3, 4)) for _ in range(3))
        expected = stats.norm.logpdf(x, mean, np.exp(0.5 * log_var)).sum(axis=1)
        np.testing.assert_allclose(gaussian_log_likelihood(x, mean, log_var), expected, rtol=1e-12)


class TestObjectives:
    TERMS = ElboTerms(
        reconstruction=-50.0, kl=8.0, mutual_information=5.0, total_correlation=2.0, dimension_wise_kl=1.5
    )

    def test_formulas(self):
        assert vae(self.TERMS) == -58.0
        assert beta_vae(self.TERMS, 4.0) == -82.0
        assert beta_tcvae(self.TERMS, 6.0) == -50.0 - 5.0 - 12.0 - 1.5
        assert beta_tcvae(self.TERMS, 6.0, alpha=0.5, gamma=2.0) == -50.0 - 2.5 - 12.0 - 3.0

    @given(batches())
    def test_weights_of_one_give_the_elbo_with_the_monte_carlo_kl(self, case):
        z, mu, log_var, N = case
        log_px = -np.arange(len(z), dtype=float)
        terms = elbo_terms(log_px, z, mu, log_var, N, expected_log_qz("mss"))
        kl = np.mean(np.sum(log_density(z, mu, log_var), axis=1) - log_standard_normal(z))
        np.testing.assert_allclose(beta_tcvae(terms, 1.0), log_px.mean() - kl, rtol=1e-10, atol=1e-8)
        np.testing.assert_allclose(vae(terms), log_px.mean() - kl_to_standard_normal(mu, log_var).mean(), rtol=1e-10)
        elbo = beta_tcvae(terms, 1.0)
        np.testing.assert_allclose(beta_tcvae(terms, 6.0), elbo - 5.0 * terms.total_correlation, rtol=1e-10, atol=1e-8)

    @pytest.mark.parametrize("estimator", [tcvae_ref.log_qz_mss, tcvae_ref.log_qz_exact])
    @pytest.mark.parametrize(("M", "D"), [(3, 3), (3, 1), (1, 4)])
    def test_an_estimator_of_single_samples_is_refused(self, estimator, M, D):
        z = np.zeros((max(M, 2), D))
        with pytest.raises(InputError, match=rf"{estimator.__name__} gives values of shapes .*expected_log_qz_mss"):
            tcvae_ref.kl_terms(z, z, z, len(z), estimator)

    def test_log_px_is_one_number_for_each_sample(self):
        z = np.zeros((4, 2))
        for log_px, match in ((np.zeros(5), "shape"), (np.zeros((4, 1)), "shape"), (np.full(4, np.nan), "nan")):
            with pytest.raises(InputError, match=match):
                elbo_terms(log_px, z, z, z, 10, expected_log_qz("mws"))

    def test_complaints_name_the_function_that_was_called(self):
        z = np.zeros((2, 3))
        for bad in (np.float64(0.0), np.zeros(3), np.zeros((4, 3)), np.full((2, 3), np.nan), 1.0):
            for k in range(3):
                three = [z, z, z]
                three[k] = bad
                with pytest.raises((InputError, TypeError), match=r"^elbo_terms: "):
                    elbo_terms(np.zeros(2), *three, 10, expected_log_qz("mws"))
        wide = z + 1500.0
        with pytest.raises(InputError, match=r"^elbo_terms: log_var reaches 1500"):
            elbo_terms(np.zeros(2), z, z, wide, 10, expected_log_qz("mws"))
        with pytest.raises(InputError, match=r"^kl_terms: log_var reaches 1500"):
            tcvae_ref.kl_terms(z, z, wide, 10, expected_log_qz("mws"))
        with pytest.raises(InputError, match=r"^gaussian_log_likelihood: log_var reaches 1500"):
            tcvae_ref.gaussian_log_likelihood(z, z, wide)

    @pytest.mark.parametrize("log_prior", [log_standard_normal, tcvae_ref.log_laplace])
    def test_prior_and_estimator_are_evaluated_once(self, log_prior):
        z, mu, log_var = np.random.default_rng(5).standard_normal((3, 4, 2))
        calls = []

        def prior(z):
            calls.append("prior")
            return log_prior(z)

        def estimator(*arguments):
            calls.append("estimator")
            return tcvae_ref.expected_log_qz_mws(*arguments)

        terms = elbo_terms(np.zeros(4), z, mu, log_var, 10, estimator, prior)
        assert calls == ["prior", "estimator"]
        kl = np.mean(np.sum(log_density(z, mu, log_var), axis=1) - log_prior(z))
        assert terms.kl == pytest.approx(kl, rel=1e-14)


class TestNetworks:
    def test_layers_and_shapes(self):
        encoder_sizes, decoder_sizes = layer_sizes(4096, (1200, 1200), (1200, 1200, 1200), 10)
        assert encoder_sizes == [4096, 1200, 1200, 20]
        assert decoder_sizes == [10, 1200, 1200, 1200, 4096]

    def test_a_pass_against_loops(self):
        rng = np.random.default_rng(3)
        encoder, decoder = initial_layers([5, 4, 6], rng, "float64"), initial_layers([3, 4, 5], rng, "float64")
        x = rng.standard_normal((2, 5))
        (W1, b1), (W2, b2) = encoder
        mu, log_var = encode(encoder, x)
        for i in range(2):
            hidden = [max(0.0, math.fsum(x[i] * W1[:, h]) + b1[h]) for h in range(4)]
            out = [math.fsum(h * W2[k, o] for k, h in enumerate(hidden)) + b2[o] for o in range(6)]
            np.testing.assert_allclose([*mu[i], *log_var[i]], out, rtol=1e-12)
        (V1, c1), (V2, c2) = decoder
        hidden = np.array([[math.tanh(math.fsum(mu[i] * V1[:, h]) + c1[h]) for h in range(4)] for i in range(2)])
        np.testing.assert_allclose(decode(decoder, mu), hidden @ V2 + c2, rtol=1e-12)

    def test_initial_layers_have_their_spread_and_repeat_with_the_seed(self):
        first, second = (initial_layers([200, 300], np.random.default_rng(0)) for _ in range(2))
        (W, b), (W2, _) = first[0], second[0]
        assert W.dtype == b.dtype == np.float32
        assert W.std() == pytest.approx(0.1, rel=0.02)
        assert not b.any()
        np.testing.assert_array_equal(W, W2)
        ((W, b),) = initial_layers([1, 1], np.random.default_rng(0))
        assert W.shape == (1, 1)
        assert b.shape == (1,)
        with pytest.raises(InputError, match="layer width=0 is too small"):
            initial_layers([3, 0], np.random.default_rng(0))

    def test_relu_keeps_float32_gradients(self):
        a = np.array([-1.0, 0.0, 2.0], dtype=np.float32)
        slope = grad(lambda a: anp.sum(relu(a)))(a)
        assert slope.dtype == np.float32
        np.testing.assert_array_equal(slope, [0, 0, 1])
        np.testing.assert_array_equal(relu(a), [0, 0, 2])
        np.testing.assert_array_equal(relu(np.array([-np.inf, np.inf])), [0, np.inf])


class TestEdges:
    """What lies at the edge of a format, or of what an array is."""

    def test_where_squares_overflow_the_result_is_infinite_without_a_warning(self):
        z, zero = np.array([[1e200, 1.0]]), np.zeros((1, 2))
        for result in (
            *(tcvae_ref.log_density(z, zero, zero)[0, :1], tcvae_ref.log_density_matrix(z, zero, zero)[0, 0, :1]),
            *(tcvae_ref.log_standard_normal(z), tcvae_ref.gaussian_log_likelihood(z, zero, zero)),
            *(-tcvae_ref.kl_to_standard_normal(z, zero), -tcvae_ref.kl_to_standard_normal(zero, zero + 800)),
            tcvae_ref.log_qz_mws(z, zero, zero, 5).joint,
        ):
            np.testing.assert_array_equal(result, [-np.inf])

    def test_a_mask_is_not_lost_in_silence(self):
        zero = np.zeros((2, 2))
        masked = np.ma.masked_array(zero, mask=[[True, False], [False, False]])
        with pytest.raises(tcvae_ref.InputError, match="log_density: mu is a masked array"):
            tcvae_ref.log_density(zero, masked, zero)

    def test_another_frameworks_tensor_is_named(self):
        class Tensor:
            shape, dtype = (2, 2), "torch.float64"

        with pytest.raises(TypeError, match=r"log_density: mu is a .*Tensor; a NumPy array is needed.*cpu\(\)"):
            tcvae_ref.log_density(np.zeros((2, 2)), Tensor(), np.zeros((2, 2)))

    def test_another_order_of_bytes_is_refused_under_autograd_too(self):
        zero = np.zeros((2, 2))
        for function in (tcvae_ref.log_qz_mws, tcvae_kernels.log_qz_mws):
            for call in (function, lambda *a, f=function: grad(lambda z: f(z, *a[1:]).joint.sum())(a[0])):
                with pytest.raises(tcvae_ref.InputError, match="z >f8, mu float64"):
                    call(zero.astype(">f8"), zero, zero, 5)

    @pytest.mark.parametrize("N", [2**63, 2**1030, 10**5000], ids=["one more", "no float", "no text"])
    def test_data_sets_larger_than_any_are_refused(self, N):
        zero = np.zeros((2, 2))
        for module in (tcvae_ref, tcvae_kernels):
            for name in ("mws", "mss", "symmetric_mss", "minibatch", "exact"):
                with pytest.raises(InputError, match=f"log_qz_{name}: dataset_size=.* is too large") as caught:
                    getattr(module, f"log_qz_{name}")(zero, zero, zero, N)
                assert len(str(caught.value)) < 140
        for name in ("mws", "mss", "symmetric_mss"):
            with pytest.raises(tcvae_ref.InputError, match="is too large; it must be at most"):
                getattr(tcvae_ref, f"log_weights_{name}")(2, N)
            with pytest.raises(tcvae_ref.InputError, match=r"M=.* is too large; it must be at most 1073741824"):
                getattr(tcvae_ref, f"log_weights_{name}")(2**62, 2**62)

    def test_the_largest_data_set(self):
        log_w = tcvae_ref.log_weights_mss(3, 2**63 - 1)
        np.testing.assert_allclose(log_w[0], [-63 * np.log(2), -np.log(2), -np.log(2)], rtol=1e-15)
