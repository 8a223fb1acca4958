"""Everything that determines a run.

Two runs of the same settings on the same data are bit-identical, on one machine with the same libraries and number
of BLAS threads.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from tcvae_ref import checks, extensions, objectives
from tcvae_ref.checks import InputError
from tcvae_ref.objectives import ElboTerms
from tcvae_ref.types import Scalar

ESTIMATORS = ("mws", "mss", "symmetric-mss", "minibatch")
"""The estimators that work on a batch, by their names on the command line."""
STUDY_ESTIMATORS = ("mss-column-weighted",)
"""Estimators that only `tcvae_ref.studies` trains with: published mistakes, kept to measure what they cost."""

_STRATIFIED = ("mss", "symmetric-mss", "mss-column-weighted")
"""Those whose weights divide by batch - 1."""

OBJECTIVES: dict[str, tuple[str, ...]] = {
    "vae": (),
    "beta-vae": ("beta", "beta_warm_up"),
    "beta-tcvae": ("alpha", "beta", "gamma", "beta_warm_up", "alpha_warm_up", "gamma_warm_up"),
    "factor-vae": ("tc_weight", "tc_weight_warm_up", "discriminator", "discriminator_rate"),
}
"""The objectives, and which of the settings enter each and not all."""
PRIORS = ("normal", "laplace", "flow")
"""Priors p(z): standard normal, Laplace of scale 1, factorial normalising flow (`tcvae_ref.priors`)."""
NETWORKS: dict[str, tuple[str, ...]] = {"mlp": ("encoder", "decoder"), "conv": ()}
"""Networks (`tcvae_ref.networks`, `tcvae_ref.conv_networks`), and which of the settings enter each alone."""


def estimators() -> tuple[str, ...]:
    """Names of all estimators that work on a batch: `ESTIMATORS`, and those of other packages."""
    return (*ESTIMATORS, *extensions.names("estimator", (*ESTIMATORS, *STUDY_ESTIMATORS)))


_WEIGHTS = ("alpha", "beta", "gamma", "tc_weight")
_WIDTHS = ("encoder", "decoder", "discriminator")
_MOST = 2**31 - 1  # of any size


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to train and how. Checked when made; the defaults are the preset `hearts`."""

    objective: str = "beta-tcvae"
    """vae (eq. 1, beta = 1), beta-vae (eq. 1), beta-tcvae (eq. 4) or factor-vae (Kim & Mnih 2018, eq. 2)."""
    estimator: str = "mws"
    """How log q(z) is estimated from a batch: one of `estimators()`; all but beta-tcvae only record what it says."""
    alpha: float = 1.0
    """Weight of the index-code mutual information (beta-tcvae)."""
    beta: float = 20.0
    """Weight of the total correlation (beta-tcvae) or of the whole KL (beta-vae)."""
    gamma: float = 1.0
    """Weight of the dimension-wise KL (beta-tcvae)."""
    beta_warm_up: int = 0
    """Steps over which beta rises linearly from 0; 0: beta from the start."""
    latent: int = 6
    """D, latent dimensions."""
    encoder: tuple[int, ...] = (256, 256)
    """Widths of the encoder's hidden layers."""
    decoder: tuple[int, ...] = (256, 256)
    """Widths of the decoder's hidden layers."""
    batch: int = 128
    """M, inputs per step, drawn without replacement within an epoch, a remainder below M left out; with replacement
    where inputs have probabilities."""
    epochs: int = 250
    learning_rate: float = 1e-3
    seed: int = 1
    alpha_warm_up: int = 0
    """Steps over which alpha rises linearly from 0."""
    gamma_warm_up: int = 0
    """Steps over which gamma rises linearly from 0."""
    tc_weight: float = 35.0
    """Weight of the discriminator's TC on top of the ELBO (factor-vae), the gamma of Kim & Mnih: as strong as
    beta = 1 + tc_weight in beta-tcvae."""
    tc_weight_warm_up: int = 0
    """Steps over which tc_weight rises linearly from 0."""
    discriminator: tuple[int, ...] = (256, 256, 256)
    """Widths of the discriminator's hidden layers (factor-vae)."""
    discriminator_rate: float = 1e-4
    """Learning rate of the discriminator's Adam, whose decay rates are 0.5 and 0.9 (factor-vae)."""
    prior: str = "normal"
    """p(z): one of `PRIORS`."""
    network: str = "mlp"
    """One of `NETWORKS`; conv is the paper's for 3D Faces, for images of 64 x 64 pixels."""

    def __post_init__(self) -> None:
        checks.option("settings", "objective", self.objective, OBJECTIVES)
        if self.estimator not in (*ESTIMATORS, *STUDY_ESTIMATORS):  # others cost a look at all packages
            checks.option("settings", "estimator", self.estimator, estimators())
        checks.option("settings", "prior", self.prior, PRIORS)
        checks.option("settings", "network", self.network, NETWORKS)
        for name in _WEIGHTS:
            checks.real_number("settings", name, getattr(self, name), 0.0)
            checks.whole_number("settings", f"{name}_warm_up", getattr(self, f"{name}_warm_up"), 0, _MOST)
        for name in ("learning_rate", "discriminator_rate"):
            checks.real_number("settings", name, getattr(self, name), 0.0, above=True)
        for name, least in (("latent", 1), ("batch", 1), ("epochs", 1), ("seed", 0)):
            checks.whole_number("settings", name, getattr(self, name), least, _MOST)
        for name in _WIDTHS:
            if not isinstance(getattr(self, name), tuple):
                raise checks.InputTypeError(
                    f"settings: {name}={getattr(self, name)!r}; the widths of its layers are needed, such as (256, 256)"
                )
            for width in getattr(self, name):
                checks.whole_number("settings", f"{name} width", width, 1, _MOST)
        if self.batch < 2 and self.network == "conv":
            raise InputError(
                f"settings: batch={self.batch} is too small for the network conv, which normalises by the batch; use "
                "a batch of at least 2"
            )
        if self.batch < 2 and self.estimator in _STRATIFIED:
            raise InputError(
                f"settings: batch={self.batch} is too small for {self.estimator}, whose weights divide by "
                "batch - 1; use a batch of at least 2"
            )

    def steps_per_epoch(self, dataset_size: int) -> int:
        """Batches in one pass through the data; a batch no larger than the data set is required."""
        if self.batch > dataset_size:
            raise InputError(
                f"settings: batch={self.batch} exceeds the data set's {dataset_size} inputs; "
                "choose a smaller batch or more inputs"
            )
        return dataset_size // self.batch

    def steps(self, dataset_size: int) -> int:
        """Steps of the whole run."""
        return self.steps_per_epoch(dataset_size) * self.epochs

    def idle(self, name: str) -> str | None:
        """What keeps a setting from having a part in this run, in words; None if it has one."""
        for kind, chosen, options in (
            ("objective", self.objective, OBJECTIVES),
            ("network", self.network, NETWORKS),
        ):
            if name not in options[chosen] and any(name in names for names in options.values()):
                return f"the {kind} {chosen}"
        return None

    def weight_at(self, name: str, step: int) -> float:
        """Weight alpha, beta, gamma or tc_weight at a step, counted from 0."""
        weight, warm_up = getattr(self, name), getattr(self, f"{name}_warm_up")
        return float(weight * min(1.0, step / warm_up) if warm_up else weight)

    def objective_at(self, step: int, total_correlation: Scalar | None = None) -> Callable[[ElboTerms], Scalar]:
        """Objective of a step, counted from 0, as a function of the ELBO's terms.

        Parameters
        ----------
        step : int
        total_correlation : scalar, optional
            TC by the discriminator, which factor-vae needs and the others leave alone.
        """
        alpha, beta, gamma, tc_weight = (self.weight_at(name, step) for name in _WEIGHTS)
        if self.objective == "vae":
            return objectives.vae
        if self.objective == "beta-vae":
            return lambda terms: objectives.beta_vae(terms, beta)
        if self.objective == "factor-vae":
            return lambda terms: objectives.factor_vae(terms, total_correlation, tc_weight)
        return lambda terms: objectives.beta_tcvae(terms, beta, alpha, gamma)

    def to_json(self) -> dict[str, Any]:
        """Plain values, for `from_json`."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Settings":
        """Read back what `to_json` wrote, or version 0.4, which had none of the settings in `ADDED`.

        Raises
        ------
        InputError, TypeError
            A setting is missing, unknown, or not allowed.
        """
        defaults = {field.name: field.default for field in dataclasses.fields(cls)}
        for name in content:
            checks.option("settings", "setting", name, defaults)
        content = {**{name: defaults[name] for name in ADDED}, **content}
        missing = [name for name in defaults if name not in content]
        if missing:
            raise InputError(f"settings: {', '.join(missing)} missing; start a new run")
        widths = {name: content[name] for name in _WIDTHS if isinstance(content[name], list)}
        return cls(**{**content, **{name: tuple(value) for name, value in widths.items()}})


ADDED = (
    *("alpha_warm_up", "gamma_warm_up", "tc_weight", "tc_weight_warm_up", "discriminator", "discriminator_rate"),
    *("prior", "network"),
)
"""Settings younger than version 0.4; their defaults are what that version did."""


PRESETS: dict[str, Settings] = {
    "hearts": Settings(),
    "paper": Settings(
        beta=6.0,
        latent=10,
        encoder=(1200, 1200),
        decoder=(1200, 1200, 1200),
        batch=2048,
        epochs=50,
        learning_rate=1e-3,
        seed=0,
        discriminator=(1000,) * 6,
    ),
}
"""`hearts`: two minutes on a laptop, in which latents come to stand for position and scale. `paper`: the networks,
batch, epochs and learning rate of the paper's experiments on dSprites, with the beta that the README of its released
code recommends, and the discriminator and tc_weight of Kim & Mnih."""
