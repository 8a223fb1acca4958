"""The oracle's truth: against the other enclosures, the naive twin and differences of itself; whichever arithmetic."""

import itertools
import threading
from fractions import Fraction

import naive
import numpy as np
import problems
import pytest
import truth as other
from hypothesis import given, settings

from tcvae_ref.checks import InputError
from tcvae_ref.oracle import balls, cases
from tcvae_ref.oracle import truth as module
from tcvae_ref.oracle.estimators import OWN
from tcvae_ref.oracle.subject import WIDTHS
from tcvae_ref.oracle.truth import truth
from tcvae_ref.oracle.types import ESTIMATORS, PARAMETERISATIONS, Case


def case(rng, M=5, D=3, N=50, parameterisation="log_var"):
    z, mu, log_var = rng.standard_normal((3, M, D))
    return Case(z, mu, WIDTHS[parameterisation](log_var), N, 0.5, 4.0, 2.0, parameterisation)


def size(case, estimator):
    return case._replace(dataset_size=len(case.z)) if estimator == "exact" else case


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_agrees_with_enclosures_written_apart(estimator):
    rng = np.random.default_rng(3)
    for _ in range(50):
        z, mu, log_var, N = problems.case(rng, estimator.replace("-", "_"))
        ours = truth(Case(z, mu, log_var, N), estimator)
        theirs = other.truth(estimator.replace("-", "_"), z, mu, log_var, N)
        for name, rounded in (("log_qz", theirs.joint), ("log_qz_marginals", theirs.marginals)):
            assert (ours.values[name].distance(rounded) <= np.spacing(np.abs(rounded))).all()
        for name, gradient in theirs.gradients.items():
            both = ours.gradients["log_qz"][name].middle + ours.gradients["log_qz_marginals"][name].middle
            assert np.max(np.abs(both - gradient)) <= 4e-16 * np.max(theirs.gradient_scales[name])


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_terms_agree_with_the_naive_twin(estimator):
    one = size(case(np.random.default_rng(0)), estimator)
    values = truth(one, estimator).values
    expected = naive.kl_terms(
        estimator.replace("-", "_"), one.z.tolist(), one.mu.tolist(), one.spread.tolist(), one.dataset_size
    )
    for name, term in zip(("mi", "tc", "dwkl"), expected, strict=True):
        assert values[name].distance(term) < 1e-12
    mi, tc, dwkl = expected
    assert values["penalty"].distance(0.5 * mi + 4.0 * tc + 2.0 * dwkl) < 1e-12
    kl = sum(naive.kl_to_standard_normal(one.mu.tolist(), one.spread.tolist())) / len(one.z)
    assert values["kl_penalty"].distance(kl + 3.0 * tc) < 1e-12


@pytest.mark.parametrize("parameterisation", PARAMETERISATIONS)
@pytest.mark.parametrize("quantity", ["log_qz", "log_qz_marginals", "mi", "tc", "dwkl", "penalty", "kl_penalty"])
def test_gradients_are_the_slopes_of_the_values(quantity, parameterisation):
    """Central differences of the enclosures themselves; their last 106 bits leave the error of h^2."""
    one, h = case(np.random.default_rng(1), parameterisation=parameterisation), 2.0**-22
    exact = truth(one, "mss").gradients[quantity]

    def mean(moved):
        value = truth(moved, "mss").values[quantity]
        return np.array([value.middle.sum(), value.rest.sum()]) / (len(one.z) if value.middle.ndim else 1)

    for field, argument in (("z", "z"), ("mu", "mu"), ("spread", parameterisation)):
        for index in [(0, 0), (2, 1), (4, 2)]:
            up, down = (getattr(one, field).copy() for _ in range(2))
            up[index] += h
            down[index] -= h
            difference = mean(one._replace(**{field: up})) - mean(one._replace(**{field: down}))
            slope = difference.sum() / (up[index] - down[index])
            assert slope == pytest.approx(exact[argument].middle[index], rel=1e-7, abs=1e-9)


def test_weights_are_the_rational_numbers_of_the_table():
    M, N = 4, 9
    for i, j in itertools.product(range(M), repeat=2):
        assert OWN["mws"].weights(M, N)[i][j] == Fraction(1, 36)
        assert OWN["minibatch"].weights(M, N)[i][j] == Fraction(1, 4)
    for estimator in ("mss", "symmetric-mss"):
        for i in range(M):
            assert sum(OWN[estimator].weights(M, N)[i][j] for j in range(M)) == 1
            assert OWN[estimator].weights(M, N)[i][i] == Fraction(1, 9)
    assert OWN["mss"].weights(M, N)[3][0] == Fraction(N - 3, N * 3)


