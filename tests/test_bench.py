"""The benchmark's own honesty: what it refuses, what it leaves out and says so, and what it writes down."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from optional import torch
from tcvae_kernels import bench

FAST = ("--sizes", "32,64", "--dims", "3", "--rounds", "1", "--pause", "0")
TIMES = {"peer", "dtype", "kind", "D", "M", "median_ms", "min_ms", "max_ms", "ms", "ratio_to_ours", "ratio_to_limit"}


@pytest.fixture(autouse=True)
def quiet_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """(report, tables, picture) of one whole run; the peers agree, or there would be none."""
    folder = tmp_path_factory.mktemp("bench")
    paths = [folder / name for name in ("report.json", "tables.md", "times.png")]
    files = [str(word) for pair in zip(("--json", "--markdown", "--plot"), paths, strict=True) for word in pair]
    assert bench.main([*FAST, *files, "--no-memory", "--peers", "kernels,exponentials,numpy,eager,jax"]) == 0
    report, tables, picture = (path.read_bytes() for path in paths)
    return json.loads(report), tables.decode(), picture


def results(*arguments):
    """The exit status and the results of a run."""
    status = bench.main([*FAST, "--json", "report.json", *arguments])
    return status, json.loads(Path("report.json").read_bytes())["results"]


def change(monkeypatch, key, **fields):
    monkeypatch.setitem(bench.PEERS, key, bench.PEERS[key]._replace(**fields))


def altered(key, change_value=lambda v: v, change_gradients=lambda g: g):
    """Build a peer that is another one, with a mistake."""
    build = bench.PEERS[key].build

    def wrong(gradient, inputs):
        call = build(gradient, inputs)

        def mistaken():
            if not gradient:
                return change_value(call())
            value, gradients = call()
            return change_value(value), change_gradients([np.asarray(g) for g in gradients])

        return mistaken

    return wrong


class TestReport:
    def test_every_case_of_every_peer_is_there(self, written):
        report, _, _ = written
        cases = {(r["peer"], r["dtype"], r["kind"], r["D"], r["M"]) for r in report["results"]}
        assert len(cases) == len(report["results"]) == 5 * 2 * 2 * 1 * 2

    def test_every_promised_field(self, written):
        report, _, _ = written
        assert set(report) >= {"machine", "versions", "threads", "load", "N", "arguments", "not_installed", "results"}
        assert report["arguments"]["sizes"] == "32,64"
        assert set(report["versions"]) >= {"numpy", "torch", "jax"}
        for r in report["results"]:
            assert set(r) == TIMES
            assert 0 < r["min_ms"] <= r["median_ms"] <= r["max_ms"]

    def test_ratios_are_of_medians(self, written):
        median = {(r["peer"], *(r[f] for f in bench.Case._fields)): r["median_ms"] for r in written[0]["results"]}
        for r in written[0]["results"]:
            case = tuple(r[f] for f in bench.Case._fields)
            assert r["ratio_to_ours"] == pytest.approx(r["median_ms"] / median["tcvae_kernels", *case])
            assert r["ratio_to_limit"] == pytest.approx(r["median_ms"] / median["exponentials only", *case])

    def test_one_table_for_each_dtype_and_kind(self, written):
        _, tables, _ = written
        lines = tables.splitlines()
        assert [line.partition(":")[0] for line in lines if line.startswith("###")] == [
            f"### {dtype}, {kind}" for dtype in ("float64", "float32") for kind in bench.KINDS
        ]
        header = "| D | M | tcvae_kernels | exponentials only | NumPy reference | PyTorch eager | jax.jit |"
        assert lines.count(header) == 4
        rows = [line for line in lines if line.startswith("| 3 |")]
        assert len(rows) == 8
        assert all(row.count(" to ") == row.count(" x |") == 5 for row in rows)

    def test_plot_is_a_png(self, written):
        assert written[2].startswith(b"\x89PNG\r\n\x1a\n")
        assert len(written[2]) > 10_000

    def test_memory_is_that_of_the_pairwise_arrays(self):
        _, found = results("--sizes", "128", "--dims", "10", "--dtypes", "float64", "--peers", "numpy")
        peak = {(r["peer"], r["kind"]): r["peak_bytes"] for r in found}
        array = 128 * 128 * 10 * 8
        assert 2 * array < peak["NumPy reference", "value"] < 8 * array
        assert 4 * array < peak["NumPy reference", "value and gradient"] < 12 * array
        assert peak["tcvae_kernels", "value"] < array

    def test_memory_that_is_kept_counts(self):
        kept = []

        def build(gradient, inputs):
            return lambda: kept or kept.extend(np.ones(5_000_000) for _ in range(len(inputs[0]) > 16))

        peer = bench.PEERS["numpy"]._replace(build=build)
        assert 39e6 < bench.peak_memory(peer, bench.Case("float64", "value", 1, 64)) < 45e6


class TestRefusal:
    @pytest.mark.parametrize(
        ("mistake", "kinds"),
        [
            ({"change_value": lambda v: v * (1 + 1e-6)}, 2),
            ({"change_value": lambda v: v * np.nan}, 2),
            ({"change_gradients": lambda g: [g[0], -g[1], g[2]]}, 1),
            ({"change_gradients": lambda g: [g[0], g[1], g[2][:, ::-1]]}, 1),
            ({"change_gradients": lambda g: [g[0].T, g[1], g[2]]}, 1),
        ],
    )
    def test_wrong_peer_is_not_timed(self, monkeypatch, capsys, mistake, kinds):
        change(monkeypatch, "eager", build=altered("eager", **mistake))
        timed, measure = [], bench.measure

        def spy(calls, rounds, pause):
            timed.append(set(calls))
            return measure(calls, rounds, pause)

        monkeypatch.setattr(bench, "measure", spy)
        status, found = results("--dtypes", "float64", "--peers", "numpy,eager", "--no-memory")
        assert status == 1
        assert sum("eager" in calls for calls in timed) == 4 - 2 * kinds
        assert all({"kernels", "numpy"} <= calls for calls in timed)
        reasons = [r["left_out"] for r in found if "left_out" in r]
        assert len(reasons) == 2 * kinds  # at the size where it was wrong, and beyond
        assert all(reason.startswith("refused: its ") for reason in reasons)
        assert "PyTorch eager is refused" in capsys.readouterr().err

    def test_numbers_are_shown(self, monkeypatch, capsys):
        change(monkeypatch, "numpy", build=altered("numpy", change_value=lambda v: 2 * v))
        monkeypatch.setattr(bench, "REFERENCE_UP_TO", 0)  # these kernels judge
        assert results("--dtypes", "float32", "--peers", "numpy", "--no-memory")[0] == 1
        error = capsys.readouterr().err
        assert "where tcvae_kernels has -" in error
        assert "1.0e+00 of the largest entry, 0.0002 is allowed" in error

    def test_nothing_is_compared_with_wrong_kernels(self, monkeypatch):
        change(monkeypatch, "kernels", build=altered("kernels", change_value=lambda v: v + 1))
        status, found = results("--dtypes", "float64", "--peers", "numpy", "--no-memory")
        assert status == 1
        assert [(r["peer"], r.get("ratio_to_ours")) for r in found] == [
            ("tcvae_kernels", None),
            ("NumPy reference", None),
        ]

    def test_rounding_is_no_mistake(self, monkeypatch):
        change(monkeypatch, "numpy", build=altered("numpy", change_value=lambda v: v * (1 + 1e-12)))
        assert results("--dtypes", "float64", "--peers", "numpy", "--no-memory")[0] == 0


class TestLeftOut:
    def test_too_large(self):
        status, found = results("--dtypes", "float64", "--peers", "numpy", "--no-memory", "--max-bytes", "5e5")
        reasons = {(r["kind"], r["M"]): r.get("left_out") for r in found if r["peer"] == "NumPy reference"}
        assert status == 0
        assert reasons == {
            ("value", 32): None,
            ("value and gradient", 32): None,
            ("value", 64): None,
            ("value and gradient", 64): "would need 0.000786 GB",
        }

    def test_too_slow_at_the_size_before(self, capsys):
        status, found = results("--dtypes", "float64", "--peers", "numpy", "--no-memory", "--max-seconds", "0")
        assert status == 0
        assert all("left_out" not in r for r in found if r["M"] == 32)
        assert all(r["left_out"].startswith("too slow (") for r in found if r["M"] == 64)
        assert "s at M=32)" in capsys.readouterr().out

    def test_not_installed(self, monkeypatch, capsys):
        change(monkeypatch, "keops", needs=("no_such_module",))
        assert results("--dtypes", "float64", "--peers", "keops", "--no-memory")[0] == 0
        assert "not installed: KeOps" in capsys.readouterr().out

    def test_a_peer_that_fails_does_not_end_the_run(self, monkeypatch, capsys):
        def no_compiler(gradient, inputs):
            raise RuntimeError("no C++ compiler\nlong explanation")

        change(monkeypatch, "eager", build=no_compiler)
        status, found = results("--dtypes", "float64", "--peers", "eager", "--no-memory")
        assert status == 0
        assert [r["left_out"] for r in found if r["peer"] == "PyTorch eager"] == [
            "failed: RuntimeError no C++ compiler"
        ] * 4
        assert "failed: RuntimeError no C++ compiler" in capsys.readouterr().out

    def test_interrupted_run_keeps_what_it_has(self, monkeypatch, capsys):
        measure, sizes = bench.measure, iter((1, 1, 0))

        def interrupted(calls, rounds, pause):
            if not next(sizes):
                raise KeyboardInterrupt
            return measure(calls, rounds, pause)

        monkeypatch.setattr(bench, "measure", interrupted)
        status, found = results("--dtypes", "float64", "--peers", "kernels")
        assert status == 1
        assert [r["M"] for r in found] == [32, 32]
        assert "interrupted" in capsys.readouterr().err


def test_compiled_peer_agrees(monkeypatch):
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))  # traced, not compiled
    status, found = results("--dtypes", "float32", "--peers", "compile", "--no-memory")
    assert status == 0
    assert not [r["left_out"] for r in found if "left_out" in r]


@pytest.mark.parametrize("load", [0.1, 1.7])
def test_a_busy_machine_is_named(monkeypatch, capsys, load):
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    assert results("--dtypes", "float64", "--peers", "kernels", "--no-memory")[0] == 0
    out, error = capsys.readouterr()
    assert f"load average {load} before" in out
    assert ("the load average is 1.7" in error) == (load > 1)


def test_threads_are_given_back(capsys):
    before = os.sched_getaffinity(0)
    assert bench.main([*FAST, "--dtypes", "float64", "--peers", "kernels", "--threads", "1", "--no-memory"]) == 0
    assert "; 1 threads" in capsys.readouterr().out
    assert os.sched_getaffinity(0) == before


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--sizes", "256,x"], "--sizes='256,x' is not a list of whole numbers"),
        (["--sizes", "1"], "--sizes=1 is too small; it must be at least 2"),
        (["--dims", "0"], "--dims=0 is too small"),
        (["--dtypes", "float46"], "--dtypes='float46' is unknown; choose one of float64, float32; did you mean"),
        (["--peers", "jaxx"], "--peers='jaxx' is unknown"),
        (["--rounds", "0"], "--rounds=0 is too small"),
        (["--pause", "-1"], "--pause=-1 is not allowed"),
        (["--max-seconds", "nan"], "--max-seconds=nan is not allowed"),
        (["--threads", "100000"], "--threads=100000 is too large"),
        (["--json", "missing/report.json"], "missing/report.json: No such file or directory"),
        (["--plot", "."], ".: is not a file"),
    ],
)
def test_bad_arguments_give_one_line(capsys, monkeypatch, arguments, line):
    monkeypatch.setattr(bench.Bench, "run", None)  # nothing may begin
    assert bench.main([*FAST, *arguments]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert line in error
    assert error.count("\n") == 1


def test_a_complaint_is_no_longer_than_a_screen(capsys):
    with pytest.raises(SystemExit):
        bench.main(["--no-such", "x" * 10_000])
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("tcvae-ref bench: error: unrecognized arguments: --no-such x")
    assert len(last) < 2500


def test_import_needs_no_library_that_is_compared():
    code = """if True:
        import sys
        sys.modules["numba"] = None
        from tcvae_kernels import bench
        print([name for name in ("torch", "jax", "matplotlib") if name in sys.modules])
        print(bench.main([]))
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split() == ["[]", "2"]
    assert done.stderr == "bench: numba is not installed; pip install 'tcvae-ref[kernels]' brings it\n"
