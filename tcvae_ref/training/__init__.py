"""Training: settings, the loop, Adam, and runs that survive being killed."""

from tcvae_ref.training.adam import AdamState, adam_step, initial_adam_state
from tcvae_ref.training.loop import TrainingDiverged, TrainingState, initial_state, train
from tcvae_ref.training.model import Model, trained_model
from tcvae_ref.training.operations import NUMPY, Operations
from tcvae_ref.training.run import Run
from tcvae_ref.training.settings import PRESETS, Settings
from tcvae_ref.training.sources import DataSource, load_source

__all__ = [
    "NUMPY",
    "PRESETS",
    "AdamState",
    "DataSource",
    "Model",
    "Operations",
    "Run",
    "Settings",
    "TrainingDiverged",
    "TrainingState",
    "adam_step",
    "initial_adam_state",
    "initial_state",
    "load_source",
    "train",
    "trained_model",
]
