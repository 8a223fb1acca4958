"""FactorVAE: the discriminator against PyTorch and against a known TC, and whole runs with it."""

import dataclasses
import itertools

import autograd.numpy as anp
import numpy as np
import pytest
from autograd import grad, value_and_grad
from autograd.test_util import check_grads
from optional import torch

from tcvae_ref import InputError
from tcvae_ref.data import grid, render
from tcvae_ref.discriminator import (
    discriminate,
    discriminator_loss,
    discriminator_total_correlation,
    initial_discriminator,
    leaky_relu,
    permute_dims,
)
from tcvae_ref.objectives import ElboTerms, factor_vae, vae
from tcvae_ref.training import Settings, TrainingDiverged, adam_step, initial_adam_state, initial_state, train
from tcvae_ref.training.adam import adam_update
from tcvae_ref.training.adversary import adversary_step, initial_adversary, step_permutations
from tcvae_ref.training.batches import batches
from tcvae_ref.training.loop import loss_and_record, recorded, step_noise
from tcvae_ref.training.streams import SECOND_NOISE, SECOND_ORDER

TINY = Settings(
    objective="factor-vae",
    tc_weight=6.0,
    encoder=(16,),
    decoder=(16,),
    discriminator=(12, 10),
    latent=3,
    batch=16,
    epochs=2,
)


@pytest.fixture(scope="module")
def data():
    return render(grid((1, 2, 1, 6, 6)))


def run(settings, data, state=None, steps=None):
    """Train, for some steps or to the end."""
    state = initial_state(settings, data.images.pixels) if state is None else state
    done = []
    return train(
        *(settings, data, state, lambda state: done.append(state.step)),
        *(lambda *seen: None, lambda: steps is not None and len(done) >= steps),
    )


def as_torch(discriminator):
    """The same discriminator as PyTorch users write it."""
    layers = []
    for W, b in zip(discriminator[::2], discriminator[1::2], strict=True):
        layer = torch.nn.Linear(*W.shape, dtype=torch.float64)
        layer.weight.data, layer.bias.data = torch.tensor(W.T), torch.tensor(b)
        layers += [layer, torch.nn.LeakyReLU(0.2)]
    return torch.nn.Sequential(*layers[:-1])


class TestDiscriminator:
    def problem(self, seed=0, M=9, D=4):
        rng = np.random.default_rng(seed)
        discriminator = initial_discriminator(D, (7, 5), rng, "float64")
        discriminator[1::2] = [rng.standard_normal(b.shape) for b in discriminator[1::2]]
        return discriminator, rng.standard_normal((M, D)), rng.standard_normal((M, D))

    def test_logits_loss_and_gradients_against_torch(self):
        discriminator, z, z_permuted = self.problem()
        theirs = as_torch(discriminator)
        real, permuted = (theirs(torch.tensor(codes)) for codes in (z, z_permuted))
        np.testing.assert_allclose(discriminate(discriminator, z), real.detach().numpy(), rtol=1e-12)
        entropy = torch.nn.functional.cross_entropy
        ones = torch.ones(9, dtype=torch.long)
        loss = 0.5 * (entropy(real, 0 * ones) + entropy(permuted, ones))
        loss.backward()
        ours, gradient = value_and_grad(discriminator_loss)(discriminator, z, z_permuted)
        assert ours == pytest.approx(loss.item(), rel=1e-12)
        for g, parameter in zip(gradient, theirs.parameters(), strict=True):
            expected = parameter.grad.numpy()
            np.testing.assert_allclose(g, expected.T if g.ndim == 2 else expected, rtol=1e-10, atol=1e-14)

    def test_total_correlation_against_torch(self):
        discriminator, z, _ = self.problem(1)
        theirs = torch.tensor(z, requires_grad=True)
        logits = as_torch(discriminator)(theirs)
        tc = (logits[:, :1] - logits[:, 1:]).mean()
        tc.backward()
        ours, gradient = value_and_grad(lambda z: discriminator_total_correlation(discriminate(discriminator, z)))(z)
        assert ours == pytest.approx(tc.item(), rel=1e-12)
        np.testing.assert_allclose(gradient, theirs.grad.numpy(), rtol=1e-10)

    def test_codes_are_no_logits_and_a_generator_is_no_permutation(self):
        z = np.zeros((6, 10))
        with pytest.raises(
            InputError, match=r"^discriminator_total_correlation: logits are \(6, 10\); the discriminator's two"
        ):
            discriminator_total_correlation(z)
        whole = np.tile(np.arange(6)[:, None], 10)
        for wrong in (np.random.default_rng(0), whole.astype(float), whole[:, :9], 0 * whole):
            with pytest.raises(InputError, match="each column must hold"):
                permute_dims(z, wrong)
        np.testing.assert_array_equal(permute_dims(z, whole), z)

    def test_extreme_logits(self):
        discriminator = [np.array([[4000.0, 0.0]]), np.zeros(2)]
        z = np.array([[1.0], [2.0]])
        assert discriminator_loss(discriminator, z, -z) == 0.0
        assert discriminator_loss(discriminator, -z, z) == 6000.0

    def test_nothing_told_apart_is_log_2(self):
        discriminator, z, z_permuted = self.problem()
        discriminator[-2] *= 0
        discriminator[-1] *= 0
        assert discriminator_loss(discriminator, z, z_permuted) == pytest.approx(np.log(2))
        assert discriminator_total_correlation(discriminate(discriminator, z)) == 0.0

    def test_float32_all_the_way(self):
        discriminator, z, z_permuted = self.problem()
        discriminator, z, z_permuted = (
            [a.astype(np.float32) for a in discriminator],
            *map(np.float32, (z, z_permuted)),
        )
        assert {g.dtype for g in grad(discriminator_loss)(discriminator, z, z_permuted)} == {np.dtype(np.float32)}
        assert grad(lambda z: discriminator_total_correlation(discriminate(discriminator, z)))(z).dtype == np.float32

    def test_leaky_relu(self):
        np.testing.assert_array_equal(leaky_relu(np.array([-5.0, 0.0, 3.0])), [-1.0, 0.0, 3.0])
        check_grads(lambda a: anp.sum(leaky_relu(a) ** 2), modes=["rev"], order=2)(np.array([-2.0, 1.5]))
        assert grad(leaky_relu)(0.0 * np.ones(())) == 0.2  # as PyTorch's


