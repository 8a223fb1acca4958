"""`tcvae-ref evaluate` on any model's representation: every score side by side, in JSON, as a table, as a picture."""

import json
import math
import os
import sys

import numpy as np
import pytest
from optional import torch

from tcvae_ref import cli, evaluation, figures
from tcvae_ref.checks import InputError
from tcvae_ref.evaluate_commands import EXPORT
from tcvae_ref.evaluation import METRICS, evaluate, to_json, to_table
from tcvae_ref.metrics.binned import mig_binned
from tcvae_ref.metrics.mig import mig_quadrature
from tcvae_ref.metrics.monte_carlo import mig_monte_carlo
from tcvae_ref.representations import Representation
from tcvae_ref.scores import RECIPES, Headline, headlines, plain

NAMES = ("shape", "scale", "posX")
CODES_ALONE = {"mig-binned", "modularity-binned", "jemmig", "factor-vae", "higgins", "dci", "sap", "sap-r2"}


def representation(weights=None, seed=0):
    """A code for the scale, one for the position, one for both, one for nothing."""
    rng = np.random.default_rng(seed)
    classes = np.indices((2, 3, 10)).reshape(3, -1).T.copy()
    mu = np.stack([classes[:, 1], classes[:, 2] / 3, classes[:, 1] + classes[:, 2] / 3, np.zeros(60)], axis=1) - 1.5
    mu += 0.02 * rng.standard_normal(mu.shape)
    log_var = np.tile([-3.0, -2.0, -1.0, 0.0], (60, 1))
    return Representation("toy", mu, log_var, classes, NAMES, weights)


def save(path, of, **changes):
    arrays = {"mu": of.mu, "log_var": of.log_var, "factors": of.classes, "factor_names": of.factors, **changes}
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def run(*arguments):
    return cli.main(["evaluate", *(str(a) for a in arguments), "--kernels", "numpy"])


@pytest.fixture(scope="module")
def everything():
    return evaluate(representation(), METRICS, samples=300)


