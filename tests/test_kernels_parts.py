"""The pieces of the pairwise kernels, each called by itself: tiles of few posteriors, blocks, buffers, memory kept."""

import itertools
import platform

import numpy as np
import pytest
from tcvae_kernels import _jit, pairwise, threads
from tcvae_kernels import exp as exponential

from tcvae_ref import estimators

DTYPES = ("float64", "float32")
EXACT = {"float64": 1e-13, "float32": 1e-5}
WEIGHTS = [(1.0, 1.0), (0.25, 0.5), (1.0, 2.0), (2.0, 1.0)]  # of j = i and j = i + 1


def problem(S, N, D=3, dtype="float64", seed=0):
    """Samples near posteriors of much the same width: no row underflows, none is unsafe."""
    rng = np.random.default_rng(seed)
    mu, log_var = rng.standard_normal((N, D)), 0.5 * rng.standard_normal((N, D))
    z = mu[np.arange(S) % N] + rng.standard_normal((S, D))
    return tuple(a.astype(dtype) for a in (z, mu, log_var))


def weights(S, N, special):
    """Of sample i and posterior j: 1, but `special` for j = i and j = i + 1 where there is a posterior i."""
    w = np.ones((S, N))
    for i in range(min(S, N)):
        w[i, (i + 1) % N] *= special[1]
        w[i, i] *= special[0]
    return w


def sums_by_numpy(z, mu, log_var, w):
    """sum_j w_ij exp(L_ij) of the joint, less D log 2 pi / 2, and of each marginal, in units of the kernels' own."""
    z, mu, log_var = (a.astype(np.float64) for a in (z, mu, log_var))
    q = (z[:, None] - mu) ** 2 * np.exp(-log_var)
    joint = np.sum(w * np.exp(-0.5 * np.sum(q + log_var, axis=2)), axis=1)
    marginals = np.sum(w[..., None] * np.exp(-0.5 * (q + log_var - log_var.min(axis=0))), axis=1)
    return joint, marginals


def summed(kind, z, mu, log_var, special, tile):
    """What `values` finds for whole fours of samples, or `values_and_gradient`, a few posteriors at a time."""
    (S, D), N, dtype = z.shape, len(mu), z.dtype
    if kind != "values":
        z = pairwise.fill_up(z, pairwise.TOGETHER)
    posteriors, found = pairwise.prepare(mu, log_var, []), pairwise._Sums.zeros(len(z), D)
    special = tuple(dtype.type(w) for w in special)
    tiny = pairwise.TINY[dtype.itemsize]
    with np.errstate(all="ignore"):
        if kind == "values":
            rows = np.empty((4, tile), dtype), np.empty((4, tile), dtype)
            pairwise.values(z, posteriors, special, 0, S, tile, tiny, *rows, found)
        else:
            W, E = np.empty((2, pairwise.TOGETHER, N), dtype)
            sums, at_z = np.empty((4 * D + 1, N)), np.zeros((2, len(z), D))
            part = None if dtype == np.float64 else np.empty((4 * D + 1, N), dtype)
            one = np.ones(len(z)), np.ones((len(z), D))
            pairwise.values_and_gradient(
                *(z, posteriors, special, 0, len(z), tile, tiny, one, W, E, sums, part, found, at_z),
            )
    return pairwise._Sums(*(of_all[:S] for of_all in found))


