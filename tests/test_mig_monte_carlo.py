"""The paper's recipe of MIG: against quadrature and closed forms, its standard errors against the spread of seeds."""

import math
import statistics
import tracemalloc

import naive
import numpy as np
import pytest
from tcvae_kernels import mixture

from tcvae_ref.checks import InputError
from tcvae_ref.metrics import monte_carlo as module
from tcvae_ref.metrics.mig import mig_quadrature
from tcvae_ref.metrics.monte_carlo import log_density, mig_monte_carlo

GAUSSIAN = 0.5 * math.log(2 * math.pi * math.e)  # entropy of N(0, 1)


def problem(seed=0, N=60, D=3, K=2):
    """Posteriors that tell something about uneven factors, some inputs with weight 0."""
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, 3, (N, K)) * 5 - 2
    classes[:3] = np.array([[-2], [3], [8]])
    mu = rng.standard_normal((N, D))
    mu[:, :K] += 0.4 * classes
    weights = rng.uniform(0.2, 3.0, N)
    weights[5:9] = 0.0
    return mu, rng.uniform(-3.0, 0.5, (N, D)), classes, weights


class TestLogDensity:
    @pytest.mark.parametrize("compute", [log_density, mixture.log_density])
    def test_against_loops(self, compute):
        rng = np.random.default_rng(1)
        mu, log_var, weights = rng.standard_normal(7), rng.uniform(-4, 1, 7), rng.uniform(0.1, 1, 7)
        points = np.array([-2.0, 0.0, 0.3, 5.0])
        expected = [
            math.log(
                math.fsum(
                    w * math.exp(naive.log_density(x, m, v)) for w, m, v in zip(weights, mu, log_var, strict=True)
                )
            )
            for x in points
        ]
        np.testing.assert_allclose(compute(points, mu, log_var, np.log(weights)), expected, rtol=1e-11)

    def test_far_away(self):
        """1e3 sigma from every component, where each density underflows."""
        found = log_density(np.array([1e3]), np.zeros(2), np.zeros(2), np.log([0.5, 0.5]))
        assert found[0] == pytest.approx(-0.5e6 - 0.5 * math.log(2 * math.pi), rel=1e-14)

    def test_blocks_do_not_matter(self, monkeypatch):
        mu, log_var, _, weights = problem()
        arguments = (np.linspace(-3, 3, 50), mu[:, 0], log_var[:, 0], np.log(weights + 1))
        whole = log_density(*arguments)
        monkeypatch.setattr(module, "_BLOCK", 7 * len(mu))
        np.testing.assert_array_equal(log_density(*arguments), whole)


class TestAgainstTheTruth:
    @pytest.mark.parametrize("weighted", [False, True])
    def test_quadrature_lies_within_the_standard_errors(self, weighted):
        mu, log_var, classes, weights = problem()
        weights = weights if weighted else None
        truth = mig_quadrature(mu, log_var, classes, weights=weights)
        found = mig_monte_carlo(mu, log_var, classes, weights=weights, rng=1, samples=20_000, batches=50)
        clear = truth.information > 5 * found.error.information  # where max(0, .) does nothing
        assert clear.sum() >= 4
        for name, chosen in (("entropies", slice(None)), ("information", clear), ("gaps", slice(None))):
            distance = (getattr(found, name) - getattr(truth, name))[chosen]
            assert np.all(np.abs(distance) < 4 * getattr(found.error, name)[chosen]), name
        assert abs(found.score - truth.score) < 4 * found.error.score
        assert found.error.score < 0.02
        np.testing.assert_allclose(found.factor_entropies, truth.factor_entropies, rtol=1e-14)
        assert found.recipe == "Monte Carlo"

    def test_compiled_and_numpy_score_the_same_draws(self):
        mu, log_var, classes, weights = problem()
        options = {"weights": weights, "rng": 3, "samples": 500}
        numpy = mig_monte_carlo(mu, log_var, classes, **options)
        kernels = mig_monte_carlo(mu, log_var, classes, **options, log_density=mixture.log_density)
        np.testing.assert_allclose(kernels.information, numpy.information, atol=1e-11)
        np.testing.assert_allclose(kernels.error.gaps, numpy.error.gaps, atol=1e-11)

    def test_a_code_per_factor(self):
        classes = np.indices((4, 6)).reshape(2, -1).T
        found = mig_monte_carlo(100.0 * classes, np.zeros((24, 2)), classes, rng=0, samples=4000)
        expected = GAUSSIAN + np.log([4, 6])
        assert np.all(np.abs(found.entropies - expected) < 5 * found.error.entropies)
        # a mean of S terms 1/2 eps^2 + constant: the standard error is sqrt(1 / 2S)
        np.testing.assert_allclose(found.error.entropies, math.sqrt(0.5 / 4000), rtol=0.7)
        assert np.all(np.abs(np.diag(found.information) - np.log([4, 6])) < 5 * np.diag(found.error.information))
        assert abs(found.score - 1) < 5 * found.error.score

    def test_collapsed_codes(self):
        """The information is 0, and the estimate is at least 0 and within its error of it."""
        classes = np.indices((3, 3)).reshape(2, -1).T
        found = mig_monte_carlo(np.zeros((9, 4)), np.zeros((9, 4)), classes, rng=0, samples=1000)
        assert np.all(found.information >= 0)
        assert (found.information == 0).any()
        assert np.all(found.information < 5 * found.error.information)

    def test_every_code_identifies_the_input_as_sigma_goes_to_zero(self):
        classes = np.indices((3, 4)).reshape(2, -1).T
        mu = np.stack([np.arange(12.0), np.arange(12.0)[::-1]], axis=1)
        found = mig_monte_carlo(mu, np.full((12, 2), 2 * math.log(1e-3)), classes, rng=0, samples=4000)
        assert np.all(np.abs(found.information - np.log([3, 4])) < 5 * found.error.information)
        assert found.score < 5 * found.error.score