class TestScores:
    def test_every_recipe_is_there_and_is_the_function_of_its_name(self, everything):
        of = representation().of([1, 2])
        arguments = of.mu, of.log_var, of.classes
        assert list(everything.scores) == list(RECIPES)
        assert everything.scores["mig"].score == mig_quadrature(*arguments).score
        rng = np.random.default_rng([0, *b"mig-monte-carlo"])
        expected = mig_monte_carlo(*arguments, rng=rng, samples=300)
        assert everything.scores["mig-monte-carlo"].error.score == expected.error.score
        rng = np.random.default_rng([0, *b"mig-binned"])
        assert everything.scores["mig-binned"].score == mig_binned(*arguments, rng=rng).score
        assert everything.scores["sap"].recipe == "linear SVM"
        assert everything.scores["sap-r2"].recipe == "R^2"
        assert everything.scores["modularity"].score != everything.scores["modularity-binned"].score
        assert everything.scores["jemmig"].normalised > 0
        assert everything.left_out == {}

    def test_names_and_descriptions_are_one_line(self):
        assert all(name == name.lower() and " " not in name for name in RECIPES)
        assert all(recipe.measures and len(recipe.measures) <= 80 for recipe in RECIPES.values())

    def test_a_score_does_not_depend_on_what_else_is_asked_for(self, everything):
        for name in ("sap", "higgins", "mig-monte-carlo"):
            alone = evaluate(representation(), [name], samples=300).scores[name]
            assert alone.score == everything.scores[name].score
        again = evaluate(representation(), METRICS[:1], samples=300)
        assert again.decomposition == everything.decomposition

    def test_seeds(self, everything):
        other = evaluate(representation(), ["decomposition", "mig", "mig-monte-carlo"], samples=300, seed=1)
        assert other.scores["mig-monte-carlo"].score != everything.scores["mig-monte-carlo"].score
        assert other.scores["mig"].score == everything.scores["mig"].score
        assert other.decomposition.total_correlation != everything.decomposition.total_correlation

    def test_factors_are_those_of_the_paper_or_those_named(self, everything):
        assert everything.factors == ("scale", "posX")
        assert everything.factors_left_out == ("shape",)
        named = evaluate(representation(), ["mig"], ["posX", "shape"])
        assert (named.factors, named.factors_left_out) == (("posX", "shape"), ("scale",))
        assert named.scores["mig"].gaps[0] == pytest.approx(everything.scores["mig"].gaps[1], abs=1e-9)

    def test_decomposition_without_a_decoder(self, everything):
        parts = everything.decomposition
        assert everything.reconstruction is None
        assert everything.elbo is None
        total = parts.mutual_information.value + parts.total_correlation.value + parts.dimension_wise_kl.value
        assert total == pytest.approx(parts.kl_monte_carlo.value, rel=1e-12)
        assert abs(everything.dimension_kl.sum() - parts.dimension_wise_kl.value) < 5 * (
            parts.dimension_wise_kl.standard_error
        )

    def test_decomposition_with_a_decoder(self, everything):
        """The reconstruction is over the samples of the decomposition: the same indices and noise."""
        of, seen = representation(), []

        def reconstruct(index, eps):
            seen.append((index, eps))
            return index - 100.0

        result = evaluate(of, ["decomposition"], samples=300, reconstruct=reconstruct)
        ((index, eps),) = seen
        z = of.mu[index] + np.exp(0.5 * of.log_var[index]) * eps
        own = -0.5 * (eps**2 + of.log_var[index]).sum(axis=1) + 0.5 * (z**2).sum(axis=1)
        assert result.decomposition == everything.decomposition
        assert result.decomposition.kl_monte_carlo.value == pytest.approx(own.mean(), rel=1e-12)
        assert result.reconstruction.value == pytest.approx(index.mean() - 100)
        assert result.reconstruction.standard_error == pytest.approx(index.std(ddof=1) / 300**0.5)
        assert result.elbo == pytest.approx(index.mean() - 100 - result.decomposition.kl_analytic)
        assert to_json(result)["elbo"] == result.elbo
        assert "first row - closed-form KL" in to_table(result)

    def test_codes_alone(self):
        of = representation()
        codes = Representation("toy", of.mu, None, of.classes, of.factors)
        result = evaluate(codes, METRICS)
        assert set(result.scores) == CODES_ALONE
        assert set(result.left_out) == set(METRICS) - CODES_ALONE
        assert set(result.left_out.values()) == {"needs mu and log_var; there are codes alone"}
        assert result.matrix is result.scores["mig-binned"]

    def test_weights(self):
        """Integer weights are repeated inputs; what takes no weights says so."""
        weights = np.arange(60.0) % 3
        result = evaluate(representation(weights), METRICS, samples=50)
        assert {name for name, reason in result.left_out.items() if "takes no weights" in reason} == {
            *("decomposition", "dci", "sap")
        }
        of = representation()
        repeated = np.repeat(np.arange(60), weights.astype(int))
        truth = mig_quadrature(of.mu[repeated], of.log_var[repeated], of.classes[repeated][:, 1:])
        assert result.scores["mig"].score == pytest.approx(truth.score, abs=1e-9)
        assert result.dimension_kl is None

    def test_what_is_refused_is_said_and_the_rest_remains(self):
        of = representation()
        one = Representation("toy", of.mu[:, :1], of.log_var[:, :1], of.classes, of.factors)
        result = evaluate(one, ["decomposition", "mig", "factor-vae"], samples=20)
        assert result.left_out == {"mig": "mig_quadrature: 1 latent dimension is too few; a gap needs two"}
        assert set(result.scores) == {"factor-vae"}
        assert result.decomposition is not None

    def test_no_factor(self):
        of = representation()
        none = Representation("toy", of.mu, of.log_var, 0 * of.classes, of.factors)
        result = evaluate(none, ["mig", "decomposition"], samples=20)
        assert result.left_out == {"mig": "no factor of toy is there to score; name some with --factors"}

    @pytest.mark.parametrize(
        ("options", "match"),
        [
            ({"metrics": ["mgi"]}, "--metrics='mgi' is unknown.*did you mean 'mig'"),
            ({"factors": ["size"]}, "factor='size' is unknown"),
            ({"samples": 1}, "samples=1 is too small"),
            ({"seed": -1}, "seed=-1 is too small"),
        ],
    )
    def test_mistakes_are_noticed_before_the_work(self, options, match):
        with pytest.raises(InputError, match=match):
            evaluate(representation(), **{"progress": lambda stage: pytest.fail("worked"), **options})

    def test_a_checkpoint_is_kept_and_continued(self, tmp_path):
        path = tmp_path / "sums.npz"
        one = evaluate(representation(), ["decomposition"], samples=40, checkpoint=path)
        assert path.exists()
        assert evaluate(representation(), ["decomposition"], samples=40, checkpoint=path) == one
        with pytest.raises(InputError):
            evaluate(representation(seed=1), ["decomposition"], samples=40, checkpoint=path)


