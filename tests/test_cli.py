"""The command line as a person uses it: whole runs, and every mistake answered in one line."""

import dataclasses
import importlib.util
import json
import os
import re
import subprocess
import sys
import time

import numpy as np
import pytest
import tcvae_kernels

from tcvae_ref import cli
from tcvae_ref.data import PackedImages, grid, render, write_npz
from tcvae_ref.evaluate_commands import _open
from tcvae_ref.files import locked
from tcvae_ref.scores import RECIPES
from tcvae_ref.training import Run, initial_state
from tcvae_ref.training.run import FILES

TINY = ["--grid", "1x2x1x6x6", "--encoder", "16", "--decoder", "16", "--latent", "3", "--batch", "16", "--epochs", "3"]


def run(*arguments):
    return cli.main([str(a) for a in arguments])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert run("train", "--out", folder, *TINY) == 0
    return folder


def copy(trained, tmp_path):
    """A run that a test may spoil."""
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("run.json", "checkpoint.npz", "history.csv"):
        (folder / name).write_bytes((trained / name).read_bytes())
    return folder


class TestTrainAndEvaluate:
    def test_from_images_to_numbers_and_pictures(self, trained, tmp_path, capsys):
        folder = copy(trained, tmp_path)
        assert run("evaluate", folder, "--json", tmp_path / "numbers.json", "--samples", 500) == 0
        shown = capsys.readouterr().out
        for word in ("E[log p(x|z)]", "total correlation", "dimension-wise KL", "ELBO", "mig  ", "gap / H(v_k)", "z_2"):
            assert word in shown
        assert "factors not scored: shape, orientation" in shown
        numbers = json.loads((tmp_path / "numbers.json").read_text())
        parts = [numbers[k]["value"] for k in ("mutual_information", "total_correlation", "dimension_wise_kl")]
        assert sum(parts) == pytest.approx(numbers["kl_monte_carlo"]["value"], rel=1e-12)
        assert numbers["elbo"] == pytest.approx(numbers["reconstruction"]["value"] - numbers["kl_analytic"], rel=1e-12)
        assert list(numbers["scores"]) == ["mig"]
        assert np.shape(numbers["scores"]["mig"]["information"]) == (3, 3)
        assert numbers["factors"] == ["scale", "posX", "posY"]
        assert numbers["scores"]["mig"]["recipe"] == "quadrature"
        assert numbers["run"]["beta"] == 20.0
        pictures = sorted(p.name for p in (folder / "figures").iterdir())
        assert pictures == ["information.png", "latents.png", "reconstructions.png", "training.png", "traversals.png"]
        assert all((folder / "figures" / p).read_bytes().startswith(b"\x89PNG") for p in pictures)

    def test_the_same_seed_gives_the_same_numbers(self, trained, tmp_path):
        files = [tmp_path / f"{i}.json" for i in range(3)]
        for path, seed in zip(files, (0, 0, 1), strict=True):
            run("evaluate", trained, "--json", path, "--samples", 100, "--seed", seed, "--no-figures")
        one, same, other = (json.loads(path.read_text()) for path in files)
        assert one == same
        assert one["mutual_information"] != other["mutual_information"]
        assert one["scores"]["mig"] == other["scores"]["mig"]

    def test_chosen_factors(self, trained, tmp_path, capsys):
        path = tmp_path / "a.json"
        assert (
            run("evaluate", trained, "--json", path, "--samples", 100, "--factors", "posY,scale", "--no-figures") == 0
        )
        assert json.loads(path.read_text())["factors"] == ["posY", "scale"]
        assert run("evaluate", trained, "--json", path, "--factors", "posZ") == 2
        assert "did you mean 'pos" in capsys.readouterr().err

    def test_every_score_of_a_run(self, trained, tmp_path, capsys):
        path = tmp_path / "a.json"
        options = ("--samples", 100, "--metrics", "all", "--kernels", "numpy", "--no-figures")
        assert run("evaluate", trained, "--json", path, *options) == 0
        numbers = json.loads(path.read_text())
        assert set(numbers["scores"]) == set(RECIPES)
        assert numbers["factors_left_out"] == ["shape", "orientation"]
        assert run("evaluate", trained, "--json", path, "--metrics", "sap-r2", "--kernels", "numpy") == 0
        assert list(json.loads(path.read_text())["scores"]) == ["sap-r2"]
        assert "information.png: left out; mig was not asked for" in capsys.readouterr().err

    def test_an_exported_run_has_the_same_numbers(self, trained, tmp_path):
        of = _open(trained).representation
        classes = np.ascontiguousarray(of.classes)
        exported = {"mu": of.mu, "log_var": of.log_var, "factors": classes, "factor_names": of.factors}
        np.savez(tmp_path / "model.npz", **exported)
        options = ("--samples", 100, "--metrics", "decomposition,mig,mig-monte-carlo,higgins", "--kernels", "numpy")
        assert run("evaluate", trained, "--json", tmp_path / "a.json", "--no-figures", *options) == 0
        assert run("evaluate", tmp_path / "model.npz", "--json", tmp_path / "b.json", "--no-figures", *options) == 0
        ours, theirs = (json.loads((tmp_path / name).read_text()) for name in ("a.json", "b.json"))
        assert {key for key in ours if ours[key] != theirs.get(key)} == {"run", "reconstruction", "elbo"}
        assert set(theirs) - set(ours) == {"file"}

    def test_more_epochs(self, trained, tmp_path, capsys):
        folder = copy(trained, tmp_path)
        assert run("train", "--resume", folder, "--epochs", 4) == 0
        assert "continuing at step 12" in capsys.readouterr().out
        assert Run.open(folder).load(4096, 72).step == 16
        assert run("train", "--resume", folder) == 0

    def test_figures_alone(self, trained, tmp_path):
        assert run("figures", trained, "--out", tmp_path / "pictures") == 0
        assert (tmp_path / "pictures" / "traversals.png").exists()
        assert run("figures", trained, "--out", tmp_path / "pictures", "--image", 72) == 2

    def test_without_matplotlib_the_numbers_remain(self, trained, tmp_path, monkeypatch, capsys):
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
        assert run("evaluate", trained, "--samples", 100, "--json", tmp_path / "a.json") == 0
        assert "pip install 'tcvae-ref[experiments]'" in capsys.readouterr().out
        assert run("figures", trained) == 2

    def test_a_run_stopped_within_its_first_epoch(self, trained, tmp_path, capsys):
        folder = copy(trained, tmp_path)
        opened = Run.open(folder)
        first = initial_state(opened.settings, 4096)
        opened.save(first._replace(step=1))
        assert run("evaluate", folder, "--samples", 100) == 0
        assert "the first epoch is not finished" in capsys.readouterr().err
        assert not (folder / "figures" / "training.png").exists()
        assert (folder / "figures" / "latents.png").exists()

    def test_data_that_are_no_grid(self, tmp_path, capsys):
        """Some images of a grid: cells of the position map without an image, and corners left out."""
        whole = render(grid((1, 2, 1, 6, 6)))
        keep = np.flatnonzero((whole.classes[:, 3] != 5) & (np.arange(72) % 7 > 0))
        images = PackedImages(whole.images.rows[keep], (64, 64))
        write_npz(tmp_path / "some.npz", dataclasses.replace(whole, images=images, classes=whole.classes[keep]))
        assert run("train", "--out", tmp_path / "run", "--data", tmp_path / "some.npz", *TINY[2:]) == 0
        assert run("evaluate", tmp_path / "run", "--samples", 100) == 0

    def test_small_grids_and_one_latent(self, tmp_path, capsys):
        folder = tmp_path / "run"
        options = [
            *("--grid", "1x1x1x1x8"),
            *("--encoder", 4, "--decoder", 4, "--latent", 1, "--batch", 4, "--epochs", 2),
        ]
        assert run("train", "--out", folder, *options) == 0
        assert run("evaluate", folder, "--samples", 100) == 0
        assert "mig not computed: mig_quadrature: 1 latent dimension is too few" in capsys.readouterr().out
        numbers = json.loads((folder / "evaluation.json").read_text())
        assert numbers["scores"] == {}
        assert "too few" in numbers["left_out"]["mig"]
        assert run("figures", folder) == 0

    def test_one_image(self, tmp_path, capsys):
        options = ["--grid", "1x1x1x1x1", "--encoder", 4, "--decoder", 4, "--latent", 2, "--batch", 1, "--epochs", 2]
        assert run("train", "--out", tmp_path / "run", *options) == 0
        assert run("evaluate", tmp_path / "run", "--samples", 20) == 0
        assert "latents.png: left out; no factor varies" in capsys.readouterr().err

    def test_names_that_no_font_knows(self, tmp_path):
        odd = tmp_path / "$\\foo$ 数.npz"
        write_npz(odd, render(grid((1, 1, 1, 2, 2))))
        assert run("data", "show", "--data", odd, "--out", tmp_path / "a.png") == 0

    def test_every_objective_and_estimator_trains(self, tmp_path):
        for i, extra in enumerate(
            (
                ["--objective", "vae"],
                ["--objective", "beta-vae", "--beta", 4],
                ["--estimator", "symmetric-mss"],
                ["--estimator", "minibatch", "--beta-warm-up", 5, "--alpha", 0.5, "--gamma", 2],
            )
        ):
            assert run("train", "--out", tmp_path / str(i), *TINY, *extra) == 0


