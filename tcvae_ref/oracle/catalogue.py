"""The catalogue of mistakes: what each one is, what it does to training, and the lines that right it.

`CATALOGUE` holds an `Entry` for each diagnosis, `page()` is `CATALOGUE.md` beside this file, `text(entry)` what
`tcvae-ref explain` prints. tests/test_oracle_catalogue.py holds effects to planted mistakes, and runs every fix.
"""

import difflib
import textwrap
from typing import NamedTuple

from tcvae_ref import extensions
from tcvae_ref.checks import InputError

WIDTH = 100


class Entry(NamedTuple):
    """What is said of a mistake: its formula, its effect, and how it is mended."""

    id: str
    """Stable: in reports, on the command line and in tests."""
    title: str
    explanation: str
    wrong: str
    """The formula as it was written."""
    right: str
    """The formula as it should be."""
    effect: str
    """On values, gradients and training. It begins with one of `EFFECTS`."""
    seen: str
    """How often in public code, where it was counted."""
    fix_torch: str
    """Lines of code in the names of `NAMES`."""
    fix_jax: str


EFFECTS = (
    "Values only: the gradients are right",
    "Gradients only: the values are right",
    "Values and gradients are wrong",
    "Right in exact arithmetic",
    "Whatever",
)
"""How an effect begins."""

NAMES = {
    "z, mu, log_var, eps": "(M, D): samples z = mu + exp(log_var / 2) eps, and their posteriors",
    "M, D, N, m": "batch size, latent dimensions, size of the data set, M - 1; dataset_size is N",
    "log_normal(x, mu, log_var)": "log-density, elementwise",
    "L, S": "log q(z_id|x_j), axes [i, j, d], and its sum over d, (M, M)",
    "log_w": "(M, M): logarithms of the estimator's weights, row i for sample i",
    "log_qzx, log_qz, log_pz": "(M,): log q(z|x), log q(z), log p(z)",
    "log_qz_marginals": "(M, D): log q(z_d)",
    "mi, tc, dwkl, kl": "the terms, batch means; kl is the closed-form KL(q(z|x) || p(z))",
    "alpha, beta, gamma": "weights of the terms",
    "logsumexp": "in JAX: jax.scipy.special.logsumexp",
}
"""What the lines of code that right a mistake take as given."""

# --- lines of code -----------------------------------------------------------------------------------------

_JOINT = "log_qz = torch.logsumexp(L.sum(2) + log_w, 1)"
_MARGINALS = "log_qz_marginals = torch.logsumexp(L + log_w[:, :, None], 1)"
_AGGREGATE = f"{_JOINT}\n{_MARGINALS}"
_MWS = """\
log_qz = torch.logsumexp(S, 1) - math.log(N * M)
log_qz_marginals = torch.logsumexp(L, 1) - math.log(N * M)"""
_DENSITY = """\
square = (z[:, None] - mu) ** 2 * torch.exp(-log_var)
L = -0.5 * (square + log_var + math.log(2 * math.pi))"""
_PAIRS = "L = log_normal(z[:, None, :], mu[None, :, :], log_var[None, :, :])"
_MI = "mi = (log_qzx - log_qz).mean()"
_TC = "tc = (log_qz - log_qz_marginals.sum(1)).mean()"
_DWKL = "dwkl = (log_qz_marginals.sum(1) - log_pz).mean()"
_TERMS = f"{_MI}\n{_TC}\n{_DWKL}"
_PENALTY = "penalty = alpha * mi + beta * tc + gamma * dwkl"
_WEIGHTS = """\
i = torch.arange(M)
W = torch.full((M, M), 1 / m, dtype=z.dtype)
W[i, (i + 1) % M] = (N - m) / (N * m)
W[i, i] = 1 / N  # log_w = W.log()"""
_WEIGHTS_JAX = """\
i = jnp.arange(M)
W = jnp.full((M, M), 1 / m)
W = W.at[i, (i + 1) % M].set((N - m) / (N * m))
W = W.at[i, i].set(1 / N)  # log_w = jnp.log(W)"""


def _entry(
    id: str, title: str, explanation: str, wrong: str, right: str, effect: str, fix: str, jax: str = "", seen: str = ""
) -> Entry:
    """An entry whose JAX lines, where they are not given, are those of PyTorch in other names."""
    in_jax = jax or fix.replace("torch.logsumexp", "logsumexp").replace("torch.", "jnp.")
    return Entry(id, title, explanation, wrong, right, effect, seen, fix, in_jax)


# --- the entries, by kind ----------------------------------------------------------------------------------