def largest_terms(z, mu, log_var):
    """The largest of -sum_d (t^2 + log_var) over the posteriors, of each sample."""
    return np.max(-np.sum((z[:, None] - mu) ** 2 * np.exp(-log_var) + log_var, axis=2), axis=1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("special", WEIGHTS)
@pytest.mark.parametrize(
    ("S", "N", "tile"), [(12, 12, 5), (24, 23, 4), (12, 9, 3), (8, 30, 7), (20, 20, 64), (4, 1, 2)]
)
@pytest.mark.parametrize("kind", ["values", "values and gradient"])
class TestSums:
    def test_ordinary_rows(self, kind, S, N, tile, special, dtype):
        """Wherever a tile begins; each row once, with no maximum taken out of a marginal's."""
        z, mu, log_var = problem(S, N, dtype=dtype)
        found = summed(kind, z, mu, log_var, special, tile)
        joint, marginals = sums_by_numpy(z, mu, log_var, weights(S, N, special))
        np.testing.assert_allclose(found.joint * np.exp(0.5 * found.joint_tops), joint, rtol=EXACT[dtype])
        np.testing.assert_allclose(found.marginals, marginals, rtol=EXACT[dtype])
        assert not found.marginal_tops.any()

    def test_what_is_taken_out_of_a_joint(self, kind, S, N, tile, special, dtype):
        """Where only values are wanted its largest term, for the gradient the highest peak of each dimension."""
        z, mu, log_var = problem(S, N, dtype=dtype, seed=1)
        found = summed(kind, z, mu, log_var, special, tile)
        peaks = np.full(S, -np.sum(log_var.min(axis=0)))
        expected = largest_terms(z, mu, log_var) if kind == "values" else peaks
        np.testing.assert_allclose(found.joint_tops, expected, rtol=10 * EXACT[dtype])


@pytest.mark.parametrize("special", WEIGHTS)
@pytest.mark.parametrize("kind", ["values", "values and gradient"])
def test_rows_that_are_summed_again(kind, special):
    """Of a sample far from every posterior, and in a dimension whose widths lie further apart than exp can say."""
    z, mu, log_var = problem(12, 12)
    z[5] = 90.0
    log_var[4, 1] = -1350.0
    z[4, 1] = mu[4, 1]
    found = summed(kind, z, mu, log_var, special, 5)
    with np.errstate(divide="ignore"):
        log_w = np.log(weights(12, 12, special))
    joint, expected = estimators.log_qz_rows(z, mu, log_var, log_w)
    h = np.where([False, True, False], 0.0, log_var.min(axis=0))
    got = np.log(found.marginals) + 0.5 * (found.marginal_tops - h - np.log(2 * np.pi))
    np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12)
    got = np.log(found.joint) + 0.5 * (found.joint_tops - 3 * np.log(2 * np.pi))
    np.testing.assert_allclose(got, joint, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("far", range(4, 8))
def test_a_joint_whose_product_underflows_takes_its_four_from_their_maxima(far):
    """None of the sample's marginals underflows."""
    z, mu, log_var = problem(12, 12)
    z[far] = 35.0
    found = summed("values and gradient", z, mu, log_var, (0.25, 0.5), 5)
    assert not found.marginal_tops.any()
    expected = np.full(12, -np.sum(log_var.min(axis=0)))
    expected[4:8] = largest_terms(z, mu, log_var)[4:8]
    np.testing.assert_allclose(found.joint_tops, expected, rtol=1e-12)
    joint = estimators.log_qz_rows(z, mu, log_var, np.log(weights(12, 12, (0.25, 0.5)))).joint
    got = np.log(found.joint) + 0.5 * (found.joint_tops - 3 * np.log(2 * np.pi))
    np.testing.assert_allclose(got, joint, rtol=1e-12)


def test_products_flush_to_zero_on_x86_and_nothing_after_them_does():
    """Two factors whose product is subnormal: slow arithmetic, on x86 only."""
    one, zero = np.ones(8), np.zeros(8)
    products = tuple(np.full(8, 2.0**-560) for _ in range(4))
    z = np.full((4, 1), np.sqrt(2 * 500 * np.log(2)))  # exp(-z^2 / 2) = 2^-500
    small, smaller, subnormal = np.full(8, 2.0**-560), np.full(8, 2.0**-500), 2.0**-1060
    pairwise._exponentials(z, 0, 0, zero, one, zero, None, products, None, None)
    after = small * smaller
    flushed = _jit.COMPILED and platform.machine().lower() in ("x86_64", "amd64")
    np.testing.assert_allclose(products, np.full((4, 8), 0.0 if flushed else subnormal), rtol=1e-3)
    assert np.all(after == subnormal)  # which was computed before: flushed, it would be 0 too


@pytest.mark.parametrize(("dtype", "least"), [("float64", 2.0**-960), ("float32", 2.0**-90)])
def test_weights_that_are_too_small_are_normalised_to_zero(dtype, least):
    rows = [np.array([1.0, least, 0.5 * least, 0.0], dtype) for _ in range(4)]
    P, r = np.ones(4, dtype), [np.dtype(dtype).type(c) for c in (1, 2, 3, 4)]
    pairwise._normalise(*rows, *r, P)
    np.testing.assert_array_equal(rows, [[c, c * least, 0.0, 0.0] for c in (1, 2, 3, 4)])
    np.testing.assert_array_equal(P, [11.0, 1.0, 1.0, 1.0])


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_highest_exponent_of_a_marginal(dtype):
    rng = np.random.default_rng(3)
    for _ in range(20):
        mu, s, g = rng.standard_normal(5), 1.0 + rng.random(5), rng.standard_normal(5)
        mu, s, g = (a.astype(dtype) for a in (mu, s, g))
        z = np.dtype(dtype).type(rng.standard_normal())
        t = (z - mu) * s
        assert pairwise._highest_marginal(z, mu, s, g) == pytest.approx(np.max(g - t * t), rel=EXACT[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_over_several_tiles_blocks_and_finishing_tasks(dtype, monkeypatch):
    """Also of a sample so far away that its marginals are summed again."""
    for name, few in (("TILE", {8: 5, 4: 5}), ("FINISHED", 4), ("FLUSH_ROWS", 16), ("BLOCKS", 3), ("BLOCK_ROWS", 8)):
        monkeypatch.setattr(pairwise, name, few)
    z, mu, log_var = problem(37, 23, dtype=dtype)
    z[3] = 60.0
    rng = np.random.default_rng(2)
    a, b = rng.random(37), rng.random((37, 3))
    _, _, gradient = pairwise.log_sums_and_gradient(z, mu, log_var, pairwise.Weights(0.0), a, b)
    wide = tuple(x.astype(np.float64) for x in (z, mu, log_var))
    t = (wide[0][:, None] - wide[1]) * np.exp(-0.5 * wide[2])
    L = -0.5 * (t * t + wide[2])

    def softmax(x):
        e = np.exp(x - x.max(axis=1, keepdims=True))
        return e / e.sum(axis=1, keepdims=True)

    for got, p in (
        (gradient.joint, a[:, None, None] * softmax(L.sum(axis=2))[..., None] + 0 * t),
        (gradient.marginals, b[:, None] * softmax(L)),
    ):
        in_mu = p * t * np.exp(-0.5 * wide[2])
        expected = -in_mu.sum(axis=1), in_mu.sum(axis=0), 0.5 * np.sum(p * (t * t - 1.0), axis=0)
        for one, other in zip(got, expected, strict=True):
            assert np.max(np.abs(one - other)) <= 20 * EXACT[dtype] * np.max(np.abs(other))


def test_progress_of_values_counts_samples(monkeypatch):
    monkeypatch.setattr(pairwise, "FORWARD_ROWS", 8)
    z, mu, log_var = problem(30, 12)
    said = []
    with threads.single():
        pairwise.log_sums(z, mu, log_var, pairwise.Weights(0.0), lambda *a: said.append(a))
    assert [total for _, total in said] == [30] * len(said)
    assert [done for done, _ in said] == sorted({min(30, 4 * k) for k in range(1, 9)} & {d for d, _ in said})
    assert len(said) >= 4
    assert said[-1] == (30, 30)


class TestBlocks:
    @pytest.mark.parametrize(("rows", "count"), [(8, 8), (200, 3), (2048, 8), (72, 9), (80, 9)])
    def test_cut_into_whole_eights(self, rows, count):
        """Equal ones, but for a last one that is smaller."""
        blocks = pairwise._cut(rows, count)
        assert [first for first, _ in blocks] == [0, *(last for _, last in blocks[:-1])]
        assert blocks[-1][1] == rows
        assert len(blocks) <= count
        sizes = [last - first for first, last in blocks]
        assert all(size % 8 == 0 for size in sizes)
        assert sizes[0] == min(rows, 8 * -(-rows // (8 * count)))

    @pytest.mark.parametrize(
        ("rows", "count", "sizes"),
        [
            (2048, 10, [344] * 4 + [176] * 2 + [88, 88, 88, 56]),
            (2048, 12, [256] * 6 + [128] * 2 + [64] * 4),
            (88, 10, [16, 16, 16, 16, 8, 8, 8]),
            (48, 10, [8] * 6),
            (8, 10, [8]),
            (120, 10, [24] * 4 + [16, 8]),
        ],
    )
    def test_the_last_six_of_ten_and_more_are_halves_and_quarters(self, rows, count, sizes):
        assert [last - first for first, last in pairwise._cut(rows, count)] == sizes

    def test_how_many(self):
        """As many as threads may want; fewer where their sums, 8 (4 D + 1) N bytes each, fill too much memory."""
        count = pairwise._count
        assert count(2048, 2048, 10) == 10
        assert count(256 * 20, 2048, 10) == 20
        each = 8 * 41 * 2048
        for blocks in (8, 12, 48):
            N = 2048 * (2**25 // each) // blocks
            assert count(10**6, N, 10) in (blocks, blocks + 1, blocks + 2)
        most = [count(10**6, N, 10) for N in (2**k for k in range(8, 20))]
        assert most == sorted(most, reverse=True)
        assert all(c % 2 == 0 for c in most)
        assert most[-1] == 2
        assert count(10**6, 2**26 // (8 * 41) // 4, 10) == 4  # for the threads' sake
        assert count(10**6, 2**26 // (8 * 41) // 4 + 1, 10) == 2


class TestInOrder:
    def test_whichever_block_is_done_first(self):
        """(1e16 + 1) - 1e16 is 0, in any other order 1."""
        for order in itertools.permutations(range(3)):
            sums = np.array([1e16, 1.0, -1e16])[:, None, None] + np.zeros((3, 2, 4))
            in_order = pairwise._InOrder(sums)
            for block in order:
                in_order.add(block)
            np.testing.assert_array_equal(in_order.total(), np.zeros((2, 4)))

    def test_added_as_soon_as_all_before_are_done(self):
        sums = np.array([1.0, 10.0, 100.0])[:, None, None] + np.zeros((3, 1, 1))
        in_order = pairwise._InOrder(sums)
        for block, so_far in ((1, 1.0), (0, 11.0), (2, 111.0)):
            in_order.add(block)
            assert sums[0, 0, 0] == so_far

    def test_what_another_thread_was_too_busy_for_is_in_the_total(self):
        sums = np.array([1.0, 10.0])[:, None, None] + np.zeros((2, 1, 1))
        in_order = pairwise._InOrder(sums)
        in_order.add(0)
        with in_order._lock:
            in_order.add(1)
            assert sums[0, 0, 0] == 1.0
        assert in_order.total()[0, 0] == 11.0


class TestPrepare:
    def test_what_the_loops_read(self):
        mu, log_var = np.arange(6.0).reshape(3, 2), np.array([[-1.0, 2.0], [0.5, 18.5], [3.0, 1.0]])
        posteriors = pairwise.prepare(mu, log_var, [])
        np.testing.assert_array_equal(posteriors.mu[:, :3], mu.T)
        np.testing.assert_allclose(posteriors.s[:, :3], np.exp(-0.5 * log_var.T), rtol=1e-15)
        np.testing.assert_array_equal(posteriors.h, [-1.0, 0.0])  # the second dimension's lie too far apart
        np.testing.assert_array_equal(posteriors.g[:, :3], posteriors.h[:, None] - log_var.T)
        np.testing.assert_array_equal(posteriors.T, -log_var.sum(axis=1))
        np.testing.assert_array_equal(posteriors.unsafe, [False, True])

    @pytest.mark.parametrize(("dtype", "widest"), [("float64", 400.0), ("float32", 64.0)])
    def test_dimensions_that_are_unsafe(self, dtype, widest):
        low, edge = [0.0, -3.0, widest - 1, widest - 1], [16.0, 13.5, widest, np.nextafter(widest, 1e3, dtype=dtype)]
        posteriors = pairwise.prepare(np.zeros((2, 4), dtype), np.array([low, edge], dtype), [])
        np.testing.assert_array_equal(posteriors.unsafe, [False, True, False, True])


class TestMemory:
    def test_buffers_lie_on_cache_lines_at_different_places_within_a_page(self):
        used = []
        for columns, dtype in ((5, "float64"), (2048, "float64"), (2048, "float32"), (4096, "float32")):
            three = pairwise.buffers(3, 4, columns, np.dtype(dtype), used)
            for one in three:
                assert one.shape[0] == 4
                assert columns <= one.shape[1] <= columns + 17 * 64 // one.itemsize
                assert one.ctypes.data % 64 == 0
                assert one.strides == (one.shape[1] * one.itemsize, one.itemsize)
                assert one.strides[0] % 64 == 0
                assert one.strides[0] % 1024 == 9 * 64  # neighbouring rows begin at different places too
                one[:] = 1
            places = [one.ctypes.data for one in three]
            assert all(b - a >= three[0].nbytes for a, b in itertools.pairwise(places))
            assert len({place % 4096 for place in places}) == 3
        assert len(used) == 4
        begins = {memory.ctypes.data for memory in used}
        assert len(begins) == 4

    def test_what_is_given_back_is_taken_again_where_it_fits(self, monkeypatch):
        scratch = pairwise.Scratch()
        small, large = np.empty(100, np.uint8), np.empty(1000, np.uint8)
        scratch.give_back([small, large])
        assert scratch.take(499).size == 499
        assert scratch.take(500) is large  # half of it is wanted
        assert scratch.take(100) is small
        assert scratch.take(100) is not small
        monkeypatch.setattr(pairwise.Scratch, "KEPT", 250)
        three = [np.empty(100, np.uint8) for _ in range(3)]
        scratch.give_back(three)
        assert [id(m) for m in scratch._free] == [id(m) for m in three[1:]]  # the oldest goes
        scratch.give_back([np.empty(50, np.uint8)])
        assert [m.size for m in scratch._free] == [100, 100, 50]  # as much as may be kept

    def test_nobody_waits_for_who_holds_it(self):
        scratch = pairwise.Scratch()
        kept = np.empty(100, np.uint8)
        scratch.give_back([kept])
        with scratch._lock:
            assert scratch.take(100) is not kept
            scratch.give_back([np.empty(100, np.uint8)])
        assert scratch.take(100) is kept
        assert not scratch._lock.locked()


@pytest.mark.parametrize("dtype", DTYPES)
def test_exp_at_a_few_points(dtype):
    x = np.array([0.0, -0.1, -0.34, -0.35, -0.5, -1.0, -2.5, -10.2, -42.0, -80.3], dtype)
    smallest = [-104.1, -120.0, -156.0, -200.0] if dtype == "float32" else [-746.0, -1000.0, -1118.0, -1490.0]
    beyond = np.array(smallest, dtype)
    got, none = np.empty_like(x), np.empty_like(beyond)
    with np.errstate(all="ignore"):
        exponential.exp_into(x, got)
        exponential.exp_into(beyond, none)
    exact = np.exp(x.astype(np.longdouble))
    assert np.max(np.abs(got - exact) / np.spacing(exact.astype(dtype))) < 2
    assert not none.any()


def test_where_weights_end():
    assert pytest.approx(2 * np.log(2.0**-960), rel=1e-15) == exponential.CUT_64
    assert pytest.approx(2 * np.log(2.0**-90), rel=1e-7) == exponential.CUT_32


def test_many_terms_below_the_cut_of_float32_count():
    """4,000 of 2^-91 beside one of 2^-78: the row's sum is so small that it is taken from its maximum."""
    t = np.sqrt(2 * np.log(2) * np.array([78.0, *[91.0] * 4000])).astype("float32")
    z, mu, log_var = np.zeros((1, 1), "float32"), t[:, None], np.zeros((4001, 1), "float32")
    _, got = pairwise.log_sums(z, mu, log_var, pairwise.Weights(0.0))
    expected = estimators.log_qz_rows(z.astype(float), mu.astype(float), log_var.astype(float), 0.0).marginals
    np.testing.assert_allclose(got, expected, rtol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_benchmarks_limit_takes_every_exponential(dtype):
    """M N (D + 1) of them, between exp(-20) and 1."""
    x = -40.0 * np.random.default_rng(0).random(512).astype(dtype)
    each = 64 * 96 * 11 // (16 * 512)
    with np.errstate(all="ignore"):
        one = float(exponential.sum_of_weights(x))
    assert one == pytest.approx(np.sum(np.exp(x / 2.0)), rel=1e-5)
    assert pairwise.exponentials_only(64, 96, 10, dtype) == pytest.approx(16 * each * one, rel=1e-5)


def test_one_estimate_of_samples_apart_from_the_components_for_each_sample():
    z, mu, log_var = problem(4, 9)
    joint, marginals = pairwise.log_sums(z, mu, log_var, pairwise.Weights(-np.log(9)))
    expected = estimators.log_qz_exact(z, mu, log_var, 9)
    np.testing.assert_allclose(joint, expected.joint, rtol=1e-13)
    np.testing.assert_allclose(marginals, expected.marginals, rtol=1e-13)
