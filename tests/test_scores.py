"""Classifier metrics, DCI, SAP, scores of an information matrix and the binned MIG: closed forms and plain loops."""

import collections
import itertools
import math
import statistics
import sys
from fractions import Fraction

import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import Lasso, LogisticRegression
from sklearn.metrics import mutual_info_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier

from tcvae_ref import InputError, metrics
from tcvae_ref.metrics import draws, factor_vae, higgins
from tcvae_ref.metrics.binned import mig_binned
from tcvae_ref.metrics.dci import dci
from tcvae_ref.metrics.factor_vae import factor_vae_metric
from tcvae_ref.metrics.higgins import higgins_metric
from tcvae_ref.metrics.information import dcimig, jemmig, mig_sup, modularity, rmig
from tcvae_ref.metrics.mig import MIG, MIGErrors, gaps
from tcvae_ref.metrics.sap import sap, sap_r_squared

SMALL = {"train_votes": 600, "test_votes": 300}
FEW = {"train_points": 400, "test_points": 200}
HALF = {"train": 400, "test": 200}


def grid_classes(*sizes):
    return np.indices(sizes).reshape(len(sizes), -1).T


GRID = grid_classes(3, 4, 5)
IDENTITY = GRID / np.array([3.0, 4.0, 5.0])
TENFOLD = np.tile(GRID, (10, 1))


def noisy(seed, N=200, D=4, K=3):
    """Inputs of no grid, codes that tell something of the factors, weights of which some are 0."""
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, [2, 3, 5][:K], (N, K))
    codes = rng.standard_normal((N, D)) + classes @ rng.standard_normal((K, D))
    return codes, classes, np.where(rng.random(N) < 0.2, 0.0, rng.random(N))


def lowest_of_the_largest(values):
    return max(range(len(values)), key=lambda i: (values[i], -i))


class Recorder:
    """The draws of a metric: which inputs shared which value of which factor."""

    def __init__(self, module, monkeypatch):
        self.firsts, self.members = [], []
        real = {"draw": module.draw, "draw_with_value": module.draw_with_value}

        def draw(p, shape, rng):
            self.firsts.append(real["draw"](p, shape, rng))
            return self.firsts[-1]

        def draw_with_value(of, values, rng):
            self.members.append((of, values, real["draw_with_value"](of, values, rng)))
            return self.members[-1][2]

        monkeypatch.setattr(module, "draw", draw)
        monkeypatch.setattr(module, "draw_with_value", draw_with_value)


class TestDraws:
    def test_every_draw_has_the_value_asked_for_and_the_probability_of_its_weight(self):
        """Frequencies of 200,000 draws given a value, by a chi-square of each input's count."""
        rng = np.random.default_rng(0)
        labels, p = rng.integers(0, 4, 40), rng.random(40)
        of = draws.shelves(labels, p / p.sum())
        for v in range(4):
            drawn = draws.draw_with_value(of, np.full(200_000, v), rng)
            assert set(labels[drawn]) == {v}
            members = np.flatnonzero(labels == v)
            expected = 200_000 * p[members] / p[members].sum()
            chi2 = np.sum((np.bincount(drawn, minlength=40)[members] - expected) ** 2 / expected)
            assert chi2 < len(members) - 1 + 5 * math.sqrt(2 * len(members))

    def test_a_draw_at_the_upper_edge_stays_within_its_value(self):
        """low + (high - low) u can be high itself, the next value's first input."""

        class Last:
            def random(self, shape):
                return np.full(shape, np.nextafter(1.0, 0.0))

        labels, p = np.repeat(np.arange(50), 3), np.full(150, 1 / 150)
        of = draws.shelves(labels, p)
        values = np.arange(50)
        np.testing.assert_array_equal(labels[draws.draw_with_value(of, values, Last())], values)
        tiny = draws.shelves(np.array([0, 1]), np.array([1.0, 1e-30]))  # the second adds nothing to the sum
        np.testing.assert_array_equal(draws.draw_with_value(tiny, np.array([0, 1]), Last()), [0, 1])

    def test_training_and_test_inputs_differ(self):
        fitting, testing = draws.split("here", 30, 20, 10, np.random.default_rng(0))
        assert sorted([*fitting, *testing]) == list(range(30))
        with pytest.raises(InputError, match=r"more than the N=30.*train=20, test=10"):
            draws.split("here", 30, 21, 10, np.random.default_rng(0))

    def test_seeds(self):
        first, second = draws.generator("here", 3), draws.generator("here", np.random.default_rng(3))
        assert first.random() == second.random()
        for rng in (None, 1.0, True, "0", np.random.RandomState(0)):
            with pytest.raises(TypeError, match=r"give a numpy.random.Generator or an int"):
                draws.generator("here", rng)
        with pytest.raises(InputError, match="rng=-1"):
            draws.generator("here", -1)


