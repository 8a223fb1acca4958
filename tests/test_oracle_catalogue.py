"""The catalogue of mistakes tells the truth: its effects are those of planted mistakes, its code is run."""

import ast
import math
import re
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.special import logsumexp
from optional import torch
from wrong_losses import FRAMEWORKS, INPUTS, LOG_2PI, WRONG, Loss, build
from wrong_steps import STEPS

from tcvae_ref import cli
from tcvae_ref.checks import InputError
from tcvae_ref.oracle import catalogue
from tcvae_ref.oracle.catalogue import CATALOGUE, EFFECTS, NAMES, WIDTH, find, page, text
from tcvae_ref.oracle.primitives import INACCURATE

jax.config.update("jax_enable_x64", True)

STABLE = (
    "missing-constant only-log-m only-log-n wrong-dataset-size marginal-constant-once constant-offset missing-two-pi "
    "mss-weights-in-columns weight-before-sum weights-on-joint-only weights-and-constant "
    "transposed-pairs own-pairs-only conditional-as-aggregate missing-logsumexp logsumexp-sum-swapped "
    "prior-as-marginals dwkl-without-prior leave-one-out "
    "log-var-as-log-std log-std-as-log-var variance-epsilon density-clamp kernel-density mean-as-sample "
    "wrong-quadratic detached-posterior no-gradient exp-sum-log expanded-square term-clamp log-epsilon "
    "sum-not-mean divided-by-d sign-flipped constant-factor beta-for-beta-minus-one kl-counted-twice "
    "unit-noise shared-noise wrong-noise detached-sample beta-on-every-term reconstruction-scaled "
    "annealing-on-one-term "
    "other-weights primitive-inaccurate unknown "
)
WEIGHTS = {"alpha": 1.0, "beta": 6.0, "gamma": 1.0}
TERMS = ("mi", "tc", "dwkl")

# --- a loss's values and gradients -----------------------------------------------------------------------------------


def right(estimator, returns="terms"):
    """The right loss of tests/wrong_losses.py, returning what a wrong one returns."""
    if returns == "terms":
        return build("torch", estimator=estimator)
    model = Loss(FRAMEWORKS["torch"], estimator)

    def penalty(z, mu, log_var, dataset_size, alpha, beta, gamma):
        t = model.terms(z, mu, log_var, dataset_size)
        return model.penalty(t["mi"], t["tc"], t["dwkl"], alpha, beta, gamma)

    def kl_penalty(z, mu, log_var, dataset_size, beta):
        t = model.terms(z, mu, log_var, dataset_size)
        return {"kl_penalty": model.kl_penalty(model.kl(mu, log_var), t["mi"], t["tc"], t["dwkl"], beta)}

    return {"penalty": penalty, "kl_penalty": kl_penalty}[returns]


def arrays(shows="ordinary"):
    *found, N = INPUTS[shows]
    return [np.asarray(a, dtype=np.float64) for a in found], N


def evaluate(loss, returns="terms", inputs=None, **weights):
    """({term: value}, {term: [d/dz, d/dmu, d/dlog_var]})."""
    found, N = inputs or arrays()
    tensors = [torch.tensor(a, requires_grad=True) for a in found]
    taken = {"terms": (), "penalty": tuple(WEIGHTS), "kl_penalty": ("beta",)}[returns]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # .item() of a tensor that requires a gradient
        result = loss(*tensors, N, *({**WEIGHTS, **weights}[name] for name in taken))
    result = result if isinstance(result, dict) else {"penalty": result}
    values = {name: float(x.detach()) for name, x in result.items() if x.ndim == 0}
    gradients = {name: [a.numpy() for a in gradient(result[name], tensors)] for name in values}
    return values, gradients


def gradient(x, tensors):
    if not x.requires_grad:
        return [torch.zeros_like(a) for a in tensors]
    found = torch.autograd.grad(x, tensors, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(a) if g is None else g for g, a in zip(found, tensors, strict=True)]


def equal(a, b):
    """Whether two results of `evaluate`, values or gradients, are equal but for rounding."""
    return all(np.allclose(a[name], b[name], rtol=1e-9, atol=1e-9) for name in b)


