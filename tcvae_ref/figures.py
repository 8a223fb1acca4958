"""Pictures of a trained model (the like of the paper's figures)."""

import textwrap
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from tcvae_ref.checks import InputError
from tcvae_ref.data.factors import FactorDataset
from tcvae_ref.files import atomic_write
from tcvae_ref.metrics import MIG
from tcvae_ref.objectives import ElboTerms
from tcvae_ref.types import Array

if TYPE_CHECKING:
    from matplotlib.figure import Figure


Decoder: TypeAlias = Callable[[Array], Array]


class NotInstalled(InputError):
    """matplotlib is missing."""


INK = "#1f4e79"
_MOST_CURVES = 12
PALETTE = ("#0072b2", "#d55e00", "#009e73")  # distinguishable in every common form of colour blindness


def _figure(width: float, height: float) -> "Figure":
    """Make an empty figure, sizes in inches."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise NotInstalled(
            "figures: matplotlib is not installed; pip install 'tcvae-ref[experiments]' brings it"
        ) from None
    return Figure(figsize=(width, height), layout="constrained")


def save(figure: "Figure", path: Path) -> None:
    """Write a PNG at 150 dots per inch, atomically."""
    with atomic_write(path) as file:
        draw(figure, file)


def draw(figure: "Figure", file: IO[bytes], metadata: dict[str, str | None] | None = None) -> None:
    """Write a PNG at 150 dots per inch; texts are names, in which a dollar sign begins no formula."""
    from matplotlib import rc_context
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)
    with rc_context({"text.parse_math": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # a box is drawn for it
        figure.savefig(file, format="png", dpi=150, metadata=metadata)


def _image_strip(axis: Any, images: Array, shape: tuple[int, ...]) -> None:
    """Draw grey or colour images (n, pixels), of `shape` (height, width) or (3, height, width), side by side."""
    height, width = shape[-2:]
    strip = np.full((height, len(images) * (width + 1) - 1, 3), 0.5)
    for i, image in enumerate(images):
        channels = image.reshape(-1, height, width)
        strip[:, i * (width + 1) : i * (width + 1) + width] = np.moveaxis(channels, 0, -1)
    axis.imshow(strip, interpolation="nearest", aspect="equal")
    axis.set(xticks=[], yticks=[])


def reconstructions(decode: Decoder, data: FactorDataset, mu: Array, index: Sequence[int]) -> "Figure":
    """Show inputs above what the decoder makes of their posterior means."""
    n = list(index)
    figure = _figure(1.0 + 0.85 * len(n), 2.3)
    figure.suptitle("Inputs, and the decoder's image of their posterior means", fontsize=10)
    top, bottom = figure.subplots(2, 1)
    _image_strip(top, data.images.take(n), data.images.shape)
    _image_strip(bottom, expit(decode(mu[n].astype(np.float32))), data.images.shape)
    top.set_ylabel("x", rotation=0, labelpad=12)
    bottom.set_ylabel("p(x|mu)", rotation=0, labelpad=26)
    return figure


def traversals(
    decode: Decoder, data: FactorDataset, mu: Array, image: int, kl: NDArray[np.float64], steps: int = 11
) -> "Figure":
    """Decode an image's code while one latent moves through the values it takes; the most used latent first.

    Parameters
    ----------
    decode : function
        Of any model: decode(z) with z (n, D) float32 gives logits (n, pixels).
    data : FactorDataset
    mu : (N, D)
        Posterior means of the data. A latent moves from their 1st to their 99th percentile.
    image : int
        The image whose posterior mean the other latents keep.
    kl : (D,)
        How much each latent is used, nats: E_n[KL(q(z_d|n) || p(z_d))], the mean KL. The rows are in its order.
    steps : int
    """
    D = mu.shape[1]
    figure = _figure(0.2 + 0.72 * steps, 0.5 + 0.95 * D)
    figure.suptitle("One latent moves through the values it takes, the others stay", fontsize=10)
    axes = np.asarray(figure.subplots(D, 1, squeeze=False))[:, 0]
    for axis, d in zip(axes, np.argsort(kl)[::-1], strict=True):
        low, high = np.quantile(mu[:, d], [0.01, 0.99])
        z = np.tile(mu[image].astype(np.float32), (steps, 1))
        z[:, d] = np.linspace(low, high, steps)
        _image_strip(axis, expit(decode(z)), data.images.shape)
        title = f"z_{d} from {low:.2f} to {high:.2f}  (mean KL {kl[d]:.2f} nats)"
        axis.set_title(title, loc="left", fontsize=8, pad=2)
    return figure


def training_curves(history: NDArray[np.float64], estimator: str) -> "Figure":
    """Draw every ELBO term over the epochs, each epoch's mean.

    Parameters
    ----------
    history : (epochs, 5 or more)
        In the order of `ElboTerms`; columns after those are left alone.
    estimator : str
        The estimator the terms below the KL come from.
    """
    terms = ElboTerms(*history.T[: len(ElboTerms._fields)])
    panels = [
        ("ELBO", terms.reconstruction - terms.kl, ""),
        ("reconstruction E[log p(x|z)]", terms.reconstruction, ""),
        ("KL, closed form", terms.kl, ""),
        ("index-code mutual information", terms.mutual_information, estimator),
        ("total correlation", terms.total_correlation, estimator),
        ("dimension-wise KL", terms.dimension_wise_kl, estimator),
    ]
    figure = _figure(9.0, 4.6)
    axes = figure.subplots(2, 3, sharex=True).ravel()
    epochs = np.arange(1, len(history) + 1)
    for axis, (title, values, note) in zip(axes, panels, strict=True):
        axis.plot(epochs, values, color=INK, linewidth=1.2)
        axis.set_title(title + (f"\n({note} estimate)" if note else ""), fontsize=9)
        late = values[len(values) // 20 :]  # the first epochs would flatten the rest of the curve
        margin = 0.05 * float(np.ptp(late)) or 1.0
        axis.set_ylim(float(late.min()) - margin, float(late.max()) + margin)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.3)
    for axis in axes[::3]:
        axis.set_ylabel("nats", fontsize=8)
    for axis in axes[3:]:
        axis.set_xlabel("epoch", fontsize=8)
    return figure


def latents_against_factors(mu: Array, data: FactorDataset, kl: NDArray[np.float64]) -> "Figure":
    """Draw the mean of z_d over each factor, one row for each latent.

    Position is a map over (posX, posY) where both vary; every other factor is a curve, its band the standard
    deviation of z_d over the rest of the data. Of more than 12 curves the 12 that a latent follows most are
    drawn. Means are taken under the data's p(n).

    Raises
    ------
    InputError
        No factor varies.
    """
    names = [factor.name for factor in data.factors]
    varying = [k for k, factor in enumerate(data.factors) if factor.size > 1]
    if not varying:
        raise InputError(f"latents_against_factors: no factor of {_printable(data.name)} varies; none can be drawn")
    position = [names.index(name) for name in ("posX", "posY") if name in names and names.index(name) in varying]
    curves = [k for k in varying if not (len(position) == 2 and k in position)]
    if len(curves) > _MOST_CURVES:
        follow = [_followed(mu, data, k) for k in curves]
        curves = sorted(curves[i] for i in np.argsort(follow)[::-1][:_MOST_CURVES])
    columns = len(curves) + (len(position) == 2)
    D = mu.shape[1]
    figure = _figure(0.9 + 2.3 * columns, 0.6 + 1.45 * D)
    axes = np.asarray(figure.subplots(D, columns, squeeze=False))
    limit = float(np.quantile(np.abs(mu), 0.999)) or 1.0
    for row, d in enumerate(np.argsort(kl)[::-1]):
        cells = list(axes[row])
        if len(position) == 2:
            axis = cells.pop(0)
            x, y = (data.classes[:, k].astype(np.int64) for k in position)
            width, height = (data.sizes[k] for k in position)
            image = _mean_by(mu[:, d], y * width + x, height * width, data.weights).reshape(height, width)
            picture = axis.imshow(image, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
            axis.set(xticks=[], yticks=[], ylabel="posY")
            if row == D - 1:
                axis.set_xlabel("posX")
                figure.colorbar(picture, ax=axes[:, 0], location="bottom", shrink=0.9, label="mean of z_d")
            if row == 0:
                axis.set_title("position", fontsize=9)
        for axis, k in zip(cells, curves, strict=True):
            mean, square = (
                _mean_by(v, data.classes[:, k], data.sizes[k], data.weights) for v in (mu[:, d], mu[:, d] ** 2)
            )
            spread = np.sqrt(np.maximum(square - mean**2, 0.0))
            values = data.factors[k].values
            axis.fill_between(values, mean - spread, mean + spread, color=PALETTE[0], alpha=0.2, linewidth=0)
            axis.plot(values, mean, color=PALETTE[0], marker="o", markersize=2.5, linewidth=1.2)
            axis.set_ylim(-1.15 * limit, 1.15 * limit)
            axis.tick_params(labelsize=7)
            axis.grid(alpha=0.3)
            if row == 0:
                axis.set_title(_printable(names[k]), fontsize=9)
        axes[row, -1].annotate(
            f"z_{d}\nmean KL\n{kl[d]:.2f} nats", (1.04, 0.5), xycoords="axes fraction", va="center", fontsize=8
        )
    return figure


def _mean_by(
    values: Array, labels: NDArray[np.integer], size: int, weights: NDArray[np.float64] | None
) -> NDArray[np.float64]:
    """Mean of `values` within each label 0 ... size - 1; nan, drawn as nothing, where a label has no weight."""
    p = np.ones(len(labels)) if weights is None else weights
    mass = np.bincount(labels, p, minlength=size)
    return np.where(mass > 0, np.bincount(labels, p * values, minlength=size) / np.where(mass > 0, mass, 1.0), np.nan)


def _followed(mu: Array, data: FactorDataset, k: int) -> float:
    """How far the means of the latents lie apart over the values of a factor: the most of any latent's."""
    means = [_mean_by(column, data.classes[:, k], data.sizes[k], data.weights) for column in mu.T]
    return float(max(np.nanstd(mean) for mean in means))