class TestFactorVAE:
    def test_a_code_per_factor_scores_one(self):
        result = factor_vae_metric(IDENTITY[:, [2, 0, 1]], GRID, 0, **SMALL)
        assert (result.score, result.standard_error) == (1.0, 0.0)
        np.testing.assert_array_equal(result.majority, [2, 0, 1])
        assert result.votes.sum() == 600
        assert result.test_votes.sum() == 300
        assert np.all(result.votes.sum(axis=0) > 100)

    @pytest.mark.parametrize("rest", [0.5, 1e-9, 1e-20])
    def test_variances_where_one_input_has_nearly_all_the_weight(self, rest):
        codes, classes, _ = noisy(1, N=50)
        weights = np.where(np.arange(50) == 7, 1.0, rest)
        p = [Fraction(w) / sum(map(Fraction, weights)) for w in weights]
        mean = [sum(q * Fraction(z) for q, z in zip(p, column, strict=True)) for column in codes.T]
        expected = [
            float(sum(q * (Fraction(z) - m) ** 2 for q, z in zip(p, column, strict=True)) / (1 - sum(q * q for q in p)))
            for column, m in zip(codes.T, mean, strict=True)
        ]
        result = factor_vae_metric(codes, classes, 0, weights=weights, variance_inputs=None, **SMALL)
        np.testing.assert_allclose(result.variances, expected, rtol=1e-10)

    @pytest.mark.parametrize("dtype", ["float64", "float32"])
    def test_votes_against_loops_over_the_same_draws(self, dtype, monkeypatch):
        codes, classes, weights = noisy(1)
        codes = codes.astype(dtype)
        codes[:, 3] *= 0.001
        seen = Recorder(factor_vae, monkeypatch)
        monkeypatch.setattr(factor_vae, "_BLOCK", 500)
        result = factor_vae_metric(codes, classes, 2, weights=weights, batch=7, variance_inputs=150, **SMALL)
        kept = np.flatnonzero(weights)
        z, labels = codes[kept].tolist(), classes[kept].tolist()
        overall = [statistics.variance(z[n][d] for n in seen.firsts[0]) for d in range(4)]
        np.testing.assert_allclose(result.variances, overall, rtol=1e-6 if dtype == "float32" else 1e-12)
        np.testing.assert_array_equal(result.active, [True, True, True, False])
        votes, cast = [[[0] * 3 for _ in range(4)] for _ in range(2)], 0
        for _, _, drawn in seen.members:
            for members in drawn:
                shared = [k for k in range(3) if len({labels[n][k] for n in members}) == 1]
                ratios = [statistics.variance(z[n][d] for n in members) / overall[d] for d in range(3)]
                winner = min(range(3), key=lambda d: (ratios[d], d))
                votes[cast >= 600][winner][self.fixed(seen, drawn, shared)] += 1
                cast += 1
        np.testing.assert_array_equal(result.votes, votes[0])
        np.testing.assert_array_equal(result.test_votes, votes[1])
        majority = [lowest_of_the_largest(votes[0][d]) for d in range(4)]
        np.testing.assert_array_equal(result.majority, majority)
        score = sum(votes[1][d][majority[d]] for d in range(4)) / 300
        assert result.score == score
        assert result.standard_error == pytest.approx(math.sqrt(score * (1 - score) / 300), rel=1e-12)

    @staticmethod
    def fixed(seen, drawn, shared):
        """The factor whose shelves were drawn from: among those that all of the batch share."""
        shelves = list({id(of): None for of, _, _ in seen.members})
        k = next(shelves.index(id(of)) for of, _, members in seen.members if members is drawn)
        assert k in shared
        return k

    def test_the_fixed_value_differs_from_vote_to_vote(self, monkeypatch):
        seen = Recorder(factor_vae, monkeypatch)
        factor_vae_metric(IDENTITY, GRID, 0, **SMALL)
        of, values, drawn = seen.members[2]
        assert set(values[:, 0]) == set(range(len(of.bounds) - 1))
        assert np.all(values == values[:, :1])
        assert drawn.shape[1] == 64

    def test_factors_are_fixed_alike_and_values_by_their_probability(self, monkeypatch):
        """Factor 0 has a value of 9 inputs in 200, whose weight doubles: 18 votes in 209."""
        codes, classes, _ = noisy(8)
        classes[:, 0] = np.arange(200) < 9
        seen = Recorder(factor_vae, monkeypatch)
        result = factor_vae_metric(codes, classes, 0, weights=1.0 + classes[:, 0], train_votes=6000, test_votes=1)
        assert np.all(np.abs(result.votes.sum(axis=0) - 2000) < 4 * math.sqrt(6000 * 2 / 9))
        first = seen.members[0][0]
        values = np.concatenate([values[:, 0] for of, values, _ in seen.members if of is first])
        share = 18 / 209
        assert abs(values.mean() - share) < 4 * math.sqrt(share * (1 - share) / len(values))

    def test_all_collapsed_scores_nothing(self):
        result = factor_vae_metric(0.01 * IDENTITY, GRID, 0, **SMALL)
        assert (result.score, result.standard_error) == (0.0, 0.0)
        assert not result.active.any()
        assert not result.votes.any()
        constant = factor_vae_metric(np.ones((60, 3)), GRID, 0, prune_below=0.0, **SMALL)
        assert constant.score == 0.0

    def test_pruning_by_the_standard_deviation(self):
        """Codes just below and just above the threshold; one without variance at a threshold of 0."""
        unit = (IDENTITY - IDENTITY.mean(axis=0)) / IDENTITY.std(axis=0, ddof=1)
        codes = unit * [0.0499, 0.0501, 1.0]
        result = factor_vae_metric(codes, GRID, 0, variance_inputs=None, **SMALL)
        np.testing.assert_array_equal(result.active, [False, True, True])
        assert not result.votes[0].any()
        lower = factor_vae_metric(codes, GRID, 0, variance_inputs=None, prune_below=0.04, **SMALL)
        assert lower.active.all()
        codes[:, 0] = 0.1
        zero = factor_vae_metric(codes, GRID, 0, prune_below=0.0, **SMALL)
        np.testing.assert_array_equal(zero.active, [False, True, True])

    def test_global_variances_have_ddof_1(self):
        result = factor_vae_metric(IDENTITY, GRID, 0, variance_inputs=None, **SMALL)
        expected = [statistics.variance(column) for column in IDENTITY.T.tolist()]
        np.testing.assert_allclose(result.variances, expected, rtol=1e-12)
        codes, classes, weights = noisy(2)
        p = weights / math.fsum(weights)
        weighted = factor_vae_metric(codes, classes, 0, weights=weights, variance_inputs=None, **SMALL)
        for d, column in enumerate(codes.T.tolist()):
            mean = math.fsum(q * z for q, z in zip(p, column, strict=True))
            spread = math.fsum(q * (z - mean) ** 2 for q, z in zip(p, column, strict=True))
            assert weighted.variances[d] == pytest.approx(spread / (1 - math.fsum(q * q for q in p)), rel=1e-12)

    def test_ties_go_to_the_lowest_factor(self):
        """One code, two factors, two training votes: one seed in two gives one vote to each."""
        ties = 0
        for seed in range(40):
            result = factor_vae_metric(IDENTITY[:, :1], GRID, seed, train_votes=2, test_votes=20)
            if result.votes.max() == 1:
                ties += 1
                k = int(np.flatnonzero(result.votes[0])[0])
                assert result.majority[0] == k
                assert result.score == result.test_votes[0, k] / 20
        assert ties > 10

    def test_of_two_equal_codes_the_first_wins(self):
        result = factor_vae_metric(IDENTITY[:, [0, 0, 1, 2]], GRID, 0, **SMALL)
        assert result.score == 1.0
        assert not result.votes[1].any()
        assert result.majority[1] == 0

    def test_random_codes_are_near_chance(self):
        rng = np.random.default_rng(3)
        classes = rng.integers(0, 5, (20_000, 4))
        result = factor_vae_metric(rng.standard_normal((20_000, 6)), classes, 0)
        assert 0.2 < result.score < 0.35

    def test_order_of_codes_and_names_of_classes_do_not_matter(self):
        codes, classes, _ = noisy(4)
        result = factor_vae_metric(codes, classes, 5, **SMALL)
        other = factor_vae_metric(codes[:, [2, 0, 3, 1]], 7 * classes + 5, 5, **SMALL)
        assert other.score == result.score
        np.testing.assert_array_equal(other.votes, result.votes[[2, 0, 3, 1]])
        np.testing.assert_allclose(
            factor_vae_metric(1e3 * codes, classes, 5, **SMALL).votes, result.votes, atol=0
        )  # scale cancels

    def test_order_of_factors_within_the_standard_error(self):
        codes, classes, _ = noisy(6)
        many = {"train_votes": 4000, "test_votes": 4000}
        result = factor_vae_metric(codes, classes, 5, **many)
        other = factor_vae_metric(codes, classes[:, [2, 0, 1]], 6, **many)
        assert abs(result.score - other.score) < 4 * math.hypot(result.standard_error, other.standard_error)
        assert 0.5 < result.score < 0.98

    def test_the_standard_error_is_the_spread_over_test_votes(self):
        codes, classes, _ = noisy(6)
        votes = {"train_votes": 1500, "test_votes": 100}
        results = [factor_vae_metric(codes, classes, s, variance_inputs=None, **votes) for s in range(40)]
        ratio = np.std([r.score for r in results], ddof=1) / np.mean([r.standard_error for r in results])
        assert 0.7 < ratio < 1.4, ratio

    def test_inputs_without_weight_take_no_part(self):
        codes, classes, weights = noisy(7)
        spoilt = np.where(weights[:, None] > 0, codes, 1e6)
        result = factor_vae_metric(codes, classes, 0, weights=weights, **SMALL)
        other = factor_vae_metric(spoilt, classes, 0, weights=weights, **SMALL)
        np.testing.assert_array_equal(other.votes, result.votes)
        np.testing.assert_array_equal(other.variances, result.variances)

    def test_progress_counts_all_votes(self, monkeypatch):
        monkeypatch.setattr(factor_vae, "_BLOCK", 2**12)
        seen = []
        factor_vae_metric(IDENTITY, GRID, 0, progress=lambda *a: seen.append(a), **SMALL)
        assert seen == sorted(seen)
        assert len(seen) > 20
        assert seen[-1] == (900, 900)

    @pytest.mark.parametrize(
        ("change", "match"),
        [
            ({"classes": GRID[:, :1]}, "at least 2 factors"),
            ({"classes": GRID * [1, 0, 1]}, "factor 1 has a single value"),
            ({"classes": GRID[:10]}, "N=60"),
            ({"classes": GRID.astype(float)}, "classes are float64"),
            ({"codes": np.full((60, 2), np.nan)}, "nan"),
            ({"codes": IDENTITY[:, 0]}, "shapes are codes"),
            ({"codes": IDENTITY.tolist()}, "codes is a list"),
            ({"rng": None}, "rng is a NoneType"),
            ({"weights": -np.ones(60)}, "weights lie in"),
            ({"weights": (GRID[:, 0] == 1).astype(float)}, "factor 0 has a single value"),
            ({"batch": 1}, "batch=1"),
            ({"train_votes": 0}, "train_votes=0"),
            ({"test_votes": 0}, "test_votes=0"),
            ({"test_votes": 1.5}, "test_votes=1.5"),
            ({"prune_below": -0.1}, "prune_below=-0.1"),
            ({"variance_inputs": 1}, "variance_inputs=1"),
        ],
    )
    def test_refusals(self, change, match):
        with pytest.raises(InputError, match=match):
            factor_vae_metric(**{"codes": IDENTITY, "classes": GRID, "rng": 0, **change})