def judged(name, estimator=None):
    """(values right, gradients right) of a planted mistake, on the input on which it shows."""
    wrong = WRONG[name]
    estimator = estimator or wrong.estimator
    inputs = arrays(wrong.shows)
    values, gradients = evaluate(build("torch", name, estimator=estimator), wrong.returns, inputs)
    true_values, true_gradients = evaluate(right(estimator, wrong.returns), wrong.returns, inputs)
    return equal(values, true_values), equal(gradients, true_gradients)


# --- the entries -----------------------------------------------------------------------------------------------------


def test_every_stable_id_has_an_entry_and_no_other():
    assert list(CATALOGUE) == STABLE.split()
    assert all(entry.id == id for id, entry in CATALOGUE.items())
    planted = {one.diagnosis for one in WRONG.values()} | {one.diagnosis for one in STEPS.values() if one.diagnosis}
    assert planted | {"primitive-inaccurate"} == set(CATALOGUE)


@pytest.mark.parametrize("entry", CATALOGUE.values(), ids=lambda e: e.id)
def test_an_entry_is_whole(entry):
    assert sum(entry.effect.startswith(words) for words in EFFECTS) == 1
    assert all(getattr(entry, name) for name in entry._fields if name != "seen")
    assert all(part.isascii() and part == part.strip() and "  " not in part for part in entry[1:7])
    assert entry.title[-1] != "."
    assert entry.explanation[-1] == entry.effect[-1] == "."
    for code in (entry.fix_torch, entry.fix_jax):
        assert 1 <= len(code.splitlines()) <= 4


def test_what_was_counted_is_said_where_it_was_counted():
    assert {id for id, entry in CATALOGUE.items() if entry.seen} == {"mss-weights-in-columns"}
    assert CATALOGUE["mss-weights-in-columns"].seen.startswith("34 of 39 public MSS weight matrices")


# --- effects ---------------------------------------------------------------------------------------------------------

PLANTED = [(name, CATALOGUE[one.diagnosis]) for name, one in WRONG.items() if one.diagnosis != "unknown"]


@pytest.mark.parametrize(("name", "entry"), PLANTED, ids=lambda x: x if isinstance(x, str) else "")
def test_values_and_gradients_are_as_the_effect_says(name, entry):
    words = next(words for words in EFFECTS if entry.effect.startswith(words))
    expected = {
        "Values only: the gradients are right": (False, True),
        "Gradients only: the values are right": (True, False),
        "Values and gradients are wrong": (False, False),
        "Right in exact arithmetic": (True, True),
    }
    if name == "truncated-two-pi" or words in expected:
        assert judged(name) == expected[words]
    else:
        pytest.fail(entry.effect)


@pytest.mark.parametrize(("name", "estimator", "gradients_right"), [
    ("wrong-dataset-size", "mws", True),
    ("wrong-dataset-size", "mss", False),
    ("weight-before-sum", "mss", False),
    ("weight-before-sum", "mws", True),
    ("weights-on-joint-only", "mss", False),
    ("weights-on-joint-only", "mws", True),
])  # fmt: skip
def test_what_depends_on_the_estimator(name, estimator, gradients_right):
    assert judged(name, estimator) == (False, gradients_right)
    assert "in mws" in CATALOGUE[name].effect.lower()


def differences(name):
    wrong = WRONG[name]
    values, _ = evaluate(wrong.torch)
    true, _ = evaluate(right(wrong.estimator))
    return [values[term] - true[term] for term in TERMS]


M, D, N = 5, 3, 40
LOG_NM = math.log(N * M)