@settings(max_examples=60)
@given(cases.cases("mss"))
def test_enclosures_are_narrow_whatever_the_case(one):
    result = truth(one, "mss")
    for name, enclosure in result.values.items():
        assert (enclosure.lower <= enclosure.middle).all(), name
        assert (enclosure.middle <= enclosure.upper).all(), name
        assert (enclosure.radius <= 2.0**-50 * np.maximum(np.abs(enclosure.middle), 1.0)).all(), name


@pytest.mark.parametrize("scale", [1e2, 1e8, 1e40])
def test_precision_grows_where_posteriors_are_far_apart(scale):
    one = case(np.random.default_rng(2), M=3, D=2)
    far = one._replace(mu=scale * one.mu)
    values = truth(far, "mws").values
    S = -0.5 * ((far.z[:, None] - far.mu) ** 2 * np.exp(-far.spread) + far.spread + np.log(2 * np.pi)).sum(axis=2)
    assert values["log_qz"].middle == pytest.approx(np.logaddexp.reduce(S - np.log(3 * 50), axis=1), rel=1e-12)


def test_the_penalty_is_enclosed_whatever_its_weights():
    """beta - alpha is no float here, and must not be rounded to one."""
    one = case(np.random.default_rng(8), M=3, D=2)._replace(alpha=0.7, beta=0.1, gamma=0.3)
    with balls.arithmetic(300) as exact:
        terms = [Fraction(0)] * 3
        for k, name in enumerate(("mi", "tc", "dwkl")):
            enclosure = truth(one, "mss").values[name]
            terms[k] = Fraction(float(enclosure.middle)) + Fraction(float(enclosure.rest))
        weights = [Fraction(one.alpha), Fraction(one.beta), Fraction(one.gamma)]
        expected = balls.rational(exact, sum(w * t for w, t in zip(weights, terms, strict=True)))
        middle, rest, _ = exact.split(expected)
    penalty = truth(one, "mss").values["penalty"]
    assert abs((penalty.middle - middle) + (penalty.rest - rest)) <= penalty.radius + 1e-30


def test_intervals_of_mpmath_say_the_same(monkeypatch):
    one = case(np.random.default_rng(4), M=3, D=2)
    by_arb = truth(one, "mss")
    monkeypatch.setitem(__import__("sys").modules, "flint", None)
    module._cached.cache_clear()
    by_intervals = truth(one, "mss")
    module._cached.cache_clear()
    assert by_intervals is not by_arb
    for name, enclosure in by_arb.values.items():
        assert (enclosure.distance(by_intervals.values[name].middle) <= np.spacing(np.abs(enclosure.middle))).all()
    for name, slopes in by_arb.gradients.items():
        for argument, enclosure in slopes.items():
            got = by_intervals.gradients[name][argument]
            assert (np.abs(enclosure.middle - got.middle) <= 2 * np.spacing(np.abs(enclosure.middle)) + 1e-300).all()


def test_without_either_the_extra_is_named(monkeypatch):
    for name in ("flint", "mpmath"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    with pytest.raises(InputError, match=r"tcvae-ref\[oracle\]"), balls.arithmetic(64):
        pass


def test_threads_do_not_disturb_each_other():
    """The precision is global in the library underneath."""
    rng = np.random.default_rng(5)
    batches = [case(rng, M=4, D=2) for _ in range(40)]
    alone = [truth(one, "mws") for one in batches]
    module._cached.cache_clear()
    together = [None] * len(batches)

    def work(start):
        for k in range(start, len(batches), 4):
            together[k] = truth(batches[k], "mws")

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for a, b in zip(alone, together, strict=True):
        assert a.values["tc"] == b.values["tc"]


def test_refusals():
    one = case(np.random.default_rng(6))
    with pytest.raises(InputError, match="did you mean 'mss'"):
        truth(one, "msss")
    with pytest.raises(InputError, match="exceeds dataset_size"):
        truth(one._replace(dataset_size=3), "mss")
    with pytest.raises(InputError, match="posteriors are given"):
        truth(one, "exact")