class Says:
    """A classifier that remembers what it is fitted to and names one factor."""

    coef_, n_iter_ = np.zeros((3, 4)), np.array([1])

    def __init__(self, name):
        self.name = name

    def fit(self, points, shared):
        self.points, self.shared = points, shared

    def predict(self, points):
        return np.full(len(points), self.name)


class TestHiggins:
    def test_a_code_per_factor_scores_one(self):
        result = higgins_metric(IDENTITY, GRID, 0, inverse_regularisation=1e3, **FEW)
        assert (result.score, result.standard_error, result.train_score) == (1.0, 0.0, 1.0)
        assert np.count_nonzero(result.confusion - np.diag(np.diag(result.confusion))) == 0
        assert result.confusion.sum() == 200
        assert np.all(np.argmin(result.coefficients, axis=1) == [0, 1, 2])  # a small difference speaks for its factor

    def test_points_against_loops_over_the_same_draws(self, monkeypatch):
        codes, classes, weights = noisy(1)
        kept = np.flatnonzero(weights)
        z, labels = codes[kept].tolist(), classes[kept].tolist()
        seen, says = Recorder(higgins, monkeypatch), Says(1)
        monkeypatch.setattr(higgins, "_BLOCK", 500)
        monkeypatch.setattr(higgins, "_logistic_regression", lambda *_: says)
        result = higgins_metric(codes, classes, 2, weights=weights, batch=5, train_points=200, test_points=1)
        expected, factors = [], list({id(of): None for of, _, _ in seen.members})
        for first, (of, _, second) in zip(seen.firsts, seen.members, strict=True):
            for a, b in zip(first.tolist(), second.tolist(), strict=True):
                k = factors.index(id(of))
                assert all(labels[i][k] == labels[j][k] for i, j in zip(a, b, strict=True))
                mean = [math.fsum(abs(z[i][d] - z[j][d]) for i, j in zip(a, b, strict=True)) / 5 for d in range(4)]
                expected.append([k, *mean])
        fitted = np.column_stack([says.shared, says.points])
        missing = [row for row in expected if np.min(np.abs(fitted - row).max(axis=1)) > 1e-12]
        assert len(expected) == 201
        assert len(missing) == 1  # the test point
        assert result.train_score == np.mean(says.shared == 1)

    def test_the_shared_value_differs_from_pair_to_pair(self, monkeypatch):
        seen = Recorder(higgins, monkeypatch)
        higgins_metric(IDENTITY, GRID, 0, **FEW)
        _, values, second = seen.members[2]
        assert len(set(values[0])) == len(set(GRID[:, 2]))
        assert second.shape[1] == 64

    def test_score_error_and_confusion_of_a_known_classifier(self, monkeypatch):
        monkeypatch.setattr(higgins, "_logistic_regression", lambda *_: Says(2))
        result = higgins_metric(IDENTITY, GRID, 0, **FEW)
        assert not result.confusion[:, :2].any()
        assert result.score == result.confusion[2, 2] / 200
        assert result.standard_error == pytest.approx(math.sqrt(result.score * (1 - result.score) / 200))
        assert 0.2 < result.score < 0.5

    def test_collapsed_and_random_codes_are_at_chance(self):
        assert 0.2 < higgins_metric(np.ones((60, 3)), GRID, 0, **FEW).score < 0.47
        rng = np.random.default_rng(3)
        classes = rng.integers(0, 5, (20_000, 3))
        assert 0.2 < higgins_metric(rng.standard_normal((20_000, 6)), classes, 0, **FEW).score < 0.47

    def test_order_of_codes_and_names_of_classes_do_not_matter(self):
        codes, classes, _ = noisy(4)
        result = higgins_metric(codes, classes, 5, **FEW)
        other = higgins_metric(codes[:, [2, 0, 3, 1]], 7 * classes + 5, 5, **FEW)
        np.testing.assert_array_equal(other.confusion, result.confusion)
        assert 0.5 < result.score < 1.0

    def test_hyper_parameters_reach_the_classifier(self):
        strong = higgins_metric(IDENTITY, GRID, 0, inverse_regularisation=1e-3, **FEW)
        weak = higgins_metric(IDENTITY, GRID, 0, inverse_regularisation=10.0, **FEW)
        assert np.abs(strong.coefficients).max() < 0.1 * np.abs(weak.coefficients).max()
        with pytest.warns(ConvergenceWarning):
            assert higgins_metric(IDENTITY, GRID, 0, max_iter=1, **FEW).iterations == 1

    def test_progress_counts_all_points(self):
        seen = []
        higgins_metric(IDENTITY, GRID, 0, progress=lambda *a: seen.append(a), **FEW)
        assert len(seen) == 3
        assert seen[-1] == (600, 600)

    def test_two_factors_give_one_row_of_coefficients(self):
        result = higgins_metric(IDENTITY[:, :2], GRID[:, :2], 0, **FEW)
        assert result.coefficients.shape == (1, 2)
        assert result.confusion.shape == (2, 2)

    @pytest.mark.parametrize(
        ("change", "match"),
        [
            ({"classes": GRID[:, :1]}, "at least 2 factors"),
            ({"rng": "0"}, "rng is a str"),
            ({"batch": 0}, "batch=0"),
            ({"train_points": 2}, "do not show all of the K=3"),
            ({"test_points": 0}, "test_points=0"),
            ({"max_iter": 0}, "max_iter=0"),
            ({"inverse_regularisation": 0.0}, "inverse_regularisation=0"),
        ],
    )
    def test_refusals(self, change, match):
        with pytest.raises(InputError, match=match):
            higgins_metric(**{"codes": IDENTITY, "classes": GRID, "rng": 0, **change})