class TestKernels:
    @pytest.fixture(autouse=True)
    def _restored_threads(self):
        before = tcvae_kernels.get_num_threads()
        yield
        tcvae_kernels.set_num_threads(before)

    def test_numpy_and_kernels_agree_and_say_which_they_are(self, tmp_path, capsys):
        numbers = {}
        for choice, said in (
            (["--kernels", "numpy"], "NumPy"),
            (["--kernels", "numba", "--threads", "1"], "compiled kernels on 1 thread\n"),
            (["--threads", "2"], "compiled kernels on 2 threads\n"),
        ):
            folder, path = tmp_path / said[:4] / str(len(choice)), tmp_path / "numbers.json"
            assert run("train", "--out", folder, *TINY, *choice) == 0
            assert said.strip() in capsys.readouterr().out
            metrics = ["--metrics", "decomposition,mig,mig-monte-carlo"]
            assert run("evaluate", folder, "--json", path, "--samples", 200, "--no-figures", *metrics, *choice) == 0
            assert f"computed with {said.strip()}" in capsys.readouterr().out
            numbers[said] = json.loads(path.read_text())
        numpy, one, two = numbers.values()
        assert one == two  # the same bits for any number of threads
        for name in ("mutual_information", "total_correlation", "reconstruction"):
            assert numpy[name]["value"] == pytest.approx(one[name]["value"], rel=1e-3, abs=1e-3)
        for name in ("mig", "mig-monte-carlo"):
            ours, theirs = (content["scores"][name]["information"] for content in (one, numpy))
            np.testing.assert_allclose(ours, theirs, atol=1e-3)

    def test_without_numba(self, tmp_path, capsys, monkeypatch):
        find = importlib.util.find_spec
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "numba" else find(name))
        assert run("train", "--out", tmp_path / "run", *TINY) == 0
        assert "; NumPy" in capsys.readouterr().out
        assert run("train", "--out", tmp_path / "other", *TINY, "--kernels", "numba") == 2
        assert "tcvae-ref[kernels]" in capsys.readouterr().err
        assert not (tmp_path / "other").exists()

    @pytest.mark.parametrize(
        ("options", "match"),
        [
            (["--threads", "0"], "threads=0 is too small"),
            (["--threads", "2", "--kernels", "numpy"], "--threads is for kernels"),
        ],
    )
    def test_mistakes(self, tmp_path, capsys, options, match):
        assert run("train", "--out", tmp_path / "run", *TINY, *options) == 2
        assert match in capsys.readouterr().err
        assert not (tmp_path / "run").exists()

    def test_bench_is_mounted(self, capsys):
        arguments = ["--sizes", "16", "--dims", "2", "--rounds", "1", "--pause", "0", "--peers", "numpy", "--no-memory"]
        assert run("bench", *arguments) == 0
        assert "tcvae_kernels" in capsys.readouterr().out
        with pytest.raises(SystemExit):
            run("train", "--out", "x", "--no-such-option")
        assert capsys.readouterr().err.endswith("unrecognized arguments: --no-such-option\n")

    @pytest.mark.parametrize(
        ("words", "meant"),
        [
            (("train", "--out", "x", "--betta", "6"), "--betta 6; did you mean --beta?"),
            (("bench", "--sises", "4"), "--sises 4; did you mean --sizes?"),
            (("check", "losses.py:tc", "--max-exemples=4"), "--max-exemples=4; did you mean --max-examples?"),
        ],
    )
    def test_an_option_that_is_misspelt(self, capsys, words, meant):
        with pytest.raises(SystemExit):
            run(*words)
        assert capsys.readouterr().err.endswith(f"unrecognized arguments: {meant}\n")


