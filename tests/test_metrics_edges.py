"""The metrics at the edges of what they promise: bounds on both sides, defaults, progress, blocks, single pieces."""

import math
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from tcvae_ref import InputError
from tcvae_ref.metrics import (
    brackets,
    decomposition,
    draws,
    entropy,
    factor_vae,
    higgins,
    information,
    mig,
    monte_carlo,
    octaves,
)
from tcvae_ref.metrics.checkpoint import Checkpoint
from tcvae_ref.metrics.dci import _predictor, _standardised, _weighted, dci
from tcvae_ref.metrics.partial import Aggregate
from tcvae_ref.metrics.sap import _linear_svm, sap, sap_r_squared

INSTALL = "pip install 'tcvae-ref[cluster]'"
UNLABELLED = {"labels": np.zeros((2, 0), int), "weights": None}


def grid_classes(*sizes):
    return np.indices(sizes).reshape(len(sizes), -1).T


def above(x):
    return np.nextafter(x, np.inf)


def below(x):
    return np.nextafter(x, -np.inf)


class Calls:
    """A progress hook that keeps what it is told."""

    def __init__(self):
        self.made = []

    def __call__(self, done, total):
        self.made.append((int(done), total))


def components(mu, sigma=None):
    """Components of one group."""
    mu = np.asarray(mu, dtype=np.float64)
    sigma = np.ones(len(mu)) if sigma is None else np.asarray(sigma, dtype=np.float64)
    return octaves.Components(mu, 0.0 * mu, sigma, np.full(len(mu), 1.0 / len(mu)), np.zeros((1, len(mu)), np.int32))


# --- brackets


def test_densities_below_1e_280_are_nothing_and_those_above_are_kept():
    constant = np.concatenate([np.full((1, 128), q) for q in (1.5e-280, 0.75e-280)])  # two cells
    finer = brackets.halved(np.array([0, 1]), constant, np.array([1]))
    np.testing.assert_allclose(finer[0], 1.5e-280, rtol=1e-12)
    np.testing.assert_allclose(finer[1, ::2], 0.75e-280, rtol=1e-12)  # as they were on the coarser grid
    assert np.all(finer[1, 1::2] == 0.0)


def test_density_of_1e_280_is_kept():
    weight = brackets.HALFWAY.max()  # of either neighbour
    near = 1e-280 / weight * (1.0 + np.arange(-8, 9) * 2.0**-53)
    (exact, *_) = near[near * weight == 1e-280]
    alone = np.zeros((1, 128))
    alone[0, 40] = exact
    finer = brackets.halved(np.array([0, 1]), alone, np.array([1]))  # from point 32 on
    np.testing.assert_array_equal(finer[0, 15:18], [1e-280, exact, 1e-280])


@pytest.mark.parametrize(("cells", "rows"), [(2**21, [2]), (2**21 + 1, [1, 1, 1])])
def test_grids_are_shared_up_to_2_to_the_28_densities(monkeypatch, cells, rows):
    asked = []

    def integrals(octaves, marginal, rows, group_densities):
        asked.append(rows)
        return np.zeros((1, 3, rows + 1))

    monkeypatch.setattr(brackets, "octaves", lambda *_: [SimpleNamespace(cells=range(cells))])
    monkeypatch.setattr(brackets, "integrals_over_tiles", integrals)
    assert brackets.phi_integrals({}, 0.25, 2, 2, None).shape == (1, 3, 3)
    assert asked == rows


def test_tiles_hold_2_to_the_21_densities_at_most_and_are_cut_no_further():
    rows, held = 1024, []
    grid = octaves.octaves(octaves.sorted_by_octave(components(1000.0 * np.arange(24))), 0.25)
    assert 32 < len(grid[0].cells) <= 64  # a cell has 2^6 points : two tiles

    def density(first, length, t, dt, height, members, shape):
        held.append(shape[0] * shape[1])
        return np.zeros(shape)

    brackets.integrals_over_tiles(grid, 1, rows, density)
    assert len(held) == 2
    assert max(held) <= 2**21


# --- checkpoint


class TestCheckpoint:
    CHUNKS = ((0, 2), (2, 3))

    def digests(self, done):
        assert not done
        return b""

    def test_of_no_component_is_read_back(self, tmp_path):
        kept, nothing = Checkpoint(tmp_path / "sums.npz", {"a": "b"}), Aggregate.of_nothing(3, 2)
        kept.save(nothing)
        read = kept.load(nothing, self.CHUNKS, self.digests)
        assert (read.components, read.kl, read.digests) == (0, 0.0, b"")

    def test_that_ends_within_a_chunk_is_refused(self, tmp_path):
        kept, nothing = Checkpoint(tmp_path / "sums.npz", {"a": "b"}), Aggregate.of_nothing(3, 2)
        kept.save(nothing._replace(components=1))
        with pytest.raises(InputError, match="do not fit together"):
            kept.load(nothing, self.CHUNKS, self.digests)