class TestPermuteDims:
    def test_against_loops(self):
        rng = np.random.default_rng(0)
        z, permutations = rng.standard_normal((6, 3)), step_permutations(0, 5, 6, 3)
        ours = permute_dims(z, permutations)
        for i, d in itertools.product(range(6), range(3)):
            assert ours[i, d] == z[permutations[i, d], d]

    def test_columns_keep_their_values_and_lose_each_other(self):
        rng = np.random.default_rng(1)
        z = rng.standard_normal((2000, 1)) * np.ones(3)  # three equal columns
        ours = permute_dims(z, step_permutations(1, 0, 2000, 3))
        np.testing.assert_array_equal(np.sort(ours, axis=0), np.sort(z, axis=0))
        correlation = np.corrcoef(ours.T)
        assert np.abs(correlation[np.triu_indices(3, 1)]).max() < 0.1

    def test_permutations_are_of_seed_and_step(self):
        one, same, other, of_other_seed = (step_permutations(*key, 9, 2) for key in ((0, 1), (0, 1), (0, 2), (1, 1)))
        np.testing.assert_array_equal(one, same)
        assert (one != other).any()
        assert (one != of_other_seed).any()
        assert (one[:, 0] != one[:, 1]).any()

    @pytest.mark.parametrize(
        "permutations", [np.zeros((4, 2), int), np.arange(4)[:, None], np.array([[0, 0], [1, 1], [2, 2], [3, 4]])]
    )
    def test_refusals(self, permutations):
        with pytest.raises(InputError, match="each column must hold 0 to 3 once"):
            permute_dims(np.zeros((4, 2)), permutations)


class TestKnownTotalCorrelation:
    """Codes from N(0, R): TC = -1/2 log det R."""

    def test_the_density_ratio_finds_it(self):
        rho = 0.9
        R = np.array([[1.0, rho, 0.0, 0.0], [rho, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, -rho], [0.0, 0.0, -rho, 1.0]])
        exact = -0.5 * np.linalg.slogdet(R)[1]  # 1.66 nats
        root = np.linalg.cholesky(R)
        settings = dataclasses.replace(TINY, latent=4, discriminator=(64, 64), discriminator_rate=3e-3)
        adversary = initial_adversary(settings, "float32")
        rng = np.random.default_rng(0)

        def codes(count):
            return (rng.standard_normal((count, 4)) @ root.T).astype(np.float32)

        for step in range(1000):
            slowing = dataclasses.replace(settings, discriminator_rate=3e-3 * (1.0 - 0.99 * step / 1000))
            adversary_step(slowing, adversary, codes(256), codes(256), step, adam_update)
        estimated = float(discriminator_total_correlation(discriminate(adversary.discriminator, codes(50_000))))
        assert abs(estimated - exact) < max(0.1 * exact, 0.2)
        uncorrelated = rng.standard_normal((50_000, 4)).astype(np.float32)
        assert float(discriminator_total_correlation(discriminate(adversary.discriminator, uncorrelated))) < -exact