class TestSystems:
    """Every objective, prior and network, from the command line to numbers and pictures."""

    def numbers(self, folder, *options):
        small = ["--encoder", 16, "--decoder", 16] if "conv" not in options else []
        rest = ["--latent", 3, "--batch", 16, "--epochs", 2]
        assert run("train", "--out", folder, *small, *rest, *options) == 0
        assert run("evaluate", folder, "--samples", 100) == 0
        assert len(list((folder / "figures").iterdir())) == 5
        return json.loads((folder / "evaluation.json").read_text())

    def test_factor_vae(self, tmp_path, capsys):
        folder = tmp_path / "run"
        self.numbers(folder, "--grid", "1x2x1x6x6", "--objective", "factor-vae", "--discriminator", "8,8")
        assert (
            "factor-vae (mws), tc weight 35, discriminator 8-8, discriminator rate 0.0001, D 3"
            in capsys.readouterr().out
        )
        table = np.genfromtxt(folder / "history.csv", delimiter=",", names=True)
        assert table.dtype.names[-2:] == ("discriminator_total_correlation", "discriminator_loss")
        assert run("train", "--resume", folder, "--epochs", 3, "--tc-weight", 35) == 0
        assert run("train", "--resume", folder, "--tc-weight", 3) == 2
        assert "--tc-weight 3.0 does not fit this run, which has 35.0" in capsys.readouterr().err

    def test_a_flow_has_no_closed_form(self, tmp_path, capsys):
        numbers = self.numbers(tmp_path / "run", "--grid", "1x2x1x6x6", "--prior", "flow")
        shown = capsys.readouterr().out
        assert ", prior flow, D 3" in shown
        assert "closed form" not in shown
        assert "first row - Monte-Carlo KL" in shown
        assert numbers["kl_analytic"] is None
        assert numbers["dimension_wise_kl_quadrature"] is None
        elbo = numbers["reconstruction"]["value"] - numbers["kl_monte_carlo"]["value"]
        assert numbers["elbo"] == pytest.approx(elbo, rel=1e-12)

    def test_correlated_heads_through_convolutions(self, tmp_path, capsys):
        folder, chosen = tmp_path / "run", ["--heads", "3x4x2x2", "--correlated", "azimuth,lighting,diagonal"]
        numbers = self.numbers(folder, *chosen, "--network", "conv")
        assert "synthetic heads, azimuth and lighting diagonal: 48 images" in capsys.readouterr().out
        assert list(numbers["scores"]) == ["mig"]
        assert "takes no weights" in numbers["left_out"]["decomposition"]
        assert run("train", "--resume", folder, *chosen) == 0
        assert run("train", "--resume", folder, "--heads", "tiny") == 2
        assert run("train", "--resume", folder, "--correlated", "azimuth,lighting,skewed") == 2
        assert run("train", "--resume", folder, "--crop", 0) == 0

    def test_a_folder_of_colour_pictures(self, tmp_path, capsys):
        image = pytest.importorskip("PIL.Image")
        pictures = tmp_path / "pictures"
        pictures.mkdir()
        rng = np.random.default_rng(0)
        for i in range(32):
            image.fromarray(rng.integers(256, size=(70, 80, 3), dtype=np.uint8)).save(pictures / f"{i}.png")
        folder = tmp_path / "run"
        options = ["--folder", pictures, "--crop", 64, "--limit", 24, "--network", "conv", "--batch", 12, "--epochs", 1]
        assert run("train", "--out", folder, *options, "--latent", 2) == 0
        assert ": 24 images; " in capsys.readouterr().out
        assert run("evaluate", folder, "--samples", 50) == 0
        assert (folder / "figures" / "traversals.png").exists()
        assert run("data", "show", "--folder", pictures, "--out", tmp_path / "a.png") == 0
        (pictures / "0.png").unlink()
        capsys.readouterr()
        assert run("evaluate", folder) == 2
        assert "not the data set this run was started on" in capsys.readouterr().err

    def test_heads_are_shown(self, tmp_path):
        assert run("data", "show", "--heads", "2x3x2x2", "--out", tmp_path / "a.png") == 0

    def test_studies_are_mounted(self, capsys):
        assert run("sweep", "--list") == 0
        assert "mig" in capsys.readouterr().out.lower()
        assert run("sweep", "no-such-study") == 2