# --- cluster


class TestInDask:
    def given(self):
        array = pytest.importorskip("dask.array", reason=INSTALL)
        from tcvae_ref.metrics.cluster import InDask

        mu, log_var = np.random.default_rng(0).standard_normal((2, 5, 2))
        return mu, log_var, InDask(array.from_array(mu, chunks=(2, 2)), array.from_array(log_var, chunks=(2, 2)))

    def test_rows_come_as_they_are_asked_for(self):
        mu, log_var, posteriors = self.given()
        import dask

        index = np.array([3, 1, 3, 0])
        with dask.config.set(scheduler="synchronous"):
            got = posteriors.rows(index)
        np.testing.assert_array_equal(got[0], mu[index])
        np.testing.assert_array_equal(got[1], log_var[index])

    def test_progress_is_told_once_for_all_chunks_together(self):
        *_, posteriors = self.given()
        import dask

        def log_qz(z, mu, log_var, n):
            return np.zeros(len(z)), np.zeros(z.shape)

        task, calls = decomposition.Task(log_qz, 9, False), Calls()
        nothing, chunks = Aggregate.of_nothing(3, 2), [(0, 1), (1, 3), (3, 4)]
        with dask.config.set(scheduler="synchronous"):
            told = posteriors.add(nothing, np.zeros((3, 2)), chunks, task, calls)
            untold = posteriors.add(nothing, np.zeros((3, 2)), chunks, task, None)
        assert calls.made == [(4, 5)]
        assert told.components == untold.components == 4


# --- dci


class TestDCI:
    def test_takes_two_codes_and_no_fewer(self):
        classes = np.repeat(grid_classes(2, 2), 8, axis=0)
        codes, sizes = classes.astype(float), {"rng": 0, "train": 24, "test": 8}
        assert dci(codes, classes, **sizes).importance.shape == (2, 2)
        with pytest.raises(InputError, match="1 code is too few"):
            dci(codes[:, :1], classes, **sizes)

    def test_accuracies_are_in_the_order_of_the_factors(self):
        rng = np.random.default_rng(0)
        classes = rng.integers(2, size=(600, 2))
        codes = np.stack([classes[:, 0], rng.standard_normal(600)], axis=1)  # nothing of factor 1
        result = dci(codes, classes, 0, predictor=LogisticRegression(), train=400, test=200)
        for accuracies in (result.accuracies, result.train_accuracies):
            assert accuracies[0] == 1.0
            assert 0.35 < accuracies[1] < 0.65

    def test_mean_is_weighted_also_where_weights_are_small(self):
        assert _weighted(np.array([0.5, 1.0]), np.array([0.125, 0.375])) == 0.875
        assert _weighted(np.array([0.5, 1.0]), np.zeros(2)) == 0.0

    def test_codes_are_standardised_over_the_training_inputs(self):
        values = np.array([[3.0, 7.0], [5.0, 7.0], [7.0, 7.0], [100.0, 8.0]])
        standard = _standardised(values, np.array([0, 1, 2]))
        np.testing.assert_allclose(standard[:3, 0], np.array([-1.0, 0.0, 1.0]) * math.sqrt(1.5), rtol=1e-15)
        np.testing.assert_allclose(standard[3, 0], 95.0 / math.sqrt(8.0 / 3.0), rtol=1e-15)
        assert np.all(standard[:, 1] == 0.0)  # constant over the training inputs

    def test_predictor_is_a_forest_of_ten_trees_of_depth_eight_by_default(self):
        predictor, recipe, _, regresses = _predictor("dci", None, np.random.default_rng(0))
        given = predictor.get_params()
        assert (given["n_estimators"], given["max_depth"], given["max_features"]) == (10, 8, None)
        assert recipe == "RandomForestClassifier(max_depth=8, max_features=None, n_estimators=10)"
        assert not regresses

    @pytest.mark.parametrize("seed", range(3))
    def test_random_state_is_drawn_below_2_to_the_31(self, seed):
        predictor, *_ = _predictor("dci", None, np.random.default_rng(seed))
        assert predictor.random_state == np.random.default_rng(seed).integers(2**31)

    def test_random_state_of_the_predictor_is_kept(self):
        predictor, *_ = _predictor("dci", LogisticRegression(random_state=7), np.random.default_rng(0))
        assert predictor.random_state == 7


# --- decomposition


class Read:
    """An array that keeps which rows were read."""

    def __init__(self, array):
        self.array, self.shape, self.dtype, self.slices = array, array.shape, array.dtype, []

    def __getitem__(self, rows):
        self.slices.append((rows.start, rows.stop))
        return self.array[rows]