class TestObjective:
    def test_weights(self):
        terms = ElboTerms(-100.0, 9.0, 5.0, 3.0, 1.0)
        assert factor_vae(terms, 2.0, 10.0) == -100.0 - 9.0 - 20.0
        assert factor_vae(terms, 2.0, 0.0) == vae(terms)

    def test_loss_weights_the_discriminators_term(self, data):
        state = initial_state(TINY, 4096)
        x, eps = data.images.take(slice(0, 16)), step_noise(0, 0, 16, 3)
        D = state.adversary.discriminator
        loss, record = loss_and_record(TINY, state.parameters, [], D, x, eps, 72, 0)
        assert record.terms.shape == (6,)
        assert loss == pytest.approx(-(record.terms[0] - record.terms[1] - 6.0 * record.terms[5]), rel=1e-6)
        assert record.terms[5] == pytest.approx(float(discriminator_total_correlation(discriminate(D, record.z))))

    def test_gradient_by_finite_differences(self):
        """The discriminator's TC moves the encoder."""
        settings = dataclasses.replace(TINY, encoder=(4,), decoder=(4,), discriminator=(5,))
        x = np.random.default_rng(2).random((6, 16))
        state = initial_state(settings, 16)
        parameters = [p.astype(np.float64) + 0.1 for p in state.parameters]
        D = [p.astype(np.float64) for p in state.adversary.discriminator]
        eps = np.random.default_rng(1).standard_normal((6, 3))

        def loss(parameters, settings=settings):
            return loss_and_record(settings, parameters, [], D, x, eps, 72, 0)[0]

        check_grads(loss, modes=["rev"], order=1)(parameters)
        without = grad(lambda p: loss(p, dataclasses.replace(settings, tc_weight=0.0)))(parameters)
        assert np.abs(grad(loss)(parameters)[0] - without[0]).max() > 1e-3


class TestRuns:
    def test_one_step_by_hand(self, data):
        """Algorithm 1: the model's step, then the discriminator's, on the first batch's codes and the second's."""
        before = initial_state(TINY, 4096)
        after = run(TINY, data, steps=1)
        x, eps = data.images.take(batches(TINY, data)(0)), step_noise(1, 0, 16, 3)
        D = before.adversary.discriminator
        gradient = grad(lambda p: loss_and_record(TINY, p, [], D, x, eps, 72, 0)[0])(before.parameters)
        z = loss_and_record(TINY, before.parameters, [], D, x, eps, 72, 0)[1].z
        adam_step(before.parameters, gradient, before.adam, 1, TINY.learning_rate)
        for ours, theirs in zip(before.parameters, after.parameters, strict=True):
            np.testing.assert_array_equal(ours, theirs)
        second = data.images.take(batches(TINY, data, SECOND_ORDER)(0))
        z_second = loss_and_record(
            TINY, before.parameters, [], D, second, step_noise(1, 0, 16, 3, SECOND_NOISE), 72, 0
        )[1].z
        permuted = permute_dims(z_second, step_permutations(1, 0, 16, 3))
        gradient = grad(discriminator_loss)(D, z, permuted)
        adam_step(D, gradient, initial_adam_state(D), 1, TINY.discriminator_rate, 0.5, 0.9)
        for ours, theirs in zip(D, after.adversary.discriminator, strict=True):
            np.testing.assert_array_equal(ours, theirs)

    def test_the_second_batch_is_another(self, data):
        first, second = batches(TINY, data), batches(TINY, data, SECOND_ORDER)
        assert all((first(step) != second(step)).any() for step in range(8))
        assert sorted(np.concatenate([second(step) for step in range(4)])) != list(range(64))
        assert len(set(np.concatenate([second(step) for step in range(4)]))) == 64

    def test_what_is_recorded(self, data):
        state = run(TINY, data)
        assert recorded(TINY)[5:] == ("discriminator_total_correlation", "discriminator_loss")
        assert state.history.shape == (2, 7)
        assert 0.3 < state.history[-1, 6] < 3.0

    def test_weight_zero_trains_a_vae(self, data):
        without = run(dataclasses.replace(TINY, tc_weight=0.0), data)
        plain = run(dataclasses.replace(TINY, objective="vae"), data)
        assert plain.adversary.discriminator == []
        np.testing.assert_allclose(without.history[:, :5], plain.history, rtol=1e-4)

    def test_warm_up(self):
        settings = dataclasses.replace(TINY, tc_weight_warm_up=10)
        terms = ElboTerms(-100.0, 9.0, 5.0, 3.0, 1.0)
        assert [settings.objective_at(s, 2.0)(terms) for s in (0, 5, 10)] == [-109.0, -115.0, -121.0]

    def test_a_loss_that_is_not_finite_changes_nothing(self):
        adversary = initial_adversary(TINY, "float32")
        adversary.discriminator[0][:] = 3e38
        before = [p.copy() for p in adversary.discriminator]
        codes = np.ones((16, 3), np.float32)
        with np.errstate(all="ignore"), pytest.raises(InputError, match="not finite"):
            adversary_step(TINY, adversary, codes, codes, 0, adam_update)
        assert all((a == b).all() for a, b in zip(before, adversary.discriminator, strict=True))

    def test_a_discriminator_that_diverges(self, data):
        with pytest.raises(TrainingDiverged):
            run(dataclasses.replace(TINY, discriminator_rate=1e30), data)