@pytest.mark.parametrize(("name", "expected"), [
    ("missing-constant", (-LOG_NM, -(D - 1) * LOG_NM, D * LOG_NM)),
    ("only-log-m", (-math.log(N), -(D - 1) * math.log(N), D * math.log(N))),
    ("only-log-n", (-math.log(M), -(D - 1) * math.log(M), D * math.log(M))),
    ("wrong-dataset-size", tuple(k * math.log(737280 / N) for k in (1, D - 1, -D))),
    ("marginal-constant-once", (0, -(D - 1) * LOG_NM, (D - 1) * LOG_NM)),
    ("constant-offset", (0, -D * math.log(M), D * math.log(M))),
    ("missing-two-pi", (0, 0, 0.5 * D * LOG_2PI)),
    ("weights-and-constant", (LOG_NM, (D - 1) * LOG_NM, -D * LOG_NM)),
])  # fmt: skip
def test_constants_are_those_of_the_effect(name, expected):
    assert INPUTS["ordinary"][0].shape == (M, D)
    assert INPUTS["ordinary"][3] == N
    np.testing.assert_allclose(differences(name), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("name", "factors"), [
    ("sum-not-mean", (M, M, M)),
    ("divided-by-d", (1 / D, 1 / D, 1 / D)),
    ("sign-flipped", (1, -1, 1)),
    ("constant-factor", (1.4426950408889634,) * 3),
])  # fmt: skip
def test_factors_are_those_of_the_effect(name, factors):
    (values, gradients), (true, slopes) = evaluate(WRONG[name].torch), evaluate(right("mws"))
    for term, factor in zip(TERMS, factors, strict=True):
        assert values[term] == pytest.approx(factor * true[term])
        np.testing.assert_allclose(gradients[term], factor * np.array(slopes[term]), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("name", "weights"), [
    ("beta-for-beta-minus-one", {"beta": 7.0}),
    ("beta-for-beta-minus-one-closed-form", {"beta": 7.0}),
    ("kl-counted-twice", {"alpha": 2.0, "beta": 7.0, "gamma": 2.0}),
])  # fmt: skip
def test_the_weights_that_a_penalty_has_in_effect(name, weights):
    returns = WRONG[name].returns
    got, true = evaluate(WRONG[name].torch, returns), evaluate(right("mws", returns), returns, **weights)
    assert equal(got[0], true[0])
    assert equal(got[1], true[1])


def test_kl_plus_beta_tc_is_the_plain_vae_at_beta_zero():
    name = "beta-for-beta-minus-one-closed-form"
    plain = evaluate(right("mws", "kl_penalty"), "kl_penalty", beta=1.0)
    assert equal(evaluate(WRONG[name].torch, "kl_penalty", beta=0.0)[1], plain[1])


@pytest.mark.parametrize(("name", "moved"), [
    ("log-var-as-log-std", lambda z, mu, log_var: (z, mu, 2 * log_var)),
    ("log-std-as-log-var", lambda z, mu, log_var: (z, mu, log_var / 2)),
    ("mean-as-sample", lambda z, mu, log_var: (mu, mu, log_var)),
])  # fmt: skip
def test_values_of_other_arguments(name, moved):
    found, size = arrays()
    assert equal(evaluate(WRONG[name].torch)[0], evaluate(right("mws"), inputs=(moved(*found), size))[0])


def no_slope(gradients):
    return all(np.allclose(g, 0, atol=1e-12) for g in gradients)


def test_terms_that_vanish_or_merge():
    values, gradients = evaluate(WRONG["own-pairs-only"].torch)
    assert [values["mi"], values["tc"]] == pytest.approx([LOG_NM, (D - 1) * LOG_NM])
    assert no_slope(gradients["mi"])
    assert no_slope(gradients["tc"])

    assert evaluate(WRONG["conditional-as-joint"].torch)[0]["mi"] == pytest.approx(0)
    values, _ = evaluate(WRONG["conditional-as-marginals"].torch)
    assert values["tc"] == pytest.approx(-values["mi"])
    values, _ = evaluate(WRONG["conditional-as-aggregate"].torch)
    assert [values["mi"], values["tc"]] == pytest.approx([0, 0])

    assert no_slope(evaluate(WRONG["logsumexp-sum-swapped"].torch)[1]["tc"])
    values, true = evaluate(WRONG["prior-as-marginals"].torch)[0], evaluate(right("mws"))[0]
    assert [values["tc"], values["dwkl"]] == pytest.approx([true["tc"] + true["dwkl"], 0])