class TestDecomposition:
    def decomposed(self, N, D, S=2, during=lambda: None, **options):
        """Samples and components of each call of log_qz."""
        seen = []

        def log_qz(z, mu, log_var, n):
            seen.append((len(z), n))
            during()
            return np.zeros(len(z)), np.zeros(z.shape)

        zeros = np.zeros((N, D))
        decomposition.decomposition_exact(zeros, zeros, np.zeros(S, int), np.zeros((S, D)), log_qz, **options)
        return seen

    @pytest.mark.parametrize(
        ("N", "D", "sizes"),
        [(2**14 + 1, 2, [2**14, 1]), (3, 2**14, [2, 1]), (3, 2**15, [1, 1, 1]), (3, 2**15 + 1, [1, 1, 1])],
    )
    def test_chunk_holds_2_to_the_15_numbers_and_one_component_at_least(self, N, D, sizes):
        assert self.decomposed(N, D) == [(2, n) for n in sizes]

    def test_chunk_size_of_one_is_taken_and_of_none_refused(self):
        assert self.decomposed(3, 2, chunk_size=1) == [(2, 1)] * 3
        with pytest.raises(InputError, match="chunk_size=0 is too small"):
            self.decomposed(3, 2, chunk_size=0)

    def test_one_sample_at_a_time_where_no_more_fit(self):
        assert self.decomposed(3, 2, S=5, block_bytes=1) == [(1, 3)] * 5

    def test_as_many_samples_at_a_time_as_fit(self):
        assert self.decomposed(3, 2, S=5, block_bytes=2 * 3 * 2 * 8) == [(2, 3), (2, 3), (1, 3)]

    @pytest.mark.parametrize(("seconds", "saved"), [(10.0, [2, 4, 6]), (5.0, [4, 6]), (9.75, [4, 6])])
    def test_checkpoint_is_written_every_ten_seconds_and_once_at_the_end(self, monkeypatch, tmp_path, seconds, saved):
        clock, components = SimpleNamespace(now=0.0), []

        def pass_time():
            clock.now += seconds

        monkeypatch.setattr(decomposition, "time", SimpleNamespace(monotonic=lambda: clock.now))
        monkeypatch.setattr(Checkpoint, "save", lambda _, state: components.append(state.components))
        self.decomposed(6, 2, during=pass_time, chunk_size=2, checkpoint=tmp_path / "sums.npz")
        assert components == saved

    @pytest.mark.parametrize("shape", [(1, 1), (1, 2), (2, 1)])
    def test_one_posterior_and_one_latent_are_enough(self, shape):
        assert decomposition._check_posteriors("f", np.zeros(shape), np.zeros(shape)) == shape

    @pytest.mark.parametrize(
        ("mu", "log_var"),
        [
            ((3, 2), (2, 2)), ((3, 2), (3, 3)), ((3,), (3,)), ((), ()), ((3, 2, 2), (3, 2, 2)), ((0, 2), (0, 2)),
            ((2, 0), (2, 0)), ((0, 0), (0, 0)), ((math.nan, 2), (math.nan, 2)),
        ],
    )  # fmt: skip
    def test_shapes_that_are_not_one_matrix_are_refused(self, mu, log_var):
        arrays = [SimpleNamespace(shape=shape, dtype=np.dtype("float64")) for shape in (mu, log_var)]
        with pytest.raises(InputError, match="both must be one"):
            decomposition._check_posteriors("f", *arrays)

    def test_complaint_about_the_prior_shows_the_furthest_entry_of_the_first_bad_sample(self):
        z = np.array([[20.0, 2.0], [3.0, -40.0], [5.0, 600.0]])
        with pytest.raises(InputError, match=r"log p\(z\) is -inf where z, drawn from posterior 8, is -40 in float64"):
            decomposition._check_prior(np.array([0.0, -np.inf, -np.inf]), z, np.array([7, 8, 9]))

    def test_estimate_takes_two_values_and_no_fewer(self):
        assert decomposition.estimate(np.array([1.0, 3.0])) == (2.0, 1.0)
        with pytest.raises(InputError, match="give at least two"):
            decomposition.estimate(np.array([1.0]))

    @pytest.mark.parametrize(
        ("N", "D", "chunks"),
        [
            (2**14 + 1, 2, [(0, 2**14), (2**14, 2**14 + 1)]), (3, 2**14, [(0, 2), (2, 3)]),
            (3, 2**15, [(0, 1), (1, 2), (2, 3)]), (3, 2**15 + 1, [(0, 1), (1, 2), (2, 3)]),
        ],
    )  # fmt: skip
    def test_dimension_wise_kl_reads_the_same_chunks(self, N, D, chunks):
        mu, log_var = Read(np.zeros((N, D))), Read(np.zeros((N, D)))
        kl = decomposition.dimension_wise_kl_exact(mu, log_var, np.full(D, 0.5 * math.log(2 * math.pi * math.e)))
        np.testing.assert_allclose(kl, 0.0, atol=1e-12)
        assert mu.slices == log_var.slices == chunks


