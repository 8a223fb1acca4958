"""Training: Adam against PyTorch, the gradient of the whole loss, and runs that are killed or tampered with."""

import dataclasses
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pytest
from autograd import grad
from autograd import numpy as anp
from autograd.extend import Box
from autograd.test_util import check_grads
from optional import torch

from tcvae_ref import InputError, conv_networks, evaluation
from tcvae_ref.cli import machinery
from tcvae_ref.data import grid, render
from tcvae_ref.data.correlated import correlated
from tcvae_ref.data.factors import ByteImages
from tcvae_ref.files import locked
from tcvae_ref.networks import decode, encode
from tcvae_ref.objectives import ElboTerms
from tcvae_ref.training import (
    NUMPY,
    PRESETS,
    DataSource,
    Run,
    Settings,
    TrainingDiverged,
    adam_step,
    initial_adam_state,
    initial_state,
    load_source,
    streams,
    trained_model,
)
from tcvae_ref.training import train as train_loop
from tcvae_ref.training.batches import batches, epoch_order
from tcvae_ref.training.gradients import gradient_and_aux
from tcvae_ref.training.loop import _second_codes, loss_and_record, step_noise
from tcvae_ref.training.model import layers, taken_apart
from tcvae_ref.training.run import FILES, Saver, digest
from tcvae_ref.training.settings import ADDED
from tcvae_ref.training.streams import SECOND_NOISE, SECOND_ORDER

GRID = (1, 2, 1, 6, 6)  # 72 images
SMALL = Settings(
    beta=6.0, encoder=(16,), decoder=(16,), latent=3, batch=16, epochs=5, seed=0
)  # 4 steps an epoch, 8 images left out
FACTOR_VAE = dataclasses.replace(SMALL, objective="factor-vae", discriminator=(8, 8), prior="flow")
CONV = dataclasses.replace(SMALL, network="conv", batch=36, epochs=2)
SMALL_ARGUMENTS = [
    "--beta",
    "6",
    "--seed",
    "0",
    "--grid",
    "1x2x1x6x6",
    "--encoder",
    "16",
    "--decoder",
    "16",
    "--latent",
    "3",
    "--batch",
    "16",
]


@pytest.fixture(scope="module")
def data():
    return render(grid(GRID))


def train(settings, data, state=None, steps=None, save=lambda state: None, seen=None, operations=None):
    """Train for some steps from a copy of `state`."""
    state = initial_state(settings, data.images.pixels) if state is None else state
    first = state.step

    def progress(done, total, terms):
        nonlocal last
        last = done
        if seen is not None:
            seen.append((done, total, terms))

    last = first
    if operations is None:
        operations = machinery("auto", None).operations  # what the command line takes, too
    return train_loop(
        *(settings, data, state, save, progress, lambda: steps is not None and last - first >= steps), operations
    )


def numbers_of(state):
    """Every array of a state."""
    D = state.adversary
    lists = (state.parameters, *state.adam, state.statistics, D.discriminator, *D.adam)
    return [*(array for arrays in lists for array in arrays), state.epoch_sum, state.history]


def assert_same(a, b):
    """Raise unless two states are equal bit by bit."""
    assert a.step == b.step
    for left, right in zip(numbers_of(a), numbers_of(b), strict=True):
        assert left.dtype == right.dtype
        np.testing.assert_array_equal(left, right)


class TestAdam:
    def test_against_torch(self):
        rng = np.random.default_rng(0)
        shapes = [(3, 40_000), (7,), ()]  # the first is larger than a block
        ours = [rng.standard_normal(s) for s in shapes]
        theirs = [torch.nn.Parameter(torch.tensor(p)) for p in ours]
        ours = [np.array(p) for p in ours]
        optimiser, state = torch.optim.Adam(theirs, lr=0.01, betas=(0.8, 0.95), eps=1e-6), initial_adam_state(ours)
        for step in range(1, 6):
            gradient = [np.array(rng.standard_normal(s)) for s in shapes]
            for p, g in zip(theirs, gradient, strict=True):
                p.grad = torch.tensor(g)
            optimiser.step()
            adam_step(ours, gradient, state, step, 0.01, 0.8, 0.95, 1e-6)
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a, b.detach().numpy(), rtol=1e-12, atol=1e-14)

    def test_defaults_are_torchs(self):
        """Gradients as small as epsilon, so that epsilon counts."""
        gradient = np.array([1e-8, -3e-8, 1e-3])
        ours, theirs = [np.ones(3)], torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
        optimiser, state = torch.optim.Adam([theirs], lr=0.1), initial_adam_state(ours)
        for step in range(1, 4):
            theirs.grad = torch.tensor(gradient * step)
            optimiser.step()
            adam_step(ours, [gradient * step], state, step, 0.1)
        np.testing.assert_allclose(ours[0], theirs.detach().numpy(), rtol=1e-12)

    def test_refusals(self):
        ones = np.ones((3, 4))
        state = initial_adam_state([ones])
        for p, g, step in ((ones.T, ones.T, 1), (ones, ones.reshape(4, 3), 1), (ones, ones, 0)):
            with pytest.raises(InputError, match="adam_step"):
                adam_step([p], [g], state, step, 0.1)
        with pytest.raises(InputError, match=r"adam_step: .* \[1, 2, 1, 1\] arrays"):
            adam_step([ones], [ones, ones], state, 1, 0.1)

    def test_float32_stays_float32(self):
        p = [np.ones(5, np.float32)]
        state = initial_adam_state(p)
        adam_step(p, [np.ones(5, np.float32)], state, 1, 0.1)
        np.testing.assert_allclose(p[0], 0.9, rtol=1e-6)
        assert p[0].dtype == state.first[0].dtype == np.float32