_CONSTANTS = (
    _entry(
        "missing-constant",
        "log(N M) is not subtracted",
        "Minibatch-weighted sampling gives each of the M posteriors the weight 1/(N M), so log(N M) comes off the "
        "log-sum-exp of the joint and of every marginal. Here it comes off neither.",
        "log q(z_i) = log sum_j q(z_i|x_j)",
        "log q(z_i) = log sum_j q(z_i|x_j) - log(N M), and so for each q(z_id)",
        "Values only: the gradients are right, training is unaffected. MI is too low by log(N M), TC by "
        "(D - 1) log(N M), DWKL too high by D log(N M): none can be reported or compared.",
        _MWS,
    ),
    _entry(
        "only-log-m",
        "log M is subtracted, log N is not",
        "The weights are 1/M: the batch is taken as the whole data set. That is the minibatch estimator, right under "
        "that name (MI cannot exceed log M), and not minibatch-weighted sampling, whose weights are 1/(N M). "
        "A data set size of 1 in the code reads the same.",
        "log q(z_i) = log sum_j q(z_i|x_j) - log M",
        "log q(z_i) = log sum_j q(z_i|x_j) - log(N M), and so for each q(z_id)",
        "Values only: the gradients are right, training is unaffected. MI is too low by log N, TC by (D - 1) log N, "
        "DWKL too high by D log N.",
        _MWS,
    ),
    _entry(
        "only-log-n",
        "log N is subtracted, log M is not",
        "The weights are 1/N for each of the M posteriors of the batch, where 1/(N M) is due. "
        "N/M in place of N reads the same.",
        "log q(z_i) = log sum_j q(z_i|x_j) - log N",
        "log q(z_i) = log sum_j q(z_i|x_j) - log(N M), and so for each q(z_id)",
        "Values only: the gradients are right, training is unaffected. MI is too low by log M, TC by (D - 1) log M, "
        "DWKL too high by D log M.",
        _MWS,
    ),
    _entry(
        "wrong-dataset-size",
        "another N than the one that was given",
        "The weights hold a data set size that is not the argument: a number left from another experiment, the number "
        "of batches, the size of the test set.",
        "weights of N' inputs, N' a number in the code",
        "weights of N inputs, N the argument dataset_size",
        "Values only: the gradients are right, in MWS, where N is a constant: MI is too high by log(N'/N), TC by "
        "(D - 1) log(N'/N). In MSS the weights of a row change by different factors, and gradients are wrong too.",
        "N = dataset_size  # the argument, no number in the code",
    ),
    _entry(
        "marginal-constant-once",
        "log(N M) comes off the sum of the marginals once, not off each",
        "Each of the D marginals is a sum over posteriors of its own with weights 1/(N M), so log(N M) comes off "
        "D times in sum_d log q(z_d).",
        "sum_d log q(z_id) = sum_d log sum_j q(z_id|x_j) - log(N M)",
        "sum_d log q(z_id) = sum_d [ log sum_j q(z_id|x_j) - log(N M) ]",
        "Values only: the gradients are right, training is unaffected. TC is too low and DWKL too high by "
        "(D - 1) log(N M); MI is right.",
        f"log_qz_marginals = torch.logsumexp(L, 1) - math.log(N * M)\n{_TC}",
    ),
    _entry(
        "constant-offset",
        "a constant is off",
        "The joint, the marginals or the densities differ from the right ones by a constant which is none of the usual "
        "ones: different constants in joint and marginals, say, or a rounded 2 pi.",
        "log q(z_i) + a, log q(z_id) + b",
        "a = b = 0",
        "Values only: the gradients are right, training is unaffected. MI is off by -a, TC by a - D b, DWKL by D b.",
        _MWS,
    ),
    _entry(
        "missing-two-pi",
        "log 2 pi is missing from q, and is there in p",
        "The normal log-density holds -1/2 log 2 pi in each dimension. It cancels in MI and TC, where q stands on both "
        "sides, but not in DWKL, where q meets the prior.",
        "log q(z_id|x_j) = -1/2 [ (z_id - mu_jd)^2 / sigma_jd^2 + log sigma_jd^2 ]",
        "log q(z_id|x_j) = -1/2 [ (z_id - mu_jd)^2 / sigma_jd^2 + log sigma_jd^2 + log 2 pi ]",
        "Values only: the gradients are right, training is unaffected. DWKL is too high by D/2 log 2 pi.",
        _DENSITY,
    ),
)

