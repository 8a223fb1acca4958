"""The exact decomposition in pieces: sums that merge, files larger than memory, kills and restarts, a cluster."""

import itertools
import json
import math
import signal
import subprocess
import sys
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
import tcvae_kernels
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.special import logsumexp

from tcvae_ref import InputError, estimators, kl_to_standard_normal
from tcvae_ref.metrics import checkpoint, decomposition, decomposition_exact, dimension_wise_kl_exact
from tcvae_ref.metrics.partial import Aggregate, LogSum

ESTIMATORS = {"reference": estimators.log_qz_exact}
if tcvae_kernels.COMPILED:
    ESTIMATORS["kernels"] = tcvae_kernels.log_qz_exact
CHUNK = 30
"""Components; 7 chunks of the problem's 200, the last of 20."""


def problem(N=200, D=3, S=40, seed=0, dtype="float64"):
    """mu, log_var, index, eps."""
    rng = np.random.default_rng(seed)
    mu, log_var = rng.standard_normal((N, D)), rng.uniform(-3, -1, (N, D))
    index, eps = rng.integers(N, size=S), rng.standard_normal((S, D))
    return mu.astype(dtype), log_var.astype(dtype), index, eps.astype(dtype)


def numbers(result):
    """The four estimates with their errors, and the closed form."""
    return [*(number for term in result[:4] for number in term), result.kl_analytic]


class Interruption(Exception):
    """Stands for whatever stops a long call."""


def stopped_after(count, log_qz=estimators.log_qz_exact):
    """An estimator of the same name that works so many times."""

    def stopping(*arguments):
        stopping.calls += 1
        if stopping.calls > count:
            raise Interruption
        return log_qz(*arguments)

    stopping.calls = 0
    stopping.__module__, stopping.__qualname__ = log_qz.__module__, log_qz.__qualname__
    return stopping


log_values = hnp.arrays(np.float64, 5, elements=st.one_of(st.floats(-1e4, 1e3), st.just(-np.inf)))
log_sums = st.builds(LogSum.of_log_mean, log_values, st.integers(1, 10**6))


class TestLogSum:
    @given(log_sums, log_sums)
    def test_merging_commutes_to_the_bit(self, a, b):
        np.testing.assert_array_equal(a.merged(b), b.merged(a))

    @given(log_sums, log_sums, log_sums)
    def test_merging_is_associative_to_rounding(self, a, b, c):
        left, right = a.merged(b).merged(c), a.merged(b.merged(c))
        np.testing.assert_array_equal(left.maximum, right.maximum)
        np.testing.assert_allclose(left.sum, right.sum, rtol=4 * 2.0**-52)

    @given(log_sums)
    def test_nothing_is_neutral(self, a):
        merged = LogSum.over_nothing(5).merged(a)
        np.testing.assert_array_equal(merged.log_mean(7), a.log_mean(7))
        assert not np.isnan(merged.sum).any()

    @given(st.lists(st.tuples(log_values, st.integers(1, 1000)), min_size=1, max_size=6), st.randoms())
    def test_any_order_gives_the_log_sum_exp(self, parts, random):
        total = sum(terms for _, terms in parts)
        with np.errstate(divide="ignore"):
            scaled = [values + math.log(terms) for values, terms in parts]
            expected = logsumexp(scaled, axis=0) - math.log(total)
        random.shuffle(parts)
        merged = LogSum.over_nothing(5)
        for values, terms in parts:
            merged = merged.merged(LogSum.of_log_mean(values, terms))
        scale = 1 + np.abs(np.where(np.isfinite(expected), expected, 0))  # what the roundings are relative to
        np.testing.assert_allclose(merged.log_mean(total) / scale, expected / scale, rtol=0, atol=2.0**-48)

    def test_nothing_and_underflow_are_minus_infinity_without_a_warning(self):
        nothing, far = LogSum.over_nothing(1), LogSum.of_log_mean(np.array([-np.inf]), 3)
        near = LogSum.of_log_mean(np.array([0.0]), 1)
        with np.errstate(all="raise"):
            for sums in (nothing, far, nothing.merged(far), far.merged(far)):
                assert sums.log_mean(6)[0] == -np.inf
            assert far.merged(near).log_mean(4)[0] == -math.log(4)
            assert LogSum.of_log_mean(np.array([-800.0]), 1).merged(near).log_mean(2)[0] == -math.log(2)