def test_history_holds_the_mean_of_each_epochs_steps(data):
    seen = []
    state = train(SMALL, data, seen=seen)
    terms = np.array([terms for _, _, terms in seen]).reshape(5, 4, -1)
    np.testing.assert_allclose(state.history, terms.mean(axis=1), rtol=1e-6)
    assert not state.epoch_sum.any()


class TestLoss:
    @pytest.mark.parametrize("objective", ["vae", "beta-vae", "beta-tcvae"])
    def test_gradient_of_every_parameter_by_finite_differences(self, objective, data):
        settings = dataclasses.replace(SMALL, objective=objective, encoder=(4,), decoder=(4,), estimator="mss")
        rng = np.random.default_rng(1)
        x = data.images.take(slice(20, 26), "float64")[:, 1800:1816]
        state = initial_state(settings, 16)
        parameters = [p.astype(np.float64) + 0.1 for p in state.parameters]
        eps = rng.standard_normal((6, 3))
        check_grads(lambda p: loss_and_record(settings, p, [], [], x, eps, 72, 0)[0], modes=["rev"], order=1)(
            parameters
        )

    def test_float32_all_the_way(self, data):
        state = initial_state(SMALL, 4096)
        x, eps = data.images.take(slice(0, 16)), step_noise(0, 0, 16, 3)
        gradient = grad(lambda p: loss_and_record(SMALL, p, [], [], x, eps, 72, 0)[0])(state.parameters)
        assert {str(g.dtype) for g in gradient} == {"float32"}

    def test_objectives_weight_the_recorded_terms(self, data):
        state = initial_state(SMALL, 4096)
        x, eps = data.images.take(slice(0, 16)), step_noise(0, 0, 16, 3)
        weights = {
            "vae": lambda t: t[0] - t[1],
            "beta-vae": lambda t: t[0] - 6 * t[1],
            "beta-tcvae": lambda t: t[0] - 0.5 * t[2] - 6 * t[3] - 2 * t[4],
        }
        for name, objective in weights.items():
            settings = dataclasses.replace(SMALL, objective=name, alpha=0.5, gamma=2.0)
            loss, record = loss_and_record(settings, state.parameters, [], [], x, eps, 72, 0)
            assert loss == pytest.approx(-objective(record.terms), rel=1e-6)

    def test_beta_warms_up_linearly(self):
        settings = dataclasses.replace(SMALL, beta_warm_up=10)
        assert [settings.weight_at("beta", s) for s in (0, 5, 10, 99)] == [0.0, 3.0, 6.0, 6.0]
        assert SMALL.weight_at("beta", 0) == 6.0

    @pytest.mark.parametrize(("name", "term"), [("alpha", 2), ("beta", 3), ("gamma", 4)])
    def test_each_weight_warms_up_by_itself(self, name, term):
        settings = dataclasses.replace(SMALL, alpha=6.0, gamma=6.0, **{f"{name}_warm_up": 10})
        terms = np.zeros(5)
        terms[term] = 1.0
        objectives = [settings.objective_at(step)(ElboTerms(*terms)) for step in (0, 5, 10, 99)]
        assert objectives == [0.0, -3.0, -6.0, -6.0]
        others = np.ones(5) - terms
        others[0] = others[1] = 0.0
        assert settings.objective_at(0)(ElboTerms(*others)) == -12.0


