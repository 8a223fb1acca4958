"""beta-TCVAE losses of published packages as targets: each is the package's own code behind one signature.

pythae 0.1.2 and disent 0.8.0 are installed as `INSTALL` says, without what they require for training.
"""

import functools
import importlib
import importlib.util
import math
import sys
import types
import warnings
from contextlib import contextmanager
from pathlib import Path

from optional import torch

INSTALL = {
    "pythae": "pip install 'pydantic>=2' cloudpickle tqdm && pip install --no-deps pythae==0.1.2",
    "disent": "pip install lightning && pip install --no-deps disent==0.8.0",
}
"""After torch and tcvae-ref: all that the losses of each package need."""


def installed(package):
    return importlib.util.find_spec(package) is not None


@contextmanager
def default_dtype(dtype):
    """PyTorch's default dtype, in which tensors made of Python numbers are."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def in_its_dtype(loss):
    """A loss called with the default dtype set to that of its arguments, as a user of double precision sets it."""

    @functools.wraps(loss)
    def call(z, mu, log_var, dataset_size, *weights):
        with default_dtype(z.dtype):
            return loss(z, mu, log_var, dataset_size, *weights)

    return call


# --- pythae ----------------------------------------------------------------------------------------------------------

if installed("pythae"):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pythae.models import BetaTCVAE, BetaTCVAEConfig

    class BetaTCVAEWithRightWeights(BetaTCVAE):
        """Its code but for the weights of MSS, which are those of the paper."""

        def _log_importance_weight_matrix(self, batch_size, dataset_size):
            m = batch_size - 1
            rows = torch.arange(batch_size)
            weights = torch.full((batch_size, batch_size), 1 / m)
            weights[rows, (rows + 1) % batch_size] = (dataset_size - m) / (dataset_size * m)
            weights[rows, rows] = 1 / dataset_size
            return weights.log()


NOTHING = torch.zeros(1, 1)
"""An image and its reconstruction, whose loss is 0."""


def pythae_model(model=None, alpha=1.0, beta=6.0, gamma=1.0, use_mss=True):
    config = BetaTCVAEConfig(input_dim=(1,), latent_dim=1, alpha=alpha, beta=beta, gamma=gamma, use_mss=use_mss)
    return (model or BetaTCVAE)(config)


def pythae_penalty(z, mu, log_var, dataset_size, alpha, beta, gamma, *, model=None, use_mss=True):
    """What the model adds to the reconstruction, the third part of its result."""
    instance = pythae_model(model, alpha, beta, gamma, use_mss)
    return instance.loss_function(NOTHING, NOTHING, mu, log_var, z, dataset_size)[2]


def pythae_terms(z, mu, log_var, dataset_size, *, model=None, use_mss=True):
    """Its terms, each the penalty with one weight 1 and the others 0."""
    weights = {"mi": (1.0, 0.0, 0.0), "tc": (0.0, 1.0, 0.0), "dwkl": (0.0, 0.0, 1.0)}
    return {
        name: pythae_penalty(z, mu, log_var, dataset_size, *one, model=model, use_mss=use_mss)
        for name, one in weights.items()
    }


def pythae_mss(z, mu, log_var, dataset_size):
    return pythae_terms(z, mu, log_var, dataset_size)


def pythae_mws(z, mu, log_var, dataset_size):
    return pythae_terms(z, mu, log_var, dataset_size, use_mss=False)


def pythae_mss_with_right_weights(z, mu, log_var, dataset_size):
    return pythae_terms(z, mu, log_var, dataset_size, model=BetaTCVAEWithRightWeights)


pythae_mss_in_its_dtype = in_its_dtype(pythae_mss)
pythae_mws_in_its_dtype = in_its_dtype(pythae_mws)
pythae_mss_with_right_weights_in_its_dtype = in_its_dtype(pythae_mss_with_right_weights)


# --- disent ----------------------------------------------------------------------------------------------------------


@contextmanager
def stand_ins(**modules):
    """Modules in place of others (`__` for a dot) while something is imported; none that was there is replaced."""
    names = {name.replace("__", "."): attributes for name, attributes in modules.items()}
    placed = [name for name in names if name not in sys.modules]
    for name in placed:
        module = sys.modules[name] = types.ModuleType(name)
        module.__dict__.update({"__path__": [], **names[name]})
    try:
        yield
    finally:
        for name in placed:
            del sys.modules[name]


def _disent_frameworks():
    """disent's modules of BetaTcVae and AutoEncoder, without its data sets and what these need (torchvision, h5py)."""
    root = Path(importlib.util.find_spec("disent").submodule_search_locations[0])
    without = stand_ins(
        disent__dataset={},
        disent__dataset__transform={"FftKernel": None},
        disent__frameworks__vae={"__path__": [str(root / "frameworks" / "vae")]},
    )
    with without, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loss = importlib.import_module("disent.frameworks.vae._unsupervised__betatcvae")
        return loss, importlib.import_module("disent.model")


if installed("disent"):
    _loss, _model = _disent_frameworks()
    BetaTcVae = _loss.BetaTcVae

    class NoAutoEncoder(_model.AutoEncoder):
        """In place of the network, which the loss does not use."""

        def __init__(self):
            torch.nn.Module.__init__(self)

        z_multiplier = 2


def disent_logs(z, mu, log_var, beta):
    """What the model adds to the reconstruction and what it logs of it, summed over D, averaged over the batch."""
    model = BetaTcVae(NoAutoEncoder(), BetaTcVae.cfg(beta=beta, loss_reduction="mean_sum"))
    posterior, prior = model.latents_handler.encoding_to_dists((mu, log_var))
    penalty, logs = model.compute_ave_reg_loss([posterior], [prior], [z])
    return {"penalty": penalty, **logs}


def disent_tc(z, mu, log_var):
    """The TC that it logs."""
    return disent_logs(z, mu, log_var, 2.0)["tc_loss"]


def disent_tc_with_constant(z, mu, log_var):
    """Its TC, and the constant that it leaves out: (D - 1) log M where the batch is taken as the data set."""
    return disent_tc(z, mu, log_var) + left_out(z)


def disent_tc_with_constant_of_mws(z, mu, log_var, dataset_size):
    """Its TC, and the constant that it leaves out of MWS: (D - 1) log N M."""
    return disent_tc(z, mu, log_var) + left_out(z, dataset_size)


def left_out(z, dataset_size=1):
    M, D = z.shape
    return (D - 1) * math.log(dataset_size * M)


def disent_penalty(z, mu, log_var, beta):
    return disent_logs(z, mu, log_var, beta)["penalty"]


def disent_penalty_with_kl_once(z, mu, log_var, beta):
    """The parts of its penalty, in which the KL counts beta times, with the KL once."""
    logs = disent_logs(z, mu, log_var, beta)
    return logs["kl_loss"] + logs["tc_reg_loss"]


def disent_penalty_put_right(z, mu, log_var, beta):
    """The KL once, and (beta - 1) TC with its constant."""
    return disent_penalty_with_kl_once(z, mu, log_var, beta) + (beta - 1) * left_out(z)