# --- draws


class TestInputs:
    CLASSES = np.array([[0], [1], [0]])

    def accepted(self, codes):
        return draws.inputs("f", np.array(codes), self.CLASSES, factors=1).codes

    def test_latents_of_zeros_are_taken(self):
        codes = [[0.0, 1.0], [0.0, 2.0], [0.0, 3.0]]
        np.testing.assert_array_equal(self.accepted(codes), codes)

    @pytest.mark.parametrize("edge", [1e30, 1.0 / 1e30])
    def test_codes_from_the_inverse_of_the_largest_to_the_largest_are_taken(self, edge):
        codes = [[edge, 0.0], [-edge, 1.0], [0.0, 2.0]]
        np.testing.assert_array_equal(self.accepted(codes), codes)

    @pytest.mark.parametrize("size", [above(1e30), below(1.0 / 1e30)])
    def test_codes_beyond_are_refused(self, size):
        with pytest.raises(InputError, match="rescale codes"):
            self.accepted([[size, 0.0], [-size, 1.0], [0.0, 2.0]])

    def test_small_codes_are_taken_where_their_latent_is_not_small(self):
        codes = [[1e-40, 1e-40], [1.0, 1e-40], [2.0, 1.0]]
        np.testing.assert_array_equal(self.accepted(codes), codes)


class TestWidths:
    EDGE = 1.0 / (500.0 * np.finfo(np.float64).eps)  # mean, in sigmas

    def test_at_the_edge_are_taken_and_beyond_refused(self):
        assert 500.0 * np.finfo(np.float64).eps * self.EDGE == 1.0
        draws.check_widths("f", np.array([[self.EDGE, -self.EDGE]]), np.zeros((1, 2)))
        with pytest.raises(InputError, match="too narrow"):
            draws.check_widths("f", np.array([[1.0, -self.EDGE * (1.0 + 1e-15)]]), np.zeros((1, 2)))

    @pytest.mark.parametrize("sigma", [1e-3, 1e3])
    def test_are_the_roots_of_the_variances(self, sigma):
        mu, log_var = np.array([[0.99], [1.01]]) * sigma * self.EDGE, np.full((2, 1), 2.0 * math.log(sigma))
        draws.check_widths("f", mu[:1], log_var[:1])
        with pytest.raises(InputError, match="1 posteriors are too narrow"):
            draws.check_widths("f", mu, log_var)

    def test_the_first_that_is_too_narrow_is_shown(self):
        mu, log_var = np.array([[1.0, 2e20], [3e20, 4e20]]), np.zeros((2, 2))
        with pytest.raises(InputError, match=r"3 posteriors .* with sigma 1 at mu 2e\+20 in latent 1"):
            draws.check_widths("f", mu, log_var)


def test_split_takes_two_inputs_to_train_and_one_to_test_and_no_fewer():
    fitting, testing = draws.split("f", 3, 2, 1, np.random.default_rng(0))
    assert sorted([*fitting, *testing]) == [0, 1, 2]
    assert len(testing) == 1
    for train, test, name in ((1, 1, "train=1"), (2, 0, "test=0")):
        with pytest.raises(InputError, match=f"{name} is too small"):
            draws.split("f", 3, train, test, np.random.default_rng(0))


# --- entropy