def information_matrix(mig: MIG, factors: Sequence[str]) -> "Figure":
    """Draw I(z_d; v_k) / H(v_k), the share of each factor that each latent tells, and below it the gaps.

    Each factor's first and second latent are framed; the bar below reaches from the second's share to the first's, so
    its length is the gap. Numbers in the cells are nats.
    """
    D, K = mig.information.shape
    figure = _figure(2.7 + 1.15 * K, 2.9 + 0.34 * D)
    axis, below = figure.subplots(2, 1, height_ratios=[0.34 * D, 1.35], sharex=True)
    share = mig.information / mig.factor_entropies
    picture = axis.imshow(share, cmap="Blues", vmin=0.0, vmax=1.0, aspect="auto")
    for d in range(D):
        for k in range(K):
            value, colour = mig.information[d, k], "w" if share[d, k] > 0.6 else "k"
            axis.text(k, d, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=8)
    order = np.argsort(mig.information, axis=0)[::-1]
    for k, (first, second) in enumerate(order[:2].T):
        for d, colour, style in ((second, PALETTE[1], "--"), (first, PALETTE[1], "-")):
            _frame(axis, k, d, colour, style)
        low, high = share[second, k], share[first, k]
        below.bar(k, high - low, bottom=low, width=0.55, color=PALETTE[1], alpha=0.85)
        below.hlines([low, high], k - 0.4, k + 0.4, color="k", linewidth=0.8)
        below.text(k, high + 0.03, f"z_{first}", ha="center", va="bottom", fontsize=7)
        below.text(k, low - 0.03, f"z_{second}", ha="center", va="top", fontsize=7)
    axis.set_yticks(range(D), [f"z_{d}" for d in range(D)], fontsize=8)
    axis.tick_params(axis="x", length=0, labelbottom=False)
    axis.set_title(f"I(z_d; v_k), nats\nMIG {_with_error(mig.score, mig.error.score, 3)} ({mig.recipe})", fontsize=9)
    bar = figure.colorbar(picture, ax=axis)
    bar.set_label("I / H(v_k)", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    below.set_title("gap between the framed latents", fontsize=8)
    gaps = zip(factors, mig.gaps, mig.error.gaps, strict=True)
    labels = [f"{_printable(name, 16)}\ngap {_with_error(gap, error, 2)}" for name, gap, error in gaps]
    below.set_xticks(range(K), labels, fontsize=8)
    below.set(ylim=(-0.17, 1.17), yticks=[0.0, 0.5, 1.0], xlim=(-0.5, K - 0.5))
    below.set_ylabel("I / H(v_k)", fontsize=8)
    below.tick_params(axis="y", labelsize=7)
    below.grid(axis="y", alpha=0.3)
    return figure


def _frame(axis: Any, column: int, row: int, colour: str, style: str) -> None:
    """Frame one cell of a matrix, a little inside its edges."""
    left, right, top, bottom = column - 0.45, column + 0.45, row - 0.42, row + 0.42
    axis.plot([left, right, right, left, left], [top, top, bottom, bottom, top], color=colour, ls=style, lw=1.6)


def _with_error(value: float, error: float, digits: int) -> str:
    """Render a number, with its error where that shows in these digits."""
    return f"{value:.{digits}f}" + (f" \u00b1 {error:.{digits}f}" if error >= 0.5 * 10.0**-digits else "")


def _printable(name: str, width: int = 0) -> str:
    """Spell out what no font may hold; in lines of `width`."""
    spelled = name.encode("ascii", "backslashreplace").decode()
    return "\n".join(textwrap.wrap(spelled, width)) if width else spelled


def mosaic(data: FactorDataset, index: Sequence[int], columns: int = 16) -> "Figure":
    """Show some images of a data set, `columns` to a row."""
    rows = [list(index[start : start + columns]) for start in range(0, len(index), columns)]
    figure = _figure(0.5 * columns, 0.5 * len(rows) + 0.3)
    figure.suptitle(f"{_printable(data.name)}: {len(index)} of {len(data):,} images", fontsize=9)
    for axis, row in zip(np.atleast_1d(figure.subplots(len(rows), 1)), rows, strict=True):
        _image_strip(axis, data.images.take(row), data.images.shape)
    return figure
