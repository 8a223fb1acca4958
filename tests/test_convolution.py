"""Convolutions, batch normalisation and the convolutional networks, against loops, PyTorch and differences."""

import itertools

import autograd.numpy as anp
import numpy as np
import pytest
from autograd import grad
from autograd.test_util import check_grads
from optional import torch

from tcvae_ref import conv_networks
from tcvae_ref.checks import InputError
from tcvae_ref.convolution import Window, batch_norm, conv2d, conv_transpose2d, fixed_norm, overlay, patches
from tcvae_ref.networks import relu

FUNCTIONAL = torch.nn.functional
ROUNDING = 1e-12  # float64, on sums of at most a few thousand terms of order 1

# kernel, stride, padding, image channels, code channels, H, W: every layer's, both orders of the steps, odd ones
CONVOLUTIONS = [
    (4, 2, 1, 1, 32, 16, 16),
    (4, 2, 1, 3, 2, 8, 12),
    (4, 2, 1, 16, 8, 8, 4),
    (4, 4, 0, 3, 5, 4, 4),
    (1, 1, 0, 3, 2, 3, 4),
    (3, 1, 1, 2, 3, 5, 6),
    (3, 1, 0, 2, 5, 3, 7),
    (6, 2, 2, 2, 50, 6, 8),
    (4, 2, 3, 2, 3, 4, 6),
    (9, 3, 3, 3, 2, 9, 12),
]


def images_first(a):
    return torch.tensor(np.ascontiguousarray(a.transpose(0, 3, 1, 2)), requires_grad=True)


def kernel_first(w):
    return torch.tensor(np.ascontiguousarray(w.transpose(3, 2, 0, 1)), requires_grad=True)


def images_last(t):
    return t.detach().numpy().transpose(0, 2, 3, 1)


def kernel_last(t):
    return t.detach().numpy().transpose(2, 3, 1, 0)


def close(*pairs, tolerance=ROUNDING):
    for ours, theirs in pairs:
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance * max(1.0, np.abs(theirs).max()))