class TestData:
    def test_render_verify_show_and_train_on_a_file(self, tmp_path, capsys):
        path = tmp_path / "sprites.npz"
        assert run("data", "render", "--grid", "1x2x1x6x6", "--out", path) == 0
        assert "72 images (1 shape x 2 scale x 1 orientation x 6 posX x 6 posY)" in capsys.readouterr().out
        assert run("data", "verify", path) == 0
        assert "72 of 72 images identical (100.000 %)" in capsys.readouterr().out
        assert run("data", "show", "--data", path, "--out", tmp_path / "a.png") == 0
        assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
        rest = TINY[2:]
        assert run("train", "--out", tmp_path / "run", "--data", path, *rest) == 0
        assert run("evaluate", tmp_path / "run", "--samples", 100, "--no-figures") == 0
        run("data", "render", "--grid", "1x2x1x6x5", "--out", path)
        capsys.readouterr()
        assert run("evaluate", tmp_path / "run") == 2
        assert "not the data set this run was started on" in capsys.readouterr().err

    def test_verify_fails_below_the_required_share(self, tmp_path, capsys):
        path = tmp_path / "sprites.npz"
        run("data", "render", "--grid", "1x2x1x6x6", "--out", path)
        with np.load(path) as file:
            arrays = dict(file)
        arrays["imgs"][3, 0, 0] = 1
        np.savez(path, **arrays)
        assert run("data", "verify", path) == 1
        assert "1 images differ in 1 of 4096 pixels" in capsys.readouterr().out