class TestReports:
    def test_json_has_every_number_and_its_error(self, everything):
        content = json.loads(json.dumps(to_json(everything), allow_nan=False))
        assert list(content["scores"]) == list(RECIPES)
        mig = content["scores"]["mig"]
        assert np.shape(mig["information"]) == np.shape(mig["error"]["information"]) == (4, 2)
        assert np.shape(mig["error"]["gaps"]) == np.shape(mig["factor_entropies"]) == (2,)
        assert mig["error"]["score"] == everything.scores["mig"].error.score
        assert content["scores"]["higgins"]["standard_error"] == everything.scores["higgins"].standard_error
        assert content["scores"]["factor-vae"]["votes"] == everything.scores["factor-vae"].votes.tolist()
        assert content["total_correlation"]["value"] == everything.decomposition.total_correlation.value
        assert content["inputs"] == 60
        assert content["samples"] == 300
        assert (content["factors"], content["factors_left_out"]) == (["scale", "posX"], ["shape"])
        assert "reconstruction" not in content
        assert len(content["dimension_wise_kl_quadrature"]) == 4

    def test_the_table_puts_all_recipes_side_by_side(self, everything):
        lines = to_table(everything).splitlines()
        for name, found in everything.scores.items():
            for headline in headlines(name, found):
                (line,) = (line for line in lines if line.startswith(headline.label + "  "))
                assert f"{headline.value:.4f}" in line
            (line,) = (line for line in lines if line.endswith(RECIPES[name].measures))
            assert line.startswith(name)
        assert "quote mig." in lines[-1]
        (line,) = (line for line in lines if line.startswith("gap / H(v_k)"))
        assert line.split()[-2:] == [f"{gap:.4f}" for gap in everything.scores["mig"].gaps]
        assert "information by quadrature" in lines
        assert "factors not scored: shape" in lines

    def test_information_that_is_nothing_but_rounding_has_no_sign(self, everything):
        """Of quadrature: an information of -5e-15 nats."""
        mig = everything.scores["mig"]
        mig = mig._replace(information=np.full_like(mig.information, -5e-15))
        lines = to_table(everything._replace(scores={**everything.scores, "mig": mig})).splitlines()
        (line,) = (line for line in lines if line.startswith("  z_0"))
        assert line.split()[1:3] == ["0.0000", "0.0000"]

    def test_headlines(self, everything):
        scores = everything.scores
        assert headlines("mig", scores["mig"]) == [Headline("mig", scores["mig"].score, scores["mig"].error.score)]
        assert headlines("mig-binned", scores["mig-binned"])[0].error is None
        assert [h.value for h in headlines("dci", scores["dci"])] == list(scores["dci"][:3])
        assert [h.value for h in headlines("jemmig", scores["jemmig"])] == [
            *(scores["jemmig"].score, scores["jemmig"].normalised)
        ]
        assert headlines("higgins", scores["higgins"])[0].error == scores["higgins"].standard_error

    def test_plain_values(self):
        found = plain({"a": Headline("x", np.float64(1.5), None), "b": np.array([[1, 2]]), "c": True})
        assert json.dumps(found) == '{"a": {"label": "x", "value": 1.5, "error": null}, "b": [[1, 2]], "c": true}'

    def test_the_picture_frames_the_latents_of_the_gap(self, everything):
        mig = everything.scores["mig"]
        matrix, gaps = figures.information_matrix(mig, everything.factors).axes[:2]
        share = mig.information / mig.factor_entropies
        np.testing.assert_allclose(matrix.images[0].get_array(), share)
        assert {text.get_text() for text in matrix.texts} == {f"{value:.2f}" for value in mig.information.ravel()}
        framed = {line.get_linestyle(): [] for line in matrix.lines}
        for line in matrix.lines:
            framed[line.get_linestyle()].append(
                (round(np.mean(line.get_ydata()[:4])), round(line.get_xdata()[0] + 0.4))
            )
        order = np.argsort(mig.information, axis=0)
        assert framed == {
            "-": list(zip(order[-1], range(2), strict=True)),
            "--": list(zip(order[-2], range(2), strict=True)),
        }
        for k, bar in enumerate(gaps.patches):
            assert bar.get_height() == pytest.approx(mig.gaps[k])
            assert bar.get_y() == pytest.approx(share[order[-2, k], k])
        assert [t.get_text() for t in gaps.get_xticklabels()] == [
            f"{name}\ngap {gap:.2f}" for name, gap in zip(everything.factors, mig.gaps, strict=True)
        ]
        assert f"MIG {mig.score:.3f} (quadrature)" in matrix.get_title()

    def test_the_picture_shows_standard_errors(self, everything):
        mig = everything.scores["mig-monte-carlo"]
        matrix, gaps = figures.information_matrix(mig, ["$odd", "a_name_longer_than_its_column"]).axes[:2]
        assert f"± {mig.error.score:.3f}" in matrix.get_title()
        assert gaps.get_xticklabels()[1].get_text().startswith("a_name_longer_th\nan_its_column\n")


