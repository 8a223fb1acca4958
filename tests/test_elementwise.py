"""Training's fused functions, and the row-blocked estimators, against the reference: values, gradients, whole runs."""

import numpy as np
import pytest
from autograd import grad
from autograd import numpy as anp
from problems import BATCH, case, expected_log_qz
from tcvae_kernels import COMPILED, elementwise

from tcvae_ref import InputError, estimators, likelihood, networks
from tcvae_ref.cli import machinery
from tcvae_ref.data import grid, render
from tcvae_ref.training import NUMPY, Settings, adam, initial_state, row_blocks, train
from tcvae_ref.training.row_blocks import in_row_blocks

DTYPES = ("float64", "float32")
MSS = estimators.expected_log_qz_mss, estimators.log_weights_mss


def images_and_logits(dtype, M=37, P=1300):
    rng = np.random.default_rng(0)
    x = (rng.random((M, P)) > 0.5).astype(dtype)
    return x, (rng.standard_normal((M, P)) * rng.choice([1e-3, 1.0, 10.0, 100.0], (M, P))).astype(dtype)


def agree(ours, theirs, ulp):
    """Raise unless of one dtype and within so many ulp of the largest entry."""
    assert ours.dtype == theirs.dtype
    scale = np.finfo(theirs.dtype).eps * max(float(np.max(np.abs(theirs))), 1e-30)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=ulp * scale)


@pytest.mark.parametrize("dtype", DTYPES)
class TestBernoulli:
    def test_value_and_gradient(self, dtype):
        x, logits = images_and_logits(dtype)
        weights = np.arange(len(x), dtype=dtype)
        agree(elementwise.bernoulli_log_likelihood(x, logits), likelihood.bernoulli_log_likelihood(x, logits), 8)
        ours, theirs = (
            grad(lambda a, f=module.bernoulli_log_likelihood: anp.sum(weights * f(x, a)))(logits)
            for module in (elementwise, likelihood)
        )
        agree(ours, theirs, 4)

    def test_log1p_to_its_last_digits(self, dtype):
        e = np.linspace(0, 1, 2001).astype(dtype)
        logits = -np.log(e[1:])  # x = 1, l >= 0: log p = -log1p(exp(-l))
        one = np.ones((len(logits), 1), dtype)
        got = -elementwise.bernoulli_log_likelihood(one, logits[:, None])
        exact = np.log1p(np.exp(-logits.astype(np.longdouble)))
        assert np.max(np.abs(got - exact) / np.spacing(exact.astype(dtype))) < 2.5

    def test_same_complaints(self, dtype):
        x, logits = images_and_logits(dtype, 3, 5)
        broken = logits.copy()
        broken[1, 2] = np.nan
        bad = [
            (x + 1, logits),
            (x, broken),
            (x[:2], logits),
            (x, logits.astype("float16")),
            (x.astype("float16"), logits.astype("float16")),
            (x, logits[0]),
            (x - 1, logits),
            (x.astype("float32" if dtype == "float64" else "float64"), logits),
            (x[:, :0], logits[:, :0]),
            (x.tolist(), logits),
            (x[None], logits[None]),
        ]
        for arguments in bad:
            messages = []
            for module in (elementwise, likelihood):
                with pytest.raises(InputError) as caught:
                    module.bernoulli_log_likelihood(*arguments)
                messages.append(str(caught.value))
            assert messages[0] == messages[1]

    def test_few_pixels_in_many_blocks(self, dtype, monkeypatch):
        """Every pixel of its own, some 0, some 1 and some logits 0; blocks of two images, chunks of three pixels."""
        monkeypatch.setattr(elementwise, "BLOCK", 16)
        monkeypatch.setattr(elementwise, "CHUNK", 3)
        rng = np.random.default_rng(5)
        x = rng.random((7, 8)).astype(dtype)
        logits = (4 * rng.standard_normal((7, 8))).astype(dtype)
        x[:, 2], x[:, 5], logits[3] = 0, 1, 0
        agree(elementwise.bernoulli_log_likelihood(x, logits), likelihood.bernoulli_log_likelihood(x, logits), 8)
        ours, theirs = (
            grad(lambda a, f=module.bernoulli_log_likelihood: anp.sum(np.arange(1, 8, dtype=dtype) * f(x, a)))(logits)
            for module in (elementwise, likelihood)
        )
        agree(ours, theirs, 8)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["relu_layer", "tanh_layer", "linear_layer"])