class TestGradients:
    """By every array at once: the numbers of autograd's own gradient of a list."""

    @pytest.mark.parametrize("settings", [SMALL, FACTOR_VAE, dataclasses.replace(CONV, batch=4)])
    def test_they_are_those_of_autograd(self, data, settings):
        state = initial_state(settings, 4096)
        x = data.images.take(slice(0, settings.batch))
        given = state.statistics, state.adversary.discriminator, x, step_noise(0, 0, len(x), 3), 72, 0

        def loss(parameters):
            return loss_and_record(settings, parameters, *given)[0]

        found, record = gradient_and_aux(partial(loss_and_record, settings), state.parameters, *given)
        for ours, theirs in zip(found, grad(loss)(state.parameters), strict=True):
            assert ours.dtype == theirs.dtype == np.float32
            np.testing.assert_array_equal(ours, theirs)
        assert record.terms.shape == ((6,) if settings is FACTOR_VAE else (5,))

    def test_an_array_taken_twice_and_one_not_at_all(self):
        arrays = [np.array([1.0, 2.0]), np.array([3.0, 4.0]), np.array([5.0])]
        gradients, aux = gradient_and_aux(lambda a, c: (anp.sum(a[0] ** 2 * a[0] * c), "aux"), arrays, 2.0)
        np.testing.assert_allclose(gradients[0], 6.0 * arrays[0] ** 2)
        assert [g.tolist() for g in gradients[1:]] == [[0.0, 0.0], [0.0]]
        assert aux == "aux"
        assert [g.tolist() for g in gradient_and_aux(lambda a: (1.0, None), arrays[2:])[0]] == [[0.0]]


class TestLoop:
    def test_streams_have_the_numbers_of_every_run_that_was_made(self):
        in_order = ("PARAMETERS", "ORDER", "NOISE", "EVALUATION", "SECOND_ORDER", "SECOND_NOISE", "PERMUTATIONS")
        numbers = {name: number for number, name in enumerate((*in_order, "DISCRIMINATOR", "PRIOR"))}
        assert {name: value for name, value in vars(streams).items() if name.isupper()} == numbers
        assert evaluation._STREAM == streams.EVALUATION
        expected = np.random.default_rng([3, 2, 7]).standard_normal((4, 2), dtype=np.float32)
        np.testing.assert_array_equal(step_noise(3, 7, 4, 2), expected)

    def test_an_epoch_visits_every_input_at_most_once(self):
        order = epoch_order(0, 3, 72)
        assert sorted(order) == list(range(72))
        assert list(order) == list(epoch_order(0, 3, 72))
        assert list(order) != list(epoch_order(0, 4, 72))
        assert list(order) != list(epoch_order(1, 3, 72))

    def test_history_is_the_mean_of_each_epoch(self, data):
        seen = []
        state = train(SMALL, data, seen=seen)
        assert [s[:2] for s in seen] == [(i + 1, 20) for i in range(20)]
        means = np.array([terms for *_, terms in seen]).reshape(5, 4, 5).mean(axis=1)
        np.testing.assert_allclose(state.history, means, rtol=1e-12)

    def test_it_learns(self, data):
        history = train(dataclasses.replace(SMALL, epochs=60), data).history
        assert history[-1, 0] > history[0, 0] / 5  # log p(x|z) starts near -4096 log 2

    def test_seeds(self, data):
        one, same, other = (train(dataclasses.replace(SMALL, seed=seed, epochs=1), data) for seed in (0, 0, 1))
        assert_same(one, same)
        assert np.max(np.abs(one.parameters[0] - other.parameters[0])) > 1e-3

    def test_divergence_is_said_and_the_saved_state_is_kept(self, data):
        settings = dataclasses.replace(SMALL, learning_rate=1e30)
        with pytest.raises(TrainingDiverged, match="lower the learning rate"):
            train(settings, data)

    def test_images_that_are_refused_are_no_divergence(self, data, monkeypatch):
        bright = np.full((SMALL.batch, data.images.pixels), 2, np.float32)
        monkeypatch.setattr(type(data.images), "take", lambda images, index, dtype: bright)
        with pytest.raises(InputError, match="x lies in"):
            train(SMALL, data)

    @pytest.mark.parametrize("objective", ["vae", "beta-vae", "factor-vae", "beta-tcvae"])
    def test_only_beta_tcvae_asks_for_the_estimators_gradient(self, data, objective):
        asked = []

        def estimator(*arguments):
            asked.append(any(isinstance(a, Box) for a in arguments))
            return NUMPY.estimators["mws"](*arguments)

        operations = NUMPY._replace(estimators={**NUMPY.estimators, "mws": estimator})
        settings = dataclasses.replace(SMALL, objective=objective, estimator="mws", epochs=1)
        ours, plain = (train(settings, data, operations=o) for o in (operations, NUMPY))
        assert set(asked) == {objective == "beta-tcvae"}
        assert_same(ours, plain)

    def test_batch_larger_than_the_data(self, data):
        with pytest.raises(InputError, match="batch=100 exceeds the data set's 72"):
            train(dataclasses.replace(SMALL, batch=100), data)