class TestCommand:
    def test_posteriors(self, tmp_path, capsys):
        file = save(tmp_path / "vae.npz", representation())
        assert run(file, "--samples", 50) == 0
        shown = capsys.readouterr().out
        for words in (
            "vae.npz: 60 posteriors of 4 dimensions; factors: shape, scale, posX",
            "without shape: --factors scale,posX",
            "total correlation",
            "computed with NumPy",
            "mig  ",
        ):
            assert words in shown
        assert "ELBO" not in shown
        content = json.loads((tmp_path / "vae.evaluation.json").read_text())
        assert content["file"] == "vae.npz"
        assert set(content["scores"]) == {"mig"}
        assert content["factors"] == list(NAMES)
        picture = tmp_path / "vae.evaluation.information.png"
        assert picture.read_bytes().startswith(b"\x89PNG")
        assert sorted(p.name for p in tmp_path.iterdir()) == sorted([file.name, picture.name, "vae.evaluation.json"])

    def test_all_metrics_with_factors_named(self, tmp_path, capsys):
        file = save(tmp_path / "vae.npz", representation())
        path = tmp_path / "numbers.json"
        assert run(file, "--samples", 50, "-m", "all", "--factors", "posX,scale", "--json", path, "--no-figures") == 0
        assert set(json.loads(path.read_text())["scores"]) == set(RECIPES)
        assert "note:" not in capsys.readouterr().out
        assert sorted(p.name for p in tmp_path.iterdir()) == ["numbers.json", "vae.npz"]

    def test_codes_alone_are_scored_by_what_can_score_them(self, tmp_path, capsys):
        of = representation()
        file = save(tmp_path / "ae.npz", of, codes=of.mu, mu=None, log_var=None, factor_names=None)
        assert run(file) == 0
        shown = capsys.readouterr().out
        assert "ae.npz: 60 codes of 4 dimensions; factors: factor_0, factor_1, factor_2" in shown
        assert "mig, mig-monte-carlo, " in shown
        assert "not computed: needs mu and log_var; there are codes alone" in shown
        assert "none of these is the MIG to quote" in shown
        assert "information by binned" in shown
        content = json.loads((tmp_path / "ae.evaluation.json").read_text())
        assert set(content["scores"]) == CODES_ALONE
        assert set(content["left_out"]) == set(METRICS) - CODES_ALONE

    def test_metrics_repeated_and_with_commas(self, tmp_path):
        file = save(tmp_path / "vae.npz", representation())
        assert run(file, "--metrics", "mig-binned,sap-r2", "--metrics", "mig", "--no-figures") == 0
        content = json.loads((tmp_path / "vae.evaluation.json").read_text())
        assert set(content["scores"]) == {"mig", "mig-binned", "sap-r2"}
        assert "total_correlation" not in content

    def test_a_log_var_that_is_none(self, tmp_path, capsys):
        of = representation()
        assert run(save(tmp_path / "a.npz", of, log_var=np.exp(of.log_var)), "--samples", 20, "--no-figures") == 0
        assert "is it log sigma^2?" in capsys.readouterr().out

    def test_without_matplotlib(self, tmp_path, monkeypatch, capsys):
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
        assert run(save(tmp_path / "a.npz", representation()), "-m", "mig") == 0
        assert "picture: left out; figures: matplotlib is not installed" in capsys.readouterr().out
        assert (tmp_path / "a.evaluation.json").exists()

    def test_without_scikit_learn(self, tmp_path, monkeypatch, capsys):
        for name in ("sklearn.svm", "sklearn.base", "sklearn.linear_model"):
            monkeypatch.setitem(sys.modules, name, None)
        assert run(save(tmp_path / "a.npz", representation()), "-m", "sap,dci,higgins,sap-r2", "--no-figures") == 0
        assert "sap not computed: sap: scikit-learn is not installed; pip install" in capsys.readouterr().out
        assert set(json.loads((tmp_path / "a.evaluation.json").read_text())["scores"]) == {"sap-r2"}

    @pytest.mark.parametrize(
        ("options", "match"),
        [
            (["-m", "mig,sap2"], "--metrics='sap2' is unknown"),
            (["--factors", "size"], "factor='size' is unknown; choose one of shape, scale, posX"),
            (["--json", "FILE"], "belongs to the model itself"),
            (["--checkpoint", "FILE"], "belongs to the model itself"),
            (["--json", "a.json", "--checkpoint", "a.json"], "--json and --checkpoint are the same file"),
            (["--json", "no/a.json"], "No such file"),
            (["--samples", "1"], "samples=1 is too small"),
        ],
    )
    def test_mistakes(self, tmp_path, capsys, monkeypatch, options, match):
        monkeypatch.chdir(tmp_path)
        file = save(tmp_path / "a.npz", representation())
        before = file.read_bytes()
        assert run(file, *(str(file) if word == "FILE" else word for word in options)) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert match in line
        assert os.listdir() == ["a.npz"]
        assert file.read_bytes() == before

    def test_a_metric_that_the_file_cannot_have(self, tmp_path, capsys):
        of = representation()
        file = save(tmp_path / "a.npz", of, codes=of.mu, mu=None, log_var=None)
        assert run(file, "-m", "mig") == 2
        said = capsys.readouterr().err
        assert "a.npz: --metrics mig: needs mu and log_var; there are codes alone; choose from mig-binned" in said
        weighted = save(tmp_path / "w.npz", of, weights=np.ones(60))
        assert run(weighted, "-m", "decomposition") == 2
        assert "takes no weights" in capsys.readouterr().err

    def test_nothing_can_be_computed(self, tmp_path, capsys):
        of = representation()
        assert run(save(tmp_path / "a.npz", of, factors=0 * of.classes), "-m", "mig") == 2
        assert "nothing can be computed: mig: no factor of a.npz" in capsys.readouterr().err
        assert not (tmp_path / "a.evaluation.json").exists()

    def test_neither_a_run_nor_a_file(self, tmp_path, capsys):
        assert run(tmp_path) == 2
        assert "holds no run" in capsys.readouterr().err
        (tmp_path / "a.npz").write_bytes(b"PK")
        assert run(tmp_path / "a.npz") == 2
        assert "not a complete npz archive" in capsys.readouterr().err