@pytest.mark.parametrize("log_qz", ESTIMATORS.values(), ids=ESTIMATORS)
class TestChunks:
    def test_the_whole_at_once_is_the_estimator_itself(self, log_qz):
        mu, log_var, index, eps = problem()
        result = decomposition_exact(mu, log_var, index, eps, log_qz, chunk_size=1000)
        z = mu[index] + np.exp(0.5 * log_var[index]) * eps
        joint, marginals = log_qz(z, mu, log_var, len(mu))
        assert result.total_correlation == decomposition.estimate(joint - marginals.sum(axis=1))
        assert result.kl_analytic == pytest.approx(kl_to_standard_normal(mu, log_var).mean(), rel=1e-13)

    @pytest.mark.parametrize("dtype", ["float64", "float32"])
    @pytest.mark.parametrize("size", [1, 7, 30, 199, 200])
    def test_chunks_are_the_whole_to_rounding(self, log_qz, size, dtype):
        given = problem(dtype=dtype)
        whole = decomposition_exact(*given, log_qz, chunk_size=1000)
        cut = decomposition_exact(*given, log_qz, chunk_size=size)
        np.testing.assert_allclose(numbers(cut), numbers(whole), rtol=1e-12 if dtype == "float64" else 1e-5)

    @pytest.mark.parametrize("D", [1, 2, 5])
    @pytest.mark.parametrize("block_bytes", [1, 10_000, 100_000])
    def test_blocks_of_samples_do_not_matter(self, log_qz, block_bytes, D):
        given = problem(D=D)
        whole = decomposition_exact(*given, log_qz, chunk_size=CHUNK)
        assert decomposition_exact(*given, log_qz, block_bytes, chunk_size=CHUNK) == whole

    def test_blocks_have_the_size_asked_for(self, log_qz):
        shapes = []

        def watched(z, mu, log_var, n):
            assert n == len(mu)
            shapes.append((len(z), n))
            return log_qz(z, mu, log_var, n)

        decomposition_exact(*problem(), watched, 16 * CHUNK * 3 * 8, chunk_size=CHUNK)
        assert {z * n * 3 * 8 <= 16 * CHUNK * 3 * 8 for z, n in shapes} == {True}
        assert sum(z * n for z, n in shapes) == 40 * 200
        assert max(z for z, _ in shapes) == 16

    def test_components_so_far_that_a_whole_chunk_underflows(self, log_qz):
        """Two Gaussians 1e160 sigma apart, 60 components each, in chunks of 20 of the one or of the other."""
        N, D, S = 120, 2, 10
        mu, log_var = np.repeat([[0.0] * D, [1.0] * D], N // 2, axis=0), np.full((N, D), -2 * 160 * math.log(10))
        with np.errstate(over="ignore"):
            assert np.all(log_qz(mu[:1], mu[60:], log_var[60:], 60).joint == -np.inf)
            result = decomposition_exact(mu, log_var, np.arange(S) * 6, np.ones((S, D)), log_qz, chunk_size=20)
        np.testing.assert_allclose(result.mutual_information, [math.log(2), 0.0], atol=1e-12)
        np.testing.assert_allclose(result.total_correlation, [math.log(2), 0.0], atol=1e-12)

    def test_collapsed_posteriors_are_nothing_but_the_prior(self, log_qz):
        result = decomposition_exact(np.zeros((50, 3)), np.zeros((50, 3)), *problem(N=50)[2:], log_qz, chunk_size=8)
        np.testing.assert_allclose(numbers(result), 0.0, atol=1e-14)

    def test_a_grid_of_independent_codes_has_no_total_correlation(self, log_qz):
        """Every value of one code meets every value of the other; far apart, they tell the input: log N nats."""
        mu = 40.0 * np.indices((6, 7)).reshape(2, -1).T
        index, eps = problem(N=42, D=2)[2:]
        result = decomposition_exact(mu, np.zeros((42, 2)), index, eps, log_qz, chunk_size=5)
        np.testing.assert_allclose(result.total_correlation, 0.0, atol=1e-12)
        np.testing.assert_allclose(result.mutual_information, [math.log(42), 0.0], atol=1e-12)


class TestArguments:
    def test_progress_counts_components_and_ends_at_their_number(self):
        seen = []
        decomposition_exact(*problem(), block_bytes=10_000, progress=lambda *a: seen.append(a), chunk_size=CHUNK)
        assert len(seen) > 7
        assert all(a[0] <= b[0] for a, b in itertools.pairwise(seen))
        assert seen[-1] == (200, 200)

    @pytest.mark.parametrize(
        ("changed", "match"),
        [
            ({"mu": np.zeros((200, 2))}, r"shapes are mu \(200, 2\), log_var \(200, 3\)"),
            ({"mu": np.zeros(200), "log_var": np.zeros(200)}, "shapes are"),
            ({"mu": np.zeros((200, 3), "float32")}, "mu float32, log_var float64"),
            ({"mu": [[0.0]]}, "mu is a list"),
            ({"index": np.arange(40.0)}, "indices float64"),
            ({"index": np.arange(40) - 1}, r"lie in \[-1, 38\]"),
            ({"index": np.arange(80).reshape(40, 2)}, r"int64 \(40, 2\)"),
            ({"eps": np.full((40, 3), np.nan)}, "eps has 120 nan"),
            ({"block_bytes": 0}, "block_bytes=0"),
            ({"chunk_size": 0}, "chunk_size=0"),
            ({"chunk_size": 2.5}, "chunk_size=2.5"),
        ],
    )
    def test_refusals(self, changed, match):
        arguments = dict(zip(("mu", "log_var", "index", "eps"), problem(), strict=True))
        with pytest.raises(InputError, match=match):
            decomposition_exact(**{**arguments, **changed})

    def test_a_component_that_is_not_finite_is_named_by_its_chunk(self):
        mu, log_var, index, eps = problem()
        mu[77, 1] = np.nan
        with pytest.raises(InputError, match=r"components 60 \.\.\. 89: mu has 1 nan .* at \(17, 1\)"):
            decomposition_exact(mu, log_var, index[index != 77], eps[index != 77], chunk_size=CHUNK)

    def test_dimension_wise_kl_reads_chunks_and_refuses_what_does_not_fit(self, monkeypatch):
        mu, log_var, *_ = problem()
        whole = dimension_wise_kl_exact(mu, log_var, np.zeros(3))
        direct = 0.5 * (math.log(2 * math.pi) + np.mean(mu**2 + np.exp(log_var), axis=0))
        np.testing.assert_allclose(whole, direct, rtol=1e-13)
        monkeypatch.setattr(decomposition, "CHUNK_NUMBERS", 50)
        np.testing.assert_allclose(dimension_wise_kl_exact(mu, log_var, np.zeros(3)), whole, rtol=1e-13)
        with pytest.raises(InputError, match="entropies"):
            dimension_wise_kl_exact(mu, log_var, np.zeros(2))

    def test_dimension_wise_kl_squares_in_double_precision(self):
        mu = np.array([[1e20, 30.1], [-1e20, 30.3]], np.float32)
        kl = dimension_wise_kl_exact(mu, np.zeros((2, 2), np.float32), np.zeros(2))
        direct = 0.5 * (math.log(2 * math.pi) + np.mean(mu.astype(float) ** 2 + 1.0, axis=0))
        np.testing.assert_allclose(kl, direct, rtol=1e-14)
        beyond = dimension_wise_kl_exact(np.full((2, 1), 1e200), np.array([[0.0], [800.0]]), np.zeros(1))
        np.testing.assert_array_equal(beyond, [np.inf])


def mapped(folder, order="C", **sizes):
    """The problem with its posteriors in memory-mapped files."""
    mu, log_var, index, eps = problem(**sizes)
    for name, array in (("mu", mu), ("log_var", log_var)):
        np.save(folder / f"{name}.npy", np.asarray(array, order=order))
    files = [np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("mu", "log_var")]
    return *files, index, eps


class TestMemoryMappedFiles:
    @pytest.mark.parametrize("order", ["C", "F"])
    def test_the_same_bits_as_arrays(self, tmp_path, order):
        in_arrays = decomposition_exact(*problem(D=20), chunk_size=CHUNK)
        assert decomposition_exact(*mapped(tmp_path, order, D=20), chunk_size=CHUNK) == in_arrays

    def test_memory_is_a_block_and_a_chunk_whatever_the_number_of_components(self, tmp_path):
        """Python's and NumPy's own memory, at its peak: the files are 25 MB."""
        block, peaks = 2**17, []
        for N in (50_000, 400_000):
            given = mapped(tmp_path, N=N, D=4, S=4)
            tracemalloc.start()
            decomposition_exact(*given, block_bytes=block)
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        assert peaks[1] < 1.1 * peaks[0]
        assert peaks[1] < 4e6


KILLED = """
import os, signal, sys
import numpy as np
from tcvae_ref import estimators
from tcvae_ref.metrics import decomposition, decomposition_exact

def kill(done, total):
    if done > 100:
        os.kill(os.getpid(), signal.SIGKILL)

decomposition.SAVE_SECONDS = 0.0
given = np.load(sys.argv[1])
arrays = (given[name] for name in ("mu", "log_var", "index", "eps"))
decomposition_exact(*arrays, progress=kill, chunk_size=int(sys.argv[3]), checkpoint=sys.argv[2])
"""


class TestCheckpoint:
    @pytest.fixture(autouse=True)
    def _saved_after_every_chunk(self, monkeypatch):
        monkeypatch.setattr(decomposition, "SAVE_SECONDS", 0.0)

    @pytest.fixture
    def stopped(self, tmp_path):
        """The checkpoint of a run stopped after 3 of 7 chunks: 90 of 200 components."""
        path = tmp_path / "sums.npz"
        with pytest.raises(Interruption):
            decomposition_exact(*problem(), stopped_after(3), chunk_size=CHUNK, checkpoint=path)
        return path

    @pytest.mark.parametrize("log_qz", ESTIMATORS.values(), ids=ESTIMATORS)
    @pytest.mark.parametrize("chunks_before", [0, 1, 6])
    def test_stopped_and_gone_on_equals_uninterrupted(self, tmp_path, log_qz, chunks_before):
        path, uninterrupted = tmp_path / "sums.npz", decomposition_exact(*problem(), log_qz, chunk_size=CHUNK)
        with pytest.raises(Interruption):
            decomposition_exact(*problem(), stopped_after(chunks_before, log_qz), chunk_size=CHUNK, checkpoint=path)
        rest = stopped_after(7 - chunks_before, log_qz)
        assert decomposition_exact(*problem(), rest, chunk_size=CHUNK, checkpoint=path) == uninterrupted
        assert rest.calls == 7 - chunks_before

    def test_stopped_many_times(self, tmp_path):
        for _ in range(6):
            with pytest.raises(Interruption):
                decomposition_exact(*problem(), stopped_after(1), chunk_size=CHUNK, checkpoint=tmp_path / "sums.npz")
        last = decomposition_exact(*problem(), stopped_after(1), chunk_size=CHUNK, checkpoint=tmp_path / "sums.npz")
        assert last == decomposition_exact(*problem(), chunk_size=CHUNK)

    def test_a_killed_process(self, tmp_path):
        given, path = tmp_path / "given.npz", tmp_path / "sums.npz"
        np.savez(given, **dict(zip(("mu", "log_var", "index", "eps"), problem(), strict=True)))
        arguments = [sys.executable, "-c", KILLED, str(given), str(path), str(CHUNK)]
        assert subprocess.run(arguments, check=False).returncode == -signal.SIGKILL
        rest = stopped_after(4)
        assert decomposition_exact(*problem(), rest, chunk_size=CHUNK, checkpoint=path) == decomposition_exact(
            *problem(), chunk_size=CHUNK
        )
        assert rest.calls == 4

    def test_a_finished_one_answers_at_once(self, tmp_path):
        path = tmp_path / "sums.npz"
        first = decomposition_exact(*problem(), chunk_size=CHUNK, checkpoint=str(path))
        assert decomposition_exact(*problem(), stopped_after(0), chunk_size=CHUNK, checkpoint=path) == first

    def test_progress_goes_on_from_there(self, stopped):
        seen = []
        decomposition_exact(*problem(), progress=lambda *a: seen.append(a), chunk_size=CHUNK, checkpoint=stopped)
        assert seen == [(120, 200), (150, 200), (180, 200), (200, 200)]

    def test_not_written_more_often_than_asked(self, tmp_path, monkeypatch):
        """Seven chunks of 4 seconds, by a clock of our own: written when 10 have passed since, and at the end."""
        saved, now = [], [0.0]

        def slow(*arguments):
            now[0] += 4.0
            return estimators.log_qz_exact(*arguments)

        monkeypatch.setattr(decomposition, "SAVE_SECONDS", 10.0)
        monkeypatch.setattr(decomposition, "time", SimpleNamespace(monotonic=lambda: now[0]))
        monkeypatch.setattr(checkpoint.Checkpoint, "save", lambda self, state: saved.append(state.components))
        decomposition_exact(*problem(), slow, chunk_size=CHUNK, checkpoint=tmp_path / "sums.npz")
        assert saved == [90, 180, 200]

    @pytest.mark.parametrize("block_bytes", [1, 2**30])
    def test_what_the_sums_do_not_depend_on_may_change(self, stopped, block_bytes):
        result = decomposition_exact(*problem(), block_bytes=block_bytes, chunk_size=CHUNK, checkpoint=stopped)
        assert result == decomposition_exact(*problem(), chunk_size=CHUNK)

    def test_other_samples_are_refused(self, stopped):
        mu, log_var, index, eps = problem()
        before = stopped.read_bytes()
        for other in ((mu, log_var, index, -eps), (mu, log_var, index[::-1], eps), (mu + 1e-9, log_var, index, eps)):
            with pytest.raises(InputError, match=r"sums\.npz: was made with other inputs or settings: samples"):
                decomposition_exact(*other, chunk_size=CHUNK, checkpoint=stopped)
        assert stopped.read_bytes() == before

    def test_other_settings_are_refused(self, stopped):
        with pytest.raises(InputError, match="chunk_size 30, now 31"):
            decomposition_exact(*problem(), chunk_size=31, checkpoint=stopped)
        mu, log_var, index, eps = problem()
        more = np.concatenate([mu, mu]), np.concatenate([log_var, log_var]), index, eps
        with pytest.raises(InputError, match="components 200, now 400"):
            decomposition_exact(*more, chunk_size=CHUNK, checkpoint=stopped)
        with pytest.raises(InputError, match=r"log_qz tcvae_ref\.estimators\.log_qz_exact, now .*log_qz_mine"):
            decomposition_exact(*problem(), log_qz_mine, chunk_size=CHUNK, checkpoint=stopped)

    @pytest.mark.parametrize("which", [0, 1], ids=["mu", "log_var"])
    def test_a_component_changed_since_is_refused(self, stopped, which):
        given = problem()
        unseen = min(set(range(CHUNK, 2 * CHUNK)) - set(given[2]))  # no sample was drawn from it
        given[which][unseen, 2] += 1e-12
        with pytest.raises(InputError, match=r"mu or log_var has changed since, in components 30 \.\.\. 59"):
            decomposition_exact(*given, chunk_size=CHUNK, checkpoint=stopped)

    def test_a_component_not_met_yet_may_change(self, stopped):
        given = problem()
        unseen = max(set(range(200)) - set(given[2]))
        assert unseen >= 90
        given[0][unseen] += 1.0
        result = decomposition_exact(*given, chunk_size=CHUNK, checkpoint=stopped)
        assert result == decomposition_exact(*given, chunk_size=CHUNK)

    def test_damage_is_refused(self, stopped):
        whole = stopped.read_bytes()
        for content in (whole[: len(whole) // 2], b"", b"PK" + whole[:50]):
            stopped.write_bytes(content)
            with pytest.raises(InputError, match=r"sums\.npz"):
                decomposition_exact(*problem(), chunk_size=CHUNK, checkpoint=stopped)

    @pytest.mark.parametrize(
        ("changed", "match"),
        [
            ({"components": 60}, "do not fit together"),
            ({"components": 95}, "do not fit together"),
            ({"components": "90"}, "do not fit together"),
            ({"kl": None}, "do not fit together"),
            ({"joint_sum": np.ones(3)}, "do not fit together"),
            ({"joint_sum": np.full(40, np.nan)}, "do not fit together"),
            ({"joint_sum": np.ones(40, "float32")}, "do not fit together"),
            ({"digests": np.zeros(96, np.int64)}, "do not fit together"),
            ({"made_with": None}, "is not a checkpoint"),
            ({"made_with": {}}, "other inputs or settings"),
            ({"state": np.frombuffer(b"no json", np.uint8)}, "is not a checkpoint"),
            ({"state": np.frombuffer(b"[1]", np.uint8)}, "is not a checkpoint"),
            ({"marginals_maximum": None}, "marginals_maximum is missing"),
            ({"state": None}, "state is missing"),
        ],
    )
    def test_parts_that_do_not_fit_are_refused(self, stopped, changed, match):
        with np.load(stopped) as archive:
            parts = dict(archive)
        state = json.loads(parts["state"].tobytes())
        inner = {**state, **{name: value for name, value in changed.items() if name in state}}
        parts["state"] = np.frombuffer(json.dumps(inner).encode(), np.uint8)
        parts |= {name: value for name, value in changed.items() if name not in state}
        np.savez(stopped, **{name: part for name, part in parts.items() if part is not None})
        with pytest.raises(InputError, match=rf"sums\.npz: .*{match}"):
            decomposition_exact(*problem(), chunk_size=CHUNK, checkpoint=stopped)

    def test_a_place_that_cannot_be_written_is_noticed_before_the_work(self, tmp_path):
        with pytest.raises(InputError, match="is not a file"):
            decomposition_exact(*problem(), stopped_after(0), checkpoint=tmp_path)
        with pytest.raises(FileNotFoundError):
            decomposition_exact(*problem(), stopped_after(0), checkpoint=tmp_path / "nowhere" / "sums.npz")


def log_qz_mine(*arguments):
    """Another estimator."""
    return estimators.log_qz_exact(*arguments)


def test_parts_merge_into_the_same_sums_however_they_are_grouped():
    parts = [Aggregate(LogSum.of_log_mean(np.array([a]), 2), LogSum.of_log_mean(np.array([[a]]), 2), a, 2, b"%d" % k)
             for k, a in enumerate((-3.0, 0.5, 2.0))]  # fmt: skip
    left, right = parts[0].merged(parts[1]).merged(parts[2]), parts[0].merged(parts[1].merged(parts[2]))
    np.testing.assert_allclose(left.joint.log_mean(6), right.joint.log_mean(6), rtol=1e-15)
    assert (left.kl, left.components, left.digests) == (right.kl, right.components, right.digests) == (-0.5, 6, b"012")


INSTALL = "Dask is not installed, its tests are not run: pip install 'tcvae-ref[cluster]'"


def in_dask(rows=(70, 70, 60), **sizes):
    """The problem with its posteriors in Dask arrays, cut otherwise than into chunks of components."""
    array = pytest.importorskip("dask.array", reason=INSTALL)
    mu, log_var, index, eps = problem(**sizes)
    return array.from_array(mu, chunks=(rows, 2)), array.from_array(log_var, chunks=(rows, 3)), index, eps


@pytest.fixture(scope="class", params=[False, True], ids=["threads", "processes"])
def cluster(request):
    """A client of two local workers, in this process or in two of their own; no later test computes on it."""
    distributed = pytest.importorskip("distributed", reason=INSTALL)
    two = {"n_workers": 2, "threads_per_worker": 1, "processes": request.param, "dashboard_address": None}
    with distributed.LocalCluster(**two) as local, distributed.Client(local) as client:
        client.wait_for_workers(2)
        yield client


@pytest.mark.parametrize("log_qz", ESTIMATORS.values(), ids=ESTIMATORS)
class TestCluster:
    def test_the_same_bits_as_arrays(self, cluster, log_qz):
        given = in_dask()
        assert decomposition_exact(*given, log_qz, chunk_size=CHUNK) == decomposition_exact(
            *problem(), log_qz, chunk_size=CHUNK
        )

    def test_every_worker_sums(self, cluster, log_qz, monkeypatch):
        """Lots of 8 chunks of the default size."""
        import distributed

        from tcvae_ref.metrics import cluster as dask_posteriors

        monkeypatch.setattr(decomposition, "CHUNK_NUMBERS", 60)
        monkeypatch.setattr(dask_posteriors, "TOGETHER", 8)
        given, seen = in_dask(rows=(100, 150, 200), N=450), []
        with distributed.get_task_stream(cluster) as stream:
            result = decomposition_exact(*given, log_qz, progress=lambda *a: seen.append(a))
        assert result == decomposition_exact(*problem(N=450), log_qz)
        assert seen == [(8 * 20, 450), (16 * 20, 450), (450, 450)]
        sums = [task["worker"] for task in stream.data if str(task["key"]).startswith("aggregate-")]
        assert len(sums) == 23
        assert len(set(sums)) == 2


@pytest.mark.parametrize("cluster", [True], ids=["processes"], indirect=True)
def test_posteriors_do_not_come_to_the_client(cluster):
    """Its own memory at its peak; the arrays, which the workers make, are of 13 MB."""
    array = pytest.importorskip("dask.array", reason=INSTALL)
    index, eps = problem(N=200, D=4, S=2)[2:]
    mu, log_var = array.random.default_rng(0).standard_normal((2, 200_000, 4), chunks=(1, 50_000, 4))
    tracemalloc.start()
    decomposition_exact(mu, log_var, index, eps, chunk_size=10_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4e6


class TestDask:
    @pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
    def test_without_a_cluster(self, scheduler):
        given = in_dask()
        import dask

        with dask.config.set(scheduler=scheduler):
            result = decomposition_exact(*given, chunk_size=CHUNK)
        assert result == decomposition_exact(*problem(), chunk_size=CHUNK)

    def test_one_of_the_two_may_be_an_array(self):
        (mu, log_var, index, eps), given = problem(), in_dask()
        expected = decomposition_exact(*problem(), chunk_size=CHUNK)
        assert decomposition_exact(given[0], log_var, index, eps, chunk_size=CHUNK) == expected
        assert decomposition_exact(mu, given[1], index, eps, chunk_size=CHUNK) == expected

    def test_stopped_and_gone_on_in_arrays_equals_uninterrupted(self, tmp_path, monkeypatch):
        """A checkpoint knows nothing of where the sums were made."""
        given, path = in_dask(), tmp_path / "sums.npz"
        from tcvae_ref.metrics import cluster

        monkeypatch.setattr(cluster, "TOGETHER", 2)
        monkeypatch.setattr(decomposition, "SAVE_SECONDS", 0.0)

        def stop(done, total):
            if done > 100:
                raise Interruption

        with pytest.raises(Interruption):
            decomposition_exact(*given, progress=stop, chunk_size=CHUNK, checkpoint=path)
        rest, uninterrupted = stopped_after(5), decomposition_exact(*problem(), chunk_size=CHUNK)
        assert decomposition_exact(*problem(), rest, chunk_size=CHUNK, checkpoint=path) == uninterrupted
        assert rest.calls == 5
        assert decomposition_exact(*given, stopped_after(0), chunk_size=CHUNK, checkpoint=path) == uninterrupted

    def test_a_component_changed_since_is_refused(self, tmp_path):
        mu, log_var, index, eps = in_dask()
        decomposition_exact(mu, log_var, index, eps, chunk_size=CHUNK, checkpoint=tmp_path / "sums.npz")
        unseen = min(set(range(CHUNK, 2 * CHUNK)) - set(index))
        mu[unseen, 0] = 0.0
        with pytest.raises(InputError, match=r"in components 30 \.\.\. 59"):
            decomposition_exact(mu, log_var, index, eps, chunk_size=CHUNK, checkpoint=tmp_path / "sums.npz")

    def test_a_component_that_is_not_finite_is_named_by_its_chunk(self):
        mu, log_var, index, eps = in_dask()
        mu[77, 1] = np.nan
        with pytest.raises(InputError, match=r"components 60 \.\.\. 89: mu has 1 nan .* at \(17, 1\)"):
            decomposition_exact(mu, log_var, index[index != 77], eps[index != 77], chunk_size=CHUNK)

    def test_an_unknown_length_is_refused(self):
        mu, log_var, index, eps = in_dask()
        with pytest.raises(InputError, match="compute_chunk_sizes"):
            decomposition_exact(mu[mu[:, 0] > 0], log_var[mu[:, 0] > 0], index, eps)

    def test_nobody_imports_it_who_does_not_use_it(self):
        code = (
            "import sys, numpy as np; from tcvae_ref.metrics import decomposition_exact as f;"
            "f(np.zeros((2, 1)), np.zeros((2, 1)), np.array([0, 1]), np.zeros((2, 1)));"
            "print([m for m in ('dask', 'distributed') if m in sys.modules])"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "[]"