class TestStandardErrors:
    def test_are_the_spread_over_seeds(self):
        mu, log_var, classes, weights = problem()
        found = [mig_monte_carlo(mu, log_var, classes, weights=weights, rng=s, samples=200) for s in range(100)]
        clear = np.mean([f.information for f in found], axis=0) > 0.1
        for name, chosen in (("entropies", slice(None)), ("information", clear), ("gaps", slice(None))):
            spread = np.std([getattr(f, name)[chosen] for f in found], axis=0, ddof=1)
            said = np.sqrt(np.mean([getattr(f.error, name)[chosen] ** 2 for f in found], axis=0))
            assert np.all((spread / said > 0.75) & (spread / said < 1.3)), (name, spread / said)
        spread, said = np.std([f.score for f in found], ddof=1), np.mean([f.error.score for f in found])
        assert 0.75 < spread / said < 1.3

    def test_cover_the_bias_of_level_latents(self):
        """Two equal codes: the gap is 0, every estimate is above 0, by no more than the error says on the whole."""
        mu, log_var, classes, _ = problem()
        mu, log_var = mu[:, [0, 0]], log_var[:, [0, 0]]
        found = [mig_monte_carlo(mu, log_var, classes, rng=s, samples=200) for s in range(100)]
        off = np.sqrt(np.mean([f.gaps**2 for f in found], axis=0))
        said = np.sqrt(np.mean([f.error.gaps**2 for f in found], axis=0))
        assert np.all((off / said > 0.75) & (off / said < 1.3)), off / said

    def test_shrink_with_the_samples_not_with_the_batches(self):
        mu, log_var, classes, _ = problem()

        def errors(samples, batches):
            return mig_monte_carlo(mu, log_var, classes, rng=0, samples=samples, batches=batches).error.entropies

        few, many = errors(400, 20), errors(6400, 20)
        np.testing.assert_allclose((few**2).mean() / (many**2).mean(), 16, rtol=0.5)
        np.testing.assert_allclose((errors(6400, 200) ** 2).mean(), (many**2).mean(), rtol=0.5)

    def test_from_the_batches_by_hand(self):
        """Every number from what the door returned: B estimates of each entropy, in the order d, (all, k, v)."""
        mu, log_var, classes, weights = problem(D=4)
        B, means = 5, []

        def spy(*arguments):
            values = log_density(*arguments)
            means.append(-math.fsum(values) / len(values))
            return values

        found = mig_monte_carlo(mu, log_var, classes, weights=weights, rng=2, samples=100, batches=B, log_density=spy)
        total = weights.sum()
        shares = [[weights[classes[:, k] == v].sum() / total for v in (-2, 3, 8)] for k in range(2)]
        H = [-math.fsum(s * math.log(s) for s in row) for row in shares]
        by_batch = np.empty((4, 2, B))
        for d in range(4):
            of_d = np.array(means[7 * B * d : 7 * B * (d + 1)]).reshape(7, B)
            assert found.entropies[d] == pytest.approx(of_d[0].mean(), rel=1e-13)
            assert found.error.entropies[d] == pytest.approx(statistics.stdev(of_d[0]) / B**0.5, rel=1e-12)
            for k in range(2):
                by_batch[d, k] = of_d[0] - sum(s * h for s, h in zip(shares[k], of_d[1 + 3 * k :], strict=False))
        information = by_batch.mean(axis=2).clip(0)
        gap = np.empty((2, B))
        for k in range(2):
            first, second = sorted(range(4), key=lambda d, k=k: -information[d, k])[:2]
            gap[k] = (by_batch[first, k] - by_batch[second, k]) / H[k]
            assert found.gaps[k] == pytest.approx((information[first, k] - information[second, k]) / H[k], rel=1e-10)
            assert found.error.gaps[k] == pytest.approx(statistics.stdev(gap[k]) / B**0.5, rel=1e-10)
            for d in range(4):
                assert found.information[d, k] == pytest.approx(information[d, k], rel=1e-10)
                error = statistics.stdev(by_batch[d, k]) / B**0.5
                assert found.error.information[d, k] == pytest.approx(error, rel=1e-10)
        assert found.score == pytest.approx(found.gaps.mean(), rel=1e-14)
        assert found.error.score == pytest.approx(statistics.stdev(gap.mean(axis=0)) / B**0.5, rel=1e-10)


