"""One training step, side by side: kernels, NumPy and PyTorch eager, on the same networks, images and noise.

python kernels/bench_step.py [--networks paper|hearts|conv] [--batch 256] [--rounds 15] [--json FILE] [--without-numpy]

A step is the loss of a batch (encoder, decoder, Bernoulli log-likelihood, MWS estimate, beta-TCVAE), its gradient and
the Adam update, in float32. `conv` are the paper's networks for 3D Faces, here on dSprites of 64 x 64 pixels; the
convolutions are NumPy's in either, only what surrounds them is on kernels. All are given the machine's cores, are
warmed up, and take turns with a pause between them, because one library's spinning threads slow the other down. Their
losses are compared before anything is timed.
"""

import argparse
import dataclasses
import json
import math
import statistics
import time

import numpy as np
import torch
from tcvae_kernels.machine import describe

from tcvae_ref import conv_networks
from tcvae_ref.cli import machinery
from tcvae_ref.data import grid, render
from tcvae_ref.training import NUMPY, PRESETS, adam_step, initial_state
from tcvae_ref.training.gradients import gradient_and_aux
from tcvae_ref.training.loop import loss_and_record, step_noise
from tcvae_ref.training.model import taken_apart

PAUSE = 0.2  # seconds between turns
CONV = "conv"
N = 737_280  # data set size that enters the estimator


class Step:
    """The step of tcvae_ref.training.loop."""

    def __init__(self, name, operations, settings, x, eps):
        self.name, self.operations = name, operations
        self.settings, self.x, self.eps, self.done = settings, x, eps, 0
        self.state = initial_state(settings, x.shape[1])
        self.statistics = self.state.statistics

    def loss_and_record(self, parameters):
        given = self.statistics, [], self.x, self.eps, N, 0, self.operations
        return loss_and_record(self.settings, parameters, *given)

    def loss(self):
        return float(self.loss_and_record(self.state.parameters)[0])

    def __call__(self):
        self.done += 1
        gradient, record = gradient_and_aux(self.loss_and_record, self.state.parameters)
        self.statistics = record.statistics
        rate, update = self.settings.learning_rate, self.operations.adam_update
        adam_step(self.state.parameters, gradient, self.state.adam, self.done, rate, update=update)


class TorchStep:
    """The same step as PyTorch users write it: eager, fused layers, torch.optim.Adam as it comes."""

    name = "PyTorch eager"

    def __init__(self, settings, x, eps):
        self.settings, self.x, self.eps = settings, torch.from_numpy(x), torch.from_numpy(eps)
        parameters = initial_state(settings, x.shape[1]).parameters
        self.parameters = [torch.nn.Parameter(torch.from_numpy(p)) for p in parameters]
        self.optimiser = torch.optim.Adam(self.parameters, settings.learning_rate)

    def layers(self):
        layers = list(zip(self.parameters[::2], self.parameters[1::2], strict=True))
        split = len(self.settings.encoder) + 1
        return layers[:split], layers[split:]

    def encode(self, h):
        *hidden, (W, b) = self.layers()[0]
        for W_h, b_h in hidden:
            h = torch.relu(torch.addmm(b_h, h, W_h))
        return torch.addmm(b, h, W)

    def decode(self, h):
        *hidden, (W, b) = self.layers()[1]
        for W_h, b_h in hidden:
            h = torch.tanh(torch.addmm(b_h, h, W_h))
        return torch.addmm(b, h, W)

    def forward(self):
        s, M, D = self.settings, len(self.x), self.settings.latent
        h = self.encode(self.x)
        mu, log_var = h[:, :D], h[:, D:]
        z = mu + torch.exp(0.5 * log_var) * self.eps
        logits = self.decode(z)
        nll = torch.nn.functional.binary_cross_entropy_with_logits(logits, self.x, reduction="sum") / M
        log_2pi = math.log(2 * math.pi)
        L = -0.5 * ((z[:, None] - mu[None]) ** 2 * torch.exp(-log_var)[None] + log_var[None] + log_2pi)
        joint = (torch.logsumexp(L.sum(2), 1) - math.log(N * M)).mean()
        marginals = (torch.logsumexp(L, 1) - math.log(N * M)).sum(1).mean()
        own = (-0.5 * ((z - mu) ** 2 * torch.exp(-log_var) + log_var + log_2pi)).sum(1).mean()
        prior = (-0.5 * (z**2 + log_2pi)).sum(1).mean()
        return nll + s.alpha * (own - joint) + s.beta * (joint - marginals) + s.gamma * (marginals - prior)

    def loss(self):
        with torch.no_grad():
            return float(self.forward())

    def __call__(self):
        self.optimiser.zero_grad()
        self.forward().backward()
        self.optimiser.step()