class FirstCodes(ClassifierMixin, BaseEstimator):
    """A predictor of a given importance, the same for each factor."""

    def __init__(self, importance=(1.0,)):
        self.importance = importance

    def fit(self, x, y):
        self.classes_ = np.unique(y)
        self.feature_importances_ = np.asarray(self.importance)
        return self

    def predict(self, x):
        return np.full(len(x), self.classes_[0])


class TestDCI:
    def test_a_code_per_factor_scores_one(self):
        result = dci(np.tile(IDENTITY, (10, 1)), TENFOLD, 0, **HALF)
        np.testing.assert_array_equal(result.importance, np.eye(3))
        assert (result.disentanglement, result.completeness, result.informativeness) == (1.0, 1.0, 1.0)
        assert result.recipe.startswith("RandomForestClassifier(")

    @pytest.mark.parametrize("predictor", [None, LogisticRegression(max_iter=1000), Lasso(alpha=0.01)])
    def test_scores_of_an_importance_matrix_by_loops(self, predictor):
        codes, classes, _ = noisy(1, N=600)
        result = dci(codes, classes, 0, predictor=predictor, **HALF)
        R = result.importance.tolist()
        total = math.fsum(math.fsum(row) for row in R)

        def concentration(row):
            shares = [r / math.fsum(row) for r in row]
            return 1 + math.fsum(s * math.log(s) for s in shares if s > 0) / math.log(len(row))

        by_code, by_factor = [concentration(row) for row in R], [concentration(c) for c in zip(*R, strict=True)]
        np.testing.assert_allclose(result.code_scores, by_code, rtol=1e-12)
        np.testing.assert_allclose(result.factor_scores, by_factor, rtol=1e-12)
        weighted = math.fsum(s * math.fsum(row) / total for s, row in zip(by_code, R, strict=True))
        assert result.disentanglement == pytest.approx(weighted, rel=1e-12)
        weighted = math.fsum(s * math.fsum(c) / total for s, c in zip(by_factor, zip(*R, strict=True), strict=True))
        assert result.completeness == pytest.approx(weighted, rel=1e-12)
        assert result.informativeness == pytest.approx(np.mean(result.accuracies), rel=1e-12)
        assert 0 < result.disentanglement < 1

    def test_known_importances(self):
        """Of four codes one of no importance, each factor predicted alike: by hand."""
        result = dci(
            np.tile(IDENTITY[:, [0, 1, 2, 0]], (10, 1)),
            TENFOLD,
            0,
            predictor=FirstCodes((0.5, 0.25, 0.25, 0.0)),
            **HALF,
        )
        np.testing.assert_allclose(result.code_scores, 0.0, atol=1e-15)
        assert result.disentanglement == pytest.approx(0.0, abs=1e-15)
        assert result.completeness == pytest.approx(1 - 1.5 * math.log(2) / math.log(4), rel=1e-12)

    def test_collapsed_codes_score_nothing(self):
        result = dci(np.ones((600, 3)), TENFOLD, 0, **HALF)
        assert (result.disentanglement, result.completeness) == (0.0, 0.0)
        assert not result.importance.any()
        assert result.informativeness < 0.5

    def test_mixed_codes_score_less(self):
        mixing = np.array([[2, -1, 2], [2, 2, -1], [-1, 2, 2]]) / 3
        result = dci(np.tile(IDENTITY @ mixing, (10, 1)), TENFOLD, 0, **HALF)
        assert result.disentanglement < 0.5
        assert result.completeness < 0.5

    def test_a_regressor_of_standardised_factors(self):
        """Lasso of penalty a on one standardised code that is the factor: coefficient 1 - a, R^2 = 1 - a^2."""
        codes = np.tile(IDENTITY, (10, 1)) * [1e-3, 1.0, 1e3]
        result = dci(codes, TENFOLD, 0, predictor=Lasso(alpha=0.3), **HALF)
        np.testing.assert_allclose(result.importance, 0.7 * np.eye(3), atol=1e-9)
        np.testing.assert_allclose(result.train_accuracies, 1 - 0.3**2, atol=1e-9)
        assert result.recipe == "Lasso(alpha=0.3)"

    def test_order_of_codes_and_factors_does_not_matter(self):
        codes, classes, _ = noisy(1, N=600)
        result = dci(codes, classes, 0, predictor=Lasso(alpha=0.01, tol=1e-12), **HALF)
        other = dci(codes[:, [2, 0, 3, 1]], classes[:, [1, 2, 0]], 0, predictor=Lasso(alpha=0.01, tol=1e-12), **HALF)
        np.testing.assert_allclose(other.importance, result.importance[[2, 0, 3, 1]][:, [1, 2, 0]], atol=1e-9)
        assert other.disentanglement == pytest.approx(result.disentanglement, abs=1e-9)

    def test_the_seed_fixes_the_forest_too(self):
        codes, classes, _ = noisy(1, N=600)
        first, second = (dci(codes, classes, 3, **HALF) for _ in range(2))
        np.testing.assert_array_equal(first.importance, second.importance)
        assert "random_state" not in first.recipe
        given = DecisionTreeClassifier(random_state=5)
        assert dci(codes, classes, 3, predictor=given, **HALF).recipe == "DecisionTreeClassifier(random_state=5)"
        for given in (DecisionTreeClassifier(), RandomForestClassifier(5, warm_start=True)):  # neither used nor seeded
            before = repr(given)
            assert dci(codes, classes, 3, predictor=given, **HALF).recipe == " ".join(before.split())
            assert repr(given) == before
            assert not hasattr(given, "classes_")

    def test_accuracies_are_those_of_other_inputs(self):
        """A tree without bounds knows its training inputs by heart; noise tells it nothing of others."""
        rng = np.random.default_rng(0)
        classes = rng.integers(0, 4, (600, 2))
        result = dci(rng.standard_normal((600, 3)), classes, 0, predictor=DecisionTreeClassifier(), **HALF)
        assert np.all(result.train_accuracies == 1.0)
        assert np.all(result.accuracies < 0.4)

    def test_progress_counts_factors(self):
        seen = []
        dci(np.tile(IDENTITY, (10, 1)), TENFOLD, 0, progress=lambda *a: seen.append(a), **HALF)
        assert seen == [(1, 3), (2, 3), (3, 3)]

    @pytest.mark.parametrize(
        ("change", "match"),
        [
            ({}, "train=10000 and test=5000 are more than the N=600"),
            ({"codes": np.tile(IDENTITY[:, :1], (10, 1)), **HALF}, "1 code is too few"),
            ({"classes": TENFOLD[:, :1], **HALF}, "at least 2 factors"),
            ({"predictor": DecisionTreeClassifier, **HALF}, "unfitted scikit-learn"),
            ({"predictor": "lasso", **HALF}, "unfitted scikit-learn"),
            ({"predictor": PCA(), **HALF}, "unfitted scikit-learn"),
            ({"predictor": KNeighborsClassifier(), **HALF}, "neither feature_importances_ nor coef_"),
            ({"train": 1, "test": 10}, "train=1"),
        ],
    )
    def test_refusals(self, change, match):
        with pytest.raises(InputError, match=match):
            dci(**{"codes": np.tile(IDENTITY, (10, 1)), "classes": TENFOLD, "rng": 0, **change})

    def test_a_value_that_training_never_sees(self):
        rare = np.column_stack([TENFOLD[:, 0], np.arange(600) == 7]).astype(int)
        for metric in (dci, sap):
            with pytest.raises(InputError, match="the 2 training inputs show one value of factor 1"):
                metric(np.tile(IDENTITY, (10, 1)), rare, 4, train=2, test=2)