class TestError:
    """Of mixture_entropies, where the integrals by the step, twice and four times it are given."""

    def entropy(self, monkeypatch, given, tolerance=1e-10, N=1):
        """Its result, and the fractions asked for; given : integrals by step, for one fraction after the other."""
        fractions = []

        def integrals(by_octave, fraction, marginal, rows, group_densities):
            by_step = given[min(len(fractions), len(given) - 1)]
            fractions.append(fraction)
            return np.repeat(np.array(by_step)[None, :, None], rows + 1, axis=2)

        monkeypatch.setattr(entropy, "phi_integrals", integrals)
        zeros = np.zeros(N)
        result = entropy.mixture_entropies(zeros, zeros, np.zeros((N, 0), int), tolerance=tolerance)
        return result, fractions

    @pytest.mark.parametrize(
        ("last", "before", "error"),
        [(1e-12, 1e-3, 1e-6), (1e-12, -1e-3, 1e-6), (1e-5, 1e-3, 1e-5), (1e-5, 0.0, 1e-5), (-1e-5, 1e-5, 1e-5)],
    )
    def test_is_the_last_change_or_the_square_of_the_one_before(self, monkeypatch, last, before, error):
        by_steps = [(1.0, 1.0 + last, 1.0 + last + before), (1.0, 1.0, 1.0)]
        result, fractions = self.entropy(monkeypatch, by_steps, tolerance=2e-5)
        assert fractions == [0.25]
        np.testing.assert_allclose(result.error, error, rtol=1e-7)

    @pytest.mark.parametrize(("N", "H", "eps"), [(4, 3.0, 18 * 4), (100, -1.0, 26 * 2), (1, 0.0, 17)])
    def test_holds_the_rounding(self, monkeypatch, N, H, eps):
        result, _ = self.entropy(monkeypatch, [(H, H, H)], N=N)
        assert result.marginal == H
        np.testing.assert_allclose(result.error, eps * 2.0**-52, rtol=1e-14)

    def test_equal_to_the_tolerance_is_small_enough(self, monkeypatch):
        by_steps = [(1.0, 1.0 + 2.0**-20, 1.0 + 2.0**-20), (1.0, 1.0, 1.0)]
        assert self.entropy(monkeypatch, by_steps, tolerance=2.0**-20)[1] == [0.25]
        assert self.entropy(monkeypatch, by_steps, tolerance=below(2.0**-20))[1] == [0.25, 0.125]

    def test_is_made_small_by_halving_the_step(self, monkeypatch):
        by_steps = [(1.0, 2.0, 4.0), (1.0, 1.5, 2.0), (1.0, 1.25, 1.0), (1.0, 1.0, 1.0)]
        assert self.entropy(monkeypatch, by_steps)[1] == [0.25, 0.125, 0.0625, 0.03125]

    @pytest.mark.parametrize(
        ("errors", "halvings"),
        [
            ([below(1e-9), below(1e-9), 0.0], 1),  # as low as rounding lets it become
            ([1e-9, 1e-9, 0.0], 2),  # not yet so small that it has to become smaller
            ([1e-6, 1e-5, 0.0], 2),
            ([1e-10, 5e-11, 5e-11, 0.0], 2),  # while it becomes smaller
            ([1e-10, 5e-11, 2e-10, 0.0], 2),
        ],
    )
    def test_below_1e_9_that_becomes_no_smaller_is_rounding(self, monkeypatch, errors, halvings):
        by_steps = [(0.0, error, error) for error in errors]
        result, fractions = self.entropy(monkeypatch, by_steps, tolerance=1e-15)
        assert fractions == [0.25 / 2**i for i in range(halvings + 1)]
        np.testing.assert_allclose(result.error, errors[halvings] + 17 * 2.0**-52, rtol=1e-6)

    @pytest.mark.parametrize(
        ("change", "largest"),
        [
            ([[3.0, -2.0, 1.0]], 5.0),  # of the marginal's and the first conditional entropy's difference
            ([[3.0, 1.0, -2.0]], 5.0),  # of the second's
            ([[1.0, 2.0, 4.0]], 4.0),  # of an entropy
            ([[1.0, 0.0], [2.0, 0.0]], 3.0),  # octaves' changes are added
            ([[1.0, 0.0], [-2.0, 0.0]], 3.0),  # in size
        ],
    )
    def test_change_is_the_largest_of_entropies_and_of_their_differences(self, change, largest):
        assert entropy._change(np.array(change), np.zeros(np.shape(change))) == largest


class TestComponents:
    def test_labels_below_2_to_the_24_are_taken(self):
        labels = np.array([[2**24 - 1], [0]])
        assert entropy._components(np.zeros(2), np.zeros(2), labels, None)[1] == [2**24]
        with pytest.raises(InputError, match="must be below 16777216"):
            entropy._components(np.zeros(2), np.zeros(2), labels + 1, None)

    def test_widths_from_the_smallest_to_its_inverse_are_taken(self, monkeypatch):
        zeros = np.zeros(2)
        monkeypatch.setattr(entropy, "SMALLEST_SIGMA", 1.0)
        np.testing.assert_array_equal(entropy._components(zeros, zeros, **UNLABELLED)[0].sigma, 1.0)
        for log_var in (1e-15, -1e-15):
            with pytest.raises(InputError, match="widths between 1 and 1 are computed"):
                entropy._components(zeros, np.array([0.0, log_var]), **UNLABELLED)

    @pytest.mark.parametrize("sign", [-1.0, 1.0])
    def test_widths_from_1e_100_to_1e_100_are_taken(self, sign):
        edge = sign * 2.0 * math.log(1e100)
        entropy._components(np.zeros(2), np.full(2, edge * (1.0 - 1e-14)), **UNLABELLED)
        with pytest.raises(InputError, match="widths between 1e-100 and 1e\\+100 are computed"):
            entropy._components(np.zeros(2), np.array([0.0, edge * (1.0 + 1e-14)]), **UNLABELLED)

    def test_components_up_to_1e13_widths_from_their_middle_are_taken(self):
        mu = np.array([-1e13, 1e13])
        np.testing.assert_array_equal(entropy._components(mu, np.zeros(2), **UNLABELLED)[0].mu, mu)
        with pytest.raises(InputError, match="more than 1e\\+13 of their widths"):
            entropy._components(above(1e13) * np.array([-1.0, 1.0]), np.zeros(2), **UNLABELLED)

    def test_each_labelling_has_rows_of_its_own(self):
        labels = np.array([[0, 1], [2, 0]])
        parts, sizes = entropy._components(np.zeros(2), np.zeros(2), labels, None)
        assert sizes == [3, 2]
        np.testing.assert_array_equal(parts.rows, [[0, 2], [4, 3]])

    def test_without_labellings_there_is_one_row(self):
        parts, sizes = entropy._components(np.zeros(2), np.zeros(2), **UNLABELLED)
        assert sizes == [1]
        np.testing.assert_array_equal(parts.rows, [[0, 0]])

    def test_difference_and_what_it_lost_are_exact(self):
        rng = np.random.default_rng(0)
        a = rng.standard_normal(50) * 10.0 ** rng.integers(-12, 12, 50)
        for b in (1.0 / 3.0, -1e5 / 7.0):
            s, rest = entropy._difference(a, b)
            np.testing.assert_array_equal(s, a - b)
            assert all(
                Fraction(x) - Fraction(b) == Fraction(y) + Fraction(z) for x, y, z in zip(a, s, rest, strict=True)
            )


