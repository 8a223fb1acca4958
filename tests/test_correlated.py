"""Correlated sampling of factors: the probabilities against a count over the images, and their properties."""

import dataclasses

import numpy as np
import pytest
from scipy import stats

from tcvae_ref import extensions, log_qz_mss, log_qz_symmetric_mss
from tcvae_ref.checks import InputError
from tcvae_ref.data import ByteImages, Factor, FactorDataset, FactorGrid
from tcvae_ref.data.correlated import KINDS, correlated, pair_probabilities
from tcvae_ref.training import DataSource, Settings, load_source
from tcvae_ref.training.batches import batches


def data_set(sizes=(3, 4, 2, 5), keep=None):
    grid = FactorGrid(tuple(Factor(f"f{k}", np.arange(float(size)) ** 2) for k, size in enumerate(sizes)))
    classes = grid.classes() if keep is None else grid.classes()[keep]
    return FactorDataset("grid", ByteImages(np.zeros((len(classes), 16), np.uint8), (4, 4)), grid.factors, classes)


class TestPairProbabilities:
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("sizes", [(3, 3), (3, 8), (16, 16), (21, 11)])
    def test_a_ratio_of_four_and_none_zero(self, kind, sizes):
        p = pair_probabilities(*sizes, kind)
        assert p.shape == sizes
        assert p.sum() == pytest.approx(1)
        assert p.min() > 0
        assert p.max() / p.min() == pytest.approx(1 if kind == "uniform" else 4)

    @pytest.mark.parametrize("sizes", [(4, 4), (5, 9), (16, 11)])
    def test_what_the_kinds_are_called(self, sizes):
        for kind, correlates, depends in [
            ("uniform", False, False),
            ("skewed", False, False),
            ("diagonal", True, True),
            ("ridges", False, True),
        ]:
            p = pair_probabilities(*sizes, kind)
            a, b = p.sum(axis=1), p.sum(axis=0)
            i, j = np.arange(sizes[0]), np.arange(sizes[1])
            covariance = i @ p @ j - (i @ a) * (j @ b)
            information = np.sum(p * np.log(p / np.outer(a, b)))
            assert (covariance > 0.05) == correlates, kind
            assert abs(covariance) < 1e-9 or correlates, kind
            assert (information > 0.01) == depends, kind
        assert np.ptp(pair_probabilities(*sizes, "skewed").sum(axis=1)) > 0.02

    def test_two_values(self):
        np.testing.assert_allclose(pair_probabilities(2, 2, "diagonal"), np.array([[4, 1], [1, 4]]) / 10)
        with pytest.raises(InputError, match="at least 3"):
            pair_probabilities(2, 5, "ridges")
        with pytest.raises(InputError, match="finer grid"):
            pair_probabilities(1, 5, "diagonal")


