"""Wrong programs that nobody thought of: is each caught, and what is it called?

    python tests/random_mistakes.py --count 200

changes a right loss in one or two random places (a number, an operator, a name, an axis, a term dropped), leaves
out what changes nothing, and hands the others to the oracle. It prints every program that is missed and every name that
is given, with the change, to be read: a name is right if the change amounts to that mistake.
"""

import argparse
import ast
import copy
import math
import random
import sys
import time
from collections import Counter

import numpy as np
import torch

from tcvae_ref.oracle import check

SOURCE = """
def loss(z, mu, log_var, dataset_size):
    N, M = dataset_size, z.shape[0]
    m, i = M - 1, torch.arange(M)
    w = torch.full((M, M), 1 / m, dtype=z.dtype)
    w[i, (i + 1) % M] = (N - m) / (N * m)
    w[i, i] = 1 / N
    log_w = torch.log(w)
    pairs = -0.5 * ((z[:, None] - mu) ** 2 * torch.exp(-log_var) + log_var + LOG_2PI)
    own = -0.5 * ((z - mu) ** 2 * torch.exp(-log_var) + log_var + LOG_2PI)
    prior = -0.5 * (z ** 2 + LOG_2PI)
    joint = torch.logsumexp(pairs.sum(2) + log_w, 1)
    marginals = torch.logsumexp(pairs + log_w[:, :, None], 1)
    given, product = own.sum(1), marginals.sum(1)
    mi = (given - joint).mean()
    tc = (joint - product).mean()
    dwkl = (product - prior.sum(1)).mean()
    return {"mi": mi, "tc": tc, "dwkl": dwkl}
"""
NAMES = (("z", "mu", "log_var"), ("N", "M", "m"), ("given", "joint", "product"), ("own", "prior", "marginals"))
OPERATORS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult}


class Change(ast.NodeTransformer):
    """One random change at the node with a given number."""

    def __init__(self, rng, at):
        self.rng, self.at, self.seen, self.said = rng, at, 0, ""

    def visit(self, node):
        mutate = getattr(self, f"mutate_{type(node).__name__}", None)
        if mutate is not None and isinstance(getattr(node, "ctx", ast.Load()), ast.Load):
            self.seen += 1
            if self.seen == self.at:
                before = ast.unparse(node)
                changed = mutate(node)
                if changed is not None:
                    self.said = f"{before} -> {ast.unparse(changed)}"
                    return changed
        return self.generic_visit(node)

    def mutate_Constant(self, node):
        if not isinstance(node.value, int | float) or isinstance(node.value, bool):
            return None
        if isinstance(node.value, int):
            return ast.Constant(node.value + self.rng.choice([-1, 1, 2]))
        return ast.Constant(node.value * self.rng.choice([0.5, 2.0, 1.1, -1.0, 0.97]))

    def mutate_Name(self, node):
        kinds = [kind for kind in NAMES if node.id in kind]
        return ast.Name(self.rng.choice([n for n in kinds[0] if n != node.id]), ast.Load()) if kinds else None

    def mutate_BinOp(self, node):
        if self.rng.random() < 0.5:
            return self.rng.choice([node.left, node.right])
        swapped = OPERATORS.get(type(node.op))
        return ast.BinOp(node.left, swapped(), node.right) if swapped else None

    def mutate_UnaryOp(self, node):
        return node.operand

    def mutate_Attribute(self, node):
        if node.attr not in ("sum", "mean", "exp", "logsumexp"):
            return None
        other = {"sum": "mean", "mean": "sum", "exp": "expm1", "logsumexp": "sum"}[node.attr]
        return ast.Attribute(node.value, other, ast.Load())


def changed(rng, changes):
    """(function, what was changed), or None where no change came about or it does not compile."""
    tree, said = ast.parse(SOURCE), []
    for _ in range(changes):
        change = Change(rng, rng.randrange(1, 140))
        tree = ast.fix_missing_locations(change.visit(copy.deepcopy(tree)))
        said.append(change.said)
    if not all(said):
        return None
    return compiled(tree), "; ".join(said)


def compiled(tree):
    scope = {"torch": torch, "LOG_2PI": math.log(2 * math.pi)}
    exec(compile(tree, "loss", "exec"), scope)
    return scope["loss"]


def results(loss, seed):
    """Values and gradients on one batch, or None where the program fails there."""
    rng = np.random.default_rng(seed)
    M, D, N = int(rng.integers(3, 7)), int(rng.integers(2, 5)), int(rng.integers(20, 90))
    inputs = [torch.tensor(rng.standard_normal((M, D)), requires_grad=True) for _ in range(3)]
    try:
        terms = loss(*inputs, N)
        values = [terms[name] for name in ("mi", "tc", "dwkl")]
        slopes = [torch.autograd.grad(v, inputs, retain_graph=True, allow_unused=True) for v in values]
        numbers = [v.detach().reshape(-1) for v in values]
        numbers += [
            torch.zeros_like(x).reshape(-1) if g is None else g.reshape(-1)
            for row in slopes
            for g, x in zip(row, inputs, strict=True)
        ]
        return torch.cat(numbers).numpy()
    except Exception:
        return None


def is_wrong(loss, right):
    """Whether it runs, and differs from the right loss in values or gradients."""
    pairs = [(results(loss, seed), results(right, seed)) for seed in range(4)]
    if any(got is None for got, _ in pairs):
        return False
    return any(got.shape != true.shape or not np.allclose(got, true, rtol=1e-7, atol=1e-9) for got, true in pairs)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-examples", type=int, default=50)
    arguments = parser.parse_args(argv)
    rng, right, known = random.Random(arguments.seed), compiled(ast.parse(SOURCE)), set()
    counts, seconds = Counter(), []
    while counts["programs"] < arguments.count:
        program = changed(rng, rng.choice([1, 1, 2]))
        if program is None or program[1] in known or not is_wrong(program[0], right):
            continue
        loss, said = program
        known.add(said)
        counts["programs"] += 1
        started = time.monotonic()
        report = check(
            loss,
            estimator="mss",
            framework="torch",
            dtypes=("float64",),
            checks=("values", "gradients"),
            max_examples=arguments.max_examples,
        )
        seconds.append(time.monotonic() - started)
        names = [found.id for found in report.diagnosis]
        counts["caught"] += report.exit_status == 1
        counts["named"] += bool(names) and names != ["unknown"]
        if report.exit_status != 1:
            print(f"MISSED  {said}", flush=True)
        elif names and names != ["unknown"]:
            print(f"{' + '.join(names):45} {said}", flush=True)
    print(dict(counts), f"median {np.median(seconds):.1f} s, slowest {max(seconds):.1f} s")
    return 0 if counts["caught"] == counts["programs"] else 1


if __name__ == "__main__":
    sys.exit(main())