class TestBatches:
    """With probabilities p(n), batches are drawn from them."""

    def weighted(self, data, weights):
        return dataclasses.replace(data, weights=weights / weights.sum())

    def test_frequencies(self, data):
        weights = np.arange(72.0)
        draw = batches(SMALL, self.weighted(data, weights))
        counts = np.bincount(np.concatenate([draw(step) for step in range(4000)]), minlength=72)
        expected = 64_000 * weights / weights.sum()
        assert counts[0] == 0
        assert np.sum((counts - expected)[1:] ** 2 / expected[1:]) < 130  # chi-square, 70 degrees of freedom
        assert any(len(set(draw(step))) < 16 for step in range(20))  # with replacement

    def test_of_seed_and_step_alone(self, data):
        data = self.weighted(data, np.ones(72))
        draw, again = batches(SMALL, data), batches(SMALL, data)
        late = draw(7)
        assert (late == again(7)).all()
        assert (late != draw(8)).any()
        assert (late != batches(SMALL, data, SECOND_ORDER)(7)).any()
        assert (late != batches(dataclasses.replace(SMALL, seed=1), data)(7)).any()

    def test_a_run_sees_the_weights(self, data):
        pair = correlated(data, ("posX", "posY"), "diagonal")
        assert digest(pair) != digest(data)
        assert np.max(np.abs(train(SMALL, pair).parameters[0] - train(SMALL, data).parameters[0])) > 1e-3


class TestNetworks:
    def test_a_convolutional_run_learns_and_its_statistics_move(self, data):
        state = train(CONV, data)
        assert state.history[-1, 0] > state.history[0, 0]
        first = initial_state(CONV, 4096)
        assert all((a != b).all() for a, b in zip(state.statistics, first.statistics, strict=True))
        model = trained_model(CONV, state.parameters, state.statistics)
        x = data.images.take(slice(0, 10))
        mu, log_var = model.encode(x)
        assert mu.shape == log_var.shape == (10, 3)
        np.testing.assert_allclose(model.encode(x[:1])[0], mu[:1], rtol=1e-4, atol=1e-5)  # no batch in it
        assert model.decode(mu).shape == (10, 4096)

    def test_a_convolutional_step_learns_from_the_batch_and_moves_the_statistics(self, data):
        """In the loss and in FactorVAE's second batch: the encoder's half of the statistics, and the decoder's."""
        settings = dataclasses.replace(CONV, batch=2)
        state = initial_state(settings, 4096)
        rng = np.random.default_rng(0)
        statistics = [rng.random(a.shape).astype(a.dtype) + 0.5 for a in state.statistics]
        first = [a.copy() for a in statistics]
        encoder, decoder, _ = taken_apart(settings, state.parameters)
        x, eps = data.images.take(slice(20, 22), "float32"), step_noise(0, 0, 2, 3)
        _, record = loss_and_record(settings, state.parameters, statistics, [], x, eps, 72, 0)
        mu, log_var, of_encoder = conv_networks.encode(encoder, first[:10], x, learning=True)
        _, of_decoder = conv_networks.decode(decoder, first[10:], record.z, learning=True)
        np.testing.assert_array_equal(record.z, mu + np.exp(0.5 * log_var) * eps)
        for ours, theirs in zip(record.statistics, [*of_encoder, *of_decoder], strict=True):
            np.testing.assert_array_equal(ours, theirs)
        again = _second_codes(settings, data, NUMPY)(state.parameters, statistics, 3)
        x = data.images.take(batches(settings, data, SECOND_ORDER)(3), "float32")
        mu, log_var, _ = conv_networks.encode(encoder, first[:10], x, learning=True)
        np.testing.assert_array_equal(again, mu + np.exp(0.5 * log_var) * step_noise(0, 3, 2, 3, SECOND_NOISE))
        assert (again != mu + np.exp(0.5 * log_var) * step_noise(0, 3, 2, 3)).all()  # noise of its own

    def test_in_colour(self, data):
        grey = np.repeat(255 * data.images.take(slice(0, 36), "uint8"), 3, axis=0).reshape(36, -1)
        colour = dataclasses.replace(data, images=ByteImages(grey, (3, 64, 64)), classes=data.classes[:36])
        state = train(dataclasses.replace(CONV, epochs=1), colour)
        model = trained_model(CONV, state.parameters, state.statistics)
        assert model.decode(np.zeros((2, 3), np.float32)).shape == (2, 3 * 4096)
        assert train(dataclasses.replace(SMALL, epochs=1), colour).parameters[0].shape == (3 * 4096, 16)

    def test_images_of_another_size(self):
        with pytest.raises(InputError, match="take the network mlp"):
            initial_state(CONV, 28 * 28)

    def test_a_batch_of_one(self):
        with pytest.raises(InputError, match="normalises by the batch"):
            dataclasses.replace(CONV, batch=1)


