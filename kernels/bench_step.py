"""One training step, side by side: kernels, NumPy and PyTorch eager, on the same networks, images and noise.

python kernels/bench_step.py [--networks paper|hearts] [--batch 256] [--rounds 15] [--json FILE] [--without-numpy]

A step is the loss of a batch (encoder, decoder, Bernoulli log-likelihood, MWS estimate, beta-TCVAE), its gradient and
the Adam update, in float32. All are given the machine's cores, are warmed up, and take turns with a pause between
them, because one library's spinning threads slow the other down. Their losses are compared before anything is timed.
"""

import argparse
import json
import math
import statistics
import time

import numpy as np
import torch
from autograd.differential_operators import grad_and_aux
from tcvae_kernels.machine import describe

from tcvae_ref.cli import machinery
from tcvae_ref.data import grid, render
from tcvae_ref.training import NUMPY, PRESETS, adam_step, initial_state
from tcvae_ref.training.loop import loss_and_terms, step_noise

PAUSE = 0.2  # seconds between turns
N = 737_280  # data set size that enters the estimator


class Step:
    """The step of tcvae_ref.training.loop."""

    def __init__(self, name, operations, settings, x, eps):
        self.name, self.operations = name, operations
        self.settings, self.x, self.eps, self.done = settings, x, eps, 0
        self.state = initial_state(settings, x.shape[1])
        self.gradient = grad_and_aux(lambda p, x, eps: loss_and_terms(settings, p, x, eps, N, 0, operations))

    def loss(self):
        parameters = self.state.parameters
        return float(loss_and_terms(self.settings, parameters, self.x, self.eps, N, 0, self.operations)[0])

    def __call__(self):
        self.done += 1
        gradient, _ = self.gradient(self.state.parameters, self.x, self.eps)
        adam_step(
            self.state.parameters,
            gradient,
            self.state.adam,
            self.done,
            self.settings.learning_rate,
            update=self.operations.adam_update,
        )


class TorchStep:
    """The same step as PyTorch users write it: eager, fused layers, torch.optim.Adam as it comes."""

    name = "PyTorch eager"

    def __init__(self, settings, x, eps):
        self.settings, self.x, self.eps = settings, torch.from_numpy(x), torch.from_numpy(eps)
        parameters = initial_state(settings, x.shape[1]).parameters
        self.parameters = [torch.nn.Parameter(torch.from_numpy(p)) for p in parameters]
        self.optimiser = torch.optim.Adam(self.parameters, settings.learning_rate)

    def forward(self):
        s, M, D = self.settings, len(self.x), self.settings.latent
        layers = list(zip(self.parameters[::2], self.parameters[1::2], strict=True))
        split = len(s.encoder) + 1
        h = self.x
        for W, b in layers[: split - 1]:
            h = torch.relu(torch.addmm(b, h, W))
        W, b = layers[split - 1]
        h = torch.addmm(b, h, W)
        mu, log_var = h[:, :D], h[:, D:]
        z = mu + torch.exp(0.5 * log_var) * self.eps
        h = z
        for W, b in layers[split:-1]:
            h = torch.tanh(torch.addmm(b, h, W))
        W, b = layers[-1]
        logits = torch.addmm(b, h, W)
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
    parser.add_argument("--networks", choices=PRESETS, default="paper")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json")
    parser.add_argument("--without-numpy", action="store_true", help="leave the slowest out")
    arguments = parser.parse_args()
    settings = PRESETS[arguments.networks]
    data = render(grid("medium"))
    x = data.images.take(np.random.default_rng(0).choice(len(data), arguments.batch, replace=False))
    eps = step_noise(0, 0, arguments.batch, settings.latent)
    steps = [Step("tcvae_ref on kernels", machinery("numba", None).operations, settings, x, eps)]
    if not arguments.without_numpy:
        steps.append(Step("tcvae_ref on NumPy", NUMPY, settings, x, eps))
    steps.append(TorchStep(settings, x, eps))
    losses = [step.loss() for step in steps]
    if not all(math.isclose(loss, losses[-1], rel_tol=1e-5) for loss in losses):
        raise SystemExit(f"the losses differ: {losses}; nothing is timed")
    result = measure(steps, arguments.rounds)
    machine = describe("numpy", "autograd", "numba", "torch") + f"; {torch.get_num_threads()} PyTorch threads"
    print(machine)
    widths = f"{settings.encoder} / {settings.decoder}, D {settings.latent}, batch {arguments.batch}, float32"
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
