"""Correlated sampling of factors: the probabilities against a count over the images, and their properties."""

import dataclasses

import numpy as np
import pytest

from tcvae_ref.checks import InputError
from tcvae_ref.data import ByteImages, Factor, FactorDataset, FactorGrid
from tcvae_ref.data.correlated import KINDS, correlated, pair_probabilities


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

    def test_once_is_enough(self):
        with pytest.raises(InputError, match="already"):
            correlated(correlated(data_set(), ("f0", "f1"), "skewed"), ("f0", "f3"), "skewed")