def test_layers(name, dtype):
    rng = np.random.default_rng(1)
    h, W, b = (rng.standard_normal(s).astype(dtype) for s in ((37, 50), (50, 70), (70,)))
    ours, theirs = getattr(elementwise, name), getattr(networks, name)
    agree(ours(h, W, b), theirs(h, W, b), 4)
    for a, c in zip(
        grad(lambda *q: anp.sum(ours(*q) ** 3), (0, 1, 2))(h, W, b),
        grad(lambda *q: anp.sum(theirs(*q) ** 3), (0, 1, 2))(h, W, b),
        strict=True,
    ):
        agree(a, c, 32)


@pytest.mark.parametrize("block", [1, 8, 12])
@pytest.mark.parametrize("name", ["relu_layer", "tanh_layer", "linear_layer"])
def test_layers_in_many_blocks(name, block, monkeypatch):
    """No row is left out and none is activated twice, in place; a ReLU at 0 passes no gradient."""
    monkeypatch.setattr(elementwise, "BLOCK", block)
    rng = np.random.default_rng(6)
    h, W, b = (rng.integers(-2, 3, s).astype(float) for s in ((9, 3), (3, 4), (4,)))
    assert (h @ W + b == 0).any()
    ours, theirs = getattr(elementwise, name), getattr(networks, name)
    agree(ours(h, W, b), theirs(h, W, b), 4)
    weights = rng.standard_normal((9, 4))
    slopes = [grad(lambda *q, f=f: anp.sum(weights * f(*q)), (0, 1, 2))(h, W, b) for f in (ours, theirs)]
    for a, c in zip(*slopes, strict=True):
        agree(a, c, 32)


@pytest.mark.parametrize("dtype", DTYPES)
def test_adam_in_many_blocks(dtype, monkeypatch):
    monkeypatch.setattr(elementwise, "BLOCK", 4)
    rng = np.random.default_rng(7)
    ours = [rng.standard_normal(11).astype(dtype) for _ in range(3)] + [rng.random(11).astype(dtype)]
    theirs = [a.copy() for a in ours]
    for a, update in ((ours, elementwise.adam_update), (theirs, adam.adam_update)):
        update(*a, (0.8, 0.95, 0.2, 0.05, 1e-2, 1e-1))
    for a, b in zip(ours, theirs, strict=True):
        agree(a, b, 4)


@pytest.mark.parametrize("dtype", DTYPES)
def test_tanh_everywhere(dtype):
    v = np.concatenate([np.linspace(-12, 12, 20_001), 10.0 ** np.linspace(-30, 1, 500), [-np.inf, np.inf]])
    v = v[v != 0].astype(dtype)[None]
    got = elementwise.tanh_layer(np.ones((1, 1), dtype), np.zeros((1, v.size), dtype), v[0])
    exact = np.tanh(v.astype(np.longdouble))
    ulp = np.abs(got - exact) / np.spacing(np.abs(exact).astype(dtype))
    assert np.max(ulp) < 3
    assert np.max(ulp[np.abs(v) < 0.125]) < 0.75  # the series


@pytest.mark.parametrize("dtype", DTYPES)
def test_tanh_by_its_series(dtype):
    v = np.linspace(0.1, 0.125, 101, endpoint=False).astype(dtype)
    got = elementwise.tanh_layer(np.ones((1, 1), dtype), np.zeros((1, v.size), dtype), v)[0]
    exact = np.tanh(v.astype(np.longdouble))
    assert np.max(np.abs(got - exact) / np.spacing(exact.astype(dtype))) < 0.75


@pytest.mark.parametrize("dtype", DTYPES)
def test_adam(dtype):
    rng = np.random.default_rng(2)
    ours = [rng.standard_normal(200_003).astype(dtype) for _ in range(3)] + [rng.random(200_003).astype(dtype)]
    theirs = [a.copy() for a in ours]
    numbers = (0.8, 0.95, 0.2, 0.05, 1e-2, 1e-6)
    elementwise.adam_update(*ours, numbers)
    adam.adam_update(*theirs, numbers)
    for a, b in zip(ours, theirs, strict=True):
        agree(a, b, 2)