class TestSAP:
    def test_r_squared_against_correlations(self):
        codes, classes, _ = noisy(1)
        result = sap_r_squared(codes, classes)
        expected = [[statistics.correlation(z, v) ** 2 for v in classes.T.tolist()] for z in codes.T.tolist()]
        np.testing.assert_allclose(result.predictability, expected, rtol=1e-10)
        columns = [sorted(column) for column in zip(*expected, strict=True)]
        np.testing.assert_allclose(result.gaps, [c[-1] - c[-2] for c in columns], rtol=1e-9)
        assert result.score == pytest.approx(np.mean(result.gaps), rel=1e-12)
        assert result.recipe == "R^2"

    @pytest.mark.parametrize("dtype", ["int8", "int16", "int64", "uint8"])
    def test_numbers_of_factors_as_far_apart_as_their_dtype_allows(self, dtype):
        bounds = np.iinfo(dtype)
        classes = np.array([[bounds.min, 0], [bounds.max, 1], [bounds.min // 2 + bounds.max // 2, 0]] * 4, dtype)
        result = sap_r_squared(np.repeat(np.array([[0.0], [1.0], [0.5]]), 2, axis=1)[[0, 1, 2] * 4], classes)
        assert result.predictability[0, 0] == pytest.approx(1.0, abs=1e-3)

    def test_r_squared_closed_forms(self):
        result = sap_r_squared(IDENTITY, GRID)
        np.testing.assert_allclose(result.predictability, np.eye(3), atol=1e-14)
        assert result.score == pytest.approx(1.0, abs=1e-12)
        assert sap_r_squared(IDENTITY[:, [0, 1, 2, 0, 1, 2]], GRID).score == pytest.approx(0.0, abs=1e-12)
        assert not sap_r_squared(np.tile([0.1, 1 / 3, 0.0], (60, 1)), GRID).predictability.any()
        bent = np.abs(IDENTITY - IDENTITY.mean(axis=0))
        assert sap_r_squared(bent, GRID).score < 0.2  # only a straight line counts

    def test_r_squared_of_weights_is_that_of_repeated_inputs(self):
        codes, classes, _ = noisy(2)
        times = np.random.default_rng(0).integers(0, 4, 200)
        weighted = sap_r_squared(codes, classes, weights=times.astype(float))
        repeated = sap_r_squared(np.repeat(codes, times, axis=0), np.repeat(classes, times, axis=0))
        np.testing.assert_allclose(weighted.predictability, repeated.predictability, rtol=1e-10)

    def test_svm_closed_forms(self):
        """Two values told by one code: 1 against the share of the larger value, a half."""
        classes = np.tile(grid_classes(2, 2), (200, 1))
        result = sap(10.0 * classes, classes, 0, **HALF)
        np.testing.assert_array_equal(np.diag(result.predictability), 1.0)
        assert np.all(np.abs(result.predictability[[0, 1], [1, 0]] - 0.5) < 0.15)
        assert result.recipe == "linear SVM"
        doubled = sap(10.0 * classes[:, [0, 1, 0, 1]], classes, 0, **HALF)
        assert doubled.score == 0.0
        assert sap(np.ones((800, 3)), classes, 0, **HALF).score == 0.0

    def test_svm_against_the_public_recipe_on_the_same_inputs(self):
        """The dual solver that disentanglement_lib leaves as the default, run to the end."""
        codes, classes, _ = noisy(1, N=600)
        result = sap(codes, classes, 3, **HALF)
        fitting, testing = draws.split("sap", 600, 400, 200, np.random.default_rng(3))
        for d, k in itertools.product(range(4), range(3)):
            model = LinearSVC(C=0.01, class_weight="balanced", dual=True, random_state=0, tol=1e-10, max_iter=100_000)
            model.fit(codes[fitting, d][:, None], classes[fitting, k])
            hits = np.mean(model.predict(codes[testing, d][:, None]) == classes[testing, k])
            assert result.predictability[d, k] == pytest.approx(hits, abs=1.5 / 200)

    def test_order_of_codes_and_names_of_classes_do_not_matter(self):
        codes, classes, _ = noisy(1, N=600)
        result = sap(codes, classes, 3, **HALF)
        other = sap(codes[:, [2, 0, 3, 1]], 7 * classes[:, [1, 2, 0]] + 5, 3, **HALF)
        np.testing.assert_array_equal(other.predictability, result.predictability[[2, 0, 3, 1]][:, [1, 2, 0]])

    def test_hyper_parameters_and_progress(self):
        codes, classes, _ = noisy(1, N=600)
        seen = []
        strong = sap(codes, classes, 3, inverse_regularisation=1e-6, progress=lambda *a: seen.append(a), **HALF)
        assert not np.array_equal(strong.predictability, sap(codes, classes, 3, **HALF).predictability)
        assert seen == [(i + 1, 12) for i in range(12)]
        with pytest.warns(ConvergenceWarning):
            sap(codes, classes, 3, max_iter=1, **HALF)

    @pytest.mark.parametrize(
        ("change", "match"),
        [
            ({"codes": np.tile(IDENTITY[:, :1], (10, 1))}, "1 code is too few"),
            ({"train": 500}, "train=500 and test=200"),
            ({"inverse_regularisation": -1.0}, "inverse_regularisation=-1"),
            ({"max_iter": 0}, "max_iter=0"),
            ({"classes": TENFOLD[:, :0]}, "at least 1 factors"),
        ],
    )
    def test_refusals(self, change, match):
        with pytest.raises(InputError, match=match):
            sap(**{"codes": np.tile(IDENTITY, (10, 1)), "classes": TENFOLD, "rng": 0, **HALF, **change})
        if "codes" in change:
            with pytest.raises(InputError, match=match):
                sap_r_squared(change["codes"], TENFOLD)


@pytest.mark.parametrize(
    ("metric", "module"), [(higgins_metric, "linear_model"), (dci, "ensemble"), (dci, "base"), (sap, "svm")]
)
def test_without_scikit_learn(metric, module, monkeypatch):
    monkeypatch.setitem(sys.modules, f"sklearn.{module}", None)
    sizes = {} if metric is higgins_metric else HALF
    where = metric.__name__
    with pytest.raises(
        draws.NotInstalled, match=rf"{where}: scikit-learn is not installed; pip install 'tcvae-ref\[exp"
    ):
        metric(np.tile(IDENTITY, (10, 1)), TENFOLD, 0, **sizes)
    assert issubclass(draws.NotInstalled, ImportError)


def matrix(information, factor_entropies=None, recipe="quadrature", entropies=None, error=0.0):
    information = np.array(information, dtype=float)
    D, K = information.shape
    factor_entropies = np.ones(K) if factor_entropies is None else np.array(factor_entropies, dtype=float)
    errors = MIGErrors(0.0, np.zeros(K), np.full((D, K), error), np.zeros(D))
    by_factor = gaps(information, factor_entropies)
    entropies = np.ones(D) if entropies is None else np.array(entropies)
    return MIG(float(by_factor.mean()), by_factor, information, entropies, errors, recipe, factor_entropies)


class TestInformation:
    def test_a_code_per_factor(self):
        mig = matrix(np.diag([0.5, 2.0, 1.0]), [0.5, 2.0, 1.0])
        for score in (modularity, mig_sup, dcimig):
            assert score(mig).score == pytest.approx(1.0)
        assert rmig(mig).score == pytest.approx(3.5 / 3)

    def test_no_information(self):
        mig = matrix(np.zeros((4, 2)))
        for score in (modularity, mig_sup, dcimig, rmig):
            assert score(mig).score == 0.0

    def test_against_loops(self):
        rng = np.random.default_rng(0)
        for _ in range(50):
            D, K = (int(n) for n in rng.integers(2, 6, 2))
            H = rng.uniform(1, 3, K)
            mig = matrix(rng.random((D, K)) * H, H)
            rows, h = mig.information.tolist(), H.tolist()
            m, s, r = [], [], [0.0] * K
            for row in rows:
                top = lowest_of_the_largest(row)
                others = math.fsum(row[k] ** 2 for k in range(K) if k != top)
                m.append(1 - others / ((K - 1) * row[top] ** 2))
                shares = sorted(row[k] / h[k] for k in range(K))
                s.append(shares[-1] - shares[-2])
                r[top] = max(r[top], sorted(row)[-1] - sorted(row)[-2])
            np.testing.assert_allclose(modularity(mig).codes, m, rtol=1e-10, atol=1e-15)
            assert modularity(mig).score == pytest.approx(math.fsum(m) / D, rel=1e-10)
            np.testing.assert_allclose(mig_sup(mig).codes, s, rtol=1e-12)
            assert mig_sup(mig).score == pytest.approx(math.fsum(s) / D, rel=1e-12)
            assert dcimig(mig).score == pytest.approx(math.fsum(r) / math.fsum(h), rel=1e-12)
            columns = [sorted(column) for column in zip(*rows, strict=True)]
            np.testing.assert_allclose(rmig(mig).factors, [c[-1] - c[-2] for c in columns], rtol=1e-12)

    def test_order_of_codes_and_factors_does_not_matter(self):
        rng = np.random.default_rng(1)
        information, H = rng.random((4, 3)), np.array([1.0, 1.5, 2.0])
        mig = matrix(information, H, "binned", [1.0, 1.2, 0.7, 1.9])
        other = matrix(information[[2, 0, 3, 1]][:, [1, 2, 0]], H[[1, 2, 0]], "binned", [0.7, 1.0, 1.9, 1.2])
        for score in (modularity, mig_sup, dcimig, rmig, jemmig):
            assert score(other).score == pytest.approx(score(mig).score, rel=1e-12)

    def test_modularity_knows_an_even_code_and_the_ideal(self):
        result = modularity(matrix([[1.0, 1.0, 1.0], [0.0, 2.0, 0.0]]))
        np.testing.assert_allclose(result.codes, [0.0, 1.0], atol=1e-15)

    def test_information_within_its_error_is_none(self):
        """A collapsed code's information is rounding, whose ratios would look like a score."""
        information = [[1.0, 0.0], [3e-9, 0.0], [-1e-16, 2e-16]]
        for score in (modularity, mig_sup):
            np.testing.assert_array_equal(score(matrix(information)).informative, [True, True, False])
            larger = score(matrix(information, error=1e-8))
            np.testing.assert_array_equal(larger.informative, [True, False, False])
            np.testing.assert_allclose(larger.codes, [1.0, 0.0, 0.0])
            assert larger.score == pytest.approx(1 / 3)

    def test_a_duplicate_costs_mig_but_not_dcimig(self):
        mig = matrix([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        assert mig.score == 0.5
        assert (dcimig(mig).score, modularity(mig).score, mig_sup(mig).score) == (1.0, 1.0, 1.0)

    def test_jemmig_is_the_joint_entropy_minus_the_gap(self):
        codes, classes, _ = noisy(3)
        mig = mig_binned(codes, None, classes, samples=None, bins=7)
        result = jemmig(mig, 7)
        for k in range(3):
            best = lowest_of_the_largest(mig.information[:, k].tolist())
            pairs = zip(bins_by_loops(codes[:, best].tolist(), 7), classes[:, k].tolist(), strict=True)
            expected = entropy_by_loops(list(pairs)) - rmig(mig).factors[k]
            assert result.factors[k] == pytest.approx(expected, rel=1e-12)
            h = entropy_by_loops(classes[:, k].tolist())
            assert result.normalised_factors[k] == pytest.approx(1 - expected / (h + math.log(7)), rel=1e-12)
        assert result.score == pytest.approx(np.mean(result.factors), rel=1e-12)
        assert result.normalised == pytest.approx(np.mean(result.normalised_factors), rel=1e-12)
        assert np.all((result.normalised_factors > 0) & (result.normalised_factors < 1))

    def test_jemmig_of_codes_that_are_the_factors(self):
        result = jemmig(mig_binned(IDENTITY, None, GRID, samples=None))
        np.testing.assert_allclose(result.factors, 0.0, atol=1e-14)
        assert result.normalised == pytest.approx(1.0)
        fine = np.column_stack([IDENTITY[:, 0] + 1e-1 * IDENTITY[:, 1], IDENTITY[:, 1:]])
        mig = mig_binned(fine, None, GRID, samples=None)
        assert mig.information[0, 0] == pytest.approx(math.log(3))
        assert jemmig(mig).factors[0] == pytest.approx(mig.entropies[0] - math.log(3))  # told, but not alone

    def test_refusals(self):
        for score in (modularity, mig_sup, dcimig):
            with pytest.raises(InputError, match="K=1 factor"):
                score(matrix([[1.0], [0.0]]))
        with pytest.raises(InputError, match="recipe='quadrature'"):
            jemmig(matrix(np.eye(2)))
        with pytest.raises(InputError, match=r"bins=2, but a code has 1 nats"):
            jemmig(matrix(np.eye(2), recipe="binned"), 2)


def bins_by_loops(values, bins):
    low, high = min(values), max(values)
    edges = [low + (high - low) * i / bins for i in range(1, bins)]
    return [sum(v >= edge for edge in edges) for v in values]


def entropy_by_loops(values, weights=None):
    counts = collections.Counter()
    for v, w in zip(values, weights or [1] * len(values), strict=True):
        counts[v] += w
    total = math.fsum(counts.values())
    return -math.fsum(c / total * math.log(c / total) for c in counts.values() if c)


class TestBinned:
    @pytest.mark.parametrize("weighted", [False, True])
    def test_against_loops(self, weighted):
        codes, classes, weights = noisy(1)
        result = mig_binned(codes, None, classes, weights=weights if weighted else None, samples=None, bins=6)
        kept = np.flatnonzero(weights) if weighted else np.arange(200)
        w = weights[kept].tolist() if weighted else [1] * 200
        for d, k in itertools.product(range(4), range(3)):
            b, v = bins_by_loops(codes[kept, d].tolist(), 6), classes[kept, k].tolist()
            h_b, h_v = entropy_by_loops(b, w), entropy_by_loops(v, w)
            information = h_b + h_v - entropy_by_loops(list(zip(b, v, strict=True)), w)
            assert result.information[d, k] == pytest.approx(information, abs=1e-12)
            assert result.entropies[d] == pytest.approx(h_b, rel=1e-12)
            assert result.factor_entropies[k] == pytest.approx(h_v, rel=1e-12)
        for k, column in enumerate(result.information.T.tolist()):
            top = sorted(column)
            assert result.gaps[k] == pytest.approx((top[-1] - top[-2]) / result.factor_entropies[k], rel=1e-10)
        assert result.score == pytest.approx(np.mean(result.gaps), rel=1e-12)
        assert result.recipe == "binned"
        assert (result.error.score, result.error.information.shape) == (0.0, (4, 3))

    def test_a_value_of_hardly_any_weight_is_no_second_value(self):
        weights = np.where(GRID[:, 0] == 0, 1e-18, 1.0) * (GRID[:, 0] < 2)
        with pytest.raises(InputError, match="factor 0"):
            mig_binned(IDENTITY, None, GRID, weights=weights, samples=None)

    @pytest.mark.parametrize("dtype", ["float64", "float32"])
    def test_against_the_public_recipe(self, dtype):
        """np.digitize by the left edges of np.histogram, scikit-learn's mutual information."""
        codes, classes, _ = noisy(2, N=3000)
        codes = np.round(codes, 1).astype(dtype)  # many values on edges
        result = mig_binned(codes, None, classes, samples=None)
        for d, k in itertools.product(range(4), range(3)):
            binned = np.digitize(codes[:, d], np.histogram(codes[:, d], 20)[1][:-1])
            assert result.information[d, k] == pytest.approx(mutual_info_score(classes[:, k], binned), abs=1e-12)

    def test_closed_forms(self):
        identity = mig_binned(IDENTITY, None, GRID, samples=None)
        np.testing.assert_allclose(identity.information, np.diag(np.log([3, 4, 5])), atol=1e-13)
        assert identity.score == pytest.approx(1.0, abs=1e-12)
        doubled = mig_binned(IDENTITY[:, [0, 1, 2, 0, 1, 2]], None, GRID, samples=None)
        assert doubled.score == pytest.approx(0.0, abs=1e-12)
        ends = np.array([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [2.0, 1.0]])  # the greatest value is in the last bin
        assert mig_binned(ends, None, np.array([[0], [0], [1], [1]]), samples=None, bins=2).entropies[0] == (
            pytest.approx(entropy_by_loops([0, 1, 1, 1]))
        )

    def test_a_constant_code_tells_exactly_nothing(self):
        """Not even rounding, of which ratios would be taken."""
        rng = np.random.default_rng(0)
        codes = np.column_stack([IDENTITY, np.full(60, 0.1), np.zeros(60)])
        classes = np.column_stack([GRID, np.arange(60) % 13])
        for weights in [None, *rng.random((50, 60))]:
            result = mig_binned(codes, None, classes, weights=weights, samples=None)
            assert not result.information[3:].any()
            assert not result.entropies[3:].any()
            assert not modularity(result).informative[3:].any()

    def test_the_fewest_samples_and_the_largest_codes(self):
        two, numbers = np.array([[0.0, 0.0], [draws.LARGEST_CODE, 0.0]]), np.array([[0], [1]])
        for sampling in ({"samples": None}, {"samples": 2, "rng": 0}):  # the seed draws one of each
            result = mig_binned(two, None, numbers, bins=2, **sampling)
            assert result.information[0, 0] == pytest.approx(np.log(2), rel=1e-15)
        with pytest.raises(InputError, match="samples=1 is too small"):
            mig_binned(two, None, numbers, samples=1, rng=1)
        with pytest.raises(InputError, match="rescale to 1e"):
            mig_binned(np.nextafter(two, np.inf), None, numbers, samples=None)

    def test_widths_do_not_enter(self):
        one = mig_binned(IDENTITY, np.zeros((60, 3)), GRID, rng=0, samples=500)
        other = mig_binned(IDENTITY, np.full((60, 3), -50.0), GRID, rng=np.random.default_rng(0), samples=500)
        np.testing.assert_array_equal(one.information, other.information)

    def test_weights_are_repetitions(self):
        codes, classes, _ = noisy(3)
        times = np.random.default_rng(0).integers(0, 4, 200)
        weighted = mig_binned(codes, None, classes, weights=times.astype(float), samples=None)
        repeated = mig_binned(np.repeat(codes, times, axis=0), None, np.repeat(classes, times, axis=0), samples=None)
        np.testing.assert_allclose(weighted.information, repeated.information, atol=1e-13)
        np.testing.assert_allclose(weighted.entropies, repeated.entropies, rtol=1e-13)

    @pytest.mark.parametrize("sampling", [{"samples": None}, {"samples": 300, "rng": 0}])
    def test_inputs_without_weight_do_not_stretch_the_bins(self, sampling):
        codes, classes, weights = noisy(4)
        spoilt = np.where(weights[:, None] > 0, codes, 1e6)
        result = mig_binned(codes, None, classes, weights=weights, **sampling)
        other = mig_binned(spoilt, None, classes, weights=weights, **sampling)
        np.testing.assert_array_equal(other.information, result.information)

    def test_order_and_affine_changes_do_not_matter(self):
        codes, classes, _ = noisy(5)
        result = mig_binned(codes, None, classes, samples=None)
        other = mig_binned(
            -0.5 + 4.0 * codes[::-1][:, [2, 0, 3, 1]], None, 7 * classes[::-1][:, [1, 2, 0]] + 5, samples=None
        )
        np.testing.assert_allclose(other.information, result.information[[2, 0, 3, 1]][:, [1, 2, 0]], atol=1e-13)
        assert other.score == pytest.approx(result.score, abs=1e-13)

    def test_samples_are_drawn_by_weight(self):
        """Factor entropies of the draws are those of p(v), within sampling error; the seed is the only randomness."""
        codes, classes, weights = noisy(6)
        drawn = mig_binned(codes, None, classes, weights=weights, rng=1, samples=20_000)
        exact = mig_binned(codes, None, classes, weights=weights, samples=None)
        np.testing.assert_allclose(drawn.factor_entropies, exact.factor_entropies, atol=0.02)
        np.testing.assert_allclose(drawn.information, exact.information, atol=0.03)
        assert not np.allclose(exact.factor_entropies, mig_binned(codes, None, classes, samples=None).factor_entropies)
        again = mig_binned(codes, None, classes, weights=weights, rng=1, samples=20_000)
        np.testing.assert_array_equal(again.information, drawn.information)

    def test_the_bias_on_noise_is_as_documented(self):
        """2 S I of independent code and factor is about chi-square with (bins - 1)(V - 1) degrees of freedom."""
        rng = np.random.default_rng(7)
        S, V = 10_000, 4
        result = mig_binned(rng.random((S, 30)), None, rng.integers(0, V, (S, 1)), samples=None)
        freedom = 19 * (V - 1)
        assert abs(np.mean(2 * S * result.information) - freedom) < 4 * math.sqrt(2 * freedom / 30)

    @pytest.mark.parametrize(
        ("change", "match"),
        [
            ({}, r"samples=10000 are drawn, with no rng.*samples=None"),
            ({"rng": 0.5}, "rng is a float"),
            ({"rng": 0, "samples": 1}, "samples=1"),
            ({"samples": None, "bins": 1}, "bins=1"),
            ({"samples": None, "mu": IDENTITY[:, :1]}, "a gap needs two"),
            ({"samples": None, "classes": GRID[:, :0]}, "at least one factor"),
            (
                {"rng": 0, "samples": 3, "classes": (np.arange(60)[:, None] == 0).astype(int)},
                "of 3 inputs: factor 0 has",
            ),
        ],
    )
    def test_refusals(self, change, match):
        with pytest.raises(InputError, match=match):
            mig_binned(**{"mu": IDENTITY, "log_var": None, "classes": GRID, **change})


# --- extremes --------------------------------------------------------------------------------------------------------


def problem_of_three():
    n = np.arange(60)
    classes = np.stack([n % 3, n // 3 % 4], axis=1)
    return classes[:, [0, 1, 0]] + 0.1 * np.random.default_rng(0).standard_normal((60, 3)), classes


@pytest.mark.parametrize("scale", [1e200, 1e77, 1e-170])
@pytest.mark.parametrize("score", ["factor_vae_metric", "higgins_metric", "sap", "dci", "sap_r_squared"])
def test_codes_whose_squares_are_no_numbers_are_refused(score, scale):
    codes, classes = problem_of_three()
    arguments = (codes * scale, classes) if score == "sap_r_squared" else (codes * scale, classes, 0)
    with pytest.raises(InputError, match="rescale codes"):
        getattr(metrics, score)(*arguments)


@pytest.mark.parametrize("other", [np.nextafter(1.0, 2.0), 1.0])
def test_a_code_within_rounding_is_constant(other):
    codes, classes = problem_of_three()
    codes[:, 2] = np.where(np.arange(60) % 2, 1.0, other)
    binned = metrics.mig_binned(codes, None, classes, samples=None)
    assert binned.entropies[2] == 0
    np.testing.assert_array_equal(binned.information[2], 0)


@pytest.mark.parametrize(("low", "sign"), [(1.0, 1), (-1.0, -1)])
def test_a_code_is_constant_up_to_two_roundings_for_each_bin(low, sign):
    codes, classes = problem_of_three()
    for roundings, constant in ((40, True), (41, False)):
        codes[:, 2] = np.where(np.arange(60) % 2, low, low + sign * roundings * np.spacing(1.0))
        binned = metrics.mig_binned(codes, None, classes, samples=None, bins=20)
        assert (binned.entropies[2] == 0) == constant


def test_inputs_whose_probability_underflows_have_no_weight():
    codes, classes = problem_of_three()
    weights = np.ones(60)
    weights[0], weights[1:4] = 1e300, 5e-324
    weights[4:] = 1e299
    assert 0 < metrics.sap_r_squared(codes, classes, weights=weights).score <= 1


def test_large_class_numbers_are_told_apart():
    codes, classes = problem_of_three()
    assert metrics.sap_r_squared(codes, classes + 2**60).score == metrics.sap_r_squared(codes, classes).score


@pytest.mark.parametrize("recipe", ["mig_quadrature", "mig_monte_carlo"])
def test_a_factor_with_nearly_one_value_is_refused(recipe):
    codes, classes = problem_of_three()
    options = {} if recipe == "mig_quadrature" else {"rng": 0}
    with pytest.raises(InputError, match="nearly a single value"):
        getattr(metrics, recipe)(codes, 0 * codes - 3, classes, weights=np.append(1.0, np.full(59, 1e-17)), **options)


@pytest.mark.parametrize("log_var", [-74.0, -100.0])
def test_posteriors_narrower_than_the_numbers_around_them_are_not_sampled(log_var):
    codes, classes = problem_of_three()
    codes, log_vars = codes + 1, np.full_like(codes, log_var)
    with pytest.raises(InputError, match="too narrow to be sampled"):
        metrics.mig_monte_carlo(codes, log_vars, classes, rng=0)
    with pytest.raises(InputError, match="too narrow to be sampled"):
        metrics.decomposition_exact(codes, log_vars, np.arange(60), np.zeros((60, 3)))