class TestSettings:
    def test_presets(self):
        paper = PRESETS["paper"]
        assert (paper.encoder, paper.decoder, paper.latent) == ((1200, 1200), (1200, 1200, 1200), 10)
        assert (paper.batch, paper.epochs, paper.learning_rate, paper.beta) == (2048, 50, 1e-3, 6.0)
        assert PRESETS["hearts"] == Settings()

    def test_json_and_back(self):
        assert Settings.from_json(json.loads(json.dumps(SMALL.to_json()))) == SMALL

    @pytest.mark.parametrize(
        ("change", "match"),
        [
            ({"objective": "beta-tcva"}, "did you mean 'beta-tcvae'"),
            ({"estimator": "exact"}, "choose one of mws"),
            ({"beta": -1.0}, "at least 0"),
            ({"beta": float("nan")}, "finite"),
            ({"learning_rate": 0.0}, "above 0"),
            ({"latent": 0}, "at least 1"),
            ({"encoder": (5, 0)}, "encoder width"),
            ({"batch": 1, "estimator": "mss"}, "batch - 1"),
            ({"prior": "laplac"}, "did you mean 'laplace'"),
            ({"network": "cnn"}, "choose one of mlp, conv"),
            ({"discriminator": (9, 0)}, "discriminator width"),
            ({"discriminator_rate": 0.0}, "above 0"),
            ({"tc_weight": -1.0}, "at least 0"),
            ({"gamma_warm_up": -1}, "at least 0"),
        ],
    )
    def test_refusals(self, change, match):
        with pytest.raises(InputError, match=match):
            dataclasses.replace(SMALL, **change)

    @pytest.mark.parametrize(
        ("objective", "network", "idle"),
        [
            ("vae", "mlp", {"alpha", "beta", "gamma", "tc_weight", "discriminator"}),
            ("beta-vae", "conv", {"alpha", "gamma", "encoder", "decoder", "gamma_warm_up"}),
            ("beta-tcvae", "mlp", {"tc_weight", "discriminator_rate"}),
            ("factor-vae", "mlp", {"alpha", "beta", "gamma", "beta_warm_up"}),
        ],
    )
    def test_what_has_no_part(self, objective, network, idle):
        settings = dataclasses.replace(SMALL, objective=objective, network=network)
        assert all(settings.idle(name) is not None for name in idle)
        assert all(settings.idle(name) is None for name in ("latent", "prior", "seed", "estimator"))

    def test_an_estimator_of_studies(self, data):
        with pytest.raises(InputError, match="tcvae-ref sweep"):
            train(dataclasses.replace(SMALL, estimator="mss-column-weighted"), data)
        estimators = {**NUMPY.estimators, "mss-column-weighted": NUMPY.estimators["mss"]}
        settings = dataclasses.replace(SMALL, estimator="mss-column-weighted", epochs=1)
        state = train_loop(
            *(settings, data, initial_state(settings, 4096), lambda state: None),
            *(lambda *seen: None, lambda: False, NUMPY._replace(estimators=estimators)),
        )
        assert state.step == 4


class TestSources:
    @pytest.mark.parametrize(
        "source",
        [
            DataSource((1, 2, 1, 6, 6), None),
            DataSource(file="/a.npz"),
            DataSource(heads="tiny", correlated=("azimuth", "elevation", "diagonal")),
            DataSource(celeba="/a", crop=148, limit=100),
            DataSource(folder="/a"),
        ],
    )
    def test_json_and_back(self, source):
        assert DataSource.from_json(json.loads(json.dumps(source._asdict()))) == source

    @pytest.mark.parametrize(
        ("source", "match"),
        [
            (DataSource(), "nothing is named"),
            (DataSource("tiny", "/a.npz"), "grid 'tiny', file '/a.npz' is named"),
            (DataSource(grid=5), "a name or sizes"),
            (DataSource(heads=("a", 3)), "a name or sizes"),
            (DataSource(folder=("a",)), "folder is"),
            (DataSource("tiny", crop=100), "crop is for celeba and folder"),
            (DataSource(celeba="/a", limit=0), "at least 1"),
            (DataSource("tiny", correlated=("scale", "posX")), "two factors and how"),
        ],
    )
    def test_refusals(self, source, match):
        with pytest.raises(InputError, match=match):
            load_source(source)

    def test_heads_and_correlated_factors(self):
        data = load_source(DataSource(heads=(2, 3, 2, 2), correlated=("azimuth", "lighting", "skewed")))
        assert len(data) == 24
        assert data.weights.max() / data.weights.min() == pytest.approx(4.0)