_MSS = (
    _entry(
        "mss-weights-in-columns",
        "the weights of MSS run down columns",
        "In stratified sampling row i holds the weights for sample i: 1/N at its own posterior, on the diagonal, "
        "(N - m)/(N m) on one other, 1/m on the rest. A matrix of M columns that is filled with stride M along its "
        "flat view gets these numbers down columns 0 and 1: sample 0 alone has its weights, and posterior 0 counts 1/N "
        "for nearly all samples. A stride of M + 1 runs along the diagonal.",
        "w_i0 = 1/N, w_i1 = (N - m)/(N m) for (nearly) all i, else 1/m",
        "w_ii = 1/N, w_ij = (N - m)/(N m) at j = i + 1 (cyclic), else 1/m; m = M - 1",
        "Values and gradients are wrong: q(z) is overestimated, for a sample's own posterior counts up to N/m times "
        "too much, and rolling the batch changes the result. The sums of rows do not show it: all but one are 1.",
        _WEIGHTS,
        _WEIGHTS_JAX,
        "34 of 39 public MSS weight matrices, the code released with the paper among them",
    ),
    _entry(
        "weight-before-sum",
        "the weight enters the joint once for each dimension",
        "log w_ij belongs to a pair of sample and posterior, and is added once, after the sum over d. Added to the "
        "log-densities of single dimensions, which is right for the marginals, it is summed over d in the joint: "
        "w_ij^D.",
        "log q(z_i) = log sum_j exp sum_d ( log q(z_id|x_j) + log w_ij )",
        "log q(z_i) = log sum_j exp ( sum_d log q(z_id|x_j) + log w_ij )",
        "Values and gradients are wrong in MSS: the sample's own posterior has N^-D in place of 1/N. In MWS, "
        "whose weights are all alike, it is a constant, and gradients stay right.",
        _JOINT,
    ),
    _entry(
        "weights-on-joint-only",
        "the marginals have no weights",
        "The joint is a weighted sum over posteriors, the marginals are plain ones. They are no longer the marginals "
        "of that joint, and their sums are not normalised.",
        "log q(z_id) = log sum_j q(z_id|x_j)",
        "log q(z_id) = log sum_j w_ij q(z_id|x_j)",
        "Values and gradients are wrong in MSS: those of TC and DWKL; MI is right. In MWS it is a constant.",
        _MARGINALS,
    ),
    _entry(
        "weights-and-constant",
        "1/(N M) besides the weights of MSS",
        "The rows of the MSS weights sum to one: nothing is left to be divided by. Subtracting log(N M) as well mixes "
        "both estimators.",
        "log q(z_i) = log sum_j w_ij q(z_i|x_j) - log(N M)",
        "log q(z_i) = log sum_j w_ij q(z_i|x_j)",
        "Values only: the gradients are right, training is unaffected. MI is too high by log(N M), TC by "
        "(D - 1) log(N M), DWKL too low by D log(N M).",
        _AGGREGATE,
    ),
)