def test_terms_that_are_right():
    """MI of weights on the joint alone; all but z of DWKL without the prior; what leaves MI + TC as it is."""
    (values, gradients), (true, slopes) = evaluate(WRONG["weights-on-joint-only"].torch), evaluate(right("mss"))
    assert values["mi"] == pytest.approx(true["mi"])
    np.testing.assert_allclose(gradients["mi"], slopes["mi"], atol=1e-12)

    gradients, slopes = evaluate(WRONG["dwkl-without-prior"].torch)[1], evaluate(right("mws"))[1]
    assert [np.allclose(a, b) for a, b in zip(gradients["dwkl"], slopes["dwkl"], strict=True)] == [False, True, True]

    mi, tc, dwkl = differences("leave-one-out")
    assert mi > 0
    assert [tc, dwkl] == pytest.approx([-mi, 0])


def test_the_mean_of_logarithms_is_below():
    found, size = arrays()
    tensors = [torch.tensor(a) for a in found]
    below, true = WRONG["mean-of-logs"].torch(*tensors, size), right("mws")(*tensors, size)
    assert (below["log_qz"] < true["log_qz"]).all()


def test_left_out_posteriors_bound_nothing():
    (z, mu, log_var), size = arrays()
    apart = 50 * np.arange(len(mu))[:, None]
    inputs = ([z + apart, mu + apart, log_var], size)
    assert evaluate(WRONG["leave-one-out"].torch, inputs=inputs)[0]["mi"] > 100 * math.log(M)
    assert evaluate(right("minibatch"), inputs=inputs)[0]["mi"] <= math.log(M) + 1e-9


def test_what_columns_do():
    wrong, true = WRONG["mss-weights-in-columns"].torch, right("mss")
    model = type("Columns", (type(build.__globals__["MISTAKES"]["mss-weights-in-columns"].steps()), Loss), {})
    W = np.exp(model(FRAMEWORKS["torch"], "mss").log_weights(M, N))
    sums = W.sum(axis=1)
    assert np.sum(np.isclose(sums, 1)) == M - 1
    assert (np.diag(W)[1:] >= 1 / N).all()
    assert np.diag(W).max() == pytest.approx(1 / (M - 1))  # N/m times 1/N
    (z, mu, log_var), size = arrays()
    rolled = ([np.roll(a, 1, axis=0) for a in (z, mu, log_var)], size)
    assert equal(evaluate(true)[0], evaluate(true, inputs=rolled)[0])
    assert not equal(evaluate(wrong)[0], evaluate(wrong, inputs=rolled)[0])


def test_detached_is_zero():
    _, gradients = evaluate(WRONG["detached-posterior"].torch)
    assert all(no_slope(gradients[term][1:]) and not no_slope(gradients[term][:1]) for term in TERMS)
    _, gradients = evaluate(WRONG["detached-aggregate"].torch)
    assert no_slope(gradients["tc"][1:])
    assert all(no_slope(g) for name in ("no-gradient", "item") for g in evaluate(WRONG[name].torch)[1].values())


def test_clamps_are_flat():
    inputs = arrays("negative TC")
    assert evaluate(right("minibatch"), inputs=inputs)[0]["tc"] < 0
    values, gradients = evaluate(WRONG["term-clamp"].torch, inputs=inputs)
    assert values["tc"] == 0
    assert no_slope(gradients["tc"])
    twelve_sigma = ([np.full((M, D), 12.0), np.zeros((M, D)), np.zeros((M, D))], N)
    assert no_slope(evaluate(WRONG["density-clamp"].torch, inputs=twelve_sigma)[1]["mi"])
    assert not no_slope(evaluate(right("mws"), inputs=twelve_sigma)[1]["dwkl"])
    far_in_all = ([np.full((M, 64), 10.0), np.zeros((M, 64)), np.zeros((M, 64))], N)
    values, gradients = evaluate(WRONG["log-epsilon"].torch, inputs=far_in_all)
    assert values["mi"] + 64 * 0.5 * (100 + LOG_2PI) == pytest.approx(-math.log(1e-8))
    assert np.allclose(np.array(gradients["mi"][0]), -10 / M), "of log q(z|x) alone"


def test_a_kernel_density_has_no_posteriors():
    _, gradients = evaluate(WRONG["kernel-density"].torch)
    assert no_slope(gradients["tc"][1:])