class TestExportFromPyTorch:
    def test_the_lines_in_the_help_are_run_as_they_stand(self, tmp_path, monkeypatch, capsys):
        with pytest.raises(SystemExit):
            cli.main(["evaluate", "--help"])
        shown = capsys.readouterr().out
        assert EXPORT in shown
        assert all(name in shown for name in METRICS)
        code = "\n".join(line.removeprefix("  ") for line in EXPORT.splitlines() if line.startswith("  "))
        of = representation()
        layer = torch.nn.Linear(3, 4).double()

        def encoder(x):
            mu = layer(x)
            return mu, mu - 3.0

        x = torch.tensor(of.classes, dtype=torch.float64)
        factors = torch.tensor(of.classes[:, 1:])
        loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, factors), batch_size=16)
        monkeypatch.chdir(tmp_path)
        exec(code, {"torch": torch, "numpy": np, "encoder": encoder, "loader": loader})
        assert run("model.npz", "--samples", 20, "--no-figures") == 0
        content = json.loads((tmp_path / "model.evaluation.json").read_text())
        mu = layer(x).detach().numpy()
        truth = mig_quadrature(mu, mu - 3.0, of.classes[:, 1:])
        assert content["factors"] == ["scale", "posX"]
        assert math.isclose(content["scores"]["mig"]["score"], truth.score, rel_tol=1e-12)