_AXES = (
    _entry(
        "transposed-pairs",
        "the sum runs over samples, not over posteriors",
        "With axes [j, i, d] the log-sum-exp along axis 1 adds up the densities of all samples under one posterior. "
        "That is no density of any sample, and its entries belong to posteriors.",
        "log q(z_i) = log sum_j w_ij q(z_j|x_i)",
        "log q(z_i) = log sum_j w_ij q(z_i|x_j)",
        "Values and gradients are wrong, little at first sight: own pairs, on the diagonal, stay.",
        f"{_PAIRS}\n{_JOINT}  # axis 1 is j",
    ),
    _entry(
        "own-pairs-only",
        "each sample meets its own posterior only",
        "Without the extra axis z and mu are paired row by row, and q(z) is the conditional q(z|x) times a constant.",
        "log q(z_i) = log q(z_i|x_i) - log(N M)",
        "log q(z_i) = log sum_j q(z_i|x_j) - log(N M), and so for each q(z_id)",
        "Values and gradients are wrong: MI and TC are the constants log(N M) and (D - 1) log(N M) with gradient zero, "
        "so nothing is penalised but DWKL.",
        f"L = log_normal(z[:, None], mu, log_var)  # [i, j, d]\n{_AGGREGATE}",
    ),
    _entry(
        "conditional-as-aggregate",
        "log q(z|x) stands for log q(z) or its marginals",
        "The joint, the marginals or both are those of each sample's own posterior, not of the aggregate over the "
        "batch.",
        "log q(z_i) = log q(z_i|x_i), or log q(z_id) = log q(z_id|x_i)",
        "log q(z_i) = log sum_j w_ij q(z_i|x_j), and so for each q(z_id)",
        "Values and gradients are wrong: MI = 0 where the joint is replaced, TC = -MI where the marginals are, "
        "MI = TC = 0 where both are.",
        f"{_AGGREGATE}\n{_MI}\n{_TC}",
    ),
    _entry(
        "missing-logsumexp",
        "log-densities are summed or averaged over posteriors",
        "The density of a mixture is the sum of densities; the sum of their logarithms is that of a product. The mean "
        "of logarithms is never above the logarithm of the mean.",
        "log q(z_i) = sum_j log q(z_i|x_j) + ...",
        "log q(z_i) = log sum_j exp log q(z_i|x_j) + ...",
        "Values and gradients are wrong: the farthest posteriors dominate, where the nearest should.",
        _AGGREGATE,
    ),
    _entry(
        "logsumexp-sum-swapped",
        "the joint sums over posteriors before it sums over dimensions",
        "The log-sum-exp over posteriors is taken in each dimension and the results are summed: the product of the "
        "marginals, under the name of the joint.",
        "log q(z_i) = sum_d log sum_j q(z_id|x_j) - log(N M)",
        "log q(z_i) = log sum_j exp sum_d log q(z_id|x_j) - log(N M)",
        "Values and gradients are wrong: TC is a constant with gradient zero, which leaves nothing for beta to "
        "penalise.",
        f"{_JOINT}  # first over d, then over j",
    ),
    _entry(
        "prior-as-marginals",
        "log p(z_d) stands for log q(z_d)",
        "The total correlation compares q(z) with the product of its own marginals; compared with the prior it is the "
        "whole KL of the aggregate.",
        "TC = E[ log q(z) - log p(z) ]",
        "TC = E[ log q(z) - sum_d log q(z_d) ]",
        "Values and gradients are wrong: TC is TC + DWKL, so beta pulls each marginal to the prior too; "
        "DWKL, where it is computed so, is 0.",
        f"{_MARGINALS}\n{_TC}",
    ),
    _entry(
        "dwkl-without-prior",
        "DWKL without log p(z)",
        "The dimension-wise KL is a difference of two log-densities. Without the prior it is the mean log-density of "
        "the marginals, and MI + TC + DWKL is no KL.",
        "DWKL = E[ sum_d log q(z_d) ]",
        "DWKL = E[ sum_d log q(z_d) - log p(z) ]",
        "Values and gradients are wrong: those of DWKL in z. Nothing draws the codes to the prior.",
        f"log_pz = (-0.5 * (z**2 + math.log(2 * math.pi))).sum(1)\n{_DWKL}",
    ),
    _entry(
        "leave-one-out",
        "the sample's own posterior is left out",
        "The posterior that z was drawn from is one of the N of the aggregate. Left out, as in a leave-one-out "
        "estimate, log q(z) falls without bound as posteriors move apart.",
        "log q(z_i) = log sum_{j != i} w_ij q(z_i|x_j)",
        "log q(z_i) = log sum_j w_ij q(z_i|x_j), j = i included",
        "Values and gradients are wrong: where the joint alone leaves it out, MI is too high and TC too low by as "
        "much. The MI of the minibatch estimator is no longer bounded by log M.",
        f"{_JOINT}  # j = i stays in",
    ),
)

_DENSITIES = (
    _entry(
        "log-var-as-log-std",
        "log_var is taken for log sigma",
        "The encoder's log-variance is used as if it were the logarithm of the standard deviation: sigma = "
        "exp(log_var), where sigma = exp(log_var / 2).",
        "sigma = exp(log_var)",
        "sigma = exp(log_var / 2), sigma^2 = exp(log_var)",
        "Values and gradients are wrong: the values are those of the right loss at 2 log_var, while z was drawn with "
        "sigma = exp(log_var / 2).",
        _DENSITY,
    ),
    _entry(
        "log-std-as-log-var",
        "log sigma is taken for log_var",
        "The logarithm of the standard deviation is used where the log-variance is due: sigma^2 = exp(log_var / 2).",
        "sigma^2 = exp(log_var / 2)",
        "sigma^2 = exp(log_var)",
        "Values and gradients are wrong: the values are those of the right loss at log_var / 2, while z was drawn with "
        "sigma = exp(log_var / 2).",
        _DENSITY,
    ),
    _entry(
        "variance-epsilon",
        "something is added to the variance",
        "A small number is added to sigma^2 against division by zero. exp(-log_var) divides by nothing. If variances "
        "must not vanish, bound log_var where the encoder makes it, for sampling and density alike.",
        "sigma^2 = exp(log_var) + epsilon",
        "sigma^2 = exp(log_var)",
        "Values and gradients are wrong where a variance is not far above epsilon; elsewhere it does not show.",
        _DENSITY,
    ),
    _entry(
        "density-clamp",
        "log-densities are clamped",
        "Log-densities of samples far from a posterior are large negative numbers, and right: the log-sum-exp takes "
        "the largest out, none overflows.",
        "max(log q(z_id|x_j), -c)",
        "log q(z_id|x_j)",
        "Values and gradients are wrong where a log-density is beyond the clamp, where its gradient is zero: "
        "outliers are not drawn back.",
        f"{_PAIRS}  # no clamp\n{_AGGREGATE}",
    ),
    _entry(
        "kernel-density",
        "a kernel density of the samples stands for the posteriors",
        "The aggregate posterior is the mixture of the posteriors q(z|x_j), of means mu_j and widths sigma_j. A kernel "
        "density puts one bandwidth round each sample z_j.",
        "q(z_i) = 1/M sum_j N(z_i; z_j, h^2)",
        "q(z_i) = sum_j w_ij N(z_i; mu_j, sigma_j^2)",
        "Values and gradients are wrong: mu and log_var get no gradient from the aggregate but through z.",
        f"{_PAIRS}\n{_AGGREGATE}",
    ),
    _entry(
        "mean-as-sample",
        "the mean stands for the sample",
        "The expectations are over z ~ q(z|x). At z = mu every log-density is at its largest, and nothing depends on "
        "the noise.",
        "log q(mu_i), log q(mu_i|x_i), log p(mu_i)",
        "log q(z_i), log q(z_i|x_i), log p(z_i), z_i = mu_i + sigma_i eps_i",
        "Values and gradients are wrong: the values are those of the right loss at z = mu.",
        "z = mu + torch.exp(0.5 * log_var) * eps",
    ),
    _entry(
        "wrong-quadratic",
        "the square in the density is scaled wrongly",
        "The exponent of a normal density is -1/2 (z - mu)^2 / sigma^2. The difference is divided by the variance "
        "before it is squared, or the half is missing, or the like.",
        "((z - mu) / sigma^2)^2, or (z - mu)^2 / sigma^2 without the half",
        "1/2 (z - mu)^2 / sigma^2 = 1/2 ((z - mu) / sigma)^2",
        "Values and gradients are wrong: widths are fitted to another scale than samples have.",
        _DENSITY,
    ),
)