class TestRun:
    def start(self, tmp_path, data, settings=SMALL):
        return Run.create(tmp_path / "run", settings, DataSource(GRID, None), data)

    def test_resuming_at_every_step_is_bit_identical(self, tmp_path, data):
        run = self.start(tmp_path, data)
        undisturbed = train(SMALL, data)
        state = run.load(4096, 72)
        for _ in range(20):
            state = train(SMALL, data, state, steps=1)
            run.save(state)
            state = Run.open(run.folder).load(4096, 72)
        assert_same(state, undisturbed)

    @pytest.mark.parametrize("settings", [FACTOR_VAE, CONV], ids=["factor-vae-flow", "conv"])
    def test_everything_that_learns_is_in_a_checkpoint(self, tmp_path, data, settings):
        run = self.start(tmp_path, data, settings)
        undisturbed = train(settings, data)
        state = run.load(4096, 72)
        for _ in range(settings.steps(72)):
            state = train(settings, data, state, steps=1)
            run.save(state)
            state = Run.open(run.folder).load(4096, 72)
        assert_same(state, undisturbed)
        header = (run.folder / "history.csv").read_text().splitlines()[0]
        assert header.endswith("discriminator_loss" if settings is FACTOR_VAE else "dimension_wise_kl")

    @pytest.mark.parametrize("lost", ["statistic_3", "discriminator_2", "discriminator_second_0"])
    def test_a_checkpoint_that_lost_something(self, tmp_path, data, lost):
        settings = CONV if lost.startswith("statistic") else FACTOR_VAE
        run = self.start(tmp_path, data, settings)
        run.save(train(settings, data, steps=1))
        path = run.folder / "checkpoint.npz"
        with np.load(path) as file:
            arrays = dict(file)
        np.savez(path, **{name: array for name, array in arrays.items() if name != lost})
        with pytest.raises(InputError, match=f"{lost} is missing"):
            run.load(4096, 72)

    def test_a_run_of_version_0_4_goes_on(self, tmp_path, data):
        """Its run.json and checkpoint are of format 1, without the settings that came later."""
        run = self.start(tmp_path, data)
        run.save(train(SMALL, data, steps=7))
        content = json.loads((run.folder / "run.json").read_text())
        old = {name: value for name, value in content["settings"].items() if name not in ADDED}
        content |= {"format": 1, "settings": old}
        del content["checksum"]
        content["data"] = {name: content["data"][name] for name in ("grid", "file", "sha256")}
        (run.folder / "run.json").write_text(json.dumps(content))
        with np.load(run.folder / "checkpoint.npz") as file:
            arrays = dict(file)
        lasting = {name: value for name, value in old.items() if name != "epochs"}
        position = {"format": 1, "step": 7, "settings": lasting}
        arrays["position"] = np.frombuffer(json.dumps(position).encode(), np.uint8)
        np.savez(run.folder / "checkpoint.npz", **arrays)
        opened = Run.open(run.folder)
        assert opened.settings == SMALL
        assert_same(train(SMALL, data, opened.load(4096, 72)), train(SMALL, data))

    def test_history_for_other_programs(self, tmp_path, data):
        run = self.start(tmp_path, data)
        state = train(SMALL, data)
        run.save(state)
        table = np.genfromtxt(run.folder / "history.csv", delimiter=",", names=True)
        assert table.dtype.names[:2] == ("epoch", "reconstruction")
        np.testing.assert_array_equal(table["total_correlation"], state.history[:, 3])

    def test_a_folder_holds_one_run(self, tmp_path, data):
        self.start(tmp_path, data)
        with pytest.raises(InputError, match="already holds a run"):
            self.start(tmp_path, data)

    def test_another_architecture(self, tmp_path, data):
        run = self.start(tmp_path, data)
        run.save(train(SMALL, data, steps=1))
        for change, match in (
            ({"encoder": (8,)}, "another architecture"),
            ({"decoder": (16, 4)}, "another architecture"),
        ):
            with pytest.raises(InputError, match=match):
                run._replace(settings=dataclasses.replace(SMALL, **change)).load(4096, 72)

    def test_other_settings_of_the_same_architecture(self, tmp_path, data):
        run = self.start(tmp_path, data)
        run.save(train(SMALL, data, steps=1))
        with pytest.raises(InputError, match="made with other settings"):
            run._replace(settings=dataclasses.replace(SMALL, batch=8)).load(4096, 72)
        longer = run._replace(settings=dataclasses.replace(SMALL, epochs=9)).load(4096, 72)
        assert longer.step == 1

    @pytest.mark.parametrize(
        ("change", "match"),
        [
            ({"step": 21}, "too large"),
            ({"step": -1}, "too small"),
            ({"step": 7.0}, "whole number"),
            ({"step": float("inf")}, "whole number"),
            ({"format": 99}, "format 99"),
            ({"settings": {}}, "other settings"),
            ({"step": 8}, r"history is float64 \(1, 5\)"),
        ],
    )
    def test_positions_that_cannot_be(self, tmp_path, data, change, match):
        run = self.start(tmp_path, data)
        run.save(train(SMALL, data, steps=5))
        path = run.folder / "checkpoint.npz"
        with np.load(path) as file:
            arrays = dict(file)
        position = json.loads(arrays["position"].tobytes()) | change
        arrays["position"] = np.frombuffer(json.dumps(position).encode(), np.uint8)
        np.savez(path, **arrays)
        with pytest.raises(InputError, match=match):
            run.load(4096, 72)

    def test_nan_in_a_checkpoint(self, tmp_path, data):
        run = self.start(tmp_path, data)
        state = train(SMALL, data, steps=1)
        state.adam.second[3][:] = np.nan
        run.save(state)
        with pytest.raises(InputError, match="second_3 holds nan"):
            run.load(4096, 72)

    def test_one_writer_at_a_time(self, tmp_path, data):
        run = self.start(tmp_path, data)
        (run.folder / ".checkpoint.npz.1.partial").write_bytes(b"left by a killed process")
        with locked(run.folder, FILES):
            assert not list(run.folder.glob("*.partial"))
            with pytest.raises(InputError, match="another process is writing"), locked(run.folder, FILES):
                pass
        with locked(run.folder, FILES):
            pass

    def test_other_data(self, tmp_path, data):
        run = self.start(tmp_path, data)
        other = render(grid((1, 2, 1, 6, 5)))
        for source, remedy in (
            (run.source, "not the data set .*; another version of tcvae-ref rendered that"),
            (DataSource(heads="tiny"), "another version of tcvae-ref rendered that"),
            (DataSource(file="a.npz"), "restore that file"),
            (DataSource(named="discs"), "the package that brings 'discs'"),
        ):
            with pytest.raises(InputError, match=remedy):
                run._replace(source=source).check_data(other)

    def test_damaged_files(self, tmp_path, data):
        run = self.start(tmp_path, data)
        run.save(train(SMALL, data, steps=1))
        checkpoint, settings = run.folder / "checkpoint.npz", run.folder / "run.json"
        whole = checkpoint.read_bytes()
        rng = np.random.default_rng(0)
        start, noticed, harmless = run.load(4096, 72), 0, 0
        headers = [m.start() + i for m in re.finditer(rb"PK(\x03\x04|\x01\x02|\x05\x06)", whole) for i in range(120)]
        places = rng.choice(headers, 300).tolist() + rng.integers(len(whole), size=100).tolist()
        for place in places:  # any single byte, of the archive's structure or of its numbers: noticed, or harmless
            if place >= len(whole):
                continue
            checkpoint.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << rng.integers(8))]) + whole[place + 1 :])
            try:
                assert_same(run.load(4096, 72), start)
                harmless += 1
            except InputError as error:
                noticed += "checkpoint.npz" in str(error)
        assert noticed > max(150, harmless)
        for content in (b"", whole[:50], whole[: len(whole) // 2]):
            checkpoint.write_bytes(content)
            with pytest.raises(InputError, match=r"checkpoint\.npz"):
                run.load(4096, 72)
        content = json.loads(settings.read_text())
        del content["checksum"]  # or it would be the first to notice
        text = json.dumps(content)
        for content in (
            *("", "[]", "{}", '{"format": 1}', '{"format": 2}', "[" * 100_000, '{"format": ' + "9" * 5000 + "}"),
            text.replace("beta_", "bta_"),
            text.replace('"latent": 3', '"latent": 1000000000000000000000000000000'),
            text.replace('"alpha": 1.0', '"alpha": 1' + "0" * 400),
            text.replace('"file": null', '"file": 5'),
            re.sub(r'"grid": \[[^]]*\]', '"grid": null', text),
            re.sub(r'"grid": \[[^]]*\]', '"grid": 5', text),
        ):
            settings.write_text(content)
            with pytest.raises(InputError, match=r"run\.json"):
                Run.open(run.folder)

    def test_a_full_disk_leaves_the_last_checkpoint(self, tmp_path, data):
        """The kernel refuses the write half way: what was there before is there still, and nothing else."""
        run = self.start(tmp_path, data)
        state = train(SMALL, data, steps=1)
        run.save(state)
        before = sorted(p.name for p in run.folder.iterdir())
        kept = (run.folder / "checkpoint.npz").read_bytes()
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        try:
            with pytest.raises(OSError, match="File too large"):
                run.save(train(SMALL, data, state, steps=1))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert sorted(p.name for p in run.folder.iterdir()) == before
        assert (run.folder / "checkpoint.npz").read_bytes() == kept

    def test_saving_is_rare_enough(self, tmp_path, data, monkeypatch):
        """A save of one second is followed by fifty without one: at most 2 % of the time."""
        now = [0.0]
        monkeypatch.setattr(time, "monotonic", lambda: now[0])
        saves = []

        class SlowRun:
            def save(self, state):
                saves.append(now[0])
                now[0] += 1.0

        saver = Saver(SlowRun(), 5.0)
        for step in range(2000):
            now[0] += 0.1
            saver(initial_state(SMALL, 16)._replace(step=step))
        assert saves[0] == pytest.approx(5.0, abs=0.2)
        assert np.all(np.diff(saves) > 50)


def command(*arguments):
    return [sys.executable, "-m", "tcvae_ref", *map(str, arguments)]


class TestKilled:
    """Whole processes, killed at random moments."""

    EPOCHS = 1500

    def finished(self, folder):
        run = Run.open(folder)
        return run.load(4096, 72)

    def test_sigkill_at_twenty_random_moments(self, tmp_path):
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        options = [*SMALL_ARGUMENTS, "--epochs", self.EPOCHS, "--save-every", 0]
        subprocess.run(command("train", "--out", tmp_path / "calm", *options), check=True, **quiet)
        before = time.monotonic()
        subprocess.run(command("train", "--resume", tmp_path / "calm"), check=True, **quiet)  # nothing is left to do
        start_up = time.monotonic() - before
        rng = np.random.default_rng(int.from_bytes(os.urandom(4), "little"))  # other moments in every run
        folder, kills, steps = tmp_path / "killed", 0, []
        first = command("train", "--out", folder, *options)
        again = command("train", "--resume", folder, "--save-every", 0)
        while kills < 20:
            process = subprocess.Popen(again if (folder / "run.json").exists() else first, **quiet)
            try:
                process.wait(timeout=0.5 * start_up + rng.exponential(0.5 * start_up))
                assert process.returncode == 0
                break  # it finished before its time
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                kills += 1
                if (folder / "checkpoint.npz").exists():
                    steps.append(self.finished(folder).step)
        assert kills == 20
        assert len(set(steps)) > 3  # the kills fell all over the run
        subprocess.run(again, check=True, **quiet)
        assert_same(self.finished(folder), self.finished(tmp_path / "calm"))

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_interrupt_saves_and_resumes(self, tmp_path, number):
        options = [*SMALL_ARGUMENTS, "--epochs", "200000", "--save-every", "0.5"]
        process = subprocess.Popen(
            command("train", "--out", tmp_path / "run", *options),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout.readline().startswith("dSprites, re-rendered: 72 images")
        deadline = time.monotonic() + 120
        while not (tmp_path / "run" / "checkpoint.npz").exists() and time.monotonic() < deadline:
            time.sleep(0.05)  # numba may have to compile first
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
        assert process.returncode == 1
        assert "interrupted at step" in out
        assert "Traceback" not in err
        state = self.finished(tmp_path / "run")
        assert state.step > 0
        settings = dataclasses.replace(SMALL, epochs=200_000)
        assert_same(state, train(settings, render(grid(GRID)), steps=state.step))


def test_an_evaluation_needs_no_more_than_the_checkpoint(data):
    """The networks rebuilt from the flat list are those that were trained."""
    state = train(SMALL, data)
    model, x = trained_model(SMALL, state.parameters, state.statistics), data.images.take([0])
    encoder, decoder, _ = taken_apart(SMALL, state.parameters)
    mu, log_var = encode(layers(encoder), x)
    assert mu.shape == log_var.shape == (1, 3)
    np.testing.assert_array_equal(model.encode(x), (mu, log_var))
    np.testing.assert_array_equal(model.decode(mu), decode(layers(decoder), mu))
    assert model.decode(mu).shape == (1, 4096)