class TestMistakes:
    """One clear line on standard error, exit status 2, and nothing written."""

    def refused(self, capsys, match, *arguments, status=2):
        assert run(*arguments) == status
        captured = capsys.readouterr()
        lines = captured.err.strip().splitlines()
        assert len(lines) == 1, lines
        assert lines[0].startswith("tcvae-ref: ")
        assert match in lines[0]

    @pytest.mark.parametrize(
        ("options", "match"),
        [
            (["--grid", "1x2x1x6"], "5 are needed"),
            (["--grid", "9x2x1x6x6"], "there are square, ellipse, heart"),
            (["--batch", "4000"], "exceeds the data set's 1536 inputs"),
            (["--batch", "1", "--estimator", "mss"], "batch - 1"),
            (["--beta", "-3"], "at least 0"),
            (["--latent", "0"], "at least 1"),
            (["--learning-rate", "nan"], "finite"),
            (["--encoder", "0"], "encoder width"),
            (["--data", "/nowhere/a.npz"], "/nowhere/a.npz: No such file"),
            (["--save-every", "-1"], "save_every"),
            (["--latent", "99999999999999999999"], "too large"),
            (["--encoder", "99999999999"], "too large"),
            (["--grid", "1x1x1x70000x1"], "at most 65536"),
            (["--objective", "vae", "--beta", "9"], "has no part in the objective vae"),
            (["--objective", "beta-vae", "--gamma", "2"], "has no part in the objective beta-vae"),
            (["--objective", "factor-vae", "--gamma", "2"], "its weight is --tc-weight"),
            (["--objective", "factor-vae", "--beta", "2"], "its weight is --tc-weight"),
            (["--tc-weight", "5"], "has no part in the objective beta-tcvae"),
            (["--discriminator", "5,5"], "has no part in the objective beta-tcvae"),
            (["--network", "conv", "--encoder", "5"], "choose another --network"),
            (["--network", "conv", "--batch", "1"], "normalises by the batch"),
            (["--heads", "2x3x2"], "4 are needed"),
            (["--correlated", "scale,posZ,diagonal"], "did you mean 'pos"),
            (["--correlated", "scale,posX,diagnal"], "did you mean 'diagonal'"),
            (["--correlated", "scale,posX,diagonal", "--estimator", "mss"], "choose mws"),
            (["--crop", "100"], "crop is for celeba and folder"),
            (["--celeba", "/nowhere"], "/nowhere"),
            (["--folder", "/nowhere"], "/nowhere"),
            (["--faces", "/nowhere/a.npy"], "/nowhere/a.npy"),
        ],
    )
    def test_settings(self, tmp_path, capsys, options, match):
        self.refused(capsys, match, "train", "--out", tmp_path / "run", *options)
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize(
        ("options", "match"),
        [
            (["--objective", "beta-tcva"], "invalid choice"),
            (["--grid", "harts"], "neither one of hearts"),
            (["--encoder", "a,b"], "not a list of widths"),
            (["--heads", "smal"], "four sizes such as"),
            (["--correlated", "scale,posX"], "is not two factors and one of"),
            (["--grid", "tiny", "--heads", "tiny"], "not allowed with argument"),
            (["--estimator", "mss-column-weighted"], "invalid choice"),
            (["--out", ""], "is empty"),
            ([], "one of the arguments --out --resume is required"),
        ],
    )
    def test_words_the_parser_refuses(self, capsys, options, match):
        with pytest.raises(SystemExit) as stop:
            run("train", *options)
        assert stop.value.code == 2
        assert match in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("command", "match"),
        [
            *(
                (command, r"is empty; give a name \('\.' for this folder\)\n$")
                for command in (
                    ["sweep", "trade-off", "--out", ""],
                    ["figures", " "],
                    ["check", "x.py:f", "--json", ""],
                    ["check-step", "--cases", ""],
                    ["weights", "x.py:f", "--out", ""],
                    ["vectors", "verify", ""],
                )
            ),
            (["evaluate", "run", "--metrics", " , "], r"' , ' names nothing\n$"),
            (["check", "x.py:f", "--checks", ","], r"',' names nothing\n$"),
        ],
    )
    def test_names_and_lists_that_are_empty(self, capsys, command, match):
        with pytest.raises(SystemExit) as stop:
            run(*command)
        assert stop.value.code == 2
        assert re.search(match, capsys.readouterr().err)

    def test_a_run_that_exists_is_not_overwritten(self, trained, capsys):
        before = (trained / "checkpoint.npz").read_bytes()
        self.refused(capsys, "continue it with --resume", "train", "--out", trained, *TINY)
        assert (trained / "checkpoint.npz").read_bytes() == before

    def test_a_run_is_continued_as_it_is(self, trained, capsys):
        self.refused(
            capsys, "--latent 4 does not fit this run, which has 3", "train", "--resume", trained, "--latent", 4
        )
        self.refused(capsys, "--epochs 1 does not fit", "train", "--resume", trained, "--epochs", 1)
        self.refused(capsys, "--grid tiny does not fit", "train", "--resume", trained, "--grid", "tiny")
        self.refused(capsys, "--preset paper does not fit", "train", "--resume", trained, "--preset", "paper")
        before = (trained / "run.json").read_bytes()
        same = [*TINY, "--seed", 1]
        assert run("train", "--resume", trained, *same) == 0  # the same words again are no difference
        assert (trained / "run.json").read_bytes() == before

    def test_folders_without_a_run(self, tmp_path, capsys):
        for command in (["evaluate"], ["figures"], ["train", "--resume"]):
            self.refused(capsys, "holds no run", *command, tmp_path)

    def test_a_run_without_a_step(self, trained, tmp_path, capsys):
        folder = copy(trained, tmp_path)
        (folder / "checkpoint.npz").unlink()
        self.refused(capsys, "nothing is trained yet", "evaluate", folder)

    def test_a_checkpoint_of_another_architecture(self, trained, tmp_path, capsys):
        folder = copy(trained, tmp_path)
        settings = json.loads((folder / "run.json").read_text())
        settings["settings"]["encoder"] = [8]
        del settings["checksum"]  # the change is meant
        (folder / "run.json").write_text(json.dumps(settings))
        self.refused(capsys, "the checkpoint is of another architecture", "evaluate", folder)
        self.refused(capsys, "the checkpoint is of another architecture", "train", "--resume", folder)

    def test_damaged_files(self, trained, tmp_path, capsys):
        folder = copy(trained, tmp_path)
        whole = (folder / "checkpoint.npz").read_bytes()
        (folder / "checkpoint.npz").write_bytes(whole[:1000])
        self.refused(capsys, "not a complete npz archive", "train", "--resume", folder)
        np.savez(folder / "checkpoint.npz", a=np.zeros(3))
        self.refused(capsys, "position, epoch_sum, history, parameter_0 is missing", "evaluate", folder)
        (tmp_path / "empty.npz").write_bytes(b"")
        self.refused(capsys, "not a complete npz archive", "data", "verify", tmp_path / "empty.npz")
        self.refused(
            capsys, "not a complete npz archive", "train", "--out", tmp_path / "b", "--data", tmp_path / "empty.npz"
        )
        assert not (tmp_path / "b").exists()

    def test_unwritable_output(self, tmp_path, capsys):
        (tmp_path / "file").write_text("")
        self.refused(capsys, "file", "train", "--out", tmp_path / "file" / "run", *TINY)
        self.refused(capsys, "No such file", "data", "render", "--out", tmp_path / "no" / "a.npz")

    def test_outputs_are_checked_before_the_work(self, trained, tmp_path, capsys):
        for json_file, match in ((tmp_path, "is not a file"), (tmp_path / "no" / "a.json", "No such file")):
            self.refused(capsys, match, "evaluate", trained, "--json", json_file)
        self.refused(capsys, "is not a file", "data", "render", "--out", tmp_path)
        self.refused(capsys, "seed=-1", "evaluate", trained, "--seed", -1)
        self.refused(capsys, "too large", "evaluate", trained, "--samples", 10**20)
        self.refused(capsys, "each factor once", "evaluate", trained, "--factors", "scale,scale")

    def test_a_link_is_followed_and_a_pipe_is_not_replaced(self, trained, tmp_path, capsys):
        target, link, pipe = tmp_path / "a.json", tmp_path / "link.json", tmp_path / "pipe"
        target.write_text("old")
        link.symlink_to(target)
        os.mkfifo(pipe)
        assert run("evaluate", trained, "--json", link, "--samples", 100, "--no-figures") == 0
        assert json.loads(target.read_text())["samples"] == 100
        assert link.is_symlink()
        capsys.readouterr()
        self.refused(capsys, "is not a file", "evaluate", trained, "--json", pipe)
        assert pipe.is_fifo()

    def test_names_that_are_no_names(self, tmp_path, capsys):
        (tmp_path / "loop").symlink_to("loop")
        for name in (tmp_path / ("a" * 300), tmp_path / "loop" / "run"):
            self.refused(capsys, name.name, "train", "--out", name, *TINY)
        self.refused(capsys, r"a\nb\x1b\udcff", "evaluate", tmp_path / "a\nb\x1b\udcff")
        self.refused(capsys, " ... ", "evaluate", tmp_path / "/".join(["d"] * 3000))

    def test_the_words_of_a_file_keep_to_their_line(self, tmp_path, capsys):
        arrays = {name: np.zeros(3) for name in ("a\nb", "\x1b[31m", "\u202e")}
        np.savez(tmp_path / "a.npz", **arrays)
        self.refused(capsys, r"holds \x1b[31m, a\nb, \u202e; mu", "evaluate", tmp_path / "a.npz")

    def test_a_lock_that_is_no_file(self, trained, tmp_path, capsys):
        """Neither waited for, as a pipe would be, nor followed and emptied."""
        folder, other = copy(trained, tmp_path), tmp_path / "other"
        other.write_text("mine")
        (folder / ".lock").symlink_to(other)
        self.refused(capsys, "only there to be locked", "train", "--resume", folder)
        assert other.read_text() == "mine"
        (folder / ".lock").unlink()
        os.mkfifo(folder / ".lock")
        self.refused(capsys, "only there to be locked", "train", "--resume", folder)

    def test_settings_that_are_no_file(self, trained, tmp_path, capsys):
        folder = copy(trained, tmp_path)
        for name, value in (("faces", "a\0b.npy"), ("folder", "\ud800")):
            content = json.loads((trained / "run.json").read_text())
            content["data"] |= {"grid": None, name: value}
            del content["checksum"]  # the change is meant
            (folder / "run.json").write_text(json.dumps(content))
            self.refused(capsys, "a path has neither", "evaluate", folder)
        with open(folder / "run.json", "wb") as file:
            file.truncate(1 << 40)
        self.refused(capsys, "1,099,511,627,776 bytes", "evaluate", folder)

    def test_two_processes_on_one_run(self, trained, tmp_path, capsys):
        folder = copy(trained, tmp_path)
        with locked(folder, FILES):
            self.refused(capsys, "another process is writing", "train", "--resume", folder, "--epochs", 9)

    def test_a_refused_run_leaves_the_name_free(self, tmp_path, capsys):
        self.refused(capsys, "save_every", "train", "--out", tmp_path / "run", *TINY, "--save-every", "-1")
        assert run("train", "--out", tmp_path / "run", *TINY) == 0

    def test_a_checkpoint_without_its_settings(self, trained, tmp_path, capsys):
        folder = copy(trained, tmp_path)
        (folder / "run.json").unlink()
        self.refused(capsys, "checkpoint.npz without its run.json", "train", "--out", folder, *TINY)

    def test_two_new_runs_in_one_folder(self, tmp_path):
        """Started together: one trains, the other is refused and has changed nothing."""
        out = tmp_path / "race"
        command = [sys.executable, "-m", "tcvae_ref", "train", "--out", str(out), *TINY, "--epochs", "200"]
        both = [
            subprocess.Popen([*command, "--seed", str(s)], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
            for s in (1, 2)
        ]
        assert sorted(p.wait(timeout=120) for p in both) == [0, 2]
        assert run("train", "--resume", out) == 0

    def test_what_is_not_its_own_is_left_alone(self, trained, tmp_path, capsys):
        out = tmp_path / "run"
        out.mkdir()
        (out / ".notes.1.partial").write_text("mine")
        assert run("train", "--out", out, *TINY) == 0
        assert (out / ".notes.1.partial").read_text() == "mine"
        capsys.readouterr()
        self.refused(capsys, "belongs to the run itself", "evaluate", out, "--json", out / "checkpoint.npz")
        (out / "figures").write_text("")
        self.refused(capsys, "is not a folder", "evaluate", out)
        self.refused(capsys, "holds no run", "evaluate", tmp_path)

    def test_data_that_are_no_file(self, tmp_path, capsys):
        os.mkfifo(tmp_path / "pipe")
        for data in (tmp_path / "pipe", "/dev/zero"):
            self.refused(capsys, "is not a file", "data", "verify", data)
            self.refused(capsys, "is not a file", "train", "--out", tmp_path / "run", "--data", data)
        self.refused(
            capsys, "number of images", "train", "--out", tmp_path / "run", "--grid", "3x65536x65536x65536x65536"
        )

    @pytest.mark.parametrize("closed", ["stdout", "stderr"])
    def test_closed_streams(self, trained, tmp_path, closed):
        redirect = {"stdout": ">&-", "stderr": "2>&-"}[closed]
        words = f"{sys.executable} -m tcvae_ref evaluate {trained} --samples 100 --no-figures --json {tmp_path}/a.json"
        assert subprocess.run(f"{words} {redirect}", shell=True, capture_output=True, check=False).returncode == 0
        assert json.loads((tmp_path / "a.json").read_text())["samples"] == 100

    def test_terminated_while_writing(self, tmp_path):
        out = tmp_path / "a.npz"
        command = [sys.executable, "-m", "tcvae_ref", "data", "render", "--grid", "medium", "--out", str(out)]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        while not list(tmp_path.iterdir()):
            time.sleep(0.02)
        process.terminate()
        _, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (1, "tcvae-ref: interrupted\n")
        assert not list(tmp_path.iterdir())

    def test_a_reader_that_leaves(self, trained):
        command = [sys.executable, "-m", "tcvae_ref", "evaluate", str(trained), "--samples", "100", "--no-figures"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        process.stdout.close()
        assert process.wait(timeout=60) == 1
        assert process.stderr.read() == b""
        process.stderr.close()

    def test_a_full_disk(self, tmp_path):
        """The kernel stops the write; one line, exit status 1, no half-written file, and the run can go on."""
        code = (
            "import resource, sys; from tcvae_ref.cli import main\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))\n"
            "sys.exit(main(sys.argv[1:]))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, "train", "--out", tmp_path / "run", *TINY], capture_output=True, text=True
        )
        assert done.returncode == 1
        file = tmp_path / "run" / "checkpoint.npz"
        assert done.stderr == f"tcvae-ref: {file}: File too large; what was saved before is intact\n"
        assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [".lock", "run.json"]
        assert run("train", "--resume", tmp_path / "run") == 0

    def test_divergence(self, tmp_path, capsys):
        self.refused(
            capsys,
            "training diverged at step",
            "train",
            "--out",
            tmp_path / "run",
            *TINY,
            "--learning-rate",
            1e30,
            status=1,
        )

    def test_help_of_every_command(self, capsys):
        for command in ("", "train", "evaluate", "figures", "data", "data render", "data verify", "data show"):
            with pytest.raises(SystemExit) as stop:
                run(*command.split(), "--help")
            assert stop.value.code == 0
        assert "exit status" in capsys.readouterr().out