_GRADIENTS = (
    _entry(
        "detached-posterior",
        "mu and log_var are detached",
        "The parameters of the posteriors are cut from the graph, in the aggregate or in all log-densities. What is "
        "left is the gradient through z.",
        "d/dmu_j log q(z_i) = d/dlog_var_j log q(z_i) = 0",
        "d/dmu_j log q(z_i) = P_ij (z_i - mu_j) / sigma_j^2, P the softmax over j; the like for log_var_j",
        "Gradients only: the values are right. Training moves samples towards densities that are held fixed, which is "
        "another objective; nothing shows in the curves.",
        f"{_PAIRS}  # with their gradients\n{_AGGREGATE}",
    ),
    _entry(
        "no-gradient",
        "nothing is differentiated",
        "The result is cut from the graph: .item(), .detach(), torch.no_grad(), a NumPy round trip, stop_gradient.",
        "d TC = 0",
        "d TC = the derivative of the formula",
        "Gradients only: the values are right. Whatever the weight of the term, training ignores it.",
        f"{_TC}  # no .item(), no .detach()",
        f"{_TC}  # no stop_gradient, no float()",
    ),
)

_NUMERICS = (
    _entry(
        "exp-sum-log",
        "sums of probabilities, without taking the largest term out",
        "Densities of many dimensions leave the range of floating point: exp(S) is 0 for every posterior, its "
        "logarithm -inf. The log-sum-exp subtracts the largest term first, and adds it again.",
        "log( sum_j exp(S_ij) )",
        "s + log( sum_j exp(S_ij - s) ), s = max_j S_ij",
        "Right in exact arithmetic; in float32 -inf and nan where all log-densities are below about -103, at D = 64 as "
        "a rule, in float64 below -745.",
        _AGGREGATE,
    ),
    _entry(
        "expanded-square",
        "the square is expanded",
        "z^2 - 2 z mu + mu^2 subtracts large numbers that are nearly equal where z is near mu and both are far from 0. "
        "It is tempting because matrix products compute it.",
        "z^2 - 2 z mu + mu^2",
        "(z - mu)^2",
        "Right in exact arithmetic; digits are lost as (|z| + |mu|)^2 exceeds (z - mu)^2: in float32 log q(z) is off "
        "by a nat where codes are some thousand standard deviations from 0.",
        _DENSITY,
    ),
    _entry(
        "term-clamp",
        "a term is clamped at 0",
        "MI, TC and KL are not negative, but an estimate from a batch may be: its noise goes both ways. Clamped, the "
        "noise is rectified, and the mean is too high.",
        "max(TC, 0), for the batch or for each sample",
        "TC as it is estimated",
        "Values and gradients are wrong where the estimate is negative, where the gradient is zero.",
        f"{_TC}  # it may be negative",
    ),
    _entry(
        "log-epsilon",
        "something is added inside the logarithm",
        "log(x + epsilon) hides the underflow that a log-sum-exp does not have. Densities in many dimensions are far "
        "below any epsilon.",
        "log( sum_j exp(S_ij) + epsilon )",
        "log( sum_j exp(S_ij) ), by a log-sum-exp",
        "Values and gradients are wrong where the density is not far above epsilon; below it log q(z) is log epsilon "
        "with gradient zero.",
        _AGGREGATE,
    ),
)