def test_ranges_where_probabilities_are_summed():
    loss = build("torch", "exp-sum-log")

    def mi(log_p, dtype):
        z = torch.tensor([[math.sqrt(2 * (-log_p - 0.5 * LOG_2PI))]], dtype=dtype)
        return float(loss(z, torch.zeros_like(z), torch.zeros_like(z), 1)["mi"])

    assert [math.isfinite(mi(x, torch.float32)) for x in (-85, -105)] == [True, False]
    assert [math.isfinite(mi(x, torch.float64)) for x in (-700, -746)] == [True, False]
    *found, size = INPUTS["D = 64, float32"]
    assert not math.isfinite(loss(*map(torch.tensor, found), size)["mi"])


def test_digits_of_an_expanded_square():
    loss, true = build("torch", "expanded-square"), right("mws")
    (z, mu, log_var), size = arrays()
    shifted = [torch.tensor(a, dtype=torch.float32) for a in (z + 4096, mu + 4096, log_var)]
    log_qz = true(*(a.double() for a in shifted), size)["log_qz"]
    assert (loss(*shifted, size)["log_qz"] - log_qz).abs().max() > 1, "a nat"
    assert (true(*shifted, size)["log_qz"] - log_qz).abs().max() < 1e-4


def test_the_limit_of_primitives():
    assert f"more than {INACCURATE:g} units" in CATALOGUE["primitive-inaccurate"].explanation


# --- the code --------------------------------------------------------------------------------------------------------

ESTIMATOR_OF = {
    "mss-weights-in-columns": "mss",
    "weight-before-sum": "mss",
    "weights-on-joint-only": "mss",
    "weights-and-constant": "mss",
    "leave-one-out": "minibatch",
    "term-clamp": "minibatch",
}


def names_in(framework, estimator):
    """What the code takes as given, right."""
    xp = {"torch": torch, "jax": jnp}[framework]
    found, _ = arrays()
    as_tensor = torch.tensor if framework == "torch" else jnp.asarray
    z, mu, log_var = (as_tensor(a) for a in found)
    eps = (z - mu) / xp.exp(0.5 * log_var)
    log_w = as_tensor(Loss(FRAMEWORKS["torch"], estimator).log_weights(M, N))
    reduce = torch.logsumexp if framework == "torch" else logsumexp

    def log_normal(x, mu, log_var):
        return -0.5 * ((x - mu) ** 2 * xp.exp(-log_var) + log_var + LOG_2PI)

    L = log_normal(z[:, None, :], mu[None], log_var[None])
    log_qzx, log_pz = log_normal(z, mu, log_var).sum(1), (-0.5 * (z**2 + LOG_2PI)).sum(1)
    log_qz, log_qz_marginals = reduce(L.sum(2) + log_w, 1), reduce(L + log_w[:, :, None], 1)
    mi, tc = (log_qzx - log_qz).mean(), (log_qz - log_qz_marginals.sum(1)).mean()
    dwkl = (log_qz_marginals.sum(1) - log_pz).mean()
    kl = 0.5 * (mu**2 + xp.exp(log_var) - 1 - log_var).sum(1).mean()
    alpha, beta, gamma = 0.5, 6.0, 2.0
    return {
        **{"z": z, "mu": mu, "log_var": log_var, "eps": eps, "log_w": log_w, "L": L, "S": L.sum(2), "kl": kl},
        **{"M": M, "D": D, "N": N, "m": M - 1, "dataset_size": N, "log_normal": log_normal, "math": math},
        **{"log_qzx": log_qzx, "log_qz": log_qz, "log_qz_marginals": log_qz_marginals, "log_pz": log_pz},
        **{"mi": mi, "tc": tc, "dwkl": dwkl, "alpha": alpha, "beta": beta, "gamma": gamma},
        **({"torch": torch} if framework == "torch" else {"jax": jax, "jnp": jnp, "logsumexp": logsumexp}),
    }


def results_in(names):
    """What the code may compute besides, right."""
    given = names["mi"], names["tc"], names["dwkl"], names["alpha"], names["beta"], names["gamma"]
    mi, tc, dwkl, alpha, beta, gamma = (float(x) for x in given)
    z, mu, log_var = (np.asarray(names[name]) for name in ("z", "mu", "log_var"))
    return {
        "W": np.exp(np.asarray(names["log_w"])),
        "i": np.arange(M),
        "square": (z[:, None] - mu) ** 2 / np.exp(log_var),
        "penalty": alpha * mi + beta * tc + gamma * dwkl,
        "kl_penalty": float(names["kl"]) + (beta - 1) * tc,
    }