# --- factor_vae


class TestFactorVAE:
    CLASSES = grid_classes(3, 2)

    def metric(self, **options):
        options = {"batch": 4, "train_votes": 3, "test_votes": 2, **options}
        return factor_vae.factor_vae_metric(self.CLASSES.astype(float), self.CLASSES, 0, **options)

    @pytest.mark.parametrize(
        ("name", "least"), [("batch", 2), ("train_votes", 1), ("test_votes", 1), ("variance_inputs", 2)]
    )
    def test_the_least_count_is_taken_and_one_less_refused(self, name, least):
        assert self.metric(**{name: least}).votes.shape == (2, 2)
        with pytest.raises(InputError, match=f"{name}={least - 1} is too small"):
            self.metric(**{name: least - 1})

    def test_codes_as_wide_as_the_pruning_take_part(self):
        width = float(np.sqrt(self.metric(variance_inputs=None).variances[1]))
        assert self.metric(variance_inputs=None, prune_below=width).active.tolist() == [True, True]
        assert self.metric(variance_inputs=None, prune_below=above(width)).active.tolist() == [True, False]

    def test_progress_is_told_once_for_each_factor_below_a_block(self):
        calls = Calls()
        result = self.metric(progress=calls)
        of_train, of_test = result.votes.sum(axis=0), result.test_votes.sum(axis=0)
        assert calls.made == [(of_train[0], 5), (3, 5), (3 + of_test[0], 5), (5, 5)]

    def test_the_error_is_that_of_a_share_of_the_votes(self):
        """With codes of noise about a third of the fresh votes are right."""
        codes, classes = np.random.default_rng(0).standard_normal((81, 3)), grid_classes(3, 3, 3, 3)
        result = factor_vae.factor_vae_metric(codes, classes, 0, batch=8, train_votes=60, test_votes=50)
        assert 0.1 < result.score < 0.9
        assert result.standard_error == pytest.approx(math.sqrt(result.score * (1 - result.score) / 50), rel=1e-14)

    def test_two_inputs_of_a_vote_have_a_variance(self):
        classes = grid_classes(40, 40)
        result = factor_vae.factor_vae_metric(classes.astype(float), classes, 0, batch=2, train_votes=50, test_votes=20)
        assert result.votes[0, 0] > result.votes[1, 0]
        assert result.votes[1, 1] > result.votes[0, 1]


# --- higgins


def test_higgins_codes_are_held_a_block_at_a_time():
    classes, rng, calls = grid_classes(2, 2), np.random.default_rng(0), Calls()
    given = draws.inputs("f", classes.astype(float), classes)
    by_factor = [draws.shelves(column, given.p) for column in given.labels.T]
    points = higgins._points(given, by_factor, np.array([0, 0, 0, 0, 1, 1, 1]), 2**15, rng, calls)
    assert calls.made == [(2, 7), (4, 7), (7, 7)]  # 4 points of 2^15 pairs of 2 codes are as many as a block; 3 fewer
    np.testing.assert_array_equal(points == 0.0, np.repeat([[True, False], [False, True]], [4, 3], axis=0))


# --- information


def matrix(information_, errors=0.0, factor_entropies=(1.0, 2.0), entropies=None, recipe="binned"):
    information_ = np.array(information_)
    D, K = information_.shape
    entropies = np.full(D, 1.0) if entropies is None else np.array(entropies)
    error = mig.MIGErrors(0.0, np.zeros(K), np.full((D, K), errors), np.zeros(D))
    gaps = mig.gaps(information_, np.array(factor_entropies))
    return mig.MIG(float(gaps.mean()), gaps, information_, entropies, error, recipe, np.array(factor_entropies))