def test_the_factors_that_the_paper_scores():
    of = Representation("x", np.zeros((4, 2)), None, np.array([[0, 0, 0], [1, 0, 1], [0, 0, 1], [1, 0, 0]]), NAMES)
    assert evaluation.usual_factors(of) == ["posX"]


class TestNothingIsLost:
    def file(self, folder, log_var=-3.0, name="model.npz", scale=1.0):
        n = np.arange(60)
        factors = np.stack([n % 3, n // 3 % 4], axis=1)
        mu = factors[:, [0, 1, 0]] + 0.1 * np.random.default_rng(0).standard_normal((60, 3))
        path = folder / name
        with path.open("wb") as file:
            np.savez(file, mu=scale * mu, log_var=np.full((60, 3), log_var), factors=factors)
        return path

    def run(self, *words):
        return cli.main(["evaluate", *map(str, words), "--samples", "200", "--kernels", "numpy"])

    def test_a_picture_does_not_replace_the_model(self, tmp_path, capsys):
        path = self.file(tmp_path, name="p.information.png")
        before = path.read_bytes()
        assert self.run(path, "-m", "mig", "--json", tmp_path / "p.json") == 2
        assert "would be overwritten by the picture" in capsys.readouterr().err
        assert path.read_bytes() == before

    @pytest.mark.parametrize("log_var", [2000.0, 800.0, -100.0])
    def test_what_cannot_be_computed_does_not_take_the_rest_with_it(self, tmp_path, log_var):
        path = self.file(tmp_path, log_var)
        assert self.run(path, "-m", "decomposition,mig,factor-vae,mig-binned", "--no-figures") == 0
        content = json.loads((tmp_path / "model.evaluation.json").read_text())
        assert "decomposition" in content["left_out"]
        assert {"factor-vae", "mig-binned"} <= set(content["scores"])