_LOSSES = (
    _entry(
        "sum-not-mean",
        "summed over the batch",
        "The terms are means over the batch, as the reconstruction is.",
        "TC = sum_i ( ... )",
        "TC = 1/M sum_i ( ... )",
        "Values and gradients are wrong by the factor M: next to a reconstruction that is a mean, the weights alpha, "
        "beta and gamma are M times too large.",
        _TERMS,
    ),
    _entry(
        "divided-by-d",
        "averaged over dimensions too",
        "Log-densities of independent dimensions add up. A mean over samples and dimensions divides by D.",
        "TC = 1/(M D) sum_i ( ... )",
        "TC = 1/M sum_i ( ... )",
        "Values and gradients are wrong by the factor 1/D: the weights alpha, beta and gamma are D times too small.",
        _TERMS,
    ),
    _entry(
        "sign-flipped",
        "the sign is wrong",
        "The total correlation is E[log q(z)] less the marginals. An objective that is maximised subtracts it, a loss "
        "that is minimised adds it.",
        "TC = E[ sum_d log q(z_d) - log q(z) ]",
        "TC = E[ log q(z) - sum_d log q(z_d) ]",
        "Values and gradients are wrong by the factor -1: training rewards what it should penalise.",
        f"{_TC}\n{_PENALTY}  # added to a loss",
    ),
    _entry(
        "constant-factor",
        "multiplied by a constant",
        "Everything is the right number times a constant: bits for nats (1.4427), a half in front of all, "
        "a number of another experiment.",
        "c TC",
        "TC, in nats",
        "Values and gradients are wrong by that factor: the same as other weights alpha, beta and gamma.",
        _TERMS,
    ),
    _entry(
        "beta-for-beta-minus-one",
        "KL + beta TC",
        "The KL holds the total correlation once: KL = MI + TC + DWKL. For the weight beta, beta - 1 is to be added "
        "to it.",
        "KL + beta TC",
        "KL + (beta - 1) TC = MI + beta TC + DWKL",
        "Values and gradients are wrong: they are those of the right loss with beta + 1. beta = 0 is the plain VAE, "
        "where beta = 1 should be.",
        f"kl_penalty = kl + (beta - 1) * tc\n{_PENALTY}  # or this: both hold TC beta times",
    ),
    _entry(
        "kl-counted-twice",
        "the KL on top of its decomposition",
        "MI + TC + DWKL is the KL. Added besides, every term counts once more.",
        "KL + (alpha MI + beta TC + gamma DWKL)",
        "alpha MI + beta TC + gamma DWKL",
        "Values and gradients are wrong: they are those of the weights alpha + 1, beta + 1, gamma + 1, "
        "where the KL is the sampled one.",
        f"{_PENALTY}  # and no KL besides",
    ),
)