class TestRowBlocks:
    @pytest.mark.parametrize("estimator", BATCH)
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_same_as_the_whole(self, estimator, dtype):
        z, mu, log_var, N = case(np.random.default_rng(5), "mss", dtype, largest=(40, 5))
        assert z.shape[1] > 1  # the joint is not the marginals
        weights = {
            "minibatch": lambda M, N: estimators.log_weights_mws(M, 1),
        }.get(estimator) or getattr(estimators, f"log_weights_{estimator}")
        whole = expected_log_qz(estimator)
        blocks = in_row_blocks(whole, weights, block_bytes=3 * z.size * z.itemsize)
        for a, b in zip(blocks(z, mu, log_var, N), whole(z, mu, log_var, N), strict=True):
            agree(np.asarray(a), np.asarray(b), 16)

        def weighted(expected):
            def both(*arguments):
                joint, marginals = expected(*arguments, N)
                return 0.3 * joint - 2.0 * marginals

            return grad(both, (0, 1, 2))(z, mu, log_var)

        for a, b in zip(weighted(blocks), weighted(whole), strict=True):
            agree(a, b, 64)

    @pytest.mark.parametrize(("inner", "outer"), [(0, 0), (0, 1), (2, 1)])
    def test_second_derivatives_are_refused(self, inner, outer):
        z, mu, log_var, N = case(np.random.default_rng(4), "mss", largest=(9, 3))
        blocks = in_row_blocks(estimators.expected_log_qz_mss, estimators.log_weights_mss, block_bytes=1)
        with pytest.raises(InputError, match=r"in_row_blocks: a second derivative.*tcvae_ref"):
            grad(lambda *x: anp.sum(grad(lambda *y: blocks(*y, N).joint, inner)(*x) ** 2), outer)(z, mu, log_var)

    def test_blocks_of_as_many_rows_as_there_is_room_for(self, monkeypatch):
        """The whole up to the limit; beyond it whole rows that fit, one at least, and the last what is left."""
        z, mu, log_var = np.random.default_rng(8).standard_normal((3, 7, 2))
        seen = []
        log_qz_rows = estimators.log_qz_rows
        monkeypatch.setattr(row_blocks, "log_qz_rows", lambda *a: seen.append(len(a[0])) or log_qz_rows(*a))

        def whole(*arguments):
            seen.append(f"whole {len(arguments[0])}")
            return estimators.expected_log_qz_mws(*arguments)

        row = z.size * z.itemsize
        for room, blocks in (
            *((7 * row, ["whole 7"]), (7 * row - 1, ["whole 2", 6, 1]), (3 * row, ["whole 2", 3, 3, 1])),
            *((2 * row - 1, ["whole 2", *[1] * 7]), (1, ["whole 2", *[1] * 7])),
        ):
            seen.clear()
            result = in_row_blocks(whole, estimators.log_weights_mws, room)(z, mu, log_var, 9)
            assert seen == blocks
            np.testing.assert_allclose(result, estimators.expected_log_qz_mws(z, mu, log_var, 9), rtol=1e-14)
        alone = (a[:1] for a in (z, mu, log_var))
        assert np.isfinite(in_row_blocks(whole, estimators.log_weights_mws, 1)(*alone, 9)).all()

    @pytest.mark.parametrize("changed", [0, 1, 2])
    def test_shapes_that_do_not_fit_get_the_references_complaint(self, changed):
        arguments = [np.zeros((9, 2)) for _ in range(3)]
        arguments[changed] = np.zeros((9, 3))
        messages = []
        for f in (estimators.expected_log_qz_mss, in_row_blocks(*MSS, block_bytes=1)):
            with pytest.raises(InputError) as caught:
                f(*arguments, 50)
            messages.append(str(caught.value))
        assert messages[0] == messages[1]

    def test_the_reference_complains(self):
        z = np.zeros((9, 2))
        blocks = in_row_blocks(estimators.expected_log_qz_mss, estimators.log_weights_mss, block_bytes=1)
        with pytest.raises(InputError, match="exceeds dataset_size"):
            blocks(z, z, z, 5)
        z[8, 1] = np.nan
        with pytest.raises(InputError, match="nan or infinite"):
            blocks(z, np.zeros((9, 2)), np.zeros((9, 2)), 50)


@pytest.mark.skipif(not COMPILED, reason="interpreted kernels are too slow to train with")
def test_a_run_on_kernels_follows_the_reference():
    """Twenty steps; float32 rounding differs, the terms agree to a thousandth."""
    settings = Settings(epochs=2, batch=128, encoder=(32, 32), decoder=(32, 32), estimator="mss")
    data = render(grid("hearts"))
    chosen = machinery("numba", None)
    histories = [
        train(
            *(settings, data, initial_state(settings, data.images.pixels), lambda state: None),
            *(lambda done, total, terms: None, lambda: False, operations),
        ).history
        for operations in (NUMPY, chosen.operations)
    ]
    np.testing.assert_allclose(*histories, rtol=1e-3, atol=1e-3)