class TestCorrelated:
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("names", [("f0", "f3"), ("f3", "f1")])
    def test_the_weights_give_every_pair_its_probability_and_leave_the_rest(self, names, kind):
        data = correlated(data_set(), names, kind)
        a, b = (int(name[1]) for name in names)
        mass = {}
        for row, weight in zip(data.classes, data.weights, strict=True):
            mass.setdefault((row[a], row[b]), []).append(weight)
        wanted = pair_probabilities(data.sizes[a], data.sizes[b], kind)
        for pair, weights in mass.items():
            assert sum(weights) == pytest.approx(wanted[pair])
            assert np.ptp(weights) == 0
        assert np.bincount(data.classes[:, 2], data.weights) == pytest.approx([0.5, 0.5])

    def test_where_images_are_missing(self):
        rng = np.random.default_rng(0)
        data = data_set(keep=rng.choice(120, 60, replace=False))
        kept = data.classes[~((data.classes[:, 0] == 1) & (data.classes[:, 1] == 2))]
        images = ByteImages(np.zeros((len(kept), 16), np.uint8), (4, 4))
        data = correlated(dataclasses.replace(data, images=images, classes=kept), ("f0", "f1"), "diagonal")
        pair = data.classes[:, 0] * 4 + data.classes[:, 1]
        wanted = pair_probabilities(3, 4, "diagonal").ravel()
        ratio = np.bincount(pair, data.weights, minlength=12)[np.unique(pair)] / wanted[np.unique(pair)]
        np.testing.assert_allclose(ratio, ratio[0])
        assert 6 not in pair
        assert data.weights.sum() == pytest.approx(1)

    def test_draws_follow_them(self):
        data = correlated(data_set((4, 4)), ("f0", "f1"), "skewed")
        drawn = np.random.default_rng(0).choice(len(data), 20000, p=data.weights)
        frequency = np.bincount(drawn, minlength=16) / 20000
        assert frequency[15] / frequency[0] == pytest.approx(4, rel=0.15)

    @pytest.mark.parametrize(
        ("names", "kind", "message"),
        [
            (("f0", "f9"), "diagonal", "did you mean"),
            (("f0", "f0"), "diagonal", "two different"),
            (("f0", "f1"), "diagonl", "did you mean 'diagonal'"),
        ],
    )
    def test_refused(self, names, kind, message):
        with pytest.raises(InputError, match=message):
            correlated(data_set(), names, kind)

    def test_data_without_factors(self):
        plain = FactorDataset("plain", data_set().images, (), np.empty((120, 0), np.uint16))
        with pytest.raises(InputError, match="plain has no factors"):
            correlated(plain, ("f0", "f1"), "diagonal")

    @pytest.mark.parametrize("pair", [5, "abc", ["posX", "posY", "skewed"], ("posX", "posY", 3), ("posX", "posY")])
    def test_a_source_of_other_than_three_words(self, pair):
        with pytest.raises(InputError, match="two factors and how"):
            load_source(DataSource("tiny", correlated=pair))

    def test_once_is_enough(self):
        with pytest.raises(InputError, match="already"):
            correlated(correlated(data_set(), ("f0", "f1"), "skewed"), ("f0", "f3"), "skewed")


class TestEstimators:
    """What the stratified estimators' weights stand for is a batch without replacement."""

    def drawn(self, objective, estimator, data):
        return batches(Settings(objective=objective, estimator=estimator, batch=16), data)

    @pytest.mark.parametrize("objective", ["vae", "beta-vae", "beta-tcvae", "factor-vae"])
    @pytest.mark.parametrize("estimator", ["mss", "symmetric-mss", "mss-column-weighted"])
    def test_with_weights_are_refused(self, objective, estimator):
        weighted = correlated(data_set(), ("f0", "f1"), "uniform")
        with pytest.raises(InputError, match=f"'{estimator}' with grid, f0 and f1 uniform.*choose mws"):
            self.drawn(objective, estimator, weighted)
        assert len(self.drawn(objective, estimator, data_set())(0)) == 16

    def test_of_another_packages_it_is_said_that_nothing_is_known(self, monkeypatch):
        monkeypatch.setattr(extensions, "names", lambda kind, own: ("mine",))
        weighted = correlated(data_set(), ("f0", "f1"), "uniform")
        with pytest.raises(InputError, match="replacement; of another package's that is not known: choose mws"):
            self.drawn("beta-tcvae", "mine", weighted)

    @pytest.mark.parametrize("estimator", ["mws", "minibatch"])
    def test_the_others_take_weights(self, estimator):
        weighted = correlated(data_set(), ("f0", "f1"), "skewed")
        assert len(self.drawn("beta-tcvae", estimator, weighted)(0)) == 16

    @pytest.mark.parametrize("log_qz", [log_qz_mss, log_qz_symmetric_mss])
    def test_why(self, log_qz):
        """Mean of the estimate of q(z) over all second draws, z the code of input 0, and the two inputs far apart.

        Its weights, 1/2 of the own posterior and 1/2 of the second, are those of the other input alone being left. Of
        the q(z) = p(0) q(z|0) they make (1/2 + p(0)/2) q(z|0).
        """
        p, mu = np.array([0.2, 0.8]), np.array([[0.0], [50.0]])
        log_var = np.zeros((2, 1))
        joint = [log_qz(mu[[0, j]], mu[[0, j]], log_var, 2).joint[0] for j in range(2)]
        estimate = np.exp(joint) @ p
        q = p @ stats.norm.pdf(mu[0, 0], mu[:, 0])
        assert estimate / q == pytest.approx(3.0)