class TestInformation:
    @pytest.mark.parametrize(("errors", "edge"), [(0.125, 0.125), (0.0, 1e-12)])
    def test_code_is_informative_above_the_error_and_not_at_it(self, errors, edge):
        given = matrix([[edge, 0.0], [above(edge), 0.0], [0.0, above(edge)]], errors)
        assert information.modularity(given).informative.tolist() == [False, True, True]
        assert information.modularity(given).codes.tolist() == [0.0, 1.0, 1.0]

    def test_factors_of_dcimig_are_shares_of_their_entropy(self):
        result = information.dcimig(matrix([[0.5, 0.25], [0.25, 1.25]], factor_entropies=(0.5, 4.0)))
        assert result.factors.tolist() == [0.5, 0.25]
        np.testing.assert_allclose(result.score, 1.25 / 4.5, rtol=1e-15)

    def test_codes_of_jemmig_have_the_entropy_of_the_bins_up_to_rounding(self):
        table, most = [[0.5, 0.0], [0.0, 0.5]], float(np.log(4))
        for entropies in ([most, 1.0], [1.0, most + 1e-12]):
            assert information.jemmig(matrix(table, entropies=entropies), bins=4).factors.shape == (2,)
        with pytest.raises(InputError, match="give the bins"):
            information.jemmig(matrix(table, entropies=[above(most + 1e-12), 1.0]), bins=4)


# --- mig, monte_carlo


def test_factor_with_the_least_entropy_is_taken(monkeypatch):
    given = (np.zeros((4, 2)), np.zeros((4, 2)), np.array([[0], [0], [1], [1]]))
    least = float(mig.prepared("f", *given).factor_entropies[0])
    monkeypatch.setattr(mig, "LEAST_ENTROPY", least)
    assert mig.prepared("f", *given).factor_entropies == [least]
    monkeypatch.setattr(mig, "LEAST_ENTROPY", above(least))
    with pytest.raises(InputError, match="nearly a single value"):
        mig.prepared("f", *given)


def test_mig_has_entropies_and_errors_in_the_order_of_the_latents_and_tells_after_each():
    mu, log_var = np.random.default_rng(0).standard_normal((2, 6, 3))
    mu *= [1.0, 30.0, 1000.0]
    classes, calls = grid_classes(2, 3), Calls()
    result = mig.mig_quadrature(mu, log_var, classes, progress=calls)
    alone = [entropy.mixture_entropies(mu[:, d], log_var[:, d], classes, np.full(6, 1.0 / 6.0)) for d in range(3)]
    np.testing.assert_array_equal(result.entropies, [one.marginal for one in alone])
    np.testing.assert_array_equal(result.error.entropies, [one.error for one in alone])
    assert len(set(result.error.entropies)) == 3
    assert calls.made == [(1, 3), (2, 3), (3, 3)]


class TestMonteCarlo:
    @pytest.mark.parametrize(("block", "sizes"), [(9, [3, 2]), (6, [2, 2, 1]), (2, [1] * 5)])
    def test_log_densities_are_held_a_block_at_a_time_and_of_one_point_at_least(self, monkeypatch, block, sizes):
        seen, points = [], np.linspace(-1.0, 1.0, 5)

        def logsumexp(a, axis):
            assert axis == 1
            seen.append(a.shape)
            return np.log(np.exp(a).sum(axis=1))

        monkeypatch.setattr(monte_carlo, "_BLOCK", block)
        monkeypatch.setattr(monte_carlo, "logsumexp", logsumexp)
        got = monte_carlo.log_density(points, np.zeros(3), np.zeros(3), np.log(np.full(3, 1.0 / 3.0)))
        np.testing.assert_allclose(got, -0.5 * (points**2 + math.log(2 * math.pi)), rtol=1e-14)
        assert seen == [(size, 3) for size in sizes]

    def test_two_batches_are_taken_and_one_refused(self):
        given = (np.zeros((4, 2)), np.zeros((4, 2)), grid_classes(2, 2))
        result = monte_carlo.mig_monte_carlo(*given, rng=0, samples=4, batches=2)
        assert np.isfinite(result.error.entropies).all()
        with pytest.raises(InputError, match="batches=1 is too small"):
            monte_carlo.mig_monte_carlo(*given, rng=0, samples=4, batches=1)

    def test_draws_are_mu_plus_sigma_times_the_noise(self):
        mu, log_var, p = np.array([1.0, -2.0]), np.log([4.0, 0.25]), np.array([0.25, 0.75])
        seen = []

        def log_density(points, *_):
            seen.append(points)
            return np.zeros(len(points))

        monte_carlo._entropy_estimates(mu, log_var, p, 7, 2, np.random.default_rng(0), log_density)
        rng = np.random.default_rng(0)
        n, noise = rng.choice(2, 7, p=p), rng.standard_normal(7)
        np.testing.assert_allclose(np.concatenate(seen), mu[n] + np.array([2.0, 0.5])[n] * noise, rtol=1e-14)


