"""Studies: files that are read with care, runs that are done once whatever happens, numbers that can be trusted."""

import argparse
import base64
import dataclasses
import html.parser
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import numpy as np
import pytest
from autograd import grad
from optional import torch
from scipy.stats import mannwhitneyu

from tcvae_ref import InputError, studies_commands
from tcvae_ref.estimators import expected_log_qz_mss, expected_log_qz_symmetric_mss, log_qz_exact, log_weights_mss
from tcvae_ref.metrics import factor_vae_metric
from tcvae_ref.representations import Representation
from tcvae_ref.studies import bias, column_weights, results, runner, sensitivity, study, table
from tcvae_ref.studies import figures as study_figures
from tcvae_ref.studies.bias import Cell
from tcvae_ref.studies.statistics import bootstrap, quartiles, shift
from tcvae_ref.training import DataSource, Run, Settings, initial_state, load_source, train

ABOUT = {"title": "A study", "claim": "That it works.", "figure": "lines", "seeds": [0, 1], "series": ["objective"]}
BASE = {
    "data": {"grid": [1, 2, 1, 6, 6]},
    "encoder": [8],
    "decoder": [8],
    "latent": 2,
    "batch": 16,
    "epochs": 2,
    "estimator": "mss",
}
TOML = """
[study]
title = "A study"
claim = "That it works."
figure = "trade-off"
seeds = [0, 1, 2, 3, 4]
series = ["objective"]
[base]
data = { grid = [1, 2, 1, 6, 6] }
encoder = [16]
decoder = [16]
latent = 2
batch = 16
epochs = 60
estimator = "mss"
[grid]
objective = ["beta-vae", "beta-tcvae"]
beta = [1, 4]
"""
MAIN = """
import argparse, sys
from tcvae_ref import studies_commands
parser = argparse.ArgumentParser()
studies_commands.add_sweep(parser)
arguments = parser.parse_args(sys.argv[1:])
if __name__ == "__main__":
    sys.exit(arguments.run(arguments))
"""


def parse(about=None, base=None, grid=None, **tables):
    return study.parse(
        "s", {"study": {**ABOUT, **(about or {})}, "base": {**BASE, **(base or {})}, "grid": grid, **tables}
    )


def command(*arguments):
    """The command as another process runs it."""
    return [sys.executable, "-c", MAIN, *map(str, arguments)]


def sweep(*arguments):
    parser = argparse.ArgumentParser()
    studies_commands.add_sweep(parser)
    parsed = parser.parse_args([str(a) for a in arguments])
    return parsed.run(parsed)


def killed(*arguments):
    """A worker's work that the system puts an end to."""
    os.kill(os.getpid(), signal.SIGKILL)


def figures(folder, out=None):
    return studies_commands.draw_study(argparse.Namespace(folder=Path(folder), out=out))