def assigned_before_read(code):
    """Names that a piece of code makes without having read them."""
    made, read = set(), set()
    for statement in ast.parse(code).body:
        names = [node for node in ast.walk(statement) if isinstance(node, ast.Name)]
        read |= {node.id for node in names if isinstance(node.ctx, ast.Load)} - made
        made |= {node.id for node in names if isinstance(node.ctx, ast.Store)} - read
    return made


@pytest.mark.parametrize("framework", ["torch", "jax"])
@pytest.mark.parametrize("entry", CATALOGUE.values(), ids=lambda e: e.id)
def test_code_that_rights_a_mistake_gives_the_right_numbers(entry, framework):
    code = getattr(entry, f"fix_{framework}")
    names = names_in(framework, ESTIMATOR_OF.get(entry.id, "mws"))
    expected = {**names, **results_in(names)}
    scope = {name: value for name, value in names.items() if name not in assigned_before_read(code)}
    exec(compile(code, entry.id, "exec"), scope)
    stored = {node.id for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)} & set(scope) & set(expected)
    changed = {name for name in stored if not callable(expected[name]) and name not in ("torch", "jax", "jnp", "math")}
    assert changed or "config" in code
    for name in changed:
        assert np.asarray(scope[name]).shape == np.asarray(expected[name]).shape, name
        np.testing.assert_allclose(np.asarray(scope[name]), np.asarray(expected[name]), rtol=1e-12, err_msg=name)


def test_the_names_in_the_code_are_explained():
    explained = {word for key in NAMES for word in re.findall(r"\w+", key.split("(")[0])} | {"dataset_size"}
    modules = {"torch", "jax", "jnp", "math"}
    for entry in CATALOGUE.values():
        for code in (entry.fix_torch, entry.fix_jax):
            read = {node.id for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)}
            assert read - assigned_before_read(code) <= explained | modules, entry.id
    assert explained - {"logsumexp", "jax"} <= set(names_in("torch", "mws"))


# --- for reading -----------------------------------------------------------------------------------------------------


def test_the_page_is_the_catalogue():
    """`python -c "from tcvae_ref.oracle.catalogue import page; print(page(), end='')"` writes it."""
    written = Path(catalogue.__file__).with_name("CATALOGUE.md").read_text()
    assert written == page()
    assert all(f"### {id}\n" in written and f"](#{id})" in written for id in CATALOGUE)


@pytest.mark.parametrize("entry", CATALOGUE.values(), ids=lambda e: e.id)
def test_an_entry_fits_the_terminal(entry):
    lines = text(entry).splitlines()
    assert lines[0] == f"{entry.id}: {entry.title}"
    assert max(map(len, lines)) <= WIDTH
    assert all(line == line.rstrip() for line in lines)


def test_the_command(capsys):
    assert cli.main(["explain", "weight-before-sum"]) == 0
    assert capsys.readouterr().out == text(CATALOGUE["weight-before-sum"]) + "\n"
    assert cli.main(["explain"]) == 0
    listed = capsys.readouterr().out
    assert all(
        re.search(rf"^  {id} +{re.escape(entry.title)}$", listed, re.MULTILINE) for id, entry in CATALOGUE.items()
    )
    assert cli.main(["explain", "--all"]) == 0
    everything = capsys.readouterr().out
    assert all(text(entry) in everything for entry in CATALOGUE.values())
    assert max(map(len, (listed + everything).splitlines())) <= WIDTH
    assert cli.main(["explain", "unknown", "--all"]) == 2
    assert cli.main(["explain", "mss-weight-in-colums"]) == 2
    assert "did you mean mss-weights-in-columns?" in capsys.readouterr().err


def test_an_unknown_id_gets_the_nearest():
    with pytest.raises(InputError, match="did you mean mss-weights-in-columns"):
        find("columns")
    with pytest.raises(InputError, match="'qqq' is not in the catalogue; tcvae-ref explain lists all"):
        find("qqq")