# --- octaves


class Counted(list):
    """Rows that count how often they are gone through: once for each block of components."""

    blocks = 0

    def __iter__(self):
        self.blocks += 1
        return super().__iter__()


class TestOctaves:
    @pytest.mark.parametrize(
        ("block", "length", "blocks"), [(8, 4, 3), (4, 4, 6), (2, 4, 6), (6, 1, 1), (2, 1, 3), (6, 0, 1)]
    )
    def test_densities_are_held_a_block_at_a_time_and_of_one_component_at_least(
        self, monkeypatch, block, length, blocks
    ):
        monkeypatch.setattr(octaves, "_BLOCK", block)
        rows, ones = Counted([np.zeros(6, np.int32)]), np.ones(6)
        first = np.arange(6)
        sums = octaves.group_densities(first, np.full(6, length), 0.0 * ones, 0.0 * ones, ones, rows, (1, 10))
        expected = np.zeros((1, 10))
        for n in first:
            expected[0, n : n + length] += 1.0
        np.testing.assert_array_equal(sums, expected)
        assert rows.blocks == blocks

    def test_octave_e_holds_widths_from_2_to_the_e_to_less_than_twice_as_wide(self):
        sigma = np.array([32.0, below(2.0), 0.125, 1.0, 2.0, below(0.25), 0.25])
        sorted_ = octaves.sorted_by_octave(components(np.zeros(7), sigma))
        assert list(sorted_) == list(range(-3, 6))
        assert {e: sorted(part.sigma) for e, part in sorted_.items() if len(part.sigma)} == {
            -3: [0.125, below(0.25)], -2: [0.25], 0: [1.0, below(2.0)], 1: [2.0], 5: [32.0],
        }  # fmt: skip

    @pytest.mark.parametrize("mu", [0.0, 7.0, 20.0, 32.0, 150.0, -45.0])
    def test_wider_octave_has_the_cells_that_the_polynomials_of_the_finer_one_read(self, mu):
        CELL, SIDE = octaves.CELL, octaves.SIDE
        wider, finer = octaves.octaves(octaves.sorted_by_octave(components([mu, 1e6], [1.0, 2.0])), 0.25)
        read = finer.cells[:, None] * (CELL // 2) + np.arange(1 - SIDE, CELL // 2 + SIDE)
        np.testing.assert_array_equal(wider.cells, np.unique(np.concatenate([read.ravel() // CELL, wider.own])))
        np.testing.assert_array_equal(finer.cells, finer.own)

    @pytest.mark.parametrize("mu", [0.0, 0.1, -3.2])
    def test_windows_hold_the_points_within_nine_sigma(self, mu):
        reached = octaves.windows(components([mu]), 0.25)
        points = np.arange(-100, 100)
        within = points[np.abs(0.25 * points - mu) <= 9.0]
        assert (reached.first[0], reached.length[0]) == (within[0], len(within))
        np.testing.assert_allclose(reached.t[0], 0.25 * within[0] - mu, rtol=1e-14)

    @pytest.mark.parametrize(
        ("first", "length", "cells"),
        [
            (0, 1, [0]),
            (0, 64, [0]),
            (0, 65, [0, 1]),
            (63, 1, [0]),
            (63, 2, [0, 1]),
            (-1, 130, [-1, 0, 1, 2]),
            (64, 64, [1]),
        ],
    )
    def test_cells_are_those_that_windows_touch(self, first, length, cells):
        one = np.zeros(1)
        assert octaves.cells_of(octaves.Windows(np.array([first]), np.array([length]), one, one)).tolist() == cells

    def test_no_windows_touch_no_cells(self):
        nothing, none = np.empty(0, np.int64), np.empty(0)
        cells = octaves.cells_of(octaves.Windows(nothing, nothing, none, none))
        assert (cells.dtype, cells.tolist()) == (np.int64, [])
        assert octaves.distinct([]).tolist() == []


# --- sap


class TestSAP:
    def test_inverse_regularisation_must_be_above_0(self):
        classes = grid_classes(2, 2)
        with pytest.raises(InputError, match="it must be finite and above 0"):
            sap(classes.astype(float), classes, 0, train=3, test=1, inverse_regularisation=0.0)

    def test_r_squared_takes_one_factor(self):
        result = sap_r_squared(np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 0.0]]), np.array([[0], [1], [2]]))
        np.testing.assert_allclose(result.predictability, [[1.0], [0.0]], atol=1e-15)

    def test_svm_is_solved_in_the_primal_with_balanced_classes(self):
        given = _linear_svm("sap", 0.25, 17).get_params()
        expected = {"C": 0.25, "class_weight": "balanced", "dual": False, "max_iter": 17, "loss": "squared_hinge"}
        assert {name: given[name] for name in expected} == expected