class TestFiles:
    def test_lists_are_multiplied_and_blocks_put_one_after_the_other(self):
        of = parse(
            {"series": ["objective", "latent"]},
            grid=[
                {"objective": ["beta-vae", "beta-tcvae"], "beta": [1, 4, 16]},
                {"objective": "vae", "latent": [2, 3]},
            ],
        )
        told = [(r.settings.objective, r.settings.beta, r.settings.latent, r.settings.seed) for r in of.runs]
        products = [
            (o, float(b), 2, seed) for o, b, seed in itertools.product(("beta-vae", "beta-tcvae"), (1, 4, 16), (0, 1))
        ]
        assert told == products + [("vae", Settings().beta, latent, seed) for latent in (2, 3) for seed in (0, 1)]

    def test_what_has_no_part_in_a_run_makes_no_second_one(self):
        of = parse(
            {"series": ["objective", "gamma"]}, grid={"objective": ["vae", "beta-vae"], "beta": [1, 4], "gamma": [0, 1]}
        )
        assert len(of.runs) == len({run.key for run in of.runs}) == 2 + 2 * 2

    def test_studies_share_what_is_the_same(self):
        one, other = (parse(about=about, grid={"beta": [1.0, 4]}) for about in ({}, {"title": "B", "seeds": [1, 7]}))
        shared = {run.key for run in one.runs} & {run.key for run in other.runs}
        assert shared == {run.key for run in one.runs if run.settings.seed == 1}

    @pytest.mark.parametrize("name", [f.name for f in dataclasses.fields(Settings)])
    def test_every_setting_changes_the_key(self, name):
        (run,) = parse(about={"seeds": [0]}, grid={"objective": "beta-tcvae"}).runs
        value = getattr(run.settings, name)
        words = {"objective": "vae", "estimator": "mws", "prior": "flow", "network": "conv"}
        other = words.get(name) or ((*value, 8) if isinstance(value, tuple) else value + 1)
        assert run._replace(settings=dataclasses.replace(run.settings, **{name: other})).key != run.key

    def test_data_changes_the_key(self):
        keys = [
            parse(about={"seeds": [0]}, base={"data": {"grid": grid}}, grid={"beta": 1}).runs[0].key
            for grid in ([1, 2, 1, 6, 6], [1, 2, 1, 6, 7], "hearts")
        ]
        assert len(set(keys)) == 3

    @pytest.mark.parametrize(
        ("kind", "name", "sizes"), [("grid", "hearts", [1, 6, 1, 16, 16]), ("heads", "tiny", [4, 5, 3, 3])]
    )
    def test_a_named_grid_is_its_sizes(self, kind, name, sizes):
        named, sized = (
            parse(about={"seeds": [0]}, base={"data": {kind: said}}, grid={"beta": 1}).runs[0] for said in (name, sizes)
        )
        assert getattr(named.source, kind) == tuple(sizes)
        assert named.key == sized.key

    @pytest.mark.parametrize(
        ("tables", "said"),
        [
            ({"grid": {"betta": [1]}}, "did you mean 'beta'"),
            ({"grid": {"beta": [1]}, "about": {"figure": "trade"}}, "did you mean 'trade-off'"),
            ({"grid": {"beta": [1]}, "about": {"metrics": ["factor_vae"]}}, "did you mean 'factor-vae'"),
            ({"grid": {"beta": [1]}, "about": {"serie": ["beta"]}}, "did you mean 'series'"),
            ({"grid": {"beta": [1]}, "about": {"series": ["objectiv"]}}, "did you mean 'objective'"),
            ({"grid": {"objective": ["beta-tcvea"]}}, "did you mean 'beta-tcvae'"),
            ({"grid": {"beta": [1]}, "base": {"data": {"gird": "hearts"}}}, "did you mean 'grid'"),
            ({"grid": {"beta": []}}, "empty list"),
            ({"grid": {"beta": [-1]}}, "at least 0"),
            ({"grid": {"seed": [1, 2]}}, "list the seeds in [study]"),
            ({"grid": {"beta": [1]}, "about": {"seeds": []}}, "list of whole numbers"),
            ({"grid": {"beta": [1]}, "about": {"title": " "}}, "a text is needed"),
            ({"grid": {"beta": [1]}, "sensitivity": {}}, "needs the tables"),
            ({"grid": {"beta": [1]}, "about": {"figure": "bias"}}, "needs the tables [study] and [bias]"),
            ({"grid": {"beta": [1]}, "grdi": {}}, "did you mean 'grid'"),
            ({"grid": {"beta": list(range(6000))}}, "more than 10,000 runs"),
            ({"grid": {"objective": "vae", "beta": list(range(6000))}}, "more than 10,000 runs"),
            ({"grid": {"a": [*range(10**4)], "b": [*range(10**4)], "c": [*range(10**4)]}}, "runs, 2,000,000,000,000"),
            ({"grid": {"beta": [1]}, "base": {"data": {"file": "a\0b"}}}, "a path has neither"),
            ({"grid": []}, "empty list"),
            ({"grid": {"beta": [10**400]}}, "beta="),
            ({"grid": {"encoder": [128, 256]}}, "encoder=128; the widths"),
            ({"grid": {"beta": [1]}, "base": {"encoder": True}}, "encoder=True; the widths"),
            ({"grid": {"beta": [1], "latent": [2, 3]}}, "differ in latent"),
            ({"grid": {"learning_rate": [1e-3, 1e-3 * (1 + 1e-9)]}}, "differ in learning_rate"),
            ({"grid": {"beta": [1]}, "about": {"y": ["migg"]}}, "did you mean 'mig'"),
            ({"grid": {"beta": [1]}, "about": {"y": ["factor_vae"]}}, "column"),
            ({"grid": {"beta": [1]}, "about": {"x": "objective"}}, "a setting that is a number"),
            ({"grid": {"objective": ["vae", "beta-tcvae"], "alpha": [0, 1]}, "about": {"x": "alpha"}}, "no part"),
            ({"grid": {"beta": [1]}, "base": {"data": {"grid": "hearst"}}}, "did you mean 'hearts'"),
            ({"grid": {"beta": [1]}, "base": {"data": {"grid": [1, 2, 3]}}}, "sizes"),
            ({"grid": {"beta": [1]}, "bias": {"N": [1]}}, "needs the tables"),
        ],
    )
    def test_mistakes_are_answered(self, tables, said):
        with pytest.raises(InputError) as error:
            parse(**tables)
        assert said in str(error.value)

    def test_a_file_that_is_no_toml(self, tmp_path):
        (tmp_path / "a.toml").write_text("[study\n")
        with pytest.raises(InputError, match="not TOML"):
            study.read(tmp_path / "a.toml")
        with pytest.raises(InputError, match="did you mean 'trade-off'"):
            study.find("trade-of")
        (tmp_path / "a.toml").write_text(TOML.replace("latent = 2", f"latent = 0x{'f' * 5000}"))
        with pytest.raises(InputError, match="more than 64 bits"):
            study.read(tmp_path / "a.toml")
        os.mkfifo(tmp_path / "b.toml")
        with pytest.raises(InputError, match="is not a file"):
            study.read(tmp_path / "b.toml")

    @pytest.mark.parametrize("name", ["..", ".", "runs", "photographs"])
    def test_a_study_without_a_folder_of_its_own(self, tmp_path, name):
        (tmp_path / f"{name}.toml").write_text(TOML)
        with pytest.raises(InputError, match="has no folder of its own"):
            sweep(tmp_path / f"{name}.toml", "--out", tmp_path / "store", "--dry-run")

    def test_the_guides_example_can_be_read(self):
        text = (Path(study.__file__).parent / "README.md").read_text()
        (example,) = re.findall(r"^```toml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
        assert len(study.parse("example", tomllib.loads(example)).runs) == 2 * 3 * 5

    def test_the_guide_quotes_what_was_measured(self):
        """Every block of numbers is what the tables beside the guide say, line by line, and none is left out."""
        folder = Path(study.__file__).parent
        text = (folder / "README.md").read_text()
        quoted = dict(re.findall(r"^<!-- lines: (\S+) -->\n```text\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
        measured = sorted(path.parent for path in folder.glob("measured/*/study.toml"))
        assert sorted(quoted) == [path.name for path in measured]
        for path in measured:
            of = study.read(path / "study.toml")
            assert of._replace(name="", text="") == study.read(study.find(path.name))._replace(name="", text="")
            rows = table.read(path / ("measured.csv" if of.figure == "sensitivity" else "results.csv"))
            assert quoted[path.name].splitlines() == [line.rstrip() for line in results.lines_of(of, rows)]
            assert {row["key"] for row in table.read(path / "results.csv")} >= {run.key for run in of.runs}
            pictures = [name for name in re.findall(r"\]\((\S+\.png)\)", text) if path.name in name]
            assert pictures, path.name

    def test_what_ships_can_be_read(self):
        asked = {name: study.read(path) for name, path in study.shipped().items()}
        assert len(asked) == 9
        for of in asked.values():
            assert of.figure == "bias" or len({run.settings.seed for run in of.runs}) >= 5
        keys = {name: {run.key for run in of.runs} for name, of in asked.items()}
        assert keys["total-correlation"] >= keys["trade-off"] & keys["systems"] != set()
        assert keys["alpha-gamma"] & keys["column-weights"] & keys["trade-off"]


class TestColumnWeights:
    """The published matrix: as the oracle of the estimators' tests has it, statement by statement."""

    @pytest.mark.parametrize(("M", "N"), [(2, 2), (2, 9), (5, 40), (8, 8)])
    def test_it_is_the_published_one(self, M, N):
        m = M - 1
        W = torch.full((M, M), 1 / m, dtype=torch.float64)
        W.view(-1)[:: m + 1] = 1 / N
        W.view(-1)[1 :: m + 1] = (N - m) / (N * m)
        W[m - 1, 0] = (N - m) / (N * m)
        np.testing.assert_allclose(np.exp(column_weights.log_weights_column_weighted_mss(M, N)), W.numpy(), rtol=1e-14)
        if M > 2:
            assert np.abs(W.numpy() - np.exp(log_weights_mss(M, N))).max() > 0.01

    def test_values_and_gradients_agree_with_torch(self):
        rng, N = np.random.default_rng(0), 30
        arrays = [rng.standard_normal((6, 3)) for _ in range(3)]
        log_w = torch.tensor(column_weights.log_weights_column_weighted_mss(6, N))
        z, mu, log_var = tensors = [torch.tensor(a, requires_grad=True) for a in arrays]
        L = torch.distributions.Normal(mu, (0.5 * log_var).exp()).log_prob(z[:, None])
        joint = torch.logsumexp(L.sum(2) + log_w, 1).mean()
        marginals = torch.logsumexp(L + log_w[..., None], 1).sum(1).mean()
        (joint - marginals).backward()
        for estimator in (column_weights.expected_log_qz_column_weighted_mss, column_weights.in_blocks):
            assert estimator(*arrays, N) == pytest.approx((joint.item(), marginals.item()), rel=1e-12)
            for k, tensor in enumerate(tensors):

                def tc(*a, estimator=estimator):
                    joint, marginals = estimator(*a, N)
                    return joint - marginals

                np.testing.assert_allclose(grad(tc, k)(*arrays), tensor.grad.numpy(), rtol=1e-9, atol=1e-12)


class TestStatistics:
    def test_the_interval_is_mann_whitneys(self):
        """A shift is inside it exactly if SciPy's exact test does not reject it."""
        rng = np.random.default_rng(0)
        for n, m in ((5, 5), (5, 8), (10, 6)):
            a, b = rng.standard_normal(n) + 0.5, rng.standard_normal(m)
            value, low, high, confidence = shift(a, b)
            assert value == pytest.approx(np.median(np.subtract.outer(a, b)))
            inside = [
                mannwhitneyu(a - d, b, method="exact").pvalue > 1 - confidence + 1e-12
                for d in (low - 1e-9, low + 1e-9, high - 1e-9, high + 1e-9)
            ]
            assert inside == [False, True, True, False]
            assert confidence >= 0.95

    def test_its_coverage(self):
        rng = np.random.default_rng(1)
        found = [shift(rng.exponential(size=5) + 2.0, rng.exponential(size=5)) for _ in range(2000)]
        share = np.mean([low <= 2.0 <= high for _, low, high, _ in found])
        assert share == pytest.approx(found[0].confidence, abs=0.015)

    def test_too_few_seeds_are_said(self):
        assert shift([1.0, 2.0], [0.0, 0.5]).confidence == pytest.approx(1 - 2 / 6)
        with pytest.raises(InputError, match="at least"):
            shift([], [1.0])

    def test_bootstrap_of_a_mean(self):
        x = np.random.default_rng(2).standard_normal(400)
        (interval,) = bootstrap(lambda i: np.array([x[i[0]].mean()]), [len(x)], np.random.default_rng(0))
        assert interval.value == pytest.approx(x.mean())
        assert interval.high - interval.low == pytest.approx(2 * 1.96 * x.std() / 20, rel=0.1)

    def test_matched_reconstruction(self):
        """Two objectives on one line differ by nothing; lifted by 0.1 by just that; outside there is no number."""
        reconstruction = np.linspace(-60, -20, 4)[:, None] + np.zeros((4, 5))
        low = np.stack([reconstruction, -reconstruction / 100], axis=2)
        high = low + np.array([0.0, 0.1])
        at = np.array([-55.0, -30.0, -10.0])
        found = results.matched(high, low, np.random.default_rng(0), at)
        assert [interval.value for interval in found[:2]] == pytest.approx([0.1, 0.1])
        assert [interval.low for interval in found[:2]] == pytest.approx([0.1, 0.1])
        assert np.isnan(found[2].value)
        assert np.isnan(found[2].low)

    def test_quartiles(self):
        assert quartiles([4.0, 1.0, 3.0, 2.0, 5.0]) == (2.0, 3.0, 4.0)


class TestBias:
    def test_exact_at_the_whole_data_set(self):
        """Symmetric MSS is exact at M = N, MSS is not; the gradients agree too."""
        cell = Cell(40, 40, 2, 0.5, 4, 60)
        estimators = {"symmetric-mss": expected_log_qz_symmetric_mss, "mss": expected_log_qz_mss}
        exact, symmetric, mss = bias.measure(cell, estimators, log_qz_exact, lambda done, total: None)
        for term in ("mutual_information", "total_correlation", "dimension_wise_kl"):
            assert symmetric[f"bias_{term}"] == pytest.approx(0.0, abs=1e-12)
            assert abs(mss[f"bias_{term}"]) > 1e-4 or abs(mss[f"spread_{term}"]) > 1e-3
        assert symmetric["cosine"] == pytest.approx(exact["cosine"], abs=1e-9)
        assert exact["cosine"] > 0.9

    def test_the_exact_gradient_is_that_of_the_expectation(self):
        """Central differences of the exact TC over the same noise."""
        cell = Cell(30, 10, 2, 0.6, 2, 3)
        rng = np.random.default_rng(0)
        inputs = rng.standard_normal((30, 2))
        noise = [np.random.default_rng(5).standard_normal((90, 2))[30 * d : 30 * d + 30] for d in range(3)]
        got = bias._exact_gradient(cell, inputs, np.random.default_rng(5), log_qz_exact, lambda done, total: None)

        def tc(theta):
            parts = theta[:4].reshape(2, 2), theta[4:6], theta[6:]
            terms = [bias._terms(cell, inputs, np.arange(30), eps, None, log_qz_exact)(parts) for eps in noise]
            return np.mean([term.total_correlation for term in terms])

        start = bias._flat(bias._start(cell))
        steps = np.eye(8) * 1e-6
        np.testing.assert_allclose(got, [(tc(start + h) - tc(start - h)) / 2e-6 for h in steps], rtol=1e-5, atol=1e-8)

    def test_cells(self):
        found = bias.cells({"N": [10, 100], "M": [20, 50], "D": [2], "sigma": [1]})
        assert [(c.N, c.M, c.batches) for c in found] == [(100, 20, 40), (100, 50, 40)]
        for numbers, said in (
            ({"N": [10]}, "M, D, sigma missing"),
            ({"N": [10], "M": [20], "D": [2], "sigma": [1]}, "every M exceeds"),
            ({"N": [10], "M": [2], "D": [2], "sigma": [0]}, "above 0"),
            ({"N": [10], "M": [2], "D": [2.5], "sigma": [1]}, "whole number"),
            ({"N": [10], "M": [2], "D": [1], "sigma": [1]}, "at least 2"),
            ({"N": [10], "M": [2], "D": [2], "sigma": [1], "batches": [10, 20]}, "one number"),
            ({"N": [10] * 101, "M": [2] * 100, "D": [2], "sigma": [1]}, "more than 10,000"),
            ({"n": [10]}, "did you mean 'N'|choose one of"),
        ):
            with pytest.raises(InputError, match=said):
                bias.cells(numbers)


class TestSensitivity:
    @pytest.mark.parametrize(
        ("numbers", "said"),
        [
            ({"factor_vae_batch": [2.5, 64]}, "whole number"),
            ({"factor_vae_batch": [1, 64]}, "at least 2"),
            ({"higgins_inverse_regularisation": [0.0, 1.0]}, "above 0"),
            ({"higgins_batch": [1, 256]}, "64 among them"),
            ({"higgins_batch": [64, 64]}, "different values"),
        ],
    )
    def test_values_are_checked_before_anything_is_trained(self, numbers, said):
        with pytest.raises(InputError, match=said):
            sensitivity.settings(numbers)

    def test_a_score_that_cannot_be_had_is_reported(self, models):
        of = dataclasses.replace(models[0], log_var=None)
        rows = sensitivity.measure(of, {"mig_binned_bins": [20], "repeats": [1]}, lambda done, total: None)
        assert rows[0]["score"] is None
        assert "log_var" in rows[0]["reason"]
        assert rows[1]["score"] is not None

    @pytest.fixture(scope="class")
    @classmethod
    def models(cls):
        rng = np.random.default_rng(0)
        classes = np.indices((5, 6, 7)).reshape(3, -1).T
        models = []
        for blur in (0.05, 0.4, 1.2):
            mu = classes - classes.mean(axis=0) + blur * rng.standard_normal(classes.shape)
            models.append(Representation("m", mu, np.full(mu.shape, -2.0), classes.astype(np.int64), ("a", "b", "c")))
        return models

    def test_rows_are_the_scores_themselves(self, models):
        numbers = {"factor_vae_batch": [4, 64], "repeats": [2]}
        rows = sensitivity.measure(models[1], numbers, lambda done, total: None)
        assert len(rows) == 1 + 2 * 2
        own = factor_vae_metric(models[1].mu, models[1].classes, 1, batch=4, variance_inputs=None).score
        assert next(r["score"] for r in rows if (r["value"], r["repeat"]) == (4, 1)) == own

    def test_few_iterations_are_no_warning(self, models):
        numbers = {"higgins_max_iter": [1, 1000], "repeats": [1]}
        rows = sensitivity.measure(models[2], numbers, lambda done, total: None)
        assert rows[1]["score"] < rows[2]["score"]

    @pytest.mark.parametrize("order", [1, -1])
    def test_a_score_that_orders_nothing_agrees_with_nothing(self, order):
        rows = [
            {"key": key, "metric": "higgins", "dial": "batch", "value": value, "repeat": 0, "score": score}
            for key, usual in (("a", 0.1), ("b", 0.2), ("c", 0.3))
            for value, score in ((64, usual), (1, 0.0))
        ]
        assert sensitivity.movements(rows[::order])[0].agreement == 0.0

    def test_movements(self, tmp_path):
        rows = [
            {
                "key": key,
                "metric": "higgins",
                "dial": "batch",
                "value": value,
                "repeat": repeat,
                "score": score + repeat / 100,
            }
            for key, scores in (("a", (0.1, 0.5)), ("b", (0.2, 0.4)), ("c", (0.3, 0.3)))
            for value, score in zip((1, 64), scores, strict=True)
            for repeat in (0, 1)
        ]
        missing = {**rows[0], "key": "d", "score": None}
        table.write([*rows, missing], tmp_path / "measured.csv")
        (moved,) = sensitivity.movements(table.read(tmp_path / "measured.csv"))
        assert moved.range == pytest.approx(0.2)
        assert moved.noise == pytest.approx(0.01 / 2**0.5)
        assert moved.agreement == pytest.approx(-1.0)  # the order at batch 1 is the reverse of that at 64

    def test_mistakes_are_answered(self):
        with pytest.raises(InputError, match="did you mean 'higgins_batch'"):
            sensitivity.settings({"higgins_bach": [1]})
        with pytest.raises(InputError, match="one number"):
            sensitivity.settings({"repeats": [1, 2]})


class TestSweep:
    @pytest.fixture(scope="class")
    @classmethod
    def swept(cls, tmp_path_factory):
        """Twenty runs, undisturbed, in one process."""
        folder = tmp_path_factory.mktemp("undisturbed")
        (folder / "small.toml").write_text(TOML)
        assert sweep(folder / "small.toml", "--out", folder, "--jobs", 1, "--kernels", "numpy") == 0
        return folder

    def test_every_run_is_in_the_table(self, swept):
        rows = table.read(swept / "small" / "results.csv")
        assert len(rows) == 20
        assert all(row["status"] == "done" for row in rows)
        for row in rows:
            run = Run.open(swept / "runs" / row["key"])
            assert run.settings.beta == row["beta"]
            kl = row["mutual_information"] + row["total_correlation"] + row["dimension_wise_kl"]
            assert kl == pytest.approx(row["kl"], rel=0.1)
            assert row["elbo"] == pytest.approx(row["reconstruction"] - row["kl"], rel=1e-12)
            assert row["mig"] == pytest.approx(np.mean([row["gap_scale"], row["gap_posX"], row["gap_posY"]]))
            assert row["numpy"] == np.__version__
        assert len(table.read(swept / "small" / "seconds.csv")) == 20

    def test_killed_five_times(self, swept, tmp_path):
        """The same table, byte by byte, with two workers that are killed with their parent or left behind."""
        (tmp_path / "small.toml").write_text(TOML)
        arguments = command(tmp_path / "small.toml", "--out", tmp_path, "--jobs", 2, "--kernels", "numpy")
        done = 0
        for kill in range(5):
            process = subprocess.Popen(
                arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
            )
            deadline = time.monotonic() + 120
            while time.monotonic() < deadline and process.poll() is None:
                if len(list((tmp_path / "runs").glob("*/result.json"))) >= done + 2:
                    break
                time.sleep(0.02)
            if kill % 2:
                os.kill(process.pid, signal.SIGKILL)  # its workers are left to notice
            else:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            done = len(list((tmp_path / "runs").glob("*/result.json")))
            assert 0 < done < 20, "killed too late to prove anything"
        kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").glob("*/result.json")}
        finished = subprocess.run(arguments, capture_output=True, text=True, check=False)
        assert finished.returncode == 0, finished.stderr
        assert all(path.stat().st_mtime_ns == then for path, then in kept.items())
        assert (tmp_path / "small/results.csv").read_bytes() == (swept / "small/results.csv").read_bytes()
        assert not list(tmp_path.rglob("*.partial"))

    def test_on_a_cluster_of_two_workers(self, swept, tmp_path):
        distributed = pytest.importorskip("distributed")
        (tmp_path / "small.toml").write_text(TOML.replace("[0, 1, 2, 3, 4]", "[0, 1]"))
        script = """
import sys
from distributed import LocalCluster
if __name__ == "__main__":
    with LocalCluster(n_workers=2, threads_per_worker=int(sys.argv[1]), dashboard_address=None) as cluster:
        print(cluster.scheduler_address, flush=True)
        sys.stdin.read()
"""
        assert distributed
        (tmp_path / "cluster.py").write_text(script)
        for threads in (1, 2):
            cluster = subprocess.Popen(
                [sys.executable, tmp_path / "cluster.py", str(threads)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            try:
                address = cluster.stdout.readline().strip().replace("tcp://", "dask://")
                arguments = command(tmp_path / "small.toml", "--out", tmp_path, "--kernels", "numpy", "--on", address)
                done = subprocess.run(arguments, capture_output=True, text=True, check=False)
            finally:
                cluster.communicate()
            if threads == 1:
                assert done.returncode == 0, done.stderr
                lines = (swept / "small/results.csv").read_text().splitlines()
                own = (tmp_path / "small/results.csv").read_text().splitlines()
                assert len(own) == 9
                assert set(own) <= set(lines)
                for path in (tmp_path / "runs").glob("*/result.json"):
                    path.unlink()
            else:
                assert done.returncode != 0
                assert "each needs one" in done.stderr

    @pytest.mark.parametrize(
        ("address", "said"), [("localhost", "dask://HOST:PORT"), ("dask://127.0.0.1:1", "no Dask scheduler answers")]
    )
    def test_a_cluster_that_is_not_there(self, tmp_path, address, said, monkeypatch):
        distributed = pytest.importorskip("distributed")
        patient = distributed.Client
        monkeypatch.setattr(distributed, "Client", lambda *a, **k: patient(*a, **{**k, "timeout": 1}))
        (tmp_path / "small.toml").write_text(TOML)
        with pytest.raises(InputError, match=said):
            sweep(tmp_path / "small.toml", "--out", tmp_path, "--kernels", "numpy", "--on", address)

    def test_a_half_trained_run_goes_on(self, swept, tmp_path):
        """A checkpoint from the middle of a run leads to the same row, and is what the run goes on from."""
        (tmp_path / "one.toml").write_text(TOML.replace("[0, 1, 2, 3, 4]", "[0]").replace("[1, 4]", "[4]"))
        spec = study.read(tmp_path / "one.toml").runs[0]
        data, folder = load_source(spec.source), tmp_path / "runs" / spec.key
        run, saved = Run.create(folder, spec.settings, spec.source, data), []
        state = initial_state(spec.settings, data.images.pixels)
        train(spec.settings, data, state, saved.append, lambda *seen: None, lambda: len(saved) == 100)
        assert saved[-1].step == 100
        run.save(saved[-1])
        sweep(tmp_path / "one.toml", "--out", tmp_path, "--jobs", 1, "--kernels", "numpy")
        expected = next(r for r in table.read(swept / "small" / "results.csv") if r["key"] == spec.key)
        found = next(r for r in table.read(tmp_path / "one" / "results.csv") if r["key"] == spec.key)
        assert found == expected

    def test_a_worker_that_is_killed(self, tmp_path, monkeypatch):
        (tmp_path / "small.toml").write_text(TOML)
        monkeypatch.setattr(studies_commands, "_work", killed)
        with pytest.raises(InputError, match="fewer --jobs"):
            sweep(tmp_path / "small.toml", "--out", tmp_path, "--kernels", "numpy", "--jobs", 2)

    def test_no_jobs(self, tmp_path):
        (tmp_path / "small.toml").write_text(TOML)
        with pytest.raises(InputError, match="--jobs=0"):
            sweep(tmp_path / "small.toml", "--out", tmp_path, "--jobs", 0)

    def test_a_run_that_was_changed_by_other_means(self, swept, tmp_path):
        """Trained for longer under the same name, it is no longer the study's."""
        store = tmp_path / "store"
        subprocess.run(["cp", "-r", swept, store], check=True)
        content = store / "runs" / table.read(swept / "small" / "results.csv")[0]["key"] / "run.json"
        changed = json.loads(content.read_text())
        del changed["checksum"]
        changed["settings"]["epochs"] += 1
        content.write_text(json.dumps(changed))
        (content.parent / "result.json").unlink()
        with pytest.raises(InputError, match="is not the run of its name"):
            sweep(tmp_path / "store" / "small.toml", "--out", store, "--jobs", 1, "--kernels", "numpy")

    def test_a_measurement_that_fails_leaves_what_was_measured_before(self, swept, tmp_path):
        store, key = tmp_path / "store", table.read(swept / "small" / "results.csv")[0]["key"]
        subprocess.run(["cp", "-r", swept, store], check=True)
        kept = (store / "runs" / key / "result.json").read_bytes()
        job = runner.Job(key, ("mig", "more"), None)

        def refuse(*arguments):
            raise runner.Failed("no")

        with pytest.raises(InputError, match="no; its earlier result is kept"):
            runner.do(job, store, refuse, "NumPy", None)
        assert (store / "runs" / key / "result.json").read_bytes() == kept
        runner.do(job, store, lambda *arguments: {"more": {"more": 1.0}}, "other kernels", None)
        before, after = json.loads(kept), json.loads((store / "runs" / key / "result.json").read_text())
        assert after["parts"] == {**before["parts"], "more": {"more": 1.0}}
        assert after["computed_with"] == "NumPy; other kernels"
        assert after["versions"] == before["versions"]
        assert after["seconds"] >= before["seconds"]

    def test_failed_runs_are_reported_and_tried_again_when_asked(self, tmp_path, capsys):
        toml = TOML.replace("[0, 1, 2, 3, 4]", "[0]").replace("epochs = 60", "epochs = 2")
        toml = toml.replace('["objective"]', '["objective", "learning_rate"]')
        (tmp_path / "a.toml").write_text(toml.replace("beta = [1, 4]", "beta = [1]\nlearning_rate = [0.001, 1e30]"))
        arguments = (tmp_path / "a.toml", "--out", tmp_path, "--jobs", 1, "--kernels", "numpy")
        assert sweep(*arguments) == 0
        rows = table.read(tmp_path / "a" / "results.csv")
        assert [row["status"] for row in rows] == ["done", "failed", "done", "failed"]
        assert "diverged" in rows[1]["reason"]
        assert rows[1]["mig"] is None
        assert "2 done, 2 failed" in capsys.readouterr().out
        before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/result.json")}
        assert sweep(*arguments) == 0
        assert before == {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/result.json")}
        assert sweep(*arguments, "--retry-failed") == 0
        changed = [p.parent.name for p, then in before.items() if p.stat().st_mtime_ns != then]
        assert sorted(changed) == sorted(row["key"] for row in rows if row["status"] == "failed")

    def test_a_study_that_wants_more_trains_nothing_again(self, swept, tmp_path):
        store = tmp_path / "store"
        subprocess.run(["cp", "-r", swept, store], check=True)
        toml = TOML.replace("[0, 1, 2, 3, 4]", "[0]").replace(
            'figure = "trade-off"', 'figure="systems"\nmetrics=["sap-r2"]'
        )
        (tmp_path / "more.toml").write_text(toml)
        before = {path: path.read_bytes() for path in store.glob("runs/*/checkpoint.npz")}
        assert sweep(tmp_path / "more.toml", "--out", store, "--jobs", 1, "--kernels", "numpy") == 0
        assert before == {path: path.read_bytes() for path in store.glob("runs/*/checkpoint.npz")}
        rows = table.read(store / "more" / "results.csv")
        first = {row["key"]: row for row in table.read(swept / "small" / "results.csv")}
        assert len(rows) == 4
        for row in rows:
            assert row["sap_r2"] is not None
            assert row["mig"] == first[row["key"]]["mig"]

    def test_dry_run_and_list(self, tmp_path, capsys):
        (tmp_path / "small.toml").write_text(TOML)
        assert sweep(tmp_path / "small.toml", "--out", tmp_path / "new", "--dry-run") == 0
        assert capsys.readouterr().out.count("beta") == 40
        assert not (tmp_path / "new").exists()
        assert sweep("--list") == 0
        said = capsys.readouterr().out
        assert [line.split()[0] for line in said.splitlines()] == list(study.shipped())

    def test_parquet_where_it_can_be_written(self, swept):
        parquet = pytest.importorskip("pyarrow.parquet")
        rows = table.read(swept / "small" / "results.csv")
        table.write(rows, swept / "again.csv")
        assert parquet.read_table(swept / "again.parquet").column("mig").to_pylist() == [row["mig"] for row in rows]

    def test_the_page(self, swept, tmp_path):
        text = (swept / "small" / "page.html").read_text()
        page = Page()
        page.feed(text)
        page.close()
        assert page.open == []
        assert len(page.pictures) == 1 + 20
        assert all(base64.b64decode(p.partition(",")[2]).startswith(b"\x89PNG") for p in page.pictures)
        assert not page.elsewhere
        for row in table.read(swept / "small" / "results.csv"):
            assert row["key"] in text
        assert studies_commands.is_study(swept / "small")
        assert not studies_commands.is_study(swept / "runs")
        assert figures(swept / "small", tmp_path / "out") == 0
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["page.html", "small.png"]

    @pytest.mark.parametrize(
        ("before", "after", "said"),
        [
            ("objective", "objection", "its tables are not those of its study.toml"),
            ("beta-vae", "beta-vae,1", "a row of [0-9]+ cells for [0-9]+ columns"),
            ("mig,", "mig,mig,", "columns"),
            ("status", "mig", "has a column twice"),
            ("beta-vae", "\udcff", "is no table"),
        ],
    )
    def test_tables_that_were_changed(self, swept, tmp_path, before, after, said):
        shutil.copytree(swept / "small", tmp_path / "small")
        path = tmp_path / "small" / "results.csv"
        (tmp_path / "small" / "SHA256SUMS").unlink()
        text = path.read_text()
        assert before in text
        path.write_bytes(text.replace(before, after, 1).encode(errors="surrogateescape"))
        with pytest.raises(InputError, match=said):
            figures(tmp_path / "small")

    def test_names_in_which_no_formula_is_meant(self, swept, tmp_path):
        shutil.copytree(swept / "small", tmp_path / "small")
        (tmp_path / "small" / "SHA256SUMS").unlink()
        (tmp_path / "small" / "command.txt").write_bytes("tcvae-ref sweep '$x_{$' 数 ".encode() + b"\xff")
        assert figures(tmp_path / "small") == 0

    @pytest.mark.parametrize(
        "change",
        [
            *({"status": "x"}, {"parts": []}, {"parts": {"mig": 3}}, {"parts": {"mig": {"mig": "0"}}}),
            *({"seconds": None}, {"parts": {"mig": {"mig": 10**40}}}, {"versions": {"numpy": []}}),
        ],
    )
    def test_results_that_were_changed(self, swept, tmp_path, change):
        key = table.read(swept / "small" / "results.csv")[0]["key"]
        content = json.loads((swept / "runs" / key / "result.json").read_text())
        del content["checksum"]
        path = tmp_path / "runs" / key / "result.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(content | change))
        with pytest.raises(InputError, match=r"is damaged in .*; remove it"):
            runner.result_of(tmp_path, runner.Job(key, ("mig",), None))

    def test_results_do_not_hold_what_changes(self, swept):
        result = json.loads(next((swept / "runs").glob("*/result.json")).read_text())
        names = table.columns(table.read(swept / "small" / "results.csv"))
        assert "seconds" in result
        assert "seconds" not in names


class Page(html.parser.HTMLParser):
    """What a page holds: what is left open, pictures, and what is fetched from elsewhere."""

    def __init__(self):
        super().__init__()
        self.open, self.pictures, self.elsewhere = [], [], []

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href"):
                (self.pictures if value.startswith("data:image/png;base64,") else self.elsewhere).append(value)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


class TestFigures:
    @pytest.mark.parametrize("name", sorted(study.shipped()))
    def test_every_study_is_drawn(self, name, tmp_path):
        of = study.read(study.shipped()[name])
        if of.figure == "bias":
            cells = [cell._replace(batches=2, exact_draws=1) for cell in bias.cells(of.numbers) if cell.N < 1000][:2]
            estimators = {"mss": expected_log_qz_mss}
            rows = [row for cell in cells for row in bias.measure(cell, estimators, log_qz_exact, lambda *a: None)]
            runs = rows
        elif of.figure == "sensitivity":
            runs = made_up(of, tmp_path)
            rows = [
                {"key": run.key, "metric": m, "dial": d, "value": v, "repeat": r, "score": 0.1 * r + 0.01 * i}
                for i, run in enumerate(of.runs)
                for m, d, v in (("mig", "", None), ("higgins", "batch", 1), ("higgins", "batch", 64))
                for r in (0, 1)
            ]
        else:
            runs = made_up(of, tmp_path)
            rows = [row for row in runs if row["status"] == "done"]
            assert any("no reason" in line for line in results.lines_of(of, runs))
        assert results.lines_of(of, rows)
        for picture in study_figures.pictures(of, rows, runs, "tcvae-ref sweep it"):
            assert "tcvae-ref sweep it" in picture.caption
            assert of.figure == "bias" or "1 failed" in picture.caption
            picture.figure.savefig(tmp_path / "a.png")

    @pytest.mark.parametrize("figure", ["lines", "trade-off", "scatter"])
    def test_every_run_is_drawn_in_its_panel(self, figure, tmp_path):
        of = parse({"figure": figure, "panels": "latent"}, grid={"latent": [2, 3], "beta": [1, 4, 16]})
        rows = made_up(of, tmp_path)[1:]
        (picture,) = study_figures.pictures(of, rows, rows, "it")
        axes = [axis for axis in picture.figure.axes if axis.get_ylabel() == "MIG" and axis.get_xlabel() != "beta"]
        shown = axes if figure != "lines" else picture.figure.axes
        points = [sum(len(line.get_xdata()) for line in axis.lines if line.get_alpha()) for axis in shown]
        each = {"lines": [5, 6], "trade-off": [5, 5, 6, 6], "scatter": [5, 6]}  # the first run failed
        assert points == each[figure]

    def test_runs_without_a_score_are_left_out(self, tmp_path):
        for figure in ("lines", "trade-off", "scatter"):
            of = parse({"figure": figure}, grid={"objective": ["beta-vae", "beta-tcvae"], "beta": [1, 4]})
            rows = [{**row, "mig": None} for row in made_up(of, tmp_path)]
            assert results.lines_of(of, rows)
            assert study_figures.pictures(of, rows, rows, "it")

    def test_what_has_no_part_is_in_no_label(self, tmp_path):
        of = parse(
            {"figure": "systems", "series": ["objective", "beta"]},
            grid=[{"objective": "vae"}, {"objective": "beta-vae", "beta": [1, 4]}],
        )
        rows = made_up(of, tmp_path)
        assert {results.label(of, row) for row in rows} == {"vae", "beta-vae, beta = 1", "beta-vae, beta = 4"}
        assert rows[0]["beta"] is None


def made_up(of, tmp_path):
    """A study's table as runs would leave it, written and read back; the first run failed."""
    table.write([made_up_row(of, run) for run in of.runs], tmp_path / "made_up.csv")
    return table.read(tmp_path / "made_up.csv")


def made_up_row(of, run):
    """A row as a run would leave it."""
    failed = run is of.runs[0]
    score = 0.1 * run.settings.seed
    parts = {
        "decomposition": {"reconstruction": -30 - run.settings.beta, "total_correlation": 1 / run.settings.beta},
        "mig": {"mig": score},
        "factor-vae": {"factor_vae": score},
        "higgins": {"higgins": score},
    }
    parts["decomposition"] |= {"elbo": -60.0, "mutual_information": 3.0}
    parts = {} if failed else parts
    result = {"status": "failed" if failed else "done", "reason": "no reason" if failed else "", "parts": parts}
    return table.numbers(of, run, {**result, "versions": {}, "computed_with": "NumPy"})


def test_no_crop_and_the_usual_crop_are_two_sources():
    sources = [DataSource(celeba="faces", crop=crop) for crop in (None, 0, 148)]
    assert len({study.described(source) for source in sources}) == 3


def test_a_name_that_is_no_text_is_written_to_both_tables(tmp_path):
    table.write([{"data": "file\udcff", "mig": 1.0}], tmp_path / "results.csv")
    assert (tmp_path / "results.csv").read_text() == "data,mig\nfile?,1.0\n"