_STEP = (
    _entry(
        "unit-noise",
        "noise that is not scaled by sigma",
        "A sample of the posterior is mu + sigma eps. Without sigma every posterior is sampled as if its width were 1: "
        "the decoder sees the same blur everywhere, and the width is learned from the penalty alone.",
        "z = mu + eps",
        "z = mu + exp(log_var / 2) eps",
        "Values and gradients are wrong: z is no sample of q(z|x), and the reconstruction does not reach the width.",
        "z = mu + torch.exp(0.5 * log_var) * eps",
    ),
    _entry(
        "shared-noise",
        "one number of noise for several entries",
        "Every entry of z has noise of its own: for each sample, dimension and step. Drawn once and broadcast, or from "
        "a generator that is seeded anew, it ties samples or dimensions together, and their correlation is learned.",
        "z_id = mu_id + sigma_id eps_d, or eps_i, or the same eps in each step",
        "z_id = mu_id + sigma_id eps_id",
        "Values and gradients are wrong: means over the batch are means over fewer draws, and total correlation "
        "is measured between dimensions that share their noise.",
        "z = mu + torch.exp(0.5 * log_var) * eps  # eps of the shape of mu, drawn in each step",
    ),
    _entry(
        "wrong-noise",
        "noise that is not standard normal",
        "eps has mean 0, variance 1 and a normal distribution, or z is no sample of the posterior whose densities are "
        "taken. torch.rand for torch.randn is uniform, with mean 1/2 and standard deviation 0.29.",
        "eps of another distribution",
        "eps standard normal",
        "Values and gradients are wrong: log q(z|x) is taken at samples of another distribution.",
        "z = mu + torch.exp(0.5 * log_var) * eps  # torch.randn_like(mu)",
        "z = mu + jnp.exp(0.5 * log_var) * eps  # jax.random.normal(key, mu.shape)",
    ),
    _entry(
        "detached-sample",
        "no gradient through the sample",
        "z = mu + sigma eps carries the gradient of the loss to mu and sigma. Drawn without gradients, such as "
        "by Normal.sample in place of rsample, the reconstruction does not reach the encoder.",
        "d z/d mu = d z/d log sigma^2 = 0",
        "d z/d mu = 1, d z/d log sigma^2 = (z - mu) / 2",
        "Gradients only: the values are right, and the encoder learns from the penalty alone.",
        "z = mu + torch.exp(0.5 * log_var) * eps  # Normal(mu, sigma).rsample()",
        "z = mu + jnp.exp(0.5 * log_var) * eps  # no stop_gradient around it",
    ),
    _entry(
        "beta-on-every-term",
        "beta on the whole KL",
        "The weight beta belongs to the total correlation alone. On the whole KL it is beta-VAE, which also weighs the "
        "mutual information that reconstruction lives on.",
        "beta MI + beta TC + beta DWKL",
        "alpha MI + beta TC + gamma DWKL",
        "Values and gradients are wrong: they are those of beta-VAE with the sampled KL.",
        _PENALTY,
    ),
    _entry(
        "reconstruction-scaled",
        "reconstruction and penalty on different scales",
        "log p(x|z) is a sum over pixels, and its batch mean stands next to the penalty's. A mean over P pixels is P "
        "times less: the penalty is then P times too heavy. A sum over the batch on one side does the same with M.",
        "loss = -c E[log p(x|z)] + alpha MI + beta TC + gamma DWKL",
        "loss = -E[log p(x|z)] + alpha MI + beta TC + gamma DWKL",
        "Values and gradients are wrong: as with all the weights divided by c. A beta that was tuned so is "
        "no beta of the paper.",
        f"# next to binary_cross_entropy(..., reduction='sum') / M\n{_PENALTY}",
        f"# next to the sum over pixels, averaged over samples\n{_PENALTY}",
    ),
    _entry(
        "annealing-on-one-term",
        "a warm-up that leaves out terms",
        "While a penalty is turned on, its terms grow together: any mixture in between is an objective of the family. "
        "A factor on one term alone leaves the others at full weight from the first step. The weight of TC "
        "alone growing from 0 or 1 is beta annealing, and no mistake unless more was meant.",
        "alpha MI + beta TC + c(t) gamma DWKL",
        "c(t) ( alpha MI + beta TC + gamma DWKL ), or beta(t) for TC alone",
        "Values and gradients are wrong during the warm-up: TC is weighted against a prior that is not there yet.",
        f"{_PENALTY}  # times c(t) as a whole",
    ),
)

_OTHERS = (
    _entry(
        "other-weights",
        "other weights in effect than were said",
        "The loss, or the weights over training, have alpha, beta and gamma inside that are not those which were said "
        "to be meant. Either the code or what was said is out of date: said as they are in effect, they pass.",
        "alpha', beta', gamma' in effect",
        "alpha, beta, gamma in effect, as they were said",
        "Whatever was meant: the loss is right for the weights that it has in effect.",
        f"{_PENALTY}  # or say what it has: --beta 4",
    ),
    _entry(
        "primitive-inaccurate",
        "the framework's exp or log is off",
        "The framework computes exp or log in this dtype with an error of more than 16 units of roundoff, or overflows "
        "where the result is a number. The loss may be right.",
        "exp(x) (1 + delta), |delta| > 16 u",
        "exp(x) (1 + delta), |delta| of a few u",
        "Whatever is computed in this dtype is spoilt before any loss; `tcvae-ref probe` says by how much.",
        "z, mu, log_var = z.double(), mu.double(), log_var.double()  # or another device",
        'jax.config.update("jax_enable_x64", True)  # before anything else, or another device',
    ),
    _entry(
        "unknown",
        "a mistake that is not in this catalogue",
        "The numbers are not those of the formula, nor of any mistake listed here. The report names the first stage "
        "that is wrong: look there. Returning log_qz (M,) and log_qz_marginals (M, D) besides the terms narrows it "
        "down.",
        "not recognised",
        "log q(z_i) = log sum_j w_ij q(z_i|x_j), log q(z_id) = log sum_j w_ij q(z_id|x_j)",
        "Whatever the report shows: values, gradients or both.",
        f"{_PAIRS}\n{_AGGREGATE}",
    ),
)

KINDS: dict[str, tuple[Entry, ...]] = {
    "Constants": _CONSTANTS,
    "Weights of MSS": _MSS,
    "Axes and aggregate": _AXES,
    "Densities": _DENSITIES,
    "Gradients": _GRADIENTS,
    "Numerics": _NUMERICS,
    "Reduction, sign, loss": _LOSSES,
    "Around the loss": _STEP,
    "Others": _OTHERS,
}
"""The entries under their headings."""

CATALOGUE: dict[str, Entry] = {entry.id: entry for entries in KINDS.values() for entry in entries}
"""Every mistake by its id, but for those that other packages add."""