class TestDrawsAndComponents:
    def test_slices_are_scored_against_their_own_components(self):
        """Sizes of the mixtures, how often each is called, and their weights p(n | v): S N D (1 + K) densities."""
        mu, log_var, classes, weights = problem()
        calls, weight_of = [], dict(zip(mu.ravel().tolist(), np.repeat(weights, 3).tolist(), strict=True))

        def spy(points, m, v, log_weights):
            calls.append((len(points), len(m)))
            own = np.array([weight_of[x] for x in m.tolist()])
            np.testing.assert_allclose(log_weights, np.log(own / own.sum()), atol=1e-12)
            return log_density(points, m, v, log_weights)

        mig_monte_carlo(mu, log_var, classes, weights=weights, rng=0, samples=103, batches=4, log_density=spy)
        positive = classes[weights > 0]
        sizes = [len(positive), *(n for column in positive.T for n in np.unique(column, return_counts=True)[1])]
        expected = [(points, n) for n in sizes * 3 for points in (26, 26, 26, 25)]
        assert calls == expected
        assert sum(points * n for points, n in calls) == 103 * len(positive) * 3 * (1 + 2)

    def test_inputs_without_weight_are_not_there(self):
        mu, log_var, classes, weights = problem()
        there = weights > 0
        one = mig_monte_carlo(mu, log_var, classes, weights=weights, rng=0, samples=50)
        same = mig_monte_carlo(mu[there], log_var[there], classes[there], weights=9 * weights[there], rng=0, samples=50)
        np.testing.assert_allclose(one.information, same.information, atol=1e-12)

    def test_seeds_and_generators(self):
        mu, log_var, classes, _ = problem()
        one, same, generator, other = (
            mig_monte_carlo(mu, log_var, classes, rng=rng, samples=50).entropies
            for rng in (4, 4, np.random.default_rng(4), 5)
        )
        np.testing.assert_array_equal(one, same)
        np.testing.assert_array_equal(one, generator)
        assert np.all(one != other)

    def test_float32_posteriors(self):
        mu, log_var, classes, _ = (a.astype(np.float32) if a.dtype == float else a for a in problem())
        one = mig_monte_carlo(mu, log_var, classes, rng=0, samples=50)
        two = mig_monte_carlo(mu.astype(float), log_var.astype(float), classes, rng=0, samples=50)
        np.testing.assert_array_equal(one.information, two.information)

    def test_progress_ends_at_the_total(self):
        mu, log_var, classes, weights = problem()
        seen = []
        mig_monte_carlo(*(mu, log_var, classes), weights=weights, rng=0, samples=20, progress=lambda *a: seen.append(a))
        done, totals = zip(*seen, strict=True)
        assert list(done) == sorted(set(done))
        assert set(totals) == {done[-1]} == {56 * 3 * 3}

    def test_memory_is_bounded(self):
        """Samples times components would be 800 MB a matrix."""
        rng = np.random.default_rng(0)
        mu, log_var = rng.standard_normal((2, 10_000, 2))
        classes = np.arange(10_000)[:, None] % 2
        tracemalloc.start()
        mig_monte_carlo(
            *(mu, log_var, classes), rng=0, samples=10_000, log_density=lambda x, m, *_: log_density(x[:30], m, *_)
        )
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 60e6

    @pytest.mark.parametrize(
        ("change", "match"),
        [
            ({"batches": 1}, "mig_monte_carlo: batches=1 is too small"),
            ({"samples": 9}, "samples=9 is too small; it must be at least 10"),
            ({"samples": 100.0}, "samples=100.0 is a float"),
            ({"rng": -1}, "rng=-1 is too small"),
            ({"rng": None}, "rng is a NoneType"),
            ({"weights": -np.ones(60)}, "weights"),
            ({"weights": np.ones(59)}, "weights"),
            ({"classes": np.zeros((60, 1), int)}, "single value"),
            ({"mu": np.zeros((60, 1)), "log_var": np.zeros((60, 1))}, "a gap needs two"),
            ({"log_var": np.full((60, 3), 2000.0)}, "log_var reaches 2000"),
            ({"mu": np.full((60, 3), np.nan)}, "nan"),
        ],
    )
    def test_refusals(self, change, match):
        mu, log_var, classes, _ = problem()
        arguments = {"mu": mu, "log_var": log_var, "classes": classes, "rng": 0, "samples": 20, **change}
        with pytest.raises(InputError, match=match):
            mig_monte_carlo(**arguments)