class TorchConvStep(TorchStep):
    """The same step of the convolutional networks, of torch.nn's modules."""

    def __init__(self, settings, x, eps):
        self.settings, self.x, self.eps = settings, torch.from_numpy(x), torch.from_numpy(eps)
        nn, D, shapes = torch.nn, settings.latent, [(4, 2, 1)] * 4 + [(4, 1, 0), (1, 1, 0)]
        widths = (1, 32, 32, 64, 64, 512)
        encoder, decoder, _ = taken_apart(settings, initial_state(settings, x.shape[1]).parameters)
        self.encoder = self.modules(nn.Conv2d, (*widths, 2 * D), shapes, encoder)
        self.decoder = self.modules(nn.ConvTranspose2d, (D, *widths[::-1]), shapes[::-1], decoder)
        parameters = [*self.encoder.parameters(), *self.decoder.parameters()]
        self.optimiser = torch.optim.Adam(parameters, settings.learning_rate)

    @staticmethod
    def modules(convolution, widths, shapes, parameters):
        layers, last = [], len(shapes) - 1
        for i, (inputs, outputs, shape) in enumerate(zip(widths[:-1], widths[1:], shapes, strict=True)):
            layers.append(convolution(inputs, outputs, *shape, bias=i == last))
            layers[-1].weight.data = torch.from_numpy(parameters[3 * i].transpose(3, 2, 0, 1).copy())
            if i < last:
                layers += [torch.nn.BatchNorm2d(outputs), torch.nn.ReLU(inplace=True)]
        layers[-1].bias.data = torch.from_numpy(parameters[-1].copy())
        return torch.nn.Sequential(*layers)

    def encode(self, h):
        return self.encoder(h.view(-1, 1, 64, 64)).flatten(1)

    def decode(self, h):
        return self.decoder(h[:, :, None, None]).flatten(1)


def measure(steps, rounds):
    """Median, quickest and slowest time of each, in ms, taking turns."""
    for step in steps:
        for _ in range(3):
            step()
    times = {step.name: [] for step in steps}
    for _ in range(rounds):
        for step in steps:
            time.sleep(PAUSE)
            step()  # brings its own threads and caches back
            start = time.perf_counter()
            step()
            times[step.name].append(1e3 * (time.perf_counter() - start))
    return {name: (statistics.median(t), min(t), max(t)) for name, t in times.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", choices=(*PRESETS, CONV), default="paper")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json")
    parser.add_argument("--without-numpy", action="store_true", help="leave the slowest out")
    arguments = parser.parse_args()
    conv = arguments.networks == CONV
    settings = dataclasses.replace(PRESETS["paper"], network="conv") if conv else PRESETS[arguments.networks]
    data = render(grid("medium"))
    x = data.images.take(np.random.default_rng(0).choice(len(data), arguments.batch, replace=False))
    eps = step_noise(0, 0, arguments.batch, settings.latent)
    steps = [Step("tcvae_ref on kernels", machinery("numba", None).operations, settings, x, eps)]
    if not arguments.without_numpy:
        steps.append(Step("tcvae_ref on NumPy", NUMPY, settings, x, eps))
    steps.append((TorchConvStep if conv else TorchStep)(settings, x, eps))
    losses = [step.loss() for step in steps]
    if not all(math.isclose(loss, losses[-1], rel_tol=1e-5) for loss in losses):
        raise SystemExit(f"the losses differ: {losses}; nothing is timed")
    result = measure(steps, arguments.rounds)
    machine = describe("numpy", "autograd", "numba", "torch") + f"; {torch.get_num_threads()} PyTorch threads"
    print(machine)
    layers = f"convolutions {conv_networks.CHANNELS}" if conv else f"{settings.encoder} / {settings.decoder}"
    widths = f"{layers}, D {settings.latent}, batch {arguments.batch}, float32"
    print(f"one training step, {widths}; losses " + ", ".join(f"{v:.3f}" for v in losses) + "\n")
    print("| step | median ms | min | max | ratio to PyTorch |\n|---|---|---|---|---|")
    base = result[TorchStep.name][0]
    for name, (median, low, high) in result.items():
        print(f"| {name} | {median:.1f} | {low:.1f} | {high:.1f} | {median / base:.2f} |")
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump({"machine": machine, "networks": widths, "ms": result}, file, indent=2)


if __name__ == "__main__":
    main()