def added() -> dict[str, Entry]:
    """The mistakes of other packages by their ids."""
    return extensions.usable(extensions.names("mistake", CATALOGUE), _added)


def _added(id: str) -> Entry:
    entry = extensions.load("mistake", id, ("entry", "ways")).entry
    if not isinstance(entry, Entry) or entry.id != id:
        raise InputError(f"mistake {id!r}: its entry is {entry!r:.60}; an Entry of that id is needed")
    return entry


def entry_of(id: str) -> Entry | None:
    """The entry of a mistake, if it has one."""
    if id in CATALOGUE:
        return CATALOGUE[id]
    return _added(id) if id in extensions.names("mistake") else None


def find(id: str) -> Entry:
    """The entry of a mistake.

    Raises
    ------
    InputError
        There is none; the nearest id is suggested.
    """
    entry = entry_of(id)
    if entry is not None:
        return entry
    known = [*CATALOGUE, *added()]
    near = [name for name in known if id and name.startswith(id)] or difflib.get_close_matches(id, known, cutoff=0.5)
    near = near or [name for name in known if id and id in name]
    hint = f"did you mean {near[0]}? " if near else ""
    raise InputError(f"explain: {id!r} is not in the catalogue; {hint}tcvae-ref explain lists all")


# --- for reading -------------------------------------------------------------------------------------------


def text(entry: Entry) -> str:
    """An entry for the terminal, at most `WIDTH` wide."""
    parts = [f"{entry.id}: {entry.title}", _wrapped("", entry.explanation)]
    parts.append(f"{_wrapped('wrong:   ', entry.wrong)}\n{_wrapped('right:   ', entry.right)}")
    parts.append(_wrapped("effect:  ", entry.effect))
    if entry.seen:
        parts.append(_wrapped("seen in: ", entry.seen))
    parts += [f"{name}:\n{textwrap.indent(code, '    ')}" for name, code in _fixes(entry)]
    return "\n\n".join(parts)


def listing() -> str:
    """All ids and titles, for the terminal."""
    theirs = added()
    width = max(map(len, (*CATALOGUE, *theirs)))
    lines = []
    for kind, entries in {**KINDS, **({"From other packages": theirs.values()} if theirs else {})}.items():
        lines += ["", kind, *(f"  {entry.id:<{width}}  {entry.title}" for entry in entries)]
    return "\n".join([*lines[1:], "", "tcvae-ref explain ID says more of one, --all of all."])


def everything() -> str:
    """The whole catalogue, for the terminal."""
    names = "\n".join(_wrapped(f"{name}: ", what) for name, what in NAMES.items())
    rule = "\n\n" + "-" * WIDTH + "\n\n"
    return rule.join([*(text(entry) for entry in CATALOGUE.values()), f"In the code:\n\n{names}"])


def _wrapped(head: str, body: str) -> str:
    return textwrap.fill(
        head + body, WIDTH, subsequent_indent=" " * len(head), break_long_words=False, break_on_hyphens=False
    )


def _fixes(entry: Entry) -> list[tuple[str, str]]:
    return [("PyTorch", entry.fix_torch), ("JAX", entry.fix_jax)]


BAR = "\\|"  # in a cell of a table

HEAD = """\
# Mistakes by name

The mistakes that the oracle can name, by their ids; `tcvae-ref explain ID` prints one. This page is written by
`tcvae_ref.oracle.catalogue.page()`. `tests/test_oracle_catalogue.py` holds the effects to losses with these mistakes,
and runs every line of code.
"""


def page() -> str:
    """The catalogue as Markdown: `CATALOGUE.md`."""
    parts = [HEAD, _contents(), _names()]
    for kind, entries in KINDS.items():
        parts += [f"## {kind}\n", *(_section(entry) for entry in entries)]
    return "\n".join(parts)


def _contents() -> str:
    kinds = {kind: ", ".join(f"[{entry.id}](#{entry.id})" for entry in entries) for kind, entries in KINDS.items()}
    return "\n".join(f"- {kind}: {links}" for kind, links in kinds.items()) + "\n"


def _names() -> str:
    rows = [f"| `{name}` | {what.replace('|', BAR)} |" for name, what in NAMES.items()]
    return "\n".join(["| in the code | |", "|---|---|", *rows]) + "\n"


def _section(entry: Entry) -> str:
    seen = f"\n\n**Seen in** {entry.seen}." if entry.seen else ""
    formulas = f"```text\nwrong:  {entry.wrong}\nright:  {entry.right}\n```"
    code = "\n\n".join(f"{name}:\n\n```python\n{lines}\n```" for name, lines in _fixes(entry))
    return f"### {entry.id}\n\n*{entry.title}.* {entry.explanation}\n\n{formulas}\n\n{entry.effect}{seen}\n\n{code}\n"
