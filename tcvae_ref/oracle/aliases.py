"""The names that the oracle's arguments go by in public beta-TCVAE code."""

from tcvae_ref.oracle.types import PARAMETERISATIONS

WEIGHTS = ("alpha", "beta", "gamma")
ARGUMENTS = ("z", "mu", *PARAMETERISATIONS, "dataset_size", *WEIGHTS)
"""What a parameter of a target can be."""

TENSORS = ("z", "mu", *PARAMETERISATIONS)


def _of_z(*names: str) -> tuple[str, ...]:
    """Names alone, and with what people put around them to say: of the latent, of q."""
    prefixes = ("z_", "q_", "qz_", "latent_", "posterior_", "enc_", "encoder_")
    of_q = tuple(name for name in names if not name.endswith("s"))  # sigmas_q would be sigma_sq
    return (
        *(*names, *(prefix + name for prefix in prefixes for name in names)),
        *(*(f"{name}_z" for name in names), *(f"{name}_{q}" for q in ("q", "qz") for name in of_q)),
    )


ALIASES: dict[str, tuple[str, ...]] = {
    "z": (
        *("z", "zs", "sample", "samples", "latent", "latents", "latent_code", "latent_codes", "codes"),
        *("z_sample", "z_samples", "zs_sample", "latent_sample", "latent_samples", "latents_sampled"),
        *("sampled_z", "z_sampled", "sampled_latents", "sampled_latent"),
    ),
    "mu": _of_z("mu", "mus", "mean", "means", "loc", "locs"),
    "log_var": _of_z(
        *("log_var", "log_vars", "log_variance", "log_variances", "log_sigma2", "log_sigma_sq", "log_sigma_squared"),
        *("log_std2", "log_sq", "log_squared_scale"),
    ),
    "log_std": _of_z(
        *("log_std", "log_stds", "log_stddev", "log_std_dev", "log_sd", "log_sigma", "log_sigmas", "log_scale"),
    ),
    "std": _of_z("std", "stds", "stddev", "std_dev", "sd", "sigma", "sigmas", "scale", "scales"),
    "var": _of_z("var", "vars", "variance", "variances", "sigma2", "sigma_sq", "sigma_squared", "std2"),
    "dataset_size": (
        *("dataset_size", "data_set_size", "size_dataset", "data_size", "train_size", "training_size"),
        *("dataset_len", "dataset_length", "len_dataset", "N", "n_data", "num_data", "N_data", "n_train", "num_train"),
        *("n_dataset", "n_samples", "num_samples", "n_examples", "num_examples", "n_datapoints", "num_datapoints"),
    ),
    "alpha": ("alpha", "mi_weight", "weight_mi"),
    "beta": ("beta", "tc_weight", "weight_tc"),
    "gamma": ("gamma", "dwkl_weight", "dw_kl_weight", "weight_dwkl"),
}
"""Argument -> the names it goes by in public code; case and inner underscores do not matter."""

PACKED_ALIASES = _of_z("params", "parameters", "param", "dist", "stats")
"""Names of one parameter that holds mu and the width."""


def key(name: str) -> str:
    """A parameter's name without case and inner underscores."""
    return name[:1].lower() + name[1:].lower().replace("_", "")


def loose_key(name: str) -> str:
    """A parameter's name without case, underscores, and digits at its end."""
    return key(name.strip("_").rstrip("0123456789_"))


def keys(names: str) -> frozenset[str]:
    """Keys of names with spaces between."""
    return frozenset(map(key, names.split()))


ROLES: dict[str, frozenset[str]] = {
    "log_px": keys("log_px logpx log_p_x log_px_z log_likelihood loglik log_lik"),
    "nll": keys(
        "nll neg_log_likelihood recon recons reconstruction reconst rec bce "
        "recon_loss reconstruction_loss rec_loss recons_loss reconstruction_error recon_error"
    ),
    "x": keys("x image images data batch target inputs"),
    "logits": keys("logits x_logits recon_logits decoder_logits"),
    "decoded": keys("recon_x x_recon x_hat x_rec recon_batch reconstructions probs probabilities"),
    "batch_fraction": keys("batch_fraction M_N"),
    "step": keys("step steps iteration iter it n_iter global_step current_step epoch current_epoch"),
}
"""What a whole loss takes besides z, mu, a width, N and weights -> the names of it; batch_fraction is M/N."""

RECONSTRUCTIONS = frozenset({"log_px", "nll", "logits", "decoded"})
"""Those of `ROLES` that say how well, or how, the images were reconstructed."""

ARGUMENT_OF = {key(alias): argument for argument, names in ALIASES.items() for alias in names}
"""Key of a known name -> the argument it stands for."""

PACKED = frozenset(map(key, PACKED_ALIASES))
"""Keys of `PACKED_ALIASES`."""
