"""Everything that determines a run.

Two runs of the same settings on the same data are bit-identical, on one machine with the same libraries and number
of BLAS threads.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from tcvae_ref import checks, objectives
from tcvae_ref.checks import InputError
from tcvae_ref.objectives import ElboTerms
from tcvae_ref.types import Scalar

ESTIMATORS = ("mws", "mss", "symmetric-mss", "minibatch")
"""The estimators that work on a batch, by their names on the command line."""

OBJECTIVES: dict[str, tuple[str, ...]] = {
    "vae": (),
    "beta-vae": ("beta", "beta_warm_up"),
    "beta-tcvae": ("alpha", "beta", "gamma", "beta_warm_up"),
}
"""The objectives, and which of the settings' weights enter each."""

_MOST = 2**31 - 1  # of any size


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to train and how. Checked when made; the defaults are the preset `hearts`."""

    objective: str = "beta-tcvae"
    """vae (eq. 1, beta = 1), beta-vae (eq. 1) or beta-tcvae (eq. 4)."""
    estimator: str = "mws"
    """How log q(z) is estimated from a batch: one of `ESTIMATORS`."""
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
    """M, inputs per step, drawn without replacement within an epoch; a remainder below M is left out."""
    epochs: int = 250
    learning_rate: float = 1e-3
    seed: int = 1

    def __post_init__(self) -> None:
        checks.option("settings", "objective", self.objective, OBJECTIVES)
        checks.option("settings", "estimator", self.estimator, ESTIMATORS)
        for name in ("alpha", "beta", "gamma"):
            checks.real_number("settings", name, getattr(self, name), 0.0)
        checks.real_number("settings", "learning_rate", self.learning_rate, 0.0, above=True)
        for name, least in (("beta_warm_up", 0), ("latent", 1), ("batch", 1), ("epochs", 1), ("seed", 0)):
            checks.whole_number("settings", name, getattr(self, name), least, _MOST)
        for name in ("encoder", "decoder"):
            for width in getattr(self, name):
                checks.whole_number("settings", f"{name} width", width, 1, _MOST)
        if self.batch < 2 and self.estimator in ("mss", "symmetric-mss"):
            raise InputError(
                f"settings: batch={self.batch} is too small for {self.estimator}, whose weights divide by "
                "batch - 1; use a batch of at least 2"
            )

    def steps_per_epoch(self, dataset_size: int) -> int:
        """Batches in one pass through the data; a batch no larger than the data set is required."""
        if self.batch > dataset_size:
            raise InputError(
                f"settings: batch={self.batch} exceeds the data set's {dataset_size} inputs; "
                "a batch is drawn without replacement: choose a smaller batch or a larger grid"
            )
        return dataset_size // self.batch

    def steps(self, dataset_size: int) -> int:
        """Steps of the whole run."""
        return self.steps_per_epoch(dataset_size) * self.epochs

    def beta_at(self, step: int) -> float:
        """Weight beta at a step, counted from 0."""
        return self.beta * min(1.0, step / self.beta_warm_up) if self.beta_warm_up else self.beta

    def objective_at(self, step: int) -> Callable[[ElboTerms], Scalar]:
        """Objective of a step, counted from 0, as a function of the ELBO's terms."""
        beta = self.beta_at(step)
        if self.objective == "vae":
            return objectives.vae
        if self.objective == "beta-vae":
            return lambda terms: objectives.beta_vae(terms, beta)
        return lambda terms: objectives.beta_tcvae(terms, beta, self.alpha, self.gamma)

    def to_json(self) -> dict[str, Any]:
        """Plain values, for `from_json`."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Settings":
        """Read back what `to_json` wrote.

        Raises
        ------
        InputError, TypeError
            A setting is missing, unknown, or not allowed.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        for name in content:
            checks.option("settings", "setting", name, names)
        missing = [name for name in names if name not in content]
        if missing:
            raise InputError(f"settings: {', '.join(missing)} missing; start a new run")
        layers = {name: tuple(content[name]) for name in ("encoder", "decoder")}
        return cls(**{**content, **layers})


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
    ),
}
"""`hearts`: two minutes on a laptop, in which latents come to stand for position and scale. `paper`: the networks,
batch, epochs and learning rate of the paper's experiments on dSprites, with the beta its README recommends."""