def drawn(*shapes, dtype="float64"):
    rng = np.random.default_rng(sum(map(len, shapes)))
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolution_and_its_gradients_are_pytorchs(case):
    k, stride, padding, C, K, H, W = case
    x, kernel = drawn((3, H, W, C), (k, k, C, K))
    code = conv2d(x, kernel, stride, padding)
    (weights,) = drawn(code.shape)
    d_x, d_kernel = grad(lambda x, w: anp.sum(weights * conv2d(x, w, stride, padding)), (0, 1))(x, kernel)
    t_x, t_kernel = images_first(x), kernel_first(kernel)
    t_code = FUNCTIONAL.conv2d(t_x, t_kernel, stride=stride, padding=padding)
    t_code.backward(images_first(weights).detach())
    close((code, images_last(t_code)), (d_x, images_last(t_x.grad)), (d_kernel, kernel_last(t_kernel.grad)))


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_transposed_convolution_and_its_gradients_are_pytorchs(case):
    k, stride, padding, C, K, H, W = case
    H, W = ((n + 2 * padding - k) // stride + 1 for n in (H, W))
    code, kernel = drawn((3, H, W, K), (k, k, C, K))
    image = conv_transpose2d(code, kernel, stride, padding)
    (weights,) = drawn(image.shape)
    d_code, d_kernel = grad(lambda c, w: anp.sum(weights * conv_transpose2d(c, w, stride, padding)), (0, 1))(
        code, kernel
    )
    t_code, t_kernel = images_first(code), kernel_first(kernel)
    t_image = FUNCTIONAL.conv_transpose2d(t_code, t_kernel, stride=stride, padding=padding)
    t_image.backward(images_first(weights).detach())
    close((image, images_last(t_image)), (d_code, images_last(t_code.grad)), (d_kernel, kernel_last(t_kernel.grad)))


def test_convolution_is_the_sum_in_its_docstring():
    k, stride, padding, C, K, H, W = 4, 2, 1, 2, 3, 6, 4
    x, kernel = drawn((2, H, W, C), (k, k, C, K))
    code = conv2d(x, kernel, stride, padding)
    looped = np.zeros_like(code)
    for m, n, o, a, b in itertools.product(*map(range, (*code.shape[:3], k, k))):
        i, j = n * stride + a - padding, o * stride + b - padding
        if 0 <= i < H and 0 <= j < W:
            looped[m, n, o] += x[m, i, j] @ kernel[a, b]
    close((code, looped))


@pytest.mark.parametrize(
    ("window", "H", "W"),
    [
        (Window(2, 2, 1), 6, 4),
        (Window(2, 1, 0), 3, 5),
        (Window(3, 1, 2), 4, 3),
        (Window(3, 2, 1), 6, 7),
        (Window(2, 3, 0), 7, 8),
        (Window(2, 3, 4), 2, 2),
    ],
)
def test_overlay_is_the_adjoint_of_patches(window, H, W):
    (x,) = drawn((2, H, W, 3))
    squares = patches(x, window)
    (other,) = drawn(squares.shape)
    bordered = np.pad(x, ((0, 0), *[(window.padding, window.padding)] * 2, (0, 0)))
    views = np.lib.stride_tricks.sliding_window_view(bordered, (window.reach, window.reach), (1, 2))
    views = views[:, :: window.step, :: window.step].transpose(0, 1, 2, 4, 5, 3)
    close((squares, views.reshape(squares.shape)))
    assert np.vdot(squares, other) == pytest.approx(np.vdot(x, overlay(other, window, H, W)), rel=1e-12)


@pytest.mark.parametrize("case", CONVOLUTIONS[1:4])
def test_convolutions_can_be_differentiated_twice(case):
    k, stride, padding, C, K, H, W = case
    x, kernel = drawn((1, H, W, C), (k, k, C, K))
    code = conv2d(x, kernel, stride, padding)
    check_grads(lambda x, w: conv2d(x, w, stride, padding) ** 2, (0, 1), modes=["rev"], order=2)(x, kernel)
    check_grads(lambda c, w: conv_transpose2d(c, w, stride, padding) ** 2, (0, 1), modes=["rev"], order=2)(code, kernel)


@pytest.mark.parametrize("shape", [(5, 3, 4, 3), (7, 1, 1, 2), (1, 4, 4, 2)])
def test_batch_norm_and_its_gradients_are_pytorchs(shape):
    x, scale, shift, weights = drawn(shape, shape[-1:], shape[-1:], shape)
    x = 3.0 * x + 5.0
    y, mean, variance = batch_norm(x, scale, shift)
    gradients = grad(lambda *a: anp.sum(weights * batch_norm(*a).y), (0, 1, 2))(x, scale, shift)
    t_x, module = images_first(x), torch.nn.BatchNorm2d(shape[-1], dtype=torch.float64)
    module.weight.data, module.bias.data = torch.tensor(scale), torch.tensor(shift)
    t_y = module(t_x)
    t_y.backward(images_first(weights).detach())
    close(
        (y, images_last(t_y)),
        (gradients[0], images_last(t_x.grad)),
        (gradients[1], module.weight.grad.numpy()),
        (gradients[2], module.bias.grad.numpy()),
        (mean, x.mean((0, 1, 2))),
        (variance, x.var((0, 1, 2))),
        tolerance=1e-11,  # the deviations from a mean of 5 lose a digit
    )
    module.eval()
    running = module.running_mean.numpy(), module.running_var.numpy()
    close((fixed_norm(x, scale, shift, *running), images_last(module(t_x))))


def test_batch_norm_and_relu_against_differences():
    x, scale, shift = drawn((4, 2, 3, 2), (2,), (2,))
    by = (0, 1, 2)
    check_grads(lambda *a: relu(batch_norm(*a).y) ** 2, by, modes=["rev"], order=1)(x, scale, shift)
    check_grads(lambda *a: fixed_norm(*a, np.zeros(2), np.ones(2)), by, modes=["rev"], order=1)(x, scale, shift)


def test_fixed_norm_far_from_0_keeps_its_digits():
    x = (1e4 + np.random.default_rng(0).standard_normal((2, 3, 3, 1))).astype(np.float32)
    one = np.ones(1, np.float32)
    expected = 1.7 * (x.astype(float) - 1e4) / np.sqrt(1 + 1e-5) + 0.5
    np.testing.assert_allclose(fixed_norm(x, 1.7 * one, 0.5 * one, 1e4 * one, one), expected, rtol=1e-6, atol=1e-6)


def test_relu_has_derivative_0_at_0():
    a = np.array([-1.0, 0.0, 2.0])
    np.testing.assert_array_equal(relu(a), [0.0, 0.0, 2.0])
    np.testing.assert_array_equal(grad(lambda a: anp.sum(relu(a)))(a), [0.0, 0.0, 1.0])


def torch_network(convolution, parameters, dtype):
    """The paper's networks of PyTorch's modules, with these parameters."""
    shapes = [(4, 2, 1)] * 4 + [(4, 1, 0), (1, 1, 0)]
    transposed = convolution is torch.nn.ConvTranspose2d
    modules = []
    for i, shape in enumerate(shapes[::-1] if transposed else shapes):
        kernel = parameters[3 * i].transpose(3, 2, 0, 1)
        inputs, outputs = kernel.shape[:2] if transposed else kernel.shape[1::-1]
        modules.append(convolution(inputs, outputs, *shape, bias=i == 5, dtype=dtype))
        modules[-1].weight.data = torch.tensor(np.ascontiguousarray(kernel))
        if i < 5:
            modules += [torch.nn.BatchNorm2d(outputs, dtype=dtype), torch.nn.ReLU()]
            modules[-2].weight.data, modules[-2].bias.data = map(torch.tensor, parameters[3 * i + 1 : 3 * i + 3])
    modules[-1].bias.data = torch.tensor(parameters[-1])
    return torch.nn.Sequential(*modules)


def torch_gradients(network):
    return [p.grad.numpy().transpose(2, 3, 1, 0) if p.ndim == 4 else p.grad.numpy() for p in network.parameters()]


def torch_statistics(network):
    norms = [module for module in network if isinstance(module, torch.nn.BatchNorm2d)]
    return [t.numpy() for norm in norms for t in (norm.running_mean, norm.running_var)]


def disturbed(arrays):
    """The same with noise, so that no scale is 1 and no shift 0."""
    rng = np.random.default_rng(5)
    return [a + 0.1 * rng.standard_normal(a.shape) for a in arrays]


@pytest.mark.parametrize("channels", [1, 3])
def test_encoder_is_pytorchs_with_gradients_and_running_statistics(channels):
    M, D = 3, 4
    parameters = disturbed(conv_networks.initial_encoder(channels, D, np.random.default_rng(0), "float64"))
    statistics = conv_networks.encoder_statistics("float64")
    x, weights = drawn((M, channels * 4096), (M, 2 * D))
    network = torch_network(torch.nn.Conv2d, parameters, torch.float64)
    t_x = torch.tensor(x).view(M, channels, 64, 64)

    def weighted(parameters):
        mu, log_var, _ = conv_networks.encode(parameters, statistics, x, learning=True)
        return anp.sum(weights * anp.concatenate([mu, log_var], axis=1))

    gradient = grad(weighted)(parameters)
    output = network(t_x).flatten(1)
    output.backward(torch.tensor(weights))
    close(*zip(gradient, torch_gradients(network), strict=True), tolerance=1e-9)  # batches of 3 are nearly singular
    for _ in range(2):  # the statistics, after one step and after two
        mu, log_var, statistics = conv_networks.encode(parameters, statistics, x, learning=True)
        close((np.concatenate([mu, log_var], axis=1), output.detach().numpy()), tolerance=1e-10)
        close(*zip(statistics, torch_statistics(network), strict=True), tolerance=1e-10)
        network(t_x)
    fixed = torch_network(torch.nn.Conv2d, parameters, torch.float64)
    fixed(t_x)
    fixed(t_x)
    mu, log_var, same = conv_networks.encode(parameters, statistics, x, learning=False)
    close((np.concatenate([mu, log_var], axis=1), fixed.eval()(t_x).flatten(1).detach().numpy()), tolerance=1e-10)
    assert same is statistics


@pytest.mark.parametrize("channels", [1, 3])
def test_decoder_is_pytorchs_with_gradients_and_running_statistics(channels):
    M, D = 3, 4
    parameters = disturbed(conv_networks.initial_decoder(D, channels, np.random.default_rng(0), "float64"))
    statistics = conv_networks.decoder_statistics("float64")
    z, weights = drawn((M, D), (M, channels * 4096))
    network = torch_network(torch.nn.ConvTranspose2d, parameters, torch.float64)
    t_z = torch.tensor(z, requires_grad=True)

    def weighted(parameters, z):
        return anp.sum(weights * conv_networks.decode(parameters, statistics, z, learning=True)[0])

    gradient, d_z = grad(weighted, (0, 1))(parameters, z)
    output = network(t_z[:, :, None, None]).flatten(1)
    output.backward(torch.tensor(weights))
    pairs = [*zip(gradient, torch_gradients(network), strict=True), (d_z, t_z.grad.numpy())]
    close(*pairs, tolerance=1e-9)
    logits, moved = conv_networks.decode(parameters, statistics, z, learning=True)
    close((logits, output.detach().numpy()), *zip(moved, torch_statistics(network), strict=True), tolerance=1e-10)
    logits, same = conv_networks.decode(parameters, moved, z, learning=False)
    close((logits, network.eval()(t_z[:, :, None, None]).flatten(1).detach().numpy()), tolerance=1e-10)
    assert same is moved


def test_networks_against_differences():
    D, eps = 2, 1e-7  # short, for the kinks of ReLU
    rng = np.random.default_rng(3)
    encoder = conv_networks.initial_encoder(1, D, rng, "float64")
    decoder = conv_networks.initial_decoder(D, 1, rng, "float64")
    of_encoder, of_decoder = conv_networks.encoder_statistics("float64"), conv_networks.decoder_statistics("float64")
    x, weights = rng.random((4, 4096)), rng.standard_normal((4, 4096)) / 64

    def weighted(parameters):
        mu, log_var, _ = conv_networks.encode(parameters[: len(encoder)], of_encoder, x, learning=True)
        logits, _ = conv_networks.decode(parameters[len(encoder) :], of_decoder, mu + log_var, learning=True)
        return anp.sum(weights * anp.tanh(logits))

    parameters = encoder + decoder
    gradient = grad(weighted)(parameters)
    for i, g in enumerate(gradient):
        along = g / np.linalg.norm(g)
        ends = [weighted([*parameters[:i], parameters[i] + s * eps * along, *parameters[i + 1 :]]) for s in (-1, 1)]
        assert (ends[1] - ends[0]) / (2 * eps) == pytest.approx(np.linalg.norm(g), rel=1e-4, abs=1e-6), i


def test_float32_stays_float32_and_nothing_is_float64():
    rng = np.random.default_rng(0)
    encoder, decoder = conv_networks.initial_encoder(3, 2, rng), conv_networks.initial_decoder(2, 3, rng)
    x = rng.random((2, 3 * 4096), dtype=np.float32)

    def total(encoder, decoder, learning):
        mu, log_var, moved = conv_networks.encode(encoder, conv_networks.encoder_statistics(), x, learning)
        logits, also = conv_networks.decode(decoder, conv_networks.decoder_statistics(), mu + log_var, learning)
        assert {a.dtype for a in (mu, log_var, logits, *moved, *also)} == {np.dtype("float32")}
        return anp.sum(logits)

    for learning in (True, False):
        gradients = grad(lambda both: total(*both, learning))((encoder, decoder))  # noqa: B023
        assert {g.dtype for part in gradients for g in part} == {np.dtype("float32")}


def test_statistics_start_at_0_and_1_and_steps_leave_the_old_ones():
    statistics = conv_networks.encoder_statistics()
    widths = (32, 32, 64, 64, 512)
    assert [a.shape for a in statistics] == [(w,) for w in widths for _ in range(2)]
    assert [a.shape for a in conv_networks.decoder_statistics()] == [(w,) for w in widths[::-1] for _ in range(2)]
    assert all(
        (mean == 0).all() and (variance == 1).all()
        for mean, variance in zip(statistics[::2], statistics[1::2], strict=True)
    )
    rng = np.random.default_rng(0)
    x = rng.random((2, 4096), dtype=np.float32)
    conv_networks.encode(conv_networks.initial_encoder(1, 2, rng), statistics, x, learning=True)
    assert all(
        (mean == 0).all() and (variance == 1).all()
        for mean, variance in zip(statistics[::2], statistics[1::2], strict=True)
    )


def test_initial_layers_keep_the_size_of_what_passes():
    rng = np.random.default_rng(0)
    encoder, decoder = conv_networks.initial_encoder(1, 10, rng), conv_networks.initial_decoder(10, 1, rng)
    for parameters, code in ((encoder, False), (decoder, True)):
        for i, (kernel, shape) in enumerate(
            zip(parameters[::3], conv_networks.SHAPES[:: -1 if code else 1], strict=True)
        ):
            k, _, C, K = kernel.shape
            terms = (k // shape.stride) ** 2 * K if code else k * k * C
            assert np.std(kernel) == pytest.approx(np.sqrt(2 / terms), rel=0.15), i
        assert not parameters[-1].any()
        for scale, shift in zip(parameters[1:-2:3], parameters[2:-2:3], strict=True):
            assert (scale == 1).all()
            assert not shift.any()


@pytest.mark.parametrize(("channels", "D"), [(1, 1), (3, 2)])
def test_shapes_of_the_parameters(channels, D):
    rng = np.random.default_rng(0)
    inner = [(4, 4, 32, 32), (4, 4, 32, 64), (4, 4, 64, 64), (4, 4, 64, 512)]
    encoder, decoder = conv_networks.initial_encoder(channels, D, rng), conv_networks.initial_decoder(D, channels, rng)
    assert [a.shape for a in encoder[::3]] == [(4, 4, channels, 32), *inner, (1, 1, 512, 2 * D)]
    assert [a.shape for a in decoder[::3]] == [(1, 1, 512, D), *inner[::-1], (4, 4, channels, 32)]
    assert [a.shape for a in encoder[1:-2:3]] == [(w,) for w in (32, 32, 64, 64, 512)]
    assert [a.shape for a in decoder[1:-2:3]] == [(w,) for w in (512, 64, 64, 32, 32)]
    assert encoder[-1].shape == (2 * D,)
    assert decoder[-1].shape == (channels,)


def test_misuse_is_refused():
    x, kernel = drawn((2, 8, 8, 3), (4, 4, 3, 5))
    for function, arguments, said in (
        (conv2d, (x, kernel, 3, 1), "multiple of the stride"),
        (conv2d, (x, kernel, 0, 1), "stride=0"),
        (conv2d, (x, kernel, 2, -1), "padding=-1"),
        (conv2d, (x[..., :2], kernel, 2, 1), "channels last"),
        (conv2d, (x[:, :7], kernel, 2, 1), "7 x 8 pixels"),
        (conv2d, (x[:, :2], kernel, 2, 0), "at least the kernel's 4"),
        (conv2d, (x, kernel[0], 2, 1), "k, k, C, K"),
        (conv2d, (x, kernel[:2], 2, 1), "k, k, C, K"),
        (conv2d, (x, kernel[:, :2], 2, 1), "k, k, C, K"),
        (conv2d, (x, kernel[..., None], 2, 1), "k, k, C, K"),
        (conv2d, (x.astype("float32"), kernel, 2, 1), "float32 and kernel float64"),
        (conv_transpose2d, (x, kernel, 2, 1), r"\(M, H, W, 5\)"),
        (conv_transpose2d, (x[:, :1, :1, [0, 0, 0, 0, 0]], kernel, 2, 2), "leaves nothing of 4 x 4"),
        (batch_norm, (x[:1, :1, :1], x[0, 0, 0], x[0, 0, 0]), "enlarge the batch"),
    ):
        with pytest.raises(InputError, match=said):
            function(*arguments)
    with pytest.raises(InputError, match="second derivative"):
        grad(lambda s: anp.sum(grad(lambda t: anp.sum(batch_norm(x, t, t).y ** 3))(s)))(np.ones(3))


@pytest.mark.parametrize("function", [batch_norm, fixed_norm])
def test_norms_broadcast_and_convert_nothing(function):
    x, *given = drawn((2, 4, 4, 3), *[(3,)] * (2 if function is batch_norm else 4))
    given[-1] = np.abs(given[-1])
    function(x, *given)
    names = ("scale", "shift", "mean", "variance")
    for i, (name, right) in enumerate(zip(names, given, strict=False)):
        for wrong, said in (
            (right[:1], rf"{name} has shape \(1,\) and x \(2, 4, 4, 3\); \(3,\) is needed"),
            (right[:2], rf"{name} has shape \(2,\)"),
            (right[0], rf"{name} has shape \(\)"),
            (np.ones((4, 4, 3)), rf"{name} has shape \(4, 4, 3\)"),
            (right.astype("float32"), f"x float64 and {name} float32"),
        ):
            with pytest.raises(InputError, match=f"{function.__name__}: .*{said}"):
                function(x, *given[:i], wrong, *given[i + 1 :])
    with pytest.raises(TypeError, match="x float32 and scale float64"):
        function(x.astype("float32"), *given)
    for wrong in (x[0], x[..., None]):
        with pytest.raises(InputError, match="channels last"):
            function(wrong, *given)
    with pytest.raises(InputError, match="scale has shape"):
        grad(lambda scale: function(x, scale, *given[1:]))(np.ones(1))


def test_misused_networks_are_refused():
    rng = np.random.default_rng(0)
    encoder, decoder = conv_networks.initial_encoder(3, 2, rng), conv_networks.initial_decoder(2, 3, rng)
    of_encoder, of_decoder = conv_networks.encoder_statistics(), conv_networks.decoder_statistics()
    x, z = np.zeros((2, 3 * 4096), "float32"), np.zeros((2, 2), "float32")
    with pytest.raises(InputError, match="channel, row, column"):
        conv_networks.encode(encoder, of_encoder, x[:, :4096], learning=False)
    with pytest.raises(InputError, match="initial_encoder and encoder_statistics"):
        conv_networks.encode(encoder[:-1], of_encoder, x, learning=False)
    with pytest.raises(InputError, match="enlarge the batch"):
        conv_networks.encode(encoder, of_encoder, x[:1], learning=True)
    with pytest.raises(InputError, match=r"\(M, 2\)"):
        conv_networks.decode(decoder, of_decoder, z[:, :1], learning=False)
    with pytest.raises(InputError, match="10 are needed"):
        conv_networks.decode(decoder, of_decoder[:4], z, learning=False)
    with pytest.raises(InputError, match="dtype"):
        conv_networks.initial_encoder(1, 2, rng, "float16")
    with pytest.raises(InputError, match="channels=0"):
        conv_networks.initial_decoder(2, 0, rng)
